//! Trouble: why a packet failed, and the fault record made of it. Host interface 7.

use jalapeno_hw::faults::{FAULT_PHASE, FaultCode, FaultRecord, NO_QUEUE};
use zerocopy::IntoBytes;

/// Why a packet cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The catalogue's code.
    pub code: FaultCode,
    /// The faulting device address; 0: none.
    pub address: u64,
    /// Start and bytes of the nearest mapping.
    pub mapping: Option<(u64, u64)>,
    /// Operand of a LAUNCH plus 1; 0: none.
    pub operand: u32,
    /// Per code.
    pub detail: [u64; 4],
}

impl Trouble {
    /// A code without anything more to say.
    #[must_use]
    pub const fn new(code: FaultCode) -> Self {
        Self {
            code,
            address: 0,
            mapping: None,
            operand: 0,
            detail: [0; 4],
        }
    }

    /// With details, as the catalogue names them.
    #[must_use]
    pub const fn detail(code: FaultCode, first: u64, second: u64) -> Self {
        let mut trouble = Self::new(code);
        trouble.detail = [first, second, 0, 0];
        trouble
    }

    /// With an address.
    #[must_use]
    pub const fn at(code: FaultCode, address: u64) -> Self {
        let mut trouble = Self::new(code);
        trouble.address = address;
        trouble
    }

    /// A reserved field that is not zero, by its byte offset.
    #[must_use]
    pub const fn reserved(offset: u64) -> Self {
        Self::detail(FaultCode::ReservedField, offset, 0)
    }

    /// A parameter out of its range, by its byte offset and value.
    #[must_use]
    pub const fn parameter(offset: u64, value: u64) -> Self {
        Self::detail(FaultCode::BadParameter, offset, value)
    }
}

/// What a record says of the packet that failed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Culprit {
    /// Its queue; `None`: no queue is concerned.
    pub queue: Option<u16>,
    /// Its sequence number; 0: no packet.
    pub sequence: u64,
    /// Its cookie.
    pub cookie: u64,
    /// Its opcode.
    pub opcode: u32,
    /// Its kernel.
    pub kernel: u32,
}

/// The clocks and names of the device at the time of a fault.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    /// Device time.
    pub device_time: u64,
    /// CLOCK_MONOTONIC_RAW.
    pub host_time: u64,
    /// GENERATION.
    pub generation: u64,
    /// BOOT_ID.
    pub boot_id: u64,
}

/// The record of a fault, without index, phase and CRC, which belong to where it is written.
#[must_use]
pub fn record(trouble: &Trouble, culprit: &Culprit, moment: &Moment) -> FaultRecord {
    let row = trouble.code.row();
    let (mapping_start, mapping_bytes) = trouble.mapping.unwrap_or_default();
    FaultRecord {
        code: trouble.code.code(),
        severity: low_byte(row.severity.code()),
        scope: low_byte(row.scope.code()),
        action: low_byte(row.action.code()),
        flags: 0,
        sequence: culprit.sequence,
        cookie: culprit.cookie,
        address: trouble.address,
        mapping_start,
        mapping_bytes,
        device_time: moment.device_time,
        host_time: moment.host_time,
        generation: moment.generation,
        boot_id: moment.boot_id,
        queue: culprit.queue.map_or(NO_QUEUE, u32::from),
        opcode: culprit.opcode,
        kernel: culprit.kernel,
        operand: trouble.operand,
        detail: trouble.detail,
        ..FaultRecord::ZERO
    }
}

/// Gives a record its place in a ring or log, its phase and its CRC.
#[must_use]
pub fn placed(mut record: FaultRecord, index: u64, phase: bool) -> FaultRecord {
    record.index = index;
    record.flags = 0;
    record.crc = crc(&record);
    record.flags = if phase { FAULT_PHASE } else { 0 };
    record
}

/// CRC-32/ISO-HDLC over bytes 0x00 to 0xF7, the phase bit taken as 0.
#[must_use]
pub fn crc(record: &FaultRecord) -> u32 {
    let mut copy = *record;
    copy.flags &= !FAULT_PHASE;
    crc32fast::hash(copy.as_bytes().get(..0xF8).unwrap_or_default())
}

fn low_byte(code: u32) -> u8 {
    u8::try_from(code).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_does_not_depend_on_the_phase() {
        let trouble = Trouble::at(FaultCode::UnmappedRead, 0x1000);
        let bare = record(&trouble, &Culprit::default(), &Moment::default());
        let (odd, even) = (placed(bare, 3, true), placed(bare, 3, false));
        assert_eq!((odd.crc, odd.flags, even.flags), (even.crc, 1, 0));
        assert_ne!(odd.crc, placed(bare, 4, true).crc);
    }

    #[test]
    fn the_crc_is_the_common_one() {
        // CRC-32/ISO-HDLC of 0xF8 zero bytes, from the polynomial 0xEDB88320 by hand.
        let mut expected = u32::MAX;
        for _ in 0..0xF8 * 8 {
            expected = (expected >> 1) ^ (0xEDB8_8320 & (expected & 1).wrapping_neg());
        }
        assert_eq!(crc(&FaultRecord::ZERO), !expected);
    }
}
