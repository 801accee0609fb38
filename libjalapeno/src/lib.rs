//! Userspace driver library for the Jalapeño LLM inference accelerator.
//!
//! Floors, from the ground up; a file uses only what lies below it:
//! `hw`, `wire` (crates of their own) · `error` `units` `fork` · `transport` · `mmio` `order` `dma`
//! `hbm` `irq` `clock` `capabilities` · `ring` `queue` · `device` `session` `telemetry` `discover`.

pub mod capabilities;
pub mod clock;
pub mod device;
pub mod discover;
pub mod dma;
pub mod error;
mod fork;
pub mod hbm;
pub mod irq;
pub mod mmio;
mod order;
pub mod telemetry;
pub mod transport;
pub mod units;

pub use error::{Code, Error, Result};
pub use jalapeno_hw as hw;
