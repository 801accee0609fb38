//! Cores: where the client and the device run.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Two cores; figures that need two say so where there is one.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// The client's.
    pub client: usize,
    device: Option<usize>,
}

impl Cores {
    /// The first two that this process may use.
    pub fn find() -> Result<Self, String> {
        let set = sched_getaffinity(Pid::from_raw(0))
            .map_err(|error| format!("ask which cores there are: {error}"))?;
        let mut usable = (0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap_or(false));
        Ok(Self {
            client: usable.next().ok_or("no core may be used")?,
            device: usable.next(),
        })
    }

    /// The device's.
    pub fn device(&self) -> Result<usize, String> {
        self.device
            .ok_or_else(|| "two cores are needed, and there is one".into())
    }

    /// Keeps this thread, and what it starts, on one core.
    pub fn pin(core: usize) -> Result<(), String> {
        let mut set = CpuSet::new();
        set.set(core)
            .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
            .map_err(|error| format!("run on core {core}: {error}"))
    }

    /// Lets this thread, and what it starts, run on both.
    pub fn unpin(&self) -> Result<(), String> {
        let mut set = CpuSet::new();
        for core in [Some(self.client), self.device].into_iter().flatten() {
            set.set(core)
                .map_err(|error| format!("run on core {core}: {error}"))?;
        }
        sched_setaffinity(Pid::from_raw(0), &set)
            .map_err(|error| format!("run on both cores: {error}"))
    }
}
