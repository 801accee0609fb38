//! The fork mark: tells a process from the one it was forked from, by one load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{Advice, MmapMut, MmapRaw};

use crate::error::{Error, Result};

/// What the kernel wipes in a child: private anonymous memory, where MADV_WIPEONFORK works.
#[derive(Debug)]
enum Page {
    /// The page, never unmapped.
    Wiped(MmapRaw),
    /// No such page could be had: the process id is asked instead (a system call).
    Pid,
}

static PAGE: OnceLock<Page> = OnceLock::new();
/// Copied by fork: what a child makes is above all that its parent made before.
static NEXT: AtomicU64 = AtomicU64::new(1);

fn page() -> &'static Page {
    PAGE.get_or_init(|| {
        let Ok(map) = MmapMut::map_anon(8) else {
            return Page::Pid;
        };
        let map = MmapRaw::from(map);
        // SAFETY: the range is this mapping's own page; the advice changes it only in a child.
        let advised = unsafe { libc::madvise(map.as_mut_ptr().cast(), 8, libc::MADV_WIPEONFORK) };
        if advised == 0 && map.advise(Advice::DontDump).is_ok() {
            Page::Wiped(map)
        } else {
            Page::Pid
        }
    })
}

fn word(map: &MmapRaw) -> &AtomicU64 {
    // SAFETY: the mapping is page-aligned, at least 8 bytes long, never unmapped (it lives in a
    // static), and only ever accessed through this atomic.
    unsafe { AtomicU64::from_ptr(map.as_mut_ptr().cast()) }
}

/// Belongs to the process that made it. `check` is one load and one comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForkMark(u64);

impl ForkMark {
    /// This process's mark.
    #[must_use]
    pub fn here() -> Self {
        match page() {
            Page::Pid => Self(u64::from(std::process::id())),
            Page::Wiped(map) => {
                let word = word(map);
                let fresh = NEXT.fetch_add(1, Ordering::Relaxed);
                match word.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => Self(fresh),
                    Err(present) => Self(present),
                }
            }
        }
    }

    /// Whether the calling process made it.
    #[inline]
    #[must_use]
    pub fn is_ours(self) -> bool {
        match PAGE.get() {
            Some(Page::Wiped(map)) => word(map).load(Ordering::Relaxed) == self.0,
            _ => u64::from(std::process::id()) == self.0,
        }
    }

    /// As `is_ours`, as an error.
    pub fn check(self) -> Result<()> {
        if self.is_ours() {
            Ok(())
        } else {
            Err(Error::Forked)
        }
    }
}

/// Pages, zeroed, that the kernel zeroes anew in a child of fork(): whatever a parent wrote there, a
/// child finds nothing. Costs the parent no instruction.
#[derive(Debug)]
pub(crate) struct WipedPages {
    map: MmapRaw,
    wipes: bool,
}

impl WipedPages {
    /// At least `bytes` bytes, page-aligned.
    pub(crate) fn new(bytes: usize) -> Result<Self> {
        let map = MmapMut::map_anon(bytes).map_err(|source| Error::Io {
            tried: "map",
            on: format!("{bytes} bytes that a child process may not see"),
            source,
        })?;
        let map = MmapRaw::from(map);
        // SAFETY: the range is this mapping's own; the advice changes it only in a child.
        let advised =
            unsafe { libc::madvise(map.as_mut_ptr().cast(), bytes, libc::MADV_WIPEONFORK) };
        Ok(Self {
            map,
            wipes: advised == 0,
        })
    }

    /// Whether the kernel does as the name says; Linux before 4.14 does not.
    pub(crate) fn wipes(&self) -> bool {
        self.wipes
    }

    /// The first byte; stays where it is until the pages are dropped.
    pub(crate) fn at(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    #[test]
    fn a_child_sees_that_a_mark_is_its_parents_and_makes_its_own() {
        let parents = ForkMark::here();
        assert!(parents.is_ours());
        // SAFETY: the child only loads and stores atomics and leaves by _exit.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let refused = parents.check().is_err();
                let own = ForkMark::here();
                let good = refused && own.is_ours() && own != parents;
                // SAFETY: ends the child without running the parent's exit handlers.
                unsafe { libc::_exit(i32::from(!good)) }
            }
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
                assert!(parents.is_ours(), "the parent is unharmed");
            }
        }
    }
}
