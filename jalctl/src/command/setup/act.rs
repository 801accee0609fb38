//! An act: what makes a written file count now, not only at the next boot.

use std::fmt;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longest that one command may take. Loading modules is the slowest of them.
const LONGEST: Duration = Duration::from_secs(60);

/// Where commands are looked for, whatever the caller's PATH says: this runs as root.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const NR_HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";

/// See the file's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Runs a command.
    Run(Vec<String>),
    /// Runs the first of these two that is installed.
    Either(Vec<String>, Vec<String>),
    /// Reserves this many huge pages of the usual size.
    Reserve(u64),
}

impl Act {
    pub fn run(words: &[&str]) -> Self {
        Self::Run(words.iter().map(|word| (*word).to_owned()).collect())
    }

    /// Does it.
    ///
    /// # Errors
    /// In words: what was tried, and why it failed.
    pub fn perform(&self) -> Result<(), String> {
        match self {
            Self::Run(words) => run(words),
            Self::Either(first, second) => match is_installed(&first[0]) {
                true => run(first),
                false => run(second),
            },
            Self::Reserve(pages) => reserve(*pages, Path::new(NR_HUGEPAGES)),
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(words) | Self::Either(words, _) => write!(f, "{}", words.join(" ")),
            Self::Reserve(pages) => write!(f, "sysctl vm.nr_hugepages={pages}"),
        }
    }
}

fn is_installed(program: &str) -> bool {
    PATH.split(':')
        .any(|folder| Path::new(folder).join(program).is_file())
}

fn run(words: &[String]) -> Result<(), String> {
    let shown = words.join(" ");
    let mut child = Command::new(&words[0])
        .args(&words[1..])
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("run {shown}: {error}"))?;
    let mut pipe = child.stderr.take();
    // On a thread of its own: a command that says a lot must not wait for us.
    let talk = std::thread::spawn(move || {
        let mut said = Vec::new();
        if let Some(pipe) = pipe.as_mut() {
            let _ = pipe.take(64 << 10).read_to_end(&mut said);
        }
        String::from_utf8_lossy(&said).into_owned()
    });
    let begin = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if begin.elapsed() < LONGEST => sleep(Duration::from_millis(10)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{shown}: not done after {} s", LONGEST.as_secs()));
            }
            Err(error) => return Err(format!("wait for {shown}: {error}")),
        }
    };
    if status.success() {
        return Ok(());
    }
    let said = talk.join().unwrap_or_default();
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    Err(match last {
        Some(line) => format!("{shown}: {}", line.trim()),
        None => format!("{shown}: {status}"),
    })
}

/// All of them, or what was there before.
fn reserve(pages: u64, file: &Path) -> Result<(), String> {
    let read = || -> Result<u64, String> {
        let text = fs::read_to_string(file)
            .map_err(|error| format!("read {}: {error}", file.display()))?;
        let number = text.trim().parse();
        number.map_err(|_| format!("{} has no number in it", file.display()))
    };
    let write = |number: u64| {
        fs::write(file, format!("{number}\n"))
            .map_err(|error| format!("write {}: {error}", file.display()))
    };
    let before = read()?;
    if before >= pages {
        return Ok(());
    }
    write(pages)?;
    let got = read()?;
    if got >= pages {
        return Ok(());
    }
    write(before)?;
    Err(format!(
        "reserve {pages} huge pages: the kernel found room for {got}; try again right after a \
         reboot, or ask for fewer with --hugepages {got}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_fails_says_its_own_last_words() {
        let error = Act::run(&["sh", "-c", "echo first >&2; echo why >&2; exit 3"])
            .perform()
            .expect_err("it fails");
        assert!(error.ends_with(": why"), "{error}");
        let silent = Act::run(&["false"]).perform().expect_err("it fails");
        assert!(silent.contains("exit status: 1"), "{silent}");
        let absent = Act::run(&["no-such-program"]).perform();
        assert!(absent.expect_err("absent").contains("No such file"));
        assert_eq!(Act::run(&["true"]).perform(), Ok(()));
    }

    #[test]
    fn the_second_way_is_for_where_the_first_is_not_installed() {
        let either = |first: &str| {
            let words = |word: &str| vec![word.to_owned()];
            Act::Either(words(first), words("true")).perform()
        };
        assert_eq!(either("no-such-program"), Ok(()));
        assert!(either("false").is_err(), "installed, and failed");
    }

    #[test]
    fn fewer_pages_than_asked_for_are_given_back() {
        let path = std::env::temp_dir().join(format!("jalapeno-pages-{}", std::process::id()));
        std::fs::write(&path, "512\n").expect("a file");
        assert_eq!(reserve(512, &path), Ok(()));
        assert_eq!(reserve(100, &path), Ok(()), "never fewer than there are");
        assert_eq!(std::fs::read_to_string(&path).expect("text"), "512\n");
        assert_eq!(reserve(600, &path), Ok(()));
        std::fs::write(&path, "many\n").expect("a file");
        assert!(reserve(1, &path).is_err());
        std::fs::remove_file(&path).expect("removed");
        assert!(reserve(1, &path).is_err());
    }
}
