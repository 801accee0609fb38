//! Stories of waits: interrupts, deadlines, and ends that come from elsewhere.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{NOW, reap};
use crate::completions::{Completion, Status};
use crate::error::Error;
use crate::played::{nop, play};
use crate::units::Seq;
use jalapeno_stopwatch::calmly;

#[test]
fn a_wait_ends_at_its_deadline_and_the_job_counts_as_unfinished() {
    calmly(|| {
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
    });
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
    calmly(|| {
        let (mut queue, device) = play(2, 0, false);
        let seq = queue.submit_one(&nop(1)).unwrap();
        let completions = queue.completions().clone();
        let waiter =
            std::thread::spawn(move || completions.wait(seq, Some(Duration::from_secs(20))));
        while device.armed() != 1 {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(20));
        device.word(1);
        waiter.join().unwrap().unwrap();
        assert_eq!(queue.completions().counters().interrupts_missed, 1);
    });
}

#[test]
fn a_missing_interrupt_is_counted_though_another_sleeps_longer_by_the_same_vector() {
    calmly(|| {
        let (mut first, neighbour) = play(2, 0, false);
        let (mut queue, device) = neighbour.neighbour();
        let long = first.submit_one(&nop(1)).unwrap();
        let seq = queue.submit_one(&nop(1)).unwrap();
        std::thread::scope(|scope| {
            let leader = scope.spawn(|| first.completions().wait(long, None));
            while neighbour.armed() != 1 {
                std::thread::yield_now();
            }
            // So that the other's sleep ends within this one's.
            std::thread::sleep(Duration::from_millis(40));
            let waits = scope.spawn(|| queue.completions().wait(seq, None));
            while device.armed() != 1 {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(10));
            device.word(1);
            waits.join().unwrap().unwrap();
            neighbour.word(1);
            neighbour.interrupt();
            leader.join().unwrap().unwrap();
        });
        assert_eq!(queue.completions().counters().interrupts_missed, 1);
        assert_eq!(first.completions().counters().interrupts_missed, 0);
    });
}

#[test]
fn a_lost_doorbell_is_rung_again() {
    calmly(|| {
        let (mut queue, device) = play(2, 0, false);
        let seq = queue.submit_one(&nop(1)).unwrap();
        *device.asked.on_kick.lock().unwrap() = Some((device.answers.clone(), 1));
        queue
            .completions()
            .wait(seq, Some(Duration::from_secs(20)))
            .unwrap();
        assert_eq!(queue.completions().counters().doorbells_rung_again, 1);
    });
}

#[test]
fn a_lost_doorbell_is_rung_again_though_a_queue_on_the_same_vector_interrupts_all_the_time() {
    calmly(|| {
        let (mut busy, neighbour) = play(2, 0, false);
        let (mut queue, device) = neighbour.neighbour();
        let long = busy.submit_one(&nop(1)).unwrap();
        let lost = queue.submit_one(&nop(1)).unwrap();
        *device.asked.on_kick.lock().unwrap() = Some((device.answers.clone(), 1));
        let (ended, took) = std::thread::scope(|scope| {
            let waiter = scope.spawn(|| busy.completions().wait(long, None));
            let waits = scope.spawn(|| {
                let begin = Instant::now();
                let ended = queue.completions().wait(lost, Some(Duration::from_secs(3)));
                (ended, begin.elapsed())
            });
            while !waits.is_finished() {
                neighbour.interrupt();
                std::thread::sleep(Duration::from_millis(2));
            }
            neighbour.word(1);
            neighbour.interrupt();
            waiter.join().unwrap().unwrap();
            waits.join().unwrap()
        });
        ended.unwrap();
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert_eq!(queue.completions().counters().doorbells_rung_again, 1);
    });
}

#[test]
fn a_queue_that_goes_on_is_not_asked_after_however_old_a_wait_is() {
    calmly(|| {
        let (mut queue, device) = play(3, 0, false);
        let last = queue.submit(&[nop(0); 8]).unwrap();
        let completions = queue.completions();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| completions.wait(last, None));
            for done in 1..=last.0 {
                std::thread::sleep(Duration::from_millis(40));
                device.word(done);
                device.interrupt();
            }
            waits.join().unwrap().unwrap();
        });
        assert_eq!(device.asked.kicks.load(Ordering::SeqCst), 0);
        assert_eq!(completions.counters().doorbells_rung_again, 0);
    });
}

#[test]
fn waits_end_by_their_deadlines_though_registers_do_not_answer() {
    calmly(|| {
        let (mut queue, device) = play(2, 0, false);
        let seq = queue.submit_one(&nop(1)).unwrap();
        device.asked.hangs.store(true, Ordering::SeqCst);
        let waits = [120, 250].map(|millis| {
            let timeout = Duration::from_millis(millis);
            let begin = Instant::now();
            let ended = queue.completions().wait(seq, Some(timeout));
            (ended, begin.elapsed().saturating_sub(timeout))
        });
        // Whoever asks learns that the device was reset, and tells the waiters.
        device.asked.stale.store(true, Ordering::SeqCst);
        let completions = queue.completions().clone();
        let waiter = std::thread::spawn(move || completions.wait(seq, None));
        device.asked.hangs.store(false, Ordering::SeqCst);
        let ended = waiter.join().unwrap().unwrap_err();
        assert!(matches!(ended, Error::Stale { .. }));
        // Nothing fails while the registers hang: the queue's own thread would never be let go.
        for (ended, over) in waits {
            assert!(matches!(ended, Err(Error::Late { .. })), "{ended:?}");
            assert!(over < Duration::from_millis(200), "{over:?} too late");
        }
    });
}

#[test]
fn a_lost_device_and_a_reset_one_end_every_wait() {
    calmly(|| {
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
    });
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
    calmly(|| {
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
    });
}

#[test]
fn ending_a_queue_from_any_thread_wakes_every_waiter_and_keeps_what_was_done() {
    calmly(|| {
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
    });
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
    device.vectors.get(0).unwrap().unwrap().take();
    assert!(!readable());
    completions.arm(seq).unwrap();
    assert!(readable(), "what is done already is told at once");
}
