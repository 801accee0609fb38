//! Stories of queues, fences and resets.

mod bench_top;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bench_top::{Bench, DATA, HBM, HOST, MIB, STOPPED, copy, fill, nop, packet};
use jalapeno_emulator::identity::Options;
use jalapeno_stopwatch::calmly;

/// An argument of WAIT.
const AT_LEAST: u64 = 1;

fn wait_for(address: u64, value: u64) -> [u64; 8] {
    packet(6, AT_LEAST, [address, value, 0, 0, 0])
}

fn signal(address: u64, value: u64) -> [u64; 8] {
    packet(5, 0, [address, value, 0, 0, 0])
}

fn done(bench: &Bench, reset: u32) -> u32 {
    bench.write(0x088, reset);
    bench.until("the reset is done", || bench.read(0x08C) & 0xF > 1);
    bench.read(0x08C) & 0xF
}

#[test]
fn queues_are_created_asked_about_and_destroyed() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    let mut one = bench.queue(&mut zero, 1, 3);
    for _ in 0..20 {
        bench.run(&mut one, nop());
    }
    bench.put(DATA, &1u64.to_le_bytes());
    let query = packet(0x10, 3, [DATA, DATA + 64, 8 | 32 << 32, 0, 0]);
    bench.run(&mut zero, query);
    let report = |at: u64| bench.word(DATA - HOST + 64 + at);
    assert_eq!(
        (report(0), report(8), report(16), report(24)),
        (1, 20, 20, 0)
    );
    let destroy = packet(0x10, 2, [DATA, 0, 8, 0, 0]);
    bench.run(&mut zero, destroy);
    bench.run(&mut zero, query);
    assert_eq!((report(0), report(8)), (0, 0));
    assert_eq!(
        bench.fails(&mut zero, destroy).code,
        0x010E,
        "it is gone already"
    );
}

#[test]
fn management_refuses_what_is_not_right_and_writes_nothing() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    let mut one = bench.queue(&mut zero, 1, 3);
    bench.put(DATA, &1u64.to_le_bytes());
    let query = |room: u64| packet(0x10, 3, [DATA, DATA + 64, 8 | room << 32, 0, 0]);
    let record = bench.fails(&mut zero, query(31));
    assert_eq!((record.code, record.detail[0]), (0x010D, 32));
    assert_eq!(bench.bytes(DATA + 64, 32), [0; 32]);
    assert_eq!(
        bench.fails(&mut one, query(32)).code,
        0x0104,
        "only on queue 0"
    );
    let code = |zero: &mut _, packet| bench.fails(zero, packet).code;
    assert_eq!(
        code(
            &mut zero,
            packet(0x10, 3, [DATA + 4, DATA, 8 | 32 << 32, 0, 0])
        ),
        0x0204
    );
    assert_eq!(
        code(&mut zero, packet(0x10, 3, [DATA, DATA, 7 | 32 << 32, 0, 0])),
        0x0103
    );
    assert_eq!(
        code(
            &mut zero,
            packet(0x10, 3, [DATA, DATA, 9000 | 32 << 32, 0, 0])
        ),
        0x0103
    );
    bench.put(DATA, &0u64.to_le_bytes());
    assert_eq!(
        code(&mut zero, packet(0x10, 2, [DATA, 0, 8, 0, 0])),
        0x0104,
        "queue 0 stays"
    );
    bench.put(DATA, &99u64.to_le_bytes());
    assert_eq!(code(&mut zero, query(32)), 0x010E);
    bench.put(DATA, &(1u64 | 5 << 32).to_le_bytes());
    let record = bench.fails(&mut zero, query(32));
    assert_eq!(
        (record.code, record.detail[0], record.detail[2]),
        (0x0102, 4, 1)
    );
}

#[test]
fn a_result_reaches_exactly_as_far_as_it_is_long() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    bench.put(DATA, &0u64.to_le_bytes());
    bench.put(DATA + 64, &[0xEE; 128]);
    bench.run(
        &mut zero,
        packet(0x10, 3, [DATA, DATA + 64, 8 | 64 << 32, 0, 0]),
    );
    assert_eq!(bench.bytes(DATA + 96, 96), [0xEE; 96]);
}

#[test]
fn a_wait_holds_its_own_queue_only_until_another_signals() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    let mut one = bench.queue(&mut zero, 1, 4);
    let mut two = bench.queue(&mut zero, 2, 4);
    for fence in [DATA, HBM + 64] {
        let before = bench.completion(&one);
        let waiting = bench.submit(&mut one, wait_for(fence, 5));
        bench.run(&mut two, signal(fence, 4));
        std::thread::sleep(Duration::from_millis(3));
        assert_eq!(bench.completion(&one), before);
        bench.run(&mut two, signal(fence, 5));
        bench.wait(&one, waiting);
    }
    bench.run(&mut two, signal(DATA, 3));
    assert_eq!(bench.word(DATA - HOST), 5, "a fence is never lowered");
}

#[test]
fn a_wait_sees_what_the_host_stores() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    bench.submit(&mut zero, wait_for(DATA, 7));
    std::thread::sleep(Duration::from_millis(150));
    bench.set_word(DATA - HOST, 7);
    bench.wait(&zero, 1);
}

#[test]
fn a_deadline_ends_a_wait_in_time_and_a_past_one_runs_nothing() {
    calmly(|| {
        let bench = Bench::new();
        let mut zero = bench.queue_zero(6);
        let mut late = wait_for(DATA, 1);
        let now = bench.read64(0x038);
        late[2] = now + 20_000_000;
        let record = bench.fails(&mut zero, late);
        assert_eq!((record.code, record.cookie), (0x0301, 0xC00C_1E00));
        let took = bench.read64(0x038) - now;
        assert!((20_000_000..70_000_000).contains(&took), "{took} ns");
        let mut past = fill(DATA, 8, 1);
        past[2] = now;
        assert_eq!(bench.fails(&mut zero, past).code, 0x0301);
        assert_eq!(bench.bytes(DATA, 8), [0; 8]);
        let mut good = fill(DATA, 8, 1);
        good[2] = bench.read64(0x038) + 1_000_000_000;
        bench.run(&mut zero, good);
    });
}

#[test]
fn a_queue_reset_cancels_a_wait_that_would_never_end() {
    calmly(|| {
        let bench = Bench::new();
        let mut zero = bench.queue_zero(6);
        let mut one = bench.queue(&mut zero, 1, 4);
        bench.run(&mut one, nop());
        bench.submit(&mut one, wait_for(DATA, 1));
        bench.submit(&mut one, fill(DATA + 8, 8, 1));
        let started = Instant::now();
        assert_eq!(done(&bench, 1 | 1 << 16), 2);
        assert!(started.elapsed() < Duration::from_millis(50));
        bench.wait(&one, 1 | STOPPED);
        let record = bench.record(&one, 0);
        assert_eq!((record.code, record.sequence, record.queue), (0x0404, 2, 1));
        assert_eq!(
            done(&bench, 1 | 1 << 16),
            2,
            "a second time changes nothing"
        );
        bench.resume(&one, 4);
        bench.wait(&one, 3);
        assert_eq!(bench.bytes(DATA + 8, 8), [0; 8]);
        assert_eq!(bench.record(&one, 1).code, 0, "one record a stop");
        bench.run(&mut one, nop());
        bench.run(&mut zero, nop());
        assert_eq!(done(&bench, 1 | 9 << 16), 3, "there is no queue 9");
    });
}

#[test]
fn an_idle_queue_that_was_reset_runs_again_from_its_next_packet() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(2);
    assert_eq!(done(&bench, 3), 2);
    bench.wait(&zero, STOPPED);
    bench.submit(&mut zero, nop());
    bench.resume(&zero, 2);
    bench.wait(&zero, 1);
    for _ in 0..20 {
        bench.run(&mut zero, nop());
    }
}

#[test]
fn an_engine_reset_stops_every_queue() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    let mut one = bench.queue(&mut zero, 1, 4);
    bench.submit(&mut one, wait_for(DATA, 1));
    assert_eq!(done(&bench, 3), 2);
    bench.wait(&one, STOPPED);
    bench.wait(&zero, 1 | STOPPED);
    assert_eq!(bench.read64(0x028), 1, "the generation stays");
}

#[test]
fn a_device_reset_ends_queues_and_keeps_hbm_log_and_energy() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    bench.run(&mut zero, fill(HBM, 8, 0x77));
    bench.fails(&mut zero, packet(0xFF, 0, [0; 5]));
    bench.write64(0x048, 3);
    let energy = bench.card.energy_uj();
    assert_eq!(done(&bench, 4), 2);
    assert_eq!(bench.read64(0x028), 2);
    assert_eq!(bench.read(0x084) & 0x1F, 1 | 1 << 4, "READY and idle");
    assert_eq!(
        (bench.read(0x120), bench.read64(0x100), bench.read64(0x048)),
        (0, 0, 0)
    );
    assert_eq!(bench.read64(0x180), 1, "the log is kept");
    assert!(bench.card.energy_uj() >= energy);
    bench.submit(&mut zero, nop());
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(bench.completion(&zero), 2, "the old queue is dead");
    for at in (0..8 * MIB).step_by(8) {
        bench.set_word(at, 0);
    }
    let mut zero = bench.queue_zero(6);
    bench.run(&mut zero, copy(HBM, DATA, 8));
    assert_eq!(bench.bytes(DATA, 8), [0x77, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bench.card.log.count(), 1);
}

#[test]
fn a_reset_takes_a_long_fill_away_within_its_time() {
    calmly(|| {
        let bench = Bench::new();
        let mut zero = bench.queue_zero(6);
        let mut one = bench.queue(&mut zero, 1, 4);
        let long = packet(3, 0, [DATA, HBM, 1 | 200_000_000 << 32, 0, 1]);
        bench.submit(&mut one, long);
        std::thread::sleep(Duration::from_millis(5));
        let started = Instant::now();
        assert_eq!(done(&bench, 1 | 1 << 16), 2);
        assert!(
            started.elapsed() < Duration::from_millis(10),
            "{:?}",
            started.elapsed()
        );
        bench.wait(&one, STOPPED);
    });
}

#[test]
fn quiesce_leaves_host_memory_alone_until_it_ends() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    bench.write(0x080, 1);
    bench.until("idle", || bench.read(0x084) & 1 << 4 != 0);
    assert_eq!(bench.read(0x084) & 0xF, 3, "QUIESCING");
    bench.submit(&mut zero, nop());
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(bench.completion(&zero), 0);
    bench.write(0x080, 0);
    bench.wait(&zero, 1);
    assert_eq!(bench.read(0x084) & 0x1F, 1, "READY, not idle");
}

#[test]
fn a_scrub_needs_quiet_and_is_counted() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    bench.run(&mut zero, fill(HBM, MIB, 9));
    let scrub = || {
        bench.write(0x0A0, 1);
        bench.until("scrubbed", || bench.read(0x0A4) > 1);
        bench.read(0x0A4)
    };
    assert_eq!((scrub(), bench.read64(0x0A8)), (3, 0), "a queue lives");
    bench.write(0x11C, 0);
    bench.until("gone", || bench.read(0x120) == 0);
    assert_eq!((scrub(), bench.read64(0x0A8)), (2, 1));
    assert_eq!(bench.card.hbm.used(), 0);
}

/// A card whose scrub takes 40 ms.
fn slow() -> Bench {
    Bench::with(Options {
        hbm_bytes: 1 << 30,
        scrub: Duration::from_millis(40),
        ..Options::default()
    })
}

#[test]
fn a_scrub_takes_its_time_and_no_queue_is_made_meanwhile() {
    let bench = slow();
    // The record of TIME is at 0x68 of the page, and scrub_us at 0x20 of the record.
    assert_eq!(bench.read(0x1000 + 0x68 + 0x20), 80_000);
    let begun = Instant::now();
    bench.write(0x0A0, 1);
    assert_eq!((bench.read(0x0A4), bench.read64(0x0A8)), (1, 0), "it runs");
    bench.write(0x118, 6);
    bench.write(0x11C, 1);
    bench.until("the queue is answered", || bench.read(0x120) & 0xF != 0);
    assert_eq!(bench.read(0x120) & 0xF, 3, "it is refused");
    bench.until("the scrub ends", || bench.read(0x0A4) != 1);
    assert!(begun.elapsed() >= Duration::from_millis(40));
    assert_eq!((bench.read(0x0A4), bench.read64(0x0A8)), (2, 1));
}

#[test]
fn a_scrub_that_fails_or_never_ends_leaves_hbm_as_it_was() {
    let bench = slow();
    let old = bench.card.hbm.span(0, 8);
    old.store(0, 9, Ordering::Relaxed);
    for fault in ["scrub-fails@1", "scrub-overruns@2"] {
        bench.card.injector.arm(fault.parse().unwrap());
    }
    bench.write(0x0A0, 1);
    bench.until("it fails", || bench.read(0x0A4) == 3);
    bench.write(0x0A0, 1);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(bench.read(0x0A4), 1, "five times its time");
    // A reset of the engines leaves it alone, one of the device ends it.
    assert_eq!(done(&bench, 3), 2);
    assert_eq!(bench.read(0x0A4), 1);
    assert_eq!(done(&bench, 4), 2);
    assert_eq!((bench.read(0x0A4), bench.read64(0x0A8)), (0, 0));
    assert_eq!(old.load(0, Ordering::Relaxed), 9);
    bench.write(0x0A0, 1);
    bench.until("it is scrubbed", || bench.read(0x0A4) == 2);
    assert_eq!(
        (old.load(0, Ordering::Relaxed), bench.read64(0x0A8)),
        (0, 1)
    );
}

#[test]
fn an_interrupt_comes_once_for_each_arm() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    let fired = || bench.slot.fired(1);
    bench.arm(&zero, 2);
    bench.run(&mut zero, nop());
    std::thread::sleep(Duration::from_millis(3));
    assert_eq!(fired(), 0, "1 is less than 2");
    bench.run(&mut zero, nop());
    bench.until("fired", || fired() == 1);
    bench.run(&mut zero, nop());
    std::thread::sleep(Duration::from_millis(3));
    assert_eq!(fired(), 1, "once");
    bench.arm(&zero, 3);
    bench.until("at once, for 3 is reached", || fired() == 2);
    bench.arm(&zero, 50);
    bench.submit(&mut zero, packet(0xFF, 0, [0; 5]));
    bench.until("because the queue stopped", || fired() == 3);
}

#[test]
fn without_its_feature_nothing_is_armed() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    bench.write64(0x048, 0);
    bench.arm(&zero, 1);
    bench.run(&mut zero, nop());
    std::thread::sleep(Duration::from_millis(3));
    assert_eq!(bench.slot.fired(1), 0);
}
