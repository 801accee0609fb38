//! Kernel modules: loaded, to be had, or not there.

use super::file;
use crate::pci::Root;

/// Where a module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// In the kernel.
    Loaded,
    /// On the disk: `modprobe` loads it.
    Available,
    /// Neither.
    Absent,
    /// The kernel's modules cannot be seen from here, as in many containers.
    Unknown,
}

pub(super) fn look(root: &Root, release: &str, name: &str) -> Presence {
    let name = name.replace('-', "_");
    if root.file(&format!("sys/module/{name}")).is_dir() {
        return Presence::Loaded;
    }
    let list = |file: &str| {
        let plain = !release.is_empty() && !release.contains('/');
        let path = root.file(&format!("lib/modules/{release}/{file}"));
        plain.then(|| file::text(&path)).flatten()
    };
    let has = |list: &str| list.lines().any(|line| module(line) == name);
    match (list("modules.builtin"), list("modules.dep")) {
        (Some(built_in), _) if has(&built_in) => Presence::Loaded,
        (_, Some(modules)) if has(&modules) => Presence::Available,
        (None, None) => Presence::Unknown,
        _ => Presence::Absent,
    }
}

/// The module of a line such as `kernel/drivers/vfio/pci/vfio-pci.ko.xz: kernel/...`.
fn module(line: &str) -> String {
    let path = line.split(':').next().unwrap_or_default();
    let file = path.rsplit('/').next().unwrap_or_default();
    let name = file.split(".ko").next().unwrap_or_default();
    name.replace('-', "_")
}
