//! A PCI function as the kernel's files show it: who it is, who drives it, what is around it.
//!
//! Every file may vanish while it is read: then there is no answer, and never a panic.

use std::fs;
use std::path::{Path, PathBuf};

mod distance;
mod holder;

pub use distance::Distance;
pub use holder::{Seen, holders, look};

/// Where the kernel's files are: of this machine, or a tree that a test plays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(PathBuf);

impl Default for Root {
    fn default() -> Self {
        Self("/".into())
    }
}

impl Root {
    /// A tree below `path`, with `sys`, `dev` and `proc` in it.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self(path.into())
    }

    /// A file of the tree; `name` begins without a slash.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Every PCI function, by address.
    #[must_use]
    pub fn functions(&self) -> Vec<Function> {
        let folder = self.file("sys/bus/pci/devices");
        let mut found: Vec<Function> = names(&folder)
            .into_iter()
            .filter(|name| is_address(name))
            .map(|address| self.function(&address))
            .collect();
        found.sort_by(|a, b| a.address.cmp(&b.address));
        found
    }

    /// The function at `address`, whether it is there or not.
    #[must_use]
    pub fn function(&self, address: &str) -> Function {
        Function {
            path: self.file("sys/bus/pci/devices").join(address),
            address: address.into(),
            root: self.clone(),
        }
    }
}

/// A speed and width of a PCIe link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// As the kernel says it, such as `32.0 GT/s PCIe`.
    pub speed: String,
    /// Lanes.
    pub width: u32,
}

/// One PCI function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its address, such as `0000:01:00.0`.
    pub address: String,
    path: PathBuf,
    root: Root,
}

impl Function {
    /// Whether the kernel knows it.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.path.exists()
    }

    /// Its folder in sysfs.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tree it is in.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// A file of its folder, without the white space around its text.
    #[must_use]
    pub fn text(&self, file: &str) -> Option<String> {
        let text = fs::read_to_string(self.path.join(file)).ok()?;
        Some(text.trim().to_owned())
    }

    fn hex(&self, file: &str) -> Option<u32> {
        u32::from_str_radix(self.text(file)?.strip_prefix("0x")?, 16).ok()
    }

    fn link_name(&self, file: &str) -> Option<String> {
        let link = fs::read_link(self.path.join(file)).ok()?;
        link.file_name()?.to_str().map(str::to_owned)
    }

    /// Vendor and device id.
    #[must_use]
    pub fn ids(&self) -> Option<(u16, u16)> {
        let id = |file| u16::try_from(self.hex(file)?).ok();
        Some((id("vendor")?, id("device")?))
    }

    /// The class code's 24 bits; `0x06_04_00` is a bridge.
    #[must_use]
    pub fn class(&self) -> Option<u32> {
        self.hex("class")
    }

    /// Whether it is bound to the kernel module, which gives sensors beside an owner, scrubs HBM
    /// between owners and keeps fault records.
    #[must_use]
    pub fn has_kernel_module(&self) -> bool {
        self.driver().as_deref() == Some("jalapeno_vfio_pci")
    }

    /// Whether the kernel module failed to scrub its memory.
    pub(crate) fn is_unclean(&self) -> bool {
        self.has_kernel_module() && self.text("jalapeno/hbm").as_deref() == Some("failed")
    }

    /// The driver bound to it.
    #[must_use]
    pub fn driver(&self) -> Option<String> {
        self.link_name("driver")
    }

    /// The only driver that may have it, where one is chosen.
    #[must_use]
    pub fn driver_override(&self) -> Option<String> {
        let word = self.text("driver_override")?;
        (!word.is_empty() && word != "(null)").then_some(word)
    }

    /// Whether its driver gives it to user space. Kernels before 6.1 do not say so; there the
    /// drivers' names are known.
    #[must_use]
    pub fn is_given_to_vfio(&self) -> bool {
        self.path.join("vfio-dev").is_dir()
            || matches!(
                self.driver().as_deref(),
                Some("vfio-pci" | "jalapeno_vfio_pci")
            )
    }

    /// The number of its IOMMU group.
    #[must_use]
    pub fn group(&self) -> Option<u32> {
        self.link_name("iommu_group")?.parse().ok()
    }

    /// The functions of its IOMMU group, itself among them.
    #[must_use]
    pub fn group_members(&self) -> Vec<Self> {
        let mut members: Vec<Self> = names(&self.path.join("iommu_group/devices"))
            .into_iter()
            .filter(|name| is_address(name))
            .map(|address| self.root.function(&address))
            .collect();
        members.sort_by(|a, b| a.address.cmp(&b.address));
        members
    }

    /// The members of its group that keep user space from it: bound to a driver that does DMA for
    /// the kernel. Bridges are driven by `pcieport`, which does none.
    #[must_use]
    pub fn in_the_way(&self) -> Vec<(String, String)> {
        self.group_members()
            .into_iter()
            .filter(|member| member.address != self.address && !member.is_given_to_vfio())
            .filter_map(|member| Some((member.driver()?, member.address)))
            .filter(|(driver, _)| !matches!(driver.as_str(), "pcieport" | "pci-stub"))
            .map(|(driver, address)| (address, driver))
            .collect()
    }

    /// Whether the group is one without an IOMMU (`vfio.enable_unsafe_noiommu_mode`).
    #[must_use]
    pub fn is_without_iommu(&self) -> bool {
        let name = fs::read_to_string(self.path.join("iommu_group/name")).unwrap_or_default();
        name.trim() == "vfio-noiommu"
    }

    /// The NUMA node it is nearest to; `None` where the machine has no such notion.
    #[must_use]
    pub fn numa_node(&self) -> Option<u32> {
        self.text("numa_node")?.parse().ok()
    }

    /// Its link now.
    #[must_use]
    pub fn link(&self) -> Option<Link> {
        self.link_of("current_link_speed", "current_link_width")
    }

    /// The best link that it could have.
    #[must_use]
    pub fn link_max(&self) -> Option<Link> {
        self.link_of("max_link_speed", "max_link_width")
    }

    fn link_of(&self, speed: &str, width: &str) -> Option<Link> {
        let link = Link {
            speed: self.text(speed)?,
            width: self.text(width)?.parse().ok()?,
        };
        // What the kernel says of a function without a link.
        let known = !link.speed.starts_with("Unknown") && !matches!(link.width, 0 | 255);
        known.then_some(link)
    }

    /// The length of a BAR in bytes; 0 where it has none.
    #[must_use]
    pub fn bar_bytes(&self, bar: usize) -> Option<u64> {
        let text = self.text("resource")?;
        let mut words = text.lines().nth(bar)?.split_ascii_whitespace();
        let mut number = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
        match (number()?, number()?) {
            (0, 0) => Some(0),
            (first, last) => last.checked_sub(first)?.checked_add(1),
        }
    }

    /// The bridges that it is behind, the root port first, the nearest last.
    #[must_use]
    pub fn upstream(&self) -> Vec<Self> {
        let whole = fs::canonicalize(&self.path).unwrap_or_default();
        let names = whole.iter().filter_map(|name| name.to_str());
        names
            .filter(|name| is_address(name) && **name != *self.address)
            .map(|address| self.root.function(address))
            .collect()
    }

    /// The node of its group: `/dev/vfio/7`.
    #[must_use]
    pub fn group_node(&self) -> Option<PathBuf> {
        let number = self.group()?;
        let name = match self.is_without_iommu() {
            true => format!("dev/vfio/noiommu-{number}"),
            false => format!("dev/vfio/{number}"),
        };
        Some(self.root.file(&name))
    }

    /// Its own node: `/dev/vfio/devices/vfio0`; on kernels with iommufd and a device of its own.
    #[must_use]
    pub fn device_node(&self) -> Option<PathBuf> {
        let name = names(&self.path.join("vfio-dev"))
            .into_iter()
            .find(|name| name.starts_with("vfio"))?;
        // The folder is there without the node where the kernel has no CONFIG_VFIO_DEVICE_CDEV.
        let has_node = self.path.join("vfio-dev").join(&name).join("dev").exists();
        has_node.then(|| self.root.file("dev/vfio/devices").join(name))
    }

    /// The nodes that open it.
    #[must_use]
    pub fn nodes(&self) -> Vec<PathBuf> {
        let group = self.group_node().into_iter();
        group.chain(self.device_node()).collect()
    }

    /// The processes that have it open, as far as /proc lets this one see.
    #[must_use]
    pub fn holders(&self) -> Vec<u32> {
        holders(&self.root, &self.nodes())
    }
}

/// The names in a folder; none where it is not there.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Whether a name has the form of a PCI address: `0000:01:00.0`.
#[must_use]
pub fn is_address(name: &str) -> bool {
    let shape = b"hhhh:hh:hh.o";
    name.len() == shape.len()
        && name.bytes().zip(shape).all(|(byte, &kind)| match kind {
            b'h' => byte.is_ascii_hexdigit(),
            b'o' => (b'0'..=b'7').contains(&byte),
            other => byte == other,
        })
}

#[cfg(test)]
pub(crate) mod played;
#[cfg(test)]
mod tests;
