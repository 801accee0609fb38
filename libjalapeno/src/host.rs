//! The host as a card needs it: kernel, IOMMU, modules, nodes, limits, huge pages. Facts, no verdicts.
//!
//! All of it is read from files below a [`Root`]. Nothing is opened that could wake, reset or block a
//! card: VFIO's nodes are looked at and never opened. A file that is missing, unreadable or full of
//! nonsense gives no answer (`None`, `Unknown`), never a panic. Any thread may look at any time.

use std::path::Path;

use jalapeno_hw::pci::{BAR_WINDOW, DEVICE, VENDOR};

use crate::pci::{Function, Root};

mod file;
mod hugepages;
mod iommu;
mod kernel;
mod memlock;
mod module;
mod names;
mod node;
mod process;
mod user;
mod window;

pub use hugepages::HugePages;
pub use iommu::{Iommu, Remapping, Table};
pub use kernel::{Kernel, Processor};
pub use memlock::Memlock;
pub use module::Presence;
pub use names::{Group, group_named};
pub use node::Node;
pub use process::Process;
pub use user::User;
pub use window::Window;

/// A machine, as its files tell of it now.
#[derive(Clone, Debug)]
pub struct Host {
    root: Root,
    /// The kernel that runs.
    pub kernel: Kernel,
    /// Its IOMMU.
    pub iommu: Iommu,
    /// The process that looks; `None` where procfs does not say.
    pub user: Option<User>,
    /// What it may pin.
    pub memlock: Memlock,
    /// Its memory in bytes, where procfs says.
    pub memory_bytes: Option<u64>,
    /// Huge pages, a row for each size, small ones first.
    pub hugepages: Vec<HugePages>,
    /// `/dev/vfio/vfio`, the container of groups.
    pub container: Option<Node>,
    /// `/dev/iommu`, of kernels with iommufd.
    pub iommufd: Option<Node>,
}

/// A card in its slot, as sysfs shows it.
#[derive(Clone, Debug)]
pub struct Card {
    /// The PCI function.
    pub function: Function,
    /// Its UUID, where the kernel module says it.
    pub uuid: Option<String>,
    /// The BAR that shows its memory.
    pub window: Window,
    /// The node of its IOMMU group.
    pub group_node: Option<Node>,
    /// The node of its own.
    pub device_node: Option<Node>,
}

impl Host {
    /// Looks at the machine whose files are below `root`.
    #[must_use]
    pub fn look(root: &Root) -> Self {
        let user = User::look(root);
        Self {
            kernel: Kernel::look(root),
            iommu: Iommu::look(root),
            memlock: Memlock::look(root),
            memory_bytes: memory(root),
            hugepages: hugepages::look(root),
            container: Node::look(root, &root.file("dev/vfio/vfio"), user.as_ref()),
            iommufd: Node::look(root, &root.file("dev/iommu"), user.as_ref()),
            user,
            root: root.clone(),
        }
    }

    /// Whether a kernel module is there; `_` and `-` are the same.
    #[must_use]
    pub fn module(&self, name: &str) -> Presence {
        module::look(&self.root, &self.kernel.release, name)
    }

    /// The value of a loaded module's parameter.
    #[must_use]
    pub fn parameter(&self, module: &str, name: &str) -> Option<String> {
        let path = format!("sys/module/{module}/parameters/{name}");
        Some(file::text(&self.root.file(&path))?.trim().to_owned())
    }

    /// Whether a file or folder is there; `name` begins without a slash.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.root.file(name).exists()
    }

    /// The tree it was read from.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The cards on the PCI bus, by their ids.
    #[must_use]
    pub fn cards(&self) -> Vec<Card> {
        let ours = |function: &Function| function.ids() == Some((VENDOR, DEVICE));
        let functions = self.root.functions();
        let cards = functions.into_iter().filter(ours);
        cards.map(|function| self.card(function)).collect()
    }

    /// What there is to say of one function, whatever its ids.
    #[must_use]
    pub fn card(&self, function: Function) -> Card {
        let node = |path: Option<std::path::PathBuf>| {
            let path: &Path = &path?;
            Node::look(&self.root, path, self.user.as_ref())
        };
        Card {
            uuid: function.text("jalapeno/uuid"),
            window: Window::look(&function, BAR_WINDOW),
            group_node: node(function.group_node()),
            device_node: node(function.device_node()),
            function,
        }
    }
}

/// The line `MemTotal:  16384 kB`.
fn memory(root: &Root) -> Option<u64> {
    let text = file::text(&root.file("proc/meminfo"))?;
    let kib = file::field(&text, "MemTotal")?.strip_suffix("kB")?;
    kib.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests;
