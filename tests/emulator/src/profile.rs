//! Profiles: what each packet took, for its queue's ring and for the card's. Host interface 9.3.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use jalapeno_hw::limits::IOVA_LAST;
use jalapeno_hw::packets::Opcode;
use jalapeno_hw::profile::{PROFILE_LEASE_MS, PROFILE_RECORD_BYTES, ProfileRecord, ProfileStatus};
use jalapeno_hw::regs::PROFILE_RECORDS;
use zerocopy::IntoBytes;

use crate::energy::{Work, job_nanojoules};
use crate::engine::Engine;
use crate::execute::{Clock, Failure, Outcome};
use crate::queue::{Queue, asked};

const WORDS: usize = PROFILE_RECORD_BYTES / 8;
/// Ticks for which one question holds.
const LEASE_NS: u64 = PROFILE_LEASE_MS as u64 * 1_000_000;

/// The card's ring: written by the engine while somebody asks, read by anybody.
#[derive(Debug)]
pub struct Profile {
    /// Records written.
    count: AtomicU64,
    /// Device time until which records are wanted; 0: nobody asks.
    until: AtomicU64,
    words: Box<[AtomicU64]>,
}

impl Default for Profile {
    fn default() -> Self {
        let words = PROFILE_RECORDS as usize * WORDS;
        Self {
            count: AtomicU64::new(0),
            until: AtomicU64::new(0),
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Profile {
    /// PROFILE_COUNT is read: records are wanted, and so many were written.
    pub fn ask(&self, now: u64) -> u64 {
        self.until.fetch_max(now + LEASE_NS, Ordering::Relaxed);
        self.count.load(Ordering::Acquire)
    }

    /// Whether somebody asked, perhaps too long ago. One load.
    #[inline]
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.until.load(Ordering::Relaxed) != 0
    }

    /// Whether somebody asked lately; forgets who did not.
    fn is_wanted(&self, now: u64) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        if until != 0 && until < now {
            // Whoever asks at this moment has stored another value, which stays.
            let order = Ordering::Relaxed;
            let _ = self.until.compare_exchange(until, 0, order, order);
        }
        until >= now
    }

    /// The 4-byte word at an offset into the ring.
    #[must_use]
    pub fn word(&self, offset: u32) -> u32 {
        let word = self.words.get(offset as usize / 8);
        let word = word.map_or(0, |word| word.load(Ordering::Relaxed));
        // What was read is from before whatever count is read next.
        fence(Ordering::Acquire);
        let half = if offset & 4 == 0 { word } else { word >> 32 };
        u32::try_from(half & u64::from(u32::MAX)).unwrap_or_default()
    }

    /// Adds a record. The engine alone does.
    fn push(&self, record: &ProfileRecord) {
        let count = self.count.load(Ordering::Relaxed);
        let slot = usize::try_from(count % u64::from(PROFILE_RECORDS)).unwrap_or_default();
        let words: [u64; WORDS] = zerocopy::transmute!(*record);
        let places = self.words.iter().skip(slot * WORDS);
        // A reader that sees any of this sees the count of the record before.
        fence(Ordering::Release);
        for (place, word) in places.zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        self.count.store(count + 1, Ordering::Release);
    }
}

/// What a queue's head took so far.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    header: u64,
    cookie: u64,
    start: u64,
    /// The engine last looked at it.
    last: u64,
    /// Time in which the engine worked on it.
    busy_ns: u64,
    /// Packets of its graph that are done.
    parts: u32,
    work: Work,
}

impl Tally {
    /// A packet of its graph is done, at `waited` if it waited.
    pub(crate) fn pass(&mut self, waited: Option<u64>) {
        self.parts += 1;
        self.last = waited.unwrap_or(self.last);
    }
}

/// When a profiled packet ended last, and the packets that were done then.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark(u64, u64);

impl Queue {
    /// Bytes of the profile ring; 0: there is none.
    pub(crate) fn profile_bytes(&self) -> u64 {
        if self.shape.profile == 0 {
            0
        } else {
            (PROFILE_RECORD_BYTES as u64) << self.shape.depth_log2
        }
    }
}

/// Whether a profile ring may stand there.
pub(crate) fn fits(address: u64, depth_log2: u8) -> bool {
    let last = address.checked_add((PROFILE_RECORD_BYTES as u64) << depth_log2);
    address.is_multiple_of(64) && last.is_some_and(|end| end - 1 <= IOVA_LAST)
}

impl Engine {
    /// Runs a queue's next packet, and writes down what it takes.
    pub(crate) fn serve_profiled(&mut self, index: usize) -> u32 {
        let Some(queue) = self.queues.get(index) else {
            return 0;
        };
        let Some(words) = queue.fetch(&self.card.memory()) else {
            return 0;
        };
        let number = queue.number;
        self.begin(index, &words);
        match self.execute(index, &words) {
            Ok(Outcome::Done) => {
                self.advance(number);
                1
            }
            other => self.conclude(index, other, words, 0),
        }
    }

    /// A packet comes up: it is profiled if its queue has a ring or somebody asks.
    pub(crate) fn begin(&mut self, index: usize, words: &[u64; 8]) {
        let start = self.since();
        let card = &self.card;
        let Some(queue) = self.queues.get_mut(index) else {
            return;
        };
        let profiled = queue.shape.profile != 0 || card.profile.is_wanted(start);
        queue.tally = profiled.then_some(Tally {
            header: words[0],
            cookie: words[1],
            start,
            last: start,
            busy_ns: 0,
            parts: 0,
            work: Work::default(),
        });
    }

    /// When the engine came to its next packet: now, or when it ended the one before.
    fn since(&self) -> u64 {
        let Mark(time, packets) = self.mark;
        if time != 0 && packets == self.card.meter.packets() {
            time
        } else {
            self.card.now()
        }
    }

    /// Executes a packet of a queue; what it takes is added to the head's tally.
    pub(crate) fn execute(&mut self, index: usize, words: &[u64; 8]) -> Result<Outcome, Failure> {
        let Some((number, tally)) = self.queues.get(index).map(|q| (q.number, q.tally)) else {
            return Err(Failure::Abandoned);
        };
        let Some(mut tally) = tally else {
            return self.runner.execute(number, words, &mut Clock::default());
        };
        let since = match tally.busy_ns {
            0 => tally.start,
            _ => self.since(),
        };
        let before = self.card.meter.work();
        let stolen = self.runner.stolen.get();
        let outcome = self.runner.execute(number, words, &mut Clock::default());
        tally.last = self.card.now();
        // What realtime packets took in between is theirs.
        let between = self.runner.stolen.get();
        let lost = between.ns.saturating_sub(stolen.ns);
        tally.busy_ns += tally.last.saturating_sub(since).saturating_sub(lost);
        let work = self.card.meter.work().less(before);
        let work = work.less(between.work.less(stolen.work));
        tally.work = tally.work.and(work);
        self.mark = Mark(tally.last, self.card.meter.packets());
        if let Some(queue) = self.queues.get_mut(index) {
            queue.tally = Some(tally);
        }
        outcome
    }

    /// The head of a queue ends: its record, before anybody is told. Counted already, if done.
    #[inline]
    pub(crate) fn finish(&mut self, index: usize, status: ProfileStatus) {
        let Some(queue) = self.queues.get_mut(index) else {
            return;
        };
        if let Some(tally) = queue.tally.take() {
            self.record(index, &tally, status);
        }
    }

    fn record(&mut self, index: usize, tally: &Tally, status: ProfileStatus) {
        let card = &self.card;
        let Some(queue) = self.queues.get(index) else {
            return;
        };
        // A fence was waited for until now.
        let end = if queue.block.is_some() {
            card.now()
        } else {
            tally.last
        };
        self.mark = Mark(end, card.meter.packets());
        let done = status == ProfileStatus::Done;
        let (opcode, kernel) = asked(tally.header);
        let record = ProfileRecord {
            sequence: queue.completed + 1,
            cookie: tally.cookie,
            start: tally.start,
            end,
            energy_nj: job_nanojoules(tally.work, done.into(), tally.busy_ns),
            bytes: tally.work.hbm_bytes.saturating_add(tally.work.link_bytes),
            operations: tally.work.operations,
            queue: queue.number,
            opcode: u8::try_from(opcode).unwrap_or_default(),
            status: u8::try_from(status.code()).unwrap_or_default(),
            kernel: if opcode == Opcode::Indirect.code() {
                tally.parts
            } else {
                kernel
            },
        };
        if queue.shape.profile != 0 {
            let slot = queue.completed & (queue.depth() - 1);
            let at = queue.shape.profile + slot * PROFILE_RECORD_BYTES as u64;
            let memory = card.memory();
            let (_, rest) = record.as_bytes().split_at(8);
            let told = memory.store_word(at, 0).and_then(|()| {
                // What is written over is void before the first of its bytes changes.
                fence(Ordering::SeqCst);
                memory.write(at + 8, rest)?;
                memory.store_word(at, record.sequence)
            });
            if let Err(trouble) = told {
                // The ring was there when mappings last changed: a client took its memory away.
                log::debug!("queue {}: no profile record: {trouble:?}", queue.number);
            }
        }
        if card.profile.is_wanted(end) {
            card.profile.push(&record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sequence: u64) -> ProfileRecord {
        ProfileRecord {
            sequence,
            ..ProfileRecord::ZERO
        }
    }

    #[test]
    fn the_ring_is_wanted_for_one_lease_after_a_question_and_not_longer() {
        let ring = Profile::default();
        assert!(!ring.is_asked() && !ring.is_wanted(5));
        assert_eq!(ring.ask(100), 0);
        assert!(ring.is_asked() && ring.is_wanted(100 + LEASE_NS));
        assert!(!ring.is_wanted(101 + LEASE_NS));
        assert!(!ring.is_asked(), "nobody asks any more: one load says so");
    }

    #[test]
    fn the_oldest_record_makes_way_and_the_count_goes_on() {
        let ring = Profile::default();
        for sequence in 1..=u64::from(PROFILE_RECORDS) + 3 {
            ring.push(&record(sequence));
        }
        assert_eq!(ring.ask(1), u64::from(PROFILE_RECORDS) + 3);
        let sequence = |slot: u32| ring.word(slot * 64);
        assert_eq!((sequence(0), sequence(3)), (PROFILE_RECORDS + 1, 4));
        assert_eq!(ring.word(PROFILE_RECORDS * 64), 0, "nothing beyond it");
    }
}
