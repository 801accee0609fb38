//! The traffic of a lane: the words that every command touches, and nothing else.
//!
//! They stand in a page that the kernel wipes in a child of fork(). The pointers by which the rings
//! and the doorbell are reached are null there, and null while the lane is stopped or has ended:
//! one test of a value that is needed anyway. Whatever is unusual takes the slow path, which tells
//! it apart.

use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use crate::error::Result;
use crate::fork::WipedPages;
use crate::mmio::Doorbell;
use crate::order;
use crate::ring::{Absent, Rings};

/// `seen`'s bit that says: the lane is stopped or has ended, and the number stands.
const HALTED: u64 = 1 << 62;
/// Polls that found nothing before the slow path asks whether the device is still there.
const PATIENCE: u32 = 1 << 14;

/// The words, all zero at first; a line (and its neighbour, which is prefetched with it) for each
/// who writes on the path of a command.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Traffic {
    gates: Gates,
    /// The last packet that exists. The producer's.
    submitted: Apart<AtomicU64>,
    /// The highest completion that anyone validated, and `HALTED`. The consumers'.
    seen: Apart<(AtomicU64, AtomicU32)>,
    /// How far completions were delivered, where they are.
    claimed: Apart<AtomicU64>,
}

/// A value on lines of its own.
#[derive(Debug)]
#[repr(C, align(128))]
struct Apart<T>(T);

/// Written in trouble only.
#[derive(Debug)]
#[repr(C, align(128))]
struct Gates {
    /// TAIL in the mapped doorbell page; null: do not submit this way.
    tail: AtomicPtr<u32>,
    /// The completion word; null: do not look this way.
    word: AtomicPtr<u64>,
    /// The first word of the error record that is due next, and its value while there is none.
    due: AtomicPtr<u64>,
    absent: AtomicU64,
    /// The last packet of the last failure: up to here outcomes must be looked up.
    troubled: AtomicU64,
}

/// TAIL of a mapped doorbell page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tail<'a> {
    at: NonNull<u32>,
    of: PhantomData<&'a Traffic>,
}

impl Tail<'_> {
    /// Stores the low 32 bits of the last submitted sequence number, after every packet so far.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "TAIL is the low half")]
    pub(crate) fn store(self, last: u64) {
        order::before_doorbell();
        // SAFETY: a word of a doorbell page that stays mapped while the lane lives.
        unsafe { self.at.write_volatile(last as u32) };
    }
}

/// The page that holds a lane's words, and keeps them where they are.
#[derive(Debug)]
pub(super) struct Page(WipedPages);

impl Page {
    pub(super) fn new() -> Result<Self> {
        const { assert!(align_of::<Traffic>() <= 4096) };
        Ok(Self(WipedPages::new(size_of::<Traffic>())?))
    }

    pub(super) fn traffic(&self) -> &Traffic {
        // SAFETY: long enough, page-aligned, there as long as `self`, accessed through this type
        // only; all of it may be zero, and become so in a child.
        unsafe { &*self.0.at().cast::<Traffic>() }
    }

    /// Opens the ways for commands. Where a child of fork() would find them open too, and for
    /// doorbells that are relayed, they stay shut: then every command takes the slow path.
    pub(super) fn open(&self, rings: &Rings, doorbell: &Doorbell) {
        if self.0.wipes() {
            let gates = &self.traffic().gates;
            let word = rings.word().as_ptr();
            gates.word.store(word, Ordering::Release);
            let tail = doorbell.tail_at().map_or(ptr::null_mut(), NonNull::as_ptr);
            gates.tail.store(tail, Ordering::Release);
        }
    }
}

impl Traffic {
    /// Shuts the ways for commands.
    pub(super) fn shut(&self) {
        self.gates.tail.store(ptr::null_mut(), Ordering::Release);
        self.gates.word.store(ptr::null_mut(), Ordering::Release);
    }

    /// Where a command's doorbell is; `None`: submit slowly.
    #[inline(always)]
    pub(crate) fn tail(&self) -> Option<Tail<'_>> {
        let at = NonNull::new(self.gates.tail.load(Ordering::Acquire))?;
        let of = PhantomData;
        Some(Tail { at, of })
    }

    /// The producer's count of packets, to be told of each one.
    #[inline(always)]
    pub(crate) fn submitted(&self) -> &AtomicU64 {
        &self.submitted.0
    }

    /// Looks at the completion word and gives the validated watermark; `None`: look closely.
    #[inline(always)]
    pub(crate) fn glance(&self) -> Option<u64> {
        let word = NonNull::new(self.gates.word.load(Ordering::Acquire))?;
        // In this order: whoever sees `seen` sees a word at least as new.
        let seen = self.seen.0.0.load(Ordering::Acquire);
        // SAFETY: a gate holds null or the completion word of the lane's rings.
        let word = unsafe { AtomicU64::from_ptr(word.as_ptr()) }.load(Ordering::Acquire);
        if word <= seen {
            return self.idle(seen, word);
        }
        if word > self.submitted.0.load(Ordering::Acquire) || self.may_have_failed() {
            return None;
        }
        self.advance(seen, word).then_some(word)
    }

    /// A look that found nothing: now and then, the slow path asks whether the device is there.
    #[inline(always)]
    fn idle(&self, seen: u64, word: u64) -> Option<u64> {
        let count = &self.seen.0.1;
        let idle = count.load(Ordering::Relaxed).wrapping_add(1);
        count.store(idle, Ordering::Relaxed);
        (word == seen && !idle.is_multiple_of(PATIENCE)).then_some(seen)
    }

    /// Whether the error record that is due next may have come.
    #[inline(always)]
    fn may_have_failed(&self) -> bool {
        let due = self.gates.due.load(Ordering::Relaxed);
        // SAFETY: set with the gates' first opening, and always to a record of the lane's rings.
        let first = unsafe { AtomicU64::from_ptr(due) }.load(Ordering::Acquire);
        first != self.gates.absent.load(Ordering::Relaxed)
    }

    /// Notes which error record is due next.
    pub(super) fn expect_record(&self, absent: Absent) {
        self.gates.due.store(absent.at, Ordering::Relaxed);
        self.gates.absent.store(absent.value, Ordering::Relaxed);
    }

    /// Moves the watermark; false: another thread was faster, or it is halted.
    #[inline(always)]
    pub(super) fn advance(&self, seen: u64, word: u64) -> bool {
        let cell = &self.seen.0.0;
        cell.compare_exchange(seen, word, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// The watermark; `None` while it is halted.
    pub(super) fn moving(&self) -> Option<u64> {
        let seen = self.seen.0.0.load(Ordering::Acquire);
        (seen & HALTED == 0).then_some(seen)
    }

    /// Halts the watermark where it stands, and gives it: whoever was about to move it fails.
    pub(super) fn halt(&self) -> u64 {
        self.seen.0.0.fetch_or(HALTED, Ordering::AcqRel) & !HALTED
    }

    /// Moves a halted watermark, which stays halted.
    pub(super) fn set_halted(&self, seen: u64) {
        self.seen.0.0.store(seen | HALTED, Ordering::Release);
    }

    /// Lets a halted watermark move again, from here.
    pub(super) fn release(&self, seen: u64) {
        self.seen.0.0.store(seen, Ordering::Release);
    }

    /// The watermark as it was last validated, without looking.
    pub(super) fn seen(&self) -> u64 {
        self.seen.0.0.load(Ordering::Acquire) & !HALTED
    }

    /// Whether outcomes from here on must be looked up.
    #[inline(always)]
    pub(crate) fn is_troubled(&self, after: u64) -> bool {
        after < self.gates.troubled.load(Ordering::Acquire)
    }

    /// Outcomes up to here must be looked up.
    pub(super) fn set_troubled(&self, last: u64) {
        self.gates.troubled.store(last, Ordering::Release);
    }

    /// How far completions were delivered.
    #[inline(always)]
    pub(crate) fn claimed(&self) -> u64 {
        self.claimed.0.load(Ordering::Acquire)
    }

    /// Claims completions `from + 1 ..= to` for the caller; false: another thread was faster.
    #[inline(always)]
    pub(crate) fn claim(&self, from: u64, to: u64) -> bool {
        let cell = &self.claimed.0;
        cell.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }
}
