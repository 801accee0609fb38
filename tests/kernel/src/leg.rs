//! A leg: one kernel, one way to its devices, and how they come into the cache.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One row of the support matrix.
#[derive(Debug)]
pub struct Leg {
    /// Its name on the command line and in the results.
    pub name: &'static str,
    /// What LEG=... selects, beside the name.
    pub family: &'static str,
    /// The folder of the cache with `vmlinux` and `release`.
    pub kernel: &'static str,
    /// The folder of the cache with the modules.
    pub modules_in: &'static str,
    /// The modules, in the order they are inserted.
    pub modules: &'static [&'static str],
    /// The folder of the cache with `jalapeno_vfio_pci.ko`.
    pub shim: &'static str,
    /// `type1` or `cdev`.
    pub backend: &'static str,
    /// What `fetch` and `build` are asked for.
    fetched: &'static [&'static str],
    built: &'static [&'static str],
}

/// Every leg, in the order they run.
pub const LEGS: [Leg; 5] = [
    Leg {
        name: "6.1",
        family: "6.1",
        kernel: "kernel-6.1",
        modules_in: "kernel-6.1/modules",
        modules: &[
            "irqbypass",
            "vfio",
            "vfio_virqfd",
            "vfio_iommu_type1",
            "vfio-pci-core",
            "vfio-pci",
        ],
        shim: "shim-6.1",
        backend: "type1",
        fetched: &["qemu", "busybox", "kernel-6.1", "tools-bookworm"],
        built: &["shim-6.1", "sparse-6.1", "dkms-6.1", "guest"],
    },
    Leg {
        name: "6.12",
        family: "6.12",
        kernel: "kernel-6.12",
        modules_in: "kernel-6.12/modules",
        modules: &[
            "irqbypass",
            "vfio",
            "vfio_iommu_type1",
            "vfio-pci-core",
            "vfio-pci",
        ],
        shim: "shim-6.12",
        backend: "type1",
        fetched: &["qemu", "busybox", "kernel-6.12", "tools-bookworm"],
        built: &[
            "shim-6.12",
            "sparse-6.12",
            "checkpatch",
            "dkms-6.12",
            "guest",
        ],
    },
    Leg {
        name: "6.12-cdev",
        family: "6.12",
        kernel: "kernel-6.12",
        modules_in: "vfio-6.12",
        modules: &[
            "irqbypass",
            "iommufd",
            "vfio",
            "vfio_iommu_type1",
            "vfio-pci-core",
            "vfio-pci",
        ],
        shim: "shim-6.12-cdev",
        backend: "cdev",
        fetched: &["qemu", "busybox", "kernel-6.12", "tools-bookworm"],
        built: &["shim-6.12-cdev", "vfio-6.12", "guest"],
    },
    Leg {
        name: "newest",
        family: "newest",
        kernel: "kernel-newest",
        modules_in: "kernel-newest/modules",
        modules: &[
            "irqbypass",
            "vfio",
            "vfio_iommu_type1",
            "vfio-pci-core",
            "vfio-pci",
        ],
        shim: "shim-newest",
        backend: "type1",
        fetched: &["qemu", "busybox", "kernel-newest", "tools-bookworm"],
        built: &["shim-newest", "guest"],
    },
    Leg {
        name: "debug",
        family: "debug",
        kernel: "debug",
        modules_in: "debug/modules",
        modules: &[],
        shim: "shim-debug",
        backend: "cdev",
        fetched: &["qemu", "busybox", "tools-bookworm"],
        built: &["debug", "shim-debug", "guest"],
    },
];

/// Why a leg cannot run.
#[derive(Debug)]
pub enum Unprepared {
    /// Something is not to be had on this machine: the leg is skipped, for this reason.
    Skipped(String),
    /// It should have worked.
    Failed(String),
}

/// The exit code of `fetch` and `build` for "not to be had here".
const NOT_TO_BE_HAD: i32 = 77;

/// The folder `tests/kernel` of the source tree.
pub fn home() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Where downloads and builds are kept; `fetch` decides.
pub fn cache() -> Result<PathBuf, Unprepared> {
    let said = Command::new(home().join("fetch"))
        .arg("--where")
        .output()
        .map_err(|why| Unprepared::Failed(format!("run tests/kernel/fetch: {why}")))?;
    if !said.status.success() {
        return Err(Unprepared::Failed(
            String::from_utf8_lossy(&said.stderr).into_owned(),
        ));
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&said.stdout).trim()))
}

impl Leg {
    /// Brings everything the leg needs into the cache. Costs nothing when it is there.
    pub fn prepare(&self) -> Result<(), Unprepared> {
        ask(&home().join("fetch"), self.fetched)?;
        ask(&home().join("build"), self.built)
    }

    /// Its place among the legs: which part of a campaign it plays that others play other parts of.
    pub fn turn(&self) -> usize {
        let own = |leg: &Self| leg.name == self.name;
        LEGS.iter().position(own).unwrap_or_default()
    }

    /// Whether a name given on the command line means this leg.
    pub fn is_meant_by(&self, name: &str) -> bool {
        name == self.name || name == self.family || name == "all"
    }
}

/// Runs one of the scripts, passing its talk on, and keeps the reason it may give.
fn ask(script: &Path, things: &[&str]) -> Result<(), Unprepared> {
    let failed =
        |why: String| Unprepared::Failed(format!("{} {things:?}: {why}", script.display()));
    let mut child = Command::new(script)
        .args(things)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|why| failed(why.to_string()))?;
    let mut last = String::new();
    if let Some(talk) = child.stderr.take() {
        for line in BufReader::new(talk).lines().map_while(Result::ok) {
            eprintln!("  {line}");
            last = line;
        }
    }
    let status = child.wait().map_err(|why| failed(why.to_string()))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(NOT_TO_BE_HAD) => Err(Unprepared::Skipped(
            last.split_once("skipped: ")
                .map_or(last.clone(), |(_, why)| why.to_owned()),
        )),
        _ => Err(failed(format!("{status}; {last}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::{Unprepared, ask};
    use std::fs::{create_dir_all, remove_dir_all, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Mutex, PoisonError};

    /// A script that another thread's child inherits while it is written could not be run.
    static TURN: Mutex<()> = Mutex::new(());

    /// What comes of a script with these lines, asked for two things.
    fn asked(name: &str, lines: &str) -> Result<(), Unprepared> {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = format!("jalapeno-leg-{}-{name}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        create_dir_all(&folder).unwrap();
        let script = folder.join("fetch");
        write(&script, format!("#!/bin/sh\n{lines}\n")).unwrap();
        set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        let said = ask(&script, &["qemu", "guest"]);
        remove_dir_all(&folder).unwrap();
        said
    }

    #[test]
    fn a_script_that_ends_well_was_asked_for_everything() {
        let said = asked("well", r#"echo talk >&2; [ "$*" = 'qemu guest' ]"#);
        assert!(said.is_ok(), "{said:?}");
    }

    #[test]
    fn what_is_not_to_be_had_is_skipped_for_the_reason_that_the_script_gives() {
        let skipped = "echo first >&2; echo 'fetch: skipped: no network here' >&2; exit 77";
        match asked("skips", skipped) {
            Err(Unprepared::Skipped(why)) => assert_eq!(why, "no network here"),
            other => panic!("{other:?}"),
        }
        match asked("says-it-oddly", "echo none >&2; exit 77") {
            Err(Unprepared::Skipped(why)) => assert_eq!(why, "none"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn any_other_end_is_a_failure_with_the_scripts_last_line() {
        for end in ["exit 1", "exit 76", "kill -9 $$"] {
            let lines = format!("echo first >&2; echo 'skipped: not this way' >&2; {end}");
            match asked("fails", &lines) {
                Err(Unprepared::Failed(why)) => {
                    assert!(why.ends_with("; skipped: not this way"), "{why}");
                    assert!(why.contains(r#"fetch ["qemu", "guest"]"#), "{why}");
                }
                other => panic!("{end}: {other:?}"),
            }
        }
        let absent = ask(std::path::Path::new("/nowhere/fetch"), &[]);
        assert!(matches!(absent, Err(Unprepared::Failed(_))), "{absent:?}");
    }
}
