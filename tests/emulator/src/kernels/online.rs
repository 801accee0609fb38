//! Rows of an attention in progress: the greatest exponent so far, the sum, the weighted values.

use jalapeno_hw::kernels::DType;

use super::normal::narrow;
use super::tensor::Operand;
use super::{Level, simd};

/// Queries from which on keys and values are multiplied as matrices.
const MANY: usize = 8;

/// Queries that share keys and values.
pub(super) struct Rows {
    level: Level,
    /// Elements of a key, and of a value.
    key: usize,
    value: usize,
    /// Keys handled at a time.
    most: usize,
    queries: Vec<f32>,
    sums: Vec<f32>,
    tops: Vec<f32>,
    totals: Vec<f64>,
    spoilt: Vec<bool>,
    /// Of each query and key of a step: what the mask adds, then the exponent, then the weight.
    pub weights: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Rows {
    /// Room for so many queries of `key` elements, by `most` keys at a time.
    pub fn new(level: Level, rows: usize, [key, value, most]: [usize; 3]) -> Self {
        Self {
            level,
            key,
            value,
            most,
            queries: vec![0.0; rows * key],
            sums: vec![0.0; rows * value],
            tops: vec![f32::NEG_INFINITY; rows],
            totals: vec![0.0; rows],
            spoilt: vec![false; rows],
            weights: vec![0.0; rows * most],
            keys: vec![0.0; key * most],
            values: vec![0.0; value * most],
        }
    }

    fn rows(&self) -> usize {
        self.tops.len()
    }

    /// Where a query goes.
    pub fn query(&mut self, row: usize) -> &mut [f32] {
        &mut self.queries[row * self.key..(row + 1) * self.key]
    }

    /// What the mask says of a query and the keys of a step.
    pub fn mask(&mut self, row: usize, length: usize) -> &mut [f32] {
        &mut self.weights[row * self.most..row * self.most + length]
    }

    /// Whether the mask leaves nothing of a step.
    pub fn is_masked(&self, length: usize) -> bool {
        let mut all = self.weights.chunks_exact(self.most);
        all.all(|row| row[..length].iter().all(|&z| z == f32::NEG_INFINITY))
    }

    /// Takes keys and values in: the mask stands in `weights`, `places` are their rows.
    pub fn step(
        &mut self,
        (k, v): (&Operand, &Operand),
        places: &[([u32; 3], [u32; 3])],
        bend: impl Fn(f32) -> f32,
    ) {
        self.exponents(k, places, bend);
        for (i, &(_, place)) in places.iter().enumerate() {
            let into = &mut self.values[i * self.value..(i + 1) * self.value];
            v.load(place, 0, into);
        }
        for row in 0..self.rows() {
            self.weigh(row, places.len());
        }
        let values = &self.values[..places.len() * self.value];
        // A matrix product would multiply what is infinite by the weight of a masked key.
        if self.rows() >= MANY && values.iter().all(|x| x.is_finite()) {
            product(
                (&mut self.sums, self.value),
                (&self.weights, self.most),
                (&self.values, self.value, 1),
                [self.tops.len(), self.value, places.len()],
                true,
            );
            return;
        }
        for (sums, weights) in self
            .sums
            .chunks_exact_mut(self.value.max(1))
            .zip(self.weights.chunks_exact(self.most))
        {
            blend(self.level, sums, &weights[..places.len()], values);
        }
    }

    /// Adds the exponents to what the mask says.
    fn exponents(
        &mut self,
        k: &Operand,
        places: &[([u32; 3], [u32; 3])],
        bend: impl Fn(f32) -> f32,
    ) {
        if self.rows() >= MANY {
            for (i, &(place, _)) in places.iter().enumerate() {
                k.load(place, 0, &mut self.keys[i * self.key..(i + 1) * self.key]);
            }
            let mut scores = vec![0.0; self.weights.len()];
            product(
                (&mut scores, self.most),
                (&self.queries, self.key),
                (&self.keys, 1, self.key),
                [self.tops.len(), places.len(), self.key],
                false,
            );
            for (z, score) in self.weights.iter_mut().zip(scores) {
                if *z != f32::NEG_INFINITY {
                    *z += bend(score);
                }
            }
            return;
        }
        for (i, &(place, _)) in places.iter().enumerate() {
            let dense = k.is_dense();
            let (ty, row) = if dense {
                (k.ty, k.at(place, 0).cast_const())
            } else {
                let line = &mut self.keys[..self.key];
                k.load(place, 0, line);
                (DType::F32, line.as_ptr().cast())
            };
            for (query, weights) in self
                .queries
                .chunks_exact(self.key)
                .zip(self.weights.chunks_exact_mut(self.most))
            {
                if weights[i] != f32::NEG_INFINITY {
                    // SAFETY: a dense row of the checked extent, or a private one; both as long
                    // as a query.
                    weights[i] += bend(unsafe { simd::dot(self.level, ty, row, query) });
                }
            }
        }
    }

    /// Makes weights of exponents, against the greatest so far.
    fn weigh(&mut self, row: usize, length: usize) {
        let weights = &mut self.weights[row * self.most..row * self.most + length];
        let mut top = self.tops[row];
        for &z in &*weights {
            top = top.max(z);
            self.spoilt[row] |= z.is_nan();
        }
        if top == f32::NEG_INFINITY {
            weights.fill(0.0);
            return;
        }
        self.raise(row, top);
        let weights = &mut self.weights[row * self.most..row * self.most + length];
        weights.iter_mut().for_each(|z| *z = (*z - top).exp());
        self.totals[row] += weights.iter().map(|&w| f64::from(w)).sum::<f64>();
    }

    /// Brings a row to a greater exponent.
    fn raise(&mut self, row: usize, top: f32) {
        let before = std::mem::replace(&mut self.tops[row], top);
        if before == top || before == f32::NEG_INFINITY {
            return;
        }
        let share = (before - top).exp();
        self.totals[row] *= f64::from(share);
        let sums = &mut self.sums[row * self.value..(row + 1) * self.value];
        sums.iter_mut().for_each(|x| *x *= share);
    }

    /// A row's result, with its sink.
    pub fn finish(&mut self, row: usize, sink: Option<f32>) -> &[f32] {
        if let Some(sink) = sink {
            self.spoilt[row] |= sink.is_nan();
            self.raise(row, self.tops[row].max(sink));
            if self.tops[row] > f32::NEG_INFINITY {
                self.totals[row] += f64::from((sink - self.tops[row]).exp());
            }
        }
        let spoilt = self.spoilt[row] || self.totals[row].is_nan();
        let share = if spoilt {
            f32::NAN
        } else if self.totals[row] == 0.0 {
            0.0
        } else {
            narrow(1.0 / self.totals[row])
        };
        let sums = &mut self.sums[row * self.value..(row + 1) * self.value];
        sums.iter_mut().for_each(|x| *x *= share);
        sums
    }
}

/// sums += the values, each by its weight; those of weight 0 take no part.
fn blend(level: Level, sums: &mut [f32], weights: &[f32], values: &[f32]) {
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level was detected.
        Level::Avx512 => unsafe { wide(sums, weights, values) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { narrower(sums, weights, values) },
        _ => any::<false>(sums, weights, values),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
fn wide(sums: &mut [f32], weights: &[f32], values: &[f32]) {
    any::<true>(sums, weights, values);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn narrower(sums: &mut [f32], weights: &[f32], values: &[f32]) {
    any::<true>(sums, weights, values);
}

#[inline(always)]
fn any<const FUSED: bool>(sums: &mut [f32], weights: &[f32], values: &[f32]) {
    for (&weight, value) in weights.iter().zip(values.chunks_exact(sums.len())) {
        if weight == 0.0 {
            continue;
        }
        for (sum, &x) in sums.iter_mut().zip(value) {
            *sum = if FUSED {
                weight.mul_add(x, *sum)
            } else {
                weight * x + *sum
            };
        }
    }
}

/// out (m x n) = left (m x k) by right (k x n), or added to it. Rows of `out` and `left` stand
/// their second word apart; right's element (i, j) at i times its second, j times its third.
#[expect(clippy::cast_possible_wrap, reason = "lengths of vectors in memory")]
fn product(
    (out, apart): (&mut [f32], usize),
    (left, behind): (&[f32], usize),
    (right, down, across): (&[f32], usize, usize),
    [m, n, k]: [usize; 3],
    add: bool,
) {
    assert!(m > 0 && n > 0 && k > 0 && n <= apart && k <= behind);
    assert!(out.len() >= (m - 1) * apart + n && left.len() >= (m - 1) * behind + k);
    assert!(right.len() > (k - 1) * down + (n - 1) * across);
    // SAFETY: all three are private and as long as was asserted.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            apart as isize,
            add,
            left.as_ptr(),
            1,
            behind as isize,
            right.as_ptr(),
            across as isize,
            down as isize,
            if add { 1.0 } else { 0.0 },
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
