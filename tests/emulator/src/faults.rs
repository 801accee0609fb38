//! Misbehaviour on request: every way in which the card can be told to break its specification.
//!
//! A fault is armed for the Nth event of its unit from now on (packets started, interrupts due,
//! registers read, resets or scrubs begun) and happens once; those marked "from then on" stay until
//! [`Injector::calm`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// What N counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Packets started, over all queues.
    Packet,
    /// Queue interrupts due, over all queues.
    Interrupt,
    /// 4-byte register reads.
    Read,
    /// Resets begun, of every level.
    Reset,
    /// Scrubs begun.
    Scrub,
}

impl Unit {
    /// Its name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Packet => "packet",
            Self::Interrupt => "interrupt",
            Self::Read => "register read",
            Self::Reset => "reset",
            Self::Scrub => "scrub",
        }
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct FaultRow {
    /// The fault.
    pub fault: Fault,
    /// Its name on the command line.
    pub name: &'static str,
    /// Its row in the fault matrix.
    pub number: &'static str,
    /// What N counts.
    pub unit: Unit,
    /// What happens.
    pub doc: &'static str,
}

macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $variant:ident $name:literal $number:literal $unit:ident;)+) => {
        /// A way to misbehave.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Fault {
            $($(#[doc = $doc])+ $variant,)+
        }

        /// Every way to misbehave.
        pub const TABLE: &[FaultRow] = &[$(FaultRow {
            fault: Fault::$variant,
            name: $name,
            number: $number,
            unit: Unit::$unit,
            doc: concat!($($doc),+),
        },)+];
    };
}

faults! {
    /// No packet runs any more, from then on, until the engines or the device are reset; registers live.
    EngineStops "engine-stops" "D01" Packet;
    /// The packet succeeds 300 us before its deadline.
    JustInTime "just-in-time" "D02" Packet;
    /// The packet succeeds 300 us after its deadline, without a record.
    JustLate "just-late" "D02" Packet;
    /// The packet's completion stores the sequence number before it once more; the next one mends it.
    SequenceRepeats "sequence-repeats" "D03" Packet;
    /// After the packet's completion an older sequence number is stored.
    SequenceBackwards "sequence-backwards" "D03" Packet;
    /// The packet's completion stores a number beyond what was submitted.
    SequenceBeyond "sequence-beyond" "D04" Packet;
    /// The packet fails; its record names a packet that is not in flight.
    RecordStray "record-stray" "D05" Packet;
    /// The packet fails; its record carries an earlier generation.
    RecordStale "record-stale" "D06" Packet;
    /// The packet fails; its record carries the phase of an earlier lap.
    RecordEarlierLap "record-earlier-lap" "D06" Packet;
    /// The packet fails; its record's phase is visible before its body, which never comes.
    RecordTorn "record-torn" "D08" Packet;
    /// The packet fails; its record changes once the queue has stopped.
    RecordChanges "record-changes" "D09" Packet;
    /// The packet fails, and the sequence goes on past it.
    SequencePasses "sequence-passes-failure" "D10" Packet;
    /// The packet fails; one record more than the error ring holds is written.
    RecordsOverrun "records-overrun" "D11" Packet;
    /// The packet fails; its record names another queue.
    RecordWrongQueue "record-wrong-queue" "D12" Packet;
    /// The packet fails; its record has an unknown code and reserved bits set.
    RecordUnknown "record-unknown" "D13" Packet;
    /// If the packet is a MANAGE, its result is 64 bytes longer than the room given.
    ResultOverruns "result-overruns" "D14" Packet;
    /// If the packet is a SIGNAL, it stores a value 1000 too high.
    FenceStray "fence-stray" "D15" Packet;
    /// The packet is not seen, nor any behind it in its queue, until KICK.
    DoorbellLost "loses-doorbell" "D16" Packet;
    /// The queue's doorbell is read twice.
    DoorbellRepeated "repeats-doorbell" "D17" Packet;
    /// The queue's interrupt is sent though nobody armed it.
    InterruptSpurious "interrupt-spurious" "D18" Packet;
    /// The interrupt is not sent.
    InterruptLost "loses-interrupt" "D19" Interrupt;
    /// The queue's interrupt is sent 10,000 times.
    InterruptStorm "interrupt-storm" "D20" Packet;
    /// The interrupt is sent on the next vector.
    InterruptElsewhere "interrupt-wrong-vector" "D21" Interrupt;
    /// The packet and those behind it in its queue never end, until that queue is reset.
    Hangs "hangs" "D22" Packet;
    /// An HBM error is corrected: a record in the log, nothing else.
    EccCorrected "ecc-corrected" "D30" Packet;
    /// The packet fails with ECC_UNCORRECTED.
    EccUncorrected "ecc-uncorrected" "D31" Packet;
    /// The packet fails with ECC_UNCONTAINED and the engines stop.
    EccUncontained "ecc-uncontained" "D32" Packet;
    /// The card lowers its clocks: a record in the log.
    Throttles "throttles" "D35" Packet;
    /// The card shuts its engines down, too hot.
    Overheats "overheats" "D36" Packet;
    /// Input power sags and the engines stop.
    Brownout "brownout" "D37" Packet;
    /// The firmware crashes: no packet, no heartbeat, no telemetry, until a device reset.
    FirmwareCrash "firmware-crash" "D38" Packet;
    /// The firmware restarts itself: queues are gone, BOOT_ID and GENERATION change.
    FirmwareRestart "firmware-restarts" "D39" Packet;
    /// VERSION reads 0.9, from then on.
    VersionOld "version-too-old" "D40" Read;
    /// VERSION reads 2.0, from then on.
    VersionNew "version-too-new" "D40" Read;
    /// VERSION reads garbage, from then on.
    VersionGarbage "version-garbage" "D40" Read;
    /// Telemetry values are all ones under a valid status, from then on.
    TelemetryGarbage "telemetry-garbage" "D44" Read;
    /// The telemetry page's sequence stays odd, from then on.
    TelemetryTorn "telemetry-torn" "D44" Read;
    /// The telemetry page is not refreshed any more, from then on.
    TelemetryStale "telemetry-stale" "D44" Read;
    /// Every register reads all ones, from then on.
    AllOnes "all-ones" "D45" Read;
    /// The second capability record has length 0, from then on.
    CapsLoop "caps-loop" "D48" Read;
    /// The second capability record runs off the page, from then on.
    CapsRunOff "caps-run-off" "D48" Read;
    /// The QUEUES capability says no queues, from then on.
    QueuesZero "queues-zero" "D49" Read;
    /// The QUEUES capability says 4 billion queues of 2^63 packets, from then on.
    QueuesAbsurd "queues-absurd" "D49" Read;
    /// The TIME capability says one tick a second, from then on.
    TimeAbsurd "time-absurd" "D49" Read;
    /// The reset ends with phase FAILED, having done nothing.
    ResetFails "reset-fails" "D53" Reset;
    /// The reset takes three times its time.
    ResetOverruns "reset-overruns" "D53" Reset;
    /// The scrub ends with phase FAILED, in its time; HBM keeps its content.
    ScrubFails "scrub-fails" "D53" Scrub;
    /// The scrub does not end, until the device is reset; HBM keeps its content.
    ScrubOverruns "scrub-overruns" "D53" Scrub;
    /// The link trains down: a record in the log.
    LinkDegraded "link-degraded" "D56" Packet;
    /// A bit of the packet's result is wrong.
    WrongResult "wrong-result" "D61" Packet;
}

impl Fault {
    /// Its row.
    #[must_use]
    pub fn row(self) -> &'static FaultRow {
        // The enumeration's numbers are the table's positions: one macro wrote both.
        &TABLE[self as usize]
    }

    /// The fault with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        TABLE
            .iter()
            .find(|row| row.name == name)
            .map(|row| row.fault)
    }
}

/// A fault and when it is to happen, as `--fault NAME@N` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// What.
    pub fault: Fault,
    /// At which event from now on; 1 is the next.
    pub at: u64,
}

impl std::str::FromStr for Order {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, at) = text.split_once('@').unwrap_or((text, "1"));
        let fault = Fault::named(name)
            .ok_or_else(|| format!("no fault is called `{name}`; --list-faults names them all"))?;
        match at.parse() {
            Ok(at) if at > 0 => Ok(Self { fault, at }),
            _ => Err(format!(
                "`{at}` is not a count from 1; write {name}@3 for the third"
            )),
        }
    }
}

/// Keeps what is armed.
#[derive(Debug, Default)]
pub struct Injector {
    armed: Mutex<Vec<Order>>,
    any: [AtomicBool; 5],
    counts: [AtomicU64; 5],
    active: AtomicU64,
}

impl Injector {
    /// Arms a fault for the `at`th event of its unit from now on.
    pub fn arm(&self, order: Order) {
        let unit = order.fault.row().unit as usize;
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let at = self.counts[unit]
            .load(Ordering::Relaxed)
            .saturating_add(order.at);
        armed.push(Order { at, ..order });
        self.any[unit].store(true, Ordering::Release);
    }

    /// Disarms everything and ends what lasts.
    pub fn calm(&self) {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        armed.clear();
        for any in &self.any {
            any.store(false, Ordering::Release);
        }
        self.active.store(0, Ordering::Release);
    }

    /// Whether nothing is armed and nothing lasts.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        let armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        armed.is_empty() && self.active.load(Ordering::Acquire) == 0
    }

    /// Whether anything of this unit is armed. One load.
    #[inline]
    #[must_use]
    pub fn is_armed(&self, unit: Unit) -> bool {
        self.any[unit as usize].load(Ordering::Relaxed)
    }

    /// Counts events that happened while nothing was armed.
    #[inline]
    pub fn count(&self, unit: Unit, events: u64) {
        // Each unit is counted by one thread, so no locked addition is needed.
        let count = &self.counts[unit as usize];
        count.store(
            count.load(Ordering::Relaxed).wrapping_add(events),
            Ordering::Relaxed,
        );
    }

    /// Counts one event; the fault that is due at it, if any. It stays active until
    /// [`Injector::finish`].
    pub fn due(&self, unit: Unit) -> Option<Fault> {
        let count = self.counts[unit as usize].fetch_add(1, Ordering::Relaxed) + 1;
        if !self.is_armed(unit) {
            return None;
        }
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let position = armed
            .iter()
            .position(|order| order.fault.row().unit == unit && order.at <= count)?;
        let order = armed.swap_remove(position);
        let left = armed.iter().any(|order| order.fault.row().unit == unit);
        self.any[unit as usize].store(left, Ordering::Release);
        self.active.fetch_or(bit(order.fault), Ordering::Release);
        log::info!(
            "fault: {} at {} {count}",
            order.fault.row().name,
            unit.name()
        );
        Some(order.fault)
    }

    /// Whether a lasting fault is in force. One load.
    #[inline]
    #[must_use]
    pub fn is_active(&self, fault: Fault) -> bool {
        self.active.load(Ordering::Relaxed) & bit(fault) != 0
    }

    /// Whether any fault is in force. One load.
    #[inline]
    #[must_use]
    pub fn is_any_active(&self) -> bool {
        self.active.load(Ordering::Relaxed) != 0
    }

    /// Ends a fault.
    pub fn finish(&self, fault: Fault) {
        self.active.fetch_and(!bit(fault), Ordering::Release);
    }
}

fn bit(fault: Fault) -> u64 {
    1 << (fault as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_and_the_enumeration_agree() {
        assert!(TABLE.len() <= 64, "a fault is a bit of a word");
        for (position, row) in TABLE.iter().enumerate() {
            assert_eq!(row.fault as usize, position);
            assert_eq!(Fault::named(row.name), Some(row.fault));
        }
    }

    #[test]
    fn a_fault_happens_at_its_event_and_once() {
        let injector = Injector::default();
        injector.count(Unit::Packet, 10);
        injector.arm("hangs@3".parse().unwrap());
        let seen: Vec<_> = (0..5).map(|_| injector.due(Unit::Packet)).collect();
        assert_eq!(seen, [None, None, Some(Fault::Hangs), None, None]);
        assert!(injector.is_active(Fault::Hangs) && !injector.is_armed(Unit::Packet));
        injector.finish(Fault::Hangs);
        assert!(!injector.is_any_active());
    }

    #[test]
    fn an_unknown_name_or_count_is_refused_with_the_way_out() {
        let said = "hang@1".parse::<Order>().unwrap_err();
        assert!(said.contains("--list-faults"), "{said}");
        assert!("hangs@0".parse::<Order>().is_err());
        assert!("hangs@many".parse::<Order>().is_err());
    }
}
