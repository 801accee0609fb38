//! The verdict on a result: within the tolerance of docs/kernels.md 2.2, and nothing else touched.

use super::case::{Case, Expected, View};

/// A type's least exponent, bits of its fraction, and the size beyond which it rounds to infinity.
fn form(dtype: u32) -> (i32, i32, f64) {
    match dtype {
        1 => (-14, 10, 65520.0),
        30 => (-126, 7, (2.0 - 2f64.powi(-8)) * 2f64.powi(127)),
        _ => (-126, 23, (2.0 - 2f64.powi(-24)) * 2f64.powi(127)),
    }
}

/// The distance between neighbours of a type at y.
pub fn ulp(dtype: u32, y: f64) -> f64 {
    let (least, fraction, infinite) = form(dtype);
    let size = y.abs().min(infinite);
    // Exact: the exponent of a binary64, whatever its rounding.
    let exponent = if size < 2f64.powi(least) {
        least
    } else {
        i32::try_from(size.to_bits() >> 52).unwrap() - 1023
    };
    2f64.powi(exponent - fraction)
}

/// The error of a result as a share of what is permitted; `None` where it is not right.
pub fn share(dtype: u32, got: f64, y: f64, e: f32) -> Option<f64> {
    if y.is_nan() {
        return got.is_nan().then_some(0.0);
    }
    let room = f64::from(e) + ulp(dtype, y);
    let (_, _, infinite) = form(dtype);
    if got.is_infinite() {
        let right = got.signum() == y.signum() && y.abs() > infinite - room;
        return right.then_some(0.0);
    }
    if y.is_infinite() || y.abs() > infinite + room {
        return None;
    }
    let share = (got - y).abs() / room;
    (share <= 1.0).then_some(share)
}

fn decode(dtype: u32, bytes: &[u8]) -> f64 {
    let half = || u16::from_le_bytes(bytes.try_into().unwrap());
    match dtype {
        0 => f32::from_le_bytes(bytes.try_into().unwrap()).into(),
        1 => {
            // By hand: the crate that converts for the kernels is not the judge of them.
            let (sign, exponent, fraction) = (half() >> 15, half() >> 10 & 31, half() & 1023);
            let size = match exponent {
                0 => f64::from(fraction) * 2f64.powi(-24),
                31 if fraction == 0 => f64::INFINITY,
                31 => f64::NAN,
                _ => f64::from(1024 + fraction) * 2f64.powi(i32::from(exponent) - 25),
            };
            if sign == 1 { -size } else { size }
        }
        30 => f32::from_bits(u32::from(half()) << 16).into(),
        _ => panic!("type {dtype} is not real"),
    }
}

fn is_real(dtype: u32) -> bool {
    matches!(dtype, 0 | 1 | 30)
}

/// Judges the buffers after a kernel that ended well. Gives the worst error as a share of what is
/// permitted, or what is wrong.
pub fn judge(case: &Case, after: &[Vec<u8>]) -> Result<f64, String> {
    let view = &case.operands[0];
    let size = view.element_bytes();
    let mut untouched = case.buffers[view.buffer].clone();
    let mut worst = 0.0f64;
    for (index, at) in view.offsets().into_iter().enumerate() {
        let at = usize::try_from(at).unwrap();
        let got = &after[view.buffer][at..at + size];
        untouched[at..at + size].copy_from_slice(got);
        worst = worst.max(element(case, view, index, got)?);
    }
    for (index, (before, after)) in case.buffers.iter().zip(after).enumerate() {
        let before = if index == view.buffer {
            &untouched
        } else {
            before
        };
        if let Some(at) = (0..before.len()).find(|&at| before[at] != after[at]) {
            return Err(format!("byte {at} of buffer {index} was written"));
        }
    }
    Ok(worst)
}

fn element(case: &Case, view: &View, index: usize, got: &[u8]) -> Result<f64, String> {
    let size = view.element_bytes();
    let fits = match &case.expected {
        Expected::Near(y, e) => share(view.dtype, decode(view.dtype, got), y[index], e[index]),
        Expected::Exact(bytes) => {
            let wanted = &bytes[index * size..(index + 1) * size];
            let nan = |bytes| is_real(view.dtype) && decode(view.dtype, bytes).is_nan();
            (got == wanted || nan(got) && nan(wanted)).then_some(0.0)
        }
        Expected::Refused(code, _) => return Err(format!("it was not refused with {code:#06x}")),
    };
    fits.ok_or_else(|| match &case.expected {
        Expected::Near(y, e) => format!(
            "element {index}: {:e}, not {:e} within {:e}",
            decode(view.dtype, got),
            y[index],
            f64::from(e[index]) + ulp(view.dtype, y[index])
        ),
        Expected::Exact(bytes) => format!(
            "element {index}: bytes {got:02x?}, not {:02x?}",
            &bytes[index * size..(index + 1) * size]
        ),
        Expected::Refused(..) => String::new(),
    })
}

/// Judges the buffers and the answer (code, operand plus 1) after a kernel that was refused.
pub fn judge_refusal(case: &Case, answer: (u32, u32), after: &[Vec<u8>]) -> Result<(), String> {
    let Expected::Refused(code, operand) = case.expected else {
        return Err(format!(
            "it was refused with {:#06x}, operand {}",
            answer.0, answer.1
        ));
    };
    if answer.0 != code || operand != 0 && answer.1 != operand {
        return Err(format!(
            "refused with {:#06x}, operand {}, not {code:#06x}, operand {operand}",
            answer.0, answer.1
        ));
    }
    if case.buffers != after {
        return Err("it was refused and something was written".to_owned());
    }
    Ok(())
}
