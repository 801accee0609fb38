//! A host between the library and the card: it says other things of itself, asks for the card back, and
//! resets a link that failed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use jalapeno::device::{Device, Role};
use jalapeno::error::Result;
use jalapeno::transport::{Area, BarMapping, Description, HostRange, Protection, Transport};
use jalapeno::units::Iova;
use jalapeno_hw::reg::Register;
use jalapeno_hw::regs::Generation;
use jalapeno_tests::Stage;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// The link is as it should be.
const WHOLE: u8 = 0;
/// It fails, and is reset, as soon as the card's generation is read.
const FAILS: u8 = 1;
/// It has failed.
const FAILED: u8 = 2;

/// See the file's head.
#[derive(Debug)]
pub struct Between {
    real: Arc<dyn Transport>,
    said: Description,
    wanted: EventFd,
    link: AtomicU8,
}

impl Between {
    /// The stage's card behind such a host, which changes what it says of itself.
    pub fn open(stage: &Stage, change: impl FnOnce(&mut Description)) -> (Arc<Device>, Arc<Self>) {
        let real = Arc::clone(stage.open().transport());
        let mut said = real.describe().clone();
        change(&mut said);
        let host = Arc::new(Self {
            real,
            said,
            wanted: EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap(),
            link: AtomicU8::new(WHOLE),
        });
        let transport = Arc::clone(&host) as Arc<dyn Transport>;
        let name = stage.name().to_owned();
        let device = Device::open_transport(transport, name, Role::Compute).unwrap();
        (device, host)
    }

    /// Asks for the card back.
    pub fn want(&self) {
        self.wanted.write(1).unwrap();
    }

    /// Has the link fail, and the kernel reset it, as soon as the card's generation is read.
    pub fn fail_link_when_asked(&self) {
        self.link.store(FAILS, Ordering::SeqCst);
    }
}

/// The stage's card behind a host that says other things of itself.
pub fn otherwise(stage: &Stage, change: impl FnOnce(&mut Description)) -> Arc<Device> {
    Between::open(stage, change).0
}

impl Transport for Between {
    fn describe(&self) -> &Description {
        &self.said
    }
    fn map_bar(&self, bar: u32, area: Area, writable: bool) -> Result<Arc<dyn BarMapping>> {
        self.real.map_bar(bar, area, writable)
    }
    fn read(&self, region: u32, offset: u64, into: &mut [u8]) -> Result<()> {
        self.real.read(region, offset, into)?;
        if (region, offset) == (0, Generation::OFFSET.into()) {
            let order = Ordering::SeqCst;
            let _ = self.link.compare_exchange(FAILS, FAILED, order, order);
            if self.link.load(Ordering::SeqCst) == FAILED {
                into[0] = into[0].wrapping_add(1); // after the reset
            }
        }
        Ok(())
    }
    fn write(&self, region: u32, offset: u64, from: &[u8]) -> Result<()> {
        self.real.write(region, offset, from)
    }
    fn map_dma(&self, iova: Iova, range: HostRange<'_>, protection: Protection) -> Result<()> {
        self.real.map_dma(iova, range, protection)
    }
    fn unmap_dma(&self, iova: Iova, bytes: u64) -> Result<()> {
        self.real.unmap_dma(iova, bytes)
    }
    fn set_vectors(&self, first: u32, eventfds: &[Option<BorrowedFd<'_>>]) -> Result<()> {
        self.real.set_vectors(first, eventfds)
    }
    fn reset(&self) -> Result<()> {
        self.real.reset()
    }
    fn lost_fd(&self) -> Option<OwnedFd> {
        self.real.lost_fd()
    }
    fn is_lost(&self) -> bool {
        self.real.is_lost() || self.link.load(Ordering::SeqCst) == FAILED
    }
    fn wanted_fd(&self) -> Option<OwnedFd> {
        self.wanted.as_fd().try_clone_to_owned().ok()
    }
    fn is_wanted(&self) -> bool {
        let mut fds = [PollFd::new(self.wanted.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, 0u16).is_ok_and(|ready| ready > 0)
    }
}
