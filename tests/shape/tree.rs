//! The tree: every file of ours that is text, and what of a source file is not its tests.

use std::fs;
use std::path::Path;

use crate::blessed::root;

/// A file: its path from the root, and its text.
#[derive(Clone, Debug)]
pub struct File {
    pub path: String,
    pub text: String,
}

/// Every text file of the tree, in the order of their paths.
pub fn files() -> Vec<File> {
    let mut found = Vec::new();
    walk(&root(), "", &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 150, "only {} files found", found.len());
    found
}

/// Those whose paths begin and end so.
pub fn files_of(start: &str, end: &str) -> Vec<File> {
    let mut found = files();
    found.retain(|file| file.path.starts_with(start) && file.path.ends_with(end));
    assert!(!found.is_empty(), "no file is called {start}*{end}");
    found
}

fn walk(folder: &Path, name: &str, found: &mut Vec<File>) {
    for entry in fs::read_dir(folder).expect("read a folder of the tree") {
        let entry = entry.expect("read an entry");
        let last = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{name}{last}");
        let kind = entry.file_type().expect("ask what an entry is");
        if kind.is_dir() && !["target", ".git"].contains(&last.as_str()) {
            walk(&entry.path(), &format!("{path}/"), found);
        } else if kind.is_file()
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            found.push(File { path, text });
        }
    }
}

/// The lines of a Rust file before its tests, each without its comment.
pub fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .map(|line| line.split("//").next().unwrap_or_default())
}

/// Fails with all that is broken, if anything is.
pub fn expect_none(broken: &[String]) {
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}
