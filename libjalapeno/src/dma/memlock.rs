//! RLIMIT_MEMLOCK, looked at before memory is pinned, so that a refusal says what is needed.

use nix::sys::resource::{Resource, getrlimit};

use crate::error::{Error, Result};
use crate::host::Memlock;

/// Whether `bytes` more may be pinned; memory that is not pinned (vfio-user) needs no leave.
pub(super) fn preflight(pins: bool, bytes: u64) -> Result<()> {
    if !pins {
        return Ok(());
    }
    // Of this thread: capabilities are a thread's, and the kernel asks the one that maps.
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(u64::MAX, |(soft, _)| soft);
    verdict(&status, limit, bytes)
}

fn verdict(status: &str, limit: u64, bytes: u64) -> Result<()> {
    let memlock = Memlock::of(status, limit, limit);
    let have = memlock.room();
    if bytes <= have {
        return Ok(());
    }
    let all = memlock.used.saturating_add(bytes).div_ceil(1024);
    Err(Error::Memory {
        what: format!("pinning host memory (RLIMIT_MEMLOCK is {limit} bytes)"),
        needed: bytes,
        have,
        hint: format!("ulimit -l {all} (for good: jalctl setup; in a unit: LimitMEMLOCK=)"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    const USER: &str = "VmLck:\t      16 kB\nVmPin:\t       0 kB\nCapEff:\t0000000000000000\n";
    const ROOT: &str = "VmLck:\t      16 kB\nCapEff:\t000001ffffffffff\n";

    #[test]
    fn a_small_memlock_says_what_is_needed_what_is_there_and_what_to_do() {
        let error = verdict(USER, 64 << 10, 1 << 20).unwrap_err();
        assert_eq!(error.code(), Code::Memory);
        let text = error.to_string();
        assert!(text.contains("needs 1048576 bytes, has 49152"), "{text}");
        assert_eq!(
            error.hint().unwrap().split(" (").next(),
            Some("ulimit -l 1040")
        );
    }

    #[test]
    fn what_fits_and_who_may_pass() {
        assert!(verdict(USER, 64 << 10, 48 << 10).is_ok());
        assert!(verdict(USER, 64 << 10, (48 << 10) + 1).is_err());
        assert!(verdict(USER, libc::RLIM_INFINITY, 1 << 40).is_ok());
        assert!(verdict(ROOT, 64 << 10, 1 << 40).is_ok());
        assert!(
            verdict("", 0, 1).is_err(),
            "an unreadable status permits nothing"
        );
    }

    #[test]
    fn memory_that_is_not_pinned_needs_no_leave() {
        assert!(preflight(false, u64::MAX).is_ok());
    }
}
