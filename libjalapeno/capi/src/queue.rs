//! `jal_queue_*`, `jal_submit*`, `jal_poll`, `jal_reap`, `jal_wait`: the command path.

use std::ffi::c_int;
use std::os::fd::AsRawFd;
use std::time::Duration;

use jalapeno::hw::faults::FaultRecord;
use jalapeno::hw::packets::Packet;
use jalapeno::hw::queue::PriorityBand;
use jalapeno::{Completion, Delivery, Error, QueueOptions, Seq};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::device::timeout;
use crate::guard::call;
use crate::registries::{Producer, QUEUES, SESSIONS, close_queue};
use crate::sized;
use crate::status::{Failure, OK};

const COMPLETIONS: u32 = 1;
const PROFILE: u32 = 2;

/// `jal_queue_options`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Options {
    struct_size: u32,
    depth: u32,
    errors: u32,
    flags: u32,
    priority: u32,
}

/// `jal_queue_counters`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct QueueCounters {
    struct_size: u32,
    number: u32,
    submitted: u64,
    succeeded: u64,
    failed: u64,
    cancelled: u64,
    doorbells_rung_again: u64,
    interrupts_missed: u64,
}

/// What the first header had: without `priority`.
const OPTIONS_LEAST: usize = 16;
const COUNTERS_LEAST: usize = size_of::<QueueCounters>();

/// `jal_queue_create`.
///
/// # Safety
/// As in jalapeno.h: `options` is null or readable for its struct_size; `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_queue_create(
    session: u64,
    options: *const Options,
    out: *mut u64,
) -> i32 {
    call(|| {
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        let mut wanted = QueueOptions::default();
        if !options.is_null() {
            // SAFETY: promised by the caller.
            let options = unsafe { sized::read(options, "options", OPTIONS_LEAST) }?;
            if options.flags & !(COMPLETIONS | PROFILE) != 0 {
                return Err(Failure::invalid(format!(
                    "options->flags is {:#x}: use JAL_QUEUE_*",
                    options.flags
                )));
            }
            if options.depth != 0 {
                wanted.depth = options.depth;
            }
            if options.errors != 0 {
                wanted.errors = options.errors;
            }
            if options.flags & COMPLETIONS != 0 {
                wanted.delivery = Delivery::Each;
            }
            wanted.priority = PriorityBand::from_code(options.priority).ok_or_else(|| {
                Failure::invalid(format!(
                    "options->priority is {}: use JAL_PRIORITY_*",
                    options.priority
                ))
            })?;
            wanted.profile = options.flags & PROFILE != 0;
        }
        let queue = SESSIONS.enter(session)?.session.queue(wanted)?;
        let handle = QUEUES.insert(Producer::new(queue), session)?;
        // SAFETY: not null, writable by the caller's promise.
        unsafe { out.write(handle) };
        Ok(())
    })
}

/// `jal_queue_destroy`.
#[unsafe(no_mangle)]
pub extern "C" fn jal_queue_destroy(queue: u64) -> i32 {
    call(|| close_queue(queue))
}

// The four functions of the command path come in two halves: the ordinary case, with no call and no
// panic on its way, and everything else, which starts anew and says what is wrong.

/// `jal_submit_one`.
///
/// # Safety
/// As in jalapeno.h: `packet` is readable, `sequence` writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_submit_one(
    queue: u64,
    packet: *const Packet,
    sequence: *mut u64,
) -> i32 {
    if !packet.is_null() && packet.is_aligned() && !sequence.is_null() {
        // SAFETY: not null, aligned, readable by the caller's promise.
        let packet = unsafe { &*packet };
        if let Some(producer) = QUEUES.enter_quickly(queue)
            && let Some(mut turn) = producer.turn_quickly()
            && let Some(seq) = turn.submit_one_quickly(packet)
        {
            // SAFETY: not null, writable by the caller's promise.
            unsafe { sequence.write(seq.0) };
            return OK;
        }
    }
    // SAFETY: promised by the caller.
    unsafe { submit_one_slowly(queue, packet, sequence) }
}

#[cold]
#[inline(never)]
unsafe fn submit_one_slowly(queue: u64, packet: *const Packet, sequence: *mut u64) -> i32 {
    call(|| {
        if packet.is_null() {
            return Err(Failure::null("packet"));
        }
        if sequence.is_null() {
            return Err(Failure::null("sequence"));
        }
        aligned(packet, "packet")?;
        let producer = QUEUES.enter(queue)?;
        // SAFETY: not null, aligned, readable by the caller's promise.
        let seq = producer.turn().submit_one(unsafe { &*packet })?;
        // SAFETY: not null, writable by the caller's promise.
        unsafe { sequence.write(seq.0) };
        Ok(())
    })
}

/// No ring and no array of completions is longer.
const COUNT_MAX: usize = 1 << 20;

fn aligned<T>(pointer: *const T, name: &str) -> Result<(), Failure> {
    if pointer.is_aligned() {
        return Ok(());
    }
    Err(Failure::invalid(format_args!(
        "{name} is not aligned to 8 bytes"
    )))
}

/// `jal_submit`.
///
/// # Safety
/// As in jalapeno.h: `packets` is readable for `count` elements, `sequence` writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_submit(
    queue: u64,
    packets: *const Packet,
    count: usize,
    element_size: usize,
    sequence: *mut u64,
) -> i32 {
    if !packets.is_null()
        && packets.is_aligned()
        && !sequence.is_null()
        && element_size == size_of::<Packet>()
        && count <= COUNT_MAX
    {
        // SAFETY: not null, aligned, readable for `count` elements by the caller's promise.
        let packets = unsafe { std::slice::from_raw_parts(packets, count) };
        if let Some(producer) = QUEUES.enter_quickly(queue)
            && let Some(mut turn) = producer.turn_quickly()
            && let Some(seq) = turn.submit_quickly(packets)
        {
            // SAFETY: not null, writable by the caller's promise.
            unsafe { sequence.write(seq.0) };
            return OK;
        }
    }
    // SAFETY: promised by the caller.
    unsafe { submit_slowly(queue, packets, count, element_size, sequence) }
}

#[cold]
#[inline(never)]
unsafe fn submit_slowly(
    queue: u64,
    packets: *const Packet,
    count: usize,
    element_size: usize,
    sequence: *mut u64,
) -> i32 {
    call(|| {
        if packets.is_null() {
            return Err(Failure::null("packets"));
        }
        if sequence.is_null() {
            return Err(Failure::null("sequence"));
        }
        aligned(packets, "packets")?;
        sized::element_size::<Packet>(element_size)?;
        if count > COUNT_MAX {
            let what = format_args!("count is {count}: no ring is that long");
            return Err(Failure::invalid(what));
        }
        let producer = QUEUES.enter(queue)?;
        // SAFETY: not null, aligned, readable for `count` elements by the caller's promise.
        let packets = unsafe { std::slice::from_raw_parts(packets, count) };
        let seq = producer.turn().submit(packets)?;
        // SAFETY: not null, writable by the caller's promise.
        unsafe { sequence.write(seq.0) };
        Ok(())
    })
}

/// `jal_poll`.
///
/// # Safety
/// As in jalapeno.h: `sequence` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_poll(queue: u64, sequence: *mut u64) -> i32 {
    if !sequence.is_null()
        && let Some(producer) = QUEUES.enter_quickly(queue)
        && let Some(seq) = producer.completions.poll_quickly()
    {
        // SAFETY: not null, writable by the caller's promise.
        unsafe { sequence.write(seq.0) };
        return OK;
    }
    // SAFETY: promised by the caller.
    unsafe { poll_slowly(queue, sequence) }
}

/// A stopped queue gives its watermark all the same.
#[cold]
#[inline(never)]
unsafe fn poll_slowly(queue: u64, sequence: *mut u64) -> i32 {
    call(|| {
        if sequence.is_null() {
            return Err(Failure::null("sequence"));
        }
        let producer = QUEUES.enter(queue)?;
        let polled = producer.completions.poll();
        let seq = match &polled {
            Ok(seq) => Some(*seq),
            Err(Error::Stopped) => Some(producer.completions.completed()),
            Err(_) => None,
        };
        if let Some(seq) = seq {
            // SAFETY: not null, writable by the caller's promise.
            unsafe { sequence.write(seq.0) };
        }
        polled?;
        Ok(())
    })
}

/// `jal_reap`.
///
/// # Safety
/// As in jalapeno.h: `out` is writable for `capacity` elements, `count` writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_reap(
    queue: u64,
    out: *mut Completion,
    capacity: usize,
    element_size: usize,
    count: *mut usize,
) -> i32 {
    if !out.is_null()
        && out.is_aligned()
        && !count.is_null()
        && element_size == size_of::<Completion>()
    {
        // SAFETY: not null, aligned, writable for `capacity` elements by the caller's promise;
        // nothing is read from an element before it is written.
        let out = unsafe { std::slice::from_raw_parts_mut(out, capacity.min(COUNT_MAX)) };
        if let Some(producer) = QUEUES.enter_quickly(queue)
            && let Some(reaped) = producer.completions.reap_quickly(out)
        {
            // SAFETY: not null, writable by the caller's promise.
            unsafe { count.write(reaped) };
            return OK;
        }
    }
    // SAFETY: promised by the caller.
    unsafe { reap_slowly(queue, out, capacity, element_size, count) }
}

#[cold]
#[inline(never)]
unsafe fn reap_slowly(
    queue: u64,
    out: *mut Completion,
    capacity: usize,
    element_size: usize,
    count: *mut usize,
) -> i32 {
    call(|| {
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        if count.is_null() {
            return Err(Failure::null("count"));
        }
        aligned(out, "out")?;
        sized::element_size::<Completion>(element_size)?;
        let producer = QUEUES.enter(queue)?;
        // SAFETY: as in `jal_reap`.
        let out = unsafe { std::slice::from_raw_parts_mut(out, capacity.min(COUNT_MAX)) };
        let reaped = producer.completions.reap(out)?;
        // SAFETY: not null, writable by the caller's promise.
        unsafe { count.write(reaped) };
        Ok(())
    })
}

/// `jal_wait`.
#[unsafe(no_mangle)]
pub extern "C" fn jal_wait(queue: u64, sequence: u64, timeout_ns: i64) -> i32 {
    call(|| {
        let timeout = timeout(timeout_ns)?;
        let producer = QUEUES.enter(queue)?;
        Ok(producer.completions.wait(Seq(sequence), timeout)?)
    })
}

/// `jal_queue_event_fd`.
///
/// # Safety
/// As in jalapeno.h: `fd` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_queue_event_fd(queue: u64, fd: *mut c_int) -> i32 {
    call(|| {
        if fd.is_null() {
            return Err(Failure::null("fd"));
        }
        let producer = QUEUES.enter(queue)?;
        let Some(eventfd) = producer.completions.eventfd() else {
            return Err(Failure::unsupported(
                "the device has no interrupt vector for this queue",
            ));
        };
        // SAFETY: not null, writable by the caller's promise.
        unsafe { fd.write(eventfd.as_raw_fd()) };
        Ok(())
    })
}

/// `jal_queue_arm`.
#[unsafe(no_mangle)]
pub extern "C" fn jal_queue_arm(queue: u64, sequence: u64) -> i32 {
    call(|| Ok(QUEUES.enter(queue)?.completions.arm(Seq(sequence))?))
}

/// `jal_queue_fault`.
///
/// # Safety
/// As in jalapeno.h: `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_queue_fault(queue: u64, out: *mut FaultRecord) -> i32 {
    call(|| {
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        let producer = QUEUES.enter(queue)?;
        let fault = producer
            .completions
            .fault()
            .ok_or_else(|| Failure::not_found("the queue is not stopped"))?;
        // SAFETY: not null, writable by the caller's promise; of any alignment.
        unsafe { out.write_unaligned(fault.record) };
        Ok(())
    })
}

/// `jal_queue_resume`.
#[unsafe(no_mangle)]
pub extern "C" fn jal_queue_resume(queue: u64) -> i32 {
    call(|| Ok(QUEUES.enter(queue)?.turn().resume()?))
}

/// `jal_queue_cancel`.
#[unsafe(no_mangle)]
pub extern "C" fn jal_queue_cancel(queue: u64, timeout_ns: i64) -> i32 {
    call(|| {
        let within = timeout(timeout_ns)?.unwrap_or(Duration::MAX);
        Ok(QUEUES.enter(queue)?.turn().cancel(within)?)
    })
}

/// `jal_queue_get_counters`.
///
/// # Safety
/// As in jalapeno.h: `out` is readable and writable for its struct_size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_queue_get_counters(queue: u64, out: *mut QueueCounters) -> i32 {
    call(|| {
        // SAFETY: promised by the caller.
        let size = unsafe { sized::check_out(out, "out", COUNTERS_LEAST) }?;
        let producer = QUEUES.enter(queue)?;
        let counters = producer.completions.counters();
        let filled = QueueCounters {
            struct_size: 0,
            number: producer.turn().number(),
            submitted: counters.submitted,
            succeeded: counters.succeeded,
            failed: counters.failed,
            cancelled: counters.cancelled,
            doorbells_rung_again: counters.doorbells_rung_again,
            interrupts_missed: counters.interrupts_missed,
        };
        // SAFETY: as checked above.
        unsafe { sized::fill(out, size, &filled) };
        Ok(())
    })
}
