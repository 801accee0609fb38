//! What waits for a machine. Some ask for the longest that is left, others for the shortest, so that both kinds
//! run beside each other: the long ones want processors, the short ones mostly wait.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Jobs by their ranks, each rank once: the lower, the longer.
#[derive(Debug)]
pub struct Waiting<T> {
    jobs: Mutex<(BTreeMap<usize, T>, Coming)>,
    news: Condvar,
}

/// Which one is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The one of the lowest rank.
    Longest,
    /// The one of the highest.
    Shortest,
}

/// Whether more is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coming {
    More,
    Nothing,
}

impl<T> Waiting<T> {
    /// None yet.
    pub fn new() -> Self {
        Self {
            jobs: Mutex::new((BTreeMap::new(), Coming::More)),
            news: Condvar::new(),
        }
    }

    fn jobs(&self) -> MutexGuard<'_, (BTreeMap<usize, T>, Coming)> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more.
    pub fn add(&self, rank: usize, job: T) {
        self.jobs().0.insert(rank, job);
        self.news.notify_one();
    }

    /// There will be no more.
    pub fn close(&self) {
        self.jobs().1 = Coming::Nothing;
        self.news.notify_all();
    }

    /// The next one, once there is one; `None`: all are given.
    pub fn next(&self, ask: Ask) -> Option<T> {
        let mut jobs = self.jobs();
        loop {
            let found = match ask {
                Ask::Longest => jobs.0.pop_first(),
                Ask::Shortest => jobs.0.pop_last(),
            };
            if let Some((_, job)) = found {
                return Some(job);
            }
            if jobs.1 == Coming::Nothing {
                return None;
            }
            let waited = self.news.wait(jobs);
            jobs = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Ask, Waiting};

    #[test]
    fn who_asks_has_the_longest_or_the_shortest_that_is_there_and_each_is_given_once() {
        let waiting = Waiting::new();
        waiting.add(3, 'c');
        waiting.add(2, 'b');
        waiting.add(4, 'd');
        assert_eq!(waiting.next(Ask::Longest), Some('b'));
        assert_eq!(waiting.next(Ask::Shortest), Some('d'));
        let next = || waiting.next(Ask::Longest);
        let rest = std::thread::scope(|scope| {
            let takers = [(); 3].map(|()| scope.spawn(|| (next(), next())));
            waiting.add(1, 'a');
            waiting.close();
            let taken = takers.map(|taker| taker.join().unwrap());
            let mut rest: Vec<char> = taken.iter().flat_map(|(a, b)| [*a, *b]).flatten().collect();
            rest.sort_unstable();
            rest
        });
        assert_eq!(rest, ['a', 'c']);
        assert_eq!(next(), None);
    }
}
