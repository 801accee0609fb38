//! Who holds a device: the processes with one of its nodes open.

use std::fs;
use std::path::PathBuf;

use super::Root;

/// The processes that have one of `nodes` open, by number. Only those are seen whose descriptors
/// this process may look at: all of them for root, its own user's for others.
#[must_use]
pub fn holders(root: &Root, nodes: &[PathBuf]) -> Vec<u32> {
    let Ok(processes) = fs::read_dir(root.file("proc")) else {
        return Vec::new();
    };
    let mut found: Vec<u32> = processes
        .flatten()
        .filter_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let mut open = fs::read_dir(process.path().join("fd")).ok()?.flatten();
            open.any(|fd| fs::read_link(fd.path()).is_ok_and(|path| nodes.contains(&path)))
                .then_some(pid)
        })
        .collect();
    found.sort_unstable();
    found
}
