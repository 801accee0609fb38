//! A span: raw memory that somebody else may write at any moment.
//!
//! There is never a reference or a slice to such memory: words are loaded and stored as atomics,
//! runs of bytes go through the C library's `memcpy`, of which the compiler assumes nothing.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A run of mapped bytes. It promises nothing about their content.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    start: *mut u8,
    bytes: usize,
}

// SAFETY: a span is an address; every access through it is atomic or a raw copy.
unsafe impl Send for Span {}
// SAFETY: as above.
unsafe impl Sync for Span {}

impl Span {
    /// Nothing.
    pub const EMPTY: Self = Self {
        start: std::ptr::null_mut(),
        bytes: 0,
    };

    /// The span of `bytes` bytes at `start`.
    ///
    /// # Safety
    /// The bytes stay mapped (and writable, if the span is written) while the span is used. For
    /// client memory that means: inside the [`Gate`](crate::gate::Gate), until the host's
    /// generation changes.
    #[must_use]
    pub const unsafe fn new(start: *mut u8, bytes: usize) -> Self {
        Self { start, bytes }
    }

    /// Its length in bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.bytes
    }

    /// Its first byte, for code that computes on it in place.
    #[must_use]
    pub const fn start(self) -> *mut u8 {
        self.start
    }

    /// The part from `offset` on, at most `bytes` long; empty where it would leave the span.
    #[must_use]
    pub fn part(self, offset: usize, bytes: usize) -> Self {
        match self.bytes.checked_sub(offset) {
            Some(rest) if rest > 0 => Self {
                start: self.start.wrapping_add(offset),
                bytes: bytes.min(rest),
            },
            _ => Self::EMPTY,
        }
    }

    /// Whether both see a common byte.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        let (a, b) = (self.start.addr(), other.start.addr());
        a < b.saturating_add(other.bytes) && b < a.saturating_add(self.bytes)
    }

    /// The aligned word at `offset`, to be looked at again and again; `None` where there is none.
    #[must_use]
    pub fn watched(self, offset: usize) -> Option<Word> {
        self.word(offset).map(Word)
    }

    #[inline]
    fn word(self, offset: usize) -> Option<*mut u64> {
        let fits = offset.checked_add(8).is_some_and(|end| end <= self.bytes);
        let at = self.start.wrapping_add(offset).cast::<u64>();
        (fits && at.is_aligned()).then_some(at)
    }

    /// Loads the aligned word at `offset`; zero where there is none.
    #[inline]
    #[must_use]
    pub fn load(self, offset: usize, order: Ordering) -> u64 {
        match self.word(offset) {
            // SAFETY: inside the span and aligned; `new`'s caller keeps it mapped.
            Some(at) => unsafe { AtomicU64::from_ptr(at) }.load(order),
            None => 0,
        }
    }

    /// Stores the aligned word at `offset`; nothing where there is none.
    #[inline]
    pub fn store(self, offset: usize, value: u64, order: Ordering) {
        if let Some(at) = self.word(offset) {
            // SAFETY: inside the span and aligned; `new`'s caller keeps it mapped and writable.
            unsafe { AtomicU64::from_ptr(at) }.store(value, order);
        }
    }

    /// Stores the aligned 4-byte word at `offset`; nothing where there is none.
    pub fn store32(self, offset: usize, value: u32, order: Ordering) {
        let fits = offset.checked_add(4).is_some_and(|end| end <= self.bytes);
        let at = self.start.wrapping_add(offset).cast::<u32>();
        if fits && at.is_aligned() {
            // SAFETY: inside the span and aligned; `new`'s caller keeps it mapped and writable.
            unsafe { AtomicU32::from_ptr(at) }.store(value, order);
        }
    }

    /// Raises the aligned word at `offset` to `value`, never lowering it.
    pub fn raise(self, offset: usize, value: u64) {
        if let Some(at) = self.word(offset) {
            // SAFETY: inside the span and aligned; `new`'s caller keeps it mapped and writable.
            unsafe { AtomicU64::from_ptr(at) }.fetch_max(value, Ordering::AcqRel);
        }
    }

    /// Reads one aligned 64-byte line as eight relaxed loads; zeros where there is none.
    #[inline]
    #[must_use]
    pub fn line(self, offset: usize) -> [u64; 8] {
        let fits = offset.checked_add(64).is_some_and(|end| end <= self.bytes);
        let at = self.start.wrapping_add(offset).cast::<u64>();
        if !fits || !at.is_aligned() {
            return [0; 8];
        }
        std::array::from_fn(|index| {
            // SAFETY: all eight words are inside the span and aligned; it is mapped.
            unsafe { AtomicU64::from_ptr(at.wrapping_add(index)) }.load(Ordering::Relaxed)
        })
    }

    /// Copies out as many bytes as both have; returns how many.
    pub fn read(self, offset: usize, into: &mut [u8]) -> usize {
        let from = self.part(offset, into.len());
        // SAFETY: both sides have `from.bytes` bytes; `into` is ours alone, so nothing overlaps.
        unsafe { libc::memcpy(into.as_mut_ptr().cast(), from.start.cast(), from.bytes) };
        from.bytes
    }

    /// Copies in as many bytes as both have; returns how many.
    pub fn write(self, offset: usize, from: &[u8]) -> usize {
        let to = self.part(offset, from.len());
        // SAFETY: both sides have `to.bytes` bytes; `from` is ours alone, so nothing overlaps.
        unsafe { libc::memcpy(to.start.cast(), from.as_ptr().cast(), to.bytes) };
        to.bytes
    }

    /// Copies this span to `to`, as far as both reach; returns how many bytes.
    pub fn copy_to(self, to: Self) -> usize {
        let bytes = self.bytes.min(to.bytes);
        // SAFETY: both spans have `bytes` bytes mapped; memmove permits what two IOVAs of one
        // page may do, which is to overlap.
        unsafe { libc::memmove(to.start.cast(), self.start.cast(), bytes) };
        bytes
    }

    /// Sets every byte.
    pub fn set(self, byte: u8) {
        // SAFETY: the span's bytes are mapped and writable, as `new`'s caller promised.
        unsafe { libc::memset(self.start.cast(), i32::from(byte), self.bytes) };
    }
}

/// An aligned word of a span, found once. It is valid as long as its span is.
#[derive(Clone, Copy, Debug)]
pub struct Word(*mut u64);

// SAFETY: as `Span`: an address, accessed atomically only.
unsafe impl Send for Word {}

impl Word {
    /// Loads it.
    #[inline]
    #[must_use]
    pub fn load(self) -> u64 {
        // SAFETY: `watched` found it aligned and inside its span, which `new`'s caller keeps mapped.
        unsafe { AtomicU64::from_ptr(self.0) }.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(bytes: &mut [u64]) -> Span {
        // SAFETY: the vector outlives the span in every test.
        unsafe { Span::new(bytes.as_mut_ptr().cast(), bytes.len() * 8) }
    }

    #[test]
    fn words_beyond_the_end_or_misaligned_are_neither_read_nor_written() {
        let mut memory = vec![7u64; 2];
        let s = span(&mut memory);
        s.store(9, 1, Ordering::Relaxed);
        s.store(16, 1, Ordering::Relaxed);
        s.store(usize::MAX - 3, 1, Ordering::Relaxed);
        assert_eq!(s.load(16, Ordering::Relaxed), 0);
        assert!(s.watched(9).is_none() && s.watched(16).is_none());
        assert_eq!(s.watched(8).map(Word::load), Some(7));
        s.store(8, 3, Ordering::Relaxed);
        assert_eq!(memory, [7, 3]);
    }

    #[test]
    fn a_part_never_leaves_its_span() {
        let mut memory = vec![0u64; 4];
        let s = span(&mut memory);
        assert_eq!(s.part(24, 100).bytes(), 8);
        assert_eq!(s.part(32, 1).bytes(), 0);
        assert_eq!(s.part(usize::MAX, 1).bytes(), 0);
    }

    #[test]
    fn raising_never_lowers() {
        let mut memory = vec![5u64];
        let s = span(&mut memory);
        s.raise(0, 3);
        assert_eq!(s.load(0, Ordering::Relaxed), 5);
        s.raise(0, 8);
        assert_eq!(s.load(0, Ordering::Relaxed), 8);
    }
}
