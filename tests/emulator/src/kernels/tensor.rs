//! A tensor in shared memory: rows go in and out of private buffers, nothing else touches it.

use half::{bf16, f16};
use jalapeno_hw::kernels::DType;

use super::KernelError;

/// An operand whose whole extent was checked.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// Address of element 0.
    pub base: *mut u8,
    /// Element type.
    pub ty: DType,
    /// Elements in each dimension.
    pub ne: [u32; 4],
    /// Bytes from one element to the next in each dimension.
    pub nb: [u64; 4],
}

// SAFETY: the memory is shared with the client anyway and is touched by raw loads and stores only;
// threads of one kernel write disjoint rows.
unsafe impl Send for Operand {}
// SAFETY: as above.
unsafe impl Sync for Operand {}

/// Bytes from element 0 to one past the last; 0 for an empty tensor, `None` on overflow.
#[must_use]
pub fn extent(ty: DType, ne: [u32; 4], nb: [u64; 4]) -> Option<u64> {
    if ne.contains(&0) {
        return Some(0);
    }
    let block = u64::from(ty.block_elements());
    if !u64::from(ne[0]).is_multiple_of(block) {
        return None;
    }
    let mut last = (u64::from(ne[0]) / block - 1).checked_mul(nb[0])?;
    for d in 1..4 {
        last = last.checked_add(u64::from(ne[d] - 1).checked_mul(nb[d])?)?;
    }
    last.checked_add(u64::from(ty.block_bytes()))
        .filter(|&bytes| bytes < 1 << 62)
}

impl Operand {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.ne.contains(&0)
    }

    /// Elements.
    pub fn elements(&self) -> u64 {
        self.ne.iter().map(|&n| u64::from(n)).product()
    }

    /// Bytes of its elements.
    pub fn bytes(&self) -> u64 {
        self.elements() / u64::from(self.ty.block_elements()) * u64::from(self.ty.block_bytes())
    }

    /// Rows: all dimensions but the first.
    pub fn rows(&self) -> usize {
        self.ne[1..].iter().map(|&n| n as usize).product()
    }

    /// A row's three indices.
    pub fn row(&self, at: usize) -> [u32; 3] {
        let (n1, n2) = (self.ne[1] as usize, self.ne[2] as usize);
        // Each is below its ne, a u32.
        #[expect(clippy::cast_possible_truncation, reason = "bounded by ne")]
        [
            (at % n1) as u32,
            (at / n1 % n2) as u32,
            (at / n1 / n2) as u32,
        ]
    }

    /// The address of a row's first element.
    pub fn at(&self, row: [u32; 3]) -> *mut u8 {
        let offset: u64 = (0..3).map(|d| u64::from(row[d]) * self.nb[d + 1]).sum();
        debug_assert!((0..3).all(|d| row[d] < self.ne[d + 1]));
        self.base.wrapping_add(usize::try_from(offset).unwrap_or(0))
    }

    /// Its elements stand next to each other in a row.
    pub fn is_dense(&self) -> bool {
        self.nb[0] == u64::from(self.ty.block_bytes()) || self.ne[0] <= self.ty.block_elements()
    }

    /// Whether it holds real numbers.
    pub fn is_real(&self) -> bool {
        matches!(self.ty, DType::F32 | DType::F16 | DType::Bf16)
    }

    /// Loads a row, or its beginning, as f32.
    pub fn load(&self, row: [u32; 3], into: &mut [f32]) {
        debug_assert!(into.len() <= self.ne[0] as usize);
        let at = self.at(row);
        let step = usize::try_from(self.nb[0]).unwrap_or(0);
        match self.ty {
            DType::F32 if self.is_dense() => {
                // SAFETY: the row lies in the operand's checked extent; `into` is private.
                unsafe {
                    std::ptr::copy_nonoverlapping(
                        at,
                        into.as_mut_ptr().cast::<u8>(),
                        4 * into.len(),
                    )
                };
            }
            DType::F32 => each(into, at, step, f32::from_bits),
            DType::F16 => each(into, at, step, |bits: u16| f16::from_bits(bits).to_f32()),
            DType::Bf16 => each(into, at, step, |bits: u16| {
                f32::from_bits(u32::from(bits) << 16)
            }),
            #[expect(
                clippy::cast_precision_loss,
                reason = "the conversion that COPY defines"
            )]
            DType::I32 => each(into, at, step, |value: i32| value as f32),
            #[expect(clippy::cast_precision_loss, reason = "as above")]
            DType::I64 => each(into, at, step, |value: i64| value as f32),
            DType::Q4_0 | DType::Q8_0 | DType::Q4K | DType::Q6K => {}
        }
    }

    /// Stores a row, rounding to nearest even.
    pub fn store(&self, row: [u32; 3], from: &[f32]) {
        debug_assert!(from.len() <= self.ne[0] as usize);
        let at = self.at(row);
        let step = usize::try_from(self.nb[0]).unwrap_or(0);
        match self.ty {
            DType::F32 if self.is_dense() => {
                // SAFETY: the row lies in the destination's checked extent.
                unsafe {
                    std::ptr::copy_nonoverlapping(from.as_ptr().cast::<u8>(), at, 4 * from.len())
                };
            }
            DType::F32 => put(from, at, step, f32::to_bits),
            DType::F16 => put(from, at, step, |value| f16::from_f32(value).to_bits()),
            DType::Bf16 => put(from, at, step, |value| bf16::from_f32(value).to_bits()),
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the conversion that COPY defines: saturating"
            )]
            DType::I32 => put(from, at, step, |value| value as i32),
            #[expect(clippy::cast_possible_truncation, reason = "as above")]
            DType::I64 => put(from, at, step, |value| value as i64),
            DType::Q4_0 | DType::Q8_0 | DType::Q4K | DType::Q6K => {}
        }
    }

    /// Loads an index (I32 or I64) of a row.
    pub fn index(&self, row: [u32; 3], element: u32) -> i64 {
        let offset = u64::from(element) * self.nb[0];
        let at = self
            .at(row)
            .wrapping_add(usize::try_from(offset).unwrap_or(0));
        match self.ty {
            // SAFETY: the element lies in the operand's checked extent.
            DType::I64 => unsafe { at.cast::<i64>().read_unaligned() },
            // SAFETY: as above.
            _ => i64::from(unsafe { at.cast::<i32>().read_unaligned() }),
        }
    }

    /// Whether another operand is the very same view.
    fn is(&self, other: &Self) -> bool {
        self.base == other.base && self.ty == other.ty && self.ne == other.ne && self.nb == other.nb
    }

    fn overlaps(&self, other: &Self) -> bool {
        let reach = |o: &Self| {
            let bytes = extent(o.ty, o.ne, o.nb)
                .and_then(|bytes| usize::try_from(bytes).ok())
                .unwrap_or(usize::MAX);
            (o.base as usize, (o.base as usize).saturating_add(bytes))
        };
        let ((a, a_end), (b, b_end)) = (reach(self), reach(other));
        !self.is_empty() && !other.is_empty() && a < b_end && b < a_end
    }

    /// Wants real numbers.
    pub fn real(&self, operand: usize) -> Result<(), KernelError> {
        if self.is_real() {
            Ok(())
        } else {
            Err(KernelError::Type { operand })
        }
    }

    /// Wants indices.
    pub fn indices(&self, operand: usize) -> Result<(), KernelError> {
        if matches!(self.ty, DType::I32 | DType::I64) {
            Ok(())
        } else {
            Err(KernelError::Type { operand })
        }
    }

    /// Wants this size in a dimension.
    pub fn size(&self, operand: usize, dimension: usize, wanted: u32) -> Result<(), KernelError> {
        let found = self.ne[dimension];
        if found == wanted {
            Ok(())
        } else {
            Err(KernelError::Shape {
                operand,
                dimension,
                found,
                wanted,
            })
        }
    }

    /// Wants a size that divides `whole`, so that it can be repeated.
    pub fn divides(&self, operand: usize, dimension: usize, whole: u32) -> Result<(), KernelError> {
        let found = self.ne[dimension];
        if found != 0 && whole.is_multiple_of(found) {
            return Ok(());
        }
        Err(KernelError::Shape {
            operand,
            dimension,
            found,
            wanted: whole,
        })
    }

    /// Wants the same shape.
    pub fn like(&self, operand: usize, other: &Self) -> Result<(), KernelError> {
        (0..4).try_for_each(|d| self.size(operand, d, other.ne[d]))
    }
}

/// Wants a destination apart from its sources; `same` permits one that is the very same view.
pub fn apart(operands: &[Operand], same: bool) -> Result<(), KernelError> {
    for (operand, source) in operands.iter().enumerate().skip(1) {
        if operands[0].overlaps(source) && !(same && operands[0].is(source)) {
            return Err(KernelError::Overlap { operand });
        }
    }
    Ok(())
}

/// Runs `body` with a private row of f32; short rows stand on the stack.
pub fn scratch<R>(length: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    const SHORT: usize = 1024;
    if length <= SHORT {
        body(&mut [0.0; SHORT][..length])
    } else {
        body(&mut vec![0.0; length])
    }
}

fn each<T: Copy>(into: &mut [f32], at: *const u8, step: usize, convert: impl Fn(T) -> f32) {
    if step == size_of::<T>() {
        // The dense loop, apart so that it is vectorised.
        for (i, value) in into.iter_mut().enumerate() {
            // SAFETY: element i lies in the operand's checked extent.
            *value = convert(unsafe { at.cast::<T>().add(i).read_unaligned() });
        }
        return;
    }
    for (i, value) in into.iter_mut().enumerate() {
        // SAFETY: as above.
        *value = convert(unsafe { at.wrapping_add(i * step).cast::<T>().read_unaligned() });
    }
}

fn put<T>(from: &[f32], at: *mut u8, step: usize, convert: impl Fn(f32) -> T) {
    for (i, &value) in from.iter().enumerate() {
        // SAFETY: element i lies in the destination's checked extent.
        unsafe {
            at.wrapping_add(i * step)
                .cast::<T>()
                .write_unaligned(convert(value))
        };
    }
}
