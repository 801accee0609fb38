//! Telemetry: the device's page, read under its sequence lock from one private copy.
//!
//! A value that is unsupported, absent, stale or makes no sense is never a number. Host interface 9.

use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::regs::{DeviceState, Time};
use jalapeno_hw::telemetry::{
    TELEMETRY_ENTRIES_MAX, TELEMETRY_MAGIC, TelemetryEntry, TelemetryField, TelemetryHeader,
    TelemetryStatus, TelemetryUnit,
};
use zerocopy::FromBytes;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::units::{Generation, Ticks};

mod kernel;

/// Looks before a page that is being written all the time is given up.
const LOOKS: u32 = 64;
/// Pause between two looks.
const PAUSE: Duration = Duration::from_micros(50);
/// A value may be this much younger than the clock read just before it; beyond that it is garbage.
const AHEAD: Duration = Duration::from_secs(1);

/// What an entry gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// A number in the entry's unit.
    Value(u64),
    /// This device has no such sensor.
    Unsupported,
    /// There is none right now.
    NoData,
    /// It is older than the device vouches for.
    Stale {
        /// How old.
        age: Duration,
    },
}

impl Reading {
    /// The number, if there is one.
    #[must_use]
    pub fn value(self) -> Option<u64> {
        match self {
            Self::Value(value) => Some(value),
            _ => None,
        }
    }

    /// The number of a signed unit, if there is one.
    #[must_use]
    pub fn signed(self) -> Option<i64> {
        self.value().map(u64::cast_signed)
    }
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What was measured; the raw number where the library does not know it.
    pub field: std::result::Result<TelemetryField, u16>,
    /// Which one of several.
    pub instance: u16,
    /// In what; the raw number where the library does not know it.
    pub unit: std::result::Result<TelemetryUnit, u8>,
    /// What it gives.
    pub reading: Reading,
    /// Device time it was taken at.
    pub taken: Ticks,
}

/// The page at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// Device time of the last refresh.
    pub updated: Ticks,
    /// The device's generation then.
    pub generation: Generation,
    /// Device time when it was read.
    pub now: Ticks,
    /// Of device time.
    pub ticks_per_second: u64,
    /// The entries, in the page's order.
    pub entries: Vec<Entry>,
}

impl Telemetry {
    /// What a field gives; `Unsupported` where the page has no such entry.
    #[must_use]
    pub fn get(&self, field: TelemetryField, instance: u16) -> Reading {
        self.entries
            .iter()
            .find(|entry| entry.field == Ok(field) && entry.instance == instance)
            .map_or(Reading::Unsupported, |entry| entry.reading)
    }

    /// The device's state; the raw number where the library does not know it. `None`: it does not say it
    /// right now.
    #[must_use]
    pub fn state(&self) -> Option<std::result::Result<DeviceState, u64>> {
        let raw = self.get(TelemetryField::State, 0).value()?;
        let known = u32::try_from(raw).ok().and_then(DeviceState::from_code);
        Some(known.ok_or(raw))
    }
}

impl Device {
    /// Reads all telemetry at one moment. Many readers at once disturb nobody.
    ///
    /// # Errors
    /// `Unsupported` where there is no page, `Protocol` where it makes no sense, `Late` where it
    /// never stands still, `Lost`, `Forked`.
    pub fn telemetry(&self) -> Result<Telemetry> {
        self.check()?;
        let Some(cap) = self.info().capabilities.telemetry else {
            return Err(Error::Unsupported {
                what: format!("{} has no telemetry page", self.info().name),
            });
        };
        let registers = self.registers();
        let page = snapshot(cap.bytes as usize & !7, |at, into| {
            registers.copy(u64::from(cap.offset) + at as u64, into)
        })?;
        let now = Ticks(registers.read::<Time>()?.0);
        parse(
            &page,
            Some(now),
            self.info().capabilities.time.ticks_per_second,
        )
    }
}

/// One private copy that was not written meanwhile.
fn snapshot(bytes: usize, copy: impl Fn(usize, &mut [u8]) -> Result<()>) -> Result<Vec<u8>> {
    const HEAD: usize = size_of::<TelemetryHeader>();
    let head = || -> Result<TelemetryHeader> {
        let mut head = [0; HEAD];
        copy(0, &mut head)?;
        fence(Ordering::Acquire);
        TelemetryHeader::read_from_bytes(&head).map_err(|_| garbage("its header is short".into()))
    };
    for _ in 0..LOOKS {
        let before = head()?;
        if before.sequence & 1 == 0 {
            let count = usize::from(before.count);
            let all = HEAD + count * size_of::<TelemetryEntry>();
            if before.magic != TELEMETRY_MAGIC || count > TELEMETRY_ENTRIES_MAX || all > bytes {
                return Err(garbage(format!(
                    "magic {:#010x}, {count} entries in {bytes} bytes",
                    before.magic
                )));
            }
            let mut page = vec![0; all];
            copy(0, &mut page)?;
            fence(Ordering::Acquire);
            let inside = TelemetryHeader::read_from_prefix(&page).map(|(head, _)| head);
            if head()? == before && inside == Ok(before) {
                return Ok(page);
            }
        }
        std::thread::sleep(PAUSE);
    }
    Err(Error::Late {
        what: "a telemetry page that stands still",
        after: PAUSE * LOOKS,
    })
}

fn garbage(what: String) -> Error {
    Error::Protocol {
        code: FaultCode::BadDiscovery,
        what: format!("the telemetry page makes no sense: {what}"),
    }
}

/// `now`: device time; `None`: that of the last refresh.
fn parse(page: &[u8], now: Option<Ticks>, ticks_per_second: u64) -> Result<Telemetry> {
    let (header, mut rest) = TelemetryHeader::read_from_prefix(page)
        .map_err(|_| garbage("its header is short".into()))?;
    let now = now.unwrap_or(Ticks(header.updated));
    let mut entries = Vec::with_capacity(usize::from(header.count));
    while let Ok((raw, next)) = TelemetryEntry::read_from_prefix(rest) {
        rest = next;
        let field = TelemetryField::from_code(u32::from(raw.field)).ok_or(raw.field);
        let unit = TelemetryUnit::from_code(u32::from(raw.unit)).ok_or(raw.unit);
        entries.push(Entry {
            field,
            instance: raw.instance,
            unit,
            reading: judge(&raw, unit.ok(), now, ticks_per_second),
            taken: Ticks(raw.taken),
        });
    }
    Ok(Telemetry {
        updated: Ticks(header.updated),
        generation: Generation(header.generation),
        now,
        ticks_per_second,
        entries,
    })
}

fn judge(raw: &TelemetryEntry, unit: Option<TelemetryUnit>, now: Ticks, rate: u64) -> Reading {
    match TelemetryStatus::from_code(u32::from(raw.status)) {
        Some(TelemetryStatus::Valid) => {}
        Some(TelemetryStatus::Unsupported) => return Reading::Unsupported,
        Some(TelemetryStatus::NoData) | None => return Reading::NoData,
    }
    let age = |ticks: u64| Duration::from_secs_f64(ticks as f64 / rate.max(1) as f64);
    if raw.taken > now.0 && age(raw.taken - now.0) > AHEAD {
        return Reading::NoData;
    }
    let age = age(now.0.saturating_sub(raw.taken));
    let limit = Duration::from_millis(u64::from(raw.stale_after_ms));
    if raw.stale_after_ms != 0 && age > limit {
        return Reading::Stale { age };
    }
    // What no sensor can give: all ones (which would be -0.001 degrees, and is what nobody's answer
    // looks like), colder than absolute zero, hotter than solder, more than the whole.
    let possible = match unit {
        _ if raw.value == u64::MAX => false,
        Some(TelemetryUnit::MilliCelsius) => {
            (-273_150..=1_000_000).contains(&raw.value.cast_signed())
        }
        Some(TelemetryUnit::PerMille) => raw.value <= 1000,
        _ => true,
    };
    if possible {
        Reading::Value(raw.value)
    } else {
        Reading::NoData
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const RATE: u64 = 1_000_000_000;
    const NOW: Ticks = Ticks(10 * RATE);

    /// A page by hand: header, then one entry.
    pub(super) fn page(sequence: u64, entry: [u8; 32]) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[0..4].copy_from_slice(b"JTEL");
        bytes[4] = 1;
        bytes[6] = 1;
        bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
        bytes.extend(entry);
        bytes
    }

    pub(super) fn entry(
        field: u8,
        unit: u8,
        status: u8,
        value: u64,
        taken: u64,
        stale_ms: u32,
    ) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[0] = field;
        bytes[4] = unit;
        bytes[5] = status;
        bytes[8..16].copy_from_slice(&value.to_le_bytes());
        bytes[16..24].copy_from_slice(&taken.to_le_bytes());
        bytes[24..28].copy_from_slice(&stale_ms.to_le_bytes());
        bytes
    }

    fn reading(entry: [u8; 32]) -> Reading {
        parse(&page(2, entry), Some(NOW), RATE).unwrap().entries[0].reading
    }

    #[test]
    fn a_value_is_a_number_only_when_the_device_vouches_for_it() {
        let fresh = NOW.0 - RATE / 100;
        assert_eq!(
            reading(entry(5, 2, 0, 75_000, fresh, 1000)),
            Reading::Value(75_000)
        );
        assert_eq!(
            reading(entry(5, 2, 1, 75_000, fresh, 1000)),
            Reading::Unsupported
        );
        assert_eq!(
            reading(entry(5, 2, 2, 75_000, fresh, 1000)),
            Reading::NoData
        );
        assert_eq!(
            reading(entry(5, 2, 9, 75_000, fresh, 1000)),
            Reading::NoData
        );
        let age = Duration::from_secs(2);
        let old = NOW.0 - 2 * RATE;
        assert_eq!(
            reading(entry(5, 2, 0, 75_000, old, 1000)),
            Reading::Stale { age }
        );
        assert_eq!(
            reading(entry(5, 2, 0, 75_000, old, 0)),
            Reading::Value(75_000)
        );
    }

    #[test]
    fn garbage_reads_unavailable_never_a_number() {
        let fresh = NOW.0;
        for bad in [
            entry(1, 1, 0, u64::MAX / 2, fresh, 0),      // no temperature
            entry(1, 1, 0, u64::MAX, fresh, 0),          // all ones
            entry(13, 6, 0, 1001, fresh, 0),             // more than the whole
            entry(5, 2, 0, u64::MAX, fresh, 0),          // all ones
            entry(5, 2, 0, 75_000, NOW.0 + 5 * RATE, 0), // from the future
        ] {
            assert_eq!(reading(bad), Reading::NoData, "{bad:?}");
        }
        let cold = (-40_000_i64).cast_unsigned();
        assert_eq!(
            reading(entry(1, 1, 0, cold, fresh, 0)).signed(),
            Some(-40_000)
        );
    }

    #[test]
    fn an_unknown_field_is_kept_and_a_missing_one_is_unsupported() {
        let telemetry = parse(&page(2, entry(200, 0, 0, 7, NOW.0, 0)), Some(NOW), RATE).unwrap();
        assert_eq!(telemetry.entries[0].field, Err(200));
        assert_eq!(
            telemetry.get(TelemetryField::Power, 0),
            Reading::Unsupported
        );
    }

    #[test]
    fn a_page_written_meanwhile_is_read_again_and_the_torn_copy_is_not_used() {
        let looks = Cell::new(0);
        let good = page(8, entry(5, 2, 0, 2, NOW.0, 0));
        let torn = page(6, entry(5, 2, 0, 1, NOW.0, 0));
        let copied = snapshot(4096, |at, into| {
            // First look: header and copy at 6, then it moves on to 8.
            let from = if looks.get() < 2 { &torn } else { &good };
            looks.set(looks.get() + 1);
            into.copy_from_slice(&from[at..at + into.len()]);
            Ok(())
        });
        assert_eq!(copied.unwrap(), good);
        assert_eq!(looks.get(), 6);
    }

    #[test]
    fn a_page_that_is_always_being_written_is_late_and_one_without_magic_is_refused() {
        let serve = |page: Vec<u8>| {
            snapshot(page.len(), move |at, into| {
                into.copy_from_slice(&page[at..at + into.len()]);
                Ok(())
            })
        };
        let odd = serve(page(7, entry(5, 2, 0, 1, 0, 0))).unwrap_err();
        assert!(matches!(odd, Error::Late { .. }), "{odd}");
        let mut wrong = page(8, entry(5, 2, 0, 1, 0, 0));
        wrong[0] = b'X';
        assert!(matches!(serve(wrong), Err(Error::Protocol { .. })));
        let mut many = page(8, entry(5, 2, 0, 1, 0, 0));
        many[6..8].copy_from_slice(&[0xFF, 0xFF]);
        assert!(matches!(serve(many), Err(Error::Protocol { .. })));
    }
}
