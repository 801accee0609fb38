//! Teardown: jobs in flight when their queue, their device, their session or their owner goes.

use std::time::{Duration, Instant};

use jalapeno::completions::Status;
use jalapeno::error::{Code, Error};
use jalapeno::{Completions, Fence, HostOptions, Queue, Seq, Session};
use jalapeno_emulator::faults::Fault;
use jalapeno_hw::regs::ResetLevel;
use jalapeno_tests::alone::{part, say};
use jalapeno_tests::invariants::{Invariants, Tally, conserved, punctual};
use jalapeno_tests::packet::{copy, nop, signal, wait};
use jalapeno_tests::stage::{LET_GO, by_sequence, delivering};
use jalapeno_tests::{Part, SOON, Stage, Stopwatch, alone, calmly, stage, story, undisturbed};

/// A queue whose first job waits for a fence that nobody raises, and a few behind it.
fn in_flight(session: &Session, gate: &Fence, jobs: u64) -> (Queue, Completions) {
    let mut queue = delivering(session, 32);
    let mut packets = vec![nop(1), wait(gate.address(), u64::MAX)];
    packets.extend((3..=jobs).map(nop));
    packets[1].cookie = 2;
    queue.submit(&packets).unwrap();
    let completions = queue.completions().clone();
    completions.wait(Seq(1), Some(SOON)).unwrap();
    (queue, completions)
}

/// The ends of all jobs: the first succeeded, the others are as told.
fn ends(completions: &Completions, jobs: u64, others: Status) {
    let mut tally = Tally::default();
    let _ = tally.reap(completions);
    let all: Vec<Status> = tally.ends().map(|end| end.status).collect();
    let mut expected = vec![Status::Done];
    expected.resize(usize::try_from(jobs).unwrap(), others);
    assert_eq!(all, expected);
    tally.is_whole(jobs);
    conserved(&completions.counters());
}

#[test]
fn a_cancelled_queue_ends_its_jobs_each_once_and_takes_new_ones() {
    let stage = stage();
    let session = stage.session();
    let gate = session.fence(0).unwrap();
    let (mut queue, completions) = in_flight(&session, &gate, 20);
    std::thread::scope(|scope| {
        let waiters = [2, 3, 20].map(|seq| {
            let completions = &completions;
            scope.spawn(move || completions.wait(Seq(seq), None))
        });
        std::thread::sleep(Duration::from_millis(5));
        queue.cancel(SOON).unwrap();
        for waiter in waiters {
            let error = waiter.join().unwrap().unwrap_err();
            assert_eq!(error.code(), Code::Cancelled, "{error}");
        }
    });
    ends(&completions, 20, Status::Cancelled);
    queue.cancel(SOON).unwrap();
    let seq = queue.submit_one(&nop(21)).unwrap();
    completions.wait(seq, Some(SOON)).unwrap();
    assert_eq!(gate.value().unwrap(), 0, "what was cancelled had no effect");
}

#[test]
fn a_dropped_queue_ends_the_waits_of_every_thread_and_frees_its_jobs_memory() {
    let stage = stage();
    let session = stage.session();
    let gate = session.fence(0).unwrap();
    let (queue, completions) = in_flight(&session, &gate, 20);
    let fd = completions.eventfd();
    std::thread::scope(|scope| {
        let waiters = [2, 20].map(|seq| {
            let completions = &completions;
            scope.spawn(move || completions.wait(Seq(seq), None))
        });
        std::thread::sleep(Duration::from_millis(5));
        let watch = Stopwatch::start();
        drop(queue);
        for waiter in waiters {
            let error = waiter.join().unwrap().unwrap_err();
            assert!(matches!(error, Error::Closed { .. }), "{error}");
        }
        let ours = watch.ours();
        assert!(ours < LET_GO, "{ours:?}");
    });
    if let Some(fd) = fd {
        let mut fds = [nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLIN)];
        assert_eq!(nix::poll::poll(&mut fds, 0u16), Ok(1), "loops are told too");
    }
    ends(&completions, 20, Status::Cancelled);
    assert_eq!(completions.reap(&mut []).unwrap_err().code(), Code::Handle);
    gate.try_free().map_err(|(_, error)| error).unwrap();
}

#[test]
fn memory_of_a_job_that_is_not_done_is_busy_until_it_is_and_a_dropped_buffer_waits() {
    undisturbed!();
    let stage = stage();
    let before = Invariants::as_it_is(&stage);
    let session = stage.session();
    let gate = session.fence(0).unwrap();
    let mut queue = by_sequence(&session, 8);
    let host = session.host_memory(4096, HostOptions::default()).unwrap();
    let hbm = session.device_memory(4096).unwrap();
    let seq = queue
        .submit(&[
            wait(gate.address(), 1),
            copy(host.address() + 8, hbm.address(), 64),
        ])
        .unwrap();
    let (host, error) = host.try_free().unwrap_err();
    assert_eq!(error.code(), Code::Busy, "{error}");
    assert!(error.retryable());
    let (hbm, error) = hbm.try_free().unwrap_err();
    assert_eq!(error.code(), Code::Busy, "{error}");
    let (gate, error) = gate.try_free().unwrap_err();
    assert_eq!(error.code(), Code::Busy, "{error}");
    let address = hbm.address();
    let maps = session.device().dma().unwrap().usage().maps;
    // Dropped all the same: kept until the job is done.
    drop((host, hbm));
    assert_eq!(session.device().dma().unwrap().usage().maps, maps);
    let other = session.device_memory(4096).unwrap();
    assert_ne!(other.address(), address, "given to nobody else meanwhile");
    gate.signal(1).unwrap();
    queue.completions().wait(seq, Some(SOON)).unwrap();
    drop(session.device_memory(4096).unwrap()); // whoever allocates sweeps
    assert_eq!(session.device().dma().unwrap().usage().maps, maps - 1);
    gate.try_free().map_err(|(_, error)| error).unwrap();
    drop((other, queue, session));
    before.nothing_is_left(&stage);
}

#[test]
fn a_device_reset_ends_every_job_as_stale_and_a_new_session_works_at_once() {
    undisturbed!();
    let stage = stage();
    let device = stage.device();
    // A vector stays on once it was asked for, as long as the device is open.
    let vectors = device.vectors().unwrap();
    for number in 0..vectors.count() {
        vectors.get(number).unwrap();
    }
    let before = Invariants::as_it_is(&stage);
    let (mut ended, mut closed) = (Vec::new(), Vec::new());
    for level in [ResetLevel::Device, ResetLevel::Function, ResetLevel::Device] {
        let session = Session::new(&device).unwrap();
        let gate = session.fence(0).unwrap();
        let pairs = [(); 4].map(|()| in_flight(&session, &gate, 10));
        std::thread::scope(|scope| {
            let waiters: Vec<_> = pairs
                .iter()
                .flat_map(|(_, completions)| [2, 10].map(|seq| (completions, seq)))
                .map(|(completions, seq)| scope.spawn(move || completions.wait(Seq(seq), None)))
                .collect();
            std::thread::sleep(Duration::from_millis(5));
            device.reset(level, 0, SOON).unwrap();
            let done = Instant::now();
            for waiter in waiters {
                let error = waiter.join().unwrap().unwrap_err();
                assert_eq!(error.code(), Code::Stale, "{error}");
            }
            ended.push(done.elapsed());
        });
        for (mut queue, completions) in pairs {
            assert_eq!(queue.submit_one(&nop(0)).unwrap_err().code(), Code::Stale);
            ends(&completions, 10, Status::Stale);
        }
        gate.try_free().map_err(|(_, error)| error).unwrap();
        assert!(session.queue(Default::default()).is_err(), "stale as well");
        let begin = Instant::now();
        drop(session);
        closed.push(begin.elapsed());
        let fresh = Session::new(&device).unwrap();
        let mut queue = by_sequence(&fresh, 4);
        let seq = queue.submit_one(&nop(1)).unwrap();
        queue.completions().wait(seq, Some(SOON)).unwrap();
        drop((queue, fresh));
    }
    before.nothing_is_left(&stage);
    // Jobs end with the generation and what is stale closes at once, not a backstop later; the
    // host may be starved once, not each time.
    for times in [ended, closed] {
        let soonest = times.iter().min().unwrap();
        assert!(*soonest < Duration::from_millis(60), "{times:?}");
    }
}

#[test]
fn a_reset_that_somebody_else_did_is_seen_by_whoever_waits() {
    calmly(|| {
        undisturbed!();
        let Some(stage) = Stage::that_misbehaves(story!()) else {
            return;
        };
        let before = Invariants::as_it_is(&stage);
        let device = stage.device();
        let session = Session::new(&device).unwrap();
        let gate = session.fence(0).unwrap();
        let (queue, completions) = in_flight(&session, &gate, 10);
        stage.mischief().reset();
        let limit = Duration::from_secs(1);
        let (outcome, _) = punctual(limit, || completions.wait(Seq(10), Some(limit)));
        assert_eq!(outcome.unwrap_err().code(), Code::Stale);
        assert_eq!(device.verify().unwrap_err().code(), Code::Stale);
        ends(&completions, 10, Status::Stale);
        drop((queue, completions, gate, session, device));
        before.nothing_is_left(&stage);
        // The documented step: close it and open it again.
        let session = stage.session();
        let mut queue = by_sequence(&session, 4);
        let seq = queue.submit_one(&nop(1)).unwrap();
        queue.completions().wait(seq, Some(SOON)).unwrap();
    });
}

#[test]
fn firmware_that_restarts_itself_is_a_reset_that_somebody_else_did() {
    calmly(|| {
        undisturbed!();
        let Some(stage) = Stage::that_misbehaves(story!()) else {
            return;
        };
        let before = Invariants::as_it_is(&stage);
        let session = stage.session();
        let mut queue = delivering(&session, 32);
        let completions = queue.completions().clone();
        stage.mischief().fault_at(Fault::FirmwareRestart, 5);
        queue
            .submit(&(1..=10).map(nop).collect::<Vec<_>>())
            .unwrap();
        let limit = Duration::from_secs(1);
        let (outcome, _) = punctual(limit, || completions.wait(Seq(10), Some(limit)));
        assert_eq!(outcome.unwrap_err().code(), Code::Stale);
        let mut tally = Tally::default();
        let _ = tally.reap(&completions);
        tally.is_whole(10);
        conserved(&completions.counters());
        assert_eq!(completions.counters().succeeded, 4);
        drop((queue, completions, session));
        before.nothing_is_left(&stage);
    });
}

#[test]
fn fifty_owners_come_and_go_and_leave_nothing() {
    alone!();
    let stage = stage();
    let cycle = || {
        let session = stage.owner();
        let mut queue = by_sequence(&session, 32);
        let host = session.host_memory(8192, HostOptions::default()).unwrap();
        let hbm = session.device_memory(8192).unwrap();
        queue
            .submit(&[
                copy(host.address(), hbm.address(), 4096),
                copy(hbm.address(), host.address() + 4096, 4096),
            ])
            .unwrap();
        queue.completions().wait(Seq(2), Some(SOON)).unwrap();
    };
    if stage.board().is_some() {
        cycle(); // what is only ever made once
    }
    let before = Invariants::before(&stage);
    before.nothing_is_left(&stage);
    let begin = Instant::now();
    let owners = stage.rounds(50);
    for _ in 0..owners {
        cycle();
    }
    println!(
        "= {owners} open, copy, close: {:?} each",
        begin.elapsed() / owners
    );
    before.nothing_is_left(&stage);
}

/// The steps of an owner's life at which it is killed.
const STEPS: [&str; 8] = [
    "opened",
    "session",
    "memory",
    "queue",
    "submitted",
    "waiting",
    "busy",
    "resetting",
];

/// Lives until killed, at the step that it is told to stay in.
fn owner(name: &str, stay: &str) {
    let at = |step: &str| {
        say(step);
        if step == stay {
            loop {
                std::thread::park();
            }
        }
    };
    let device = jalapeno::Device::open(name, jalapeno::Role::Compute).unwrap();
    at("opened");
    let session = Session::new(&device).unwrap();
    at("session");
    let host = session
        .host_memory(1 << 20, HostOptions::default())
        .unwrap();
    let hbm = session.device_memory(1 << 20).unwrap();
    at("memory");
    let gate = session.fence(0).unwrap();
    let mut queue = by_sequence(&session, 32);
    let mut busy = by_sequence(&session, 32);
    at("queue");
    queue.submit_one(&wait(gate.address(), 1)).unwrap();
    at("submitted");
    if stay == "waiting" {
        say("waiting");
        let _ = queue.completions().wait(Seq(1), None);
    }
    if stay == "resetting" {
        say("resetting");
        loop {
            device.reset(ResetLevel::Engines, 0, SOON).unwrap();
        }
    }
    say("busy");
    loop {
        let seq = busy
            .submit(&[
                copy(host.address(), hbm.address(), 1 << 20),
                copy(hbm.address(), host.address(), 1 << 20),
                signal(gate.address(), 0),
            ])
            .unwrap();
        busy.completions().wait(seq, Some(SOON)).unwrap();
    }
}

#[test]
fn an_owner_killed_at_any_step_is_let_go_of_within_a_second() {
    alone!();
    if let Some((stay, name)) = part() {
        return owner(&name, &stay);
    }
    let stage = stage();
    stage.warm_up();
    let before = Invariants::before(&stage);
    let mut longest = Duration::ZERO;
    // Behind a kernel an opening has a reset in it, and a closing one more and perhaps a scrub.
    let limit = stage.board().map_or(3 * LET_GO, |_| LET_GO);
    // Behind a kernel the two hardest steps.
    let steps = if stage.board().is_some() {
        &STEPS[..]
    } else {
        &STEPS[6..]
    };
    let rounds = (stage.rounds(24) as usize).next_multiple_of(steps.len());
    for round in 0..rounds {
        let step = steps[round % steps.len()];
        let mut owner = Part::start(step, stage.name());
        while owner.hear() != step {}
        // Somewhere in mid-job, where there is one.
        std::thread::sleep(Duration::from_micros(300 * round as u64));
        owner.kill();
        let watch = Stopwatch::start();
        let session = stage.owner();
        let ours = watch.ours();
        longest = longest.max(ours);
        assert!(ours < limit, "{step}: {ours:?}");
        if let Some(board) = stage.board() {
            // Queue 0's memory is two regions: nothing of the dead.
            assert_eq!(board.counters().regions, 2, "{step}");
            assert_eq!(board.counters().connections, 1, "{step}");
        }
        let mut queue = by_sequence(&session, 4);
        let seq = queue.submit_one(&nop(1)).unwrap();
        queue.completions().wait(seq, Some(SOON)).unwrap();
        drop((queue, session));
        before.nothing_is_left(&stage);
    }
    println!("= {rounds} owners killed: the next one opened within {longest:?}");
}
