//! The lane: what a queue's producer, its consumers and its waiters share.
//!
//! Three words carry the traffic, each monotonic. `submitted` is the producer's. `seen` is the
//! highest completion anyone validated; sealing it (one bit) is how close, reset and quarantine
//! end the lane's generation: whoever loses that compare-and-swap learns of the end. `claimed` is
//! how far completions were delivered. A slot is free again once it is behind both.
//!
//! Everything else (failures, their records, the end) is in the ledger, behind a lock that is never held across
//! a wait or a register access.

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

mod trouble;

/// `seen`'s bit that says: this lane ended here.
const SEALED: u64 = 1 << 62;
/// Polls that found nothing before the device is asked whether it is still there.
const PATIENCE: u32 = 1 << 14;

/// States of a lane. Only `RUNNING` is on the path of a command.
const RUNNING: u32 = 1;
const STOPPED: u32 = 2;
const ENDED: u32 = 3;
/// What no fork mark is.
const BARRED: u64 = u64::MAX;

/// What a lane asks of its device, on ledger paths only.
pub(crate) trait Control: Send + Sync + fmt::Debug {
    /// Rings the queue's doorbell again, by KICK.
    fn kick(&self, queue: u32) -> Result<()>;
    /// `Lost` or `Stale`, when the device is gone or was reset. May read registers.
    fn check(&self) -> Result<()>;
    /// The end, when the device is known to be gone or reset. Cheap: reads no register.
    fn over(&self) -> Option<End>;
}

/// A value on a cache line (and its neighbour, which is prefetched with it) of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart<T>(T);

/// What does not change in a lane's life.
#[derive(Debug)]
pub(crate) struct Identity {
    /// The queue's number.
    pub(crate) number: u32,
    /// The device's generation.
    pub(crate) generation: u64,
    /// Whether completions are delivered one by one.
    pub(crate) delivers: bool,
}

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Lane {
    state: AtomicU32,
    mark: ForkMark,
    /// Holds `guard`'s value in the process that made the lane.
    mark_word: &'static AtomicU64,
    /// The fork mark while the lane runs, else `BARRED`: one comparison answers both.
    guard: AtomicU64,
    rings: Rings,
    identity: Identity,
    /// The last packet of the last failure: up to here outcomes must be looked up.
    troubled: AtomicU64,
    idle: AtomicU32,
    doorbell: Doorbell,
    control: Arc<dyn Control>,
    submitted: Apart<AtomicU64>,
    seen: Apart<AtomicU64>,
    claimed: Apart<AtomicU64>,
    ledger: Mutex<Ledger>,
    rung_again: AtomicU64,
    missed: AtomicU64,
}

impl Lane {
    pub(crate) fn new(
        rings: Rings,
        identity: Identity,
        doorbell: Doorbell,
        control: Arc<dyn Control>,
    ) -> Self {
        let mark = ForkMark::here();
        Self {
            state: AtomicU32::new(RUNNING),
            mark,
            mark_word: mark.word(),
            guard: AtomicU64::new(mark.value()),
            rings,
            identity,
            troubled: AtomicU64::new(0),
            idle: AtomicU32::new(0),
            doorbell,
            control,
            submitted: Apart::default(),
            seen: Apart::default(),
            claimed: Apart::default(),
            ledger: Mutex::default(),
            rung_again: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        }
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
    #[inline]
    pub(crate) fn is_running(&self) -> bool {
        self.mark_word.load(Ordering::Relaxed) == self.guard.load(Ordering::Acquire)
    }

    fn enter(&self, state: u32, guard: u64) {
        self.state.store(state, Ordering::Release);
        self.guard.store(guard, Ordering::Release);
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

    /// Writes a packet into its slot, which the caller found free.
    #[inline]
    pub(crate) fn put(&self, seq: u64, packet: &Packet) {
        self.rings.put(seq, packet, &self.submitted.0);
    }

    #[inline]
    pub(crate) fn submitted(&self) -> u64 {
        self.submitted.0.load(Ordering::Acquire)
    }

    /// The highest completion validated so far, without looking.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.0.load(Ordering::Acquire) & !SEALED
    }

    /// The last packet that fits into the ring now.
    pub(crate) fn room(&self) -> u64 {
        let seen = self.seen();
        let free = if self.identity.delivers {
            seen.min(self.claimed.0.load(Ordering::Acquire))
        } else {
            seen
        };
        free + self.rings.depth()
    }

    /// Looks at the completion word and gives the validated watermark.
    #[inline]
    pub(crate) fn look(&self) -> Result<u64> {
        match self.glance() {
            Some(seen) => Ok(seen),
            None => self.look_closely(),
        }
    }

    /// `look` where nothing is unusual; `None`: look closely.
    #[inline(always)]
    pub(crate) fn glance(&self) -> Option<u64> {
        if !self.is_running() {
            return None;
        }
        // In this order: whoever sees `seen` sees a word at least as new.
        let seen = self.seen.0.load(Ordering::Acquire);
        let word = self.rings.word().load(Ordering::Acquire);
        if word == seen {
            self.count_idle();
            return Some(seen & !SEALED);
        }
        if word < seen || word > self.submitted() || self.rings.is_record_due() {
            return None;
        }
        self.seen
            .0
            .compare_exchange(seen, word, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
            .then_some(word)
    }

    /// A poll found nothing: now and then, ask whether the device is still there.
    #[inline]
    fn count_idle(&self) {
        let idle = self.idle.load(Ordering::Relaxed).wrapping_add(1);
        self.idle.store(idle, Ordering::Relaxed);
        if idle.is_multiple_of(PATIENCE) {
            self.note_loss();
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
            Ok(_) if seq > self.troubled.load(Ordering::Acquire) => Some(Ok(())),
            Err(Error::Forked) => Some(Err(Error::Forked)),
            Ok(_) | Err(_) => self.remembered(seq),
        }
    }

    #[cold]
    fn remembered(&self, seq: u64) -> Option<Result<()>> {
        self.ledger().remembered(seq, self.seen())
    }

    /// Whether the delivery of completions must look outcomes up from here on.
    #[inline]
    pub(crate) fn is_troubled(&self, after: u64) -> bool {
        after < self.troubled.load(Ordering::Acquire)
    }

    /// How far completions were delivered.
    #[inline]
    pub(crate) fn claimed(&self) -> u64 {
        self.claimed.0.load(Ordering::Acquire)
    }

    /// Claims completions `from + 1 ..= to` for the caller; false: another thread was faster.
    #[inline]
    pub(crate) fn claim(&self, from: u64, to: u64) -> bool {
        self.claimed
            .0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
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
            let from = self.claimed();
            let submitted = self.submitted();
            let mut count = 0;
            for (index, seq) in (from + 1..=submitted).take(room).enumerate() {
                let Some(outcome) = ledger.verdict(seq, self.seen()) else {
                    break;
                };
                deliver(index, seq, self.rings.cookie(seq), outcome);
                count = index + 1;
            }
            if self.claim(from, from + count as u64) {
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

    /// Packets that the device may still run, with their sequence numbers. A quarantined lane's
    /// count as such until the device is reset; a stopped one's are final.
    pub(crate) fn unfinished(&self) -> std::ops::RangeInclusive<u64> {
        let _ = self.look();
        let ledger = self.ledger();
        #[expect(clippy::reversed_empty_ranges, reason = "an empty range is meant")]
        let none = 1..=0;
        match (&ledger.end, &ledger.stop) {
            (Some(End::Lost(_) | End::Stale), _) | (None, Some(_)) => none,
            _ => self.seen() + 1..=self.submitted(),
        }
    }
}
