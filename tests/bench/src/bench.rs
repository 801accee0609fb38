//! What every figure is measured with: where programs are, and which cores are used.

use std::path::PathBuf;

use crate::cores::Cores;
use crate::figure::Measured;

/// What a room measured, by the names of its plans; or why it measured nothing at all.
pub type Outcome = Result<Vec<(&'static str, Result<Measured, String>)>, String>;

/// The bench.
#[derive(Debug)]
pub struct Bench {
    /// Cores of the client and the device.
    pub cores: Cores,
    /// Where programs were built: `jalapeno-emulator`, `jalctl`, peers.
    pub programs: PathBuf,
    /// Where the report goes.
    pub out: PathBuf,
    /// Runnable threads of the last minute, as the kernel averages them.
    pub load: Option<f64>,
    /// This process's own program, for peers that run as processes of their own.
    pub own: PathBuf,
}

impl Bench {
    /// Takes the programs from `JALAPENO_BENCH_PROGRAMS` and writes to `JALAPENO_BENCH_OUT`.
    pub fn new() -> Result<Self, String> {
        let variable = |name: &str| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .ok_or_else(|| format!("{name} is not set: start this with tests/bench/run"))
        };
        Ok(Self {
            cores: Cores::find()?,
            programs: variable("JALAPENO_BENCH_PROGRAMS")?,
            out: variable("JALAPENO_BENCH_OUT")?,
            load: std::fs::read_to_string("/proc/loadavg")
                .ok()
                .and_then(|text| text.split(' ').next()?.parse().ok()),
            own: std::env::current_exe().map_err(|error| format!("find this program: {error}"))?,
        })
    }

    /// A built program.
    pub fn program(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.programs.join(name);
        if path.is_file() {
            return Ok(path);
        }
        Err(format!("{} was not built", path.display()))
    }
}

/// What went wrong, with what was tried.
pub fn failed(tried: &str) -> impl Fn(&dyn std::fmt::Display) -> String + '_ {
    move |error| format!("{tried}: {error}")
}
