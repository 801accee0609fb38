//! The profile record: what a packet took. Host interface 9.3.

use crate::row::{codes, constants, layout};

constants! {
    /// Profile rings.
    table PROFILE_BITS;

    /// Bytes of a profile record.
    PROFILE_RECORD_BYTES: usize = 64;
    /// Milliseconds for which the card's ring is written after a read of PROFILE_COUNT.
    PROFILE_LEASE_MS: u32 = 1000;
}

layout! {
    /// What a packet of a queue took; one for a whole graph.
    ProfileRecord, 64, row PROFILE_RECORD {
        /// The packet's sequence number; written last.
        0x00 sequence: u64,
        /// The packet's cookie.
        0x08 cookie: u64,
        /// Device time when it came up.
        0x10 start: u64,
        /// Device time when it was finished.
        0x18 end: u64,
        /// Energy in nanojoules.
        0x20 energy_nj: u64,
        /// Bytes read and written.
        0x28 bytes: u64,
        /// Kernel operations (a multiply-add counts two).
        0x30 operations: u64,
        /// Its queue.
        0x38 queue: u16,
        /// An Opcode.
        0x3A opcode: u8,
        /// A ProfileStatus.
        0x3B status: u8,
        /// Of a LAUNCH its kernel, of an INDIRECT the packets of its graph that are done; else 0.
        0x3C kernel: u32,
    }
}

codes! {
    /// How a packet of a profile record ended.
    ProfileStatus, row PROFILE_STATUS {
        /// It is done.
        Done "DONE" = 0,
        /// It failed; the error ring says why.
        Failed "FAILED" = 1,
    }
}
