//! Stories of graphs: packets that stand in memory, patched, and run as one.

mod bench_top;

use std::time::Duration;

use bench_top::{Bench, DATA, Driver, HBM, HOST, MIB, STOPPED, copy, fill, nop, packet};

/// ARM, SCRUB and GRAPH.
const FEATURES: u32 = 0b1011;
/// Where images stand.
const IMAGE: u64 = DATA + 64 * MIB;

fn start() -> (Bench, Driver) {
    let bench = Bench::new();
    let zero = bench.queue_zero_with(6, FEATURES);
    (bench, zero)
}

/// A patch, by hand.
fn patch(offset: u32, width: u8, value: u8, scale: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&offset.to_le_bytes());
    bytes[4] = width;
    bytes[5] = value;
    bytes[8..].copy_from_slice(&scale.to_le_bytes());
    bytes
}

/// What a graph is made of.
#[derive(Clone, Default)]
struct Image {
    packets: Vec<[u64; 8]>,
    blocks: Vec<u8>,
    patches: Vec<[u8; 16]>,
}

impl Image {
    fn of(packets: &[[u64; 8]]) -> Self {
        Self {
            packets: packets.to_vec(),
            ..Self::default()
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let words = self.packets.iter().flatten();
        let mut bytes: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend_from_slice(&self.blocks);
        let patches = self.patches.concat();
        bytes.resize((bytes.len() + patches.len()).next_multiple_of(64), 0);
        let at = bytes.len() - patches.len();
        bytes[at..].copy_from_slice(&patches);
        bytes
    }

    /// Stores the image; the INDIRECT packet that runs it.
    fn store(&self, bench: &Bench, at: u64, values: [u32; 6]) -> [u64; 8] {
        let bytes = self.bytes();
        bench.put(at, &bytes);
        self.packet(at, values)
    }

    fn packet(&self, at: u64, values: [u32; 6]) -> [u64; 8] {
        let bytes = self.bytes().len() as u64;
        let pair = |index: usize| u64::from(values[index]) | u64::from(values[index + 1]) << 32;
        let patches = self.patches.len() as u64;
        let body = [at, bytes | patches << 32, pair(0), pair(2), pair(4)];
        packet(0x0A, self.packets.len() as u64, body)
    }
}

/// As one of a graph: the header alone is its own, no deadline.
fn word(at: u64, value: u64) -> [u64; 8] {
    fill(at, 8, value)
}

#[test]
fn a_graph_runs_its_packets_in_order_and_counts_as_one_packet() {
    let (bench, mut zero) = start();
    let image = Image::of(&[
        word(DATA, 1),
        copy(DATA, HBM, 8),
        word(DATA, 2),
        copy(HBM, DATA + 8, 8),
        nop(),
        packet(9, 0, [0; 5]),
    ]);
    let indirect = image.store(&bench, IMAGE, [0; 6]);
    bench.run(&mut zero, indirect);
    assert_eq!(bench.completion(&zero), 1);
    assert_eq!(bench.word(DATA - HOST), 2);
    assert_eq!(bench.word(DATA + 8 - HOST), 1);
    bench.run(&mut zero, nop());
    bench.run(&mut zero, indirect);
    assert_eq!(bench.completion(&zero), 3);
}

#[test]
fn an_image_may_stand_in_hbm() {
    let (bench, mut zero) = start();
    let image = Image::of(&[word(DATA, 77)]);
    image.store(&bench, IMAGE, [0; 6]);
    bench.run(&mut zero, copy(IMAGE, HBM + 4096, 64));
    bench.run(&mut zero, image.packet(HBM + 4096, [0; 6]));
    assert_eq!(bench.word(DATA - HOST), 77);
}

#[test]
fn values_reach_words_of_either_width_through_patches() {
    let (bench, mut zero) = start();
    let mut image = Image::of(&[word(DATA, 1000), word(DATA + 8, 5 << 32 | 6), word(DATA, 0)]);
    image.patches = vec![
        patch(0x28, 8, 0, 3),               // the first pattern: 1000 + 3 x value 0
        patch(0x28, 8, 1, u64::MAX),        // and less value 1
        patch(0x40 + 0x28, 4, 2, 1),        // the low half
        patch(0x40 + 0x2C, 4, 2, u64::MAX), // the high half falls, and does not carry
        patch(0x80 + 0x18, 8, 5, 8),        // an address
        patch(0x80 + 0x28, 4, 4, 1 << 20),  // what is beyond 32 bits is dropped
    ];
    let values = [7, 21, 6, 0, 0xFFFF, 4];
    let indirect = image.store(&bench, IMAGE, values);
    let before = bench.bytes(IMAGE, image.bytes().len());
    for _ in 0..3 {
        bench.run(&mut zero, indirect);
        assert_eq!(bench.word(DATA - HOST), 1000);
        assert_eq!(bench.word(DATA + 8 - HOST), 0xFFFF_FFFF << 32 | 12);
        assert_eq!(bench.word(DATA + 32 - HOST), 0xFFF0_0000);
    }
    assert_eq!(
        bench.bytes(IMAGE, before.len()),
        before,
        "memory stays as it was"
    );
}

#[test]
fn a_launch_takes_its_argument_block_from_the_patched_copy() {
    let (bench, mut zero) = start();
    // SCALE by 2: word 0 of the parameters; a destination and a source of 4 floats.
    let mut blocks = vec![0; 64];
    blocks[..4].copy_from_slice(&2.0f32.to_le_bytes());
    for address in [DATA + MIB, DATA] {
        let mut tensor = vec![0; 64];
        tensor[..8].copy_from_slice(&address.to_le_bytes());
        for (dimension, stride) in [(0, 4u64), (1, 16), (2, 16), (3, 16)] {
            let ne = if dimension == 0 { 4u32 } else { 1 };
            tensor[16 + 4 * dimension..][..4].copy_from_slice(&ne.to_le_bytes());
            tensor[32 + 8 * dimension..][..8].copy_from_slice(&stride.to_le_bytes());
        }
        blocks.extend(tensor);
    }
    let image = Image {
        packets: vec![packet(8, 9, [IMAGE + 64, 192, 0, 0, 0])],
        blocks,
        // Both rows begin value 0 times 16 bytes further on.
        patches: vec![patch(128, 8, 0, 16), patch(192, 8, 0, 16)],
    };
    let floats: Vec<u8> = (0u8..12).flat_map(|i| f32::from(i).to_le_bytes()).collect();
    bench.put(DATA, &floats);
    for row in 0..3u8 {
        bench.run(
            &mut zero,
            image.store(&bench, IMAGE, [row.into(), 0, 0, 0, 0, 0]),
        );
        let found = bench.bytes(DATA + MIB + 16 * u64::from(row), 20);
        let wanted: Vec<u8> = (0..4)
            .flat_map(|i| f32::from(2 * (4 * row + i)).to_le_bytes())
            .chain([0; 4])
            .collect();
        assert_eq!(found, wanted, "row {row}, and not one float more");
    }
}

#[test]
fn every_graph_that_cannot_be_is_refused_before_its_first_packet() {
    let (bench, mut zero) = start();
    let good = Image {
        packets: vec![word(DATA, 1), nop()],
        blocks: vec![0; 64],
        patches: vec![patch(0x28, 8, 0, 1)],
    };
    let indirect = good.store(&bench, IMAGE, [0; 6]);
    let mut refused = |packet: [u64; 8]| {
        bench.set_word(DATA - HOST, 0);
        let record = bench.fails(&mut zero, packet);
        assert_eq!((record.opcode, record.cookie), (0x0A, 0xC00C_1E00));
        assert_eq!(bench.word(DATA - HOST), 0, "nothing ran");
        (record.code, record.detail)
    };
    let with = |at: usize, value: u64| {
        let mut packet = indirect;
        packet[at] = value;
        packet
    };
    assert_eq!(refused(with(3, IMAGE + 8)), (0x0204, [0x18, 0, 0, 0]));
    assert_eq!(refused(with(0, 0x0A)), (0x0103, [4, 0, 0, 0]));
    let many = 0x4001;
    assert_eq!(
        refused(with(0, 0x0A | many << 32)),
        (0x0103, [4, many, 0, 0])
    );
    assert_eq!(refused(with(4, 200 | 1 << 32)), (0x0103, [0x20, 200, 0, 0]));
    let large = (4 << 20) + 64;
    assert_eq!(refused(with(4, large)), (0x0103, [0x20, large, 0, 0]));
    assert_eq!(refused(with(4, 64)), (0x0103, [0x20, 64, 0, 0]));
    assert_eq!(refused(with(4, 128 | 1 << 32)), (0x0103, [0x24, 1, 0, 0]));
    let most = 0xFFFF_FFFF;
    assert_eq!(
        refused(with(4, 256 | most << 32)),
        (0x0103, [0x24, most, 0, 0])
    );
    assert_eq!(refused(with(3, 0x40)).0, 0x0201, "nobody mapped it");
    assert_eq!(refused(with(3, HOST + 200 * MIB - 64)).0, 0x0201, "its end");
    assert_eq!(refused(with(3, u64::MAX - 63)).0, 0x0201, "wraps round");

    let mut patched = |bytes: [u8; 16]| {
        let mut image = good.clone();
        image.patches.push(bytes);
        let (code, detail) = refused(image.store(&bench, IMAGE, [0; 6]));
        assert_eq!(detail[2..], [2, 2], "the second patch");
        (code, detail[0], detail[1])
    };
    assert_eq!(patched(patch(0x28, 3, 0, 1)), (0x0103, 4, 3));
    assert_eq!(patched(patch(0x28, 0, 0, 1)), (0x0103, 4, 0));
    assert_eq!(patched(patch(0x28, 8, 6, 1)), (0x0103, 5, 6));
    assert_eq!(
        patched(patch(0x2C, 8, 0, 1)),
        (0x0103, 0, 0x2C),
        "misaligned"
    );
    for offset in [0, 8, 0x10, 0x40, 0x50] {
        let header = patched(patch(offset, 8, 0, 1));
        assert_eq!(header, (0x0103, 0, offset.into()), "not in a body");
    }
    assert_eq!(patched(patch(0xE0, 8, 0, 1)), (0x0103, 0, 0xE0), "a patch");
    assert_eq!(patched(patch(0xFFFF_FFF8, 8, 0, 1)).0, 0x0103);
    let mut odd = patch(0x28, 8, 0, 1);
    odd[7] = 1;
    assert_eq!(patched(odd), (0x0102, 6, 0));

    let mut holds = |packet: [u64; 8]| {
        let mut image = good.clone();
        image.packets[1] = packet;
        let (code, detail) = refused(image.store(&bench, IMAGE, [0; 6]));
        assert_eq!(detail[3], 2, "the second packet");
        (code, detail[0])
    };
    assert_eq!(holds(indirect), (0x0104, 0), "graphs do not nest");
    assert_eq!(holds(packet(0x10, 3, [0; 5])), (0x0104, 0), "MANAGE");
    assert_eq!(holds(packet(0x0B, 0, [0; 5])), (0x0101, 0x0B), "REPLAY");
    assert_eq!(holds(packet(0xFF, 0, [0; 5])), (0x0101, 0xFF));
    assert_eq!(holds([0; 8]), (0x0101, 0), "no opcode");
    let mut bad = nop();
    bad[0] |= 1 << 8;
    assert_eq!(holds(bad), (0x0102, 1), "validity bit");
    bad[0] = 1 | 1 << 31;
    assert_eq!(holds(bad), (0x0102, 1));
    bad = nop();
    bad[2] = 1;
    assert_eq!(holds(bad), (0x0102, 0x10), "deadline");

    bench.run(&mut zero, good.store(&bench, IMAGE, [4, 0, 0, 0, 0, 0]));
    assert_eq!(bench.word(DATA - HOST), 5, "and the queue runs");
}

#[test]
fn a_failure_inside_names_the_packet_and_stops_there() {
    let (bench, mut zero) = start();
    let stray = HOST + 200 * MIB;
    let image = Image::of(&[word(DATA, 1), copy(DATA, stray, 8), word(DATA, 2)]);
    let mut indirect = image.store(&bench, IMAGE, [0; 6]);
    indirect[1] = 0xFEED;
    let record = bench.fails(&mut zero, indirect);
    assert_eq!((record.code, record.address), (0x0202, stray));
    assert_eq!((record.opcode, record.cookie), (2, 0xFEED));
    assert_eq!(record.detail[3], 2, "the second packet");
    assert_eq!(bench.word(DATA - HOST), 1, "the third did not run");
    let image = Image::of(&[packet(8, 999, [DATA, 64, 0, 0, 0])]);
    let record = bench.fails(&mut zero, image.store(&bench, IMAGE, [0; 6]));
    assert_eq!(
        (record.code, record.kernel, record.detail[3]),
        (0x0105, 999, 1)
    );
    bench.run(
        &mut zero,
        Image::of(&[word(DATA, 3)]).store(&bench, IMAGE, [0; 6]),
    );
    assert_eq!(bench.word(DATA - HOST), 3);
}

/// WAIT for a fence in host memory, at least the value.
fn wait(fence: u64, value: u64) -> [u64; 8] {
    packet(6, 1, [fence, value, 0, 0, 0])
}

fn signal(fence: u64, value: u64) -> [u64; 8] {
    packet(5, 0, [fence, value, 0, 0, 0])
}

#[test]
fn graphs_on_two_queues_take_turns_by_fences() {
    let (bench, mut zero) = start();
    let mut one = bench.queue(&mut zero, 1, 4);
    let (there, back) = (DATA + MIB, DATA + MIB + 8);
    // Each run waits for its number and raises the next, the values of patches.
    let mut first = Image::of(&[wait(back, 0), copy(DATA, HBM, 8), signal(there, 1)]);
    first.patches = vec![patch(0x20, 8, 0, 1), patch(0xA0, 8, 0, 1)];
    let mut second = Image::of(&[wait(there, 1), copy(HBM, DATA, 8), signal(back, 1)]);
    second.patches = first.patches.clone();
    first.store(&bench, IMAGE, [0; 6]);
    second.store(&bench, IMAGE + MIB, [0; 6]);
    for run in 0..10 {
        let values = [run, 0, 0, 0, 0, 0];
        bench.submit(&mut one, second.packet(IMAGE + MIB, values));
        bench.submit(&mut zero, first.packet(IMAGE, values));
    }
    bench.wait(&one, 10);
    bench.wait(&zero, 11);
    assert_eq!(bench.word(back - HOST), 10);
}

#[test]
fn a_graph_that_waits_holds_up_its_own_queue_only() {
    let (bench, mut zero) = start();
    let mut one = bench.queue(&mut zero, 1, 4);
    let fence = DATA + MIB;
    let image = Image::of(&[word(DATA, 1), wait(fence, 5), word(DATA, 2)]);
    let held = image.store(&bench, IMAGE, [0; 6]);
    bench.submit(&mut one, held);
    for _ in 0..20 {
        bench.run(&mut zero, nop());
    }
    assert_eq!((bench.completion(&one), bench.word(DATA - HOST)), (0, 1));
    bench.set_word(fence - HOST, 5);
    bench.wait(&one, 1);
    assert_eq!(bench.word(DATA - HOST), 2);
}

#[test]
fn the_deadline_of_a_graph_is_the_indirect_packets() {
    let (bench, mut zero) = start();
    let image = Image::of(&[nop(), wait(DATA + MIB, 1), word(DATA, 2)]);
    let mut indirect = image.store(&bench, IMAGE, [0; 6]);
    indirect[2] = bench.read64(0x38) + 20_000_000;
    let record = bench.fails(&mut zero, indirect);
    assert_eq!(
        (record.code, record.opcode, record.detail[3]),
        (0x0301, 6, 2)
    );
    assert_eq!(bench.word(DATA - HOST), 0);
    indirect[2] = 1;
    let record = bench.fails(&mut zero, indirect);
    assert_eq!(
        (record.code, record.opcode, record.detail[3]),
        (0x0301, 0x0A, 0)
    );
}

#[test]
fn resets_in_the_middle_take_the_whole_graph_away() {
    let (bench, mut zero) = start();
    let mut one = bench.queue(&mut zero, 1, 4);
    let fence = DATA + MIB;
    let image = Image::of(&[word(DATA, 1), wait(fence, 1), word(DATA, 2)]);
    let held = image.store(&bench, IMAGE, [0; 6]);
    bench.submit(&mut one, held);
    bench.until("it waits", || bench.word(DATA - HOST) == 1);
    bench.write(0x088, 1 | 1 << 16);
    bench.wait(&one, STOPPED);
    let record = bench.record(&one, 0);
    assert_eq!(
        (record.code, record.opcode, record.detail[3]),
        (0x0404, 6, 2)
    );
    bench.set_word(fence - HOST, 1);
    bench.resume(&one, 2);
    bench.wait(&one, 1);
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(bench.word(DATA - HOST), 1, "what was behind it never runs");
    bench.run(&mut one, held);
    assert_eq!(
        bench.word(DATA - HOST),
        2,
        "a new one runs from its first packet"
    );

    bench.set_word(fence - HOST, 0);
    bench.submit(&mut one, held);
    bench.until("it waits again", || bench.word(DATA - HOST) == 1);
    let before = bench.completion(&one);
    bench.write(0x088, 4);
    bench.until("the device is reset", || bench.read64(0x028) == 2);
    bench.set_word(fence - HOST, 1);
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(
        (bench.completion(&one), bench.word(DATA - HOST)),
        (before, 1)
    );
}

#[test]
fn a_graph_runs_on_from_its_copy_whatever_becomes_of_its_image() {
    let (bench, mut zero) = start();
    let mut one = bench.queue(&mut zero, 1, 4);
    let fence = DATA + MIB;
    let image = Image::of(&[wait(fence, 1), word(DATA, 2), wait(fence, 2), word(DATA, 3)]);
    let held = image.store(&bench, IMAGE, [0; 6]);
    bench.submit(&mut one, held);
    std::thread::sleep(Duration::from_millis(5));
    bench.put(IMAGE, &[0xFF; 256]);
    bench.set_word(fence - HOST, 1);
    bench.until("the second", || bench.word(DATA - HOST) == 2);
    bench.set_word(fence - HOST, 2);
    bench.wait(&one, 1);
    assert_eq!(bench.word(DATA - HOST), 3);
    let record = bench.fails(&mut one, held);
    assert_eq!(
        (record.code, record.detail[3]),
        (0x0101, 1),
        "now it is garbage"
    );
}

#[test]
fn a_quiesce_puts_a_graph_off_and_it_goes_on_where_it_was() {
    let (bench, mut zero) = start();
    let mut one = bench.queue(&mut zero, 1, 4);
    let fence = DATA + MIB;
    let image = Image::of(&[word(DATA, 1), wait(fence, 1), word(DATA, 2)]);
    let held = image.store(&bench, IMAGE, [0; 6]);
    bench.submit(&mut one, held);
    bench.until("it waits", || bench.word(DATA - HOST) == 1);
    bench.write(0x080, 1);
    bench.until("idle", || bench.read(0x084) & 1 << 4 != 0);
    bench.set_word(fence - HOST, 1);
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!((bench.completion(&one), bench.word(DATA - HOST)), (0, 1));
    bench.write(0x080, 0);
    bench.wait(&one, 1);
    assert_eq!(bench.word(DATA - HOST), 2);
}

#[test]
fn garbage_never_runs_away() {
    let (bench, mut zero) = start();
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let guard = DATA + 32 * MIB;
    bench.put(guard, &[0x5A; 4096]);
    for _ in 0..400 {
        let mut image = Image::of(&[nop(), word(DATA, 1), copy(DATA, HBM, 64), nop()]);
        image.blocks = vec![0; 256];
        image.patches = (0..4).map(|_| patch(0x28, 8, 0, 1)).collect();
        let indirect = image.store(&bench, IMAGE, [1; 6]);
        // One word of the image is anything.
        let at = random() % (image.bytes().len() as u64 / 8);
        let mut value = random();
        if random() & 1 == 0 {
            value &= 0x1F_0000_00FF;
        }
        bench.set_word(IMAGE - HOST + 8 * at, value);
        let sequence = bench.submit(&mut zero, indirect);
        bench.until("it ends", || {
            let word = bench.completion(&zero);
            word == sequence || word == (sequence - 1) | STOPPED
        });
        if bench.completion(&zero) & STOPPED != 0 {
            bench.resume(&zero, sequence + 1);
            bench.wait(&zero, sequence);
        }
    }
    assert_eq!(bench.bytes(guard, 4096), [0x5A; 4096]);
}
