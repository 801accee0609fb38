//! The minder: asks after a device that is silent, so that no waiter has to.
//!
//! When a backstop passes without an interrupt somebody must find out whether the device is there
//! and whether it heard the doorbell. Both take registers, and a register of a device that hangs
//! takes seconds to give up. So a thread of its own does it, one at a time and only then, and
//! waits end by their deadlines.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

use super::wait::BACKSTOP;
use crate::error::Error;
use crate::lane::Lane;
use crate::ledger::End;
use crate::waker::Waker;

/// How long after ringing again progress is put down to the ringing.
const RUNG_AGAIN: Duration = Duration::from_millis(3);
/// What the thread needs at most.
const STACK: usize = 256 << 10;

/// See the file's head.
#[derive(Debug)]
pub(super) struct Minder {
    lane: Arc<Lane>,
    waker: Arc<Waker>,
    /// The doorbell is being rung again, and nobody has seen progress since.
    ringing: Arc<AtomicBool>,
    turn: Mutex<Turn>,
}

#[derive(Debug)]
struct Turn {
    begun: Instant,
    thread: Option<JoinHandle<()>>,
}

impl Minder {
    pub(super) fn new(lane: Arc<Lane>, waker: Arc<Waker>) -> Self {
        Self {
            lane,
            waker,
            ringing: Arc::default(),
            turn: Mutex::new(Turn {
                begun: Instant::now(),
                thread: None,
            }),
        }
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks after the device, unless that is being done or was just done.
    pub(super) fn ask(&self) {
        let mut turn = self.turn();
        let asking = turn.thread.as_ref().is_some_and(|t| !t.is_finished());
        if asking || turn.begun.elapsed() < BACKSTOP {
            return;
        }
        turn.begun = Instant::now();
        let (lane, ringing) = (Arc::clone(&self.lane), Arc::clone(&self.ringing));
        let waker = Arc::clone(&self.waker);
        let ask = move || {
            if mind(&lane, &ringing) {
                waker.wake_all();
            }
        };
        match without_signals(|| Builder::new().stack_size(STACK).spawn(ask)) {
            Ok(thread) => turn.thread = Some(thread),
            Err(error) => log::warn!("ask after a silent device: no thread for it: {error}"),
        }
    }

    /// Somebody saw progress: was it by ringing again?
    pub(super) fn credit(&self) {
        credit(&self.lane, &self.ringing);
    }

    /// Waits until nothing is asked any more.
    pub(super) fn finish(&self) {
        let thread = self.turn().thread.take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

/// Whether there is something to tell the waiters.
fn mind(lane: &Lane, ringing: &AtomicBool) -> bool {
    let control = lane.control();
    match control.check() {
        Err(Error::Lost { why }) => {
            lane.end(End::Lost(why));
            return true;
        }
        Err(Error::Stale { .. }) => {
            lane.end(End::Stale);
            return true;
        }
        Err(error) => log::warn!("look after a silent device: {error}"),
        Ok(()) => {}
    }
    let before = lane.seen();
    ringing.store(true, Ordering::Release);
    if let Err(error) = control.kick(lane.identity().number) {
        log::warn!("ring a doorbell again: {error}");
        ringing.store(false, Ordering::Release);
        return false;
    }
    let begin = Instant::now();
    while begin.elapsed() < RUNG_AGAIN {
        match lane.look() {
            Ok(seen) if seen == before => sleep(Duration::from_micros(50)),
            Ok(_) | Err(Error::Stopped) => {
                credit(lane, ringing);
                return true;
            }
            Err(_) => break,
        }
    }
    ringing.store(false, Ordering::Release);
    false
}

fn credit(lane: &Lane, ringing: &AtomicBool) {
    if ringing.swap(false, Ordering::AcqRel) {
        lane.count_lost_doorbell();
    }
}

/// Runs `make` so that a thread it starts takes none of the application's signals.
fn without_signals<T>(make: impl FnOnce() -> T) -> T {
    let mut before = SigSet::empty();
    let blocked = pthread_sigmask(
        SigmaskHow::SIG_SETMASK,
        Some(&SigSet::all()),
        Some(&mut before),
    );
    let made = make();
    if blocked.is_ok() {
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    }
    made
}
