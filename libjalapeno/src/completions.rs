//! Completions: the consumer's side of a queue, for any number of threads.

use std::sync::Arc;

pub use crate::completion::{Completion, Status};
use crate::error::{Error, Fault, Result};
use crate::lane::{Lane, Way};
pub use crate::ledger::Counters;
use crate::ledger::End;
use crate::units::Seq;
use crate::waker::Waker;

mod habit;
mod minder;
mod wait;

use wait::Shared;

/// The consumer's side of a queue. Cheap to clone; every method may be called from any thread at
/// any time. It outlives its `Queue`: waits then end with `Closed`.
#[derive(Clone, Debug)]
pub struct Completions {
    lane: Way,
    delivers: bool,
    shared: Arc<Shared>,
}

impl Completions {
    pub(crate) fn new(lane: Arc<Lane>, waker: Arc<Waker>) -> Self {
        Self {
            delivers: lane.identity().delivers,
            shared: Arc::new(Shared::new(Arc::clone(&lane), waker)),
            lane: Way::new(lane),
        }
    }

    pub(crate) fn lane(&self) -> &Lane {
        &self.lane
    }

    /// The last completed sequence number, validated. Makes no system call.
    ///
    /// # Errors
    /// `Stopped` after a failure (`completed` gives the number all the same), `Closed`, `Lost`,
    /// `Stale`, `Protocol`, `Forked`.
    #[inline]
    pub fn poll(&self) -> Result<Seq> {
        match self.poll_quickly() {
            Some(seen) => Ok(seen),
            None => self.poll_closely(),
        }
    }

    /// `poll` where nothing is unusual, without a call on its way; `None`: `poll` says why.
    #[inline(always)]
    pub fn poll_quickly(&self) -> Option<Seq> {
        self.lane.traffic().glance().map(Seq)
    }

    #[cold]
    #[inline(never)]
    fn poll_closely(&self) -> Result<Seq> {
        self.lane.look_closely().map(Seq)
    }

    /// The last completed sequence number that was validated so far; looks at nothing.
    #[must_use]
    pub fn completed(&self) -> Seq {
        Seq(self.lane.seen())
    }

    /// The last submitted sequence number.
    #[must_use]
    pub fn submitted(&self) -> Seq {
        Seq(self.lane.submitted())
    }

    /// Delivers completions in order, each exactly once over all callers, and gives how many; 0:
    /// none right now. Makes no system call. For queues made with `Delivery::Each`.
    ///
    /// # Errors
    /// `Invalid` for a queue that is waited for by sequence. `Closed`, `Lost`, `Stale`,
    /// `Protocol`, once every job's end has been delivered; `Forked`.
    #[inline]
    pub fn reap(&self, out: &mut [Completion]) -> Result<usize> {
        match self.reap_quickly(out) {
            Some(count) => Ok(count),
            None => self.reap_slowly(out),
        }
    }

    /// `reap` where nothing is unusual, without a call on its way; `None`: nothing was delivered,
    /// and `reap` does it or says why not.
    #[inline(always)]
    pub fn reap_quickly(&self, out: &mut [Completion]) -> Option<usize> {
        if !self.delivers {
            return None;
        }
        let traffic = self.lane.traffic();
        // In this order: `seen` is never behind `claimed`.
        let from = traffic.claimed();
        let seen = traffic.glance()?;
        if traffic.is_troubled(from) {
            return None;
        }
        let ready = usize::try_from(seen.wrapping_sub(from)).unwrap_or(usize::MAX);
        let count = ready.min(out.len());
        let (mut at, mut seq) = (0, from);
        while at < count {
            seq = seq.wrapping_add(1);
            out[at] = Completion {
                seq: Seq(seq),
                cookie: self.lane.rings().cookie(seq),
                status: Status::Done,
                code: 0,
            };
            at += 1;
        }
        // Cookies were read before the slots are given back.
        (count == 0 || traffic.claim(from, seq)).then_some(count)
    }

    #[cold]
    #[inline(never)]
    fn reap_slowly(&self, out: &mut [Completion]) -> Result<usize> {
        if !self.delivers {
            return Err(not_delivering());
        }
        self.lane
            .deliver_slowly(out.len(), |index, seq, cookie, outcome| {
                if let Some(place) = out.get_mut(index) {
                    *place = Completion::new(seq, cookie, &outcome);
                }
            })
    }

    /// The fault that the queue stands at; `None`: it is not stopped.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        let _ = self.lane.look();
        self.lane.fault()
    }

    /// How the jobs ended: `submitted = succeeded + failed + cancelled + unfinished`.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let _ = self.lane.look();
        self.lane.counters()
    }

    /// Ends the queue for every thread, at once: waits for what is not done return `Closed`,
    /// whoever sleeps is woken, `reap` delivers what is left as cancelled, and nothing is submitted
    /// any more. The device keeps the queue, and memory that unfinished jobs name stays in use,
    /// until the `Queue` is dropped. May be called from any thread, and again.
    pub fn end(&self) {
        if !self.lane.is_ours() {
            return; // a child of fork(): the queue is its parent's
        }
        // What is done by now counts as done.
        let _ = self.lane.look();
        self.lane.end(End::Closed);
        self.wake_all();
    }
}

fn not_delivering() -> Error {
    Error::Invalid {
        what: "reap: this queue is waited for by sequence; make it with Delivery::Each".into(),
    }
}
