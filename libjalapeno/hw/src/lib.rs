//! The Jalapeño host interface, declared: registers, packets, records, codes and limits.
//!
//! This crate is the one truth about the device as software sees it. Each row here yields a Rust
//! type, a row in a table (walked by register dumps, the emulator's BAR decode and tracers) and a
//! line of `include/jalapeno_hw.h`. What a row *means* stands in `docs/host-interface.md`, whose
//! section numbers are cited as `Host interface N.N`. Everything is little-endian.
#![no_std]
#![forbid(unsafe_code)]
#![allow(
    missing_debug_implementations,
    reason = "every type here derives Debug; the ones zerocopy derives in passing do not"
)]
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "the rows' words also stand in docs/host-interface.md and the C header: detail[0] is no link"
)]

#[cfg(not(target_endian = "little"))]
compile_error!("the host interface is little-endian and its structures are used in place");

mod row;

pub mod caps;
pub mod faults;
pub mod header;
pub mod kernels;
pub mod limits;
pub mod packets;
pub mod pci;
pub mod profile;
pub mod queue;
pub mod reg;
pub mod regs;
pub mod tables;
pub mod telemetry;
