//! MSI-X vectors of a function that the kernel's VFIO holds: how many there are to be had, and where they go.

use std::io;
use std::os::fd::BorrowedFd;

use vfio_bindings::bindings::vfio;

use super::uapi;
use super::vfio::{absurd, refused};
use crate::error::{Error, Result};
use crate::pci::Function;

const INDEX: u32 = vfio::VFIO_PCI_MSIX_IRQ_INDEX;
/// Vectors that are taken at once from a kernel that cannot add to them: queues beyond share. Each costs an
/// opening some 60 µs in a guest, and the host one of the 200 that a processor has for all devices.
const AT_OPEN: u32 = 32;
/// Where more can be added: one for faults, one for queue 0, one for the first queue beside it.
const AT_FIRST: u32 = 3;
/// Most vectors that MSI-X has.
const MOST: u32 = 2048;

/// Takes vectors without giving them anywhere yet, and says how many there can be: the kernel may have
/// fewer than the device, and before 6.5 it cannot add to those that were taken first. Where it adds them
/// one by one the number is a bound: `give` finds out.
pub(super) fn take(device: BorrowedFd<'_>, function: &Function, owns: bool) -> Result<u32> {
    let describe = |source| refused("describe interrupts of", function, source);
    let info = uapi::irq_info(device, INDEX).map_err(describe)?;
    let count = info.count.min(MOST);
    if !owns || count == 0 || info.flags & vfio::VFIO_IRQ_INFO_EVENTFD == 0 {
        return Ok(count);
    }
    let can_add = info.flags & vfio::VFIO_IRQ_INFO_NORESIZE == 0;
    let wanted = count.min(if can_add { AT_FIRST } else { AT_OPEN });
    let mut ask = wanted;
    loop {
        match uapi::set_eventfds(device, INDEX, 0, &vec![None; ask as usize]) {
            Ok(None) => break,
            Ok(Some(fewer)) if fewer < ask => ask = fewer,
            Ok(Some(_)) => return Err(absurd(function, "fewer vectors, but not fewer")),
            Err(source) if source.raw_os_error() == Some(libc::ENOSPC) => match ask {
                1 => return Err(Error::no_vector(function.address.clone())),
                _ => ask /= 2,
            },
            Err(source) => return Err(refused("take vectors of", function, source)),
        }
    }
    if ask < wanted {
        log::info!(
            "{}: {ask} of {count} vectors are to be had",
            function.address
        );
    }
    Ok(if can_add && ask == wanted { count } else { ask })
}

/// Gives vectors from `first` on to eventfds, or to nobody; `false` where the kernel has no more.
pub(super) fn give(
    device: BorrowedFd<'_>,
    first: u32,
    eventfds: &[Option<BorrowedFd<'_>>],
) -> io::Result<bool> {
    match uapi::set_eventfds(device, INDEX, first, eventfds) {
        Ok(fewer) => Ok(fewer.is_none()),
        // One that was to be added; or one that was reserved, since x86 takes a processor's vector only here.
        Err(source) if source.raw_os_error() == Some(libc::ENOSPC) => Ok(false),
        Err(source) => Err(source),
    }
}
