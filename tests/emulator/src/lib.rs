//! The reference device: a Jalapeño card in software, behind vfio-user.
pub mod client;
pub mod dma;
pub mod gate;
pub mod host;
pub mod irq;
pub mod pci;
pub mod server;
pub mod slot;
pub mod span;
pub mod stream;
