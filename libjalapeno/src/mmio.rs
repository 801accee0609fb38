//! Registers and doorbells: the only file where a BAR's two arms, mapped and relayed, meet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jalapeno_hw::reg::{Bits, Register};
use jalapeno_hw::regs::{self, Arm, Magic, Resume, Tail};

use crate::error::{Error, Result};
use crate::order;
use crate::transport::{Area, BarMapping, Transport};

/// BAR0, register by register. Always relayed: control registers have side effects.
#[derive(Clone, Debug)]
pub struct Registers {
    transport: Arc<dyn Transport>,
}

impl Registers {
    /// The registers behind a transport.
    #[must_use]
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport }
    }

    /// Reads a register. All ones are believed only while MAGIC still reads right.
    pub fn read<R: Register>(&self) -> Result<R> {
        let low = self.word(R::OFFSET)?;
        let value = if R::Bits::BYTES == 8 {
            u64::from(self.word(R::OFFSET + 4)?) << 32 | u64::from(low)
        } else {
            u64::from(low)
        };
        if low == u32::MAX && self.word(Magic::OFFSET)? != regs::MAGIC {
            return Err(Error::Lost {
                why: "its registers read all ones",
            });
        }
        Ok(R::from_bits(R::Bits::truncated(value)))
    }

    /// Writes a register; a 64-bit one low word first.
    pub fn write<R: Register>(&self, value: R) -> Result<()> {
        let bytes = value.bits().into().to_le_bytes();
        self.transport.write(0, u64::from(R::OFFSET), &bytes[..4])?;
        if R::Bits::BYTES == 8 {
            self.transport
                .write(0, u64::from(R::OFFSET) + 4, &bytes[4..])?;
        }
        Ok(())
    }

    /// Copies part of BAR0, as for capability records and the fault log.
    pub fn copy(&self, offset: u32, into: &mut [u8]) -> Result<()> {
        self.transport.read(0, u64::from(offset), into)
    }

    /// Reads 4 bytes at an offset, as for a register dump.
    pub fn word(&self, offset: u32) -> Result<u32> {
        let mut bytes = [0; 4];
        self.transport.read(0, u64::from(offset), &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }
}

/// Waits for a condition with the specification's deadline, politely.
pub fn until(
    what: &'static str,
    time: Duration,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let begin = Instant::now();
    let mut pause = Duration::from_micros(20);
    loop {
        if done()? {
            return Ok(());
        }
        let after = begin.elapsed();
        if after >= time {
            return Err(Error::Late { what, after });
        }
        std::thread::sleep(pause.min(time - after));
        pause = (pause * 2).min(Duration::from_millis(2));
    }
}

/// A part of a BAR that is mapped where it can be, and relayed where not.
#[derive(Clone, Debug)]
pub enum Window {
    /// Loads and stores.
    Mapped(Arc<dyn BarMapping>),
    /// Calls.
    Relayed(Arc<dyn Transport>, u32, Area),
}

impl Window {
    /// Opens an area of a BAR.
    pub fn open(transport: &Arc<dyn Transport>, bar: u32, area: Area, writable: bool) -> Self {
        match transport.map_bar(bar, area, writable) {
            Ok(mapping) => Self::Mapped(mapping),
            Err(error) => {
                log::debug!("BAR {bar} is relayed: {error}");
                Self::Relayed(transport.clone(), bar, area)
            }
        }
    }

    /// Copies bytes out, 8 at a time; `offset` and the length are multiples of 8 inside the area.
    pub fn copy(&self, offset: usize, into: &mut [u8]) -> Result<()> {
        match self {
            Self::Mapped(mapping) => {
                if !offset.is_multiple_of(8) || offset + into.len() > mapping.bytes() {
                    return Err(Error::Invalid {
                        what: format!("{} bytes at {offset} of a window", into.len()),
                    });
                }
                for (word, piece) in into.chunks_exact_mut(8).enumerate() {
                    // SAFETY: in bounds by the check above, aligned, mapped as long as `mapping` is.
                    let at =
                        unsafe { mapping.base().as_ptr().add(offset + 8 * word).cast::<u64>() };
                    // SAFETY: as above; volatile, because the device writes there.
                    piece.copy_from_slice(&unsafe { at.read_volatile() }.to_le_bytes());
                }
                Ok(())
            }
            Self::Relayed(transport, bar, area) => {
                transport.read(*bar, area.offset + offset as u64, into)
            }
        }
    }
}

/// One queue's doorbell page. Posted stores: no result, no call where it is mapped.
#[derive(Debug)]
pub struct Doorbell {
    window: Window,
    page: *mut u8,
    offset: u64,
}

// SAFETY: the page is device memory, stored to atomically from any thread; the window keeps it
// mapped.
unsafe impl Send for Doorbell {}
// SAFETY: as above.
unsafe impl Sync for Doorbell {}

impl Doorbell {
    /// The page at `offset` of the doorbell BAR's window; null when `offset` lies outside it.
    #[must_use]
    pub fn new(window: Window, offset: u64) -> Option<Self> {
        let page = match &window {
            Window::Mapped(mapping) => {
                let at = usize::try_from(offset)
                    .ok()
                    .filter(|at| at + 64 <= mapping.bytes())?;
                // SAFETY: in bounds by the filter above.
                unsafe { mapping.base().as_ptr().add(at) }
            }
            Window::Relayed(..) => std::ptr::null_mut(),
        };
        Some(Self {
            window,
            page,
            offset,
        })
    }

    /// Rings: packets up to `tail` are there.
    #[inline]
    pub fn tail(&self, tail: u32) {
        order::before_doorbell();
        if self.page.is_null() {
            return self.relay(Tail::OFFSET, &tail.to_le_bytes());
        }
        // SAFETY: the page is mapped, aligned, and shared only through atomics.
        unsafe { &*self.page.add(Tail::OFFSET as usize).cast::<AtomicU32>() }
            .store(tail, Ordering::Release);
    }

    /// Asks for an interrupt at `sequence`.
    #[inline]
    pub fn arm(&self, sequence: u64) {
        self.word(Arm::OFFSET, sequence);
    }

    /// Lets a stopped queue run again from `sequence`.
    pub fn resume(&self, sequence: u64) {
        self.word(Resume::OFFSET, sequence);
    }

    #[inline]
    fn word(&self, offset: u32, value: u64) {
        if self.page.is_null() {
            return self.relay(offset, &value.to_le_bytes());
        }
        // SAFETY: as in `tail`.
        unsafe { &*self.page.add(offset as usize).cast::<AtomicU64>() }
            .store(value, Ordering::Release);
    }

    #[cold]
    fn relay(&self, offset: u32, bytes: &[u8]) {
        if let Window::Relayed(transport, bar, area) = &self.window
            && let Err(error) =
                transport.write(*bar, area.offset + self.offset + u64::from(offset), bytes)
        {
            // The waits of this queue find out: a lost device, or a doorbell rung again.
            log::warn!("relay a doorbell: {error}");
        }
    }
}
