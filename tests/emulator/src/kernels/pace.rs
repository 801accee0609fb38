//! The pace of a kernel: between pieces of work it asks whether it may go on.

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use super::KernelError;

/// Work between two questions: about half a millisecond at a nanosecond each.
const PIECE: u64 = 1 << 19;
/// The same where somebody may want to go first.
const QUICK_PIECE: u64 = 1 << 15;
/// Work below which threads are not worth their waking.
const ALONE: u64 = 1 << 20;
/// How often the thread that called looks around while others work.
const LOOK: Duration = Duration::from_micros(500);
/// The same where somebody may want to go first.
const QUICK_LOOK: Duration = Duration::from_micros(30);

/// What a kernel asks while it runs.
pub trait Pulse {
    /// Whether it may go on. Asked while other threads touch the operands.
    fn goes_on(&self) -> bool;

    /// Whether somebody may want to go first, so that it must ask more often. Does not change while
    /// the kernel runs.
    fn is_quick(&self) -> bool {
        false
    }

    /// Whether somebody waits for the operands' memory to be let go for a moment. Asked while other
    /// threads touch the operands: it does nothing by which that memory could go.
    fn is_wanted(&self) -> bool;

    /// Lets the memory go and takes it again while nobody touches it; whether the kernel may go
    /// on with the same pointers.
    fn let_go(&self) -> bool;
}

/// Goes on for ever, in memory that nobody takes away.
#[derive(Clone, Copy, Debug)]
pub struct Undisturbed;

impl Pulse for Undisturbed {
    fn goes_on(&self) -> bool {
        true
    }

    fn is_wanted(&self) -> bool {
        false
    }

    fn let_go(&self) -> bool {
        true
    }
}

/// Counts work, and asks when there was enough of it.
pub(super) struct Pace<'a> {
    pulse: &'a dyn Pulse,
    piece: u64,
    left: Cell<u64>,
}

impl<'a> Pace<'a> {
    pub fn new(pulse: &'a dyn Pulse) -> Self {
        let piece = if pulse.is_quick() { QUICK_PIECE } else { PIECE };
        Self {
            pulse,
            piece,
            left: Cell::new(piece),
        }
    }

    /// So much work is about to be done, in nanoseconds or so.
    pub fn spend(&self, work: u64) -> Result<(), KernelError> {
        if work <= self.left.get() {
            self.left.set(self.left.get() - work);
            return Ok(());
        }
        self.left.set(self.piece);
        let goes_on = self.pulse.goes_on() && (!self.pulse.is_wanted() || self.pulse.let_go());
        if goes_on {
            Ok(())
        } else {
            Err(KernelError::Stopped)
        }
    }
}

/// The threads that large kernels run on.
#[derive(Debug)]
pub(super) struct Threads(Option<rayon::ThreadPool>);

impl Threads {
    pub fn new(threads: usize) -> Self {
        let build = || {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .ok()
        };
        Self((threads > 1).then(build).flatten())
    }

    /// Runs `body` for ranges that cover `0..count`, on all threads when `work` is worth it. It
    /// asks its second argument before each piece whether to go on.
    pub fn split(
        &self,
        count: usize,
        work: u64,
        pace: &Pace<'_>,
        body: impl Fn(Range<usize>, &mut dyn FnMut(u64) -> bool) + Sync,
    ) -> Result<(), KernelError> {
        let Some(pool) = self.0.as_ref().filter(|_| work > ALONE && count > 1) else {
            let mut end = Ok(());
            body(0..count, &mut |work| {
                end = pace.spend(work);
                end.is_ok()
            });
            return end;
        };
        let parts = pool.current_num_threads().min(count);
        let (stop, running) = (AtomicBool::new(false), AtomicUsize::new(parts));
        // Whoever touches the operands reads; whoever lets them go writes.
        let memory = RwLock::new(());
        let caller = std::thread::current();
        let look = if pace.pulse.is_quick() {
            QUICK_LOOK
        } else {
            LOOK
        };
        pool.in_place_scope(|scope| {
            for part in 0..parts {
                let range = count * part / parts..count * (part + 1) / parts;
                let (body, memory, stop, caller) = (&body, &memory, &stop, &caller);
                let running = Running(&running);
                scope.spawn(move |_| {
                    let mut inside = Some(memory.read().unwrap_or_else(PoisonError::into_inner));
                    body(range, &mut |_| {
                        // Out and in again, behind a writer that waits.
                        drop(inside.take());
                        inside = Some(memory.read().unwrap_or_else(PoisonError::into_inner));
                        !stop.load(Ordering::Relaxed)
                    });
                    drop(inside);
                    drop(running);
                    caller.unpark();
                });
            }
            while running.load(Ordering::Acquire) > 0 {
                std::thread::park_timeout(look);
                let pulse = pace.pulse;
                let mut goes_on = pulse.goes_on();
                if goes_on && pulse.is_wanted() {
                    let _alone = memory.write().unwrap_or_else(PoisonError::into_inner);
                    goes_on = pulse.let_go();
                    stop.fetch_or(!goes_on, Ordering::Relaxed);
                }
                stop.fetch_or(!goes_on, Ordering::Relaxed);
            }
        });
        if stop.into_inner() {
            Err(KernelError::Stopped)
        } else {
            Ok(())
        }
    }
}

/// One of those that work; counted out however it ends.
struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
