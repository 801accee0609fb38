//! Threads that are to sleep before a story goes on, and how one knows that they do.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::{Pid, gettid};

use crate::SOON;

/// The threads that said they are about to sleep.
#[derive(Debug, Default)]
pub struct Asleep(Mutex<Vec<Pid>>);

impl Asleep {
    /// Says that the calling thread is about to.
    pub fn soon(&self) {
        let mut threads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        threads.push(gettid());
    }

    /// Waits until as many threads said so, and sleep.
    ///
    /// # Panics
    /// Where they do not within `SOON`.
    pub fn all(&self, count: usize) {
        let begin = Instant::now();
        // Twice in a row: whoever takes a lock on the way sleeps too, for a moment.
        let mut seen = 0;
        while seen < 2 {
            assert!(begin.elapsed() < SOON, "{count} threads sleep: {self:?}");
            std::thread::sleep(Duration::from_millis(5));
            let threads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let asleep = threads.iter().filter(|thread| sleeps(**thread)).count();
            seen = if asleep == count { seen + 1 } else { 0 };
        }
    }
}

/// Whether a thread of this process sleeps, by procfs.
fn sleeps(thread: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat"));
    // Behind the name, which may have any character, the state.
    let state = stat.ok().and_then(|stat| {
        let (_, rest) = stat.rsplit_once(") ")?;
        rest.chars().next()
    });
    state == Some('S')
}
