//! Which crate of ours may know which: the driver and the emulator share hardware and wire, no more.

use crate::tree::{File, code, expect_none, files};

/// A crate's folder, and the crates of ours that it may use outside its tests.
const MAY_USE: &[(&str, &[&str])] = &[
    ("libjalapeno/hw/", &[]),
    ("libjalapeno/wire/", &[]),
    ("libjalapeno/", &["jalapeno-hw", "jalapeno-wire"]),
    ("libjalapeno/capi/", &["jalapeno", "jalapeno-hw"]),
    ("jalctl/", &["jalapeno", "jalapeno-hw"]),
    ("tests/emulator/", &["jalapeno-hw", "jalapeno-wire"]),
    ("tests/kernel/", &["jalapeno"]),
    ("tests/ggml/", &[]),
    ("tests/stopwatch/", &[]),
];

/// Crates that may use anything: they are tests.
const FREE: &[&str] = &["tests/", "tests/bench/"];

/// The crates of ours that a manifest's [dependencies] (and build scripts) name.
fn named(manifest: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut counts = false;
    for line in manifest.lines() {
        if let Some(section) = line.strip_prefix('[') {
            counts = section.contains("dependencies") && !section.contains("dev-dependencies");
            if let Some((_, name)) = section.split_once("dependencies.") {
                found.push(name.trim_end_matches(']').to_owned());
            }
        } else if counts {
            let end = |c: char| c == '.' || c == '=' || c == ' ';
            found.push(line.split(end).next().unwrap_or_default().to_owned());
        }
    }
    found.retain(|name| name == "jalapeno" || name == "jalctl" || name.starts_with("jalapeno-"));
    found
}

fn strays(file: &File) -> Vec<String> {
    let Some(folder) = file.path.strip_suffix("Cargo.toml") else {
        return Vec::new();
    };
    if folder.is_empty() || FREE.contains(&folder) {
        return Vec::new();
    }
    let Some((_, allowed)) = MAY_USE.iter().find(|(crate_, _)| *crate_ == folder) else {
        return vec![format!(
            "{}: not in the table of tests/shape/crates.rs",
            file.path
        )];
    };
    named(&file.text)
        .into_iter()
        .filter(|name| !allowed.contains(&name.as_str()))
        .map(|name| format!("{} uses {name}", file.path))
        .collect()
}

/// Lines by which source of another crate would come in past its manifest.
fn detours(file: &File) -> Vec<String> {
    if !file.path.ends_with(".rs") || file.path.starts_with("tests/device/") {
        return Vec::new();
    }
    code(&file.text)
        .filter(|line| {
            let path = line.trim_start().starts_with(concat!("#[", "path"));
            let include = line.contains(concat!("include", "!("));
            (path || include) && line.contains("..")
        })
        .map(|line| format!("{}: {}", file.path, line.trim()))
        .collect()
}

#[test]
fn no_crate_uses_another_that_it_should_not_know() {
    let files = files();
    expect_none(&files.iter().flat_map(strays).collect::<Vec<_>>());
    expect_none(&files.iter().flat_map(detours).collect::<Vec<_>>());
    for (folder, _) in MAY_USE {
        let manifest = format!("{folder}Cargo.toml");
        assert!(
            files.iter().any(|file| file.path == manifest),
            "{manifest} is gone"
        );
    }
}

#[test]
fn a_stray_is_noticed_however_it_is_written() {
    let broken = |path: &str, text: &str| {
        let (path, text) = (path.to_owned(), text.to_owned());
        let file = File { path, text };
        !strays(&file).is_empty() || !detours(&file).is_empty()
    };
    for (path, text) in [
        (
            "tests/emulator/Cargo.toml",
            "[dependencies]\njalapeno.workspace = true",
        ),
        (
            "tests/emulator/Cargo.toml",
            "[dependencies]\njalapeno = { path = \"../..\" }",
        ),
        (
            "libjalapeno/hw/Cargo.toml",
            "[dependencies]\njalapeno-wire.workspace = true",
        ),
        (
            "libjalapeno/Cargo.toml",
            "[build-dependencies]\njalapeno-emulator.workspace = true",
        ),
        (
            "jalctl/Cargo.toml",
            "[dependencies.jalapeno-wire]\nworkspace = true",
        ),
        (
            "libjalapeno/capi/Cargo.toml",
            "[target.'cfg(unix)'.dependencies]\njalapeno-emulator = \"1\"",
        ),
        ("attic/Cargo.toml", "[dependencies]"),
        (
            "jalctl/src/main.rs",
            concat!("#[", "path = \"../../libjalapeno/src/ring.rs\"]"),
        ),
        (
            "tests/emulator/src/lib.rs",
            concat!("include", "!(\"../../ring.rs\");"),
        ),
    ] {
        assert!(broken(path, text), "{path}: {text}");
    }
    for (path, text) in [
        (
            "libjalapeno/hw/Cargo.toml",
            "[dev-dependencies]\njalapeno-emulator.workspace = true",
        ),
        (
            "jalctl/Cargo.toml",
            "[dependencies]\njalapeno.workspace = true\nserde = \"1\"",
        ),
        (
            "tests/Cargo.toml",
            "[dependencies]\njalapeno-emulator.workspace = true",
        ),
        (
            "tests/emulator/tests/vectors.rs",
            concat!("#[", "path = \"vectors/case.rs\"]"),
        ),
    ] {
        assert!(!broken(path, text), "{path}: {text}");
    }
}
