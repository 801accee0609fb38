//! The emulator, as a process of its own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bench::Bench;
use crate::cores::Cores;

/// A running emulator; it ends when this is dropped.
#[derive(Debug)]
pub struct Emulator {
    child: Child,
    socket: PathBuf,
    said: Option<BufReader<ChildStdout>>,
}

/// Memory of a card that need not hold a model.
const SMALL: [&str; 4] = ["--hbm", "1G", "--resident-limit", "1G"];

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Emulator {
    /// Starts one on a core, with room for copies; returns when it serves.
    pub fn start(bench: &Bench, core: usize) -> Result<Self, String> {
        Self::start_with(bench, core, &SMALL)
    }

    /// Starts one with arguments of its own.
    pub fn start_with(bench: &Bench, core: usize, arguments: &[&str]) -> Result<Self, String> {
        Self::start_in(bench, core, arguments, &std::env::temp_dir())
    }

    /// Starts one whose socket is in a folder, where whoever runs in another root sees it.
    pub fn start_in(
        bench: &Bench,
        core: usize,
        arguments: &[&str],
        folder: &Path,
    ) -> Result<Self, String> {
        let program = bench.program("jalapeno-emulator")?;
        let socket = folder.join(format!(
            "jalapeno-bench-{}-{}.sock",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        ));
        // A child inherits where it may run.
        Cores::pin(core)?;
        let mut command = Command::new(&program);
        command
            .arg("--socket")
            .arg(&socket)
            .args(arguments)
            .arg("--parent-pid")
            .arg(std::process::id().to_string())
            .stdout(Stdio::piped());
        let started = command.spawn();
        bench.cores.unpin()?;
        let child = started.map_err(|error| format!("start {}: {error}", program.display()))?;
        let mut emulator = Self {
            child,
            socket,
            said: None,
        };
        emulator.said = emulator.child.stdout.take().map(BufReader::new);
        emulator.line("serving ")?;
        Ok(emulator)
    }

    /// The rest of its next line, which begins so.
    fn line(&mut self, begins: &str) -> Result<String, String> {
        let said = self.said.as_mut().ok_or("the emulator has no output")?;
        let mut line = String::new();
        match said.read_line(&mut line) {
            Ok(_) => match line.strip_prefix(begins) {
                Some(rest) => Ok(rest.to_owned()),
                None => Err(format!("the emulator said {line:?}, not \"{begins}...\"")),
            },
            Err(error) => Err(format!("read what the emulator says: {error}")),
        }
    }

    /// What it counted so far.
    pub fn counted(&mut self) -> Result<serde_json::Value, String> {
        let failed = |error: &dyn std::fmt::Display| format!("ask what was counted: {error}");
        let pid = i32::try_from(self.child.id()).map_err(|error| failed(&error))?;
        kill(Pid::from_raw(pid), Signal::SIGUSR1).map_err(|error| failed(&error))?;
        let line = self.line("counted ")?;
        serde_json::from_str(&line).map_err(|error| failed(&error))
    }

    /// Processor time of each of its threads so far, in nanoseconds, by the thread's number.
    pub fn threads(&self) -> Result<Vec<(String, u64)>, String> {
        let folder = format!("/proc/{}/task", self.child.id());
        let failed = |error: std::io::Error| format!("read {folder}: {error}");
        let mut threads = Vec::new();
        for task in std::fs::read_dir(&folder).map_err(failed)? {
            let task = task.map_err(failed)?;
            // A thread may have ended since it was listed; what it used is then not counted.
            let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let first = text.split_whitespace().next();
            let nanos = first.and_then(|word| word.parse().ok()).unwrap_or(0);
            threads.push((task.file_name().to_string_lossy().into_owned(), nanos));
        }
        Ok(threads)
    }

    /// What `Device::open` takes.
    pub fn name(&self) -> String {
        format!("vfio-user:{}", self.socket.display())
    }

    /// Processor time it used so far, in nanoseconds.
    pub fn processor_time(&self) -> Result<u64, String> {
        Ok(self.threads()?.iter().map(|(_, nanos)| nanos).sum())
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It may have ended already: then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}
