//! The kernel's interface: one safe function for each VFIO and iommufd ioctl that is used.
//!
//! Numbers as in linux/vfio.h and linux/iommufd.h; structures from their bindings. Replies with
//! chains of capabilities come back as bytes: `region` and `iova` read them.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use iommufd_bindings as iommufd;
use libc::{c_int, c_ulong};
use vfio_bindings::bindings::vfio;

/// `_IO(';', number)`, the form of every request here.
const fn request(number: u32) -> c_ulong {
    (vfio::VFIO_TYPE as c_ulong) << 8 | number as c_ulong
}

const GET_API_VERSION: c_ulong = request(vfio::VFIO_BASE);
const CHECK_EXTENSION: c_ulong = request(vfio::VFIO_BASE + 1);
const SET_IOMMU: c_ulong = request(vfio::VFIO_BASE + 2);
const GROUP_GET_STATUS: c_ulong = request(vfio::VFIO_BASE + 3);
const GROUP_SET_CONTAINER: c_ulong = request(vfio::VFIO_BASE + 4);
const GROUP_GET_DEVICE_FD: c_ulong = request(vfio::VFIO_BASE + 6);
const DEVICE_GET_INFO: c_ulong = request(vfio::VFIO_BASE + 7);
const DEVICE_GET_REGION_INFO: c_ulong = request(vfio::VFIO_BASE + 8);
const DEVICE_GET_IRQ_INFO: c_ulong = request(vfio::VFIO_BASE + 9);
const DEVICE_SET_IRQS: c_ulong = request(vfio::VFIO_BASE + 10);
const DEVICE_RESET: c_ulong = request(vfio::VFIO_BASE + 11);
const DEVICE_GET_PCI_HOT_RESET_INFO: c_ulong = request(vfio::VFIO_BASE + 12);
const DEVICE_PCI_HOT_RESET: c_ulong = request(vfio::VFIO_BASE + 13);
const IOMMU_GET_INFO: c_ulong = request(vfio::VFIO_BASE + 12);
const IOMMU_MAP_DMA: c_ulong = request(vfio::VFIO_BASE + 13);
const IOMMU_UNMAP_DMA: c_ulong = request(vfio::VFIO_BASE + 14);
const DEVICE_BIND_IOMMUFD: c_ulong = request(vfio::VFIO_BASE + 18);
const DEVICE_ATTACH_IOMMUFD_PT: c_ulong = request(vfio::VFIO_BASE + 19);
const IOAS_ALLOC: c_ulong = request(iommufd::IOMMUFD_CMD_IOAS_ALLOC);
const IOAS_IOVA_RANGES: c_ulong = request(iommufd::IOMMUFD_CMD_IOAS_IOVA_RANGES);
const IOAS_MAP: c_ulong = request(iommufd::IOMMUFD_CMD_IOAS_MAP);
const IOAS_UNMAP: c_ulong = request(iommufd::IOMMUFD_CMD_IOAS_UNMAP);

/// Longest reply believed, in bytes.
const REPLY_MAX: usize = 1 << 16;
/// Most ranges of addresses believed.
const RANGES_MAX: u32 = 1024;

/// The length of a structure, as its first field says it.
#[expect(clippy::cast_possible_truncation, reason = "a kernel structure's size")]
const fn size<T>() -> u32 {
    size_of::<T>() as u32
}

/// The one ioctl. An interrupted one is made again.
///
/// # Safety
/// `argument` is what `request` takes: a number, or the address of the structure it reads and
/// writes, as long as its length field says.
unsafe fn ioctl(fd: BorrowedFd<'_>, request: c_ulong, argument: c_ulong) -> io::Result<c_int> {
    loop {
        // SAFETY: the caller vouches for the argument; the fd is open.
        let done = unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) };
        if done >= 0 {
            return Ok(done);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// An ioctl on one structure of fixed length.
///
/// # Safety
/// `T` is the structure that `request` takes, its length field filled in.
unsafe fn exchange<T>(fd: BorrowedFd<'_>, request: c_ulong, argument: &mut T) -> io::Result<c_int> {
    // SAFETY: the address of a live, exclusive `T`; the caller vouches for the kind.
    unsafe {
        ioctl(
            fd,
            request,
            std::ptr::from_mut(argument).expose_provenance() as c_ulong,
        )
    }
}

/// An ioctl on words of the caller's: a structure with an array behind it.
///
/// # Safety
/// `request` takes the address of a structure whose length field, the first word, is at most the
/// words' length.
unsafe fn exchange_words(
    fd: BorrowedFd<'_>,
    request: c_ulong,
    words: &mut [u32],
) -> io::Result<c_int> {
    // SAFETY: as the caller vouches; the words are live and exclusive.
    unsafe {
        ioctl(
            fd,
            request,
            words.as_mut_ptr().expose_provenance() as c_ulong,
        )
    }
}

/// An ioctl that answers with a structure and more behind it: asked again where the kernel says
/// that it needs more room. `head` are the words it starts with, after the length.
///
/// # Safety
/// `request` takes a structure of `least` bytes, its length first, `head` after it.
unsafe fn reply(
    fd: BorrowedFd<'_>,
    request: c_ulong,
    least: usize,
    head: &[u32],
) -> io::Result<Vec<u8>> {
    let mut bytes = least;
    loop {
        let mut words = vec![0u32; bytes.div_ceil(4)];
        words[0] = u32::try_from(bytes).unwrap_or(u32::MAX);
        words[1..=head.len()].copy_from_slice(head);
        // SAFETY: the length field says no more than there is; the caller vouches for the rest.
        unsafe { exchange_words(fd, request, &mut words)? };
        let wants = words[0] as usize;
        if wants <= bytes {
            let mut out: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            out.truncate(bytes);
            return Ok(out);
        }
        if wants > REPLY_MAX {
            let why = format!("the kernel's reply wants {wants} bytes");
            return Err(io::Error::other(why));
        }
        bytes = wants;
    }
}

/// The version of the container's interface.
pub(super) fn api_version(container: BorrowedFd<'_>) -> io::Result<c_int> {
    // SAFETY: takes no argument.
    unsafe { ioctl(container, GET_API_VERSION, 0) }
}

/// Whether a kind of IOMMU driver is there.
pub(super) fn has_iommu(container: BorrowedFd<'_>, kind: u32) -> io::Result<bool> {
    // SAFETY: takes a number.
    Ok(unsafe { ioctl(container, CHECK_EXTENSION, kind.into())? } > 0)
}

/// Chooses the container's IOMMU driver; a group must be in it.
pub(super) fn set_iommu(container: BorrowedFd<'_>, kind: u32) -> io::Result<()> {
    // SAFETY: takes a number.
    unsafe { ioctl(container, SET_IOMMU, kind.into()) }.map(drop)
}

/// Whether every device of a group is held by VFIO or by no driver.
pub(super) fn group_is_viable(group: BorrowedFd<'_>) -> io::Result<bool> {
    let mut status = vfio::vfio_group_status {
        argsz: size::<vfio::vfio_group_status>(),
        flags: 0,
    };
    // SAFETY: the structure that the request takes.
    unsafe { exchange(group, GROUP_GET_STATUS, &mut status)? };
    Ok(status.flags & vfio::VFIO_GROUP_FLAGS_VIABLE != 0)
}

/// Puts a group into a container.
pub(super) fn set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> io::Result<()> {
    let mut fd: RawFd = container.as_raw_fd();
    // SAFETY: the request takes the address of a descriptor.
    unsafe { exchange(group, GROUP_SET_CONTAINER, &mut fd) }.map(drop)
}

/// Opens a device of a group by its PCI address.
pub(super) fn group_device(group: BorrowedFd<'_>, address: &CStr) -> io::Result<OwnedFd> {
    let at = address.as_ptr().expose_provenance() as c_ulong;
    // SAFETY: the request takes the address of a string that ends with 0.
    let fd = unsafe { ioctl(group, GROUP_GET_DEVICE_FD, at)? };
    // SAFETY: the kernel gave a descriptor that is nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // The kernel opens it without close-on-exec.
    nix::fcntl::fcntl(&fd, nix::fcntl::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    Ok(fd)
}

/// What kind of device it is.
pub(super) fn device_info(device: BorrowedFd<'_>) -> io::Result<vfio::vfio_device_info> {
    let mut info = vfio::vfio_device_info {
        argsz: size::<vfio::vfio_device_info>(),
        ..Default::default()
    };
    // SAFETY: the structure that the request takes.
    unsafe { exchange(device, DEVICE_GET_INFO, &mut info)? };
    Ok(info)
}

/// A region, and its chain of capabilities: `vfio_region_info`, as bytes.
pub(super) fn region_info(device: BorrowedFd<'_>, index: u32) -> io::Result<Vec<u8>> {
    // SAFETY: the structure's length, and its fields flags and index.
    unsafe {
        reply(
            device,
            DEVICE_GET_REGION_INFO,
            size_of::<vfio::vfio_region_info>(),
            &[0, index],
        )
    }
}

/// An interrupt index.
pub(super) fn irq_info(device: BorrowedFd<'_>, index: u32) -> io::Result<vfio::vfio_irq_info> {
    let mut info = vfio::vfio_irq_info {
        argsz: size::<vfio::vfio_irq_info>(),
        index,
        ..Default::default()
    };
    // SAFETY: the structure that the request takes.
    unsafe { exchange(device, DEVICE_GET_IRQ_INFO, &mut info)? };
    Ok(info)
}

/// Delivers interrupts `first..` of an index to these eventfds; `None` stops one. Gives how many
/// vectors there could be where that is fewer, and then nothing was done.
pub(super) fn set_eventfds(
    device: BorrowedFd<'_>,
    index: u32,
    first: u32,
    eventfds: &[Option<BorrowedFd<'_>>],
) -> io::Result<Option<u32>> {
    let data = eventfds
        .iter()
        .map(|fd| fd.map_or(-1, |fd| fd.as_raw_fd()).cast_unsigned());
    let count = eventfds.len();
    let what = vfio::VFIO_IRQ_SET_DATA_EVENTFD | vfio::VFIO_IRQ_SET_ACTION_TRIGGER;
    set_irqs(device, what, index, first, count, data)
}

fn set_irqs(
    device: BorrowedFd<'_>,
    flags: u32,
    index: u32,
    start: u32,
    count: usize,
    data: impl Iterator<Item = u32>,
) -> io::Result<Option<u32>> {
    let count = u32::try_from(count).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut words = vec![0, flags, index, start, count];
    words.extend(data);
    words[0] = u32::try_from(words.len() * 4).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: vfio_irq_set, five words, with its data behind it; the length counts both.
    let more = unsafe { exchange_words(device, DEVICE_SET_IRQS, &mut words)? };
    Ok(u32::try_from(more).ok().filter(|&fewer| fewer > 0))
}

/// Function level reset, or what the kernel has instead for this device alone.
pub(super) fn device_reset(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no argument.
    unsafe { ioctl(device, DEVICE_RESET, 0) }.map(drop)
}

/// A function that a hot reset would hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dependent {
    /// Its group, or its id in the iommufd; below 0 where the kernel says "not yours".
    pub(super) owner: u32,
    pub(super) segment: u16,
    pub(super) bus: u8,
    pub(super) devfn: u8,
}

/// What a hot reset would hit, and whether the kernel says that all of it is the caller's
/// (iommufd only).
pub(super) fn hot_reset_info(device: BorrowedFd<'_>) -> io::Result<(bool, Vec<Dependent>)> {
    const HEAD: usize = 3;
    let mut room = 32usize;
    loop {
        let mut words = vec![0u32; HEAD + 2 * room];
        words[0] = u32::try_from(words.len() * 4).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: vfio_pci_hot_reset_info, three words, with entries of two words behind it.
        let asked = unsafe { exchange_words(device, DEVICE_GET_PCI_HOT_RESET_INFO, &mut words) };
        match asked {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < 4096 => {
                room *= 4;
                continue;
            }
            Err(error) => return Err(error),
        }
        let count = (words[2] as usize).min(room);
        let devices = words[HEAD..HEAD + 2 * count].chunks_exact(2).map(|pair| {
            let [low, high, bus, devfn] = pair[1].to_ne_bytes();
            Dependent {
                owner: pair[0],
                segment: u16::from_ne_bytes([low, high]),
                bus,
                devfn,
            }
        });
        let owned = vfio::VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED;
        return Ok((words[1] & owned != 0, devices.collect()));
    }
}

/// Resets the bus or slot. `groups` prove that everything on it is the caller's; none with iommufd.
pub(super) fn hot_reset(device: BorrowedFd<'_>, groups: &[BorrowedFd<'_>]) -> io::Result<()> {
    let count = u32::try_from(groups.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut words = vec![0, 0, count];
    words.extend(groups.iter().map(|fd| fd.as_raw_fd().cast_unsigned()));
    words[0] = u32::try_from(words.len() * 4).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: vfio_pci_hot_reset, three words, with descriptors behind it.
    unsafe { exchange_words(device, DEVICE_PCI_HOT_RESET, &mut words) }.map(drop)
}

/// The type1 IOMMU and its chain of capabilities: `vfio_iommu_type1_info`, as bytes.
pub(super) fn iommu_info(container: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    // SAFETY: the structure's length; it begins with flags.
    unsafe {
        reply(
            container,
            IOMMU_GET_INFO,
            size_of::<vfio::vfio_iommu_type1_info>(),
            &[0],
        )
    }
}

/// Maps memory in a type1 container. The kernel pins it, and refuses what is not mapped.
pub(super) fn map_dma(
    container: BorrowedFd<'_>,
    iova: u64,
    (at, bytes): (NonNull<u8>, u64),
    writable: bool,
) -> io::Result<()> {
    let write = if writable {
        vfio::VFIO_DMA_MAP_FLAG_WRITE
    } else {
        0
    };
    let mut map = vfio::vfio_iommu_type1_dma_map {
        argsz: size::<vfio::vfio_iommu_type1_dma_map>(),
        flags: vfio::VFIO_DMA_MAP_FLAG_READ | write,
        vaddr: at.as_ptr().expose_provenance() as u64,
        iova,
        size: bytes,
    };
    // SAFETY: the structure that the request takes. Nothing is written through `vaddr` here; what
    // the device writes there is what `HostRange` is for.
    unsafe { exchange(container, IOMMU_MAP_DMA, &mut map) }.map(drop)
}

/// Unmaps a range of a type1 container; gives the bytes that were mapped in it.
pub(super) fn unmap_dma(container: BorrowedFd<'_>, iova: u64, bytes: u64) -> io::Result<u64> {
    let mut unmap = vfio::vfio_iommu_type1_dma_unmap {
        argsz: size::<vfio::vfio_iommu_type1_dma_unmap>(),
        iova,
        size: bytes,
        ..Default::default()
    };
    // SAFETY: the structure that the request takes; without a bitmap it has no data.
    unsafe { exchange(container, IOMMU_UNMAP_DMA, &mut unmap)? };
    Ok(unmap.size)
}

/// Makes the opener of a device node its owner, under an iommufd; gives its id there.
pub(super) fn bind_iommufd(device: BorrowedFd<'_>, iommufd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut bind = vfio::vfio_device_bind_iommufd {
        argsz: size::<vfio::vfio_device_bind_iommufd>(),
        iommufd: iommufd.as_raw_fd(),
        ..Default::default()
    };
    // SAFETY: the structure that the request takes.
    unsafe { exchange(device, DEVICE_BIND_IOMMUFD, &mut bind)? };
    Ok(bind.out_devid)
}

/// Puts a device into an address space.
pub(super) fn attach(device: BorrowedFd<'_>, ioas: u32) -> io::Result<()> {
    let mut attach = vfio::vfio_device_attach_iommufd_pt {
        argsz: size::<vfio::vfio_device_attach_iommufd_pt>(),
        pt_id: ioas,
        ..Default::default()
    };
    // SAFETY: the structure that the request takes.
    unsafe { exchange(device, DEVICE_ATTACH_IOMMUFD_PT, &mut attach) }.map(drop)
}

/// A new address space of an iommufd; it goes when the iommufd is closed.
pub(super) fn ioas_alloc(iommufd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut alloc = iommufd::iommu_ioas_alloc {
        size: size::<iommufd::iommu_ioas_alloc>(),
        ..Default::default()
    };
    // SAFETY: the structure that the request takes.
    unsafe { exchange(iommufd, IOAS_ALLOC, &mut alloc)? };
    Ok(alloc.out_ioas_id)
}

/// The addresses that may be mapped, bounds inclusive, and the alignment they need.
pub(super) fn ioas_ranges(
    iommufd: BorrowedFd<'_>,
    ioas: u32,
) -> io::Result<(Vec<(u64, u64)>, u64)> {
    let mut room = 16u32;
    loop {
        let mut ranges = vec![iommufd::iommu_iova_range::default(); room as usize];
        let mut ask = iommufd::iommu_ioas_iova_ranges {
            size: size::<iommufd::iommu_ioas_iova_ranges>(),
            ioas_id: ioas,
            num_iovas: room,
            allowed_iovas: ranges.as_mut_ptr().expose_provenance() as u64,
            ..Default::default()
        };
        // SAFETY: the structure that the request takes; it writes at most `room` ranges.
        match unsafe { exchange(iommufd, IOAS_IOVA_RANGES, &mut ask) } {
            Ok(_) => {
                ranges.truncate(ask.num_iovas.min(room) as usize);
                let pairs = ranges.iter().map(|range| (range.start, range.last));
                return Ok((pairs.collect(), ask.out_iova_alignment));
            }
            Err(error)
                if error.raw_os_error() == Some(libc::EMSGSIZE)
                    && (room + 1..=RANGES_MAX).contains(&ask.num_iovas) =>
            {
                room = ask.num_iovas;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Maps memory in an address space of an iommufd.
pub(super) fn ioas_map(
    iommufd: BorrowedFd<'_>,
    ioas: u32,
    iova: u64,
    (at, bytes): (NonNull<u8>, u64),
    writable: bool,
) -> io::Result<()> {
    let mut flags = iommufd::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA
        | iommufd::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE;
    if writable {
        flags |= iommufd::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE;
    }
    let mut map = iommufd::iommu_ioas_map {
        size: size::<iommufd::iommu_ioas_map>(),
        flags,
        ioas_id: ioas,
        user_va: at.as_ptr().expose_provenance() as u64,
        length: bytes,
        iova,
        ..Default::default()
    };
    // SAFETY: as in `map_dma`.
    unsafe { exchange(iommufd, IOAS_MAP, &mut map) }.map(drop)
}

/// Unmaps a range; gives the bytes that were mapped in it.
pub(super) fn ioas_unmap(
    iommufd: BorrowedFd<'_>,
    ioas: u32,
    iova: u64,
    bytes: u64,
) -> io::Result<u64> {
    let mut unmap = iommufd::iommu_ioas_unmap {
        size: size::<iommufd::iommu_ioas_unmap>(),
        ioas_id: ioas,
        iova,
        length: bytes,
    };
    // SAFETY: the structure that the request takes.
    unsafe { exchange(iommufd, IOAS_UNMAP, &mut unmap)? };
    Ok(unmap.length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    /// As `_IO(';', n)` expands with the kernel's headers: written out by hand.
    #[test]
    fn request_numbers_are_the_kernels() {
        let numbers = [
            (GET_API_VERSION, 0x3B64),
            (CHECK_EXTENSION, 0x3B65),
            (SET_IOMMU, 0x3B66),
            (GROUP_GET_STATUS, 0x3B67),
            (GROUP_SET_CONTAINER, 0x3B68),
            (GROUP_GET_DEVICE_FD, 0x3B6A),
            (DEVICE_GET_INFO, 0x3B6B),
            (DEVICE_GET_REGION_INFO, 0x3B6C),
            (DEVICE_GET_IRQ_INFO, 0x3B6D),
            (DEVICE_SET_IRQS, 0x3B6E),
            (DEVICE_RESET, 0x3B6F),
            (DEVICE_GET_PCI_HOT_RESET_INFO, 0x3B70),
            (DEVICE_PCI_HOT_RESET, 0x3B71),
            (IOMMU_GET_INFO, 0x3B70),
            (IOMMU_MAP_DMA, 0x3B71),
            (IOMMU_UNMAP_DMA, 0x3B72),
            (DEVICE_BIND_IOMMUFD, 0x3B76),
            (DEVICE_ATTACH_IOMMUFD_PT, 0x3B77),
            (IOAS_ALLOC, 0x3B81),
            (IOAS_IOVA_RANGES, 0x3B84),
            (IOAS_MAP, 0x3B85),
            (IOAS_UNMAP, 0x3B86),
        ];
        for (number, kernels) in numbers {
            assert_eq!(number, kernels, "{number:#x}");
        }
    }

    /// The arrays written by hand above follow heads of these lengths.
    #[test]
    fn structures_written_as_words_are_as_long_as_the_kernels() {
        assert_eq!(size_of::<vfio::vfio_irq_set>(), 5 * 4);
        assert_eq!(size_of::<vfio::vfio_pci_hot_reset>(), 3 * 4);
        assert_eq!(size_of::<vfio::vfio_pci_hot_reset_info>(), 3 * 4);
        assert_eq!(size_of::<vfio::vfio_pci_dependent_device>(), 2 * 4);
        assert_eq!(size_of::<vfio::vfio_region_info>(), 32);
        assert_eq!(size_of::<vfio::vfio_iommu_type1_info>(), 24);
        assert_eq!(size_of::<vfio::vfio_iommu_type1_dma_map>(), 32);
        assert_eq!(size_of::<vfio::vfio_iommu_type1_dma_unmap>(), 24);
        assert_eq!(size_of::<iommufd::iommu_ioas_map>(), 40);
        assert_eq!(size_of::<iommufd::iommu_ioas_unmap>(), 24);
        assert_eq!(size_of::<iommufd::iommu_ioas_iova_ranges>(), 32);
        assert_eq!(
            size_of::<jalapeno_wire::RegionInfo>(),
            32,
            "one parser for both"
        );
    }

    #[test]
    fn a_file_that_is_no_vfio_is_refused_by_every_call() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let fd = file.as_fd();
        let memory = (NonNull::<u8>::dangling(), 4096);
        assert!(api_version(fd).is_err());
        assert!(has_iommu(fd, 3).is_err());
        assert!(set_iommu(fd, 3).is_err());
        assert!(group_is_viable(fd).is_err());
        assert!(set_container(fd, fd).is_err());
        assert!(group_device(fd, c"0000:01:00.0").is_err());
        assert!(device_info(fd).is_err());
        assert!(region_info(fd, 0).is_err());
        assert!(irq_info(fd, 2).is_err());
        assert!(set_eventfds(fd, 2, 0, &[None, Some(fd)]).is_err());
        assert!(device_reset(fd).is_err());
        assert!(hot_reset_info(fd).is_err());
        assert!(hot_reset(fd, &[fd]).is_err());
        assert!(iommu_info(fd).is_err());
        assert!(map_dma(fd, 0, memory, true).is_err());
        assert!(unmap_dma(fd, 0, 4096).is_err());
        assert!(bind_iommufd(fd, fd).is_err());
        assert!(attach(fd, 1).is_err());
        assert!(ioas_alloc(fd).is_err());
        assert!(ioas_ranges(fd, 1).is_err());
        assert!(ioas_map(fd, 1, 0, memory, false).is_err());
        assert!(ioas_unmap(fd, 1, 0, 4096).is_err());
    }
}
