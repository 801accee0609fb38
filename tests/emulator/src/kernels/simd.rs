//! Dot products of a weight row in shared memory with a private vector, at memory speed.

use half::f16;
use jalapeno_hw::kernels::DType;

use super::quantised;

/// Which instructions may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Any processor.
    Plain,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, VL.
    Avx512,
}

impl Level {
    /// What this processor has, or less where `JALAPENO_EMULATOR_SIMD` says `plain` or `avx2`
    /// (valgrind knows no AVX-512).
    #[must_use]
    pub fn detect() -> Self {
        let allowed = match std::env::var("JALAPENO_EMULATOR_SIMD").as_deref() {
            Ok("plain") => Self::Plain,
            Ok("avx2") => Self::Avx2,
            _ => Self::Avx512,
        };
        Self::present().min(allowed)
    }

    #[cfg(target_arch = "x86_64")]
    fn present() -> Self {
        if !(is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c"))
        {
            return Self::Plain;
        }
        let wide = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl");
        if wide { Self::Avx512 } else { Self::Avx2 }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn present() -> Self {
        Self::Plain
    }
}

/// The sum of products of `x` with the dense row of weights at `row`, in f32.
///
/// # Safety
/// `row` points to `x.len()` readable elements of type `ty`, one of F32, F16, BF16 and those in
/// blocks, of which they are whole ones.
pub unsafe fn dot(level: Level, ty: DType, row: *const u8, x: &[f32]) -> f32 {
    if ty.block_elements() > 1 {
        // SAFETY: the caller's promise.
        return unsafe { quantised::dot(level, ty, row, x) };
    }
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level was detected; the row is the caller's promise.
        Level::Avx512 => unsafe { wide::dot(ty, row, x) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { narrow::dot(ty, row, x) },
        // SAFETY: as above.
        _ => unsafe { plain(ty, row, x) },
    }
}

/// # Safety
/// As `dot`.
unsafe fn plain(ty: DType, row: *const u8, x: &[f32]) -> f32 {
    let mut sum = 0.0f32;
    for (i, &x) in x.iter().enumerate() {
        // SAFETY: element i is readable by the caller's promise.
        let w = unsafe {
            match ty {
                DType::F32 => row.cast::<f32>().add(i).read_unaligned(),
                DType::F16 => f16::from_bits(row.cast::<u16>().add(i).read_unaligned()).to_f32(),
                _ => f32::from_bits(u32::from(row.cast::<u16>().add(i).read_unaligned()) << 16),
            }
        };
        sum = w.mul_add(x, sum);
    }
    sum
}

/// The products of some rows of weights with some columns, added to a matrix of results.
#[derive(Clone, Copy, Debug)]
pub struct Tiles {
    /// The first row's first weight, in f32.
    pub w: *const f32,
    /// Weights from one row to the next.
    pub w_apart: usize,
    /// Rows.
    pub rows: usize,
    /// The first column's first activation.
    pub x: *const f32,
    /// Activations from one column to the next.
    pub x_apart: usize,
    /// Columns.
    pub columns: usize,
    /// Products of a sum.
    pub k: usize,
}

impl Tiles {
    /// out[apart c + r] += the sum of row r's products with column c. Each sum has its order, by
    /// whatever tile it is computed.
    ///
    /// An own loop: along both operands as they stand, where the crate `gemm` copies the weights
    /// into another order first, which takes longer than a few columns do.
    ///
    /// # Safety
    /// All weights and activations are readable; the processor has the level.
    pub unsafe fn add(&self, level: Level, out: &mut [f32], apart: usize) {
        let mut c = 0;
        while c < self.columns {
            // SAFETY: the caller's promise.
            c += unsafe {
                match self.columns - c {
                    1 => self.columns::<1>(level, c, out, apart),
                    2 => self.columns::<2>(level, c, out, apart),
                    3 => self.columns::<3>(level, c, out, apart),
                    _ => self.columns::<4>(level, c, out, apart),
                }
            };
        }
    }

    /// # Safety
    /// As `add`; C columns from `c` on are there.
    unsafe fn columns<const C: usize>(
        &self,
        level: Level,
        c: usize,
        out: &mut [f32],
        apart: usize,
    ) -> usize {
        let mut r = 0;
        while r < self.rows {
            // SAFETY: the caller's promise.
            r += unsafe {
                match self.rows - r {
                    1 | 2 => self.one::<1, C>(level, [r, c], out, apart),
                    _ => self.one::<3, C>(level, [r, c], out, apart),
                }
            };
        }
        C
    }

    /// # Safety
    /// As `add`; R rows and C columns from there on are there.
    #[inline]
    unsafe fn one<const R: usize, const C: usize>(
        &self,
        level: Level,
        [r, c]: [usize; 2],
        out: &mut [f32],
        apart: usize,
    ) -> usize {
        let w = std::array::from_fn(|i| self.w.wrapping_add((r + i) * self.w_apart));
        let x = std::array::from_fn(|i| self.x.wrapping_add((c + i) * self.x_apart));
        let sums: [[f32; R]; C] = match level {
            // SAFETY: the processor has it; rows and columns that are there, by the caller's promise.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { wide::tile(w, x, self.k) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { narrow::tile(w, x, self.k) },
            // SAFETY: rows and columns that are there, by the caller's promise.
            _ => unsafe { plain_tile(w, x, self.k) },
        };
        for (i, sums) in sums.iter().enumerate() {
            let at = (c + i) * apart + r;
            for (out, sum) in out[at..at + R].iter_mut().zip(sums) {
                *out += sum;
            }
        }
        R
    }
}

/// # Safety
/// Each row and column has k readable elements.
unsafe fn plain_tile<const R: usize, const C: usize>(
    w: [*const f32; R],
    x: [*const f32; C],
    k: usize,
) -> [[f32; R]; C] {
    let mut sums = [[0.0f32; R]; C];
    for i in 0..k {
        for (sums, x) in sums.iter_mut().zip(x) {
            for (sum, w) in sums.iter_mut().zip(w) {
                // SAFETY: i < k, readable by the caller's promise.
                let (w, x) = unsafe { (w.add(i).read(), x.add(i).read()) };
                *sum = w.mul_add(x, *sum);
            }
        }
    }
    sums
}

macro_rules! vectorised {
    ($name:ident, $features:literal, $lanes:literal, $zero:ident, $loadu:ident, $fmadd:ident, $add:ident, $reduce:expr, $f16:expr, $bf16:expr) => {
        #[cfg(target_arch = "x86_64")]
        mod $name {
            use std::arch::x86_64::*;

            use super::{DType, plain};

            /// # Safety
            /// As `super::dot`, on a processor that has these features.
            #[target_feature(enable = $features)]
            pub unsafe fn dot(ty: DType, row: *const u8, x: &[f32]) -> f32 {
                // SAFETY: promised by the caller.
                unsafe {
                    match ty {
                        DType::F32 => sum(ty, row, x, 4, |at| $loadu(at.cast())),
                        DType::F16 => sum(ty, row, x, 2, $f16),
                        _ => sum(ty, row, x, 2, $bf16),
                    }
                }
            }

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn sum(
                ty: DType,
                row: *const u8,
                x: &[f32],
                bytes: usize,
                load: impl Fn(*const u8) -> Lanes,
            ) -> f32 {
                let mut sums = [$zero(); 4];
                let whole = x.len() / (4 * $lanes) * (4 * $lanes);
                for i in (0..whole).step_by(4 * $lanes) {
                    for (lane, sum) in sums.iter_mut().enumerate() {
                        let at = i + lane * $lanes;
                        // SAFETY: at + lanes <= whole <= x.len(), readable by the promise.
                        let weights = unsafe { load(row.add(at * bytes)) };
                        // SAFETY: as above.
                        let values = unsafe { $loadu(x.as_ptr().add(at)) };
                        *sum = $fmadd(weights, values, *sum);
                    }
                }
                let total = $add($add(sums[0], sums[1]), $add(sums[2], sums[3]));
                // SAFETY: the rest of the row, by the caller's promise.
                $reduce(total) + unsafe { plain(ty, row.add(whole * bytes), &x[whole..]) }
            }

            /// As `super::tile`, on a processor that has these features.
            ///
            /// # Safety
            /// As there.
            #[target_feature(enable = $features)]
            pub unsafe fn tile<const R: usize, const C: usize>(
                w: [*const f32; R],
                x: [*const f32; C],
                k: usize,
            ) -> [[f32; R]; C] {
                let mut sums = [[$zero(); R]; C];
                let whole = k / $lanes * $lanes;
                for i in (0..whole).step_by($lanes) {
                    // SAFETY: i + lanes <= whole <= k, readable by the promise.
                    let values = x.map(|x| unsafe { $loadu(x.add(i)) });
                    for r in 0..R {
                        // SAFETY: as above.
                        let weights = unsafe { $loadu(w[r].add(i)) };
                        for c in 0..C {
                            sums[c][r] = $fmadd(weights, values[c], sums[c][r]);
                        }
                    }
                }
                let mut out = [[0.0; R]; C];
                for (c, out) in out.iter_mut().enumerate() {
                    for (r, out) in out.iter_mut().enumerate() {
                        *out = $reduce(sums[c][r]);
                        for i in whole..k {
                            // SAFETY: i < k, readable by the promise.
                            let w = unsafe { w[r].add(i).read() };
                            // SAFETY: as above.
                            let x = unsafe { x[c].add(i).read() };
                            *out = w.mul_add(x, *out);
                        }
                    }
                }
                out
            }

            type Lanes = super::lanes::$name;
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod lanes {
    #![allow(non_camel_case_types, reason = "named as the modules that use them")]
    pub type narrow = std::arch::x86_64::__m256;
    pub type wide = std::arch::x86_64::__m512;
}

vectorised!(
    narrow,
    "avx2,fma,f16c",
    8,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps,
    |v: __m256| {
        let half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
        _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps::<1>(pair, pair)))
    },
    |at| _mm256_cvtph_ps(_mm_loadu_si128(at.cast())),
    |at| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(
        _mm_loadu_si128(at.cast())
    )))
);

vectorised!(
    wide,
    "avx512f,avx512bw,avx512vl",
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    |v: __m512| _mm512_reduce_add_ps(v),
    |at| _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())),
    |at| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(
        _mm256_loadu_si256(at.cast())
    )))
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_of_every_shape_give_the_sums_of_plain_loops_at_every_level() {
        let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 8.0;
        for (rows, columns, k) in [
            (1, 1, 1),
            (2, 5, 16),
            (3, 4, 33),
            (7, 3, 64),
            (64, 9, 40),
            (5, 2, 100),
        ] {
            let w: Vec<f32> = (0..rows * (k + 1)).map(value).collect();
            let x: Vec<f32> = (0..columns * (k + 2)).map(|i| value(i + 13)).collect();
            for level in [Level::Plain, Level::Avx2, Level::Avx512] {
                if level > Level::present() {
                    continue;
                }
                let tiles = Tiles {
                    w: w.as_ptr(),
                    w_apart: k + 1,
                    rows,
                    x: x.as_ptr(),
                    x_apart: k + 2,
                    columns,
                    k,
                };
                let mut out = vec![1.0; columns * 70];
                // SAFETY: both vectors hold what the tiles say.
                unsafe { tiles.add(level, &mut out, 70) };
                for (at, out) in out.iter().enumerate() {
                    let (c, r) = (at / 70, at % 70);
                    let sum: f32 = (0..k)
                        .filter(|_| r < rows)
                        .map(|t| w[r * (k + 1) + t] * x[c * (k + 2) + t])
                        .sum();
                    // Eighths of small integers: every sum is exact.
                    assert_eq!(*out, 1.0 + sum, "{level:?} {rows} {columns} {k} {r} {c}");
                }
            }
        }
    }

    #[test]
    fn every_level_gives_the_same_sum_within_rounding() {
        for n in [0usize, 1, 7, 31, 32, 63, 64, 65, 127, 128, 300] {
            let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
            let w: Vec<f32> = (0..n).map(|i| (i as f32 * 0.11).cos()).collect();
            let f16s: Vec<u16> = w.iter().map(|&v| f16::from_f32(v).to_bits()).collect();
            let bf16s: Vec<u16> = w
                .iter()
                .map(|&v| half::bf16::from_f32(v).to_bits())
                .collect();
            for (ty, row) in [
                (DType::F32, w.as_ptr().cast::<u8>()),
                (DType::F16, f16s.as_ptr().cast()),
                (DType::Bf16, bf16s.as_ptr().cast()),
            ] {
                // SAFETY: each row has n elements.
                let plain = unsafe { dot(Level::Plain, ty, row, &x) };
                for level in [Level::Avx2, Level::Avx512] {
                    if level > Level::present() {
                        continue;
                    }
                    // SAFETY: as above, and the processor has the level.
                    let other = unsafe { dot(level, ty, row, &x) };
                    assert!(
                        (plain - other).abs() <= 1e-6 * n as f32,
                        "{level:?} {ty:?} {n}: {plain} {other}"
                    );
                }
            }
        }
    }
}
