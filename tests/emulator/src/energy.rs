//! The model of time, power, energy and temperature behind the telemetry.
//!
//! Nothing here is measured on silicon: every constant is ASSUMED and stands in this file.
//!
//! - Device time is the host's CLOCK_MONOTONIC_RAW since power-on, in nanoseconds.
//! - Energy is what an idle card draws over device time, plus a price for each kernel operation,
//!   each byte that HBM reads or writes, each byte over the link and each packet.
//! - Power is the energy of an interval divided by its length.
//! - Temperature follows power through one thermal resistance and one time constant.
//!
//! So energy never falls, rises by at least the idle power, and rises with work done, however
//! long the host takes to emulate it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What an idle card draws, in milliwatts. ASSUMED.
pub const IDLE_MILLIWATTS: u64 = 85_000;
/// Price of one kernel operation in femtojoules (a multiply-add counts two). ASSUMED.
pub const OPERATION_FEMTOJOULES: u64 = 350;
/// Price of one byte that HBM reads or writes, in femtojoules. ASSUMED: 3.9 pJ a bit.
pub const HBM_BYTE_FEMTOJOULES: u64 = 31_200;
/// Price of one byte over the link, in femtojoules. ASSUMED: 6 pJ a bit.
pub const LINK_BYTE_FEMTOJOULES: u64 = 48_000;
/// Price of fetching and retiring one packet, in femtojoules. ASSUMED: 20 nJ.
pub const PACKET_FEMTOJOULES: u64 = 20_000_000;
/// Power limit in force, in milliwatts. ASSUMED.
pub const POWER_LIMIT_MILLIWATTS: u64 = 700_000;
/// Temperature of the air, in thousandths of a degree. ASSUMED.
pub const AMBIENT_MILLICELSIUS: f64 = 30_000.0;
/// Kelvin a watt from the die to the air. ASSUMED.
pub const THERMAL_RESISTANCE: f64 = 0.075;
/// Time in which temperature closes 63 % of a step. ASSUMED.
pub const THERMAL_TIME: Duration = Duration::from_secs(12);

/// Work that a packet did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Kernel operations; a multiply-add counts two.
    pub operations: u64,
    /// Bytes that HBM read or wrote.
    pub hbm_bytes: u64,
    /// Bytes over the link.
    pub link_bytes: u64,
}

impl Work {
    /// This and that.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            operations: self.operations.wrapping_add(other.operations),
            hbm_bytes: self.hbm_bytes.wrapping_add(other.hbm_bytes),
            link_bytes: self.link_bytes.wrapping_add(other.link_bytes),
        }
    }

    /// What came to it since it was `before`.
    #[must_use]
    pub fn less(self, before: Self) -> Self {
        Self {
            operations: self.operations.wrapping_sub(before.operations),
            hbm_bytes: self.hbm_bytes.wrapping_sub(before.hbm_bytes),
            link_bytes: self.link_bytes.wrapping_sub(before.link_bytes),
        }
    }

    fn femtojoules(self) -> u128 {
        let price = |count: u64, each: u64| u128::from(count) * u128::from(each);
        price(self.operations, OPERATION_FEMTOJOULES)
            + price(self.hbm_bytes, HBM_BYTE_FEMTOJOULES)
            + price(self.link_bytes, LINK_BYTE_FEMTOJOULES)
    }
}

/// Energy of a job in nanojoules: its work, its packets, and the idle card while it ran.
#[must_use]
pub fn job_nanojoules(work: Work, packets: u64, busy_ns: u64) -> u64 {
    let packets = u128::from(packets) * u128::from(PACKET_FEMTOJOULES);
    let idle = u128::from(busy_ns) * u128::from(IDLE_MILLIWATTS) * 1000;
    let all = work.femtojoules() + packets + idle;
    u64::try_from(all / 1_000_000).unwrap_or(u64::MAX)
}

/// Counts work; written by the engine, read by anybody. Never reset.
#[derive(Debug, Default)]
pub struct Meter {
    operations: AtomicU64,
    hbm_bytes: AtomicU64,
    link_bytes: AtomicU64,
    packets: AtomicU64,
    compute_ns: AtomicU64,
    copy_ns: AtomicU64,
}

/// Which engine worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Kernels.
    Compute,
    /// Copies and fills.
    Copy,
}

impl Meter {
    /// Adds work, and the device time it took.
    pub fn add(&self, engine: Engine, work: Work, took_ns: u64) {
        let add = |counter: &AtomicU64, value: u64| {
            counter.fetch_add(value, Ordering::Relaxed);
        };
        add(&self.operations, work.operations);
        add(&self.hbm_bytes, work.hbm_bytes);
        add(&self.link_bytes, work.link_bytes);
        match engine {
            Engine::Compute => add(&self.compute_ns, took_ns),
            Engine::Copy => add(&self.copy_ns, took_ns),
        }
    }

    /// Adds fetched packets.
    #[inline]
    pub fn add_packets(&self, packets: u64) {
        // The engine alone counts, so no locked addition is needed.
        let count = self.packets.load(Ordering::Relaxed);
        self.packets
            .store(count.wrapping_add(packets), Ordering::Relaxed);
    }

    /// Packets so far.
    #[inline]
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }

    /// All work so far.
    #[must_use]
    pub fn work(&self) -> Work {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Work {
            operations: load(&self.operations),
            hbm_bytes: load(&self.hbm_bytes),
            link_bytes: load(&self.link_bytes),
        }
    }

    /// Kernel operations so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    /// Bytes read and written by packets so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        load(&self.hbm_bytes).saturating_add(load(&self.link_bytes))
    }

    /// Time that an engine worked, in nanoseconds.
    #[must_use]
    pub fn busy_ns(&self, engine: Engine) -> u64 {
        match engine {
            Engine::Compute => self.compute_ns.load(Ordering::Relaxed),
            Engine::Copy => self.copy_ns.load(Ordering::Relaxed),
        }
    }

    /// The energy counter in microjoules after `on_ns` nanoseconds of device time.
    #[must_use]
    pub fn energy_uj(&self, on_ns: u64) -> u64 {
        let price = |counter: &AtomicU64, femtojoules: u64| {
            u128::from(counter.load(Ordering::Relaxed)) * u128::from(femtojoules)
        };
        let dynamic = self.work().femtojoules() + price(&self.packets, PACKET_FEMTOJOULES);
        // 1 mW x 1 ns = 1 pJ = 1000 fJ.
        let idle = u128::from(on_ns) * u128::from(IDLE_MILLIWATTS) * 1000;
        u64::try_from((dynamic + idle) / 1_000_000_000).unwrap_or(u64::MAX)
    }
}

/// Temperature, carried from one look to the next.
#[derive(Clone, Copy, Debug)]
pub struct Thermometer {
    millicelsius: f64,
}

impl Default for Thermometer {
    fn default() -> Self {
        Self {
            millicelsius: steady(IDLE_MILLIWATTS),
        }
    }
}

impl Thermometer {
    /// Lets `passed` go by at `milliwatts`; returns the new temperature in thousandths.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a temperature is far inside i64, and the cast saturates"
    )]
    pub fn step(&mut self, milliwatts: u64, passed: Duration) -> i64 {
        let share = 1.0 - (-passed.as_secs_f64() / THERMAL_TIME.as_secs_f64()).exp();
        self.millicelsius += (steady(milliwatts) - self.millicelsius) * share;
        self.millicelsius as i64
    }
}

/// Where temperature settles at a power.
#[expect(clippy::cast_precision_loss, reason = "milliwatts are small")]
fn steady(milliwatts: u64) -> f64 {
    AMBIENT_MILLICELSIUS + milliwatts as f64 * THERMAL_RESISTANCE
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn an_idle_second_costs_the_idle_power() {
        let meter = Meter::default();
        assert_eq!(meter.energy_uj(SECOND), IDLE_MILLIWATTS * 1000);
        assert_eq!(meter.energy_uj(2 * SECOND), 2 * IDLE_MILLIWATTS * 1000);
    }

    #[test]
    fn energy_rises_with_operations_with_bytes_and_with_packets() {
        let meter = Meter::default();
        let mut last = meter.energy_uj(SECOND);
        for work in [
            Work {
                operations: 1 << 32,
                ..Work::default()
            },
            Work {
                hbm_bytes: 1 << 30,
                ..Work::default()
            },
            Work {
                link_bytes: 1 << 30,
                ..Work::default()
            },
        ] {
            meter.add(Engine::Compute, work, 0);
            let now = meter.energy_uj(SECOND);
            assert!(now > last, "{work:?}: {now} against {last}");
            last = now;
        }
        meter.add_packets(1000);
        assert_eq!(meter.energy_uj(SECOND) - last, 20);
    }

    #[test]
    fn a_century_at_full_load_does_not_wrap() {
        let meter = Meter::default();
        let work = Work {
            operations: u64::MAX,
            hbm_bytes: u64::MAX,
            link_bytes: u64::MAX,
        };
        meter.add(Engine::Copy, work, 1);
        assert!(meter.energy_uj(100 * 365 * 86_400 * SECOND) > 0);
    }

    #[test]
    fn load_warms_the_die_and_rest_cools_it() {
        let mut die = Thermometer::default();
        let cool = die.step(IDLE_MILLIWATTS, Duration::from_secs(1));
        let warm = die.step(600_000, Duration::from_secs(30));
        assert!(warm > cool + 10_000, "{warm} against {cool}");
        assert!(die.step(IDLE_MILLIWATTS, Duration::from_secs(60)) < warm);
    }
}
