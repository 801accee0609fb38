//! A process as /proc tells of it: whose it is, what it runs, since when.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{file, names};
use crate::pci::Root;

/// Ticks a second of the times in /proc: USER_HZ, the same on every Linux architecture we have.
const TICKS: u64 = 100;

/// See the file's head. `None`: it has ended, or this process may not see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its user's number.
    pub user_id: Option<u32>,
    /// Its user's name.
    pub user: Option<String>,
    /// Its name, as `ps -o comm` has it.
    pub command: Option<String>,
    /// Its command line, words with blanks between; control characters as they are.
    pub command_line: Option<String>,
    /// When it was started.
    pub started: Option<SystemTime>,
}

impl Process {
    /// Looks at a process.
    #[must_use]
    pub fn look(root: &Root, pid: u32) -> Self {
        let folder = root.file(&format!("proc/{pid}"));
        let text = |name: &str| file::text(&folder.join(name));
        // The folder of a process that may not be dumped belongs to root, its status tells.
        let status = text("status").unwrap_or_default();
        let told = file::field(&status, "Uid").and_then(|ids| {
            let mut ids = ids.split_ascii_whitespace();
            ids.nth(1)?.parse().ok() // real, effective
        });
        let user_id = told.or_else(|| Some(std::fs::metadata(&folder).ok()?.uid()));
        let words = |line: String| line.trim_end_matches('\0').replace('\0', " ");
        Self {
            pid,
            user: user_id.and_then(|id| names::of_user(root, id)),
            user_id,
            command: text("comm").map(|name| name.trim_end().to_owned()),
            command_line: text("cmdline").map(words).filter(|line| !line.is_empty()),
            started: text("stat").and_then(|stat| started(&stat, &booted(root)?)),
        }
    }
}

/// When the machine was started.
fn booted(root: &Root) -> Option<SystemTime> {
    let stat = file::text(&root.file("proc/stat"))?;
    let mut lines = stat.lines().filter_map(|line| line.strip_prefix("btime "));
    let seconds = lines.next()?.trim().parse().ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// The 22nd word of `stat`. The second is a name in brackets that may hold anything.
fn started(stat: &str, booted: &SystemTime) -> Option<SystemTime> {
    let after = stat.rsplit_once(')')?.1;
    let ticks: u64 = after.split_ascii_whitespace().nth(19)?.parse().ok()?;
    booted.checked_add(Duration::from_millis(ticks.checked_mul(1000 / TICKS)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::played::Machine;

    #[test]
    fn a_process_tells_its_user_command_and_start() {
        let machine = Machine::new();
        machine.write("etc/passwd", "root:x:0:0::/:\nann:x:1000:100::/:\n");
        machine.write("proc/stat", "cpu 1 2\nbtime 1700000000\n");
        machine.write("proc/41/status", "Name:\tx\nUid:\t0\t1000\t0\t0\n");
        machine.write("proc/41/comm", "generate\n");
        machine.write("proc/41/cmdline", "generate\0kjv.gguf\0And it\0");
        let stat = "41 (a ) (b) S 1 41 41 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 250 1 1";
        machine.write("proc/41/stat", stat);
        let process = Process::look(&machine.root, 41);
        assert_eq!(process.user.as_deref(), Some("ann"));
        assert_eq!(process.command.as_deref(), Some("generate"));
        let line = process.command_line.as_deref();
        assert_eq!(line, Some("generate kjv.gguf And it"));
        let since = UNIX_EPOCH + Duration::from_millis(1_700_000_002_500);
        assert_eq!(process.started, Some(since));
    }

    #[test]
    fn a_process_that_is_gone_or_odd_is_no_answer() {
        let machine = Machine::new();
        let gone = Process::look(&machine.root, 41);
        assert_eq!(
            (gone.user_id, gone.command, gone.started),
            (None, None, None)
        );
        for stat in [
            "",
            "41",
            "41 (x",
            ")",
            "41 (x) S 1",
            &format!("1 (x) {}", "9".repeat(400)),
        ] {
            machine.write("proc/stat", "btime 1\n");
            machine.write("proc/41/stat", stat);
            assert_eq!(Process::look(&machine.root, 41).started, None, "{stat}");
        }
    }
}
