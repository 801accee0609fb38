//! Numbers of version 1 that are not discovered: bounds a driver may rely on.

use crate::row::{constants, times};

constants! {
    /// Limits of version 1.
    table LIMITS;

    /// Most queues any device of version 1 has.
    QUEUES_MAX: u32 = 1024;
    /// Greatest log2 of a ring's packets.
    DEPTH_LOG2_MAX: u8 = 16;
    /// Most operands of a LAUNCH.
    OPERANDS_MAX: u32 = 8;
    /// Largest management input or result in bytes.
    MANAGE_BYTES_MAX: u32 = 4096;
    /// Most packets of a graph.
    GRAPH_PACKETS_MAX: u32 = 1 << 14;
    /// Most bytes of a graph's image.
    GRAPH_BYTES_MAX: u32 = 4 << 20;
    /// Values that an INDIRECT packet carries for patches.
    GRAPH_VALUES: u32 = 6;
    /// Device address of HBM's first byte; IOVAs end below it.
    HBM_BASE: u64 = 1 << 56;
    /// Highest IOVA.
    IOVA_LAST: u64 = (1 << 48) - 1;
}

times! {
    /// Worst-case times in microseconds.
    table TIMES;

    /// Longest a queue or engine reset may take. Host interface 8.2.
    RESET_QUEUE_TIME "RESET_QUEUE_US" = 10_000;
    /// Longest a device reset may take. Host interface 8.2.
    RESET_DEVICE_TIME "RESET_DEVICE_US" = 100_000;
    /// Longest from reset to READY. Host interface 8.2.
    BOOT_TIME "BOOT_US" = 1_000_000;
    /// Longest between two heartbeats. Host interface 8.3.
    HEARTBEAT_PERIOD "HEARTBEAT_US" = 100_000;
    /// Longest from CONTROL.quiesce to STATUS.idle. Host interface 8.1.
    QUIESCE_TIME "QUIESCE_US" = 100_000;
    /// Longest a change of Q0_CONTROL takes. Host interface 5.2.
    QUEUE_TIME "QUEUE_US" = 10_000;
    /// Longest that realtime packets run before another band has a piece of work. Host interface 5.10.
    REALTIME_BURST "REALTIME_BURST_US" = 10_000;
}
