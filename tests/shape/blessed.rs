//! A checked-in file that is written from the code: compared, or rewritten when `BLESS=1`.

use std::fs;
use std::path::{Path, PathBuf};

/// The root of the tree.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("tests/ is in the tree").to_path_buf()
}

/// Reads a file of the tree.
pub fn read(path: &str) -> String {
    let full = root().join(path);
    fs::read_to_string(&full).unwrap_or_else(|error| panic!("read {}: {error}", full.display()))
}

/// Fails when `path` does not hold `wanted`, or makes it hold that when BLESS=1.
pub fn check(path: &str, wanted: &str) {
    let found = fs::read_to_string(root().join(path)).unwrap_or_default();
    if found == wanted {
        return;
    }
    if std::env::var_os("BLESS").is_some_and(|bless| bless == "1") {
        fs::write(root().join(path), wanted).expect("rewrite the blessed file");
        return;
    }
    let line = found.lines().zip(wanted.lines()).position(|(a, b)| a != b);
    let line = line.unwrap_or_else(|| found.lines().count().min(wanted.lines().count()));
    panic!(
        "{path} has drifted from the code at line {}:\n  found:  {:?}\n  wanted: {:?}\nBLESS=1 rewrites it",
        line + 1,
        found.lines().nth(line),
        wanted.lines().nth(line),
    );
}
