//! Host memory that the device can reach: the library's own, or the caller's.

use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;

use super::backing::Backing;
use super::{DmaSpace, Lease, Pages, memlock, registered};
use crate::error::{Error, Result};
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
