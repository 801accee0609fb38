//! Trouble on a lane: failures that stop it, breaches and ends, and how it runs again.

use std::sync::atomic::Ordering;

use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::queue::COMPLETION_STOPPED;

use super::{BARRED, ENDED, Lane, RUNNING, SEALED, STOPPED};
use crate::error::{Error, Fault, Result};
use crate::error_ring::{self, Expected};
use crate::ledger::{End, Ledger, Stop};

impl Lane {
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
        let ledger = self.ledger();
        let Some(Stop {
            at, resume: None, ..
        }) = ledger.stop
        else {
            return;
        };
        let word = self.rings.word().load(Ordering::Acquire);
        drop(ledger);
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
        let mut ledger = self.ledger();
        if self.state.load(Ordering::Acquire) != RUNNING {
            return None;
        }
        let seen = self.seen.0.load(Ordering::Acquire);
        let word = self.rings.word().load(Ordering::Acquire);
        let stopped = word & COMPLETION_STOPPED != 0;
        let done = word & !COMPLETION_STOPPED;
        let submitted = self.submitted();
        if done < seen || done > submitted {
            drop(ledger);
            // `advance` says which, and ends the lane.
            self.advance(seen, done);
            return None;
        }
        let expected = Expected {
            index: ledger.errors_read,
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
                    self.end_with(&mut ledger, End::Quarantined(breach));
                }
                Err(breach) => self.end_with(&mut ledger, End::Quarantined(breach)),
            }
            return None;
        }
        match error_ring::read(&self.rings, &expected) {
            Ok(fault) => {
                ledger.errors_read += 1;
                self.rings.expect_record(ledger.errors_read);
                self.seen.0.fetch_max(done, Ordering::AcqRel);
                log::warn!(
                    "queue {} stopped at packet {}: {fault}",
                    self.identity.number,
                    done + 1
                );
                ledger.stop = Some(Stop {
                    at: done + 1,
                    fault,
                    resume: None,
                });
                self.enter(STOPPED, BARRED);
            }
            Err(breach) => self.end_with(&mut ledger, End::Quarantined(breach)),
        }
        None
    }

    /// Ends the lane; only the first end counts.
    pub(crate) fn end(&self, end: End) {
        let mut ledger = self.ledger();
        self.end_with(&mut ledger, end);
    }

    fn end_with(&self, ledger: &mut Ledger, end: End) {
        if ledger.end.is_some() {
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
        if let Some(stop) = ledger.stop.take()
            && stop.resume.is_none()
        {
            self.settle(ledger, &stop, self.submitted());
        }
        ledger.end = Some(end);
        self.enter(ENDED, BARRED);
        self.seen.0.fetch_or(SEALED, Ordering::AcqRel);
    }

    /// The error of a lane that ended.
    #[cold]
    pub(super) fn ending(&self) -> Error {
        self.ledger()
            .end
            .as_ref()
            .map_or(Error::Stopped, End::error)
    }

    /// Why no packet can be submitted now.
    #[cold]
    pub(crate) fn refusal(&self) -> Error {
        match self.look() {
            Ok(_) => Error::Full,
            Err(error) => error,
        }
    }

    /// Makes a failure final: `stop.at` failed, those behind it to `last` are cancelled.
    fn settle(&self, ledger: &mut Ledger, stop: &Stop, last: u64) {
        if last < stop.at {
            return; // a reset that hit nothing
        }
        let needed = if self.identity.delivers {
            self.claimed()
        } else {
            u64::MAX
        };
        ledger.settle(stop, last, needed);
        self.troubled.store(last, Ordering::Release);
    }

    /// The fault that the queue stands at.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.ledger().stop.as_ref().map(|stop| stop.fault.clone())
    }

    /// Prepares to resume: every packet submitted so far is final. Gives the packet stopped at and
    /// the value for RESUME; the caller is the producer, so that nothing is submitted meanwhile.
    pub(crate) fn begin_resume(&self) -> Option<(u64, u64)> {
        let mut ledger = self.ledger();
        let mut stop = ledger.stop.clone()?;
        let resume = match stop.resume {
            Some(resume) => resume,
            None => {
                let last = self.submitted();
                // Before RESUME is written: whoever sees the word it leads to sees the failure.
                self.settle(&mut ledger, &stop, last);
                last + 1
            }
        };
        stop.resume = Some(resume);
        let at = stop.at;
        ledger.stop = Some(stop);
        Some((at, resume))
    }

    /// The device resumed: the queue runs.
    pub(crate) fn finish_resume(&self, resume: u64) {
        let mut ledger = self.ledger();
        if ledger.end.is_some() {
            return;
        }
        self.seen.0.fetch_max(resume - 1, Ordering::AcqRel);
        ledger.stop = None;
        self.enter(RUNNING, self.mark.value());
    }
}
