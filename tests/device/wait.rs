//! Waiting: by polling, by interrupt and in a loop of the application's own; each wait ends in time.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use jalapeno::error::{Code, Error};
use jalapeno::session::QueueOptions;
use jalapeno::{Completions, Seq, Session};
use jalapeno_hw::regs::Feature;
use jalapeno_tests::invariants::{conserved, punctual};
use jalapeno_tests::packet::{nop, signal, wait};
use jalapeno_tests::stage::{by_sequence, delivering};
use jalapeno_tests::{SOON, Stage, board_with, calmly, stage};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

#[test]
fn a_wait_for_what_does_not_come_ends_by_its_deadline() {
    calmly(|| {
        let stage = stage();
        let session = stage.session();
        let gate = session.fence(0).unwrap();
        let mut queue = by_sequence(&session, 4);
        let seq = queue.submit_one(&wait(gate.address(), 1)).unwrap();
        let completions = queue.completions();
        for millis in [0, 1, 3, 20, 99, 101, 230] {
            let limit = Duration::from_millis(millis);
            let (outcome, took) = punctual(limit, || completions.wait(seq, Some(limit)));
            let late = outcome.unwrap_err();
            assert!(
                matches!(late, Error::Late { after, .. } if after == limit),
                "{late}"
            );
            assert!(late.retryable());
            assert!(took >= limit, "{took:?} of {limit:?}");
        }
        gate.signal(1).unwrap();
        completions.wait(seq, Some(SOON)).unwrap();
        completions.wait(seq, Some(Duration::ZERO)).unwrap();
    });
}

#[test]
fn a_wait_without_end_and_one_of_all_time_end_when_the_job_does() {
    let stage = stage();
    let session = stage.session();
    let gate = session.fence(0).unwrap();
    let mut queue = by_sequence(&session, 4);
    for (turn, timeout) in [
        None,
        Some(Duration::MAX),
        Some(Duration::from_secs(1 << 40)),
    ]
    .into_iter()
    .enumerate()
    {
        let value = turn as u64 + 1;
        let seq = queue.submit_one(&wait(gate.address(), value)).unwrap();
        let completions = queue.completions();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| completions.wait(seq, timeout));
            std::thread::sleep(Duration::from_millis(5));
            assert!(!waiter.is_finished());
            gate.signal(value).unwrap();
            waiter.join().unwrap().unwrap();
        });
    }
}

#[test]
fn a_number_that_was_not_submitted_is_refused_at_once() {
    let stage = stage();
    let session = stage.session();
    let mut queue = by_sequence(&session, 4);
    queue.submit_one(&nop(1)).unwrap();
    for seq in [0, 2, u64::MAX] {
        let error = queue.completions().wait(Seq(seq), None).unwrap_err();
        assert_eq!(error.code(), Code::Invalid, "{error}");
        assert!(error.to_string().contains("was not submitted"), "{error}");
    }
}

#[test]
fn several_waiters_each_wake_for_their_own_job() {
    let stage = stage();
    // A host that stalls makes one round late, or two; a wake that is lost makes all of them so.
    let rounds: Vec<_> = (0..5)
        .map_while(|_| several_waiters(&stage.session()).err())
        .collect();
    assert!(rounds.len() < 5, "each round: {rounds:#?}");
}

/// A round of it; what was late in it, or was found by the library's own look beside interrupts.
fn several_waiters(session: &Session) -> Result<(), String> {
    let gate = session.fence(0).unwrap();
    let mut queue = by_sequence(session, 32);
    let seqs: Vec<Seq> = (1..=8)
        .map(|value| queue.submit_one(&wait(gate.address(), value)).unwrap())
        .collect();
    let completions = queue.completions();
    let mut slowest = Duration::ZERO;
    std::thread::scope(|scope| {
        // Two for each job, the last job's first.
        let waiters: Vec<_> = seqs
            .iter()
            .rev()
            .flat_map(|&seq| [seq, seq])
            .map(|seq| scope.spawn(move || completions.wait(seq, Some(SOON))))
            .collect();
        std::thread::sleep(Duration::from_millis(30));
        for (value, &seq) in (1..).zip(&seqs) {
            let open = 18 - 2 * usize::try_from(value).unwrap();
            let waiting = waiters.iter().filter(|w| !w.is_finished()).count();
            assert_eq!(waiting, open, "before {value} is signalled");
            let signalled = Instant::now();
            gate.signal(value).unwrap();
            completions.wait(seq, Some(SOON)).unwrap();
            while waiters.iter().filter(|w| !w.is_finished()).count() > open - 2 {
                assert!(signalled.elapsed() < SOON, "{value}");
                std::thread::yield_now();
            }
            slowest = slowest.max(signalled.elapsed());
        }
        for waiter in waiters {
            waiter.join().unwrap().unwrap();
        }
    });
    let counters = completions.counters();
    conserved(&counters);
    let missed = counters.interrupts_missed + counters.doorbells_rung_again;
    match missed == 0 && slowest < Duration::from_millis(100) {
        true => Ok(()),
        false => Err(format!("the slowest after {slowest:?}: {counters:?}")),
    }
}

#[test]
fn on_a_card_without_arm_no_queue_sleeps_by_a_vector_that_nobody_raises() {
    calmly(|| {
        let arm = 1 << Feature::Arm.code();
        let stage = Stage::of(board_with(|options| options.features &= !arm));
        let session = stage.session();
        let begin = Instant::now();
        for turn in 0..25 {
            // One command of queue 0, and another when it is dropped.
            let mut queue = by_sequence(&session, 4);
            assert!(queue.completions().eventfd().is_none());
            let seq = queue.submit_one(&nop(turn)).unwrap();
            queue.completions().wait(seq, Some(SOON)).unwrap();
        }
        let took = begin.elapsed();
        // Of 100 ms each, had they slept until the backstop.
        assert!(took < Duration::from_millis(500), "{took:?}");
        let vectors = stage.here().counters().vectors;
        assert_eq!(vectors, 1, "that of faults and events");
    });
}

/// Sleeps until a descriptor is readable; whether it was in time.
fn readable(fd: BorrowedFd<'_>, time: Duration) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(time).unwrap();
    poll(&mut fds, timeout).unwrap() == 1
}

fn take(fd: BorrowedFd<'_>) {
    let mut count = [0; 8];
    assert_eq!(nix::unistd::read(fd, &mut count), Ok(8));
}

#[test]
fn a_new_queue_is_not_woken_by_what_an_earlier_one_left_in_its_vector() {
    let stage = stage();
    let session = stage.session();
    let options = QueueOptions {
        vector: Some(5),
        ..QueueOptions::default()
    };
    let gate = session.fence(0).unwrap();
    let sleeper = |value| {
        let mut queue = session.queue(options).unwrap();
        let completions = queue.completions().clone();
        let fd = completions.eventfd().expect("a vector");
        assert!(!readable(fd, Duration::from_millis(20)), "queue {value}");
        let seq = queue.submit_one(&wait(gate.address(), value)).unwrap();
        // By hand: a waiter that gets no processor before the signal finds it done and arms nothing.
        completions.arm(seq).unwrap();
        gate.signal(value).unwrap();
        completions.wait(seq, Some(SOON)).unwrap();
        assert!(readable(fd, SOON), "nobody reads it but the application");
    };
    (1..=3).for_each(sleeper);
}

#[test]
fn an_epoll_loop_of_the_applications_own_learns_of_two_queues() {
    let stage = stage();
    let session = stage.session();
    let mut queues = [by_sequence(&session, 4), by_sequence(&session, 4)];
    let sides: Vec<Completions> = queues.iter().map(|q| q.completions().clone()).collect();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    for (index, side) in (0..).zip(&sides) {
        let Some(fd) = side.eventfd() else {
            return jalapeno_tests::stage::skip(
                jalapeno_tests::story!(),
                "the card has no interrupt vectors",
            );
        };
        let interest = EpollEvent::new(EpollFlags::EPOLLIN, index);
        epoll.add(fd, interest).unwrap();
    }
    for turn in 0..200u64 {
        let index = usize::try_from(turn % 2).unwrap();
        let seq = queues[index].submit_one(&nop(turn)).unwrap();
        sides[index].arm(seq).unwrap();
        let begin = Instant::now();
        while sides[index].poll().unwrap() < seq {
            let mut events = [EpollEvent::empty(); 2];
            let count = epoll
                .wait(&mut events, EpollTimeout::from(1000u16))
                .unwrap();
            assert!(count > 0, "no interrupt for job {turn}");
            for event in &events[..count] {
                take(
                    sides[usize::try_from(event.data()).unwrap()]
                        .eventfd()
                        .unwrap(),
                );
            }
            assert!(begin.elapsed() < SOON);
        }
    }
}

#[test]
fn what_is_done_or_over_is_readable_at_once() {
    let stage = stage();
    let session = stage.session();
    let mut queue = by_sequence(&session, 4);
    let completions = queue.completions().clone();
    let Some(fd) = completions.eventfd() else {
        return jalapeno_tests::stage::skip(
            jalapeno_tests::story!(),
            "the card has no interrupt vectors",
        );
    };
    let done = queue.submit_one(&nop(1)).unwrap();
    completions.wait(done, Some(SOON)).unwrap();
    while readable(fd, stage.time(Duration::from_millis(3))) {
        take(fd);
    }
    completions.arm(done).unwrap();
    assert!(readable(fd, Duration::ZERO), "done before it was armed");
    take(fd);
    let gate = session.fence(0).unwrap();
    let waits = queue.submit_one(&wait(gate.address(), 1)).unwrap();
    completions.arm(waits).unwrap();
    assert!(!readable(fd, Duration::from_millis(20)), "not done");
    completions.end();
    assert!(readable(fd, Duration::ZERO), "ended");
    take(fd);
    completions.arm(waits).unwrap();
    assert!(readable(fd, Duration::ZERO), "ended before it was armed");
}

#[test]
fn polling_alone_sees_every_job_and_so_does_sleeping_alone() {
    let stage = stage();
    let session = stage.session();
    for depth in [1, 32] {
        let mut queue = delivering(&session, depth);
        let completions = queue.completions().clone();
        let mut tally = jalapeno_tests::invariants::Tally::default();
        for turn in 0..40 {
            let mut last = Seq(0);
            for _ in 0..depth {
                let cookie = completions.submitted().0 + 1;
                last = queue.submit_one(&nop(cookie)).unwrap();
            }
            if turn % 2 == 0 {
                let begin = Instant::now();
                while completions.poll().unwrap() < last {
                    assert!(begin.elapsed() < SOON);
                    std::hint::spin_loop();
                }
            } else {
                completions.wait(last, Some(SOON)).unwrap();
            }
            tally.reap(&completions).unwrap();
        }
        tally.is_whole(u64::from(40 * depth));
    }
}

#[test]
fn fences_order_sixteen_queues_in_a_ring_whatever_the_order_of_submission() {
    const QUEUES: u64 = 16;
    const ROUNDS: u64 = 20;
    let stage = stage();
    let session = stage.session();
    let fence = session.fence(0).unwrap();
    let log = session
        .host_memory(8 * QUEUES * ROUNDS, jalapeno::HostOptions::default())
        .unwrap();
    let mut queues: Vec<_> = (0..QUEUES).map(|_| by_sequence(&session, 64)).collect();
    // The last queue first: nothing of it can run yet.
    for (index, queue) in queues.iter_mut().enumerate().rev() {
        for round in 0..ROUNDS {
            let turn = round * QUEUES + index as u64;
            let slot = log.address() + 8 * turn;
            queue
                .submit(&[
                    wait(fence.address(), turn),
                    jalapeno_tests::packet::copy(fence.address(), slot, 8),
                    signal(fence.address(), turn + 1),
                ])
                .unwrap();
        }
    }
    fence.wait(QUEUES * ROUNDS, Some(SOON)).unwrap();
    for queue in &queues {
        queue
            .completions()
            .wait(Seq(3 * ROUNDS), Some(SOON))
            .unwrap();
    }
    for turn in 0..QUEUES * ROUNDS {
        let mut seen = [0; 8];
        log.memory().read(8 * turn, &mut seen).unwrap();
        assert_eq!(u64::from_le_bytes(seen), turn, "each ran in its turn");
    }
}

#[test]
fn a_job_past_its_deadline_fails_as_such_and_one_within_it_succeeds() {
    calmly(|| {
        let stage = stage();
        let session = stage.session();
        let gate = session.fence(0).unwrap();
        let mut queue = delivering(&session, 8);
        let mut job = wait(gate.address(), 1);
        for (value, millis) in [(1, 5), (2, 20)] {
            job.body[1] = value;
            let begin = Instant::now();
            let limit = Duration::from_millis(millis);
            job.deadline = session.ticks_in(limit).unwrap().0;
            let seq = queue.submit_one(&job).unwrap();
            let late = queue.completions().wait(seq, Some(SOON)).unwrap_err();
            let Error::Fault(fault) = &late else {
                panic!("{late}")
            };
            assert_eq!(fault.code, Ok(jalapeno_hw::faults::FaultCode::Deadline));
            assert!(begin.elapsed() >= limit, "{:?}", begin.elapsed());
            queue.resume().unwrap();
            gate.signal(value).unwrap();
            job.deadline = session.ticks_in(SOON).unwrap().0;
            let seq = queue.submit_one(&job).unwrap();
            queue.completions().wait(seq, Some(SOON)).unwrap();
        }
        conserved(&queue.completions().counters());
    });
}
