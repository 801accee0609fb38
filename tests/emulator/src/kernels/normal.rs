//! Kernels over whole rows: RMS_NORM, SOFT_MAX, ARGMAX.

use jalapeno_hw::kernels::DType;

use super::tensor::{Operand, apart, scratch};
use super::{KernelError, Work, count};

/// dst = src / sqrt(mean(src^2) + word 0), row by row.
pub fn rms_norm(params: &[u32; 16], operands: &[Operand]) -> Result<Work, KernelError> {
    count(operands, 2..=2)?;
    let [dst, src] = [operands[0], operands[1]];
    dst.real(0)?;
    src.real(1)?;
    src.like(1, &dst)?;
    let epsilon = f32::from_bits(params[0]);
    if epsilon.is_nan() || epsilon < 0.0 {
        return Err(KernelError::Parameter { word: 0 });
    }
    if dst.is_empty() {
        return Ok(Work::default());
    }
    apart(operands, true)?;
    scratch(dst.ne[0] as usize, |line| {
        for at in 0..dst.rows() {
            let row = dst.row(at);
            src.load(row, line);
            let squares = sum(line, |x| x * x);
            #[expect(
                clippy::cast_precision_loss,
                reason = "a row's length, far below 2^24 in use"
            )]
            let scale = 1.0 / (squares / line.len() as f32 + epsilon).sqrt();
            line.iter_mut().for_each(|x| *x *= scale);
            dst.store(row, line);
        }
    });
    Ok(Work {
        operations: 3 * dst.elements(),
        bytes_read: src.bytes(),
        bytes_written: dst.bytes(),
    })
}

/// A sum in eight lanes: vectorised, and closer than one after the other.
fn sum(values: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 8];
    let chunks = values.chunks_exact(8);
    let rest: f32 = chunks.remainder().iter().map(|&x| of(x)).sum();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += of(x);
        }
    }
    rest + lanes.iter().sum::<f32>()
}

/// dst = soft-max(src x word 0 + slope x mask), row by row; word 1 is ALiBi's greatest bias.
pub fn soft_max(params: &[u32; 16], operands: &[Operand]) -> Result<Work, KernelError> {
    count(operands, 2..=3)?;
    let [dst, src] = [operands[0], operands[1]];
    (0..operands.len()).try_for_each(|o| operands[o].real(o))?;
    src.like(1, &dst)?;
    let (scale, bias) = (f32::from_bits(params[0]), f32::from_bits(params[1]));
    if bias.is_nan() || bias < 0.0 || (bias > 0.0 && operands.len() < 3) {
        return Err(KernelError::Parameter { word: 1 });
    }
    if dst.is_empty() {
        return Ok(Work::default());
    }
    if let Some(mask) = operands.get(2) {
        mask.size(2, 0, src.ne[0])?;
        if mask.ne[1] < src.ne[1] {
            return Err(KernelError::Shape {
                operand: 2,
                dimension: 1,
                found: mask.ne[1],
                wanted: src.ne[1],
            });
        }
        mask.divides(2, 2, src.ne[2])?;
        mask.divides(2, 3, src.ne[3])?;
    }
    apart(operands, true)?;
    let length = dst.ne[0] as usize;
    scratch(2 * length, |rows| {
        let (line, other) = rows.split_at_mut(length);
        for at in 0..dst.rows() {
            let row = dst.row(at);
            src.load(row, line);
            line.iter_mut().for_each(|x| *x *= scale);
            if let Some(mask) = operands.get(2) {
                mask.load([row[0], row[1] % mask.ne[2], row[2] % mask.ne[3]], other);
                let slope = slope(bias, row[1], src.ne[2]);
                for (x, &m) in line.iter_mut().zip(&*other) {
                    *x += slope * m;
                }
            }
            let largest = line.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
            line.iter_mut().for_each(|x| *x = (*x - largest).exp());
            let total = sum(line, |x| x);
            line.iter_mut().for_each(|x| *x /= total);
            dst.store(row, line);
        }
    });
    Ok(Work {
        operations: 6 * dst.elements(),
        bytes_read: operands[1..].iter().map(Operand::bytes).sum(),
        bytes_written: dst.bytes(),
    })
}

/// ALiBi's slope of a head; 1 without bias.
#[expect(clippy::cast_precision_loss, reason = "heads are few")]
fn slope(bias: f32, head: u32, heads: u32) -> f32 {
    if bias == 0.0 {
        return 1.0;
    }
    let power = 1u32 << heads.ilog2();
    if head < power {
        (-bias / power as f32).exp2().powf((head + 1) as f32)
    } else {
        (-bias / 2.0 / power as f32)
            .exp2()
            .powf((2 * (head - power) + 1) as f32)
    }
}

/// dst[r] = the index of the first largest element of row r; NaN is never largest.
pub fn argmax(operands: &[Operand]) -> Result<Work, KernelError> {
    count(operands, 2..=2)?;
    let [dst, src] = [operands[0], operands[1]];
    if dst.ty != DType::I32 {
        return Err(KernelError::Type { operand: 0 });
    }
    src.real(1)?;
    for d in 0..3 {
        dst.size(0, d, src.ne[d + 1])?;
    }
    dst.size(0, 3, 1)?;
    if src.is_empty() {
        return if dst.is_empty() {
            Ok(Work::default())
        } else {
            Err(KernelError::Shape {
                operand: 1,
                dimension: 0,
                found: 0,
                wanted: 1,
            })
        };
    }
    apart(operands, false)?;
    scratch(src.ne[0] as usize, |line| {
        for at in 0..src.rows() {
            let row = src.row(at);
            src.load(row, line);
            let mut best = (0u32, f32::NEG_INFINITY);
            for (i, &x) in (0u32..).zip(&*line) {
                if x > best.1 {
                    best = (i, x);
                }
            }
            let offset = usize::try_from(u64::from(row[0]) * dst.nb[0]).unwrap_or(0);
            let place = dst.at([row[1], row[2], 0]).wrapping_add(offset);
            // SAFETY: element row[0] of a row of the destination's checked extent.
            unsafe { place.cast::<u32>().write_unaligned(best.0) };
        }
    });
    Ok(Work {
        operations: src.elements(),
        bytes_read: src.bytes(),
        bytes_written: dst.bytes(),
    })
}
