//! Stories of profiles: what each packet took, told to its queue and to whoever watches the card.

mod bench_top;

use std::time::Duration;

use bench_top::{Bench, DATA, Driver, HBM, HOST, MIB, copy, fill, nop, packet};
use jalapeno_stopwatch::calmly;

/// ARM, SCRUB, PROFILE and GRAPH.
const FEATURES: u32 = 0b1111;
/// Where queue 1's profile ring stands.
const RING: u64 = DATA + 32 * MIB;
/// PROFILE_COUNT, and where the card's ring is.
const COUNT: u64 = 0x0B0;
const CARD_RING: u64 = 0x18000;
/// What the emulator's idle card draws, in nanojoules a nanosecond times 1000.
const IDLE_MILLIWATTS: u64 = 85_000;

/// A record, by hand from the document.
#[derive(Debug, PartialEq)]
struct Profile {
    sequence: u64,
    cookie: u64,
    start: u64,
    end: u64,
    energy_nj: u64,
    bytes: u64,
    operations: u64,
    queue: u64,
    opcode: u64,
    status: u64,
    kernel: u64,
}

fn parse(bytes: &[u8]) -> Profile {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let last = word(0x38);
    Profile {
        sequence: word(0),
        cookie: word(8),
        start: word(0x10),
        end: word(0x18),
        energy_nj: word(0x20),
        bytes: word(0x28),
        operations: word(0x30),
        queue: last & 0xFFFF,
        opcode: last >> 16 & 0xFF,
        status: last >> 24 & 0xFF,
        kernel: last >> 32,
    }
}

/// A queue 1 of 2^depth_log2 packets with a profile ring; the result of asking for it.
fn shape(driver: &Driver, depth_log2: u8, profile: u64) -> Vec<u8> {
    let mut shape = vec![1, 0, 0, 0, depth_log2, 2, 2, 0];
    for address in [driver.ring, driver.completion, driver.errors] {
        shape.extend_from_slice(&(HOST + address).to_le_bytes());
    }
    shape.extend_from_slice(&profile.to_le_bytes());
    shape.resize(64, 0);
    shape
}

const CREATE: [u64; 8] = [0x10 | 1 << 32, 0, 0, DATA - 4096, 0, 64, 0, 0];

fn start(features: u32) -> (Bench, Driver) {
    let bench = Bench::new();
    let zero = bench.queue_zero_with(6, features);
    (bench, zero)
}

fn profiled(bench: &Bench, zero: &mut Driver) -> Driver {
    let driver = Bench::place(1, 2, 2);
    bench.put(DATA - 4096, &shape(&driver, 2, RING));
    bench.run(zero, CREATE);
    driver
}

fn own(bench: &Bench, sequence: u64) -> Profile {
    parse(&bench.bytes(RING + (sequence - 1) % 4 * 64, 64))
}

/// Records of the card's ring with these numbers, counted from 1.
fn card_ring(bench: &Bench, numbers: std::ops::RangeInclusive<u64>) -> Vec<Profile> {
    let record = |number: u64| {
        let mut bytes = [0; 64];
        let at = CARD_RING + (number - 1) % 512 * 64;
        bench.card.read_registers(at, &mut bytes);
        parse(&bytes)
    };
    numbers.map(record).collect()
}

#[test]
fn a_completed_packet_has_its_record_in_its_slot_with_what_it_moved() {
    let (bench, mut zero) = start(FEATURES);
    let mut one = profiled(&bench, &mut zero);
    let mut asked = copy(DATA, HBM, 4096);
    asked[1] = 0xC0FFEE;
    bench.run(&mut one, asked);
    let first = own(&bench, 1);
    assert_eq!(
        (first.sequence, first.cookie, first.queue),
        (1, 0xC0FFEE, 1)
    );
    assert_eq!((first.opcode, first.status, first.kernel), (2, 0, 0));
    assert_eq!(first.bytes, 8192, "4096 over the link and 4096 into HBM");
    assert!(first.start < first.end && first.end <= bench.read64(0x038));
    // The model: 31.2 nJ and 48 nJ a thousand bytes, 20 nJ a packet, and the idle card meanwhile.
    let idle = (first.end - first.start) * IDLE_MILLIWATTS / 1000;
    let work = 4096 * (31_200 + 48_000) / 1_000_000 + 20;
    assert!(
        first.energy_nj.abs_diff(idle + work) <= 2,
        "{first:?}: {idle} + {work}"
    );
    for _ in 0..4 {
        bench.run(&mut one, nop());
    }
    assert_eq!(own(&bench, 5).sequence, 5, "packet 5 took packet 1's slot");
    assert_eq!((own(&bench, 5).opcode, own(&bench, 5).bytes), (1, 0));
}

#[test]
fn a_failed_packet_has_a_record_that_says_so() {
    let (bench, mut zero) = start(FEATURES);
    let mut one = profiled(&bench, &mut zero);
    bench.fails(&mut one, copy(0x10, HBM, 4096));
    assert_eq!((own(&bench, 1).sequence, own(&bench, 1).status), (1, 1));
}

#[test]
fn what_waits_for_a_fence_took_time_and_hardly_any_energy() {
    let (bench, mut zero) = start(FEATURES);
    let mut one = profiled(&bench, &mut zero);
    bench.put(DATA, &0u64.to_le_bytes());
    bench.submit(&mut one, packet(6, 1, [DATA, 7, 0, 0, 0]));
    std::thread::sleep(Duration::from_millis(30));
    bench.put(DATA, &7u64.to_le_bytes());
    bench.wait(&one, 1);
    let waited = own(&bench, 1);
    let took = waited.end - waited.start;
    assert!(took > 25_000_000, "{waited:?}");
    assert!(
        waited.energy_nj < took * IDLE_MILLIWATTS / 1000 / 20,
        "{waited:?}"
    );
}

#[test]
fn a_graph_has_one_record_for_all_its_packets() {
    let (bench, mut zero) = start(FEATURES);
    let mut one = profiled(&bench, &mut zero);
    let image: Vec<u8> = [fill(HBM, 4096, 1), fill(HBM + 4096, 4096, 2)]
        .iter()
        .flatten()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    bench.put(DATA + MIB, &image);
    bench.run(&mut one, packet(0x0A, 2, [DATA + MIB, 128, 0, 0, 0]));
    let graph = own(&bench, 1);
    assert_eq!((graph.sequence, graph.opcode, graph.kernel), (1, 10, 2));
    assert!(graph.bytes >= 8192, "{graph:?}");
    bench.run(&mut one, nop());
    assert_eq!(own(&bench, 2).sequence, 2, "its packets had no slots");
}

#[test]
fn the_cards_ring_is_off_until_somebody_asks_and_off_again_a_second_later() {
    calmly(|| {
        let (bench, mut zero) = start(FEATURES);
        bench.run(&mut zero, nop());
        assert!(!bench.card.profile.is_asked());
        assert_eq!(bench.read64(COUNT), 0, "nobody had asked");
        bench.run(&mut zero, fill(DATA, 64, 0));
        assert_eq!(bench.read64(COUNT), 1);
        let seen = card_ring(&bench, 1..=1);
        assert_eq!((seen[0].sequence, seen[0].queue, seen[0].opcode), (2, 0, 4));
        std::thread::sleep(Duration::from_millis(1050));
        bench.run(&mut zero, nop());
        assert!(!bench.card.profile.is_asked(), "nobody went on asking");
        assert_eq!(bench.read64(COUNT), 1);
    });
}

#[test]
fn observers_share_the_cards_ring_and_one_that_is_slow_can_count_what_it_lost() {
    calmly(|| {
        let (bench, mut zero) = start(FEATURES);
        let mut one = profiled(&bench, &mut zero);
        assert_eq!(bench.read64(COUNT), 0);
        for _ in 0..600 {
            bench.run(&mut one, nop());
        }
        let count = bench.read64(COUNT);
        assert_eq!(count, 600);
        // Records 1 to 89 are gone or may be written over now: r + 512 <= m + 1.
        let kept = card_ring(&bench, 90..=600);
        let sequences: Vec<_> = kept.iter().map(|record| record.sequence).collect();
        assert_eq!(sequences, (90..=600).collect::<Vec<_>>());
        // A second reader finds the same, and nothing was taken from it.
        assert_eq!(card_ring(&bench, 90..=600), kept);
    });
}

#[test]
fn the_records_energies_sum_up_to_the_energy_counter_within_one_percent() {
    let (bench, mut zero) = start(FEATURES);
    let mut one = profiled(&bench, &mut zero);
    let stamp = |at| packet(7, 0, [at, 0, 0, 0, 0]);
    // ENERGY in nanojoules, from a TIMESTAMP.
    let energy = |at| {
        let bytes = bench.bytes(at + 8, 8);
        u64::from_le_bytes(bytes.try_into().unwrap()) * 1000
    };
    // Four packets by one doorbell: the device is never idle between them. Only the host may keep
    // its thread from running there, which no record holds: the best of some rounds is the device's.
    let round = || {
        let fills = [3, 4].map(|pattern| fill(HBM, 16 * MIB, pattern));
        for packet in [stamp(DATA), fills[0], fills[1], stamp(DATA + 64)] {
            bench.store(&mut one, packet);
        }
        let last = one.sent;
        bench.ring(&one, last);
        bench.wait(&one, last);
        let sum: u64 = (last - 2..last).map(|seq| own(&bench, seq).energy_nj).sum();
        let counted = energy(DATA + 64) - energy(DATA);
        println!("{sum} nJ in records, {counted} nJ counted");
        sum.abs_diff(counted) as f64 / counted as f64
    };
    let off: Vec<f64> = std::iter::repeat_with(round).take(8).collect();
    let least = off.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(least < 0.01, "{off:?}");
}

#[test]
fn a_ring_that_cannot_be_is_refused_with_its_reason() {
    let (bench, mut zero) = start(0b1011);
    let driver = Bench::place(1, 2, 2);
    bench.put(DATA - 4096, &shape(&driver, 2, RING));
    let record = bench.fails(&mut zero, CREATE);
    assert_eq!(
        (record.code, record.detail[0]),
        (0x0102, 0x20),
        "not accepted"
    );
    let (bench, mut zero) = start(FEATURES);
    for (profile, code) in [
        (RING + 32, 0x0403),      // misaligned
        (u64::MAX - 63, 0x0403),  // no IOVA
        ((1 << 48) - 64, 0x0403), // its end above IOVA.last
        (0x40, 0x0202),           // nobody mapped it
    ] {
        bench.put(DATA - 4096, &shape(&driver, 2, profile));
        let record = bench.fails(&mut zero, CREATE);
        assert_eq!(record.code, code, "{profile:#x}");
        let next = zero.sent + 1;
        bench.resume(&zero, next);
        bench.until("it runs again", || bench.completion(&zero) == next - 1);
    }
}
