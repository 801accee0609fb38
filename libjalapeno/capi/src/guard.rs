//! The guard around every C function: a panic becomes a status, a failure is kept for the thread.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::status::{Failure, OK, keep};

/// Runs a call's body and gives its status.
#[inline]
pub(crate) fn call(body: impl FnOnce() -> Result<(), Failure>) -> i32 {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => OK,
        Ok(Err(failure)) => keep(failure),
        Err(panic) => {
            let what = panic
                .downcast_ref::<&str>()
                .map(|s| (*s).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            keep(Failure::panicked(&what))
        }
    }
}
