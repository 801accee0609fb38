//! Every table of this crate in the specification's order: what headers, documents and checks walk.

use crate::reg::{ConstantRow, EnumRow, RegisterRow, StructRow};
use crate::{caps, faults, kernels, limits, packets, pci, profile, queue, regs, telemetry};

/// Registers of one address space.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// UPPER_CASE prefix of its registers' names in C.
    pub prefix: &'static str,
    /// What it is.
    pub doc: &'static str,
    /// Its registers, by offset.
    pub registers: &'static [RegisterRow],
}

/// Named numbers that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// How documents call the group.
    pub name: &'static str,
    /// UPPER_CASE prefix of the names in C; may be empty.
    pub prefix: &'static str,
    /// What they are.
    pub doc: &'static str,
    /// The numbers.
    pub constants: &'static [ConstantRow],
}

/// The two register spaces.
pub const SPACES: &[Space] = &[
    Space {
        prefix: "REG_",
        doc: "Registers in BAR0",
        registers: regs::BAR0,
    },
    Space {
        prefix: "DOORBELL_",
        doc: "A queue's doorbell page in BAR2, at queue x stride",
        registers: regs::DOORBELL,
    },
];

/// All named numbers.
pub const NUMBERS: &[Numbers] = &[
    numbers(
        "PCI",
        "PCI_",
        "PCI identity: every figure is ASSUMED",
        pci::IDENTITY,
    ),
    numbers(
        "CARD",
        "CARD_",
        "A card's memory: every figure is ASSUMED",
        pci::CARD,
    ),
    numbers("BARS", "", "BARs", pci::BARS),
    numbers("LIMITS", "", "Limits of version 1", limits::LIMITS),
    numbers(
        "TIMES",
        "",
        "Worst-case times in microseconds",
        limits::TIMES,
    ),
    numbers(
        "PLACES",
        "",
        "Places in BAR0, and what identity registers hold",
        regs::PLACES,
    ),
    numbers("CAPS", "", "Capability records", caps::CAP_BITS),
    numbers("COMPLETION", "", "The completion word", queue::QUEUE_BITS),
    numbers("PACKETS", "", "Packets", packets::PACKET_BITS),
    numbers("FAULTS", "", "Fault records", faults::FAULT_BITS),
    numbers(
        "TELEMETRY",
        "",
        "The telemetry page",
        telemetry::TELEMETRY_BITS,
    ),
    numbers("PROFILE", "", "Profile rings", profile::PROFILE_BITS),
];

/// All structures in memory; one that contains another comes after it.
pub const STRUCTS: &[&StructRow] = &[
    &caps::CAP_HEADER,
    &caps::CAP_QUEUES,
    &caps::CAP_MEMORY,
    &caps::CAP_IOVA,
    &caps::CAP_TIME,
    &caps::CAP_TELEMETRY,
    &caps::CAP_FAULTS,
    &caps::CAP_KERNELS,
    &caps::CAP_PRODUCT,
    &caps::CAP_PROFILE,
    &queue::QUEUE_CREATE,
    &queue::QUEUE_NAME,
    &queue::QUEUE_REPORT,
    &packets::PACKET,
    &packets::COPY,
    &packets::COPY_STRIDED,
    &packets::FILL,
    &packets::FENCE,
    &packets::TIMESTAMP,
    &packets::STAMP,
    &packets::LAUNCH,
    &packets::PARAMETERS,
    &packets::TENSOR,
    &packets::MANAGE,
    &packets::INDIRECT,
    &packets::PATCH,
    &faults::FAULT_RECORD,
    &telemetry::TELEMETRY_HEADER,
    &telemetry::TELEMETRY_ENTRY,
    &profile::PROFILE_RECORD,
];

/// All enumerations.
pub const ENUMS: &[&EnumRow] = &[
    &regs::PLATFORM,
    &regs::FEATURE,
    &regs::DEVICE_STATE,
    &regs::RESET_LEVEL,
    &regs::RESET_PHASE,
    &regs::SCRUB_PHASE,
    &regs::QUEUE_STATE,
    &queue::PRIORITY_BAND,
    &caps::CAP_ID,
    &packets::OPCODE,
    &packets::WAIT_OP,
    &packets::COMMAND,
    &kernels::KERNEL_ID,
    &kernels::DTYPE,
    &faults::SEVERITY,
    &faults::SCOPE,
    &faults::ACTION,
    &faults::FAULT_CLASS,
    &faults::FAULT_CODE,
    &telemetry::TELEMETRY_STATUS,
    &telemetry::TELEMETRY_UNIT,
    &telemetry::TELEMETRY_FIELD,
    &profile::PROFILE_STATUS,
];

const fn numbers(
    name: &'static str,
    prefix: &'static str,
    doc: &'static str,
    constants: &'static [ConstantRow],
) -> Numbers {
    Numbers {
        name,
        prefix,
        doc,
        constants,
    }
}
