//! What recorded graphs name: asked when a buffer goes, told when one has gone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The buffers that a graph names.
#[derive(Debug)]
pub(crate) struct Named {
    /// Address and bytes of each.
    ranges: Vec<(u64, u64)>,
    /// All of them are still there.
    intact: AtomicBool,
}

impl Named {
    pub(crate) fn new(ranges: Vec<(u64, u64)>) -> Self {
        Self {
            ranges,
            intact: AtomicBool::new(true),
        }
    }

    /// Address and bytes of each.
    pub(crate) fn ranges(&self) -> &[(u64, u64)] {
        &self.ranges
    }

    /// Whether all of them are still there.
    #[inline(always)]
    pub(crate) fn is_intact(&self) -> bool {
        self.intact.load(Ordering::Acquire)
    }
}

/// The graphs of a session by their images' addresses: those that live, and those that were dropped
/// and still run.
#[derive(Debug, Default)]
pub(crate) struct Graphs(Mutex<BTreeMap<u64, Arc<Named>>>);

impl Graphs {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Named>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, image: u64, named: &Arc<Named>) {
        self.lock().insert(image, Arc::clone(named));
    }

    /// The memory at this address is gone; it may have been an image.
    pub(crate) fn forget(&self, image: u64) {
        self.lock().remove(&image);
    }

    /// Whether the graph with this image names a range that is hit. Of an image that nobody
    /// recorded here any memory may be meant.
    pub(crate) fn names(&self, image: u64, hit: &dyn Fn(u64, u64) -> bool) -> bool {
        let graphs = self.lock();
        let ranges = graphs.get(&image).map(|named| named.ranges.iter());
        ranges.is_none_or(|mut ranges| ranges.any(|&(start, bytes)| hit(start, bytes)))
    }

    /// A buffer goes: the graphs that name it run no more.
    pub(crate) fn spoil(&self, start: u64) {
        for named in self.lock().values() {
            if named.ranges.iter().any(|&(addr, _)| addr == start) {
                named.intact.store(false, Ordering::Release);
            }
        }
    }
}
