//! Steady service: what clients of a loaded card may count on.

use std::time::{Duration, Instant};

use jalapeno::hw::faults::FaultCode;
use jalapeno::hw::kernels::{DType, KernelId};
use jalapeno::hw::packets::{Opcode, Packet};
use jalapeno::hw::queue::PriorityBand;
use jalapeno::{
    DeviceBuffer, Error, Fence, HostBuffer, HostOptions, JobStats, Queue, QueueOptions, Seq,
    Session,
};
use jalapeno_tests::packet::{fill, packet, wait};
use jalapeno_tests::{SOON, calmly, stage};

/// Elements that a row of weights has, rows of activations, and rows of weights at most.
const DEEP: u32 = 4096;
const COLUMNS: u32 = 8;
const MOST: u32 = 1 << 18;
/// Packets that a queue holds.
const DEPTH: u32 = 32;

/// A client of the card: a queue of its own, and matrix products as large as it likes.
struct Client {
    queue: Queue,
    blocks: HostBuffer,
    memory: DeviceBuffer,
    sizes: u64,
}

impl Client {
    fn new(session: &Session, priority: PriorityBand) -> Self {
        let options = QueueOptions {
            depth: DEPTH,
            profile: true,
            priority,
            ..QueueOptions::default()
        };
        let bytes = 2 * (u64::from(MOST) * u64::from(COLUMNS) + u64::from(DEEP));
        let mut client = Self {
            queue: session.queue(options).unwrap(),
            blocks: session.host_memory(4096, HostOptions::default()).unwrap(),
            memory: session.device_memory(bytes).unwrap(),
            sizes: 0,
        };
        let zeros = fill(client.memory.address(), bytes, 0);
        let seq = client.queue.submit_one(&zeros).unwrap();
        client.queue.completions().wait(seq, Some(SOON)).unwrap();
        client
    }

    /// A LAUNCH of so many rows of weights: one row, repeated.
    fn product(&mut self, rows: u32) -> Packet {
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
        self.blocks.memory().write(at, &block).unwrap();
        let block = self.blocks.address().0 + at;
        let kernel = KernelId::MulMat.code();
        packet(Opcode::Launch, kernel, [block, 256, 0, 0, 0])
    }

    fn done(&self) -> u64 {
        self.queue.completions().poll().unwrap().0
    }

    fn stats(&self, seq: u64) -> JobStats {
        self.queue.completions().stats(Seq(seq)).unwrap()
    }

    fn submit(&mut self, packet: &Packet) -> Seq {
        self.queue.submit_one(packet).unwrap()
    }
}

fn ticks(job: &JobStats) -> u64 {
    job.end.0 - job.start.0
}

#[test]
fn the_jobs_of_a_realtime_queue_pass_low_ones_that_fill_the_card() {
    calmly(|| {
        let stage = stage();
        let session = stage.session();
        let [mut one, mut other] = [(); 2].map(|()| Client::new(&session, PriorityBand::Low));
        let mut urgent = Client::new(&session, PriorityBand::Realtime);
        let short = urgent.product(16);
        let first = one.done() + 1;
        for low in [&mut one, &mut other] {
            let long = low.product(8192);
            for _ in 0..4 {
                low.submit(&long);
            }
        }
        // While both have work: the last one of each is not done.
        let mut times = Vec::new();
        while one.done() < first + 3 && other.done() < first + 3 {
            let begin = Instant::now();
            let seq = urgent.submit(&short);
            urgent.queue.completions().wait(seq, Some(SOON)).unwrap();
            times.push(begin.elapsed());
        }
        for low in [&one, &other] {
            let all = low.queue.completions();
            all.wait(Seq(first + 3), Some(SOON)).unwrap();
        }
        let rate = session.device().info().capabilities.time.ticks_per_second;
        let long = (first..first + 4).map(|seq| ticks(&one.stats(seq)));
        let long = Duration::from_nanos(long.min().unwrap() * 1_000_000_000 / rate);
        times.sort_unstable();
        let usual = times[times.len() / 2];
        println!(
            "{} jobs, usually {usual:?}; a low one takes {long:?}",
            times.len()
        );
        // Each that did not pass would stand until a low one ended, and eight of them do. How late the
        // latest is depends on the host as much as on the card: tests/bench has that figure.
        assert!(times.len() > 20, "{times:?}");
        assert!(usual < long / 4, "{usual:?} of {long:?}");
    });
}

/// Fills a queue behind a gate.
fn line_up(client: &mut Client, gate: &Fence, job: &Packet) -> u64 {
    let first = client.submit(&wait(gate.address(), 1)).0 + 1;
    for _ in 1..DEPTH {
        client.submit(job);
    }
    first
}

#[test]
fn clients_of_a_band_have_equal_shares_whether_their_jobs_are_long_or_short() {
    calmly(|| {
        let stage = stage();
        let session = stage.session();
        let gate = session.fence(0).unwrap();
        let mut clients = [(); 4].map(|()| Client::new(&session, PriorityBand::Normal));
        let mut rows = [512, 64, 128, 256].into_iter();
        let jobs = clients
            .each_mut()
            .map(|client| client.product(rows.next().unwrap()));
        let mut next = [0; 4];
        for ((client, job), next) in clients.iter_mut().zip(&jobs).zip(&mut next) {
            *next = line_up(client, &gate, job);
        }
        gate.signal(1).unwrap();
        let mut seen = [(); 4].map(|()| Vec::<JobStats>::new());
        let end = Instant::now() + SOON;
        while seen.iter().any(|jobs| jobs.len() < 50) {
            assert!(Instant::now() < end, "the card stands still");
            for (index, client) in clients.iter_mut().enumerate() {
                let done = client.done();
                let submitted = client.queue.completions().submitted().0;
                assert!(done < submitted, "client {index} was without work");
                seen[index].extend((next[index]..=done).map(|seq| client.stats(seq)));
                next[index] = next[index].max(done + 1);
                for _ in submitted..done + u64::from(DEPTH) {
                    client.submit(&jobs[index]);
                }
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        // The time in which all had work, as the card wrote it down.
        let from = seen.iter().map(|jobs| jobs[0].start.0).max().unwrap();
        let last = |jobs: &Vec<JobStats>| jobs.last().unwrap().end.0;
        let to = seen.iter().map(last).min().unwrap();
        let share = |jobs: &Vec<JobStats>| -> u64 {
            let inside = |job: &JobStats| job.end.0.min(to).saturating_sub(job.start.0.max(from));
            jobs.iter().map(inside).sum()
        };
        let shares = seen.each_ref().map(share);
        let mean = shares.iter().sum::<u64>() / 4;
        println!("of {} ticks: {shares:?}", to - from);
        for share in shares {
            assert!(share.abs_diff(mean) * 10 < mean, "{shares:?}");
        }
    });
}

#[test]
fn a_job_that_runs_past_its_deadline_costs_its_neighbours_nothing() {
    calmly(|| {
        let stage = stage();
        let session = stage.session();
        let mut late = Client::new(&session, PriorityBand::Low);
        let mut others = [(); 2].map(|()| Client::new(&session, PriorityBand::Normal));
        for other in &mut others {
            let job = other.product(512);
            for _ in 1..DEPTH {
                other.submit(&job);
            }
        }
        let limit = Duration::from_millis(20);
        let mut endless = late.product(MOST);
        let asked = Instant::now();
        endless.deadline = session.ticks_in(limit).unwrap().0;
        let begin = Instant::now();
        let seq = late.submit(&endless);
        let ended = late.queue.completions().wait(seq, Some(SOON)).unwrap_err();
        let (took, since) = (begin.elapsed(), asked.elapsed());
        let Error::Fault(fault) = &ended else {
            panic!("{ended}")
        };
        assert_eq!(fault.code, Ok(FaultCode::Deadline));
        for other in &others {
            let last = other.queue.completions().submitted();
            other.queue.completions().wait(last, Some(SOON)).unwrap();
        }
        // It is looked at when its turn comes, and every millisecond while it runs: at most one packet
        // of each neighbour goes before it.
        let jobs = others
            .iter()
            .flat_map(|other| (2..=20).map(|seq| ticks(&other.stats(seq))));
        let rate = session.device().info().capabilities.time.ticks_per_second;
        let longest = Duration::from_nanos(jobs.max().unwrap() * 1_000_000_000 / rate);
        println!("a deadline of {limit:?} ended it after {took:?}; others take {longest:?}");
        assert!(since >= limit, "{since:?}");
        assert!(
            took < limit + 3 * longest + Duration::from_millis(10),
            "{took:?}"
        );
        // And its queue goes on.
        late.queue.resume().unwrap();
        let job = late.product(16);
        let seq = late.submit(&job);
        late.queue.completions().wait(seq, Some(SOON)).unwrap();
    });
}
