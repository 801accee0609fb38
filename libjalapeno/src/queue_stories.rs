//! Stories of a queue against a device that the test plays, well-behaved and hostile.

use std::time::{Duration, Instant};

use jalapeno_hw::faults::FaultCode;

use crate::completions::{Completion, Status};
use crate::error::Error;
use crate::played::{nop, play};
use crate::units::Seq;

const SECOND: Option<Duration> = Some(Duration::from_secs(1));
const NOW: Option<Duration> = Some(Duration::ZERO);

fn breach(error: &Error) -> FaultCode {
    match error {
        Error::Protocol { code, .. } => *code,
        other => panic!("not a breach: {other:?}"),
    }
}

fn reap(completions: &crate::completions::Completions, most: usize) -> Vec<Completion> {
    let mut out = vec![Completion::EMPTY; most];
    let count = completions.reap(&mut out).unwrap();
    out.truncate(count);
    out
}

#[test]
fn packets_stand_in_their_slots_with_validity_flipping_each_lap() {
    for depth_log2 in 0..=6 {
        let depth = 1usize << depth_log2;
        let (mut queue, device) = play(depth_log2, 0, false);
        for seq in 1..=4 * depth as u64 + 1 {
            assert_eq!(queue.submit_one(&nop(seq)).unwrap(), Seq(seq));
            let slot = usize::try_from((seq - 1) % depth as u64).unwrap();
            let lap = (seq - 1) / depth as u64;
            assert_eq!(
                device.is_valid(slot),
                lap.is_multiple_of(2),
                "packet {seq} of {depth}"
            );
            assert_eq!(device.tail(), seq);
            device.word(seq);
            assert_eq!(queue.completions().poll().unwrap(), Seq(seq));
        }
    }
}

#[test]
fn at_every_position_of_a_ring_exactly_its_depth_fits() {
    for depth_log2 in 0..=6 {
        let depth = 1u64 << depth_log2;
        for lead in 0..2 * depth + 1 {
            for held in 0..=depth {
                let (mut queue, device) = play(depth_log2, 0, false);
                for seq in 1..=lead {
                    queue.submit_one(&nop(seq)).unwrap();
                    device.word(seq);
                }
                let batch = vec![nop(0); usize::try_from(held).unwrap()];
                let last = queue.submit(&batch).unwrap();
                assert_eq!(last, Seq(lead + held));
                let rest = vec![nop(0); usize::try_from(depth - held).unwrap()];
                let over = vec![nop(0); usize::try_from(depth - held + 1).unwrap()];
                if held > 0 {
                    assert!(matches!(queue.submit(&over), Err(Error::Full)));
                } else {
                    assert!(matches!(queue.submit(&over), Err(Error::Invalid { .. })));
                }
                assert_eq!(device.tail(), lead + held, "a refused batch leaves nothing");
                assert_eq!(queue.submit(&rest).unwrap(), Seq(lead + depth));
                assert!(matches!(queue.submit_one(&nop(0)), Err(Error::Full)));
            }
        }
    }
}

#[test]
fn completions_are_delivered_in_order_each_once_with_their_cookies() {
    let (mut queue, device) = play(3, 0, true);
    let completions = queue.completions().clone();
    for seq in 1..=8 {
        queue.submit_one(&nop(seq * 10)).unwrap();
    }
    assert!(reap(&completions, 4).is_empty());
    device.word(5);
    let first: Vec<_> = reap(&completions, 3)
        .iter()
        .map(|c| (c.seq.0, c.cookie))
        .collect();
    assert_eq!(first, [(1, 10), (2, 20), (3, 30)]);
    assert!(
        queue.submit(&vec![nop(0); 4]).is_err(),
        "three slots are free, not four"
    );
    queue.submit(&[nop(90), nop(100), nop(110)]).unwrap();
    device.word(11);
    let rest: Vec<_> = reap(&completions, 99)
        .iter()
        .map(|c| (c.seq.0, c.cookie))
        .collect();
    assert_eq!(rest, (4..=11).map(|s| (s, s * 10)).collect::<Vec<_>>());
    assert!(reap(&completions, 4).is_empty());
}

#[test]
fn a_queue_that_is_never_reaped_is_full_at_its_depth_and_stays_so() {
    let (mut queue, device) = play(2, 0, true);
    for seq in 1..=4 {
        queue.submit_one(&nop(seq)).unwrap();
    }
    device.word(4);
    for _ in 0..100 {
        assert!(matches!(queue.submit_one(&nop(5)), Err(Error::Full)));
        assert_eq!(queue.completions().poll().unwrap(), Seq(4));
    }
    assert_eq!(reap(queue.completions(), 9).len(), 4);
    queue.submit_one(&nop(5)).unwrap();
}

#[test]
fn a_queue_waited_for_by_sequence_refuses_to_deliver() {
    let (queue, _device) = play(2, 0, false);
    let refused = queue.completions().reap(&mut [Completion::EMPTY]);
    assert!(matches!(refused, Err(Error::Invalid { .. })));
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
    let unfinished = queue.completions().wait(Seq(6), SECOND).unwrap_err();
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
    let cases: [(Play, FaultCode); 8] = [
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
        let error = queue.completions().wait(Seq(3), SECOND).unwrap_err();
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
    let error = queue.completions().wait(Seq(3), SECOND).unwrap_err();
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

#[test]
fn a_wait_ends_at_its_deadline_and_the_job_counts_as_unfinished() {
    let (mut queue, _device) = play(2, 0, false);
    let seq = queue.submit_one(&nop(1)).unwrap();
    for millis in [0, 1, 30, 150] {
        let timeout = Duration::from_millis(millis);
        let begin = Instant::now();
        let late = queue.completions().wait(seq, Some(timeout));
        assert!(matches!(late, Err(Error::Late { .. })));
        let took = begin.elapsed();
        assert!(
            took >= timeout && took < timeout + Duration::from_millis(500),
            "{took:?}"
        );
    }
    assert_eq!(queue.completions().counters().unfinished, 1);
    assert!(matches!(
        queue.completions().wait(Seq(2), NOW),
        Err(Error::Invalid { .. })
    ));
    assert!(matches!(
        queue.completions().wait(Seq(0), NOW),
        Err(Error::Invalid { .. })
    ));
}

#[test]
fn an_interrupt_wakes_every_waiter_and_the_lowest_sequence_is_armed() {
    let (mut queue, device) = play(4, 0, false);
    queue.submit(&vec![nop(0); 9]).unwrap();
    std::thread::scope(|scope| {
        let waiters: Vec<_> = [9, 4, 7]
            .map(|seq| {
                let completions = queue.completions().clone();
                scope.spawn(move || completions.wait(Seq(seq), Some(Duration::from_secs(20))))
            })
            .into();
        while device.armed() != 4 {
            std::thread::yield_now();
        }
        device.word(4);
        device.interrupt();
        while device.armed() != 7 {
            std::thread::yield_now();
        }
        device.word(9);
        device.interrupt();
        for waiter in waiters {
            waiter.join().unwrap().unwrap();
        }
    });
}

#[test]
fn a_missing_interrupt_is_survived_and_counted() {
    let (mut queue, device) = play(2, 0, false);
    let seq = queue.submit_one(&nop(1)).unwrap();
    let completions = queue.completions().clone();
    let waiter = std::thread::spawn(move || completions.wait(seq, Some(Duration::from_secs(20))));
    while device.armed() != 1 {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(20));
    device.word(1);
    waiter.join().unwrap().unwrap();
    assert_eq!(queue.completions().counters().interrupts_missed, 1);
}

#[test]
fn a_lost_doorbell_is_rung_again() {
    let (mut queue, device) = play(2, 0, false);
    let seq = queue.submit_one(&nop(1)).unwrap();
    *device.asked.on_kick.lock().unwrap() = Some((device.answers.clone(), 1));
    queue
        .completions()
        .wait(seq, Some(Duration::from_secs(20)))
        .unwrap();
    assert_eq!(queue.completions().counters().doorbells_rung_again, 1);
}

#[test]
fn a_lost_device_and_a_reset_one_end_every_wait() {
    for stale in [false, true] {
        let (mut queue, device) = play(2, 0, true);
        let seq = queue.submit_one(&nop(1)).unwrap();
        let completions = queue.completions().clone();
        let waiter = std::thread::spawn(move || completions.wait(seq, None));
        while device.armed() != 1 {
            std::thread::yield_now();
        }
        let flag = if stale {
            &device.asked.stale
        } else {
            &device.asked.lost
        };
        flag.store(true, std::sync::atomic::Ordering::SeqCst);
        let ended = waiter.join().unwrap();
        let refused = queue.submit_one(&nop(2));
        if stale {
            assert!(matches!(ended, Err(Error::Stale { .. })));
            assert!(matches!(refused, Err(Error::Stale { .. })));
        } else {
            assert!(matches!(ended, Err(Error::Lost { .. })));
            assert!(matches!(refused, Err(Error::Lost { .. })));
        }
        assert_eq!(reap(queue.completions(), 2).len(), 1);
        assert_eq!(queue.completions().counters().failed, 1);
    }
}

#[test]
fn polling_alone_notices_a_lost_device() {
    let (mut queue, device) = play(2, 0, false);
    queue.submit_one(&nop(1)).unwrap();
    device
        .asked
        .lost
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let noticed = (0..100_000).any(|_| queue.completions().poll().is_err());
    assert!(noticed);
}

#[test]
fn closing_a_queue_ends_the_waits_of_other_threads() {
    let (mut queue, device) = play(2, 0, true);
    let seq = queue.submit_one(&nop(1)).unwrap();
    let completions = queue.completions().clone();
    let other = completions.clone();
    let waiter = std::thread::spawn(move || other.wait(seq, None));
    while device.armed() != 1 {
        std::thread::yield_now();
    }
    let begin = Instant::now();
    drop(queue);
    assert!(matches!(waiter.join().unwrap(), Err(Error::Closed { .. })));
    assert!(
        begin.elapsed() < Duration::from_millis(90),
        "woken, not found by the backstop"
    );
    assert_eq!(reap(&completions, 2)[0].status, Status::Cancelled);
    assert_eq!(completions.counters().cancelled, 1);
}

#[test]
fn ending_a_queue_from_any_thread_wakes_every_waiter_and_keeps_what_was_done() {
    let (mut queue, device) = play(3, 0, true);
    queue.submit(&vec![nop(7); 4]).unwrap();
    device.word(1);
    let completions = queue.completions().clone();
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (2..=4)
            .flat_map(|seq| [seq, seq])
            .map(|seq| {
                let completions = &completions;
                scope.spawn(move || completions.wait(Seq(seq), None))
            })
            .collect();
        while device.armed() != 2 {
            std::thread::yield_now();
        }
        // Let the last of them fall asleep.
        std::thread::sleep(Duration::from_millis(5));
        let begin = Instant::now();
        for _ in 0..3 {
            scope.spawn(|| completions.end());
        }
        for waiter in waiters {
            let ended = waiter.join().unwrap().unwrap_err();
            assert!(matches!(ended, Error::Closed { .. }));
            assert_eq!(ended.code(), crate::error::Code::Handle);
        }
        assert!(
            begin.elapsed() < Duration::from_millis(90),
            "woken, not found by the backstop"
        );
    });
    completions.wait(Seq(1), None).unwrap();
    let refused = completions.wait(Seq(2), None).unwrap_err();
    assert!(matches!(refused, Error::Closed { .. }));
    let refused = queue.submit_one(&nop(0)).unwrap_err();
    assert!(matches!(refused, Error::Closed { .. }));
    device.word(4); // too late: the job's end stands
    let ends: Vec<_> = reap(&completions, 9).iter().map(|c| c.status).collect();
    let cancelled = Status::Cancelled;
    assert_eq!(ends, [Status::Done, cancelled, cancelled, cancelled]);
    let mut none = [Completion::EMPTY];
    assert!(matches!(
        completions.reap(&mut none),
        Err(Error::Closed { .. })
    ));
    let counters = completions.counters();
    assert_eq!((counters.succeeded, counters.cancelled), (1, 3));
}

#[test]
fn an_application_arms_and_sees_its_eventfd_readable() {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let (mut queue, device) = play(2, 0, false);
    let seq = queue.submit_one(&nop(1)).unwrap();
    let completions = queue.completions().clone();
    completions.arm(seq).unwrap();
    assert_eq!(device.armed(), 1);
    let readable = || {
        let fd = completions.eventfd().unwrap();
        poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
    };
    assert!(!readable());
    device.word(1);
    device.interrupt();
    assert!(readable());
    device.vectors.get(0).unwrap().take();
    assert!(!readable());
    completions.arm(seq).unwrap();
    assert!(readable(), "what is done already is told at once");
}

#[test]
fn many_reapers_deliver_each_completion_once() {
    let (mut queue, device) = play(6, 0, true);
    const JOBS: u64 = 20_000;
    let delivered = std::thread::scope(|scope| {
        let reapers: Vec<_> = (0..3)
            .map(|_| {
                let completions = queue.completions().clone();
                scope.spawn(move || {
                    let mut mine = Vec::new();
                    loop {
                        let mut out = [Completion::EMPTY; 5];
                        match completions.reap(&mut out) {
                            Ok(0) => std::thread::yield_now(),
                            Ok(count) => mine.extend_from_slice(&out[..count]),
                            Err(_) => return mine,
                        }
                    }
                })
            })
            .collect();
        let mut seq = 0;
        while seq < JOBS {
            match queue.submit_one(&nop((seq + 1) * 3)) {
                Ok(next) => {
                    seq = next.0;
                    device.word(seq);
                }
                Err(Error::Full) => std::thread::yield_now(),
                Err(other) => panic!("{other}"),
            }
        }
        while queue.completions().counters().unfinished > 0 {}
        drop(queue);
        let lists = reapers.into_iter().map(|r| r.join().unwrap());
        lists.flatten().collect::<Vec<_>>()
    });
    let mut seqs: Vec<u64> = delivered.iter().map(|c| c.seq.0).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=JOBS).collect::<Vec<_>>());
    assert!(
        delivered
            .iter()
            .all(|c| c.cookie == c.seq.0 * 3 && c.status == Status::Done)
    );
}
