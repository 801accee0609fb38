//! The card's fault log: the last records, kept across resets. Host interface 7.3.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use jalapeno_hw::faults::{FAULT_RECORD_BYTES, FaultRecord};
use jalapeno_hw::regs::FAULT_LOG_RECORDS;
use zerocopy::IntoBytes;

use crate::trouble::placed;

const BYTES: usize = FAULT_LOG_RECORDS as usize * FAULT_RECORD_BYTES;

/// The records as BAR0 shows them.
#[derive(Debug)]
pub struct FaultLog {
    page: Mutex<Box<[u8]>>,
    count: AtomicU64,
    acknowledged: AtomicU64,
}

impl Default for FaultLog {
    fn default() -> Self {
        Self {
            page: Mutex::new(vec![0; BYTES].into_boxed_slice()),
            count: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
        }
    }
}

impl FaultLog {
    /// Writes a record behind the newest.
    pub fn push(&self, record: FaultRecord) {
        let mut page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        let index = self.count.load(Ordering::Relaxed);
        let slot = usize::try_from(index % u64::from(FAULT_LOG_RECORDS)).unwrap_or_default();
        let at = slot * FAULT_RECORD_BYTES;
        if let Some(to) = page.get_mut(at..at + FAULT_RECORD_BYTES) {
            to.copy_from_slice(placed(record, index, true).as_bytes());
        }
        self.count.store(index + 1, Ordering::Release);
    }

    /// Records written so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// The count up to which the driver has read.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// The driver has read up to here.
    pub fn acknowledge(&self, count: u64) {
        self.acknowledged.store(count, Ordering::Relaxed);
    }

    /// The 4-byte word at an offset into the log.
    #[must_use]
    pub fn word(&self, offset: usize) -> u32 {
        let page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        match page.get(offset..).and_then(|rest| rest.first_chunk()) {
            Some(bytes) => u32::from_le_bytes(*bytes),
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seventeenth_record_takes_the_place_of_the_first() {
        let log = FaultLog::default();
        for code in 1..=17 {
            log.push(FaultRecord {
                code,
                ..FaultRecord::ZERO
            });
        }
        assert_eq!((log.count(), log.word(0), log.word(256)), (17, 17, 2));
        assert_eq!(log.word(0x60), 16, "the record counts from 0");
        assert_eq!(log.word(BYTES), 0, "nothing beyond the log");
    }
}
