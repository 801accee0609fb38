//! A peer's window: a part of another card's BAR, which the device reaches like host memory.

use std::mem;
use std::sync::Arc;

use nix::errno::Errno;

use super::{DmaSpace, Lease};
use crate::error::{Error, Result};
use crate::transport::{Area, BarMapping, HostRange, Protection, Transport};
use crate::units::Iova;

/// What became of a mapping that was to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The device cannot reach the window any more.
    Unmapped,
    /// The device was lost: nobody said that it cannot.
    Unknown,
    /// It still can, or it is another process's.
    Kept,
}

/// A part of another card's BAR, mapped for a device.
#[derive(Debug)]
pub(crate) struct PeerWindow {
    lease: Lease,
    /// What the kernel maps it by; and it keeps the other card's function open.
    map: Arc<dyn BarMapping>,
}

impl PeerWindow {
    /// Maps a part of the BAR `bar` of `peer`, in whole pages.
    ///
    /// # Errors
    /// `Unsupported` where that BAR, or a BAR here, cannot be mapped; `Memory`, `Lost`, `Forked`.
    pub(crate) fn map(
        space: &Arc<DmaSpace>,
        peer: &Arc<dyn Transport>,
        (bar, area): (u32, Area),
    ) -> Result<Self> {
        space.mark.check()?;
        let about = space.transport.describe();
        let map = peer.map_bar(bar, area, true)?;
        let file = peer.bar_file(bar, area.offset);
        if about.needs_file && file.is_none() {
            return Err(Error::Unsupported {
                what: format!(
                    "peer access from {} to {}: another process serves the one, and the other's \
                     window is no file that it could map",
                    about.name,
                    peer.describe().name
                ),
            });
        }
        let mut lease = space.reserve(area.bytes)?;
        let range = HostRange {
            at: map.base(),
            bytes: area.bytes,
            file,
        };
        if let Err(error) = lease.map(range, Protection::ReadWrite) {
            lease.release();
            return Err(match error {
                Error::Io { source, .. } if takes_no_bar(&source) => Error::Unsupported {
                    what: format!(
                        "peer access from {} to {}: the address space of the one takes no window \
                         of the other ({source})",
                        about.name,
                        peer.describe().name
                    ),
                },
                error => error,
            });
        }
        Ok(Self { lease, map })
    }

    /// Its first byte as the device sees it.
    pub(crate) fn iova(&self) -> Iova {
        self.lease.iova()
    }

    /// Unmaps; for its owner's `drop`, and only once.
    pub(crate) fn unmap(&mut self) -> Ended {
        if !self.lease.release() {
            mem::forget(Arc::clone(&self.map));
            return Ended::Kept;
        }
        if self.lease.space.transport.is_lost() {
            return Ended::Unknown;
        }
        Ended::Unmapped
    }
}

/// What an address space says that maps ordinary memory only.
fn takes_no_bar(source: &std::io::Error) -> bool {
    let errno = source.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::EFAULT | Errno::EINVAL | Errno::EOPNOTSUPP)
    )
}
