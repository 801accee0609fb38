//! Stories of priority bands: who goes first, who shares, and that nobody starves.

mod bench_top;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use bench_top::{Bench, DATA, Driver, HBM, HOST, MIB, STOPPED, fill, nop, packet};
use jalapeno_emulator::faults::Order;
use jalapeno_emulator::identity::Options;
use jalapeno_stopwatch::calmly;

const NORMAL: u32 = 0;
const LOW: u32 = 1;
const HIGH: u32 = 2;
const REALTIME: u32 = 3;
/// A pattern whose bytes are equal takes no time of its own.
const EVEN: u64 = 0;
/// ARM, SCRUB, PROFILE, GRAPH, PRIORITY.
const FEATURES: u32 = 0b1_1111;

fn bench(threads: usize) -> Bench {
    Bench::with(Options {
        hbm_bytes: 512 * MIB,
        resident_limit: 512 * MIB,
        threads,
        ..Options::default()
    })
}

/// Where a queue's profile ring stands.
fn profile(number: u32) -> u64 {
    DATA + 32 * MIB + u64::from(number) * MIB
}

/// QUEUE_CREATE with a priority, in queue 0's words.
fn creation(bench: &Bench, number: u32, priority: u32) -> (Driver, [u64; 8]) {
    let driver = Bench::place(number, 6, 2);
    let mut shape = number.to_le_bytes().to_vec();
    shape.extend_from_slice(&[6, 2]);
    shape.extend_from_slice(&(u16::try_from(number).unwrap() + 1).to_le_bytes());
    for address in [driver.ring, driver.completion, driver.errors] {
        shape.extend_from_slice(&(HOST + address).to_le_bytes());
    }
    shape.extend_from_slice(&profile(number).to_le_bytes());
    shape.extend_from_slice(&priority.to_le_bytes());
    shape.resize(64, 0);
    bench.put(DATA - 4096, &shape);
    (driver, packet(0x10, 1, [DATA - 4096, 0, 64, 0, 0]))
}

fn queue(bench: &Bench, zero: &mut Driver, number: u32, priority: u32) -> Driver {
    let (driver, packet) = creation(bench, number, priority);
    bench.run(zero, packet);
    driver
}

/// A matrix product that takes minutes: rows of weights and of activations, repeated.
fn endless(bench: &Bench) -> [u64; 8] {
    product(
        bench,
        &[
            (HBM, 0, [1 << 22, 8, 1, 1], [4, 1 << 24, 0, 0]),
            (HBM + 240 * MIB, 30, [4096, 1 << 22, 1, 1], [2, 0, 0, 0]),
            (HBM + 240 * MIB, 30, [4096, 8, 1, 1], [2, 0, 0, 0]),
        ],
    )
}

/// A matrix product of operands by address, type, sizes and strides.
fn product(bench: &Bench, operands: &[(u64, u32, [u32; 4], [u64; 4])]) -> [u64; 8] {
    let mut block = vec![0; 64];
    for (address, dtype, ne, nb) in operands {
        block.extend(address.to_le_bytes());
        block.extend(dtype.to_le_bytes());
        block.extend([0; 4]);
        block.extend(ne.iter().flat_map(|n| n.to_le_bytes()));
        block.extend(nb.iter().flat_map(|n| n.to_le_bytes()));
    }
    bench.put(DATA, &block);
    packet(8, 3, [DATA, block.len() as u64, 0, 0, 0])
}

/// Takes an endless packet of a queue away.
fn reset(bench: &Bench, driver: &Driver, level: u32) {
    bench.write(0x088, level | driver.number << 16);
    bench.until("the reset is done", || bench.read(0x08C) & 0xF == 2);
}

#[test]
fn a_realtime_packet_does_not_wait_for_the_end_of_a_long_kernel() {
    for threads in [1, 2] {
        let bench = bench(threads);
        let mut zero = bench.queue_zero_with(4, FEATURES);
        let mut low = queue(&bench, &mut zero, 1, LOW);
        let mut urgent = queue(&bench, &mut zero, 2, REALTIME);
        let long = bench.submit(&mut low, endless(&bench));
        std::thread::sleep(Duration::from_millis(20));
        // 20 packets of all kinds pass a kernel that takes minutes.
        for _ in 0..10 {
            bench.run(&mut urgent, nop());
            bench.run(&mut urgent, fill(HBM + 200 * MIB, 4096, 5));
        }
        assert_eq!(bench.completion(&low), long - 1, "{threads} threads");
        // One that fails stops its queue and nothing else; RESUME is seen too.
        let record = bench.fails(&mut urgent, packet(0xEE, 0, [0; 5]));
        assert_eq!(record.queue, 2);
        bench.run(&mut urgent, nop());
        // The long one is still there to be reset, and the realtime queue is not touched.
        reset(&bench, &low, 1);
        bench.wait(&low, (long - 1) | STOPPED);
        bench.run(&mut urgent, nop());
    }
}

#[test]
fn a_reset_of_the_realtime_queue_leaves_the_interrupted_packet_alone() {
    let bench = bench(1);
    let mut zero = bench.queue_zero_with(4, FEATURES);
    let mut low = queue(&bench, &mut zero, 1, LOW);
    let mut urgent = queue(&bench, &mut zero, 2, REALTIME);
    let bytes = 200 * MIB;
    let slow = bench.submit(&mut low, fill(HBM, bytes, 0x0102_0304_0506_0708));
    let taken = bench.submit(&mut urgent, endless(&bench));
    std::thread::sleep(Duration::from_millis(5));
    reset(&bench, &urgent, 1);
    bench.wait(&urgent, (taken - 1) | STOPPED);
    bench.wait(&low, slow);
    bench.resume(&urgent, taken + 1);
    bench.wait(&urgent, taken);
    bench.run(&mut urgent, nop());
}

#[test]
fn a_realtime_packet_is_not_interrupted_and_its_deadline_ends_it() {
    let bench = bench(1);
    let mut zero = bench.queue_zero_with(4, FEATURES);
    let mut low = queue(&bench, &mut zero, 1, LOW);
    let mut urgent = queue(&bench, &mut zero, 2, REALTIME);
    let mut long = endless(&bench);
    long[2] = bench.read64(0x038) + 300_000_000;
    let late = bench.submit(&mut urgent, long);
    std::thread::sleep(Duration::from_millis(20));
    let held = bench.submit(&mut low, nop());
    std::thread::sleep(Duration::from_millis(40));
    // REALTIME_BURST is over, and is looked at between packets only.
    let seen = bench.completion(&urgent);
    let over = bench.read64(0x038) >= long[2];
    assert!(seen == late - 1 || over, "it was ended: {seen:#x}");
    bench.wait(&low, held);
    assert_eq!(
        bench.completion(&urgent),
        (late - 1) | STOPPED,
        "it ended first"
    );
    let deadline = 0x0301;
    assert_eq!(bench.record(&urgent, 0).code, deadline);
}

/// Begins a reset of a queue that takes 30 ms, which the engine spends outside the gate.
fn slow_reset(bench: &Bench, driver: &Driver) {
    let slow = "reset-overruns".parse::<Order>().unwrap();
    bench.card.injector.arm(slow);
    bench.write(0x088, 1 | driver.number << 16);
    std::thread::sleep(Duration::from_millis(8));
}

#[test]
fn a_stop_during_a_reset_within_a_long_kernel_is_not_forgotten() {
    for threads in [1, 2] {
        let bench = bench(threads);
        let mut zero = bench.queue_zero_with(4, FEATURES);
        let mut low = queue(&bench, &mut zero, 1, LOW);
        let urgent = queue(&bench, &mut zero, 2, REALTIME);
        bench.submit(&mut low, endless(&bench));
        std::thread::sleep(Duration::from_millis(20));
        slow_reset(&bench, &urgent);
        let (ended, end) = mpsc::channel();
        std::thread::spawn(move || {
            drop(bench); // orders the stop and waits for the engine
            let _ = ended.send(());
        });
        let end = end.recv_timeout(Duration::from_secs(30));
        assert!(end.is_ok(), "{threads} threads: it runs on");
    }
}

#[test]
fn a_reset_within_a_long_kernel_lets_no_memory_go_that_its_threads_touch() {
    let bench = bench(2);
    let mut zero = bench.queue_zero_with(4, FEATURES);
    let mut low = queue(&bench, &mut zero, 1, LOW);
    let urgent = queue(&bench, &mut zero, 2, REALTIME);
    // The destination by an address of its own, in memory full of what the kernel does not store.
    let (window, bytes) = (HOST + 1024 * MIB, 32 * MIB);
    let place = DATA + 80 * MIB;
    bench.slot.map(window, place - HOST, bytes, true);
    let length = usize::try_from(bytes).unwrap();
    bench.put(place, &vec![0xFF; length]);
    let (m, n) = (1u32 << 20, 8u32);
    let packet = product(
        &bench,
        &[
            (window, 0, [m, n, 1, 1], [4, 4 << 20, 0, 0]),
            (HBM + 240 * MIB, 30, [4096, m, 1, 1], [2, 0, 0, 0]),
            (HBM + 240 * MIB, 30, [4096, n, 1, 1], [2, 0, 0, 0]),
        ],
    );
    let long = bench.submit(&mut low, packet);
    std::thread::sleep(Duration::from_millis(20));
    slow_reset(&bench, &urgent);
    bench.slot.unmap(window);
    let before = bench.bytes(place, length);
    std::thread::sleep(Duration::from_millis(60));
    assert!(before == bench.bytes(place, length), "it was written to");
    bench.wait(&low, (long - 1) | STOPPED);
}

#[test]
fn realtime_packets_without_end_leave_a_piece_of_the_time_to_others() {
    let bench = bench(1);
    let mut zero = bench.queue_zero_with(4, FEATURES);
    let mut low = queue(&bench, &mut zero, 1, LOW);
    let mut urgent = queue(&bench, &mut zero, 2, REALTIME);
    // Never idle: there are always packets ahead of it.
    let work = || fill(HBM, 16 * MIB, EVEN);
    let last = bench.submit(&mut low, fill(HBM + 32 * MIB, 4 * MIB, 3));
    let end = Instant::now() + Duration::from_secs(60);
    while bench.completion(&low) != last {
        assert!(Instant::now() < end, "the low one starved");
        while urgent.sent < bench.completion(&urgent) + 32 {
            bench.submit(&mut urgent, work());
        }
    }
    assert!(bench.completion(&urgent) > 0);
}

/// What a queue had: packets' device time by its own profile ring, all in all and the longest, in
/// nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Had {
    seen: u64,
    all: u64,
    longest: u64,
}

impl Had {
    /// Adds the records of the packets up to `done`.
    fn look(&mut self, bench: &Bench, number: u32, done: u64) {
        for sequence in self.seen + 1..=done {
            let at = profile(number) - HOST + ((sequence - 1) & 63) * 64;
            assert_eq!(bench.word(at), sequence, "its record is there");
            let took = bench.word(at + 0x18) - bench.word(at + 0x10);
            self.all += took;
            self.longest = self.longest.max(took);
        }
        self.seen = done;
    }
}

/// Queues that always have work, fills of so many MiB each, until so many packets are done.
fn contest(bench: &Bench, drivers: &mut [(Driver, u64)], packets: u64) -> Vec<Had> {
    let work = |driver: &Driver, mib: u64| {
        let to = HBM + 64 * MIB * u64::from(driver.number);
        fill(to, mib * MIB, EVEN)
    };
    // Memory that is touched for the first time takes longer.
    let warm = |(driver, _): &mut (Driver, u64)| {
        bench.run(driver, work(driver, 16));
        Had {
            seen: driver.sent,
            ..Had::default()
        }
    };
    let mut had: Vec<_> = drivers.iter_mut().map(warm).collect();
    // Nothing is fetched until every queue is full.
    bench.slot.set_bus_master(false);
    for (driver, mib) in drivers.iter_mut() {
        for _ in 0..60 {
            bench.submit(driver, work(driver, *mib));
        }
    }
    bench.slot.set_bus_master(true);
    while had.iter().map(|had| had.seen).sum::<u64>() < packets {
        for (had, (driver, mib)) in had.iter_mut().zip(drivers.iter_mut()) {
            let done = bench.completion(driver);
            had.look(bench, driver.number, done);
            while driver.sent < done + 60 {
                bench.submit(driver, work(driver, *mib));
            }
            assert!(driver.sent > bench.completion(driver), "never without work");
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    println!("{had:?}");
    had
}

/// What fair queueing promises, whatever the host does to single packets: at any moment, times
/// counted by their weights differ by no more than the two queues' longest packets, and the one that
/// each ran before anybody was known to contend.
fn is_fair(had: &[Had], costs: &[u64]) {
    for (one, cost_one) in had.iter().zip(costs) {
        for (other, cost_other) in had.iter().zip(costs) {
            let ahead = (one.all * cost_one).saturating_sub(other.all * cost_other);
            let bound = 2 * (one.longest * cost_one + other.longest * cost_other);
            assert!(ahead <= bound, "{ahead} ns of {bound}: {had:?}");
        }
    }
}

#[test]
fn queues_of_a_band_share_alike_whatever_the_size_of_their_packets() {
    calmly(|| {
        let bench = bench(1);
        let mut zero = bench.queue_zero_with(4, FEATURES);
        let mut drivers: Vec<_> = [(1, 4), (2, 16), (3, 8)]
            .into_iter()
            .map(|(number, mib)| (queue(&bench, &mut zero, number, NORMAL), mib))
            .collect();
        is_fair(&contest(&bench, &mut drivers, 400), &[1, 1, 1]);
    });
}

#[test]
fn bands_share_by_their_weights_and_low_is_not_starved() {
    calmly(|| {
        let bench = bench(1);
        let mut zero = bench.queue_zero_with(4, FEATURES);
        let mut drivers: Vec<_> = [(1, HIGH), (2, NORMAL), (3, LOW)]
            .into_iter()
            .map(|(number, band)| (queue(&bench, &mut zero, number, band), 4))
            .collect();
        // 8 : 4 : 1.
        is_fair(&contest(&bench, &mut drivers, 800), &[1, 2, 8]);
    });
}

#[test]
fn a_band_that_does_not_exist_is_refused_by_name() {
    let bench = bench(1);
    let mut zero = bench.queue_zero_with(4, FEATURES);
    for priority in [4, u32::MAX] {
        let (_, packet) = creation(&bench, 1, priority);
        let record = bench.fails(&mut zero, packet);
        let shape = 0x0403;
        assert_eq!((record.code, record.detail[0]), (shape, 0x28));
    }
    // The number is still free.
    let mut queue = queue(&bench, &mut zero, 1, REALTIME);
    bench.run(&mut queue, nop());
}

#[test]
fn without_the_feature_a_priority_is_a_reserved_field() {
    let bench = bench(1);
    let mut zero = bench.queue_zero_with(4, 0b1111);
    let (_, packet) = creation(&bench, 1, LOW);
    let record = bench.fails(&mut zero, packet);
    let reserved = 0x0102;
    assert_eq!((record.code, record.detail[0]), (reserved, 0x28));
}
