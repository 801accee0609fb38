//! Peer access: device memory of one card, mapped where the jobs of another can name it.
//! Host interface 10.6.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use jalapeno_hw::pci::BAR_WINDOW;

use crate::buffer::{DeviceBuffer, Held};
use crate::device::{Device, Generational};
use crate::dma::{Ended, PeerWindow};
use crate::error::{Error, Result};
use crate::hbm::DeviceMemory;
use crate::session::{Core, Session};
use crate::transport::Area;
use crate::units::DeviceAddr;

/// Mappings are made of whole pages of this size.
const PAGE: u64 = 4096;

/// Device memory of another card, as far as this one's jobs can reach it. It keeps that memory from
/// being given to anybody else, and that card open.
#[derive(Debug)]
pub(crate) struct PeerMemory {
    window: PeerWindow,
    bytes: u64,
    memory: Arc<DeviceMemory>,
    peer: Arc<Device>,
}

impl PeerMemory {
    pub(crate) fn range(&self) -> (u64, u64) {
        (self.window.iova().0, self.bytes)
    }
}

impl Drop for PeerMemory {
    fn drop(&mut self) {
        match self.window.unmap() {
            Ended::Unmapped => {}
            // A card that nobody hears of may still be writing: what it wrote to stays nobody's.
            Ended::Unknown => self.memory.keep(),
            Ended::Kept => mem::forget((Arc::clone(&self.memory), Arc::clone(&self.peer))),
        }
    }
}

/// How a mapping stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Good,
    /// One of the two devices was reset.
    Stale,
    /// Its owner let go of it.
    Over,
}

/// Hears of the resets of both devices.
#[derive(Debug)]
struct Watch {
    life: Mutex<Life>,
    /// Address and bytes, as this session's jobs name them.
    range: (u64, u64),
    core: Weak<Core>,
}

impl Watch {
    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generational for Watch {
    fn expire(&self) {
        let mut life = self.life();
        if *life != Life::Good {
            return;
        }
        *life = Life::Stale;
        // Under the lock: the address is nobody else's as long as its owner has not let go.
        if let Some(core) = self.core.upgrade() {
            core.end(self.range.0);
        }
    }

    fn is_idle(&self) -> bool {
        let (address, bytes) = self.range;
        let core = self.core.upgrade();
        core.is_none_or(|core| !core.names(address, bytes))
    }

    fn lose(&self, _why: &'static str) {
        self.expire();
    }
}

/// Another card's device memory that jobs of this session can name, like memory of the host: in
/// COPY, FILL, SIGNAL, WAIT, operands of kernels, and graphs. Thread-safe. While it lives that
/// memory is given to nobody else and that card stays open. Dropped while a job uses it: it stays
/// mapped until the job is done.
#[derive(Debug)]
pub struct PeerBuffer {
    memory: Arc<PeerMemory>,
    watch: Arc<Watch>,
    core: Arc<Core>,
}

impl Session {
    /// Maps a buffer of another card for the jobs of this session. Both cards must be open in this
    /// process, and the other's window (BAR4) must show the buffer. It counts as one mapping of host
    /// memory (`DmaSpace::fits`); in memory it costs nothing. A reset of either device makes it
    /// stale.
    ///
    /// # Errors
    /// `Invalid` for a buffer of this card; `Unsupported` where the window ends before it, or cannot
    /// be mapped for this card; `Stale`, `Memory`, `Lost`, `Forked`.
    pub fn peer_memory(&self, buffer: &DeviceBuffer) -> Result<PeerBuffer> {
        let (core, other) = (self.core(), buffer.core());
        core.sweep();
        let (device, peer) = (core.device(), other.device());
        if Arc::ptr_eq(device, peer) {
            return Err(Error::Invalid {
                what: format!(
                    "the buffer at {} is of this card: packets name it as it is",
                    buffer.address()
                ),
            });
        }
        device.check()?;
        peer.check()?;
        core.check_generation("the session")?;
        other.check_generation("the buffer")?;
        let (bar, area) = place(peer, buffer)?;
        let window = PeerWindow::map(device.dma()?, peer.transport(), (bar, area))?;
        let memory = Arc::new(PeerMemory {
            window,
            bytes: buffer.bytes(),
            memory: Arc::clone(buffer.device_memory()),
            peer: Arc::clone(peer),
        });
        core.adopt_peer(&memory);
        let watch = Arc::new(Watch {
            life: Mutex::new(Life::Good),
            range: memory.range(),
            core: Arc::downgrade(core),
        });
        for device in [device, peer] {
            let user: Weak<dyn Generational> = Arc::<Watch>::downgrade(&watch);
            device.tell(user);
        }
        let mapped = PeerBuffer {
            memory,
            watch,
            core: Arc::clone(core),
        };
        // A reset meanwhile may not have been heard.
        core.check_generation("the session")?;
        other.check_generation("the buffer")?;
        Ok(mapped)
    }
}

/// Where a buffer stands in its card's window.
fn place(peer: &Device, buffer: &DeviceBuffer) -> Result<(u32, Area)> {
    let memory = &peer.info().capabilities.memory;
    let window = peer.transport().describe().bars[BAR_WINDOW as usize];
    let hidden = memory.hbm_base.saturating_add(memory.window_offset);
    let offset = buffer.address().0.checked_sub(hidden);
    // The pages behind a buffer are its own, and larger.
    let bytes = buffer.bytes().next_multiple_of(PAGE);
    match offset {
        Some(offset) if offset.saturating_add(bytes) <= window => {
            Ok((BAR_WINDOW, Area { offset, bytes }))
        }
        _ => Err(Error::Unsupported {
            what: format!(
                "peer access to {bytes:#x} bytes at {} of {}: its window (BAR4) shows {window:#x} \
                 bytes from {hidden:#x} on; jalctl doctor says whether it can be larger",
                buffer.address(),
                peer.info().name
            ),
        }),
    }
}

impl PeerBuffer {
    /// As packets of this session name it.
    #[must_use]
    pub fn address(&self) -> DeviceAddr {
        DeviceAddr(self.memory.range().0)
    }

    /// Its length in bytes: the other card's buffer's.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.memory.bytes
    }

    /// Bytes of the pages that it is mapped by.
    #[must_use]
    pub fn page_bytes(&self) -> u64 {
        PAGE
    }

    /// The card whose memory it is.
    #[must_use]
    pub fn peer(&self) -> &Arc<Device> {
        &self.memory.peer
    }

    /// Whether a job of this session that is not done names it.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.core.names(self.address().0, self.bytes())
    }

    /// Whether it still leads to the other card's memory: both cards are there, and neither was
    /// reset by this process since it was mapped. No register is read.
    ///
    /// # Errors
    /// `Stale`, `Lost`, `Forked`.
    pub fn check(&self) -> Result<()> {
        self.core.device().check()?;
        self.memory.peer.check()?;
        match *self.watch.life() {
            Life::Good => Ok(()),
            Life::Stale | Life::Over => Err(Error::Stale {
                what: "the peer's memory",
            }),
        }
    }

    /// Unmaps it.
    ///
    /// # Errors
    /// `InUse` while an unfinished packet of this session names it; it comes back as it was.
    pub fn try_free(self) -> std::result::Result<(), (Self, Error)> {
        if self.is_in_use() {
            let what = "the peer buffer";
            return Err((self, Error::InUse { what }));
        }
        Ok(())
    }
}

impl Drop for PeerBuffer {
    fn drop(&mut self) {
        *self.watch.life() = Life::Over;
        self.core.let_go(Held::Peer(Arc::clone(&self.memory)));
    }
}
