//! DMA: the device's view of host memory, and memory that is in it.
//!
//! An IOVA is a lease of an address range, with a guard page after it that nothing maps, so that a
//! device that runs past a buffer gets a fault record and not its neighbour's bytes.

use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use vm_allocator::{AddressAllocator, AllocPolicy, RangeInclusive};

use crate::error::{Error, Result};
use crate::fork::ForkMark;
use crate::transport::{HostRange, Protection, Transport};
use crate::units::Iova;

mod backing;
mod budget;
mod memlock;
mod peer;
mod registered;

use backing::Backing;
pub use backing::Pages;
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
}

#[derive(Debug)]
struct Space {
    /// One allocator for each range that the host permits.
    ranges: Vec<AddressAllocator>,
    live: usize,
    bytes: u64,
}

/// How much of a `DmaSpace` is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaUse {
    /// Mappings there are.
    pub maps: usize,
    /// Mappings there may be.
    pub maps_limit: usize,
    /// Bytes mapped.
    pub bytes: u64,
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
            }),
        })
    }

    /// How much is in use.
    #[must_use]
    pub fn usage(&self) -> DmaUse {
        let space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        DmaUse {
            maps: space.live,
            maps_limit: self.limit,
            bytes: space.bytes,
        }
    }

    /// Takes a range of addresses, guard page included; the caller maps it.
    fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Lease> {
        let exhausted = |have: u64, what: String, hint: &str| Error::Memory {
            what,
            needed: bytes,
            have,
            hint: hint.into(),
        };
        let with_guard = bytes.checked_add(self.page).ok_or_else(|| Error::Invalid {
            what: format!("{bytes:#x} bytes of host memory overflow the address space"),
        })?;
        let align = bytes.checked_next_power_of_two().unwrap_or(HUGE);
        let align = align.clamp(self.page, HUGE);
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        if space.live >= self.limit {
            return Err(exhausted(
                0,
                format!(
                    "host memory: {} mappings are in use, all there can be",
                    self.limit
                ),
                "free buffers, or use fewer and larger ones",
            ));
        }
        let range = space.ranges.iter_mut().find_map(|part| {
            part.allocate(with_guard, align, AllocPolicy::FirstMatch)
                .ok()
        });
        let Some(range) = range else {
            let total: u64 = space.ranges.iter().map(|r| r.end() - r.base()).sum();
            return Err(exhausted(
                total.saturating_sub(space.bytes),
                "addresses for host memory".into(),
                "free buffers: the device's address space is full or in pieces",
            ));
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
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
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

/// What host memory is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostOptions {
    /// Huge pages even where the size is no multiple of theirs; normal ones where there are none.
    /// Memory of 2 MiB and more gets them without asking, when there are any.
    pub huge: bool,
    /// What the device may do.
    pub protection: Protection,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            huge: false,
            protection: Protection::ReadWrite,
        }
    }
}

/// Where the bytes are.
#[derive(Debug)]
enum Memory {
    /// The library's own.
    Own(std::mem::ManuallyDrop<Backing>),
    /// The caller's.
    Registered(NonNull<u8>),
}

/// Host memory that the device can reach. Shared with the device: never a slice, only volatile
/// copies and atomics. Thread-safe. Dropped: unmapped from the device first, then given back to
/// the system; where unmapping fails with the device alive, the memory is kept for good.
#[derive(Debug)]
pub struct HostMemory {
    lease: Lease,
    memory: Memory,
    bytes: u64,
}

// SAFETY: the pointer is to memory that lives as long as this value (the caller's promise for
// registered memory), and is accessed by volatile copies only.
unsafe impl Send for HostMemory {}
// SAFETY: as above; racing volatile copies are as good as racing the device, which is expected.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// New memory, zeroed, page-aligned, populated, mapped.
    ///
    /// # Errors
    /// `Invalid` (no bytes, overflow), `Memory`, `Lost`, `Forked`.
    pub fn allocate(space: &Arc<DmaSpace>, bytes: u64, options: HostOptions) -> Result<Self> {
        space.mark.check()?;
        if bytes == 0 {
            return Err(Error::Invalid {
                what: "0 bytes of host memory: at least 1 is needed".into(),
            });
        }
        let about = space.transport.describe();
        let whole = bytes.checked_next_multiple_of(space.page);
        let whole = whole.ok_or_else(|| Error::Invalid {
            what: format!("{bytes:#x} bytes of host memory overflow the address space"),
        })?;
        // Before memory is taken; and again with the pages that it came in.
        memlock::preflight(about, whole)?;
        let backing = Backing::allocate(whole, options.huge)?;
        if backing.bytes() > whole {
            memlock::preflight(about, backing.bytes())?;
        }
        let mut lease = space.reserve(backing.bytes())?;
        // Opened anew only for another process, which shall not be able to map it writable.
        let file = backing.file(match about.needs_file {
            true => options.protection,
            false => Protection::ReadWrite,
        })?;
        let range = HostRange {
            at: backing.at(),
            bytes: backing.bytes(),
            file: Some((file.as_fd(), 0)),
        };
        if let Err(error) = lease.map(range, options.protection) {
            lease.release();
            return Err(error);
        }
        drop(file);
        Ok(Self {
            lease,
            memory: Memory::Own(std::mem::ManuallyDrop::new(backing.close_file())),
            bytes,
        })
    }

    /// Memory of the caller's: `bytes` from `at` on, both page-aligned. Where another process
    /// serves the device (vfio-user), it must be a shared mapping of a file (memfd, shm), which
    /// is found through the process's own mappings and descriptors.
    ///
    /// # Safety
    /// The range stays mapped, as it is, until the value is dropped, and the caller accesses it
    /// as memory that another party writes.
    ///
    /// # Errors
    /// `Invalid` (misaligned, not mapped, not writable), `Unsupported` (no file behind it where
    /// one is needed), `Memory`, `Lost`, `Forked`.
    pub unsafe fn register(
        space: &Arc<DmaSpace>,
        at: NonNull<u8>,
        bytes: u64,
        protection: Protection,
    ) -> Result<Self> {
        space.mark.check()?;
        let about = space.transport.describe();
        let start = at.as_ptr().addr() as u64;
        let page = space.page;
        let aligned = start.is_multiple_of(page) && bytes.is_multiple_of(page);
        if bytes == 0 || !aligned || start.checked_add(bytes).is_none() {
            return Err(Error::Invalid {
                what: format!(
                    "register {bytes:#x} bytes at {start:#x}: both must be multiples of {page}"
                ),
            });
        }
        memlock::preflight(about, bytes)?;
        let behind = registered::find(start, bytes, protection)?;
        let file = match (behind, about.needs_file) {
            (Some(file), _) => Some(file),
            (None, false) => None,
            (None, true) => {
                return Err(Error::Unsupported {
                    what: format!(
                        "registering memory at {start:#x} with {}: another process serves the \
                         device, so it must be a shared mapping of a file (memfd, shm)",
                        about.name
                    ),
                });
            }
        };
        let mut lease = space.reserve(bytes)?;
        let range = HostRange {
            at,
            bytes,
            file: file.as_ref().map(|(file, offset)| (file.as_fd(), *offset)),
        };
        if let Err(error) = lease.map(range, protection) {
            lease.release();
            return Err(error);
        }
        Ok(Self {
            lease,
            memory: Memory::Registered(at),
            bytes,
        })
    }

    /// Its first byte in this process.
    #[inline]
    #[must_use]
    pub fn ptr(&self) -> NonNull<u8> {
        match &self.memory {
            Memory::Own(backing) => backing.at(),
            Memory::Registered(at) => *at,
        }
    }

    /// Its length, as asked for.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its first byte as the device sees it.
    #[inline]
    #[must_use]
    pub fn iova(&self) -> Iova {
        self.lease.iova()
    }

    /// What pages are behind it.
    #[must_use]
    pub fn pages(&self) -> Pages {
        match &self.memory {
            Memory::Own(backing) => backing.pages(),
            Memory::Registered(_) => Pages::Callers,
        }
    }

    /// Copies out of it.
    ///
    /// # Errors
    /// `Invalid` beyond its end, `Forked`.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let from = self.within(offset, into.len())?;
        // SAFETY: `within` found the range inside this memory; `into` is another allocation.
        unsafe { copy_volatile(from, NonNull::from(&mut *into).cast(), into.len()) };
        Ok(())
    }

    /// Copies into it.
    ///
    /// # Errors
    /// `Invalid` beyond its end, `Forked`.
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        let into = self.within(offset, from.len())?;
        // SAFETY: `within` found the range inside this memory; `from` is another allocation.
        unsafe { copy_volatile(NonNull::from(from).cast(), into, from.len()) };
        Ok(())
    }

    fn within(&self, offset: u64, bytes: usize) -> Result<NonNull<u8>> {
        self.lease.space.mark.check()?;
        let end = offset.checked_add(bytes as u64);
        match (usize::try_from(offset), end) {
            // SAFETY: offset <= end <= bytes, the length of the memory.
            (Ok(at), Some(end)) if end <= self.bytes => Ok(unsafe { self.ptr().add(at) }),
            _ => Err(Error::Invalid {
                what: format!(
                    "{bytes} bytes at {offset:#x} lie outside the buffer's {:#x} bytes",
                    self.bytes
                ),
            }),
        }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        let free = self.lease.release();
        if let (true, Memory::Own(backing)) = (free, &mut self.memory) {
            // SAFETY: dropped here and nowhere else, and not used after.
            unsafe { std::mem::ManuallyDrop::drop(backing) };
        }
    }
}

/// Copies by volatile accesses, words where both sides are aligned alike.
///
/// # Safety
/// Both ranges are valid for `bytes` and do not overlap.
unsafe fn copy_volatile(from: NonNull<u8>, into: NonNull<u8>, bytes: usize) {
    let word = size_of::<u64>();
    let (source, sink) = (from.as_ptr().addr(), into.as_ptr().addr());
    let head = if source % word == sink % word {
        ((word - source % word) % word).min(bytes)
    } else {
        bytes
    };
    let words = (bytes - head) / word;
    let tail = head + words * word;
    for at in (0..head).chain(tail..bytes) {
        // SAFETY: the caller vouches for both ranges.
        unsafe { into.add(at).write_volatile(from.add(at).read_volatile()) };
    }
    for at in (head..tail).step_by(word) {
        // SAFETY: as above; `head` aligned both sides.
        unsafe {
            let value = from.add(at).cast::<u64>().read_volatile();
            into.add(at).cast::<u64>().write_volatile(value);
        }
    }
}
