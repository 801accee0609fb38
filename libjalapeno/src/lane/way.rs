//! A way to a lane: keeps it alive, and its words one load away.

use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

use super::{Lane, Traffic};

/// See the file's head.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    traffic: NonNull<Traffic>,
    lane: Arc<Lane>,
}

// SAFETY: the pointer leads to words of the lane, all atomics, which stay where they are as long as
// `lane` lives; a lane may cross and be shared by threads.
unsafe impl Send for Way {}
// SAFETY: as above.
unsafe impl Sync for Way {}

impl Way {
    pub(crate) fn new(lane: Arc<Lane>) -> Self {
        Self {
            traffic: NonNull::from(lane.traffic()),
            lane,
        }
    }

    /// The words of the path of a command.
    #[inline(always)]
    pub(crate) fn traffic(&self) -> &Traffic {
        // SAFETY: the lane's page keeps its words where they are, and `lane` keeps the page.
        unsafe { self.traffic.as_ref() }
    }

    pub(crate) fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }
}

impl Deref for Way {
    type Target = Lane;
    #[inline]
    fn deref(&self) -> &Lane {
        &self.lane
    }
}
