//! Profiles: what jobs took, told to their queue and to those who watch the card.

use jalapeno::device::Role;
use jalapeno::hw::limits::HBM_BASE;
use jalapeno::hw::packets::{Opcode, Packet, header};
use jalapeno::{Error, Profiler, QueueOptions, Session};
use jalapeno_tests::{SOON, open, stage};

/// 1 MiB of HBM, filled.
fn fill() -> Packet {
    let mut packet = Packet::ZERO;
    packet.header = header(Opcode::Fill, 0);
    packet.cookie = 7;
    packet.body = [HBM_BASE, 1 << 20, 3, 0, 0];
    packet
}

fn nop() -> Packet {
    let mut packet = Packet::ZERO;
    packet.header = header(Opcode::Nop, 0);
    packet
}

const PROFILED: QueueOptions = QueueOptions {
    depth: 16,
    errors: 8,
    vector: None,
    delivery: jalapeno::Delivery::BySequence,
    profile: true,
    priority: jalapeno::hw::queue::PriorityBand::Normal,
};

#[test]
fn a_finished_job_says_what_it_took_until_the_ring_has_gone_round() {
    let stage = stage();
    let session = Session::new(&stage.device()).unwrap();
    let mut queue = session.queue(PROFILED).unwrap();
    let first = queue.submit_one(&fill()).unwrap();
    queue.completions().wait(first, Some(SOON)).unwrap();
    let stats = queue.completions().stats(first).unwrap();
    assert_eq!((stats.seq, stats.cookie, stats.failed), (first, 7, false));
    assert_eq!((stats.opcode, stats.bytes), (Ok(Opcode::Fill), 1 << 20));
    assert!(stats.start < stats.end && stats.energy_nj > 0, "{stats:?}");
    let last = queue.submit(&[nop(); 16]).unwrap();
    queue.completions().wait(last, Some(SOON)).unwrap();
    assert_eq!(queue.completions().stats(last).unwrap().seq, last);
    for seq in [first, jalapeno::Seq(0), jalapeno::Seq(last.0 + 1)] {
        let told = queue.completions().stats(seq);
        assert!(matches!(told, Err(Error::Invalid { .. })), "{told:?}");
    }
}

#[test]
fn a_queue_that_was_not_made_for_it_tells_nothing() {
    let stage = stage();
    let session = Session::new(&stage.device()).unwrap();
    let mut queue = session.queue(QueueOptions::default()).unwrap();
    let seq = queue.submit_one(&nop()).unwrap();
    queue.completions().wait(seq, Some(SOON)).unwrap();
    let told = queue.completions().stats(seq);
    assert!(matches!(told, Err(Error::Unsupported { .. })), "{told:?}");
}

#[test]
fn those_who_watch_the_card_share_its_ring_and_count_what_they_lost() {
    let stage = stage();
    let owner = stage.device();
    // A kernel gives the card to one process; there the owner watches itself.
    let observer = |board| open(board, Role::Observe).unwrap();
    let watch = || stage.board().map_or_else(|| owner.clone(), observer);
    let mut one = Profiler::new(&watch()).unwrap();
    let mut other = Profiler::new(&watch()).unwrap();
    let session = Session::new(&owner).unwrap();
    // Not profiled itself: who watches needs nothing of the owner.
    let mut queue = session.queue(QueueOptions::default()).unwrap();
    let last = queue.submit(&[fill(), nop(), nop()]).unwrap();
    queue.completions().wait(last, Some(SOON)).unwrap();
    let seen = one.read().unwrap();
    let mine = seen.jobs.iter().filter(|job| job.queue == queue.number());
    let mine: Vec<_> = mine.map(|job| (job.seq.0, job.bytes)).collect();
    assert_eq!(mine, [(1, 1 << 20), (2, 0), (3, 0)]);
    assert_eq!(other.read().unwrap(), seen, "nothing was taken from it");
    assert!(one.read().unwrap().jobs.is_empty(), "each is told once");
    for _ in 0..6 {
        let last = queue.submit(&[nop(); 128]).unwrap();
        queue.completions().wait(last, Some(SOON)).unwrap();
    }
    let seen = one.read().unwrap();
    assert_eq!(seen.jobs.len() as u64 + seen.lost, 768);
    assert!(seen.lost > 0 && seen.jobs.last().unwrap().seq.0 == 771);
}
