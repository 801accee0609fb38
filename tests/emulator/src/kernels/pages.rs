//! The keys of an attention: how many each sequence has, and which row of a paged cache holds one.

use super::KernelError;
use super::pace::Pace;
use super::tensor::Operand;

/// Most entries of a table: they are all copied before the first store.
const MOST: u64 = 1 << 24;

/// Where keys and values stand.
#[derive(Debug)]
pub(super) struct Keys {
    /// Most keys of a sequence.
    most: usize,
    /// Keys of each sequence, where they differ.
    lengths: Vec<usize>,
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
            pages: None,
        }
    }

    /// The keys of sequence `h`.
    pub fn of(&self, h: usize) -> usize {
        self.lengths.get(h).copied().unwrap_or(self.most)
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
        pace.spend(16 + 2 * lengths.elements())?;
        for h in 0..lengths.length() {
            let index = lengths.index([0; 3], h);
            match usize::try_from(index) {
                Ok(length) if length <= self.most => self.lengths.push(length),
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
            pace.spend(16 + 2 * needed as u64)?;
            for (entry, page) in copy[..needed].iter_mut().enumerate() {
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
        }
        self.pages = Some(Pages {
            rows: rows as usize,
            entries,
            table: copy,
        });
        Ok(())
    }
}
