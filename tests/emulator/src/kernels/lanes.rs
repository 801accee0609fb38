//! Blocks as lanes: weights of a row become numbers, eight at a time, by AVX2. Kernels 1.8.

use std::arch::x86_64::*;

use jalapeno_hw::kernels::DType;

/// The binary16 at an address, eight times.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn half(at: *const u8) -> __m256 {
    // SAFETY: readable by the caller's promise.
    let bits = unsafe { at.cast::<i16>().read_unaligned() };
    _mm256_cvtph_ps(_mm_set1_epi16(bits))
}

/// Eight bytes at an address, unsigned.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn bytes(at: *const u8) -> __m256i {
    // SAFETY: readable by the caller's promise.
    _mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(at.cast()) })
}

/// Eight bytes at an address, signed.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn signed(at: *const u8) -> __m256i {
    // SAFETY: readable by the caller's promise.
    _mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(at.cast()) })
}

/// Scales and offsets of the eight parts of a Q4_K block, before they are multiplied by its own.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn six_bits(at: *const u8) -> [__m256; 2] {
    // Four bytes of six bits each in a word, the parts' upper two bits in the words' upper ones.
    // SAFETY: readable by the caller's promise.
    let [a, b, c] = unsafe { at.cast::<[u32; 3]>().read_unaligned() };
    let upper = |word: u32| (word >> 6 & 0x0303_0303) << 4;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let scales = join(a & 0x3F3F_3F3F, c & 0x0F0F_0F0F | upper(a));
    let offsets = join(b & 0x3F3F_3F3F, c >> 4 & 0x0F0F_0F0F | upper(b));
    [scales, offsets].map(|eight| {
        let eight = _mm_cvtsi64_si128(eight.cast_signed());
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight))
    })
}

/// Evaluates `$body` with eight weights at a time: `$at` is the first one's number, `$lane` that
/// number / 8 modulo 4. A macro, so that all of it is compiled for AVX2 where it is used.
macro_rules! each {
    ($ty:expr, $row:expr, $n:expr, |$at:ident, $lane:ident, $weights:ident| $body:expr) => {{
        let (row, n): (*const u8, usize) = ($row, $n);
        match $ty {
            DType::Q8_0 => {
                for i in 0..n / 32 {
                    let block = row.wrapping_add(34 * i);
                    // SAFETY: block i is readable by the caller's promise.
                    let scale = unsafe { half(block) };
                    for $lane in 0..4 {
                        let $at = 32 * i + 8 * $lane;
                        // SAFETY: as above.
                        let q = unsafe { signed(block.add(2 + 8 * $lane)) };
                        let q = _mm256_cvtepi32_ps(q);
                        let $weights = _mm256_mul_ps(scale, q);
                        $body;
                    }
                }
            }
            DType::Q4_0 => {
                let eight = _mm256_set1_epi32(8);
                for i in 0..n / 32 {
                    let block = row.wrapping_add(18 * i);
                    // SAFETY: as above.
                    let scale = unsafe { half(block) };
                    for piece in 0..2 {
                        // SAFETY: as above.
                        let both = unsafe { bytes(block.add(2 + 8 * piece)) };
                        for (high, q) in halves(both).into_iter().enumerate() {
                            let $lane = 2 * high + piece;
                            let $at = 32 * i + 8 * $lane;
                            let q = _mm256_cvtepi32_ps(_mm256_sub_epi32(q, eight));
                            let $weights = _mm256_mul_ps(scale, q);
                            $body;
                        }
                    }
                }
            }
            DType::Q4K => {
                for i in 0..n / 256 {
                    let block = row.wrapping_add(144 * i);
                    let mut scales = [[0.0f32; 8]; 2];
                    // SAFETY: as above; eight numbers fit into each.
                    unsafe {
                        let parts = six_bits(block.add(4));
                        for (at, parts) in parts.into_iter().enumerate() {
                            let own = half(block.add(2 * at));
                            _mm256_storeu_ps(scales[at].as_mut_ptr(), _mm256_mul_ps(own, parts));
                        }
                    }
                    for pair in 0..4 {
                        for $lane in 0..4 {
                            // SAFETY: as above.
                            let both = unsafe { bytes(block.add(16 + 32 * pair + 8 * $lane)) };
                            for (high, q) in halves(both).into_iter().enumerate() {
                                let part = 2 * pair + high;
                                let $at = 256 * i + 32 * part + 8 * $lane;
                                let scale = _mm256_set1_ps(scales[0][part]);
                                let offset = _mm256_set1_ps(scales[1][part]);
                                // The product is exact, so this is rounded once.
                                let q = _mm256_cvtepi32_ps(q);
                                let $weights = _mm256_fmsub_ps(scale, q, offset);
                                $body;
                            }
                        }
                    }
                }
            }
            _ => {
                let (three, middle) = (_mm256_set1_epi32(3), _mm256_set1_epi32(32));
                for i in 0..n / 256 {
                    let block = row.wrapping_add(210 * i);
                    // SAFETY: as above.
                    let own = unsafe { half(block.add(208)) };
                    // SAFETY: as above.
                    let parts = [192, 200].map(|at| unsafe { signed(block.add(at)) });
                    let mut scales = [0.0f32; 16];
                    for (into, parts) in scales.as_chunks_mut::<8>().0.iter_mut().zip(parts) {
                        let scaled = _mm256_mul_ps(own, _mm256_cvtepi32_ps(parts));
                        // SAFETY: eight numbers fit.
                        unsafe { _mm256_storeu_ps(into.as_mut_ptr(), scaled) };
                    }
                    for side in 0..2 {
                        for $lane in 0..4 {
                            let at = 32 * side + 8 * $lane;
                            // SAFETY: as above.
                            let (first, second, up) = unsafe {
                                let low = block.add(32 * side + at);
                                (bytes(low), bytes(low.add(32)), bytes(block.add(128 + at)))
                            };
                            let ([a, c], [b, d]) = (halves(first), halves(second));
                            let up = [
                                up,
                                _mm256_srli_epi32::<2>(up),
                                _mm256_srli_epi32::<4>(up),
                                _mm256_srli_epi32::<6>(up),
                            ];
                            for (group, (low, up)) in [a, b, c, d].into_iter().zip(up).enumerate() {
                                let part = 8 * side + 2 * group + $lane / 2;
                                let scale = _mm256_set1_ps(scales[part]);
                                let $at = 256 * i + 128 * side + 32 * group + 8 * $lane;
                                let up = _mm256_slli_epi32::<4>(_mm256_and_si256(up, three));
                                let q = _mm256_sub_epi32(_mm256_or_si256(low, up), middle);
                                let $weights = _mm256_mul_ps(scale, _mm256_cvtepi32_ps(q));
                                $body;
                            }
                        }
                    }
                }
            }
        }
    }};
}

/// The lower and the upper four bits of eight bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn halves(both: __m256i) -> [__m256i; 2] {
    let low = _mm256_and_si256(both, _mm256_set1_epi32(15));
    [low, _mm256_srli_epi32::<4>(both)]
}

/// The sum of products of `x` with the dense row of blocks at `row`, in f32.
///
/// # Safety
/// The processor has AVX2, FMA and F16C; `row` points to the readable blocks of `x.len()` elements.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn dot(ty: DType, row: *const u8, x: &[f32]) -> f32 {
    let mut sums = [_mm256_setzero_ps(); 4];
    each!(ty, row, x.len(), |at, lane, weights| {
        // SAFETY: eight elements from `at` on are there: blocks are whole.
        let x = unsafe { _mm256_loadu_ps(x.as_ptr().add(at)) };
        sums[lane] = _mm256_fmadd_ps(weights, x, sums[lane]);
    });
    let [a, b, c, d] = sums;
    let sum = _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d));
    let half = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
    let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
    _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps::<1>(pair, pair)))
}

/// The values of the dense row of blocks at `row`.
///
/// # Safety
/// As `dot`, with `into` in the place of `x`.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn values(ty: DType, row: *const u8, into: &mut [f32]) {
    each!(ty, row, into.len(), |at, _lane, weights| {
        // SAFETY: eight elements from `at` on are there: blocks are whole.
        unsafe { _mm256_storeu_ps(into.as_mut_ptr().add(at), weights) };
    });
}
