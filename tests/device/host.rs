//! The host's own troubles: a server that is killed, fork, signals, limits, and clients that break
//! what they share.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jalapeno::completions::Status;
use jalapeno::device::Device;
use jalapeno::error::{Code, Error};
use jalapeno::{Completions, HostOptions, Role, Seq, Session, Transfer};
use jalapeno_hw::regs::ResetLevel;
use jalapeno_tests::alone::{part, say};
use jalapeno_tests::invariants::{Invariants, Tally, conserved, punctual};
use jalapeno_tests::packet::{copy, nop, wait};
use jalapeno_tests::stage::{by_sequence, delivering};
use jalapeno_tests::{Part, SOON, Stopwatch, alone, board, calmly, name, stage, undisturbed};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Serves a board until killed.
fn serve() -> ! {
    let board = board();
    say(&name(&board));
    loop {
        std::thread::park();
    }
}

/// An application's own loop: sleeps until its eventfd speaks or 100 ms passed, arms, looks.
fn loops(side: &Completions, seq: Seq) -> jalapeno::Result<()> {
    let begin = Instant::now();
    let fd = side.eventfd().expect("a board has vectors");
    loop {
        side.arm(seq)?;
        if side.poll()? >= seq {
            return Ok(());
        }
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        let nap = PollTimeout::from(100u16);
        if poll(&mut fds, nap).is_ok_and(|count| count > 0) {
            let _ = nix::unistd::read(fd, &mut [0; 8]);
        }
        assert!(begin.elapsed() < SOON, "the loop was never told");
    }
}

#[test]
fn an_emulator_killed_in_mid_job_is_a_lost_device_to_every_waiter() {
    calmly(|| {
        alone!();
        if part().is_some() {
            serve();
        }
        for round in 0..6 {
            let mut server = Part::start("board", "");
            let card = server.hear();
            let device = Device::open(&card, Role::Compute).unwrap();
            let session = Session::new(&device).unwrap();
            let gate = session.fence(0).unwrap();
            let host = session.host_memory(4096, HostOptions::default()).unwrap();
            let mut queue = delivering(&session, 32);
            let side = queue.completions().clone();
            let mut jobs = vec![nop(1), wait(gate.address(), 1)];
            jobs.push(copy(host.address(), host.address() + 2048, 64));
            for (cookie, job) in (1..).zip(&mut jobs) {
                job.cookie = cookie;
            }
            queue.submit(&jobs).unwrap();
            side.wait(Seq(1), Some(SOON)).unwrap();
            let limit = Duration::from_millis(500);
            let lost = |outcome: jalapeno::Result<()>| {
                assert_eq!(outcome.unwrap_err().code(), Code::Lost);
            };
            std::thread::scope(|scope| {
                // By interrupt with a deadline and without one, by polling, in a loop, on a fence.
                scope.spawn(|| lost(punctual(limit, || side.wait(Seq(3), Some(limit))).0));
                scope.spawn(|| lost(punctual(limit, || side.wait(Seq(2), None)).0));
                scope.spawn(|| {
                    let polls = || loop {
                        side.poll()?;
                        std::thread::yield_now();
                    };
                    lost(punctual(limit, polls).0);
                });
                scope.spawn(|| lost(punctual(limit, || loops(&side, Seq(3))).0));
                scope.spawn(|| lost(punctual(limit, || gate.wait(1, None)).0));
                std::thread::sleep(Duration::from_millis(10 + round));
                server.kill();
            });
            assert_eq!(queue.submit_one(&nop(4)).unwrap_err().code(), Code::Lost);
            assert_eq!(device.verify().unwrap_err().code(), Code::Lost);
            let error = session.queue(Default::default()).unwrap_err();
            assert_eq!(error.code(), Code::Lost, "{error}");
            assert!(error.hint().unwrap().contains("open it again"));
            let mut tally = Tally::default();
            let _ = tally.reap(&side);
            tally.is_whole(3);
            let ends: Vec<_> = tally.ends().map(|end| end.status).collect();
            assert_eq!(ends, [Status::Done, Status::Lost, Status::Lost]);
            conserved(&side.counters());
            let watch = Stopwatch::start();
            drop((queue, side, host, gate, session, device));
            let ours = watch.ours();
            assert!(ours < Duration::from_millis(300), "closes after {ours:?}");
        }
    });
}

/// A way to wait.
type Waiter<'a> = dyn Fn(&Completions) -> jalapeno::Result<()> + Sync + 'a;

#[test]
fn a_waiter_of_each_kind_learns_of_a_lost_device_with_nobody_else_looking() {
    calmly(|| {
        alone!();
        if part().is_some() {
            serve();
        }
        let limit = Duration::from_millis(500);
        let naps = |side: &Completions, nap: Duration| {
            let begin = Instant::now();
            while begin.elapsed() < limit / 2 {
                side.poll()?;
                std::thread::sleep(nap);
            }
            // Its own deadline: what became of the job?
            side.wait(Seq(1), Some(Duration::ZERO))
        };
        let kinds: [(&str, &Waiter<'_>); 4] = [
            ("sleeps", &|side| side.wait(Seq(1), None)),
            ("loops", &|side| loops(side, Seq(1))),
            ("polls", &|side| naps(side, Duration::ZERO)),
            ("polls now and then", &|side| {
                naps(side, Duration::from_millis(1))
            }),
        ];
        for (kind, waits) in kinds {
            let mut server = Part::start("board", "");
            let device = Device::open(&server.hear(), Role::Compute).unwrap();
            let session = Session::new(&device).unwrap();
            let gate = session.fence(0).unwrap();
            let mut queue = by_sequence(&session, 4);
            queue.submit_one(&wait(gate.address(), 1)).unwrap();
            let side = queue.completions();
            std::thread::scope(|scope| {
                let waiter = scope.spawn(|| punctual(limit, || waits(side)).0);
                std::thread::sleep(Duration::from_millis(10));
                server.kill();
                let told = waiter.join().unwrap_or_else(|_| panic!("whoever {kind}"));
                assert_eq!(told.unwrap_err().code(), Code::Lost, "{kind}");
            });
        }
    });
}

#[test]
fn nothing_is_left_of_a_device_that_was_lost() {
    alone!();
    if part().is_some() {
        serve();
    }
    let stage = stage();
    let cycle = || {
        let mut server = Part::start("board", "");
        let device = Device::open(&server.hear(), Role::Compute).unwrap();
        let session = Session::new(&device).unwrap();
        let gate = session.fence(0).unwrap();
        let host = session
            .host_memory(1 << 20, HostOptions::default())
            .unwrap();
        let hbm = session.device_memory(1 << 20).unwrap();
        let mut queue = by_sequence(&session, 32);
        queue
            .submit(&[
                wait(gate.address(), 1),
                copy(host.address(), hbm.address(), 64),
            ])
            .unwrap();
        server.kill();
        let lost = queue.completions().wait(Seq(2), Some(SOON)).unwrap_err();
        assert_eq!(lost.code(), Code::Lost);
    };
    cycle();
    let before = Invariants::before(&stage);
    (0..5).for_each(|_| cycle());
    before.nothing_is_left(&stage);
}

/// What a child of fork() gets from each verb; true: the named error.
fn refused<T>(outcome: jalapeno::Result<T>) -> bool {
    matches!(outcome, Err(Error::Forked))
}

#[test]
fn a_child_of_fork_is_told_so_by_every_verb_and_its_parents_jobs_go_on() {
    alone!();
    let stage = stage();
    let session = stage.session();
    let gate = session.fence(0).unwrap();
    let host = session.host_memory(4096, HostOptions::default()).unwrap();
    let hbm = session.device_memory(4096).unwrap();
    let mut queue = delivering(&session, 8);
    let side = queue.completions().clone();
    let mut transfer = Transfer::new(&session).unwrap();
    let mut jobs = vec![
        wait(gate.address(), 1),
        nop(2),
        copy(host.address(), hbm.address(), 64),
    ];
    for (cookie, job) in (1..).zip(&mut jobs) {
        job.cookie = cookie;
    }
    queue.submit(&jobs).unwrap();
    // SAFETY: the child calls the library, drops what it inherited, and leaves by _exit.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            let mut out = [jalapeno::Completion::EMPTY; 4];
            let checks = [
                refused(queue.submit_one(&nop(1))),
                refused(queue.submit(&[nop(1)])),
                refused(queue.resume()),
                refused(queue.cancel(SOON)),
                refused(side.poll()),
                refused(side.reap(&mut out)),
                refused(side.wait(Seq(1), None)),
                refused(side.arm(Seq(1))),
                refused(gate.value()),
                refused(gate.signal(1)),
                refused(gate.wait(1, None)),
                refused(session.host_memory(4096, HostOptions::default())),
                refused(session.queue(Default::default())),
                refused(session.fence(0)),
                refused(transfer.write(hbm.address(), &[1; 8])),
                refused(session.device().verify()),
                refused(session.device().reset(ResetLevel::Device, 0, SOON)),
                refused(host.memory().write(0, &[1; 8])),
                !host.is_in_use(),
            ];
            side.end();
            gate.end();
            let wrong = checks.iter().position(|good| !good).map_or(0, |at| at + 1);
            drop((queue, side, transfer, gate, host, hbm, session));
            // SAFETY: ends the child without the parent's exit handlers.
            unsafe { libc::_exit(i32::try_from(wrong).unwrap_or(99)) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            let status = nix::sys::wait::waitpid(child, None).unwrap();
            let exited = nix::sys::wait::WaitStatus::Exited(child, 0);
            assert_eq!(status, exited, "the number of the verb that let it through");
        }
    }
    assert!(matches!(
        side.wait(Seq(3), Some(Duration::from_millis(5))),
        Err(Error::Late { .. })
    ));
    gate.signal(1).unwrap();
    side.wait(Seq(3), Some(SOON)).unwrap();
    let mut tally = Tally::default();
    tally.reap(&side).unwrap();
    tally.is_whole(3);
    conserved(&side.counters());
    transfer.write(hbm.address(), &[1; 8]).unwrap();
    drop(session.queue(Default::default()).unwrap());
}

static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn note(_signal: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn a_storm_of_signals_neither_ends_a_wait_nor_delays_it() {
    calmly(|| {
        undisturbed!();
        let action = SigAction::new(SigHandler::Handler(note), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does one atomic addition.
        unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
        let stage = stage();
        let over = AtomicBool::new(false);
        // SAFETY: the thread that plays the story lives until the end of the scope.
        let storm_on = unsafe { libc::pthread_self() };
        std::thread::scope(|scope| {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Acquire) {
                    // SAFETY: that thread joins this one before it ends.
                    unsafe { libc::pthread_kill(storm_on, libc::SIGUSR1) };
                    std::thread::sleep(Duration::from_micros(150));
                }
            });
            let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let session = stage.session();
                let gate = session.fence(0).unwrap();
                let mut queue = delivering(&session, 8);
                let side = queue.completions().clone();
                let mut first = wait(gate.address(), 1);
                first.cookie = 1;
                queue.submit_one(&first).unwrap();
                for millis in [0, 1, 30, 130] {
                    let limit = Duration::from_millis(millis);
                    let (late, took) = punctual(limit, || side.wait(Seq(1), Some(limit)));
                    assert!(matches!(late, Err(Error::Late { .. })), "{late:?}");
                    assert!(took >= limit, "{took:?} of {limit:?}");
                }
                let late = gate.wait(1, Some(Duration::from_millis(20)));
                assert!(matches!(late, Err(Error::Late { .. })), "{late:?}");
                gate.signal(1).unwrap();
                side.wait(Seq(1), Some(SOON)).unwrap();
                let mut transfer = Transfer::new(&session).unwrap();
                let hbm = session.device_memory(3 << 20).unwrap();
                let bytes: Vec<u8> = (0..3 << 20).map(|at: u32| at.to_le_bytes()[1]).collect();
                let mut back = vec![0; bytes.len()];
                for _ in 0..3 {
                    transfer.write(hbm.address(), &bytes).unwrap();
                    transfer.read(hbm.address(), &mut back).unwrap();
                    assert!(back == bytes);
                }
                for cookie in 2..500 {
                    queue.submit_one(&nop(cookie)).unwrap();
                    side.wait(Seq(cookie), Some(SOON)).unwrap();
                    if cookie % 4 == 0 {
                        let _ = side.reap(&mut [jalapeno::Completion::EMPTY; 8]).unwrap();
                    }
                }
                conserved(&side.counters());
                session.device().verify().unwrap();
                drop((queue, side, transfer, hbm, gate, session));
                for _ in 0..stage.rounds(5) {
                    drop(stage.owner());
                }
            }));
            over.store(true, Ordering::Release);
            if let Err(panic) = played {
                std::panic::resume_unwind(panic);
            }
        });
        let signals = SIGNALS.load(Ordering::Relaxed);
        println!("= {signals} signals");
        // An emulated processor takes fewer.
        assert!(signals > u64::from(stage.rounds(500)), "{signals}");
    });
}

#[test]
fn an_eventfd_that_the_application_filled_up_costs_a_backstop_and_no_job() {
    calmly(|| {
        undisturbed!();
        let stage = stage();
        let session = stage.session();
        let gate = session.fence(0).unwrap();
        let mut queue = by_sequence(&session, 8);
        let side = queue.completions().clone();
        let Some(fd) = side.eventfd() else {
            return jalapeno_tests::stage::skip(
                jalapeno_tests::story!(),
                "the card has no interrupt vectors",
            );
        };
        let full = (u64::MAX - 1).to_ne_bytes();
        for value in 1..4 {
            let seq = queue.submit_one(&wait(gate.address(), value)).unwrap();
            while nix::unistd::read(fd, &mut [0; 8]).is_ok() {}
            assert_eq!(nix::unistd::write(fd, &full), Ok(8));
            std::thread::scope(|scope| {
                let waiter = scope.spawn(|| {
                    let limit = Duration::from_millis(200);
                    punctual(limit, || side.wait(seq, Some(SOON))).0
                });
                std::thread::sleep(Duration::from_millis(5));
                gate.signal(value).unwrap();
                waiter.join().unwrap().unwrap();
            });
        }
    });
}

#[test]
fn an_interrupt_that_is_no_eventfd_is_refused_and_the_stream_stays_in_step() {
    let stage = stage();
    let session = stage.session();
    let device = session.device();
    let transport = device.transport();
    let (_reader, writer) = nix::unistd::pipe().unwrap();
    let null = File::open("/dev/null").unwrap();
    for fd in [writer.as_fd(), null.as_fd()] {
        let error = transport.set_vectors(1, &[Some(fd)]).unwrap_err();
        assert!(!error.to_string().is_empty());
        device.verify().unwrap();
    }
    let past: Vec<Option<BorrowedFd<'_>>> = vec![None; 3];
    let count = transport.describe().vectors;
    assert!(transport.set_vectors(count, &past).is_err(), "out of range");
    assert!(transport.set_vectors(u32::MAX, &past).is_err(), "wraps");
    device.verify().unwrap();
    let mut queue = by_sequence(&session, 4);
    let seq = queue.submit_one(&nop(1)).unwrap();
    queue.completions().wait(seq, Some(SOON)).unwrap();
}

#[test]
fn an_owner_short_of_descriptors_fails_whole_at_every_count_until_there_are_enough() {
    calmly(|| {
        alone!();
        if part().is_some() {
            serve();
        }
        let mut server = Part::start("board", "");
        let card = server.hear();
        let whole = |card: &str| -> jalapeno::Result<()> {
            let device = Device::open(card, Role::Compute)?;
            let session = Session::new(&device)?;
            let host = session.host_memory(4096, HostOptions::default())?;
            let mut queue = session.queue(Default::default())?;
            let seq = queue.submit_one(&copy(host.address(), host.address() + 2048, 64))?;
            queue.completions().wait(seq, Some(SOON))
        };
        whole(&card).unwrap();
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count() as u64 - 1;
        let before = open();
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let mut refusals = 0;
        for spare in 0.. {
            setrlimit(Resource::RLIMIT_NOFILE, before + spare, hard).unwrap();
            let outcome = whole(&card);
            setrlimit(Resource::RLIMIT_NOFILE, 1024.min(hard), hard).unwrap();
            assert_eq!(open(), before, "with {spare} descriptors: {outcome:?}");
            match outcome {
                Ok(()) => break,
                Err(error) => {
                    assert!(
                        matches!(
                            error.code(),
                            Code::Io | Code::Busy | Code::Lost | Code::Protocol
                        ),
                        "with {spare} descriptors: {error}"
                    );
                    refusals += 1;
                }
            }
            assert!(spare < 300, "never enough");
        }
        println!("= {refusals} counts of descriptors too few");
        assert!(refusals > 3);
        whole(&card).unwrap();
        server.kill();
    });
}
