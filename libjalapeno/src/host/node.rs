//! A device node: whose it is, and whether this process may read and write it. It is never opened.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, eaccess};

use super::{User, names};
use crate::pci::Root;

/// See the file's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where it is.
    pub path: PathBuf,
    /// Its permissions, the lowest nine bits.
    pub mode: u32,
    /// Its owner's number.
    pub owner: u32,
    /// Its group's number.
    pub group: u32,
    /// Its group's name.
    pub group_name: Option<String>,
    /// Whether this process may read and write it.
    pub is_open_to_us: bool,
}

impl Node {
    pub(super) fn look(root: &Root, path: &Path, user: Option<&User>) -> Option<Self> {
        let about = fs::metadata(path).ok()?;
        let (mode, owner, group) = (about.mode() & 0o777, about.uid(), about.gid());
        let by_mode = user.is_some_and(|user| {
            let shift = match () {
                () if user.id == owner => 6,
                () if user.groups.contains(&group) => 3,
                () => 0,
            };
            user.may_all() || mode >> shift & 0o6 == 0o6
        });
        // On this machine the kernel is asked: it knows of access control lists too.
        let here = *root == Root::default();
        let kernel = || eaccess(path, AccessFlags::R_OK | AccessFlags::W_OK).is_ok();
        Some(Self {
            path: path.into(),
            mode,
            owner,
            group,
            group_name: names::of_group(root, group),
            is_open_to_us: if here { kernel() } else { by_mode },
        })
    }

    /// The group that opens it to its members, if there is one: not root's own.
    #[must_use]
    pub fn group_to_join(&self) -> Option<String> {
        let opens = self.mode & 0o060 == 0o060 && self.group != 0;
        let name = || self.group_name.clone();
        opens.then(|| name().unwrap_or_else(|| self.group.to_string()))
    }
}
