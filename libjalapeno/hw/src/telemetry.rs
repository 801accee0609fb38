//! The telemetry page: self-describing entries under a sequence lock. Host interface 9.

use crate::row::{codes, constants, layout};

constants! {
    /// The telemetry page's mark and room.
    table TELEMETRY_BITS;

    /// The value of TelemetryHeader.magic: the bytes `JTEL`.
    TELEMETRY_MAGIC: u32 = 0x4C45_544A;
    /// Entries the page has room for.
    TELEMETRY_ENTRIES_MAX: usize = 510;
}

layout! {
    /// The page's first 64 bytes.
    TelemetryHeader, 64, row TELEMETRY_HEADER {
        /// TELEMETRY_MAGIC.
        0x00 magic: u32,
        /// Version of the page: 1.
        0x04 version: u16,
        /// Entries that follow.
        0x06 count: u16,
        /// Sequence lock: odd while the page is being written.
        0x08 sequence: u64,
        /// Device time of the last refresh.
        0x10 updated: u64,
        /// GENERATION at the last refresh.
        0x18 generation: u64,
        /// Zero.
        0x20 reserved: [u64; 4],
    }
}

layout! {
    /// One entry.
    TelemetryEntry, 32, row TELEMETRY_ENTRY {
        /// A TelemetryField code; unknown ones are skipped.
        0x00 field: u16,
        /// Which one of several: sensor, stack, queue, reason.
        0x02 instance: u16,
        /// A TelemetryUnit code.
        0x04 unit: u8,
        /// A TelemetryStatus code: the value counts only when VALID.
        0x05 status: u8,
        /// Zero.
        0x06 reserved: u16,
        /// The value; two's complement where the unit is signed.
        0x08 value: u64,
        /// Device time it was taken at.
        0x10 taken: u64,
        /// Milliseconds after which it is stale; 0: never.
        0x18 stale_after_ms: u32,
        /// Zero.
        0x1C reserved2: u32,
    }
}

codes! {
    /// Whether an entry's value counts.
    TelemetryStatus, row TELEMETRY_STATUS {
        /// It does.
        Valid "VALID" = 0,
        /// This device has no such sensor.
        Unsupported "UNSUPPORTED" = 1,
        /// There is none right now.
        NoData "NO_DATA" = 2,
    }
}

codes! {
    /// Units.
    TelemetryUnit, row TELEMETRY_UNIT {
        /// A plain count.
        Count "COUNT" = 0,
        /// Thousandths of a degree Celsius, signed.
        MilliCelsius "MILLI_CELSIUS" = 1,
        /// Thousandths of a watt.
        MilliWatt "MILLI_WATT" = 2,
        /// Millionths of a joule; monotonic.
        MicroJoule "MICRO_JOULE" = 3,
        /// Kilohertz.
        KiloHertz "KILO_HERTZ" = 4,
        /// Bytes.
        Byte "BYTE" = 5,
        /// Thousandths of the whole, 0 to 1000.
        PerMille "PER_MILLE" = 6,
        /// Nanoseconds.
        NanoSecond "NANO_SECOND" = 7,
        /// Megatransfers a second.
        MegaTransfer "MEGA_TRANSFER" = 8,
        /// Bits to be looked at one by one.
        Bits "BITS" = 9,
    }
}

codes! {
    /// What can be measured.
    TelemetryField, row TELEMETRY_FIELD {
        /// Temperature of the compute die.
        DieTemperature "DIE_TEMPERATURE" = 1,
        /// Temperature of an HBM stack.
        HbmTemperature "HBM_TEMPERATURE" = 2,
        /// Temperature at which clocks are lowered.
        ThrottleTemperature "THROTTLE_TEMPERATURE" = 3,
        /// Temperature at which the device shuts down.
        ShutdownTemperature "SHUTDOWN_TEMPERATURE" = 4,
        /// Power now, averaged over the last refresh interval.
        Power "POWER" = 5,
        /// Power limit in force.
        PowerLimit "POWER_LIMIT" = 6,
        /// Energy since manufacture.
        Energy "ENERGY" = 7,
        /// Compute clock now.
        ComputeClock "COMPUTE_CLOCK" = 8,
        /// Highest compute clock.
        ComputeClockLimit "COMPUTE_CLOCK_LIMIT" = 9,
        /// HBM clock now.
        HbmClock "HBM_CLOCK" = 10,
        /// Throttle events; instance: 0 thermal, 1 power, 2 external.
        ThrottleCount "THROTTLE_COUNT" = 11,
        /// Time spent throttled; instance as above.
        ThrottleTime "THROTTLE_TIME" = 12,
        /// Utilisation of an engine over the last refresh interval; instance: 0 compute, 1 copy.
        Utilisation "UTILISATION" = 13,
        /// HBM used: resident bytes.
        HbmUsed "HBM_USED" = 14,
        /// HBM in all.
        HbmTotal "HBM_TOTAL" = 15,
        /// ECC errors corrected; instance: stack.
        EccCorrected "ECC_CORRECTED" = 16,
        /// ECC errors not corrected; instance: stack.
        EccUncorrected "ECC_UNCORRECTED" = 17,
        /// Retired HBM pages.
        RetiredPages "RETIRED_PAGES" = 18,
        /// PCIe link speed.
        LinkSpeed "LINK_SPEED" = 19,
        /// PCIe lanes.
        LinkWidth "LINK_WIDTH" = 20,
        /// PCIe replays.
        LinkReplays "LINK_REPLAYS" = 21,
        /// Packets completed since reset; instance: queue.
        QueueCompleted "QUEUE_COMPLETED" = 22,
        /// Packets failed since reset; instance: queue.
        QueueFailed "QUEUE_FAILED" = 23,
        /// The heartbeat.
        Heartbeat "HEARTBEAT" = 24,
        /// A DeviceState code.
        State "STATE" = 25,
        /// Kernel operations since manufacture (a multiply-add counts two).
        Operations "OPERATIONS" = 26,
        /// Bytes read and written by packets since manufacture.
        BytesMoved "BYTES_MOVED" = 27,
        /// Fault records since manufacture.
        Faults "FAULTS" = 28,
        /// Scrubs of all HBM since manufacture.
        Scrubs "SCRUBS" = 29,
    }
}

impl TelemetryField {
    /// The unit of this field's entries.
    #[must_use]
    pub const fn unit(self) -> TelemetryUnit {
        match self {
            Self::DieTemperature
            | Self::HbmTemperature
            | Self::ThrottleTemperature
            | Self::ShutdownTemperature => TelemetryUnit::MilliCelsius,
            Self::Power | Self::PowerLimit => TelemetryUnit::MilliWatt,
            Self::Energy => TelemetryUnit::MicroJoule,
            Self::ComputeClock | Self::ComputeClockLimit | Self::HbmClock => {
                TelemetryUnit::KiloHertz
            }
            Self::ThrottleTime => TelemetryUnit::NanoSecond,
            Self::Utilisation => TelemetryUnit::PerMille,
            Self::HbmUsed | Self::HbmTotal | Self::BytesMoved => TelemetryUnit::Byte,
            Self::LinkSpeed => TelemetryUnit::MegaTransfer,
            Self::ThrottleCount
            | Self::EccCorrected
            | Self::EccUncorrected
            | Self::RetiredPages
            | Self::LinkWidth
            | Self::LinkReplays
            | Self::QueueCompleted
            | Self::QueueFailed
            | Self::Heartbeat
            | Self::State
            | Self::Operations
            | Self::Faults
            | Self::Scrubs => TelemetryUnit::Count,
        }
    }
}
