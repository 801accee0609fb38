//! An owner that drives queue 0 by hand, over messages alone.
//!
//! Offsets and numbers are written out from docs/host-interface.md.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::peer::*;

pub const HBM: u64 = 1 << 56;
pub const STOPPED: u64 = 1 << 63;
/// Where ring, completion line and error ring are mapped.
const RING: u64 = 0x10_0000;
const COMPLETION: u64 = 0x1000;
const ERRORS: u64 = 0x2000;
const RING_BYTES: u64 = 0x4000;
const DEPTH: u64 = 16;

pub const UNMAPPED_READ: u32 = 0x0201;
pub const UNMAPPED_WRITE: u32 = 0x0202;
pub const READ_ONLY: u32 = 0x0203;
pub const HBM_EXHAUSTED: u32 = 0x0205;
pub const HOST_MEMORY: u32 = 0x0207;

pub struct Driver {
    pub peer: Peer,
    memory: std::fs::File,
    sent: u64,
}

/// Why a packet failed.
#[derive(Debug, PartialEq)]
pub struct Failure {
    pub code: u32,
    pub address: u64,
}

pub fn packet(opcode: u64, body: [u64; 3]) -> [u64; 8] {
    let [a, b, c] = body;
    [opcode, 0xC00C_1E00, 0, a, b, c, 0, 0]
}

pub fn copy(source: u64, destination: u64, bytes: u64) -> [u64; 8] {
    packet(2, [source, destination, bytes])
}

pub fn fill(destination: u64, bytes: u64, pattern: u64) -> [u64; 8] {
    packet(4, [destination, bytes, pattern])
}

impl Driver {
    pub fn new(path: &Path) -> Self {
        Self::with(Peer::owner(path))
    }

    pub fn with(peer: Peer) -> Self {
        let memory = memory(RING_BYTES);
        let mut driver = Self {
            peer,
            memory: memory.into(),
            sent: 0,
        };
        let file = driver.memory.as_raw_fd();
        driver.map(map(3, 0, RING, RING_BYTES), Some(file));
        // Bus master; FEATURES accepted; queue 0 of 16 packets and 4 records.
        driver.peer.write(CONFIG, 4, &[4, 0]);
        driver.write64(0x048, 3);
        driver.write64(0x100, RING);
        driver.write64(0x108, RING + COMPLETION);
        driver.write64(0x110, RING + ERRORS);
        driver.write32(0x118, 4 | 2 << 8 | 1 << 16);
        driver.write32(0x11C, 1);
        driver.until("queue 0 runs", |driver| driver.read32(0x120) & 0xF == 1);
        driver
    }

    pub fn map(&mut self, body: Vec<u8>, file: Option<i32>) {
        let reply = self.peer.ask_with(DMA_MAP, &body, file.as_slice());
        assert_eq!(reply.errno(), 0);
    }

    pub fn map_file(&mut self, flags: u32, offset: u64, address: u64, bytes: u64, file: &OwnedFd) {
        self.map(map(flags, offset, address, bytes), Some(file.as_raw_fd()));
    }

    pub fn write32(&mut self, offset: u64, value: u32) {
        self.peer.write(BAR0, offset, &value.to_le_bytes());
    }

    pub fn write64(&mut self, offset: u64, value: u64) {
        self.peer.write(BAR0, offset, &value.to_le_bytes());
    }

    pub fn read32(&mut self, offset: u64) -> u32 {
        u32::from_le_bytes(self.peer.read(BAR0, offset, 4).try_into().unwrap())
    }

    pub fn until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !condition(self) {
            assert!(Instant::now() < end, "timed out: {what}");
        }
    }

    fn word(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.memory.read_exact_at(&mut bytes, at).unwrap();
        u64::from_le_bytes(bytes)
    }

    /// Stores a packet and rings.
    pub fn submit(&mut self, packet: [u64; 8]) -> u64 {
        let (index, slot) = (self.sent, self.sent % DEPTH * 64);
        let valid = u64::from((index / DEPTH).is_multiple_of(2)) << 8;
        let body: Vec<u8> = packet[1..].iter().flat_map(|w| w.to_le_bytes()).collect();
        self.memory.write_all_at(&body, slot + 8).unwrap();
        let header = packet[0] | valid;
        self.memory
            .write_all_at(&header.to_le_bytes(), slot)
            .unwrap();
        self.sent += 1;
        let tail = u32::try_from(self.sent).unwrap();
        self.ring(0, &tail.to_le_bytes());
        self.sent
    }

    /// Stores to the doorbell page. Without a reply: the card's first question may come before it.
    fn ring(&self, offset: u64, word: &[u8]) {
        let body = store(BAR2, offset, word);
        self.peer.send(&message(0, REGION_WRITE, NO_REPLY, &body));
    }

    /// The completion word, once it says something of this packet.
    fn outcome(&self, sequence: u64) -> Option<u64> {
        let word = self.word(COMPLETION);
        (word == sequence || word & STOPPED != 0).then_some(word)
    }

    /// Waits for a packet while this answers the card's questions: the body of a good reply, or
    /// nothing for one that stays unanswered.
    pub fn wait_answering(
        &mut self,
        sequence: u64,
        mut answer: impl FnMut(&Peer, Message),
    ) -> Result<(), Failure> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(word) = self.outcome(sequence) {
                return self.conclude(sequence, word);
            }
            assert!(Instant::now() < end, "packet {sequence} never ends");
            let mut fds = [PollFd::new(
                std::os::fd::AsFd::as_fd(&self.peer.stream),
                PollFlags::POLLIN,
            )];
            if poll(&mut fds, PollTimeout::from(1u8)).unwrap() > 0 {
                let question = self.peer.receive().expect("the server hung up");
                answer(&self.peer, question);
            }
        }
    }

    pub fn wait(&mut self, sequence: u64) -> Result<(), Failure> {
        self.wait_answering(sequence, |_, question| panic!("asked: {question:?}"))
    }

    fn conclude(&mut self, sequence: u64, word: u64) -> Result<(), Failure> {
        if word == sequence {
            return Ok(());
        }
        assert_eq!(word, (sequence - 1) | STOPPED);
        let records = (0..4).map(|index| ERRORS + 256 * index);
        let newest = records.max_by_key(|at| (self.word(at + 8), self.word(at + 0x60)));
        let at = newest.unwrap();
        assert_eq!(self.word(at + 8), sequence, "the record is this packet's");
        let code = u32::try_from(self.word(at) & 0xFFFF_FFFF).unwrap();
        let address = self.word(at + 0x18);
        // The queue goes on behind it.
        self.ring(16, &(sequence + 1).to_le_bytes());
        self.until("the queue runs again", |driver| {
            driver.word(COMPLETION) == sequence
        });
        Err(Failure { code, address })
    }

    pub fn run(&mut self, packet: [u64; 8]) -> Result<(), Failure> {
        let sequence = self.submit(packet);
        self.wait(sequence)
    }
}
