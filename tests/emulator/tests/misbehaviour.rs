//! Stories of a card that misbehaves on request: each fault shows what it promises, and only once.

mod bench_top;

use std::time::Duration;

use bench_top::{Bench, Driver, STOPPED, nop, packet};
use jalapeno_emulator::faults::Order;
use jalapeno_stopwatch::calmly;

fn armed(fault: &str) -> (Bench, Driver) {
    let bench = Bench::new();
    let zero = bench.queue_zero(4);
    arm(&bench, fault);
    (bench, zero)
}

fn arm(bench: &Bench, fault: &str) {
    bench.card.injector.arm(fault.parse::<Order>().unwrap());
}

fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

#[test]
fn d01_the_engine_stops_registers_live_and_a_reset_mends_it() {
    let (bench, mut zero) = armed("engine-stops@2");
    bench.run(&mut zero, nop());
    bench.submit(&mut zero, nop());
    pause();
    assert_eq!(bench.completion(&zero), 1);
    assert_eq!(bench.read(0x000).to_le_bytes(), *b"JALP");
    bench.write(0x088, 3);
    bench.wait(&zero, 1 | STOPPED);
    bench.resume(&zero, 3);
    bench.wait(&zero, 2);
    bench.run(&mut zero, nop());
}

#[test]
fn d02_a_packet_succeeds_just_before_or_just_after_its_deadline() {
    calmly(|| {
        for (fault, late) in [("just-in-time", false), ("just-late", true)] {
            let (bench, mut zero) = armed(fault);
            let mut stamp = packet(7, 0, [bench_top::DATA, 0, 0, 0, 0]);
            stamp[2] = bench.read64(0x038) + 30_000_000;
            bench.run(&mut zero, stamp);
            let ended = bench.word(bench_top::DATA - bench_top::HOST);
            let off = ended.abs_diff(stamp[2]);
            assert!(
                (ended > stamp[2]) == late && off < 20_000_000,
                "{fault}: {off}"
            );
        }
    });
}

#[test]
fn d03_d04_the_sequence_repeats_goes_back_or_beyond() {
    let (bench, mut zero) = armed("sequence-repeats@2");
    bench.run(&mut zero, nop());
    bench.submit(&mut zero, nop());
    pause();
    assert_eq!(bench.completion(&zero), 1);
    bench.run(&mut zero, nop());

    let (bench, mut zero) = armed("sequence-backwards@3");
    bench.run(&mut zero, nop());
    bench.run(&mut zero, nop());
    assert_eq!(bench.completion(&zero), 2);
    bench.submit(&mut zero, nop());
    bench.wait(&zero, 1); // 3 stands there for a moment only

    let (bench, mut zero) = armed("sequence-beyond@1");
    bench.submit(&mut zero, nop());
    bench.wait(&zero, 33);
}

#[test]
fn d05_d06_d12_d13_a_record_names_what_it_should_not() {
    let record = |fault: &str| {
        let (bench, mut zero) = armed(fault);
        bench.submit(&mut zero, nop());
        bench.wait(&zero, STOPPED);
        bench.record(&zero, 0)
    };
    assert_eq!(record("record-stray").sequence, 34);
    assert_eq!(record("record-stale").generation, 0);
    assert_eq!(record("record-earlier-lap").flags, 0);
    assert_eq!(record("record-wrong-queue").queue, 1);
    assert_eq!(record("record-unknown").code, 0x7777);
    let torn = record("record-torn");
    assert!(torn.flags == 1 && !torn.crc_fits);
    assert_eq!(record("ecc-uncorrected").code, 0x0211);
}

#[test]
fn d10_the_sequence_passes_a_failed_packet() {
    let (bench, mut zero) = armed("sequence-passes-failure");
    bench.run(&mut zero, nop());
    assert_eq!(bench.record(&zero, 0).sequence, 1);
}

#[test]
fn d16_a_lost_doorbell_is_mended_by_a_kick() {
    let (bench, mut zero) = armed("loses-doorbell@2");
    bench.run(&mut zero, nop());
    bench.submit(&mut zero, nop());
    pause();
    assert_eq!(bench.completion(&zero), 1);
    bench.write(0x090, 0);
    bench.wait(&zero, 2);
}

#[test]
fn d17_a_repeated_doorbell_runs_nothing_twice() {
    let (bench, mut zero) = armed("repeats-doorbell");
    bench.run(&mut zero, nop());
    pause();
    assert_eq!(bench.completion(&zero), 1);
}

#[test]
fn d18_d19_d20_interrupts_are_spurious_lost_or_a_storm() {
    let (bench, mut zero) = armed("loses-interrupt");
    bench.arm(&zero, 1);
    bench.run(&mut zero, nop());
    pause();
    assert_eq!(bench.slot.fired(1), 0);
    bench.arm(&zero, 2);
    bench.run(&mut zero, nop());
    bench.until("the next one comes", || bench.slot.fired(1) == 1);
    for (fault, count) in [("interrupt-spurious", 1), ("interrupt-storm", 10_000)] {
        let (bench, mut zero) = armed(fault);
        bench.run(&mut zero, nop());
        assert_eq!(bench.slot.fired(1), count);
    }
}

#[test]
fn d22_a_queue_hangs_alone_and_what_it_did_before_survives() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(4);
    let mut one = bench.queue(&mut zero, 1, 4);
    arm(&bench, "hangs@3");
    for _ in 0..5 {
        bench.store(&mut one, nop());
    }
    bench.ring(&one, 5);
    bench.wait(&one, 2);
    bench.run(&mut zero, nop());
    assert_eq!(bench.completion(&one), 2);
    bench.write(0x088, 1 | 1 << 16);
    bench.wait(&one, 2 | STOPPED);
}

#[test]
fn d38_d39_the_firmware_crashes_or_restarts() {
    let (bench, mut zero) = armed("firmware-crash");
    bench.submit(&mut zero, nop());
    bench.until("logged", || bench.read64(0x180) == 1);
    assert_eq!((bench.read(0x2000), bench.read(0x084) & 0xF), (0x0601, 2));
    bench.write(0x088, 4);
    bench.until("reset", || bench.read(0x08C) & 0xF == 2);
    assert_eq!(bench.read(0x084) & 0xF, 1);

    let (bench, mut zero) = armed("firmware-restarts");
    let boot = bench.read64(0x030);
    bench.submit(&mut zero, nop());
    bench.until("another boot", || bench.read64(0x030) != boot);
    assert_eq!((bench.read64(0x028), bench.read(0x120)), (2, 0));
}

#[test]
fn d40_d45_d48_d49_registers_say_what_cannot_be() {
    let read = |fault: &str, offset: u64| {
        let bench = Bench::new();
        arm(&bench, fault);
        bench.read(offset)
    };
    assert_eq!(read("version-too-old", 4), 9);
    assert_eq!(read("version-too-new", 4), 0x0002_0000);
    assert_eq!(read("all-ones", 0), u32::MAX);
    assert_eq!(read("caps-loop", 0x1024) & 0xFFFF, 0);
    assert_eq!(read("caps-run-off", 0x1024) & 0xFFFF, 0xFFF8);
    assert_eq!(
        (read("queues-zero", 0x1008), read("queues-absurd", 0x1008)),
        (0, u32::MAX)
    );
    // TIME is the record at 0x1068.
    let ticks = |offset: u64| read("time-absurd", 0x1068 + offset);
    assert_eq!((ticks(0) & 0xFFFF, ticks(8), ticks(12)), (4, 1, 0));
}

#[test]
fn d53_a_reset_fails_or_overruns() {
    calmly(|| {
        let (bench, _) = armed("reset-fails");
        bench.write(0x088, 4);
        bench.until("failed", || bench.read(0x08C) & 0xF == 3);
        assert_eq!(bench.read64(0x028), 1);
        bench.write(0x088, 4);
        bench.until("the next one works", || bench.read(0x08C) & 0xF == 2);
        arm(&bench, "reset-overruns");
        bench.write(0x088, 4);
        std::thread::sleep(Duration::from_millis(150));
        assert_eq!(bench.read(0x08C) & 0xF, 1, "still PREPARING after its time");
        bench.until("late", || bench.read(0x08C) & 0xF == 2);
    });
}
