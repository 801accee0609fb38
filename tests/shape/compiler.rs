//! The C and C++ compilers, and programs built with them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::blessed::root;

/// Warnings that the headers must not give.
pub const WARNINGS: &[&str] = &["-Wall", "-Wextra", "-Wpadded", "-Wpedantic", "-Werror"];

/// Where this run's programs go.
pub fn scratch(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("shape");
    fs::create_dir_all(&folder).expect("make the scratch folder");
    folder.join(name)
}

/// Compiles `source` with `standard`; gives the compiler's complaints, empty when there are none.
pub fn complaints(name: &str, source: &str, standard: &str, options: &[&str]) -> String {
    build(name, source, standard, options, true)
}

/// Compiles and runs `source`; gives what it printed.
pub fn run(name: &str, source: &str, standard: &str) -> String {
    let complaints = build(name, source, standard, WARNINGS, false);
    assert!(
        complaints.is_empty(),
        "{name} with {standard}:\n{complaints}"
    );
    let output = Command::new(scratch(name))
        .output()
        .expect("run the program");
    assert!(output.status.success(), "{name} failed: {output:?}");
    String::from_utf8(output.stdout).expect("the program prints text")
}

fn build(name: &str, source: &str, standard: &str, options: &[&str], only_object: bool) -> String {
    let plus = standard.contains("++");
    let (compiler, suffix) = if plus { ("c++", "cpp") } else { ("cc", "c") };
    let file = scratch(&format!("{name}.{suffix}"));
    fs::write(&file, source).expect("write the program");
    let mut command = Command::new(compiler);
    command.arg(format!("-std={standard}")).args(options);
    if only_object {
        command.arg("-c");
    }
    command.arg("-I").arg(root().join("include"));
    command.arg("-o").arg(scratch(name)).arg(&file);
    let output = command
        .output()
        .expect("run the compiler (tests/prepare names the package)");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() || !text.is_empty(),
        "{compiler} failed in silence"
    );
    text
}
