//! Interrupts: eventfds that the owner gave, one a vector, triggered without ever blocking.

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{read, write};

/// Longest that a write to an eventfd takes which nobody tampers with.
const WRITE_TIME: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
struct Vector {
    eventfd: Option<Arc<OwnedFd>>,
    masked: bool,
    pending: bool,
}

/// The vectors of one interrupt index.
#[derive(Debug)]
pub struct Vectors {
    vectors: Mutex<Vec<Vector>>,
    /// Writes under way, and since when.
    writes: Mutex<Vec<(Instant, Arc<OwnedFd>)>>,
}

impl Vectors {
    /// So many vectors, none enabled.
    #[must_use]
    pub fn new(count: u16) -> Self {
        Self {
            vectors: Mutex::new((0..count).map(|_| Vector::default()).collect()),
            writes: Mutex::default(),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.with(|vectors| vectors.len())).unwrap_or(0)
    }

    /// Delivers a range of vectors to an eventfd each, or to nobody where there are none. All or
    /// none: what is refused changes nothing.
    ///
    /// # Errors
    /// EINVAL for vectors that are not there, another number of descriptors, or one that is not an
    /// eventfd.
    pub fn assign(&self, range: Range<u32>, eventfds: Vec<OwnedFd>) -> Result<(), Errno> {
        if !eventfds.is_empty() && eventfds.len() != range.len() {
            return Err(Errno::EINVAL);
        }
        eventfds.iter().try_for_each(check)?;
        let range = range.start as usize..range.end as usize;
        let mut eventfds = eventfds.into_iter().map(Arc::new);
        self.with(|vectors| {
            for slot in vectors.get_mut(range).ok_or(Errno::EINVAL)? {
                *slot = Vector {
                    eventfd: eventfds.next(),
                    ..Vector::default()
                };
            }
            Ok(())
        })
    }

    /// Masks or unmasks; what became due while masked is sent on unmasking.
    ///
    /// # Errors
    /// EINVAL for a vector that is not there.
    pub fn mask(&self, vector: u32, masked: bool) -> Result<(), Errno> {
        let due = self.with(|vectors| {
            let slot = vectors.get_mut(vector as usize).ok_or(Errno::EINVAL)?;
            slot.masked = masked;
            Ok(!masked && std::mem::take(&mut slot.pending))
        })?;
        if due {
            self.fire(vector);
        }
        Ok(())
    }

    /// Sends an interrupt; nothing where the vector is not enabled. A saturated eventfd is left as
    /// it is: it is readable already.
    pub fn fire(&self, vector: u32) {
        let eventfd = self.with(|vectors| {
            let slot = vectors.get_mut(vector as usize)?;
            if slot.masked {
                slot.pending = true;
                return None;
            }
            slot.eventfd.clone()
        });
        // Outside the lock. It was made non-blocking, but the client shares that flag and can take
        // it back: a saturated one is not written to at all, and one that it saturates after our
        // look is freed by `relieve`.
        if let Some(eventfd) = eventfd.filter(|eventfd| has_room(eventfd)) {
            self.ring(eventfd);
        }
    }

    fn ring(&self, eventfd: Arc<OwnedFd>) {
        self.writes().push((Instant::now(), eventfd.clone()));
        let _ = write(eventfd.as_fd(), &1u64.to_ne_bytes());
        let mut writes = self.writes();
        let ours = writes.iter().position(|(_, at)| Arc::ptr_eq(at, &eventfd));
        ours.map(|ours| writes.swap_remove(ours));
    }

    /// Frees writers that a client tricked into waiting. Called every now and then.
    pub fn relieve(&self) {
        let stuck: Vec<_> = {
            let writes = self.writes();
            let late = writes
                .iter()
                .filter(|(since, _)| since.elapsed() > WRITE_TIME);
            late.map(|(_, eventfd)| eventfd.clone()).collect()
        };
        for eventfd in stuck {
            // It is saturated, or nobody would wait; read without waiting, it has room again.
            if check(&eventfd).is_ok() {
                let _ = read(eventfd.as_fd(), &mut [0; 8]);
            }
        }
    }

    /// Disables all of them.
    pub fn clear(&self) {
        let slots = self.with(|vectors| vectors.iter_mut().map(std::mem::take).collect::<Vec<_>>());
        // Closed outside the lock.
        drop(slots);
    }

    fn writes(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, Arc<OwnedFd>)>> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Vectors enabled now.
    #[must_use]
    pub fn enabled(&self) -> usize {
        self.with(|vectors| vectors.iter().filter(|slot| slot.eventfd.is_some()).count())
    }

    fn with<T>(&self, body: impl FnOnce(&mut Vec<Vector>) -> T) -> T {
        body(&mut self.vectors.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether a write of 1 would not have to wait.
fn has_room(eventfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(eventfd.as_fd(), PollFlags::POLLOUT)];
    poll(&mut fds, PollTimeout::ZERO) == Ok(1)
}

/// An interrupt descriptor must be an eventfd; a pipe or socket of the client's could block us.
fn check(fd: &OwnedFd) -> Result<(), Errno> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .map_err(|_| Errno::EINVAL)?;
    if link.as_os_str() != "anon_inode:[eventfd]" {
        return Err(Errno::EINVAL);
    }
    let flags = OFlag::from_bits_truncate(fcntl(fd.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::eventfd::{EfdFlags, EventFd};

    fn eventfd() -> (EventFd, OwnedFd) {
        let ours = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
        let theirs = ours.as_fd().try_clone_to_owned().unwrap();
        (ours, theirs)
    }

    #[test]
    fn an_enabled_vector_counts_and_a_disabled_one_is_silent() {
        let vectors = Vectors::new(2);
        let (ours, theirs) = eventfd();
        vectors.fire(1);
        vectors.assign(1..2, vec![theirs]).unwrap();
        vectors.fire(1);
        vectors.fire(1);
        vectors.fire(7);
        assert_eq!(ours.read(), Ok(2));
        vectors.assign(1..2, Vec::new()).unwrap();
        vectors.fire(1);
        assert_eq!(ours.read(), Err(Errno::EAGAIN));
    }

    #[test]
    fn what_fell_due_while_masked_comes_once_on_unmasking() {
        let vectors = Vectors::new(1);
        let (ours, theirs) = eventfd();
        vectors.assign(0..1, vec![theirs]).unwrap();
        vectors.mask(0, true).unwrap();
        vectors.fire(0);
        vectors.fire(0);
        assert_eq!(ours.read(), Err(Errno::EAGAIN));
        vectors.mask(0, false).unwrap();
        assert_eq!(ours.read(), Ok(1));
        assert_eq!(vectors.mask(1, true), Err(Errno::EINVAL));
    }

    #[test]
    fn a_pipe_is_no_eventfd_and_a_saturated_one_does_not_block() {
        let vectors = Vectors::new(1);
        let (_reader, writer) = nix::unistd::pipe().unwrap();
        assert_eq!(vectors.assign(0..1, vec![writer]), Err(Errno::EINVAL));
        let ours = EventFd::new().unwrap();
        ours.write(u64::MAX - 1).unwrap();
        vectors
            .assign(0..1, vec![ours.as_fd().try_clone_to_owned().unwrap()])
            .unwrap();
        vectors.fire(0);
    }

    #[test]
    fn a_writer_that_its_client_tricked_into_waiting_is_freed() {
        let vectors = Vectors::new(1);
        let ours = EventFd::new().unwrap();
        ours.write(u64::MAX - 1).unwrap();
        let theirs = Arc::new(ours.as_fd().try_clone_to_owned().unwrap());
        std::thread::scope(|scope| {
            // As if it had been saturated after `fire` had looked.
            let writer = scope.spawn(|| vectors.ring(theirs));
            std::thread::sleep(2 * WRITE_TIME);
            assert!(!writer.is_finished(), "it blocks");
            vectors.relieve();
            let end = Instant::now() + Duration::from_secs(1);
            while !writer.is_finished() && Instant::now() < end {
                std::thread::yield_now();
            }
            let freed = writer.is_finished();
            // Whatever came of it, this thread must end.
            ours.read().unwrap();
            assert!(freed, "it still waits");
        });
        assert!(vectors.writes().is_empty());
    }
}
