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
