//! Trouble on a lane: failures that stop it, breaches and ends, and how it runs again.

use std::sync::atomic::Ordering;

use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::queue::COMPLETION_STOPPED;

use super::{ENDED, Lane, RUNNING, STOPPED};
use crate::error::{Error, Fault, Result};
use crate::error_ring::{self, Breach, Expected};
use crate::ledger::{End, Ledger, Stop};

/// What a device's word or record comes to.
type Judged<T> = std::result::Result<T, Breach>;

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
            let Some(seen) = self.traffic().moving() else {
                // Another thread is ending or stopping it: wait for that.
                drop(self.ledger());
                continue;
            };
            // Loaded after `seen`, so at least as new.
            let word = self.word();
            if word == seen {
                self.note_loss();
                if self.is_running() {
                    return Ok(seen);
                }
            } else if self.rings.is_record_due() || word & COMPLETION_STOPPED != 0 {
                if let Some(word) = self.note_failure() {
                    return Ok(word);
                }
            } else if let Some(breach) = self.breach(seen, word) {
                self.end(End::Quarantined(breach));
            } else if self.traffic().advance(seen, word) {
                return Ok(word);
            }
        }
    }

    /// What is wrong with a word that was loaded after `seen`.
    fn breach(&self, seen: u64, word: u64) -> Option<Breach> {
        let submitted = self.submitted();
        let queue = self.identity.number;
        if word < seen {
            let what = format!("queue {queue} completed {word} after {seen}");
            Some((FaultCode::SequenceBackwards, what))
        } else if word > submitted {
            let what = format!("queue {queue} completed {word}, submitted were {submitted}");
            Some((FaultCode::SequenceBeyond, what))
        } else {
            None
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
        let word = self.word();
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
        let told = self.read_failure(&mut ledger);
        told.unwrap_or_else(|breach| {
            self.end_with(&mut ledger, End::Quarantined(breach));
            None
        })
    }

    fn read_failure(&self, ledger: &mut Ledger) -> Judged<Option<u64>> {
        // From here on nobody moves the watermark on the strength of an older word.
        let seen = self.traffic().halt();
        let word = self.word();
        let done = word & !COMPLETION_STOPPED;
        if let Some(breach) = self.breach(seen, done) {
            return Err(breach);
        }
        let expected = Expected {
            index: ledger.errors_read,
            queue: self.identity.number,
            generation: self.identity.generation,
            stopped_at: done + 1,
            submitted: self.submitted(),
        };
        if word & COMPLETION_STOPPED == 0 {
            // The record comes before the word. Until the word follows, completions up to the
            // failed packet count, and none beyond it.
            let failed = error_ring::foretold(&self.rings, &expected)?;
            if failed <= done {
                let queue = expected.queue;
                let what =
                    format!("queue {queue} completed {done}, past packet {failed} that failed");
                return Err((FaultCode::SequenceBeyond, what));
            }
            self.traffic().release(done);
            return Ok(Some(done));
        }
        let fault = error_ring::read(&self.rings, &expected)?;
        let at = expected.stopped_at;
        log::warn!("queue {} stopped at packet {at}: {fault}", expected.queue);
        self.traffic().set_halted(done);
        ledger.stop = Some(Stop {
            at,
            fault,
            resume: None,
        });
        self.bar(STOPPED);
        ledger.errors_read += 1;
        let absent = self.rings.expect_record(ledger.errors_read);
        self.traffic().expect_record(absent);
        Ok(None)
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
        self.traffic().halt();
        if let Some(stop) = ledger.stop.take()
            && stop.resume.is_none()
        {
            self.settle(ledger, &stop, self.submitted());
        }
        ledger.end = Some(end);
        self.bar(ENDED);
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
            self.traffic().claimed()
        } else {
            u64::MAX
        };
        ledger.settle(stop, last, needed);
        self.traffic().set_troubled(last);
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
        self.traffic().release(resume - 1);
        ledger.stop = None;
        self.run();
    }
}
