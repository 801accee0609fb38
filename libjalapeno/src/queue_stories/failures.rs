//! Stories of failed packets and of devices that break the specification.

use jalapeno_hw::faults::FaultCode;

use super::{NOW, SOON, reap};
use crate::completions::{Completion, Status};
use crate::error::Error;
use crate::played::{nop, play};
use crate::units::Seq;

fn breach(error: &Error) -> FaultCode {
    match error {
        Error::Protocol { code, .. } => *code,
        other => panic!("not a breach: {other:?}"),
    }
}

#[test]
fn a_failed_packet_tells_its_fault_cancels_those_behind_and_the_queue_goes_on() {
    let (mut queue, mut device) = play(3, 1, true);
    let completions = queue.completions().clone();
    queue.submit(&[nop(10), nop(20), nop(30), nop(40)]).unwrap();
    device.fail(3, FaultCode::UnmappedRead);
    completions.wait(Seq(2), NOW).unwrap();
    match completions.wait(Seq(3), NOW) {
        Err(Error::Fault(fault)) => assert_eq!(fault.code, Ok(FaultCode::UnmappedRead)),
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        completions.wait(Seq(4), NOW),
        Err(Error::Cancelled)
    ));
    assert!(matches!(completions.poll(), Err(Error::Stopped)));
    assert_eq!(completions.completed(), Seq(2));
    assert!(matches!(queue.submit_one(&nop(0)), Err(Error::Stopped)));

    let device_resumes = device.resume_soon(3);
    queue.resume().unwrap();
    device_resumes.join().unwrap();
    assert_eq!(device.resume(), 5);
    let seq = queue.submit_one(&nop(50)).unwrap();
    device.word(seq.0);
    let ends: Vec<_> = reap(&completions, 9)
        .iter()
        .map(|c| (c.seq.0, c.cookie, c.status, c.code))
        .collect();
    let code = FaultCode::UnmappedRead.code();
    let expected = [
        (1, 10, Status::Done, 0),
        (2, 20, Status::Done, 0),
        (3, 30, Status::Fault, code),
        (4, 40, Status::Cancelled, 0),
        (5, 50, Status::Done, 0),
    ];
    assert_eq!(ends, expected);
    assert!(
        matches!(completions.wait(Seq(3), NOW), Err(Error::Fault(_))),
        "it stays so"
    );
    completions.wait(Seq(5), NOW).unwrap();
    let counters = completions.counters();
    let counted = (counters.submitted, counters.succeeded, counters.failed);
    assert_eq!(counted, (5, 3, 1));
    assert_eq!((counters.cancelled, counters.unfinished), (1, 0));
}

#[test]
fn failures_on_every_lap_of_the_error_ring_are_told() {
    let (mut queue, mut device) = play(1, 1, false);
    for round in 0..9 {
        let seq = queue.submit_one(&nop(0)).unwrap();
        assert!(matches!(
            queue.completions().wait(seq, NOW),
            Err(Error::Late { .. })
        ));
        device.fail(seq.0, FaultCode::Deadline);
        assert!(matches!(
            queue.completions().wait(seq, NOW),
            Err(Error::Fault(_))
        ));
        let device_resumes = device.resume_soon(seq.0);
        queue.resume().unwrap();
        device_resumes.join().unwrap();
        assert_eq!(queue.completions().counters().failed, round + 1);
    }
}

#[test]
fn a_sequence_that_goes_backwards_quarantines_the_queue() {
    let (mut queue, device) = play(3, 0, false);
    queue.submit(&vec![nop(0); 8]).unwrap();
    device.word(5);
    assert_eq!(queue.completions().poll().unwrap(), Seq(5));
    device.word(4);
    let error = queue.completions().poll().unwrap_err();
    assert_eq!(breach(&error), FaultCode::SequenceBackwards);
    device.word(6);
    assert_eq!(
        breach(&queue.submit_one(&nop(0)).unwrap_err()),
        FaultCode::SequenceBackwards
    );
    queue.completions().wait(Seq(5), NOW).unwrap();
    let unfinished = queue.completions().wait(Seq(6), SOON).unwrap_err();
    assert_eq!(breach(&unfinished), FaultCode::SequenceBackwards);
    let counters = queue.completions().counters();
    assert_eq!((counters.succeeded, counters.failed), (5, 3));
}

#[test]
fn a_sequence_beyond_what_was_submitted_quarantines_the_queue() {
    for word in [
        4,
        1 << 32,
        1 << 62,
        (1 << 62) | 3,
        !(1 << 63),
        (1 << 63) | 4,
        u64::MAX,
    ] {
        let (mut queue, device) = play(3, 0, true);
        queue.submit(&[nop(1), nop(2), nop(3)]).unwrap();
        device.word(word);
        let error = queue.completions().poll().unwrap_err();
        assert_eq!(breach(&error), FaultCode::SequenceBeyond, "{word:#x}");
        let ends = reap(queue.completions(), 9);
        assert_eq!(ends.len(), 3, "each job has one end");
        assert!(ends.iter().all(|end| end.status == Status::Protocol));
        let mut none = [Completion::EMPTY];
        assert!(queue.completions().reap(&mut none).is_err());
    }
}

#[test]
fn a_stop_without_a_record_and_a_record_that_does_not_fit_quarantine_the_queue() {
    type Play = fn(&mut crate::played::Played);
    let cases: [(Play, FaultCode); 10] = [
        (|_| (), FaultCode::RecordMissing),
        (
            |d| {
                let record = d.record(2, FaultCode::Deadline);
                d.write_record(record);
            },
            FaultCode::RecordStray,
        ),
        (
            |d| {
                let mut record = d.record(3, FaultCode::Deadline);
                (record.opcode, record.cookie) = (1, 4);
                d.write_record(record);
            },
            FaultCode::RecordStray,
        ),
        (
            |d| {
                let mut record = d.record(3, FaultCode::Deadline);
                (record.opcode, record.cookie) = (2, 3);
                d.write_record(record);
            },
            FaultCode::RecordStray,
        ),
        (
            |d| {
                let mut record = d.record(3, FaultCode::Deadline);
                record.queue = 4;
                d.write_record(record);
            },
            FaultCode::RecordStray,
        ),
        (
            |d| {
                let mut record = d.record(3, FaultCode::Deadline);
                record.generation -= 1;
                d.write_record(record);
            },
            FaultCode::RecordStale,
        ),
        (
            |d| {
                let mut record = d.record(3, FaultCode::Deadline);
                record.index = 2;
                d.write_record(record);
            },
            FaultCode::RecordCorrupt,
        ),
        (
            |d| {
                let mut record = d.record(3, FaultCode::Deadline);
                record.reserved[4] = 1;
                d.write_record(record);
            },
            FaultCode::RecordCorrupt,
        ),
        (
            |d| {
                // Torn: the phase is there, its body is not.
                let mut record = jalapeno_hw::faults::FaultRecord::ZERO;
                record.flags = 1;
                d.write_raw(&record);
            },
            FaultCode::RecordCorrupt,
        ),
        (
            |d| {
                // An early phase: the right body, the wrong lap's phase bit.
                let mut record = d.record(3, FaultCode::Deadline);
                record.crc = 1;
                d.write_raw(&record);
            },
            FaultCode::RecordMissing,
        ),
    ];
    for (at, (act, code)) in cases.into_iter().enumerate() {
        let (mut queue, mut device) = play(3, 0, false);
        queue.submit(&[nop(1), nop(2), nop(3), nop(4)]).unwrap();
        act(&mut device);
        device.stop(2);
        let error = queue.completions().wait(Seq(3), SOON).unwrap_err();
        assert_eq!(breach(&error), code, "case {at}");
        queue.completions().wait(Seq(2), NOW).ok();
        let counters = queue.completions().counters();
        assert_eq!(
            counters.submitted,
            counters.succeeded + counters.failed,
            "case {at}"
        );
    }
}

#[test]
fn a_sequence_that_passes_a_failed_packet_quarantines_the_queue() {
    let (mut queue, mut device) = play(3, 0, false);
    queue.submit(&vec![nop(0); 6]).unwrap();
    let record = device.record(3, FaultCode::Deadline);
    device.write_record(record);
    device.word(2);
    assert_eq!(
        queue.completions().poll().unwrap(),
        Seq(2),
        "the word may follow the record"
    );
    device.word(4);
    let error = queue.completions().wait(Seq(3), SOON).unwrap_err();
    assert_eq!(breach(&error), FaultCode::SequenceBeyond);

    let (mut queue, mut device) = play(3, 0, false);
    queue.submit(&vec![nop(0); 6]).unwrap();
    device.fail(3, FaultCode::Deadline);
    assert!(matches!(queue.completions().poll(), Err(Error::Stopped)));
    device.word(5);
    assert_eq!(
        breach(&queue.completions().poll().unwrap_err()),
        FaultCode::SequenceBeyond
    );
}

#[test]
fn a_record_that_changes_after_it_was_read_changes_nothing() {
    let (mut queue, mut device) = play(3, 0, false);
    queue.submit(&vec![nop(0); 4]).unwrap();
    device.fail(3, FaultCode::Deadline);
    assert!(matches!(queue.completions().poll(), Err(Error::Stopped)));
    let mut other = device.record(4, FaultCode::EngineHang);
    other.index = 0;
    device.write_record(other);
    match queue.completions().wait(Seq(3), NOW) {
        Err(Error::Fault(fault)) => assert_eq!(fault.code, Ok(FaultCode::Deadline)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_reset_of_an_idle_queue_is_survived() {
    for late_packet in [false, true] {
        reset_idle(late_packet);
    }
}

fn reset_idle(late_packet: bool) {
    let (mut queue, mut device) = play(2, 0, true);
    queue.submit_one(&nop(1)).unwrap();
    device.word(1);
    let mut record = device.record(0, FaultCode::QueueReset);
    record.sequence = 0;
    device.write_record(record);
    device.stop(1);
    if late_packet {
        // The producer did not look: its packet comes too late and is cancelled.
        queue.submit_one(&nop(2)).unwrap();
    }
    assert!(matches!(queue.completions().poll(), Err(Error::Stopped)));
    assert!(matches!(queue.submit_one(&nop(2)), Err(Error::Stopped)));
    let device_resumes = device.resume_soon(2);
    queue.resume().unwrap();
    device_resumes.join().unwrap();
    let seq = queue.submit_one(&nop(3)).unwrap();
    device.word(seq.0);
    queue.completions().wait(seq, NOW).unwrap();
    let ends: Vec<_> = reap(queue.completions(), 9)
        .iter()
        .map(|c| c.status)
        .collect();
    assert_eq!(ends, [Status::Done, Status::Cancelled, Status::Done]);
}
