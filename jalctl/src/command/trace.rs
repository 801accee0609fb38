//! `jalctl trace FILE`: what devices do, job by job, as a file for <https://ui.perfetto.dev>.
//!
//! The file is Chrome's JSON array of trace events, which Perfetto, its trace processor and scripts
//! read. It is written as the jobs come; without its last bracket, after an interruption, it is still
//! a valid trace. Devices write jobs down only while somebody asks, for whoever asks; no owner is
//! disturbed, and what was too fast to be read is counted.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use jalapeno::hw::kernels::KernelId;
use jalapeno::hw::packets::Opcode;
use jalapeno::{Device, JobStats, Profiler, Role};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::command::Reporting;
use crate::devices::{self, Outcome};
use crate::exit::{Exit, Problem, clean};
use crate::output::{self, Report};

/// Pause between two looks that found little.
const PAUSE: Duration = Duration::from_millis(2);
/// So many jobs in one look: the next follows at once.
const MANY: usize = 128;
/// Longest recording, in seconds.
const LONGEST: f64 = 86_400.0;

/// Records what devices do, job by job, for ui.perfetto.dev; disturbs no owner.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    reporting: Reporting,
    /// How long to record, in seconds
    #[arg(short, long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    time: Duration,
    /// Where to write the trace; what stands there is replaced
    #[arg(value_name = "FILE", required_unless_present = "schema")]
    file: Option<PathBuf>,
}

/// What was recorded of a device.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Trace {
    /// Jobs in the file.
    jobs: u64,
    /// Jobs that came faster than they could be read.
    lost: u64,
    /// Energy of the jobs in the file, in nanojoules.
    energy_nj: u64,
    /// Time in which the device had at least one of these jobs, in nanoseconds.
    busy_ns: u64,
}

impl Report for Trace {
    const KEY: &'static str = "trace";
}

/// A device that is recorded.
struct Recording {
    name: String,
    uuid: Option<String>,
    ticks_per_second: u64,
    profiler: Result<Profiler, Problem>,
    trace: Trace,
    /// Queues that have a name in the file.
    named: Vec<u32>,
    /// Until when the device was busy so far, in ticks.
    busy_until: u64,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= LONGEST => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("more than 0 and at most {LONGEST} seconds")),
    }
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<Exit, Problem> {
    let reporting = &arguments.reporting;
    let Some(path) = arguments.file.as_ref().filter(|_| !reporting.form.schema) else {
        return output::schema::<Trace>().map(|()| Exit::Ok);
    };
    let names = devices::chosen(&reporting.devices)?;
    let mut recordings: Vec<_> = names.iter().map(|name| Recording::start(name)).collect();
    let trouble = |error: std::io::Error| {
        Problem::failure(
            format!("write {}: {error}", path.display()),
            "choose a place that can be written, with room",
        )
    };
    let mut file = BufWriter::new(File::create(path).map_err(trouble)?);
    file.write_all(b"[").map_err(trouble)?;
    for (index, recording) in recordings.iter().enumerate() {
        let name = json!({"name": format!("Jalapeno {index}: {}", clean(&recording.name))});
        let line = json!({"ph": "M", "name": "process_name", "pid": index, "args": name});
        let between = if index == 0 { "\n" } else { ",\n" };
        write!(file, "{between}{line}").map_err(trouble)?;
    }
    let begin = Instant::now();
    loop {
        let over = begin.elapsed() >= arguments.time;
        let mut found = 0;
        for (index, recording) in recordings.iter_mut().enumerate() {
            let jobs = recording.read();
            found += jobs.len();
            for event in jobs.iter().flat_map(|job| recording.events(index, job)) {
                write!(file, ",\n{event}").map_err(trouble)?;
            }
        }
        if over || recordings.iter().all(|it| it.profiler.is_err()) {
            break;
        }
        if found < MANY {
            std::thread::sleep(PAUSE.min(arguments.time));
        }
    }
    file.write_all(b"\n]\n").map_err(trouble)?;
    file.flush().map_err(trouble)?;
    let outcomes: Vec<_> = recordings.into_iter().map(Recording::end).collect();
    output::devices(reporting.form.output, &outcomes, table)?;
    Ok(devices::exit(&outcomes))
}

impl Recording {
    fn start(name: &str) -> Self {
        let opened = Device::open(name, Role::Observe);
        let uuid = opened.as_ref().ok().map(|it| it.info().uuid.to_string());
        let ticks = opened
            .as_ref()
            .map_or(1, |it| it.info().capabilities.time.ticks_per_second);
        Self {
            name: name.to_owned(),
            uuid,
            ticks_per_second: ticks.max(1),
            profiler: opened
                .and_then(|device| Profiler::new(&device))
                .map_err(Problem::from),
            trace: Trace::default(),
            named: Vec::new(),
            busy_until: 0,
        }
    }

    /// What finished since the last look. A device that is gone is not asked again.
    fn read(&mut self) -> Vec<JobStats> {
        let Ok(profiler) = &mut self.profiler else {
            return Vec::new();
        };
        match profiler.read() {
            Ok(profile) => {
                self.trace.lost += profile.lost;
                profile.jobs
            }
            Err(error) => {
                self.profiler = Err(error.into());
                Vec::new()
            }
        }
    }

    /// A job's events; its queue's name before its first.
    fn events(&mut self, index: usize, job: &JobStats) -> Vec<Value> {
        let mut events = Vec::new();
        if !self.named.contains(&job.queue) {
            self.named.push(job.queue);
            let name = json!({"name": format!("queue {}", job.queue)});
            events.push(
                json!({"ph": "M", "name": "thread_name", "pid": index, "tid": job.queue,
                "args": name}),
            );
        }
        let (start, end) = (job.start.0, job.end.0);
        self.trace.jobs += 1;
        self.trace.energy_nj = self.trace.energy_nj.saturating_add(job.energy_nj);
        let busy = end.saturating_sub(start.max(self.busy_until));
        self.trace.busy_ns = self.trace.busy_ns.saturating_add(self.nanos(busy));
        self.busy_until = self.busy_until.max(end);
        events.push(
            json!({"ph": "X", "name": name(job), "cat": "job", "pid": index,
            "tid": job.queue, "ts": self.nanos(start) as f64 / 1000.0,
            "dur": self.nanos(end - start) as f64 / 1000.0,
            "args": {"sequence": job.seq.0, "cookie": job.cookie, "energy_nj": job.energy_nj,
                "bytes": job.bytes, "operations": job.operations, "failed": job.failed}}),
        );
        events
    }

    fn nanos(&self, ticks: u64) -> u64 {
        let nanos = u128::from(ticks) * 1_000_000_000 / u128::from(self.ticks_per_second);
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    fn end(self) -> Outcome<Trace> {
        Outcome {
            name: self.name,
            uuid: self.uuid,
            result: self.profiler.map(|_| self.trace),
        }
    }
}

/// What a job was: a kernel by its name, another packet by its opcode's.
fn name(job: &JobStats) -> String {
    match job.opcode {
        Ok(Opcode::Launch) => KernelId::from_code(job.kernel).map_or_else(
            || format!("kernel {}", job.kernel),
            |kernel| output::word(kernel.name()),
        ),
        Ok(Opcode::Indirect) => format!("graph of {}", job.kernel),
        Ok(opcode) => output::word(opcode.name()),
        Err(raw) => format!("opcode {raw:#04x}"),
    }
}

fn table(outcomes: &[Outcome<Trace>]) -> String {
    let traces = outcomes
        .iter()
        .filter_map(|outcome| Some((outcome, outcome.result.as_ref().ok()?)));
    let rows = traces.map(|(outcome, trace)| {
        [
            outcome.name.clone(),
            trace.jobs.to_string(),
            trace.lost.to_string(),
            format!("{:.6} s", trace.busy_ns as f64 / 1e9),
            format!("{:.6} J", trace.energy_nj as f64 / 1e9),
        ]
    });
    output::table(["NAME", "JOBS", "LOST", "BUSY", "ENERGY"], rows)
        + "open the file at https://ui.perfetto.dev\n"
}
