//! COPY: elements in logical order, converted; shapes may differ, the number of elements may not.

use std::ops::Range;

use jalapeno_hw::kernels::DType;

use super::pace::Pace;
use super::rules::{apart, count};
use super::tensor::Operand;
use super::{KernelError, Work};

/// Elements handled at a time: whole blocks of every type.
const STRIP: usize = 1024;

/// Whether COPY converts from one type to another.
fn converts(from: &Operand, to: &Operand) -> bool {
    let pair = (from.ty, to.ty);
    from.ty == to.ty
        || matches!(pair, (DType::F32, DType::I32) | (DType::I32, DType::F32))
        || from.real(1).is_ok() && to.takes_reals(0).is_ok()
        || from.numbers(1).is_ok() && to.real(0).is_ok()
}

/// dst = src, element by element in logical order.
pub fn run(operands: &[Operand], pace: &Pace<'_>) -> Result<Work, KernelError> {
    count(operands, 2..=2)?;
    let [dst, src] = [operands[0], operands[1]];
    if !converts(&src, &dst) {
        return Err(KernelError::Type { operand: 1 });
    }
    if dst.is_empty() && src.is_empty() {
        return Ok(Work::default());
    }
    if dst.elements() != src.elements() {
        return Err(src.shape(1, 0, dst.ne[0]));
    }
    apart(operands, true)?;
    let (mut from, mut to) = (Cursor::new(src), Cursor::new(dst));
    let mut left = dst.elements();
    let mut line = [0.0; STRIP];
    while left > 0 {
        let strip = usize::try_from(left).unwrap_or(STRIP).min(STRIP);
        pace.spend(16 + 2 * strip as u64)?;
        if dst.ty == src.ty {
            // Strips that stay inside one row of each.
            let strip = from.room().min(to.room()).min(strip);
            move_exactly(&from.strip(strip), &to.strip(strip));
            left -= strip as u64;
            continue;
        }
        // A block may take its elements from several rows, and give them to several.
        let line = &mut line[..strip];
        from.through(strip, |part, range| part.load([0; 3], 0, &mut line[range]));
        to.through(strip, |part, range| part.store([0; 3], 0, &line[range]));
        left -= strip as u64;
    }
    Ok(Work {
        operations: 0,
        bytes_read: src.bytes(),
        bytes_written: dst.bytes(),
    })
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

    /// The next elements, as parts of rows, each with its place among them.
    fn through(&mut self, length: usize, mut body: impl FnMut(&Operand, Range<usize>)) {
        let mut first = 0;
        while first < length {
            let part = self.room().min(length - first);
            body(&self.strip(part), first..first + part);
            first += part;
        }
    }

    /// The next elements of this row as a tensor of one row, and on.
    fn strip(&mut self, length: usize) -> Operand {
        let t = self.tensor;
        let base = t.at(t.row(self.row), self.element);
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
    let count = from.blocks()[0] as usize;
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
