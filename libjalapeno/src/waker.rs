//! The waker: threads that sleep until one interrupt vector speaks.
//!
//! One of them, the leader, sleeps in the kernel; the others on a condition variable, and what wakes
//! the leader wakes them to look for themselves. The eventfd is watched edge-triggered and
//! never read, so an application may read the same fd in its own epoll loop: neither takes the
//! other's wake.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::error::{Error, Result};
use crate::irq::Vector;

#[derive(Debug, Default)]
struct Turn {
    /// A thread sleeps in the kernel.
    led: bool,
    /// Counts wakes by something that happened.
    epoch: u64,
    followers: u32,
}

/// How a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// Something happened, or may have: look.
    Told,
    /// The time ran out.
    Silence,
}

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Waker {
    vector: Option<Arc<Vector>>,
    epoll: Epoll,
    /// Kept open for `epoll`.
    _others: Vec<OwnedFd>,
    turn: Mutex<Turn>,
    changed: Condvar,
}

/// Without an interrupt vector, sleeps are as short as this.
const BLIND_NAP: Duration = Duration::from_millis(1);

impl Waker {
    /// Sleepers of a vector, who also wake when one of `others` turns readable or hangs up: the
    /// device is lost, or wanted back.
    pub(crate) fn new(
        vector: Option<Arc<Vector>>,
        others: impl IntoIterator<Item = OwnedFd>,
    ) -> Result<Self> {
        let refused = |errno: Errno| Error::Io {
            tried: "watch",
            on: "an interrupt vector".into(),
            source: errno.into(),
        };
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(refused)?;
        if let Some(vector) = &vector {
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
            epoll
                .add(vector.fd(), EpollEvent::new(flags, 0))
                .map_err(refused)?;
        }
        let others: Vec<OwnedFd> = others.into_iter().collect();
        for fd in &others {
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
            epoll
                .add(fd.as_fd(), EpollEvent::new(flags, 1))
                .map_err(refused)?;
        }
        Ok(Self {
            vector,
            epoll,
            _others: others,
            turn: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// The vector, for the application's own loop.
    pub(crate) fn vector(&self) -> Option<&Arc<Vector>> {
        self.vector.as_ref()
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be taken before the last look, and given to `sleep`.
    pub(crate) fn epoch(&self) -> u64 {
        self.turn().epoch
    }

    /// Sleeps until something happens after `epoch` was taken, at most `time`.
    pub(crate) fn sleep(&self, epoch: u64, time: Duration) -> Wake {
        if self.vector.is_none() {
            std::thread::sleep(time.min(BLIND_NAP));
            return Wake::Silence;
        }
        let mut turn = self.turn();
        let mut left = time;
        // Who leads reads no clock.
        while turn.led && turn.epoch == epoch {
            let begin = Instant::now();
            turn.followers += 1;
            let followed = |turn: &mut Turn| turn.led && turn.epoch == epoch;
            (turn, _) = self
                .changed
                .wait_timeout_while(turn, left, followed)
                .unwrap_or_else(PoisonError::into_inner);
            turn.followers -= 1;
            left = left.saturating_sub(begin.elapsed());
            if left.is_zero() && turn.epoch == epoch {
                return Wake::Silence;
            }
        }
        if turn.epoch != epoch {
            return Wake::Told;
        }
        turn.led = true;
        drop(turn);
        let wake = self.sleep_in_kernel(left);
        let mut turn = self.turn();
        turn.led = false;
        // A leader whose time ran out tells the others nothing: one of them leads for what is left of its own.
        if wake == Wake::Told {
            turn.epoch += 1;
        }
        if turn.followers > 0 {
            self.changed.notify_all();
        }
        wake
    }

    fn sleep_in_kernel(&self, time: Duration) -> Wake {
        let millis = u16::try_from(time.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
        let mut events = [EpollEvent::empty(); 4];
        match self.epoll.wait(&mut events, EpollTimeout::from(millis)) {
            Ok(0) => Wake::Silence,
            // Also a signal (EINTR): the caller looks and sleeps again until its own deadline.
            _ => Wake::Told,
        }
    }

    /// Wakes every sleeper, as an interrupt would.
    pub(crate) fn wake_all(&self) {
        if let Some(vector) = &self.vector {
            // A full eventfd cannot be written to, so it would raise no edge.
            vector.take();
            vector.raise();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::Vectors;
    use crate::played::host_with_vectors;

    const NEVER: Duration = Duration::from_secs(60);

    #[test]
    fn without_a_vector_sleeps_are_short_and_silent() {
        let waker = Waker::new(None, []).unwrap();
        let begin = Instant::now();
        let wake = waker.sleep(waker.epoch(), Duration::from_secs(10));
        assert_eq!(wake, Wake::Silence);
        assert!(begin.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn each_sleeps_for_its_own_time_and_one_takes_over_when_the_leader_leaves() {
        let vectors = Vectors::open(&host_with_vectors(1, 1), 1).unwrap();
        let waker = Waker::new(vectors.get(0).unwrap(), []).unwrap();
        let epoch = waker.epoch();
        let sleeps = |millis| {
            let begin = Instant::now();
            let wake = waker.sleep(epoch, Duration::from_millis(millis));
            (wake, begin.elapsed())
        };
        std::thread::scope(|scope| {
            let leader = scope.spawn(|| sleeps(30));
            while !waker.turn().led && !leader.is_finished() {
                std::thread::yield_now();
            }
            let second = scope.spawn(|| sleeps(60));
            let patient = scope.spawn(|| waker.sleep(epoch, NEVER));
            while waker.turn().followers < 2 && !second.is_finished() {
                std::thread::yield_now();
            }
            for (sleeper, millis) in [(leader, 30), (second, 60)] {
                let (wake, took) = sleeper.join().unwrap();
                assert_eq!(wake, Wake::Silence, "{millis}");
                assert!(took >= Duration::from_millis(millis), "{took:?}");
            }
            assert!(!patient.is_finished());
            let begin = Instant::now();
            waker.wake_all();
            assert_eq!(patient.join().unwrap(), Wake::Told);
            assert!(begin.elapsed() < NEVER / 2);
        });
    }
}
