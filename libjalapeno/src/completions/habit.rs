//! Habit: whether it is worth polling before a sleep, by how long a queue's last waits were.
//!
//! Many clients wait for something long and something short in turn, such as a token and its logits. So
//! what is remembered is how waits were that came after a short one, and how those after a long one.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// How long a waiter polls before it sleeps: about what a sleep and a wake would cost.
pub(super) const SPIN: Duration = Duration::from_micros(20);
/// A wait this long would not have ended while it polled, even with sleep and wake taken off.
const LONG: Duration = Duration::from_micros(100);
/// So many long waits in a row, and polling is in vain.
const MOST: u32 = 4;

/// See the file's head. Its clones' waiters write it as they come: it is a guess, and none is wrong.
#[derive(Debug, Default)]
pub(super) struct Habit {
    last_was_long: AtomicBool,
    /// How many of those that came after a short wait, and after a long one, were long in a row.
    long_ones: [AtomicU32; 2],
}

impl Habit {
    fn long_ones(&self) -> &AtomicU32 {
        let [after_short, after_long] = &self.long_ones;
        match self.last_was_long.load(Ordering::Relaxed) {
            false => after_short,
            true => after_long,
        }
    }

    /// How long to poll.
    pub(super) fn spin(&self) -> Duration {
        match self.long_ones().load(Ordering::Relaxed) < MOST {
            true => SPIN,
            false => Duration::ZERO,
        }
    }

    /// A wait took this long. `gave_up`: and was not over then.
    pub(super) fn note(&self, took: Duration, gave_up: bool) {
        let long = took >= LONG;
        if gave_up && !long {
            return; // nothing was learned
        }
        let count = self.long_ones();
        let before = count.load(Ordering::Relaxed);
        let now = if long { (before + 1).min(MOST) } else { 0 };
        if now != before {
            count.store(now, Ordering::Relaxed);
        }
        if self.last_was_long.load(Ordering::Relaxed) != long {
            self.last_was_long.store(long, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(99);

    #[test]
    fn polling_ends_after_long_waits_in_a_row_and_begins_with_the_next_short_one() {
        let habit = Habit::default();
        for long_ones in 0..10 {
            // The first came after none, which counts as short.
            assert_eq!(habit.spin() == SPIN, long_ones < 5, "{long_ones}");
            habit.note(LONG, long_ones % 2 == 0);
        }
        habit.note(SHORT, true);
        assert_eq!(habit.spin(), Duration::ZERO, "who gave up learned nothing");
        habit.note(SHORT, false);
        assert_eq!(habit.spin(), SPIN);
    }

    #[test]
    fn of_a_long_and_a_short_wait_in_turn_only_the_short_one_is_polled_for() {
        let habit = Habit::default();
        for _ in 0..4 {
            habit.note(LONG, false);
            habit.note(SHORT, false);
        }
        for _ in 0..10 {
            assert_eq!(habit.spin(), Duration::ZERO);
            habit.note(LONG, false);
            assert_eq!(habit.spin(), SPIN);
            habit.note(SHORT, false);
        }
        habit.note(SHORT, false);
        assert_eq!(habit.spin(), SPIN, "the long one did not come");
    }
}
