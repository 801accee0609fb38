//! The emulator, as a process of its own.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::bench::Bench;
use crate::cores::Cores;

/// A running emulator; it ends when this is dropped.
#[derive(Debug)]
pub struct Emulator {
    child: Child,
    socket: PathBuf,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Emulator {
    /// Starts one on a core, with room for copies; returns when it serves.
    pub fn start(bench: &Bench, core: usize) -> Result<Self, String> {
        let program = bench.program("jalapeno-emulator")?;
        let socket = std::env::temp_dir().join(format!(
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
            .args(["--hbm", "1G", "--resident-limit", "1G", "--parent-pid"])
            .arg(std::process::id().to_string())
            .stdout(Stdio::piped());
        let started = command.spawn();
        bench.cores.unpin()?;
        let child = started.map_err(|error| format!("start {}: {error}", program.display()))?;
        let mut emulator = Self { child, socket };
        let out = emulator.child.stdout.take();
        let out = out.ok_or("the emulator has no output")?;
        let mut line = String::new();
        match BufReader::new(out).read_line(&mut line) {
            Ok(_) if line.starts_with("serving ") => Ok(emulator),
            Ok(_) => Err(format!("the emulator said {line:?} and does not serve")),
            Err(error) => Err(format!("read what the emulator says: {error}")),
        }
    }

    /// What `Device::open` takes.
    pub fn name(&self) -> String {
        format!("vfio-user:{}", self.socket.display())
    }

    /// Processor time it used so far, in nanoseconds.
    pub fn processor_time(&self) -> Result<u64, String> {
        let folder = format!("/proc/{}/task", self.child.id());
        let failed = |error: std::io::Error| format!("read {folder}: {error}");
        let mut sum = 0;
        for task in std::fs::read_dir(&folder).map_err(failed)? {
            let path = task.map_err(failed)?.path().join("schedstat");
            // A thread may have ended since it was listed; what it used is then not counted.
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let first = text.split_whitespace().next();
            sum += first.and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(sum)
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
