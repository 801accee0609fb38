//! MUL_MAT: rows of weights by rows of activations, broadcast over grouped heads.

use jalapeno_hw::kernels::DType;

use super::tensor::{Operand, apart};
use super::{KernelError, Level, Pool, Work, count, simd};

/// Activation rows from which on blocks of weights are converted once and multiplied as a matrix.
const MANY: usize = 8;
/// Weight rows of such a block.
const BLOCK: usize = 64;

/// dst[m, n, b2, b3] = w[k, m, b2/r2, b3/r3] x [k, n, b2, b3], accumulated in f32.
pub fn run(operands: &[Operand], pool: &Pool) -> Result<Work, KernelError> {
    count(operands, 3..=3)?;
    let [dst, w, x] = [operands[0], operands[1], operands[2]];
    dst.real(0)?;
    w.real(1)?;
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

    let (k, m, n) = (w.ne[0] as usize, w.ne[1] as usize, x.ne[1] as usize);
    let batches = x.ne[2] as usize * x.ne[3] as usize;
    let operations = 2 * (k * m * n * batches) as u64;
    // Every activation is copied once; the weights stay where they are.
    let mut activations = vec![0.0f32; k * n * batches];
    if k > 0 {
        for (row, into) in activations.chunks_exact_mut(k).enumerate() {
            x.load(x.row(row), into);
        }
    }
    pool.split(m, operations, |range| {
        for batch in 0..batches {
            #[expect(clippy::cast_possible_truncation, reason = "bounded by ne")]
            let (b2, b3) = (
                (batch % x.ne[2] as usize) as u32,
                (batch / x.ne[2] as usize) as u32,
            );
            let from = [b2 / (x.ne[2] / w.ne[2]), b3 / (x.ne[3] / w.ne[3])];
            let part = &activations[batch * k * n..(batch + 1) * k * n];
            let job = Job {
                dst,
                w,
                from,
                to: [b2, b3],
                k,
                n,
            };
            if n >= MANY && k > 0 {
                job.blocks(range.clone(), part);
            } else {
                job.rows(range.clone(), part, pool.level);
            }
        }
    });
    Ok(Work {
        operations,
        bytes_read: w.bytes() + x.bytes(),
        bytes_written: dst.bytes(),
    })
}

/// One batch.
struct Job {
    dst: Operand,
    w: Operand,
    from: [u32; 2],
    to: [u32; 2],
    k: usize,
    n: usize,
}

impl Job {
    fn put(&self, row: u32, column: u32, value: f32) {
        let one = Operand {
            base: self.dst.base.wrapping_add(offset(row, self.dst.nb[0])),
            ne: [1, self.dst.ne[1], self.dst.ne[2], self.dst.ne[3]],
            ..self.dst
        };
        one.store([column, self.to[0], self.to[1]], &[value]);
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "rows and columns are below ne, a u32"
    )]
    fn rows(&self, range: std::ops::Range<usize>, x: &[f32], level: Level) {
        let mut row = Vec::new();
        for at in range {
            let place = [at as u32, self.from[0], self.from[1]];
            if !self.w.is_dense() {
                row.resize(self.k, 0.0);
                self.w.load(place, &mut row);
            }
            for column in 0..self.n {
                let x = &x[column * self.k..(column + 1) * self.k];
                let value = if self.w.is_dense() {
                    // SAFETY: a dense row of k elements inside the checked extent.
                    unsafe { simd::dot(level, self.w.ty, self.w.at(place), x) }
                } else {
                    // SAFETY: a private row of k elements.
                    unsafe { simd::dot(level, DType::F32, row.as_ptr().cast(), x) }
                };
                self.put(at as u32, column as u32, value);
            }
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "rows and columns are below ne, a u32"
    )]
    #[expect(clippy::cast_possible_wrap, reason = "lengths of vectors in memory")]
    fn blocks(&self, range: std::ops::Range<usize>, x: &[f32]) {
        let (k, n) = (self.k, self.n);
        let mut weights = vec![0.0f32; BLOCK * k];
        let mut out = vec![0.0f32; BLOCK * n];
        let mut at = range.start;
        while at < range.end {
            let rows = BLOCK.min(range.end - at);
            for (row, into) in weights.chunks_exact_mut(k).take(rows).enumerate() {
                self.w
                    .load([(at + row) as u32, self.from[0], self.from[1]], into);
            }
            // SAFETY: out is n rows of BLOCK, x n rows of k, weights BLOCK rows of k; all private.
            unsafe {
                gemm::gemm(
                    rows,
                    n,
                    k,
                    out.as_mut_ptr(),
                    BLOCK as isize,
                    1,
                    false,
                    weights.as_ptr(),
                    1,
                    k as isize,
                    x.as_ptr(),
                    k as isize,
                    1,
                    0.0,
                    1.0,
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                );
            }
            for column in 0..n {
                let values = &out[column * BLOCK..column * BLOCK + rows];
                let part = Operand {
                    base: self
                        .dst
                        .base
                        .wrapping_add(offset(at as u32, self.dst.nb[0])),
                    ne: [rows as u32, self.dst.ne[1], self.dst.ne[2], self.dst.ne[3]],
                    ..self.dst
                };
                part.store([column as u32, self.to[0], self.to[1]], values);
            }
            at += rows;
        }
    }
}

fn offset(element: u32, step: u64) -> usize {
    usize::try_from(u64::from(element) * step).unwrap_or(0)
}
