//! A PCI function held by the kernel's VFIO: the same behind a group and behind a device node.
//!
//! What differs is the address space for DMA: `group` has type1's, `cdev` iommufd's.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jalapeno_wire as wire;
use memmap2::{Advice, MmapOptions, MmapRaw};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use vfio_bindings::bindings::vfio;
use zerocopy::FromBytes;

use super::iova::Layout;
use super::{Area, BarMapping, CONFIG_REGION, Description, HostRange, Protection, Transport};
use super::{msix, region, uapi};
use crate::error::{Error, Result};
use crate::fork::ForkMark;
use crate::host::Memlock;
use crate::pci::Function;
use crate::units::Iova;

/// Longest that readers beside it may keep a bus reset from its turn.
const BUS_FREE_TIME: Duration = Duration::from_secs(1);
/// Longest that a kernel's reset hides the function: 100 ms by the specification, and what a starved
/// host adds.
const HIDDEN_TIME: Duration = Duration::from_secs(1);

/// The address space that a device does DMA in.
pub(super) trait AddressSpace: Send + Sync + std::fmt::Debug + 'static {
    /// `vfio-group` or `vfio-cdev`.
    const BACKEND: &'static str;
    /// Whether what is pinned counts for all processes of the user together.
    const PER_USER: bool = false;
    /// What can be mapped.
    fn layout(&self) -> io::Result<Layout>;
    /// Maps memory.
    fn map(&self, iova: u64, memory: (NonNull<u8>, u64), writable: bool) -> io::Result<()>;
    /// Unmaps; gives the bytes that were mapped.
    fn unmap(&self, iova: u64, bytes: u64) -> io::Result<u64>;
    /// The groups that prove to the kernel what a hot reset may hit; none where it knows.
    fn groups(&self) -> Vec<BorrowedFd<'_>>;
}

/// See the file's head. Fields drop in this order: the device stops before its memory goes.
#[derive(Debug)]
pub(super) struct Vfio<S> {
    function: Function,
    mark: ForkMark,
    lost: AtomicBool,
    description: Description,
    /// Where each region begins in the device's file.
    offsets: [u64; 8],
    resettable: bool,
    /// Raised by the kernel on an uncorrectable error of the link (AER).
    failed: EventFd,
    /// Raised when the host wants the device back.
    wanted: EventFd,
    device: File,
    space: S,
}

#[derive(Debug)]
struct Mapping(MmapRaw);

impl BarMapping for Mapping {
    fn base(&self) -> NonNull<u8> {
        // A mapping is never at address 0.
        NonNull::new(self.0.as_mut_ptr()).unwrap_or(NonNull::dangling())
    }
    fn bytes(&self) -> usize {
        self.0.len()
    }
}

/// What the kernel or the device says cannot be.
pub(super) fn absurd(function: &Function, why: &str) -> Error {
    Error::NotFound {
        name: function.address.clone(),
        why: format!("the kernel describes it oddly: {why}"),
    }
}

/// An error of the system about `function`.
pub(super) fn refused(tried: &'static str, function: &Function, source: io::Error) -> Error {
    match source.raw_os_error() {
        Some(libc::ENODEV) => Error::Lost {
            why: "the kernel let go of it: removed, or unbound from its driver",
        },
        _ => Error::Io {
            tried,
            on: function.address.clone(),
            source,
        },
    }
}

fn event(function: &Function) -> Result<EventFd> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    EventFd::from_flags(flags).map_err(|e| refused("make an eventfd for", function, e.into()))
}

impl<S: AddressSpace> Vfio<S> {
    /// Takes over an opened device. `owns`: interrupts will be wanted.
    pub(super) fn over(function: Function, device: OwnedFd, space: S, owns: bool) -> Result<Self> {
        let layout = space
            .layout()
            .map_err(|source| refused("ask for the address ranges of", &function, source))?;
        let mut this = Self {
            mark: ForkMark::here(),
            lost: AtomicBool::new(false),
            description: Description {
                backend: S::BACKEND,
                name: function.address.clone(),
                bars: [0; 6],
                mappable: Default::default(),
                vectors: 0,
                iova_ranges: layout.ranges,
                maps_limit: layout.maps_limit,
                page_bytes: layout.page_bytes,
                needs_file: false,
                pins: true,
                pins_per_user: S::PER_USER,
                hidden_for: HIDDEN_TIME,
                owner_pid: None,
            },
            offsets: [0; 8],
            resettable: false,
            failed: event(&function)?,
            wanted: event(&function)?,
            device: File::from(device),
            function,
            space,
        };
        this.look_around(owns)?;
        Ok(this)
    }

    fn look_around(&mut self, owns: bool) -> Result<()> {
        let info = uapi::device_info(self.device.as_fd())
            .map_err(|source| refused("describe", &self.function, source))?;
        if info.flags & vfio::VFIO_DEVICE_FLAGS_PCI == 0 || info.num_regions <= CONFIG_REGION {
            return Err(self.absurd("it is no PCI function"));
        }
        self.resettable = info.flags & vfio::VFIO_DEVICE_FLAGS_RESET != 0;
        for index in [0, 2, 4, CONFIG_REGION] {
            self.look_at_region(index)?;
        }
        self.watch(vfio::VFIO_PCI_ERR_IRQ_INDEX, info.num_irqs, &self.failed);
        self.watch(vfio::VFIO_PCI_REQ_IRQ_INDEX, info.num_irqs, &self.wanted);
        self.description.vectors = msix::take(self.device.as_fd(), &self.function, owns)?;
        Ok(())
    }

    fn absurd(&self, why: &str) -> Error {
        absurd(&self.function, why)
    }

    fn look_at_region(&mut self, index: u32) -> Result<()> {
        let bytes = uapi::region_info(self.device.as_fd(), index)
            .map_err(|source| refused("describe a region of", &self.function, source))?;
        let at = index as usize;
        if index == CONFIG_REGION {
            let (info, _) = wire::RegionInfo::read_from_prefix(&bytes)
                .map_err(|_| self.absurd("a short description of its configuration space"))?;
            self.offsets[at] = info.offset;
            return Ok(());
        }
        let (info, areas) = region::parse(&bytes, index).map_err(|why| self.absurd(&why))?;
        self.offsets[at] = info.offset;
        self.description.bars[at] = info.bytes;
        self.description.mappable[at] = areas;
        Ok(())
    }

    /// Has the kernel raise `event` for an index of one interrupt; not every device has it.
    fn watch(&self, index: u32, indexes: u32, event: &EventFd) {
        if index >= indexes {
            return;
        }
        let device = self.device.as_fd();
        let count = uapi::irq_info(device, index).map_or(0, |info| info.count);
        if count == 0 {
            return;
        }
        if let Err(error) = uapi::set_eventfds(device, index, 0, &[Some(event.as_fd())]) {
            log::debug!(
                "{}: interrupt index {index}: {error}",
                self.function.address
            );
        }
    }

    fn check(&self) -> Result<()> {
        self.mark.check()?;
        if self.lost.load(Ordering::Acquire) {
            return Err(Error::Lost {
                why: "the kernel let go of it: removed, or unbound from its driver",
            });
        }
        Ok(())
    }

    fn failed(&self, tried: &'static str, source: io::Error) -> Error {
        if source.raw_os_error() == Some(libc::ENODEV) {
            self.lost.store(true, Ordering::Release);
        }
        refused(tried, &self.function, source)
    }

    /// The place of an access in the device's file.
    fn place(&self, region: u32, offset: u64, bytes: usize) -> Result<u64> {
        let wrong = || Error::Invalid {
            what: format!(
                "{bytes} bytes at {offset:#x} of region {region}: there is no such place"
            ),
        };
        let index = region as usize;
        let end = offset.checked_add(bytes as u64).ok_or_else(wrong)?;
        let limit = match self.description.bars.get(index) {
            Some(&bytes) => bytes,
            None if region == CONFIG_REGION => 4096,
            None => 0,
        };
        if end > limit {
            return Err(wrong());
        }
        self.offsets[index].checked_add(offset).ok_or_else(wrong)
    }

    /// What a refused mapping means.
    fn map_failed(&self, iova: Iova, bytes: u64, source: io::Error) -> Error {
        match source.raw_os_error() {
            Some(libc::ENOSPC) => Error::Memory {
                what: format!(
                    "mapping host memory: the kernel allows {} mappings, and all are in use",
                    self.description.maps_limit
                ),
                needed: bytes,
                have: 0,
                hint: "use fewer and larger buffers, or raise vfio_iommu_type1.dma_entry_limit"
                    .into(),
            },
            Some(libc::ENOMEM) => {
                let memlock = Memlock::here(S::PER_USER);
                let have = memlock.room();
                Error::Memory {
                    what: "pinning host memory".into(),
                    needed: bytes,
                    have,
                    hint: match bytes > have {
                        true => memlock.remedy(bytes),
                        // Unless others of this user pinned some at this moment.
                        false => "free memory on this machine: the limit on pinned memory \
                                  (ulimit -l) is not in the way"
                            .into(),
                    },
                }
            }
            Some(libc::EEXIST) => Error::Invalid {
                what: format!("{bytes:#x} bytes at iova {iova}: part of it is mapped already"),
            },
            _ => self.failed("map memory for", source),
        }
    }

    /// The functions beside this one that a reset of its bus would hit, each with its group.
    fn bystanders(&self) -> Result<Vec<String>> {
        let (_, all) = uapi::hot_reset_info(self.device.as_fd())
            .map_err(|source| self.failed("ask what a hot reset hits beside", source))?;
        Ok(all
            .iter()
            .map(|hit| {
                let (slot, part) = (hit.devfn >> 3, hit.devfn & 7);
                format!("{:04x}:{:02x}:{slot:02x}.{part}", hit.segment, hit.bus)
            })
            .filter(|address| *address != self.function.address)
            .collect())
    }
}

/// Whether an eventfd was raised; it stays so.
fn is_raised(event: &EventFd) -> bool {
    let mut fds = [PollFd::new(event.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

impl<S: AddressSpace> Transport for Vfio<S> {
    fn describe(&self) -> &Description {
        &self.description
    }

    fn map_bar(&self, bar: u32, area: Area, writable: bool) -> Result<Arc<dyn BarMapping>> {
        self.check()?;
        let unmappable = || Error::Unsupported {
            what: format!("mapping BAR {bar} of {}", self.function.address),
        };
        let inside = |outer: &Area| {
            let end = area.offset.checked_add(area.bytes);
            outer.offset <= area.offset && end.is_some_and(|end| end <= outer.offset + outer.bytes)
        };
        let areas = self.description.mappable.get(bar as usize);
        if !areas.is_some_and(|areas| areas.iter().any(inside)) {
            return Err(unmappable());
        }
        let length = usize::try_from(area.bytes).map_err(|_| unmappable())?;
        let mut options = MmapOptions::new();
        options
            .offset(self.place(bar, area.offset, length)?)
            .len(length);
        let map = match writable {
            true => options.map_raw(&self.device),
            false => options.map_raw_read_only(&self.device),
        };
        let map = map.map_err(|source| self.failed("map a BAR of", source))?;
        // A forked process must not ring doorbells.
        map.advise(Advice::DontFork)
            .map_err(|source| self.failed("keep a BAR from children of", source))?;
        Ok(Arc::new(Mapping(map)))
    }

    fn read(&self, region: u32, offset: u64, into: &mut [u8]) -> Result<()> {
        self.check()?;
        let at = self.place(region, offset, into.len())?;
        self.device
            .read_exact_at(into, at)
            .map_err(|source| self.failed("read a region of", source))
    }

    fn write(&self, region: u32, offset: u64, from: &[u8]) -> Result<()> {
        self.check()?;
        let at = self.place(region, offset, from.len())?;
        self.device
            .write_all_at(from, at)
            .map_err(|source| self.failed("write a region of", source))
    }

    fn map_dma(&self, iova: Iova, range: HostRange<'_>, protection: Protection) -> Result<()> {
        self.check()?;
        let writable = protection == Protection::ReadWrite;
        self.space
            .map(iova.0, (range.at, range.bytes), writable)
            .map_err(|source| self.map_failed(iova, range.bytes, source))
    }

    fn unmap_dma(&self, iova: Iova, bytes: u64) -> Result<()> {
        self.mark.check()?;
        let done = self
            .space
            .unmap(iova.0, bytes)
            .map_err(|source| self.failed("unmap memory from", source))?;
        if done == bytes {
            return Ok(());
        }
        Err(Error::Invalid {
            what: format!("unmap {bytes:#x} bytes at iova {iova}: {done:#x} were mapped there"),
        })
    }

    fn set_vectors(&self, first: u32, eventfds: &[Option<BorrowedFd<'_>>]) -> Result<()> {
        self.check()?;
        let end = u64::from(first) + eventfds.len() as u64;
        if eventfds.is_empty() || end > u64::from(self.description.vectors) {
            return Err(Error::Invalid {
                what: format!(
                    "vectors {first} to {end} of {}: it has {}",
                    self.function.address, self.description.vectors
                ),
            });
        }
        match msix::give(self.device.as_fd(), first, eventfds) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Unsupported {
                what: format!(
                    "vectors {first} to {end} of {}: the kernel has no more to give",
                    self.function.address
                ),
            }),
            Err(source) => Err(self.failed("set an interrupt of", source)),
        }
    }

    fn reset(&self) -> Result<()> {
        self.check()?;
        if !self.resettable {
            return Err(Error::Unsupported {
                what: format!(
                    "a function level reset of {}: the kernel has none for this device alone",
                    self.function.address
                ),
            });
        }
        uapi::device_reset(self.device.as_fd()).map_err(|source| self.failed("reset", source))
    }

    fn reset_bus(&self) -> Result<()> {
        self.check()?;
        let hit = self.bystanders()?;
        if !hit.is_empty() {
            return Err(Error::Unsupported {
                what: format!(
                    "a reset of the bus of {}: it would hit {} too",
                    self.function.address,
                    hit.join(", ")
                ),
            });
        }
        let begin = Instant::now();
        loop {
            match uapi::hot_reset(self.device.as_fd(), &self.space.groups()) {
                // Somebody reads a BAR or a sensor at this moment: the kernel does not wait for that.
                Err(source)
                    if source.raw_os_error() == Some(libc::EBUSY)
                        && begin.elapsed() < BUS_FREE_TIME =>
                {
                    std::thread::sleep(Duration::from_millis(1));
                }
                done => return done.map_err(|source| self.failed("reset the bus of", source)),
            }
        }
    }

    fn lost_fd(&self) -> Option<OwnedFd> {
        self.failed.as_fd().try_clone_to_owned().ok()
    }

    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire) || is_raised(&self.failed)
    }

    fn wanted_fd(&self) -> Option<OwnedFd> {
        self.wanted.as_fd().try_clone_to_owned().ok()
    }

    fn is_wanted(&self) -> bool {
        is_raised(&self.wanted)
    }

    fn is_scrubbed(&self) -> bool {
        // The module lets nobody open a card whose memory it could not scrub.
        self.function.has_kernel_module()
            && self.function.text("jalapeno/hbm").as_deref() == Some("owned")
    }
}

impl<S> Drop for Vfio<S> {
    fn drop(&mut self) {
        log::debug!("closing {}", self.function.address);
    }
}
