//! All open objects, and how they are closed: children before their parent.

use std::sync::{Arc, Mutex, OnceLock};

use jalapeno::{
    Completions, Device, DeviceBuffer, Error, Fence, Graph, HostBuffer, PeerBuffer, Queue,
    Recorder, Session, Transfer,
};

use crate::handle::{Kind, Registry};
use crate::status::Failure;
use crate::turns::{Turn, Turns};

/// Memory of one kind or another.
#[derive(Debug)]
pub(crate) enum Memory {
    /// Host memory, the library's or the caller's.
    Host(HostBuffer, bool),
    /// HBM.
    Device(DeviceBuffer),
    /// HBM of another card, and the session that it is of.
    Peer(PeerBuffer, u64),
}

/// An open session, and how bytes get to and from its device memory.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) session: Session,
    /// Made when it is first needed; gone when the session closes.
    pub(crate) transfer: Mutex<Option<Transfer>>,
}

/// An open buffer, and the session that it was made from.
#[derive(Debug)]
pub(crate) struct Buffer {
    pub(crate) memory: Memory,
    pub(crate) context: Arc<Context>,
    /// The session's handle.
    pub(crate) session: u64,
}

/// An open queue. It has one producer, so submitters take turns.
pub(crate) struct Producer {
    queue: Turns<Queue>,
    pub(crate) completions: Completions,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer")
            .field("completions", &self.completions)
            .finish_non_exhaustive()
    }
}

impl Producer {
    pub(crate) fn new(queue: Queue) -> Self {
        let completions = queue.completions().clone();
        Self {
            queue: Turns::new(queue),
            completions,
        }
    }

    /// Waits for a turn at the queue.
    #[inline]
    pub(crate) fn turn(&self) -> Turn<'_, Queue> {
        self.queue.turn()
    }

    /// A turn at the queue, if nobody has one.
    #[inline(always)]
    pub(crate) fn turn_quickly(&self) -> Option<Turn<'_, Queue>> {
        self.queue.turn_quickly()
    }
}

/// A graph: recorded first, then finished for good.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// What was recorded; nothing once it is finished.
    pub(crate) recorder: Mutex<Option<Recorder>>,
    pub(crate) graph: OnceLock<Graph>,
}

pub(crate) static DEVICES: Registry<Arc<Device>> = Registry::new(Kind::Device);
pub(crate) static SESSIONS: Registry<Arc<Context>> = Registry::new(Kind::Session);
pub(crate) static BUFFERS: Registry<Buffer> = Registry::new(Kind::Buffer);
pub(crate) static QUEUES: Registry<Producer, 4096, 1> = Registry::new(Kind::Queue);
pub(crate) static FENCES: Registry<Fence> = Registry::new(Kind::Fence);
pub(crate) static GRAPHS: Registry<Recorded> = Registry::new(Kind::Graph);

/// Closes one object: other threads' calls leave first, their waits ended by `interrupt`.
fn close<T, const CHUNK: usize, const CHUNKS: usize>(
    registry: &Registry<T, CHUNK, CHUNKS>,
    handle: u64,
    interrupt: impl Fn(&T),
) -> Result<(), Failure> {
    let gone = registry.remove(handle, interrupt, |value| {
        drop(value);
        Ok::<(), (T, std::convert::Infallible)>(())
    })?;
    match gone {
        Ok(()) => Ok(()),
    }
}

/// Closes a queue; what is unfinished is cancelled.
pub(crate) fn close_queue(handle: u64) -> Result<(), Failure> {
    close(&QUEUES, handle, |producer| producer.completions.end())
}

/// Closes a fence, unless an unfinished packet names it.
pub(crate) fn close_fence(handle: u64) -> Result<(), Failure> {
    let freed = FENCES.remove(handle, Fence::end, Fence::try_free)?;
    freed.map_err(|error: Error| error.into())
}

/// Closes a graph, unless a run of it is not done.
#[expect(clippy::result_large_err, reason = "the graph itself comes back")]
pub(crate) fn close_graph(handle: u64) -> Result<(), Failure> {
    let freed = GRAPHS.remove(
        handle,
        |_| (),
        |recorded| match recorded.graph.get().is_some_and(Graph::is_in_use) {
            true => Err((recorded, Error::InUse { what: "the graph" })),
            false => Ok(()),
        },
    )?;
    freed.map_err(|error: Error| error.into())
}

/// Frees a buffer, unless an unfinished packet names it.
#[expect(clippy::result_large_err, reason = "the buffer itself comes back")]
pub(crate) fn free_buffer(handle: u64) -> Result<(), Failure> {
    let freed = BUFFERS.remove(
        handle,
        |_| (),
        |buffer| {
            let Buffer {
                memory,
                context,
                session,
            } = buffer;
            let freed = match memory {
                Memory::Host(memory, own) => memory
                    .try_free()
                    .map_err(|(memory, error)| (Memory::Host(memory, own), error)),
                Memory::Device(memory) => memory
                    .try_free()
                    .map_err(|(memory, error)| (Memory::Device(memory), error)),
                Memory::Peer(memory, of) => memory
                    .try_free()
                    .map_err(|(memory, error)| (Memory::Peer(memory, of), error)),
            };
            freed.map_err(|(memory, error)| {
                let buffer = Buffer {
                    memory,
                    context,
                    session,
                };
                (buffer, error)
            })
        },
    )?;
    freed.map_err(|error: Error| error.into())
}

/// Closes a session: queues, graphs, fences and buffers first.
pub(crate) fn close_session(handle: u64) -> Result<(), Failure> {
    // A wrong handle must not close anybody's children.
    drop(SESSIONS.enter(handle)?);
    for queue in QUEUES.children(handle) {
        ignore_stale(close_queue(queue))?;
    }
    for graph in GRAPHS.children(handle) {
        ignore_stale(close(&GRAPHS, graph, |_| ()))?;
    }
    for fence in FENCES.children(handle) {
        ignore_stale(close(&FENCES, fence, Fence::end))?;
    }
    for buffer in BUFFERS.children(handle) {
        // Its queues are gone, so nothing is in flight; a buffer that must stay pinned all the same
        // (a lost device) is kept by the session.
        ignore_stale(close(&BUFFERS, buffer, |_| ()))?;
    }
    // Nobody can map its memory for another card any more; where that was done, it ends now.
    for buffer in peers_of(handle) {
        ignore_stale(close(&BUFFERS, buffer, |_| ()))?;
    }
    close(&SESSIONS, handle, |_| ())
}

/// The buffers of other sessions that are memory of this one.
fn peers_of(session: u64) -> Vec<u64> {
    let is_peer = |handle: &u64| {
        BUFFERS
            .enter_quickly(*handle)
            .is_some_and(|buffer| matches!(buffer.memory, Memory::Peer(_, of) if of == session))
    };
    BUFFERS.all().into_iter().filter(is_peer).collect()
}

/// Closes a device: its sessions first.
pub(crate) fn close_device(handle: u64) -> Result<(), Failure> {
    drop(DEVICES.enter(handle)?);
    for session in SESSIONS.children(handle) {
        ignore_stale(close_session(session))?;
    }
    close(&DEVICES, handle, |_| ())
}

/// A child that another thread closed meanwhile is closed.
fn ignore_stale(result: Result<(), Failure>) -> Result<(), Failure> {
    match result {
        Err(failure) if failure.is_handle() => Ok(()),
        other => other,
    }
}
