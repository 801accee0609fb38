//! Numbers of version 1 that are not discovered: bounds a driver may rely on.

use core::time::Duration;

/// Most queues any device of version 1 has.
pub const QUEUES_MAX: u32 = 1024;
/// Greatest log2 of a ring's packets.
pub const DEPTH_LOG2_MAX: u8 = 16;
/// Most operands of a LAUNCH.
pub const OPERANDS_MAX: u32 = 8;
/// Largest management input or result in bytes.
pub const MANAGE_BYTES_MAX: u32 = 4096;
/// Device address of HBM's first byte; IOVAs end below it.
pub const HBM_BASE: u64 = 1 << 56;
/// Highest IOVA.
pub const IOVA_LAST: u64 = (1 << 48) - 1;
/// Longest a queue or engine reset may take. Host interface 8.2.
pub const RESET_QUEUE_TIME: Duration = Duration::from_millis(10);
/// Longest a device reset may take. Host interface 8.2.
pub const RESET_DEVICE_TIME: Duration = Duration::from_millis(100);
/// Longest from reset to READY. Host interface 8.2.
pub const BOOT_TIME: Duration = Duration::from_secs(1);
/// Longest between two heartbeats. Host interface 8.3.
pub const HEARTBEAT_PERIOD: Duration = Duration::from_millis(100);
/// Longest from CONTROL.quiesce to STATUS.idle. Host interface 8.1.
pub const QUIESCE_TIME: Duration = Duration::from_millis(100);
/// Longest a change of Q0_CONTROL takes. Host interface 5.2.
pub const QUEUE_TIME: Duration = Duration::from_millis(10);
