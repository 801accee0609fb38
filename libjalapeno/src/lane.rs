//! The lane: what a queue's producer, its consumers and its waiters share.
//!
//! Its traffic is three words, each monotonic. `submitted` is the producer's. `seen` is the highest
//! completion anyone validated; whoever stops or ends the lane halts it first (one bit), and whoever
//! loses that compare-and-swap learns of it. `claimed` is how far completions were delivered. A slot
//! is free again once it is behind both.
//!
//! Everything else (failures, their records, the end) is in the ledger, behind a lock that is never
//! held across a wait or a register access.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::packets::Packet;

use crate::error::{Error, Result};
use crate::fork::ForkMark;
use crate::ledger::{Counters, End, Ledger, Outcome};
use crate::mmio::Doorbell;
use crate::ring::Rings;

mod traffic;
mod trouble;
mod way;

pub(crate) use traffic::Traffic;
pub(crate) use way::Way;

/// States of a lane.
const RUNNING: u32 = 1;
const STOPPED: u32 = 2;
const ENDED: u32 = 3;

/// What a lane asks of its device, on slow paths only.
pub(crate) trait Control: Send + Sync + fmt::Debug {
    /// Rings the queue's doorbell again, by KICK.
    fn kick(&self, queue: u32) -> Result<()>;
    /// `Lost` or `Stale`, when the device is gone or was reset. May read registers.
    fn check(&self) -> Result<()>;
    /// The end, when the device is known to be gone or reset. Cheap: reads no register.
    fn over(&self) -> Option<End>;
    /// Whether the host wants the device back. Reads no register.
    fn is_wanted(&self) -> bool {
        false
    }
    /// Whether a waiter of the device's was told so.
    fn wish_is_known(&self) -> bool {
        false
    }
    /// A waiter is told so.
    fn note_wish(&self) {}
}

/// What does not change in a lane's life.
#[derive(Debug)]
pub(crate) struct Identity {
    /// The queue's number.
    pub(crate) number: u32,
    /// The device's generation.
    pub(crate) generation: u64,
    /// The mark of the session it belongs to; 0: of none.
    pub(crate) session: u64,
    /// Whether completions are delivered one by one.
    pub(crate) delivers: bool,
}

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Lane {
    state: AtomicU32,
    mark: ForkMark,
    /// Its traffic.
    page: traffic::Page,
    rings: Rings,
    identity: Identity,
    doorbell: Doorbell,
    control: Arc<dyn Control>,
    ledger: Mutex<Ledger>,
    rung_again: AtomicU64,
    missed: AtomicU64,
}

impl Lane {
    /// # Errors
    /// `Io` where the kernel gives no page.
    pub(crate) fn new(
        rings: Rings,
        identity: Identity,
        doorbell: Doorbell,
        control: Arc<dyn Control>,
    ) -> Result<Self> {
        let page = traffic::Page::new()?;
        page.traffic().expect_record(rings.expect_record(0));
        page.open(&rings, &doorbell);
        Ok(Self {
            state: AtomicU32::new(RUNNING),
            mark: ForkMark::here(),
            page,
            rings,
            identity,
            doorbell,
            control,
            ledger: Mutex::default(),
            rung_again: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        })
    }

    #[inline]
    pub(crate) fn traffic(&self) -> &Traffic {
        self.page.traffic()
    }

    pub(crate) fn rings(&self) -> &Rings {
        &self.rings
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    #[inline]
    pub(crate) fn doorbell(&self) -> &Doorbell {
        &self.doorbell
    }

    pub(crate) fn control(&self) -> &dyn Control {
        &*self.control
    }

    /// Whether this process owns the lane and nothing is in the way of a command.
    pub(crate) fn is_running(&self) -> bool {
        self.state.load(Ordering::Acquire) == RUNNING && self.is_ours()
    }

    fn run(&self) {
        self.state.store(RUNNING, Ordering::Release);
        self.page.open(&self.rings, &self.doorbell);
    }

    fn bar(&self, state: u32) {
        self.traffic().shut();
        self.state.store(state, Ordering::Release);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.state.load(Ordering::Acquire) == STOPPED
    }

    /// Whether it stopped at a packet that was never submitted: a reset hit it while idle.
    pub(crate) fn is_stopped_idle(&self) -> bool {
        let ledger = self.ledger();
        let submitted = self.submitted();
        ledger.stop.as_ref().is_some_and(|stop| stop.at > submitted)
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.mark.is_ours()
    }

    pub(crate) fn check_fork(&self) -> Result<()> {
        self.mark.check()
    }

    /// The completion word as it stands.
    pub(crate) fn word(&self) -> u64 {
        self.rings.word().load(Ordering::Acquire)
    }

    pub(crate) fn submitted(&self) -> u64 {
        self.traffic().submitted().load(Ordering::Acquire)
    }

    /// The highest completion validated so far, without looking.
    pub(crate) fn seen(&self) -> u64 {
        self.traffic().seen()
    }

    /// The last packet that fits into the ring now.
    pub(crate) fn room(&self) -> u64 {
        let seen = self.seen();
        let free = if self.identity.delivers {
            seen.min(self.traffic().claimed())
        } else {
            seen
        };
        free + self.rings.depth()
    }

    /// Looks at the completion word and gives the validated watermark.
    #[inline]
    pub(crate) fn look(&self) -> Result<u64> {
        match self.traffic().glance() {
            Some(seen) => Ok(seen),
            None => self.look_closely(),
        }
    }

    /// Ends the lane if the device is known to be gone.
    #[cold]
    pub(crate) fn note_loss(&self) {
        if self.mark.is_ours()
            && let Some(end) = self.control.over()
        {
            self.end(end);
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What became of a job; `None`: it is not finished. Looks at the device first.
    #[inline]
    pub(crate) fn outcome(&self, seq: u64) -> Option<Result<()>> {
        match self.look() {
            Ok(seen) if seq > seen => None,
            Ok(_) if !self.traffic().is_troubled(seq - 1) => Some(Ok(())),
            Err(Error::Forked) => Some(Err(Error::Forked)),
            Ok(_) | Err(_) => self.remembered(seq),
        }
    }

    #[cold]
    fn remembered(&self, seq: u64) -> Option<Result<()>> {
        self.ledger().remembered(seq, self.seen())
    }

    /// Delivers by looking each outcome up: `deliver(seq, cookie, outcome)` at most `room` times.
    /// Gives how many, or the lane's error once all that was submitted is delivered.
    #[cold]
    pub(crate) fn deliver_slowly(
        &self,
        room: usize,
        mut deliver: impl FnMut(usize, u64, u64, Outcome),
    ) -> Result<usize> {
        let looked = self.look();
        if let Err(Error::Forked) = looked {
            return Err(Error::Forked);
        }
        loop {
            let ledger = self.ledger();
            let from = self.traffic().claimed();
            let submitted = self.submitted();
            let mut count = 0;
            for (index, seq) in (from + 1..=submitted).take(room).enumerate() {
                let Some(outcome) = ledger.verdict(seq, self.seen()) else {
                    break;
                };
                deliver(index, seq, self.rings.cookie(seq), outcome);
                count = index + 1;
            }
            if self.traffic().claim(from, from + count as u64) {
                if count == 0 && ledger.end.is_some() && from == submitted {
                    drop(ledger);
                    return Err(self.ending());
                }
                return Ok(count);
            }
        }
    }

    /// How the jobs ended.
    pub(crate) fn counters(&self) -> Counters {
        let ledger = self.ledger();
        Counters {
            doorbells_rung_again: self.rung_again.load(Ordering::Relaxed),
            interrupts_missed: self.missed.load(Ordering::Relaxed),
            ..ledger.counters(self.submitted(), self.seen())
        }
    }

    /// A doorbell was lost: ringing again helped.
    pub(crate) fn count_lost_doorbell(&self) {
        self.rung_again.fetch_add(1, Ordering::Relaxed);
        log::warn!(
            "{}: queue {}",
            FaultCode::DoorbellLost.name(),
            self.identity.number
        );
    }

    /// An interrupt did not come.
    pub(crate) fn count_missing_interrupt(&self) {
        self.missed.fetch_add(1, Ordering::Relaxed);
        log::warn!(
            "{}: queue {}",
            FaultCode::InterruptMissing.name(),
            self.identity.number
        );
    }

    /// Copies of the packets that the device may still run, with their sequence numbers. A
    /// quarantined lane's count as such until the device is reset; a stopped one's are final.
    pub(crate) fn unfinished(&self) -> Vec<(u64, Packet)> {
        if self
            .look()
            .is_err_and(|error| matches!(error, Error::Forked))
        {
            return Vec::new();
        }
        let ledger = self.ledger();
        if let (Some(End::Lost(_) | End::Stale), _) | (None, Some(_)) = (&ledger.end, &ledger.stop)
        {
            return Vec::new();
        }
        // While the watermark is halted no slot is given back, so none of these is written to.
        let seen = self.traffic().halt();
        let packets = (seen + 1..=self.submitted())
            .map(|seq| (seq, self.rings.packet(seq)))
            .collect();
        if ledger.end.is_none() {
            self.traffic().release(seen);
        }
        packets
    }
}
