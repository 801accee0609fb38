//! VFIO by device node: the function's own file, an iommufd, and an address space in it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::Arc;

use super::group::{no_remapping, not_viable};
use super::iova::{self, Layout};
use super::opening::{node, refused_node};
use super::vfio::{AddressSpace, Vfio, refused};
use super::{Transport, uapi};
use crate::error::{Error, Result};
use crate::pci::{Function, Root};

/// The verb of a device that the kernel does not let this opener own.
pub(super) const BIND: &str = "take with an iommufd";

/// An address space of an iommufd. Closing the file frees it, after the device.
#[derive(Debug)]
struct Ioas {
    iommufd: File,
    id: u32,
}

/// The iommufd's node.
pub(super) fn iommu_node(root: &Root) -> PathBuf {
    root.file("dev/iommu")
}

/// Whether the kernel has what it takes.
pub(super) fn is_possible(function: &Function) -> bool {
    function.device_node().is_some_and(|node| node.exists()) && iommu_node(function.root()).exists()
}

/// Opens `function` by its own node.
pub(super) fn open(function: &Function, owns: bool) -> Result<Arc<dyn Transport>> {
    let path = function.device_node().ok_or_else(|| Error::Unsupported {
        what: format!(
            "opening {} by a device node: this kernel makes none (CONFIG_VFIO_DEVICE_CDEV); \
             JALAPENO_BACKEND=group goes by its group",
            function.address
        ),
    })?;
    let device = node(function, &path)?;
    let iommufd = node(function, &iommu_node(function.root()))?;
    uapi::bind_iommufd(device.as_fd(), iommufd.as_fd()).map_err(|source| {
        match source.raw_os_error() {
            // Also what the kernel says of a device that another opener bound already: `opening`
            // finds out which it is.
            Some(libc::EINVAL) => Error::Io {
                tried: BIND,
                on: function.address.clone(),
                source,
            },
            // Another driver of the group owns its DMA; EPERM also where nothing remaps interrupts.
            Some(libc::EPERM | libc::EBUSY) if !function.in_the_way().is_empty() => {
                not_viable(function)
            }
            Some(libc::EPERM) => no_remapping(function, source),
            _ => refused_node(function, &path, source),
        }
    })?;
    let id = uapi::ioas_alloc(iommufd.as_fd())
        .map_err(|source| refused("make an address space for", function, source))?;
    uapi::attach(device.as_fd(), id).map_err(|source| no_remapping(function, source))?;
    let space = Ioas { iommufd, id };
    let function = function.clone();
    Ok(Arc::new(Vfio::over(function, device.into(), space, owns)?))
}

impl AddressSpace for Ioas {
    const BACKEND: &'static str = "vfio-cdev";
    const PER_USER: bool = true;

    fn layout(&self) -> io::Result<Layout> {
        let (ranges, alignment) = uapi::ioas_ranges(self.iommufd.as_fd(), self.id)?;
        Ok(Layout {
            page_bytes: alignment.max(4096),
            ranges: iova::checked(ranges).map_err(io::Error::other)?,
            maps_limit: usize::MAX, // an iommufd has no limit of its own
        })
    }

    fn map(&self, iova: u64, memory: (NonNull<u8>, u64), writable: bool) -> io::Result<()> {
        uapi::ioas_map(self.iommufd.as_fd(), self.id, iova, memory, writable)
    }

    fn unmap(&self, iova: u64, bytes: u64) -> io::Result<u64> {
        uapi::ioas_unmap(self.iommufd.as_fd(), self.id, iova, bytes)
    }

    fn groups(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }
}
