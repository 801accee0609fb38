//! Interrupts: every kind of data and action, ranges, and descriptors that are traps.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jalapeno_emulator::board::Board;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::peer::*;
use jalapeno_stopwatch::calmly;

const NONE: u32 = 1;
const BOOL: u32 = 2;
const EVENTFD: u32 = 4;
const MASK: u32 = 8;
const UNMASK: u32 = 0x10;
const TRIGGER: u32 = 0x20;

struct Bells {
    owner: Peer,
    bells: Vec<EventFd>,
}

impl Bells {
    /// An owner with eventfds at vectors 10 and on.
    fn new(board: &Board, count: u32) -> Self {
        let bells: Vec<_> = (0..count)
            .map(|_| EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap())
            .collect();
        let mut this = Self {
            owner: Peer::owner(board.path()),
            bells,
        };
        let fds: Vec<_> = this.bells.iter().map(|b| b.as_fd().as_raw_fd()).collect();
        let set = set_irqs(EVENTFD | TRIGGER, 10, count, &[]);
        assert_eq!(this.owner.ask_with(SET_IRQS, &set, &fds).errno(), 0);
        assert_eq!(board.counters().vectors, count as usize);
        this
    }

    fn set(&mut self, flags: u32, start: u32, count: u32, data: &[u8]) {
        let reply = self
            .owner
            .ask(SET_IRQS, &set_irqs(flags, start, count, data));
        assert_eq!(reply.errno(), 0);
        assert!(reply.body.is_empty());
    }

    /// How often each rang since the last look.
    fn rang(&self) -> Vec<u64> {
        let counts = self.bells.iter().map(|bell| match bell.read() {
            Ok(count) => count,
            Err(Errno::EAGAIN) => 0,
            Err(errno) => panic!("{errno}"),
        });
        counts.collect()
    }
}

#[test]
fn each_index_tells_its_interrupts() {
    let board = board();
    let mut owner = Peer::owner(board.path());
    for (index, flags, count) in [(0, 0, 0), (1, 0, 0), (2, 3, 65), (3, 3, 1), (4, 3, 1)] {
        let info = owner.ask(GET_IRQ_INFO, &words(&[16, 0, index, 0]));
        assert_eq!(info.body, words(&[16, flags, index, count]));
    }
}

#[test]
fn a_trigger_rings_the_vectors_of_its_range_and_no_others() {
    let board = board();
    let mut bells = Bells::new(&board, 4);
    bells.set(NONE | TRIGGER, 11, 2, &[]);
    assert_eq!(bells.rang(), [0, 1, 1, 0]);
    bells.set(BOOL | TRIGGER, 10, 4, &[1, 0, 0, 255]);
    assert_eq!(bells.rang(), [1, 0, 0, 1]);
    bells.set(NONE | TRIGGER, 0, 65, &[]);
    assert_eq!(
        bells.rang(),
        [1, 1, 1, 1],
        "vectors without anybody are silent"
    );
    bells.set(NONE | TRIGGER, 12, 0, &[]);
    bells.set(BOOL | TRIGGER, 12, 0, &[]);
    assert_eq!(bells.rang(), [0, 0, 0, 0], "an empty range rings nothing");
    bells.set(NONE | TRIGGER, 10, 1, &[]);
    assert_eq!(bells.rang(), [1, 0, 0, 0], "and disabled nothing");
}

#[test]
fn what_fell_due_while_masked_rings_once_when_unmasked() {
    let board = board();
    let mut bells = Bells::new(&board, 3);
    bells.set(NONE | MASK, 10, 3, &[]);
    for _ in 0..5 {
        bells.set(NONE | TRIGGER, 10, 2, &[]);
    }
    assert_eq!(bells.rang(), [0, 0, 0]);
    bells.set(BOOL | UNMASK, 10, 3, &[1, 0, 1]);
    assert_eq!(bells.rang(), [1, 0, 0]);
    bells.set(NONE | UNMASK, 10, 3, &[]);
    assert_eq!(bells.rang(), [0, 1, 0]);
}

#[test]
fn vectors_are_replaced_taken_away_one_by_one_and_all_at_once() {
    let board = board();
    let mut bells = Bells::new(&board, 4);
    let other = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
    let one = set_irqs(EVENTFD | TRIGGER, 11, 1, &[]);
    let fds = [other.as_fd().as_raw_fd()];
    assert_eq!(bells.owner.ask_with(SET_IRQS, &one, &fds).errno(), 0);
    // Without descriptors a range is taken away.
    bells.set(EVENTFD | TRIGGER, 12, 1, &[]);
    assert_eq!(board.counters().vectors, 3);
    bells.set(NONE | TRIGGER, 10, 4, &[]);
    assert_eq!((bells.rang(), other.read()), (vec![1, 0, 0, 1], Ok(1)));
    // An empty range of eventfds takes nothing away; NONE, TRIGGER and 0 takes all.
    bells.set(EVENTFD | TRIGGER, 10, 0, &[]);
    assert_eq!(board.counters().vectors, 3);
    bells.set(NONE | TRIGGER, 0, 0, &[]);
    assert_eq!(board.counters().vectors, 0);
    bells.set(NONE | TRIGGER, 10, 4, &[]);
    assert_eq!(bells.rang(), [0; 4]);
}

#[test]
fn errors_and_requests_have_a_bell_of_their_own() {
    let board = board();
    let mut owner = Peer::owner(board.path());
    for index in [3, 4] {
        let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
        let mut set = set_irqs(EVENTFD | TRIGGER, 0, 1, &[]);
        set[8] = index;
        let fds = [bell.as_fd().as_raw_fd()];
        assert_eq!(owner.ask_with(SET_IRQS, &set, &fds).errno(), 0);
        let mut ring = set_irqs(NONE | TRIGGER, 0, 1, &[]);
        ring[8] = index;
        assert_eq!(owner.ask(SET_IRQS, &ring).errno(), 0);
        assert_eq!(bell.read(), Ok(1));
    }
    assert_eq!(board.counters().vectors, 0, "MSI-X is another matter");
}

#[test]
fn what_is_no_eventfd_is_refused_and_the_vectors_before_it_are_as_they_were() {
    let board = board();
    let mut bells = Bells::new(&board, 3);
    let (pipe, _other) = nix::unistd::pipe().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let memory = memory(0x1000);
    let good = EventFd::new().unwrap();
    let socket = bells.owner.stream.as_fd().try_clone_to_owned().unwrap();
    let traps: [OwnedFd; 4] = [pipe, null.into(), memory, socket];
    for trap in &traps {
        let fds = [
            good.as_fd().as_raw_fd(),
            trap.as_raw_fd(),
            good.as_fd().as_raw_fd(),
        ];
        let set = set_irqs(EVENTFD | TRIGGER, 10, 3, &[]);
        assert_eq!(bells.owner.ask_with(SET_IRQS, &set, &fds).errno(), EINVAL);
        // Too many, too few.
        assert_eq!(
            bells.owner.ask_with(SET_IRQS, &set, &fds[..2]).errno(),
            EINVAL
        );
        let set = set_irqs(EVENTFD | TRIGGER, 10, 2, &[]);
        assert_eq!(bells.owner.ask_with(SET_IRQS, &set, &fds).errno(), EINVAL);
    }
    bells.set(NONE | TRIGGER, 10, 3, &[]);
    assert_eq!(bells.rang(), [1, 1, 1]);
}

/// Makes an eventfd blocking or not, behind the server's back: the flag is shared.
fn block(bell: &EventFd, blocking: bool) {
    let mut flags = OFlag::from_bits_retain(fcntl(bell, FcntlArg::F_GETFL).unwrap());
    flags.set(OFlag::O_NONBLOCK, !blocking);
    fcntl(bell, FcntlArg::F_SETFL(flags)).unwrap();
}

#[test]
fn a_saturated_eventfd_that_blocks_holds_nobody_up() {
    calmly(|| {
        let board = board();
        let mut bells = Bells::new(&board, 2);
        bells.bells[0].write(u64::MAX - 1).unwrap();
        block(&bells.bells[0], true);
        let begin = Instant::now();
        for _ in 0..100 {
            bells.set(NONE | TRIGGER, 10, 2, &[]);
        }
        assert!(begin.elapsed() < Duration::from_secs(1));
        assert_eq!(bells.bells[0].read(), Ok(u64::MAX - 1));
        assert_eq!(bells.bells[1].read(), Ok(100));
    });
}

#[test]
fn an_eventfd_that_is_made_a_trap_at_the_last_moment_delays_only_its_owner() {
    let board = board();
    let mut bells = Bells::new(&board, 1);
    let bell = bells.bells.pop().unwrap();
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                // Empty for a moment; then full, and blocking.
                block(&bell, false);
                let _ = bell.read();
                std::hint::spin_loop();
                let _ = bell.write(u64::MAX - 1);
                block(&bell, true);
                std::thread::sleep(Duration::from_micros(20));
            }
            block(&bell, false);
            let _ = bell.read();
        });
        let until = Instant::now() + Duration::from_millis(700);
        let ring = message(1, SET_IRQS, NO_REPLY, &set_irqs(NONE | TRIGGER, 10, 1, &[]));
        while Instant::now() < until {
            for _ in 0..100 {
                bells.owner.send(&ring);
            }
            bells.owner.assert_in_step();
        }
        drop(bells.owner);
        Peer::next_owner(board.path()).assert_in_step();
        end.store(true, Ordering::Relaxed);
    });
}
