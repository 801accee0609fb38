//! The rings: a queue's packets, completion word and error records in host memory.
//!
//! The device may write any of it at any moment (the submission ring too, where it can: an
//! emulator shares the pages), so every access here is an atomic load or store of a word. No Rust
//! reference to the bytes exists.

use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering, fence};

use jalapeno_hw::faults::{FAULT_RECORD_BYTES, FaultRecord};
use jalapeno_hw::limits::DEPTH_LOG2_MAX;
use jalapeno_hw::packets::{HEADER_VALID, PACKET_BYTES, Packet};
use jalapeno_hw::profile::{PROFILE_RECORD_BYTES, ProfileRecord};
use jalapeno_hw::queue::COMPLETION_LINE_BYTES;

use crate::dma::HostMemory;
use crate::error::{Error, Result};

/// Words of a packet.
const PACKET_WORDS: usize = PACKET_BYTES / 8;
/// Words of an error record.
const RECORD_WORDS: usize = FAULT_RECORD_BYTES / 8;
/// The cookie's word in a packet.
const COOKIE_WORD: usize = 1;
/// Where deadline and body begin in a packet.
const BODY_WORD: usize = 2;
/// log2 of a slot's bytes.
const SLOT_SHIFT: u32 = PACKET_BYTES.trailing_zeros();

/// Memory that stays where it is, mapped and readable and writable, until it is dropped.
///
/// # Safety
/// `at` and `bytes` must name that memory, always the same, 64-byte aligned; nothing in this
/// process may hold a Rust reference to its bytes.
pub(crate) unsafe trait Pinned: Send + Sync + fmt::Debug {
    /// Its first byte.
    fn at(&self) -> NonNull<u8>;
    /// Its length.
    fn bytes(&self) -> usize;
}

// SAFETY: own memory of the library, page-aligned, where it is until it is dropped; its bytes are
// only ever accessed by volatile copies and atomics.
unsafe impl Pinned for HostMemory {
    fn at(&self) -> NonNull<u8> {
        self.ptr()
    }
    fn bytes(&self) -> usize {
        usize::try_from(HostMemory::bytes(self)).unwrap_or(0)
    }
}

// SAFETY: as for the memory itself, which stays while anybody shares it.
unsafe impl Pinned for std::sync::Arc<HostMemory> {
    fn at(&self) -> NonNull<u8> {
        self.ptr()
    }
    fn bytes(&self) -> usize {
        Pinned::bytes(&**self)
    }
}

/// The first word of host memory, such as a fence; `None` where it is shorter.
pub(crate) fn first_word(memory: &HostMemory) -> Option<&AtomicU64> {
    if HostMemory::bytes(memory) < 8 {
        return None;
    }
    // SAFETY: page-aligned, long enough, alive as long as the borrow; only accessed by atomics and
    // volatile copies.
    Some(unsafe { AtomicU64::from_ptr(memory.ptr().as_ptr().cast()) })
}

/// Where a queue's three structures stand, and what keeps them there.
pub(crate) struct Rings {
    slots: NonNull<u8>,
    word: NonNull<u8>,
    errors: NonNull<u8>,
    /// As many records as there are slots, where the queue is profiled.
    profile: Option<NonNull<u8>>,
    /// Packets, and the slots' bytes less one slot: what the path of a command computes with.
    depth: u64,
    slot_mask: usize,
    /// The record that is due next; bit 0 of the address is the phase it will have.
    due: AtomicPtr<u8>,
    errors_log2: u32,
    keep: [Box<dyn Pinned>; 2],
}

// SAFETY: the pointers lie in memory that `keep` holds and that is only accessed through atomics.
unsafe impl Send for Rings {}
// SAFETY: as above.
unsafe impl Sync for Rings {}

impl fmt::Debug for Rings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rings")
            .field("depth", &self.depth)
            .field("errors_log2", &self.errors_log2)
            .field("keep", &self.keep)
            .finish_non_exhaustive()
    }
}

impl Rings {
    /// Bytes of a submission ring.
    pub(crate) fn ring_bytes(depth_log2: u32) -> usize {
        PACKET_BYTES << depth_log2
    }

    /// Bytes of what the device writes: the completion line, padded to a record, then the errors.
    pub(crate) fn answer_bytes(errors_log2: u32) -> usize {
        Self::ERRORS_OFFSET + (FAULT_RECORD_BYTES << errors_log2)
    }

    /// Offset of the error ring in the answers; the completion line stands at 0.
    pub(crate) const ERRORS_OFFSET: usize = FAULT_RECORD_BYTES;

    /// Rings in two pieces of memory: `ring`, which the device reads, and `answers`, which it
    /// writes. Both are zeroed by their maker.
    pub(crate) fn new(
        ring: Box<dyn Pinned>,
        answers: Box<dyn Pinned>,
        depth_log2: u32,
        errors_log2: u32,
    ) -> Result<Self> {
        if depth_log2 > u32::from(DEPTH_LOG2_MAX)
            || errors_log2 > u32::from(DEPTH_LOG2_MAX)
            || ring.bytes() < Self::ring_bytes(depth_log2)
            || answers.bytes() < Self::answer_bytes(errors_log2)
            || !ring.at().addr().get().is_multiple_of(COMPLETION_LINE_BYTES)
            || !answers
                .at()
                .addr()
                .get()
                .is_multiple_of(COMPLETION_LINE_BYTES)
        {
            return Err(Error::Invalid {
                what: format!(
                    "rings of 2^{depth_log2} packets and 2^{errors_log2} records do not fit their memory"
                ),
            });
        }
        let base = answers.at();
        let rings = Self {
            slots: ring.at(),
            word: base,
            // SAFETY: `answers` was just found to be longer than this offset.
            errors: unsafe { base.add(Self::ERRORS_OFFSET) },
            profile: None,
            depth: 1 << depth_log2,
            slot_mask: Self::ring_bytes(depth_log2) - PACKET_BYTES,
            due: AtomicPtr::default(),
            errors_log2,
            keep: [ring, answers],
        };
        let _ = rings.expect_record(0);
        Ok(rings)
    }

    /// Bytes of a profile ring.
    pub(crate) fn profile_bytes(depth_log2: u32) -> usize {
        const { assert!(PROFILE_RECORD_BYTES == PACKET_BYTES, "slots serve both") };
        PROFILE_RECORD_BYTES << depth_log2
    }

    /// The same, with a profile ring in the answers' memory behind the errors, zeroed too.
    pub(crate) fn profiled(mut self) -> Result<Self> {
        let [_, answers] = &self.keep;
        let at = Self::answer_bytes(self.errors_log2);
        let bytes = self.slot_mask + PROFILE_RECORD_BYTES;
        if answers
            .bytes()
            .checked_sub(at)
            .is_none_or(|left| left < bytes)
        {
            return Err(Error::Invalid {
                what: format!("a profile ring of {bytes} bytes does not fit its memory"),
            });
        }
        // SAFETY: `answers` was just found to be longer than this offset.
        self.profile = Some(unsafe { answers.at().add(at) });
        Ok(self)
    }

    /// Whether there is a profile ring.
    pub(crate) fn is_profiled(&self) -> bool {
        self.profile.is_some()
    }

    /// One private copy of packet `seq`'s profile record; `None`: it is not there.
    pub(crate) fn profile(&self, seq: u64) -> Option<ProfileRecord> {
        #[expect(clippy::cast_possible_truncation, reason = "masked just after")]
        let at = ((seq.wrapping_sub(1) << SLOT_SHIFT) as usize) & self.slot_mask;
        // SAFETY: `profiled` found the ring as long as the slots, and the mask leaves a multiple of
        // a slot's size below that; 64-byte aligned and only accessed through these atomics.
        let from: &[AtomicU64; PACKET_WORDS] = unsafe { self.profile?.add(at).cast().as_ref() };
        let mut words = [0; PACKET_WORDS];
        words[0] = from[0].load(Ordering::Acquire);
        for (word, from) in words.iter_mut().zip(from).skip(1) {
            *word = from.load(Ordering::Relaxed);
        }
        // A record that was written over meanwhile had its sequence cleared first.
        fence(Ordering::Acquire);
        let stands = words[0] == seq && from[0].load(Ordering::Relaxed) == seq;
        stands.then(|| zerocopy::transmute!(words))
    }

    /// Packets of the submission ring.
    #[inline]
    pub(crate) fn depth(&self) -> u64 {
        self.depth
    }

    /// Records of the error ring.
    pub(crate) fn records(&self) -> u64 {
        1 << self.errors_log2
    }

    /// The completion word. Host interface 5.
    #[inline]
    pub(crate) fn word(&self) -> &AtomicU64 {
        // SAFETY: 64-byte aligned memory that `keep` holds as long as `self` lives.
        unsafe { AtomicU64::from_ptr(self.word.as_ptr().cast()) }
    }

    /// The slot that packet `seq` stands in.
    #[inline]
    fn slot(&self, seq: u64) -> &[AtomicU64; PACKET_WORDS] {
        // The mask keeps it below the ring's bytes.
        #[expect(clippy::cast_possible_truncation, reason = "masked just after")]
        let at = ((seq.wrapping_sub(1) << SLOT_SHIFT) as usize) & self.slot_mask;
        // SAFETY: the mask leaves a multiple of the slot's size below the ring's bytes, and `new`
        // found the ring that long; the slot is 64-byte aligned and only accessed through these
        // atomics.
        unsafe { self.slots.add(at).cast().as_ref() }
    }

    /// The free slots behind packet `last`, to the end of the ring's lap or to packet `room`.
    ///
    /// # Safety
    /// The rings outlive what is given; slots up to packet `room` are free; the caller is the queue's
    /// one producer, and uses an earlier stretch no more.
    pub(crate) unsafe fn stretch(&self, last: u64, room: u64) -> Stretch {
        let lap = last & !(self.depth - 1);
        // Set on the first lap, clear on the second, and so on: this bit is the lap's parity.
        let valid = last & self.depth == 0;
        Stretch {
            last,
            end: room.min(lap + self.depth),
            first: self.slots.as_ptr().wrapping_sub(shifted(lap)).cast(),
            validity: u64::from(valid) << HEADER_VALID.trailing_zeros(),
        }
    }

    /// The cookie of packet `seq`. Means something only while the slot is not given back.
    #[inline]
    pub(crate) fn cookie(&self, seq: u64) -> u64 {
        self.slot(seq)[COOKIE_WORD].load(Ordering::Relaxed)
    }

    /// A copy of packet `seq`, without its validity bit. The caller knows that it exists and holds
    /// its slot: no watermark moves meanwhile.
    pub(crate) fn packet(&self, seq: u64) -> Packet {
        let slot = self.slot(seq);
        let mut words = [0; PACKET_WORDS];
        for (word, from) in words.iter_mut().zip(slot) {
            *word = from.load(Ordering::Relaxed);
        }
        words[0] &= !HEADER_VALID;
        zerocopy::transmute!(words)
    }

    /// Notes which error record is due next.
    pub(crate) fn expect_record(&self, index: u64) -> Absent {
        let first = &self.record_words(index)[0];
        // Records are aligned to 64 bytes: bit 0 is free.
        let phase = usize::from(self.record_phase(index));
        let due = first.as_ptr().cast::<u8>().map_addr(|at| at | phase);
        self.due.store(due, Ordering::Release);
        let stands = first.load(Ordering::Acquire);
        Absent {
            at: first.as_ptr(),
            // Where it has come already, nothing stands for its absence.
            value: if self.is_record_due() {
                !stands
            } else {
                stands
            },
        }
    }

    /// Whether a record stands where the next one is due.
    pub(crate) fn is_record_due(&self) -> bool {
        let due = self.due.load(Ordering::Relaxed);
        let first = due.map_addr(|at| at & !1).cast::<u64>();
        // SAFETY: `expect_record` made it from a record of this ring, which `keep` holds.
        let first = unsafe { AtomicU64::from_ptr(first) }.load(Ordering::Acquire);
        // The ring starts as zeros, so on its first lap (phase 1) nothing is due yet.
        (first >> PHASE_SHIFT ^ due.addr() as u64) & 1 == 0
    }

    fn record_words(&self, index: u64) -> &[AtomicU64; RECORD_WORDS] {
        #[expect(clippy::cast_possible_truncation, reason = "at most 2^16 records")]
        let at = (index & (self.records() - 1)) as usize;
        // SAFETY: `at` is below the count of records, and `new` found the ring that long; aligned
        // to 64 bytes and only accessed through these atomics.
        unsafe { self.errors.add(at * FAULT_RECORD_BYTES).cast().as_ref() }
    }

    /// One private copy of the error record with this index, its first word loaded first.
    pub(crate) fn record(&self, index: u64) -> FaultRecord {
        let from = self.record_words(index);
        let mut words = [0; RECORD_WORDS];
        words[0] = from[0].load(Ordering::Acquire);
        for at in 1..RECORD_WORDS {
            words[at] = from[at].load(Ordering::Relaxed);
        }
        zerocopy::transmute!(words)
    }

    /// The phase that the record with this index has: 1 on the first lap.
    fn record_phase(&self, index: u64) -> bool {
        (index >> self.errors_log2) & 1 == 0
    }
}

/// The first word of the error record that is due next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Absent {
    /// The word.
    pub(crate) at: *mut u64,
    /// Its value while the record is not there; any other may be the record.
    pub(crate) value: u64,
}

/// Free slots of one lap: where the producer's next packets go, one behind the other.
#[derive(Debug)]
pub(crate) struct Stretch {
    /// The last packet that was put.
    last: u64,
    /// The last that fits.
    end: u64,
    /// Where packet 1 would stand if this lap's slots had no beginning.
    first: *mut AtomicU64,
    /// The lap's validity bit, as it stands in a header.
    validity: u64,
}

// SAFETY: a pointer into memory that its maker keeps, accessed through atomics only.
unsafe impl Send for Stretch {}
// SAFETY: as above.
unsafe impl Sync for Stretch {}

/// A count of packets in bytes of slots.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "64-bit architectures only")]
const fn shifted(packets: u64) -> usize {
    (packets << SLOT_SHIFT) as usize
}

impl Stretch {
    /// The last packet that was put.
    #[inline]
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// How many more fit.
    #[inline]
    pub(crate) fn left(&self) -> u64 {
        self.end - self.last
    }

    /// Puts the next packet, if it fits, and gives its sequence number.
    #[inline(always)]
    pub(crate) fn put_one(&mut self, packet: &Packet, submitted: &AtomicU64) -> Option<u64> {
        if self.last >= self.end {
            return None;
        }
        let slot = self.first.wrapping_byte_add(shifted(self.last));
        self.last = self.last.wrapping_add(1);
        // SAFETY: packets behind `last` to `end` have free slots.
        unsafe { put(slot, packet, self.validity, self.last, submitted) };
        Some(self.last)
    }

    /// Puts the next packets, if all fit, and gives the last one's sequence number.
    #[inline(always)]
    pub(crate) fn put_all(&mut self, packets: &[Packet], submitted: &AtomicU64) -> Option<u64> {
        if packets.len() as u64 > self.end - self.last {
            return None;
        }
        let mut slot = self.first.wrapping_byte_add(shifted(self.last));
        let mut seq = self.last;
        let validity = self.validity;
        for packet in packets {
            seq = seq.wrapping_add(1);
            // SAFETY: packets behind `last` to `end` have free slots.
            unsafe { put(slot, packet, validity, seq, submitted) };
            slot = slot.wrapping_byte_add(PACKET_BYTES);
        }
        self.last = seq;
        Some(seq)
    }
}

/// Writes a packet up to its header, tells `submitted` that it exists, then stores the header, by
/// which the device may fetch it.
///
/// # Safety
/// `slot` is a free slot of a ring, and the caller the queue's one producer.
#[inline(always)]
unsafe fn put(
    slot: *mut AtomicU64,
    packet: &Packet,
    validity: u64,
    seq: u64,
    submitted: &AtomicU64,
) {
    let words: &[u64; PACKET_WORDS] = zerocopy::transmute_ref!(packet);
    // SAFETY: the caller's promise; slots are 64-byte aligned.
    let slot = unsafe { &*slot.cast::<[AtomicU64; PACKET_WORDS]>() };
    // A reaper that is too slow may read the cookie of a slot that was given back.
    slot[COOKIE_WORD].store(words[COOKIE_WORD], Ordering::Relaxed);
    // SAFETY: words 2 to 7, through their atomics' cells. The device does not look beyond the
    // header, and `Rings::packet` reads unfinished packets only, which this is not yet.
    unsafe {
        let body = slot.as_ptr().cast::<u64>().cast_mut().add(BODY_WORD);
        body.copy_from_nonoverlapping(words[BODY_WORD..].as_ptr(), PACKET_WORDS - BODY_WORD);
    }
    submitted.store(seq, Ordering::Release);
    slot[0].store(words[0] & !HEADER_VALID | validity, Ordering::Release);
}

/// Where FaultRecord.flags' phase bit lies in the record's first word.
const PHASE_SHIFT: u32 = 56;

/// Memory of the heap in the place of pinned memory, for the tests of this crate.
#[cfg(test)]
pub(crate) mod heap {
    use super::*;

    #[repr(align(256))]
    #[derive(Debug)]
    struct Block([AtomicU64; RECORD_WORDS]);

    /// Zeroed blocks, shared by the code under test and a device that the test plays.
    #[derive(Clone, Debug)]
    pub(crate) struct Heap(std::sync::Arc<[Block]>);

    impl Heap {
        pub(crate) fn new(bytes: usize) -> Self {
            let blocks = bytes.div_ceil(FAULT_RECORD_BYTES).max(1);
            let zeroed = || Block(std::array::from_fn(|_| AtomicU64::new(0)));
            Self((0..blocks).map(|_| zeroed()).collect())
        }

        pub(crate) fn word(&self, at: usize) -> &AtomicU64 {
            &self.0[at / RECORD_WORDS].0[at % RECORD_WORDS]
        }
    }

    // SAFETY: the blocks stay where they are while one clone lives, are aligned to 256 bytes, and
    // are atomics all through.
    unsafe impl Pinned for Heap {
        fn at(&self) -> NonNull<u8> {
            NonNull::from(&*self.0).cast()
        }
        fn bytes(&self) -> usize {
            self.0.len() * FAULT_RECORD_BYTES
        }
    }
}
