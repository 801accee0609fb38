//! Kernels over whole rows: RMS_NORM, SUM_ROWS, ARGMAX.

use jalapeno_hw::kernels::DType;

use super::pace::Pace;
use super::rules::{apart, count};
use super::tensor::{Operand, strips};
use super::{KernelError, Work};

/// Elements of a row held at a time; a longer row is read once for each step.
pub(super) const STRIP: usize = 1 << 15;

pub(super) fn buffer(row: &Operand) -> Vec<f32> {
    vec![0.0; STRIP.min(row.length())]
}

/// dst = src / sqrt(mean(src^2) + word 0), row by row.
pub fn rms_norm(
    params: &[u32; 16],
    operands: &[Operand],
    pace: &Pace<'_>,
) -> Result<Work, KernelError> {
    count(operands, 2..=2)?;
    let [dst, src] = [operands[0], operands[1]];
    dst.real(0)?;
    src.real(1)?;
    src.like(1, &dst)?;
    let epsilon = f32::from_bits(params[0]);
    if !epsilon.is_finite() || epsilon < 0.0 {
        return Err(KernelError::Parameter { word: 0 });
    }
    if dst.is_empty() {
        return Ok(Work::default());
    }
    apart(operands, true)?;
    let mut line = buffer(&dst);
    let whole = dst.length() <= STRIP;
    for at in 0..dst.rows() {
        let row = dst.row(at);
        let mut squares = 0.0;
        strips(dst.length(), STRIP, |first, length| {
            pace.spend(16 + 2 * length as u64)?;
            src.load(row, first, &mut line[..length]);
            squares += sum(&line[..length], |x| x * x);
            Ok(())
        })?;
        let mean = squares / f64::from(dst.ne[0]);
        let scale = 1.0 / (mean + f64::from(epsilon)).sqrt();
        strips(dst.length(), STRIP, |first, length| {
            pace.spend(16 + 2 * length as u64)?;
            let line = &mut line[..length];
            if !whole {
                src.load(row, first, line);
            }
            line.iter_mut()
                .for_each(|x| *x = narrow(f64::from(*x) * scale));
            dst.store(row, first, line);
            Ok(())
        })?;
    }
    Ok(Work {
        operations: 3 * dst.elements(),
        bytes_read: src.bytes(),
        bytes_written: dst.bytes(),
    })
}

#[expect(clippy::cast_possible_truncation, reason = "rounding is meant")]
pub(super) fn narrow(wide: f64) -> f32 {
    wide as f32
}

/// A wide sum in eight lanes, so that it is vectorised.
pub(super) fn sum(values: &[f32], of: impl Fn(f64) -> f64) -> f64 {
    let mut lanes = [0.0f64; 8];
    let chunks = values.chunks_exact(8);
    let rest: f64 = chunks.remainder().iter().map(|&x| of(x.into())).sum();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += of(x.into());
        }
    }
    rest + lanes.iter().sum::<f64>()
}

/// dst[0, r] = the sum of row r.
pub fn sum_rows(operands: &[Operand], pace: &Pace<'_>) -> Result<Work, KernelError> {
    count(operands, 2..=2)?;
    let [dst, src] = [operands[0], operands[1]];
    dst.real(0)?;
    src.real(1)?;
    dst.size(0, 0, 1)?;
    (1..4).try_for_each(|d| dst.size(0, d, src.ne[d]))?;
    if dst.is_empty() {
        return Ok(Work::default());
    }
    apart(operands, false)?;
    let mut line = buffer(&src);
    for at in 0..dst.rows() {
        let row = dst.row(at);
        let mut total = 0.0;
        strips(src.length(), STRIP, |first, length| {
            pace.spend(16 + 2 * length as u64)?;
            src.load(row, first, &mut line[..length]);
            total += sum(&line[..length], |x| x);
            Ok(())
        })?;
        dst.store(row, 0, &[narrow(total)]);
    }
    Ok(Work {
        operations: src.elements(),
        bytes_read: src.bytes(),
        bytes_written: dst.bytes(),
    })
}

/// dst[r] = the index of the first largest element of row r; NaN is never largest.
pub fn argmax(operands: &[Operand], pace: &Pace<'_>) -> Result<Work, KernelError> {
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
    if dst.is_empty() {
        return Ok(Work::default());
    }
    if src.ne[0] == 0 || i32::try_from(src.ne[0]).is_err() {
        return Err(src.shape(1, 0, 1));
    }
    apart(operands, false)?;
    let mut line = buffer(&src);
    for at in 0..src.rows() {
        let row = src.row(at);
        let mut best: Option<(usize, f32)> = None;
        strips(src.length(), STRIP, |first, length| {
            pace.spend(16 + 2 * length as u64)?;
            src.load(row, first, &mut line[..length]);
            for (i, &x) in (first..).zip(&line[..length]) {
                if best.map_or(!x.is_nan(), |(_, largest)| x > largest) {
                    best = Some((i, x));
                }
            }
            Ok(())
        })?;
        let index = best.map_or(0, |(i, _)| i);
        #[expect(clippy::cast_possible_truncation, reason = "an i32, checked above")]
        dst.put_index([row[1], row[2], 0], row[0] as usize, index as u32);
    }
    Ok(Work {
        operations: src.elements(),
        bytes_read: src.bytes(),
        bytes_written: dst.bytes(),
    })
}
