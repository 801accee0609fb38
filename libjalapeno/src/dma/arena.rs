//! Arenas: small buffers side by side in one mapping, where mappings run short.
//!
//! A host permits so many mappings (a VFIO container 65,535), so that what is carved up pays with what a
//! mapping of its own gives: between the places of an arena lies no guard, and the device reaches them
//! until the arena's last buffer is gone. Hence only once half of the mappings are in use.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use vm_allocator::{AddressAllocator, AllocPolicy, RangeInclusive};

use super::mapped::Mapped;
use super::{DmaSpace, HUGE, HostOptions, memlock};
use crate::error::{Error, Result};
use crate::units::Iova;

/// Bytes of the largest buffer that lies in an arena: from here on a mapping is well used.
pub(super) const PLACE_MOST: u64 = HUGE;
/// Bytes of the first arena. Each is twice as long as the one before: what nobody uses yet of the newest
/// is about as much as what there is already, and a client at the threshold waits for little.
const FIRST: u64 = 2 * HUGE;
/// Bytes of the longest: half of a container's mappings hold 2 TiB so, at least 1 TiB of buffers whatever
/// their sizes; and it is populated in some 20 ms.
pub(super) const LONGEST: u64 = 64 << 20;

/// Bytes of the next arena where there are so many.
pub(super) fn arena_bytes(arenas: usize) -> u64 {
    FIRST << arenas.min((LONGEST / FIRST).ilog2() as usize)
}

/// The arenas of a `DmaSpace`, each with at least one buffer.
#[derive(Debug, Default)]
pub(super) struct Arenas {
    /// By IOVA.
    all: BTreeMap<u64, Places>,
    /// Where the last place was found: where buffers are of one size, the next one is there too.
    last: u64,
}

/// What is free in an arena.
#[derive(Debug)]
struct Places {
    arena: Arc<Mapped>,
    books: AddressAllocator,
    buffers: usize,
    used: u64,
    /// Nothing longer than this is free.
    room: u64,
    /// From here on nobody ever had it, so that it is zero.
    untouched: u64,
}

impl Places {
    fn over(arena: Arc<Mapped>) -> Result<Self> {
        let (start, bytes) = (arena.iova().0, arena.bytes());
        let books = AddressAllocator::new(start, bytes).map_err(|error| Error::Invalid {
            what: format!("an arena of {bytes:#x} bytes at iova {start:#x}: {error}"),
        })?;
        Ok(Self {
            arena,
            books,
            buffers: 0,
            used: 0,
            room: bytes,
            untouched: start,
        })
    }

    fn take(&mut self, space: &DmaSpace, bytes: u64) -> Option<Place> {
        if bytes > self.room {
            return None;
        }
        let align = space.alignment(bytes);
        let Ok(range) = self.books.allocate(bytes, align, AllocPolicy::FirstMatch) else {
            self.room = bytes - 1;
            return None;
        };
        self.buffers += 1;
        self.used += bytes;
        self.room = self.room.min(self.arena.bytes() - self.used);
        let stale = self.untouched.min(range.end() + 1) - range.start().min(self.untouched);
        self.untouched = self.untouched.max(range.end() + 1);
        Some(Place {
            arena: Arc::clone(&self.arena),
            range,
            stale,
        })
    }
}

impl Arenas {
    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// Buffers in arenas.
    pub(super) fn buffers(&self) -> usize {
        self.all.values().map(|places| places.buffers).sum()
    }

    /// Bytes of arenas that no buffer has.
    pub(super) fn spare(&self) -> u64 {
        let spare = |places: &Places| places.arena.bytes() - places.used;
        self.all.values().map(spare).sum()
    }

    fn take(&mut self, space: &DmaSpace, bytes: u64) -> Option<Place> {
        let last = self.all.get_mut(&self.last);
        if let Some(place) = last.and_then(|places| places.take(space, bytes)) {
            return Some(place);
        }
        let (at, place) = self
            .all
            .iter_mut()
            .find_map(|(at, places)| Some((*at, places.take(space, bytes)?)))?;
        self.last = at;
        Some(place)
    }

    /// The arena, where this was its last buffer: to be dropped without the lock, since it unmaps.
    fn give_back(&mut self, range: &RangeInclusive) -> Option<Places> {
        let (&at, places) = self.all.range_mut(..=range.start()).next_back()?;
        if let Err(error) = places.books.free(range) {
            log::error!("iova {:#x} could not be given back: {error}", range.start());
            return None;
        }
        places.buffers -= 1;
        places.used -= range.len();
        places.room = places.arena.bytes() - places.used;
        match places.buffers {
            0 => self.all.remove(&at),
            _ => None,
        }
    }

    /// Each arena's books where `bytes` may be free, to try what they hold.
    pub(super) fn with_room(&self, bytes: u64) -> Vec<AddressAllocator> {
        let roomy = self.all.values().filter(|places| places.room >= bytes);
        roomy.map(|places| places.books.clone()).collect()
    }
}

/// A part of an arena.
#[derive(Debug)]
pub(super) struct Place {
    arena: Arc<Mapped>,
    range: RangeInclusive,
    stale: u64,
}

impl Place {
    /// Whole pages of the IOMMU's, `PLACE_MOST` at most; in a new arena where there is no room.
    pub(super) fn find(space: &Arc<DmaSpace>, bytes: u64) -> Result<Self> {
        let there = || space.lock().arenas.take(space, bytes);
        if let Some(place) = there() {
            return Ok(place);
        }
        // One at a time: others find room in what the first of them makes.
        let _one = space.growing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = there() {
            return Ok(place);
        }
        let length = {
            let books = space.lock();
            space.has_one_more(&books, bytes)?;
            arena_bytes(books.arenas.count())
        };
        let about = space.transport.describe();
        memlock::preflight(about, length).map_err(|error| match error {
            Error::Memory {
                what,
                needed,
                have,
                hint,
            } => Error::Memory {
                what: format!("{what}, for an arena of small buffers"),
                needed,
                have,
                hint,
            },
            other => other,
        })?;
        let arena = Arc::new(Mapped::new(space, length, HostOptions::default())?);
        let mut places = Places::over(arena)?;
        let place = places.take(space, bytes).ok_or_else(|| Error::Invalid {
            what: format!("a place of {bytes:#x} bytes in an arena of {length:#x}"),
        })?;
        let at = places.arena.iova().0;
        let mut books = space.lock();
        books.arenas.last = at;
        books.arenas.all.insert(at, places);
        Ok(place)
    }

    pub(super) fn arena(&self) -> &Mapped {
        &self.arena
    }

    pub(super) fn iova(&self) -> Iova {
        Iova(self.range.start())
    }

    /// Where it begins in its arena.
    pub(super) fn offset(&self) -> usize {
        length(self.range.start() - self.arena.iova().0)
    }

    /// How many bytes from its start on somebody had before.
    pub(super) fn stale(&self) -> usize {
        length(self.stale)
    }
}

/// Bytes within an arena.
fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or_default()
}

impl Drop for Place {
    fn drop(&mut self) {
        let space = self.arena.space();
        // A child of fork() has its parent's books, and maybe a lock that nobody opens.
        if space.mark.is_ours() {
            let emptied = space.lock().arenas.give_back(&self.range);
            drop(emptied);
        }
    }
}

#[cfg(test)]
mod tests;
