//! The doorbell pages: BAR2 as a memfd that the owner maps. Host interface 5.8.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use jalapeno_hw::reg::Register;
use jalapeno_hw::regs::{Arm, Resume, Tail};
use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::identity::DOORBELL_STRIDE;
use crate::span::Span;

/// All doorbell pages.
#[derive(Debug)]
pub struct Doorbells {
    file: OwnedFd,
    map: MmapRaw,
}

/// One queue's doorbell page.
#[derive(Clone, Copy, Debug)]
pub struct Doorbell(Span);

impl Doorbells {
    /// Pages for so many queues; BAR2 is a power of two.
    ///
    /// # Errors
    /// What the kernel said to the memfd or its mapping.
    pub fn new(queues: u32) -> io::Result<Self> {
        let bytes = Self::size(queues);
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = memfd_create(c"jalapeno-doorbells", flags)?;
        let length = i64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        nix::unistd::ftruncate(&file, length)?;
        // The client holds this file: it must not be able to shrink it, nor to seal
        // it against us and those after it.
        nix::fcntl::fcntl(
            &file,
            nix::fcntl::FcntlArg::F_ADD_SEALS(
                nix::fcntl::SealFlag::F_SEAL_SHRINK
                    | nix::fcntl::SealFlag::F_SEAL_GROW
                    | nix::fcntl::SealFlag::F_SEAL_SEAL,
            ),
        )?;
        let map = MmapOptions::new().len(bytes).map_raw(&file)?;
        Ok(Self { file, map })
    }

    /// BAR2's size in bytes for so many queues.
    #[must_use]
    pub const fn size(queues: u32) -> usize {
        (queues as usize * DOORBELL_STRIDE as usize).next_power_of_two()
    }

    /// Whether a write there is to a queue's TAIL.
    #[must_use]
    pub const fn is_tail(offset: usize) -> bool {
        offset % DOORBELL_STRIDE as usize == Tail::OFFSET as usize
    }

    /// BAR2's size in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.map.len()
    }

    /// The file behind it, which the owner maps.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// All of BAR2.
    #[must_use]
    pub fn span(&self) -> Span {
        // SAFETY: the mapping lives as long as `self`, and its file is sealed against shrinking.
        // The engine, the only one to keep a part of it, keeps the card and so `self` alive.
        unsafe { Span::new(self.map.as_mut_ptr(), self.map.len()) }
    }

    /// One queue's page.
    #[must_use]
    pub fn page(&self, queue: u16) -> Doorbell {
        let stride = DOORBELL_STRIDE as usize;
        Doorbell(self.span().part(usize::from(queue) * stride, stride))
    }

    /// A relayed write. Aligned words are stored whole, anything else byte by byte.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let span = self.span();
        match *bytes {
            [a, b, c, d] if offset.is_multiple_of(4) => {
                span.store32(offset, u32::from_le_bytes([a, b, c, d]), Ordering::Release)
            }
            [a, b, c, d, e, f, g, h] if offset.is_multiple_of(8) => {
                let word = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
                span.store(offset, word, Ordering::Release);
            }
            _ => {
                span.write(offset, bytes);
            }
        }
    }
}

impl Doorbell {
    /// Low 32 bits of the last submitted sequence number.
    #[inline]
    #[must_use]
    pub fn tail(self) -> u32 {
        let word = self.0.load(Tail::OFFSET as usize, Ordering::Acquire);
        u32::try_from(word & 0xFFFF_FFFF).unwrap_or_default()
    }

    /// The sequence number awaited; 0: none.
    #[inline]
    #[must_use]
    pub fn arm(self) -> u64 {
        self.0.load(Arm::OFFSET as usize, Ordering::Relaxed)
    }

    /// The sequence number to resume from.
    #[inline]
    #[must_use]
    pub fn resume(self) -> u64 {
        self.0.load(Resume::OFFSET as usize, Ordering::Acquire)
    }

    /// All words to zero, as at creation.
    pub fn clear(self) {
        for offset in [Tail::OFFSET, Arm::OFFSET, Resume::OFFSET] {
            self.0.store(offset as usize, 0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_has_one_tail() {
        let stride = DOORBELL_STRIDE as usize;
        for queue in [0, 1, 63] {
            let tail = queue * stride + Tail::OFFSET as usize;
            assert!(Doorbells::is_tail(tail));
            for register in [Arm::OFFSET, Resume::OFFSET] {
                assert!(!Doorbells::is_tail(queue * stride + register as usize));
            }
        }
    }
}
