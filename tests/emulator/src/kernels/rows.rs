//! GET_ROWS and SET_ROWS: rows of a table by index, the indices copied and checked first.

use super::pace::Pace;
use super::rules::{apart, count};
use super::tensor::{Operand, strips};
use super::{KernelError, Work};

/// Elements handled at a time.
const STRIP: usize = 1024;
/// Indices copied at a time.
pub(super) const INDICES: usize = 1 << 14;
/// Most indices: they are all copied before the first store.
const MOST: u64 = 1 << 24;

/// Copies all indices once and checks each against the table.
pub(super) fn indices(
    operand: &Operand,
    number: usize,
    rows: u32,
    pace: &Pace<'_>,
) -> Result<Vec<u32>, KernelError> {
    let count = operand.elements();
    if count > MOST {
        return Err(operand.shape(number, 0, 1 << 24));
    }
    let mut all = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
    for at in 0..operand.rows() {
        let row = operand.row(at);
        strips(operand.length(), INDICES, |first, length| {
            pace.spend(16 + 2 * length as u64)?;
            for element in first..first + length {
                let index = operand.index(row, element);
                match u32::try_from(index) {
                    Ok(row) if row < rows => all.push(row),
                    _ => {
                        return Err(KernelError::Index {
                            operand: number,
                            index,
                            rows,
                        });
                    }
                }
            }
            Ok(())
        })?;
    }
    Ok(all)
}

fn place(operand: &Operand, element: u32, row: [u32; 2]) -> usize {
    (row[1] as usize * operand.ne[1] as usize + row[0] as usize) * operand.length()
        + element as usize
}

/// Moves a row from one tensor to another, converting.
fn convey(
    (from, source): (&Operand, [u32; 3]),
    (to, target): (&Operand, [u32; 3]),
    line: &mut [f32; STRIP],
    pace: &Pace<'_>,
) -> Result<(), KernelError> {
    strips(to.length(), STRIP, |first, length| {
        pace.spend(16 + 2 * length as u64)?;
        from.load(source, first, &mut line[..length]);
        to.store(target, first, &line[..length]);
        Ok(())
    })
}

/// dst[:, i, j, l] = table[:, indices[i, j, l], j, l].
pub fn get(operands: &[Operand], pace: &Pace<'_>) -> Result<Work, KernelError> {
    count(operands, 3..=3)?;
    let [dst, table, which] = [operands[0], operands[1], operands[2]];
    dst.real(0)?;
    table.numbers(1)?;
    which.indices(2)?;
    table.size(1, 0, dst.ne[0])?;
    for d in 1..4 {
        which.size(2, d - 1, dst.ne[d])?;
    }
    which.size(2, 3, 1)?;
    if dst.is_empty() {
        return Ok(Work::default());
    }
    table.size(1, 2, dst.ne[2])?;
    table.size(1, 3, dst.ne[3])?;
    apart(operands, false)?;
    let rows = indices(&which, 2, table.ne[1], pace)?;
    let mut line = [0.0; STRIP];
    for at in 0..dst.rows() {
        let [i, j, l] = dst.row(at);
        let source = [rows[place(&which, i, [j, l])], j, l];
        convey((&table, source), (&dst, [i, j, l]), &mut line, pace)?;
    }
    Ok(Work {
        operations: 0,
        bytes_read: table.bytes_of(dst.elements()) + which.bytes(),
        bytes_written: dst.bytes(),
    })
}

/// dst[:, indices[i, j % c1, l % c2], j, l] = src[:, i, j, l]; of equal indices the last one stays.
pub fn set(operands: &[Operand], pace: &Pace<'_>) -> Result<Work, KernelError> {
    count(operands, 3..=3)?;
    let [dst, src, which] = [operands[0], operands[1], operands[2]];
    dst.takes_reals(0)?;
    src.real(1)?;
    which.indices(2)?;
    src.size(1, 0, dst.ne[0])?;
    src.size(1, 2, dst.ne[2])?;
    src.size(1, 3, dst.ne[3])?;
    which.size(2, 0, src.ne[1])?;
    if src.is_empty() {
        return Ok(Work::default());
    }
    which.divides(2, 1, src.ne[2])?;
    which.divides(2, 2, src.ne[3])?;
    which.size(2, 3, 1)?;
    apart(operands, false)?;
    let rows = indices(&which, 2, dst.ne[1], pace)?;
    let mut line = [0.0; STRIP];
    for at in 0..src.rows() {
        let [i, j, l] = src.row(at);
        let row = rows[place(&which, i, [j % which.ne[1], l % which.ne[2]])];
        convey((&src, [i, j, l]), (&dst, [row, j, l]), &mut line, pace)?;
    }
    Ok(Work {
        operations: 0,
        bytes_read: src.bytes() + which.bytes(),
        bytes_written: dst.bytes_of(src.elements()),
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use jalapeno_hw::kernels::DType;

    use super::super::Pulse;
    use super::*;

    /// Counts how often it is asked.
    struct Asked(Cell<u32>);

    impl Pulse for Asked {
        fn goes_on(&self) -> bool {
            self.0.set(self.0.get() + 1);
            true
        }

        fn is_wanted(&self) -> bool {
            false
        }

        fn let_go(&self) -> bool {
            true
        }
    }

    #[test]
    fn a_long_row_of_indices_is_copied_in_pieces() {
        let mut index = 7u32;
        let mut ask = |ne| {
            let operand = Operand {
                base: (&raw mut index).cast(),
                address: 0,
                ty: DType::I32,
                ne,
                nb: [0; 4],
            };
            let asked = Asked(Cell::new(0));
            let copied = indices(&operand, 2, 8, &Pace::new(&asked));
            (copied.map(|all| all.len()), asked.0.get())
        };
        assert_eq!(ask([1 << 10, 1, 1, 1]), (Ok(1 << 10), 0));
        let (copied, asked) = ask([1 << 22, 1, 1, 1]);
        // 2^23 ns, in pieces of 2^19.
        assert_eq!(copied, Ok(1 << 22));
        assert!(asked >= 15, "asked {asked} times");
        assert_eq!(ask([1 << 11, 1 << 11, 1, 1]).0, Ok(1 << 22));
        let most = [u32::MAX, u32::MAX, u32::MAX, u32::MAX];
        assert!(matches!(ask(most).0, Err(KernelError::Shape { .. })));
        assert_eq!(ask([u32::MAX, u32::MAX, u32::MAX, 0]), (Ok(0), 0));
    }
}
