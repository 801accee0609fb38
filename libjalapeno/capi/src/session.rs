//! `jal_session_*` and `jal_fence_*`.

use std::sync::{Arc, Mutex};

use jalapeno::Session;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::device::timeout;
use crate::guard::call;
use crate::registries::{Context, DEVICES, FENCES, SESSIONS, close_fence, close_session};
use crate::sized;
use crate::status::Failure;

/// `jal_memory_use`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct MemoryUse {
    struct_size: u32,
    reserved: u32,
    maps: u64,
    maps_limit: u64,
    bytes: u64,
    arenas: u64,
    coalesced: u64,
    spare: u64,
}

const USE_LEAST: usize = size_of::<MemoryUse>();

/// `jal_session_create`.
///
/// # Safety
/// As in jalapeno.h: `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_session_create(device: u64, out: *mut u64) -> i32 {
    call(|| {
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        let context = Context {
            session: Session::new(&*DEVICES.enter(device)?)?,
            transfer: Mutex::new(None),
        };
        let handle = SESSIONS.insert(Arc::new(context), device)?;
        // SAFETY: not null, writable by the caller's promise.
        unsafe { out.write(handle) };
        Ok(())
    })
}

/// `jal_session_destroy`.
#[unsafe(no_mangle)]
pub extern "C" fn jal_session_destroy(session: u64) -> i32 {
    call(|| close_session(session))
}

/// `jal_session_get_memory_use`.
///
/// # Safety
/// As in jalapeno.h: `out` is readable and writable for its struct_size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_session_get_memory_use(session: u64, out: *mut MemoryUse) -> i32 {
    call(|| {
        // SAFETY: promised by the caller.
        let size = unsafe { sized::check_out(out, "use", USE_LEAST) }?;
        let context = SESSIONS.enter(session)?.clone();
        let usage = context.session.device().dma()?.usage();
        let filled = MemoryUse {
            struct_size: 0,
            reserved: 0,
            maps: usage.maps as u64,
            maps_limit: usage.maps_limit as u64,
            bytes: usage.bytes,
            arenas: usage.arenas as u64,
            coalesced: usage.coalesced as u64,
            spare: usage.spare,
        };
        // SAFETY: as checked above.
        unsafe { sized::fill(out, size, &filled) };
        Ok(())
    })
}

/// `jal_fence_create`.
///
/// # Safety
/// As in jalapeno.h: `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_fence_create(session: u64, initial: u64, out: *mut u64) -> i32 {
    call(|| {
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        let fence = SESSIONS.enter(session)?.session.fence(initial)?;
        let handle = FENCES.insert(fence, session)?;
        // SAFETY: not null, writable by the caller's promise.
        unsafe { out.write(handle) };
        Ok(())
    })
}

/// `jal_fence_destroy`.
#[unsafe(no_mangle)]
pub extern "C" fn jal_fence_destroy(fence: u64) -> i32 {
    call(|| close_fence(fence))
}

/// `jal_fence_address`.
///
/// # Safety
/// As in jalapeno.h: `address` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_fence_address(fence: u64, address: *mut u64) -> i32 {
    call(|| {
        if address.is_null() {
            return Err(Failure::null("address"));
        }
        let fence = FENCES.enter(fence)?;
        // SAFETY: not null, writable by the caller's promise.
        unsafe { address.write(fence.address().0) };
        Ok(())
    })
}

/// `jal_fence_value`.
///
/// # Safety
/// As in jalapeno.h: `value` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_fence_value(fence: u64, value: *mut u64) -> i32 {
    call(|| {
        if value.is_null() {
            return Err(Failure::null("value"));
        }
        let fence = FENCES.enter(fence)?;
        let read = fence.value()?;
        // SAFETY: not null, writable by the caller's promise.
        unsafe { value.write(read) };
        Ok(())
    })
}

/// `jal_fence_signal`.
#[unsafe(no_mangle)]
pub extern "C" fn jal_fence_signal(fence: u64, value: u64) -> i32 {
    call(|| Ok(FENCES.enter(fence)?.signal(value)?))
}

/// `jal_fence_wait`.
#[unsafe(no_mangle)]
pub extern "C" fn jal_fence_wait(fence: u64, value: u64, timeout_ns: i64) -> i32 {
    call(|| {
        let timeout = timeout(timeout_ns)?;
        Ok(FENCES.enter(fence)?.wait(value, timeout)?)
    })
}
