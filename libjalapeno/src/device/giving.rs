//! Giving a device back while the host waits for it: jobs end, then waits, then everything.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::{Device, master};
use crate::error::{Error, Result};
use crate::mmio::until;
use crate::transport::Transport;

/// What waits are told.
pub(super) const GIVEN_BACK: &str = "it was given back to the host, which wanted it";

/// No host is kept waiting for longer.
const MOST: Duration = Duration::from_secs(3600);

/// A device that was given back: what is still made from it keeps its file open, and so the host
/// waiting.
#[derive(Debug)]
pub struct Returned {
    name: String,
    transport: Weak<dyn Transport>,
    deadline: Instant,
    within: Duration,
}

impl Device {
    /// Whether the host wants the device back (it is being unbound, removed or unplugged): let
    /// `give_back` do it. The kernel waits for that.
    #[must_use]
    pub fn is_wanted_back(&self) -> bool {
        self.transport.is_wanted()
    }

    /// An fd for the caller's own loop that turns readable then; `None` where nobody can ask
    /// (vfio-user).
    #[must_use]
    pub fn wanted_back_fd(&self) -> Option<OwnedFd> {
        self.transport.wanted_fd()
    }

    /// Whether a waiter was told that the host wants the device: whoever waits from then on knows what
    /// it is doing, for jobs are to come to their ends.
    pub(crate) fn wish_is_known(&self) -> bool {
        self.is_wanted_back() && self.wish_known.load(Ordering::Acquire)
    }

    pub(crate) fn note_wish(&self) {
        self.wish_known.store(true, Ordering::Release);
    }

    /// What wakes sleepers beside an interrupt: the device is lost, or wanted back.
    pub(crate) fn alarms(&self) -> impl Iterator<Item = OwnedFd> {
        let lost = self.transport.lost_fd().into_iter();
        lost.chain(self.transport.wanted_fd())
    }

    /// Stops using the device, in order: for half of `within` its jobs may come to their ends. Then
    /// no packet starts any more, what did not end is lost, every wait returns (`Lost`), and bus
    /// mastering goes off. Results that are there can still be read. From then on the device does
    /// nothing; drop all that was made from it (`Returned::wait`). Called twice: nothing more happens.
    ///
    /// # Errors
    /// `Unsupported` for an observer, `Forked`; `Io` or `Lost` where bus mastering could not be turned
    /// off: waits have ended all the same, and memory is unmapped before it is freed.
    pub fn retire(&self, within: Duration) -> Result<Returned> {
        self.owner()?;
        let within = within.min(MOST);
        let returned = Returned {
            name: self.info.name.clone(),
            transport: Arc::downgrade(&self.transport),
            deadline: Instant::now() + within,
            within,
        };
        if self.given_back.load(Ordering::Acquire) {
            return Ok(returned);
        }
        let idle = || Ok(self.users().iter().all(|user| user.is_idle()));
        if let Err(error) = until("the end of all jobs", within / 2, idle) {
            log::warn!("give back {}: {error}: the rest is lost", self.info.name);
        }
        if !self.transport.is_lost()
            && let Err(error) = self.drain()
        {
            log::warn!("give back {}: {error}", self.info.name);
        }
        let isolated = master(&self.transport, false);
        if isolated.is_ok() {
            self.given_back.store(true, Ordering::Release);
        }
        for user in self.users() {
            user.lose(GIVEN_BACK);
        }
        log::info!("{} was given back", self.info.name);
        isolated.map(|()| returned)
    }

    /// Gives the device back to the host: `retire`, lets this handle go, and waits until nothing
    /// that was made from the device is left. The whole takes at most `within`, and the time that
    /// the device takes to quiesce.
    ///
    /// # Errors
    /// As `retire`; `Busy`, by this process, where something (another handle, a session, a buffer) is
    /// still there at the deadline: the host goes on waiting for it.
    pub fn give_back(self: Arc<Self>, within: Duration) -> Result<()> {
        let returned = self.retire(within)?;
        drop(self);
        returned.wait()
    }
}

impl Returned {
    /// Waits until all that was made from the device is dropped, at most as long as was given.
    ///
    /// # Errors
    /// `Busy`, by this process, where something is still there.
    pub fn wait(&self) -> Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        until("return of the device", left, || {
            Ok(self.transport.strong_count() == 0)
        })
        .map_err(|_| {
            log::error!(
                "something of {} is in use after {:?}",
                self.name,
                self.within
            );
            Error::Busy {
                on: self.name.clone(),
                holder: Some(std::process::id()),
            }
        })
    }
}
