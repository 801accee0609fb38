//! Resets: each level does what it says, and the library says what it did.

use jalapeno::device::Role;
use jalapeno::dma::{HostMemory, HostOptions};
use jalapeno::error::Code;
use jalapeno_hw::regs::{DeviceState, ResetLevel};
use jalapeno_tests::{SOON, board, open};

#[test]
fn a_device_reset_ends_the_generation_and_the_card_serves_again() {
    let board = board();
    let device = open(&board, Role::Compute).unwrap();
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
    assert_eq!(
        board.counters().regions,
        1,
        "mappings are the host's, and stay"
    );
    drop(memory);
}

#[test]
fn a_reset_of_the_engines_keeps_the_generation() {
    let board = board();
    let device = open(&board, Role::Compute).unwrap();
    let before = device.generation();
    let report = device.reset(ResetLevel::Engines, 0, SOON).unwrap();
    assert_eq!(report.generation, before);
    device.verify().unwrap();
}

#[test]
fn a_reset_that_cannot_be_is_refused_before_anything_happens() {
    let board = board();
    let device = open(&board, Role::Compute).unwrap();
    for (level, queue, code) in [
        (ResetLevel::Bus, 0, Code::Unsupported),
        (ResetLevel::Client, 0, Code::Unsupported),
        (ResetLevel::Queue, 64, Code::Invalid),
        (ResetLevel::Queue, u32::MAX, Code::Invalid),
    ] {
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
