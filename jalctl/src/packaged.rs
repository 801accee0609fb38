//! The packaged files: what `jalctl setup` writes, `make install` installs, and `jalctl doctor` looks
//! for. Their text stands in packaging/, once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The group whose members may open cards.
pub const GROUP: &str = "jalapeno";

/// One of the files.
#[derive(Clone, Copy, Debug)]
pub struct Packaged {
    /// What it is for; stable.
    pub step: &'static str,
    /// Where below /etc it goes.
    pub folder: &'static str,
    /// Its name there.
    pub name: &'static str,
    /// As it stands in packaging/; `filled` names the program where it stands for one.
    pub text: &'static str,
}

/// What stands for this program in a file's text.
const PROGRAM: &str = "@PREFIX@/bin/jalctl";

/// The udev rule.
pub const UDEV: Packaged = Packaged {
    step: "udev-rule",
    folder: "udev/rules.d",
    name: "70-jalapeno.rules",
    text: include_str!("../../packaging/udev/70-jalapeno.rules"),
};

/// The udev rule that makes recorded bindings again; it runs this program.
pub const REBIND: Packaged = Packaged {
    step: "binding-rule",
    folder: "udev/rules.d",
    name: "71-jalapeno-bind.rules",
    text: include_str!("../../packaging/udev/71-jalapeno-bind.rules.in"),
};

/// The group.
pub const SYSUSERS: Packaged = Packaged {
    step: "group",
    folder: "sysusers.d",
    name: "jalapeno.conf",
    text: include_str!("../../packaging/sysusers.d/jalapeno.conf"),
};

/// The folder of sockets.
pub const TMPFILES: Packaged = Packaged {
    step: "sockets",
    folder: "tmpfiles.d",
    name: "jalapeno.conf",
    text: include_str!("../../packaging/tmpfiles.d/jalapeno.conf"),
};

/// Modules loaded at boot.
pub const MODULES_LOAD: Packaged = Packaged {
    step: "modules",
    folder: "modules-load.d",
    name: "jalapeno.conf",
    text: include_str!("../../packaging/modules-load.d/jalapeno.conf"),
};

/// How modules are loaded.
pub const MODPROBE: Packaged = Packaged {
    step: "module-options",
    folder: "modprobe.d",
    name: "jalapeno.conf",
    text: include_str!("../../packaging/modprobe.d/jalapeno.conf"),
};

/// The memlock limit of logins.
pub const LIMITS: Packaged = Packaged {
    step: "memlock",
    folder: "security/limits.d",
    name: "jalapeno.conf",
    text: include_str!("../../packaging/limits.d/jalapeno.conf"),
};

/// The same of a service.
pub const SERVICE: Packaged = Packaged {
    step: "service",
    folder: "systemd/system",
    name: "jalapeno.conf",
    text: include_str!("../../packaging/systemd/jalapeno.conf"),
};

/// Where files of their kind are looked for, the first that is there counts.
const PLACES: [&str; 5] = ["etc", "run", "usr/local/lib", "usr/lib", "lib"];

/// What is at a place of such a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing, anywhere.
    Nothing,
    /// The same text, here.
    Same(PathBuf),
    /// Another text, here. A link to /dev/null counts: that is how files are switched off.
    Other(PathBuf),
}

impl Packaged {
    /// Where it goes below a root.
    pub fn place(&self, root: &Path) -> PathBuf {
        root.join("etc").join(self.folder).join(self.name)
    }

    /// Its text, with this program where it runs one.
    pub fn filled(&self) -> String {
        let program = std::env::current_exe().unwrap_or_else(|_| "/usr/local/bin/jalctl".into());
        self.text.replace(PROGRAM, &program.display().to_string())
    }

    /// Whether a file says this, wherever its program is installed.
    fn is_said_by(&self, text: &str) -> bool {
        let Some((before, after)) = self.text.split_once(PROGRAM) else {
            return text == self.text;
        };
        let program = text
            .strip_prefix(before)
            .and_then(|rest| rest.strip_suffix(after));
        program.is_some_and(|path| path.starts_with('/') && path.ends_with("/jalctl"))
    }

    /// What is there in its name.
    pub fn find(&self, root: &Path) -> Found {
        for place in PLACES {
            let path = root.join(place).join(self.folder).join(self.name);
            // A link is judged itself: where it leads may be outside the root.
            match fs::symlink_metadata(&path) {
                Err(_) => {}
                Ok(about)
                    if about.is_file() && read(&path).is_ok_and(|text| self.is_said_by(&text)) =>
                {
                    return Found::Same(path);
                }
                Ok(_) => return Found::Other(path),
            }
        }
        Found::Nothing
    }
}

fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path)
}
