//! The transport: eight verbs that reach a PCI function, for set-up and slow paths only.
//!
//! A mapped BAR is a pointer, so doorbells and completion polls make no call through here.

mod cdev;
mod group;
mod iova;
mod msix;
mod noiommu;
pub mod opening;
mod region;
mod uapi;
pub mod user;
mod vfio;

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::units::Iova;

/// PCI regions, numbered as VFIO does.
pub const CONFIG_REGION: u32 = 7;

/// What stands behind a transport.
#[derive(Clone, Debug)]
pub struct Description {
    /// How the function is reached: `vfio-user`, `vfio-group`, `vfio-cdev` or `unsafe-noiommu`.
    pub backend: &'static str,
    /// Its name there: socket path or PCI address.
    pub name: String,
    /// BAR sizes in bytes by number; 0: absent.
    pub bars: [u64; 6],
    /// Areas of each BAR that can be mapped.
    pub mappable: [Vec<Area>; 6],
    /// MSI-X vectors at most: a kernel that adds them one by one (Linux 6.5) may have fewer than the function.
    pub vectors: u32,
    /// Host addresses that mappings may use, ascending, bounds inclusive.
    pub iova_ranges: Vec<(u64, u64)>,
    /// Mappings that may exist at once.
    pub maps_limit: usize,
    /// Smallest mapping granule in bytes.
    pub page_bytes: u64,
    /// Host memory can be mapped only with the file behind it (another process serves the device).
    pub needs_file: bool,
    /// Mapped memory is pinned and counts against RLIMIT_MEMLOCK.
    pub pins: bool,
    /// It counts together with what all processes of the user pinned (iommufd).
    pub pins_per_user: bool,
    /// Longest that the function may read all ones and be there: a kernel that resets it hides it, and
    /// tells nobody.
    pub hidden_for: Duration,
    /// The process that owned the function when this observer came, where that is told.
    pub owner_pid: Option<u32>,
}

/// A part of a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// First byte.
    pub offset: u64,
    /// Length.
    pub bytes: u64,
}

/// What the device may do with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Read only: the IOMMU refuses writes.
    Read,
    /// Read and write.
    ReadWrite,
}

/// Host memory to be mapped for the device.
#[derive(Clone, Copy, Debug)]
pub struct HostRange<'a> {
    /// Where it is in this process; page-aligned.
    pub at: NonNull<u8>,
    /// Its length; a multiple of the page size.
    pub bytes: u64,
    /// The file behind it and the offset there: what vfio-user shares with its server. Memory
    /// registered by the user has none.
    pub file: Option<(BorrowedFd<'a>, u64)>,
}

/// A mapped part of a BAR; unmapped on drop. Shared with the device: access it by volatile or
/// atomic loads and stores only.
pub trait BarMapping: Send + Sync + fmt::Debug {
    /// Its first byte.
    fn base(&self) -> NonNull<u8>;
    /// Its length in bytes.
    fn bytes(&self) -> usize;
}

/// The way to one PCI function. Implementations are thread-safe; every call ends within its
/// deadline. All of them are slow: nothing here is on the path of a command.
pub trait Transport: Send + Sync + fmt::Debug {
    /// What is there.
    fn describe(&self) -> &Description;
    /// Maps an area of a BAR that `describe` called mappable.
    fn map_bar(&self, bar: u32, area: Area, writable: bool) -> Result<Arc<dyn BarMapping>>;
    /// The file that shows what a BAR has from `at` on, and the offset there: what another device's
    /// server can map. `None`: there is no such file, the memory itself has to do.
    fn bar_file(&self, bar: u32, at: u64) -> Option<(BorrowedFd<'_>, u64)> {
        let _ = (bar, at);
        None
    }
    /// Reads from a region (a BAR, or `CONFIG_REGION`).
    fn read(&self, region: u32, offset: u64, into: &mut [u8]) -> Result<()>;
    /// Writes to a region.
    fn write(&self, region: u32, offset: u64, from: &[u8]) -> Result<()>;
    /// Makes host memory visible to the device at `iova`.
    fn map_dma(&self, iova: Iova, range: HostRange<'_>, protection: Protection) -> Result<()>;
    /// Takes it away again; after this returns the device cannot reach it.
    fn unmap_dma(&self, iova: Iova, bytes: u64) -> Result<()>;
    /// Delivers vectors `first..` to these eventfds; `None` stops one.
    fn set_vectors(&self, first: u32, eventfds: &[Option<BorrowedFd<'_>>]) -> Result<()>;
    /// Function level reset.
    fn reset(&self) -> Result<()>;
    /// Reset of the bus or slot; refused, with their names, where it would hit other functions.
    fn reset_bus(&self) -> Result<()> {
        Err(Error::Unsupported {
            what: format!("a reset of the bus by {}", self.describe().backend),
        })
    }
    /// An fd that turns readable or hangs up when the device goes away; pollable.
    fn lost_fd(&self) -> Option<OwnedFd>;
    /// Whether the device is known to be gone.
    fn is_lost(&self) -> bool;
    /// An fd that turns readable, and stays so, when the host wants the device back: it should be
    /// closed soon. `None` where nobody can ask.
    fn wanted_fd(&self) -> Option<OwnedFd> {
        None
    }
    /// Whether the host wants the device back.
    fn is_wanted(&self) -> bool {
        false
    }
    /// Whether the kernel scrubbed HBM before it gave the device to this opener. Host interface
    /// 10.5.
    fn is_scrubbed(&self) -> bool {
        false
    }
}
