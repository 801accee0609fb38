//! Resets: each level does what it says, and the library says what it did.

use jalapeno::device::Role;
use jalapeno::dma::{HostMemory, HostOptions};
use jalapeno::error::Code;
use jalapeno_hw::regs::{DeviceState, ResetLevel};
use jalapeno_tests::packet::nop;
use jalapeno_tests::stage::by_sequence;
use jalapeno_tests::{SOON, Stage, board, open, stage};

use crate::between::Between;

#[test]
fn a_device_reset_ends_the_generation_and_the_card_serves_again() {
    let stage = stage();
    let device = stage.device();
    let memory = HostMemory::allocate(device.dma().unwrap(), 4096, HostOptions::default()).unwrap();
    for level in [ResetLevel::Device, ResetLevel::Function] {
        let before = device.generation();
        let report = device.reset(level, 0, SOON).unwrap();
        assert_eq!(report.level, level);
        assert!(report.generation > before, "{level:?}");
        assert_eq!(device.generation(), report.generation);
        assert_eq!(device.state().unwrap(), Ok(DeviceState::Ready));
        device.verify().unwrap();
    }
    if let Some(board) = stage.board() {
        let regions = board.counters().regions;
        assert_eq!(regions, 1, "mappings are the host's, and stay");
    }
    drop(memory);
}

#[test]
fn a_card_whose_link_fails_and_is_reset_while_it_is_asked_is_lost_and_not_stale() {
    let stage = Stage::of(board()); // by registers that are relayed
    let (device, host) = Between::open(&stage, |_| {});
    device.verify().unwrap();
    host.fail_link_when_asked();
    let error = device.verify().unwrap_err();
    assert_eq!(error.code(), Code::Lost, "{error}");
    assert!(error.to_string().contains("its link failed"), "{error}");
}

#[test]
fn a_reset_of_the_engines_keeps_the_generation() {
    let stage = stage();
    let device = stage.device();
    let before = device.generation();
    let report = device.reset(ResetLevel::Engines, 0, SOON).unwrap();
    assert_eq!(report.generation, before);
    device.verify().unwrap();
}

#[test]
fn a_reset_that_cannot_be_is_refused_before_anything_happens() {
    let stage = stage();
    let device = stage.device();
    // A socket has no bus; where a kernel holds the card its reset is a story of tests/kernel.
    let bus = stage
        .board()
        .map(|_| (ResetLevel::Bus, 0, Code::Unsupported));
    for (level, queue, code) in bus.into_iter().chain([
        (ResetLevel::Client, 0, Code::Unsupported),
        (ResetLevel::Queue, 64, Code::Invalid),
        (ResetLevel::Queue, u32::MAX, Code::Invalid),
    ]) {
        assert_eq!(device.reset(level, queue, SOON).unwrap_err().code(), code);
    }
    device.verify().unwrap();
}

#[test]
fn an_observer_learns_of_a_reset_that_it_did_not_ask_for() {
    let board = board();
    let owner = open(&board, Role::Compute).unwrap();
    let watcher = open(&board, Role::Observe).unwrap();
    watcher.verify().unwrap();
    owner.reset(ResetLevel::Device, 0, SOON).unwrap();
    assert_eq!(watcher.verify().unwrap_err().code(), Code::Stale);
    owner.verify().unwrap();
}

#[test]
fn after_a_reset_of_the_engines_the_session_still_makes_and_closes_queues() {
    let stage = stage();
    let session = stage.session();
    let mut queue = by_sequence(&session, 4);
    let idle = by_sequence(&session, 4);
    let device = session.device();
    device.reset(ResetLevel::Engines, 0, SOON).unwrap();
    // Queue 0, which nobody sees, was stopped as well.
    let mut fresh = by_sequence(&session, 4);
    let seq = fresh.submit_one(&nop(1)).unwrap();
    fresh.completions().wait(seq, Some(SOON)).unwrap();
    // An idle queue stopped at a job that does not exist yet.
    let refused = loop {
        match queue.submit_one(&nop(1)) {
            Ok(seq) => drop(queue.completions().wait(seq, Some(SOON))),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.code(), Code::Stopped);
    queue.resume().unwrap();
    let seq = queue.submit_one(&nop(1)).unwrap();
    queue.completions().wait(seq, Some(SOON)).unwrap();
    let maps = device.dma().unwrap().usage().maps;
    drop((idle, fresh, queue));
    assert_eq!(device.dma().unwrap().usage().maps, maps - 6, "two a queue");
}
