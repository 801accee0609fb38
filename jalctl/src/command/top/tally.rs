//! Tallies: what the jobs of an interval come to, in all and queue by queue, from the profile records
//! of a card. Where records were missed nothing is known, so shares and rates are those of the rest.

use std::collections::BTreeMap;

use jalapeno::JobStats;

/// Spans that are kept apart; then the older half is closed.
const SPANS: usize = 4096;
/// Durations are told apart by 1 in so many.
const STEPS: u64 = 64;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// Jobs since the interval began. Times are device time, in ticks.
#[derive(Debug)]
pub struct Tally {
    begin: u64,
    /// Until when records are known without a gap.
    known: u64,
    /// Records after `known` were missed.
    gap: bool,
    blind: u64,
    missed: u64,
    busy: Spans,
    queues: BTreeMap<u32, Jobs>,
}

/// Jobs of a queue.
#[derive(Clone, Debug, Default)]
pub struct Jobs {
    /// Whose figures are known.
    pub seen: u64,
    /// Of those, the ones that failed.
    pub failed: u64,
    /// What they cost, in nanojoules.
    pub energy_nj: u64,
    /// Their durations, in ticks.
    pub durations: Durations,
}

/// An interval that is over.
#[derive(Debug)]
pub struct Sum {
    /// Its length in ticks.
    pub length: u64,
    /// How much of it the records tell of, in ticks.
    pub known: u64,
    /// Time in which at least one job was at work, in ticks; of the time that is known.
    pub busy: u64,
    /// Jobs whose records were written over before they were read, or made no sense.
    pub missed: u64,
    /// Those whose records were read, queue by queue.
    pub queues: BTreeMap<u32, Jobs>,
}

impl Tally {
    /// Begins at this moment.
    pub fn new(begin: u64) -> Self {
        Self {
            begin,
            known: begin,
            gap: false,
            blind: 0,
            missed: 0,
            busy: Spans {
                horizon: begin,
                ..Spans::default()
            },
            queues: BTreeMap::new(),
        }
    }

    /// What one look gave: jobs in the order in which they finished, after `lost` others.
    pub fn add(&mut self, jobs: &[JobStats], lost: u64) {
        self.missed += lost;
        self.gap |= lost > 0;
        for job in jobs {
            let (start, end) = (job.start.0, job.end.0);
            if self.gap {
                self.blind += start.saturating_sub(self.known);
                self.gap = false;
            }
            self.known = self.known.max(end);
            self.busy.add(start, end);
            let queue = self.queues.entry(job.queue).or_default();
            queue.seen += 1;
            queue.failed += u64::from(job.failed);
            queue.energy_nj = queue.energy_nj.saturating_add(job.energy_nj);
            queue.durations.add(end.saturating_sub(start));
        }
        self.busy.settle();
    }

    /// Ends the interval at this moment; the next one begins.
    pub fn close(&mut self, end: u64) -> Sum {
        let Self {
            begin,
            known,
            gap,
            mut blind,
            missed,
            mut busy,
            queues,
        } = std::mem::replace(self, Self::new(end));
        if gap {
            blind += end.saturating_sub(known);
        }
        let length = end.saturating_sub(begin);
        let known = length.saturating_sub(blind);
        Sum {
            length,
            known,
            busy: busy.until(end).min(known),
            missed,
            queues,
        }
    }
}

impl Sum {
    /// Jobs whose records were read.
    pub fn seen(&self) -> u64 {
        self.queues.values().map(|queue| queue.seen).sum()
    }

    /// What they cost, in nanojoules.
    pub fn energy_nj(&self) -> u64 {
        let costs = self.queues.values().map(|queue| queue.energy_nj);
        costs.fold(0, u64::saturating_add)
    }
}

/// A union of spans of time.
#[derive(Debug, Default)]
struct Spans {
    /// Ticks of those before the horizon.
    closed: u64,
    horizon: u64,
    open: Vec<(u64, u64)>,
}

impl Spans {
    fn add(&mut self, start: u64, end: u64) {
        let start = start.max(self.horizon);
        if start >= end {
            return;
        }
        match self.open.last_mut() {
            // One behind the other, without a pause.
            Some(last) if last.1 == start => last.1 = end,
            _ => self.open.push((start, end)),
        }
    }

    /// Joins those that touch, and keeps the number of the others small.
    fn settle(&mut self) {
        self.open.sort_unstable();
        self.open.dedup_by(|next, last| {
            let touch = next.0 <= last.1;
            if touch {
                last.1 = last.1.max(next.1);
            }
            touch
        });
        if self.open.len() > SPANS {
            for (start, end) in self.open.drain(..SPANS / 2) {
                self.closed += end - start;
                self.horizon = end;
            }
        }
    }

    /// Ticks up to a moment.
    fn until(&mut self, moment: u64) -> u64 {
        self.settle();
        let inside = |&(start, end): &(u64, u64)| end.min(moment).saturating_sub(start);
        self.closed + self.open.iter().map(inside).sum::<u64>()
    }
}

/// Durations, in steps of 1 in 64.
#[derive(Clone, Debug, Default)]
pub struct Durations {
    counts: Vec<u64>,
    sum: u128,
    most: u64,
}

impl Durations {
    fn add(&mut self, ticks: u64) {
        let step = step(ticks);
        if self.counts.len() <= step {
            self.counts.resize(step + 1, 0);
        }
        self.counts[step] += 1;
        self.sum += u128::from(ticks);
        self.most = self.most.max(ticks);
    }

    /// Their mean; none: there are none.
    pub fn mean(&self) -> Option<u64> {
        let count = self.counts.iter().sum::<u64>();
        u64::try_from(self.sum.checked_div(count.into())?).ok()
    }

    /// The one that so many in a thousand do not pass, at most 1 in 64 too long.
    pub fn quantile(&self, per_mille: u64) -> Option<u64> {
        let count = self.counts.iter().sum::<u64>();
        let wanted = (u128::from(count) * u128::from(per_mille)).div_ceil(1000);
        let mut sum = 0;
        let found = self.counts.iter().position(|&count| {
            sum += u128::from(count);
            sum >= wanted
        });
        found
            .filter(|_| count > 0)
            .map(|step| last_of(step).min(self.most))
    }
}

/// The step that a duration falls into.
fn step(ticks: u64) -> usize {
    let scale = (u64::BITS - ticks.leading_zeros()).saturating_sub(STEP_BITS + 1);
    let step = u64::from(scale) * STEPS + (ticks >> scale);
    usize::try_from(step).unwrap_or(usize::MAX)
}

/// The longest duration of a step.
fn last_of(step: usize) -> u64 {
    let step = step as u64;
    let scale = (step / STEPS).saturating_sub(1);
    let first = u128::from(step - scale * STEPS) << scale;
    u64::try_from(first + (1_u128 << scale) - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jalapeno::hw::packets::Opcode;
    use jalapeno::units::{Seq, Ticks};

    fn job(queue: u32, start: u64, end: u64) -> JobStats {
        JobStats {
            queue,
            seq: Seq(1),
            cookie: 0,
            start: Ticks(start),
            end: Ticks(end),
            energy_nj: 10,
            bytes: 0,
            operations: 0,
            opcode: Ok(Opcode::Nop),
            kernel: 0,
            failed: queue == 9,
        }
    }

    #[test]
    fn time_in_which_several_queues_work_counts_once() {
        let mut tally = Tally::new(100);
        // One began before the interval; one spans the two that finished before it.
        tally.add(&[job(1, 50, 110), job(1, 120, 130)], 0);
        tally.add(&[job(2, 115, 140), job(9, 150, 160)], 0);
        let sum = tally.close(200);
        assert_eq!((sum.length, sum.known, sum.busy), (100, 100, 10 + 25 + 10));
        assert_eq!((sum.seen(), sum.missed, sum.energy_nj()), (4, 0, 40));
        assert_eq!((sum.queues[&1].seen, sum.queues[&9].failed), (2, 1));
        // The next interval knows nothing of them.
        let next = tally.close(300);
        assert_eq!((next.busy, next.seen(), next.length), (0, 0, 100));
    }

    #[test]
    fn of_the_time_whose_records_were_missed_nothing_is_said() {
        let mut tally = Tally::new(0);
        tally.add(&[job(1, 0, 10)], 0);
        tally.add(&[job(1, 60, 70)], 500); // nobody knows what was between 10 and 60
        tally.add(&[], 7); // nor after 70
        let sum = tally.close(100);
        assert_eq!((sum.length, sum.known, sum.busy), (100, 20, 20));
        assert_eq!((sum.seen(), sum.missed), (2, 507));
        // A busy share of the known time, whatever times a device invents.
        tally.add(&[job(1, 0, u64::MAX), job(1, 5, 6)], 1);
        let sum = tally.close(200);
        assert!(sum.busy <= sum.known && sum.known <= sum.length, "{sum:?}");
    }

    #[test]
    fn many_spans_take_little_room_and_lose_nothing() {
        let mut tally = Tally::new(0);
        for batch in 0..100 {
            let jobs: Vec<_> = (0..500).map(|at| (batch * 500 + at) * 10).collect();
            let jobs: Vec<_> = jobs.into_iter().map(|at| job(1, at, at + 4)).collect();
            tally.add(&jobs, 0);
        }
        assert!(tally.busy.open.len() <= SPANS);
        assert_eq!(tally.close(500_000).busy, 50_000 * 4);
    }

    #[test]
    fn quantiles_are_right_to_1_in_64_from_nothing_to_for_ever() {
        assert_eq!(Durations::default().quantile(990), None);
        assert_eq!(Durations::default().mean(), None);
        let mut durations = Durations::default();
        for ticks in 1..=1000 {
            durations.add(ticks * 1000);
        }
        assert_eq!(durations.mean(), Some(500_500));
        for (per_mille, exact) in [(1, 1000), (500, 500_000), (990, 990_000), (1000, 1_000_000)] {
            let told = durations.quantile(per_mille).expect("there are some");
            assert!(
                (exact..=exact + exact / 64).contains(&told),
                "{per_mille}: {told}"
            );
        }
        for ticks in [0, 1, 63, 64, 65, 127, 128, 1 << 40, u64::MAX - 1, u64::MAX] {
            let told = last_of(step(ticks));
            assert!(
                told >= ticks && told - ticks <= ticks / STEPS,
                "{ticks}: {told}"
            );
        }
    }
}
