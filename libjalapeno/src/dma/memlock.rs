//! RLIMIT_MEMLOCK, looked at before memory is pinned, so that a refusal says what is needed.

use crate::error::{Error, Result};
use crate::host::Memlock;
use crate::transport::Description;

/// From here on it is asked: for a queue's rings that costs more than mapping them, and what the kernel
/// refuses says the same afterwards.
const ASKED_FOR: u64 = 64 << 10;

/// Whether `bytes` more may be pinned; memory that is not pinned (vfio-user) needs no leave.
pub(super) fn preflight(about: &Description, bytes: u64) -> Result<()> {
    if !about.pins || bytes < ASKED_FOR {
        return Ok(());
    }
    verdict(&Memlock::here(about.pins_per_user), bytes)
}

fn verdict(memlock: &Memlock, bytes: u64) -> Result<()> {
    let have = memlock.room();
    if bytes <= have {
        return Ok(());
    }
    Err(Error::Memory {
        what: format!(
            "pinning host memory (RLIMIT_MEMLOCK is {} bytes)",
            memlock.soft
        ),
        needed: bytes,
        have,
        hint: memlock.remedy(bytes),
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
        let limit = Memlock::of(USER, 64 << 10, 8 << 20);
        let error = verdict(&limit, 1 << 20).unwrap_err();
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
        let verdict =
            |status: &str, limit, bytes| verdict(&Memlock::of(status, limit, limit), bytes);
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
        let transport = crate::played::host(vec![(0, u64::MAX)], 1);
        assert!(!transport.describe().pins);
        assert!(preflight(transport.describe(), u64::MAX).is_ok());
    }
}
