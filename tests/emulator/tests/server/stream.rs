//! The stream itself: in drops, cut off anywhere, stalled, never read.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use crate::peer::*;
use crate::program::Program;
use jalapeno_stopwatch::calmly;

/// A good session: each message, what it wants to be answered, and whether a descriptor goes along.
struct Step {
    bytes: Vec<u8>,
    file: Option<RawFd>,
}

/// Memory and a bell that the session gives away.
struct Belongings {
    memory: std::os::fd::OwnedFd,
    bell: nix::sys::eventfd::EventFd,
}

fn belongings() -> Belongings {
    Belongings {
        memory: memory(0x4000),
        bell: nix::sys::eventfd::EventFd::new().unwrap(),
    }
}

fn session(belongings: &Belongings) -> Vec<Step> {
    let memory = Some(belongings.memory.as_raw_fd());
    let bell = Some(belongings.bell.as_fd().as_raw_fd());
    let steps: Vec<(u16, Vec<u8>, Option<RawFd>)> = vec![
        (VERSION, hello(0, 1, HELLO), None),
        (GET_INFO, words(&[16, 0, 0, 0]), None),
        (GET_REGION_INFO, region_info(64, BAR0), None),
        (GET_IRQ_INFO, words(&[16, 0, 2, 0]), None),
        (DMA_MAP, map(3, 0, 0x1000, 0x2000), memory),
        (DMA_MAP, map(3, 0x2000, 0x1_0000, 0x2000), memory),
        (DMA_MAP, map(3, 0, 0x10_0000, 0x1000), None),
        (SET_IRQS, set_irqs(0x24, 0, 1, &[]), bell),
        (REGION_WRITE, store(CONFIG, 4, &[4, 0]), None),
        (REGION_READ, access(CONFIG, 0, 4), None),
        (REGION_WRITE, store(BAR4, 0x100, b"memory"), None),
        (REGION_READ, access(BAR4, 0x100, 6), None),
        (DMA_UNMAP, unmap(0, 0x1000, 0x2000), None),
        (RESET, Vec::new(), None),
    ];
    let step = |(id, (command, body, file)): (u16, (u16, Vec<u8>, Option<RawFd>))| Step {
        bytes: message(id, command, 0, &body),
        file,
    };
    (0..).zip(steps).map(step).collect()
}

#[test]
fn a_session_that_arrives_byte_by_byte_is_a_good_session() {
    let board = board();
    let belongings = belongings();
    let whole: Vec<Message> = {
        let peer = Peer::connect(board.path());
        let steps = session(&belongings).into_iter();
        let answers = steps.map(|step| {
            peer.send_with(&step.bytes, step.file.as_slice());
            peer.receive().unwrap()
        });
        answers.collect()
    };
    let peer = {
        // The one before may still be leaving.
        drop(Peer::next_owner(board.path()));
        let end = Instant::now() + Duration::from_secs(60);
        while board.counters().connections > 0 {
            assert!(Instant::now() < end);
        }
        std::thread::sleep(Duration::from_millis(50));
        Peer::connect(board.path())
    };
    for (step, wanted) in session(&belongings).iter().zip(&whole) {
        for (at, byte) in step.bytes.iter().enumerate() {
            let file = step.file.filter(|_| at == 0);
            peer.send_with(&[*byte], file.as_slice());
            if at % 16 == 0 {
                // Let the server find it alone.
                std::thread::sleep(Duration::from_micros(300));
            }
        }
        let got = peer.receive().unwrap();
        assert_eq!(got.errno(), 0, "{got:?}");
        assert_eq!(
            (got.id, got.command, &got.body),
            (wanted.id, wanted.command, &wanted.body)
        );
        assert_eq!(got.fds.len(), wanted.fds.len());
    }
    assert_eq!(board.counters().regions, 2);
    assert_eq!(board.counters().vectors, 1);
}

#[test]
fn a_session_cut_off_at_any_byte_leaves_nothing_behind_within_a_second() {
    let program = Program::start(&[]);
    let mut observer = Peer::observer(program.socket());
    drop(Peer::owner(program.socket()));
    drop(Peer::next_owner(program.socket()));
    let belongings = belongings();
    let steps = session(&belongings);
    let baseline = {
        std::thread::sleep(Duration::from_millis(200));
        program.footprint()
    };
    let total: usize = steps.iter().map(|step| step.bytes.len()).sum();
    let mut worst = Duration::ZERO;
    for cut in 0..total {
        let greeting = steps[0].bytes.len();
        let peer = if cut < greeting {
            let peer = Peer::connect(program.socket());
            peer.send(&steps[0].bytes[..cut]);
            peer
        } else {
            Peer::next_owner(program.socket())
        };
        let mut left = cut.saturating_sub(greeting);
        for step in &steps[1..] {
            let now = left.min(step.bytes.len());
            if now > 0 {
                peer.send_with(&step.bytes[..now], step.file.as_slice());
            }
            if now < step.bytes.len() {
                break;
            }
            left -= now;
            // Half of them read their answers, half vanish with all unread.
            if cut % 2 == 0 {
                assert_eq!(peer.receive().unwrap().errno(), 0);
            }
        }
        let begin = Instant::now();
        drop(peer);
        program.until_back_at(&baseline);
        worst = worst.max(begin.elapsed());
    }
    // The last ones may not even have been accepted when their end was looked for.
    drop(Peer::next_owner(program.socket()));
    std::thread::sleep(Duration::from_millis(100));
    program.until_back_at(&baseline);
    println!("cut at each of {total} bytes; the slowest was gone after {worst:?}");
    observer.assert_in_step();
    Peer::next_owner(program.socket()).assert_in_step();
}

#[test]
fn who_never_reads_its_answers_holds_up_nobody_else_and_is_dropped() {
    calmly(|| {
        let board = board();
        let mut observer = Peer::observer(board.path());
        let greedy = Peer::owner(board.path());
        greedy.stream.set_nonblocking(true).unwrap();
        let question = message(1, REGION_READ, 0, &access(BAR4, 0, 1 << 20));
        let begin = Instant::now();
        let mut dropped = None;
        while begin.elapsed() < Duration::from_secs(6) {
            // Until the pipe is full, and again when it is not.
            if let Err(error) = (&greedy.stream).write(&question)
                && error.kind() != std::io::ErrorKind::WouldBlock
            {
                dropped = Some(begin.elapsed());
                break;
            }
            let asked = Instant::now();
            observer.assert_in_step();
            assert!(asked.elapsed() < Duration::from_millis(500), "held up");
            std::thread::sleep(Duration::from_millis(5));
        }
        let dropped = dropped.expect("it is still connected");
        assert!(dropped >= Duration::from_secs(1), "it had a chance to read");
        drop(greedy);
        Peer::next_owner(board.path()).assert_in_step();
    });
}

#[test]
fn who_stalls_in_a_message_or_before_its_greeting_is_dropped_and_holds_up_nobody() {
    calmly(|| {
        let board = board();
        let mut owner = Peer::owner(board.path());
        let stalled = Peer::observer(board.path());
        stalled.send(&message(1, GET_INFO, 0, &words(&[16, 0, 0, 0]))[..20]);
        let silent = Peer::connect(board.path());
        let trickle = Peer::observer(board.path());
        let begin = Instant::now();
        let drip = message(1, REGION_READ, 0, &[0; 4000]);
        for byte in drip.iter() {
            // One more byte every now and then does not buy more time.
            if (&trickle.stream).write(&[*byte]).is_err() {
                break;
            }
            owner.assert_in_step();
            std::thread::sleep(Duration::from_millis(50));
            assert!(begin.elapsed() < Duration::from_secs(8));
        }
        assert!(begin.elapsed() > Duration::from_secs(4));
        stalled.assert_dropped("in mid-message");
        silent.assert_dropped("without a greeting");
        assert!(begin.elapsed() < Duration::from_secs(8));
        // Who is merely idle stays.
        owner.assert_in_step();
    });
}

#[test]
fn clients_beyond_what_the_server_can_bear_are_turned_away_and_those_inside_stay() {
    let board = board();
    let mut owner = Peer::owner(board.path());
    let mut inside = Vec::new();
    let mut turned_away = 0;
    for _ in 0..300 {
        let mut peer = Peer::connect(board.path());
        let id = peer.number();
        peer.try_send(&message(id, VERSION, 0, &hello(0, 1, WATCH)));
        match peer.receive() {
            Some(reply) => {
                assert_eq!(reply.errno(), 0);
                inside.push(peer);
            }
            None => turned_away += 1,
        }
    }
    assert_eq!((inside.len(), turned_away), (255, 45));
    owner.assert_in_step();
    inside.iter_mut().for_each(Peer::assert_in_step);
    drop(inside);
    let end = Instant::now() + Duration::from_secs(60);
    while board.counters().connections > 1 {
        assert!(Instant::now() < end);
    }
    Peer::observer(board.path()).assert_in_step();
}
