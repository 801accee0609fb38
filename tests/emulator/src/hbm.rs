//! The card's HBM: a sparse memfd, and a limit on how much of it may become resident.
//!
//! Memory is accounted in 2 MiB chunks before the first store into a chunk, so that no packet can
//! make more resident than the limit allows. A client's own stores through the BAR4 window are
//! not counted: they are its own memory, charged to it. Nor are those of another card for which it
//! mapped the window; what they left is found in the file, whether counted or not.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{Advice, MmapOptions, MmapRaw};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::span::Span;

/// Bytes accounted at once.
pub const CHUNK_BYTES: u64 = 2 << 20;

/// HBM as memory.
#[derive(Debug)]
pub struct Hbm {
    file: OwnedFd,
    map: MmapRaw,
    bytes: u64,
    limit: u64,
    resident: Box<[AtomicU64]>,
    chunks: AtomicU64,
}

/// The limit on resident memory was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted;

impl Hbm {
    /// HBM of `bytes` bytes (rounded up to whole chunks), of which `limit` may become resident.
    ///
    /// # Errors
    /// What the kernel said to the memfd or its mapping.
    pub fn new(bytes: u64, limit: u64) -> io::Result<Self> {
        let bytes = size(bytes);
        let name = c"jalapeno-hbm";
        let file = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        let length = i64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        nix::unistd::ftruncate(&file, length)?;
        // A client holds this file through its window: it must not be able to shrink it, nor to seal
        // it against us and those after it.
        nix::fcntl::fcntl(
            &file,
            nix::fcntl::FcntlArg::F_ADD_SEALS(
                nix::fcntl::SealFlag::F_SEAL_SHRINK
                    | nix::fcntl::SealFlag::F_SEAL_GROW
                    | nix::fcntl::SealFlag::F_SEAL_SEAL,
            ),
        )?;
        let map = MmapOptions::new()
            .len(usize::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?)
            .map_raw(&file)?;
        // A chunk is a huge page: reading weights costs few page walks. Where the host has none to
        // give, small pages do.
        if let Err(error) = map.advise(Advice::HugePage) {
            log::debug!("huge pages for HBM: {error}");
        }
        let words = bytes.div_ceil(CHUNK_BYTES).div_ceil(64);
        Ok(Self {
            file,
            map,
            bytes,
            limit,
            resident: (0..words).map(|_| AtomicU64::new(0)).collect(),
            chunks: AtomicU64::new(0),
        })
    }

    /// Its size in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of chunks that were stored into.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.chunks.load(Ordering::Relaxed) * CHUNK_BYTES
    }

    /// The file behind it, which a client may map as the BAR4 window.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The bytes from `offset` on; the caller has checked that they are there.
    #[must_use]
    pub fn span(&self, offset: u64, bytes: u64) -> Span {
        let length = self.map.len();
        // SAFETY: the mapping lives as long as `self`, and its file is sealed against shrinking.
        let whole = unsafe { Span::new(self.map.as_mut_ptr(), length) };
        match (usize::try_from(offset), usize::try_from(bytes)) {
            (Ok(offset), Ok(bytes)) => whole.part(offset, bytes),
            _ => Span::EMPTY,
        }
    }

    /// Whether every chunk of the range was stored into before.
    #[must_use]
    pub fn is_resident(&self, offset: u64, bytes: u64) -> bool {
        chunks(offset, bytes).all(|chunk| {
            self.word(chunk)
                .is_some_and(|word| word.load(Ordering::Relaxed) & bit(chunk) != 0)
        })
    }

    /// Accounts for a store to the range; all or nothing.
    ///
    /// # Errors
    /// [`Exhausted`] when the limit would be passed; nothing is accounted then.
    pub fn reserve(&self, offset: u64, bytes: u64) -> Result<(), Exhausted> {
        if self.is_resident(offset, bytes) {
            return Ok(());
        }
        let mut taken = Vec::new();
        for chunk in chunks(offset, bytes) {
            let Some(word) = self.word(chunk) else {
                continue;
            };
            if word.load(Ordering::Relaxed) & bit(chunk) != 0 {
                continue;
            }
            let used = self.chunks.fetch_add(1, Ordering::Relaxed) + 1;
            if used.saturating_mul(CHUNK_BYTES) > self.limit {
                self.chunks.fetch_sub(1, Ordering::Relaxed);
                for chunk in taken {
                    self.release(chunk);
                }
                return Err(Exhausted);
            }
            if word.fetch_or(bit(chunk), Ordering::Relaxed) & bit(chunk) == 0 {
                taken.push(chunk);
            } else {
                self.chunks.fetch_sub(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Reads without making anything resident, also where nothing was ever stored.
    pub fn read_sparse(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at =
                i64::try_from(offset + done as u64).map_err(|_| io::ErrorKind::InvalidInput)?;
            match nix::sys::uio::pread(&self.file, rest, at)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => done += count,
            }
        }
        Ok(())
    }

    /// Gives every page back: all of HBM reads zero afterwards.
    ///
    /// # Errors
    /// What the kernel said; HBM may hold old content then.
    pub fn scrub(&self) -> io::Result<()> {
        let length = i64::try_from(self.bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&self.file, flags, 0, length)?;
        for word in &self.resident {
            word.store(0, Ordering::Relaxed);
        }
        self.chunks.store(0, Ordering::Relaxed);
        Ok(())
    }

    fn release(&self, chunk: u64) {
        if let Some(word) = self.word(chunk) {
            word.fetch_and(!bit(chunk), Ordering::Relaxed);
            self.chunks.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn word(&self, chunk: u64) -> Option<&AtomicU64> {
        self.resident.get(usize::try_from(chunk / 64).ok()?)
    }
}

/// What a wish for so many bytes becomes: whole chunks, at least one.
#[must_use]
pub const fn size(bytes: u64) -> u64 {
    if bytes > 1 << 60 {
        return 1 << 60;
    }
    if bytes == 0 {
        CHUNK_BYTES
    } else {
        bytes.next_multiple_of(CHUNK_BYTES)
    }
}

fn bit(chunk: u64) -> u64 {
    1 << (chunk % 64)
}

/// The chunks that a range touches.
fn chunks(offset: u64, bytes: u64) -> std::ops::Range<u64> {
    let end = offset.saturating_add(bytes);
    if bytes == 0 {
        return 0..0;
    }
    offset / CHUNK_BYTES..end.div_ceil(CHUNK_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_beyond_the_limit_is_refused_and_accounts_nothing() {
        let hbm = Hbm::new(1 << 40, 4 * CHUNK_BYTES).unwrap();
        hbm.reserve(0, 3 * CHUNK_BYTES).unwrap();
        assert_eq!(
            hbm.reserve(3 * CHUNK_BYTES, 2 * CHUNK_BYTES),
            Err(Exhausted)
        );
        assert_eq!(hbm.used(), 3 * CHUNK_BYTES);
        hbm.reserve(3 * CHUNK_BYTES, 1).unwrap();
        assert_eq!(hbm.reserve(1 << 39, 1), Err(Exhausted));
    }

    #[test]
    fn storing_twice_into_a_chunk_counts_once() {
        let hbm = Hbm::new(1 << 30, CHUNK_BYTES).unwrap();
        for _ in 0..3 {
            hbm.reserve(5, 100).unwrap();
        }
        assert_eq!(hbm.used(), CHUNK_BYTES);
    }

    #[test]
    fn a_scrub_leaves_zeros_and_nothing_resident() {
        let hbm = Hbm::new(1 << 30, CHUNK_BYTES).unwrap();
        hbm.reserve(8, 8).unwrap();
        hbm.span(8, 8).store(0, 42, Ordering::Relaxed);
        hbm.scrub().unwrap();
        let mut word = [1; 8];
        hbm.read_sparse(8, &mut word).unwrap();
        assert_eq!((word, hbm.used()), ([0; 8], 0));
    }

    #[test]
    fn reading_what_was_never_stored_makes_nothing_resident() {
        let hbm = Hbm::new(1 << 30, CHUNK_BYTES).unwrap();
        let mut bytes = vec![1; 1 << 20];
        hbm.read_sparse(1 << 29, &mut bytes).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 0));
        assert_eq!(nix::sys::stat::fstat(&hbm.file).unwrap().st_blocks, 0);
    }
}
