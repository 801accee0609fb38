//! Two cache lines between two cores: the least that a command and its completion can take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::cores::Cores;
use crate::nop::nanos_each;

/// A word on a line of its own, and apart from its neighbour that a prefetcher would fetch too.
#[derive(Debug, Default)]
#[repr(align(256))]
struct Line(AtomicU64);

/// The ping-pong: its other side sleeps unless a sample is taken.
#[derive(Debug)]
pub struct PingPong {
    lines: Arc<[Line; 2]>,
    rounds: Option<Sender<u64>>,
    ready: Receiver<()>,
    other: Option<JoinHandle<()>>,
    count: u64,
}

impl PingPong {
    /// Puts the other side on a core.
    pub fn start(core: usize) -> Result<Self, String> {
        let lines: Arc<[Line; 2]> = Arc::default();
        let (rounds, orders) = channel::<u64>();
        let (say, ready) = channel();
        let theirs = Arc::clone(&lines);
        let other = std::thread::Builder::new()
            .name("pong".into())
            .spawn(move || {
                if Cores::pin(core).is_err() {
                    return; // `ready` hangs up, and the sample says so
                }
                let mut seen = 0;
                while let Ok(last) = orders.recv() {
                    if say.send(()).is_err() {
                        return;
                    }
                    while seen < last {
                        seen += 1;
                        while theirs[0].0.load(Ordering::Acquire) != seen {}
                        theirs[1].0.store(seen, Ordering::Release);
                    }
                }
            })
            .map_err(|error| format!("start a thread: {error}"))?;
        Ok(Self {
            lines,
            rounds: Some(rounds),
            ready,
            other: Some(other),
            count: 0,
        })
    }

    /// Nanoseconds a round trip, of `groups` groups of `size` round trips.
    pub fn sample(&mut self, groups: usize, size: usize) -> Result<Vec<f64>, String> {
        let hung_up = "the other side of the ping-pong could not be pinned";
        let rounds = self.rounds.as_ref().ok_or(hung_up)?;
        rounds
            .send(self.count + (groups * size) as u64)
            .map_err(|_| hung_up)?;
        self.ready.recv().map_err(|_| hung_up)?;
        let mut samples = Vec::with_capacity(groups);
        for _ in 0..groups {
            let begin = Instant::now();
            for _ in 0..size {
                self.count += 1;
                self.lines[0].0.store(self.count, Ordering::Release);
                while self.lines[1].0.load(Ordering::Acquire) != self.count {}
            }
            samples.push(nanos_each(begin, size));
        }
        Ok(samples)
    }
}

impl Drop for PingPong {
    fn drop(&mut self) {
        self.rounds = None;
        if let Some(other) = self.other.take() {
            // A panic over there would have ended the samples with an error already.
            let _ = other.join();
        }
    }
}
