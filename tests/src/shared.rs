//! Shared: a file of the application's own, mapped as an application would have it.

use std::fs::File;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use jalapeno::transport::HostRange;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A shared mapping of a memfd; unmapped when dropped.
#[derive(Debug)]
pub struct Shared {
    /// The file.
    pub file: File,
    /// Its first byte.
    pub at: NonNull<u8>,
    bytes: usize,
}

impl Shared {
    /// So many bytes, readable and writable.
    ///
    /// # Panics
    /// Where the kernel gives none.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self::protected(bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)
    }

    /// So many bytes that this process may access so.
    ///
    /// # Panics
    /// Where the kernel gives none.
    #[must_use]
    pub fn protected(bytes: usize, protection: ProtFlags) -> Self {
        let file = memfd_create(c"application", MFdFlags::MFD_CLOEXEC).expect("a memfd");
        let file = File::from(file);
        file.set_len(bytes as u64).expect("its length");
        let length = bytes.try_into().expect("some bytes");
        // SAFETY: a new mapping, nowhere in particular.
        let at = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, &file, 0) };
        let at = at.expect("a mapping").cast();
        Self { file, at, bytes }
    }

    /// What a transport is told of it, which need not be true.
    #[must_use]
    pub fn range(&self, offset: u64, bytes: u64) -> HostRange<'_> {
        HostRange {
            at: self.at,
            bytes,
            file: Some((self.file.as_fd(), offset)),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        let unmapped = unsafe { munmap(self.at.cast(), self.bytes) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}
