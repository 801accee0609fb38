//! SOFT_MAX: shares of a row by exponentials, with mask, ALiBi's bias and sinks.

use super::normal::{STRIP, buffer, narrow, sum};
use super::pace::Pace;
use super::rules::{apart, count, present};
use super::tensor::{Operand, strips};
use super::{KernelError, Work};

/// dst = soft-max(src x word 0 + slope x mask), row by row; word 1 is ALiBi's greatest bias.
pub fn run(params: &[u32; 16], operands: &[Operand], pace: &Pace<'_>) -> Result<Work, KernelError> {
    count(operands, 2..=4)?;
    let [dst, src] = [operands[0], operands[1]];
    (0..operands.len()).try_for_each(|o| operands[o].real(o))?;
    src.like(1, &dst)?;
    let (scale, bias) = (f32::from_bits(params[0]), f32::from_bits(params[1]));
    if !scale.is_finite() {
        return Err(KernelError::Parameter { word: 0 });
    }
    let (mask, sinks) = (present(operands, 2), present(operands, 3));
    if !bias.is_finite() || bias < 0.0 || (bias > 0.0 && mask.is_none()) {
        return Err(KernelError::Parameter { word: 1 });
    }
    if dst.is_empty() {
        return Ok(Work::default());
    }
    if let Some(mask) = mask {
        mask.size(2, 0, src.ne[0])?;
        if mask.ne[1] < src.ne[1] {
            return Err(mask.shape(2, 1, src.ne[1]));
        }
        mask.divides(2, 2, src.ne[2])?;
        mask.divides(2, 3, src.ne[3])?;
    }
    let mut extra = Vec::new();
    if let Some(sinks) = sinks {
        sinks.size(3, 0, src.ne[2])?;
        (1..4).try_for_each(|d| sinks.size(3, d, 1))?;
        extra.resize(sinks.length(), 0.0);
    }
    apart(operands, true)?;
    if let Some(sinks) = sinks {
        pace.spend(16 + 2 * extra.len() as u64)?;
        sinks.load([0; 3], 0, &mut extra);
    }
    let mut job = SoftMax {
        src,
        mask,
        scale,
        other: mask.as_ref().map(buffer).unwrap_or_default(),
    };
    let mut line = buffer(&dst);
    let whole = dst.length() <= STRIP;
    for at in 0..dst.rows() {
        let row = dst.row(at);
        let slope = slope(bias, row[1], src.ne[2]);
        let (mut top, mut nan) = (f32::NEG_INFINITY, false);
        strips(dst.length(), STRIP, |first, length| {
            pace.spend(16 + 4 * length as u64)?;
            job.load(row, first, slope, &mut line[..length]);
            for &z in &line[..length] {
                top = top.max(z);
                nan |= z.is_nan();
            }
            Ok(())
        })?;
        let sink = extra.get(row[1] as usize).copied();
        if let Some(sink) = sink {
            top = top.max(sink);
            nan |= sink.is_nan();
        }
        let mut total = sink.map_or(0.0, |sink| f64::from(sink - top).exp());
        if top > f32::NEG_INFINITY {
            strips(dst.length(), STRIP, |first, length| {
                pace.spend(16 + 8 * length as u64)?;
                if !whole {
                    job.load(row, first, slope, &mut line[..length]);
                }
                line[..length]
                    .iter_mut()
                    .for_each(|z| *z = (*z - top).exp());
                total += sum(&line[..length], |x| x);
                Ok(())
            })?;
        }
        strips(dst.length(), STRIP, |first, length| {
            pace.spend(16 + 8 * length as u64)?;
            let line = &mut line[..length];
            if top == f32::NEG_INFINITY {
                // Nothing is left of this row; a NaN among it stays one.
                line.fill(if nan { f32::NAN } else { 0.0 });
            } else {
                if !whole {
                    job.load(row, first, slope, line);
                    line.iter_mut().for_each(|z| *z = (*z - top).exp());
                }
                let share = narrow(1.0 / total);
                line.iter_mut().for_each(|x| *x *= share);
            }
            dst.store(row, first, line);
            Ok(())
        })?;
    }
    Ok(Work {
        operations: 6 * dst.elements(),
        bytes_read: operands[1..].iter().map(Operand::bytes).sum(),
        bytes_written: dst.bytes(),
    })
}

/// What the exponents of a soft-max are made of.
struct SoftMax {
    src: Operand,
    mask: Option<Operand>,
    scale: f32,
    other: Vec<f32>,
}

impl SoftMax {
    /// src x scale + slope x mask.
    fn load(&mut self, row: [u32; 3], first: usize, slope: f32, into: &mut [f32]) {
        self.src.load(row, first, into);
        into.iter_mut().for_each(|x| *x *= self.scale);
        if let Some(mask) = &self.mask {
            let other = &mut self.other[..into.len()];
            mask.load(
                [row[0], row[1] % mask.ne[2], row[2] % mask.ne[3]],
                first,
                other,
            );
            for (x, &m) in into.iter_mut().zip(&*other) {
                *x += slope * m;
            }
        }
    }
}

/// ALiBi's slope of a head; 1 without bias.
pub(super) fn slope(bias: f32, head: u32, heads: u32) -> f32 {
    if bias == 0.0 {
        return 1.0;
    }
    let power = 1u32 << heads.ilog2();
    let share = if head < power {
        f64::from(head + 1) / f64::from(power)
    } else {
        f64::from(2 * (head - power) + 1) / (2.0 * f64::from(power))
    };
    narrow((-f64::from(bias) * share).exp2())
}
