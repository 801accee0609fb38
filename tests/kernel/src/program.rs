//! A program of the host in the guest: itself, and the libraries that it is linked with.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cpio::Archive;

/// Enters `program` as `bin/NAME`, and its libraries at the places where it looks for them.
pub fn enter(archive: &mut Archive, name: &str, program: &Path) -> io::Result<()> {
    archive.copy(&format!("bin/{name}"), program)?;
    let said = Command::new("ldd").arg(program).output()?;
    if !said.status.success() {
        return Err(io::Error::other(format!(
            "ldd {}: {}",
            program.display(),
            String::from_utf8_lossy(&said.stderr).trim()
        )));
    }
    for library in libraries(&String::from_utf8_lossy(&said.stdout)) {
        archive.copy(&place(program, &library), Path::new(&library))?;
    }
    Ok(())
}

/// Where the guest has a library: at its own place, and beside the program when it lies there. The
/// guest has a `/tmp` of its own, which would hide what lies below the host's.
fn place(program: &Path, library: &str) -> String {
    let path = Path::new(library);
    match path.file_name() {
        Some(name) if path.parent() == program.parent() => {
            format!("bin/{}", name.to_string_lossy())
        }
        _ => library.trim_start_matches('/').to_owned(),
    }
}

/// The files in what ldd says: `name => /path (address)`, or `/path (address)`.
fn libraries(said: &str) -> Vec<String> {
    let words = |line: &str| -> Option<String> {
        let place = line.split("=> ").last()?.split_whitespace().next()?;
        place.starts_with('/').then(|| place.to_owned())
    };
    said.lines().filter_map(words).collect()
}

/// What a story starts beside the guest's own programs, and the files it reads.
const NEEDS: &[(&str, &[&str], &[&str])] = &[
    ("library", &["library"], &[]),
    ("events", &["events", "jalctl"], &[]),
    ("binding", &["jalctl"], &[]),
    ("device", &["device"], &[]),
    ("doctor", &["jalctl"], &[]),
    ("lspci", &["lspci"], &[]),
    ("setup", &["jalctl"], &[]),
    ("c-programs", &["library", "abi", "raii", "copy"], &[]),
    (
        "generate",
        &["generate", "compare"],
        &[
            "libjalapeno/examples/model/kjv.gguf",
            "tests/model/vectors.bin",
        ],
    ),
];

/// Enters what a story needs; nothing, where it makes do with the guest's own programs.
pub fn enter_for(archive: &mut Archive, story: &str) -> io::Result<()> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (_, programs, files) in NEEDS.iter().filter(|need| need.0 == story) {
        for name in *programs {
            enter(archive, name, &built(name)?)?;
        }
        for file in *files {
            let name = Path::new(file).file_name().unwrap_or_default();
            let name = format!("model/{}", name.to_string_lossy());
            archive.copy(&name, &sources.join(file))?;
        }
    }
    Ok(())
}

/// Programs of Debian that set a host up, and the names they are called by.
const DEBIAN: [(&str, &str); 4] = [
    ("udevadm", "udevadm"),
    ("systemd-udevd", "udevadm"),
    ("systemd-sysusers", "systemd-sysusers"),
    ("systemd-tmpfiles", "systemd-tmpfiles"),
];

/// Enters Debian's own programs from an unpacked tree, with the libraries and the loader of that tree,
/// apart from the host's.
pub fn enter_debian(archive: &mut Archive, tree: &Path) -> io::Result<()> {
    let loader = tree.join("lib64/ld-linux-x86-64.so.2");
    let places = [
        "usr/lib/x86_64-linux-gnu",
        "usr/lib/x86_64-linux-gnu/systemd",
    ];
    let places = places.map(|place| tree.join(place).display().to_string());
    archive.copy("debian/ld.so", &loader)?;
    let mut entered = Vec::new();
    for (name, file) in DEBIAN {
        let program = tree.join("usr/bin").join(file);
        let said = Command::new(&loader)
            .args(["--list", "--library-path", &places.join(":")])
            .arg(&program)
            .output()?;
        let mut files = libraries(&String::from_utf8_lossy(&said.stdout));
        if files.is_empty() {
            return Err(io::Error::other(format!(
                "{} is not to be had",
                program.display()
            )));
        }
        files.push(program.display().to_string());
        for file in files {
            if !entered.contains(&file) {
                let path = Path::new(&file);
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                archive.copy(&format!("debian/{name}"), path)?;
                entered.push(file);
            }
        }
        let start = format!(
            "#!/bin/busybox sh\nexec /debian/ld.so --argv0 {name} --library-path /debian /debian/{file} \"$@\"\n"
        );
        archive.file(&format!("bin/{name}"), start.as_bytes())?;
    }
    Ok(())
}

/// Enters the rule that binds again, as it is installed with jalctl in `/bin`.
pub fn enter_rule(archive: &mut Archive) -> io::Result<()> {
    let rule = "../../packaging/udev/71-jalapeno-bind.rules.in";
    let rule = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(rule))?;
    let rule = rule.replace("@PREFIX@", "");
    archive.file("71-jalapeno-bind.rules", rule.as_bytes())
}

/// A program that `tests/kernel/programs` built.
fn built(name: &str) -> io::Result<PathBuf> {
    let us = std::env::current_exe()?;
    let target = us.parent().and_then(Path::parent).unwrap_or(Path::new("."));
    let path = target.join("kernel-programs").join(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(io::Error::other(format!(
            "{} is not built; tests/kernel/programs builds it",
            path.display()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::{libraries, place};
    use std::path::Path;

    #[test]
    fn a_library_beside_its_program_is_so_in_the_guest_too() {
        let program = Path::new("/tmp/clone/target/kernel-programs/abi");
        let ours = "/tmp/clone/target/kernel-programs/libjalapeno.so.0";
        assert_eq!(place(program, ours), "bin/libjalapeno.so.0");
        assert_eq!(place(program, "/lib64/ld.so.2"), "lib64/ld.so.2");
    }

    #[test]
    fn libraries_are_read_from_what_ldd_says() {
        let said = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f)\n\
                    \tlibabsent.so => not found\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libgcc_s.so.1",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(libraries(said), expected);
        assert!(libraries("\tstatically linked\n").is_empty());
    }
}
