//! RLIMIT_MEMLOCK: how much memory a process may pin, and how much of that it has pinned.

use super::file;
use crate::pci::Root;

/// CAP_IPC_LOCK's bit: the limit does not bind who has it.
const CAP_IPC_LOCK: u32 = 14;

/// See the file's head. Bytes; `u64::MAX` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memlock {
    /// The limit now.
    pub soft: u64,
    /// What the process may raise it to by itself.
    pub hard: u64,
    /// What is pinned or locked already.
    pub used: u64,
    /// Whether the limit does not bind this process (CAP_IPC_LOCK).
    pub is_exempt: bool,
}

impl Memlock {
    pub(super) fn look(root: &Root) -> Self {
        let read = |name: &str| file::text(&root.file(name)).unwrap_or_default();
        let (soft, hard) = limits(&read("proc/self/limits")).unwrap_or((0, 0));
        Self::of(&read("proc/self/status"), soft, hard)
    }

    /// From the text of a `status` of procfs. What it does not say permits nothing.
    pub(crate) fn of(status: &str, soft: u64, hard: u64) -> Self {
        let kib = |name: &str| -> u64 {
            file::field(status, name)
                .and_then(|text| text.strip_suffix("kB"))
                .and_then(|text| text.trim().parse::<u64>().ok())
                .unwrap_or(0)
                .saturating_mul(1024)
        };
        let capabilities = file::field(status, "CapEff")
            .and_then(|text| u64::from_str_radix(text, 16).ok())
            .unwrap_or(0);
        Self {
            soft,
            hard,
            used: kib("VmLck").max(kib("VmPin")),
            is_exempt: capabilities >> CAP_IPC_LOCK & 1 == 1,
        }
    }

    /// Bytes that may be pinned beside those that are.
    #[must_use]
    pub fn room(&self) -> u64 {
        match self.is_exempt || self.soft == u64::MAX {
            true => u64::MAX,
            false => self.soft.saturating_sub(self.used),
        }
    }
}

/// The line `Max locked memory  8388608  8388608  bytes`.
fn limits(text: &str) -> Option<(u64, u64)> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))?;
    let mut words = line.split_ascii_whitespace().map(|word| match word {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    });
    Some((words.next()??, words.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_from_procfs() {
        let text = "Limit  Soft\nMax locked memory         8388608    unlimited    bytes     \n";
        assert_eq!(limits(text), Some((8 << 20, u64::MAX)));
        for nonsense in ["", "Max locked memory", "Max locked memory eight 8 bytes"] {
            assert_eq!(limits(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn what_is_not_said_permits_nothing() {
        let silent = Memlock::of("", 4096, 4096);
        assert_eq!((silent.room(), silent.is_exempt), (4096, false));
        let most = "VmLck:\t18446744073709551615 kB\nCapEff:\tzz\n";
        assert_eq!(Memlock::of(most, 4096, 4096).room(), 0);
        let exempt = Memlock::of("CapEff:\t0000000000004000\n", 0, 0);
        assert_eq!(exempt.room(), u64::MAX);
    }
}
