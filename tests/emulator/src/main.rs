//! Serves an emulated card on a socket.
fn main() {}
