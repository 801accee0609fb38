//! The rate of the host's time stamp counter, which an emulated machine counts by as well.
//!
//! A kernel that boots measures it against a timer of the machine's. Where the host is busy that goes wrong
//! by any factor, and then every bound on time in that machine is wrong by as much: so it is told.

use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

use jalapeno::clock::monotonic_raw;
use jalapeno::error::Result;

/// Between the two readings.
const APART: Duration = Duration::from_millis(100);
/// Nanoseconds that a reading may take: a ten-thousandth of that.
const QUICK: u64 = 10_000;
const TRIES: usize = 10_000;

/// The kernel's parameter that tells it; empty, so that the kernel measures for itself, where the host has no
/// such counter or no time for one quick reading.
pub fn parameter() -> &'static str {
    static PARAMETER: OnceLock<String> = OnceLock::new();
    PARAMETER.get_or_init(|| match khz() {
        Some(khz) => format!("tsc_early_khz={khz}"),
        None => String::new(),
    })
}

/// Thousands of ticks a second, where a quick reading succeeded.
fn khz() -> Option<u64> {
    let first = reading().ok()??;
    sleep(APART);
    let second = reading().ok()??;
    (second.0 - first.0)
        .checked_mul(1_000_000)?
        .checked_div(second.1 - first.1)
}

/// Ticks, and nanoseconds of CLOCK_MONOTONIC_RAW at the same moment.
fn reading() -> Result<Option<(u64, u64)>> {
    for _ in 0..TRIES {
        let before = monotonic_raw()?;
        let Some(ticks) = ticks() else {
            return Ok(None);
        };
        if monotonic_raw()? - before <= QUICK {
            return Ok(Some((ticks, before)));
        }
    }
    Ok(None)
}

fn ticks() -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: RDTSC reads a counter and touches nothing else.
        Some(unsafe { core::arch::x86_64::_rdtsc() })
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        None
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::khz;

    #[test]
    fn two_measurements_agree() {
        let one = khz().expect("a quick reading");
        let two = khz().expect("again");
        assert!(one.abs_diff(two) < one / 1000, "{one} kHz, {two} kHz");
        assert!((100_000..20_000_000).contains(&one), "{one} kHz");
    }
}
