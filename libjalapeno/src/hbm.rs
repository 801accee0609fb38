//! HBM: device memory, handed out in pages of 64 KiB and 2 MiB.
//!
//! The allocator is rust-vmm's `vm-allocator`, because it keeps its books outside the memory (the
//! device's cannot be linked through), takes 64-bit addresses and any alignment, gives exactly
//! what was asked, and joins what is freed. Compared with `offset-allocator` (32-bit, sizes in
//! bins: the largest eighth of a free block cannot be had in one piece) and
//! `buddy_system_allocator` (powers of two: 5 GiB of weights would cost 8).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vm_allocator::{AddressAllocator, AllocPolicy, RangeInclusive};

use crate::error::{Error, Result};
use crate::units::DeviceAddr;

/// The HBM of one open device. Thread-safe.
#[derive(Debug)]
pub struct Hbm {
    small_page: u64,
    large_page: u64,
    bytes: u64,
    books: Mutex<Books>,
}

#[derive(Debug)]
struct Books {
    free: AddressAllocator,
    used: u64,
}

impl Hbm {
    /// `bytes` of HBM from device address `base` on. Host interface 4, MEMORY.
    ///
    /// # Errors
    /// `Protocol` where there is none, or the addresses wrap.
    pub fn new(base: u64, bytes: u64, small_page: u32, large_page: u32) -> Result<Arc<Self>> {
        let free = AddressAllocator::new(base, bytes).map_err(|error| Error::Protocol {
            code: jalapeno_hw::faults::FaultCode::BadDiscovery,
            what: format!("MEMORY: {bytes:#x} bytes of HBM at {base:#x}: {error}"),
        })?;
        Ok(Arc::new(Self {
            small_page: u64::from(small_page),
            large_page: u64::from(large_page),
            bytes,
            books: Mutex::new(Books { free, used: 0 }),
        }))
    }

    /// Bytes there are.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes given out by this process, in whole pages.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.lock().used
    }

    /// At least `bytes`, aligned to 64 KiB, to 2 MiB from that size on. The content is undefined.
    ///
    /// # Errors
    /// `Invalid` (no bytes), `Memory`.
    pub fn allocate(self: &Arc<Self>, bytes: u64) -> Result<DeviceMemory> {
        if bytes == 0 {
            return Err(Error::Invalid {
                what: "0 bytes of device memory: at least 1 is needed".into(),
            });
        }
        let page = if bytes >= self.large_page {
            self.large_page
        } else {
            self.small_page
        };
        let mut books = self.lock();
        let given = bytes
            .checked_next_multiple_of(self.small_page)
            .and_then(|all| {
                let range = books.free.allocate(all, page, AllocPolicy::FirstMatch);
                range.ok().map(|range| (range, all))
            });
        let Some((range, all)) = given else {
            let have = self.bytes - books.used;
            return Err(Error::Memory {
                what: "device memory".into(),
                needed: bytes,
                have,
                hint: if bytes <= have {
                    "free device memory: what is free is in pieces".into()
                } else {
                    "free device memory, use a smaller model, or an emulator with more --hbm".into()
                },
            });
        };
        books.used += all;
        drop(books);
        Ok(DeviceMemory {
            hbm: Arc::clone(self),
            range,
            bytes,
            all,
            kept: AtomicBool::new(false),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A piece of HBM; given back on drop, so it must outlive the jobs that name it.
#[derive(Debug)]
pub struct DeviceMemory {
    hbm: Arc<Hbm>,
    range: RangeInclusive,
    bytes: u64,
    all: u64,
    /// It is given to nobody else any more.
    kept: AtomicBool,
}

impl DeviceMemory {
    /// Its first byte, as packets name it.
    #[must_use]
    pub fn addr(&self) -> DeviceAddr {
        DeviceAddr(self.range.start())
    }

    /// Its length, as asked for.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whoever has it last does not give it back: somebody may still write to it.
    pub(crate) fn keep(&self) {
        log::warn!(
            "device memory at {} stays taken: a card that was lost had it mapped",
            self.addr()
        );
        self.kept.store(true, Ordering::Relaxed);
    }

    /// Bytes of the pages behind it.
    #[must_use]
    pub fn page_bytes(&self) -> u64 {
        if self.bytes >= self.hbm.large_page {
            self.hbm.large_page
        } else {
            self.hbm.small_page
        }
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if self.kept.load(Ordering::Relaxed) {
            return;
        }
        let mut books = self.hbm.lock();
        match books.free.free(&self.range) {
            Ok(()) => books.used -= self.all,
            Err(error) => log::error!("free device memory at {}: {error}", self.addr()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    const BASE: u64 = 1 << 56;
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    fn hbm(bytes: u64) -> Arc<Hbm> {
        Hbm::new(BASE, bytes, 64 << 10, 2 << 20).unwrap()
    }

    #[test]
    fn small_and_large_pieces_are_aligned_and_apart() {
        let hbm = hbm(64 * MIB);
        let small = hbm.allocate(1).unwrap();
        let large = hbm.allocate(2 * MIB).unwrap();
        let next = hbm.allocate(64 * KIB + 1).unwrap();
        assert_eq!(small.addr().0 % (64 * KIB), 0);
        assert_eq!(large.addr().0 % (2 * MIB), 0);
        assert_eq!(
            (small.page_bytes(), large.page_bytes()),
            (64 * KIB, 2 * MIB)
        );
        assert!(next.addr().0 >= small.addr().0 + 64 * KIB);
        assert!(next.addr().0 + 128 * KIB <= large.addr().0);
        assert_eq!(hbm.used(), 2 * MIB + 192 * KIB);
    }

    #[test]
    fn all_of_it_can_be_had_in_one_piece_and_again_after_it_was_freed() {
        let hbm = hbm(103 * MIB);
        for _ in 0..3 {
            let all = hbm.allocate(103 * MIB).unwrap();
            let error = hbm.allocate(1).unwrap_err();
            assert_eq!(error.to_string(), "device memory: needs 1 bytes, has 0");
            drop(all);
            assert_eq!(hbm.used(), 0);
        }
    }

    #[test]
    fn sizes_that_are_nothing_too_large_or_overflow_are_refused() {
        let hbm = hbm(4 * MIB);
        assert_eq!(hbm.allocate(0).unwrap_err().code(), Code::Invalid);
        for bytes in [4 * MIB + 1, u64::MAX, u64::MAX - 64 * KIB, 1 << 63] {
            let error = hbm.allocate(bytes).unwrap_err();
            assert_eq!(error.code(), Code::Memory, "{bytes:#x}");
            assert!(error.hint().unwrap().contains("--hbm"));
        }
        assert_eq!(hbm.used(), 0);
    }

    #[test]
    fn memory_in_pieces_says_so() {
        let hbm = hbm(8 * MIB);
        let mut pieces: Vec<_> = (0..4).map(|_| hbm.allocate(2 * MIB).unwrap()).collect();
        pieces.remove(2);
        pieces.remove(0);
        let error = hbm.allocate(4 * MIB).unwrap_err();
        assert!(error.hint().unwrap().contains("in pieces"));
        drop(pieces);
        assert_eq!(hbm.allocate(8 * MIB).unwrap().bytes(), 8 * MIB);
    }

    #[test]
    fn a_device_without_hbm_or_with_addresses_that_wrap_is_refused() {
        for (base, bytes) in [(BASE, 0), (u64::MAX - 4, 1 << 20)] {
            let error = Hbm::new(base, bytes, 64 << 10, 2 << 20).unwrap_err();
            assert_eq!(error.code(), Code::Protocol);
        }
    }
}
