//! A queue: its ring, its completion line, its error ring and its doorbell. Host interface 5.

use std::sync::atomic::Ordering;

use jalapeno_hw::faults::{FAULT_RECORD_BYTES, FaultCode, FaultRecord};
use jalapeno_hw::limits::{DEPTH_LOG2_MAX, IOVA_LAST};
use jalapeno_hw::packets::{
    HEADER_ARGUMENT_SHIFT, HEADER_OPCODE, HEADER_VALID, Opcode, PACKET_BYTES,
};
use jalapeno_hw::queue::{COMPLETION_LINE_BYTES, COMPLETION_STOPPED, PriorityBand, QueueCreate};
use jalapeno_hw::regs::Feature;
use zerocopy::IntoBytes;

use crate::card::Card;
use crate::doorbells::Doorbell;
use crate::execute::Wait;
use crate::graph::Graph;
use crate::identity::ERRORS_LOG2_MAX;
use crate::memory::{Intent, Memory, Piece};
use crate::profile::{Tally, fits};
use crate::span::Span;
use crate::trouble::{Culprit, Trouble, placed};
use crate::watch::Watch;

/// Why a queue does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The sequence number it stopped at.
    pub at: u64,
    /// The FaultCode.
    pub code: u32,
}

/// What a queue's head waits for.
#[derive(Clone, Copy, Debug)]
pub enum Block {
    /// A fence.
    Fence(Wait, [u64; 8]),
    /// Device time, after which the packet is executed without its deadline (fault injection).
    Until(u64, [u64; 8]),
    /// Nothing: it hangs (fault injection).
    Forever,
}

/// A queue that exists.
#[derive(Debug)]
pub struct Queue {
    /// Its number.
    pub number: u16,
    /// What it was created with.
    pub shape: QueueCreate,
    /// Last completed sequence number.
    pub completed: u64,
    /// Set while it is stopped.
    pub stop: Option<Stop>,
    /// Set while its head waits.
    pub block: Option<Block>,
    /// Set while a graph runs.
    pub graph: Option<Graph>,
    /// What its head took so far, while that is written down.
    pub tally: Option<Tally>,
    /// Its ring is not looked at until KICK (fault injection).
    pub deaf: bool,
    /// Error records written.
    pub errors: u64,
    /// Packets failed.
    pub failed: u64,
    /// What it has had, by its band's weight.
    pub(crate) due: u64,
    doorbell: Doorbell,
    armed_last: u64,
    ring: Vec<Span>,
    page_log2: u32,
    completion: Span,
    relayed: bool,
}

impl Queue {
    /// Creates a queue; the device writes 0 to its completion line and clears its doorbell.
    ///
    /// # Errors
    /// BAD_QUEUE_SHAPE or RESERVED_FIELD with the offset in [`QueueCreate`], or what memory says.
    pub fn create(card: &Card, shape: QueueCreate) -> Result<Self, Trouble> {
        let number = check_shape(card, &shape)?;
        let mut queue = Self {
            number,
            shape,
            completed: 0,
            stop: None,
            block: None,
            graph: None,
            tally: None,
            deaf: false,
            errors: 0,
            failed: 0,
            due: 0,
            doorbell: card.doorbells.page(number),
            armed_last: 0,
            ring: Vec::new(),
            page_log2: 0,
            completion: Span::EMPTY,
            relayed: false,
        };
        let memory = card.memory();
        queue.locate(&memory)?;
        queue.doorbell.clear();
        queue.publish(&memory)?;
        Ok(queue)
    }

    /// Finds its memory anew, after mappings changed.
    ///
    /// # Errors
    /// What memory says of the first address that is gone.
    pub fn locate(&mut self, memory: &Memory<'_>) -> Result<(), Trouble> {
        // Whatever is not found again is not touched again.
        self.forget();
        let mut pieces = Vec::new();
        let bytes = (PACKET_BYTES as u64) << self.shape.depth_log2;
        memory.find(self.shape.ring, bytes, Intent::Read, &mut pieces)?;
        // One piece, or pages of 64 packets; anything else is read through the host.
        self.page_log2 = u32::from(self.shape.depth_log2);
        if pieces.len() > 1 {
            self.page_log2 = 6;
        }
        for piece in pieces {
            match piece {
                Piece::Mapped(span) if span.bytes() % (64 << self.page_log2) == 0 => {
                    let page = 64 << self.page_log2;
                    let pages = (0..span.bytes() / page).map(|index| span.part(index * page, page));
                    self.ring.extend(pages);
                }
                _ => self.relayed = true,
            }
        }
        let mut line = Vec::new();
        let bytes = COMPLETION_LINE_BYTES as u64;
        memory.find(self.shape.completion, bytes, Intent::Write, &mut line)?;
        match line.as_slice() {
            [Piece::Mapped(span)] => self.completion = *span,
            _ => self.relayed = true,
        }
        let mut errors = Vec::new();
        let bytes = (FAULT_RECORD_BYTES as u64) << self.shape.errors_log2;
        memory.find(self.shape.errors, bytes, Intent::Write, &mut errors)?;
        match self.profile_bytes() {
            0 => Ok(()),
            bytes => memory.find(self.shape.profile, bytes, Intent::Write, &mut Vec::new()),
        }
    }

    /// Its memory is not touched until it is found anew.
    pub fn forget(&mut self) {
        self.relayed = false;
        self.ring.clear();
        self.completion = Span::EMPTY;
    }

    /// Log2 of the ring's packets, as packets.
    #[must_use]
    pub fn depth(&self) -> u64 {
        1 << self.shape.depth_log2
    }

    /// The next packet, if the host has stored it: copied once, header first.
    #[inline]
    pub fn fetch(&self, memory: &Memory<'_>) -> Option<[u64; 8]> {
        let sequence = self.completed + 1;
        if self.relayed {
            return self.fetch_relayed(memory, sequence);
        }
        let (page, offset) = self.slot(sequence);
        let header = self.ring.get(page)?.load(offset, Ordering::Acquire);
        if !self.is_valid(header, sequence) {
            return None;
        }
        let mut words = self.ring.get(page)?.line(offset);
        words[0] = header;
        Some(words)
    }

    /// What shows that there is a packet to fetch, until anything about the queue changes.
    #[inline]
    #[must_use]
    pub fn watch(&self) -> Watch {
        let busy = self.block.is_some() || self.graph.is_some();
        if self.relayed || self.stop.is_some() || busy || self.deaf {
            return Watch::Ask;
        }
        let sequence = self.completed + 1;
        let (page, offset) = self.slot(sequence);
        match self.ring.get(page).and_then(|page| page.watched(offset)) {
            Some(word) => Watch::Header {
                word,
                mask: HEADER_VALID,
                ready: if self.is_valid(HEADER_VALID, sequence) {
                    HEADER_VALID
                } else {
                    0
                },
            },
            None => Watch::Ask,
        }
    }

    /// Whether the words of the doorbell page say nothing that the device does not know.
    #[inline]
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let arm = self.doorbell.arm();
        self.stop.is_none()
            && (arm == 0 || arm == self.armed_last || arm > self.completed)
            && self.doorbell.tail() == low(self.completed)
    }

    #[cold]
    fn fetch_relayed(&self, memory: &Memory<'_>, sequence: u64) -> Option<[u64; 8]> {
        // Reading costs a message: only what TAIL promises is read.
        if self.ahead() == 0 {
            return None;
        }
        let mut words = [0u64; 8];
        let slot = (sequence - 1) & (self.depth() - 1);
        let address = self.shape.ring + slot * PACKET_BYTES as u64;
        memory.read(address, words.as_mut_bytes()).ok()?;
        self.is_valid(words[0], sequence).then_some(words)
    }

    #[inline]
    fn slot(&self, sequence: u64) -> (usize, usize) {
        let slot = (sequence - 1) & (self.depth() - 1);
        let page = slot >> self.page_log2;
        let within = slot & ((1 << self.page_log2) - 1);
        // Both are below 2^22, the largest ring's bytes.
        #[expect(clippy::cast_possible_truncation, reason = "at most 2^16 packets")]
        (page as usize, within as usize * PACKET_BYTES)
    }

    /// Validity is 1 on the ring's first lap, 0 on the second, and so on.
    #[inline]
    fn is_valid(&self, header: u64, sequence: u64) -> bool {
        let lap = (sequence - 1) >> self.shape.depth_log2;
        (header & HEADER_VALID != 0) == (lap & 1 == 0)
    }

    /// Packets that TAIL promises beyond the completed ones; 0 also where TAIL is behind.
    #[must_use]
    pub fn ahead(&self) -> u32 {
        let ahead = self.doorbell.tail().wrapping_sub(low(self.completed));
        if ahead > i32::MAX.cast_unsigned() {
            0
        } else {
            ahead
        }
    }

    /// The last sequence number that the device has seen submitted. A TAIL that is too far says
    /// nothing.
    #[must_use]
    pub fn submitted(&self) -> u64 {
        let ahead = u64::from(self.ahead());
        self.completed + if ahead > self.depth() { 0 } else { ahead }
    }

    /// Stores the completion word.
    ///
    /// # Errors
    /// What memory says of a relayed line.
    #[inline]
    pub fn publish(&self, memory: &Memory<'_>) -> Result<(), Trouble> {
        let stopped = if self.stop.is_some() {
            COMPLETION_STOPPED
        } else {
            0
        };
        self.store_word(memory, self.completed | stopped)
    }

    /// Stores any completion word.
    ///
    /// # Errors
    /// As [`Queue::publish`].
    #[inline]
    pub fn store_word(&self, memory: &Memory<'_>, word: u64) -> Result<(), Trouble> {
        if self.relayed {
            return memory.write(self.shape.completion, word.as_bytes());
        }
        self.completion.store(0, word, Ordering::Release);
        Ok(())
    }

    /// Looks at the doorbell while the ring shows no packet.
    ///
    /// # Errors
    /// BAD_DOORBELL and BAD_VALIDITY: what the driver did wrong.
    pub fn check_doorbell(&self, memory: &Memory<'_>) -> Result<(), Trouble> {
        let tail = self.doorbell.tail();
        let ahead = self.ahead();
        if ahead == 0 {
            return Ok(());
        }
        if u64::from(ahead) > self.depth() {
            let detail = FaultCode::BadDoorbell;
            return Err(Trouble::detail(detail, tail.into(), self.completed));
        }
        // TAIL was loaded with acquire: the packet's header must be there by now.
        if self.fetch(memory).is_none() {
            let (page, offset) = self.slot(self.completed + 1);
            let header = self
                .ring
                .get(page)
                .map_or(0, |s| s.load(offset, Ordering::Acquire));
            if self.relayed || !self.is_valid(header, self.completed + 1) {
                return Err(Trouble::detail(FaultCode::BadValidity, header, 0));
            }
        }
        Ok(())
    }

    /// Where RESUME lets a stopped queue go on.
    fn resumes_at(&self) -> Option<u64> {
        let resume = self.doorbell.resume();
        let stop = self.stop?;
        (resume > stop.at && resume <= self.submitted().saturating_add(1)).then_some(resume)
    }

    /// Whether RESUME lets a stopped queue run again.
    pub(crate) fn can_resume(&self) -> bool {
        self.resumes_at().is_some()
    }

    /// The same; if so it continues with that packet.
    pub fn try_resume(&mut self) -> bool {
        let Some(resume) = self.resumes_at() else {
            return false;
        };
        self.stop = None;
        self.block = None;
        self.graph = None;
        self.completed = resume - 1;
        // The same sequence number may be awaited once more.
        self.armed_last = 0;
        true
    }

    /// Whether the interrupt is due; it is due once for each value of ARM.
    #[inline]
    pub fn take_interrupt(&mut self) -> bool {
        let owes = self.owes_interrupt();
        if owes {
            self.armed_last = self.doorbell.arm();
        }
        owes
    }

    /// Whether an interrupt is due that was not sent.
    #[inline]
    pub(crate) fn owes_interrupt(&self) -> bool {
        let arm = self.doorbell.arm();
        arm != 0 && arm != self.armed_last && (self.completed >= arm || self.stop.is_some())
    }

    /// What a record says of its head.
    pub(crate) fn culprit(&self, words: &[u64; 8]) -> Culprit {
        let (opcode, kernel) = asked(words[0]);
        Culprit {
            queue: Some(self.number),
            sequence: self.completed + 1,
            cookie: words[1],
            opcode,
            kernel,
        }
    }

    /// Writes a record to the error ring: its first 8 bytes last. Its index is counted.
    ///
    /// # Errors
    /// What memory says.
    pub fn push_error(&mut self, memory: &Memory<'_>, record: FaultRecord) -> Result<(), Trouble> {
        let index = self.errors;
        let lap = index >> self.shape.errors_log2;
        self.errors += 1;
        self.write_error(memory, index, &placed(record, index, lap & 1 == 0))
    }

    /// Writes a record, as it is, to the slot of an index.
    ///
    /// # Errors
    /// What memory says.
    pub fn write_error(
        &self,
        memory: &Memory<'_>,
        index: u64,
        record: &FaultRecord,
    ) -> Result<(), Trouble> {
        let address = self.error_address(index);
        let (first, rest) = record.as_bytes().split_at(8);
        memory.write(address + 8, rest)?;
        let first = first
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes));
        memory.store_word(address, first)
    }

    /// Where the record with an index stands.
    #[must_use]
    pub fn error_address(&self, index: u64) -> u64 {
        let slot = index & ((1 << self.shape.errors_log2) - 1);
        self.shape.errors + slot * FAULT_RECORD_BYTES as u64
    }
}

/// The opcode and, of a LAUNCH, the kernel that a header names.
pub(crate) fn asked(header: u64) -> (u32, u32) {
    let opcode = u32::try_from(header & HEADER_OPCODE).unwrap_or_default();
    let argument = u32::try_from(header >> HEADER_ARGUMENT_SHIFT).unwrap_or_default();
    let launch = opcode == Opcode::Launch.code();
    (opcode, if launch { argument } else { 0 })
}

/// Checks a queue's shape; its number. Host interface 5.2.
fn check_shape(card: &Card, shape: &QueueCreate) -> Result<u16, Trouble> {
    let bad = |offset| Trouble::detail(FaultCode::BadQueueShape, offset, 0);
    if shape.profile != 0 && !card.has_feature(Feature::Profile) {
        return Err(Trouble::reserved(0x20));
    }
    if shape.priority != 0 && !card.has_feature(Feature::Priority) {
        return Err(Trouble::reserved(0x28));
    }
    let zeros = [
        (0x2C, shape.flags.into()),
        (0x30, shape.reserved[0]),
        (0x38, shape.reserved[1]),
    ];
    if let Some((offset, _)) = zeros.iter().find(|(_, value)| *value != 0) {
        return Err(Trouble::reserved(*offset));
    }
    if shape.queue >= card.options.queues {
        return Err(Trouble::detail(FaultCode::BadQueue, shape.queue.into(), 0));
    }
    if shape.depth_log2 > DEPTH_LOG2_MAX {
        return Err(bad(0x04));
    }
    if shape.errors_log2 > ERRORS_LOG2_MAX {
        return Err(bad(0x05));
    }
    if shape.vector >= card.options.vectors {
        return Err(bad(0x06));
    }
    let ring_bytes = (PACKET_BYTES as u64) << shape.depth_log2;
    let places = [
        (0x08, shape.ring, ring_bytes, ring_bytes.min(4096)),
        (0x10, shape.completion, 64, 64),
        (
            0x18,
            shape.errors,
            (FAULT_RECORD_BYTES as u64) << shape.errors_log2,
            256,
        ),
    ];
    for (offset, address, bytes, alignment) in places {
        let last = address.checked_add(bytes - 1);
        if !address.is_multiple_of(alignment) || last.is_none_or(|last| last > IOVA_LAST) {
            return Err(bad(offset));
        }
    }
    if PriorityBand::from_code(shape.priority).is_none() {
        return Err(bad(0x28));
    }
    if shape.profile != 0 && !fits(shape.profile, shape.depth_log2) {
        return Err(bad(0x20));
    }
    u16::try_from(shape.queue).map_err(|_| bad(0x00))
}

#[expect(clippy::cast_possible_truncation, reason = "TAIL is the low half")]
fn low(sequence: u64) -> u32 {
    sequence as u32
}
