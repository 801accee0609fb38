//! Steady service: a realtime queue beside low ones that fill the card, and the shares of clients.

use std::hint::spin_loop;
use std::time::{Duration, Instant};

use jalapeno::hw::kernels::{DType, KernelId};
use jalapeno::hw::packets::{Opcode, Packet, header};
use jalapeno::hw::queue::PriorityBand;
use jalapeno::{
    Device, DeviceBuffer, HostBuffer, HostOptions, JobStats, Queue, QueueOptions, Role, Seq,
    Session,
};

use crate::bench::{Bench, Outcome, failed};
use crate::cores::Cores;
use crate::emulator::Emulator;
use crate::figure::{Goal, Measured, Plan};
use crate::nop::{of, round_trip};
use crate::samples::p50;

const LATENCY: &str = "realtime job beside two full low queues, p99";
const SHARES: &str = "shares of 4 clients of a band, most over least";

/// What is measured here.
pub const PLANS: &[Plan] = &[
    Plan {
        name: LATENCY,
        unit: "us",
        peer: Some("the same job, the card otherwise idle"),
        goal: Goal::RatioAtMost(2.0),
    },
    Plan {
        name: SHARES,
        unit: "%",
        peer: None,
        goal: Goal::AtMost(10.0),
    },
];

/// Weights of a row, and rows of activations.
const DEEP: u32 = 4096;
const COLUMNS: u32 = 8;
/// Rows of weights of a realtime job and of one that fills the card.
const SHORT: u32 = 64;
const LONG: u32 = 4096;
/// Packets that a queue holds.
const DEPTH: u32 = 64;
/// Jobs of a sample, and samples.
const JOBS: u32 = 300;
const SAMPLES: usize = 11;
/// Device time of a sample of shares.
const CONTEST: Duration = Duration::from_secs(1);
const CONTESTS: usize = 5;
/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client of the card: a queue of its own, and matrix products as large as it likes.
struct Client {
    queue: Queue,
    blocks: HostBuffer,
    memory: DeviceBuffer,
    sizes: u64,
}

impl Client {
    fn new(session: &Session, priority: PriorityBand) -> jalapeno::Result<Self> {
        let options = QueueOptions {
            depth: DEPTH,
            profile: true,
            priority,
            ..QueueOptions::default()
        };
        let bytes = 2 * (u64::from(LONG) * u64::from(COLUMNS) + u64::from(DEEP));
        let mut client = Self {
            queue: session.queue(options)?,
            blocks: session.host_memory(4096, HostOptions::default())?,
            memory: session.device_memory(bytes)?,
            sizes: 0,
        };
        let to = client.memory.address().0;
        let zeros = of(Opcode::Fill, [to, bytes, 0, 0, 0]);
        let seq = client.queue.submit_one(&zeros)?;
        client.queue.completions().wait(seq, Some(PATIENCE))?;
        Ok(client)
    }

    /// A LAUNCH of so many rows of weights: one row, repeated.
    fn product(&mut self, rows: u32) -> jalapeno::Result<Packet> {
        let row = self.memory.address().0;
        let to = row + 2 * u64::from(DEEP);
        let mut block = vec![0; 64];
        for (address, ne, stride) in [
            (to, [rows, COLUMNS], 2 * u64::from(rows)),
            (row, [DEEP, rows], 0),
            (row, [DEEP, COLUMNS], 0),
        ] {
            block.extend(address.to_le_bytes());
            block.extend(u64::from(DType::Bf16.code()).to_le_bytes());
            block.extend([ne[0], ne[1], 1, 1].iter().flat_map(|n| n.to_le_bytes()));
            block.extend([2, stride, 0, 0].iter().flat_map(|n| n.to_le_bytes()));
        }
        let at = self.sizes * 256;
        self.sizes += 1;
        self.blocks.memory().write(at, &block)?;
        Ok(Packet {
            header: header(Opcode::Launch, KernelId::MulMat.code()),
            body: [self.blocks.address().0 + at, 256, 0, 0, 0],
            ..Packet::ZERO
        })
    }
}

/// Measures it.
pub fn measure(bench: &Bench) -> Outcome {
    let emulator = Emulator::start(bench, bench.cores.device()?)?;
    Cores::pin(bench.cores.client)?;
    let latency = latency(&emulator.name());
    let shares = shares(&emulator.name());
    bench.cores.unpin()?;
    Ok(vec![(LATENCY, latency), (SHARES, shares)])
}

/// The 99th of a hundred of a job's times, in microseconds. It comes again and again, at moments that
/// have nothing to do with the others' packets.
fn p99(queue: &mut Queue, job: &Packet) -> Result<f64, String> {
    let mut times = Vec::new();
    for turn in 0..JOBS {
        let pause = Instant::now();
        while pause.elapsed() < Duration::from_micros(u64::from(200 + turn * 37 % 400)) {
            spin_loop();
        }
        let begin = Instant::now();
        round_trip(queue, job)?;
        times.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    times
        .get(times.len() - 1 - times.len() / 100)
        .copied()
        .ok_or_else(|| "no job ran".into())
}

/// A realtime job with the card for itself, and beside two queues that never are without work.
fn latency(name: &str) -> Result<Measured, String> {
    let failed = failed("realtime beside low");
    let failed = |error: jalapeno::Error| failed(&error);
    let device = Device::open(name, Role::Compute).map_err(failed)?;
    let session = Session::new(&device).map_err(failed)?;
    let mut urgent = Client::new(&session, PriorityBand::Realtime).map_err(failed)?;
    let job = urgent.product(SHORT).map_err(failed)?;
    let mut low = Vec::new();
    for _ in 0..2 {
        let mut client = Client::new(&session, PriorityBand::Low).map_err(failed)?;
        let work = client.product(LONG).map_err(failed)?;
        low.push((client, work));
    }
    let mut pairs = Vec::new();
    let mut ran = 0;
    for sample in 0..=SAMPLES {
        let idle = p99(&mut urgent.queue, &job)?;
        for (client, work) in &mut low {
            client
                .queue
                .submit(&[*work; DEPTH as usize])
                .map_err(failed)?;
        }
        let loaded = p99(&mut urgent.queue, &job)?;
        for (client, _) in &mut low {
            let last = client.queue.completions().submitted();
            let done = client.queue.completions().poll().map_err(failed)?;
            if done >= last {
                return Err("a low queue was without work".into());
            }
            ran += done.0 + u64::from(DEPTH) - last.0;
            client.queue.cancel(PATIENCE).map_err(failed)?;
        }
        if sample > 0 {
            pairs.push((loaded, idle));
        }
    }
    if ran == 0 {
        return Err("no low packet ran".into());
    }
    Ok(Measured::beside(&pairs).noted(format!(
        "{JOBS} jobs a sample, products of {SHORT} and {LONG} rows; {ran} low packets were done meanwhile"
    )))
}

/// How far the shares of clients lie apart whose packets are of 8 : 1 : 2 : 4, in per cent.
fn shares(name: &str) -> Result<Measured, String> {
    let failed = failed("clients that share");
    let failed = |error: jalapeno::Error| failed(&error);
    let device = Device::open(name, Role::Compute).map_err(failed)?;
    let session = Session::new(&device).map_err(failed)?;
    let mut clients = Vec::new();
    for rows in [2048, 256, 512, 1024] {
        let mut client = Client::new(&session, PriorityBand::Normal).map_err(failed)?;
        let work = client.product(rows).map_err(failed)?;
        clients.push((client, work));
    }
    let mut apart = Vec::new();
    for _ in 0..CONTESTS {
        apart.push(contest(&mut clients).map_err(failed)??);
    }
    let note = format!(
        "the furthest of {CONTESTS} contests: {:.1} %",
        apart.iter().fold(0.0, |a, b| f64::max(a, *b))
    );
    Ok(Measured::alone(vec![p50(&mut apart)]).noted(note))
}

/// One contest: all begin with full queues that are kept full; device time by the queues' profiles.
fn contest(clients: &mut [(Client, Packet)]) -> jalapeno::Result<Result<f64, String>> {
    let mut seen: Vec<Vec<JobStats>> = vec![Vec::new(); clients.len()];
    let mut next = Vec::new();
    for (client, work) in clients.iter_mut() {
        next.push(client.queue.completions().submitted().0 + 1);
        client.queue.submit(&[*work; DEPTH as usize])?;
    }
    let begin = Instant::now();
    while begin.elapsed() < CONTEST {
        for (((client, work), seen), next) in clients.iter_mut().zip(&mut seen).zip(&mut next) {
            let done = client.queue.completions().poll()?.0;
            let submitted = client.queue.completions().submitted().0;
            if done == submitted {
                return Ok(Err("a client was without work".into()));
            }
            while *next <= done {
                seen.push(client.queue.completions().stats(Seq(*next))?);
                *next += 1;
            }
            for _ in submitted..done + u64::from(DEPTH) {
                client.queue.submit_one(work)?;
            }
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    for (client, _) in clients.iter_mut() {
        client.queue.cancel(PATIENCE)?;
    }
    // The time in which all had work. The first packet of each may have run before all had come.
    let from = seen
        .iter()
        .filter_map(|jobs| jobs.get(1))
        .map(|job| job.start.0)
        .max();
    let to = seen
        .iter()
        .filter_map(|jobs| jobs.last())
        .map(|job| job.end.0)
        .min();
    let (Some(from), Some(to)) = (from, to) else {
        return Ok(Err("no client ran".into()));
    };
    let inside = |job: &JobStats| job.end.0.min(to).saturating_sub(job.start.0.max(from));
    let had = seen
        .iter()
        .map(|jobs| jobs.iter().map(inside).sum::<u64>() as f64);
    let (least, most) = had.fold((f64::MAX, 0.0), |(least, most): (f64, f64), had| {
        (least.min(had), most.max(had))
    });
    if least == 0.0 {
        return Ok(Err("a client starved".into()));
    }
    Ok(Ok((most / least - 1.0) * 100.0))
}
