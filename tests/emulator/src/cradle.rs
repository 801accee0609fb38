//! A cradle: a slot without a bus: host memory and interrupt counters for a card driven in the same process.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use memmap2::{MmapOptions, MmapRaw};

use crate::gate::Gate;
use crate::host::{Host, Refusal, Stretch};
use crate::span::Span;

/// A mapping: bytes, offset in the slot's memory, whether the card may write.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    bytes: u64,
    offset: u64,
    writable: bool,
}

/// Host memory of a fixed size, mapped piece by piece, and interrupts that are counted.
#[derive(Debug)]
pub struct Cradle {
    memory: MmapRaw,
    gate: Gate,
    generation: AtomicU64,
    bus_master: AtomicBool,
    mappings: RwLock<BTreeMap<u64, Mapping>>,
    fired: Box<[AtomicU64]>,
}

impl Cradle {
    /// A slot with so much memory, none of it mapped.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new(bytes: usize) -> io::Result<Self> {
        Ok(Self {
            memory: MmapOptions::new().len(bytes).map_anon()?.into(),
            gate: Gate::default(),
            generation: AtomicU64::new(1),
            bus_master: AtomicBool::new(true),
            mappings: RwLock::default(),
            fired: (0..256).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    /// The host's own view of its memory.
    #[must_use]
    pub fn memory(&self) -> Span {
        // SAFETY: the mapping lives as long as the slot, which every user of the span borrows or
        // keeps alive.
        unsafe { Span::new(self.memory.as_mut_ptr(), self.memory.len()) }
    }

    /// Maps memory at an IOVA.
    pub fn map(&self, iova: u64, offset: u64, bytes: u64, writable: bool) {
        let _out = self.gate.exclude();
        let mapping = Mapping {
            bytes,
            offset,
            writable,
        };
        self.change().insert(iova, mapping);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Takes the mapping that begins at an IOVA away.
    pub fn unmap(&self, iova: u64) {
        let _out = self.gate.exclude();
        self.change().remove(&iova);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Switches bus mastering.
    pub fn set_bus_master(&self, on: bool) {
        let _out = self.gate.exclude();
        self.bus_master.store(on, Ordering::Release);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Interrupts that a vector has had.
    #[must_use]
    pub fn fired(&self, vector: u16) -> u64 {
        self.fired
            .get(usize::from(vector))
            .map_or(0, |count| count.load(Ordering::Acquire))
    }

    fn change(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<u64, Mapping>> {
        self.mappings
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn below(&self, iova: u64) -> Option<(u64, Mapping)> {
        let mappings = self.mappings.read().unwrap_or_else(PoisonError::into_inner);
        let (start, mapping) = mappings.range(..=iova).next_back()?;
        Some((*start, *mapping))
    }
}

impl Host for Cradle {
    fn gate(&self) -> &Gate {
        &self.gate
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn is_bus_master(&self) -> bool {
        self.bus_master.load(Ordering::Acquire)
    }

    fn stretch(&self, iova: u64, bytes: u64, write: bool) -> Result<Stretch, Refusal> {
        if !self.is_bus_master() {
            return Err(Refusal::BusMasterOff);
        }
        let (start, mapping) = self.below(iova).ok_or(Refusal::Unmapped)?;
        let skip = iova - start;
        let left = mapping.bytes.checked_sub(skip).filter(|left| *left > 0);
        let left = left.ok_or(Refusal::Unmapped)?;
        if write && !mapping.writable {
            return Err(Refusal::ReadOnly);
        }
        let place = |value: u64| usize::try_from(value).map_err(|_| Refusal::Unmapped);
        let offset = place(mapping.offset + skip)?;
        let span = self.memory().part(offset, place(left.min(bytes))?);
        Ok(Stretch::Mapped(span))
    }

    fn read(&self, _iova: u64, _into: &mut [u8]) -> Result<(), Refusal> {
        Err(Refusal::Broken)
    }

    fn write(&self, _iova: u64, _from: &[u8]) -> Result<(), Refusal> {
        Err(Refusal::Broken)
    }

    fn nearest(&self, iova: u64) -> Option<(u64, u64)> {
        let below = self.below(iova).map(|(start, it)| (start, it.bytes));
        let mappings = self.mappings.read().unwrap_or_else(PoisonError::into_inner);
        let above = mappings.range(iova..).next();
        let above = above.map(|(start, mapping)| (*start, mapping.bytes));
        match (below, above) {
            (Some(low), Some(high)) => {
                let to_low = iova.saturating_sub(low.0 + low.1);
                Some(if to_low <= high.0 - iova { low } else { high })
            }
            (low, high) => low.or(high),
        }
    }

    fn fire(&self, vector: u16) {
        if let Some(count) = self.fired.get(usize::from(vector)) {
            count.fetch_add(1, Ordering::Release);
        }
    }
}
