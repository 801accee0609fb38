//! The telemetry page, refreshed under its sequence lock, one copy for each connection, which has the
//! capability records beside it. Host interface 9.
//!
//! A connection's copy is its own memory: who falsifies it deceives only itself.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use jalapeno_hw::pci::{HBM_STACKS, LINK_LANES};
use jalapeno_hw::regs::{CAPS_BYTES, CAPS_OFFSET, QueueState, TELEMETRY_BYTES, TELEMETRY_OFFSET};
use jalapeno_hw::telemetry::{
    TELEMETRY_ENTRIES_MAX, TELEMETRY_MAGIC, TelemetryEntry, TelemetryField, TelemetryHeader,
    TelemetryUnit,
};
use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};
use zerocopy::IntoBytes;

use crate::card::Card;
use crate::energy::{Engine, POWER_LIMIT_MILLIWATTS, Thermometer};
use crate::faults::Fault;
use crate::server::Page;
use crate::span::Span;

/// Between two refreshes; a heartbeat comes with each.
pub const REFRESH: Duration = Duration::from_millis(50);
/// After which a value is stale.
const STALE_MS: u32 = 1000;
const PAGE: usize = TELEMETRY_BYTES as usize;
const FILE: usize = TELEMETRY_OFFSET as usize + PAGE;
/// What can be mapped of a copy: the capability records, which never change, and the page.
const AREAS: [(u64, u64); 2] = [
    (CAPS_OFFSET as u64, CAPS_BYTES as u64),
    (TELEMETRY_OFFSET as u64, TELEMETRY_BYTES as u64),
];
/// Highest compute clock in kilohertz. ASSUMED.
const COMPUTE_CLOCK: u64 = 1_900_000;
/// Compute clock of an idle card in kilohertz. ASSUMED.
const IDLE_CLOCK: u64 = 600_000;
/// HBM clock in kilohertz. ASSUMED.
const HBM_CLOCK: u64 = 4_000_000;
/// Transfers of one lane, in millions a second: PCIe generation 5.
const LINK_SPEED: u64 = 32_000;
/// Temperatures in thousandths of a degree at which clocks fall and engines stop. ASSUMED.
const THROTTLE_MILLICELSIUS: u64 = 95_000;
const SHUTDOWN_MILLICELSIUS: u64 = 105_000;

/// One connection's copy. Its file is as long as BAR0 up to the page's end.
#[derive(Debug)]
pub struct Copy {
    file: OwnedFd,
    map: MmapRaw,
    areas: &'static [(u64, u64)],
    sequence: AtomicU64,
}

/// All copies, and the newest content for whoever reads through registers.
#[derive(Debug, Default)]
pub struct Telemetry {
    copies: Mutex<Vec<Weak<Copy>>>,
    newest: Mutex<Vec<u8>>,
}

impl Copy {
    /// With these capability records; `None`: they are relayed.
    fn new(records: Option<&[u8]>) -> io::Result<Self> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = memfd_create(c"jalapeno-telemetry", flags)?;
        let length = i64::try_from(FILE).map_err(|_| io::ErrorKind::InvalidInput)?;
        nix::unistd::ftruncate(&file, length)?;
        // The client holds this file: it must not be able to shrink it, nor to seal
        // it against us and those after it.
        nix::fcntl::fcntl(
            &file,
            nix::fcntl::FcntlArg::F_ADD_SEALS(
                nix::fcntl::SealFlag::F_SEAL_SHRINK
                    | nix::fcntl::SealFlag::F_SEAL_GROW
                    | nix::fcntl::SealFlag::F_SEAL_SEAL,
            ),
        )?;
        let copy = Self {
            map: MmapOptions::new().len(FILE).map_raw(&file)?,
            file,
            areas: AREAS
                .get(usize::from(records.is_none())..)
                .unwrap_or_default(),
            sequence: AtomicU64::new(0),
        };
        copy.all()
            .write(CAPS_OFFSET as usize, records.unwrap_or_default());
        Ok(copy)
    }

    /// All of it in memory.
    fn all(&self) -> Span {
        // SAFETY: the mapping lives as long as `self`, and its file is sealed against shrinking.
        unsafe { Span::new(self.map.as_mut_ptr(), self.map.len()) }
    }

    /// The page in memory.
    fn span(&self) -> Span {
        self.all().part(TELEMETRY_OFFSET as usize, PAGE)
    }

    /// Writes new content under the sequence lock; `torn` leaves it locked.
    fn write(&self, content: &[u8], torn: bool) {
        let span = self.span();
        let sequence = self.sequence.fetch_add(2, Ordering::Relaxed);
        span.store(8, sequence | 1, Ordering::Relaxed);
        // Nothing of the content may be seen before the odd number.
        fence(Ordering::SeqCst);
        span.write(0, content.get(..8).unwrap_or_default());
        span.write(16, content.get(16..).unwrap_or_default());
        if !torn {
            span.store(8, sequence + 2, Ordering::Release);
        }
    }
}

impl Page for Copy {
    fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn areas(&self) -> &[(u64, u64)] {
        self.areas
    }
}

impl Telemetry {
    /// A copy that is kept fresh while it lives, with these capability records to be mapped too.
    ///
    /// # Errors
    /// What the kernel said to its memory.
    pub fn copy(&self, records: Option<&[u8]>) -> io::Result<Arc<Copy>> {
        let copy = Arc::new(Copy::new(records)?);
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        copy.write(&newest, false);
        drop(newest);
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        copies.push(Arc::downgrade(&copy));
        Ok(copy)
    }

    /// Copies alive.
    #[must_use]
    pub fn copies(&self) -> usize {
        let copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        copies.iter().filter(|copy| copy.strong_count() > 0).count()
    }

    /// The 4-byte word at an offset into the page.
    #[must_use]
    pub fn word(&self, offset: usize) -> u32 {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = newest.get(offset..);
        rest.and_then(|rest| rest.first_chunk())
            .map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    /// Gives everybody new content.
    fn publish(&self, content: Vec<u8>, torn: bool) {
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        copies.retain(|copy| match copy.upgrade() {
            Some(copy) => {
                copy.write(&content, torn);
                true
            }
            None => false,
        });
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = content;
    }
}

/// What one refresh keeps for the next.
#[derive(Debug, Default)]
pub struct Sensors {
    thermometer: Thermometer,
    time: u64,
    energy_uj: u64,
    compute_ns: u64,
    copy_ns: u64,
    sequence: u64,
    power: u64,
}

impl Sensors {
    /// Takes every value and publishes them; beats the heart.
    pub fn refresh(&mut self, card: &Card) {
        let misbehaves = |fault| card.injector.is_active(fault);
        if misbehaves(Fault::FirmwareCrash) {
            return;
        }
        card.heartbeat.fetch_add(1, Ordering::Relaxed);
        if misbehaves(Fault::TelemetryStale) {
            return;
        }
        let mut entries = self.take(card);
        entries.truncate(TELEMETRY_ENTRIES_MAX);
        if misbehaves(Fault::TelemetryGarbage) {
            for entry in &mut entries {
                entry.value = u64::MAX;
            }
        }
        self.sequence += 2;
        let torn = misbehaves(Fault::TelemetryTorn);
        let header = TelemetryHeader {
            magic: TELEMETRY_MAGIC,
            version: 1,
            count: u16::try_from(entries.len()).unwrap_or(u16::MAX),
            sequence: self.sequence | u64::from(torn),
            updated: self.time,
            generation: card.generation.load(Ordering::Acquire),
            ..TelemetryHeader::ZERO
        };
        let mut content = header.as_bytes().to_vec();
        content.extend_from_slice(entries.as_slice().as_bytes());
        content.resize(PAGE, 0);
        card.telemetry.publish(content, torn);
    }

    fn take(&mut self, card: &Card) -> Vec<TelemetryEntry> {
        use TelemetryField as Field;
        use TelemetryUnit as Unit;
        let now = card.now();
        let passed = now.saturating_sub(self.time);
        let energy_uj = card.energy_uj();
        if passed > 0 && self.time > 0 {
            // 1 uJ in 1 ns is 1 kW: a million milliwatts.
            let spent = u128::from(energy_uj.saturating_sub(self.energy_uj));
            let power = spent * 1_000_000 / u128::from(passed);
            self.power = u64::try_from(power).unwrap_or(u64::MAX);
        } else {
            self.power = crate::energy::IDLE_MILLIWATTS;
        }
        let die = self
            .thermometer
            .step(self.power, Duration::from_nanos(passed));
        let busy = |engine, before: u64| card.meter.busy_ns(engine).saturating_sub(before);
        let compute = per_mille(busy(Engine::Compute, self.compute_ns), passed);
        let copying = per_mille(busy(Engine::Copy, self.copy_ns), passed);
        self.compute_ns = card.meter.busy_ns(Engine::Compute);
        self.copy_ns = card.meter.busy_ns(Engine::Copy);
        (self.time, self.energy_uj) = (now, energy_uj);

        let mut list = List {
            now,
            entries: Vec::new(),
        };
        let clock = IDLE_CLOCK + (COMPUTE_CLOCK - IDLE_CLOCK) * compute / 1000;
        list.add(
            Field::DieTemperature,
            0,
            Unit::MilliCelsius,
            die.cast_unsigned(),
        );
        for stack in 0..HBM_STACKS {
            // Stacks sit beside the die: cooler, the outer ones a little more. ASSUMED.
            let degrees = die - 2000 - 300 * i64::from(stack % 3);
            list.add(
                Field::HbmTemperature,
                stack,
                Unit::MilliCelsius,
                degrees.cast_unsigned(),
            );
            let ecc = |counter: &AtomicU64| {
                if stack == 0 {
                    counter.load(Ordering::Relaxed)
                } else {
                    0
                }
            };
            list.add(
                Field::EccCorrected,
                stack,
                Unit::Count,
                ecc(&card.ecc_corrected),
            );
            list.add(
                Field::EccUncorrected,
                stack,
                Unit::Count,
                ecc(&card.ecc_uncorrected),
            );
        }
        list.add(
            Field::ThrottleTemperature,
            0,
            Unit::MilliCelsius,
            THROTTLE_MILLICELSIUS,
        );
        list.add(
            Field::ShutdownTemperature,
            0,
            Unit::MilliCelsius,
            SHUTDOWN_MILLICELSIUS,
        );
        list.add(Field::Power, 0, Unit::MilliWatt, self.power);
        list.add(
            Field::PowerLimit,
            0,
            Unit::MilliWatt,
            POWER_LIMIT_MILLIWATTS,
        );
        list.add(Field::Energy, 0, Unit::MicroJoule, energy_uj);
        list.add(Field::ComputeClock, 0, Unit::KiloHertz, clock);
        list.add(Field::ComputeClockLimit, 0, Unit::KiloHertz, COMPUTE_CLOCK);
        list.add(Field::HbmClock, 0, Unit::KiloHertz, HBM_CLOCK);
        for reason in 0..3 {
            let thermal = card.throttles.load(Ordering::Relaxed);
            list.add(
                Field::ThrottleCount,
                reason,
                Unit::Count,
                if reason == 0 { thermal } else { 0 },
            );
            list.add(Field::ThrottleTime, reason, Unit::NanoSecond, 0);
        }
        list.add(Field::Utilisation, 0, Unit::PerMille, compute);
        list.add(Field::Utilisation, 1, Unit::PerMille, copying);
        list.add(Field::HbmUsed, 0, Unit::Byte, card.hbm.used());
        list.add(Field::HbmTotal, 0, Unit::Byte, card.hbm.bytes());
        list.add(Field::RetiredPages, 0, Unit::Count, 0);
        list.add(Field::LinkSpeed, 0, Unit::MegaTransfer, LINK_SPEED);
        list.add(Field::LinkWidth, 0, Unit::Count, LINK_LANES.into());
        list.add(Field::LinkReplays, 0, Unit::Count, 0);
        list.add(
            Field::Heartbeat,
            0,
            Unit::Count,
            card.heartbeat.load(Ordering::Relaxed).into(),
        );
        list.add(
            Field::State,
            0,
            Unit::Count,
            card.state.load(Ordering::Acquire).into(),
        );
        list.add(Field::Operations, 0, Unit::Count, card.meter.operations());
        list.add(Field::BytesMoved, 0, Unit::Byte, card.meter.bytes());
        list.add(Field::Faults, 0, Unit::Count, card.log.count());
        list.add(
            Field::Scrubs,
            0,
            Unit::Count,
            card.scrub_count.load(Ordering::Relaxed),
        );
        for (number, queue) in (0u32..).zip(&card.queues) {
            if queue.state.load(Ordering::Acquire) == QueueState::Absent.code() {
                continue;
            }
            let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            list.add(
                Field::QueueCompleted,
                number,
                Unit::Count,
                load(&queue.completed),
            );
            list.add(Field::QueueFailed, number, Unit::Count, load(&queue.failed));
        }
        list.entries
    }
}

struct List {
    now: u64,
    entries: Vec<TelemetryEntry>,
}

impl List {
    fn add(&mut self, field: TelemetryField, instance: u32, unit: TelemetryUnit, value: u64) {
        self.entries.push(TelemetryEntry {
            field: u16::try_from(field.code()).unwrap_or_default(),
            instance: u16::try_from(instance).unwrap_or_default(),
            unit: u8::try_from(unit.code()).unwrap_or_default(),
            value,
            taken: self.now,
            stale_after_ms: STALE_MS,
            ..TelemetryEntry::ZERO
        });
    }
}

fn per_mille(busy: u64, passed: u64) -> u64 {
    (u128::from(busy) * 1000)
        .checked_div(u128::from(passed))
        .and_then(|share| u64::try_from(share).ok())
        .unwrap_or(0)
        .min(1000)
}
