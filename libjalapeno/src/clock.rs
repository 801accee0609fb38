//! The clock triple: one moment in device time, CLOCK_MONOTONIC_RAW and the time stamp counter.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jalapeno_hw::regs::Time;
use nix::time::{ClockId, clock_gettime};

use crate::error::{Error, Result};
use crate::mmio::Bar;
use crate::order;
use crate::units::Ticks;

/// Readings taken; the one with the least uncertainty is kept.
const READINGS: usize = 5;

/// Relates device time to the host's clocks. Host interface 11.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Device time.
    pub device: Ticks,
    /// CLOCK_MONOTONIC_RAW at the same moment, in nanoseconds.
    pub monotonic_raw: u64,
    /// The time stamp counter at the same moment; 0 where there is none.
    pub tsc: u64,
    /// Nanoseconds between the host readings around the device's.
    pub uncertainty: u64,
    /// Ticks of device time a second.
    pub ticks_per_second: u64,
}

/// CLOCK_MONOTONIC_RAW in nanoseconds.
///
/// # Errors
/// `Io` where the system has no such clock.
pub fn monotonic_raw() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_RAW).map_err(|errno| Error::Io {
        tried: "read",
        on: "CLOCK_MONOTONIC_RAW".into(),
        source: errno.into(),
    })?;
    let now = Duration::from(now);
    Ok(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

impl Clock {
    /// Takes the best of a few readings.
    ///
    /// # Errors
    /// `Lost`, `Io`.
    pub fn read(registers: &Bar, ticks_per_second: u64) -> Result<Self> {
        let mut best: Option<Self> = None;
        for _ in 0..READINGS {
            let before = monotonic_raw()?;
            let device = registers.read::<Time>()?;
            let tsc = order::time_stamp();
            let uncertainty = monotonic_raw()?.saturating_sub(before);
            if best.is_none_or(|kept| uncertainty < kept.uncertainty) {
                best = Some(Self {
                    device: Ticks(device.0),
                    monotonic_raw: before + uncertainty / 2,
                    tsc,
                    uncertainty,
                    ticks_per_second,
                });
            }
        }
        best.ok_or(Error::Lost {
            why: "its clock could not be read",
        })
    }

    /// Device time at a moment of CLOCK_MONOTONIC_RAW, in nanoseconds.
    #[must_use]
    pub fn at(&self, raw: u64) -> Ticks {
        if raw >= self.monotonic_raw {
            Ticks(
                self.device
                    .0
                    .saturating_add(self.ticks(raw - self.monotonic_raw)),
            )
        } else {
            Ticks(
                self.device
                    .0
                    .saturating_sub(self.ticks(self.monotonic_raw - raw)),
            )
        }
    }

    /// CLOCK_MONOTONIC_RAW at a moment of device time, in nanoseconds.
    #[must_use]
    pub fn host(&self, device: Ticks) -> u64 {
        let nanos = |ticks: u64| {
            let all = u128::from(ticks) * 1_000_000_000 / u128::from(self.ticks_per_second.max(1));
            u64::try_from(all).unwrap_or(u64::MAX)
        };
        if device >= self.device {
            self.monotonic_raw
                .saturating_add(nanos(device.0 - self.device.0))
        } else {
            self.monotonic_raw
                .saturating_sub(nanos(self.device.0 - device.0))
        }
    }

    /// Nanoseconds as ticks.
    #[must_use]
    pub fn ticks(&self, nanos: u64) -> u64 {
        let all = u128::from(nanos) * u128::from(self.ticks_per_second) / 1_000_000_000;
        u64::try_from(all).unwrap_or(u64::MAX)
    }
}

/// A reading that serves for a second: ten registers are read for each. None until it is first wanted.
#[derive(Debug, Default)]
pub(crate) struct KeptClock(Mutex<Option<Clock>>);

/// How long a reading serves, in nanoseconds.
const AGE: u64 = 1_000_000_000;

impl KeptClock {
    /// Device time so far from now; `read` takes a reading.
    pub(crate) fn ticks_in(
        &self,
        time: Duration,
        read: impl FnOnce() -> Result<Clock>,
    ) -> Result<Ticks> {
        let begin = monotonic_raw()?;
        let kept = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let serves = |clock: &Clock| begin.saturating_sub(clock.monotonic_raw) <= AGE;
        let (clock, now) = match kept.filter(serves) {
            Some(clock) => (clock, begin),
            None => {
                let clock = read()?;
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock);
                // A relayed reading takes milliseconds, which are not the job's.
                (clock, monotonic_raw()?)
            }
        };
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Ok(clock.at(now.saturating_add(nanos)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_go_there_and_back_and_never_wrap() {
        let clock = Clock {
            device: Ticks(5_000),
            monotonic_raw: 1_000_000,
            tsc: 0,
            uncertainty: 10,
            ticks_per_second: 100_000_000,
        };
        assert_eq!(clock.at(1_000_100), Ticks(5_010));
        assert_eq!(clock.at(999_900), Ticks(4_990));
        assert_eq!(clock.host(Ticks(5_010)), 1_000_100);
        assert_eq!(clock.host(Ticks(4_990)), 999_900);
        assert_eq!(
            clock.at(0),
            Ticks(0),
            "device time before the device's zero"
        );
        assert_eq!(clock.ticks(u64::MAX), u64::MAX / 10);
        assert_eq!(clock.host(Ticks(u64::MAX)), u64::MAX);
    }
    #[test]
    fn a_reading_serves_for_a_second_and_what_it_takes_is_not_taken_off() {
        let kept = KeptClock::default();
        let slow = Duration::from_millis(20);
        let read = || {
            let clock = Clock {
                device: Ticks(0),
                monotonic_raw: monotonic_raw()?,
                tsc: 0,
                uncertainty: 0,
                ticks_per_second: 1_000_000_000,
            };
            std::thread::sleep(slow);
            Ok(clock)
        };
        let limit = Duration::from_millis(5);
        let first = kept.ticks_in(limit, read).unwrap();
        assert!(
            u128::from(first.0) >= (slow + limit).as_nanos(),
            "{first:?}"
        );
        let again = || -> Result<Clock> { panic!("it was read a moment ago") };
        assert!(kept.ticks_in(limit, again).unwrap() >= first);
    }
}
