//! A card: an emulator on a socket, what it counted, what it holds.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest that an emulator may take to serve, or to say what it counted.
const SAYS_BY: Duration = Duration::from_secs(10);

/// A running emulator; ends when dropped, and with us.
#[derive(Debug)]
pub struct Card {
    socket: PathBuf,
    emulator: Child,
    said: Receiver<String>,
}

impl Card {
    /// Starts one whose socket and log are in `folder`, with these faults armed.
    pub fn start(folder: &Path, faults: &[&str]) -> io::Result<Self> {
        let words: Vec<&str> = faults.iter().flat_map(|fault| ["--fault", fault]).collect();
        Self::with(folder, &words)
    }

    /// Starts one with these words for the emulator.
    pub fn with(folder: &Path, words: &[&str]) -> io::Result<Self> {
        let program = program("jalapeno-emulator")?;
        let socket = folder.join("card");
        let log = File::create(folder.join("card.log"))?;
        let mut command = Command::new(&program);
        command.arg("--socket").arg(&socket);
        let ours = std::process::id().to_string();
        command.args(["--parent-pid", ours.as_str()]);
        let mut emulator = command
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let (sender, said) = mpsc::channel();
        if let Some(out) = emulator.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        let card = Self {
            socket,
            emulator,
            said,
        };
        card.line("serving ")?;
        Ok(card)
    }

    /// The tool that starts cards of its own.
    pub fn tool() -> io::Result<PathBuf> {
        program("jalctl")
    }

    /// What JAL... finds it by.
    pub fn devices(&self) -> String {
        format!("JALAPENO_DEVICES=vfio-user:{}", self.socket.display())
    }

    /// LAUNCH packets executed until now, by kernel, as the emulator counted them.
    pub fn launches(&self) -> io::Result<BTreeMap<String, u64>> {
        let pid = i32::try_from(self.emulator.id()).map_err(io::Error::other)?;
        kill(Pid::from_raw(pid), Signal::SIGUSR1)?;
        let counted: serde_json::Value = serde_json::from_str(&self.line("counted ")?)?;
        Ok(serde_json::from_value(counted["launches"].clone())?)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.emulator.id()
    }

    /// Launches of one kernel until now.
    pub fn launches_of(&self, kernel: &str) -> Result<u64, String> {
        let all = self.launches().map_err(|why| why.to_string())?;
        Ok(all.get(kernel).copied().unwrap_or(0))
    }

    /// Bytes of the emulator that are in memory.
    pub fn resident(&self) -> io::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.emulator.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kibibytes
            .map(|count| count * 1024)
            .ok_or_else(|| io::Error::other("the emulator has no VmRSS"))
    }

    /// The rest of its next line that begins so.
    fn line(&self, begins: &str) -> io::Result<String> {
        while let Ok(line) = self.said.recv_timeout(SAYS_BY) {
            if let Some(rest) = line.strip_prefix(begins) {
                return Ok(rest.to_owned());
            }
        }
        Err(io::Error::other(format!(
            "the emulator does not say \"{begins}...\" within {SAYS_BY:?}"
        )))
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        // It holds nothing that outlives it.
        let _ = self.emulator.kill();
        let _ = self.emulator.wait();
    }
}

/// What grew between two counts.
pub fn grown(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    now.iter()
        .map(|(name, count)| (name.clone(), count - before.get(name).unwrap_or(&0)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// A program of `make all`, or of this build.
fn program(name: &str) -> io::Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name(name);
    let release = beside.with_file_name(format!("../release/{name}"));
    for path in [release, beside] {
        if path.is_file() {
            return Ok(path);
        }
    }
    Err(io::Error::other(format!(
        "no {name} is built; run `make all`"
    )))
}

#[cfg(test)]
mod tests {
    use super::grown;
    use std::collections::BTreeMap;

    #[test]
    fn only_what_grew_is_told() {
        let counts = |pairs: &[(&str, u64)]| -> BTreeMap<String, u64> {
            pairs.iter().map(|(n, c)| ((*n).to_owned(), *c)).collect()
        };
        let before = counts(&[("ADD", 2), ("MUL", 3)]);
        let now = counts(&[("ADD", 2), ("COPY", 4), ("MUL", 8)]);
        assert_eq!(grown(&before, &now), counts(&[("COPY", 4), ("MUL", 5)]));
    }
}
