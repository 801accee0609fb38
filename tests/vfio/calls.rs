//! The process's calls to the kernel, on their way: those about the played machine's files are
//! answered by it.
//!
//! The program's own symbols come before the C library's, for everything that is linked with it.

use std::ffi::{c_int, c_long, c_ulong, c_void};

use crate::kernel;

/// What a call gives: a number, or the error that it fails with.
pub type Answer = Result<c_int, c_int>;

fn returned(answer: Answer) -> c_int {
    answer.unwrap_or_else(|errno| {
        nix::errno::Errno::from_raw(errno).set();
        -1
    })
}

#[unsafe(no_mangle)]
extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    if let Some(answer) = kernel::ioctl(fd, request, argument) {
        return returned(answer);
    }
    // SAFETY: the caller's promise to ioctl is passed on.
    let said: c_long = unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) };
    c_int::try_from(said).unwrap_or(-1)
}

#[unsafe(no_mangle)]
extern "C" fn pread64(fd: c_int, into: *mut c_void, bytes: usize, at: i64) -> isize {
    if let Some(card) = kernel::card(fd) {
        // SAFETY: the caller gives room for so many bytes.
        let into = unsafe { std::slice::from_raw_parts_mut(into.cast::<u8>(), bytes) };
        let answer = card.read(at, into);
        return returned(answer) as isize;
    }
    // SAFETY: the caller's promise to pread is passed on.
    let said = unsafe { libc::syscall(libc::SYS_pread64, fd, into, bytes, at) };
    isize::try_from(said).unwrap_or(-1)
}

#[unsafe(no_mangle)]
extern "C" fn pwrite64(fd: c_int, from: *const c_void, bytes: usize, at: i64) -> isize {
    if let Some(card) = kernel::card(fd) {
        // SAFETY: the caller gives so many bytes.
        let from = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) };
        let answer = card.write(at, from);
        return returned(answer) as isize;
    }
    // SAFETY: the caller's promise to pwrite is passed on.
    let said = unsafe { libc::syscall(libc::SYS_pwrite64, fd, from, bytes, at) };
    isize::try_from(said).unwrap_or(-1)
}

#[unsafe(no_mangle)]
extern "C" fn mmap64(
    near: *mut c_void,
    bytes: usize,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    at: i64,
) -> *mut c_void {
    if let Some(card) = (fd >= 0).then(|| kernel::card(fd)).flatten() {
        return match card.map_region(at, bytes) {
            Ok(base) => base.as_ptr().cast(),
            Err(errno) => {
                nix::errno::Errno::from_raw(errno).set();
                libc::MAP_FAILED
            }
        };
    }
    // SAFETY: the caller's promise to mmap is passed on.
    let said = unsafe { libc::syscall(libc::SYS_mmap, near, bytes, protection, flags, fd, at) };
    said as *mut c_void
}

#[unsafe(no_mangle)]
extern "C" fn close(fd: c_int) -> c_int {
    kernel::closed(fd);
    // SAFETY: the caller's promise to close is passed on.
    let said = unsafe { libc::syscall(libc::SYS_close, fd) };
    c_int::try_from(said).unwrap_or(-1)
}
