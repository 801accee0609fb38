//! `jal_graph_*`: packets recorded once and run by one.

use std::slice;
use std::sync::{Mutex, OnceLock, PoisonError};

use jalapeno::hw::packets::{Packet, Parameters, Tensor};
use jalapeno::{Graph, Place, Recorder};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::guard::call;
use crate::registries::{GRAPHS, QUEUES, Recorded, SESSIONS, close_graph};
use crate::sized;
use crate::status::{Failure, OK};

/// No count of values or operands is larger.
const COUNT_MAX: usize = 64;
/// JAL_PLACE_TENSOR(0).
const FIRST_TENSOR: u32 = 2;

/// `jal_patch`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Patch {
    struct_size: u32,
    step: u32,
    place: u32,
    offset: u32,
    width: u32,
    value: u32,
    scale: u64,
}

const PATCH_LEAST: usize = size_of::<Patch>();

/// `jal_graph_create`.
///
/// # Safety
/// As in jalapeno.h: `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_graph_create(session: u64, out: *mut u64) -> i32 {
    call(|| {
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        let recorder = SESSIONS.enter(session)?.session.record()?;
        let recorded = Recorded {
            recorder: Mutex::new(Some(recorder)),
            graph: OnceLock::new(),
        };
        let handle = GRAPHS.insert(recorded, session)?;
        // SAFETY: not null, writable by the caller's promise.
        unsafe { out.write(handle) };
        Ok(())
    })
}

/// `jal_graph_destroy`.
#[unsafe(no_mangle)]
pub extern "C" fn jal_graph_destroy(graph: u64) -> i32 {
    call(|| close_graph(graph))
}

/// Gives the recorder of a graph that is not finished.
fn recording<T>(
    graph: u64,
    record: impl FnOnce(&mut Recorder) -> jalapeno::Result<T>,
) -> Result<T, Failure> {
    let recorded = GRAPHS.enter(graph)?;
    let mut place = recorded
        .recorder
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let recorder = place
        .as_mut()
        .ok_or_else(|| Failure::invalid("the graph is finished: nothing can be added"))?;
    Ok(record(recorder)?)
}

/// # Safety
/// `step` is null or writable.
unsafe fn tell(step: *mut u32, number: usize) {
    if !step.is_null() {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        // SAFETY: not null, writable by the caller's promise; of any alignment.
        unsafe { step.write_unaligned(number) };
    }
}

/// The elements of an array, copied; a null pointer is allowed where there are none.
///
/// # Safety
/// `at` is null or readable for `count` elements.
unsafe fn copied<T: Copy>(at: *const T, count: usize, name: &str) -> Result<Vec<T>, Failure> {
    if count > COUNT_MAX {
        let what = format_args!("count is {count}: at most {COUNT_MAX}");
        return Err(Failure::invalid(what));
    }
    if at.is_null() && count > 0 {
        return Err(Failure::null(name));
    }
    // SAFETY: readable by the caller's promise; of any alignment.
    let element = |index| unsafe { at.add(index).read_unaligned() };
    Ok((0..count).map(element).collect())
}

/// `jal_graph_add`.
///
/// # Safety
/// As in jalapeno.h: `packet` is readable, `step` null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_graph_add(graph: u64, packet: *const Packet, step: *mut u32) -> i32 {
    call(|| {
        if packet.is_null() {
            return Err(Failure::null("packet"));
        }
        // SAFETY: not null, readable by the caller's promise; of any alignment.
        let packet = unsafe { packet.read_unaligned() };
        let number = recording(graph, |recorder| recorder.add(&packet))?;
        // SAFETY: promised by the caller.
        unsafe { tell(step, number) };
        Ok(())
    })
}

/// `jal_graph_launch`.
///
/// # Safety
/// As in jalapeno.h: `parameters` and `count` tensors are readable, `step` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_graph_launch(
    graph: u64,
    kernel: u32,
    parameters: *const Parameters,
    tensors: *const Tensor,
    count: usize,
    element_size: usize,
    step: *mut u32,
) -> i32 {
    call(|| {
        if parameters.is_null() {
            return Err(Failure::null("parameters"));
        }
        sized::element_size::<Tensor>(element_size)?;
        // SAFETY: promised by the caller.
        let tensors = unsafe { copied(tensors, count, "tensors") }?;
        // SAFETY: not null, readable by the caller's promise; of any alignment.
        let parameters = unsafe { parameters.read_unaligned() };
        let number = recording(graph, |recorder| {
            recorder.launch(kernel, &parameters, &tensors)
        })?;
        // SAFETY: promised by the caller.
        unsafe { tell(step, number) };
        Ok(())
    })
}

/// `jal_graph_patch`.
///
/// # Safety
/// As in jalapeno.h: `patch` is readable for its struct_size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_graph_patch(graph: u64, patch: *const Patch) -> i32 {
    call(|| {
        // SAFETY: promised by the caller.
        let patch = unsafe { sized::read(patch, "patch", PATCH_LEAST) }?;
        let place = match patch.place {
            0 => Place::Packet,
            1 => Place::Parameters,
            tensor => Place::Tensor(tensor - FIRST_TENSOR),
        };
        let at = (patch.offset, u8::try_from(patch.width).unwrap_or(u8::MAX));
        let value = u8::try_from(patch.value).unwrap_or(u8::MAX);
        recording(graph, |recorder| {
            recorder.patch(patch.step as usize, place, at, value, patch.scale)
        })
    })
}

/// `jal_graph_finish`.
///
/// # Safety
/// As in jalapeno.h: `limits` is readable for `count` elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_graph_finish(graph: u64, limits: *const u32, count: usize) -> i32 {
    call(|| {
        // SAFETY: promised by the caller.
        let limits = unsafe { copied(limits, count, "limits") }?;
        let recorded = GRAPHS.enter(graph)?;
        let mut place = recorded
            .recorder
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let recorder = place
            .as_ref()
            .ok_or_else(|| Failure::invalid("the graph is finished already"))?;
        let finished = recorder.finish(&limits)?;
        // The lock is held: nobody else finishes it meanwhile.
        if recorded.graph.set(finished).is_ok() {
            *place = None;
        }
        Ok(())
    })
}

/// A finished graph.
fn finished(recorded: &Recorded) -> Result<&Graph, Failure> {
    recorded
        .graph
        .get()
        .ok_or_else(|| Failure::invalid("the graph is not finished: call jal_graph_finish()"))
}

/// `jal_graph_replay`.
///
/// # Safety
/// As in jalapeno.h: `values` is readable for `count` elements, `sequence` writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_graph_replay(
    graph: u64,
    queue: u64,
    values: *const u32,
    count: usize,
    sequence: *mut u64,
) -> i32 {
    if !values.is_null() && values.is_aligned() && count <= COUNT_MAX && !sequence.is_null() {
        // SAFETY: not null, aligned, readable for `count` elements by the caller's promise.
        let values = unsafe { slice::from_raw_parts(values, count) };
        if let Some(recorded) = GRAPHS.enter_quickly(graph)
            && let Some(graph) = recorded.graph.get()
            && let Some(producer) = QUEUES.enter_quickly(queue)
            && let Some(mut turn) = producer.turn_quickly()
            && let Some(seq) = graph.replay_quickly(&mut turn, values)
        {
            // SAFETY: not null, writable by the caller's promise.
            unsafe { sequence.write_unaligned(seq.0) };
            return OK;
        }
    }
    // SAFETY: promised by the caller.
    unsafe { replay_slowly(graph, queue, values, count, sequence) }
}

#[cold]
#[inline(never)]
unsafe fn replay_slowly(
    graph: u64,
    queue: u64,
    values: *const u32,
    count: usize,
    sequence: *mut u64,
) -> i32 {
    call(|| {
        if sequence.is_null() {
            return Err(Failure::null("sequence"));
        }
        // SAFETY: promised by the caller.
        let values = unsafe { copied(values, count, "values") }?;
        let recorded = GRAPHS.enter(graph)?;
        let producer = QUEUES.enter(queue)?;
        let seq = finished(&recorded)?.replay(&mut producer.turn(), &values)?;
        // SAFETY: not null, writable by the caller's promise; of any alignment.
        unsafe { sequence.write_unaligned(seq.0) };
        Ok(())
    })
}

/// `jal_graph_get_packet`.
///
/// # Safety
/// As in jalapeno.h: `values` is readable for `count` elements, `out` writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_graph_get_packet(
    graph: u64,
    values: *const u32,
    count: usize,
    out: *mut Packet,
) -> i32 {
    call(|| {
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        // SAFETY: promised by the caller.
        let values = unsafe { copied(values, count, "values") }?;
        let packet = finished(&*GRAPHS.enter(graph)?)?.packet(&values)?;
        // SAFETY: not null, writable by the caller's promise; of any alignment.
        unsafe { out.write_unaligned(packet) };
        Ok(())
    })
}
