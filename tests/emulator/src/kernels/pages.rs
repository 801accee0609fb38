//! The keys of an attention: how many each sequence has, and which row of a paged cache holds one.

use super::KernelError;
use super::pace::Pace;
use super::rows::INDICES;
use super::tensor::{Operand, strips};

/// Most entries of a table: they are all copied before the first store.
const MOST: u64 = 1 << 24;

/// Where keys and values stand.
#[derive(Debug)]
pub(super) struct Keys {
    /// Most keys of a sequence.
    most: usize,
    /// Keys of each sequence, where they differ, and of all.
    lengths: Vec<usize>,
    sum: u64,
    pages: Option<Pages>,
}

/// A cache in pages.
#[derive(Debug)]
struct Pages {
    /// Rows of a page.
    rows: usize,
    /// Entries of a sequence.
    entries: usize,
    /// The page of each entry, a sequence after the other.
    table: Vec<u32>,
}

impl Keys {
    /// Keys that stand in the rows of their own sequence.
    pub fn in_rows(most: u32) -> Self {
        Self {
            most: most as usize,
            lengths: Vec::new(),
            sum: 0,
            pages: None,
        }
    }

    /// The keys of sequence `h`.
    pub fn of(&self, h: usize) -> usize {
        self.lengths.get(h).copied().unwrap_or(self.most)
    }

    /// The keys of so many sequences.
    pub fn of_all(&self, sequences: u32) -> u64 {
        if self.lengths.is_empty() {
            return (self.most as u64).saturating_mul(sequences.into());
        }
        self.sum
    }

    /// The row of the cache, and its batch, that hold key `t` of sequence `h`.
    #[expect(clippy::cast_possible_truncation, reason = "rows are below ne, a u32")]
    pub fn row(&self, h: usize, t: usize) -> (u32, Option<u32>) {
        match &self.pages {
            None => (t as u32, None),
            Some(pages) => {
                let page = pages.table[h * pages.entries + t / pages.rows] as usize;
                ((page * pages.rows + t % pages.rows) as u32, Some(0))
            }
        }
    }

    /// Copies each sequence's length, and checks it.
    pub fn measure(
        &mut self,
        lengths: &Operand,
        operand: usize,
        pace: &Pace<'_>,
    ) -> Result<(), KernelError> {
        if lengths.elements() > MOST {
            return Err(lengths.shape(operand, 0, 1 << 24));
        }
        strips(lengths.length(), INDICES, |first, count| {
            pace.spend(16 + 2 * count as u64)?;
            for h in first..first + count {
                let index = lengths.index([0; 3], h);
                match usize::try_from(index) {
                    Ok(length) if length <= self.most => {
                        self.lengths.push(length);
                        self.sum = self.sum.saturating_add(length as u64);
                    }
                    _ => {
                        return Err(KernelError::Index {
                            operand,
                            index,
                            rows: u32::try_from(self.most).unwrap_or(u32::MAX),
                        });
                    }
                }
            }
            Ok(())
        })
    }

    /// Copies the entries that are needed, and checks that `cache` rows hold their pages.
    pub fn turn(
        &mut self,
        table: &Operand,
        operand: usize,
        rows: u32,
        cache: u32,
        pace: &Pace<'_>,
    ) -> Result<(), KernelError> {
        if table.elements() > MOST {
            return Err(table.shape(operand, 0, 1 << 24));
        }
        let (entries, there) = (table.length(), cache / rows);
        let mut copy = vec![0; entries * table.ne[1] as usize];
        for (h, copy) in (0..table.ne[1]).zip(copy.chunks_exact_mut(entries.max(1))) {
            let needed = self.of(h as usize).div_ceil(rows as usize);
            pace.spend(16)?;
            strips(needed, INDICES, |first, count| {
                pace.spend(2 * count as u64)?;
                for (entry, page) in (first..).zip(&mut copy[first..first + count]) {
                    let index = table.index([h, 0, 0], entry);
                    *page = match u32::try_from(index) {
                        Ok(page) if page < there => page,
                        _ => {
                            return Err(KernelError::Index {
                                operand,
                                index,
                                rows: there,
                            });
                        }
                    };
                }
                Ok(())
            })?;
        }
        self.pages = Some(Pages {
            rows: rows as usize,
            entries,
            table: copy,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use jalapeno_hw::kernels::DType;

    use super::super::Pulse;
    use super::*;

    /// Stops a kernel when it has been asked so often.
    struct Until(Cell<u32>);

    impl Pulse for Until {
        fn goes_on(&self) -> bool {
            self.0.set(self.0.get().saturating_sub(1));
            self.0.get() > 0
        }

        fn is_wanted(&self) -> bool {
            false
        }

        fn let_go(&self) -> bool {
            true
        }
    }

    fn repeated(index: &mut u32, ne: [u32; 4]) -> Operand {
        Operand {
            base: std::ptr::from_mut(index).cast(),
            address: 0,
            ty: DType::I32,
            ne,
            nb: [0; 4],
        }
    }

    #[test]
    fn lengths_and_pages_are_copied_in_pieces() {
        let mut index = 3;
        let many = repeated(&mut index, [1 << 22, 1, 1, 1]);
        let mut keys = Keys::in_rows(u32::MAX);
        let never = Until(Cell::new(u32::MAX));
        assert_eq!(keys.measure(&many, 7, &Pace::new(&never)), Ok(()));
        assert_eq!(keys.of_all(1 << 22), 3 << 22);
        let soon = Until(Cell::new(8));
        let stopped = keys.measure(&many, 7, &Pace::new(&soon));
        assert_eq!(stopped, Err(KernelError::Stopped));

        let mut keys = Keys::in_rows(1 << 22);
        assert_eq!(keys.turn(&many, 6, 1, 8, &Pace::new(&never)), Ok(()));
        assert_eq!(keys.row(0, 1 << 21), (3, Some(0)));
        let soon = Until(Cell::new(8));
        let stopped = keys.turn(&many, 6, 1, 8, &Pace::new(&soon));
        assert_eq!(stopped, Err(KernelError::Stopped));
        assert_eq!(
            Keys::in_rows(u32::MAX).of_all(u32::MAX),
            0xFFFF_FFFE_0000_0001
        );
    }
}
