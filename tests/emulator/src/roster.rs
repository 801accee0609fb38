//! The roster of queues: created, found again when mappings change, destroyed. Host interface 5.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::queue::QueueCreate;
use jalapeno_hw::regs::{DeviceState, QueueState, ScrubPhase};

use crate::engine::Engine;
use crate::queue::Queue;
use crate::trouble::Trouble;

impl Engine {
    /// Mappings changed: every queue finds its memory anew, and stops where it cannot.
    pub(crate) fn locate(&mut self) {
        let card = Arc::clone(&self.card);
        self.located = card.host.generation();
        self.bus_master = card.host.is_bus_master();
        self.watching = false;
        if !self.bus_master {
            self.queues.iter_mut().for_each(Queue::forget);
            return;
        }
        for index in 0..self.queues.len() {
            let found = self
                .queues
                .get_mut(index)
                .map(|queue| queue.locate(&card.memory()));
            if let Some(Err(trouble)) = found {
                self.lose(index, trouble);
            }
        }
    }

    /// Creates a queue.
    ///
    /// # Errors
    /// As [`Queue::create`], and BAD_QUEUE where it exists.
    pub(crate) fn create_queue(&mut self, shape: QueueCreate) -> Result<(), Trouble> {
        let card = Arc::clone(&self.card);
        if self.any_queue(|queue| u32::from(queue.number) == shape.queue) {
            return Err(Trouble::detail(FaultCode::BadQueue, shape.queue.into(), 0));
        }
        let serving = card.is(DeviceState::Ready) || card.is(DeviceState::Degraded);
        let scrubbing = card.scrub_phase.load(Ordering::Acquire) == ScrubPhase::Running.code();
        if !serving || self.quiesced || scrubbing {
            return Err(Trouble::new(FaultCode::NotPermitted));
        }
        if !card.host.is_bus_master() {
            return Err(Trouble::new(FaultCode::BusMasterOff));
        }
        let queue = Queue::create(&card, shape)?;
        if let Some(figures) = card.queues.get(usize::from(queue.number)) {
            figures.completed.store(0, Ordering::Relaxed);
            figures.failed.store(0, Ordering::Relaxed);
        }
        card.set_queue_state(queue.number, QueueState::Running);
        card.idle.store(false, Ordering::Release);
        self.admit(queue);
        Ok(())
    }

    /// Destroys a queue; whether it existed. Its memory is never touched again.
    pub(crate) fn destroy_queue(&mut self, number: u32) -> bool {
        let existed = self.any_queue(|queue| u32::from(queue.number) == number);
        self.watching = false;
        self.queues
            .retain(|queue| u32::from(queue.number) != number);
        if let Some(urgent) = self.urgent() {
            urgent.watching = false;
            urgent
                .queues
                .retain(|queue| u32::from(queue.number) != number);
        }
        if let Ok(number) = u16::try_from(number) {
            self.card.set_queue_state(number, QueueState::Absent);
        }
        let empty = !self.any_queue(|_| true) || self.quiesced;
        self.card.idle.store(empty, Ordering::Release);
        existed
    }
}
