//! vfio-user: constants and message layouts, nothing else.
//!
//! A leaf read by the library's client and by the emulator's server. It takes no decision: whether
//! a message is acceptable is each end's own business, so that they cannot be wrong together.
//! Source: QEMU's `docs/interop/vfio-user.rst`. All integers are little-endian here, as the
//! protocol's native order is on every host this project serves.
#![no_std]
#![forbid(unsafe_code)]
#![allow(
    missing_debug_implementations,
    reason = "every type here derives Debug; the ones zerocopy derives in passing do not"
)]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Protocol version spoken: major 0.
pub const VERSION_MAJOR: u16 = 0;
/// Protocol version spoken: minor 1.
pub const VERSION_MINOR: u16 = 1;
/// Bytes of a message header.
pub const HEADER_BYTES: usize = 16;

/// Commands.
pub mod command {
    /// Version and capabilities; the first message of a connection.
    pub const VERSION: u16 = 1;
    /// Makes client memory visible.
    pub const DMA_MAP: u16 = 2;
    /// Takes it away.
    pub const DMA_UNMAP: u16 = 3;
    /// Numbers of regions and interrupts.
    pub const DEVICE_GET_INFO: u16 = 4;
    /// A region's size, flags and mappable areas.
    pub const DEVICE_GET_REGION_INFO: u16 = 5;
    /// File descriptors for region accesses.
    pub const DEVICE_GET_REGION_IO_FDS: u16 = 6;
    /// An interrupt index's count and flags.
    pub const DEVICE_GET_IRQ_INFO: u16 = 7;
    /// Configures interrupts.
    pub const DEVICE_SET_IRQS: u16 = 8;
    /// Reads from a region.
    pub const REGION_READ: u16 = 9;
    /// Writes to a region.
    pub const REGION_WRITE: u16 = 10;
    /// Server to client: reads client memory.
    pub const DMA_READ: u16 = 11;
    /// Server to client: writes client memory.
    pub const DMA_WRITE: u16 = 12;
    /// Resets the device.
    pub const DEVICE_RESET: u16 = 13;
    /// Several region writes in one message.
    pub const REGION_WRITE_MULTI: u16 = 15;
}

/// Header.flags: bits 3:0 are the type: 0 command, 1 reply.
pub const FLAGS_TYPE: u32 = 0xF;
/// Type of a command.
pub const TYPE_COMMAND: u32 = 0;
/// Type of a reply.
pub const TYPE_REPLY: u32 = 1;
/// Header.flags: the sender wants no reply.
pub const FLAG_NO_REPLY: u32 = 1 << 4;
/// Header.flags: the reply is an error; Header.error is an errno.
pub const FLAG_ERROR: u32 = 1 << 5;

/// DmaMap.flags: the device may read.
pub const DMA_READABLE: u32 = 1;
/// DmaMap.flags: the device may write.
pub const DMA_WRITABLE: u32 = 2;
/// DmaUnmap.flags: with a dirty bitmap.
pub const UNMAP_DIRTY_BITMAP: u32 = 1;
/// DmaUnmap.flags: everything.
pub const UNMAP_ALL: u32 = 2;

/// DeviceInfo.flags: the device can be reset.
pub const DEVICE_RESETTABLE: u32 = 1;
/// DeviceInfo.flags: it is a PCI function.
pub const DEVICE_PCI: u32 = 2;
/// Regions of a PCI function, numbered as VFIO does.
pub const PCI_REGIONS: u32 = 9;
/// Region number of config space.
pub const REGION_CONFIG: u32 = 7;
/// Interrupt indices of a PCI function.
pub const PCI_IRQS: u32 = 5;
/// Interrupt index of MSI-X.
pub const IRQ_MSIX: u32 = 2;
/// Interrupt index of errors.
pub const IRQ_ERR: u32 = 3;
/// Interrupt index of device requests.
pub const IRQ_REQ: u32 = 4;

/// RegionInfo.flags: readable.
pub const REGION_READABLE: u32 = 1;
/// RegionInfo.flags: writable.
pub const REGION_WRITABLE: u32 = 2;
/// RegionInfo.flags: mappable, the file descriptor comes with the reply.
pub const REGION_MMAP: u32 = 4;
/// RegionInfo.flags: capabilities follow.
pub const REGION_CAPS: u32 = 8;
/// CapHeader.id: only some areas are mappable.
pub const CAP_SPARSE_MMAP: u16 = 1;

/// IrqInfo.flags: delivered by eventfd.
pub const IRQ_EVENTFD: u32 = 1;
/// IrqInfo.flags: can be masked.
pub const IRQ_MASKABLE: u32 = 2;
/// IrqInfo.flags: masks itself when it fires.
pub const IRQ_AUTOMASKED: u32 = 4;
/// IrqInfo.flags: set up as a whole only.
pub const IRQ_NORESIZE: u32 = 8;

/// SetIrqs.flags: no data.
pub const SET_DATA_NONE: u32 = 1;
/// SetIrqs.flags: a byte per interrupt.
pub const SET_DATA_BOOL: u32 = 2;
/// SetIrqs.flags: a file descriptor per interrupt.
pub const SET_DATA_EVENTFD: u32 = 4;
/// SetIrqs.flags: mask.
pub const SET_ACTION_MASK: u32 = 8;
/// SetIrqs.flags: unmask.
pub const SET_ACTION_UNMASK: u32 = 0x10;
/// SetIrqs.flags: trigger, or set what is triggered.
pub const SET_ACTION_TRIGGER: u32 = 0x20;

macro_rules! message {
    ($(#[doc = $doc:literal])+ $name:ident, $bytes:literal { $($(#[doc = $fdoc:literal])+ $field:ident: $ty:ty,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $($(#[doc = $fdoc])+ pub $field: $ty,)+ }
        const _: () = assert!(size_of::<$name>() == $bytes);
    };
}

message! {
    /// What every message begins with.
    Header, 16 {
        /// Chosen by the sender of a command, repeated in its reply.
        id: u16,
        /// A command.
        command: u16,
        /// Bytes of the message, this header included.
        bytes: u32,
        /// Type, no-reply, error.
        flags: u32,
        /// Errno of an error reply.
        error: u32,
    }
}

message! {
    /// VERSION, before the capabilities (JSON, zero-terminated).
    Version, 4 {
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
    }
}

message! {
    /// DMA_MAP.
    DmaMap, 32 {
        /// Bytes of this structure.
        argsz: u32,
        /// Readable, writable.
        flags: u32,
        /// Offset in the file that came along.
        offset: u64,
        /// Device address.
        address: u64,
        /// Length.
        bytes: u64,
    }
}

message! {
    /// DMA_UNMAP.
    DmaUnmap, 24 {
        /// Bytes of this structure and what follows.
        argsz: u32,
        /// Dirty bitmap, all.
        flags: u32,
        /// Device address.
        address: u64,
        /// Length.
        bytes: u64,
    }
}

message! {
    /// DEVICE_GET_INFO and its reply.
    DeviceInfo, 16 {
        /// Bytes of this structure.
        argsz: u32,
        /// Resettable, PCI.
        flags: u32,
        /// Regions.
        regions: u32,
        /// Interrupt indices.
        irqs: u32,
    }
}

message! {
    /// DEVICE_GET_REGION_INFO and its reply; capabilities may follow.
    RegionInfo, 32 {
        /// Bytes of this structure and its capabilities.
        argsz: u32,
        /// Access, mmap, caps.
        flags: u32,
        /// Region number.
        index: u32,
        /// Offset of the first capability from this structure's start; 0: none.
        cap_offset: u32,
        /// The region's size.
        bytes: u64,
        /// Where the region begins in the file that came along.
        offset: u64,
    }
}

message! {
    /// What every region capability begins with.
    CapHeader, 8 {
        /// CAP_*.
        id: u16,
        /// Its version.
        version: u16,
        /// Offset of the next one from RegionInfo's start; 0: none.
        next: u32,
    }
}

message! {
    /// CAP_SPARSE_MMAP, after its header; the areas follow.
    SparseMmap, 8 {
        /// Areas.
        areas: u32,
        /// Zero.
        reserved: u32,
    }
}

message! {
    /// A mappable area.
    SparseArea, 16 {
        /// Offset in the region.
        offset: u64,
        /// Length.
        bytes: u64,
    }
}

message! {
    /// DEVICE_GET_IRQ_INFO and its reply.
    IrqInfo, 16 {
        /// Bytes of this structure.
        argsz: u32,
        /// IRQ_*.
        flags: u32,
        /// Interrupt index.
        index: u32,
        /// Interrupts of this index.
        count: u32,
    }
}

message! {
    /// DEVICE_SET_IRQS; a byte per interrupt may follow.
    SetIrqs, 20 {
        /// Bytes of this structure and its data.
        argsz: u32,
        /// SET_*.
        flags: u32,
        /// Interrupt index.
        index: u32,
        /// First interrupt.
        start: u32,
        /// Interrupts.
        count: u32,
    }
}

message! {
    /// REGION_READ, REGION_WRITE and their replies; data may follow.
    RegionAccess, 16 {
        /// Offset in the region.
        offset: u64,
        /// Region number.
        region: u32,
        /// Bytes.
        count: u32,
    }
}

message! {
    /// DMA_READ, DMA_WRITE and their replies; data may follow.
    DmaAccess, 16 {
        /// Device address.
        address: u64,
        /// Bytes.
        count: u64,
    }
}
