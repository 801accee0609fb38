//! Capability records: a contiguous chain in BAR0 that ends with id 0. Host interface 4.

use crate::row::{codes, constants, layout};

constants! {
    /// Bits of a capability record.
    table CAP_BITS;

    /// CapHeader.flags: a driver that does not know this record must refuse the device.
    CAP_REQUIRED: u16 = 1;
}

layout! {
    /// What every record begins with.
    CapHeader, 8, row CAP_HEADER {
        /// A CapId; 0 ends the chain.
        0x00 id: u16,
        /// Version of the record; later versions only append.
        0x02 version: u16,
        /// Bytes of the record with this header; a multiple of 8, at least 8.
        0x04 bytes: u16,
        /// CAP_REQUIRED; other bits zero.
        0x06 flags: u16,
    }
}

codes! {
    /// Capability records.
    CapId, row CAP_ID {
        /// Ends the chain.
        End "END" = 0,
        /// Queues and doorbells.
        Queues "QUEUES" = 1,
        /// HBM and its window.
        Memory "MEMORY" = 2,
        /// Host addresses the device can form.
        Iova "IOVA" = 3,
        /// Clock and worst-case times.
        Time "TIME" = 4,
        /// The telemetry page.
        Telemetry "TELEMETRY" = 5,
        /// The fault log.
        Faults "FAULTS" = 6,
        /// The kernel library.
        Kernels "KERNELS" = 7,
        /// The product's name.
        Product "PRODUCT" = 8,
        /// Firmware slots.
        Firmware "FIRMWARE" = 0x20 reserved,
        /// The card's profile ring.
        Profile "PROFILE" = 0x21,
        /// Recorded graphs.
        Graph "GRAPH" = 0x22 reserved,
        /// Priority bands.
        Priority "PRIORITY" = 0x23 reserved,
        /// Peer windows.
        Peer "PEER" = 0x24 reserved,
        /// Attestation.
        Attest "ATTEST" = 0x25 reserved,
    }
}

layout! {
    /// QUEUES, version 1, REQUIRED.
    CapQueues, 32, row CAP_QUEUES {
        /// id 1.
        0x00 header: CapHeader,
        /// Queues, queue 0 included.
        0x08 count: u32,
        /// Bytes from one doorbell page to the next in BAR2: 4 KiB or 64 KiB.
        0x0C doorbell_stride: u32,
        /// Least log2 of a ring's packets.
        0x10 depth_log2_min: u8,
        /// Greatest log2 of a ring's packets.
        0x11 depth_log2_max: u8,
        /// Greatest log2 of an error ring's records; the least is 0.
        0x12 errors_log2_max: u8,
        /// Zero.
        0x13 reserved: u8,
        /// Interrupt vectors the device has.
        0x14 vectors: u32,
        /// Zero.
        0x18 reserved2: u64,
    }
}

layout! {
    /// MEMORY, version 1, REQUIRED.
    CapMemory, 48, row CAP_MEMORY {
        /// id 2.
        0x00 header: CapHeader,
        /// Device address of HBM's first byte.
        0x08 hbm_base: u64,
        /// Bytes of HBM.
        0x10 hbm_bytes: u64,
        /// Offset in HBM of BAR4's first byte; the window's size is BAR4's.
        0x18 window_offset: u64,
        /// Bytes of a small page: 64 KiB.
        0x20 small_page: u32,
        /// Bytes of a large page: 2 MiB.
        0x24 large_page: u32,
        /// HBM stacks.
        0x28 stacks: u32,
        /// Zero.
        0x2C reserved: u32,
    }
}

layout! {
    /// IOVA, version 1, REQUIRED.
    CapIova, 24, row CAP_IOVA {
        /// id 3.
        0x00 header: CapHeader,
        /// Highest IOVA the device can form.
        0x08 last: u64,
        /// Zero.
        0x10 reserved: u64,
    }
}

layout! {
    /// TIME, version 1, REQUIRED.
    CapTime, 40, row CAP_TIME {
        /// id 4.
        0x00 header: CapHeader,
        /// Ticks of device time a second.
        0x08 ticks_per_second: u64,
        /// Longest a reset of a queue or the engines takes, in microseconds.
        0x10 reset_queue_us: u32,
        /// Longest a device reset takes, in microseconds.
        0x14 reset_device_us: u32,
        /// Longest between two heartbeats, in microseconds.
        0x18 heartbeat_us: u32,
        /// Longest a quiesce takes, in microseconds.
        0x1C quiesce_us: u32,
        /// Longest a full scrub takes, in microseconds.
        0x20 scrub_us: u32,
        /// Longest from power-on or reset to READY, in microseconds.
        0x24 boot_us: u32,
    }
}

layout! {
    /// TELEMETRY, version 1.
    CapTelemetry, 16, row CAP_TELEMETRY {
        /// id 5.
        0x00 header: CapHeader,
        /// Offset in BAR0.
        0x08 offset: u32,
        /// Bytes.
        0x0C bytes: u32,
    }
}

layout! {
    /// FAULTS, version 1.
    CapFaults, 24, row CAP_FAULTS {
        /// id 6.
        0x00 header: CapHeader,
        /// Offset in BAR0 of the log.
        0x08 offset: u32,
        /// Records in the log.
        0x0C records: u32,
        /// Bytes of a record.
        0x10 record_bytes: u32,
        /// Zero.
        0x14 reserved: u32,
    }
}

layout! {
    /// KERNELS, version 1.
    CapKernels, 48, row CAP_KERNELS {
        /// id 7.
        0x00 header: CapHeader,
        /// Bit k: KernelId k runs.
        0x08 kernels: [u64; 2],
        /// Bit t: DType t is known.
        0x18 dtypes: [u64; 2],
        /// Most operands of a LAUNCH.
        0x28 operands_max: u32,
        /// Zero.
        0x2C reserved: u32,
    }
}

layout! {
    /// PRODUCT, version 1.
    CapProduct, 72, row CAP_PRODUCT {
        /// id 8.
        0x00 header: CapHeader,
        /// Product name, ASCII, zero-padded.
        0x08 name: [u8; 32],
        /// Firmware version, ASCII, zero-padded.
        0x28 firmware: [u8; 32],
    }
}

layout! {
    /// PROFILE, version 1.
    CapProfile, 24, row CAP_PROFILE {
        /// id 0x21.
        0x00 header: CapHeader,
        /// Offset in BAR0 of the ring.
        0x08 offset: u32,
        /// Records in the ring; a power of two.
        0x0C records: u32,
        /// Bytes of a record.
        0x10 record_bytes: u32,
        /// How long the ring is written after a read of PROFILE_COUNT, in milliseconds.
        0x14 lease_ms: u32,
    }
}
