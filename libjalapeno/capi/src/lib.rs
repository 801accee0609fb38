//! The C ABI of libjalapeno: `include/jalapeno.h`, function by function.
//!
//! A function here is a contract and one call: arguments checked, a handle looked up, a panic
//! caught, one status out. What it does stands in the `jalapeno` crate.

pub mod buffer;
pub mod device;
pub mod graph;
mod guard;
pub mod handle;
pub mod log;
pub mod profile;
pub mod queue;
mod registries;
pub mod session;
mod sized;
pub mod status;
mod turns;
