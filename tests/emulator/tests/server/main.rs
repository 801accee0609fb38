//! Stories of the vfio-user server and its guests, good and bad.
//!
//! The peer here is written from the protocol's document, byte by byte: it shares no code with the
//! server, nor with the library's transport.

mod bad_messages;
mod driver;
mod fuzz;
mod interrupts;
mod malformed;
mod memory;
mod peer;
mod program;
mod regions;
mod relayed;
mod roles;
mod stream;
