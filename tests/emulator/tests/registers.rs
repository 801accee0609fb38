//! Stories of the registers: who the card is, and what it refuses.

mod bench_top;

use bench_top::{Bench, HOST, MIB, nop};
use jalapeno_emulator::identity::Options;

#[test]
fn the_card_says_who_it_is() {
    let bench = Bench::new();
    assert_eq!(bench.read(0x000).to_le_bytes(), *b"JALP");
    assert_eq!(bench.read(0x004), 0x0001_0000);
    assert_eq!(bench.read(0x008), 2, "an emulator");
    assert_eq!(bench.read(0x00C), 0x1000);
    assert_eq!(bench.read64(0x010) >> 52 & 0xF, 8, "a UUID of version 8");
    assert_eq!(bench.read64(0x028), 1);
    assert_ne!(bench.read64(0x030), 0);
    assert_eq!(bench.read(0x084), 1 | 1 << 4, "READY and idle");
}

#[test]
fn time_goes_on_and_reading_its_low_half_latches_the_high_one() {
    let bench = Bench::new();
    let (first, second) = (bench.read64(0x038), bench.read64(0x038));
    assert!(second > first && first >= 1_000_000_000);
}

#[test]
fn what_cannot_be_written_stays_and_what_is_not_a_register_reads_zero() {
    let bench = Bench::new();
    bench.write(0x000, 7);
    bench.write(0x004, 7);
    bench.write(0xFFC, 7);
    assert_eq!(bench.read(0x000).to_le_bytes(), *b"JALP");
    assert_eq!(
        (bench.read(0x0FC), bench.read(0xFFC), bench.read(0x2_8000)),
        (0, 0, 0)
    );
    assert_eq!(bench.read(0x090), 0, "KICK is write-only");
}

#[test]
fn only_offered_features_can_be_accepted() {
    let bench = Bench::new();
    assert_eq!(bench.read64(0x040), 0b1_1111);
    bench.write64(0x048, u64::MAX);
    assert_eq!(bench.read64(0x048), 0b1_1111);
}

#[test]
fn halves_of_a_register_are_written_one_by_one() {
    let bench = Bench::new();
    bench.write(0x104, 0x1234);
    assert_eq!(bench.read64(0x100), 0x1234_0000_0000);
    bench.write(0x100, 0x5678);
    assert_eq!(bench.read64(0x100), 0x1234_0000_5678);
    bench.card.write_registers(0x102, &[1, 2, 3, 4]);
    assert_eq!(bench.read64(0x100), 0x1234_0000_5678, "misaligned");
}

#[test]
fn the_capability_chain_says_what_the_card_has() {
    let bench = Bench::new();
    let base = u64::from(bench.read(0x00C));
    assert_eq!(bench.read(base), 1 | 1 << 16, "QUEUES, version 1");
    assert_eq!(bench.read(base + 4), 32 | 1 << 16, "32 bytes, REQUIRED");
    assert_eq!((bench.read(base + 8), bench.read(base + 12)), (64, 4096));
    assert_eq!(bench.read(base + 0x14), 65);
    assert_eq!(bench.read64(base + 0x28), 1 << 56, "HBM_BASE");
    assert_eq!(bench.read64(base + 0x30), 1 << 30, "HBM of this card");
}

#[test]
fn queue_zero_is_refused_with_a_code_where_its_shape_is_impossible() {
    let bench = Bench::new();
    let try_shape = |ring: u64, completion: u64, size: u32| {
        bench.write(0x11C, 0);
        bench.until("absent", || bench.read(0x120) == 0);
        bench.write64(0x100, ring);
        bench.write64(0x108, completion);
        bench.write64(0x110, HOST + 0x2000);
        bench.write(0x118, size);
        bench.write(0x11C, 1);
        bench.until("answered", || bench.read(0x120) & 0xF != 0);
        bench.read(0x120)
    };
    let refused = |code: u32| 3 | code << 16;
    assert_eq!(
        try_shape(HOST + 64, HOST + 0x1000, 6),
        refused(0x0403),
        "misaligned ring"
    );
    assert_eq!(
        try_shape(HOST, HOST + 0x1008, 6),
        refused(0x0403),
        "misaligned line"
    );
    assert_eq!(
        try_shape(HOST, HOST + 0x1000, 17),
        refused(0x0403),
        "too deep"
    );
    assert_eq!(
        try_shape(HOST, HOST + 0x1000, 6 | 99 << 16),
        refused(0x0403),
        "no such vector"
    );
    assert_eq!(
        try_shape(1 << 49, HOST + 0x1000, 6),
        refused(0x0403),
        "beyond the last IOVA"
    );
    assert_eq!(
        try_shape(0, HOST + 0x1000, 6),
        refused(0x0201),
        "nobody mapped it"
    );
    assert_eq!(try_shape(HOST, HOST + 0x1000, 6), 1, "and a good one runs");
}

#[test]
fn a_queue_in_memory_the_card_may_not_write_is_refused() {
    let bench = Bench::new();
    bench.slot.map(0x4000_0000, 0, MIB, false);
    bench.write64(0x100, 0x4000_0000);
    bench.write64(0x108, 0x4000_1000);
    bench.write64(0x110, HOST + 0x2000);
    bench.write(0x118, 6);
    bench.write(0x11C, 1);
    bench.until("answered", || bench.read(0x120) & 0xF != 0);
    assert_eq!(bench.read(0x120), 3 | 0x0203 << 16);
}

#[test]
fn the_same_seed_makes_the_same_card() {
    let uuid = |seed| {
        let bench = Bench::with(Options {
            seed,
            hbm_bytes: MIB,
            ..Options::default()
        });
        (bench.read64(0x10), bench.read64(0x18), bench.read64(0x20))
    };
    assert_eq!(uuid(3), uuid(3));
    assert_ne!(uuid(3), uuid(4));
}

#[test]
fn without_bus_mastering_nothing_is_fetched_and_nothing_written() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(4);
    bench.run(&mut zero, nop());
    bench.slot.set_bus_master(false);
    bench.submit(&mut zero, nop());
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(bench.completion(&zero), 1);
    bench.slot.set_bus_master(true);
    bench.wait(&zero, 2);
}
