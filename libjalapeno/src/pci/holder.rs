//! Who holds a device: the processes with one of its nodes open.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use super::Root;

/// What is seen of the processes that have files open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Processes with the files that they have open, by number.
    pub holders: Vec<(u32, Vec<PathBuf>)>,
    /// How many processes would not show their descriptors: this process may not look.
    pub hidden: usize,
}

/// The processes that have some of `nodes` open. Only those are seen whose descriptors this process
/// may look at: all of them for root, its own user's for others.
#[must_use]
pub fn look(root: &Root, nodes: &[PathBuf]) -> Seen {
    let mut seen = Seen::default();
    let processes = fs::read_dir(root.file("proc"))
        .into_iter()
        .flatten()
        .flatten();
    for process in processes {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        match fs::read_dir(process.path().join("fd")) {
            Ok(open) => {
                let open = open
                    .flatten()
                    .filter_map(|fd| fs::read_link(fd.path()).ok());
                let mut open: Vec<PathBuf> = open.filter(|path| nodes.contains(path)).collect();
                open.sort_unstable();
                open.dedup();
                if !open.is_empty() {
                    seen.holders.push((pid, open));
                }
            }
            // One that has just ended is nobody.
            Err(why) if why.kind() == ErrorKind::PermissionDenied => {
                // The kernel's own threads have no command line, and open nothing.
                let line = fs::read(process.path().join("cmdline"));
                seen.hidden += usize::from(line.is_ok_and(|line| !line.is_empty()));
            }
            Err(_) => {}
        }
    }
    seen.holders.sort_unstable();
    seen
}

/// The processes that have one of `nodes` open, as far as [`look`] sees, by number.
#[must_use]
pub fn holders(root: &Root, nodes: &[PathBuf]) -> Vec<u32> {
    let seen = look(root, nodes).holders;
    seen.into_iter().map(|(pid, _)| pid).collect()
}
