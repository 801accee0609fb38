//! Interrupts: eventfds that the owner gave, one a vector, triggered without ever blocking.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::write;

#[derive(Debug, Default)]
struct Vector {
    eventfd: Option<OwnedFd>,
    masked: bool,
    pending: bool,
}

/// The vectors of one interrupt index.
#[derive(Debug)]
pub struct Vectors {
    vectors: Mutex<Vec<Vector>>,
}

impl Vectors {
    /// So many vectors, none enabled.
    #[must_use]
    pub fn new(count: u16) -> Self {
        Self {
            vectors: Mutex::new((0..count).map(|_| Vector::default()).collect()),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.with(|vectors| vectors.len())).unwrap_or(0)
    }

    /// Delivers a vector to an eventfd, or to nobody.
    ///
    /// # Errors
    /// EINVAL for a vector that is not there, or a descriptor that is not an eventfd.
    pub fn assign(&self, vector: u32, eventfd: Option<OwnedFd>) -> Result<(), Errno> {
        if let Some(fd) = &eventfd {
            check(fd)?;
        }
        self.with(|vectors| {
            let slot = vectors.get_mut(vector as usize).ok_or(Errno::EINVAL)?;
            *slot = Vector {
                eventfd,
                ..Vector::default()
            };
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
        self.with(|vectors| {
            let Some(slot) = vectors.get_mut(vector as usize) else {
                return;
            };
            if slot.masked {
                slot.pending = true;
            } else if let Some(eventfd) = &slot.eventfd {
                let _ = write(eventfd.as_fd(), &1u64.to_ne_bytes());
            }
        });
    }

    /// Disables all of them.
    pub fn clear(&self) {
        self.with(|vectors| {
            vectors
                .iter_mut()
                .for_each(|slot| *slot = Vector::default())
        });
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

/// An interrupt descriptor must be an eventfd; a pipe or socket of the client's could block us.
fn check(fd: &OwnedFd) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
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
        vectors.assign(1, Some(theirs)).unwrap();
        vectors.fire(1);
        vectors.fire(1);
        vectors.fire(7);
        assert_eq!(ours.read(), Ok(2));
        vectors.assign(1, None).unwrap();
        vectors.fire(1);
        assert_eq!(ours.read(), Err(Errno::EAGAIN));
    }

    #[test]
    fn what_fell_due_while_masked_comes_once_on_unmasking() {
        let vectors = Vectors::new(1);
        let (ours, theirs) = eventfd();
        vectors.assign(0, Some(theirs)).unwrap();
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
        assert_eq!(vectors.assign(0, Some(writer)), Err(Errno::EINVAL));
        let ours = EventFd::new().unwrap();
        ours.write(u64::MAX - 1).unwrap();
        vectors
            .assign(0, Some(ours.as_fd().try_clone_to_owned().unwrap()))
            .unwrap();
        vectors.fire(0);
    }
}
