//! Trouble in queue 0, which nobody sees: queues that cannot be made or closed, and what is left.

use std::time::Duration;

use jalapeno::Session;
use jalapeno::error::Code;
use jalapeno_emulator::faults::Fault;
use jalapeno_hw::regs::ResetLevel;
use jalapeno_tests::invariants::{Invariants, punctual};
use jalapeno_tests::packet::nop;
use jalapeno_tests::stage::by_sequence;
use jalapeno_tests::{SOON, Stage, calmly, story, undisturbed};

/// Longest that making a queue takes, whatever the device does: two commands and their cancels.
const LIMIT: Duration = Duration::from_millis(2500);

/// A fault hits the making of a queue; the session is closed, and the next one finds a card that
/// works and nothing of the last one.
fn meet(stage: &Stage, fault: Fault, expected: &[Option<Code>]) {
    calmly(|| {
        stage.mischief().calm(); // where a try was not
        meet_once(stage, fault, expected);
    });
}

fn meet_once(stage: &Stage, fault: Fault, expected: &[Option<Code>]) {
    let before = Invariants::as_it_is(stage);
    let session = stage.session();
    stage.mischief().fault(fault);
    let (made, _) = punctual(LIMIT, || session.queue(Default::default()));
    let code = made.as_ref().err().map(jalapeno::Error::code);
    assert!(expected.contains(&code), "{fault:?}: {made:?}");
    drop(made);
    drop(session);
    stage.mischief().calm();
    before.nothing_is_left(stage);
    let session = stage.session();
    let mut queue = by_sequence(&session, 4);
    let seq = queue.submit_one(&nop(1)).unwrap();
    queue.completions().wait(seq, Some(SOON)).unwrap();
    drop((queue, session));
    before.nothing_is_left(stage);
}

#[test]
fn a_queue_whose_making_goes_wrong_is_made_or_refused_by_name_and_leaves_nothing() {
    undisturbed!();
    let Some(stage) = Stage::that_misbehaves(story!()) else {
        return;
    };
    stage.warm_up();
    let breach = [Some(Code::Protocol)];
    for (fault, expected) in [
        (Fault::DoorbellLost, &[None][..]),
        (Fault::DoorbellRepeated, &[None]),
        (Fault::InterruptLost, &[None]),
        (Fault::InterruptStorm, &[None]),
        (Fault::EccUncorrected, &[Some(Code::Fault)]),
        (Fault::RecordStray, &breach),
        (Fault::RecordStale, &breach),
        (Fault::RecordEarlierLap, &breach),
        (Fault::RecordTorn, &breach),
        (Fault::SequencePasses, &breach),
        (Fault::FirmwareRestart, &[Some(Code::Stale)]),
        (Fault::Hangs, &[Some(Code::Timeout)]),
    ] {
        meet(&stage, fault, expected);
    }
}

#[test]
fn a_session_that_cannot_close_its_queues_resets_the_device_on_its_way_out() {
    undisturbed!();
    let Some(stage) = Stage::that_misbehaves(story!()) else {
        return;
    };
    stage.warm_up();
    for fault in [Fault::EngineStops, Fault::FirmwareCrash] {
        meet(&stage, fault, &[Some(Code::Timeout)]);
    }
}

#[test]
fn where_even_the_reset_fails_the_device_is_cut_off_from_memory() {
    undisturbed!();
    let Some(stage) = Stage::that_misbehaves(story!()) else {
        return;
    };
    stage.warm_up();
    let before = Invariants::as_it_is(&stage);
    let session = stage.session();
    let mut queue = by_sequence(&session, 4);
    let side = queue.completions().clone();
    stage.mischief().fault(Fault::EngineStops);
    let seq = queue.submit_one(&nop(1)).unwrap();
    let late = side.wait(seq, Some(Duration::from_millis(20)));
    assert_eq!(late.unwrap_err().code(), Code::Timeout);
    (1..30).for_each(|at| stage.mischief().fault_at(Fault::ResetFails, at));
    let close = || drop((queue, side, session));
    punctual(2 * LIMIT, close);
    stage.mischief().calm();
    before.nothing_is_left(&stage);
    // The next owner finds it as it is, and a reset that works mends it.
    let device = stage.open();
    device.reset(ResetLevel::Device, 0, SOON).unwrap();
    let session = Session::new(&device).unwrap();
    let mut queue = by_sequence(&session, 4);
    let seq = queue.submit_one(&nop(1)).unwrap();
    queue.completions().wait(seq, Some(SOON)).unwrap();
}
