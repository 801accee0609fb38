//! Memory of the library's own in one mapping. What cannot be unmapped is kept for good.

use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;

use super::backing::Backing;
use super::{DmaSpace, HostOptions, Lease, Pages, memlock};
use crate::error::Result;
use crate::transport::{HostRange, Protection};
use crate::units::Iova;

/// See the file's head. Dropped: unmapped first, then given back to the system.
#[derive(Debug)]
pub(super) struct Mapped {
    lease: Lease,
    backing: ManuallyDrop<Backing>,
}

impl Mapped {
    /// At least `bytes`, which are whole pages of the IOMMU's.
    pub(super) fn new(space: &Arc<DmaSpace>, bytes: u64, options: HostOptions) -> Result<Self> {
        let about = space.transport.describe();
        // Before memory is taken; and again with the pages that it came in.
        memlock::preflight(about, bytes)?;
        let backing = Backing::allocate(bytes, options.huge)?;
        if backing.bytes() > bytes {
            memlock::preflight(about, backing.bytes())?;
        }
        // Opened anew only for another process, which shall not be able to map it writable.
        let file = backing.file(match about.needs_file {
            true => options.protection,
            false => Protection::ReadWrite,
        })?;
        let mut lease = space.reserve(backing.bytes())?;
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
            backing: ManuallyDrop::new(backing.close_file()),
        })
    }

    pub(super) fn space(&self) -> &Arc<DmaSpace> {
        &self.lease.space
    }

    pub(super) fn at(&self) -> NonNull<u8> {
        self.backing.at()
    }

    pub(super) fn iova(&self) -> Iova {
        self.lease.iova()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.backing.bytes()
    }

    pub(super) fn pages(&self) -> Pages {
        self.backing.pages()
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if self.lease.release() {
            // SAFETY: dropped here and nowhere else, and not used after.
            unsafe { ManuallyDrop::drop(&mut self.backing) };
        }
    }
}
