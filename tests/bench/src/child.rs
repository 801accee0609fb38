//! A peer program that takes a sample each time it is asked to.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::bench::Bench;
use crate::cores::Cores;

/// A peer: a line in makes it take a sample, a line out is its value.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    name: String,
}

impl Peer {
    /// Starts a peer on a core.
    pub fn start(bench: &Bench, program: &Path, core: usize) -> Result<Self, String> {
        Self::start_with(bench, program, core, &[])
    }

    /// Starts one with arguments.
    pub fn start_with(
        bench: &Bench,
        program: &Path,
        core: usize,
        arguments: &[&str],
    ) -> Result<Self, String> {
        let name = program.display().to_string();
        Cores::pin(core)?;
        let started = Command::new(program)
            .args(arguments)
            // What this environment makes of OpenBLAS is not what a user has.
            .env_remove("OPENBLAS_CORETYPE")
            .env_remove("OPENBLAS_L2_SIZE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        bench.cores.unpin()?;
        let mut child = started.map_err(|error| format!("start {name}: {error}"))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(to), Some(from)) => Ok(Self {
                child,
                to,
                from: BufReader::new(from),
                name,
            }),
            _ => Err(format!("{name} has no pipes")),
        }
    }

    /// One sample.
    pub fn sample(&mut self) -> Result<f64, String> {
        let mut line = String::new();
        self.to
            .write_all(b"\n")
            .and_then(|()| self.from.read_line(&mut line))
            .map_err(|error| format!("{}: {error}", self.name))?;
        line.trim()
            .parse()
            .map_err(|_| format!("{} ended, saying {line:?}", self.name))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already: then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
