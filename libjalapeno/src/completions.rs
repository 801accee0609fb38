//! Completions: the consumer's side of a queue, for any number of threads.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jalapeno_hw::faults::FaultCode;

use crate::error::{Code, Error, Fault, Result};
use crate::lane::{Counters, End, Lane, Outcome};
use crate::order;
use crate::units::Seq;
use crate::waker::{Wake, Waker};

/// How long a waiter polls before it sleeps: about what a sleep and a wake would cost.
const SPIN: Duration = Duration::from_micros(20);
/// Looks between two readings of the clock while polling.
const LOOKS: u32 = 32;
/// Sleepers look for themselves this often, so that a missing interrupt or a lost doorbell is
/// survived. Host interface 5.
const BACKSTOP: Duration = Duration::from_millis(100);
/// How long after ringing again progress is put down to the ringing.
const RUNG_AGAIN: Duration = Duration::from_millis(3);

/// How a job ended; the numbers are the C ABI's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    /// It succeeded.
    Done = 0,
    /// It failed; `Completion::code` says why.
    Fault = -(Code::Fault as i32),
    /// It never ran: one before it failed, or a reset or close came first.
    Cancelled = -(Code::Cancelled as i32),
    /// The device went away before it was done.
    Lost = -(Code::Lost as i32),
    /// The device was reset before it was done.
    Stale = -(Code::Stale as i32),
    /// The device broke the specification before it was done.
    Protocol = -(Code::Protocol as i32),
}

/// One job's end, as `Completions::reap` delivers it. The layout is the C ABI's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Completion {
    /// The packet's sequence number.
    pub seq: Seq,
    /// The packet's cookie.
    pub cookie: u64,
    /// How it ended.
    pub status: Status,
    /// The fault's code (known or not) for `Status::Fault`; else 0.
    pub code: u32,
}

impl Completion {
    /// What an array for `reap` starts with.
    pub const EMPTY: Self = Self {
        seq: Seq(0),
        cookie: 0,
        status: Status::Done,
        code: 0,
    };

    fn new(seq: u64, cookie: u64, outcome: &Outcome) -> Self {
        let (status, code) = match outcome {
            Outcome::Done => (Status::Done, 0),
            Outcome::Failed(fault) => (
                Status::Fault,
                fault.code.map_or_else(|raw| raw, FaultCode::code),
            ),
            Outcome::Cancelled | Outcome::Ended(End::Closed) => (Status::Cancelled, 0),
            Outcome::Ended(End::Lost(_)) => (Status::Lost, 0),
            Outcome::Ended(End::Stale) => (Status::Stale, 0),
            Outcome::Ended(End::Quarantined((code, _))) => (Status::Protocol, code.code()),
        };
        Self {
            seq: Seq(seq),
            cookie,
            status,
            code,
        }
    }
}

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

#[derive(Debug)]
struct Shared {
    awaited: Mutex<Awaited>,
    waker: Arc<Waker>,
    /// When the doorbell was last rung again.
    kicked: Mutex<Instant>,
}

/// The consumer's side of a queue. Cheap to clone; every method may be called from any thread at
/// any time. It outlives its `Queue`: waits then end with `Closed`.
#[derive(Clone, Debug)]
pub struct Completions {
    lane: Arc<Lane>,
    shared: Arc<Shared>,
}

impl Completions {
    pub(crate) fn new(lane: Arc<Lane>, waker: Arc<Waker>) -> Self {
        Self {
            lane,
            shared: Arc::new(Shared {
                awaited: Mutex::default(),
                waker,
                kicked: Mutex::new(Instant::now()),
            }),
        }
    }

    /// The last completed sequence number, validated. Makes no system call.
    ///
    /// # Errors
    /// `Stopped` after a failure (`completed` gives the number all the same), `Closed`, `Lost`,
    /// `Stale`, `Protocol`, `Forked`.
    #[inline]
    pub fn poll(&self) -> Result<Seq> {
        match self.lane.glance() {
            Some(seen) => Ok(Seq(seen)),
            None => self.poll_closely(),
        }
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

    /// `reap` where nothing is unusual; `None`: look each outcome up.
    #[inline(always)]
    fn reap_quickly(&self, out: &mut [Completion]) -> Option<usize> {
        let lane = &*self.lane;
        if !lane.identity().delivers {
            return None;
        }
        // In this order: `seen` is never behind `claimed`.
        let from = lane.claimed();
        let seen = lane.glance()?;
        if lane.is_troubled(from) {
            return None;
        }
        let ready = usize::try_from(seen.wrapping_sub(from)).unwrap_or(usize::MAX);
        let count = ready.min(out.len());
        let mut seq = from;
        for place in &mut out[..count] {
            seq = seq.wrapping_add(1);
            *place = Completion {
                seq: Seq(seq),
                cookie: lane.rings().cookie(seq),
                status: Status::Done,
                code: 0,
            };
        }
        // Cookies were read before the slots are given back.
        (count == 0 || lane.claim(from, seq)).then_some(count)
    }

    #[cold]
    #[inline(never)]
    fn reap_slowly(&self, out: &mut [Completion]) -> Result<usize> {
        if !self.lane.identity().delivers {
            return Err(not_delivering());
        }
        self.lane
            .deliver_slowly(out.len(), |index, seq, cookie, outcome| {
                if let Some(place) = out.get_mut(index) {
                    *place = Completion::new(seq, cookie, &outcome);
                }
            })
    }

    /// Waits until `seq` is done: polls briefly, then sleeps until the interrupt. A zero timeout
    /// looks once; `None` waits without end.
    ///
    /// # Errors
    /// The job's own end: `Fault`, `Cancelled`. `Late` after the timeout: the job's buffers stay
    /// in use until it is done or the queue is cancelled. `Closed`, `Lost`, `Stale`, `Protocol`,
    /// `Forked`. `Invalid` for a number that was not submitted.
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
        while patience.begin.elapsed() < timeout.unwrap_or(SPIN).min(SPIN) {
            for _ in 0..LOOKS {
                if let Some(outcome) = self.lane.outcome(seq) {
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
        outcome
    }

    fn sleep_until_done(&self, seq: u64, patience: &Patience) -> Result<()> {
        let waker = &self.shared.waker;
        loop {
            let epoch = waker.epoch();
            self.arm_lowest();
            order::between_arm_and_look();
            if let Some(outcome) = self.lane.outcome(seq) {
                return outcome;
            }
            let left = patience.left()?;
            let wake = waker.sleep(epoch, left.min(BACKSTOP));
            self.lane.note_loss();
            if let Some(outcome) = self.lane.outcome(seq) {
                if wake == Wake::Silence && left > BACKSTOP && waker.vector().is_some() {
                    self.lane.count_missing_interrupt();
                }
                return outcome;
            }
            if wake == Wake::Silence && left > BACKSTOP {
                self.ring_again();
            }
        }
    }

    /// A backstop passed without an interrupt: is the device there, and did it hear the doorbell?
    fn ring_again(&self) {
        {
            let mut kicked = self.lock(&self.shared.kicked);
            if kicked.elapsed() < BACKSTOP {
                return; // another waiter did
            }
            *kicked = Instant::now();
        }
        let control = self.lane.control();
        match control.check() {
            Err(Error::Lost { why }) => return self.lane.end(End::Lost(why)),
            Err(Error::Stale { .. }) => return self.lane.end(End::Stale),
            Err(error) => log::warn!("look after a silent device: {error}"),
            Ok(()) => {}
        }
        let before = self.lane.seen();
        if let Err(error) = control.kick(self.lane.identity().number) {
            log::warn!("ring a doorbell again: {error}");
            return;
        }
        let begin = Instant::now();
        while begin.elapsed() < RUNG_AGAIN {
            match self.lane.look() {
                Ok(seen) if seen == before => std::thread::sleep(Duration::from_micros(50)),
                Ok(_) => return self.lane.count_lost_doorbell(),
                Err(_) => return,
            }
        }
    }

    fn lock<'a, T>(&self, mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn awaited(&self) -> MutexGuard<'_, Awaited> {
        self.lock(&self.shared.awaited)
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

    /// Asks for an interrupt when `seq` is done or the queue stops. If that is so already, the
    /// eventfd is readable at once.
    ///
    /// # Errors
    /// `Forked`, `Closed`.
    pub fn arm(&self, seq: Seq) -> Result<()> {
        self.lane.check_fork()?;
        self.awaited().application = Some(seq.0);
        self.arm_lowest();
        order::between_arm_and_look();
        if self.lane.outcome(seq.0).is_some() {
            self.awaited().application = None;
            self.shared.waker.wake_all();
        }
        Ok(())
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

    pub(crate) fn wake_all(&self) {
        self.shared.waker.wake_all();
    }
}

fn not_delivering() -> Error {
    Error::Invalid {
        what: "reap: this queue is waited for by sequence; make it with Delivery::Each".into(),
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
