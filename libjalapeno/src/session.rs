//! The session: a client's memory, queues and fences on a device.

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use jalapeno_hw::queue::{PriorityBand, QueueCreate};
use jalapeno_hw::regs::{Feature, ResetLevel};

use crate::buffer::{Buffers, DeviceBuffer, Held, HostBuffer};
use crate::clock::KeptClock;
use crate::device::{Device, Generational, Role};
use crate::dma::{HostMemory, HostOptions};
use crate::error::{Error, Result};
use crate::fence::Fence;
use crate::lane::{Identity, Lane};
use crate::ledger::End;
use crate::management::{self, Manager};
use crate::named::Named;
use crate::peer::PeerMemory;
use crate::queue::{Keeper, Queue};
use crate::transport::Protection;
use crate::units::Ticks;
use crate::waker::Waker;

/// Longest that the reset may take by which a session lets go of queues that do not close.
const LAST_RESET: Duration = Duration::from_secs(2);
/// How a queue's completions are consumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// By watermark: `poll` and `wait`. A slot is free as soon as its packet is done.
    #[default]
    BySequence,
    /// One by one with `reap`, each with its cookie and status. A slot is free once its completion
    /// was delivered.
    Each,
}

/// What queue is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueOptions {
    /// Packets that its ring holds: a power of two within the device's bounds.
    pub depth: u32,
    /// Error records kept: a power of two. One is enough: each stop is read before the queue runs
    /// on.
    pub errors: u32,
    /// Interrupt vector; `None`: one of its own, shared where there are fewer.
    pub vector: Option<u32>,
    /// How completions are consumed.
    pub delivery: Delivery,
    /// Whether the device writes down what each job took, for `Completions::stats`.
    pub profile: bool,
    /// Whose packets go before whose. Host interface 5.10.
    pub priority: PriorityBand,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            depth: 256,
            errors: 8,
            vector: None,
            delivery: Delivery::BySequence,
            profile: false,
            priority: PriorityBand::Normal,
        }
    }
}

/// What a session's parts share; the last of them lets the device's queue 0 go.
#[derive(Debug)]
pub(crate) struct Core {
    // Dropped in this order: first the queues are forgotten, then memory is unmapped.
    manager: Manager,
    lanes: Mutex<Vec<Arc<Lane>>>,
    wakers: Mutex<HashMap<Option<u32>, Weak<Waker>>>,
    clock: KeptClock,
    buffers: Buffers,
    /// Queues that the device may still know, though they are closed.
    kept: Mutex<Vec<Arc<Lane>>>,
    device: Arc<Device>,
    /// Tells it from every other session of this process.
    mark: u64,
}

/// The mark of the next session.
static NEXT_MARK: AtomicU64 = AtomicU64::new(1);

/// A client's context on a device: memory, queues, fences. Thread-safe, cheap to clone. What is
/// made from it keeps it alive.
#[derive(Clone, Debug)]
pub struct Session {
    core: Arc<Core>,
}

impl Session {
    /// A session on a device opened for computing; one at a time.
    ///
    /// # Errors
    /// `Unsupported` for an observer; `Busy` where another session lives; `NeedsReset` where HBM could
    /// not be scrubbed (`Device::scrub`); `Late`, `Lost`, `Memory`, `Forked`.
    pub fn new(device: &Arc<Device>) -> Result<Self> {
        if device.role() == Role::Observe {
            return Err(Error::Unsupported {
                what: "a session on a device that is open as an observer".into(),
            });
        }
        // While there is no queue: a scrub wants the device quiet.
        device.scrub()?;
        let vector = device.vector_of(None, 0)?;
        let number = vector.as_ref().map_or(0, |vector| vector.number());
        let waker = Arc::new(Waker::new(vector, device.alarms())?);
        // Queues that share queue 0's vector sleep by its waker.
        let key = waker.vector().map(|vector| vector.number());
        let wakers = HashMap::from([(key, Arc::downgrade(&waker))]);
        let core = Arc::new(Core {
            manager: Manager::open(device, waker, number)?,
            lanes: Mutex::default(),
            wakers: Mutex::new(wakers),
            clock: KeptClock::default(),
            buffers: Buffers::default(),
            kept: Mutex::default(),
            device: Arc::clone(device),
            mark: NEXT_MARK.fetch_add(1, Ordering::Relaxed),
        });
        let user: Weak<dyn Generational> = Arc::<Core>::downgrade(&core);
        device.tell(user);
        Ok(Self { core })
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Arc<Device> {
        &self.core.device
    }

    /// New host memory that the device can reach, zeroed, page-aligned: a mapping of its own with a guard
    /// page behind it. Once half of the mappings that the host permits are in use, writable buffers of at
    /// most 2 MiB share some, and no guard lies between them; `HostOptions::guarded` opts out. How many
    /// there are and may be: `DmaSpace::usage`, of `Device::dma`.
    ///
    /// # Errors
    /// `Invalid`, `Memory`, `Lost`, `Forked`.
    pub fn host_memory(&self, bytes: u64, options: HostOptions) -> Result<HostBuffer> {
        self.core.sweep();
        let memory = HostMemory::allocate(self.core.device.dma()?, bytes, options)?;
        Ok(self.core.buffers.adopt(&self.core, memory))
    }

    /// Memory of the caller's, made visible to the device.
    ///
    /// # Safety
    /// The range stays mapped, as it is, until the buffer is gone (and where it is dropped while a
    /// job uses it: until the session is), and the caller accesses it as memory that another party
    /// writes.
    ///
    /// # Errors
    /// `Invalid`, `Unsupported`, `Memory`, `Lost`, `Forked`.
    pub unsafe fn register(
        &self,
        at: NonNull<u8>,
        bytes: u64,
        protection: Protection,
    ) -> Result<HostBuffer> {
        self.core.sweep();
        // SAFETY: the caller promises what `HostMemory::register` asks for.
        let memory =
            unsafe { HostMemory::register(self.core.device.dma()?, at, bytes, protection)? };
        Ok(self.core.buffers.adopt(&self.core, memory))
    }

    /// Device memory (HBM); its content is undefined.
    ///
    /// # Errors
    /// `Invalid`, `Memory`, `Forked`.
    pub fn device_memory(&self, bytes: u64) -> Result<DeviceBuffer> {
        self.core.sweep();
        let memory = self.core.device.hbm()?.allocate(bytes)?;
        Ok(self.core.buffers.adopt_device(&self.core, memory))
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// An in-order queue. Where the host has no interrupt vector for it alone (`DeviceInfo::vectors` is a
    /// bound) it shares one; a vector that was asked for by number and cannot be had is `Unsupported`.
    ///
    /// # Errors
    /// `Invalid` for sizes that the device has not; `Unsupported` for a profile or a priority that it
    /// has not; `Memory` where no queue is left; `Fault`,
    /// `Late`, `Lost`, `Stale`, `Forked`.
    pub fn queue(&self, options: QueueOptions) -> Result<Queue> {
        let core = &self.core;
        core.sweep();
        let caps = &core.device.info().capabilities.queues;
        let depth_log2 = log2(
            "depth",
            options.depth,
            caps.depth_log2_min,
            caps.depth_log2_max,
        )?;
        let errors_log2 = log2("errors", options.errors, 0, caps.errors_log2_max)?;
        if options.profile && core.device.info().features & 1 << Feature::Profile.code() == 0 {
            return Err(Error::Unsupported {
                what: format!("{} does not profile queues", core.device.info().name),
            });
        }
        if options.priority != PriorityBand::Normal
            && core.device.info().features & 1 << Feature::Priority.code() == 0
        {
            return Err(Error::Unsupported {
                what: format!(
                    "{} has no priority bands: ask for priority {}",
                    core.device.info().name,
                    PriorityBand::Normal.name()
                ),
            });
        }
        let number = Number {
            core: Arc::clone(core),
            number: core.manager.take_number()?,
            kept: AtomicBool::new(false),
        };
        let waker = core.waker(options.vector, number.number)?;
        let vector = waker.vector().map_or(0, |vector| vector.number());
        let parts = management::parts(
            &core.device,
            depth_log2.into(),
            errors_log2.into(),
            options.profile,
            0,
        )?;
        let create = QueueCreate {
            queue: number.number,
            depth_log2,
            errors_log2,
            vector: u16::try_from(vector).unwrap_or(0),
            ring: parts.ring.0,
            completion: parts.completion.0,
            errors: parts.errors.0,
            profile: parts.profile.map_or(0, |profile| profile.0),
            priority: options.priority.code(),
            ..QueueCreate::ZERO
        };
        let identity = Identity {
            number: number.number,
            generation: core.manager.generation(),
            session: core.mark,
            delivers: options.delivery == Delivery::Each,
        };
        let doorbell = core.device.doorbell(number.number)?;
        let lane = Lane::new(parts.rings, identity, doorbell, core.manager.control())?;
        let lane = Arc::new(lane);
        if let Err(error) = core.manager.create(&create) {
            // Refused, or let go with the generation or the device.
            let absent = matches!(
                error,
                Error::Fault(_) | Error::Stale { .. } | Error::Lost { .. }
            );
            if !absent && core.manager.destroy(number.number).is_err() {
                number.keep(&lane);
            }
            return Err(error);
        }
        core.lanes().push(Arc::clone(&lane));
        Ok(Queue::new(lane, waker, Some(Box::new(number))))
    }

    /// A timeline fence in host memory.
    ///
    /// # Errors
    /// As `host_memory`.
    pub fn fence(&self, initial: u64) -> Result<Fence> {
        Fence::new(self.host_memory(64, HostOptions::default())?, initial)
    }

    /// Device time so far from now, as a packet's deadline wants it. Usually no register is read.
    ///
    /// # Errors
    /// `Lost`, `Forked`, `Io`.
    pub fn ticks_in(&self, time: Duration) -> Result<Ticks> {
        self.core.clock.ticks_in(time, || self.core.device.clock())
    }
}

fn log2(what: &str, value: u32, least: u8, most: u8) -> Result<u8> {
    let log2 = u8::try_from(value.checked_ilog2().unwrap_or(0)).unwrap_or(u8::MAX);
    if value.is_power_of_two() && (least..=most).contains(&log2) {
        return Ok(log2);
    }
    Err(Error::Invalid {
        what: format!(
            "{what} {value}: a power of two from {} to {}",
            1u64 << least.min(63),
            1u64 << most.min(63)
        ),
    })
}

impl Generational for Core {
    fn expire(&self) {
        self.end_all(&End::Stale);
    }

    fn is_idle(&self) -> bool {
        // A lane that ended, or stopped at a failure, runs nothing more.
        let lanes = self.lanes().clone();
        let idle = |lane: &Arc<Lane>| lane.look().map_or(true, |seen| seen == lane.submitted());
        lanes.iter().all(idle)
    }

    fn lose(&self, why: &'static str) {
        self.end_all(&End::Lost(why));
    }
}

impl Core {
    fn lock<'a, T>(&self, mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lanes(&self) -> MutexGuard<'_, Vec<Arc<Lane>>> {
        self.lock(&self.lanes)
    }

    /// Ends every queue, and tells whoever sleeps.
    fn end_all(&self, end: &End) {
        for lane in self.lanes().clone() {
            lane.end(end.clone());
        }
        let wakers: Vec<_> = self.lock(&self.wakers).values().cloned().collect();
        for waker in wakers.iter().filter_map(Weak::upgrade) {
            waker.wake_all();
        }
    }

    pub(crate) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Refuses what belongs to a generation that a reset ended.
    pub(crate) fn check_generation(&self, what: &'static str) -> Result<()> {
        if self.manager.generation() != self.device.generation().0 {
            return Err(Error::Stale { what });
        }
        Ok(())
    }

    /// Makes memory of another device a buffer of the session.
    pub(crate) fn adopt_peer(&self, memory: &PeerMemory) {
        self.buffers.adopt_peer(memory);
    }

    /// The memory at this address is a buffer no more: graphs that name it run no more.
    pub(crate) fn end(&self, addr: u64) {
        self.buffers.end(addr);
    }

    /// Tells the session from every other one of this process.
    pub(crate) fn mark(&self) -> u64 {
        self.mark
    }

    /// The buffer, address and bytes, that holds all of this range.
    pub(crate) fn buffer_with(&self, start: u64, bytes: u64) -> Option<(u64, u64)> {
        self.buffers.buffer_with(start, bytes)
    }

    /// Notes what the graph with this image names.
    pub(crate) fn adopt_graph(&self, image: u64, named: &Arc<Named>) {
        self.buffers.adopt_graph(image, named);
    }

    /// Frees memory, or keeps it while a job uses it. Graphs that name it run no more.
    pub(crate) fn let_go(&self, held: Held) {
        let (addr, bytes) = held.range();
        self.buffers.end(addr);
        if self.device.check().is_ok() && self.names(addr, bytes) {
            self.buffers.defer(held);
        } else {
            self.buffers.release(held);
        }
    }

    /// Lets memory go that was dropped while jobs used it and is not used any more.
    pub(crate) fn sweep(&self) {
        self.buffers.sweep(|addr, bytes| self.names(addr, bytes));
    }

    /// Whether a packet that is not done names memory in this range.
    pub(crate) fn names(&self, addr: u64, bytes: u64) -> bool {
        let lanes: Vec<_> = self.lanes().clone();
        lanes
            .iter()
            .any(|lane| self.buffers.lane_names(lane, addr, bytes))
    }

    /// The sleepers of a vector; queues that share a vector share them.
    fn waker(&self, wanted: Option<u32>, queue: u32) -> Result<Arc<Waker>> {
        let vector = self.device.vector_of(wanted, queue)?;
        let key = vector.as_ref().map(|vector| vector.number());
        let mut wakers = self.lock(&self.wakers);
        if let Some(waker) = wakers.get(&key).and_then(Weak::upgrade) {
            return Ok(waker);
        }
        // Nobody waits by it: what queues before left in it is nobody's wake.
        if let Some(vector) = &vector {
            vector.take();
        }
        let waker = Arc::new(Waker::new(vector, self.device.alarms())?);
        wakers.insert(key, Arc::downgrade(&waker));
        Ok(waker)
    }
}

/// Before anything is unmapped the device has let go of it, whatever that takes.
impl Drop for Core {
    fn drop(&mut self) {
        let kept = self.lock(&self.kept).len();
        if kept == 0 || self.device.check().is_err() {
            return; // nothing is left, or a child of fork(), or nobody is there
        }
        log::warn!("{kept} queues did not close: the device is reset");
        if let Err(error) = self.device.reset(ResetLevel::Device, 0, LAST_RESET) {
            log::error!("reset the device before its memory goes: {error}");
            if let Err(error) = self.device.isolate() {
                log::error!("bus mastering stays on: {error}; memory is kept");
                let lanes = std::mem::take(&mut *self.lock(&self.kept));
                std::mem::forget(lanes);
            }
        }
    }
}

/// A queue's number, and how the device forgets the queue.
#[derive(Debug)]
struct Number {
    core: Arc<Core>,
    number: u32,
    /// The device may still know the queue: the number is not given to another.
    kept: AtomicBool,
}

impl Number {
    /// Makes the device forget the queue.
    fn forget(&self, lane: &Arc<Lane>) {
        match self.core.manager.destroy(self.number) {
            // A reset or a lost device has let it go already.
            Ok(()) | Err(Error::Lost { .. } | Error::Stale { .. }) => {
                self.core.lanes().retain(|other| !Arc::ptr_eq(other, lane));
                self.core.sweep();
            }
            Err(error) => {
                log::error!("close queue {}: {error}", self.number);
                self.keep(lane);
            }
        }
    }

    /// Keeps the memory and the number of a queue that may still exist while the session lives.
    fn keep(&self, lane: &Arc<Lane>) {
        self.core.lock(&self.core.kept).push(Arc::clone(lane));
        self.kept.store(true, Ordering::Relaxed);
    }
}

impl Keeper for Number {
    fn reset(&self, within: Duration) -> Result<()> {
        self.core
            .device
            .reset(ResetLevel::Queue, self.number, within)
            .map(|_report| ())
    }

    fn close(&self, lane: &Arc<Lane>) {
        self.forget(lane);
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::Relaxed) {
            self.core.manager.give_number(self.number);
        }
    }
}
