//! BAR0: reads and writes, decoded by walking the declared registers. Host interface 3.

use std::sync::atomic::Ordering;

use jalapeno_hw::queue::QueueCreate;
use jalapeno_hw::reg::{Access, Register, RegisterRow};
use jalapeno_hw::regs::{
    BAR0, BootId, CAPS_BYTES, CAPS_OFFSET, CapsPointer, Control, DeviceState, FAULT_LOG_OFFSET,
    FAULT_LOG_RECORDS, FaultAck, FaultCount, Feature, FeaturesAccepted, FeaturesOffered,
    Generation, Heartbeat, Kick, MAGIC, Magic, PROFILE_OFFSET, PROFILE_RECORDS, Platform,
    PlatformId, ProfileCount, Q0Completion, Q0Control, Q0Errors, Q0Ring, Q0Size, Q0Status,
    QueueState, REGISTERS_BYTES, Reset, ResetLevel, ResetPhase, ResetStatus, Scrub, ScrubCount,
    ScrubPhase, ScrubStatus, Serial, Status, TELEMETRY_BYTES, TELEMETRY_OFFSET, Time, UuidHigh,
    UuidLow, VERSION_MAJOR, VERSION_MINOR, Version,
};

use crate::card::{Card, Order};
use crate::faults::{Fault, Unit};

/// Where the TIME record, which follows QUEUES, MEMORY and IOVA, says ticks_per_second.
const TICKS: u32 = 0x68 + 8;

/// Where the capability records' page ends.
const CAPS_END: u32 = CAPS_OFFSET + CAPS_BYTES;

/// Where the card's profile ring ends.
const PROFILE_END: u32 = PROFILE_OFFSET + PROFILE_RECORDS * 64;

/// Where the telemetry page ends.
const TELEMETRY_END: u32 = TELEMETRY_OFFSET + TELEMETRY_BYTES;

/// Features this card knows.
pub const FEATURES: u64 = 1 << Feature::Arm.code()
    | 1 << Feature::Scrub.code()
    | 1 << Feature::Profile.code()
    | 1 << Feature::Graph.code()
    | 1 << Feature::Priority.code();

impl Card {
    /// Reads BAR0 (without MSI-X, which is the slot's). What is not a register reads zero.
    pub fn read_registers(&self, offset: u64, into: &mut [u8]) {
        let mut at = offset;
        let mut rest = into;
        while !rest.is_empty() {
            let word = self.read_word(at & !3).to_le_bytes();
            let skip = usize::try_from(at & 3).unwrap_or_default();
            let count = (4 - skip).min(rest.len());
            let (head, tail) = rest.split_at_mut(count);
            for (to, from) in head.iter_mut().zip(&word[skip..]) {
                *to = *from;
            }
            at = at.saturating_add(count as u64);
            rest = tail;
        }
    }

    /// Writes BAR0: aligned words only; anything else is ignored, as is what cannot be written.
    pub fn write_registers(&self, offset: u64, from: &[u8]) {
        if !offset.is_multiple_of(4) || !from.len().is_multiple_of(4) {
            return;
        }
        let mut at = offset;
        for word in from.chunks_exact(4) {
            if let (Ok(offset), Some(bytes)) = (u32::try_from(at), word.first_chunk()) {
                self.write_word(offset, u32::from_le_bytes(*bytes));
            }
            at += 4;
        }
        self.wake();
    }

    fn read_word(&self, offset: u64) -> u32 {
        let due = self.injector.due(Unit::Read);
        if let Some(Fault::TelemetryStale | Fault::TelemetryTorn | Fault::TelemetryGarbage) = due {
            log::debug!("telemetry misbehaves from its next refresh on");
        }
        if self.injector.is_active(Fault::AllOnes) {
            return u32::MAX;
        }
        let Ok(offset) = u32::try_from(offset) else {
            return 0;
        };
        let log_end = FAULT_LOG_OFFSET + FAULT_LOG_RECORDS * 256;
        match offset {
            0..REGISTERS_BYTES => self.read_register(offset),
            CAPS_OFFSET..CAPS_END => self.capability(offset - CAPS_OFFSET),
            FAULT_LOG_OFFSET.. if offset < log_end => {
                self.log.word((offset - FAULT_LOG_OFFSET) as usize)
            }
            TELEMETRY_OFFSET..TELEMETRY_END => {
                self.telemetry.word((offset - TELEMETRY_OFFSET) as usize)
            }
            PROFILE_OFFSET..PROFILE_END => self.profile.word(offset - PROFILE_OFFSET),
            _ => 0,
        }
    }

    fn read_register(&self, offset: u32) -> u32 {
        let Some(row) = row(offset) else { return 0 };
        if row.access == Access::Wo {
            return 0;
        }
        let latch = self.latches.get(offset as usize / 4);
        if offset != row.offset {
            return latch.map_or(0, |latch| latch.load(Ordering::Relaxed));
        }
        let (low, high) = halves(self.register(row.offset));
        if row.bytes == 8
            && let Some(latch) = self.latches.get(offset as usize / 4 + 1)
        {
            latch.store(high, Ordering::Relaxed);
        }
        low
    }

    /// A register's value now.
    fn register(&self, offset: u32) -> u64 {
        let zero = &self.queue_zero;
        let uuid = |high: bool| {
            let (low_half, high_half) = self.identity.uuid.split_at(8);
            let half = if high { high_half } else { low_half };
            half.first_chunk()
                .map_or(0, |bytes| u64::from_le_bytes(*bytes))
        };
        match offset {
            Magic::OFFSET => u64::from(MAGIC),
            Version::OFFSET => u64::from(self.version().0),
            PlatformId::OFFSET => u64::from(Platform::Emulator.code()),
            CapsPointer::OFFSET => u64::from(CAPS_OFFSET),
            UuidLow::OFFSET => uuid(false),
            UuidHigh::OFFSET => uuid(true),
            Serial::OFFSET => self.identity.serial,
            Generation::OFFSET => self.generation.load(Ordering::Acquire),
            BootId::OFFSET => self.boot_id.load(Ordering::Acquire),
            Time::OFFSET => self.now(),
            FeaturesOffered::OFFSET => self.options.features & FEATURES,
            FeaturesAccepted::OFFSET => self.features.load(Ordering::Relaxed),
            Control::OFFSET => self.control.load(Ordering::Relaxed).into(),
            Status::OFFSET => self.status().0.into(),
            ResetStatus::OFFSET => self.reset_status.load(Ordering::Acquire).into(),
            Heartbeat::OFFSET => self.heartbeat.load(Ordering::Relaxed).into(),
            ScrubStatus::OFFSET => self.scrub_phase.load(Ordering::Acquire).into(),
            ProfileCount::OFFSET => self.profile.ask(self.now()),
            ScrubCount::OFFSET => self.scrub_count.load(Ordering::Relaxed),
            Q0Ring::OFFSET => zero.ring.load(Ordering::Relaxed),
            Q0Completion::OFFSET => zero.completion.load(Ordering::Relaxed),
            Q0Errors::OFFSET => zero.errors.load(Ordering::Relaxed),
            Q0Size::OFFSET => zero.size.load(Ordering::Relaxed).into(),
            Q0Control::OFFSET => zero.control.load(Ordering::Relaxed).into(),
            Q0Status::OFFSET => {
                let state = self
                    .queues
                    .first()
                    .map_or(0, |queue| queue.state.load(Ordering::Acquire));
                let code = zero.refusal.load(Ordering::Relaxed);
                Q0Status(0).with_state(state).with_code(code).0.into()
            }
            FaultCount::OFFSET => self.log.count(),
            FaultAck::OFFSET => self.log.acknowledged(),
            _ => 0,
        }
    }

    fn version(&self) -> Version {
        let version = Version(0);
        if self.injector.is_active(Fault::VersionOld) {
            version.with_major(0).with_minor(9)
        } else if self.injector.is_active(Fault::VersionNew) {
            version.with_major(VERSION_MAJOR + 1)
        } else if self.injector.is_active(Fault::VersionGarbage) {
            Version(0xDEAD_BEEF)
        } else {
            version.with_major(VERSION_MAJOR).with_minor(VERSION_MINOR)
        }
    }

    fn status(&self) -> Status {
        let fault = self.log.count() != self.log.acknowledged();
        Status(0)
            .with_state(self.state.load(Ordering::Acquire))
            .with_idle(self.idle.load(Ordering::Acquire).into())
            .with_fault(fault.into())
    }

    fn capability(&self, offset: u32) -> u32 {
        let bytes = self.capabilities.get(offset as usize..);
        let word = bytes
            .and_then(|rest| rest.first_chunk())
            .map_or(0, |bytes| u32::from_le_bytes(*bytes));
        // The first record is QUEUES, 32 bytes long; the second begins at 0x20.
        let absurd = self.injector.is_active(Fault::TimeAbsurd);
        match offset {
            TICKS if absurd => 1,
            offset if absurd && offset == TICKS + 4 => 0,
            0x24 if self.injector.is_active(Fault::CapsLoop) => word & 0xFFFF_0000,
            0x24 if self.injector.is_active(Fault::CapsRunOff) => word & 0xFFFF_0000 | 0xFFF8,
            0x08 if self.injector.is_active(Fault::QueuesZero) => 0,
            0x08 if self.injector.is_active(Fault::QueuesAbsurd) => u32::MAX,
            0x10 if self.injector.is_active(Fault::QueuesAbsurd) => 0x003F_3F00,
            _ => word,
        }
    }

    fn write_word(&self, offset: u32, value: u32) {
        let Some(row) = row(offset) else { return };
        let zero = &self.queue_zero;
        let merged = |old: u64| {
            let (low, high) = halves(old);
            if offset == row.offset {
                u64::from(high) << 32 | u64::from(value)
            } else {
                u64::from(value) << 32 | u64::from(low)
            }
        };
        let merge = |register: &std::sync::atomic::AtomicU64| {
            register.store(merged(register.load(Ordering::Relaxed)), Ordering::Relaxed);
        };
        match row.offset {
            FeaturesAccepted::OFFSET => {
                let asked = merged(self.features.load(Ordering::Relaxed));
                let offered = self.options.features & FEATURES;
                self.features.store(asked & offered, Ordering::Relaxed);
            }
            Control::OFFSET => self.write_control(Control(value)),
            Reset::OFFSET => self.write_reset(Reset(value)),
            Kick::OFFSET => {
                if let Ok(queue) = u16::try_from(Kick(value).queue()) {
                    self.order(Order::Kick(queue));
                }
            }
            Scrub::OFFSET => self.write_scrub(Scrub(value)),
            Q0Ring::OFFSET => merge(&zero.ring),
            Q0Completion::OFFSET => merge(&zero.completion),
            Q0Errors::OFFSET => merge(&zero.errors),
            Q0Size::OFFSET => zero.size.store(value, Ordering::Relaxed),
            Q0Control::OFFSET => self.write_queue_zero(Q0Control(value)),
            FaultAck::OFFSET => self.log.acknowledge(merged(self.log.acknowledged())),
            _ => {}
        }
    }

    fn write_control(&self, control: Control) {
        let quiesce = control.quiesce() != 0;
        let asked = Control(0).with_quiesce(quiesce.into());
        let before = self.control.swap(asked.0, Ordering::AcqRel);
        if before != asked.0 {
            self.order(Order::Quiesce(quiesce));
        }
    }

    fn write_reset(&self, reset: Reset) {
        let queue = u16::try_from(reset.queue()).unwrap_or(u16::MAX);
        match ResetLevel::from_code(reset.level()) {
            Some(level @ (ResetLevel::Queue | ResetLevel::Engines | ResetLevel::Device)) => {
                self.begin_reset(level, queue);
            }
            // Not a level of this register: it fails at once and does nothing.
            _ if self.reset_phase() != ResetPhase::Preparing.code() => {
                let failed = ResetStatus(0)
                    .with_phase(ResetPhase::Failed.code())
                    .with_level(reset.level())
                    .with_queue(reset.queue());
                self.reset_status.store(failed.0, Ordering::Release);
            }
            _ => {}
        }
    }

    fn reset_phase(&self) -> u32 {
        ResetStatus(self.reset_status.load(Ordering::Acquire)).phase()
    }

    fn write_scrub(&self, scrub: Scrub) {
        let running = ScrubPhase::Running.code();
        if scrub.start() != 0 && self.scrub_phase.swap(running, Ordering::AcqRel) != running {
            self.order(Order::Scrub);
        }
    }

    fn write_queue_zero(&self, control: Q0Control) {
        let zero = &self.queue_zero;
        zero.control.store(control.enable(), Ordering::Relaxed);
        if control.enable() == 0 {
            zero.refusal.store(0, Ordering::Relaxed);
            self.order(Order::DestroyQueue0);
            return;
        }
        // A queue that exists cannot be created; one that was refused may be tried again.
        if self.queue_zero_exists() {
            return;
        }
        zero.refusal.store(0, Ordering::Relaxed);
        self.set_queue_state(0, QueueState::Absent);
        let size = Q0Size(zero.size.load(Ordering::Relaxed));
        let byte = |bits: u32| u8::try_from(bits).unwrap_or(u8::MAX);
        self.order(Order::CreateQueue0(QueueCreate {
            queue: 0,
            depth_log2: byte(size.depth_log2()),
            errors_log2: byte(size.errors_log2()),
            vector: u16::try_from(size.vector()).unwrap_or(u16::MAX),
            ring: zero.ring.load(Ordering::Relaxed),
            completion: zero.completion.load(Ordering::Relaxed),
            errors: zero.errors.load(Ordering::Relaxed),
            ..QueueCreate::ZERO
        }));
    }

    /// Whether queue 0 is running or stopped.
    #[must_use]
    pub fn queue_zero_exists(&self) -> bool {
        let state = self
            .queues
            .first()
            .map(|queue| queue.state.load(Ordering::Acquire));
        [QueueState::Running, QueueState::Stopped]
            .iter()
            .any(|it| state == Some(it.code()))
    }

    /// The registers that a device reset clears. Host interface 8.2.
    pub fn clear_registers(&self) {
        let zero = &self.queue_zero;
        for register in [&zero.ring, &zero.completion, &zero.errors, &self.features] {
            register.store(0, Ordering::Relaxed);
        }
        for register in [&zero.size, &zero.control, &zero.refusal, &self.control] {
            register.store(0, Ordering::Relaxed);
        }
        self.scrub_phase
            .store(ScrubPhase::Idle.code(), Ordering::Relaxed);
        for queue in &self.queues {
            queue
                .state
                .store(QueueState::Absent.code(), Ordering::Release);
            queue.completed.store(0, Ordering::Relaxed);
            queue.failed.store(0, Ordering::Relaxed);
        }
    }

    /// The state that STATUS shows while nothing is being reset.
    #[must_use]
    pub fn serving_state(&self) -> DeviceState {
        if Control(self.control.load(Ordering::Acquire)).quiesce() != 0 {
            DeviceState::Quiescing
        } else {
            DeviceState::Ready
        }
    }
}

/// The register that holds a word.
fn row(offset: u32) -> Option<&'static RegisterRow> {
    BAR0.iter().find(|row| {
        let bytes = u32::try_from(row.bytes).unwrap_or_default();
        (row.offset..row.offset + bytes).contains(&offset)
    })
}

#[expect(clippy::cast_possible_truncation, reason = "halving is the point")]
fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}
