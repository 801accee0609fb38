//! Host memory that the device can reach: the library's own, or the caller's.

use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;

use super::arena::{PLACE_MOST, Place};
use super::mapped::Mapped;
use super::{DmaSpace, Lease, Pages, memlock, registered};
use crate::error::{Error, Result};
use crate::fork::ForkMark;
use crate::transport::{HostRange, Protection};
use crate::units::Iova;

/// What host memory is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostOptions {
    /// Huge pages even where the size is no multiple of theirs; normal ones where there are none.
    /// Memory of 2 MiB and more gets them without asking, when there are any.
    pub huge: bool,
    /// What the device may do.
    pub protection: Protection,
    /// A mapping of its own and a guard page behind it, also where mappings run short: a device that
    /// runs past it faults, and cannot reach it any more once it is freed.
    pub guarded: bool,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            huge: false,
            protection: Protection::ReadWrite,
            guarded: false,
        }
    }
}

/// Who has mapped it.
#[derive(Debug)]
enum Memory {
    /// The library: a mapping of its own.
    Own(Mapped),
    /// The library: with others in one mapping.
    Placed(Place),
    /// The library, for the caller, whose it is.
    Registered(Lease),
}

/// Host memory that the device can reach. Shared with the device: never a slice, only volatile
/// copies and atomics. Thread-safe. Dropped: unmapped from the device first, then given back to
/// the system; where unmapping fails with the device alive, the memory is kept for good. What lies
/// in an arena goes with the arena's last buffer.
#[derive(Debug)]
pub struct HostMemory {
    memory: Memory,
    mark: ForkMark,
    at: NonNull<u8>,
    iova: Iova,
    bytes: u64,
}

// SAFETY: the pointer is to memory that lives as long as this value (the caller's promise for
// registered memory), and is accessed by volatile copies only.
unsafe impl Send for HostMemory {}
// SAFETY: as above; racing volatile copies are as good as racing the device, which is expected.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// New memory, zeroed, page-aligned, populated, mapped. A mapping of its own with a guard page
    /// behind it; once half of the mappings that there may be are in use, writable memory of at most
    /// 2 MiB lies in an arena with others, unless it is to be guarded.
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
        let whole = bytes.checked_next_multiple_of(space.page);
        let whole = whole.ok_or_else(|| Error::Invalid {
            what: format!("{bytes:#x} bytes of host memory overflow the address space"),
        })?;
        let small = !options.guarded && options.protection == Protection::ReadWrite;
        if small && whole <= PLACE_MOST && space.is_scarce() {
            match Place::find(space, whole) {
                Ok(place) => return Ok(Self::placed(space, place, bytes)),
                // An arena takes more than this buffer, which may have a mapping of its own yet.
                Err(error @ Error::Memory { .. }) if space.has_maps() => log::debug!("{error}"),
                Err(error) => return Err(error),
            }
        }
        let mapped = Mapped::new(space, whole, options)?;
        Ok(Self {
            mark: space.mark,
            at: mapped.at(),
            iova: mapped.iova(),
            bytes,
            memory: Memory::Own(mapped),
        })
    }

    fn placed(space: &Arc<DmaSpace>, place: Place, bytes: u64) -> Self {
        let arena = place.arena();
        // SAFETY: the place lies within its arena, which is mapped as one.
        let at = unsafe { arena.at().add(place.offset()) };
        // SAFETY: whole pages of the place, which nobody else has.
        unsafe { zero_volatile(at, place.stale()) };
        Self {
            mark: space.mark,
            at,
            iova: place.iova(),
            bytes,
            memory: Memory::Placed(place),
        }
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
            mark: space.mark,
            at,
            iova: lease.iova(),
            bytes,
            memory: Memory::Registered(lease),
        })
    }

    /// Its first byte in this process.
    #[inline]
    #[must_use]
    pub fn ptr(&self) -> NonNull<u8> {
        self.at
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
        self.iova
    }

    /// What pages are behind it.
    #[must_use]
    pub fn pages(&self) -> Pages {
        match &self.memory {
            Memory::Own(mapped) => mapped.pages(),
            Memory::Placed(place) => place.arena().pages(),
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
        self.mark.check()?;
        let end = offset.checked_add(bytes as u64);
        match (usize::try_from(offset), end) {
            // SAFETY: offset <= end <= bytes, the length of the memory.
            (Ok(at), Some(end)) if end <= self.bytes => Ok(unsafe { self.at.add(at) }),
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
        if let Memory::Registered(lease) = &mut self.memory {
            lease.release();
        }
    }
}

/// Zeroes whole words.
///
/// # Safety
/// The range is valid for writes, aligned to words and a multiple of them.
unsafe fn zero_volatile(at: NonNull<u8>, bytes: usize) {
    for offset in (0..bytes).step_by(size_of::<u64>()) {
        // SAFETY: the caller vouches for the range.
        unsafe { at.add(offset).cast::<u64>().write_volatile(0) };
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
