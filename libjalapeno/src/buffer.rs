//! Buffers: memory that jobs use, and who must not let it go yet.
//!
//! Nothing is counted on the path of a command. Whether a job still uses a buffer is read from the
//! submission rings when the buffer is freed: the ring is the record.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use jalapeno_hw::kernels::DType;
use jalapeno_hw::limits::{HBM_BASE, OPERANDS_MAX};
use jalapeno_hw::packets::{HEADER_OPCODE, Opcode, Packet, Tensor};
use zerocopy::FromZeros;

use crate::dma::HostMemory;
use crate::error::{Error, Result};
use crate::hbm::DeviceMemory;
use crate::lane::Lane;
use crate::named::{Graphs, Named};
use crate::peer::PeerMemory;
use crate::session::Core;
use crate::units::DeviceAddr;

/// Bytes of the largest element or block, for types that are not known.
const ELEMENT_MOST: u64 = 256;
/// Bytes of a LAUNCH argument block before its tensors.
const PARAMETER_BYTES: u64 = 64;

/// Memory of one kind or another.
#[derive(Debug)]
pub(crate) enum Held {
    /// In the host.
    Host(Arc<HostMemory>),
    /// In the device.
    Device(Arc<DeviceMemory>),
    /// In another device.
    Peer(Arc<PeerMemory>),
}

impl Held {
    pub(crate) fn range(&self) -> (u64, u64) {
        match self {
            Self::Host(memory) => (memory.iova().0, memory.bytes()),
            Self::Device(memory) => (memory.addr().0, memory.bytes()),
            Self::Peer(memory) => memory.range(),
        }
    }
}

/// The buffers of a session.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    /// Host memory by IOVA, to read argument blocks.
    host: Mutex<BTreeMap<u64, Weak<HostMemory>>>,
    /// Dropped while jobs used them.
    deferred: Mutex<Vec<Held>>,
    /// Bytes of those that were not dropped, by address.
    live: Mutex<BTreeMap<u64, u64>>,
    graphs: Graphs,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Buffers {
    /// Makes memory a buffer of the session.
    pub(crate) fn adopt(&self, core: &Arc<Core>, memory: HostMemory) -> HostBuffer {
        let memory = Arc::new(memory);
        lock(&self.host).insert(memory.iova().0, Arc::downgrade(&memory));
        lock(&self.live).insert(memory.iova().0, memory.bytes());
        HostBuffer {
            memory,
            core: Arc::clone(core),
        }
    }

    /// Makes device memory a buffer of the session.
    pub(crate) fn adopt_device(&self, core: &Arc<Core>, memory: DeviceMemory) -> DeviceBuffer {
        lock(&self.live).insert(memory.addr().0, memory.bytes());
        DeviceBuffer {
            memory: Arc::new(memory),
            core: Arc::clone(core),
        }
    }

    /// Makes memory of another device a buffer of the session.
    pub(crate) fn adopt_peer(&self, memory: &PeerMemory) {
        let (addr, bytes) = memory.range();
        lock(&self.live).insert(addr, bytes);
    }

    /// The buffer, address and bytes, that holds all of this range.
    pub(crate) fn buffer_with(&self, start: u64, bytes: u64) -> Option<(u64, u64)> {
        let live = lock(&self.live);
        let (&addr, &length) = live.range(..=start).next_back()?;
        let fits = start.checked_add(bytes)? <= addr.checked_add(length)?;
        fits.then_some((addr, length))
    }

    /// Notes what the graph with this image names. A buffer that has gone since it was looked up could
    /// not tell the graph: it is looked up again.
    pub(crate) fn adopt_graph(&self, image: u64, named: &Arc<Named>) {
        self.graphs.insert(image, named);
        for &(start, bytes) in named.ranges() {
            if lock(&self.live).get(&start) != Some(&bytes) {
                self.graphs.spoil(start);
            }
        }
    }

    /// A buffer is dropped: graphs that name it run no more.
    pub(crate) fn end(&self, addr: u64) {
        lock(&self.live).remove(&addr);
        self.graphs.spoil(addr);
    }

    /// Drops what was deferred and is not used any more.
    pub(crate) fn sweep(&self, used: impl Fn(u64, u64) -> bool) {
        let waiting = mem::take(&mut *lock(&self.deferred));
        if waiting.is_empty() {
            return;
        }
        let (kept, free): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|held| {
            let (addr, bytes) = held.range();
            used(addr, bytes)
        });
        lock(&self.deferred).extend(kept);
        for held in free {
            self.release(held);
        }
    }

    /// Forgets memory that no job uses; it goes with its last owner.
    pub(crate) fn release(&self, held: Held) {
        if let Held::Host(memory) = &held {
            lock(&self.host).remove(&memory.iova().0);
            self.graphs.forget(memory.iova().0);
        }
        drop(held);
    }

    /// Keeps memory that a job uses.
    pub(crate) fn defer(&self, held: Held) {
        lock(&self.deferred).push(held);
    }

    /// Whether a packet of the lane that is not done names memory in this range.
    pub(crate) fn lane_names(&self, lane: &Lane, addr: u64, bytes: u64) -> bool {
        lane.unfinished()
            .iter()
            .any(|(seq, packet)| self.packet_names(packet, addr, bytes) && *seq > lane.seen())
    }

    fn packet_names(&self, packet: &Packet, addr: u64, bytes: u64) -> bool {
        let hit = |start: u64, length: u64| {
            length > 0 && start < addr.saturating_add(bytes) && addr < start.saturating_add(length)
        };
        let [a, b, c, d, e] = packet.body;
        let code = u32::try_from(packet.header & HEADER_OPCODE).unwrap_or(0);
        match Opcode::from_code(code) {
            Some(Opcode::Copy) => hit(a, c) || hit(b, c),
            Some(Opcode::CopyStrided) => {
                let (row, rows) = (c & 0xFFFF_FFFF, c >> 32);
                let span = |stride: u64| match rows {
                    0 => 0,
                    _ => stride.saturating_mul(rows - 1).saturating_add(row),
                };
                hit(a, span(d)) || hit(b, span(e))
            }
            Some(Opcode::Fill) => hit(a, b),
            Some(Opcode::Signal | Opcode::Wait) => hit(a, 8),
            Some(Opcode::Timestamp) => hit(a, 16),
            Some(Opcode::Launch) => {
                let length = b & 0xFFFF_FFFF;
                hit(a, length) || self.operands_name(a, length, &hit)
            }
            Some(Opcode::Indirect) => hit(a, b & 0xFFFF_FFFF) || self.graphs.names(a, &hit),
            _ => false,
        }
    }

    /// Reads a LAUNCH's tensors where its argument block is in our host memory. Elsewhere any
    /// memory may be meant.
    fn operands_name(&self, block: u64, length: u64, hit: &dyn Fn(u64, u64) -> bool) -> bool {
        if block >= HBM_BASE {
            return true;
        }
        let memory = lock(&self.host)
            .range(..=block)
            .next_back()
            .and_then(|(_, memory)| memory.upgrade());
        let Some(memory) = memory else { return true };
        let offset = block - memory.iova().0;
        let count = (length / PARAMETER_BYTES)
            .saturating_sub(1)
            .min(u64::from(OPERANDS_MAX));
        (0..count).any(|operand| {
            let mut tensor = Tensor::new_zeroed();
            let at = offset + PARAMETER_BYTES * (1 + operand);
            let read = memory.read(at, zerocopy::IntoBytes::as_mut_bytes(&mut tensor));
            read.is_err() || hit(tensor.address, extent(&tensor))
        })
    }
}

/// Bytes from a tensor's first to its last.
fn extent(tensor: &Tensor) -> u64 {
    if tensor.ne.contains(&0) {
        return 0;
    }
    let ty = DType::from_code(tensor.dtype);
    let element = ty.map_or(ELEMENT_MOST, |ty| ty.block_bytes().into());
    let mut steps = tensor.ne;
    steps[0] = steps[0].div_ceil(ty.map_or(1, DType::block_elements).max(1));
    steps.iter().zip(tensor.nb).fold(element, |sum, (&ne, nb)| {
        sum.saturating_add(nb.saturating_mul(u64::from(ne) - 1))
    })
}

/// Host memory that jobs can use. Thread-safe. Dropped while a job uses it: it stays mapped until
/// the job is done.
#[derive(Debug)]
pub struct HostBuffer {
    memory: Arc<HostMemory>,
    core: Arc<Core>,
}

impl HostBuffer {
    /// The memory: pointer, length, reads and writes.
    #[must_use]
    pub fn memory(&self) -> &HostMemory {
        &self.memory
    }

    /// As packets name it.
    #[must_use]
    pub fn address(&self) -> DeviceAddr {
        self.memory.iova().into()
    }

    /// Its length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.memory.bytes()
    }

    /// Whether a job that is not done names it.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.core.names(self.address().0, self.bytes())
    }

    /// Whether the device it belongs to can be used.
    pub(crate) fn check(&self) -> Result<()> {
        self.core.device().check()
    }

    /// Frees it.
    ///
    /// # Errors
    /// `InUse` while an unfinished packet names it; the buffer comes back as it was.
    pub fn try_free(self) -> std::result::Result<(), (Self, Error)> {
        if self.is_in_use() {
            return Err((self, Error::InUse { what: "the buffer" }));
        }
        Ok(())
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        self.core.let_go(Held::Host(Arc::clone(&self.memory)));
    }
}

/// Device memory that jobs can use. Thread-safe. Dropped while a job uses it, or another card has it
/// mapped: it is given to nobody else until that is over.
#[derive(Debug)]
pub struct DeviceBuffer {
    memory: Arc<DeviceMemory>,
    core: Arc<Core>,
}

impl DeviceBuffer {
    /// As packets name it.
    #[must_use]
    pub fn address(&self) -> DeviceAddr {
        self.memory.addr()
    }

    /// Its length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.memory.bytes()
    }

    /// Bytes of the pages behind it.
    #[must_use]
    pub fn page_bytes(&self) -> u64 {
        self.memory.page_bytes()
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(crate) fn device_memory(&self) -> &Arc<DeviceMemory> {
        &self.memory
    }

    /// Whether another card has it mapped (`Session::peer_memory`).
    #[must_use]
    pub fn is_peered(&self) -> bool {
        Arc::strong_count(&self.memory) > 1
    }

    /// Whether a job that is not done names it.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.core.names(self.address().0, self.bytes())
    }

    /// Frees it.
    ///
    /// # Errors
    /// `InUse` while an unfinished packet names it, `Peered` while another card has it mapped; the
    /// buffer comes back as it was.
    pub fn try_free(self) -> std::result::Result<(), (Self, Error)> {
        if self.is_in_use() {
            return Err((self, Error::InUse { what: "the buffer" }));
        }
        if self.is_peered() {
            return Err((self, Error::Peered { what: "the buffer" }));
        }
        Ok(())
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        self.core.let_go(Held::Device(Arc::clone(&self.memory)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_learns_of_a_buffer_that_went_while_it_was_recorded() {
        let buffers = Buffers::default();
        let named = || Arc::new(Named::new(vec![(0x1000, 64), (0x2000, 64)]));
        lock(&buffers.live).extend([(0x1000, 64), (0x2000, 64)]);
        let whole = named();
        buffers.adopt_graph(0x9000, &whole);
        assert!(whole.is_intact());
        // It was looked up, then it went, before the graph stood among those that are told.
        buffers.end(0x2000);
        assert!(!whole.is_intact(), "it was told");
        let late = named();
        buffers.adopt_graph(0xA000, &late);
        assert!(!late.is_intact());
        // Another one in its place is not it.
        lock(&buffers.live).insert(0x2000, 32);
        let shorter = named();
        buffers.adopt_graph(0xB000, &shorter);
        assert!(!shorter.is_intact());
    }
}
