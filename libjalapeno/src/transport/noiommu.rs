//! VFIO without an IOMMU: a function to be watched, never to be used.
//!
//! Nothing confines what such a device reads and writes, so nothing is given to it: no bus
//! mastering, no interrupts, no memory. Registers, telemetry and events need none of it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use vfio_bindings::bindings::vfio;

use super::Transport;
use super::group::reach;
use super::iova::Layout;
use super::vfio::{AddressSpace, Vfio};
use crate::error::{Error, Result};
use crate::pci::Function;

/// No address space at all; what it holds keeps the device's file alive.
#[derive(Debug)]
struct Nowhere {
    group: File,
    _container: File,
}

/// Opens `function`, for watching alone.
pub(super) fn open(function: &Function, owns: bool) -> Result<Arc<dyn Transport>> {
    let refused = |why: &str| Error::Unsupported {
        what: format!("opening {}: {why}", function.address),
    };
    if !function.is_without_iommu() {
        return Err(refused(
            "an IOMMU confines it: JALAPENO_BACKEND=unsafe-noiommu is for machines without one",
        ));
    }
    if owns {
        return Err(refused(
            "without an IOMMU it could reach all of memory, so it may be watched and not used: \
             turn the IOMMU on",
        ));
    }
    let (device, [group, container]) = reach(function, vfio::VFIO_NOIOMMU_IOMMU)?;
    let space = Nowhere {
        group,
        _container: container,
    };
    Ok(Arc::new(Vfio::over(function.clone(), device, space, owns)?))
}

impl AddressSpace for Nowhere {
    const BACKEND: &'static str = "unsafe-noiommu";

    fn layout(&self) -> io::Result<Layout> {
        Ok(Layout {
            page_bytes: 4096,
            ranges: Vec::new(),
            maps_limit: 0,
        })
    }

    fn map(&self, _: u64, _: (NonNull<u8>, u64), _: bool) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    }

    fn unmap(&self, _: u64, _: u64) -> io::Result<u64> {
        Ok(0)
    }

    fn groups(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.group.as_fd()]
    }
}
