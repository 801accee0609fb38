//! The graph: packets recorded and checked once, run again and again by one packet.
//! Host interface 6.11.

use std::sync::Arc;

use jalapeno_hw::limits::GRAPH_VALUES;
use jalapeno_hw::packets::{Indirect, Opcode, Packet, header};

use crate::buffer::HostBuffer;
use crate::error::{Error, Result};
use crate::named::Named;
use crate::queue::Queue;
use crate::units::Seq;

mod checked;
mod recorder;

pub use recorder::{Place, Recorder};

/// Values that a graph can have.
const VALUES: usize = GRAPH_VALUES as usize;

/// A recorded graph: made by `Session::record`, run on any queue of that session. Thread-safe; it may
/// be in flight more than once. Dropped while it runs: its image stays until it is done.
///
/// A buffer that it names may be freed when no run of it is in flight; the graph then gives `Closed`.
/// Freeing one while another thread replays is the caller's race, as it is with packets.
#[derive(Debug)]
pub struct Graph {
    /// INDIRECT, with all values zero.
    packet: Packet,
    /// The greatest that each value may be.
    limits: [u32; VALUES],
    values: usize,
    /// The session's mark.
    session: u64,
    named: Arc<Named>,
    image: HostBuffer,
}

impl Graph {
    /// A graph whose image is in place.
    fn new(
        image: HostBuffer,
        (packets, bytes, patches): (u32, u32, u32),
        limits: &[u32],
        session: u64,
        named: Arc<Named>,
    ) -> Self {
        let indirect = Indirect {
            image: image.address().0,
            image_bytes: bytes,
            patches,
            ..Indirect::ZERO
        };
        let mut most = [0; VALUES];
        for (most, limit) in most.iter_mut().zip(limits) {
            *most = *limit;
        }
        Self {
            packet: Packet {
                header: header(Opcode::Indirect, packets),
                body: zerocopy::transmute!(indirect),
                ..Packet::ZERO
            },
            limits: most,
            values: limits.len().min(VALUES),
            session,
            named,
            image,
        }
    }

    /// Packets that one run executes.
    #[must_use]
    pub fn packets(&self) -> u32 {
        u32::try_from(self.packet.header >> 32).unwrap_or(0)
    }

    /// Values that a run takes.
    #[must_use]
    pub fn values(&self) -> usize {
        self.values
    }

    /// Whether every buffer that it names is still there.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.named.is_intact()
    }

    /// Whether a run of it is not done.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.image.is_in_use()
    }

    /// Runs it: one packet, one doorbell, no allocation, no lock, no system call. `values` are what
    /// its patches add. The sequence number is done when all of it is; a failure's record says which
    /// packet of the graph it was.
    ///
    /// # Errors
    /// `Invalid` for values that were not promised when it was recorded, or a queue of another
    /// session; `Closed` when a buffer that it names was freed; otherwise as `Queue::submit_one`.
    #[inline]
    pub fn replay(&self, queue: &mut Queue, values: &[u32]) -> Result<Seq> {
        match self.replay_quickly(queue, values) {
            Some(seq) => Ok(seq),
            None => self.replay_slowly(queue, values),
        }
    }

    /// `replay` where nothing is unusual, without a call on its way; `None`: nothing was done, and
    /// `replay` does it or says why not.
    #[inline(always)]
    pub fn replay_quickly(&self, queue: &mut Queue, values: &[u32]) -> Option<Seq> {
        if queue.session() != self.session {
            return None;
        }
        queue.submit_one_quickly(&self.filled(values)?)
    }

    #[cold]
    #[inline(never)]
    fn replay_slowly(&self, queue: &mut Queue, values: &[u32]) -> Result<Seq> {
        let packet = self.packet(values)?;
        if queue.session() != self.session {
            return Err(Error::Invalid {
                what: "the graph was recorded in another session than the queue's".into(),
            });
        }
        queue.submit_one(&packet)
    }

    /// The packet that runs it, to be given a cookie or a deadline, or to be submitted with others:
    /// to a queue of its session.
    ///
    /// # Errors
    /// `Invalid`, `Closed` as `replay`.
    pub fn packet(&self, values: &[u32]) -> Result<Packet> {
        self.filled(values).ok_or_else(|| self.refusal(values))
    }

    /// The packet with its values, if they are as promised and all buffers are there.
    #[inline(always)]
    fn filled(&self, values: &[u32]) -> Option<Packet> {
        if values.len() != self.values || !self.named.is_intact() {
            return None;
        }
        let mut given = [0; VALUES];
        for ((given, value), limit) in given.iter_mut().zip(values).zip(self.limits) {
            if *value > limit {
                return None;
            }
            *given = *value;
        }
        let mut packet = self.packet;
        let pairs: [u64; VALUES / 2] = zerocopy::transmute!(given);
        packet.body[2..].copy_from_slice(&pairs);
        Some(packet)
    }

    #[cold]
    fn refusal(&self, values: &[u32]) -> Error {
        if !self.named.is_intact() {
            return Error::Closed {
                what: "a buffer that the graph names",
            };
        }
        let beyond = values.iter().zip(self.limits).enumerate();
        let what = match beyond
            .into_iter()
            .find(|(_, (value, most))| **value > *most)
        {
            Some((index, (value, most))) if values.len() == self.values => {
                format!("value {index} of the graph is {value}, recorded for at most {most}")
            }
            _ => format!("{} values for a graph of {}", values.len(), self.values),
        };
        Error::Invalid { what }
    }

    /// Frees it.
    ///
    /// # Errors
    /// `InUse` while a run of it is not done; the graph comes back as it was.
    #[expect(clippy::result_large_err, reason = "the graph itself comes back")]
    pub fn try_free(self) -> std::result::Result<(), (Self, Error)> {
        if self.is_in_use() {
            return Err((self, Error::InUse { what: "the graph" }));
        }
        Ok(())
    }
}
