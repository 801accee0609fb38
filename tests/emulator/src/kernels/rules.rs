//! Rules that operands must satisfy. Kernels 1.3 to 1.5.

use jalapeno_hw::kernels::DType;

use super::tensor::{Operand, extent};
use super::{KernelError, KernelId};

/// Words of Parameters that a kernel names.
fn words(kernel: KernelId) -> usize {
    match kernel {
        KernelId::RmsNorm | KernelId::Swiglu | KernelId::Geglu | KernelId::Argsort => 1,
        KernelId::SoftMax | KernelId::Scale | KernelId::Clamp => 2,
        KernelId::Sample => 3,
        KernelId::Attention => 6,
        KernelId::Rope => 14,
        _ => 0,
    }
}

/// Wants zeros in the words that the kernel does not name.
pub fn unnamed(kernel: KernelId, params: &[u32; 16]) -> Result<(), KernelError> {
    match (words(kernel)..16).find(|&word| params[word] != 0) {
        Some(word) => Err(KernelError::Reserved { word }),
        None => Ok(()),
    }
}

/// Wants a number of operands.
pub fn count(
    operands: &[Operand],
    wanted: std::ops::RangeInclusive<usize>,
) -> Result<(), KernelError> {
    if wanted.contains(&operands.len()) {
        return Ok(());
    }
    Err(KernelError::Operands {
        found: operands.len(),
        wanted: *wanted.start(),
    })
}

/// An operand that may be absent: left out, or without a row.
pub fn present(operands: &[Operand], operand: usize) -> Option<Operand> {
    operands.get(operand).copied().filter(|it| it.ne[0] > 0)
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

impl Operand {
    /// Whether it holds real numbers.
    fn is_real(&self) -> bool {
        matches!(self.ty, DType::F32 | DType::F16 | DType::Bf16)
    }

    /// Whether another operand is the very same view.
    fn is(&self, other: &Self) -> bool {
        self.address == other.address
            && self.ty == other.ty
            && self.ne == other.ne
            && self.nb == other.nb
    }

    /// Whether extents meet, as addresses or, where two addresses show one memory, in it.
    fn overlaps(&self, other: &Self) -> bool {
        let bytes = |o: &Self| extent(o.ty, o.ne, o.nb).unwrap_or(u64::MAX);
        let meet = |a: u64, b: u64| {
            a < b.saturating_add(bytes(other)) && b < a.saturating_add(bytes(self))
        };
        !self.is_empty()
            && !other.is_empty()
            && (meet(self.address, other.address)
                || meet(self.base.addr() as u64, other.base.addr() as u64))
    }

    /// Wants elements that have no byte in common.
    pub fn spread(&self) -> Result<(), KernelError> {
        if self.is_empty() {
            return Ok(());
        }
        let mut order = [0, 1, 2, 3];
        order.sort_by_key(|&d| self.nb[d]);
        let mut reach = u64::from(self.ty.block_bytes());
        let count = self.blocks();
        for dimension in order.into_iter().filter(|&d| count[d] > 1) {
            if self.nb[dimension] < reach {
                return Err(KernelError::Stride {
                    operand: 0,
                    dimension,
                });
            }
            let steps = u64::from(count[dimension] - 1);
            reach = reach.saturating_add(steps.saturating_mul(self.nb[dimension]));
        }
        Ok(())
    }

    /// Wants real numbers.
    pub fn real(&self, operand: usize) -> Result<(), KernelError> {
        if self.is_real() {
            Ok(())
        } else {
            Err(KernelError::Type { operand })
        }
    }

    /// Wants real numbers, alone or in blocks.
    pub fn numbers(&self, operand: usize) -> Result<(), KernelError> {
        if self.ty.block_elements() > 1 {
            Ok(())
        } else {
            self.real(operand)
        }
    }

    /// Wants a type that real numbers are rounded to: real, or blocks that can be made. Kernels 1.8.
    pub fn takes_reals(&self, operand: usize) -> Result<(), KernelError> {
        if matches!(self.ty, DType::Q4_0 | DType::Q8_0) {
            Ok(())
        } else {
            self.real(operand)
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

    /// The error of a size.
    pub fn shape(&self, operand: usize, dimension: usize, wanted: u32) -> KernelError {
        KernelError::Shape {
            operand,
            dimension,
            found: self.ne[dimension],
            wanted,
        }
    }

    /// Wants this size in a dimension.
    pub fn size(&self, operand: usize, dimension: usize, wanted: u32) -> Result<(), KernelError> {
        if self.ne[dimension] == wanted {
            Ok(())
        } else {
            Err(self.shape(operand, dimension, wanted))
        }
    }

    /// Wants a size that divides `whole`, so that it can be repeated.
    pub fn divides(&self, operand: usize, dimension: usize, whole: u32) -> Result<(), KernelError> {
        let found = self.ne[dimension];
        if found != 0 && whole.is_multiple_of(found) {
            Ok(())
        } else {
            Err(self.shape(operand, dimension, whole))
        }
    }

    /// Wants the same shape.
    pub fn like(&self, operand: usize, other: &Self) -> Result<(), KernelError> {
        (0..4).try_for_each(|d| self.size(operand, d, other.ne[d]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(ne: [u32; 4], nb: [u64; 4]) -> bool {
        let operand = Operand {
            base: std::ptr::null_mut(),
            address: 0,
            ty: DType::F32,
            ne,
            nb,
        };
        operand.spread().is_ok()
    }

    #[test]
    fn a_destination_is_spread_in_any_order_of_its_dimensions() {
        assert!(spread([3, 4, 5, 1], [4, 12, 48, 0]), "dense");
        assert!(spread([3, 4, 5, 1], [80, 4, 16, 7]), "permuted");
        assert!(
            spread([3, 1, 1, 1], [4, 0, 0, 0]),
            "sizes of 1 need no stride"
        );
        assert!(spread([0, 9, 9, 9], [0, 0, 0, 0]), "empty");
        assert!(spread([2, 2, 1, 1], [1 << 61, 4, 0, 0]), "far apart");
    }

    #[test]
    fn a_destination_that_meets_itself_is_not_spread() {
        assert!(!spread([3, 2, 1, 1], [4, 0, 0, 0]), "repeated");
        assert!(!spread([3, 2, 1, 1], [4, 8, 0, 0]), "rows that meet");
        assert!(!spread([2, 1, 1, 1], [2, 0, 0, 0]), "elements that meet");
        assert!(!spread([3, 2, 2, 1], [8, 4, 8, 0]), "two equal strides");
    }
}
