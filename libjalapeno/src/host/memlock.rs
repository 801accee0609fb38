//! RLIMIT_MEMLOCK: how much memory a process may pin, and how much of that it has pinned.

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::getuid;

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

    /// Of the thread that asks: capabilities are a thread's, and the kernel asks the one that maps.
    /// `per_user`: what is pinned counts together for all processes of the user, as iommufd has it.
    pub(crate) fn here(per_user: bool) -> Self {
        let root = Root::default();
        let status = file::text(&root.file("proc/thread-self/status")).unwrap_or_default();
        let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap_or((0, 0));
        let mut this = Self::of(&status, soft, hard);
        // Reads the status of every process, so only where there is a limit to compare it with.
        if per_user && this.room() != u64::MAX {
            this.used = this.used.max(pinned_by(&root, getuid().as_raw()));
        }
        this
    }

    /// What lets `bytes` more be pinned.
    pub(crate) fn remedy(&self, bytes: u64) -> String {
        let all = self.used.saturating_add(bytes).div_ceil(1024);
        if all.saturating_mul(1024) <= self.hard {
            return format!("ulimit -l {all} (for good: jalctl setup; in a unit: LimitMEMLOCK=)");
        }
        format!(
            "sudo jalctl setup --apply, then log in anew (in a unit: LimitMEMLOCK=): ulimit -l {all} \
             is above the hard limit of {} KiB",
            self.hard / 1024
        )
    }

    /// From the text of a `status` of procfs. What it does not say permits nothing.
    pub(crate) fn of(status: &str, soft: u64, hard: u64) -> Self {
        let capabilities = file::field(status, "CapEff")
            .and_then(|text| u64::from_str_radix(text, 16).ok())
            .unwrap_or(0);
        Self {
            soft,
            hard,
            used: kib(status, "VmLck").max(kib(status, "VmPin")),
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

/// Bytes that all processes of a user have pinned, as far as procfs shows them.
fn pinned_by(root: &Root, user: u32) -> u64 {
    let of = |status: &str| {
        let real = file::field(status, "Uid")?
            .split_ascii_whitespace()
            .next()?;
        (real.parse() == Ok(user)).then(|| kib(status, "VmPin"))
    };
    file::names(&root.file("proc"))
        .into_iter()
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter_map(|pid| of(&file::text(&root.file(&format!("proc/{pid}/status")))?))
        .fold(0, u64::saturating_add)
}

/// A field of a `status` in KiB, as bytes; 0 where it is not said.
fn kib(status: &str, name: &str) -> u64 {
    file::field(status, name)
        .and_then(|text| text.strip_suffix("kB"))
        .and_then(|text| text.trim().parse::<u64>().ok())
        .unwrap_or(0)
        .saturating_mul(1024)
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
    fn what_all_processes_of_a_user_pinned_counts_together() {
        let machine = crate::pci::played::Machine::new();
        for (pid, uid, pinned) in [(7, 1000, 16), (8, 1000, 8), (9, 1001, 512), (10, 100, 64)] {
            let text = format!("Name:\tx\nUid:\t{uid}\t0\t0\t0\nVmPin:\t    {pinned} kB\n");
            machine.write(format!("proc/{pid}/status"), &text);
        }
        machine.write("proc/11/status", "Uid:\tnobody\n");
        machine.write("proc/self/status", "Uid:\t1000\nVmPin:\t 1024 kB\n");
        assert_eq!(pinned_by(&machine.root, 1000), 24 << 10);
        assert_eq!(pinned_by(&machine.root, 7), 0);
    }

    #[test]
    fn a_remedy_beyond_the_hard_limit_is_the_administrators() {
        let limit = Memlock::of("VmPin:\t 16 kB\n", 64 << 10, 1 << 20);
        assert!(limit.remedy(512 << 10).starts_with("ulimit -l 528 "));
        let beyond = limit.remedy(1 << 20);
        assert!(beyond.starts_with("sudo jalctl setup --apply"), "{beyond}");
        assert!(beyond.contains("ulimit -l 1040 is above the hard limit of 1024 KiB"));
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
