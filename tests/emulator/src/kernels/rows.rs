//! GET_ROWS and SET_ROWS: rows of a table by index, the indices copied and checked first.

use super::tensor::{Operand, apart, scratch};
use super::{KernelError, Work, count};

/// Copies all indices once and checks each against the table.
fn indices(operand: &Operand, rows: u32) -> Result<Vec<u32>, KernelError> {
    let mut all = Vec::with_capacity(usize::try_from(operand.elements()).unwrap_or(0));
    for at in 0..operand.rows() {
        for element in 0..operand.ne[0] {
            let index = operand.index(operand.row(at), element);
            match u32::try_from(index) {
                Ok(row) if row < rows => all.push(row),
                _ => return Err(KernelError::Index { index, rows }),
            }
        }
    }
    Ok(all)
}

fn place(operand: &Operand, element: u32, row: [u32; 2]) -> usize {
    (row[1] as usize * operand.ne[1] as usize + row[0] as usize) * operand.ne[0] as usize
        + element as usize
}

/// dst[:, i, j, l] = table[:, indices[i, j, l], j, l].
pub fn get(operands: &[Operand]) -> Result<Work, KernelError> {
    count(operands, 3..=3)?;
    let [dst, table, which] = [operands[0], operands[1], operands[2]];
    dst.real(0)?;
    table.real(1)?;
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
    let rows = indices(&which, table.ne[1])?;
    scratch(dst.ne[0] as usize, |line| {
        for at in 0..dst.rows() {
            let [i, j, l] = dst.row(at);
            table.load([rows[place(&which, i, [j, l])], j, l], line);
            dst.store([i, j, l], line);
        }
    });
    Ok(Work {
        operations: 0,
        bytes_read: dst.elements() * u64::from(table.ty.block_bytes()),
        bytes_written: dst.bytes(),
    })
}

/// dst[:, indices[i, j % c1, l % c2], j, l] = src[:, i, j, l]; of equal indices the last one stays.
pub fn set(operands: &[Operand]) -> Result<Work, KernelError> {
    count(operands, 3..=3)?;
    let [dst, src, which] = [operands[0], operands[1], operands[2]];
    dst.real(0)?;
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
    let rows = indices(&which, dst.ne[1])?;
    scratch(dst.ne[0] as usize, |line| {
        for at in 0..src.rows() {
            let [i, j, l] = src.row(at);
            src.load([i, j, l], line);
            dst.store(
                [
                    rows[place(&which, i, [j % which.ne[1], l % which.ne[2]])],
                    j,
                    l,
                ],
                line,
            );
        }
    });
    Ok(Work {
        operations: 0,
        bytes_read: src.bytes() + which.bytes(),
        bytes_written: src.elements() * u64::from(dst.ty.block_bytes()),
    })
}
