//! Kernels that take each element for itself: sums, products, gates.

use super::pace::Pace;
use super::rules::{apart, count};
use super::tensor::{Operand, strips};
use super::{KernelError, Work};

/// Elements handled at a time.
const STRIP: usize = 1024;

fn work(operands: &[Operand], per_element: u64) -> Work {
    Work {
        operations: operands[0].elements() * per_element,
        bytes_read: operands[1..].iter().map(Operand::bytes).sum(),
        bytes_written: operands[0].bytes(),
    }
}

/// dst = a op b, b repeated over a.
pub fn binary(
    operands: &[Operand],
    pace: &Pace<'_>,
    op: impl Fn(f32, f32) -> f32,
) -> Result<Work, KernelError> {
    count(operands, 3..=3)?;
    let [dst, a, b] = [operands[0], operands[1], operands[2]];
    (0..3).try_for_each(|o| operands[o].real(o))?;
    a.like(1, &dst)?;
    if dst.is_empty() {
        return Ok(Work::default());
    }
    (0..4).try_for_each(|d| b.divides(2, d, a.ne[d]))?;
    apart(operands, true)?;
    let (mut left, mut right) = ([0.0; STRIP], [0.0; STRIP]);
    // A short right row stands in the buffer as often as it fits.
    let short = b.length() <= STRIP;
    let most = if short {
        STRIP / b.length() * b.length()
    } else {
        STRIP
    };
    for at in 0..dst.rows() {
        let row = dst.row(at);
        let other = [row[0] % b.ne[1], row[1] % b.ne[2], row[2] % b.ne[3]];
        if short && (at == 0 || b.rows() > 1) {
            b.load(other, 0, &mut right[..b.length()]);
            let whole = most.min(dst.length());
            (b.length()..whole).for_each(|i| right[i] = right[i - b.length()]);
        }
        let mut first = 0;
        while first < dst.length() {
            let mut length = most.min(dst.length() - first);
            if !short {
                let begin = first % b.length();
                length = length.min(b.length() - begin);
                b.load(other, begin, &mut right[..length]);
            }
            pace.spend(16 + 2 * length as u64)?;
            let left = &mut left[..length];
            a.load(row, first, left);
            for (x, &y) in left.iter_mut().zip(&right) {
                *x = op(*x, y);
            }
            dst.store(row, first, left);
            first += length;
        }
    }
    Ok(work(operands, 1))
}

fn unary(
    operands: &[Operand],
    pace: &Pace<'_>,
    cost: u64,
    op: impl Fn(f32) -> f32,
) -> Result<Work, KernelError> {
    count(operands, 2..=2)?;
    let [dst, src] = [operands[0], operands[1]];
    dst.real(0)?;
    src.real(1)?;
    src.like(1, &dst)?;
    if dst.is_empty() {
        return Ok(Work::default());
    }
    apart(operands, true)?;
    let mut line = [0.0; STRIP];
    for at in 0..dst.rows() {
        let row = dst.row(at);
        strips(dst.length(), STRIP, |first, length| {
            pace.spend(16 + 2 * cost * length as u64)?;
            let line = &mut line[..length];
            src.load(row, first, line);
            line.iter_mut().for_each(|x| *x = op(*x));
            dst.store(row, first, line);
            Ok(())
        })?;
    }
    Ok(work(operands, cost))
}

/// dst = src x word 0 + word 1.
pub fn scale(
    params: &[u32; 16],
    operands: &[Operand],
    pace: &Pace<'_>,
) -> Result<Work, KernelError> {
    let (scale, bias) = (f32::from_bits(params[0]), f32::from_bits(params[1]));
    unary(operands, pace, 2, |x| x * scale + bias)
}

/// dst = src, but not below word 0 nor above word 1. NaN and zeros of either sign stay as they are.
pub fn clamp(
    params: &[u32; 16],
    operands: &[Operand],
    pace: &Pace<'_>,
) -> Result<Work, KernelError> {
    let (low, high) = (f32::from_bits(params[0]), f32::from_bits(params[1]));
    if low.is_nan() {
        return Err(KernelError::Parameter { word: 0 });
    }
    if high.is_nan() || high < low {
        return Err(KernelError::Parameter { word: 1 });
    }
    unary(operands, pace, 1, |x| x.clamp(low, high))
}

fn sigmoid_weighted(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// dst = src x sigmoid(src).
pub fn silu(operands: &[Operand], pace: &Pace<'_>) -> Result<Work, KernelError> {
    unary(operands, pace, 4, sigmoid_weighted)
}

/// The tanh form of GELU, as x times a sigmoid: 1 + tanh(t) is 2 / (1 + exp(-2 t)).
fn gaussian_weighted(x: f32) -> f32 {
    let x = f64::from(x);
    let root = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::SQRT_2;
    let twice = root * x * (1.0 + 0.044_715 * x * x);
    #[expect(clippy::cast_possible_truncation, reason = "rounding is meant")]
    let gate = (x / (1.0 + (-twice).exp())) as f32;
    gate
}

/// dst = silu(a) x b.
pub fn swiglu(
    params: &[u32; 16],
    operands: &[Operand],
    pace: &Pace<'_>,
) -> Result<Work, KernelError> {
    gated(params, operands, pace, 5, sigmoid_weighted)
}

/// dst = gelu(a) x b.
pub fn geglu(
    params: &[u32; 16],
    operands: &[Operand],
    pace: &Pace<'_>,
) -> Result<Work, KernelError> {
    gated(params, operands, pace, 10, gaussian_weighted)
}

/// dst = gate(a) x b; with one source, a and b are its halves; word 0: they trade places.
fn gated(
    params: &[u32; 16],
    operands: &[Operand],
    pace: &Pace<'_>,
    cost: u64,
    gate: impl Fn(f32) -> f32,
) -> Result<Work, KernelError> {
    count(operands, 2..=3)?;
    (0..operands.len()).try_for_each(|o| operands[o].real(o))?;
    if params[0] > 1 {
        return Err(KernelError::Parameter { word: 0 });
    }
    let (dst, first) = (operands[0], operands[1]);
    // The second stands in an operand of its own, or behind the first.
    let (second, behind) = match operands.get(2) {
        Some(second) => {
            first.like(1, &dst)?;
            second.like(2, &dst)?;
            (*second, 0)
        }
        None => {
            let whole = dst.ne[0].checked_mul(2);
            first.size(1, 0, whole.ok_or(first.shape(1, 0, u32::MAX))?)?;
            (1..4).try_for_each(|d| first.size(1, d, dst.ne[d]))?;
            (first, dst.length())
        }
    };
    if dst.is_empty() {
        return Ok(Work::default());
    }
    apart(operands, operands.len() == 3)?;
    let (mut a, mut b) = ([0.0; STRIP], [0.0; STRIP]);
    for at in 0..dst.rows() {
        let row = dst.row(at);
        strips(dst.length(), STRIP, |from, length| {
            pace.spend(16 + 2 * cost * length as u64)?;
            let (a, b) = (&mut a[..length], &mut b[..length]);
            first.load(row, from, a);
            second.load(row, behind + from, b);
            for (a, &b) in a.iter_mut().zip(&*b) {
                *a = if params[0] == 0 {
                    gate(*a) * b
                } else {
                    *a * gate(b)
                };
            }
            dst.store(row, from, a);
            Ok(())
        })?;
    }
    Ok(work(operands, cost))
}
