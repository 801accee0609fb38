//! Waiting: how threads and epoll loops learn that a job is done.
//!
//! A waiter polls for a moment where that is worth it, then arms the interrupt for the lowest sequence
//! number that anyone awaits, looks once more and sleeps. It trusts neither the interrupt nor the doorbell
//! to arrive.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Completions;
use super::habit::Habit;
use super::minder::Minder;
use crate::error::{Error, Result};
use crate::lane::Lane;
use crate::order;
use crate::units::Seq;
use crate::waker::{Wake, Waker};

/// Looks between two readings of the clock while polling.
const LOOKS: u32 = 32;
/// Sleepers look for themselves this often, so that a missing interrupt or a lost doorbell is
/// survived. Host interface 5.
pub(super) const BACKSTOP: Duration = Duration::from_millis(100);

/// What the lane's waiters wait for.
#[derive(Debug, Default)]
struct Awaited {
    waiters: Vec<u64>,
    /// The application's own, by `arm`.
    application: Option<u64>,
}

impl Awaited {
    fn lowest(&self) -> u64 {
        let waiters = self.waiters.iter().copied();
        waiters.chain(self.application).min().unwrap_or(0)
    }
}

/// What the clones of a `Completions` share.
#[derive(Debug)]
pub(super) struct Shared {
    awaited: Mutex<Awaited>,
    habit: Habit,
    waker: Arc<Waker>,
    minder: Minder,
}

impl Shared {
    pub(super) fn new(lane: Arc<Lane>, waker: Arc<Waker>) -> Self {
        Self {
            awaited: Mutex::default(),
            habit: Habit::default(),
            minder: Minder::new(lane, Arc::clone(&waker)),
            waker,
        }
    }
}

impl Completions {
    /// Waits until `seq` is done: polls briefly, unless the queue's last waits were long, then sleeps
    /// until the interrupt. A zero timeout looks once; `None` waits without end.
    ///
    /// # Errors
    /// The job's own end: `Fault`, `Cancelled`. `Late` after the timeout: the job's buffers stay
    /// in use until it is done or the queue is cancelled. `Wanted` where the host wants the device
    /// back while this sleeps: `Device::give_back` it. It is told once; who waits anew waits on.
    /// `Closed`, `Lost`, `Stale`, `Protocol`, `Forked`. `Invalid` for a number that was not submitted.
    #[inline]
    pub fn wait(&self, seq: Seq, timeout: Option<Duration>) -> Result<()> {
        if seq.0 != 0
            && seq.0 <= self.lane.submitted()
            && let Some(outcome) = self.lane.outcome(seq.0)
        {
            return outcome;
        }
        self.wait_longer(seq.0, timeout)
    }

    fn wait_longer(&self, seq: u64, timeout: Option<Duration>) -> Result<()> {
        self.lane.check_fork()?;
        let submitted = self.lane.submitted();
        if seq == 0 || seq > submitted {
            return Err(Error::Invalid {
                what: format!("packet {seq} was not submitted: the last one is {submitted}"),
            });
        }
        let patience = Patience {
            begin: Instant::now(),
            timeout,
        };
        let spin = self.shared.habit.spin();
        let spin = timeout.map_or(spin, |timeout| timeout.min(spin));
        while !spin.is_zero() && patience.begin.elapsed() < spin {
            for _ in 0..LOOKS {
                if let Some(outcome) = self.lane.outcome(seq) {
                    self.shared.habit.note(Duration::ZERO, false);
                    return outcome;
                }
                std::hint::spin_loop();
            }
        }
        self.awaited().waiters.push(seq);
        let outcome = self.sleep_until_done(seq, &patience);
        let mut awaited = self.awaited();
        if let Some(at) = awaited.waiters.iter().position(|&other| other == seq) {
            awaited.waiters.swap_remove(at);
        }
        drop(awaited);
        let gave_up = matches!(outcome, Err(Error::Late { .. }));
        self.shared.habit.note(patience.begin.elapsed(), gave_up);
        outcome
    }

    fn sleep_until_done(&self, seq: u64, patience: &Patience) -> Result<()> {
        let waker = &self.shared.waker;
        // Queue 0's waits are the library's own, and short.
        let tells = self.lane.identity().number != 0 && !self.lane.control().wish_is_known();
        // The queue's own progress, and since when there is none.
        let mut quiet = (self.lane.seen(), patience.begin);
        loop {
            let epoch = waker.epoch();
            self.arm_lowest();
            order::between_arm_and_look();
            if let Some(outcome) = self.lane.outcome(seq) {
                return outcome;
            }
            let left = match patience.left() {
                Ok(left) => left,
                Err(late) => {
                    // Whoever only ever looks learns here that nobody is there any more.
                    self.lane.note_loss();
                    return self.lane.outcome(seq).unwrap_or(Err(late));
                }
            };
            let wake = waker.sleep(epoch, left.min(BACKSTOP));
            self.lane.note_loss();
            if let Some(outcome) = self.lane.outcome(seq) {
                let by_device = matches!(outcome, Ok(()) | Err(Error::Fault(_) | Error::Cancelled));
                // By a neighbour's interrupt no time was lost, and whose it was is not to be known.
                let silent = wake == Wake::Silence && left > BACKSTOP;
                if silent && by_device && waker.vector().is_some() {
                    self.lane.count_missing_interrupt();
                }
                self.shared.minder.credit();
                return outcome;
            }
            // Nobody else may be there to notice, and the host waits.
            if tells && self.lane.control().is_wanted() {
                self.lane.control().note_wish();
                return Err(Error::Wanted);
            }
            // By the queue's own progress: who shares a vector is told of whatever wakes its neighbours.
            let seen = self.lane.seen();
            if seen != quiet.0 {
                quiet = (seen, Instant::now());
            } else if quiet.1.elapsed() >= BACKSTOP && left > BACKSTOP {
                self.shared.minder.ask();
            }
        }
    }

    fn awaited(&self) -> MutexGuard<'_, Awaited> {
        let awaited = self.shared.awaited.lock();
        awaited.unwrap_or_else(PoisonError::into_inner)
    }

    /// Arms the interrupt for the lowest sequence number that anyone awaits.
    fn arm_lowest(&self) {
        let mut awaited = self.awaited();
        let seen = self.lane.seen();
        // What is done needs no interrupt any more; what was armed for it has fired.
        awaited.application = awaited.application.filter(|&seq| seq > seen);
        let lowest = awaited.waiters.iter().copied().filter(|&seq| seq > seen);
        let lowest = lowest.chain(awaited.application).min();
        // Stored under the lock, so that the last store is the lowest.
        self.lane.doorbell().arm(lowest.unwrap_or(awaited.lowest()));
    }

    /// An eventfd for the application's own epoll loop: readable after an interrupt of this
    /// queue's vector, which other queues may share. `None` where the device has no vectors. It
    /// stays the library's. Read it (8 bytes, nonblocking), poll or reap, then `arm` anew.
    #[must_use]
    pub fn eventfd(&self) -> Option<BorrowedFd<'_>> {
        self.shared.waker.vector().map(|vector| vector.fd())
    }

    /// Asks for an interrupt when `seq` is done or the queue stops. If that is so already, or the
    /// queue has ended, the eventfd is readable at once. Keep a timeout beside it, and arm anew when
    /// it passed: an interrupt may be lost, and a device that is gone sends none.
    ///
    /// # Errors
    /// `Forked`.
    pub fn arm(&self, seq: Seq) -> Result<()> {
        self.lane.check_fork()?;
        self.awaited().application = Some(seq.0);
        self.arm_lowest();
        order::between_arm_and_look();
        self.lane.note_loss();
        if self.lane.outcome(seq.0).is_some() {
            self.awaited().application = None;
            self.shared.waker.wake_all();
        }
        Ok(())
    }

    /// Waits until no thread of the library asks after this queue any more.
    pub(crate) fn finish(&self) {
        self.shared.minder.finish();
    }

    pub(crate) fn wake_all(&self) {
        self.shared.waker.wake_all();
    }
}

/// How much longer a wait may take.
struct Patience {
    begin: Instant,
    timeout: Option<Duration>,
}

impl Patience {
    fn left(&self) -> Result<Duration> {
        let Some(timeout) = self.timeout else {
            return Ok(Duration::MAX);
        };
        match timeout.checked_sub(self.begin.elapsed()) {
            Some(left) if !left.is_zero() => Ok(left),
            _ => Err(Error::Late {
                what: "the job",
                after: timeout,
            }),
        }
    }
}
