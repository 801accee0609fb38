//! Blocks: numbers that share a scale. Kernels 1.8.

use half::f16;

/// A binary16 at an offset of a block.
#[inline(always)]
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Values of a Q8_0 block: a scale, then 32 signed bytes.
#[inline(always)]
pub fn q8_0(block: &[u8; 34], into: &mut [f32; 32]) {
    let scale = half(block, 0);
    for (value, &byte) in into.iter_mut().zip(&block[2..]) {
        *value = scale * f32::from(byte.cast_signed());
    }
}

/// Values of a Q4_0 block: a scale, then 16 bytes of two.
#[inline(always)]
pub fn q4_0(block: &[u8; 18], into: &mut [f32; 32]) {
    let scale = half(block, 0);
    let (low, high) = into.split_at_mut(16);
    for ((low, high), &byte) in low.iter_mut().zip(high).zip(&block[2..]) {
        *low = scale * (f32::from(byte & 15) - 8.0);
        *high = scale * (f32::from(byte >> 4) - 8.0);
    }
}

/// Scale and offset of the eight parts of a Q4_K block.
#[inline(always)]
pub fn q4_k_scales(block: &[u8; 144]) -> [[f32; 8]; 2] {
    let (scale, offset) = (half(block, 0), half(block, 2));
    let packed = &block[4..16];
    let mut all = [[0.0; 8]; 2];
    for i in 0..4 {
        let [low, middle, top] = [packed[i], packed[i + 4], packed[i + 8]];
        all[0][i] = scale * f32::from(low & 63);
        all[1][i] = offset * f32::from(middle & 63);
        all[0][i + 4] = scale * f32::from(top & 15 | low >> 6 << 4);
        all[1][i + 4] = offset * f32::from(top >> 4 | middle >> 6 << 4);
    }
    all
}

/// Values of a Q4_K block: eight parts of 32, each with a scale and an offset of six bits.
#[inline(always)]
pub fn q4_k(block: &[u8; 144], into: &mut [f32; 256]) {
    let [scales, offsets] = q4_k_scales(block);
    for pair in 0..4 {
        let bytes = &block[16 + 32 * pair..][..32];
        let (low, high) = into[64 * pair..][..64].split_at_mut(32);
        let [a, b] = [scales[2 * pair], scales[2 * pair + 1]];
        let [c, d] = [offsets[2 * pair], offsets[2 * pair + 1]];
        for ((low, high), &byte) in low.iter_mut().zip(high).zip(bytes) {
            *low = a * f32::from(byte & 15) - c;
            *high = b * f32::from(byte >> 4) - d;
        }
    }
}

/// Values of a Q6_K block: 16 parts of 16, each with a scale of a signed byte.
#[inline(always)]
pub fn q6_k(block: &[u8; 210], into: &mut [f32; 256]) {
    let scale = half(block, 208);
    for side in 0..2 {
        let low = &block[64 * side..][..64];
        let high = &block[128 + 32 * side..][..32];
        for part in 0..8 {
            // Parts of 16: their low bits in half a byte, the two high ones in a quarter.
            let (group, from) = (part / 2, part % 2 * 16);
            let mine = scale * f32::from(block[192 + 8 * side + part].cast_signed());
            let low = &low[group % 2 * 32 + from..][..16];
            let high = &high[from..][..16];
            let into = &mut into[128 * side + 16 * part..][..16];
            let (shift, up) = (group / 2 * 4, group * 2);
            for ((value, &low), &high) in into.iter_mut().zip(low).zip(high) {
                let bits = low >> shift & 15 | (high >> up & 3) << 4;
                *value = mine * (f32::from(bits) - 32.0);
            }
        }
    }
}
