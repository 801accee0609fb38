//! The root: Debian's own programs, run inside it by a deadline.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::card::Card;

/// Where Debian keeps llama.cpp's test programs.
pub const TESTS: &str = "/usr/libexec/x86_64-linux-gnu/llama.cpp-tests";

/// The exit code of our scripts for "not to be had here".
const NOT_TO_BE_HAD: i32 = 77;

/// Why something is not there.
#[derive(Debug)]
pub enum Missing {
    /// It cannot be had on this machine, for this reason.
    Skipped(String),
    /// It should have worked.
    Failed(String),
}

/// What a program said, and how it ended.
#[derive(Debug)]
pub struct Said {
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
    /// Its exit code; none: it was still running at its deadline, and was killed.
    pub code: Option<i32>,
}

impl Said {
    /// Whether it ended with 0; otherwise how it ended and its last words.
    pub fn success(&self) -> Result<(), String> {
        let words: Vec<&str> = self.err.lines().rev().take(3).collect();
        match self.code {
            Some(0) => Ok(()),
            Some(code) => Err(format!("exit code {code}; it said {words:?}")),
            None => Err(format!("killed at its deadline; it said {words:?}")),
        }
    }
}

/// The prepared root.
#[derive(Debug)]
pub struct Root {
    home: PathBuf,
    /// Where this run's files are, under the same name inside.
    pub run: PathBuf,
    /// The plug-in, the shared library's folder, our own programs.
    built: PathBuf,
    library: PathBuf,
}

impl Root {
    /// Fetches and builds what is needed. Costs nothing when it is there.
    pub fn prepare() -> Result<Self, Missing> {
        let home = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        ask(&home.join("fetch"), &["root", "header"])?;
        let failed = |why: io::Error| Missing::Failed(why.to_string());
        let said = Command::new(home.join("build")).arg("--where").output();
        let said = String::from_utf8_lossy(&said.map_err(failed)?.stdout).into_owned();
        let mut places = said.lines().map(PathBuf::from);
        let (Some(cache), Some(library)) = (places.next(), places.next()) else {
            return Err(Missing::Failed(format!("build --where said \"{said}\"")));
        };
        let root = Self {
            run: cache.join(format!("run-{}", std::process::id())),
            built: cache.join("built"),
            library,
            home,
        };
        fs::create_dir_all(&root.run).map_err(failed)?;
        match root.run(None, &["true"], Duration::from_secs(20)) {
            Ok(said) => entered(&said)?,
            Err(why) => return Err(failed(why)),
        }
        ask(&root.home.join("build"), &[])?;
        Ok(root)
    }

    /// The source tree's file of that name.
    pub fn tree(&self, path: &str) -> String {
        self.home.join("../..").join(path).display().to_string()
    }

    /// One of our own programs.
    pub fn program(&self, name: &str) -> String {
        self.built.join(name).display().to_string()
    }

    /// A file of this run.
    pub fn file(&self, name: &str) -> String {
        self.run.join(name).display().to_string()
    }

    /// What a program finds the plug-in by.
    pub fn environment(&self) -> [String; 2] {
        let plug_in = self.built.join("libggml-jalapeno.so");
        [
            format!("LD_LIBRARY_PATH={}", self.library.display()),
            format!("GGML_BACKEND_PATH={}", plug_in.display()),
        ]
    }

    /// Runs a program inside; with a card, the plug-in is loaded and finds it.
    pub fn run(&self, card: Option<&Card>, words: &[&str], within: Duration) -> io::Result<Said> {
        let (out, err) = (self.run.join("out"), self.run.join("err"));
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        command.arg(self.home.join("inside"));
        if let Some(card) = card {
            command.arg("env").arg(card.devices());
            command.args(self.environment());
        }
        let mut child = command
            .args(words)
            .stdin(Stdio::null())
            .stdout(File::create(&out)?)
            .stderr(File::create(&err)?)
            .spawn()?;
        let started = Instant::now();
        let code = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status.code().unwrap_or(-1));
            }
            if started.elapsed() > within {
                child.kill()?; // and with it all of its namespace
                child.wait()?;
                break None;
            }
            thread::sleep(Duration::from_millis(5));
        };
        let read = |path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(Said {
            out: read(out)?,
            err: read(err)?,
            code,
        })
    }
}

/// Whether `true` could be run in the root. Where the system refuses namespaces or mounts it cannot be had
/// here; anything else is a failure.
fn entered(said: &Said) -> Result<(), Missing> {
    let refused = |line: &&str| line.starts_with("unshare: ") || line.starts_with("mount: ");
    let refusal = said.err.lines().rev().find(refused);
    match (said.code, refusal) {
        (Some(0), _) => Ok(()),
        (Some(NOT_TO_BE_HAD), _) => Err(Missing::Skipped(said.err.trim_end().to_owned())),
        (Some(_), Some(why)) => Err(Missing::Skipped(format!("no chroot in a namespace: {why}"))),
        _ => {
            let why = said.success().err().unwrap_or_default();
            Err(Missing::Failed(format!("run `true` in the root: {why}")))
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // Of no use to anybody after the run.
        let _ = fs::remove_dir_all(&self.run);
    }
}

/// Runs one of the scripts, passing its talk on, and keeps the reason it may give.
fn ask(script: &Path, things: &[&str]) -> Result<(), Missing> {
    let failed = |why: String| Missing::Failed(format!("{}: {why}", script.display()));
    let mut child = Command::new(script)
        .args(things)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|why| failed(why.to_string()))?;
    let mut last = String::new();
    if let Some(talk) = child.stderr.take() {
        for line in BufReader::new(talk).lines().map_while(Result::ok) {
            eprintln!("  {line}");
            last = line;
        }
    }
    let status = child.wait().map_err(|why| failed(why.to_string()))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(NOT_TO_BE_HAD) => {
            let why = last.split_once("skipped: ").map_or(&*last, |(_, why)| why);
            Err(Missing::Skipped(why.to_owned()))
        }
        _ => Err(failed(format!("{status}; {last}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::{Missing, Said, entered};

    #[test]
    fn only_a_refused_namespace_or_mount_is_a_skip() {
        let said = |code, err: &str| {
            entered(&Said {
                out: String::new(),
                err: err.to_owned(),
                code,
            })
        };
        assert!(said(Some(0), "words").is_ok());
        let refused = "unshare: unshare failed: Operation not permitted\n";
        assert!(matches!(said(Some(1), refused), Err(Missing::Skipped(_))));
        let mount = "mount: /proc: permission denied.\n";
        assert!(matches!(said(Some(32), mount), Err(Missing::Skipped(_))));
        let inside = "inside: skipped: the program unshare is not installed\n";
        assert!(matches!(said(Some(77), inside), Err(Missing::Skipped(_))));
        for (code, err) in [
            (
                Some(127),
                "chroot: failed to run command 'true': No such file",
            ),
            (Some(139), ""),
            (None, "unshare: words of a killed one"),
        ] {
            assert!(matches!(said(code, err), Err(Missing::Failed(_))), "{err}");
        }
    }
}
