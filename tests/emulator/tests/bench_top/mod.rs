//! A card on the bench: driven by hand through its registers, doorbells and bytes in memory.
//!
//! Offsets and numbers are written out from docs/host-interface.md, not taken from the crate that
//! declares them: were both wrong together, nobody would notice.
#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jalapeno_emulator::card::{Card, Order};
use jalapeno_emulator::cradle::Cradle;
use jalapeno_emulator::engine;
use jalapeno_emulator::identity::Options;

pub const MIB: u64 = 1 << 20;
pub const HBM: u64 = 1 << 56;
/// Where the slot's memory is mapped.
pub const HOST: u64 = 0x10_0000;
/// Host memory for data, behind everything that queues use.
pub const DATA: u64 = HOST + 8 * MIB;
pub const STOPPED: u64 = 1 << 63;

pub struct Bench {
    pub card: Arc<Card>,
    pub slot: Arc<Cradle>,
    engine: Option<JoinHandle<()>>,
}

/// A queue as its driver knows it.
pub struct Driver {
    pub number: u32,
    pub depth_log2: u32,
    pub errors_log2: u32,
    pub sent: u64,
    /// Offset of the ring in host memory; completion line and error ring follow it.
    pub ring: u64,
    pub completion: u64,
    pub errors: u64,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(Options {
            hbm_bytes: 1 << 30,
            resident_limit: 256 * MIB,
            ..Options::default()
        })
    }

    pub fn with(options: Options) -> Self {
        let slot = Arc::new(Cradle::new(usize::try_from(200 * MIB).unwrap()).unwrap());
        slot.map(HOST, 0, 200 * MIB, true);
        let card = Arc::new(Card::new(options, slot.clone()).unwrap());
        let engine = engine::start(&card).unwrap();
        Self {
            card,
            slot,
            engine: Some(engine),
        }
    }

    pub fn read(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.card.read_registers(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    pub fn read64(&self, offset: u64) -> u64 {
        u64::from(self.read(offset)) | u64::from(self.read(offset + 4)) << 32
    }

    pub fn write(&self, offset: u64, value: u32) {
        self.card.write_registers(offset, &value.to_le_bytes());
    }

    pub fn write64(&self, offset: u64, value: u64) {
        self.card.write_registers(offset, &value.to_le_bytes());
    }

    pub fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !condition() {
            assert!(Instant::now() < end, "timed out: {what}");
            std::thread::yield_now();
        }
    }

    /// Host memory by offset.
    pub fn word(&self, offset: u64) -> u64 {
        let offset = usize::try_from(offset).unwrap();
        self.slot.memory().load(offset, Ordering::Acquire)
    }

    pub fn set_word(&self, offset: u64, value: u64) {
        let offset = usize::try_from(offset).unwrap();
        self.slot.memory().store(offset, value, Ordering::Release);
    }

    pub fn bytes(&self, iova: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let offset = usize::try_from(iova - HOST).unwrap();
        self.slot.memory().read(offset, &mut bytes);
        bytes
    }

    pub fn put(&self, iova: u64, bytes: &[u8]) {
        let offset = usize::try_from(iova - HOST).unwrap();
        self.slot.memory().write(offset, bytes);
    }

    pub fn place(number: u32, depth_log2: u32, errors_log2: u32) -> Driver {
        let ring = u64::from(number) * 0x2_0000;
        Driver {
            number,
            depth_log2,
            errors_log2,
            sent: 0,
            ring,
            completion: ring + 0x1_0000,
            errors: ring + 0x1_1000,
        }
    }

    /// Queue 0, through its registers.
    pub fn queue_zero(&self, depth_log2: u32) -> Driver {
        self.queue_zero_with(depth_log2, 3)
    }

    /// The same, with these features accepted.
    pub fn queue_zero_with(&self, depth_log2: u32, features: u32) -> Driver {
        let driver = Self::place(0, depth_log2, 2);
        self.write64(0x048, features.into());
        self.write64(0x100, HOST + driver.ring);
        self.write64(0x108, HOST + driver.completion);
        self.write64(0x110, HOST + driver.errors);
        self.write(0x118, depth_log2 | 2 << 8 | 1 << 16);
        self.write(0x11C, 1);
        self.until("queue 0 runs", || self.read(0x120) & 0xF == 1);
        driver
    }

    /// Another queue, through a management packet.
    pub fn queue(&self, zero: &mut Driver, number: u32, depth_log2: u32) -> Driver {
        let driver = Self::place(number, depth_log2, 2);
        let mut shape = Vec::new();
        shape.extend_from_slice(&number.to_le_bytes());
        shape.extend_from_slice(&[u8::try_from(depth_log2).unwrap(), 2]);
        shape.extend_from_slice(&(u16::try_from(number).unwrap() + 1).to_le_bytes());
        for address in [driver.ring, driver.completion, driver.errors] {
            shape.extend_from_slice(&(HOST + address).to_le_bytes());
        }
        shape.resize(64, 0);
        self.put(DATA - 4096, &shape);
        self.run(zero, packet(0x10, 1, [DATA - 4096, 0, 64, 0, 0]));
        driver
    }

    /// Stores a packet and rings; its sequence number.
    pub fn submit(&self, driver: &mut Driver, packet: [u64; 8]) -> u64 {
        let sequence = self.store(driver, packet);
        self.ring(driver, sequence);
        sequence
    }

    /// Stores a packet without ringing.
    pub fn store(&self, driver: &mut Driver, packet: [u64; 8]) -> u64 {
        driver.sent += 1;
        let index = driver.sent - 1;
        let slot = driver.ring + (index & ((1 << driver.depth_log2) - 1)) * 64;
        for (at, word) in packet.iter().enumerate().skip(1) {
            self.set_word(slot + 8 * at as u64, *word);
        }
        let valid = u64::from((index >> driver.depth_log2) & 1 == 0) << 8;
        self.set_word(slot, packet[0] | valid);
        driver.sent
    }

    pub fn ring(&self, driver: &Driver, sequence: u64) {
        let tail = u32::try_from(sequence & 0xFFFF_FFFF).unwrap();
        self.doorbell(driver, 0, &tail.to_le_bytes());
    }

    pub fn arm(&self, driver: &Driver, sequence: u64) {
        self.doorbell(driver, 8, &sequence.to_le_bytes());
    }

    pub fn resume(&self, driver: &Driver, sequence: u64) {
        self.doorbell(driver, 16, &sequence.to_le_bytes());
    }

    /// As the client's mapping does it: a store that wakes nobody.
    pub fn doorbell(&self, driver: &Driver, word: usize, bytes: &[u8]) {
        let offset = driver.number as usize * 4096 + word;
        self.card.doorbells.write(offset, bytes);
    }

    pub fn completion(&self, driver: &Driver) -> u64 {
        self.word(driver.completion)
    }

    pub fn wait(&self, driver: &Driver, word: u64) {
        let end = Instant::now() + Duration::from_secs(60);
        while self.completion(driver) != word {
            assert!(
                Instant::now() < end,
                "completion is {:#x}, not {word:#x}; record {:#x?}",
                self.completion(driver),
                self.record(driver, 0),
            );
            std::thread::yield_now();
        }
    }

    /// Submits a packet and waits until it is done.
    pub fn run(&self, driver: &mut Driver, packet: [u64; 8]) {
        let sequence = self.submit(driver, packet);
        self.wait(driver, sequence);
    }

    /// Submits a packet that must fail; its record.
    pub fn fails(&self, driver: &mut Driver, packet: [u64; 8]) -> Record {
        let index = self.word_of_errors(driver);
        let sequence = self.submit(driver, packet);
        self.wait(driver, (sequence - 1) | STOPPED);
        let record = self.record(driver, index);
        assert_eq!(record.sequence, sequence);
        self.resume(driver, sequence + 1);
        self.wait(driver, sequence);
        record
    }

    fn word_of_errors(&self, driver: &Driver) -> u64 {
        let records = 1 << driver.errors_log2;
        let newest = (0..records).map(|slot| self.record(driver, slot));
        let written = newest
            .filter(|record| record.code != 0)
            .map(|record| record.index + 1);
        written.max().unwrap_or(0)
    }

    pub fn record(&self, driver: &Driver, index: u64) -> Record {
        let slot = index & ((1 << driver.errors_log2) - 1);
        Record::new(&self.bytes(HOST + driver.errors + slot * 256, 256))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.card.order(Order::Stop);
        if let Some(engine) = self.engine.take() {
            engine.join().unwrap();
        }
    }
}

/// A packet from its opcode, argument and body.
pub fn packet(opcode: u64, argument: u64, body: [u64; 5]) -> [u64; 8] {
    let [a, b, c, d, e] = body;
    [opcode | argument << 32, 0xC00C_1E00, 0, a, b, c, d, e]
}

pub fn nop() -> [u64; 8] {
    packet(1, 0, [0; 5])
}

pub fn copy(source: u64, destination: u64, bytes: u64) -> [u64; 8] {
    packet(2, 0, [source, destination, bytes, 0, 0])
}

pub fn fill(destination: u64, bytes: u64, pattern: u64) -> [u64; 8] {
    packet(4, 0, [destination, bytes, pattern, 0, 0])
}

/// A fault record, read at the offsets of the specification.
#[derive(Debug, PartialEq)]
pub struct Record {
    pub code: u32,
    pub severity: u8,
    pub scope: u8,
    pub action: u8,
    pub flags: u8,
    pub sequence: u64,
    pub cookie: u64,
    pub address: u64,
    pub mapping: (u64, u64),
    pub generation: u64,
    pub queue: u32,
    pub opcode: u32,
    pub kernel: u32,
    pub operand: u32,
    pub index: u64,
    pub detail: [u64; 4],
    pub crc_fits: bool,
}

impl Record {
    pub fn new(bytes: &[u8]) -> Self {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let mut plain = bytes[..0xF8].to_vec();
        plain[7] &= !1;
        Self {
            code: half(0),
            severity: bytes[4],
            scope: bytes[5],
            action: bytes[6],
            flags: bytes[7],
            sequence: word(0x08),
            cookie: word(0x10),
            address: word(0x18),
            mapping: (word(0x20), word(0x28)),
            generation: word(0x40),
            queue: half(0x50),
            opcode: half(0x54),
            kernel: half(0x58),
            operand: half(0x5C),
            index: word(0x60),
            detail: [0x68, 0x70, 0x78, 0x80].map(word),
            crc_fits: crc32fast::hash(&plain) == half(0xF8),
        }
    }
}
