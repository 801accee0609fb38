//! What is behind the library's own host memory: a sealed memfd, in huge pages when there are any.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;

use memmap2::{Advice, MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{HUGE, SMALL};
use crate::error::{Error, Result};
use crate::transport::Protection;

/// From here on it is asked whether there is so much: for a queue's rings that costs more than taking them.
const ASKED_FOR: u64 = 64 << 10;

/// What pages are behind host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Normal pages, 4 KiB.
    Small,
    /// Reserved huge pages, 2 MiB.
    Huge,
    /// The caller's: whatever they are.
    Callers,
}

impl Pages {
    /// Their size in bytes; 4 KiB is what can be relied on for the caller's.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Small | Self::Callers => SMALL,
            Self::Huge => HUGE,
        }
    }
}

/// A memfd's mapping. Not inherited over fork(), not shrinkable by anybody.
#[derive(Debug)]
pub(super) struct Backing {
    map: MmapRaw,
    bytes: u64,
    pages: Pages,
    file: Option<File>,
}

/// A file lent for mapping.
#[derive(Debug)]
pub(super) enum Lent<'a> {
    /// The memfd itself.
    Whole(BorrowedFd<'a>),
    /// The same, opened read-only: who gets it cannot map it writable.
    ReadOnly(File),
}

impl Lent<'_> {
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Whole(fd) => *fd,
            Self::ReadOnly(file) => file.as_fd(),
        }
    }
}

impl Backing {
    /// At least `bytes`, zeroed and populated.
    pub(super) fn allocate(bytes: u64, huge: bool) -> Result<Self> {
        let rounded = |page: u64| {
            bytes
                .checked_next_multiple_of(page)
                .filter(|&all| isize::try_from(all).is_ok())
                .ok_or_else(|| Error::Invalid {
                    what: format!("{bytes:#x} bytes of host memory overflow the address space"),
                })
        };
        let small = rounded(SMALL)?;
        if huge || bytes >= HUGE {
            match Self::make(rounded(HUGE)?, Pages::Huge) {
                Ok(backing) => return Ok(backing),
                Err(error) => log::debug!("no huge pages for {bytes} bytes: {error}"),
            }
        }
        let have = (bytes >= ASKED_FOR).then(available).flatten();
        let failed = |have| Error::Memory {
            what: "host memory".into(),
            needed: small,
            have,
            hint: "free memory on this machine, raise the limit of its control group, or ask \
                   for less"
                .into(),
        };
        if have.is_some_and(|have| small > have) {
            return Err(failed(have.unwrap_or(0)));
        }
        Self::make(small, Pages::Small).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOMEM | libc::EFAULT | libc::ENOSPC) => failed(available().unwrap_or(0)),
            _ => Error::Io {
                tried: "allocate",
                on: format!("{small} bytes of host memory"),
                source: error,
            },
        })
    }

    fn make(bytes: u64, pages: Pages) -> std::io::Result<Self> {
        let mut flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        if pages == Pages::Huge {
            flags |= MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
        }
        let file = File::from(memfd_create(c"jalapeno", flags)?);
        file.set_len(bytes)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        let length = usize::try_from(bytes).map_err(|_| std::io::ErrorKind::OutOfMemory)?;
        let map = MmapOptions::new().len(length).map_raw(&file)?;
        // A child would share what the device writes, and what the parent frees.
        map.advise(Advice::DontFork)?;
        if pages == Pages::Small && bytes >= HUGE {
            // Only where the administrator set shmem_enabled to advise; refused elsewhere.
            let _ = map.advise(Advice::HugePage);
        }
        map.advise(Advice::PopulateWrite)?;
        if map.as_mut_ptr().is_null() {
            return Err(std::io::ErrorKind::OutOfMemory.into());
        }
        Ok(Self {
            map,
            bytes,
            pages,
            file: Some(file),
        })
    }

    /// The file, as the device's server may have it.
    pub(super) fn file(&self, protection: Protection) -> Result<Lent<'_>> {
        let file = self.file.as_ref().ok_or_else(|| Error::Invalid {
            what: "the file behind this memory was closed".into(),
        })?;
        if protection == Protection::Read {
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
            match File::open(&path) {
                Ok(again) => return Ok(Lent::ReadOnly(again)),
                // Without /proc the protection is the server's to keep.
                Err(error) => log::debug!("open {path} read-only: {error}"),
            }
        }
        Ok(Lent::Whole(file.as_fd()))
    }

    /// The mapping alone: descriptors are few, mappings many.
    pub(super) fn close_file(mut self) -> Self {
        self.file = None;
        self
    }

    pub(super) fn at(&self) -> NonNull<u8> {
        // `allocate` refused a mapping at address 0.
        NonNull::new(self.map.as_mut_ptr()).unwrap_or(NonNull::dangling())
    }

    pub(super) fn bytes(&self) -> u64 {
        debug_assert_eq!(self.map.len() as u64, self.bytes);
        self.bytes
    }

    pub(super) fn pages(&self) -> Pages {
        self.pages
    }
}

/// Memory that the system could still give, in bytes.
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
