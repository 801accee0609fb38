//! The order of a row's elements: ARGSORT, TOP_K.

use jalapeno_hw::kernels::DType;

use super::pace::Pace;
use super::rules::{apart, count};
use super::tensor::{Operand, strips};
use super::{KernelError, Work};

/// Elements handled at a time.
pub(super) const STRIP: usize = 1 << 14;
/// Longest row sorted in one piece of work.
const SHORT: usize = 1 << 15;
/// Longest row: it is held as keys.
pub(super) const MOST: u32 = 1 << 24;

/// Which end of the order comes first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Ascending,
    Descending,
}

impl Order {
    /// A key that grows in this order. Both zeros have one key, NaN the greatest.
    fn key(self, x: f32) -> u32 {
        if x.is_nan() {
            return u32::MAX;
        }
        // Adding a zero makes one of both.
        let bits = (x + 0.0).to_bits();
        let ascending = if bits >> 31 == 1 {
            !bits
        } else {
            bits | 1 << 31
        };
        match self {
            Self::Ascending => ascending,
            Self::Descending => !ascending,
        }
    }

    /// What gave a key, with one zero for both.
    fn value(self, key: u32) -> f32 {
        let ascending = match self {
            _ if key == u32::MAX => return f32::NAN,
            Self::Ascending => key,
            Self::Descending => !key,
        };
        f32::from_bits(if ascending >> 31 == 1 {
            ascending & !(1 << 31)
        } else {
            !ascending
        })
    }
}

/// Rows held as keys, each with its index below it: no two are equal.
pub(super) struct Keys {
    order: Order,
    line: Vec<f32>,
    keys: Vec<u64>,
    spare: Vec<u64>,
}

impl Keys {
    pub fn new(order: Order) -> Self {
        Self {
            order,
            line: vec![0.0; STRIP],
            keys: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// A row's first `first` elements, in order: each one's index, and what it was when it was read.
    pub fn sorted(
        &mut self,
        src: &Operand,
        row: [u32; 3],
        first: usize,
        pace: &Pace<'_>,
    ) -> Result<impl Iterator<Item = (u32, f32)> + '_, KernelError> {
        self.keys.clear();
        strips(src.length(), STRIP, |first, length| {
            pace.spend(16 + 4 * length as u64)?;
            let line = &mut self.line[..length];
            src.load(row, first, line);
            let order = self.order;
            let keys = (first as u64..).zip(&*line);
            self.keys
                .extend(keys.map(|(i, &x)| u64::from(order.key(x)) << 32 | i));
            Ok(())
        })?;
        if self.keys.len() > SHORT {
            self.distribute(pace)?;
        } else {
            let length = self.keys.len() as u64;
            pace.spend(16 + 2 * length * u64::from(length.max(1).ilog2()))?;
            if first < self.keys.len() {
                self.keys.select_nth_unstable(first);
                self.keys.truncate(first);
            }
            self.keys.sort_unstable();
        }
        let order = self.order;
        #[expect(clippy::cast_possible_truncation, reason = "each half is meant")]
        let elements = self
            .keys
            .iter()
            .map(move |&key| (key as u32, order.value((key >> 32) as u32)));
        Ok(elements.take(first))
    }

    /// Sorts by the keys' bytes, the least first; indices are in order already.
    fn distribute(&mut self, pace: &Pace<'_>) -> Result<(), KernelError> {
        self.spare.resize(self.keys.len(), 0);
        for byte in 4..8 {
            let digit = |key: u64| usize::from(key.to_le_bytes()[byte]);
            let mut places = [0usize; 256];
            for strip in self.keys.chunks(STRIP) {
                pace.spend(2 * strip.len() as u64)?;
                strip.iter().for_each(|&key| places[digit(key)] += 1);
            }
            let mut next = 0;
            for place in &mut places {
                next += std::mem::replace(place, next);
            }
            for strip in self.keys.chunks(STRIP) {
                pace.spend(4 * strip.len() as u64)?;
                for &key in strip {
                    let place = &mut places[digit(key)];
                    self.spare[*place] = key;
                    *place += 1;
                }
            }
            std::mem::swap(&mut self.keys, &mut self.spare);
        }
        Ok(())
    }
}

/// dst = indices that put each row in order; word 0: 0 ascending, 1 descending.
pub fn argsort(
    params: &[u32; 16],
    operands: &[Operand],
    pace: &Pace<'_>,
) -> Result<Work, KernelError> {
    let order = match params[0] {
        0 => Order::Ascending,
        1 => Order::Descending,
        _ => return Err(KernelError::Parameter { word: 0 }),
    };
    count(operands, 2..=2)?;
    operands[1].like(1, &operands[0])?;
    ordered(operands, order, pace)
}

/// dst = the indices of each row's largest elements, as many as it has room for.
pub fn top_k(operands: &[Operand], pace: &Pace<'_>) -> Result<Work, KernelError> {
    count(operands, 2..=2)?;
    let [dst, src] = [operands[0], operands[1]];
    if dst.ne[0] > src.ne[0] {
        return Err(dst.shape(0, 0, src.ne[0]));
    }
    (1..4).try_for_each(|d| src.size(1, d, dst.ne[d]))?;
    ordered(operands, Order::Descending, pace)
}

fn ordered(operands: &[Operand], order: Order, pace: &Pace<'_>) -> Result<Work, KernelError> {
    let [dst, src] = [operands[0], operands[1]];
    if dst.ty != DType::I32 {
        return Err(KernelError::Type { operand: 0 });
    }
    src.real(1)?;
    if dst.is_empty() {
        return Ok(Work::default());
    }
    if src.ne[0] > MOST {
        return Err(src.shape(1, 0, MOST));
    }
    apart(operands, false)?;
    let mut keys = Keys::new(order);
    for at in 0..dst.rows() {
        let row = dst.row(at);
        let elements = keys.sorted(&src, row, dst.length(), pace)?;
        for (element, (index, _)) in elements.enumerate() {
            if element % STRIP == STRIP - 1 {
                pace.spend(2 * STRIP as u64)?;
            }
            dst.put_index(row, element, index);
        }
    }
    let steps = u64::from(src.ne[0].max(1).ilog2()) + 1;
    Ok(Work {
        operations: src.elements() * steps,
        bytes_read: src.bytes(),
        bytes_written: dst.bytes(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gives_back_what_it_was_made_of() {
        let all = [
            0.0,
            1.0,
            -1.0,
            1e-45,
            -1e-45,
            f32::MAX,
            f32::MIN,
            f32::INFINITY,
        ];
        for order in [Order::Ascending, Order::Descending] {
            for x in all.into_iter().chain([f32::NEG_INFINITY]) {
                assert_eq!(order.value(order.key(x)).to_bits(), x.to_bits());
            }
            assert_eq!(order.value(order.key(-0.0)).to_bits(), 0);
            assert!(order.value(order.key(f32::NAN)).is_nan());
            assert!(order.value(order.key(-f32::NAN)).is_nan());
        }
    }
}
