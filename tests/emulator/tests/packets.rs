//! Stories of packets: what each does, and the record of each way to be wrong.

mod bench_top;

use bench_top::{Bench, DATA, HBM, HOST, MIB, STOPPED, copy, fill, nop, packet};

#[test]
fn packets_run_in_order_over_many_laps_of_the_ring() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(2);
    for lap in 0..50 {
        for _ in 0..4 {
            bench.store(&mut zero, nop());
        }
        bench.ring(&zero, zero.sent);
        bench.wait(&zero, 4 * (lap + 1));
    }
}

#[test]
fn a_packet_is_fetched_on_its_validity_bit_before_the_doorbell_says_so() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(4);
    bench.store(&mut zero, nop());
    bench.wait(&zero, 1);
}

#[test]
fn bytes_go_to_hbm_and_come_home() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    let sent: Vec<u8> = (0..1_000_003u32).map(|i| (i * 7 % 251) as u8).collect();
    bench.put(DATA + 1, &sent);
    bench.run(&mut zero, copy(DATA + 1, HBM + 12_345, sent.len() as u64));
    let home = DATA + 4 * MIB + 5;
    bench.run(&mut zero, copy(HBM + 12_345, home, sent.len() as u64));
    assert_eq!(bench.bytes(home, sent.len()), sent);
    assert_eq!(
        bench.bytes(home + sent.len() as u64, 1),
        [0],
        "not one byte more"
    );
}

#[test]
fn hbm_that_nobody_wrote_reads_zero_and_stays_sparse() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    bench.put(DATA, &[7; 4096]);
    bench.run(&mut zero, copy(HBM + 512 * MIB, DATA, 4096));
    assert_eq!(bench.bytes(DATA, 4096), [0; 4096]);
    assert_eq!(bench.card.hbm.used(), 0);
}

#[test]
fn a_fill_repeats_its_pattern_from_the_first_byte_on() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    bench.run(&mut zero, fill(DATA + 3, 21, 0x0807_0605_0403_0201));
    let mut expected = vec![0; 3];
    expected.extend([
        1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 0,
    ]);
    assert_eq!(bench.bytes(DATA, 25), expected);
    bench.run(&mut zero, fill(HBM, 3 * MIB, u64::MAX));
    bench.run(&mut zero, copy(HBM + 3 * MIB - 2, DATA, 4));
    assert_eq!(bench.bytes(DATA, 4), [255, 255, 0, 0]);
}

#[test]
fn a_fill_cannot_take_the_hosts_memory() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    let record = bench.fails(&mut zero, fill(HBM, 1 << 30, 1));
    assert_eq!((record.code, record.address), (0x0205, HBM));
    assert_eq!(bench.card.hbm.used(), 0, "nothing was written");
    bench.run(&mut zero, fill(HBM, 256 * MIB, 1));
}

#[test]
fn rows_are_copied_at_their_strides() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    bench.put(DATA, &(0..=255).collect::<Vec<u8>>());
    let to = DATA + MIB;
    let rows = packet(3, 0, [DATA + 2, to, 3 | 4 << 32, 16, 5]);
    bench.run(&mut zero, rows);
    let expected = [
        2, 3, 4, 0, 0, 18, 19, 20, 0, 0, 34, 35, 36, 0, 0, 50, 51, 52, 0,
    ];
    assert_eq!(bench.bytes(to, 19), expected);
    let narrow = packet(3, 0, [DATA, to, 3 | 4 << 32, 16, 2]);
    assert_eq!(bench.fails(&mut zero, narrow).code, 0x0103);
    let wrapping = packet(3, 0, [DATA, to, 3 | 4 << 32, u64::MAX / 2, 5]);
    assert_eq!(bench.fails(&mut zero, wrapping).code, 0x0103);
}

#[test]
fn nothing_is_done_by_copies_and_fills_of_no_bytes() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    bench.run(&mut zero, copy(0, 0, 0));
    bench.run(&mut zero, fill(0, 0, 1));
    bench.run(&mut zero, packet(3, 0, [0, 0, 16, 0, 0]));
}

#[test]
fn an_address_that_nobody_mapped_is_named_with_the_mapping_it_fell_near() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    let end = HOST + 200 * MIB;
    let record = bench.fails(&mut zero, copy(end - 8, HBM, 16));
    assert_eq!((record.code, record.address), (0x0201, end));
    assert_eq!(record.mapping, (HOST, 200 * MIB));
    assert_eq!(
        (record.cookie, record.queue, record.opcode),
        (0xC00C_1E00, 0, 2)
    );
    assert_eq!((record.severity, record.scope, record.action), (2, 1, 2));
    assert!(record.crc_fits && record.flags == 1 && record.generation == 1);

    let record = bench.fails(&mut zero, copy(HBM, 0x10, 16));
    assert_eq!((record.code, record.address), (0x0202, 0x10));
    let record = bench.fails(&mut zero, copy(HBM + (1 << 30) - 8, DATA, 16));
    assert_eq!((record.code, record.address), (0x0201, HBM + (1 << 30)));
    let record = bench.fails(&mut zero, copy(DATA, u64::MAX - 8, 16));
    assert_eq!(record.code, 0x0202);
    let record = bench.fails(&mut zero, copy(1 << 50, DATA, 16));
    assert_eq!((record.code, record.mapping), (0x0201, (HBM, 1 << 30)));
}

#[test]
fn a_fault_leaves_no_part_of_a_copy_behind() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    bench.put(DATA, &[9; 64]);
    bench.fails(&mut zero, copy(HOST + 200 * MIB - 32, DATA, 64));
    assert_eq!(bench.bytes(DATA, 64), [9; 64]);
}

#[test]
fn memory_mapped_for_reading_cannot_be_written() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    bench.slot.map(0x4000_0000, 16 * MIB, MIB, false);
    bench.run(&mut zero, copy(0x4000_0000, DATA, 64));
    let record = bench.fails(&mut zero, copy(DATA, 0x4000_0040, 64));
    assert_eq!((record.code, record.address), (0x0203, 0x4000_0040));
}

#[test]
fn a_transfer_follows_mappings_that_touch() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    // Two pages that are neighbours for the card and strangers in memory.
    bench.slot.map(0x4000_0000, 40 * MIB, 4096, true);
    bench.slot.map(0x4000_1000, 60 * MIB, 4096, true);
    bench.run(&mut zero, fill(0x4000_0000, 8192, 0x0505_0505_0505_0505));
    bench.run(&mut zero, copy(0x4000_0FF0, HBM, 32));
    bench.run(&mut zero, copy(HBM, DATA, 32));
    assert_eq!(bench.bytes(DATA, 33), [[5; 32].as_slice(), &[0]].concat());
    assert_eq!(bench.bytes(HOST + 60 * MIB + 4095, 2), [5, 0]);
}

#[test]
fn every_malformed_packet_is_refused_with_its_code() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    let mut nop_with = |at: usize, value: u64| {
        let mut bad = nop();
        bad[at] |= value;
        let record = bench.fails(&mut zero, bad);
        (record.code, record.detail[0])
    };
    assert_eq!(nop_with(0, 1 << 9), (0x0102, 1), "reserved header bit");
    assert_eq!(nop_with(0, 1 << 32), (0x0102, 4), "argument of a NOP");
    assert_eq!(nop_with(3, 1), (0x0102, 0x18));
    assert_eq!(nop_with(7, 1), (0x0102, 0x38));
    let mut code = |packet| bench.fails(&mut zero, packet).code;
    assert_eq!(code(packet(0x00, 0, [0; 5])), 0x0101, "no opcode");
    assert_eq!(
        code(packet(0x0A, 0, [0; 5])),
        0x0101,
        "INDIRECT, and GRAPH is not accepted"
    );
    assert_eq!(code(packet(0xFF, 0, [0; 5])), 0x0101);
    assert_eq!(code(copy(DATA, DATA + 8, 16)), 0x010B, "overlap");
    assert_eq!(code(packet(2, 0, [DATA, HBM, 8, 0, 1])), 0x0102);
    assert_eq!(
        code(packet(5, 0, [DATA + 4, 1, 0, 0, 0])),
        0x0204,
        "misaligned fence"
    );
    assert_eq!(
        code(packet(6, 2, [DATA, 1, 0, 0, 0])),
        0x0103,
        "no such comparison"
    );
    assert_eq!(code(packet(7, 0, [DATA + 4, 0, 0, 0, 0])), 0x0204);
    assert_eq!(code(packet(0x10, 99, [0; 5])), 0x010C, "no such command");
    assert_eq!(
        code(packet(8, 999, [DATA, 64, 0, 0, 0])),
        0x0105,
        "no such kernel"
    );
    bench.run(&mut zero, nop());
}

#[test]
fn a_failing_packet_stops_its_queue_and_cancels_what_is_behind_it() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(4);
    for packet in [nop(), packet(0xFF, 0, [0; 5]), fill(DATA, 8, 7), nop()] {
        bench.store(&mut zero, packet);
    }
    bench.ring(&zero, 4);
    bench.wait(&zero, 1 | STOPPED);
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!(bench.bytes(DATA, 8), [0; 8], "the sequence never passes it");
    assert_eq!(bench.record(&zero, 0).sequence, 2);
    bench.resume(&zero, 2);
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!(bench.completion(&zero), 1 | STOPPED, "2 is not beyond 2");
    bench.resume(&zero, 5);
    bench.wait(&zero, 4);
    assert_eq!(bench.bytes(DATA, 8), [0; 8], "cancelled means cancelled");
    bench.run(&mut zero, nop());
}

#[test]
fn a_stopped_queue_can_be_resumed_right_behind_the_failure() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(4);
    for packet in [packet(0xFF, 0, [0; 5]), fill(DATA, 8, 7)] {
        bench.store(&mut zero, packet);
    }
    bench.ring(&zero, 2);
    bench.wait(&zero, STOPPED);
    bench.resume(&zero, 2);
    bench.wait(&zero, 2);
    assert_eq!(bench.bytes(DATA, 1), [7]);
}

#[test]
fn error_records_lap_their_ring_with_a_phase_that_flips() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(4);
    for index in 0..9 {
        let record = bench.fails(&mut zero, packet(0xFF, 0, [0; 5]));
        let phase = u8::from(index / 4 % 2 == 0);
        assert_eq!((record.index, record.flags), (index, phase));
        assert!(record.crc_fits);
    }
    assert_eq!(bench.read64(0x180), 9, "FAULT_COUNT");
    assert_eq!(bench.slot.fired(0), 9, "vector 0");
    assert_ne!(bench.read(0x084) & 1 << 5, 0, "STATUS.fault");
    bench.write64(0x188, 9);
    assert_eq!(bench.read(0x084) & 1 << 5, 0);
    // The newest record of the log stands at (count - 1) mod 16.
    assert_eq!(bench.read(0x2000 + 8 * 256), 0x0101);
}

#[test]
fn a_doorbell_beyond_the_ring_is_a_fault() {
    let bench = Bench::new();
    let zero = bench.queue_zero(4);
    bench.ring(&zero, 17);
    bench.wait(&zero, STOPPED);
    let record = bench.record(&zero, 0);
    assert_eq!(
        (record.code, record.detail[0], record.detail[1]),
        (0x0401, 17, 0)
    );
}

#[test]
fn a_doorbell_without_its_packet_is_a_fault() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(4);
    bench.run(&mut zero, nop());
    bench.ring(&zero, 3);
    bench.wait(&zero, 1 | STOPPED);
    assert_eq!(bench.record(&zero, 0).code, 0x0402);
}

#[test]
fn a_ring_that_is_unmapped_stops_its_queue_and_the_log_says_so() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(4);
    bench.run(&mut zero, nop());
    bench.slot.unmap(HOST);
    bench.submit(&mut zero, nop());
    bench.until("the log has it", || bench.read64(0x180) == 1);
    assert_eq!(bench.read(0x2000), 0x0201);
    assert_eq!(bench.read(0x120) & 0xF, 2, "STOPPED");
    assert_eq!(bench.completion(&zero), 1, "memory is not touched any more");
}

#[test]
fn timestamps_carry_time_and_energy_that_never_fall() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(4);
    bench.run(&mut zero, packet(7, 0, [DATA, 0, 0, 0, 0]));
    bench.run(&mut zero, fill(HBM, 16 * MIB, 3));
    bench.run(&mut zero, packet(7, 0, [DATA + 16, 0, 0, 0, 0]));
    let at = |offset: u64| bench.word(DATA - HOST + offset);
    assert!(at(16) > at(0), "time");
    assert!(at(24) > at(8), "energy");
    assert!(at(0) < bench.read64(0x038));
}
