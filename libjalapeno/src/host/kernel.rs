//! The kernel: its version, what that brings, and what it was started with.

use super::file;
use crate::pci::Root;

/// Whose processor it is: the switches of the IOMMU have different names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processor {
    /// Intel: VT-d, `intel_iommu=`.
    Intel,
    /// AMD: AMD-Vi, `amd_iommu=`.
    Amd,
    /// Another.
    Other,
}

/// See the file's head.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// As `uname -r` says it; empty where it is not known.
    pub release: String,
    /// Major and minor, where the release begins with them.
    pub version: Option<(u32, u32)>,
    /// The words it was started with.
    pub parameters: Vec<String>,
    /// Whose processor it runs on.
    pub processor: Processor,
    /// Whether a hypervisor runs below it.
    pub is_guest: bool,
}

impl Kernel {
    pub(super) fn look(root: &Root) -> Self {
        let read = |name: &str| file::text(&root.file(name)).unwrap_or_default();
        let release = read("proc/sys/kernel/osrelease").trim().to_owned();
        let processors = read("proc/cpuinfo");
        Self {
            version: version(&release),
            release,
            parameters: read("proc/cmdline")
                .split_ascii_whitespace()
                .map(str::to_owned)
                .collect(),
            processor: match file::field(&processors, "vendor_id") {
                Some("GenuineIntel") => Processor::Intel,
                Some("AuthenticAMD" | "HygonGenuine") => Processor::Amd,
                _ => Processor::Other,
            },
            is_guest: file::field(&processors, "flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
        }
    }

    /// Whether it is at least this old; `false` where its version is not known.
    #[must_use]
    pub fn is_at_least(&self, major: u32, minor: u32) -> bool {
        self.version >= Some((major, minor))
    }

    /// Whether it was started with this word.
    #[must_use]
    pub fn has_parameter(&self, word: &str) -> bool {
        self.parameters.iter().any(|parameter| parameter == word)
    }
}

/// `6.12.95+deb12-amd64` is 6.12.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_read_from_releases() {
        assert_eq!(version("6.12.95+deb12-amd64"), Some((6, 12)));
        assert_eq!(version("6.1"), Some((6, 1)));
        assert_eq!(version("7.0-rc3"), Some((7, 0)));
        for nonsense in ["", "6", "six.one", "99999999999.1", ".6.1"] {
            assert_eq!(version(nonsense), None, "{nonsense}");
        }
    }
}
