//! Interrupt vectors: one eventfd each, for any poll, epoll or io_uring loop.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::error::{Error, Result};
use crate::transport::Transport;

/// One vector's eventfd: nonblocking, close-on-exec. Readable after an interrupt. Thread-safe.
#[derive(Debug)]
pub struct Vector {
    number: u32,
    event: EventFd,
}

impl Vector {
    fn new(number: u32) -> Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = EventFd::from_flags(flags).map_err(|errno| Error::Io {
            tried: "make an eventfd for",
            on: format!("vector {number}"),
            source: errno.into(),
        })?;
        Ok(Self { number, event })
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The fd for the caller's own loop; it stays the library's.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// As `fd`, raw.
    #[must_use]
    pub fn raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Takes the pending interrupts; 0 when there are none. Never blocks.
    pub fn take(&self) -> u64 {
        loop {
            match self.event.read() {
                Ok(count) => return count,
                Err(Errno::EINTR) => {}
                Err(_) => return 0,
            }
        }
    }

    /// Raises it from this process: wakes whoever waits, as an interrupt would.
    pub fn raise(&self) {
        // A saturated eventfd gives EAGAIN and is readable all the same.
        while self.event.write(1) == Err(Errno::EINTR) {}
    }

    /// Sleeps until the vector or `other` turns readable or hangs up, at most `time`. Gives
    /// whether one did; takes nothing. A signal ends the sleep early (`false`): callers look at
    /// their own deadline.
    #[must_use]
    pub fn sleep(&self, other: Option<BorrowedFd<'_>>, time: Duration) -> bool {
        let millis = u16::try_from(time.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
        let mine = PollFd::new(self.fd(), PollFlags::POLLIN);
        match other {
            Some(fd) => {
                let flags = PollFlags::POLLIN;
                let mut fds = [mine, PollFd::new(fd, flags)];
                poll(&mut fds, PollTimeout::from(millis)).is_ok_and(|ready| ready > 0)
            }
            None => poll(&mut [mine], PollTimeout::from(millis)).is_ok_and(|ready| ready > 0),
        }
    }
}

/// The device's vectors, as many as were asked for or as it has. A kernel takes a quarter of a
/// millisecond for each, so delivery starts when one is first asked for. Dropped: it stops first.
#[derive(Debug)]
pub struct Vectors {
    transport: Arc<dyn Transport>,
    /// Those that the device delivers to, by number.
    on: Mutex<Vec<Option<Arc<Vector>>>>,
    count: u32,
}

impl Vectors {
    /// At most `wanted` vectors, fewer where the function has fewer. Vector 0 is delivered at once.
    ///
    /// # Errors
    /// `Io`, also where the host has not even one interrupt to give; `Lost`.
    pub fn open(transport: &Arc<dyn Transport>, wanted: u32) -> Result<Self> {
        let count = wanted.min(transport.describe().vectors);
        let this = Self {
            transport: Arc::clone(transport),
            on: Mutex::new(vec![None; count as usize]),
            count,
        };
        // Faults and events, whether or not anybody has asked for them yet.
        this.get(0)?;
        Ok(this)
    }

    /// How many there are at most: a kernel that adds them one by one may have fewer.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    fn on(&self) -> MutexGuard<'_, Vec<Option<Arc<Vector>>>> {
        self.on.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Vector `number`, if there is one; the device delivers to it from now on.
    ///
    /// # Errors
    /// `Io`, `Lost`; `Unsupported` where the host has no interrupt to give, for vector 0 `Io`.
    pub fn get(&self, number: u32) -> Result<Option<Arc<Vector>>> {
        let mut on = self.on();
        let Some(place) = on.get_mut(number as usize) else {
            return Ok(None);
        };
        if place.is_none() {
            let vector = Vector::new(number)?;
            self.give(&vector)?;
            *place = Some(Arc::new(vector));
        }
        Ok(place.clone())
    }

    /// The device delivers to `vector` from now on.
    fn give(&self, vector: &Vector) -> Result<()> {
        match self
            .transport
            .set_vectors(vector.number, &[Some(vector.fd())])
        {
            // The others can be shared; nothing stands in for this one.
            Err(Error::Unsupported { .. }) if vector.number == 0 => {
                Err(Error::no_vector(self.transport.describe().name.clone()))
            }
            told => told,
        }
    }

    /// The vector that queue `queue` should use: one of its own, shared where there are fewer or the
    /// host has no more to give; vector 0 (faults and events) only when it is the only one. Host
    /// interface 5.7.
    ///
    /// # Errors
    /// As `get`.
    pub fn for_queue(&self, queue: u32) -> Result<Option<Arc<Vector>>> {
        match self.count() {
            0 => Ok(None),
            1 => self.get(0),
            count => match self.get(1 + queue % (count - 1)) {
                Err(Error::Unsupported { what }) => {
                    log::info!("{what}; queue {queue} shares one");
                    self.given(queue)
                }
                told => told,
            },
        }
    }

    /// One of those that are delivered already.
    fn given(&self, queue: u32) -> Result<Option<Arc<Vector>>> {
        let on = self.on();
        let given: Vec<&Arc<Vector>> = on.iter().skip(1).flatten().collect();
        if !given.is_empty() {
            return Ok(Some(Arc::clone(given[queue as usize % given.len()])));
        }
        drop(on);
        self.get(0)
    }

    /// Delivers anew to vector 0 and to those that were asked for: a function level reset stops delivery.
    /// One by one: what the host has no more for is off until it is asked for again, and the rest serve.
    ///
    /// # Errors
    /// `Io`, also where the host has no interrupt for vector 0 any more; `Lost`.
    pub fn renew(&self) -> Result<()> {
        let mut told = Ok(());
        for (number, place) in (0..).zip(self.on().iter_mut()) {
            let vector = match place.take() {
                Some(vector) => vector,
                None if number == 0 => Arc::new(Vector::new(0)?),
                None => continue,
            };
            match self.give(&vector) {
                Ok(()) => *place = Some(vector),
                Err(Error::Unsupported { what }) => log::info!("{what}; its queues share one"),
                Err(error) => told = told.and(Err(error)),
            }
        }
        told
    }
}

impl Drop for Vectors {
    fn drop(&mut self) {
        let on = self.on.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = on.iter().rposition(Option::is_some) else {
            return;
        };
        if self.transport.is_lost() {
            return;
        }
        if let Err(error) = self.transport.set_vectors(0, &vec![None; last + 1]) {
            log::debug!("stop interrupts: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use crate::played::host_with_vectors;

    #[test]
    fn queues_have_vectors_of_their_own_and_share_those_the_host_gave_when_it_has_no_more() {
        let of = |gives, queues| -> Vec<u32> {
            let vectors = Vectors::open(&host_with_vectors(5, gives), 64).unwrap();
            let number = |queue| vectors.for_queue(queue).unwrap().unwrap().number();
            (0..queues).map(number).collect()
        };
        assert_eq!(of(5, 6), [1, 2, 3, 4, 1, 2]);
        assert_eq!(of(3, 6), [1, 2, 1, 2, 1, 2]);
        assert_eq!(of(1, 3), [0, 0, 0], "only that for faults");
        let error = Vectors::open(&host_with_vectors(5, 0), 64).unwrap_err();
        assert_eq!(error.code(), Code::Io);
        assert!(error.hint().unwrap().contains("/proc/interrupts"));
    }
}
