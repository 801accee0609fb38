//! Turns: one thread at a time reaches a value, by one flag and without a lock.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

/// A value that threads reach in turns.
pub(crate) struct Turns<T> {
    busy: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only by the one thread that set `busy`, as if it were sent there.
unsafe impl<T: Send> Sync for Turns<T> {}

/// A turn; over when dropped.
pub(crate) struct Turn<'a, T>(&'a Turns<T>);

impl<T> Turns<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            busy: AtomicBool::new(false),
            value: value.into(),
        }
    }

    /// Waits for a turn: others' turns are short.
    #[inline]
    pub(crate) fn turn(&self) -> Turn<'_, T> {
        loop {
            if let Some(turn) = self.turn_quickly() {
                return turn;
            }
            wait_a_little();
        }
    }

    /// A turn, if nobody has one.
    #[inline(always)]
    pub(crate) fn turn_quickly(&self) -> Option<Turn<'_, T>> {
        // Not `then_some`: a turn that is made and not given would end the other thread's.
        (!self.busy.swap(true, Ordering::Acquire)).then(|| Turn(self))
    }
}

#[cold]
fn wait_a_little() {
    std::thread::yield_now();
}

impl<T> Deref for Turn<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: this thread set `busy`, so nobody else reaches the value.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Turn<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Turn<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::Turns;

    #[test]
    fn whoever_is_refused_a_turn_takes_nobodys_away() {
        let turns = Turns::new(0);
        let first = turns.turn_quickly().expect("nobody has one");
        assert!(turns.turn_quickly().is_none());
        assert!(turns.turn_quickly().is_none(), "the first still has it");
        drop(first);
        assert!(turns.turn_quickly().is_some());
    }

    #[test]
    fn threads_never_meet() {
        let turns = Turns::new(0u64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let mut turn = turns.turn();
                        let before = *turn;
                        // Whoever is let in by mistake comes now.
                        std::thread::yield_now();
                        *turn = before + 1;
                    }
                });
            }
        });
        assert_eq!(*turns.turn(), 4000);
    }
}
