//! Files: one noun each, said in the first line; short; unsafe code in few of them.

use crate::tree::{File, code, expect_none, files, files_of};

/// Lines that a file may have, its unit tests not counted.
const LINES: usize = 500;

/// Longer ones, each with its reason.
const LONG: &[(&str, &str)] = &[
    (
        "include/jalapeno.h",
        "the whole C ABI: each function with its contract",
    ),
    ("include/jalapeno_hw.h", "written from the tables of hw"),
    (
        "libjalapeno/hw/tests/bytes.rs",
        "the bytes of every structure, by hand",
    ),
    ("tests/emulator/src/engine.rs", "one thread's whole round"),
    (
        "libjalapeno/src/transport/user.rs",
        "the verbs of the transport, one after the other",
    ),
];

/// Where unsafe code may be, outside tests: a file, or a folder ending in /; and what for.
const UNSAFE: &[(&str, &str)] = &[
    (
        "jalctl/src/signals.rs",
        "a signal handler that stores one atomic",
    ),
    ("libjalapeno/capi/src/", "pointers from C"),
    (
        "libjalapeno/src/dma/mapped.rs",
        "memory that could not be unmapped is never given back",
    ),
    (
        "libjalapeno/src/dma/memory.rs",
        "memory that the device writes, mapped and registered",
    ),
    (
        "libjalapeno/src/fork.rs",
        "pages that are wiped or absent in a child",
    ),
    (
        "libjalapeno/src/lane/",
        "the words of a command, in a page that a child finds wiped",
    ),
    ("libjalapeno/src/mmio.rs", "mapped registers and doorbells"),
    ("libjalapeno/src/order.rs", "the time stamp counter"),
    (
        "libjalapeno/src/queue.rs",
        "slots of the ring, found once a lap",
    ),
    (
        "libjalapeno/src/ring.rs",
        "rings that the device writes, as atomics",
    ),
    (
        "libjalapeno/src/session.rs",
        "passes on what its caller promises of registered memory",
    ),
    (
        "libjalapeno/src/transport/",
        "descriptors, mappings and ioctls",
    ),
    (
        "tests/emulator/src/",
        "client memory and HBM, which others write at any moment",
    ),
];

fn is_test(path: &str) -> bool {
    let emulator = path.starts_with("tests/emulator/src/");
    (path.starts_with("tests/") && !emulator)
        || path.ends_with("/tests.rs")
        || path.contains("/tests/")
        || ["played.rs", "queue_cost.rs", "queue_stories"]
            .iter()
            .any(|name| path.contains(name))
}

fn begins_badly(file: &File) -> Option<String> {
    let mut lines = file.text.lines();
    let (first, second) = (
        lines.next().unwrap_or_default(),
        lines.next().unwrap_or_default(),
    );
    let ending = file.path.rsplit('.').next().unwrap_or_default();
    let wanted = match ending {
        "rs" if !first.starts_with("//! ") || first.len() < 12 => "`//! ` and its noun",
        "c" | "h" | "cpp" | "hpp" if !first.contains("SPDX-License-Identifier: ") => "its licence",
        _ if first.starts_with("#!/") && !second.starts_with("# ") => "what it does in line 2",
        _ => return None,
    };
    Some(format!("{} does not begin with {wanted}", file.path))
}

fn too_long(file: &File) -> Option<String> {
    let source = ["rs", "c", "h", "cpp", "hpp"].contains(&file.path.rsplit('.').next()?);
    let tests = |line: &&str| !line.starts_with("#[cfg(test)]");
    let lines = file.text.lines().take_while(tests).count();
    let excused = LONG.iter().any(|(path, _)| *path == file.path);
    (source && lines > LINES && !excused)
        .then(|| format!("{}: {lines} lines: find its second noun", file.path))
}

fn badly_named(file: &File) -> Option<String> {
    let parts: Vec<&str> = file.path.split('/').collect();
    let name = parts
        .last()?
        .rsplit_once('.')
        .map_or(*parts.last()?, |(stem, _)| stem);
    let nouns = ["utils", "util", "common", "helpers", "misc"];
    // What the files of a tests/ folder share must be a folder, or cargo takes it for a test.
    let shared = parts.len() > 3 && parts[parts.len() - 3] == "tests";
    (nouns.contains(&name) || (name == "mod" && !shared))
        .then(|| format!("{}: name the concept", file.path))
}

fn uses_unsafe(file: &File) -> bool {
    file.path.ends_with(".rs")
        && !is_test(&file.path)
        && code(&file.text).any(|line| {
            let word = |c: char| !c.is_alphanumeric() && c != '_';
            line.split(word).any(|word| word == "unsafe")
        })
}

fn unsafe_elsewhere(file: &File) -> Option<String> {
    let may =
        |path: &str| file.path == path || (path.ends_with('/') && file.path.starts_with(path));
    (uses_unsafe(file) && !UNSAFE.iter().any(|(path, _)| may(path))).then(|| {
        format!(
            "{}: unsafe code, and not in the list of tests/shape/files.rs",
            file.path
        )
    })
}

#[test]
fn every_file_begins_with_what_it_is() {
    expect_none(&files().iter().filter_map(begins_badly).collect::<Vec<_>>());
}

#[test]
fn no_file_is_long_without_a_reason() {
    let files = files();
    expect_none(&files.iter().filter_map(too_long).collect::<Vec<_>>());
    for (path, reason) in LONG {
        let there = files.iter().any(|file| file.path == *path);
        assert!(there, "{path} is gone, and with it its excuse ({reason})");
    }
}

#[test]
fn the_kernel_module_is_small() {
    let lines = |end: &str| -> usize {
        let sources = files_of("kernel-shim/", end);
        sources.iter().map(|file| file.text.lines().count()).sum()
    };
    let all = lines(".c") + lines(".h");
    assert!(all < 1000, "{all} lines: leave more to vfio_pci_core");
}

#[test]
fn files_are_named_after_nouns() {
    expect_none(&files().iter().filter_map(badly_named).collect::<Vec<_>>());
}

#[test]
fn unsafe_code_is_where_the_list_says() {
    let files = files();
    expect_none(
        &files
            .iter()
            .filter_map(unsafe_elsewhere)
            .collect::<Vec<_>>(),
    );
    for (path, reason) in UNSAFE {
        let used = |file: &&File| file.path.starts_with(path) && uses_unsafe(file);
        assert!(
            files.iter().any(|file| used(&file)),
            "{path} is safe by now ({reason})"
        );
    }
}

#[test]
fn the_hardware_and_the_wire_forbid_unsafe_code() {
    let files = files();
    for path in ["libjalapeno/hw/src/lib.rs", "libjalapeno/wire/src/lib.rs"] {
        let file = files
            .iter()
            .find(|file| file.path == path)
            .expect("the crate is there");
        assert!(file.text.contains("#![forbid(unsafe_code)]"), "{path}");
    }
}

#[test]
fn a_bad_file_is_noticed() {
    let file = |path: &str, text: &str| File {
        path: path.to_owned(),
        text: text.to_owned(),
    };
    for bad in [
        file("jalctl/src/list.rs", "use std::fs;\n"),
        file("jalctl/src/list.rs", "//! \n"),
        file("libjalapeno/examples/copy.c", "#include <stdio.h>\n"),
        file("tests/run", "#!/bin/sh\nset -e\n"),
    ] {
        assert!(begins_badly(&bad).is_some(), "{bad:?}");
    }
    let long = "let a = 1;\n".repeat(LINES + 1);
    assert!(too_long(&file("libjalapeno/src/ring.rs", &long)).is_some());
    assert!(too_long(&file("kernel-shim/main.c", &long)).is_some());
    let tested = format!("let a = 1;\n#[cfg(test)]\n{long}");
    assert!(too_long(&file("libjalapeno/src/ring.rs", &tested)).is_none());
    for path in [
        "libjalapeno/src/dma/mod.rs",
        "tests/emulator/src/mod.rs",
        "jalctl/src/utils.rs",
    ] {
        assert!(badly_named(&file(path, "")).is_some(), "{path}");
    }
    assert!(badly_named(&file("tests/emulator/tests/bench_top/mod.rs", "")).is_none());
    for (path, line) in [
        ("jalctl/src/list.rs", "let a = unsafe { b() };"),
        ("libjalapeno/src/hbm.rs", "unsafe impl Send for Hbm {}"),
        ("libjalapeno/src/hbm.rs", "#[unsafe(no_mangle)]"),
    ] {
        assert!(
            unsafe_elsewhere(&file(path, line)).is_some(),
            "{path}: {line}"
        );
    }
    for (path, line) in [
        ("libjalapeno/src/hbm.rs", "// no unsafe code"),
        ("libjalapeno/src/hbm.rs", "let an_unsafe_name = 1;"),
        (
            "libjalapeno/src/hbm.rs",
            "#[cfg(test)]\nmod tests {\n unsafe fn f() {}\n}",
        ),
        ("libjalapeno/src/ring.rs", "unsafe { f() }"),
    ] {
        assert!(
            unsafe_elsewhere(&file(path, line)).is_none(),
            "{path}: {line}"
        );
    }
}
