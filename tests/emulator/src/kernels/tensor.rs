//! A tensor in shared memory: parts of rows go in and out of private buffers, nothing else touches it.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use jalapeno_hw::kernels::DType;

use super::{blocks, pack};

/// An operand whose whole extent was checked.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// Where element 0 stands in this process.
    pub base: *mut u8,
    /// Its device address: what overlap is judged by.
    pub address: u64,
    /// Element type.
    pub ty: DType,
    /// Elements in each dimension.
    pub ne: [u32; 4],
    /// Bytes from one element (of dimension 0: block) to the next in each dimension.
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
    reach(ty, ne, nb).ok()
}

/// The same, with the dimension that overflows.
///
/// # Errors
/// The first dimension whose stride leads too far.
pub fn reach(ty: DType, ne: [u32; 4], nb: [u64; 4]) -> Result<u64, usize> {
    if ne.contains(&0) {
        return Ok(0);
    }
    let block = u64::from(ty.block_elements());
    if !u64::from(ne[0]).is_multiple_of(block) {
        return Err(0);
    }
    let mut bytes = u64::from(ty.block_bytes());
    for d in 0..4 {
        let steps = if d == 0 {
            u64::from(ne[0]) / block - 1
        } else {
            u64::from(ne[d] - 1)
        };
        bytes = steps
            .checked_mul(nb[d])
            .and_then(|part| part.checked_add(bytes))
            .filter(|&bytes| bytes < 1 << 62)
            .ok_or(d)?;
    }
    Ok(bytes)
}

impl Operand {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.ne.contains(&0)
    }

    /// Elements; of sizes that no memory holds as many as can be counted.
    pub fn elements(&self) -> u64 {
        if self.is_empty() {
            return 0;
        }
        let sizes = self.ne.iter().map(|&n| u64::from(n));
        sizes.fold(1, u64::saturating_mul)
    }

    /// Bytes of its elements.
    pub fn bytes(&self) -> u64 {
        self.bytes_of(self.elements())
    }

    /// Bytes of so many elements of its type.
    pub fn bytes_of(&self, elements: u64) -> u64 {
        let blocks = elements / u64::from(self.ty.block_elements());
        blocks.saturating_mul(self.ty.block_bytes().into())
    }

    /// Elements of a row.
    pub fn length(&self) -> usize {
        self.ne[0] as usize
    }

    /// Rows: all dimensions but the first.
    pub fn rows(&self) -> usize {
        let sizes = self.ne[1..].iter().map(|&n| n as usize);
        if self.ne[1..].contains(&0) {
            return 0;
        }
        sizes.fold(1, usize::saturating_mul)
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

    /// Blocks (or elements) in each dimension.
    pub fn blocks(&self) -> [u32; 4] {
        let [n0, n1, n2, n3] = self.ne;
        [n0 / self.ty.block_elements(), n1, n2, n3]
    }

    /// The address of an element of a row; where it stands in a block, the first of one.
    pub fn at(&self, row: [u32; 3], element: usize) -> *mut u8 {
        debug_assert!((0..3).all(|d| row[d] < self.ne[d + 1]));
        let offset: u64 = (0..3).map(|d| u64::from(row[d]) * self.nb[d + 1]).sum();
        let offset = offset + element as u64 / u64::from(self.ty.block_elements()) * self.nb[0];
        self.base.wrapping_add(usize::try_from(offset).unwrap_or(0))
    }

    /// Its elements stand next to each other in a row.
    pub fn is_dense(&self) -> bool {
        self.nb[0] == u64::from(self.ty.block_bytes()) || self.ne[0] <= self.ty.block_elements()
    }

    fn step(&self) -> usize {
        usize::try_from(self.nb[0]).unwrap_or(0)
    }

    /// Loads elements of a row from `first` on, as f32; whole blocks.
    pub fn load(&self, row: [u32; 3], first: usize, into: &mut [f32]) {
        debug_assert!(first + into.len() <= self.length());
        debug_assert!(into.len().is_multiple_of(self.ty.block_elements() as usize));
        let (at, step) = (self.at(row, first), self.step());
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
            DType::F16 if self.is_dense() => halves(into, at),
            DType::F16 => each(into, at, step, |bits: u16| f16::from_bits(bits).to_f32()),
            DType::Bf16 => each(into, at, step, |bits: u16| {
                f32::from_bits(u32::from(bits) << 16)
            }),
            #[expect(
                clippy::cast_precision_loss,
                reason = "the conversion that COPY defines"
            )]
            DType::I32 => each(into, at, step, |value: i32| value as f32),
            DType::Q4_0 => unpack(into, at, step, blocks::q4_0),
            DType::Q8_0 => unpack(into, at, step, blocks::q8_0),
            DType::Q4K => unpack(into, at, step, blocks::q4_k),
            DType::Q6K => unpack(into, at, step, blocks::q6_k),
            DType::I64 => {}
        }
    }

    /// Stores elements of a row from `first` on, rounding to nearest even; whole blocks.
    pub fn store(&self, row: [u32; 3], first: usize, from: &[f32]) {
        debug_assert!(first + from.len() <= self.length());
        let (at, step) = (self.at(row, first), self.step());
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
            DType::Q4_0 => pack(from, at, step, pack::q4_0),
            DType::Q8_0 => pack(from, at, step, pack::q8_0),
            DType::I64 | DType::Q4K | DType::Q6K => {}
        }
    }

    /// Stores an index, an I32 below 2^31.
    pub fn put_index(&self, row: [u32; 3], element: usize, index: u32) {
        // SAFETY: the element lies in the destination's checked extent.
        unsafe { self.at(row, element).cast::<u32>().write_unaligned(index) };
    }

    /// Loads an index (I32 or I64) of a row.
    pub fn index(&self, row: [u32; 3], element: usize) -> i64 {
        let at = self.at(row, element);
        match self.ty {
            // SAFETY: the element lies in the operand's checked extent.
            DType::I64 => unsafe { at.cast::<i64>().read_unaligned() },
            // SAFETY: as above.
            _ => i64::from(unsafe { at.cast::<i32>().read_unaligned() }),
        }
    }
}

/// Runs `body` with the beginnings and lengths that cover `length` elements.
pub fn strips<E>(
    length: usize,
    most: usize,
    mut body: impl FnMut(usize, usize) -> Result<(), E>,
) -> Result<(), E> {
    (0..length)
        .step_by(most.max(1))
        .try_for_each(|first| body(first, most.min(length - first)))
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

/// Halves that stand next to each other, many at a time.
fn halves(into: &mut [f32], at: *const u8) {
    let mut private = [f16::ZERO; 256];
    for (i, into) in into.chunks_mut(256).enumerate() {
        let halves = &mut private[..into.len()];
        // SAFETY: elements from 256 i on lie in the operand's checked extent; any bits are a half.
        unsafe {
            std::ptr::copy_nonoverlapping(
                at.wrapping_add(512 * i),
                halves.as_mut_ptr().cast::<u8>(),
                2 * halves.len(),
            )
        };
        halves.convert_to_f32_slice(into);
    }
}

/// Values of whole blocks.
fn unpack<const N: usize, const BYTES: usize>(
    into: &mut [f32],
    at: *const u8,
    step: usize,
    values: impl Fn(&[u8; BYTES], &mut [f32; N]),
) {
    for (i, into) in into.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        // SAFETY: block i lies in the operand's checked extent; bytes have no alignment.
        let block = unsafe { at.wrapping_add(i * step).cast::<[u8; BYTES]>().read() };
        values(&block, into);
    }
}

/// Makes whole blocks.
fn pack<const N: usize, const BYTES: usize>(
    from: &[f32],
    at: *mut u8,
    step: usize,
    make: impl Fn(&[f32; N]) -> [u8; BYTES],
) {
    for (i, from) in from.as_chunks::<N>().0.iter().enumerate() {
        let block = at.wrapping_add(i * step).cast::<[u8; BYTES]>();
        // SAFETY: block i lies in the destination's checked extent; bytes have no alignment.
        unsafe { block.write(make(from)) };
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
