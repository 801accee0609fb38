//! Submission packets: 64 bytes, the header stored last. Host interface 6.

use crate::row::{codes, constants, layout};

constants! {
    /// A packet's size and its header's bits.
    table PACKET_BITS;

    /// Bytes of a packet.
    PACKET_BYTES: usize = 64;
    /// Header bit 8: validity. Set on the ring's first lap, clear on the second, and so on.
    HEADER_VALID: u64 = 1 << 8;
    /// Header bits 7:0: the opcode.
    HEADER_OPCODE: u64 = 0xFF;
    /// Header bits 31:9 must be zero.
    HEADER_RESERVED: u64 = 0xFFFF_FE00;
    /// Header bits 63:32: the argument, per opcode.
    HEADER_ARGUMENT_SHIFT: u32 = 32;
}

/// The header of a packet, without its validity bit.
#[must_use]
pub const fn header(opcode: Opcode, argument: u32) -> u64 {
    opcode as u64 | (argument as u64) << HEADER_ARGUMENT_SHIFT
}

layout! {
    /// Any packet: what all share, and 40 bytes per opcode.
    Packet, 64, row PACKET {
        /// Opcode, validity bit and argument; stored last.
        0x00 header: u64,
        /// The client's own; comes back in fault records.
        0x08 cookie: u64,
        /// Device time after which the packet fails with DEADLINE; 0: none.
        0x10 deadline: u64,
        /// Per opcode; what an opcode does not name is zero.
        0x18 body: [u64; 5],
    }
}

layout! {
    /// COPY: bytes from one address to another; overlapping ranges are refused.
    Copy, 40, row COPY {
        /// Source address.
        0x00 source: u64,
        /// Destination address.
        0x08 destination: u64,
        /// Bytes; 0 does nothing.
        0x10 bytes: u64,
        /// Zero.
        0x18 reserved: [u64; 2],
    }
}

layout! {
    /// COPY_STRIDED: rows of bytes, each at its stride.
    CopyStrided, 40, row COPY_STRIDED {
        /// Source address of the first row.
        0x00 source: u64,
        /// Destination address of the first row.
        0x08 destination: u64,
        /// Bytes of a row.
        0x10 row_bytes: u32,
        /// Rows; 0 does nothing.
        0x14 rows: u32,
        /// Bytes from one source row to the next.
        0x18 source_stride: u64,
        /// Bytes from one destination row to the next; at least row_bytes.
        0x20 destination_stride: u64,
    }
}

layout! {
    /// FILL: an 8-byte pattern repeated from the destination on.
    Fill, 40, row FILL {
        /// Destination address.
        0x00 destination: u64,
        /// Bytes; 0 does nothing; need not be a multiple of 8.
        0x08 bytes: u64,
        /// Pattern, lowest byte first.
        0x10 pattern: u64,
        /// Zero.
        0x18 reserved: [u64; 2],
    }
}

layout! {
    /// SIGNAL and WAIT: a 64-bit timeline fence, 8-byte aligned, in host memory or HBM.
    /// WAIT's header argument is a WaitOp.
    Fence, 40, row FENCE {
        /// The fence's address.
        0x00 address: u64,
        /// Value stored (SIGNAL, never lowering it) or compared with (WAIT).
        0x08 value: u64,
        /// Zero.
        0x10 reserved: [u64; 3],
    }
}

layout! {
    /// TIMESTAMP: stores a Stamp when every earlier packet of the queue is done.
    Timestamp, 40, row TIMESTAMP {
        /// Where to, 8-byte aligned.
        0x00 address: u64,
        /// Zero.
        0x08 reserved: [u64; 4],
    }
}

layout! {
    /// What TIMESTAMP stores.
    Stamp, 16, row STAMP {
        /// Device time.
        0x00 time: u64,
        /// The device's energy counter in microjoules.
        0x08 energy_uj: u64,
    }
}

layout! {
    /// LAUNCH: runs a kernel of the firmware's library; the header argument is the KernelId.
    Launch, 40, row LAUNCH {
        /// Address of the argument block, 64-byte aligned: Parameters, then tensor descriptors.
        0x00 arguments: u64,
        /// Its length: 64 x (1 + operands).
        0x08 argument_bytes: u32,
        /// Zero.
        0x0C flags: u32,
        /// Zero.
        0x10 reserved: [u64; 3],
    }
}

layout! {
    /// The first line of a LAUNCH argument block. Floats stand as their bits.
    Parameters, 64, row PARAMETERS {
        /// Per kernel; what a kernel does not name is zero.
        0x00 word: [u32; 16],
    }
}

layout! {
    /// A tensor operand: a strided view of memory.
    Tensor, 64, row TENSOR {
        /// Device address of element 0.
        0x00 address: u64,
        /// A DType code.
        0x08 dtype: u32,
        /// Zero.
        0x0C flags: u32,
        /// Elements in each dimension, the fastest first.
        0x10 ne: [u32; 4],
        /// Bytes from one element (of dimension 0: block) to the next in each dimension.
        0x20 nb: [u64; 4],
    }
}

layout! {
    /// MANAGE, on queue 0 only; the header argument is a Command.
    Manage, 40, row MANAGE {
        /// Address of the command's input structure, 8-byte aligned; 0: none.
        0x00 input: u64,
        /// Where its result structure goes, 8-byte aligned; 0: none.
        0x08 result: u64,
        /// Bytes of the input.
        0x10 input_bytes: u32,
        /// Room for the result; a longer result fails the packet and writes nothing.
        0x14 result_bytes: u32,
        /// Zero.
        0x18 reserved: [u64; 2],
    }
}

layout! {
    /// INDIRECT: runs a recorded graph; the header argument counts its packets.
    Indirect, 40, row INDIRECT {
        /// Address of the image, 64-byte aligned: packets, argument blocks, patches.
        0x00 image: u64,
        /// The image's length, a multiple of 64.
        0x08 image_bytes: u32,
        /// Patches at the image's end.
        0x0C patches: u32,
        /// What the patches add, a multiple of it each.
        0x10 value: [u32; 6],
    }
}

layout! {
    /// A patch of a graph: adds value x scale to a word of the device's copy of the image.
    Patch, 16, row PATCH {
        /// Byte offset of the word in the image, a multiple of its width.
        0x00 offset: u32,
        /// Bytes of the word: 4 or 8.
        0x04 width: u8,
        /// Which value of the INDIRECT packet: 0 to 5.
        0x05 value: u8,
        /// Zero.
        0x06 reserved: u16,
        /// What the value is multiplied with, modulo the word's width.
        0x08 scale: u64,
    }
}

codes! {
    /// What a packet asks for.
    Opcode, row OPCODE {
        /// Nothing.
        Nop "NOP" = 0x01,
        /// Copy bytes.
        Copy "COPY" = 0x02,
        /// Copy rows of bytes.
        CopyStrided "COPY_STRIDED" = 0x03,
        /// Fill memory with a pattern.
        Fill "FILL" = 0x04,
        /// Raise a timeline fence.
        Signal "SIGNAL" = 0x05,
        /// Wait for a timeline fence.
        Wait "WAIT" = 0x06,
        /// Store device time and energy.
        Timestamp "TIMESTAMP" = 0x07,
        /// Run a kernel.
        Launch "LAUNCH" = 0x08,
        /// Make everything written so far visible to all before what follows starts.
        Barrier "BARRIER" = 0x09,
        /// Run a recorded graph.
        Indirect "INDIRECT" = 0x0A,
        /// Run a graph that the device keeps.
        Replay "REPLAY" = 0x0B reserved,
        /// A management command; queue 0 only.
        Manage "MANAGE" = 0x10,
    }
}

codes! {
    /// How WAIT compares.
    WaitOp, row WAIT_OP {
        /// The fence equals the value.
        Equal "EQUAL" = 0,
        /// The fence is at least the value.
        AtLeast "AT_LEAST" = 1,
    }
}

codes! {
    /// Management commands.
    Command, row COMMAND {
        /// Creates a queue. Input QueueCreate.
        QueueCreate "QUEUE_CREATE" = 0x01,
        /// Destroys a queue: after completion the device never touches its memory. Input QueueName.
        QueueDestroy "QUEUE_DESTROY" = 0x02,
        /// Reports on a queue. Input QueueName, result QueueReport.
        QueueQuery "QUEUE_QUERY" = 0x03,
        /// Telemetry refresh interval.
        TelemetryRate "TELEMETRY_RATE" = 0x10 reserved,
        /// Power limit.
        PowerCap "POWER_CAP" = 0x11 reserved,
        /// Clock limit.
        ClockLimit "CLOCK_LIMIT" = 0x12 reserved,
        /// Firmware slots.
        FirmwareList "FIRMWARE_LIST" = 0x20 reserved,
        /// Writes a firmware image.
        FirmwareWrite "FIRMWARE_WRITE" = 0x21 reserved,
        /// Selects the slot of the next boot.
        FirmwareActivate "FIRMWARE_ACTIVATE" = 0x22 reserved,
        /// Records a graph.
        GraphRecord "GRAPH_RECORD" = 0x30 reserved,
        /// Forgets a graph.
        GraphForget "GRAPH_FORGET" = 0x31 reserved,
        /// Scrubs an HBM range.
        ScrubRange "SCRUB_RANGE" = 0x40 reserved,
        /// Maps a peer's HBM.
        PeerMap "PEER_MAP" = 0x50 reserved,
        /// Attestation report.
        Attest "ATTEST" = 0x60 reserved,
    }
}
