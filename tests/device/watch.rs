//! Watching: telemetry, clocks and the fault log, beside an owner that is not disturbed.

use jalapeno::device::Role;
use jalapeno::session::{QueueOptions, Session};
use jalapeno::telemetry::Reading;
use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::limits::HBM_BASE;
use jalapeno_hw::packets::{Opcode, Packet, header};
use jalapeno_hw::regs::DeviceState;
use jalapeno_hw::telemetry::TelemetryField;
use jalapeno_tests::{SOON, open, stage};

#[test]
fn an_observer_reads_telemetry_that_is_fresh_and_plausible() {
    let stage = stage();
    let owner = stage.device();
    // A kernel gives the card to one process; there the owner watches itself.
    let observer = |board| open(board, Role::Observe).unwrap();
    let watcher = stage.board().map_or_else(|| owner.clone(), observer);
    let telemetry = watcher.telemetry().unwrap();
    let get = |field| telemetry.get(field, 0);
    assert_eq!(get(TelemetryField::HbmTotal), Reading::Value(64 << 20));
    let ready = u64::from(DeviceState::Ready.code());
    assert_eq!(get(TelemetryField::State), Reading::Value(ready));
    let heat = get(TelemetryField::DieTemperature).signed().unwrap();
    assert!(
        (10_000..110_000).contains(&heat),
        "{heat} thousandths of a degree"
    );
    assert!(get(TelemetryField::Energy).value().is_some());
    assert_eq!(
        telemetry.get(TelemetryField::Power, 999),
        Reading::Unsupported
    );
    assert!(telemetry.updated <= telemetry.now);
    assert_eq!(telemetry.generation, watcher.generation());
}

#[test]
fn device_time_goes_on_and_relates_to_the_hosts_clock() {
    let stage = stage();
    let device = stage.device();
    let begin = std::time::Instant::now();
    let first = device.clock().unwrap();
    let reading = begin.elapsed().as_nanos();
    assert!(u128::from(first.uncertainty) <= reading, "{first:?}");
    std::thread::sleep(std::time::Duration::from_millis(20));
    let second = device.clock().unwrap();
    assert!(second.device > first.device);
    let guess = first.at(second.monotonic_raw).0;
    let apart = guess.abs_diff(second.device.0);
    let between = second.monotonic_raw - first.monotonic_raw;
    let allowed = first.ticks(first.uncertainty + second.uncertainty) + first.ticks(2_000_000);
    assert!(
        apart <= allowed,
        "{apart} ticks apart after {between} ns, {allowed} allowed"
    );
    let beat = device.heartbeat().unwrap();
    let until = std::time::Instant::now() + SOON;
    while device.heartbeat().unwrap() == beat {
        assert!(
            std::time::Instant::now() < until,
            "the heartbeat stands still"
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_failed_job_stands_in_the_fault_log_and_raises_an_event_until_acknowledged() {
    let stage = stage();
    let owner = stage.device();
    let observer = |board| open(board, Role::Observe).unwrap();
    let watcher = stage.board().map_or_else(|| owner.clone(), observer);
    let before = watcher.fault_log(0).unwrap();
    let session = Session::new(&owner).unwrap();
    let mut queue = session.queue(QueueOptions::default()).unwrap();
    let mut packet = Packet::ZERO;
    packet.header = header(Opcode::Copy, 0);
    packet.cookie = 0xC0FFEE;
    packet.body = [0x7000_0000, HBM_BASE, 64, 0, 0]; // nobody mapped the source
    let seq = queue.submit_one(&packet).unwrap();
    let error = queue.completions().wait(seq, Some(SOON)).unwrap_err();
    assert_eq!(error.code(), jalapeno::Code::Fault, "{error}");

    let event = owner.events().unwrap().unwrap();
    assert!(event.sleep(None, SOON), "vector 0 is raised");
    let log = watcher.fault_log(before.count).unwrap();
    assert_eq!((log.count, log.missing), (before.count + 1, 0));
    let fault = &log.faults[0];
    assert_eq!(fault.code, Ok(FaultCode::UnmappedRead));
    assert_eq!(
        (fault.record.cookie, fault.record.address),
        (0xC0FFEE, 0x7000_0000)
    );

    if stage.board().is_some() {
        let refused = watcher.acknowledge_faults(log.count);
        assert!(refused.is_err(), "observers only read");
    }
    owner.acknowledge_faults(log.count).unwrap();
    assert!(watcher.fault_log(log.count).unwrap().faults.is_empty());
}
