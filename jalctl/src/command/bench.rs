//! `jalctl bench`: what a device does here: round trips, packets a second, copies, wakes. Owns it
//! meanwhile.

use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use jalapeno::hw::packets::{Opcode, Packet, header};
use jalapeno::{Completions, Device, HostOptions, Queue, QueueOptions, Role, Seq, Session};
use schemars::JsonSchema;
use serde::Serialize;

use crate::command::Form;
use crate::devices::{self, Outcome};
use crate::exit::{Exit, Problem};
use crate::output::{self, Report};

/// Bytes of a copy.
const COPY: u64 = 64 << 20;
/// Packets of a batch.
const BATCH: usize = 32;
/// Longest that any one job may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Measures round trips, packets a second, copies and wakes.
///
/// Needs the device for itself: exit code 5 names who has it.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The device: UUID, PCI address, vfio-user:PATH or index
    #[arg(short, long = "device", value_name = "DEVICE")]
    device: Vec<String>,
    /// Seconds that each figure is measured for
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    duration: f64,
    #[command(flatten)]
    form: Form,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("give seconds from 0.01 to 3600".into()),
    }
}

/// The distribution of a time.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Times {
    p50_ns: u64,
    p90_ns: u64,
    p99_ns: u64,
    max_ns: u64,
    samples: usize,
}

/// What was measured.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Figures {
    /// Whether it is emulated: then these are figures of this host, not of a card.
    emulated: bool,
    /// A NOP, from its submission to its completion, polling.
    round_trip: Times,
    /// A NOP, from its submission until a sleeping thread runs again; null without interrupts.
    wake: Option<Times>,
    /// NOPs a second in batches of 32.
    packets_per_second: u64,
    host_to_device_bytes_per_second: u64,
    device_to_host_bytes_per_second: u64,
}

impl Report for Figures {
    const KEY: &'static str = "bench";
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<Exit, Problem> {
    if arguments.form.schema {
        return output::schema::<Figures>().map(|()| Exit::Ok);
    }
    let name = devices::only(&arguments.device)?;
    let device = Device::open(&name, Role::Compute)?;
    let bar = ProgressBar::new(5);
    if let Ok(style) = ProgressStyle::with_template("{msg:24} {bar:30} {pos}/{len}") {
        bar.set_style(style);
    }
    let span = Duration::from_secs_f64(arguments.duration);
    let result = measure(&device, span, &bar).map_err(Problem::from);
    bar.finish_and_clear();
    let uuid = Some(device.info().uuid.to_string());
    let outcomes = [Outcome { name, uuid, result }];
    output::devices(arguments.form.output, &outcomes, table)?;
    Ok(devices::exit(&outcomes))
}

fn packet(opcode: Opcode, body: [u64; 5]) -> Packet {
    Packet {
        header: header(opcode, 0),
        body,
        ..Packet::ZERO
    }
}

fn measure(
    device: &std::sync::Arc<Device>,
    span: Duration,
    bar: &ProgressBar,
) -> jalapeno::Result<Figures> {
    let session = Session::new(device)?;
    let mut queue = session.queue(QueueOptions::default())?;
    let completions = queue.completions().clone();
    let step = |what: &'static str| {
        bar.set_message(what);
        bar.inc(1);
    };
    step("round trip");
    let round_trip = round_trips(&mut queue, &completions, span, false)?;
    step("wake by interrupt");
    let wake = match completions.eventfd() {
        Some(_) => Some(round_trips(&mut queue, &completions, span, true)?),
        None => None,
    };
    step("packets a second");
    let packets_per_second = rate(&mut queue, &completions, span)?;
    let bytes = COPY.min(device.info().capabilities.memory.hbm_bytes / 4);
    let host = session.host_memory(bytes, HostOptions::default())?;
    let card = session.device_memory(bytes)?;
    step("host to device");
    let out = packet(
        Opcode::Copy,
        [host.address().0, card.address().0, bytes, 0, 0],
    );
    let host_to_device = bandwidth(&mut queue, &completions, &out, bytes, span)?;
    step("device to host");
    let home = packet(
        Opcode::Copy,
        [card.address().0, host.address().0, bytes, 0, 0],
    );
    let device_to_host = bandwidth(&mut queue, &completions, &home, bytes, span)?;
    Ok(Figures {
        emulated: device.info().platform == Ok(jalapeno::hw::regs::Platform::Emulator),
        round_trip,
        wake,
        packets_per_second,
        host_to_device_bytes_per_second: host_to_device,
        device_to_host_bytes_per_second: device_to_host,
    })
}

fn round_trips(
    queue: &mut Queue,
    completions: &Completions,
    span: Duration,
    sleeping: bool,
) -> jalapeno::Result<Times> {
    let nop = packet(Opcode::Nop, [0; 5]);
    let mut times = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < span || times.len() < 100 {
        if sleeping {
            // Long enough for the device to fall asleep as well.
            std::thread::sleep(Duration::from_micros(200));
        }
        let start = Instant::now();
        let seq = queue.submit_one(&nop)?;
        if sleeping {
            completions.wait(seq, Some(PATIENCE))?;
        } else {
            poll(completions, seq)?;
        }
        times.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    Ok(Times {
        p50_ns: at(50),
        p90_ns: at(90),
        p99_ns: at(99),
        max_ns: at(100),
        samples: times.len(),
    })
}

fn poll(completions: &Completions, seq: Seq) -> jalapeno::Result<()> {
    let begin = Instant::now();
    while completions.poll()? < seq {
        if begin.elapsed() > PATIENCE {
            return completions.wait(seq, Some(Duration::ZERO));
        }
        std::hint::spin_loop();
    }
    Ok(())
}

fn rate(queue: &mut Queue, completions: &Completions, span: Duration) -> jalapeno::Result<u64> {
    let nops = [packet(Opcode::Nop, [0; 5]); BATCH];
    let mut done = 0u64;
    let begin = Instant::now();
    while begin.elapsed() < span {
        let mut last = Seq(0);
        for _ in 0..queue.depth() / BATCH as u64 {
            last = queue.submit(&nops)?;
            done += BATCH as u64;
        }
        poll(completions, last)?;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate"
    )]
    Ok((done as f64 / begin.elapsed().as_secs_f64()) as u64)
}

fn bandwidth(
    queue: &mut Queue,
    completions: &Completions,
    copy: &Packet,
    bytes: u64,
    span: Duration,
) -> jalapeno::Result<u64> {
    let mut best = Duration::MAX;
    let begin = Instant::now();
    for round in 0.. {
        let start = Instant::now();
        let seq = queue.submit_one(copy)?;
        completions.wait(seq, Some(PATIENCE))?;
        if round > 0 {
            best = best.min(start.elapsed()); // the first one touches the memory
        }
        if round > 1 && begin.elapsed() > span {
            break;
        }
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate"
    )]
    Ok((bytes as f64 / best.as_secs_f64()) as u64)
}

fn table(outcomes: &[Outcome<Figures>]) -> String {
    let micro = |ns: u64| format!("{}.{:02}", ns / 1000, ns % 1000 / 10);
    let times = |t: &Times| {
        format!(
            "p50 {} us, p90 {} us, p99 {} us (of {})",
            micro(t.p50_ns),
            micro(t.p90_ns),
            micro(t.p99_ns),
            t.samples
        )
    };
    let gigabytes =
        |rate: u64| format!("{}.{} GB/s", rate / 1_000_000_000, rate / 100_000_000 % 10);
    outcomes
        .iter()
        .filter_map(|outcome| outcome.result.as_ref().ok())
        .map(|figures| {
            let note = if figures.emulated {
                "EMULATED: these are figures of this host, not of a card"
            } else {
                "a card"
            };
            output::pairs([
                ("Device", note.to_owned()),
                ("Round trip", times(&figures.round_trip)),
                (
                    "Wake",
                    figures.wake.as_ref().map_or("no interrupts".into(), times),
                ),
                (
                    "Packets",
                    format!(
                        "{}.{:02} million/s in batches of 32",
                        figures.packets_per_second / 1_000_000,
                        figures.packets_per_second % 1_000_000 / 10_000
                    ),
                ),
                (
                    "Host to device",
                    gigabytes(figures.host_to_device_bytes_per_second),
                ),
                (
                    "Device to host",
                    gigabytes(figures.device_to_host_bytes_per_second),
                ),
            ])
        })
        .collect()
}
