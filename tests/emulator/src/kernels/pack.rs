//! Blocks made of numbers: Q8_0 and Q4_0. Kernels 1.8, making blocks.

use half::f16;

/// The bytes of a scale; NaN for a block that holds an infinity or NaN.
fn scale(x: &[f32; 32], value: f32) -> Option<[u8; 2]> {
    let finite = x.iter().all(|x| x.is_finite());
    finite.then(|| f16::from_f32(value).to_le_bytes())
}

/// A block whose values are all NaN.
fn nan<const BYTES: usize>() -> [u8; BYTES] {
    let mut block = [0; BYTES];
    block[..2].copy_from_slice(&0x7E00u16.to_le_bytes());
    block
}

/// What values are multiplied by; 0 where nothing is left of them.
fn factor(of: f32, by: f32) -> f32 {
    let factor = of / by;
    if factor.is_finite() { factor } else { 0.0 }
}

/// A Q8_0 block: the greatest magnitude is 127.
pub fn q8_0(x: &[f32; 32]) -> [u8; 34] {
    let most = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let d = most / 127.0;
    let Some(bytes) = scale(x, d) else {
        return nan();
    };
    let mut block = [0; 34];
    block[..2].copy_from_slice(&bytes);
    let by = factor(127.0, most);
    for (byte, x) in block[2..].iter_mut().zip(x) {
        #[expect(clippy::cast_possible_truncation, reason = "at most 127")]
        let q = (x * by).round_ties_even() as i8;
        *byte = q.cast_unsigned();
    }
    block
}

/// A Q4_0 block: the value of greatest magnitude is -8.
pub fn q4_0(x: &[f32; 32]) -> [u8; 18] {
    let first = |most: f32, &x: &f32| if x.abs() > most.abs() { x } else { most };
    let d = x.iter().fold(0.0f32, first) / -8.0;
    let Some(bytes) = scale(x, d) else {
        return nan();
    };
    let mut block = [0; 18];
    block[..2].copy_from_slice(&bytes);
    let by = factor(1.0, d);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0 to 16"
    )]
    let q = |x: f32| ((x * by + 8.5) as u8).min(15);
    let (low, high) = x.split_at(16);
    for ((byte, &low), &high) in block[2..].iter_mut().zip(low).zip(high) {
        *byte = q(low) | q(high) << 4;
    }
    block
}
