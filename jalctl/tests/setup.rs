//! `jalctl setup` on a folder that will be a system: planned, applied, applied again, and refused.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::Value;

mod played_host;

use played_host::Played;

/// The report of a run with these words; it must end with this code.
fn setup(host: &Played, exit: i32, words: &[&str]) -> Value {
    let output = host.jalctl(&[&["setup", "-o", "json"], words].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(exit), "{words:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{why}: {said}"))
}

/// The steps of a report, each with its state.
fn states(report: &Value) -> Vec<(String, String)> {
    let steps = report["devices"][0]["setup"]["steps"]
        .as_array()
        .expect("steps");
    let word = |value: &Value| value.as_str().expect("a word").to_owned();
    steps
        .iter()
        .map(|step| (word(&step["step"]), word(&step["state"])))
        .collect()
}

fn all(report: &Value, state: &str) -> bool {
    let states = states(report);
    states.len() >= 6 && states.iter().all(|(_, is)| is == state)
}

/// Every file below a folder, with its text.
fn files(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).expect("a folder").flatten() {
            let path = entry.path();
            match fs::symlink_metadata(&path) {
                Ok(about) if about.is_dir() => folders.push(path),
                _ => found.push((
                    path.display().to_string(),
                    fs::read_to_string(&path).unwrap_or_default(),
                )),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_plan_changes_nothing_and_shows_what_it_would_write() {
    let host = Played::empty("plan");
    let before = files(&host.path(""));
    let report = setup(&host, 0, &["--service", "vllm"]);
    assert!(all(&report, "todo"), "{:?}", states(&report));
    assert_eq!(files(&host.path("")), before);
    let text = String::from_utf8(host.jalctl(&["setup"]).stdout).expect("UTF-8");
    assert!(
        text.contains("+ @jalapeno  -  memlock  unlimited"),
        "{text}"
    );
    assert!(text.contains("Nothing was changed."), "{text}");
    assert_eq!(
        host.jalctl(&["setup", "--dry-run", "--apply"])
            .status
            .code(),
        Some(2)
    );
}

#[test]
fn what_was_applied_is_done_and_stays_as_it_is() {
    let host = Played::empty("apply");
    let report = setup(
        &host,
        0,
        &["--apply", "--hugepages", "64", "--service", "vllm"],
    );
    assert!(all(&report, "applied"), "{:?}", states(&report));
    let written = files(&host.path("etc"));
    assert_eq!(written.len(), 9, "{written:?}");
    for (path, text) in &written {
        let mode = fs::metadata(path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "{path}");
        assert!(text.starts_with("# "), "{path}: {text}");
    }
    let rule = fs::read_to_string(host.path("etc/udev/rules.d/70-jalapeno.rules")).expect("a rule");
    assert_eq!(rule, include_str!("../../packaging/udev/70-jalapeno.rules"));
    let rebind = host.path("etc/udev/rules.d/71-jalapeno-bind.rules");
    let rebind = fs::read_to_string(rebind).expect("a rule");
    let runs = format!("RUN+=\"{} bind --recorded", env!("CARGO_BIN_EXE_jalctl"));
    assert!(rebind.contains(&runs), "{rebind}");
    // The group is the business of the image's own first boot, where it has no groups yet.
    host.write("etc/group", "root:x:0:\njalapeno:x:998:\n");
    let written = files(&host.path("etc"));
    let again = setup(
        &host,
        0,
        &["--apply", "--hugepages", "64", "--service", "vllm"],
    );
    assert!(all(&again, "done"), "{:?}", states(&again));
    assert_eq!(files(&host.path("etc")), written);
}

#[test]
fn what_a_package_installed_is_done() {
    let host = Played::empty("package");
    let rule = include_str!("../../packaging/udev/70-jalapeno.rules");
    host.write("usr/lib/udev/rules.d/70-jalapeno.rules", rule);
    let rebind = include_str!("../../packaging/udev/71-jalapeno-bind.rules.in");
    let rebind = rebind.replace("@PREFIX@", "/opt/elsewhere");
    host.write("usr/lib/udev/rules.d/71-jalapeno-bind.rules", &rebind);
    let report = setup(&host, 0, &["--apply"]);
    for done in ["udev-rule", "binding-rule"] {
        assert!(
            states(&report).contains(&(done.into(), "done".into())),
            "{done}"
        );
    }
    assert!(!host.path("etc/udev").exists());
}

#[test]
fn a_file_that_somebody_changed_is_kept_unless_told() {
    let host = Played::empty("changed");
    host.write(
        "etc/security/limits.d/jalapeno.conf",
        "@jalapeno - memlock 64\n",
    );
    fs::create_dir_all(host.path("etc/udev/rules.d")).expect("folders");
    symlink("/dev/null", host.path("etc/udev/rules.d/70-jalapeno.rules")).expect("switched off");
    let report = setup(&host, 0, &["--apply"]);
    for kept in ["memlock", "udev-rule"] {
        assert!(
            states(&report).contains(&(kept.into(), "kept".into())),
            "{kept}"
        );
    }
    let text = fs::read_to_string(host.path("etc/security/limits.d/jalapeno.conf"));
    assert_eq!(text.expect("text"), "@jalapeno - memlock 64\n");
    setup(&host, 0, &["--apply", "--replace"]);
    let text = fs::read_to_string(host.path("etc/security/limits.d/jalapeno.conf"));
    assert!(text.expect("text").contains("unlimited"));
    let about = fs::symlink_metadata(host.path("etc/udev/rules.d/70-jalapeno.rules"));
    assert!(
        about.expect("a rule").is_file(),
        "not written through the link"
    );
}

#[test]
fn a_step_that_fails_ends_the_run_in_one_error_with_nothing_half_done() {
    let host = Played::empty("fails");
    // A file where the rule's folder should be.
    host.write("etc/udev", "in the way");
    let report = setup(&host, 1, &["--apply"]);
    let states = states(&report);
    let of = |step: &str| {
        states
            .iter()
            .find(|(name, _)| name == step)
            .map(|(_, state)| state.as_str())
    };
    assert_eq!(of("module-options"), Some("applied"));
    assert_eq!(of("udev-rule"), Some("failed"));
    assert_eq!(of("memlock"), Some("todo"), "not tried");
    assert!(!host.path("etc/security").exists());
    let output = host.jalctl(&["setup", "--apply"]);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(words.matches("error: ").count(), 1, "{words}");
    assert!(
        words.contains("udev-rule: write") && words.contains("hint: "),
        "{words}"
    );
    // Mended, it goes on where it stopped.
    host.remove("etc/udev");
    setup(&host, 0, &["--apply"]);
    assert!(host.path("etc/security/limits.d/jalapeno.conf").exists());
}

#[test]
fn an_image_cannot_lead_out_of_its_folder() {
    let (host, outside) = (Played::empty("image"), Played::empty("outside"));
    symlink(outside.path(""), host.path("etc")).expect("a link");
    let report = setup(&host, 4, &["--apply"]);
    assert!(states(&report).contains(&("group".into(), "failed".into())));
    let left: Vec<_> = fs::read_dir(outside.path(""))
        .expect("a folder")
        .flatten()
        .collect();
    assert_eq!(left.len(), 1, "only its own proc: {left:?}");
}

#[test]
fn mistakes_are_refused_before_anything_is_done() {
    let host = Played::empty("mistakes");
    for words in [
        &["--service", "../../evil"][..],
        &["--service", "a b"],
        &["--user", "-R"],
        &["--user", "alice"],
        &["--hugepages", "-1"],
        &["--hugepages", "many"],
    ] {
        let output = host.jalctl(&[&["setup", "--apply"], words].concat());
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(!host.path("etc").exists(), "{words:?}");
    }
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_jalctl"))
        .args(["setup", "--apply", "--root", "/no/such/folder"])
        .output()
        .expect("jalctl runs");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn only_root_sets_up_the_running_host() {
    if !nix::unistd::geteuid().is_root() {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_jalctl"))
            .args(["setup", "--apply"])
            .output()
            .expect("jalctl runs");
        assert_eq!(output.status.code(), Some(4));
        return;
    }
    // As nobody, from a folder that everybody may look into.
    let program = std::env::temp_dir().join(format!("jalapeno-jalctl-{}", std::process::id()));
    fs::copy(env!("CARGO_BIN_EXE_jalctl"), &program).expect("a copy");
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("a mode");
    let output = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["setup", "--apply"])
        .output()
        .expect("setpriv runs");
    let _ = fs::remove_file(&program);
    assert_eq!(output.status.code(), Some(4));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("hint: sudo jalctl setup --apply"), "{words}");
}

#[test]
fn the_report_is_as_its_committed_schema_says() {
    let host = Played::empty("schema");
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/cli/schemas/setup.json"
    );
    let schema = host.jalctl(&["setup", "--schema"]).stdout;
    if std::env::var_os("BLESS").is_some() {
        fs::write(path, &schema).expect("blessed");
    }
    let committed = fs::read(path).expect("a committed schema");
    assert_eq!(schema, committed, "additions only, then BLESS=1");
    let schema: Value = serde_json::from_slice(&committed).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let mut report = setup(&host, 0, &[]);
    assert!(validator.is_valid(&report));
    host.write("etc/udev", "in the way");
    assert!(validator.is_valid(&setup(&host, 1, &["--apply"])));
    report["devices"][0]["setup"]["steps"][0]["state"] = "half".into();
    assert!(!validator.is_valid(&report));
}
