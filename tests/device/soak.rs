//! Soak: much work, some of it going wrong, and at the end every job is accounted for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jalapeno::completions::Status;
use jalapeno::error::Error;
use jalapeno::{Queue, Session};
use jalapeno_emulator::faults::Fault;
use jalapeno_hw::regs::ResetLevel;
use jalapeno_tests::invariants::{Invariants, Tally, conserved};
use jalapeno_tests::packet::nop;
use jalapeno_tests::stage::try_delivering;
use jalapeno_tests::{SOON, Stage, calmly, stage, story, undisturbed};

/// What may happen to any packet.
const MISHAPS: [Fault; 13] = [
    Fault::EccUncorrected,
    Fault::EccCorrected,
    Fault::DoorbellRepeated,
    Fault::InterruptSpurious,
    Fault::Hangs,
    Fault::RecordStray,
    Fault::RecordStale,
    Fault::RecordEarlierLap,
    Fault::RecordTorn,
    Fault::SequencePasses,
    Fault::SequenceBeyond,
    Fault::SequenceRepeats,
    Fault::Throttles,
];

/// Numbers that look random, from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// What became of all jobs so far.
#[derive(Debug, Default)]
struct Books {
    submitted: u64,
    ended: u64,
    done: u64,
    queues: u64,
}

impl Books {
    /// Counts a queue that is not used any more.
    fn close(&mut self, queue: &Queue, mut tally: Tally) {
        let side = queue.completions();
        let _ = tally.reap(side);
        let counters = side.counters();
        conserved(&counters);
        assert_eq!(tally.count(), counters.submitted);
        self.submitted += counters.submitted;
        self.ended += counters.succeeded + counters.failed + counters.cancelled;
        let done = tally.ends().filter(|end| end.status == Status::Done);
        self.done += done.count() as u64;
        self.queues += 1;
    }
}

/// A fresh queue and its tally. Under a hail of resets each try to make one may be hit.
fn fresh(session: &Session) -> (Queue, Tally) {
    let begin = Instant::now();
    loop {
        match try_delivering(session, 128) {
            Err(Error::Cancelled) => assert!(begin.elapsed() < SOON, "no queue in between"),
            queue => return (queue.expect("a queue"), Tally::default()),
        }
    }
}

#[test]
fn work_at_a_tenth_of_a_per_cent_of_mishaps_is_accounted_for_to_the_job() {
    undisturbed!();
    let Some(stage) = Stage::that_misbehaves(story!()) else {
        return;
    };
    // JALAPENO_SOAK=10000000 soaks for half a minute.
    let wanted = std::env::var("JALAPENO_SOAK");
    let ordinary = stage.rounds(150_000).into();
    let goal: u64 = wanted.map_or(ordinary, |jobs| jobs.parse().expect("a number of jobs"));
    let seed = 0x5EED_0001;
    let mut dice = Dice(seed);
    stage.warm_up();
    let before = Invariants::as_it_is(&stage);
    let session = stage.session();
    let (mut queue, mut tally) = fresh(&session);
    let mut books = Books::default();
    let mut mishaps = 0;
    let begin = Instant::now();
    while books.submitted + queue.completions().submitted().0 < goal {
        let batch = 1 + dice.roll(128);
        let mishap = dice.roll(1000) < batch;
        if mishap {
            let fault = MISHAPS[usize::try_from(dice.roll(MISHAPS.len() as u64)).unwrap()];
            stage.mischief().fault_at(fault, 1 + dice.roll(batch));
            mishaps += 1;
        }
        let first = queue.completions().submitted().0 + 1;
        let jobs: Vec<_> = (first..first + batch).map(nop).collect();
        let told = queue.submit(&jobs).and_then(|last| {
            queue
                .completions()
                .wait(last, Some(stage.time(Duration::from_millis(15))))
        });
        let mended = match told {
            Ok(()) => Ok(()),
            Err(Error::Late { .. }) => queue.cancel(SOON),
            Err(Error::Fault(_) | Error::Cancelled | Error::Stopped) => queue.resume(),
            Err(error) => Err(error),
        };
        if mishap {
            stage.mischief().calm();
        }
        let reaped = tally.reap(queue.completions());
        match mended {
            Ok(()) if reaped.is_ok() => {}
            // A reset hit a queue that was done but had not said so.
            Err(Error::Full) => queue.resume().unwrap(),
            Ok(()) | Err(Error::Protocol { .. }) => {
                let (next, other) = fresh(&session);
                let old = std::mem::replace(&mut queue, next);
                books.close(&old, std::mem::replace(&mut tally, other));
            }
            Err(error) => panic!("seed {seed:#x}: {error}"),
        }
    }
    books.close(&queue, tally);
    assert_eq!(books.submitted, books.ended, "seed {seed:#x}");
    assert!(mishaps > goal / 2000, "{mishaps}");
    assert!(
        books.queues > u64::from(stage.rounds(5)),
        "some broke the specification"
    );
    assert!(books.done > goal * 9 / 10, "most of the work was done");
    println!(
        "= soak, seed {seed:#x}: {} jobs, {mishaps} mishaps, {} queues, {:?}",
        books.submitted,
        books.queues,
        begin.elapsed()
    );
    drop((queue, session));
    before.nothing_is_left(&stage);
}

#[test]
fn resets_under_load_end_every_job_once_and_work_goes_on() {
    calmly(|| {
        const RESETS: u32 = 40;
        undisturbed!();
        let stage = stage();
        stage.warm_up();
        let before = Invariants::as_it_is(&stage);
        let session = stage.session();
        let over = AtomicBool::new(false);
        let ended = AtomicU64::new(0);
        let mut took = Vec::new();
        std::thread::scope(|scope| {
            let (session, over, ended) = (&session, &over, &ended);
            for _ in 0..3 {
                scope.spawn(move || {
                    let (mut queue, mut tally) = fresh(session);
                    while !over.load(Ordering::Acquire) {
                        let first = queue.completions().submitted().0 + 1;
                        let jobs: Vec<_> = (first..first + 50).map(nop).collect();
                        let told = queue
                            .submit(&jobs)
                            .and_then(|last| queue.completions().wait(last, Some(SOON)));
                        match told {
                            Ok(()) => {}
                            Err(Error::Cancelled | Error::Stopped) => {
                                tally.reap(queue.completions()).unwrap();
                                queue.resume().unwrap();
                            }
                            Err(error) => panic!("{error}"),
                        }
                        tally.reap(queue.completions()).unwrap();
                    }
                    if queue.completions().poll().is_err() {
                        queue.resume().unwrap();
                    }
                    tally.reap(queue.completions()).unwrap();
                    // The resets are over: whatever they hit, the next batch is done whole.
                    let before = queue.completions().counters().succeeded;
                    let first = queue.completions().submitted().0 + 1;
                    let jobs: Vec<_> = (first..first + 50).map(nop).collect();
                    let last = queue.submit(&jobs).unwrap();
                    queue.completions().wait(last, Some(SOON)).unwrap();
                    tally.reap(queue.completions()).unwrap();
                    let counters = queue.completions().counters();
                    conserved(&counters);
                    assert_eq!(tally.count(), counters.submitted);
                    assert_eq!(counters.succeeded, before + 50);
                    ended.fetch_add(counters.submitted, Ordering::Relaxed);
                });
            }
            scope.spawn(move || {
                // A reset may hit the making and the closing of a queue as well.
                while !over.load(Ordering::Acquire) {
                    let (mut queue, _) = fresh(session);
                    match queue.submit_one(&nop(1)) {
                        Ok(seq) => match queue.completions().wait(seq, Some(SOON)) {
                            Ok(()) | Err(Error::Cancelled | Error::Stopped) => {}
                            Err(error) => panic!("{error}"),
                        },
                        Err(Error::Stopped) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
            for reset in 0..RESETS {
                std::thread::sleep(Duration::from_micros(200 * u64::from(reset % 16)));
                let report = session.device().reset(ResetLevel::Engines, 0, SOON);
                took.push(report.unwrap().took);
            }
            over.store(true, Ordering::Release);
        });
        took.sort_unstable();
        println!(
            "= {RESETS} resets under load, {} jobs, slowest {:?}",
            ended.into_inner(),
            took.last().unwrap()
        );
        drop(session);
        before.nothing_is_left(&stage);
    });
}
