//! How long after a job is done its sleeping waiter runs, beside an eventfd's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use jalapeno::clock::monotonic_raw;
use jalapeno::hw::packets::Opcode;
use jalapeno::{HostBuffer, HostOptions};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::bench::{Bench, Outcome, failed};
use crate::cores::Cores;
use crate::emulator::Emulator;
use crate::figure::{Goal, Measured, Plan};
use crate::nop::{Open, of, round_trip};
use crate::samples::p50;

const NAME: &str = "wake by interrupt, p50";

/// What is measured here.
pub const PLANS: &[Plan] = &[Plan {
    name: NAME,
    unit: "us",
    peer: Some("eventfd to the other core"),
    goal: Goal::RatioAtMost(1.3),
}];

/// A copy that takes longer than a waiter polls: it sleeps when the job is done.
const COPY: u64 = 2 << 20;
/// Bytes that the peer copies between two looks at the clock.
const STEP: usize = 256 << 10;
const WAKES: usize = 20;
const SAMPLES: usize = 21;
const SOON: Duration = Duration::from_secs(5);

/// Measures it.
pub fn measure(bench: &Bench) -> Outcome {
    let emulator = Emulator::start(bench, bench.cores.device()?)?;
    Cores::pin(bench.cores.client)?;
    let mut device = Sleeper::new(&emulator)?;
    let mut peer = Peer::start(bench.cores.device()?)?;
    let mut pairs = Vec::with_capacity(SAMPLES);
    for sample in 0..=SAMPLES {
        let (mut ours, slept) = device.sample()?;
        // As long: how deep a core sleeps shows in its wake.
        let mut theirs = peer.sample(slept)?;
        if sample > 0 {
            pairs.push((p50(&mut ours), p50(&mut theirs)));
        }
    }
    drop(device);
    bench.cores.unpin()?;
    let note = "from the device's TIMESTAMP behind a copy to the return of wait()";
    Ok(vec![(
        NAME,
        Ok(Measured::beside(&pairs).noted(note.into())),
    )])
}

/// Waits for jobs of the device.
struct Sleeper {
    open: Open,
    host: HostBuffer,
}

impl Sleeper {
    fn new(emulator: &Emulator) -> Result<Self, String> {
        let open = Open::new(&emulator.name(), 1)?;
        let options = HostOptions::default();
        let host = open.session.host_memory(2 * COPY + 4096, options);
        let host = host.map_err(|error| failed("allocate host memory")(&error))?;
        Ok(Self { open, host })
    }

    fn stamp(&self) -> Result<u64, String> {
        let mut bytes = [0; 8];
        let read = self.host.memory().read(2 * COPY, &mut bytes);
        read.map_err(|error| failed("read a time stamp")(&error))?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Device time less host time in nanoseconds, from the quickest of a few round trips.
    fn offset(&mut self) -> Result<i128, String> {
        let stamp = self.host.address().0 + 2 * COPY;
        let packet = of(Opcode::Timestamp, [stamp, 0, 0, 0, 0]);
        let mut best: Option<(u64, i128)> = None;
        for _ in 0..200 {
            let before = now()?;
            round_trip(self.open.queue()?, &packet)?;
            let took = now()?.saturating_sub(before);
            let offset = i128::from(self.stamp()?) - i128::from(before + took / 2);
            if best.is_none_or(|(least, _)| took < least) {
                best = Some((took, offset));
            }
        }
        best.map(|(_, offset)| offset)
            .ok_or_else(|| "no time stamp".into())
    }

    /// Microseconds from the job's end to the waiter's return, and how long it slept.
    fn sample(&mut self) -> Result<(Vec<f64>, Duration), String> {
        let offset = self.offset()?;
        let at = self.host.address().0;
        let packets = [
            of(Opcode::Copy, [at, at + COPY, COPY, 0, 0]),
            of(Opcode::Timestamp, [at + 2 * COPY, 0, 0, 0, 0]),
        ];
        let (mut samples, mut sleeps) = (Vec::with_capacity(WAKES), Vec::new());
        for _ in 0..WAKES {
            let begin = i128::from(now()?);
            let queue = self.open.queue()?;
            let seq = queue.submit(&packets);
            let seq = seq.map_err(|error| failed("submit")(&error))?;
            let waited = queue.completions().wait(seq, Some(SOON));
            let woke = i128::from(now()?);
            waited.map_err(|error| failed("wait")(&error))?;
            let done = i128::from(self.stamp()?) - offset;
            samples.push((woke - done) as f64 / 1e3);
            sleeps.push((done - begin).max(0) as f64 / 1e9);
        }
        Ok((samples, Duration::from_secs_f64(p50(&mut sleeps))))
    }
}

fn now() -> Result<u64, String> {
    monotonic_raw().map_err(|error| failed("read the clock")(&error))
}

/// Sleeps on an eventfd that a thread of the other core writes.
struct Peer {
    sleeper: Arc<EventFd>,
    order: Sender<Duration>,
    written: Arc<AtomicU64>,
}

impl Peer {
    fn start(core: usize) -> Result<Self, String> {
        let tried = failed("start the peer");
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map_err(|error| tried(&error))?;
        let event = Arc::new(event);
        let other = Arc::clone(&event);
        let (order, orders) = channel::<Duration>();
        let written = Arc::new(AtomicU64::new(0));
        let theirs = Arc::clone(&written);
        std::thread::Builder::new()
            .name("waker".into())
            .spawn(move || {
                if Cores::pin(core).is_err() {
                    return; // the next order says that nobody takes it
                }
                let (from, mut to) = (vec![1u8; STEP], vec![0u8; STEP]);
                while let Ok(nap) = orders.recv() {
                    // It copies, as the engine does: what the wake needs is as cold.
                    let begin = Instant::now();
                    while begin.elapsed() < nap {
                        to.copy_from_slice(&from);
                        std::hint::black_box(&to);
                    }
                    theirs.store(monotonic_raw().unwrap_or(0), Ordering::Release);
                    if other.write(1).is_err() {
                        return;
                    }
                }
            })
            .map_err(|error| tried(&error))?;
        Ok(Self {
            sleeper: event,
            order,
            written,
        })
    }

    fn sample(&mut self, nap: Duration) -> Result<Vec<f64>, String> {
        let mut samples = Vec::with_capacity(WAKES);
        for _ in 0..WAKES {
            let sent = self.order.send(nap);
            sent.map_err(|_| "the peer could not be pinned".to_owned())?;
            let read = self.sleeper.read();
            let woke = now()?;
            read.map_err(|error| failed("read an eventfd")(&error))?;
            let done = self.written.load(Ordering::Acquire);
            samples.push(woke.saturating_sub(done) as f64 / 1e3);
        }
        Ok(samples)
    }
}
