//! Stories of a queue against a device that the test plays by hand: packets out, completions home.

use std::time::Duration;

use crate::completions::{Completion, Completions, Status};
use crate::error::Error;
use crate::played::{nop, play};
use crate::units::Seq;

mod failures;
mod waits;

const SOON: Option<Duration> = Some(Duration::from_secs(60));
const NOW: Option<Duration> = Some(Duration::ZERO);

fn reap(completions: &Completions, most: usize) -> Vec<Completion> {
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
