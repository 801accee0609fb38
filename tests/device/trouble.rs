//! Trouble: a card that breaks its specification, seen from whoever opens or watches it.

use std::time::{Duration, Instant};

use jalapeno::device::Role;
use jalapeno::error::{Code, Error};
use jalapeno::telemetry::Reading;
use jalapeno_emulator::faults::Fault;
use jalapeno_hw::regs::ResetLevel;
use jalapeno_hw::telemetry::TelemetryField;
use jalapeno_tests::invariants::punctual;
use jalapeno_tests::{SOON, board, calmly, open};

#[test]
fn a_card_that_describes_itself_wrongly_is_refused_at_the_door() {
    for (fault, code, text) in [
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
    ] {
        let board = board();
        board.fault(fault);
        for role in [Role::Compute, Role::Observe] {
            let error = open(&board, role).unwrap_err();
            assert_eq!(error.code(), code, "{fault:?}: {error}");
            assert!(error.to_string().contains(text), "{fault:?}: {error}");
        }
        board.calm();
        // The next one is let in: nothing was left behind.
        let begin = Instant::now();
        while let Err(error) = open(&board, Role::Compute) {
            assert_eq!(error.code(), Code::Busy, "{fault:?}: {error}");
            assert!(begin.elapsed() < SOON, "{fault:?}: still held");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn registers_that_read_all_ones_are_a_lost_device() {
    let board = board();
    let device = open(&board, Role::Compute).unwrap();
    board.fault(Fault::AllOnes);
    assert_eq!(device.verify().unwrap_err().code(), Code::Lost);
    assert_eq!(device.clock().unwrap_err().code(), Code::Lost);
    assert_eq!(device.heartbeat().unwrap_err().code(), Code::Lost);
    assert_eq!(device.fault_log(0).unwrap_err().code(), Code::Lost);
    let reset = device.reset(ResetLevel::Device, 0, SOON).unwrap_err();
    assert_eq!(reset.code(), Code::Lost);
}

#[test]
fn telemetry_that_is_garbage_torn_or_stale_is_never_a_number() {
    let board = board();
    let device = open(&board, Role::Observe).unwrap();
    let fields = [TelemetryField::DieTemperature, TelemetryField::Power];
    let refreshed = Duration::from_millis(400);

    board.fault(Fault::TelemetryGarbage);
    device.heartbeat().unwrap(); // the read that sets it off
    std::thread::sleep(refreshed);
    let garbage = device.telemetry().unwrap();
    for field in fields {
        assert_eq!(garbage.get(field, 0), Reading::NoData, "{field:?}");
    }
    board.calm();

    board.fault(Fault::TelemetryTorn);
    device.heartbeat().unwrap();
    std::thread::sleep(refreshed);
    let torn = device.telemetry().unwrap_err();
    assert!(matches!(torn, Error::Late { .. }), "{torn}");
    board.calm();

    std::thread::sleep(refreshed);
    assert!(
        device
            .telemetry()
            .unwrap()
            .get(TelemetryField::Power, 0)
            .value()
            .is_some()
    );
    board.fault(Fault::TelemetryStale);
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
}

#[test]
fn a_reset_that_fails_or_overruns_says_so_and_the_next_one_works() {
    calmly(|| {
        let board = board();
        let device = open(&board, Role::Compute).unwrap();
        board.fault(Fault::ResetFails);
        let failed = device.reset(ResetLevel::Engines, 0, SOON).unwrap_err();
        assert_eq!(failed.code(), Code::NeedsReset, "{failed}");
        board.fault(Fault::ResetOverruns);
        let time = device.info().capabilities.time.reset_device_us;
        let limit = Duration::from_micros(u64::from(time));
        let (late, _) = punctual(limit, || device.reset(ResetLevel::Device, 0, limit));
        let late = late.unwrap_err();
        assert_eq!(late.code(), Code::Timeout, "{late}");
        device.reset(ResetLevel::Device, 0, SOON).unwrap();
        device.verify().unwrap();
    });
}
