//! A machine's files that a test plays in a folder of its own; removed when dropped.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Function, Root};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) path: PathBuf,
    pub(crate) root: Root,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("jalapeno-machine-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        for folder in ["sys/bus/pci/devices", "dev/vfio/devices", "proc"] {
            fs::create_dir_all(path.join(folder)).unwrap();
        }
        Self {
            root: Root::at(&path),
            path,
        }
    }

    pub(crate) fn write(&self, file: impl AsRef<Path>, text: &str) {
        let path = self.path.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A function in a group of its own, or of others; bound to `driver`.
    pub(crate) fn function(
        &self,
        address: &str,
        (vendor, device): (u16, u16),
        group: Option<u32>,
        driver: Option<&str>,
    ) -> Function {
        let folder = PathBuf::from("sys/bus/pci/devices").join(address);
        self.write(folder.join("vendor"), &format!("{vendor:#06x}\n"));
        self.write(folder.join("device"), &format!("{device:#06x}\n"));
        if let Some(driver) = driver {
            let bound = self.path.join("sys/bus/pci/drivers").join(driver);
            fs::create_dir_all(&bound).unwrap();
            symlink(&bound, self.path.join(&folder).join("driver")).unwrap();
        }
        if let Some(group) = group {
            let members = format!("sys/kernel/iommu_groups/{group}/devices");
            fs::create_dir_all(self.path.join(&members)).unwrap();
            symlink(
                self.path.join(&folder),
                self.path.join(&members).join(address),
            )
            .unwrap();
            symlink(
                self.path.join(format!("sys/kernel/iommu_groups/{group}")),
                self.path.join(&folder).join("iommu_group"),
            )
            .unwrap();
        }
        self.root.function(address)
    }

    /// Moves a function behind bridges, the root port first, as sysfs has them: in each other.
    pub(crate) fn behind(&self, function: &Function, bridges: &[&str]) -> Function {
        let mut place = self.path.join("sys/devices/pci0000:00");
        place.extend(bridges);
        fs::create_dir_all(&place).unwrap();
        place.push(&function.address);
        fs::rename(function.path(), &place).unwrap();
        symlink(&place, function.path()).unwrap();
        self.root.function(&function.address)
    }

    /// A process with a file open.
    pub(crate) fn process(&self, pid: u32, open: &Path) {
        let folder = self.path.join(format!("proc/{pid}/fd"));
        fs::create_dir_all(&folder).unwrap();
        symlink(open, folder.join("7")).unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
