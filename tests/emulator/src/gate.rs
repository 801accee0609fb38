//! The gate between the engine, which uses client memory, and whoever takes that memory away.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One engine stays inside while it works; a mapper waits until it is out and keeps it out.
#[derive(Debug, Default)]
pub struct Gate {
    inside: AtomicBool,
    wanted: AtomicU32,
    lock: Mutex<()>,
    open: Condvar,
}

/// Keeps the engine out while it lives.
#[derive(Debug)]
pub struct Excluded<'a> {
    gate: &'a Gate,
    _lock: MutexGuard<'a, ()>,
}

impl Gate {
    /// The engine goes in; waits while somebody changes mappings.
    pub fn enter(&self) {
        loop {
            self.inside.store(true, Ordering::SeqCst);
            if self.wanted.load(Ordering::SeqCst) == 0 {
                return;
            }
            self.leave();
            let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            // The time-out only bounds how long a wake that came early can be missed.
            drop(self.open.wait_timeout(lock, Duration::from_millis(1)));
        }
    }

    /// The engine goes out: it holds no pointer to client memory that it will use again.
    pub fn leave(&self) {
        self.inside.store(false, Ordering::SeqCst);
    }

    /// Whether somebody waits for the engine to leave. One relaxed load.
    #[inline]
    #[must_use]
    pub fn wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) != 0
    }

    /// Waits until the engine is out and keeps it out. The engine looks at [`Gate::wanted`] at
    /// least each millisecond of a long packet.
    #[must_use]
    pub fn exclude(&self) -> Excluded<'_> {
        self.wanted.fetch_add(1, Ordering::SeqCst);
        let mut rounds = 0u32;
        while self.inside.load(Ordering::SeqCst) {
            rounds = rounds.saturating_add(1);
            if rounds < 100 {
                std::thread::yield_now();
            } else {
                std::thread::sleep(Duration::from_micros(20));
            }
        }
        Excluded {
            gate: self,
            _lock: self.lock.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

impl Drop for Excluded<'_> {
    fn drop(&mut self) {
        self.gate.wanted.fetch_sub(1, Ordering::SeqCst);
        self.gate.open.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn a_mapper_never_meets_the_engine_inside() {
        let (gate, value) = (Gate::default(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..2000 {
                    gate.enter();
                    let before = value.load(Ordering::Relaxed);
                    std::hint::spin_loop();
                    assert_eq!(before, value.load(Ordering::Relaxed));
                    gate.leave();
                }
            });
            for _ in 0..200 {
                let _out = gate.exclude();
                value.fetch_add(1, Ordering::Relaxed);
            }
        });
        assert_eq!(value.load(Ordering::Relaxed), 200);
    }
}
