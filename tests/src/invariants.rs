//! The six invariants that hold after every fault: nothing lost, nothing twice, nothing left.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use jalapeno::completions::Counters;
use jalapeno::error::Result;
use jalapeno::{Completion, Completions};
use jalapeno_stopwatch::Stopwatch;

use crate::events;
use crate::stage::{LET_GO, SOON, Stage, let_go};

/// A wait ends by its deadline and this.
pub const GRACE: Duration = Duration::from_millis(50);
/// What a thread of the library's own has to say is said within this.
const SAID: Duration = Duration::from_secs(2);
/// As many as the queues of a story sleep by, at most.
const VECTORS: u32 = 8;
/// What the allocator may keep for itself.
const KEPT: u64 = 2 << 20;

/// What a process holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Held {
    /// Descriptors, by what they lead to.
    files: BTreeMap<String, usize>,
    /// Mappings of shared memory.
    maps: usize,
    /// Bytes of its own memory that are resident.
    resident: u64,
    /// Bytes locked.
    locked: u64,
    /// Hugepages that nobody uses.
    hugepages: u64,
    /// The board's view: DMA regions, vectors, connections.
    board: (usize, usize, usize),
}

impl Held {
    fn now(stage: &Stage) -> Self {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir("/proc/self/fd")
            .expect("/proc/self/fd")
            .flatten()
        {
            // The directory's own descriptor is gone by the time it is looked at.
            if let Ok(link) = fs::read_link(entry.path()) {
                let link = link.to_string_lossy();
                let kind = link.split(':').next().unwrap_or_default().to_owned();
                if !kind.starts_with("/proc/") {
                    *files.entry(kind).or_default() += 1;
                }
            }
        }
        let maps = fs::read_to_string("/proc/self/maps").expect("/proc/self/maps");
        let counters = stage.board().map(|board| board.counters());
        // What is free is the system's again: only what is in use counts.
        // SAFETY: gives free memory back, and nothing else.
        unsafe { libc::malloc_trim(0) };
        Self {
            files,
            maps: maps.lines().filter(|line| line.contains("/memfd:")).count(),
            resident: kib("/proc/self/status", "RssAnon:"),
            locked: kib("/proc/self/status", "VmLck:"),
            hugepages: kib("/proc/meminfo", "HugePages_Free:") / 1024,
            board: counters.map_or((0, 0, 0), |c| (c.regions, c.vectors, c.connections)),
        }
    }

    fn is_as_before(&self, before: &Self) -> bool {
        let files = |kind: &str| before.files.get(kind).copied().unwrap_or(0);
        let (now, then) = (self.board, before.board);
        self.files.iter().all(|(kind, count)| *count <= files(kind))
            && (now.0 <= then.0 && now.1 <= then.1 && now.2 <= then.2)
            && (self.maps <= before.maps && self.locked <= before.locked)
            && self.hugepages >= before.hugepages
            && self.resident <= before.resident + KEPT
    }
}

/// A field of a file of /proc, in bytes where it says kB.
fn kib(file: &str, field: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

/// What was there before a fault; what must be there again after it. For stories beside which nothing plays in
/// their process.
#[derive(Debug)]
pub struct Invariants {
    before: Held,
}

impl Invariants {
    /// The state to come back to; nobody holds the card in it.
    #[must_use]
    pub fn before(stage: &Stage) -> Self {
        let_go();
        Self::now(stage)
    }

    /// The state to come back to, with a card in it that stays open from story to story.
    #[must_use]
    pub fn as_it_is(stage: &Stage) -> Self {
        if stage.board().is_none() {
            // Eventfds are made when they are first asked for, and stay with the open card.
            let device = stage.device();
            let vectors = device.vectors().expect("owned");
            for number in 0..vectors.count().min(VECTORS) {
                vectors.get(number).expect("a vector");
            }
        }
        Self::now(stage)
    }

    fn now(stage: &Stage) -> Self {
        events::listen();
        let _ = events::take();
        Self {
            before: Held::now(stage),
        }
    }

    /// I4: descriptors, memory, mappings and hugepages are back within a second.
    ///
    /// # Panics
    /// Where something is left.
    pub fn nothing_is_left(&self, stage: &Stage) {
        let (begin, watch) = (Instant::now(), Stopwatch::start());
        loop {
            let now = Held::now(stage);
            if now.is_as_before(&self.before) {
                break;
            }
            assert!(
                begin.elapsed() < SOON,
                "left behind: {now:?}\nbefore: {:?}\nsaid: {:?}",
                self.before,
                events::take()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        let ours = watch.ours();
        assert!(ours < LET_GO, "nothing is left, but only after {ours:?}");
    }

    /// I5: the library named the event, or does so in a moment (a thread of its own may).
    ///
    /// # Panics
    /// Where it did not.
    pub fn was_said(&self, name: &str) {
        let begin = Instant::now();
        let mut said = Vec::new();
        loop {
            said.extend(events::take());
            if said.iter().any(|line| line.contains(name)) {
                return;
            }
            assert!(begin.elapsed() < SAID, "{name} was not said: {said:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// I1: submitted = succeeded + failed + cancelled, and nothing is open.
///
/// # Panics
/// Where a job is missing or counted twice.
pub fn conserved(counters: &Counters) {
    let ended = counters.succeeded + counters.failed + counters.cancelled;
    assert_eq!(counters.submitted, ended, "{counters:?}");
    assert_eq!(counters.unfinished, 0, "{counters:?}");
}

/// I2: every job's one end, as it was delivered.
#[derive(Debug, Default)]
pub struct Tally {
    ends: BTreeMap<u64, Completion>,
}

impl Tally {
    /// Takes what is there; what more there is to come is the error.
    ///
    /// # Errors
    /// As `reap`.
    ///
    /// # Panics
    /// Where a job ends twice.
    pub fn reap(&mut self, completions: &Completions) -> Result<usize> {
        let mut out = [Completion::EMPTY; 64];
        let mut all = 0;
        loop {
            let count = completions.reap(&mut out)?;
            all += count;
            for end in &out[..count] {
                let earlier = self.ends.insert(end.seq.0, *end);
                assert_eq!(earlier, None, "a second end of job {}", end.seq.0);
            }
            if count == 0 {
                return Ok(all);
            }
        }
    }

    /// Each job's end, in order.
    pub fn ends(&self) -> impl Iterator<Item = &Completion> {
        self.ends.values()
    }

    /// How many ended.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.ends.len() as u64
    }

    /// Every job from 1 to `last` ended, each with its own number as cookie.
    ///
    /// # Panics
    /// Where one is missing.
    pub fn is_whole(&self, last: u64) {
        let seqs: Vec<_> = self.ends.keys().copied().collect();
        assert_eq!(seqs, (1..=last).collect::<Vec<_>>());
        for end in self.ends.values() {
            assert_eq!(end.cookie, end.seq.0);
        }
    }
}

/// I6: runs a wait and gives what it gave and how long that took on the wall.
///
/// # Panics
/// Where it ends later than `limit` and a grace, by a [`Stopwatch`].
pub fn punctual<T>(limit: Duration, wait: impl FnOnce() -> T) -> (T, Duration) {
    let watch = Stopwatch::start();
    let outcome = wait();
    let (elapsed, took) = watch.stop();
    assert!(
        took <= limit + GRACE,
        "a wait of {limit:?} took {took:?} ({elapsed:?} on the wall)"
    );
    (outcome, elapsed)
}
