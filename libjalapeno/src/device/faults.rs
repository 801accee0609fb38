//! The device's fault log: its last records, kept across resets. Host interface 7.

use jalapeno_hw::faults::{FAULT_RECORD_BYTES, FaultCode, FaultRecord};
use jalapeno_hw::regs::{FaultAck, FaultCount};
use zerocopy::{FromBytes, IntoBytes};

use super::Device;
use crate::error::{Error, Fault, Result};

/// Bytes that the CRC covers. Host interface 7.1.
const CRC_COVERS: usize = 0xF8;

/// What the fault log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultLog {
    /// Records since manufacture; the next look may pass this to see what is new.
    pub count: u64,
    /// The records there still are, oldest first.
    pub faults: Vec<Fault>,
    /// Records that were overwritten before they could be read, or do not hold together.
    pub missing: u64,
}

impl Device {
    /// The records written after the first `after` ones, as far as the log still has them.
    ///
    /// # Errors
    /// `Forked`, `Lost`, `Unsupported` where the device keeps no log.
    pub fn fault_log(&self, after: u64) -> Result<FaultLog> {
        self.check()?;
        let Some(cap) = self.info.capabilities.faults else {
            return Err(Error::Unsupported {
                what: format!("{} keeps no fault log", self.info.name),
            });
        };
        let count = self.registers.read::<FaultCount>()?.0;
        let records = u64::from(cap.records);
        let new = count.saturating_sub(after);
        let first = count - new.min(records);
        let mut log = FaultLog {
            count,
            faults: Vec::new(),
            missing: new.saturating_sub(records),
        };
        for index in first..count {
            let mut bytes = [0; FAULT_RECORD_BYTES];
            let slot = index % records * FAULT_RECORD_BYTES as u64;
            self.registers
                .copy(u64::from(cap.offset) + slot, &mut bytes)?;
            match parse(&bytes, index) {
                Some(fault) => log.faults.push(fault),
                None => log.missing += 1,
            }
        }
        Ok(log)
    }

    /// Says that the log was read up to `count` (of a `FaultLog`): STATUS.fault clears when nothing
    /// newer is there.
    ///
    /// # Errors
    /// `Unsupported` for an observer, `Forked`, `Lost`.
    pub fn acknowledge_faults(&self, count: u64) -> Result<()> {
        self.owner()?;
        self.registers.write(FaultAck(count))
    }
}

/// A record that holds together and is the one meant; one overwritten meanwhile is not.
fn parse(bytes: &[u8; FAULT_RECORD_BYTES], index: u64) -> Option<Fault> {
    let record = FaultRecord::read_from_bytes(bytes).ok()?;
    let mut covered = record;
    covered.flags = 0;
    let crc = crc32fast::hash(covered.as_bytes().get(..CRC_COVERS)?);
    if crc != record.crc || record.index != index {
        return None;
    }
    Some(Fault {
        code: FaultCode::from_code(record.code).ok_or(record.code),
        record,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CRC-32/ISO-HDLC bit by bit, as the specification's reference gives it.
    fn crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                crc >> 1 ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
            })
        })
    }

    fn record(index: u8) -> [u8; FAULT_RECORD_BYTES] {
        let mut bytes = [0; FAULT_RECORD_BYTES];
        bytes[0..2].copy_from_slice(&[0x02, 0x02]); // UNMAPPED_WRITE
        bytes[0x18] = 0x40; // address
        bytes[0x60] = index;
        let sum = crc(&bytes[..0xF8]);
        bytes[7] = 1; // the phase, which the CRC takes as 0
        bytes[0xF8..0xFC].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[test]
    fn a_whole_record_is_read() {
        let fault = parse(&record(3), 3).unwrap();
        assert_eq!(fault.code, Ok(FaultCode::UnmappedWrite));
        assert_eq!(fault.record.address, 0x40);
    }

    #[test]
    fn a_record_torn_anywhere_or_overwritten_is_not() {
        assert_eq!(parse(&record(3), 19), None);
        for at in (0..0xFC).filter(|&at| at != 7) {
            let mut torn = record(3);
            torn[at] ^= 0x10;
            assert_eq!(parse(&torn, 3), None, "byte {at:#x}");
        }
    }

    #[test]
    fn an_unknown_code_is_kept_raw() {
        let mut bytes = record(0);
        bytes[0..2].copy_from_slice(&[0xEE, 0x7E]);
        bytes[7] = 0;
        let sum = crc(&bytes[..0xF8]);
        bytes[0xF8..0xFC].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(parse(&bytes, 0).unwrap().code, Err(0x7EEE));
    }
}
