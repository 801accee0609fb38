//! Submitting: every job comes home once, with its cookie, at every depth and number of queues.

use jalapeno::error::{Code, Error};
use jalapeno::session::{QueueOptions, Session};
use jalapeno::{Delivery, Queue, Seq};
use jalapeno_hw::packets::Packet;
use jalapeno_hw::queue::PriorityBand;
use jalapeno_tests::invariants::{Invariants, Tally, conserved};
use jalapeno_tests::packet::nop;
use jalapeno_tests::stage::{by_sequence, delivering};
use jalapeno_tests::{SOON, Stage, stage, undisturbed};

/// Depths to try, as far as the device has them.
fn depths(session: &Session) -> Vec<u32> {
    let caps = &session.device().info().capabilities.queues;
    let (least, most) = (1 << caps.depth_log2_min, 1 << caps.depth_log2_max);
    let mut depths: Vec<u32> = [1, 2, 32, 256, most].into();
    depths.retain(|depth| (least..=most).contains(depth));
    depths
}

/// NOPs whose cookies are their numbers.
fn nops(from: u64, count: u64) -> Vec<Packet> {
    (from..from + count).map(nop).collect()
}

/// Submits `jobs` jobs in batches of many sizes, and waits for each batch in turn.
fn run(queue: &mut Queue, jobs: u64, tally: &mut Option<Tally>) {
    let depth = queue.depth();
    let completions = queue.completions().clone();
    let mut last = completions.submitted().0;
    let end = last + jobs;
    let mut size = 1;
    while last < end {
        size = size % depth.min(end - last) + 1;
        let seq = queue.submit(&nops(last + 1, size)).unwrap();
        last += size;
        assert_eq!(seq, Seq(last));
        completions.wait(seq, Some(SOON)).unwrap();
        if let Some(tally) = tally {
            assert_eq!(tally.reap(&completions).unwrap() as u64, size);
        }
        size *= 3;
    }
}

#[test]
fn every_job_comes_home_once_with_its_cookie_at_each_depth_and_number_of_queues() {
    let stage = stage();
    let session = stage.session();
    for depth in depths(&session) {
        for queues in [1, 4, 16] {
            // Behind an IOMMU each page of each ring is mapped on its own: many rings at one depth.
            if queues > 1 && depth != 32 && stage.board().is_none() {
                continue;
            }
            std::thread::scope(|scope| {
                for number in 0..queues {
                    let session = &session;
                    scope.spawn(move || {
                        let each = number % 2 == 0;
                        let mut tally = each.then(Tally::default);
                        let mut queue = if each {
                            delivering(session, depth)
                        } else {
                            by_sequence(session, depth)
                        };
                        let jobs = u64::from(depth) + 37;
                        run(&mut queue, jobs, &mut tally);
                        if let Some(tally) = tally {
                            tally.is_whole(jobs);
                        }
                        let counters = queue.completions().counters();
                        conserved(&counters);
                        assert_eq!(counters.succeeded, jobs);
                    });
                }
            });
        }
    }
}

#[test]
fn a_ring_wraps_a_thousand_laps() {
    let stage = stage();
    let session = stage.session();
    for depth in [1, 2, 32] {
        let mut queue = delivering(&session, depth);
        let mut tally = Some(Tally::default());
        let jobs = 1000 * u64::from(depth);
        run(&mut queue, jobs, &mut tally);
        tally.unwrap().is_whole(jobs);
    }
}

#[test]
fn a_batch_and_single_packets_are_the_same_jobs() {
    let stage = stage();
    let session = stage.session();
    let mut queue = delivering(&session, 32);
    let completions = queue.completions().clone();
    let mut tally = Tally::default();
    let mut last = 0;
    for _lap in 0..50 {
        for cookie in last + 1..=last + 7 {
            assert_eq!(queue.submit_one(&nop(cookie)).unwrap(), Seq(cookie));
        }
        last += 7;
        assert_eq!(queue.submit(&[]).unwrap(), Seq(last), "nothing, done");
        let seq = queue.submit(&nops(last + 1, 25)).unwrap();
        last += 25;
        assert_eq!(seq, Seq(last));
        completions.wait(seq, Some(SOON)).unwrap();
        tally.reap(&completions).unwrap();
    }
    tally.is_whole(last);
}

#[test]
fn a_batch_is_taken_whole_or_not_at_all() {
    let stage = stage();
    let session = stage.session();
    let mut queue = delivering(&session, 8);
    let completions = queue.completions().clone();
    completions
        .wait(queue.submit(&nops(1, 5)).unwrap(), Some(SOON))
        .unwrap();
    let over = queue.submit(&nops(6, 4)).unwrap_err();
    assert_eq!(over.code(), Code::Again, "three are free: {over}");
    assert!(over.retryable());
    let never = queue.submit(&nops(6, 9)).unwrap_err();
    assert_eq!(never.code(), Code::Invalid, "{never}");
    assert_eq!(completions.submitted(), Seq(5), "nothing was submitted");
    queue.submit(&nops(6, 3)).unwrap();
    let mut tally = Tally::default();
    completions.wait(Seq(8), Some(SOON)).unwrap();
    tally.reap(&completions).unwrap();
    tally.is_whole(8);
}

#[test]
fn a_client_that_never_reaps_is_told_again_and_takes_no_more_memory() {
    undisturbed!();
    let stage = stage();
    let session = stage.session();
    let mut queue = delivering(&session, 64);
    for cookie in 1..=64 {
        queue.submit_one(&nop(cookie)).unwrap();
    }
    queue.completions().wait(Seq(64), Some(SOON)).unwrap();
    let before = Invariants::as_it_is(&stage);
    for _ in 0..100_000 {
        assert!(matches!(queue.submit_one(&nop(65)), Err(Error::Full)));
        assert!(matches!(queue.submit(&nops(65, 2)), Err(Error::Full)));
    }
    before.nothing_is_left(&stage);
    let mut tally = Tally::default();
    tally.reap(queue.completions()).unwrap();
    tally.is_whole(64);
    queue.submit_one(&nop(65)).unwrap();
}

/// As many queues as the session gives.
fn all_queues(session: &Session, most: u32) -> (Vec<Queue>, Error) {
    let mut queues = Vec::new();
    loop {
        match session.queue(QueueOptions {
            depth: 4,
            ..QueueOptions::default()
        }) {
            Ok(queue) => queues.push(queue),
            Err(error) => return (queues, error),
        }
        assert!(queues.len() <= most as usize);
    }
}

#[test]
fn when_the_devices_queues_are_used_up_that_is_said_and_a_dropped_one_is_free_again() {
    let stage = stage();
    let session = stage.session();
    let most = session.device().info().capabilities.queues.count;
    let (mut queues, error) = all_queues(&session, most);
    assert_eq!(queues.len(), most as usize - 1, "queue 0 is the library's");
    assert_eq!(error.code(), Code::Memory, "{error}");
    let numbers: std::collections::BTreeSet<_> = queues.iter().map(Queue::number).collect();
    assert_eq!(numbers.len(), queues.len());
    for (number, queue) in queues.iter_mut().enumerate() {
        let seq = queue.submit_one(&nop(number as u64)).unwrap();
        queue.completions().wait(seq, Some(SOON)).unwrap();
    }
    let free = queues.swap_remove(7).number();
    let again = by_sequence(&session, 4);
    assert_eq!(again.number(), free);
}

#[test]
fn a_queue_that_cannot_be_is_refused_and_says_what_can() {
    let stage = stage();
    let session = stage.session();
    let good = QueueOptions::default();
    let with = |change: fn(&mut QueueOptions)| {
        let mut options = good;
        change(&mut options);
        let error = session.queue(options).unwrap_err();
        assert_eq!(error.code(), Code::Invalid, "{options:?}: {error}");
        error.to_string()
    };
    for depth in [0, 3, 255, u32::MAX] {
        let options = QueueOptions { depth, ..good };
        let error = session.queue(options).unwrap_err().to_string();
        assert!(error.contains("a power of two from"), "{error}");
    }
    assert!(with(|o| o.depth = 1 << 31).contains("depth 2147483648"));
    assert!(with(|o| o.errors = 0).contains("errors 0"));
    assert!(with(|o| o.errors = 1 << 20).contains("errors"));
    assert!(with(|o| o.vector = Some(u32::MAX)).contains("vector"));
    drop(session.queue(good).unwrap());
}

/// One handle from many threads: the consumer's side is shared, each completion comes once.
#[test]
fn many_threads_share_a_queues_completions_and_each_job_ends_once() {
    const JOBS: u64 = 30_000;
    let stage: Stage = stage();
    let session = stage.session();
    let mut queue = session
        .queue(QueueOptions {
            depth: 128,
            delivery: Delivery::Each,
            ..QueueOptions::default()
        })
        .unwrap();
    let completions = queue.completions().clone();
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let reapers: Vec<_> = (0..4)
            .map(|_| {
                let completions = completions.clone();
                scope.spawn(move || {
                    let mut tally = Tally::default();
                    while completions.counters().succeeded < JOBS {
                        tally.reap(&completions).unwrap();
                        std::thread::yield_now();
                    }
                    tally.reap(&completions).unwrap();
                    tally
                })
            })
            .collect();
        let watcher = scope.spawn(|| {
            let mut seen = Seq(0);
            while seen < Seq(JOBS) {
                let now = completions.poll().unwrap();
                assert!(now >= seen, "it never goes back");
                seen = now;
                std::thread::yield_now();
            }
        });
        let mut last = 0;
        while last < JOBS {
            match queue.submit(&nops(last + 1, (JOBS - last).min(10))) {
                Ok(seq) => last = seq.0,
                Err(Error::Full) => std::thread::yield_now(),
                Err(other) => panic!("{other}"),
            }
        }
        watcher.join().unwrap();
        reapers.into_iter().map(|r| r.join().unwrap()).collect()
    });
    let mut seqs: Vec<u64> = tallies
        .iter()
        .flat_map(|tally| tally.ends().map(|end| end.seq.0))
        .collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=JOBS).collect::<Vec<_>>());
    conserved(&completions.counters());
}

#[test]
fn a_queue_of_each_priority_band_runs_its_jobs_beside_the_others() {
    let stage = stage();
    let session = stage.session();
    let mut queues: Vec<_> = PriorityBand::ALL
        .iter()
        .map(|&priority| {
            let options = QueueOptions {
                depth: 32,
                priority,
                ..QueueOptions::default()
            };
            session.queue(options).unwrap()
        })
        .collect();
    for round in 0..8 {
        for queue in &mut queues {
            queue.submit(&nops(round * 4 + 1, 4)).unwrap();
        }
    }
    for queue in &queues {
        queue.completions().wait(Seq(32), Some(SOON)).unwrap();
    }
}
