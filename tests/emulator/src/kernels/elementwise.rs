//! Kernels that take each element for itself: sums, products, gates, conversions.

use super::tensor::{Operand, apart, scratch};
use super::{KernelError, Work, count};

/// Elements handled at a time.
const STRIP: usize = 512;

fn work(operands: &[Operand], per_element: u64) -> Work {
    Work {
        operations: operands[0].elements() * per_element,
        bytes_read: operands[1..].iter().map(Operand::bytes).sum(),
        bytes_written: operands[0].bytes(),
    }
}

/// dst = a op b, b repeated over a.
pub fn binary(operands: &[Operand], op: impl Fn(f32, f32) -> f32) -> Result<Work, KernelError> {
    count(operands, 3..=3)?;
    let [dst, a, b] = [operands[0], operands[1], operands[2]];
    (0..3).try_for_each(|o| operands[o].real(o))?;
    a.like(1, &dst)?;
    if dst.is_empty() {
        return Ok(Work::default());
    }
    (0..4).try_for_each(|d| b.divides(2, d, a.ne[d]))?;
    apart(operands, true)?;
    scratch(2 * dst.ne[0] as usize, |rows| {
        let (left, right) = rows.split_at_mut(dst.ne[0] as usize);
        for at in 0..dst.rows() {
            let row = dst.row(at);
            a.load(row, left);
            let right = &mut right[..b.ne[0] as usize];
            b.load(
                [row[0] % b.ne[1], row[1] % b.ne[2], row[2] % b.ne[3]],
                right,
            );
            for chunk in left.chunks_exact_mut(right.len()) {
                for (x, &y) in chunk.iter_mut().zip(&*right) {
                    *x = op(*x, y);
                }
            }
            dst.store(row, left);
        }
    });
    Ok(work(operands, 1))
}

fn unary(operands: &[Operand], cost: u64, op: impl Fn(f32) -> f32) -> Result<Work, KernelError> {
    count(operands, 2..=2)?;
    let [dst, src] = [operands[0], operands[1]];
    dst.real(0)?;
    src.real(1)?;
    src.like(1, &dst)?;
    if dst.is_empty() {
        return Ok(Work::default());
    }
    apart(operands, true)?;
    scratch(dst.ne[0] as usize, |line| {
        for at in 0..dst.rows() {
            let row = dst.row(at);
            src.load(row, line);
            line.iter_mut().for_each(|x| *x = op(*x));
            dst.store(row, line);
        }
    });
    Ok(work(operands, cost))
}

/// dst = src x word 0 + word 1.
pub fn scale(params: &[u32; 16], operands: &[Operand]) -> Result<Work, KernelError> {
    let (scale, bias) = (f32::from_bits(params[0]), f32::from_bits(params[1]));
    unary(operands, 2, |x| x * scale + bias)
}

fn sigmoid_weighted(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// dst = src x sigmoid(src).
pub fn silu(operands: &[Operand]) -> Result<Work, KernelError> {
    unary(operands, 4, sigmoid_weighted)
}

/// dst = silu(a) x b; with one source, a and b are its halves; word 0: they trade places.
pub fn swiglu(params: &[u32; 16], operands: &[Operand]) -> Result<Work, KernelError> {
    count(operands, 2..=3)?;
    (0..operands.len()).try_for_each(|o| operands[o].real(o))?;
    if params[0] > 1 {
        return Err(KernelError::Parameter { word: 0 });
    }
    let dst = operands[0];
    let length = dst.ne[0] as usize;
    if operands.len() == 2 {
        let whole = dst.ne[0].checked_mul(2).unwrap_or(0);
        operands[1].size(1, 0, whole)?;
        (1..4).try_for_each(|d| operands[1].size(1, d, dst.ne[d]))?;
    } else {
        operands[1].like(1, &dst)?;
        operands[2].like(2, &dst)?;
    }
    if dst.is_empty() {
        return Ok(Work::default());
    }
    apart(operands, operands.len() == 3)?;
    scratch(2 * length, |line| {
        for at in 0..dst.rows() {
            let row = dst.row(at);
            match operands.get(2) {
                None => operands[1].load(row, line),
                Some(second) => {
                    let (first, rest) = line.split_at_mut(length);
                    operands[1].load(row, first);
                    second.load(row, rest);
                }
            }
            let (first, rest) = line.split_at_mut(length);
            for (a, b) in first.iter_mut().zip(rest) {
                *a = if params[0] == 0 {
                    sigmoid_weighted(*a) * *b
                } else {
                    *a * sigmoid_weighted(*b)
                };
            }
            dst.store(row, first);
        }
    });
    Ok(work(operands, 5))
}

/// dst = src in logical order, converted; shapes may differ, the number of elements may not.
pub fn copy(operands: &[Operand]) -> Result<Work, KernelError> {
    count(operands, 2..=2)?;
    let [dst, src] = [operands[0], operands[1]];
    let exact = dst.ty == src.ty;
    if !exact {
        dst.real(0)?;
        src.real(1)?;
    }
    if dst.ty.block_elements() != 1 {
        return Err(KernelError::Type { operand: 0 });
    }
    if dst.elements() != src.elements() {
        return Err(KernelError::Shape {
            operand: 1,
            dimension: 0,
            found: src.ne[0],
            wanted: dst.ne[0],
        });
    }
    if dst.is_empty() {
        return Ok(Work::default());
    }
    apart(operands, true)?;
    // Strips that stay inside one row of each.
    let (mut from, mut to) = (Cursor::new(src), Cursor::new(dst));
    let mut left = dst.elements();
    while left > 0 {
        let strip = from.room().min(to.room()).min(STRIP);
        let (source, target) = (from.strip(strip), to.strip(strip));
        if exact {
            move_exactly(&source, &target);
        } else {
            scratch(strip, |line| {
                source.load([0; 3], line);
                target.store([0; 3], line);
            });
        }
        left -= strip as u64;
    }
    Ok(work(operands, 0))
}

/// A place in a tensor's logical order.
struct Cursor {
    tensor: Operand,
    element: usize,
    row: usize,
}

impl Cursor {
    fn new(tensor: Operand) -> Self {
        Self {
            tensor,
            element: 0,
            row: 0,
        }
    }

    fn room(&self) -> usize {
        self.tensor.ne[0] as usize - self.element
    }

    /// The next elements of this row as a tensor of one row, and on.
    fn strip(&mut self, length: usize) -> Operand {
        let t = self.tensor;
        let offset = usize::try_from(self.element as u64 * t.nb[0]).unwrap_or(0);
        let base = t.at(t.row(self.row)).wrapping_add(offset);
        self.element += length;
        if self.element == t.ne[0] as usize {
            self.element = 0;
            self.row += 1;
        }
        Operand {
            base,
            ne: [u32::try_from(length).unwrap_or(0), 1, 1, 1],
            nb: [t.nb[0], 0, 0, 0],
            ..t
        }
    }
}

fn move_exactly(from: &Operand, to: &Operand) {
    let bytes = from.ty.block_bytes() as usize;
    let (step_from, step_to) = (
        usize::try_from(from.nb[0]).unwrap_or(0),
        usize::try_from(to.nb[0]).unwrap_or(0),
    );
    let count = from.ne[0] as usize;
    if step_from == bytes && step_to == bytes {
        // SAFETY: a dense strip of each checked extent; `copy` lets them be the same.
        unsafe { std::ptr::copy(from.base, to.base, bytes * count) };
        return;
    }
    for i in 0..count {
        // SAFETY: element i of each checked extent.
        unsafe {
            std::ptr::copy(
                from.base.wrapping_add(i * step_from),
                to.base.wrapping_add(i * step_to),
                bytes,
            )
        };
    }
}
