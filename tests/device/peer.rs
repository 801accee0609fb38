//! Peers: one card's jobs in another card's memory, what orders them, and what ends them.

use std::time::{Duration, Instant};

use jalapeno::error::{Code, Error, Result};
use jalapeno::hw::faults::FaultCode;
use jalapeno::hw::packets::Packet;
use jalapeno::hw::regs::ResetLevel;
use jalapeno::{
    Delivery, DeviceAddr, DeviceBuffer, HostBuffer, HostOptions, PeerBuffer, Queue, QueueOptions,
    Session,
};
use jalapeno_tests::packet::{copy, fill, signal, wait};
use jalapeno_tests::stage::by_sequence;
use jalapeno_tests::{Invariants, SOON, Stage, alone, story};

use crate::between::otherwise;

const PAGE: u64 = 65_536;

/// A card with a session, a queue, and some memory in the host.
struct Side {
    queue: Queue,
    host: HostBuffer,
    session: Session,
}

impl Side {
    fn of(stage: &Stage) -> Self {
        let session = stage.session();
        Self {
            queue: by_sequence(&session, 64),
            host: session
                .host_memory(1 << 20, HostOptions::default())
                .unwrap(),
            session,
        }
    }

    /// Runs packets to their end.
    fn run(&mut self, packets: &[Packet]) -> Result<()> {
        let last = self.queue.submit(packets)?;
        self.queue.completions().wait(last, Some(SOON))
    }

    /// Puts bytes into device memory.
    fn put(&mut self, at: DeviceAddr, bytes: &[u8]) {
        self.host.memory().write(0, bytes).unwrap();
        let packet = copy(self.host.address(), at, bytes.len() as u64);
        self.run(&[packet]).unwrap();
    }

    /// Takes bytes out of it.
    fn take(&mut self, at: DeviceAddr, bytes: usize) -> Vec<u8> {
        let mut taken = vec![0; bytes];
        self.run(&[copy(at, self.host.address(), bytes as u64)])
            .unwrap();
        self.host.memory().read(0, &mut taken).unwrap();
        taken
    }
}

fn sides(stages: &[Stage; 2]) -> [Side; 2] {
    [Side::of(&stages[0]), Side::of(&stages[1])]
}

/// Bytes that tell their places apart.
fn pattern(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_le_bytes()[7]
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

#[test]
fn bytes_go_to_the_other_card_and_come_home_whatever_their_length_and_place() {
    let Some(stages) = Stage::pair(story!()) else {
        return;
    };
    let [mut a, mut b] = sides(&stages);
    let mine = a.session.device_memory(1 << 20).unwrap();
    let back = a.session.device_memory(1 << 20).unwrap();
    let theirs = b.session.device_memory(1 << 20).unwrap();
    let peer = a.session.peer_memory(&theirs).unwrap();
    assert_eq!((peer.bytes(), peer.address().0 % PAGE), (1 << 20, 0));
    assert!(theirs.is_peered() && peer.check().is_ok());
    for (bytes, from, at) in [
        (1usize, 0, 0),
        (7, 1, 3),
        (4096, 0, 4096),
        (4097, 4095, 61),
        (65_537, 13, 8191),
        (777_777, 100, 99),
        (1 << 20, 0, 0),
    ] {
        let sent = pattern(bytes, bytes as u64);
        // Bytes around what is copied, which must stay.
        a.run(&[fill(peer.address(), 1 << 20, 0xEEEE_EEEE_EEEE_EEEE)])
            .unwrap();
        a.put(mine.address() + from, &sent);
        let length = bytes as u64;
        a.run(&[
            copy(mine.address() + from, peer.address() + at, length),
            copy(peer.address() + at, back.address(), length),
        ])
        .unwrap();
        assert_eq!(a.take(back.address(), bytes), sent, "{bytes} came home");
        let there = b.take(theirs.address(), 1 << 20);
        let at = usize::try_from(at).unwrap();
        assert_eq!(there[at..at + bytes], sent, "{bytes} are there");
        let around = there[..at].iter().chain(&there[at + bytes..]);
        assert!(
            around.copied().all(|byte| byte == 0xEE),
            "{bytes} and no more"
        );
    }
}

#[test]
fn what_was_copied_is_there_when_its_fence_is_round_after_round_both_ways() {
    let Some(stages) = Stage::pair(story!()) else {
        return;
    };
    const ROUNDS: u64 = 500;
    const WORDS: u64 = 512;
    let [mut a, mut b] = sides(&stages);
    let boxes = [&a, &b].map(|side| side.session.device_memory(PAGE).unwrap());
    let own = [&a, &b].map(|side| side.session.device_memory(PAGE).unwrap());
    let to_b = a.session.peer_memory(&boxes[1]).unwrap();
    let to_a = b.session.peer_memory(&boxes[0]).unwrap();
    // A fence lies in the reader's memory, behind its box, and the other card raises it.
    let fence = WORDS * 8;
    for at in [boxes[0].address(), own[0].address()] {
        a.run(&[fill(at, PAGE, 0)]).unwrap();
    }
    for at in [boxes[1].address(), own[1].address()] {
        b.run(&[fill(at, PAGE, 0)]).unwrap();
    }
    let play =
        |side: &mut Side, from: &DeviceBuffer, to: &PeerBuffer, mine: &DeviceBuffer, seed: u64| {
            let mut last = jalapeno::Seq(0);
            for round in 1..=ROUNDS {
                // Sends a box full of the round's number, waits for the other's, and keeps it.
                let packets = [
                    fill(from.address(), fence, seed + round),
                    copy(from.address(), to.address(), fence),
                    signal(to.address() + fence, round),
                    wait(mine.address() + fence, round),
                    copy(mine.address(), side.host.address() + round * 8, 8),
                    copy(
                        mine.address() + (fence - 8),
                        side.host.address() + (ROUNDS + 1 + round) * 8,
                        8,
                    ),
                    // The box is empty: the other may fill it again.
                    signal(to.address() + fence + 8, round),
                    wait(mine.address() + fence + 8, round),
                ];
                last = loop {
                    match side.queue.submit(&packets) {
                        Err(Error::Full) => std::thread::yield_now(),
                        other => break other.unwrap(),
                    }
                };
            }
            side.queue.completions().wait(last, Some(SOON)).unwrap();
        };
    std::thread::scope(|scope| {
        scope.spawn(|| play(&mut a, &own[0], &to_b, &boxes[0], 1_000_000));
        scope.spawn(|| play(&mut b, &own[1], &to_a, &boxes[1], 2_000_000));
    });
    for (side, seed) in [(&a, 2_000_000u64), (&b, 1_000_000)] {
        for round in 1..=ROUNDS {
            for index in [round, ROUNDS + 1 + round] {
                let mut word = [0; 8];
                side.host.memory().read(index * 8, &mut word).unwrap();
                assert_eq!(u64::from_le_bytes(word), seed + round, "word {index}");
            }
        }
    }
}

#[test]
fn a_peer_range_is_a_buffer_to_graphs_and_ends_them_when_it_goes() {
    let Some(stages) = Stage::pair(story!()) else {
        return;
    };
    let [mut a, mut b] = sides(&stages);
    let theirs = b.session.device_memory(PAGE).unwrap();
    let peer = a.session.peer_memory(&theirs).unwrap();
    let mut recorder = a.session.record().unwrap();
    recorder.add(&fill(peer.address(), 16, 42)).unwrap();
    let graph = recorder.finish(&[]).unwrap();
    let run = graph.replay(&mut a.queue, &[]).unwrap();
    a.queue.completions().wait(run, Some(SOON)).unwrap();
    assert_eq!(b.take(theirs.address(), 9), [42, 0, 0, 0, 0, 0, 0, 0, 42]);
    // One byte past the buffer is nobody's, though the page goes on.
    let mut recorder = a.session.record().unwrap();
    recorder
        .add(&fill(peer.address() + (PAGE - 8), 9, 0))
        .unwrap();
    let error = recorder.finish(&[]).unwrap_err();
    assert!(error.to_string().contains("step 0 (FILL)"), "{error}");
    peer.try_free().map_err(|(_, error)| error).unwrap();
    let error = graph.replay(&mut a.queue, &[]).unwrap_err();
    assert_eq!(error.code(), Code::Handle, "{error}");
}

#[test]
fn nothing_goes_while_a_job_or_a_card_uses_it() {
    alone!();
    let Some(stages) = Stage::pair(story!()) else {
        return;
    };
    let before = stages.each_ref().map(Invariants::before);
    let [mut a, b] = sides(&stages);
    let gate = a.session.fence(0).unwrap();
    let theirs = b.session.device_memory(PAGE).unwrap();
    let address = theirs.address();
    let peer = a.session.peer_memory(&theirs).unwrap();
    let (theirs, error) = theirs.try_free().unwrap_err();
    assert_eq!(error.code(), Code::Busy, "{error}");
    assert!(error.to_string().contains("for another card"), "{error}");
    assert!(error.hint().is_some());
    let held = [wait(gate.address(), 1), fill(peer.address(), 8, 7)];
    let seq = a.queue.submit(&held).unwrap();
    let (peer, error) = peer.try_free().unwrap_err();
    assert_eq!(error.code(), Code::Busy, "{error}");
    // Dropped all the same, the peer's buffer too: both stay until the job is done.
    let maps = || a.session.device().dma().unwrap().usage().maps;
    let mapped = maps();
    drop((peer, theirs));
    assert_eq!(maps(), mapped);
    let other = b.session.device_memory(PAGE).unwrap();
    assert_ne!(other.address(), address, "given to nobody else meanwhile");
    gate.signal(1).unwrap();
    a.queue.completions().wait(seq, Some(SOON)).unwrap();
    drop(a.session.device_memory(PAGE).unwrap()); // whoever allocates sweeps
    assert_eq!(maps(), mapped - 1);
    let again = b.session.device_memory(PAGE).unwrap();
    assert_eq!(again.address(), address, "free again");
    drop((other, again, gate, a, b));
    for (before, stage) in before.iter().zip(&stages) {
        before.nothing_is_left(stage);
    }
}

#[test]
fn mistakes_are_refused_each_with_its_reason() {
    let Some(stages) = Stage::pair(story!()) else {
        return;
    };
    let [a, b] = sides(&stages);
    let maps = || a.session.device().dma().unwrap().usage().maps;
    let before = maps();
    let own = a.session.device_memory(PAGE).unwrap();
    let error = a.session.peer_memory(&own).unwrap_err();
    assert_eq!(error.code(), Code::Invalid, "{error}");
    assert!(error.to_string().contains("of this card"), "{error}");
    let theirs = b.session.device_memory(PAGE).unwrap();
    b.session
        .device()
        .reset(ResetLevel::Device, 0, SOON)
        .unwrap();
    let error = a.session.peer_memory(&theirs).unwrap_err();
    assert_eq!(error.code(), Code::Stale, "{error}");
    assert_eq!(maps(), before, "what was refused left nothing behind");
}

#[test]
fn a_window_that_ends_too_soon_or_that_nobody_else_can_map_is_named() {
    let Some(stages) = Stage::pair(story!()) else {
        return;
    };
    let a = Side::of(&stages[0]);
    let maps = || a.session.device().dma().unwrap().usage().maps;
    let before = maps();
    let short = otherwise(&stages[1], |said| said.bars[4] = 1 << 20);
    let session = Session::new(&short).unwrap();
    let inside = session.device_memory(PAGE).unwrap();
    let beyond = session.device_memory(2 << 20).unwrap();
    let error = a.session.peer_memory(&beyond).unwrap_err();
    assert_eq!(error.code(), Code::Unsupported, "{error}");
    assert!(
        error.to_string().contains("shows 0x100000 bytes"),
        "{error}"
    );
    // This way to the card has no file behind the window to give away.
    let error = a.session.peer_memory(&inside).unwrap_err();
    assert_eq!(error.code(), Code::Unsupported, "{error}");
    assert!(error.to_string().contains("window is no file"), "{error}");
    assert_eq!(maps(), before, "what was refused left nothing behind");
    assert!(!inside.is_peered() && !beyond.is_peered());
}

#[test]
fn mappings_beyond_what_the_host_permits_are_refused_by_count() {
    let Some(stages) = Stage::pair(story!()) else {
        return;
    };
    let device = otherwise(&stages[0], |said| said.maps_limit = 6);
    let session = Session::new(&device).unwrap();
    let b = Side::of(&stages[1]);
    let theirs = b.session.device_memory(PAGE).unwrap();
    let mut peers = Vec::new();
    let error = loop {
        match session.peer_memory(&theirs) {
            Ok(peer) => peers.push(peer),
            Err(error) => break error,
        }
        assert!(peers.len() <= 6);
    };
    assert_eq!(error.code(), Code::Memory, "{error}");
    assert!(error.to_string().contains("mappings are in use"), "{error}");
    drop(peers.pop());
    session.peer_memory(&theirs).unwrap();
}

#[test]
fn a_reset_of_either_card_ends_the_mapping_and_what_is_made_anew_works() {
    let Some(stages) = Stage::pair(story!()) else {
        return;
    };
    for which in 0..2 {
        let [mut a, b] = sides(&stages);
        let theirs = b.session.device_memory(PAGE).unwrap();
        let peer = a.session.peer_memory(&theirs).unwrap();
        let mut recorder = a.session.record().unwrap();
        recorder.add(&fill(peer.address(), 8, 1)).unwrap();
        let graph = recorder.finish(&[]).unwrap();
        let reset = [a.session.device(), b.session.device()][which];
        reset.reset(ResetLevel::Device, 0, SOON).unwrap();
        assert_eq!(peer.check().unwrap_err().code(), Code::Stale);
        assert!(!graph.is_intact(), "recorded before the reset");
        assert!(graph.replay(&mut a.queue, &[]).is_err());
        drop((recorder, graph, peer, theirs, a, b));
        let [mut a, mut b] = sides(&stages);
        let theirs = b.session.device_memory(PAGE).unwrap();
        let peer = a.session.peer_memory(&theirs).unwrap();
        a.run(&[fill(peer.address(), 8, 5)]).unwrap();
        assert_eq!(b.take(theirs.address(), 1), [5]);
    }
}

#[test]
fn a_peer_that_is_killed_ends_waits_by_their_deadline_and_the_other_card_serves_on() {
    let Some([stage, gone]) = Stage::pair(story!()) else {
        return;
    };
    let mut a = Side::of(&stage);
    let b = Side::of(&gone);
    let theirs = b.session.device_memory(PAGE).unwrap();
    let mine = a.session.device_memory(PAGE).unwrap();
    let third = a.session.device_memory(PAGE).unwrap();
    a.run(&[
        fill(mine.address(), PAGE, 0),
        fill(third.address(), PAGE, 3),
    ])
    .unwrap();
    let peer = a.session.peer_memory(&theirs).unwrap();
    let mut never = wait(mine.address(), 1);
    never.deadline = a.session.ticks_in(Duration::from_millis(300)).unwrap().0;
    let seq = a
        .queue
        .submit(&[fill(peer.address(), PAGE, 9), never])
        .unwrap();
    gone.kill();
    let begin = Instant::now();
    let error = a.queue.completions().wait(seq, Some(SOON)).unwrap_err();
    let Error::Fault(fault) = &error else {
        panic!("{error}");
    };
    assert_eq!(fault.code, Ok(FaultCode::Deadline), "{error}");
    assert!(begin.elapsed() < SOON / 4, "by its own deadline");
    a.queue.resume().unwrap();
    assert_eq!(peer.check().unwrap_err().code(), Code::Lost);
    let error = a.session.peer_memory(&theirs).unwrap_err();
    assert_eq!(error.code(), Code::Lost, "{error}");
    let whole = a.take(third.address(), 65_536);
    assert!(whole.chunks(8).all(|word| word == [3, 0, 0, 0, 0, 0, 0, 0]));
    drop((peer, theirs, b));
    a.run(&[fill(third.address(), 8, 4)]).unwrap();
}

#[test]
fn a_card_that_is_killed_leaves_its_peer_whole_and_what_it_could_reach_nobodys() {
    let Some([gone, stage]) = Stage::pair(story!()) else {
        return;
    };
    let mut a = Side::of(&gone);
    let mut b = Side::of(&stage);
    let theirs = b.session.device_memory(PAGE).unwrap();
    let third = b.session.device_memory(PAGE).unwrap();
    b.run(&[fill(third.address(), PAGE, 3)]).unwrap();
    let address = theirs.address();
    let peer = a.session.peer_memory(&theirs).unwrap();
    a.run(&[fill(peer.address(), 8, 6)]).unwrap();
    gone.kill();
    assert_eq!(peer.check().unwrap_err().code(), Code::Lost);
    drop((peer, a));
    assert_eq!(b.take(theirs.address(), 1), [6]);
    drop(theirs);
    // Nobody said that the lost card has let go.
    let next = b.session.device_memory(PAGE).unwrap();
    assert_ne!(next.address(), address);
    let whole = b.take(third.address(), 65_536);
    assert!(whole.chunks(8).all(|word| word == [3, 0, 0, 0, 0, 0, 0, 0]));
}

#[test]
fn everything_may_be_closed_in_any_order() {
    alone!();
    let Some(stages) = Stage::pair(story!()) else {
        return;
    };
    let before = stages.each_ref().map(Invariants::before);
    // Which of (peer buffer, buffer, side A, side B) goes when: all 24 orders.
    for order in 0..24usize {
        let [mut a, b] = sides(&stages);
        let theirs = b.session.device_memory(PAGE).unwrap();
        let peer = a.session.peer_memory(&theirs).unwrap();
        a.run(&[fill(peer.address(), 64, order as u64)]).unwrap();
        let mut left: Vec<Box<dyn std::any::Any>> =
            vec![Box::new(peer), Box::new(theirs), Box::new(a), Box::new(b)];
        let mut code = order;
        for size in (1..=4).rev() {
            drop(left.remove(code % size));
            code /= size;
        }
    }
    for (before, stage) in before.iter().zip(&stages) {
        before.nothing_is_left(stage);
    }
}

#[test]
fn a_mapping_counts_in_the_budget_and_is_gone_from_the_card_when_freed() {
    let Some(stages) = Stage::pair(story!()) else {
        return;
    };
    let [a, b] = sides(&stages);
    let usage = || a.session.device().dma().unwrap().usage();
    let before = usage();
    let regions = || stages[0].here().counters().regions;
    let there = regions();
    let theirs = b.session.device_memory(5000).unwrap();
    let twice = [(); 2].map(|()| a.session.peer_memory(&theirs).unwrap());
    assert_ne!(twice[0].address(), twice[1].address());
    assert_eq!(usage().maps, before.maps + 2);
    assert_eq!(usage().bytes, before.bytes + 2 * 8192, "whole pages");
    assert_eq!(regions(), there + 2);
    for peer in twice {
        peer.try_free().map_err(|(_, error)| error).unwrap();
    }
    assert_eq!((usage(), regions()), (before, there));
    theirs.try_free().map_err(|(_, error)| error).unwrap();
}

#[test]
fn jobs_of_both_cards_interleave_in_one_buffer_without_losing_a_store() {
    let Some(stages) = Stage::pair(story!()) else {
        return;
    };
    let [a, mut b] = sides(&stages);
    let theirs = b.session.device_memory(PAGE).unwrap();
    let peer = a.session.peer_memory(&theirs).unwrap();
    b.run(&[fill(theirs.address(), PAGE, 0)]).unwrap();
    // Each raises fences of its own, side by side in one line.
    let options = QueueOptions {
        delivery: Delivery::BySequence,
        ..QueueOptions::default()
    };
    let raise = |session: &Session, at: DeviceAddr| {
        let mut queue = session.queue(options).unwrap();
        let mut last = jalapeno::Seq(0);
        for value in 1..=200u64 {
            for word in [0, 16, 32, 48] {
                last = loop {
                    match queue.submit_one(&signal(at + word, value)) {
                        Err(Error::Full) => std::thread::yield_now(),
                        other => break other.unwrap(),
                    }
                };
            }
        }
        queue.completions().wait(last, Some(SOON)).unwrap();
    };
    std::thread::scope(|scope| {
        scope.spawn(|| raise(&a.session, peer.address()));
        scope.spawn(|| raise(&b.session, theirs.address() + 8));
    });
    let words = b.take(theirs.address(), 64);
    for word in words.chunks(8) {
        assert_eq!(word, [200, 0, 0, 0, 0, 0, 0, 0]);
    }
}
