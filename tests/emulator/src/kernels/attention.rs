//! ATTENTION: queries by keys, soft-max, values; the exponents are never stored.

use std::ops::Range;

use super::online::Rows;
use super::pace::Pace;
use super::pages::Keys;
use super::rows::INDICES;
use super::rules::{apart, count, present};
use super::soft_max::slope;
use super::tensor::{Operand, strips};
use super::{KernelError, Level, Pool, Work};

/// Longest key or value.
const LONG: u32 = 1 << 16;
/// Queries of a piece of work, and elements of theirs.
const ROWS: usize = 64;
const HELD: usize = 1 << 20;
/// Keys of a step, and elements of theirs.
const STEP: usize = 128;
const TAKEN: usize = 1 << 17;

/// Where an operand stands.
const MASK: usize = 4;
const SINKS: usize = 5;
const PAGES: usize = 6;
const LENGTHS: usize = 7;

/// dst[:, i, g, h] = the values weighted by the soft-max of query i's exponents.
pub fn run(
    params: &[u32; 16],
    operands: &[Operand],
    pool: &Pool,
    pace: &Pace<'_>,
) -> Result<Work, KernelError> {
    count(operands, 4..=8)?;
    let mut job = Job::parse(params, operands, pool.level)?;
    let [dst, q] = [job.dst, job.q];
    if dst.is_empty() {
        return Ok(Work::default());
    }
    job.fit(params, operands)?;
    apart(operands, false)?;
    job.fetch(params, operands, pace)?;
    let width = job.k.length().max(job.v.length());
    let rows = job.shared() * q.ne[1] as usize;
    let block = (HELD / width).clamp(1, ROWS).min(rows);
    let blocks = rows.div_ceil(block);
    let groups = q.ne[2] as usize / job.shared() * q.ne[3] as usize;
    let each = (job.k.length() + job.v.length()) as u64;
    let keys = job.keys.of_all(q.ne[3]);
    let queries = u64::from(q.ne[1]).saturating_mul(q.ne[2].into());
    let pairs = keys.saturating_mul(queries);
    let work = pairs.saturating_mul(each);
    pool.threads
        .split(groups * blocks, work / 4, pace, |range, goes_on| {
            for unit in range {
                let begin = unit % blocks * block;
                let piece = begin..rows.min(begin + block);
                if job.piece(unit / blocks, piece, goes_on).is_none() {
                    return;
                }
            }
        })?;
    Ok(Work {
        operations: work
            .saturating_mul(2)
            .saturating_add(pairs.saturating_mul(8)),
        bytes_read: operands[1..].iter().map(Operand::bytes).sum(),
        bytes_written: dst.bytes(),
    })
}

struct Job {
    level: Level,
    dst: Operand,
    q: Operand,
    k: Operand,
    v: Operand,
    mask: Option<Operand>,
    sinks: Vec<f32>,
    keys: Keys,
    scale: f32,
    bias: f32,
    cap: f32,
    causal: bool,
}

impl Job {
    /// Types and parameters.
    fn parse(params: &[u32; 16], operands: &[Operand], level: Level) -> Result<Self, KernelError> {
        for operand in [0, 1, MASK, SINKS] {
            operands
                .get(operand)
                .map_or(Ok(()), |it| it.real(operand))?;
        }
        for operand in [2, 3] {
            operands[operand].numbers(operand)?;
        }
        let mask = present(operands, MASK);
        let pages = present(operands, PAGES);
        for operand in [PAGES, LENGTHS] {
            present(operands, operand).map_or(Ok(()), |it| it.indices(operand))?;
        }
        let [scale, bias, cap] = [params[0], params[1], params[2]].map(f32::from_bits);
        let wrong = [
            (0, !scale.is_finite()),
            (1, !bias.is_finite() || bias < 0.0),
            (1, bias > 0.0 && mask.is_none()),
            (2, !cap.is_finite() || cap < 0.0),
            (3, pages.is_some() != (params[3] > 0)),
            (4, pages.is_none() && params[4] > 0),
            (5, params[5] > 1),
        ];
        if let Some(&(word, _)) = wrong.iter().find(|(_, wrong)| *wrong) {
            return Err(KernelError::Parameter { word });
        }
        let most = if pages.is_some() {
            params[4]
        } else {
            operands[2].ne[1]
        };
        Ok(Self {
            level,
            dst: operands[0],
            q: operands[1],
            k: operands[2],
            v: operands[3],
            mask,
            sinks: Vec::new(),
            keys: Keys::in_rows(most),
            scale,
            bias,
            cap,
            causal: params[5] == 1,
        })
    }

    /// Shapes.
    fn fit(&self, params: &[u32; 16], operands: &[Operand]) -> Result<(), KernelError> {
        let (q, k, v) = (&self.q, &self.k, &self.v);
        (1..4).try_for_each(|d| q.size(1, d, self.dst.ne[d]))?;
        k.size(2, 0, q.ne[0])?;
        v.size(3, 0, self.dst.ne[0])?;
        for (operand, it) in [(2, k), (3, v)] {
            if it.ne[0] == 0 || it.ne[0] > LONG {
                return Err(it.shape(operand, 0, LONG));
            }
        }
        v.size(3, 1, k.ne[1])?;
        k.divides(2, 2, q.ne[2])?;
        v.divides(3, 2, q.ne[2])?;
        let most = u32::try_from(self.keys.of(0)).unwrap_or(u32::MAX);
        if let Some(pages) = present(operands, PAGES) {
            k.size(2, 3, 1)?;
            v.size(3, 3, 1)?;
            pages.size(PAGES, 1, q.ne[3])?;
            (2..4).try_for_each(|d| pages.size(PAGES, d, 1))?;
            if u64::from(pages.ne[0]) * u64::from(params[3]) < u64::from(most) {
                return Err(pages.shape(PAGES, 0, most.div_ceil(params[3])));
            }
        } else {
            k.divides(2, 3, q.ne[3])?;
            v.divides(3, 3, q.ne[3])?;
        }
        if let Some(mask) = &self.mask {
            mask.size(MASK, 0, most)?;
            if mask.ne[1] < q.ne[1] {
                return Err(mask.shape(MASK, 1, q.ne[1]));
            }
            mask.divides(MASK, 2, q.ne[2])?;
            mask.divides(MASK, 3, q.ne[3])?;
        }
        for (operand, dimension) in [(SINKS, 2), (LENGTHS, 3)] {
            if let Some(it) = present(operands, operand) {
                it.size(operand, 0, q.ne[dimension])?;
                (1..4).try_for_each(|d| it.size(operand, d, 1))?;
            }
        }
        Ok(())
    }

    /// Sinks, lengths and pages, copied once.
    fn fetch(
        &mut self,
        params: &[u32; 16],
        operands: &[Operand],
        pace: &Pace<'_>,
    ) -> Result<(), KernelError> {
        if let Some(sinks) = present(operands, SINKS) {
            self.sinks.resize(sinks.length(), 0.0);
            strips(sinks.length(), INDICES, |first, length| {
                pace.spend(16 + 2 * length as u64)?;
                sinks.load([0; 3], first, &mut self.sinks[first..first + length]);
                Ok(())
            })?;
        }
        if let Some(lengths) = present(operands, LENGTHS) {
            self.keys.measure(&lengths, LENGTHS, pace)?;
        }
        if let Some(pages) = present(operands, PAGES) {
            let (rows, cache) = (params[3], self.k.ne[1]);
            self.keys.turn(&pages, PAGES, rows, cache, pace)?;
        }
        Ok(())
    }

    /// Heads that share keys and values.
    fn shared(&self) -> usize {
        let heads = self.q.ne[2];
        let [k, v] = [self.k.ne[2], self.v.ne[2]].map(|kept| (heads / kept) as usize);
        if k == v { k } else { 1 }
    }

    /// Some queries of a group of heads; `None` where it must not go on.
    #[expect(clippy::cast_possible_truncation, reason = "all are below ne, a u32")]
    fn piece(
        &self,
        group: usize,
        rows: Range<usize>,
        goes_on: &mut dyn FnMut(u64) -> bool,
    ) -> Option<()> {
        let (q, k, v) = (&self.q, &self.k, &self.v);
        let (n, shared) = (q.ne[1] as usize, self.shared());
        let groups = q.ne[2] as usize / shared;
        let (h, first) = (group / groups, group % groups * shared);
        let place = |row: usize| [(row % n) as u32, (first + row / n) as u32, h as u32];
        let width = k.length().max(v.length());
        let step = (TAKEN / width).clamp(8, STEP);
        let mut state = Rows::new(self.level, rows.len(), [k.length(), v.length(), step]);
        goes_on(rows.len() as u64 * (16 + k.length() as u64)).then_some(())?;
        for (index, row) in rows.clone().enumerate() {
            q.load(place(row), 0, state.query(index));
        }
        let [key_head, value_head] = [k, v].map(|it| first as u32 / (q.ne[2] / it.ne[2]));
        let [key_batch, value_batch] = [k, v].map(|it| h as u32 / (q.ne[3] / it.ne[3]).max(1));
        let bend = |score: f32| {
            let x = score * self.scale;
            if self.cap > 0.0 {
                self.cap * (x / self.cap).tanh()
            } else {
                x
            }
        };
        let all = self.keys.of(h);
        let mut places = Vec::with_capacity(step);
        for begin in (0..all).step_by(step) {
            let length = step.min(all - begin);
            let work = (rows.len() + 2) * length * (k.length() + v.length() + 32) / 8;
            goes_on(16 + work as u64).then_some(())?;
            for (index, row) in rows.clone().enumerate() {
                self.mask(place(row), begin, all, state.mask(index, length));
            }
            if state.is_masked(length) {
                continue;
            }
            places.clear();
            places.extend((begin..begin + length).map(|t| {
                let (row, batch) = self.keys.row(h, t);
                let key = [row, key_head, batch.unwrap_or(key_batch)];
                (key, [row, value_head, batch.unwrap_or(value_batch)])
            }));
            state.step((k, v), &places, bend);
        }
        for (index, row) in rows.enumerate() {
            let to = place(row);
            let sink = self.sinks.get(to[1] as usize).copied();
            self.dst.store(to, 0, state.finish(index, sink));
        }
        Some(())
    }

    /// What is added to the exponents of a query and the keys from `begin` on.
    fn mask(&self, [i, g, h]: [u32; 3], begin: usize, all: usize, into: &mut [f32]) {
        match &self.mask {
            None => into.fill(0.0),
            Some(mask) => {
                mask.load([i, g % mask.ne[2], h % mask.ne[3]], begin, into);
                if self.bias > 0.0 {
                    let slope = slope(self.bias, g, self.q.ne[2]);
                    into.iter_mut().for_each(|x| *x *= slope);
                }
            }
        }
        if self.causal {
            // The last query sees all keys, each one before it one less.
            let seen = (all + i as usize + 1).saturating_sub(self.q.ne[1] as usize);
            let from = seen.saturating_sub(begin).min(into.len());
            into[from..].fill(f32::NEG_INFINITY);
        }
    }
}
