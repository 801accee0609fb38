//! Which store must not pass which: the only file that knows the architecture.
//!
//! x86-64 keeps stores in order and loads in order; aarch64 does neither. Both are served by
//! Rust's acquire and release on memory that the host's caches keep coherent with the device;
//! a doorbell behind PCIe needs the barrier below on aarch64.

use std::sync::atomic::{Ordering, compiler_fence, fence};

/// Packets are in memory before the doorbell says so. Host interface 11.
#[inline]
pub fn before_doorbell() {
    if cfg!(target_arch = "x86_64") {
        compiler_fence(Ordering::Release);
    } else {
        fence(Ordering::SeqCst);
    }
}

/// The ARM word is out before the completion word is looked at once more: a store and a later
/// load that must not trade places, on any architecture. Host interface 5.
#[inline]
pub fn between_arm_and_look() {
    fence(Ordering::SeqCst);
}

/// The time stamp counter; 0 where the architecture has none that user space can read.
#[must_use]
pub fn time_stamp() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: RDTSC reads a counter and touches nothing else.
        unsafe { core::arch::x86_64::_rdtsc() }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        0
    }
}
