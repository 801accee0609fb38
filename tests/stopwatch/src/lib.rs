//! A stopwatch that stands still while the host takes the processors away: a bound on time is a
//! bound on our code, not on what else the machine does.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the witness sleeps at a time, and by how much a sleep may be late on a host at rest.
const NAP: Duration = Duration::from_millis(2);
const SLACK: Duration = Duration::from_millis(1);

/// Runs from [`Stopwatch::start`].
#[derive(Debug)]
pub struct Stopwatch {
    begin: Instant,
    before: [Duration; 2],
    seen: Arc<Seen>,
    witness: Option<JoinHandle<()>>,
}

/// What the witness, a thread that only naps, sees: naps that were too long.
#[derive(Debug, Default)]
struct Seen {
    over: AtomicBool,
    late_ns: AtomicU64,
}

impl Seen {
    fn watch(&self) {
        while !self.over.load(Ordering::Acquire) {
            let begin = Instant::now();
            std::thread::sleep(NAP);
            let late = begin.elapsed().saturating_sub(NAP + SLACK);
            let nanos = u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
            self.late_ns.fetch_add(nanos, Ordering::AcqRel);
        }
    }
}

impl Stopwatch {
    /// Starts one.
    #[must_use]
    pub fn start() -> Self {
        let seen = Arc::<Seen>::default();
        let eyes = Arc::clone(&seen);
        Self {
            witness: Some(std::thread::spawn(move || eyes.watch())),
            seen,
            before: [starved(), pressed()],
            begin: Instant::now(),
        }
    }

    /// Time on the wall since the start, and the part of it that the host left to us: less the longest
    /// of what this thread was ready and did not run, what threads of the machine stood in line for a
    /// processor, and what the witness overslept.
    #[must_use]
    pub fn stop(mut self) -> (Duration, Duration) {
        let wall = self.begin.elapsed();
        self.end();
        let overslept = Duration::from_nanos(self.seen.late_ns.load(Ordering::Acquire));
        let stood = [starved(), pressed()]
            .into_iter()
            .zip(self.before)
            .map(|(now, before)| now.saturating_sub(before))
            .fold(overslept, Duration::max);
        (wall, wall.saturating_sub(stood))
    }

    /// What the host left to us, see [`Stopwatch::stop`].
    #[must_use]
    pub fn ours(self) -> Duration {
        self.stop().1
    }

    fn end(&mut self) {
        self.seen.over.store(true, Ordering::Release);
        if let Some(witness) = self.witness.take() {
            // It only naps and counts; there is nothing for it to panic of.
            let _ = witness.join();
        }
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        self.end();
    }
}

/// Tries in which the host may take so much away before a failure counts.
const TRIES: u32 = 5;
const CALM: Duration = Duration::from_millis(5);

/// How long a calm is watched for, and how long it is waited for at most.
const GLANCE: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(10);

/// Plays a story whose bounds on time hang on more than one thread. Where it fails while the host
/// took the processors away, it is played once more when the host is calm, a few times at most.
///
/// # Panics
/// As the story, in a try that was calm, or in the last.
pub fn calmly(story: impl Fn()) {
    for left in (0..TRIES).rev() {
        let watch = Stopwatch::start();
        let played = catch_unwind(AssertUnwindSafe(&story));
        let (wall, ours) = watch.stop();
        let Err(panic) = played else { return };
        let taken = wall.saturating_sub(ours);
        if left == 0 || taken < CALM {
            resume_unwind(panic);
        }
        println!("the host took {taken:?} of {wall:?} away: once more");
        wait_for_calm();
    }
}

/// Until the host leaves us the processors for a while, or for as long as is worth it.
fn wait_for_calm() {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        let watch = Stopwatch::start();
        std::thread::sleep(GLANCE);
        let (wall, ours) = watch.stop();
        if wall.saturating_sub(ours) < CALM {
            return;
        }
    }
}

/// How long this thread was ready to run and did not.
fn starved() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split_whitespace().nth(1);
    Duration::from_nanos(nanos.and_then(|nanos| nanos.parse().ok()).unwrap_or(0))
}

/// How long some thread of the machine was ready to run and did not, where the kernel tells.
fn pressed() -> Duration {
    let text = fs::read_to_string("/proc/pressure/cpu").unwrap_or_default();
    let some = text.lines().find(|line| line.starts_with("some "));
    let micros = some.and_then(|line| line.rsplit("total=").next()?.parse().ok());
    Duration::from_micros(micros.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_take_ourselves_counts() {
        // On a host at rest all of it; on a busy one some round is quiet.
        let quickest = (0..20)
            .map(|_| {
                let watch = Stopwatch::start();
                std::thread::sleep(Duration::from_millis(30));
                watch.stop()
            })
            .inspect(|(wall, ours)| assert!(ours <= wall && *wall >= Duration::from_millis(30)))
            .map(|(_, ours)| ours)
            .max();
        assert!(quickest >= Some(Duration::from_millis(10)), "{quickest:?}");
    }
}
