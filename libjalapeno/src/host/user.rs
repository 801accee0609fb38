//! The process that looks: its user, its groups, its capabilities.

use super::{file, names};
use crate::pci::Root;

/// CAP_DAC_OVERRIDE's bit: modes of files do not bind who has it.
const CAP_DAC_OVERRIDE: u32 = 1;

/// See the file's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Effective.
    pub id: u32,
    /// By the number, where it has one.
    pub name: Option<String>,
    /// The groups that this process has, its effective one first.
    pub groups: Vec<u32>,
    capabilities: u64,
}

impl User {
    pub(super) fn look(root: &Root) -> Option<Self> {
        let status = file::text(&root.file("proc/self/status"))?;
        let numbers = |name: &str| -> Vec<u32> {
            let words = file::field(&status, name).unwrap_or_default();
            let words = words.split_ascii_whitespace();
            words.filter_map(|word| word.parse().ok()).collect()
        };
        // Real, effective, saved, of files.
        let id = *numbers("Uid").get(1)?;
        let mut groups = vec![*numbers("Gid").get(1)?];
        groups.extend(numbers("Groups"));
        let capabilities = file::field(&status, "CapEff")
            .and_then(|text| u64::from_str_radix(text, 16).ok())
            .unwrap_or(0);
        Some(Self {
            name: names::of_user(root, id),
            id,
            groups,
            capabilities,
        })
    }

    /// Whether modes of files do not bind it.
    #[must_use]
    pub fn may_all(&self) -> bool {
        self.capabilities >> CAP_DAC_OVERRIDE & 1 == 1
    }

    /// How commands name it.
    #[must_use]
    pub fn word(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.id.to_string())
    }
}
