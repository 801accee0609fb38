//! The lane: what a queue's producer, its consumers and its waiters share.
//!
//! Three words carry the traffic, each monotonic. `submitted` is the producer's. `seen` is the
//! highest completion anyone validated; sealing it (one bit) is how close, reset and quarantine
//! end the lane's generation: whoever loses that compare-and-swap learns of the end. `claimed` is
//! how far completions were delivered. A slot is free again once it is behind both.
//!
//! Everything else (failures, their records, the end) is behind `slow`, which is never held across
//! a wait or a register access.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::packets::Packet;
use jalapeno_hw::queue::COMPLETION_STOPPED;

use crate::error::{Error, Fault, Result};
use crate::error_ring::{self, Breach, Expected};
use crate::fork::ForkMark;
use crate::mmio::Doorbell;
use crate::ring::Rings;

/// `seen`'s bit that says: this lane ended here.
const SEALED: u64 = 1 << 62;
/// Polls that found nothing before the device is asked whether it is still there.
const PATIENCE: u32 = 1 << 14;
/// Failures whose outcome is kept for late waiters.
const HISTORY: usize = 1024;

/// States of a lane. Only `RUNNING` is on the path of a command.
const RUNNING: u32 = 1;
const STOPPED: u32 = 2;
const ENDED: u32 = 3;
/// What no fork mark is.
const BARRED: u64 = u64::MAX;

/// What a lane asks of its device, on slow paths only.
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

/// Why a lane ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// Its queue was closed.
    Closed,
    /// The device is gone.
    Lost(&'static str),
    /// The device was reset.
    Stale,
    /// The device broke the specification.
    Quarantined(Breach),
}

impl End {
    fn error(&self) -> Error {
        match self {
            Self::Closed => Error::Closed { what: "the queue" },
            Self::Lost(why) => Error::Lost { why },
            Self::Stale => Error::Stale { what: "the queue" },
            Self::Quarantined((code, what)) => Error::Protocol {
                code: *code,
                what: what.clone(),
            },
        }
    }
}

/// A failure that stopped the queue: packet `first` failed, those to `last` were cancelled.
#[derive(Clone, Debug)]
struct Failure {
    first: u64,
    last: u64,
    fault: Fault,
}

/// The failure that the queue stands at.
#[derive(Clone, Debug)]
struct Stop {
    at: u64,
    fault: Fault,
    /// RESUME, once it was written.
    resume: Option<u64>,
}

/// What became of a job.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a failure is rare, and boxing it would allocate"
)]
pub(crate) enum Outcome {
    /// It succeeded.
    Done,
    /// It failed.
    Failed(Fault),
    /// It never ran.
    Cancelled,
    /// The lane ended before it did.
    Ended(End),
}

impl Outcome {
    pub(crate) fn into_result(self) -> Result<()> {
        match self {
            Self::Done => Ok(()),
            Self::Failed(fault) => Err(Error::Fault(Box::new(fault))),
            Self::Cancelled => Err(Error::Cancelled),
            Self::Ended(end) => Err(end.error()),
        }
    }
}

#[derive(Debug, Default)]
struct Slow {
    stop: Option<Stop>,
    history: VecDeque<Failure>,
    /// The last packet of the last failure that fell out of `history`.
    forgotten: u64,
    errors_read: u64,
    end: Option<End>,
    failed: u64,
    cancelled: u64,
}

/// How a queue's jobs ended. `submitted = succeeded + failed + cancelled + unfinished`, always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets submitted.
    pub submitted: u64,
    /// Completed.
    pub succeeded: u64,
    /// Failed by themselves, or lost with the device.
    pub failed: u64,
    /// Cancelled because of a failure before them, by a reset or by closing.
    pub cancelled: u64,
    /// Not finished yet.
    pub unfinished: u64,
    /// Doorbells that were lost: ringing again helped.
    pub doorbells_rung_again: u64,
    /// Interrupts that did not come: polling found the work done.
    pub interrupts_missed: u64,
}

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
    slow: Mutex<Slow>,
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
            slow: Mutex::default(),
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
        let slow = self.slow();
        let submitted = self.submitted();
        slow.stop.as_ref().is_some_and(|stop| stop.at > submitted)
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

    fn slow(&self) -> MutexGuard<'_, Slow> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `look`, where something is unusual or another thread was faster.
    #[cold]
    #[inline(never)]
    pub(crate) fn look_closely(&self) -> Result<u64> {
        loop {
            self.mark.check()?;
            match self.state.load(Ordering::Acquire) {
                RUNNING => {}
                STOPPED => {
                    self.check_standstill();
                    if self.is_stopped() {
                        return Err(Error::Stopped);
                    }
                    continue;
                }
                _ => return Err(self.ending()),
            }
            let seen = self.seen.0.load(Ordering::Acquire);
            let word = self.rings.word().load(Ordering::Acquire);
            if word == seen {
                return Ok(seen & !SEALED);
            }
            if self.rings.is_record_due() || word & COMPLETION_STOPPED != 0 {
                if let Some(word) = self.note_failure() {
                    return Ok(word);
                }
            } else if seen & SEALED == 0 {
                self.advance(seen, word);
            }
        }
    }

    /// Moves `seen` to a word that was loaded after it, or ends the lane if it cannot be.
    fn advance(&self, seen: u64, word: u64) {
        let submitted = self.submitted();
        let queue = self.identity.number;
        if word < seen {
            self.end(End::Quarantined((
                FaultCode::SequenceBackwards,
                format!("queue {queue} completed {word} after {seen}"),
            )));
        } else if word > submitted {
            self.end(End::Quarantined((
                FaultCode::SequenceBeyond,
                format!("queue {queue} completed {word}, submitted were {submitted}"),
            )));
        } else {
            let _ = self
                .seen
                .0
                .compare_exchange(seen, word, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// While stopped, the completion word may not move.
    fn check_standstill(&self) {
        let slow = self.slow();
        let Some(Stop {
            at, resume: None, ..
        }) = slow.stop
        else {
            return;
        };
        let word = self.rings.word().load(Ordering::Acquire);
        drop(slow);
        if word != (at - 1) | COMPLETION_STOPPED {
            self.end(End::Quarantined((
                FaultCode::SequenceBeyond,
                format!(
                    "queue {} stopped at packet {at}, then its completion word became {word:#x}",
                    self.identity.number
                ),
            )));
        }
    }

    /// The word says "stopped" or a record stands in the error ring: takes the failure in. Gives
    /// the watermark where the record is there and the word not yet.
    fn note_failure(&self) -> Option<u64> {
        let mut slow = self.slow();
        if self.state.load(Ordering::Acquire) != RUNNING {
            return None;
        }
        let seen = self.seen.0.load(Ordering::Acquire);
        let word = self.rings.word().load(Ordering::Acquire);
        let stopped = word & COMPLETION_STOPPED != 0;
        let done = word & !COMPLETION_STOPPED;
        let submitted = self.submitted();
        if done < seen || done > submitted {
            drop(slow);
            // `advance` says which, and ends the lane.
            self.advance(seen, done);
            return None;
        }
        let expected = Expected {
            index: slow.errors_read,
            queue: self.identity.number,
            generation: self.identity.generation,
            stopped_at: done + 1,
            submitted,
        };
        if !stopped {
            // The record comes before the word. Until the word follows, completions up to the
            // failed packet count, and none beyond it.
            match error_ring::foretold(&self.rings, &expected) {
                Ok(failed) if failed > done => {
                    self.seen.0.fetch_max(done, Ordering::AcqRel);
                    return Some(done);
                }
                Ok(failed) => {
                    let breach = (
                        FaultCode::SequenceBeyond,
                        format!(
                            "queue {} completed {done}, past packet {failed} that failed",
                            self.identity.number
                        ),
                    );
                    self.end_with(&mut slow, End::Quarantined(breach));
                }
                Err(breach) => self.end_with(&mut slow, End::Quarantined(breach)),
            }
            return None;
        }
        match error_ring::read(&self.rings, &expected) {
            Ok(fault) => {
                slow.errors_read += 1;
                self.rings.expect_record(slow.errors_read);
                self.seen.0.fetch_max(done, Ordering::AcqRel);
                log::warn!(
                    "queue {} stopped at packet {}: {fault}",
                    self.identity.number,
                    done + 1
                );
                slow.stop = Some(Stop {
                    at: done + 1,
                    fault,
                    resume: None,
                });
                self.enter(STOPPED, BARRED);
            }
            Err(breach) => self.end_with(&mut slow, End::Quarantined(breach)),
        }
        None
    }

    /// Ends the lane; only the first end counts.
    pub(crate) fn end(&self, end: End) {
        let mut slow = self.slow();
        self.end_with(&mut slow, end);
    }

    fn end_with(&self, slow: &mut Slow, end: End) {
        if slow.end.is_some() {
            return;
        }
        match &end {
            End::Closed => {}
            End::Quarantined((code, what)) => log::error!(
                "{}: {what}; queue {} is quarantined",
                code.name(),
                self.identity.number
            ),
            other => log::error!("queue {} ended: {}", self.identity.number, other.error()),
        }
        if let Some(stop) = slow.stop.take()
            && stop.resume.is_none()
        {
            self.settle(slow, &stop, self.submitted());
        }
        slow.end = Some(end);
        self.enter(ENDED, BARRED);
        self.seen.0.fetch_or(SEALED, Ordering::AcqRel);
    }

    /// The error of a lane that ended.
    #[cold]
    fn ending(&self) -> Error {
        self.slow().end.as_ref().map_or(Error::Stopped, End::error)
    }

    /// Why no packet can be submitted now.
    #[cold]
    pub(crate) fn refusal(&self) -> Error {
        match self.look() {
            Ok(_) => Error::Full,
            Err(error) => error,
        }
    }

    /// Makes a failure final: `at` failed, those behind it to `last` are cancelled.
    fn settle(&self, slow: &mut Slow, stop: &Stop, last: u64) {
        if last < stop.at {
            return; // a reset that hit nothing
        }
        let reset = stop.fault.code == Ok(FaultCode::QueueReset);
        slow.failed += u64::from(!reset);
        slow.cancelled += last - stop.at + u64::from(reset);
        slow.history.push_back(Failure {
            first: stop.at,
            last,
            fault: stop.fault.clone(),
        });
        let claimed = self.claimed.0.load(Ordering::Acquire);
        while slow.history.len() > HISTORY
            && let Some(oldest) = slow.history.front()
            && !(self.identity.delivers && oldest.last > claimed)
        {
            slow.forgotten = oldest.last;
            slow.history.pop_front();
        }
        self.troubled.store(last, Ordering::Release);
    }

    /// The fault that the queue stands at.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.slow().stop.as_ref().map(|stop| stop.fault.clone())
    }

    /// Prepares to resume: every packet submitted so far is final. Gives the packet stopped at and
    /// the value for RESUME; the caller is the producer, so that nothing is submitted meanwhile.
    pub(crate) fn begin_resume(&self) -> Option<(u64, u64)> {
        let mut slow = self.slow();
        let mut stop = slow.stop.clone()?;
        let resume = match stop.resume {
            Some(resume) => resume,
            None => {
                let last = self.submitted();
                // Before RESUME is written: whoever sees the word it leads to sees the failure.
                self.settle(&mut slow, &stop, last);
                last + 1
            }
        };
        stop.resume = Some(resume);
        let at = stop.at;
        slow.stop = Some(stop);
        Some((at, resume))
    }

    /// The device resumed: the queue runs.
    pub(crate) fn finish_resume(&self, resume: u64) {
        let mut slow = self.slow();
        if slow.end.is_some() {
            return;
        }
        self.seen.0.fetch_max(resume - 1, Ordering::AcqRel);
        slow.stop = None;
        self.enter(RUNNING, self.mark.value());
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
        let slow = self.slow();
        if seq <= slow.forgotten {
            return Some(Err(Error::Invalid {
                what: format!(
                    "what became of packet {seq} is no longer kept: {HISTORY} failures came after it"
                ),
            }));
        }
        self.verdict(&slow, seq).map(Outcome::into_result)
    }

    /// The outcome of a job, under the lock; `None`: not finished.
    fn verdict(&self, slow: &Slow, seq: u64) -> Option<Outcome> {
        let within = |failure: &&Failure| failure.first <= seq && seq <= failure.last;
        if let Some(failure) = slow.history.iter().rev().find(within) {
            let reset = failure.fault.code == Ok(FaultCode::QueueReset);
            return Some(if failure.first == seq && !reset {
                Outcome::Failed(failure.fault.clone())
            } else {
                Outcome::Cancelled
            });
        }
        if seq <= self.seen() {
            return Some(Outcome::Done);
        }
        if let Some(stop) = &slow.stop {
            let reset = stop.fault.code == Ok(FaultCode::QueueReset);
            return Some(if stop.at == seq && !reset {
                Outcome::Failed(stop.fault.clone())
            } else {
                Outcome::Cancelled
            });
        }
        slow.end.clone().map(Outcome::Ended)
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
            let slow = self.slow();
            let from = self.claimed();
            let submitted = self.submitted();
            let mut count = 0;
            for (index, seq) in (from + 1..=submitted).take(room).enumerate() {
                let Some(outcome) = self.verdict(&slow, seq) else {
                    break;
                };
                deliver(index, seq, self.rings.cookie(seq), outcome);
                count = index + 1;
            }
            if self.claim(from, from + count as u64) {
                if count == 0 && slow.end.is_some() && from == submitted {
                    drop(slow);
                    return Err(self.ending());
                }
                return Ok(count);
            }
        }
    }

    /// How the jobs ended.
    pub(crate) fn counters(&self) -> Counters {
        let slow = self.slow();
        let submitted = self.submitted();
        let seen = self.seen();
        let (mut failed, mut cancelled) = (slow.failed, slow.cancelled);
        // Failures that were resumed lie below `seen`; those being resumed, and one that ended
        // with the lane, above.
        let settled_above: u64 = slow
            .history
            .iter()
            .rev()
            .take_while(|failure| failure.last > seen)
            .map(|failure| failure.last - failure.first + 1)
            .sum();
        let succeeded = seen + settled_above - failed - cancelled;
        let mut unfinished = submitted.saturating_sub(seen + settled_above);
        if let Some(stop) = &slow.stop
            && stop.resume.is_none()
            && unfinished > 0
        {
            let reset = stop.fault.code == Ok(FaultCode::QueueReset);
            failed += u64::from(!reset);
            cancelled += unfinished - u64::from(!reset);
            unfinished = 0;
        }
        match slow.end {
            Some(End::Closed) => cancelled += std::mem::take(&mut unfinished),
            Some(_) => failed += std::mem::take(&mut unfinished),
            None => {}
        }
        Counters {
            submitted,
            succeeded,
            failed,
            cancelled,
            unfinished,
            doorbells_rung_again: self.rung_again.load(Ordering::Relaxed),
            interrupts_missed: self.missed.load(Ordering::Relaxed),
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
        let slow = self.slow();
        #[expect(clippy::reversed_empty_ranges, reason = "an empty range is meant")]
        let none = 1..=0;
        match (&slow.end, &slow.stop) {
            (Some(End::Lost(_) | End::Stale), _) | (None, Some(_)) => none,
            _ => self.seen() + 1..=self.submitted(),
        }
    }
}
