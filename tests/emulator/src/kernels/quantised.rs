//! Dot products of a row of blocks in shared memory with a private vector.

use jalapeno_hw::kernels::DType;

use super::Level;
use super::blocks;

/// The sum of products of `x` with the dense row of blocks at `row`, in f32.
///
/// # Safety
/// `row` points to the readable blocks of `x.len()` elements of type `ty`, whole blocks of one of
/// the types that have some.
pub unsafe fn dot(level: Level, ty: DType, row: *const u8, x: &[f32]) -> f32 {
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level was detected; the row is the caller's promise.
        Level::Avx512 => unsafe { wide(ty, row, x) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { narrow(ty, row, x) },
        // SAFETY: as above.
        _ => unsafe { any::<false>(ty, row, x) },
    }
}

/// # Safety
/// As `dot`, on a processor that has these features.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
unsafe fn wide(ty: DType, row: *const u8, x: &[f32]) -> f32 {
    // SAFETY: promised by the caller.
    unsafe { any::<true>(ty, row, x) }
}

/// # Safety
/// As `dot`, on a processor that has these features.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn narrow(ty: DType, row: *const u8, x: &[f32]) -> f32 {
    // SAFETY: promised by the caller.
    unsafe { any::<true>(ty, row, x) }
}

/// # Safety
/// As `dot`.
#[inline(always)]
unsafe fn any<const FUSED: bool>(ty: DType, row: *const u8, x: &[f32]) -> f32 {
    // SAFETY: promised by the caller.
    unsafe {
        match ty {
            DType::Q4_0 => sum::<FUSED, 32, 18>(row, x, blocks::q4_0),
            DType::Q8_0 => sum::<FUSED, 32, 34>(row, x, blocks::q8_0),
            DType::Q4K => sum::<FUSED, 256, 144>(row, x, blocks::q4_k),
            _ => sum::<FUSED, 256, 210>(row, x, blocks::q6_k),
        }
    }
}

/// # Safety
/// `row` points to `x.len() / N` readable blocks.
#[inline(always)]
unsafe fn sum<const FUSED: bool, const N: usize, const BYTES: usize>(
    row: *const u8,
    x: &[f32],
    values: impl Fn(&[u8; BYTES], &mut [f32; N]),
) -> f32 {
    let mut sums = [0.0f32; 32];
    let mut weights = [0.0; N];
    for (i, x) in x.as_chunks::<N>().0.iter().enumerate() {
        // SAFETY: block i is readable by the caller's promise; bytes have no alignment.
        let block = unsafe { row.cast::<[u8; BYTES]>().add(i).read() };
        values(&block, &mut weights);
        for (w, x) in weights
            .as_chunks::<32>()
            .0
            .iter()
            .zip(x.as_chunks::<32>().0)
        {
            for ((sum, &w), &x) in sums.iter_mut().zip(w).zip(x) {
                *sum = if FUSED {
                    w.mul_add(x, *sum)
                } else {
                    w * x + *sum
                };
            }
        }
    }
    sums.iter().sum()
}
