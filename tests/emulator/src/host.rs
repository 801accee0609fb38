//! The host as the card sees it: mapped memory, and interrupts to send.

use std::fmt::Debug;

use crate::gate::Gate;
use crate::span::Span;

/// Why host memory cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody mapped the address.
    Unmapped,
    /// It is mapped for reading only.
    ReadOnly,
    /// Bus mastering is off.
    BusMasterOff,
    /// It is mapped, but the client broke it (shrunk file, unanswered message).
    Broken,
}

/// The beginning of a range of host memory, as far as one mapping reaches.
#[derive(Clone, Copy, Debug)]
pub enum Stretch {
    /// Memory that the card can touch.
    Mapped(Span),
    /// So many bytes that are only reached through [`Host::read`] and [`Host::write`].
    Relayed(u64),
}

/// What the slot gives the card. Implemented by the vfio-user server, and by tests.
pub trait Host: Send + Sync + Debug {
    /// The gate that keeps mappings in place while the engine is inside.
    fn gate(&self) -> &Gate;

    /// Changes whenever a mapping changes or bus mastering is switched. One load.
    fn generation(&self) -> u64;

    /// Whether the card may master the bus. One load.
    fn is_bus_master(&self) -> bool;

    /// Resolves the beginning of a range; called inside the gate.
    ///
    /// # Errors
    /// Why its first byte cannot be used so.
    fn stretch(&self, iova: u64, bytes: u64, write: bool) -> Result<Stretch, Refusal>;

    /// Reads relayed memory, a question to the client. Called inside the gate, which it does not
    /// leave: where somebody wants to change mappings it gives up, and what [`Host::stretch`] gave
    /// before still stands.
    ///
    /// # Errors
    /// Why not.
    fn read(&self, iova: u64, into: &mut [u8]) -> Result<(), Refusal>;

    /// Writes relayed memory, as [`Host::read`] reads it.
    ///
    /// # Errors
    /// Why not.
    fn write(&self, iova: u64, from: &[u8]) -> Result<(), Refusal>;

    /// Start and bytes of the mapping nearest to an address.
    fn nearest(&self, iova: u64) -> Option<(u64, u64)>;

    /// Sends an interrupt; nothing where the vector is not enabled.
    fn fire(&self, vector: u16);
}
