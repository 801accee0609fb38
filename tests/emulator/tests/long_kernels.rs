//! Stories of kernels that run long: resets, deadlines and mappings do not wait for them.

mod bench_top;

use std::time::{Duration, Instant};

use bench_top::{Bench, DATA, Driver, HBM, HOST, MIB, STOPPED, nop, packet};
use jalapeno_emulator::identity::Options;
use jalapeno_stopwatch::calmly;

const F32: u32 = 0;
const BF16: u32 = 30;
const MUL_MAT: u64 = 3;

/// RESET_QUEUE_TIME is 10 ms; the rest is for a machine with other things to do.
const SOON: Duration = Duration::from_secs(1);

fn tensor(address: u64, dtype: u32, ne: [u32; 4], nb: [u64; 4]) -> Vec<u8> {
    let mut bytes = address.to_le_bytes().to_vec();
    bytes.extend(dtype.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(ne.iter().flat_map(|n| n.to_le_bytes()));
    bytes.extend(nb.iter().flat_map(|n| n.to_le_bytes()));
    bytes
}

fn bench(threads: usize) -> Bench {
    Bench::with(Options {
        hbm_bytes: 1 << 30,
        resident_limit: 256 * MIB,
        threads,
        ..Options::default()
    })
}

/// A LAUNCH of a kernel, its argument block in host memory.
fn launch(bench: &Bench, kernel: u64, words: &[u32], tensors: &[Vec<u8>]) -> [u64; 8] {
    let mut block = vec![0; 64];
    for (at, word) in words.iter().enumerate() {
        block[4 * at..4 * at + 4].copy_from_slice(&word.to_le_bytes());
    }
    tensors.iter().for_each(|tensor| block.extend(tensor));
    bench.put(DATA, &block);
    packet(8, kernel, [DATA, block.len() as u64, 0, 0, 0])
}

/// A matrix product that takes minutes: one row of weights and one of activations, repeated.
fn endless(bench: &Bench, k: u32, n: u32) -> [u64; 8] {
    // No operand has more than 2^40 elements.
    let m = 1u32 << (39 - k.ilog2()).min(22);
    let tensors = [
        tensor(HBM, F32, [m, n, 1, 1], [4, 1 << 24, 0, 0]),
        tensor(HBM + 240 * MIB, BF16, [k, m, 1, 1], [2, 0, 0, 0]),
        tensor(HBM + 240 * MIB, BF16, [k, n, 1, 1], [2, 0, 0, 0]),
    ];
    launch(bench, MUL_MAT, &[], &tensors)
}

/// Submits a packet that runs long, and waits until it surely runs.
fn begin(bench: &Bench, zero: &mut Driver, packet: [u64; 8]) -> u64 {
    let sequence = bench.submit(zero, packet);
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(bench.completion(zero), sequence - 1, "it runs");
    sequence
}

/// Resets queue 0 and resumes it behind a packet; how long the reset took.
fn reset(bench: &Bench, zero: &mut Driver, sequence: u64) -> Duration {
    let begin = Instant::now();
    bench.write(0x088, 1);
    bench.until("the reset is done", || bench.read(0x08C) & 0xF == 2);
    let took = begin.elapsed();
    bench.wait(zero, (sequence - 1) | STOPPED);
    bench.resume(zero, sequence + 1);
    bench.wait(zero, sequence);
    took
}

#[test]
fn a_reset_takes_a_long_matrix_product_away() {
    calmly(|| {
        for threads in [1, 2] {
            let bench = bench(threads);
            let mut zero = bench.queue_zero(6);
            // Vectors, matrices, and rows too long to be held.
            for (k, n) in [(4096, 1), (4096, 8), (5 << 20, 1)] {
                let packet = endless(&bench, k, n);
                let sequence = begin(&bench, &mut zero, packet);
                let took = reset(&bench, &mut zero, sequence);
                println!("k {k}, n {n}, {threads} threads: {took:?}");
                assert!(took < SOON, "k {k}, n {n}, {threads} threads: {took:?}");
            }
            bench.run(&mut zero, nop());
        }
    });
}

#[test]
fn a_reset_takes_every_other_kernel_away() {
    calmly(|| {
        let bench = bench(1);
        let mut zero = bench.queue_zero(6);
        // 96 Mi elements of bf16 in the destination; the sources repeat a row.
        let (row, rows) = (1 << 16, 1536);
        let from = HBM + 240 * MIB;
        let to = || tensor(HBM, BF16, [row, rows, 1, 1], [2, 2 * u64::from(row), 0, 0]);
        let source = || tensor(from, BF16, [row, rows, 1, 1], [2, 0, 0, 0]);
        let indices = tensor(from, 26, [rows, 1, 1, 1], [0, 0, 0, 0]);
        let angles = [
            row,
            0,
            0,
            10_000f32.to_bits(),
            1f32.to_bits(),
            0,
            1f32.to_bits(),
        ];
        let heads = |base| {
            let nb = if base == HBM { 2 * u64::from(row) } else { 0 };
            tensor(base, BF16, [row, 1, rows, 1], [2, nb, nb, 0])
        };
        let one = 1f32.to_bits();
        let kernels = [
            (1, &[][..], vec![to(), source(), indices.clone()]),
            (2, &[][..], vec![to(), source(), indices.clone()]),
            (4, &[one][..], vec![to(), source()]),
            (5, &angles[..], vec![heads(HBM), heads(from), indices]),
            (6, &[one][..], vec![to(), source()]),
            (7, &[][..], vec![to(), source(), source()]),
            (8, &[][..], vec![to(), source(), source()]),
            (9, &[one][..], vec![to(), source()]),
            (10, &[][..], vec![to(), source()]),
            (11, &[0][..], vec![to(), source(), source()]),
            (
                12,
                &[][..],
                vec![to(), tensor(from, F32, [row, rows, 1, 1], [4, 0, 0, 0])],
            ),
        ];
        for (kernel, words, tensors) in kernels {
            let sequence = bench.submit(&mut zero, launch(&bench, kernel, words, &tensors));
            std::thread::sleep(Duration::from_millis(5));
            let begin = Instant::now();
            bench.write(0x088, 1);
            bench.until("the reset is done", || bench.read(0x08C) & 0xF == 2);
            let took = begin.elapsed();
            println!("kernel {kernel}: {took:?}");
            assert!(took < SOON, "kernel {kernel}: {took:?}");
            let seen = bench.completion(&zero);
            assert_eq!(
                seen,
                (sequence - 1) | STOPPED,
                "kernel {kernel} was running"
            );
            bench.resume(&zero, sequence + 1);
            bench.wait(&zero, sequence);
        }
    });
}

#[test]
fn a_deadline_ends_a_kernel_while_it_runs() {
    calmly(|| {
        for threads in [1, 2] {
            let bench = bench(threads);
            let mut zero = bench.queue_zero(6);
            let mut packet = endless(&bench, 4096, 8);
            let begin = Instant::now();
            packet[2] = bench.read64(0x038) + 50_000_000;
            let record = bench.fails(&mut zero, packet);
            let took = begin.elapsed();
            assert_eq!(record.code, 0x0301);
            assert!(took > Duration::from_millis(45) && took < SOON, "{took:?}");
        }
    });
}

#[test]
fn a_device_reset_ends_a_kernel_and_the_card_serves_again() {
    calmly(|| {
        let bench = bench(2);
        let mut zero = bench.queue_zero(6);
        let packet = endless(&bench, 4096, 8);
        begin(&bench, &mut zero, packet);
        let started = Instant::now();
        bench.write(0x088, 4);
        bench.until("the reset is done", || bench.read(0x08C) & 0xF == 2);
        assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
        // The packet stands in the ring yet: a new queue there would run it again.
        bench.set_word(zero.ring, 0);
        let mut zero = bench.queue_zero(6);
        bench.run(&mut zero, nop());
    });
}

#[test]
fn a_quiesce_puts_a_long_kernel_away_and_its_queue_can_be_resumed() {
    calmly(|| {
        let bench = bench(2);
        let mut zero = bench.queue_zero(6);
        let packet = endless(&bench, 4096, 8);
        let sequence = begin(&bench, &mut zero, packet);
        let started = Instant::now();
        bench.write(0x080, 1);
        bench.until("the card is idle", || bench.read(0x084) & 1 << 4 != 0);
        assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
        bench.write(0x080, 0);
        bench.wait(&zero, (sequence - 1) | STOPPED);
        assert_eq!(bench.record(&zero, 0).code, 0x0404);
        bench.resume(&zero, sequence + 1);
        bench.run(&mut zero, nop());
    });
}

#[test]
fn queue_zero_is_destroyed_while_its_kernel_runs() {
    calmly(|| {
        let bench = bench(2);
        let mut zero = bench.queue_zero(6);
        let packet = endless(&bench, 4096, 1);
        begin(&bench, &mut zero, packet);
        let started = Instant::now();
        bench.write(0x11C, 0);
        bench.until("the queue is gone", || bench.read(0x120) & 0xF == 0);
        assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
        bench.set_word(zero.ring, 0);
        let mut zero = bench.queue_zero(6);
        bench.run(&mut zero, nop());
    });
}

#[test]
fn a_card_that_is_switched_off_does_not_wait_for_its_kernel() {
    calmly(|| {
        let bench = bench(2);
        let mut zero = bench.queue_zero(6);
        let packet = endless(&bench, 4096, 1);
        begin(&bench, &mut zero, packet);
        let started = Instant::now();
        drop(bench);
        assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    });
}

#[test]
fn mappings_change_while_a_kernel_runs_and_its_result_is_right() {
    calmly(|| {
        for threads in [1, 2] {
            let bench = bench(threads);
            let mut zero = bench.queue_zero(6);
            // 8 rows of weights that count, 2048 of them the same; activations of ones.
            let (k, m, n) = (2048u32, 16_384u32, 32u32);
            let (weights, ones) = (DATA + 16 * MIB, DATA + 17 * MIB);
            let row: Vec<u8> = (0..k)
                .flat_map(|i| ((i % 8) as f32).to_le_bytes())
                .collect();
            bench.put(weights, &row);
            bench.put(ones, &1f32.to_le_bytes().repeat(k as usize));
            let to = DATA + 32 * MIB;
            let tensors = [
                tensor(to, F32, [m, n, 1, 1], [4, 4 * u64::from(m), 0, 0]),
                tensor(weights, F32, [k, m, 1, 1], [4, 0, 0, 0]),
                tensor(ones, F32, [k, n, 1, 1], [4, 0, 0, 0]),
            ];
            let sequence = bench.submit(&mut zero, launch(&bench, MUL_MAT, &[], &tensors));
            let (mut changes, mut worst) = (0, Duration::ZERO);
            while bench.completion(&zero) != sequence {
                let begin = Instant::now();
                bench.slot.map(0x9000_0000, 190 * MIB, 4096, true);
                bench.slot.unmap(0x9000_0000);
                worst = worst.max(begin.elapsed());
                changes += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            println!("{threads} threads: {changes} changes, the slowest {worst:?}");
            assert!(changes > 2, "it ran too short: {changes}");
            assert!(worst < SOON, "{worst:?}");
            let wanted = (28.0 * 256.0f32).to_le_bytes();
            let bytes = bench.bytes(to, (4 * m * n) as usize);
            assert!(bytes.chunks_exact(4).all(|value| value == wanted));
        }
    });
}

#[test]
fn a_kernel_whose_operand_is_unmapped_ends_with_its_address() {
    calmly(|| {
        for threads in [1, 2] {
            let bench = bench(threads);
            let mut zero = bench.queue_zero(6);
            bench.slot.map(0x9000_0000, 180 * MIB, MIB, true);
            let tensors = [
                tensor(HBM, F32, [1 << 22, 8, 1, 1], [4, 1 << 24, 0, 0]),
                tensor(0x9000_0000, BF16, [4096, 1 << 22, 1, 1], [2, 0, 0, 0]),
                tensor(HBM + 240 * MIB, BF16, [4096, 8, 1, 1], [2, 0, 0, 0]),
            ];
            let packet = launch(&bench, MUL_MAT, &[], &tensors);
            let sequence = begin(&bench, &mut zero, packet);
            bench.slot.unmap(0x9000_0000);
            bench.wait(&zero, (sequence - 1) | STOPPED);
            let record = bench.record(&zero, 0);
            assert_eq!((record.code, record.operand), (0x0201, 2));
            assert_eq!(record.address, 0x9000_0000);
        }
    });
}

#[test]
fn a_queue_whose_memory_goes_while_its_kernel_runs_writes_there_no_more() {
    calmly(|| {
        let bench = bench(1);
        let mut zero = bench.queue_zero(6);
        // The completion line and the argument block in mappings of their own.
        bench.slot.map(0x9000_0000, 180 * MIB, MIB, true);
        let mut shape = vec![1, 0, 0, 0, 3, 2, 2, 0];
        for address in [HOST + 0x2_0000, 0x9000_0000, HOST + 0x3_1000] {
            shape.extend(address.to_le_bytes());
        }
        shape.resize(64, 0);
        bench.put(DATA - 4096, &shape);
        bench.run(&mut zero, packet(0x10, 1, [DATA - 4096, 0, 64, 0, 0]));
        let mut one = Bench::place(1, 3, 2);
        let packet = endless(&bench, 4096, 8);
        bench.submit(&mut one, packet);
        std::thread::sleep(Duration::from_millis(30));
        bench.slot.unmap(0x9000_0000);
        bench.set_word(180 * MIB, 0x1234);
        bench.write(0x088, 1 | 1 << 16);
        bench.until("the reset is done", || bench.read(0x08C) & 0xF == 2);
        bench.resume(&one, 2);
        bench.run(&mut zero, nop());
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(bench.word(180 * MIB), 0x1234);
    });
}
