//! `jal_device_*`: finding, opening, asking and resetting devices.

use std::ffi::{CStr, c_char};
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::time::Duration;

use jalapeno::hw::faults::FaultRecord;
use jalapeno::hw::regs::ResetLevel;
use jalapeno::hw::telemetry::{TelemetryField, TelemetryStatus, TelemetryUnit};
use jalapeno::{Device, Reading, Role, discover};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::guard::call;
use crate::registries::{DEVICES, close_device};
use crate::sized;
use crate::status::Failure;

/// `jal_device_summary`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Summary {
    struct_size: u32,
    usable: u32,
    uuid: [u8; 16],
    name: [u8; 256],
    problem: [u8; 256],
}

/// `jal_open_options`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct OpenOptions {
    struct_size: u32,
    role: u32,
    flags: u64,
}

/// `jal_device_info`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Info {
    struct_size: u32,
    platform: u32,
    uuid: [u8; 16],
    serial: u64,
    generation: u64,
    features: u64,
    hbm_bytes: u64,
    ticks_per_second: u64,
    version_major: u32,
    version_minor: u32,
    queues: u32,
    depth_max: u32,
    vectors: u32,
    role: u32,
    name: [u8; 256],
    product: [u8; 40],
    firmware: [u8; 40],
    backend: [u8; 16],
}

/// `jal_telemetry`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Telemetry {
    struct_size: u32,
    status: u32,
    field: u32,
    instance: u32,
    unit: u32,
    reserved: u32,
    value: u64,
    taken: u64,
}

/// `jal_clock`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct ClockTriple {
    struct_size: u32,
    reserved: u32,
    device: u64,
    monotonic_raw: u64,
    tsc: u64,
    uncertainty: u64,
}

/// Sizes of the structures' first versions; smaller ones are mistakes.
const OPTIONS_LEAST: usize = 16;
const INFO_LEAST: usize = size_of::<Info>();
const CLOCK_LEAST: usize = size_of::<ClockTriple>();

/// A text of the caller's; `None` for null.
///
/// # Safety
/// `text` is null or a zero-terminated string.
unsafe fn text<'a>(text: *const c_char, name: &str) -> Result<Option<&'a str>, Failure> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: promised by the caller.
    let bytes = unsafe { CStr::from_ptr(text) };
    bytes
        .to_str()
        .map(Some)
        .map_err(|_| Failure::invalid(format!("{name} is not UTF-8")))
}

/// A timeout of the caller's; `None` for JAL_FOREVER.
pub(crate) fn timeout(nanoseconds: i64) -> Result<Option<Duration>, Failure> {
    if nanoseconds == i64::MAX {
        return Ok(None);
    }
    let nanoseconds = u64::try_from(nanoseconds).map_err(|_| {
        Failure::invalid(format!(
            "timeout_ns is {nanoseconds}: give nanoseconds, 0, or JAL_FOREVER"
        ))
    })?;
    Ok(Some(Duration::from_nanos(nanoseconds)))
}

/// `jal_device_list`.
///
/// # Safety
/// As in jalapeno.h: `out` has room for `capacity` elements; `count` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_device_list(
    out: *mut Summary,
    capacity: usize,
    element_size: usize,
    count: *mut usize,
) -> i32 {
    call(|| {
        let found: Vec<Summary> = discover::list()
            .into_iter()
            .map(|found| Summary {
                struct_size: 0,
                usable: u32::from(found.problem.is_none()),
                uuid: found.uuid.map_or([0; 16], |uuid| uuid.0),
                name: sized::text(&found.name),
                problem: sized::text(
                    &found
                        .problem
                        .map_or(String::new(), |error| error.to_string()),
                ),
            })
            .map(|summary| Summary {
                struct_size: sized::size_of_u32::<Summary>(),
                ..summary
            })
            .collect();
        // SAFETY: promised by the caller.
        unsafe { sized::list(&found, out, capacity, element_size, count) }
    })
}

/// `jal_device_open`.
///
/// # Safety
/// As in jalapeno.h: `name` is null or a string, `options` null or readable, `out` writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_device_open(
    name: *const c_char,
    options: *const OpenOptions,
    out: *mut u64,
) -> i32 {
    call(|| {
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        // SAFETY: promised by the caller.
        let name = unsafe { text(name, "name") }?;
        let role = if options.is_null() {
            Role::Compute
        } else {
            // SAFETY: promised by the caller.
            let options = unsafe { sized::read(options, "options", OPTIONS_LEAST) }?;
            if options.flags != 0 {
                return Err(Failure::invalid(format!(
                    "options->flags is {:#x}: none is known",
                    options.flags
                )));
            }
            role(options.role)?
        };
        let device = match name {
            Some(name) => Device::open(name, role)?,
            None => Device::open(&discover::only()?, role)?,
        };
        let handle = DEVICES.insert(device, 0)?;
        // SAFETY: not null, writable by the caller's promise.
        unsafe { out.write(handle) };
        Ok(())
    })
}

fn role(number: u32) -> Result<Role, Failure> {
    match number {
        0 => Ok(Role::Compute),
        1 => Ok(Role::Observe),
        2 => Ok(Role::Exclusive),
        other => Err(Failure::invalid(format!(
            "options->role is {other}: use a JAL_ROLE_*"
        ))),
    }
}

/// `jal_device_close`.
#[unsafe(no_mangle)]
pub extern "C" fn jal_device_close(device: u64) -> i32 {
    call(|| close_device(device))
}

/// `jal_device_wanted_fd`.
///
/// # Safety
/// As in jalapeno.h: `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_device_wanted_fd(device: u64, out: *mut i32) -> i32 {
    call(|| {
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        let Some(fd) = DEVICES.enter(device)?.wanted_back_fd() else {
            return Err(Failure::unsupported(
                "nobody can ask for an emulated device (vfio-user): it has no such descriptor",
            ));
        };
        // SAFETY: not null, writable by the caller's promise.
        unsafe { out.write(fd.into_raw_fd()) };
        Ok(())
    })
}

/// `jal_device_give_back`.
#[unsafe(no_mangle)]
pub extern "C" fn jal_device_give_back(device: u64, timeout_ns: i64) -> i32 {
    call(|| {
        let within = timeout(timeout_ns)?.unwrap_or(Duration::MAX);
        let open: Arc<Device> = DEVICES.enter(device)?.clone();
        let returned = open.retire(within)?;
        drop(open);
        close_device(device)?;
        Ok(returned.wait()?)
    })
}

/// `jal_device_get_info`.
///
/// # Safety
/// As in jalapeno.h: `info` is readable and writable for its struct_size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_device_get_info(device: u64, info: *mut Info) -> i32 {
    call(|| {
        // SAFETY: promised by the caller.
        let size = unsafe { sized::check_out(info, "info", INFO_LEAST) }?;
        let device = DEVICES.enter(device)?;
        device.check()?;
        let from = device.info();
        let caps = &from.capabilities;
        let filled = Info {
            struct_size: 0,
            platform: from
                .platform
                .map_or_else(|raw| raw, |platform| platform.code()),
            uuid: from.uuid.0,
            serial: from.serial,
            generation: device.generation().0,
            features: from.features,
            hbm_bytes: caps.memory.hbm_bytes,
            ticks_per_second: caps.time.ticks_per_second,
            version_major: from.version.0,
            version_minor: from.version.1,
            queues: caps.queues.count,
            depth_max: 1 << caps.queues.depth_log2_max,
            vectors: from.vectors,
            role: match device.role() {
                Role::Compute => 0,
                Role::Observe => 1,
                Role::Exclusive => 2,
            },
            name: sized::text(&from.name),
            product: sized::text(&caps.product),
            firmware: sized::text(&caps.firmware),
            backend: sized::text(from.backend),
        };
        // SAFETY: as checked above.
        unsafe { sized::fill(info, size, &filled) };
        Ok(())
    })
}

/// What stands for a stale value; no TelemetryStatus code is this large.
const STALE: u32 = 256;

/// `jal_device_telemetry`.
///
/// # Safety
/// As `jal_device_list`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_device_telemetry(
    device: u64,
    out: *mut Telemetry,
    capacity: usize,
    element_size: usize,
    count: *mut usize,
) -> i32 {
    call(|| {
        let telemetry = DEVICES.enter(device)?.telemetry()?;
        let entries: Vec<Telemetry> = telemetry
            .entries
            .iter()
            .map(|entry| {
                let (status, value) = match entry.reading {
                    Reading::Value(value) => (TelemetryStatus::Valid.code(), value),
                    Reading::Unsupported => (TelemetryStatus::Unsupported.code(), 0),
                    Reading::NoData => (TelemetryStatus::NoData.code(), 0),
                    Reading::Stale { .. } => (STALE, 0),
                };
                Telemetry {
                    struct_size: sized::size_of_u32::<Telemetry>(),
                    status,
                    field: entry.field.map_or_else(u32::from, TelemetryField::code),
                    instance: u32::from(entry.instance),
                    unit: entry.unit.map_or_else(u32::from, TelemetryUnit::code),
                    reserved: 0,
                    value,
                    taken: entry.taken.0,
                }
            })
            .collect();
        // SAFETY: promised by the caller.
        unsafe { sized::list(&entries, out, capacity, element_size, count) }
    })
}

/// `jal_device_faults`.
///
/// # Safety
/// As `jal_device_list`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_device_faults(
    device: u64,
    out: *mut FaultRecord,
    capacity: usize,
    element_size: usize,
    count: *mut usize,
) -> i32 {
    call(|| {
        let log = DEVICES.enter(device)?.fault_log(0)?;
        let records: Vec<FaultRecord> = log.faults.iter().map(|fault| fault.record).collect();
        // SAFETY: promised by the caller.
        unsafe { sized::list(&records, out, capacity, element_size, count) }
    })
}

/// `jal_device_clock`.
///
/// # Safety
/// As in jalapeno.h: `out` is readable and writable for its struct_size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_device_clock(device: u64, out: *mut ClockTriple) -> i32 {
    call(|| {
        // SAFETY: promised by the caller.
        let size = unsafe { sized::check_out(out, "out", CLOCK_LEAST) }?;
        let clock = DEVICES.enter(device)?.clock()?;
        let filled = ClockTriple {
            struct_size: 0,
            reserved: 0,
            device: clock.device.0,
            monotonic_raw: clock.monotonic_raw,
            tsc: clock.tsc,
            uncertainty: clock.uncertainty,
        };
        // SAFETY: as checked above.
        unsafe { sized::fill(out, size, &filled) };
        Ok(())
    })
}

/// `jal_device_reset`.
#[unsafe(no_mangle)]
pub extern "C" fn jal_device_reset(device: u64, level: u32, timeout_ns: i64) -> i32 {
    call(|| {
        let level = match ResetLevel::from_code(level) {
            Some(level @ (ResetLevel::Engines | ResetLevel::Device | ResetLevel::Function)) => {
                level
            }
            _ => {
                return Err(Failure::invalid(format!(
                    "level is {level}: use JALAPENO_HW_RESET_LEVEL_ENGINES, _DEVICE or _FUNCTION"
                )));
            }
        };
        let within = timeout(timeout_ns)?.unwrap_or(Duration::MAX);
        let device: Arc<Device> = DEVICES.enter(device)?.clone();
        device.reset(level, 0, within)?;
        Ok(())
    })
}
