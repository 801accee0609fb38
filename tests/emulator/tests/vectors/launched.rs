//! A vector run by LAUNCH packets on a card: operands in HBM, in host memory and across mappings.

use std::time::{Duration, Instant};

use super::bench_top::{Bench, DATA, Driver, HBM, HOST, MIB, Record, STOPPED, copy, packet};
use super::case::Case;
use super::verdict::{judge, judge_refusal};

/// Where buffers of the three kinds begin.
const DEVICE: u64 = HBM + 4 * MIB;
const PLAIN: u64 = DATA + 16 * MIB;
const STAGE: u64 = DATA + 32 * MIB;
const SCATTERED: u64 = 0x4000_0000;
/// Pages of the scattered region, and where they lie in the slot's memory, last first.
const PAGES: u64 = 64;
const PAGES_AT: u64 = 150 * MIB;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// HBM.
    Device,
    /// Host memory, one mapping.
    Plain,
    /// Host memory, neighbouring addresses that are strangers in memory.
    Scattered,
}

/// A card with a queue.
pub struct Card {
    bench: Bench,
    zero: Driver,
}

impl Card {
    pub fn new() -> Self {
        let bench = Bench::new();
        let zero = bench.queue_zero(6);
        for page in 0..PAGES {
            let at = PAGES_AT + (PAGES - 1 - page) * 4096;
            bench.slot.map(SCATTERED + page * 4096, at, 4096, true);
        }
        Self { bench, zero }
    }

    /// Runs a case and judges it; `turn` chooses where its buffers lie.
    pub fn run(&mut self, case: &Case, turn: usize) -> Result<f64, String> {
        let places = place(case, turn);
        for (bytes, &(place, address)) in case.buffers.iter().zip(&places) {
            self.put(place, address, bytes);
        }
        let mut block: Vec<u8> = case.params.iter().flat_map(|w| w.to_le_bytes()).collect();
        for view in &case.operands {
            let address = places[view.buffer].1.wrapping_add(view.offset);
            block.extend(address.to_le_bytes());
            block.extend(view.dtype.to_le_bytes());
            block.extend([0; 4]);
            block.extend(view.ne.iter().flat_map(|n| n.to_le_bytes()));
            block.extend(view.nb.iter().flat_map(|n| n.to_le_bytes()));
        }
        self.bench.put(DATA, &block);
        let launch = packet(8, case.kernel.into(), [DATA, block.len() as u64, 0, 0, 0]);
        let record = self.answer(launch)?;
        if let Some(record) = &record
            && (record.opcode != 8 || record.kernel != case.kernel || !record.crc_fits)
        {
            return Err(format!("a record of something else: {record:?}"));
        }
        let mut after = Vec::new();
        for (bytes, &(place, address)) in case.buffers.iter().zip(&places) {
            after.push(self.take(place, address, bytes.len()));
        }
        match record {
            None => judge(case, &after),
            Some(record) => {
                judge_refusal(case, (record.code, record.operand), &after).map(|()| 0.0)
            }
        }
    }

    /// Runs a packet; the record of its failure, if it failed.
    fn answer(&mut self, packet: [u64; 8]) -> Result<Option<Record>, String> {
        let sequence = self.bench.submit(&mut self.zero, packet);
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let seen = self.bench.completion(&self.zero);
            if seen == sequence {
                return Ok(None);
            }
            if seen & STOPPED != 0 {
                break;
            }
            if Instant::now() > end {
                return Err(format!("no end: the completion is {seen:#x}"));
            }
            std::thread::yield_now();
        }
        let records = (0..4).map(|slot| self.bench.record(&self.zero, slot));
        let record = records.max_by_key(|record| record.sequence);
        self.bench.resume(&self.zero, sequence + 1);
        self.bench.wait(&self.zero, sequence);
        Ok(record.filter(|record| record.sequence == sequence))
    }

    fn put(&mut self, place: Place, address: u64, bytes: &[u8]) {
        match place {
            Place::Device => {
                self.bench.put(STAGE, bytes);
                let packet = copy(STAGE, address, bytes.len() as u64);
                self.bench.run(&mut self.zero, packet);
            }
            Place::Plain => self.bench.put(address, bytes),
            Place::Scattered => {
                for (at, byte) in (address..).zip(bytes) {
                    self.bench.put(behind(at), &[*byte]);
                }
            }
        }
    }

    fn take(&mut self, place: Place, address: u64, count: usize) -> Vec<u8> {
        match place {
            Place::Device => {
                let packet = copy(address, STAGE, count as u64);
                self.bench.run(&mut self.zero, packet);
                self.bench.bytes(STAGE, count)
            }
            Place::Plain => self.bench.bytes(address, count),
            Place::Scattered => (address..address + count as u64)
                .map(|at| self.bench.bytes(behind(at), 1)[0])
                .collect(),
        }
    }
}

/// A scattered address as the first mapping shows it.
fn behind(address: u64) -> u64 {
    let (page, offset) = ((address - SCATTERED) / 4096, address % 4096);
    HOST + PAGES_AT + (PAGES - 1 - page) * 4096 + offset
}

/// Places for a case's buffers; small ones that are scattered lie across a page's end.
fn place(case: &Case, turn: usize) -> Vec<(Place, u64)> {
    let (mut device, mut plain, mut scattered) = (DEVICE, PLAIN, SCATTERED);
    let round = |bytes: usize| (bytes as u64).next_multiple_of(64) + 64;
    case.buffers
        .iter()
        .enumerate()
        .map(|(index, bytes)| {
            let pages = (bytes.len() as u64).div_ceil(4096) + 1;
            match (turn + index) % 3 {
                0 if scattered + pages * 4096 <= SCATTERED + PAGES * 4096 => {
                    let middle = (bytes.len() as u64 / 2).next_multiple_of(8).min(4088);
                    let at = scattered + 4096 - middle;
                    scattered += pages * 4096;
                    (Place::Scattered, at)
                }
                1 => {
                    plain += round(bytes.len());
                    (Place::Plain, plain - round(bytes.len()))
                }
                _ => {
                    device += round(bytes.len());
                    (Place::Device, device - round(bytes.len()))
                }
            }
        })
        .collect()
}
