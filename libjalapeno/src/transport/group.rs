//! VFIO by group: a container with a type1 IOMMU, the group's node, the device out of it.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use vfio_bindings::bindings::vfio;

use super::iova::{self, Layout};
use super::opening::{no_iommu, node, refused_node};
use super::vfio::{AddressSpace, Vfio, refused};
use super::{Transport, uapi};
use crate::error::{Error, Result};
use crate::pci::Function;

/// The version of the container's interface: VFIO_API_VERSION.
const API_VERSION: i32 = 0;

/// A container and its one group. The group is let go before the container.
#[derive(Debug)]
struct Type1 {
    group: File,
    container: File,
}

/// Opens `function` through its group.
pub(super) fn open(function: &Function, owns: bool) -> Result<Arc<dyn Transport>> {
    let (device, [group, container]) = reach(function, vfio::VFIO_TYPE1v2_IOMMU)?;
    let space = Type1 { group, container };
    Ok(Arc::new(Vfio::over(function.clone(), device, space, owns)?))
}

/// The function's file, its group and a container with an IOMMU of that kind.
pub(super) fn reach(function: &Function, kind: u32) -> Result<(OwnedFd, [File; 2])> {
    let said = |tried| move |source| refused(tried, function, source);
    let path = function.group_node().ok_or_else(|| no_iommu(function))?;
    let group = node(function, &path)?;
    let container = node(function, &function.root().file("dev/vfio/vfio"))?;
    let version = uapi::api_version(container.as_fd()).map_err(said("ask VFIO's version for"))?;
    if version != API_VERSION {
        return Err(Error::Version {
            what: "VFIO container",
            found: version.to_string(),
            needed: API_VERSION.to_string(),
        });
    }
    if !uapi::has_iommu(container.as_fd(), kind).map_err(said("ask for the IOMMU's kind for"))? {
        return Err(Error::Unsupported {
            what: format!(
                "opening {} by its group: the kernel has no type1v2 IOMMU: modprobe vfio_iommu_type1",
                function.address
            ),
        });
    }
    let viable = uapi::group_is_viable(group.as_fd()).map_err(said("ask for the group of"))?;
    if !viable {
        return Err(not_viable(function));
    }
    uapi::set_container(group.as_fd(), container.as_fd())
        .map_err(|source| refused_node(function, &path, source))?;
    uapi::set_iommu(container.as_fd(), kind).map_err(|source| no_remapping(function, source))?;
    let address = CString::new(function.address.as_str()).map_err(|_| Error::Invalid {
        what: "a PCI address with a zero byte in it".into(),
    })?;
    let device = uapi::group_device(group.as_fd(), &address)
        .map_err(|source| refused_node(function, &path, source))?;
    Ok((device, [group, container]))
}

/// Names who is in the way.
pub(super) fn not_viable(function: &Function) -> Error {
    let group = function.group().unwrap_or(0);
    let others: Vec<String> = function
        .in_the_way()
        .into_iter()
        .map(|(address, driver)| format!("{address} is bound to {driver}"))
        .collect();
    let why = match others.is_empty() {
        true => "a member that sysfs does not show any more".into(),
        false => others.join(", "),
    };
    Error::Unsupported {
        what: format!(
            "opening {}: its IOMMU group {group} is shared, and {why}: unbind it, or give it to \
             vfio-pci too",
            function.address
        ),
    }
}

/// EPERM at this point has one meaning.
pub(super) fn no_remapping(function: &Function, source: io::Error) -> Error {
    if source.raw_os_error() == Some(libc::EPERM) {
        return Error::Unsupported {
            what: format!(
                "opening {}: the IOMMU does not remap interrupts, so the device could forge them: \
                 turn on interrupt remapping (VT-d, x2APIC) in the firmware's setup",
                function.address
            ),
        };
    }
    refused("attach an IOMMU to", function, source)
}

impl AddressSpace for Type1 {
    const BACKEND: &'static str = "vfio-group";

    fn layout(&self) -> io::Result<Layout> {
        iova::parse(&uapi::iommu_info(self.container.as_fd())?).map_err(io::Error::other)
    }

    fn map(&self, iova: u64, memory: (NonNull<u8>, u64), writable: bool) -> io::Result<()> {
        uapi::map_dma(self.container.as_fd(), iova, memory, writable)
    }

    fn unmap(&self, iova: u64, bytes: u64) -> io::Result<u64> {
        uapi::unmap_dma(self.container.as_fd(), iova, bytes)
    }

    fn groups(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.group.as_fd()]
    }
}
