//! Stories of LAUNCH: operands by hand, and the record of each way to be wrong.

mod bench_top;

use bench_top::{Bench, DATA, HBM, HOST, MIB, copy, packet};

const F32: u32 = 0;
const ADD: u64 = 7;
const COPY: u64 = 12;

/// A tensor descriptor of one dimension of f32.
fn tensor(address: u64, dtype: u32, count: u32) -> Vec<u8> {
    let mut bytes = address.to_le_bytes().to_vec();
    for word in [dtype, 0, count, 1, 1, 1] {
        bytes.extend(word.to_le_bytes());
    }
    for stride in [
        4,
        4 * u64::from(count),
        4 * u64::from(count),
        4 * u64::from(count),
    ] {
        bytes.extend(stride.to_le_bytes());
    }
    bytes
}

fn block(bench: &Bench, tensors: &[Vec<u8>]) -> u64 {
    let mut bytes = vec![0; 64];
    tensors.iter().for_each(|tensor| bytes.extend(tensor));
    bench.put(DATA, &bytes);
    bytes.len() as u64
}

fn launch(kernel: u64, bytes: u64) -> [u64; 8] {
    packet(8, kernel, [DATA, bytes, 0, 0, 0])
}

fn floats(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

#[test]
fn a_sum_is_computed_in_hbm_and_its_operations_are_counted() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    let input = DATA + MIB;
    bench.put(input, &floats(&[1.0, 2.0, 3.0, 0.5, 0.25, -3.0]));
    bench.run(&mut zero, copy(input, HBM, 24));
    let tensors = [
        tensor(HBM + 64, F32, 3),
        tensor(HBM, F32, 3),
        tensor(HBM + 12, F32, 3),
    ];
    let bytes = block(&bench, &tensors);
    let energy = bench.card.meter.operations();
    bench.run(&mut zero, launch(ADD, bytes));
    bench.run(&mut zero, copy(HBM + 64, input, 12));
    assert_eq!(bench.bytes(input, 12), floats(&[1.5, 2.25, 0.0]));
    assert!(bench.card.meter.operations() > energy);
}

#[test]
fn operands_may_lie_in_host_memory_and_across_mappings() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    // Two pages that are neighbours for the card and strangers in memory.
    bench.slot.map(0x4000_0000, 40 * MIB, 4096, true);
    bench.slot.map(0x4000_1000, 60 * MIB, 4096, true);
    bench.put(HOST + 40 * MIB + 4092, &floats(&[1.0]));
    bench.put(HOST + 60 * MIB, &floats(&[2.0]));
    let split = 0x4000_0FFC;
    let bytes = block(
        &bench,
        &[
            tensor(split, F32, 2),
            tensor(split, F32, 2),
            tensor(split, F32, 2),
        ],
    );
    bench.run(&mut zero, launch(ADD, bytes));
    assert_eq!(bench.bytes(HOST + 40 * MIB + 4092, 4), floats(&[2.0]));
    assert_eq!(bench.bytes(HOST + 60 * MIB, 4), floats(&[4.0]));
}

#[test]
fn a_copy_of_nothing_is_done_whatever_its_other_sizes() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    for at in 0..4 {
        let mut empty = tensor(HBM, F32, 0);
        empty[16..32].fill(0xFF);
        empty[16 + 4 * at..20 + 4 * at].fill(0);
        let bytes = block(&bench, &[empty.clone(), empty.clone()]);
        bench.run(&mut zero, launch(COPY, bytes));
        let bytes = block(&bench, &[empty, tensor(HBM, F32, 4)]);
        let record = bench.fails(&mut zero, launch(COPY, bytes));
        assert_eq!((record.code, record.operand), (0x0108, 2), "4 into none");
    }
}

#[test]
fn every_malformed_launch_is_refused_with_its_code_and_operand() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    let good = tensor(HBM, F32, 4);
    let mut refused = |kernel: u64, tensors: &[Vec<u8>]| {
        let bytes = block(&bench, tensors);
        let record = bench.fails(&mut zero, launch(kernel, bytes));
        assert_eq!((record.opcode, u64::from(record.kernel)), (8, kernel));
        (record.code, record.operand)
    };
    let three = |second: Vec<u8>| [good.clone(), good.clone(), second];
    assert_eq!(refused(999, &three(good.clone())).0, 0x0105);
    assert_eq!(
        refused(22, &three(good.clone())).0,
        0x0105,
        "ALL_REDUCE is reserved"
    );
    assert_eq!(refused(ADD, std::slice::from_ref(&good)).0, 0x0106);
    assert_eq!(refused(ADD, &three(tensor(HBM, 77, 4))), (0x0107, 3));
    assert_eq!(
        refused(ADD, &three(tensor(HBM, 8, 32))),
        (0x0107, 3),
        "Q8_0 is not taken"
    );
    assert_eq!(refused(ADD, &three(tensor(HBM, F32, 3))).0, 0x0108);
    assert_eq!(refused(ADD, &three(tensor(HBM + 2, F32, 4))), (0x0204, 3));
    assert_eq!(refused(ADD, &three(tensor(0x10, F32, 4))), (0x0201, 3));
    let end = HBM + (1 << 30);
    assert_eq!(
        refused(ADD, &[tensor(end, F32, 4), good.clone(), good.clone()]),
        (0x0202, 1)
    );
    let mut huge = tensor(HBM, F32, 4);
    huge[16..32].fill(0xFF);
    huge[32..64].fill(0);
    assert_eq!(
        refused(ADD, &three(huge.clone())),
        (0x0108, 3),
        "2^128 elements of no stride"
    );
    huge[16..32].copy_from_slice(&[2, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0]);
    huge[32..64].fill(0xFC);
    assert_eq!(refused(ADD, &three(huge)), (0x0109, 3), "strides that wrap");
    let mut flagged = good.clone();
    flagged[12] = 1;
    assert_eq!(refused(ADD, &three(flagged)), (0x0102, 3));
}

#[test]
fn an_argument_block_must_be_whole_lines_in_memory() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    let mut code = |body| bench.fails(&mut zero, packet(8, ADD, body)).code;
    assert_eq!(code([DATA + 8, 256, 0, 0, 0]), 0x0204);
    assert_eq!(code([DATA, 0, 0, 0, 0]), 0x0106);
    assert_eq!(code([DATA, 100, 0, 0, 0]), 0x0106);
    assert_eq!(code([DATA, 64 * 10, 0, 0, 0]), 0x0106);
    assert_eq!(code([64, 256, 0, 0, 0]), 0x0201);
    assert_eq!(code([DATA, 256 | 1 << 32, 0, 0, 0]), 0x0102, "flags");
    assert_eq!(code([DATA, 256, 0, 0, 1]), 0x0102);
}
