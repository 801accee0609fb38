//! MUL_MAT: rows of weights by rows of activations, broadcast over grouped heads.

use std::ops::Range;

use jalapeno_hw::kernels::DType;

use super::pace::Pace;
use super::rules::{apart, count};
use super::simd::Tiles;
use super::tensor::{Operand, strips};
use super::{KernelError, Level, Pool, Work, quantised, simd};

/// Columns from which on blocks of weights are converted once and multiplied as a matrix.
const SEVERAL: usize = 2;
/// Columns from which on it is worth the while to bring the weights into another order first.
const MANY: usize = 48;
/// Rows and columns that are brought into another order at a time: a cache line each way.
const SQUARE: usize = 16;
/// Most columns multiplied at a time: with them a block takes about a millisecond.
pub(super) const WIDE: usize = 512;
/// Weight rows of a block.
const BLOCK: usize = 64;
/// Weights of a row in a block.
const DEEP: usize = 1024;
/// Activations held at a time.
const HELD: usize = 4 << 20;
/// Products between two questions where rows are short.
const PIECE: usize = 1 << 18;
/// Elements of rows too long to be held.
const STRIP: usize = 1 << 16;

/// dst[m, n, b2, b3] = w[k, m, b2/r2, b3/r3] x [k, n, b2, b3], accumulated in f32.
pub fn run(operands: &[Operand], pool: &Pool, pace: &Pace<'_>) -> Result<Work, KernelError> {
    count(operands, 3..=3)?;
    let [dst, w, x] = [operands[0], operands[1], operands[2]];
    dst.real(0)?;
    w.numbers(1)?;
    x.real(2)?;
    x.size(2, 0, w.ne[0])?;
    dst.size(0, 0, w.ne[1])?;
    for d in 1..4 {
        dst.size(0, d, x.ne[d])?;
    }
    if dst.is_empty() {
        return Ok(Work::default());
    }
    w.divides(1, 2, x.ne[2])?;
    w.divides(1, 3, x.ne[3])?;
    apart(operands, false)?;

    let (k, m, n) = (w.length(), w.ne[1] as usize, x.ne[1] as usize);
    let batches = x.ne[2] as usize * x.ne[3] as usize;
    // Whole batches while several fit, else part of the columns of one.
    let columns = Job::columns(k).min(n.min(WIDE));
    let together = if columns < n {
        1
    } else {
        (HELD / (k * n).max(1)).clamp(1, batches)
    };
    let mut held = Vec::new();
    for batch in (0..batches).step_by(together) {
        let batches = batch..batches.min(batch + together);
        for column in (0..n).step_by(columns) {
            let columns = column..n.min(column + columns);
            let job = Job {
                dst,
                w,
                x,
                batches: batches.clone(),
                columns,
                chosen: None,
                held,
            };
            held = job.carry(pool, pace)?;
        }
    }
    Ok(Work {
        operations: 2 * (k * m * n * batches) as u64,
        bytes_read: w.bytes() + x.bytes(),
        bytes_written: dst.bytes(),
    })
}

/// The end of a part that must not go on.
struct Stop;

/// Asks whether to go on; told the work that comes.
type GoesOn<'a> = dyn FnMut(u64) -> bool + 'a;

fn ask(goes_on: &mut GoesOn<'_>, work: usize) -> Result<(), Stop> {
    // A multiply-add takes about a quarter of a nanosecond.
    if goes_on(16 + work as u64 / 4) {
        Ok(())
    } else {
        Err(Stop)
    }
}

/// One expert, and the slots (and their tokens) that chose it.
pub(super) struct Chosen {
    pub expert: u32,
    pub slots: Vec<[u32; 2]>,
}

/// Some columns of some batches, by all weights.
pub(super) struct Job {
    dst: Operand,
    w: Operand,
    x: Operand,
    batches: Range<usize>,
    columns: Range<usize>,
    /// The columns are its slots, the weights its expert's.
    chosen: Option<Chosen>,
    /// The activations, a row after the other; none where a row is too long.
    held: Vec<f32>,
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "rows, columns and batches are below ne, a u32"
)]
impl Job {
    /// Columns whose activations can be held, one at least.
    pub fn columns(k: usize) -> usize {
        (HELD / k.max(1)).max(1)
    }

    /// The slots of one expert; `held` is memory from the job before.
    pub fn of_expert([dst, w, x]: [Operand; 3], chosen: Chosen, held: Vec<f32>) -> Self {
        Self {
            dst,
            w,
            x,
            batches: 0..1,
            columns: 0..chosen.slots.len(),
            chosen: Some(chosen),
            held,
        }
    }

    /// Computes and stores all of it; gives its memory back.
    pub fn carry(mut self, pool: &Pool, pace: &Pace<'_>) -> Result<Vec<f32>, KernelError> {
        self.fetch(pace)?;
        let m = self.w.ne[1] as usize;
        let work = 2 * (self.k() * self.rows()) as u64;
        // Whole blocks, so that results do not depend on the number of threads.
        let several = self.columns.len() >= SEVERAL;
        let unit = if several { BLOCK } else { 1 };
        let (units, work) = (m.div_ceil(unit), work * m as u64);
        pool.threads.split(units, work, pace, |range, goes_on| {
            let rows = range.start * unit..m.min(range.end * unit);
            let _ = self.part(rows, pool.level, goes_on);
        })?;
        Ok(self.held)
    }

    fn k(&self) -> usize {
        self.w.length()
    }

    fn rows(&self) -> usize {
        self.batches.len() * self.columns.len()
    }

    /// The last two indices of a batch.
    fn place(&self, batch: usize) -> [u32; 2] {
        let n2 = self.x.ne[2] as usize;
        [(batch % n2) as u32, (batch / n2) as u32]
    }

    /// Whose weights a batch takes.
    fn weights_of(&self, [b2, b3]: [u32; 2]) -> [u32; 2] {
        if let Some(chosen) = &self.chosen {
            return [chosen.expert, 0];
        }
        let (w, x) = (&self.w, &self.x);
        [b2 / (x.ne[2] / w.ne[2]), b3 / (x.ne[3] / w.ne[3])]
    }

    /// The row of activations of a column.
    fn source(&self, column: usize, [b2, b3]: [u32; 2]) -> [u32; 3] {
        match &self.chosen {
            None => [column as u32, b2, b3],
            Some(chosen) => {
                let [slot, token] = chosen.slots[column];
                [slot % self.x.ne[1], token, 0]
            }
        }
    }

    /// The row of results of a column.
    fn target(&self, column: usize, [b2, b3]: [u32; 2]) -> [u32; 3] {
        match &self.chosen {
            None => [column as u32, b2, b3],
            Some(chosen) => {
                let [slot, token] = chosen.slots[column];
                [slot, token, 0]
            }
        }
    }

    /// Copies the activations once; the weights stay where they are.
    fn fetch(&mut self, pace: &Pace<'_>) -> Result<(), KernelError> {
        let k = self.k();
        self.held.clear();
        if k == 0 || k > HELD {
            return Ok(());
        }
        let mut held = std::mem::take(&mut self.held);
        held.resize(self.rows() * k, 0.0);
        let places = self
            .batches
            .clone()
            .flat_map(|batch| self.columns.clone().map(move |column| (batch, column)));
        for ((batch, column), into) in places.zip(held.chunks_exact_mut(k)) {
            let source = self.source(column, self.place(batch));
            strips(k, STRIP, |first, length| {
                pace.spend(16 + 2 * length as u64)?;
                let into = &mut into[first..first + length];
                self.x.load(source, first, into);
                Ok(())
            })?;
        }
        self.held = held;
        Ok(())
    }

    /// The results of some weight rows.
    fn part(
        &self,
        range: Range<usize>,
        level: Level,
        goes_on: &mut GoesOn<'_>,
    ) -> Result<(), Stop> {
        let k = self.k();
        for (index, batch) in self.batches.clone().enumerate() {
            let to = self.place(batch);
            let from = self.weights_of(to);
            let size = k * self.columns.len();
            if k > HELD {
                self.long(range.clone(), (from, to), level, goes_on)?;
            } else if k > 0 && self.columns.len() >= SEVERAL {
                let x = &self.held[index * size..(index + 1) * size];
                self.blocks(range.clone(), (from, to), x, level, goes_on)?;
            } else {
                let x = &self.held[index * size..(index + 1) * size];
                self.dots(range.clone(), (from, to), x, level, goes_on)?;
            }
        }
        Ok(())
    }

    /// Stores results of neighbouring weight rows in one column.
    fn put(&self, first: usize, column: usize, to: [u32; 2], values: &[f32]) {
        self.dst.store(self.target(column, to), first, values);
    }

    /// Row by row, by one column (by all, where there is nothing to multiply).
    fn dots(
        &self,
        range: Range<usize>,
        (from, to): ([u32; 2], [u32; 2]),
        x: &[f32],
        level: Level,
        goes_on: &mut GoesOn<'_>,
    ) -> Result<(), Stop> {
        let k = self.k();
        let mut row = Vec::new();
        let mut out = [0.0f32; BLOCK];
        let work = 16 + k;
        let mut left = 0;
        for at in range.clone().step_by(BLOCK) {
            let out = &mut out[..BLOCK.min(range.end - at)];
            for (index, column) in self.columns.clone().enumerate() {
                let x = &x[index * k..(index + 1) * k];
                for (at, value) in (at..).zip(&mut *out) {
                    if left < work {
                        left = work.max(PIECE);
                        ask(goes_on, left)?;
                    }
                    left -= work;
                    let place = [at as u32, from[0], from[1]];
                    *value = if self.w.is_dense() {
                        // SAFETY: a dense row of k elements inside the checked extent.
                        unsafe { simd::dot(level, self.w.ty, self.w.at(place, 0), x) }
                    } else {
                        row.resize(k, 0.0);
                        self.w.load(place, 0, &mut row);
                        // SAFETY: a private row of k elements.
                        unsafe { simd::dot(level, DType::F32, row.as_ptr().cast(), x) }
                    };
                }
                self.put(at, column, to, out);
            }
        }
        Ok(())
    }

    /// Rows of which not even one can be held, strip by strip.
    fn long(
        &self,
        range: Range<usize>,
        (from, to): ([u32; 2], [u32; 2]),
        level: Level,
        goes_on: &mut GoesOn<'_>,
    ) -> Result<(), Stop> {
        let (mut w, mut x) = (vec![0.0; STRIP], vec![0.0; STRIP]);
        for at in range {
            for column in self.columns.clone() {
                let mut total = 0.0f64;
                strips(self.k(), STRIP, |first, length| {
                    ask(goes_on, 8 * length)?;
                    let (w, x) = (&mut w[..length], &mut x[..length]);
                    self.w.load([at as u32, from[0], from[1]], first, w);
                    self.x.load(self.source(column, to), first, x);
                    // SAFETY: both are private and equally long.
                    let sum = unsafe { simd::dot(level, DType::F32, w.as_ptr().cast(), x) };
                    total += f64::from(sum);
                    Ok(())
                })?;
                self.put(at, column, to, &[total as f32]);
            }
        }
        Ok(())
    }

    /// Blocks of rows as matrices, by several columns.
    fn blocks(
        &self,
        range: Range<usize>,
        (from, to): ([u32; 2], [u32; 2]),
        x: &[f32],
        level: Level,
        goes_on: &mut GoesOn<'_>,
    ) -> Result<(), Stop> {
        let (k, n) = (self.k(), self.columns.len());
        let deep = k.min(DEEP);
        let mut weights = Vec::new();
        let mut turned = vec![0.0f32; if n < MANY { 0 } else { BLOCK * deep }];
        let mut out = vec![0.0f32; BLOCK * n];
        for at in range.clone().step_by(BLOCK) {
            let rows = BLOCK.min(range.end - at);
            strips(k, deep, |first, length| {
                ask(goes_on, rows * n * length / 8)?;
                let place = |row| [(at + row) as u32, from[0], from[1]];
                // Rows of numbers stay where they are, all others are converted.
                let (w, w_apart) = match self.apart() {
                    Some(apart) => (self.w.at(place(0), first).cast_const().cast(), apart),
                    None => {
                        weights.resize(BLOCK * deep, 0.0);
                        for (row, into) in weights.chunks_exact_mut(deep).take(rows).enumerate() {
                            self.values(place(row), first, level, &mut into[..length]);
                        }
                        (weights.as_ptr(), deep)
                    }
                };
                let tiles = Tiles {
                    w,
                    w_apart,
                    rows,
                    x: x[first..].as_ptr(),
                    x_apart: k,
                    columns: n,
                    k: length,
                };
                assert!(out.len() >= n * BLOCK && x.len() >= (n - 1) * k + first + length);
                assert!(n < MANY || turned.len() >= length * BLOCK);
                // SAFETY: the weights are private, or in the operand's checked extent; all are as
                // long as was asserted, and there are BLOCK rows at most.
                unsafe {
                    if n < MANY {
                        tiles.add(level, &mut out, BLOCK);
                    } else {
                        turn(&tiles, &mut turned);
                        multiply(&tiles, &turned, &mut out);
                    }
                }
                Ok(())
            })?;
            for (index, column) in self.columns.clone().enumerate() {
                let values = &mut out[index * BLOCK..index * BLOCK + rows];
                self.put(at, column, to, values);
                values.fill(0.0);
            }
        }
        Ok(())
    }

    /// Weights from one row to the next, where they are numbers that can be multiplied in place.
    fn apart(&self) -> Option<usize> {
        let [step, row] = [self.w.nb[0], self.w.nb[1]];
        let aligned = row % 4 == 0 && self.w.base.cast::<f32>().is_aligned();
        let dense = self.w.ty == DType::F32 && step == 4 && aligned;
        usize::try_from(row / 4).ok().filter(|_| dense)
    }

    /// Loads weights of a row from `first` on, as f32.
    fn values(&self, place: [u32; 3], first: usize, level: Level, into: &mut [f32]) {
        if self.w.is_dense() && self.w.ty.block_elements() > 1 {
            // SAFETY: whole blocks of a dense row inside the checked extent.
            unsafe { quantised::values(level, self.w.ty, self.w.at(place, first), into) };
        } else {
            self.w.load(place, first, into);
        }
    }
}

/// Brings weights into the order in which a product reads them: first that of each row, BLOCK apart. The
/// product would do so by itself, but element by element down the rows, which often share a cache's set.
///
/// # Safety
/// As [`Tiles::add`].
unsafe fn turn(tiles: &Tiles, into: &mut [f32]) {
    let mut square = |row: usize, column: usize, rows: usize, columns: usize| {
        for r in row..row + rows {
            for c in column..column + columns {
                // SAFETY: a weight of these rows; the caller's promise.
                into[c * BLOCK + r] = unsafe { *tiles.w.add(r * tiles.w_apart + c) };
            }
        }
    };
    for row in (0..tiles.rows).step_by(SQUARE) {
        for column in (0..tiles.k).step_by(SQUARE) {
            match (tiles.rows - row, tiles.k - column) {
                (SQUARE.., SQUARE..) => square(row, column, SQUARE, SQUARE),
                (rows, columns) => square(row, column, rows.min(SQUARE), columns.min(SQUARE)),
            }
        }
    }
}

/// out += weights x, the weights turned: columns of both are BLOCK apart.
///
/// # Safety
/// All activations are readable. `weights` holds `tiles.k` columns and `out` has room for `tiles.columns`,
/// BLOCK apart, each of `tiles.rows`, which are BLOCK at most.
#[expect(clippy::cast_possible_wrap, reason = "lengths of vectors in memory")]
unsafe fn multiply(tiles: &Tiles, weights: &[f32], out: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe {
        gemm::gemm(
            tiles.rows,
            tiles.columns,
            tiles.k,
            out.as_mut_ptr(),
            BLOCK as isize,
            1,
            true,
            weights.as_ptr(),
            BLOCK as isize,
            1,
            tiles.x,
            tiles.x_apart as isize,
            1,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
