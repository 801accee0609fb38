//! Userspace driver library for the Jalapeño LLM inference accelerator.
//!
//! Floors, from the ground up; a file uses only what lies below it:
//! `hw`, `wire` (crates of their own) · `error` `units` `fork` `pci` `host` `binding` · `transport` ·
//! `mmio` `order` `dma` `hbm` `irq` `clock` `capabilities` · `ring` `queue` · `device` `session` `transfer` `telemetry`
//! `discover` `holders`.
//!
//! The smallest whole program (`examples/copy.rs`):
//!
//! ```no_run
#![doc = include_str!("../examples/copy.rs")]
//! ```

pub mod binding;
pub mod buffer;
pub mod capabilities;
pub mod clock;
mod completion;
pub mod completions;
pub mod device;
pub mod discover;
pub mod dma;
pub mod error;
mod error_ring;
pub mod fence;
mod fork;
pub mod graph;
pub mod hbm;
pub mod holders;
pub mod host;
pub mod irq;
mod lane;
mod ledger;
mod management;
pub mod mmio;
mod named;
mod order;
pub mod pci;
pub mod peer;
pub mod profile;
pub mod queue;
mod ring;
pub mod session;
pub mod telemetry;
pub mod transfer;
pub mod transport;
pub mod units;
mod waker;

pub use buffer::{DeviceBuffer, HostBuffer};
pub use completions::{Completion, Completions};
pub use device::{Device, Role};
pub use dma::HostOptions;
pub use error::{Code, Error, Result};
pub use fence::Fence;
pub use graph::{Graph, Place, Recorder};
pub use jalapeno_hw as hw;
pub use peer::PeerBuffer;
pub use profile::{JobStats, Profiler};
pub use queue::Queue;
pub use session::{Delivery, QueueOptions, Session};
pub use telemetry::{Reading, Telemetry};
pub use transfer::Transfer;
pub use units::{DeviceAddr, Seq};

#[cfg(test)]
mod played;
#[cfg(test)]
mod queue_cost;
#[cfg(test)]
mod queue_stories;
