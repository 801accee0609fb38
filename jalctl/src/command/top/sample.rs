//! Samples: what a card did in one interval and how it was at its end. What the screen draws and what
//! scripts read is the same.

use jalapeno::holders::Holder;
use schemars::JsonSchema;
use serde::Serialize;

use crate::output::Report;

/// One interval of a card. Where a figure is null, `unavailable` has its reason.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Top {
    /// The card's place in `jalctl list` when `top` began; may change: store the UUID.
    pub index: Option<usize>,
    /// What it calls itself.
    pub product: Option<String>,
    /// When the interval ended, in milliseconds since 1970.
    pub time_unix_ms: u64,
    /// How long it was, on the card's clock.
    pub interval_ns: Option<u64>,
    /// booting, ready, degraded, quiescing, resetting or wedged.
    pub state: Option<String>,
    /// Counts resets of the card.
    pub generation: Option<u64>,
    /// Resets since `top` began, as far as they were seen.
    pub resets: u64,
    /// Share of the interval in which at least one job was at work, from the records of the jobs that
    /// finished in it; of the time whose records were read.
    pub busy_per_mille: Option<u64>,
    /// Share of its last refresh in which the compute engine worked, by telemetry.
    pub compute_per_mille: Option<u64>,
    /// The same of the copy engine.
    pub copy_per_mille: Option<u64>,
    /// Power now.
    pub power_milliwatts: Option<u64>,
    /// The limit in force.
    pub power_limit_milliwatts: Option<u64>,
    /// The compute die's.
    pub die_temperature_millicelsius: Option<i64>,
    /// The hottest HBM stack's.
    pub hbm_temperature_millicelsius: Option<i64>,
    /// Where the card lowers its clocks.
    pub throttle_temperature_millicelsius: Option<i64>,
    /// Clock of the compute engine.
    pub compute_clock_kilohertz: Option<u64>,
    /// Times that the clocks were lowered, since manufacture: all reasons.
    pub throttle_count: Option<u64>,
    /// Those of this interval.
    pub throttle_count_interval: Option<u64>,
    /// Memory in use.
    pub hbm_used_bytes: Option<u64>,
    /// Memory in all.
    pub hbm_total_bytes: Option<u64>,
    /// Energy of the whole card since manufacture.
    pub energy_microjoules: Option<u64>,
    /// Since `top` began.
    pub energy_since_start_microjoules: Option<u64>,
    /// Kernel operations a second; a multiply-add counts two.
    pub operations_per_second: Option<u64>,
    /// Bytes that packets read and wrote, a second.
    pub bytes_per_second: Option<u64>,
    /// Jobs that finished, with those that were missed.
    pub jobs: Option<u64>,
    /// The same a second.
    pub jobs_per_second: Option<u64>,
    /// Those that came faster than their records could be read. `queues`, `busy_per_mille` and
    /// `energy_per_job_nanojoules` are those of the others.
    pub missed_records: Option<u64>,
    /// Mean energy of a job.
    pub energy_per_job_nanojoules: Option<u64>,
    /// Queues in which jobs finished, the busiest first.
    pub queues: Vec<Queue>,
    /// Processes that have the card, owners first; null where that could not be asked.
    pub holders: Option<Vec<Process>>,
    /// Why figures are null.
    pub unavailable: Vec<Unavailable>,
}

/// A queue in which jobs finished.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Queue {
    /// Its number on the card.
    pub queue: u32,
    /// Jobs whose records were read.
    pub jobs: u64,
    /// Of those, the ones that failed.
    pub failed: u64,
    /// Jobs a second, of the time whose records were read.
    pub jobs_per_second: u64,
    /// Mean duration of a job.
    pub mean_ns: u64,
    /// Duration that 99 of 100 jobs do not pass, at most 1 in 64 too long.
    pub p99_ns: u64,
    /// What the jobs cost.
    pub energy_nanojoules: u64,
    /// Their share of all jobs' energy.
    pub energy_per_mille: u64,
}

/// A process that has the card.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Process {
    pub pid: u32,
    /// owner, observer, vfio-group or vfio-cdev: see `jalctl ps`.
    pub way: String,
    /// Its user's name or number; null where it is not visible.
    pub user: Option<String>,
    /// Its name; null where it is not visible.
    pub command: Option<String>,
}

/// A figure that is null.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Unavailable {
    /// Its key.
    pub key: String,
    /// Stable: unsupported, no-data, stale, not-refreshed, reset, no-jobs, all-missed, unopened,
    /// unknown, or an error of the library's.
    pub code: String,
    /// In words.
    pub message: String,
}

/// A reason before it is known what for.
#[derive(Clone, Debug, PartialEq)]
pub struct Why {
    pub code: &'static str,
    pub message: String,
}

impl Why {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl From<&jalapeno::Error> for Why {
    fn from(error: &jalapeno::Error) -> Self {
        Self::new(error.code().name(), error.to_string())
    }
}

impl Report for Top {
    const KEY: &'static str = "top";
}

impl Top {
    /// The figure, or none and its reason written down.
    pub fn note<T>(&mut self, key: &str, figure: Result<T, Why>) -> Option<T> {
        figure
            .map_err(|why| {
                self.unavailable.push(Unavailable {
                    key: key.into(),
                    code: why.code.into(),
                    message: why.message,
                });
            })
            .ok()
    }

    /// Why a figure is null.
    pub fn why(&self, key: &str) -> Option<&Unavailable> {
        self.unavailable.iter().find(|none| none.key == key)
    }

    /// The process that owns the card.
    pub fn owner(&self) -> Option<&Process> {
        let mut holders = self.holders.iter().flatten();
        holders.find(|process| process.way != "observer")
    }
}

impl From<Holder> for Process {
    fn from(holder: Holder) -> Self {
        let process = holder.process;
        let number = process.user_id.map(|id| id.to_string());
        Self {
            pid: process.pid,
            way: holder.way.name().into(),
            user: process.user.or(number),
            command: process.command,
        }
    }
}
