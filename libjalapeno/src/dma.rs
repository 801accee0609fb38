//! DMA: the device's view of host memory, and memory that is in it.
//!
//! An IOVA is a lease of an address range, with a guard page after it that nothing maps, so that a
//! device that runs past a buffer gets a fault record and not its neighbour's bytes. Where mappings
//! run short, small buffers lie side by side in one (`arena`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_allocator::{AddressAllocator, AllocPolicy, RangeInclusive};

use crate::error::{Error, Result};
use crate::fork::ForkMark;
use crate::transport::{HostRange, Protection, Transport};
use crate::units::Iova;

mod arena;
mod backing;
mod budget;
mod mapped;
mod memlock;
mod memory;
mod peer;
mod registered;

use arena::Arenas;
pub use backing::Pages;
pub use memory::{HostMemory, HostOptions};
pub(crate) use peer::{Ended, PeerWindow};

/// Bytes of a small page.
const SMALL: u64 = 4096;
/// Bytes of a huge page.
const HUGE: u64 = 2 << 20;
/// Lower addresses are never given out: a null or small IOVA is a driver fault, and must show.
const IOVA_FIRST: u64 = 1 << 20;

/// The IOVAs of one open device: which are free, and how many mappings there may be. Thread-safe.
#[derive(Debug)]
pub struct DmaSpace {
    transport: Arc<dyn Transport>,
    mark: ForkMark,
    limit: usize,
    /// What mappings are a multiple of, and the guard behind each: the IOMMU's page, at least 4 KiB.
    page: u64,
    space: Mutex<Space>,
    /// Held by whoever makes an arena.
    growing: Mutex<()>,
}

#[derive(Debug)]
struct Space {
    /// One allocator for each range that the host permits.
    ranges: Vec<AddressAllocator>,
    live: usize,
    bytes: u64,
    arenas: Arenas,
}

/// How much of a `DmaSpace` is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaUse {
    /// Mappings there are.
    pub maps: usize,
    /// Mappings there may be.
    pub maps_limit: usize,
    /// Bytes mapped, arenas as a whole.
    pub bytes: u64,
    /// Mappings of these that are arenas: small buffers side by side.
    pub arenas: usize,
    /// Buffers in arenas.
    pub coalesced: usize,
    /// Bytes of arenas that no buffer has.
    pub spare: u64,
}

impl DmaSpace {
    /// The addresses that the host permits and the device can form (`last`: the highest; IOVA
    /// capability, Host interface 4).
    ///
    /// # Errors
    /// `Unsupported` where no address satisfies both.
    pub fn new(transport: &Arc<dyn Transport>, last: u64) -> Result<Self> {
        let about = transport.describe();
        let page = about.page_bytes.max(SMALL);
        if !page.is_power_of_two() || page > HUGE {
            return Err(Error::Unsupported {
                what: format!("DMA on {} in pages of {page:#x} bytes", about.name),
            });
        }
        let mut ranges = Vec::new();
        for &(low, high) in &about.iova_ranges {
            let Some(low) = low.max(IOVA_FIRST).checked_next_multiple_of(page) else {
                continue;
            };
            let high = high.min(last);
            if low < high
                && let Ok(range) = AddressAllocator::new(low, high - low + 1)
            {
                ranges.push(range);
            }
        }
        if ranges.is_empty() {
            return Err(Error::Unsupported {
                what: format!(
                    "DMA on {}: the device forms addresses up to {last:#x}, the host permits {:x?}",
                    about.name, about.iova_ranges
                ),
            });
        }
        Ok(Self {
            transport: Arc::clone(transport),
            mark: ForkMark::here(),
            limit: about.maps_limit,
            page,
            space: Mutex::new(Space {
                ranges,
                live: 0,
                bytes: 0,
                arenas: Arenas::default(),
            }),
            growing: Mutex::default(),
        })
    }

    /// How much is in use.
    #[must_use]
    pub fn usage(&self) -> DmaUse {
        let space = self.lock();
        DmaUse {
            maps: space.live,
            maps_limit: self.limit,
            bytes: space.bytes,
            arenas: space.arenas.count(),
            coalesced: space.arenas.buffers(),
            spare: space.arenas.spare(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many mappings in use, and small buffers share one.
    fn scarce_from(&self) -> usize {
        self.limit / 2
    }

    fn is_scarce(&self) -> bool {
        self.lock().live >= self.scarce_from()
    }

    fn has_maps(&self) -> bool {
        self.lock().live < self.limit
    }

    /// What the address of so many bytes is a multiple of: their own size, as far as pages of the
    /// IOMMU's gain by it.
    fn alignment(&self, bytes: u64) -> u64 {
        let align = bytes.checked_next_power_of_two().unwrap_or(HUGE);
        align.clamp(self.page, HUGE)
    }

    /// Refuses what would be one mapping too many.
    fn has_one_more(&self, space: &Space, bytes: u64) -> Result<()> {
        if space.live < self.limit {
            return Ok(());
        }
        Err(Error::Memory {
            what: format!(
                "host memory: {} mappings are in use, all there can be",
                self.limit
            ),
            needed: bytes,
            have: 0,
            hint: "free buffers, or use fewer and larger ones".into(),
        })
    }

    /// Takes a range of addresses, guard page included; the caller maps it.
    fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Lease> {
        let with_guard = bytes.checked_add(self.page).ok_or_else(|| Error::Invalid {
            what: format!("{bytes:#x} bytes of host memory overflow the address space"),
        })?;
        let align = self.alignment(bytes);
        let mut space = self.lock();
        self.has_one_more(&space, bytes)?;
        let range = space.ranges.iter_mut().find_map(|part| {
            part.allocate(with_guard, align, AllocPolicy::FirstMatch)
                .ok()
        });
        let Some(range) = range else {
            let total: u64 = space.ranges.iter().map(|r| r.end() - r.base()).sum();
            return Err(Error::Memory {
                what: "addresses for host memory".into(),
                needed: bytes,
                have: total.saturating_sub(space.bytes),
                hint: "free buffers: the device's address space is full or in pieces".into(),
            });
        };
        space.live += 1;
        space.bytes += bytes;
        Ok(Lease {
            space: Arc::clone(self),
            range,
            bytes,
            mapped: false,
        })
    }

    fn give_back(&self, range: &RangeInclusive, bytes: u64) {
        let mut space = self.lock();
        let owner = space
            .ranges
            .iter_mut()
            .find(|part| range.start() >= part.base() && range.end() <= part.end());
        match owner.map(|part| part.free(range)) {
            Some(Ok(())) => {
                space.live -= 1;
                space.bytes -= bytes;
            }
            problem => log::error!(
                "iova {:#x} could not be given back: {problem:?}",
                range.start()
            ),
        }
    }
}

/// A range of IOVAs, mapped or about to be.
#[derive(Debug)]
struct Lease {
    space: Arc<DmaSpace>,
    range: RangeInclusive,
    bytes: u64,
    mapped: bool,
}

impl Lease {
    fn iova(&self) -> Iova {
        Iova(self.range.start())
    }

    fn map(&mut self, range: HostRange<'_>, protection: Protection) -> Result<()> {
        self.space
            .transport
            .map_dma(self.iova(), range, protection)?;
        self.mapped = true;
        Ok(())
    }

    /// Unmaps. `false`: the device may still reach the memory, so neither it nor the addresses
    /// may be used again.
    fn release(&mut self) -> bool {
        if !self.space.mark.is_ours() {
            return false; // a child of fork(): the mapping is its parent's
        }
        if self.mapped {
            let transport = &self.space.transport;
            // A server that is gone reaches nothing. A card that is called lost may be there all
            // the same, after an error of its link, and go on.
            let nobody_is_there = || transport.describe().needs_file && transport.is_lost();
            if let Err(error) = transport.unmap_dma(self.iova(), self.bytes)
                && !nobody_is_there()
            {
                log::error!("unmap iova {}: {error}; its memory is kept", self.iova());
                return false;
            }
            self.mapped = false;
        }
        self.space.give_back(&self.range, self.bytes);
        true
    }
}
