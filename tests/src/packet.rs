//! Packets, by what they do.

use jalapeno::DeviceAddr;
use jalapeno_hw::packets::{Opcode, Packet, WaitOp, header};

/// A packet with a body.
#[must_use]
pub fn packet(opcode: Opcode, argument: u32, body: [u64; 5]) -> Packet {
    let mut packet = Packet::ZERO;
    packet.header = header(opcode, argument);
    packet.body = body;
    packet
}

/// Does nothing; the cookie comes back.
#[must_use]
pub fn nop(cookie: u64) -> Packet {
    let mut packet = packet(Opcode::Nop, 0, [0; 5]);
    packet.cookie = cookie;
    packet
}

/// Copies bytes.
#[must_use]
pub fn copy(from: DeviceAddr, to: DeviceAddr, bytes: u64) -> Packet {
    packet(Opcode::Copy, 0, [from.0, to.0, bytes, 0, 0])
}

/// Fills memory with a pattern of 8 bytes.
#[must_use]
pub fn fill(to: DeviceAddr, bytes: u64, pattern: u64) -> Packet {
    packet(Opcode::Fill, 0, [to.0, bytes, pattern, 0, 0])
}

/// Raises a fence.
#[must_use]
pub fn signal(fence: DeviceAddr, value: u64) -> Packet {
    packet(Opcode::Signal, 0, [fence.0, value, 0, 0, 0])
}

/// Waits until a fence is at least a value.
#[must_use]
pub fn wait(fence: DeviceAddr, value: u64) -> Packet {
    packet(
        Opcode::Wait,
        WaitOp::AtLeast as u32,
        [fence.0, value, 0, 0, 0],
    )
}
