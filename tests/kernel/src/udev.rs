//! Debian's udevd in the guest, with its own libraries, and our rule for it to run.

use std::io;
use std::path::Path;
use std::process::Command;

use crate::cpio::Archive;
use crate::leg;

/// Where the packaged rule is, below the source tree.
const RULE: &str = "packaging/udev/71-jalapeno-bind.rules.in";

/// Enters udevadm, which is udevd too, with its libraries as `udev/`, and the rule as it is installed
/// with jalctl in `/bin`. Where Debian's package cannot be had the guest finds none, and says so.
pub fn enter(archive: &mut Archive, cache: &Path) -> io::Result<()> {
    let rule = std::fs::read_to_string(leg::home().join("../..").join(RULE))?;
    archive.file(
        "71-jalapeno-bind.rules",
        rule.replace("@PREFIX@", "").as_bytes(),
    )?;
    let fetched = Command::new(leg::home().join("fetch"))
        .arg("tools-bookworm")
        .status()?;
    if !fetched.success() {
        return Ok(());
    }
    let root = cache.join("tools-bookworm");
    let loader = root.join("lib64/ld-linux-x86-64.so.2");
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let udevadm = root.join("usr/bin/udevadm");
    let said = Command::new(&loader)
        .arg("--library-path")
        .arg(&libraries)
        .arg("--list")
        .arg(&udevadm)
        .output()?;
    if !said.status.success() {
        return Err(io::Error::other(format!(
            "{} does not list what {} needs: {}",
            loader.display(),
            udevadm.display(),
            String::from_utf8_lossy(&said.stderr).trim()
        )));
    }
    archive.copy("udev/udevadm", &udevadm)?;
    archive.copy("udev/ld-linux-x86-64.so.2", &loader)?;
    for name in names(&String::from_utf8_lossy(&said.stdout)) {
        archive.copy(&format!("udev/{name}"), &libraries.join(name))?;
    }
    Ok(())
}

/// The libraries in what the loader says: `name => path (address)`.
fn names(said: &str) -> Vec<&str> {
    let found = said.lines().filter(|line| line.contains(" => /"));
    found
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| !name.contains('/'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn libraries_are_named_without_the_kernels_own_and_the_loader() {
        let said = "\tlinux-vdso.so.1 (0x7f)\n\tlibkmod.so.2 => /r/libkmod.so.2 (0x7f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 => /r/ld-linux-x86-64.so.2 (0x7f)\n";
        assert_eq!(names(said), ["libkmod.so.2"]);
    }
}
