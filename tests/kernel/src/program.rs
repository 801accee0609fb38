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
        archive.copy(library.trim_start_matches('/'), Path::new(&library))?;
    }
    Ok(())
}

/// The files in what ldd says: `name => /path (address)`, or `/path (address)`.
fn libraries(said: &str) -> Vec<String> {
    let words = |line: &str| -> Option<String> {
        let place = line.split("=> ").last()?.split_whitespace().next()?;
        place.starts_with('/').then(|| place.to_owned())
    };
    said.lines().filter_map(words).collect()
}

/// A program that was built with us, beside this one.
pub fn beside(name: &str) -> io::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(io::Error::other(format!(
            "{} is not built; tests/kernel/test-kernel builds it",
            path.display()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::libraries;

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
