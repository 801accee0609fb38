//! The card: what its registers, its engine and its telemetry share.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use jalapeno_hw::faults::FaultRecord;
use jalapeno_hw::queue::QueueCreate;
use jalapeno_hw::regs::{DeviceState, Feature, QueueState, ResetLevel, ResetPhase, ResetStatus};
use nix::time::{ClockId, clock_gettime};

use crate::doorbells::Doorbells;
use crate::energy::Meter;
use crate::fault_log::FaultLog;
use crate::faults::Injector;
use crate::hbm::Hbm;
use crate::host::Host;
use crate::identity::{Identity, Options, QUEUES_MOST, capabilities, mix};
use crate::memory::Memory;
use crate::profile::Profile;
use crate::telemetry::Telemetry;
use crate::trouble::{Culprit, Moment, Trouble, record};

/// Most orders that wait for the engine: a client may store faster than the engine obeys.
pub const ORDERS_MAX: usize = 1024;

/// How long a quiesce waits for a running packet, in ticks: half of QUIESCE_TIME.
const QUIESCE_PATIENCE_NS: u64 = 50_000_000;

/// What the registers ask the engine to do.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// Create queue 0.
    CreateQueue0(QueueCreate),
    /// Destroy queue 0.
    DestroyQueue0,
    /// Reset a queue, the engines, or the device.
    Reset(ResetLevel, u16),
    /// Read a queue's doorbell anew.
    Kick(u16),
    /// CONTROL.quiesce changed.
    Quiesce(bool),
    /// Scrub HBM.
    Scrub,
    /// End the engine's thread.
    Stop,
}

/// Figures of one queue, stored by the engine.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct QueueFigures {
    /// A QueueState code.
    pub state: AtomicU32,
    /// Packets completed since reset.
    pub completed: AtomicU64,
    /// Packets failed since reset.
    pub failed: AtomicU64,
}

/// Queue 0's registers.
#[derive(Debug, Default)]
pub struct QueueZero {
    /// Q0_RING.
    pub ring: AtomicU64,
    /// Q0_COMPLETION.
    pub completion: AtomicU64,
    /// Q0_ERRORS.
    pub errors: AtomicU64,
    /// Q0_SIZE.
    pub size: AtomicU32,
    /// Q0_CONTROL.
    pub control: AtomicU32,
    /// The FaultCode for which the creation was refused.
    pub refusal: AtomicU32,
}

/// A card.
#[derive(Debug)]
pub struct Card {
    /// What it was made with.
    pub options: Options,
    /// Who it is.
    pub identity: Identity,
    /// Its capability records.
    pub capabilities: Vec<u8>,
    /// Its memory.
    pub hbm: Hbm,
    /// Its doorbells.
    pub doorbells: Doorbells,
    /// Writes to a queue's TAIL that came as messages.
    pub doorbells_rung: AtomicU64,
    /// The slot it is in.
    pub host: Arc<dyn Host>,
    /// What it did.
    pub meter: Meter,
    /// Kernels that ran to their end, by id.
    pub launches: [AtomicU64; 32],
    /// What its packets took, while somebody asks.
    pub profile: Profile,
    /// How it misbehaves.
    pub injector: Injector,
    /// What went wrong.
    pub log: FaultLog,
    /// Queues' figures.
    pub queues: Box<[QueueFigures]>,
    /// Queue 0's registers.
    pub queue_zero: QueueZero,
    /// A DeviceState code.
    pub state: AtomicU32,
    /// No packet runs and no host memory will be touched.
    pub idle: AtomicBool,
    /// GENERATION.
    pub generation: AtomicU64,
    /// BOOT_ID.
    pub boot_id: AtomicU64,
    /// FEATURES_ACCEPTED.
    pub features: AtomicU64,
    /// CONTROL.
    pub control: AtomicU32,
    /// RESET_STATUS.
    pub reset_status: AtomicU32,
    /// A ScrubPhase code.
    pub scrub_phase: AtomicU32,
    /// SCRUB_COUNT.
    pub scrub_count: AtomicU64,
    /// HEARTBEAT.
    pub heartbeat: AtomicU32,
    /// Whoever reads what it feels.
    pub telemetry: Telemetry,
    /// Corrected HBM errors.
    pub ecc_corrected: AtomicU64,
    /// Uncorrected HBM errors.
    pub ecc_uncorrected: AtomicU64,
    /// Times that clocks were lowered for heat.
    pub throttles: AtomicU64,
    /// The engine has ended.
    pub ended: AtomicBool,
    /// High halves latched by reads of low ones, by word.
    pub latches: Box<[AtomicU32]>,
    /// Bit q: the packet that queue q runs is to be abandoned.
    pub abandon: AtomicU64,
    /// Device time after which a running packet is put away for a quiesce; 0: none waits.
    pub quiesce_by: AtomicU64,
    orders: Mutex<VecDeque<Order>>,
    attention: AtomicBool,
    given: AtomicU64,
    obeyed: AtomicU64,
    engine: OnceLock<Thread>,
    power_on_ns: u64,
    boots: AtomicU64,
}

impl Card {
    /// A card in a slot, powered on and ready; its engine is not running yet.
    ///
    /// # Errors
    /// What the kernel said to the memory behind HBM or the doorbells.
    pub fn new(options: Options, host: Arc<dyn Host>) -> io::Result<Self> {
        let queues = options.queues.clamp(1, QUEUES_MOST);
        let options = Options { queues, ..options };
        let hbm = Hbm::new(options.hbm_bytes, options.resident_limit)?;
        let injector = Injector::default();
        for order in &options.faults {
            injector.arm(*order);
        }
        let card = Self {
            identity: Identity::new(&options),
            capabilities: capabilities(&options, hbm.bytes()),
            doorbells: Doorbells::new(queues)?,
            doorbells_rung: AtomicU64::new(0),
            hbm,
            host,
            meter: Meter::default(),
            launches: Default::default(),
            profile: Profile::default(),
            injector,
            log: FaultLog::default(),
            queues: (0..queues).map(|_| QueueFigures::default()).collect(),
            queue_zero: QueueZero::default(),
            state: AtomicU32::new(DeviceState::Ready.code()),
            idle: AtomicBool::new(true),
            generation: AtomicU64::new(1),
            boot_id: AtomicU64::new(0),
            features: AtomicU64::new(0),
            control: AtomicU32::new(0),
            reset_status: AtomicU32::new(0),
            scrub_phase: AtomicU32::new(0),
            scrub_count: AtomicU64::new(0),
            heartbeat: AtomicU32::new(1),
            telemetry: Telemetry::default(),
            ecc_corrected: AtomicU64::new(0),
            ecc_uncorrected: AtomicU64::new(0),
            throttles: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            latches: (0..1024).map(|_| AtomicU32::new(0)).collect(),
            abandon: AtomicU64::new(0),
            quiesce_by: AtomicU64::new(0),
            orders: Mutex::default(),
            attention: AtomicBool::new(false),
            given: AtomicU64::new(0),
            obeyed: AtomicU64::new(0),
            engine: OnceLock::new(),
            power_on_ns: host_time(),
            boots: AtomicU64::new(0),
            options,
        };
        card.reboot();
        Ok(card)
    }

    /// Device time in ticks: nanoseconds since a second before power-on, so that 0 is never now.
    #[must_use]
    pub fn now(&self) -> u64 {
        host_time().saturating_sub(self.power_on_ns) + 1_000_000_000
    }

    /// The energy counter in microjoules.
    #[must_use]
    pub fn energy_uj(&self) -> u64 {
        self.meter
            .energy_uj(host_time().saturating_sub(self.power_on_ns))
    }

    /// Device and host memory.
    #[must_use]
    pub fn memory(&self) -> Memory<'_> {
        Memory {
            hbm: &self.hbm,
            host: self.host.as_ref(),
        }
    }

    /// The firmware starts: another BOOT_ID.
    pub fn reboot(&self) {
        let boots = self.boots.fetch_add(1, Ordering::Relaxed);
        let mut state = self.options.seed ^ (boots + 1).rotate_left(32) ^ self.power_on_ns;
        self.boot_id
            .store(mix(&mut state).max(1), Ordering::Relaxed);
    }

    /// Clocks and names for a record.
    #[must_use]
    pub fn moment(&self) -> Moment {
        Moment {
            device_time: self.now(),
            host_time: host_time(),
            generation: self.generation.load(Ordering::Relaxed),
            boot_id: self.boot_id.load(Ordering::Relaxed),
        }
    }

    /// Writes trouble to the fault log; the record, for a queue's error ring. Vector 0 is told by
    /// the caller once the record can be read everywhere.
    pub fn report(&self, trouble: &Trouble, culprit: &Culprit) -> FaultRecord {
        let record = record(trouble, culprit, &self.moment());
        self.log.push(record);
        record
    }

    /// Gives the engine an order; its number. A packet that runs long makes way for some.
    pub fn order(&self, order: Order) -> u64 {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let must = matches!(order, Order::Stop | Order::Reset(..) | Order::Scrub);
        if orders.len() >= ORDERS_MAX && !must {
            // Nobody waits for these: a store that has nowhere to go is dropped.
            return self.given.load(Ordering::Relaxed);
        }
        match order {
            Order::Stop => self.abandon.store(u64::MAX, Ordering::Release),
            Order::DestroyQueue0 => {
                self.abandon.fetch_or(1, Ordering::Release);
            }
            Order::Quiesce(true) => {
                let by = self.now() + QUIESCE_PATIENCE_NS;
                self.quiesce_by.store(by, Ordering::Release);
            }
            Order::Quiesce(false) => self.quiesce_by.store(0, Ordering::Release),
            _ => {}
        }
        orders.push_back(order);
        let number = self.given.fetch_add(1, Ordering::Relaxed) + 1;
        self.attention.store(true, Ordering::Release);
        drop(orders);
        self.wake();
        number
    }

    /// Wakes the engine if it sleeps.
    pub fn wake(&self) {
        if let Some(thread) = self.engine.get() {
            thread.unpark();
        }
    }

    /// The engine says who it is.
    pub fn enlist(&self, engine: Thread) {
        // Enlisting twice would mean two engines; the first one stays.
        let _ = self.engine.set(engine);
    }

    /// Whether an order waits. One load.
    #[inline]
    #[must_use]
    pub fn has_orders(&self) -> bool {
        self.attention.load(Ordering::Relaxed)
    }

    /// Orders that wait now.
    #[must_use]
    pub fn waiting_orders(&self) -> usize {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.len()
    }

    /// The next order.
    pub fn take_order(&self) -> Option<Order> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let order = orders.pop_front();
        if order.is_none() {
            self.attention.store(false, Ordering::Release);
        }
        order
    }

    /// Whether the next order is one of those.
    pub fn order_waits(&self, wanted: impl FnOnce(&Order) -> bool) -> bool {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.front().is_some_and(wanted)
    }

    /// The next order, if it is one of those.
    pub fn take_order_if(&self, wanted: impl FnOnce(&Order) -> bool) -> Option<Order> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted(orders.front()?) {
            orders.pop_front()
        } else {
            None
        }
    }

    /// Whether such an order waits.
    pub fn is_waiting(&self, wanted: impl Fn(&Order) -> bool) -> bool {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.iter().any(wanted)
    }

    /// The engine has obeyed the order it took last.
    pub fn obeyed(&self) {
        self.obeyed.fetch_add(1, Ordering::Release);
    }

    /// Waits until the engine has obeyed an order; whether it did in time.
    pub fn wait_for(&self, number: u64, time: Duration) -> bool {
        let end = Instant::now() + time;
        while self.obeyed.load(Ordering::Acquire) < number {
            if Instant::now() > end || self.ended.load(Ordering::Acquire) {
                return false;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        true
    }

    /// Begins a reset; `None` while another is preparing.
    pub fn begin_reset(&self, level: ResetLevel, queue: u16) -> Option<u64> {
        let phase = |status: u32| ResetStatus(status).phase();
        let preparing = ResetStatus(0)
            .with_phase(ResetPhase::Preparing.code())
            .with_level(level.code())
            .with_queue(u32::from(queue));
        self.reset_status
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |status| {
                (phase(status) != ResetPhase::Preparing.code()).then_some(preparing.0)
            })
            .ok()?;
        match level {
            ResetLevel::Queue => {
                let bit = 1u64.checked_shl(u32::from(queue)).unwrap_or(0);
                self.abandon.fetch_or(bit, Ordering::Release);
            }
            _ => self.abandon.store(u64::MAX, Ordering::Release),
        }
        if matches!(level, ResetLevel::Device | ResetLevel::Function) {
            self.set_state(DeviceState::Resetting);
        }
        Some(self.order(Order::Reset(level, queue)))
    }

    /// Ends a reset.
    pub fn end_reset(&self, phase: ResetPhase) {
        let status = ResetStatus(self.reset_status.load(Ordering::Relaxed));
        let status = status.with_phase(phase.code());
        self.reset_status.store(status.0, Ordering::Release);
    }

    /// A function level reset: as a device reset, and done when this returns true.
    pub fn reset_function(&self) -> bool {
        let end = Instant::now() + Duration::from_secs(1);
        loop {
            if let Some(number) = self.begin_reset(ResetLevel::Function, 0) {
                return self.wait_for(number, end.saturating_duration_since(Instant::now()));
            }
            if Instant::now() > end || self.ended.load(Ordering::Acquire) {
                return false;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Sets the device's state.
    pub fn set_state(&self, state: DeviceState) {
        self.state.store(state.code(), Ordering::Release);
    }

    /// The device's state is this one.
    #[must_use]
    pub fn is(&self, state: DeviceState) -> bool {
        self.state.load(Ordering::Acquire) == state.code()
    }

    /// Whether the driver accepted a feature.
    #[inline]
    #[must_use]
    pub fn has_feature(&self, feature: Feature) -> bool {
        self.features.load(Ordering::Relaxed) >> feature.code() & 1 != 0
    }

    /// Sets a queue's state.
    pub fn set_queue_state(&self, queue: u16, state: QueueState) {
        if let Some(figures) = self.queues.get(usize::from(queue)) {
            figures.state.store(state.code(), Ordering::Release);
        }
    }
}

/// CLOCK_MONOTONIC_RAW in nanoseconds.
#[must_use]
pub fn host_time() -> u64 {
    // The clock exists on every kernel since 2.6.28; 0 would only stop the model's time.
    clock_gettime(ClockId::CLOCK_MONOTONIC_RAW).map_or(0, |time| {
        u64::try_from(time.tv_sec())
            .unwrap_or_default()
            .saturating_mul(1_000_000_000)
            .saturating_add(u64::try_from(time.tv_nsec()).unwrap_or_default())
    })
}
