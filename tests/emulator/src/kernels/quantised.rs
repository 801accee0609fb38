//! A row of blocks in shared memory: its dot product with a private vector, and its values.
//!
//! Own loops: the crates that multiply blocks round the activations to blocks as well, for which
//! the tolerance leaves no room (Kernels 4). So weights become numbers, exactly, and are multiplied
//! where they are: in registers.

use jalapeno_hw::kernels::DType;

use super::Level;
use super::blocks;
#[cfg(target_arch = "x86_64")]
use super::lanes;

/// The sum of products of `x` with the dense row of blocks at `row`, in f32.
///
/// # Safety
/// `row` points to the readable blocks of `x.len()` elements of type `ty`, whole blocks of one of
/// the types that have some.
pub unsafe fn dot(level: Level, ty: DType, row: *const u8, x: &[f32]) -> f32 {
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level was detected, and AVX-512 has AVX2; the row is the caller's promise.
        Level::Avx2 | Level::Avx512 => unsafe { lanes::dot(ty, row, x) },
        // SAFETY: as above.
        _ => unsafe { plain(ty, row, x) },
    }
}

/// The values of the dense row of blocks at `row`.
///
/// # Safety
/// As `dot`, with `into` in the place of `x`.
pub unsafe fn values(level: Level, ty: DType, row: *const u8, into: &mut [f32]) {
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 | Level::Avx512 => unsafe { lanes::values(ty, row, into) },
        // SAFETY: as above.
        _ => unsafe {
            match ty {
                DType::Q4_0 => unpack::<32, 18>(row, into, blocks::q4_0),
                DType::Q8_0 => unpack::<32, 34>(row, into, blocks::q8_0),
                DType::Q4K => unpack::<256, 144>(row, into, blocks::q4_k),
                _ => unpack::<256, 210>(row, into, blocks::q6_k),
            }
        },
    }
}

/// # Safety
/// As `dot`.
unsafe fn plain(ty: DType, row: *const u8, x: &[f32]) -> f32 {
    // SAFETY: promised by the caller.
    unsafe {
        match ty {
            DType::Q4_0 => sum::<32, 18>(row, x, blocks::q4_0),
            DType::Q8_0 => sum::<32, 34>(row, x, blocks::q8_0),
            DType::Q4K => sum::<256, 144>(row, x, blocks::q4_k),
            _ => sum::<256, 210>(row, x, blocks::q6_k),
        }
    }
}

/// # Safety
/// `row` points to `x.len() / N` readable blocks.
unsafe fn sum<const N: usize, const BYTES: usize>(
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
                *sum += w * x;
            }
        }
    }
    sums.iter().sum()
}

/// # Safety
/// `row` points to `into.len() / N` readable blocks.
unsafe fn unpack<const N: usize, const BYTES: usize>(
    row: *const u8,
    into: &mut [f32],
    values: impl Fn(&[u8; BYTES], &mut [f32; N]),
) {
    for (i, into) in into.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        // SAFETY: block i is readable by the caller's promise; bytes have no alignment.
        let block = unsafe { row.cast::<[u8; BYTES]>().add(i).read() };
        values(&block, into);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any bytes, with scales that are numbers.
    fn row(ty: DType, blocks: usize) -> Vec<u8> {
        let bytes = ty.block_bytes() as usize;
        let mut row: Vec<u8> = (0..blocks * bytes)
            .map(|i| u8::try_from((i * i * 31 + i * 7) % 256).unwrap())
            .collect();
        let scales: &[usize] = match ty {
            DType::Q4K => &[0, 2],
            DType::Q6K => &[208],
            _ => &[0],
        };
        for block in row.chunks_mut(bytes) {
            for &at in scales {
                block[at + 1] = block[at + 1] & 0x83 | 0x28;
            }
        }
        row
    }

    #[test]
    fn every_level_makes_the_same_values_of_blocks_and_nearly_the_same_sums() {
        for (ty, n) in [
            (DType::Q4_0, 32),
            (DType::Q8_0, 32),
            (DType::Q4K, 256),
            (DType::Q6K, 256),
        ] {
            for blocks in [1, 2, 5] {
                let row = row(ty, blocks);
                let x: Vec<f32> = (0..n * blocks).map(|i| (i as f32 * 0.37).sin()).collect();
                let (mut expected, mut found) = (vec![0.0; x.len()], vec![0.0; x.len()]);
                // SAFETY: as many blocks as both have elements.
                unsafe { values(Level::Plain, ty, row.as_ptr(), &mut expected) };
                let all: f32 = x.iter().zip(&expected).map(|(x, w)| (x * w).abs()).sum();
                let exact: f64 = (x.iter().zip(&expected))
                    .map(|(x, w)| f64::from(*x) * f64::from(*w))
                    .sum();
                for level in [Level::Plain, Level::detect()] {
                    // SAFETY: as above.
                    let sum = unsafe {
                        values(level, ty, row.as_ptr(), &mut found);
                        dot(level, ty, row.as_ptr(), &x)
                    };
                    assert_eq!(expected, found, "{level:?} {ty:?}");
                    let off = (f64::from(sum) - exact).abs();
                    let room = f64::from(all * f32::EPSILON * x.len() as f32);
                    assert!(off <= room, "{level:?} {ty:?}: {sum} {exact}");
                }
            }
        }
    }
}
