//! `jal_buffer_*`, `jal_host_*`, `jal_device_alloc`: memory that packets can name.

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::PoisonError;

use jalapeno::transport::Protection;
use jalapeno::{DeviceAddr, HostOptions, Session, Transfer};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::guard::call;
use crate::registries::{BUFFERS, Buffer, Context, Memory, SESSIONS, free_buffer};
use crate::sized;
use crate::status::Failure;

const HUGE: u32 = 1;
const READ_ONLY: u32 = 2;
const GUARDED: u32 = 4;

/// `jal_buffer_info`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct BufferInfo {
    struct_size: u32,
    kind: u32,
    host: u64,
    address: u64,
    bytes: u64,
    page_bytes: u64,
}

const INFO_LEAST: usize = size_of::<BufferInfo>();
// `host` is a pointer in jalapeno.h.
const _: () = assert!(size_of::<*mut c_void>() == 8);

fn options(flags: u32) -> Result<HostOptions, Failure> {
    if flags & !(HUGE | READ_ONLY | GUARDED) != 0 {
        return Err(Failure::invalid(format!(
            "flags is {flags:#x}: use JAL_MEMORY_*"
        )));
    }
    let protection = if flags & READ_ONLY == 0 {
        Protection::ReadWrite
    } else {
        Protection::Read
    };
    Ok(HostOptions {
        huge: flags & HUGE != 0,
        protection,
        guarded: flags & GUARDED != 0,
    })
}

/// Makes a buffer below a session and gives its handle.
///
/// # Safety
/// `out` is null or writable.
unsafe fn make(
    session: u64,
    out: *mut u64,
    memory: impl FnOnce(&Session) -> Result<Memory, Failure>,
) -> Result<(), Failure> {
    if out.is_null() {
        return Err(Failure::null("out"));
    }
    let parent = SESSIONS.enter(session)?.clone();
    let handle = BUFFERS.insert(
        Buffer {
            memory: memory(&parent.session)?,
            context: parent,
            session,
        },
        session,
    )?;
    // SAFETY: not null, writable by the caller's promise.
    unsafe { out.write(handle) };
    Ok(())
}

/// `jal_host_alloc`.
///
/// # Safety
/// As in jalapeno.h: `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_host_alloc(
    session: u64,
    bytes: u64,
    flags: u32,
    out: *mut u64,
) -> i32 {
    call(|| {
        let options = options(flags)?;
        // SAFETY: promised by the caller.
        unsafe {
            make(session, out, |session| {
                Ok(Memory::Host(session.host_memory(bytes, options)?, true))
            })
        }
    })
}

/// `jal_host_register`.
///
/// # Safety
/// As in jalapeno.h: `memory` is `bytes` long and outlives the buffer; `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_host_register(
    session: u64,
    memory: *mut c_void,
    bytes: u64,
    flags: u32,
    out: *mut u64,
) -> i32 {
    call(|| {
        let options = options(flags)?;
        let at = NonNull::new(memory.cast::<u8>()).ok_or_else(|| Failure::null("memory"))?;
        let register = |session: &Session| {
            // SAFETY: the caller promises that the memory is there and outlives the buffer.
            Ok(Memory::Host(
                unsafe { session.register(at, bytes, options.protection) }?,
                false,
            ))
        };
        // SAFETY: promised by the caller.
        unsafe { make(session, out, register) }
    })
}

/// `jal_device_alloc`.
///
/// # Safety
/// As in jalapeno.h: `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_device_alloc(session: u64, bytes: u64, out: *mut u64) -> i32 {
    call(|| {
        // SAFETY: promised by the caller.
        unsafe {
            make(session, out, |session| {
                Ok(Memory::Device(session.device_memory(bytes)?))
            })
        }
    })
}

/// `jal_peer_map`.
///
/// # Safety
/// As in jalapeno.h: `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_peer_map(session: u64, buffer: u64, out: *mut u64) -> i32 {
    call(|| {
        let of = BUFFERS.enter(buffer)?;
        let Memory::Device(memory) = &of.memory else {
            return Err(Failure::invalid(
                "buffer is no device memory: only that of another card can be mapped",
            ));
        };
        // SAFETY: promised by the caller.
        unsafe {
            make(session, out, |session| {
                Ok(Memory::Peer(session.peer_memory(memory)?, of.session))
            })
        }
    })
}

/// `jal_buffer_get_info`.
///
/// # Safety
/// As in jalapeno.h: `info` is readable and writable for its struct_size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_buffer_get_info(buffer: u64, info: *mut BufferInfo) -> i32 {
    call(|| {
        // SAFETY: promised by the caller.
        let size = unsafe { sized::check_out(info, "info", INFO_LEAST) }?;
        let buffer = BUFFERS.enter(buffer)?;
        let filled = match &buffer.memory {
            Memory::Host(memory, own) => BufferInfo {
                struct_size: 0,
                kind: if *own { 1 } else { 2 },
                host: memory.memory().ptr().as_ptr() as u64,
                address: memory.address().0,
                bytes: memory.bytes(),
                page_bytes: memory.memory().pages().bytes(),
            },
            Memory::Device(memory) => BufferInfo {
                struct_size: 0,
                kind: 3,
                host: 0,
                address: memory.address().0,
                bytes: memory.bytes(),
                page_bytes: memory.page_bytes(),
            },
            Memory::Peer(memory, _) => BufferInfo {
                struct_size: 0,
                kind: 4,
                host: 0,
                address: memory.address().0,
                bytes: memory.bytes(),
                page_bytes: memory.page_bytes(),
            },
        };
        // SAFETY: as checked above.
        unsafe { sized::fill(info, size, &filled) };
        Ok(())
    })
}

/// `jal_buffer_free`.
#[unsafe(no_mangle)]
pub extern "C" fn jal_buffer_free(buffer: u64) -> i32 {
    call(|| free_buffer(buffer))
}

/// The device address of a range of a buffer, checked; `None` for host memory.
fn range(buffer: &Buffer, offset: u64, bytes: u64) -> Result<Option<DeviceAddr>, Failure> {
    let (whole, at) = match &buffer.memory {
        Memory::Host(memory, _) => (memory.bytes(), None),
        Memory::Device(memory) => (memory.bytes(), Some(memory.address())),
        Memory::Peer(memory, _) => (memory.bytes(), Some(memory.address())),
    };
    match offset.checked_add(bytes) {
        Some(end) if end <= whole => Ok(at.map(|at| at + offset)),
        _ => Err(Failure::invalid(format!(
            "{bytes} bytes at offset {offset} do not fit a buffer of {whole}"
        ))),
    }
}

/// Copies through the session's transfer, made when first needed. Callers take turns.
fn transfer(
    context: &Context,
    copy: impl FnOnce(&mut Transfer) -> jalapeno::Result<()>,
) -> Result<(), Failure> {
    let mut place = context
        .transfer
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let transfer = match place.take() {
        Some(transfer) => place.insert(transfer),
        None => place.insert(Transfer::new(&context.session)?),
    };
    Ok(copy(transfer)?)
}

/// `jal_buffer_write`.
///
/// # Safety
/// As in jalapeno.h: `from` is readable for `bytes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_buffer_write(
    buffer: u64,
    offset: u64,
    from: *const c_void,
    bytes: u64,
) -> i32 {
    call(|| {
        let buffer = BUFFERS.enter(buffer)?;
        let device = range(&buffer, offset, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        if from.is_null() {
            return Err(Failure::null("from"));
        }
        let length =
            usize::try_from(bytes).map_err(|_| Failure::invalid(format!("bytes is {bytes}")))?;
        // SAFETY: readable for `bytes` by the caller's promise, who keeps it unchanged meanwhile.
        let data = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), length) };
        match (&buffer.memory, device) {
            (Memory::Host(memory, _), _) => memory.memory().write(offset, data)?,
            (_, Some(at)) => transfer(&buffer.context, |transfer| transfer.write(at, data))?,
            (_, None) => {}
        }
        Ok(())
    })
}

/// `jal_buffer_read`.
///
/// # Safety
/// As in jalapeno.h: `into` is writable for `bytes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_buffer_read(
    buffer: u64,
    offset: u64,
    into: *mut c_void,
    bytes: u64,
) -> i32 {
    call(|| {
        let buffer = BUFFERS.enter(buffer)?;
        let device = range(&buffer, offset, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        if into.is_null() {
            return Err(Failure::null("into"));
        }
        let length =
            usize::try_from(bytes).map_err(|_| Failure::invalid(format!("bytes is {bytes}")))?;
        // The caller's memory may be uninitialised, which a slice must not be.
        // SAFETY: writable for `bytes` by the caller's promise.
        unsafe { ptr::write_bytes(into.cast::<u8>(), 0, length) };
        // SAFETY: as above, initialised now, and the caller's alone meanwhile.
        let data = unsafe { std::slice::from_raw_parts_mut(into.cast::<u8>(), length) };
        match (&buffer.memory, device) {
            (Memory::Host(memory, _), _) => memory.memory().read(offset, data)?,
            (_, Some(at)) => transfer(&buffer.context, |transfer| transfer.read(at, data))?,
            (_, None) => {}
        }
        Ok(())
    })
}
