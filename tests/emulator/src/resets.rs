//! Orders from the registers: resets, queue 0, quiesce, kicks and scrubs. Host interface 8.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::limits::{RESET_DEVICE_TIME, RESET_QUEUE_TIME};
use jalapeno_hw::regs::{DeviceState, QueueState, ResetLevel, ResetPhase, ScrubPhase};

use crate::card::Order;
use crate::engine::Engine;
use crate::faults::{Fault, Unit};
use crate::trouble::Trouble;

impl Engine {
    /// Obeys an order; whether the engine goes on.
    pub(crate) fn obey(&mut self, order: Order) -> bool {
        let card = Arc::clone(&self.card);
        match order {
            Order::Stop => {
                card.ended.store(true, Ordering::Release);
                return false;
            }
            // Asked for twice: the first one stands.
            Order::CreateQueue0(_) if card.queue_zero_exists() => {}
            Order::CreateQueue0(shape) => {
                if let Err(trouble) = self.create_queue(shape) {
                    let refusal = &card.queue_zero.refusal;
                    refusal.store(trouble.code.code(), Ordering::Relaxed);
                    card.set_queue_state(0, QueueState::Refused);
                }
            }
            Order::DestroyQueue0 => {
                self.destroy_queue(0);
                card.abandon.fetch_and(!1, Ordering::Release);
            }
            Order::Kick(number) => {
                if let Some((home, index)) = self.home_of(number) {
                    if let Some(queue) = home.queues.get_mut(index) {
                        queue.deaf = false;
                    }
                    home.look_at_doorbell(index);
                }
            }
            Order::Quiesce(wanted) => {
                self.quiesced = wanted;
                card.quiesce_by.store(0, Ordering::Release);
                let idle = wanted || !self.any_queue(|_| true);
                card.idle.store(idle, Ordering::Release);
                card.set_state(card.serving_state());
            }
            Order::Scrub => self.scrub(),
            Order::Reset(level, queue) => self.reset(level, queue),
        }
        true
    }

    fn scrub(&mut self) {
        let card = Arc::clone(&self.card);
        let fault = card.injector.due(Unit::Scrub);
        if let Some(fault) = fault {
            card.injector.finish(fault);
        }
        let allowed = self.quiesced || !self.any_queue(|_| true);
        let takes = match fault {
            Some(Fault::ScrubOverruns) => None,
            _ => Some(card.options.scrub),
        };
        if allowed && !self.sit_through(takes) {
            return; // the reset that ended it says so
        }
        let fails = fault == Some(Fault::ScrubFails);
        let phase = if allowed && !fails && card.hbm.scrub().is_ok() {
            card.scrub_count.fetch_add(1, Ordering::Relaxed);
            ScrubPhase::Done
        } else {
            ScrubPhase::Failed
        };
        card.scrub_phase.store(phase.code(), Ordering::Release);
    }

    /// Sits through a scrub that takes so long, `None` for ever; false when a reset ends it before.
    fn sit_through(&mut self, time: Option<Duration>) -> bool {
        let card = Arc::clone(&self.card);
        let begun = Instant::now();
        let ends = |order: &Order| {
            use ResetLevel::{Device, Function};
            matches!(order, Order::Stop | Order::Reset(Device | Function, _))
        };
        while time.is_none_or(|time| begun.elapsed() < time) {
            if card.is_waiting(ends) {
                return false;
            }
            // What lifts a quiesce waits for the end; the rest is obeyed, or refused, meanwhile.
            while let Some(order) =
                card.take_order_if(|order| !ends(order) && !matches!(order, Order::Quiesce(false)))
            {
                self.obey(order);
                card.obeyed();
            }
            self.sleep(Duration::from_millis(1));
        }
        true
    }

    fn reset(&mut self, level: ResetLevel, queue: u16) {
        let card = Arc::clone(&self.card);
        let fault = card.injector.due(Unit::Reset);
        // What else is to be abandoned stays so: a stop may have been ordered since.
        let over = match level {
            ResetLevel::Queue => 1u64.checked_shl(queue.into()).unwrap_or(0),
            _ => u64::MAX,
        };
        if let Some(fault) = fault {
            card.injector.finish(fault);
        }
        if fault == Some(Fault::ResetOverruns) {
            let time = match level {
                ResetLevel::Queue | ResetLevel::Engines => RESET_QUEUE_TIME,
                _ => RESET_DEVICE_TIME,
            };
            self.sleep(3 * time);
        }
        if fault == Some(Fault::ResetFails) {
            card.abandon.fetch_and(!over, Ordering::Release);
            card.set_state(card.serving_state());
            card.end_reset(ResetPhase::Failed);
            return;
        }
        let found = match level {
            ResetLevel::Queue => self.reset_queue(queue),
            ResetLevel::Engines => {
                self.halted = false;
                let mut numbers = Vec::new();
                self.any_queue(|queue| {
                    numbers.push(queue.number);
                    false
                });
                if let Some(urgent) = self.urgent() {
                    urgent.halted = false;
                }
                for number in numbers {
                    self.reset_queue(number);
                }
                card.injector.finish(Fault::EngineStops);
                card.set_state(card.serving_state());
                true
            }
            _ => {
                self.reset_device();
                true
            }
        };
        card.abandon.fetch_and(!over, Ordering::Release);
        card.end_reset(if found {
            ResetPhase::Done
        } else {
            ResetPhase::Failed
        });
    }

    /// Cancels a queue's packets; it stops and can be resumed. Whether there is such a queue.
    fn reset_queue(&mut self, number: u16) -> bool {
        let Some((home, index)) = self.home_of(number) else {
            return false;
        };
        if let Some(queue) = home.queues.get_mut(index) {
            queue.deaf = false;
            queue.block = None;
            queue.tally = None;
            // It stopped before: what it stopped for stands, one record a stop.
            if queue.stop.is_some() {
                return true;
            }
        }
        home.fail(index, Trouble::new(FaultCode::QueueReset), &[0; 8]);
        true
    }

    /// Queues are gone, GENERATION rises. HBM, the log and the counters of a lifetime stay.
    pub(crate) fn reset_device(&mut self) {
        let card = Arc::clone(&self.card);
        self.queues.clear();
        *self.runner.urgent.get_mut() = None;
        self.halted = false;
        self.quiesced = false;
        card.doorbells.span().set(0);
        card.clear_registers();
        for fault in [Fault::EngineStops, Fault::FirmwareCrash] {
            card.injector.finish(fault);
        }
        card.idle.store(true, Ordering::Release);
        card.generation.fetch_add(1, Ordering::AcqRel);
        card.set_state(DeviceState::Ready);
    }

    /// Sleeps outside the gate.
    pub(crate) fn sleep(&self, time: Duration) {
        let gate = self.card.host.gate();
        gate.leave();
        std::thread::sleep(time);
        gate.enter();
    }
}
