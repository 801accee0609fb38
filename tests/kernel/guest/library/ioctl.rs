//! The process's ioctls, on their way to the kernel: counted, and made to fail on request.
//!
//! The program's own `ioctl` comes before the C library's, for everything that is linked with it.

use std::ffi::{c_int, c_long, c_ulong, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// VFIO_IOMMU_MAP_DMA and IOMMU_IOAS_MAP.
const MAPS: [c_ulong; 2] = [0x3B71, 0x3B85];

static CALLS: AtomicU64 = AtomicU64::new(0);
static MAPPED: AtomicU64 = AtomicU64::new(0);
static FAILING: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds.
static LONGEST: AtomicU64 = AtomicU64::new(0);

#[unsafe(no_mangle)]
extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    let number = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
    MAPPED.fetch_add(u64::from(MAPS.contains(&request)), Ordering::Relaxed);
    if FAILING.load(Ordering::Relaxed) == number {
        nix::errno::Errno::EIO.set();
        return -1;
    }
    let begin = Instant::now();
    // SAFETY: the caller's promise to ioctl is passed on.
    let said: c_long = unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) };
    let took = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
    LONGEST.fetch_max(took, Ordering::Relaxed);
    c_int::try_from(said).unwrap_or(-1)
}

/// The longest call since this was asked last: of an opening, the one that resets the device.
pub fn longest() -> Duration {
    Duration::from_nanos(LONGEST.swap(0, Ordering::Relaxed))
}

/// How many calls since the last `fail`, or since the program began.
pub fn calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// How many of all calls mapped memory for the device.
pub fn maps() -> u64 {
    MAPPED.load(Ordering::Relaxed)
}

/// Counts from 0, and makes call `number` fail with EIO; 0: none.
pub fn fail(number: u64) {
    CALLS.store(0, Ordering::Relaxed);
    FAILING.store(number, Ordering::Relaxed);
}
