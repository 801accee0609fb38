//! The ledger: what a lane's failures and its end made of each job.
//!
//! Plain data behind the lane's lock; nothing here looks at the device.

use std::collections::VecDeque;

use jalapeno_hw::faults::FaultCode;

use crate::error::{Error, Fault, Result};
use crate::error_ring::Breach;

/// Failures whose outcome is kept for late waiters.
const HISTORY: usize = 1024;

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
    pub(crate) fn error(&self) -> Error {
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

/// What became of a job.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// It succeeded.
    Done,
    /// It failed.
    Failed(Box<Fault>),
    /// It never ran.
    Cancelled,
    /// The lane ended before it did.
    Ended(End),
}

impl Outcome {
    pub(crate) fn into_result(self) -> Result<()> {
        match self {
            Self::Done => Ok(()),
            Self::Failed(fault) => Err(Error::Fault(fault)),
            Self::Cancelled => Err(Error::Cancelled),
            Self::Ended(end) => Err(end.error()),
        }
    }
}

/// The failure that the queue stands at.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    pub(crate) at: u64,
    pub(crate) fault: Fault,
    /// RESUME, once it was written.
    pub(crate) resume: Option<u64>,
}

/// A failure that stopped the queue: packet `first` failed, those to `last` were cancelled.
#[derive(Clone, Debug)]
struct Failure {
    first: u64,
    last: u64,
    fault: Fault,
}

/// A reset fails no packet of its own accord: the one it hit counts as cancelled.
fn is_reset(fault: &Fault) -> bool {
    fault.code == Ok(FaultCode::QueueReset)
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

/// See the file's head.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) stop: Option<Stop>,
    pub(crate) end: Option<End>,
    /// Error records read.
    pub(crate) errors_read: u64,
    history: VecDeque<Failure>,
    /// The last packet of the last failure that fell out of `history`.
    forgotten: u64,
    failed: u64,
    cancelled: u64,
}

impl Ledger {
    /// Makes a failure final: its packet failed, those behind it to `last` are cancelled. Failures
    /// that end behind `needed` are never forgotten.
    pub(crate) fn settle(&mut self, stop: &Stop, last: u64, needed: u64) {
        let reset = is_reset(&stop.fault);
        self.failed += u64::from(!reset);
        self.cancelled += last - stop.at + u64::from(reset);
        self.history.push_back(Failure {
            first: stop.at,
            last,
            fault: stop.fault.clone(),
        });
        while self.history.len() > HISTORY
            && let Some(oldest) = self.history.front()
            && oldest.last <= needed
        {
            self.forgotten = oldest.last;
            self.history.pop_front();
        }
    }

    /// The outcome of a job, for a waiter who may come late; `None`: not finished.
    pub(crate) fn remembered(&self, seq: u64, seen: u64) -> Option<Result<()>> {
        if seq <= self.forgotten {
            return Some(Err(Error::Invalid {
                what: format!(
                    "what became of packet {seq} is no longer kept: {HISTORY} failures came after it"
                ),
            }));
        }
        self.verdict(seq, seen).map(Outcome::into_result)
    }

    /// The outcome of a job, `seen` being the last one completed; `None`: not finished.
    pub(crate) fn verdict(&self, seq: u64, seen: u64) -> Option<Outcome> {
        let within = |failure: &&Failure| failure.first <= seq && seq <= failure.last;
        let fell = |first: u64, fault: &Fault| {
            if first == seq && !is_reset(fault) {
                Outcome::Failed(Box::new(fault.clone()))
            } else {
                Outcome::Cancelled
            }
        };
        if let Some(failure) = self.history.iter().rev().find(within) {
            return Some(fell(failure.first, &failure.fault));
        }
        if seq <= seen {
            return Some(Outcome::Done);
        }
        if let Some(stop) = &self.stop {
            return Some(fell(stop.at, &stop.fault));
        }
        self.end.clone().map(Outcome::Ended)
    }

    /// How the jobs ended.
    pub(crate) fn counters(&self, submitted: u64, seen: u64) -> Counters {
        let (mut failed, mut cancelled) = (self.failed, self.cancelled);
        // Failures that were resumed lie below `seen`; those being resumed, and one that ended
        // with the lane, above.
        let settled_above: u64 = self
            .history
            .iter()
            .rev()
            .take_while(|failure| failure.last > seen)
            .map(|failure| failure.last - failure.first + 1)
            .sum();
        let succeeded = seen + settled_above - failed - cancelled;
        let mut unfinished = submitted.saturating_sub(seen + settled_above);
        if let Some(stop) = &self.stop
            && stop.resume.is_none()
            && unfinished > 0
        {
            let reset = is_reset(&stop.fault);
            failed += u64::from(!reset);
            cancelled += unfinished - u64::from(!reset);
            unfinished = 0;
        }
        match self.end {
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
            ..Counters::default()
        }
    }
}
