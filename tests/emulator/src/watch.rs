//! The watch: for each queue the one word that shows its next packet.
//!
//! An engine with nothing to do looks at every queue over and over, and what it looks at last decides
//! how late a packet is noticed. So a look is one load and one comparison; whatever else there is to
//! know about a queue was found out when its watch was set.

use crate::span::Word;

/// What is looked at for one queue.
#[derive(Clone, Copy, Debug)]
pub enum Watch {
    /// Its next packet's header, of which these bits change into this when it is stored.
    Header {
        /// The header.
        word: Word,
        /// The bits.
        mask: u64,
        /// What they turn into.
        ready: u64,
    },
    /// The queue must be asked: it is not in plain memory, or its head waits.
    Ask,
}

impl Watch {
    /// Whether the queue may have work.
    #[inline]
    #[must_use]
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Header { word, mask, ready } => word.load() & mask == *ready,
            Self::Ask => true,
        }
    }
}
