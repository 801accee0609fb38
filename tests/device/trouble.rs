//! Trouble: a card that breaks its specification, seen from whoever opens or watches it.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jalapeno::device::{Device, Role};
use jalapeno::error::{Code, Error};
use jalapeno::telemetry::Reading;
use jalapeno_emulator::faults::Fault;
use jalapeno_hw::regs::ResetLevel;
use jalapeno_hw::telemetry::TelemetryField;
use jalapeno_tests::invariants::punctual;
use jalapeno_tests::{SOON, Stage, calmly, story};

/// The next owner. Under the kernel module nobody is let in once a scrub failed, as it does where no card
/// answers it; what the error's hint says then lets the next one in.
fn next_owner(stage: &Stage) -> Arc<Device> {
    match Device::open(stage.name(), Role::Compute) {
        Err(error @ Error::Binding { .. }) if stage.has_kernel_module() => {
            assert_eq!(error.code(), Code::NeedsReset, "{error}");
            let hint = error.hint().expect("what to do").replace("sudo ", "");
            let (command, _) = hint.split_once(';').expect("a command");
            let done = Command::new("sh").args(["-c", command]).output();
            assert!(done.expect("a shell").status.success(), "{command}");
            stage.open()
        }
        Err(Error::Busy { .. }) => stage.open(), // who was refused may still be let go of
        told => told.expect("the card opens"),
    }
}

#[test]
fn a_card_that_describes_itself_wrongly_is_refused_at_the_door() {
    let Some(stage) = Stage::that_misbehaves(story!()) else {
        return;
    };
    let rows = [
        (Fault::VersionOld, Code::Version, "found 0.9, need 1.x"),
        (Fault::VersionNew, Code::Version, "found 2.0, need 1.x"),
        (Fault::VersionGarbage, Code::Version, "host interface"),
        (Fault::CapsLoop, Code::Protocol, "has 0 bytes"),
        (Fault::CapsRunOff, Code::Protocol, "runs off its page"),
        (Fault::QueuesZero, Code::Protocol, "QUEUES.count is 0x0"),
        (
            Fault::QueuesAbsurd,
            Code::Protocol,
            "QUEUES.count is 0xffffffff",
        ),
        (
            Fault::TimeAbsurd,
            Code::Protocol,
            "TIME.ticks_per_second is 0x1",
        ),
        (Fault::AllOnes, Code::Lost, "all ones"),
    ];
    // Behind a kernel two of the registers, because each opening is a reset; a machine has the page of
    // capabilities since it began. And there are no observers.
    let place = |fault| match fault {
        Fault::VersionOld => Some(0),
        Fault::VersionNew => Some(1),
        Fault::VersionGarbage => Some(2),
        Fault::AllOnes => Some(3),
        _ => None,
    };
    let is_of_this_turn = |fault| place(fault).is_some_and(|at| (at + stage.turn()) % 4 < 2);
    let roles = match stage.board() {
        Some(_) => &[Role::Compute, Role::Observe][..],
        None => &[Role::Compute],
    };
    let mut met = 0;
    for (fault, code, text) in rows {
        if stage.board().is_none() && !is_of_this_turn(fault) {
            continue;
        }
        stage.close();
        stage.mischief().fault(fault);
        for role in roles {
            let error = Device::open(stage.name(), *role).unwrap_err();
            assert_eq!(error.code(), code, "{fault:?}: {error}");
            assert!(error.to_string().contains(text), "{fault:?}: {error}");
        }
        stage.mischief().calm();
        // The next one is let in: nothing was left behind.
        next_owner(&stage).verify().unwrap();
        met += 1;
    }
    assert_eq!(met, if stage.board().is_some() { 9 } else { 2 });
}

#[test]
fn registers_that_read_all_ones_are_a_lost_device() {
    let Some(stage) = Stage::that_misbehaves(story!()) else {
        return;
    };
    let device = stage.device();
    stage.mischief().fault(Fault::AllOnes);
    assert_eq!(device.verify().unwrap_err().code(), Code::Lost);
    assert_eq!(device.clock().unwrap_err().code(), Code::Lost);
    assert_eq!(device.heartbeat().unwrap_err().code(), Code::Lost);
    assert_eq!(device.fault_log(0).unwrap_err().code(), Code::Lost);
    let reset = device.reset(ResetLevel::Device, 0, SOON).unwrap_err();
    assert_eq!(reset.code(), Code::Lost);
    stage.mischief().calm();
}

#[test]
fn telemetry_that_is_garbage_torn_or_stale_is_never_a_number() {
    let Some(stage) = Stage::that_misbehaves(story!()) else {
        return;
    };
    let (device, mischief) = (stage.observer(), stage.mischief());
    let fields = [TelemetryField::DieTemperature, TelemetryField::Power];
    let refreshed = Duration::from_millis(400);

    mischief.fault(Fault::TelemetryGarbage);
    device.heartbeat().unwrap(); // the read that sets it off
    std::thread::sleep(refreshed);
    let garbage = device.telemetry().unwrap();
    for field in fields {
        assert_eq!(garbage.get(field, 0), Reading::NoData, "{field:?}");
    }
    mischief.calm();

    mischief.fault(Fault::TelemetryTorn);
    device.heartbeat().unwrap();
    std::thread::sleep(refreshed);
    let torn = device.telemetry().unwrap_err();
    assert!(matches!(torn, Error::Late { .. }), "{torn}");
    mischief.calm();

    std::thread::sleep(refreshed);
    assert!(
        device
            .telemetry()
            .unwrap()
            .get(TelemetryField::Power, 0)
            .value()
            .is_some()
    );
    mischief.fault(Fault::TelemetryStale);
    device.heartbeat().unwrap();
    let begin = Instant::now();
    loop {
        let now = device.telemetry().unwrap().get(TelemetryField::Power, 0);
        if matches!(now, Reading::Stale { .. }) {
            break;
        }
        assert!(
            begin.elapsed() < SOON,
            "{now:?} after {:?}",
            begin.elapsed()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    mischief.calm();
}

#[test]
fn a_reset_that_fails_or_overruns_says_so_and_the_next_one_works() {
    calmly(|| {
        let Some(stage) = Stage::that_misbehaves(story!()) else {
            return;
        };
        let (device, mischief) = (stage.device(), stage.mischief());
        mischief.fault(Fault::ResetFails);
        let failed = device.reset(ResetLevel::Engines, 0, SOON).unwrap_err();
        assert_eq!(failed.code(), Code::NeedsReset, "{failed}");
        mischief.fault(Fault::ResetOverruns);
        let time = device.info().capabilities.time.reset_device_us;
        let limit = Duration::from_micros(u64::from(time));
        let (late, _) = punctual(limit, || device.reset(ResetLevel::Device, 0, limit));
        let late = late.unwrap_err();
        assert_eq!(late.code(), Code::Timeout, "{late}");
        device.reset(ResetLevel::Device, 0, SOON).unwrap();
        device.verify().unwrap();
    });
}
