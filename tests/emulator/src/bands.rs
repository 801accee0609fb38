//! The priority bands: whose packet runs next. Host interface 5.10.
//!
//! Realtime queues belong to an engine of their own inside the engine's runner, on the same thread.
//! It has its turn before every other packet, and inside a packet that runs long wherever that one
//! asks whether it may go on. The other bands share the time by weights, counted only while two
//! queues at least have something to run.

use std::cell::RefCell;
use std::sync::Arc;

use jalapeno_hw::limits::REALTIME_BURST;
use jalapeno_hw::queue::PriorityBand;
use jalapeno_hw::regs::{Feature, ResetLevel};

use crate::card::Order;
use crate::energy::Work;
use crate::engine::Engine;
use crate::execute::{Failure, Runner, Running};
use crate::kernels::Pool;
use crate::memory::STEP_BYTES;
use crate::queue::{Block, Queue};
use crate::watch::Watch;

/// Realtime packets that run without a pause before another band has a piece, in ticks.
#[expect(clippy::cast_possible_truncation, reason = "10 ms")]
const BURST_NS: u64 = REALTIME_BURST.as_nanos() as u64;
/// Bytes of a transfer between two looks, while there are realtime queues: some 50 us.
const URGENT_STEP_BYTES: u64 = 256 << 10;

/// How often a long packet stands still for a question to the client, such as for a fence in memory
/// that the client did not share, in ticks: 0.5 ms of the 1 ms that a WAIT may take.
const ASK_NS: u64 = 500_000;

/// The engine of the realtime queues; none until there is such a queue.
pub(crate) type Urgent = RefCell<Option<Box<Engine>>>;

/// What realtime packets took while another packet stood still.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stolen {
    pub(crate) ns: u64,
    pub(crate) work: Work,
}

/// How the time of the other bands is shared.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    /// What the queue that had least of its due has had. Never falls.
    floor: u64,
    /// Two queues had something to run in the last round.
    pub(crate) contended: bool,
}

/// What a nanosecond of a band's queue counts: the inverse of its weight.
pub(crate) fn cost(priority: u32) -> u64 {
    match PriorityBand::from_code(priority) {
        Some(PriorityBand::High | PriorityBand::Realtime) => 1,
        Some(PriorityBand::Normal) | None => 2,
        Some(PriorityBand::Low) => 8,
    }
}

/// Whether an order can be obeyed while a packet of another band stands still.
fn is_own(order: &Order, own: impl Fn(u16) -> bool) -> bool {
    match order {
        Order::Kick(number) | Order::Reset(ResetLevel::Queue, number) => own(*number),
        _ => false,
    }
}

impl Runner {
    /// Whether there are realtime queues.
    pub(crate) fn has_urgent(&self) -> bool {
        self.urgent
            .try_borrow()
            .is_ok_and(|urgent| urgent.as_ref().is_some_and(|it| !it.queues.is_empty()))
    }

    /// Whether there may be something to do for a realtime queue. Asked within a packet that runs long,
    /// while threads of its kernel touch memory: it obeys nothing, asks no client, and does not leave
    /// the gate.
    pub(crate) fn is_pressed(&self) -> bool {
        let Ok(mut urgent) = self.urgent.try_borrow_mut() else {
            return false;
        };
        let urgent = urgent.as_deref_mut().filter(|it| !it.queues.is_empty());
        urgent.is_some_and(Engine::stirs)
    }

    /// Does what there is to do for realtime queues while another packet stands still: orders,
    /// doorbells, packets. Leaves the gate now and then: mappings may have changed afterwards.
    pub(crate) fn attend(&self) {
        if let Ok(mut urgent) = self.urgent.try_borrow_mut()
            && let Some(urgent) = urgent.as_deref_mut().filter(|it| !it.queues.is_empty())
        {
            urgent.find();
            urgent.obey_own();
            urgent.find();
            urgent.look_at_doorbells();
        }
        self.rush();
    }

    /// Runs realtime packets until there is none, or for REALTIME_BURST; how many. Mappings may have
    /// changed afterwards.
    pub(crate) fn rush(&self) -> u32 {
        let Ok(mut urgent) = self.urgent.try_borrow_mut() else {
            return 0;
        };
        let Some(urgent) = urgent.as_deref_mut().filter(|it| !it.queues.is_empty()) else {
            return 0;
        };
        urgent.find();
        if !urgent.presses() {
            return 0;
        }
        let card = &self.card;
        let (began, before) = (card.now(), card.meter.work());
        let mut worked = 0;
        let mut now;
        loop {
            worked += urgent.round();
            now = card.now();
            let over = now.saturating_sub(began) >= BURST_NS;
            if over || card.has_orders() || card.host.gate().wanted() {
                break;
            }
            urgent.find();
            if !urgent.presses() {
                break;
            }
        }
        let stolen = self.stolen.get();
        self.stolen.set(Stolen {
            ns: stolen.ns + now.saturating_sub(began),
            work: stolen.work.and(card.meter.work().less(before)),
        });
        worked
    }

    /// Device time without what realtime packets took: a difference is a packet's own.
    pub(crate) fn own_time(&self) -> u64 {
        self.card.now().saturating_sub(self.stolen.get().ns)
    }

    /// Bytes that a transfer moves between two looks.
    pub(crate) fn step(&self) -> u64 {
        if self.has_urgent() {
            URGENT_STEP_BYTES
        } else {
            STEP_BYTES
        }
    }

    /// Looks at resets, a quiesce, the deadline, lets mappings change and realtime packets run: what
    /// was found in memory before is void.
    ///
    /// # Errors
    /// As [`Runner::may_run`].
    pub(crate) fn breathe(&self, running: Running) -> Result<(), Failure> {
        self.may_run(running)?;
        let gate = self.card.host.gate();
        if gate.wanted() {
            gate.leave();
            gate.enter();
        }
        if self.is_pressed() {
            self.attend();
        }
        Ok(())
    }
}

impl Engine {
    /// The engine of the realtime queues.
    pub(crate) fn urgent(&mut self) -> Option<&mut Engine> {
        self.runner.urgent.get_mut().as_deref_mut()
    }

    /// Adds a queue to its band.
    pub(crate) fn admit(&mut self, mut queue: Queue) {
        queue.due = self.shares.floor;
        if queue.shape.priority != PriorityBand::Realtime.code() {
            self.queues.push(queue);
            self.watching = false;
            return;
        }
        let card = Arc::clone(&self.card);
        let threads = self.threads;
        // Threads of its own: the others stand still inside the packet that it interrupts.
        let urgent = self
            .runner
            .urgent
            .get_mut()
            .get_or_insert_with(|| Box::new(Engine::new(card, Pool::new(threads), threads)));
        urgent.halted = self.halted;
        urgent.queues.push(queue);
        urgent.watching = false;
        // Its queues find their memory before they are looked at.
        urgent.located = u64::MAX;
    }

    /// Every queue of every band.
    pub(crate) fn any_queue(&self, mut wanted: impl FnMut(&Queue) -> bool) -> bool {
        self.queues.iter().any(&mut wanted)
            || self.runner.urgent.try_borrow().is_ok_and(|urgent| {
                urgent
                    .as_ref()
                    .is_some_and(|it| it.queues.iter().any(&mut wanted))
            })
    }

    /// The engine that has a queue.
    pub(crate) fn home_of(&mut self, number: u16) -> Option<(&mut Engine, usize)> {
        let place = |engine: &Engine| {
            engine
                .queues
                .iter()
                .position(|queue| queue.number == number)
        };
        if let Some(index) = place(self) {
            return Some((self, index));
        }
        let urgent = self.urgent()?;
        place(urgent).map(|index| (urgent, index))
    }

    /// Sets the watches anew if anything changed.
    #[inline]
    pub(crate) fn watch(&mut self) {
        if !self.watching {
            self.watches.clear();
            self.watches.extend(self.queues.iter().map(Queue::watch));
            self.watching = true;
        }
    }

    /// Obeys orders for its own queues, while a packet of another band stands still.
    fn obey_own(&mut self) {
        let card = Arc::clone(&self.card);
        while card.has_orders() {
            let own = |number: u16| self.queues.iter().any(|queue| queue.number == number);
            let order = card.take_order_if(|order| is_own(order, own));
            let Some(order) = order else {
                return;
            };
            self.obey(order);
            self.watching = false;
            card.obeyed();
        }
    }

    /// Finds what mappings moved.
    fn find(&mut self) {
        if self.card.host.generation() != self.located {
            self.locate();
        }
    }

    /// Whether there may be something to do: an order, a doorbell, a packet. Says so too where only a
    /// question to the client would tell, but seldom.
    fn stirs(&mut self) -> bool {
        let card = Arc::clone(&self.card);
        if card.has_orders() {
            let own = |number: u16| self.queues.iter().any(|queue| queue.number == number);
            if card.order_waits(|order| is_own(order, own)) {
                return true;
            }
        }
        if card.host.generation() != self.located {
            return true;
        }
        if self.halted || self.quiesced || !self.bus_master {
            return false;
        }
        self.watch();
        let now = card.now();
        let arm = card.has_feature(Feature::Arm);
        let (mut stirs, mut asks) = (false, false);
        for (watch, queue) in self.watches.iter().zip(&self.queues) {
            stirs |= queue.can_resume() || arm && queue.owes_interrupt();
            stirs |= match watch {
                Watch::Header { .. } => watch.is_ready(),
                Watch::Ask if queue.stop.is_some() || queue.deaf => false,
                Watch::Ask => match &queue.block {
                    None if queue.graph.is_some() => true,
                    None => {
                        asks |= queue.ahead() > 0;
                        false
                    }
                    Some(Block::Forever) => false,
                    Some(Block::Until(time, _)) => now >= *time,
                    Some(Block::Fence(wait, _)) if wait.deadline != 0 && now >= wait.deadline => {
                        true
                    }
                    Some(Block::Fence(wait, _)) => match self.runner.is_met_here(wait) {
                        Ok(Some(met)) => met,
                        Ok(None) => {
                            asks = true;
                            false
                        }
                        Err(_) => true,
                    },
                },
            };
        }
        if asks && now.saturating_sub(self.asked) >= ASK_NS {
            self.asked = now;
            return true;
        }
        stirs
    }

    /// Whether one of its queues can run a packet now.
    fn presses(&mut self) -> bool {
        if self.halted || !self.bus_master || self.queues.is_empty() {
            return false;
        }
        self.watch();
        let now = || self.card.now();
        let memory = self.card.memory();
        self.watches
            .iter()
            .zip(&self.queues)
            .any(|(watch, queue)| match watch {
                Watch::Header { .. } => watch.is_ready(),
                Watch::Ask if queue.stop.is_some() || queue.deaf => false,
                Watch::Ask => match &queue.block {
                    None => queue.graph.is_some() || queue.fetch(&memory).is_some(),
                    Some(Block::Forever) => false,
                    Some(Block::Until(time, _)) => now() >= *time,
                    Some(Block::Fence(wait, _)) => {
                        let late = wait.deadline != 0 && now() >= wait.deadline;
                        late || !matches!(self.runner.is_met(wait), Ok(false))
                    }
                },
            })
    }

    /// Serves the ready queues that have had least of their due; how many packets.
    pub(crate) fn round_fairly(&mut self) -> u32 {
        let located = self.located;
        let mut worked = 0;
        let mut contenders = 0;
        while worked == 0 {
            let mut least = u64::MAX;
            contenders = 0;
            let mut time = self.runner.own_time();
            for index in 0..self.watches.len() {
                if !self.watches.get(index).is_some_and(Watch::is_ready) {
                    continue;
                }
                let floor = self.shares.floor;
                let due = self.queues.get(index).map_or(floor, |queue| queue.due);
                if due > floor {
                    contenders += 1;
                    least = least.min(due);
                    continue;
                }
                let ran = self.serve(index);
                worked += ran;
                let now = self.runner.own_time();
                if ran > 0 {
                    contenders += 1;
                    if let Some(queue) = self.queues.get_mut(index) {
                        let took = now.saturating_sub(time).max(1);
                        queue.due = floor + took.saturating_mul(cost(queue.shape.priority));
                        least = least.min(queue.due);
                    }
                }
                time = now;
                if self.moved(located) {
                    self.shares.contended = true;
                    return worked.max(1);
                }
            }
            if least == u64::MAX {
                break;
            }
            self.shares.floor = self.shares.floor.max(least);
        }
        self.shares.contended = contenders > 1;
        worked
    }

    /// What the watches look at may be gone, or realtime packets wait and are run.
    pub(crate) fn moved(&mut self, located: u64) -> bool {
        let urgent = self.runner.urgent.get_mut().is_some();
        if urgent {
            self.runner.rush();
        }
        self.located != located || self.card.host.generation() != located
    }

    /// Takes over what befell the realtime queues' engine, and tells it what befell this one.
    pub(crate) fn agree(&mut self) {
        let (halted, quiesced) = (self.halted, self.quiesced);
        let mut stops = false;
        if let Some(urgent) = self.urgent() {
            stops = urgent.halted;
            urgent.halted |= halted;
            urgent.quiesced = quiesced;
        }
        self.halted |= stops;
    }

    /// Whether a queue of any band waits for something.
    pub(crate) fn waits(&self) -> bool {
        self.any_queue(|queue| queue.block.is_some())
    }
}
