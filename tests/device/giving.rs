//! Giving a card back while the host waits for it: jobs end, then waits, and all by a deadline.
//!
//! On boards alone, where an opening is cheap; a kernel's asking is in the guest's own stories.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jalapeno::device::{Device, Role};
use jalapeno::error::{Code, Error};
use jalapeno::{HostOptions, Seq, Session};
use jalapeno_tests::packet::{nop, wait};
use jalapeno_tests::stage::by_sequence;
use jalapeno_tests::{Asleep, SOON, Stage, board};

use crate::between::Between;

const HALF: Duration = Duration::from_millis(500);
/// What a machine with better things to do gets on top of a deadline.
const PATIENCE: Duration = Duration::from_secs(5);

/// The stage's card, and how the host asks for it back.
fn asked_for(stage: &Stage) -> (Arc<Device>, Arc<Between>) {
    Between::open(stage, |_| {})
}

#[test]
fn sleepers_are_woken_when_the_host_asks_and_jobs_may_still_end() {
    let stage = Stage::of(board());
    let (device, host) = asked_for(&stage);
    let session = Session::new(&device).unwrap();
    let gate = session.fence(0).unwrap();
    let mut queue = by_sequence(&session, 8);
    let seq = queue.submit_one(&wait(gate.address(), 1)).unwrap();
    let completions = queue.completions().clone();
    let asleep = Asleep::default();
    std::thread::scope(|scope| {
        let sleeper = || {
            asleep.soon();
            completions.wait(seq, Some(2 * SOON)) // so that a story that fails ends
        };
        let sleepers = [(); 4].map(|()| scope.spawn(sleeper));
        // Who comes later knows of the wish, and waits for its job.
        asleep.all(4);
        assert!(!device.is_wanted_back());
        let begin = Instant::now();
        host.want();
        for sleeper in sleepers {
            let error = sleeper.join().unwrap().unwrap_err();
            assert!(matches!(error, Error::Wanted), "{error}");
            assert_eq!(error.code(), Code::Wanted);
            assert!(error.hint().unwrap().contains("give_back"));
        }
        assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
    });
    assert!(device.is_wanted_back());
    // Whoever waits from then on knows, and waits for the end of its jobs.
    let late = completions
        .wait(seq, Some(Duration::from_millis(20)))
        .unwrap_err();
    assert!(matches!(late, Error::Late { .. }), "{late}");
    gate.signal(1).unwrap();
    let begin = Instant::now();
    while completions.poll().unwrap() < seq && begin.elapsed() < SOON {
        std::thread::yield_now();
    }
    completions.wait(seq, None).unwrap();
    drop((completions, queue, gate, session));
    drop(host);
    device.give_back(HALF).unwrap();
}

#[test]
fn jobs_that_can_end_do_and_what_they_did_can_be_read() {
    let stage = Stage::of(board());
    let device = stage.open();
    let session = Session::new(&device).unwrap();
    let mut queue = by_sequence(&session, 64);
    let packets: Vec<_> = (1..=32).map(nop).collect();
    let seq = queue.submit(&packets).unwrap();
    let returned = device.retire(SOON).unwrap();
    queue.completions().wait(seq, Some(Duration::ZERO)).unwrap();
    assert_eq!(queue.completions().counters().succeeded, 32);
    for error in [
        queue.submit_one(&nop(33)).unwrap_err(),
        device.check().unwrap_err(),
        session
            .host_memory(4096, HostOptions::default())
            .map(drop)
            .and_then(|()| device.verify())
            .unwrap_err(),
    ] {
        assert_eq!(error.code(), Code::Lost, "{error}");
        assert!(error.to_string().contains("given back"), "{error}");
    }
    device.retire(HALF).unwrap().wait().unwrap_err(); // nothing more happens
    drop((queue, session, device));
    returned.wait().unwrap();
}

#[test]
fn jobs_that_cannot_end_are_lost_by_the_deadline_and_their_memory_is_free() {
    let stage = Stage::of(board());
    let device = stage.open();
    let session = Session::new(&device).unwrap();
    let gate = session.fence(0).unwrap();
    let mut queue = by_sequence(&session, 8);
    queue
        .submit(&[nop(1), wait(gate.address(), 1), nop(3)])
        .unwrap();
    let completions = queue.completions().clone();
    let begin = Instant::now();
    let returned = std::thread::scope(|scope| {
        let sleepers = [2, 3].map(|seq| {
            let completions = &completions;
            scope.spawn(move || completions.wait(Seq(seq), None))
        });
        let returned = device.retire(2 * HALF).unwrap();
        for sleeper in sleepers {
            let error = sleeper.join().unwrap().unwrap_err();
            assert_eq!(error.code(), Code::Lost, "{error}");
            assert!(error.to_string().contains("given back"), "{error}");
        }
        returned
    });
    let took = begin.elapsed();
    assert!(took >= HALF, "jobs had no time to end in: {took:?}");
    assert!(took < 2 * HALF + PATIENCE, "{took:?}");
    completions.wait(Seq(1), None).unwrap();
    gate.try_free().map_err(|(_, error)| error).unwrap();
    let dma = Arc::clone(device.dma().unwrap());
    drop((completions, queue, session));
    assert_eq!(dma.usage().maps, 0);
    drop((dma, device));
    returned.wait().unwrap();
    stage.open().verify().unwrap();
}

#[test]
fn what_is_still_in_use_at_the_deadline_is_said() {
    let stage = Stage::of(board());
    let device = stage.open();
    let other = Arc::clone(&device);
    let begin = Instant::now();
    let error = device.give_back(HALF / 2).unwrap_err();
    assert_eq!(error.code(), Code::Busy, "{error}");
    assert!(begin.elapsed() >= HALF / 2 && begin.elapsed() < PATIENCE);
    other.give_back(HALF).unwrap();
    let watcher = Device::open(stage.name(), Role::Observe).unwrap();
    let error = watcher.give_back(HALF).unwrap_err();
    assert_eq!(error.code(), Code::Unsupported, "{error}");
}
