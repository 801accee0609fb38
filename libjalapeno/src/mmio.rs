//! MMIO: a BAR and a doorbell page, each mapped or relayed; nowhere else is the difference known.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jalapeno_hw::pci::{BAR_DOORBELLS, BAR_REGISTERS};
use jalapeno_hw::reg::{Bits, Register};
use jalapeno_hw::regs::{Arm, MAGIC, Magic, Resume, Tail};

use crate::error::{Error, Result};
use crate::order;
use crate::transport::{Area, BarMapping, Transport};

/// What a read gives when nothing answers. PCIe: a completion timeout.
const ALL_ONES: u32 = u32::MAX;

/// A BAR. Where its transport can map it, an access is a load or store; elsewhere it is relayed.
/// Thread-safe.
#[derive(Debug)]
pub struct Bar {
    transport: Arc<dyn Transport>,
    number: u32,
    bytes: u64,
    mapped: Vec<(Area, Arc<dyn BarMapping>)>,
    /// Held over the two words of a 64-bit read, because the low word latches the high one.
    /// A leaf: nothing else is locked while it is held.
    latch: Mutex<()>,
}

impl Bar {
    /// BAR `number`, at least `least` bytes long, with what can be mapped of it mapped.
    ///
    /// # Errors
    /// `Protocol` where the device's BAR is shorter.
    pub fn open(
        transport: &Arc<dyn Transport>,
        number: u32,
        least: u64,
        writable: bool,
    ) -> Result<Self> {
        let about = transport.describe();
        let bytes = about.bars.get(number as usize).copied().unwrap_or(0);
        if bytes < least {
            return Err(Error::Protocol {
                code: jalapeno_hw::faults::FaultCode::BadDiscovery,
                what: format!("BAR{number} has {bytes} bytes; the interface needs {least}"),
            });
        }
        let mut mapped = Vec::new();
        for area in &about.mappable[number as usize] {
            match transport.map_bar(number, *area, writable) {
                Ok(map) => mapped.push((*area, map)),
                Err(error) => log::warn!("BAR{number} at {:#x} is relayed: {error}", area.offset),
            }
        }
        Ok(Self {
            transport: Arc::clone(transport),
            number,
            bytes,
            mapped,
            latch: Mutex::new(()),
        })
    }

    /// Its length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The transport behind it.
    #[must_use]
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// Reads a register of BAR0. A 64-bit one takes two accesses, low word first. Host interface 3.
    ///
    /// # Errors
    /// `Lost` when the device no longer answers (all ones, confirmed by MAGIC).
    pub fn read<R: Register>(&self) -> Result<R> {
        let at = u64::from(R::OFFSET);
        if R::Bits::BYTES == 4 {
            let low = self.word(at)?;
            return Ok(R::from_bits(R::Bits::truncated(u64::from(low))));
        }
        let latch = self.latch.lock().unwrap_or_else(PoisonError::into_inner);
        let low = self.word(at)?;
        let high = self.word(at + 4)?;
        drop(latch);
        Ok(R::from_bits(R::Bits::truncated(
            u64::from(high) << 32 | u64::from(low),
        )))
    }

    /// Writes a register of BAR0; a 64-bit one by two accesses, low word first. Host interface 3.
    ///
    /// # Errors
    /// `Lost`, `Io`.
    pub fn write<R: Register>(&self, value: R) -> Result<()> {
        let bits: u64 = value.bits().into();
        let at = u64::from(R::OFFSET);
        self.put(at, low_half(bits))?;
        if R::Bits::BYTES == 8 {
            self.put(at + 4, low_half(bits >> 32))?;
        }
        Ok(())
    }

    /// One aligned word, wherever it is; all ones is confirmed by MAGIC.
    ///
    /// # Errors
    /// `Lost`, `Invalid` beyond the BAR or misaligned.
    pub fn word(&self, at: u64) -> Result<u32> {
        let value = self.raw(at)?;
        if value == ALL_ONES && self.number == BAR_REGISTERS {
            self.confirm()?;
        }
        Ok(value)
    }

    /// Whether the device still answers with its MAGIC.
    ///
    /// # Errors
    /// `Lost` when it does not.
    pub fn confirm(&self) -> Result<()> {
        if self.raw(u64::from(Magic::OFFSET))? == MAGIC {
            Ok(())
        } else {
            Err(Error::Lost {
                why: "its registers read all ones",
            })
        }
    }

    /// Copies `into.len()` bytes from `at` on; a multiple of 4, aligned to 4. Not for registers with
    /// a latch; what may be read in any width (Host interface 3.1) is read in the widest.
    ///
    /// # Errors
    /// `Lost`, `Invalid`.
    pub fn copy(&self, at: u64, into: &mut [u8]) -> Result<()> {
        self.bounds(at, into.len())?;
        if self.mapping(at, into.len()).is_none() {
            return self.transport.read(self.number, at, into);
        }
        // Each access may be a round trip to the card, so as few as there can be.
        let head = into.len().min(usize::from(!at.is_multiple_of(8)) * 4);
        let (head, rest) = into.split_at_mut(head);
        let pairs = at + head.len() as u64;
        self.words(at, head)?;
        let mut places = (pairs..).step_by(8);
        let mut chunks = rest.chunks_exact_mut(8);
        for (chunk, place) in chunks.by_ref().zip(places.by_ref()) {
            chunk.copy_from_slice(&self.pair(place)?.to_le_bytes());
        }
        self.words(places.next().unwrap_or(at), chunks.into_remainder())
    }

    /// Copies word by word.
    fn words(&self, at: u64, into: &mut [u8]) -> Result<()> {
        for (chunk, place) in into.chunks_exact_mut(4).zip((at..).step_by(4)) {
            chunk.copy_from_slice(&self.raw(place)?.to_le_bytes());
        }
        Ok(())
    }

    fn bounds(&self, at: u64, bytes: usize) -> Result<()> {
        let end = at.checked_add(bytes as u64);
        if !at.is_multiple_of(4) || !bytes.is_multiple_of(4) || end.is_none_or(|e| e > self.bytes) {
            return Err(Error::Invalid {
                what: format!(
                    "access to {bytes} bytes at {at:#x} of BAR{} ({:#x} bytes): words inside it only",
                    self.number, self.bytes
                ),
            });
        }
        Ok(())
    }

    fn mapping(&self, at: u64, bytes: usize) -> Option<NonNull<u8>> {
        let end = at.checked_add(bytes as u64)?;
        let (area, map) = self
            .mapped
            .iter()
            .find(|(area, _)| at >= area.offset && end <= area.offset + area.bytes)?;
        let within = usize::try_from(at - area.offset).ok()?;
        if within + bytes > map.bytes() {
            return None;
        }
        // SAFETY: the sum was just found to lie inside the mapping.
        Some(unsafe { map.base().add(within) })
    }

    fn raw(&self, at: u64) -> Result<u32> {
        self.bounds(at, 4)?;
        if let Some(place) = self.mapping(at, 4) {
            // SAFETY: `bounds` and `mapping` hold the word inside a live mapping and aligned;
            // device memory is only ever accessed by volatile or atomic operations.
            return Ok(unsafe { place.cast::<u32>().read_volatile() });
        }
        let mut word = [0; 4];
        self.transport.read(self.number, at, &mut word)?;
        Ok(u32::from_le_bytes(word))
    }

    /// Two words by one access; at a multiple of 8.
    fn pair(&self, at: u64) -> Result<u64> {
        if let Some(place) = self.mapping(at, 8) {
            // SAFETY: as in `raw`, for two words.
            return Ok(unsafe { place.cast::<u64>().read_volatile() });
        }
        let mut pair = [0; 8];
        self.transport.read(self.number, at, &mut pair)?;
        Ok(u64::from_le_bytes(pair))
    }

    fn put(&self, at: u64, value: u32) -> Result<()> {
        self.bounds(at, 4)?;
        if let Some(place) = self.mapping(at, 4) {
            // SAFETY: as in `raw`; a BAR opened for an observer is not mapped writable, and
            // observers have no path to here that the kernel would not refuse with a signal, so
            // `Device` refuses it before.
            unsafe { place.cast::<u32>().write_volatile(value) };
            return Ok(());
        }
        self.transport.write(self.number, at, &value.to_le_bytes())
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "keeping the low half is the point"
)]
const fn low_half(bits: u64) -> u32 {
    bits as u32
}

/// Waits for a condition with the specification's deadline: looks often at first, then every
/// millisecond, and once more after the deadline, so that a stopped process does not time out.
///
/// # Errors
/// `Late` after the deadline; what the condition gives.
pub fn until(
    what: &'static str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let begin = Instant::now();
    let mut pause = Duration::from_micros(10);
    loop {
        let over = begin.elapsed() >= deadline;
        if condition()? {
            return Ok(());
        }
        if over {
            return Err(Error::Late {
                what,
                after: deadline,
            });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(1));
    }
}

/// One queue's doorbell page: three words that are levels. Host interface 5.8. Thread-safe; every
/// call is one store where the page is mapped.
#[derive(Debug)]
pub struct Doorbell {
    /// The page; `None` where it cannot be mapped.
    page: Option<NonNull<u8>>,
    /// What keeps the page mapped, or relays.
    bar: Arc<Bar>,
    offset: u64,
}

// SAFETY: the page is device memory, kept mapped by `bar`, and accessed by volatile stores of
// aligned words only, which any thread may do.
unsafe impl Send for Doorbell {}
// SAFETY: as above.
unsafe impl Sync for Doorbell {}

/// Bytes of a doorbell page that are used.
const DOORBELL_BYTES: usize = 24;

impl Doorbell {
    /// The doorbell page of queue `queue` in `bar`, pages `stride` bytes apart.
    ///
    /// # Errors
    /// `Invalid` where the BAR ends before it.
    pub fn open(bar: &Arc<Bar>, queue: u32, stride: u32) -> Result<Self> {
        let offset = u64::from(queue) * u64::from(stride);
        bar.bounds(offset, DOORBELL_BYTES)?;
        debug_assert_eq!(bar.number, BAR_DOORBELLS);
        Ok(Self {
            page: bar.mapping(offset, DOORBELL_BYTES),
            bar: Arc::clone(bar),
            offset,
        })
    }

    /// Stores TAIL, the low 32 bits of the last submitted sequence number, after every packet
    /// stored so far.
    #[inline]
    pub fn tail(&self, value: u32) {
        order::before_doorbell();
        if let Some(page) = self.page {
            // SAFETY: `open` found the page's words inside a live mapping; TAIL is aligned to 4.
            unsafe { page.add(Tail::OFFSET as usize).cast().write_volatile(value) };
        } else {
            self.relay(Tail::OFFSET, &value.to_le_bytes());
        }
    }

    /// Where TAIL is, for the path of a command; `None` where it is relayed. `self` keeps it there.
    pub(crate) fn tail_at(&self) -> Option<NonNull<u32>> {
        // SAFETY: `open` found the page's words inside a live mapping; TAIL is aligned to 4.
        self.page
            .map(|page| unsafe { page.add(Tail::OFFSET as usize).cast() })
    }

    /// Stores ARM: interrupt once when this sequence number is done; 0: never.
    #[inline]
    pub fn arm(&self, sequence: u64) {
        self.store(Arm::OFFSET, sequence);
    }

    /// Stores RESUME: the stopped queue runs again from this sequence number.
    #[inline]
    pub fn resume(&self, sequence: u64) {
        self.store(Resume::OFFSET, sequence);
    }

    #[inline]
    fn store(&self, word: u32, value: u64) {
        if let Some(page) = self.page {
            // SAFETY: as in `tail`; ARM and RESUME are aligned to 8.
            unsafe { page.add(word as usize).cast().write_volatile(value) };
        } else {
            self.relay(word, &value.to_le_bytes());
        }
    }

    /// A lost doorbell is found by the queue's deadline, as on a mapped page: hence no error.
    #[cold]
    fn relay(&self, word: u32, bytes: &[u8]) {
        let at = self.offset + u64::from(word);
        if let Err(error) = self.bar.transport.write(self.bar.number, at, bytes) {
            log::warn!("doorbell at {at:#x}: {error}");
        }
    }
}
