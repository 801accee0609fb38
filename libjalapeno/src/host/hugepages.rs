//! Huge pages: how many are reserved, of each size.

use super::file;
use crate::pci::Root;

/// The huge pages of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HugePages {
    /// Bytes of one.
    pub page_bytes: u64,
    /// How many are reserved.
    pub total: u64,
    /// How many of these nobody uses.
    pub free: u64,
}

pub(super) fn look(root: &Root) -> Vec<HugePages> {
    let folder = root.file("sys/kernel/mm/hugepages");
    let size = |name: &String| {
        let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
        let number = |file: &str| {
            let text = file::text(&folder.join(name).join(file))?;
            text.trim().parse::<u64>().ok()
        };
        Some(HugePages {
            page_bytes: kib.parse::<u64>().ok()?.checked_mul(1024)?,
            total: number("nr_hugepages")?,
            free: number("free_hugepages")?,
        })
    };
    let mut found: Vec<HugePages> = file::names(&folder).iter().filter_map(size).collect();
    found.sort_unstable_by_key(|size| size.page_bytes);
    found
}
