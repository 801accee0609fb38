//! Meters: the figures of a telemetry page, and what they rose by since the page before. A figure that
//! is stale, absent or makes no sense becomes none with its reason.

use jalapeno::hw::telemetry::TelemetryField as Field;
use jalapeno::telemetry::Entry;
use jalapeno::{Reading, Telemetry};

use super::sample::{Top, Why};

/// HBM stacks that are looked for.
const STACKS: u16 = 64;
/// Reasons for lower clocks.
const REASONS: u16 = 3;

/// What is remembered from page to page. Counters since manufacture, so they survive resets.
#[derive(Debug, Default)]
pub struct Meter {
    energy: Option<u64>,
    /// Energy since the first page.
    spent: u64,
    operations: Option<Mark>,
    bytes: Option<Mark>,
    throttles: Option<u64>,
}

/// A counter and the device time it was taken at.
type Mark = (u64, u64);

type Page<'a> = Result<&'a Telemetry, Why>;

impl Meter {
    /// The first page's counters, so that the next interval has rates. What it lacks is asked later.
    pub fn begin(&mut self, page: &Telemetry) {
        self.energy = self.energy.or(page.get(Field::Energy, 0).value());
        self.operations = mark(&Ok(page), Field::Operations).ok();
        self.bytes = mark(&Ok(page), Field::BytesMoved).ok();
        self.throttles = throttles(&Ok(page)).ok();
    }

    /// Fills in what the page tells.
    pub fn read(&mut self, page: Page<'_>, top: &mut Top) {
        let ticks_per_second = page.as_ref().map_or(1, |page| page.ticks_per_second);
        let page = &page;
        top.compute_per_mille = top.note("compute_per_mille", value(page, Field::Utilisation, 0));
        top.copy_per_mille = top.note("copy_per_mille", value(page, Field::Utilisation, 1));
        top.power_milliwatts = top.note("power_milliwatts", value(page, Field::Power, 0));
        top.power_limit_milliwatts =
            top.note("power_limit_milliwatts", value(page, Field::PowerLimit, 0));
        top.die_temperature_millicelsius = top.note(
            "die_temperature_millicelsius",
            value(page, Field::DieTemperature, 0).map(u64::cast_signed),
        );
        top.hbm_temperature_millicelsius = top.note("hbm_temperature_millicelsius", hottest(page));
        top.throttle_temperature_millicelsius = top.note(
            "throttle_temperature_millicelsius",
            value(page, Field::ThrottleTemperature, 0).map(u64::cast_signed),
        );
        top.compute_clock_kilohertz = top.note(
            "compute_clock_kilohertz",
            value(page, Field::ComputeClock, 0),
        );
        top.hbm_used_bytes = top.note("hbm_used_bytes", value(page, Field::HbmUsed, 0));
        top.hbm_total_bytes = top.note("hbm_total_bytes", value(page, Field::HbmTotal, 0));
        self.throttled(page, top);
        self.energy(page, top);
        let rate = |page, field, before: &mut Option<Mark>| {
            let now = mark(page, field)?;
            rate(before.replace(now), now, ticks_per_second)
        };
        let operations = rate(page, Field::Operations, &mut self.operations);
        top.operations_per_second = top.note("operations_per_second", operations);
        let bytes = rate(page, Field::BytesMoved, &mut self.bytes);
        top.bytes_per_second = top.note("bytes_per_second", bytes);
    }

    fn energy(&mut self, page: &Page<'_>, top: &mut Top) {
        let now = value(page, Field::Energy, 0);
        if let Ok(now) = now {
            // A smaller one: the card was made anew, which only an emulated one is.
            let rise = self
                .energy
                .map_or(0, |before| now.checked_sub(before).unwrap_or(now));
            self.spent = self.spent.saturating_add(rise);
            self.energy = Some(now);
        }
        let spent = now.clone().map(|_| self.spent);
        top.energy_microjoules = top.note("energy_microjoules", now);
        top.energy_since_start_microjoules = top.note("energy_since_start_microjoules", spent);
    }

    fn throttled(&mut self, page: &Page<'_>, top: &mut Top) {
        let now = throttles(page);
        let rise = now.clone().and_then(|now| {
            let before = self.throttles.replace(now).ok_or_else(first)?;
            Ok(now.saturating_sub(before))
        });
        top.throttle_count = top.note("throttle_count", now);
        top.throttle_count_interval = top.note("throttle_count_interval", rise);
    }
}

fn first() -> Why {
    Why::new("not-refreshed", "there is no value before it yet")
}

/// A figure, or why there is none.
fn value(page: &Page<'_>, field: Field, instance: u16) -> Result<u64, Why> {
    let page = page.as_ref().map_err(Clone::clone)?;
    match page.get(field, instance) {
        Reading::Value(value) => Ok(value),
        Reading::Unsupported => Err(Why::new("unsupported", "this card has no such sensor")),
        Reading::NoData => Err(Why::new("no-data", "the sensor has no value right now")),
        Reading::Stale { age } => {
            let words = format!("the value is {} ms old, which is too old", age.as_millis());
            Err(Why::new("stale", words))
        }
    }
}

fn hottest(page: &Page<'_>) -> Result<i64, Why> {
    let first = value(page, Field::HbmTemperature, 0)?;
    let others = (1..STACKS).map_while(|stack| match value(page, Field::HbmTemperature, stack) {
        Err(why) if why.code == "unsupported" => None, // there are no more
        other => Some(other),
    });
    // One stack that does not tell might be the hottest.
    let mut most = first.cast_signed();
    for other in others {
        most = most.max(other?.cast_signed());
    }
    Ok(most)
}

fn throttles(page: &Page<'_>) -> Result<u64, Why> {
    let mut sum = value(page, Field::ThrottleCount, 0)?;
    for reason in 1..REASONS {
        match value(page, Field::ThrottleCount, reason) {
            Ok(count) => sum = sum.saturating_add(count),
            Err(why) if why.code == "unsupported" => break,
            Err(why) => return Err(why),
        }
    }
    Ok(sum)
}

fn mark(page: &Page<'_>, field: Field) -> Result<Mark, Why> {
    let value = value(page, field, 0)?;
    let entries = page.as_ref().map_err(Clone::clone)?.entries.iter();
    let mine = |entry: &&Entry| entry.field == Ok(field) && entry.instance == 0;
    let taken = entries.clone().find(mine).map_or(0, |entry| entry.taken.0);
    Ok((value, taken))
}

/// What a counter rose by, a second.
fn rate(before: Option<Mark>, now: Mark, ticks_per_second: u64) -> Result<u64, Why> {
    let before = before.ok_or_else(first)?;
    let (Some(rise), Some(ticks)) = (now.0.checked_sub(before.0), now.1.checked_sub(before.1))
    else {
        return Err(Why::new("reset", "the counter began anew"));
    };
    if ticks == 0 {
        return Err(Why::new(
            "not-refreshed",
            "the card has not refreshed it since the last sample: choose a longer interval",
        ));
    }
    let rate = u128::from(rise) * u128::from(ticks_per_second) / u128::from(ticks);
    Ok(u64::try_from(rate).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jalapeno::hw::telemetry::TelemetryUnit as Unit;
    use jalapeno::units::{Generation, Ticks};
    use std::time::Duration;

    /// A page of one moment.
    fn page(taken: u64, values: &[(Field, u16, Reading)]) -> Telemetry {
        let entry = |&(field, instance, reading): &(Field, u16, Reading)| Entry {
            field: Ok(field),
            instance,
            unit: Ok(Unit::Count),
            reading,
            taken: Ticks(taken),
        };
        Telemetry {
            updated: Ticks(taken),
            generation: Generation(1),
            now: Ticks(taken),
            ticks_per_second: 1000,
            entries: values.iter().map(entry).collect(),
        }
    }

    fn told(meter: &mut Meter, page: &Telemetry) -> Top {
        let mut top = Top::default();
        meter.read(Ok(page), &mut top);
        top
    }

    #[test]
    fn what_is_stale_absent_or_silent_is_none_with_its_reason() {
        let age = Duration::from_millis(1234);
        let page = page(
            0,
            &[
                (Field::Power, 0, Reading::Stale { age }),
                (Field::HbmTemperature, 0, Reading::Value(50_000)),
                (Field::HbmTemperature, 1, Reading::NoData),
                (
                    Field::DieTemperature,
                    0,
                    Reading::Value((-5_i64).cast_unsigned()),
                ),
            ],
        );
        let top = told(&mut Meter::default(), &page);
        assert_eq!(top.power_milliwatts, None);
        let why = top.why("power_milliwatts").expect("a reason");
        assert_eq!(why.code, "stale");
        assert!(why.message.contains("1234 ms"), "{}", why.message);
        // A stack that says nothing might be the hottest.
        assert_eq!(top.hbm_temperature_millicelsius, None);
        assert_eq!(
            top.why("hbm_temperature_millicelsius")
                .map(|why| &*why.code),
            Some("no-data")
        );
        assert_eq!(top.die_temperature_millicelsius, Some(-5));
        assert_eq!(
            top.why("hbm_used_bytes").map(|why| &*why.code),
            Some("unsupported")
        );
        // Without a page nothing is told, and everything has the reason.
        let mut top = Top::default();
        let why = Why::new("late", "the page never stands still");
        Meter::default().read(Err(why), &mut top);
        assert!(top.unavailable.len() > 12 && top.unavailable.iter().all(|it| it.code == "late"));
        assert_eq!(top.energy_since_start_microjoules, None);
    }

    #[test]
    fn counters_become_rates_only_when_the_card_refreshed_them() {
        let counters = |taken, operations, energy, throttles| {
            page(
                taken,
                &[
                    (Field::Operations, 0, Reading::Value(operations)),
                    (Field::Energy, 0, Reading::Value(energy)),
                    (Field::ThrottleCount, 0, Reading::Value(throttles)),
                    (Field::ThrottleCount, 1, Reading::Value(1)),
                ],
            )
        };
        let mut meter = Meter::default();
        meter.begin(&counters(1000, 500, 70, 0));
        let top = told(&mut meter, &counters(1500, 800, 100, 2));
        assert_eq!(top.operations_per_second, Some(600));
        assert_eq!(
            (top.energy_microjoules, top.energy_since_start_microjoules),
            (Some(100), Some(30))
        );
        assert_eq!(
            (top.throttle_count, top.throttle_count_interval),
            (Some(3), Some(2))
        );
        let top = told(&mut meter, &counters(1500, 800, 100, 2));
        assert_eq!(top.operations_per_second, None);
        let why = top.why("operations_per_second").expect("a reason");
        assert_eq!(why.code, "not-refreshed");
        // An emulated card that was started again counts from 0; energy since start goes on.
        let top = told(&mut meter, &counters(10, 5, 40, 0));
        assert_eq!(
            top.why("operations_per_second").map(|why| &*why.code),
            Some("reset")
        );
        assert_eq!(top.energy_since_start_microjoules, Some(30 + 40));
        assert_eq!(
            told(&mut meter, &counters(1010, 15, 40, 0)).operations_per_second,
            Some(10)
        );
    }
}
