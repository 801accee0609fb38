//! A queue in host memory: the completion word, and what its creation takes.

use crate::row::{codes, constants, layout};

constants! {
    /// The completion word and its line.
    table QUEUE_BITS;

    /// Bit 63 of the completion word: the queue stopped after the sequence number in bits 62:0.
    COMPLETION_STOPPED: u64 = 1 << 63;
    /// Size and alignment of a completion line; the device writes only its first 8 bytes.
    COMPLETION_LINE_BYTES: usize = 64;
}

codes! {
    /// Whose packets go first. Host interface 5.10.
    PriorityBand, row PRIORITY_BAND {
        /// Share 4.
        Normal "NORMAL" = 0,
        /// Share 1.
        Low "LOW" = 1,
        /// Share 8.
        High "HIGH" = 2,
        /// Before all others: it interrupts their packets.
        Realtime "REALTIME" = 3,
    }
}

layout! {
    /// Input of QUEUE_CREATE. Rings must be mapped: submission readable, the others writable.
    QueueCreate, 64, row QUEUE_CREATE {
        /// Number, 1 to the capability's count - 1; must not exist.
        0x00 queue: u32,
        /// log2 of the submission ring's packets.
        0x04 depth_log2: u8,
        /// log2 of the error ring's records.
        0x05 errors_log2: u8,
        /// Interrupt vector; vector 0 is for faults and events.
        0x06 vector: u16,
        /// IOVA of the submission ring, aligned to its size or 4 KiB, whichever is less.
        0x08 ring: u64,
        /// IOVA of the completion line, 64-byte aligned.
        0x10 completion: u64,
        /// IOVA of the error ring, 256-byte aligned.
        0x18 errors: u64,
        /// IOVA of the profile ring, 64-byte aligned, as many records as packets; 0: none.
        0x20 profile: u64,
        /// A PriorityBand code; 0 without feature PRIORITY.
        0x28 priority: u32,
        /// Zero.
        0x2C flags: u32,
        /// Zero.
        0x30 reserved: [u64; 2],
    }
}

layout! {
    /// Input of QUEUE_DESTROY and QUEUE_QUERY.
    QueueName, 8, row QUEUE_NAME {
        /// Queue number.
        0x00 queue: u32,
        /// Zero.
        0x04 reserved: u32,
    }
}

layout! {
    /// Result of QUEUE_QUERY.
    QueueReport, 32, row QUEUE_REPORT {
        /// A QueueState code.
        0x00 state: u32,
        /// The FaultCode it stopped for; 0: none.
        0x04 code: u32,
        /// Last completed sequence number.
        0x08 completed: u64,
        /// Last sequence number the device has seen submitted.
        0x10 submitted: u64,
        /// Error records written.
        0x18 errors: u64,
    }
}
