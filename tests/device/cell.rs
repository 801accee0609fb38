//! A cell of the fault matrix: one fault, one kind of wait, one depth, so many queues; met, survived
//! and nothing left behind.

use std::time::{Duration, Instant};

use jalapeno::completions::Status;
use jalapeno::error::{Code, Error, Result};
use jalapeno::{
    Completion, Completions, DeviceAddr, DeviceBuffer, Fence, HostBuffer, HostOptions, Queue, Seq,
    Session,
};
use jalapeno_emulator::faults::{Fault, Unit};
use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::packets::Packet;
use jalapeno_hw::regs::ResetLevel;
use jalapeno_tests::invariants::{Invariants, Tally, conserved, punctual};
use jalapeno_tests::packet::{copy, nop, wait};
use jalapeno_tests::stage::delivering;
use jalapeno_tests::{SOON, Stage, calmly};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Longest wait for what never comes.
const PATIENCE: Duration = Duration::from_millis(25);
/// An application's own poll beside its interrupts.
const BACKSTOP: Duration = Duration::from_millis(100);
/// Progress later than this is not put down to a doorbell rung again: the host was starved.
const RUNG_AGAIN: Duration = Duration::from_millis(102);
/// How far a deadline lies ahead.
const DEADLINE: Duration = Duration::from_millis(2);
/// An address that nobody maps.
const NOWHERE: DeviceAddr = DeviceAddr(0x7000_0000);

/// How completions are awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// By polling alone.
    Poll,
    /// In the library, until the interrupt.
    Sleep,
    /// In a loop of the application's own, by eventfd.
    Loop,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// The card misbehaves.
    Fault(Fault),
    /// A packet names an address that nobody mapped.
    Unmapped,
}

/// Which job it hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// One in the middle of a full ring.
    Middle,
    /// The last one.
    Last,
}

/// How it ends for whoever waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All jobs succeed.
    Done,
    /// All jobs succeed; the library did something for it, counts it and says so.
    DoneAfter(FaultCode),
    /// The job fails with this code, those behind it are cancelled.
    Fails(FaultCode),
    /// Nothing comes; a queue reset cancels the job and those behind it.
    Silence,
    /// As silence, but all jobs were done: a queue reset brings it out.
    Unsaid,
    /// As silence, for every queue; a reset of the engines cancels what is open.
    Standstill,
    /// The queue is quarantined with one of these codes.
    Breach(&'static [FaultCode]),
    /// The same where anybody looked at the right moment; else nothing happened.
    BreachIfSeen(FaultCode),
}

/// A row of the matrix.
#[derive(Debug)]
pub struct Row {
    /// Its number.
    pub number: &'static str,
    /// What goes wrong.
    pub mishap: Mishap,
    /// Where.
    pub place: Place,
    /// What comes of it.
    pub end: fn(&Cell) -> End,
}

/// The rest of a cell's coordinates.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// How it is waited.
    pub waiting: Waiting,
    /// Depth of every queue.
    pub depth: u32,
    /// Queues: one is hit, the others have jobs in flight.
    pub queues: usize,
}

/// A queue that is watched: jobs are numbered by their cookies.
struct Lane {
    queue: Queue,
    side: Completions,
    tally: Tally,
}

impl Lane {
    fn new(session: &Session, depth: u32) -> Self {
        let queue = delivering(session, depth);
        Self {
            side: queue.completions().clone(),
            queue,
            tally: Tally::default(),
        }
    }

    fn last(&self) -> Seq {
        self.side.submitted()
    }

    /// Submits packets, each with its number as cookie.
    fn submit(&mut self, mut packets: Vec<Packet>) -> Result<Seq> {
        for (number, packet) in (self.last().0 + 1..).zip(&mut packets) {
            packet.cookie = number;
        }
        self.queue.submit(&packets)
    }

    /// A lap of jobs that do nothing.
    fn lap(&mut self) {
        let depth = self.queue.depth();
        for batch in [depth.div_ceil(2), depth, 1] {
            let nops = (0..batch).map(|_| nop(0)).collect();
            let last = self.submit(nops).unwrap();
            self.side.wait(last, Some(SOON)).unwrap();
            self.tally.reap(&self.side).unwrap();
        }
        // The last sleeper may have seen its job before the interrupt was sent. The engine has sent it
        // by the time that it is through with one more job, for which nobody asks an interrupt.
        let last = self.submit(vec![nop(0)]).unwrap();
        by_polling(&self.side, last, SOON);
        self.tally.reap(&self.side).unwrap();
    }
}

/// What a cell plays with.
struct Scene<'a> {
    stage: &'a Stage,
    session: Session,
    victim: Lane,
    others: Vec<Lane>,
    /// What the others wait for.
    gate: Fence,
    /// What the job that is hit waits for, where it must be slow.
    slow: Fence,
    host: HostBuffer,
    hbm: DeviceBuffer,
}

/// Plays one cell.
pub fn play(stage: &Stage, row: &Row, cell: &Cell) {
    calmly(|| {
        stage.mischief().calm(); // where a try was not
        play_once(stage, row, cell);
    });
}

fn play_once(stage: &Stage, row: &Row, cell: &Cell) {
    let before = Invariants::as_it_is(stage);
    let session = stage.session();
    let host = session.host_memory(4096, HostOptions::default()).unwrap();
    let mut scene = Scene {
        stage,
        victim: Lane::new(&session, cell.depth),
        others: (1..cell.queues)
            .map(|_| Lane::new(&session, cell.depth))
            .collect(),
        gate: session.fence(0).unwrap(),
        slow: session.fence(0).unwrap(),
        hbm: session.device_memory(4096).unwrap(),
        host,
        session,
    };
    println!("{} {cell:?}", row.number);
    scene.play(row, cell, &before);
    stage.mischief().calm();
    drop(scene);
    before.nothing_is_left(stage);
}

impl Scene<'_> {
    fn play(&mut self, row: &Row, cell: &Cell, before: &Invariants) {
        for other in &mut self.others {
            let mut jobs = vec![wait(self.gate.address(), 1)];
            jobs.resize(other.queue.depth().min(8) as usize, nop(0));
            other.submit(jobs).unwrap();
        }
        // By the end of this lap the others' first jobs have started and wait.
        self.victim.lap();

        let depth = u64::from(cell.depth);
        let hit = match row.place {
            Place::Middle => depth / 2 + depth % 2,
            Place::Last => depth,
        };
        let end = (row.end)(cell);
        let first = self.victim.last().0;
        let last = self.submit_jobs(row.mishap, hit, depth);
        let limit = match end {
            End::Silence | End::Unsaid | End::Standstill => self.stage.time(PATIENCE),
            _ => self.stage.time(Duration::from_secs(1)),
        };
        let (verdict, took) = self.wait(row.mishap, cell.waiting, last, limit, end);
        if let End::DoneAfter(code) = end
            && (code != FaultCode::DoorbellLost || took < RUNG_AGAIN)
        {
            before.was_said(code.name());
        }
        self.judge(end, Seq(first + hit), last, verdict, before);
        self.finish(end, first, hit, last.0);
    }

    /// Fills the victim's ring; the job `hit` meets with the mishap, the last one copies.
    fn submit_jobs(&mut self, mishap: Mishap, hit: u64, depth: u64) -> Seq {
        let mut jobs: Vec<Packet> = (1..depth).map(|_| nop(0)).collect();
        jobs.push(copy(self.host.address(), self.hbm.address(), 4096));
        let job = &mut jobs[usize::try_from(hit - 1).unwrap()];
        let mischief = self.stage.mischief();
        match mishap {
            Mishap::Unmapped => *job = copy(NOWHERE, self.hbm.address(), 64),
            Mishap::Fault(fault) => {
                if fault.row().unit == Unit::Interrupt {
                    // Long enough that nobody polls any more.
                    *job = wait(self.slow.address(), 1);
                    mischief.fault(fault);
                } else {
                    mischief.fault_at(fault, hit);
                    if matches!(fault, Fault::JustInTime | Fault::JustLate) {
                        let deadline = self.stage.time(DEADLINE);
                        job.deadline = self.session.ticks_in(deadline).unwrap().0;
                    }
                }
            }
        }
        self.victim.submit(jobs).unwrap()
    }

    /// Waits for the last job, in time, and gives its verdict.
    fn wait(
        &mut self,
        mishap: Mishap,
        waiting: Waiting,
        last: Seq,
        limit: Duration,
        end: End,
    ) -> (Result<()>, Duration) {
        let side = &self.victim.side;
        let (slow, stage) = (&self.slow, self.stage);
        let ((), took) = std::thread::scope(|scope| {
            if matches!(mishap, Mishap::Fault(fault) if fault.row().unit == Unit::Interrupt) {
                scope.spawn(|| {
                    std::thread::sleep(stage.time(Duration::from_millis(3)));
                    slow.signal(1).unwrap();
                });
            }
            punctual(limit, || match waiting {
                Waiting::Poll => by_polling(side, last, limit),
                Waiting::Sleep => drop(side.wait(last, Some(limit))),
                Waiting::Loop => in_a_loop(side, last, limit),
            })
        });
        if let End::DoneAfter(_) = end {
            assert!(took < self.stage.time(5 * BACKSTOP), "found after {took:?}");
        }
        (side.wait(last, Some(Duration::ZERO)), took)
    }

    /// What the waiter, the producer and the log were told.
    fn judge(&mut self, end: End, hit: Seq, last: Seq, verdict: Result<()>, before: &Invariants) {
        let Lane { queue, side, .. } = &mut self.victim;
        match end {
            End::Done => verdict.unwrap(),
            End::DoneAfter(code) => {
                verdict.unwrap();
                let counters = side.counters();
                let told = if code == FaultCode::DoorbellLost {
                    (
                        counters.doorbells_rung_again <= 1,
                        counters.interrupts_missed == 0,
                    )
                } else {
                    (
                        counters.doorbells_rung_again == 0,
                        counters.interrupts_missed == 1,
                    )
                };
                assert_eq!(told, (true, true), "{counters:?}");
            }
            End::Fails(code) => {
                let expected = if hit == last {
                    Code::Fault
                } else {
                    Code::Cancelled
                };
                assert_eq!(verdict.unwrap_err().code(), expected);
                let error = side.wait(hit, Some(Duration::ZERO)).unwrap_err();
                assert!(
                    matches!(&error, Error::Fault(fault) if fault.code == Ok(code)),
                    "{error}"
                );
                assert_eq!(side.fault().unwrap().code, Ok(code));
                assert!(matches!(queue.submit_one(&nop(0)), Err(Error::Stopped)));
                before.was_said(code.name());
                queue.resume().unwrap();
            }
            End::Silence | End::Unsaid | End::Standstill => {
                assert!(matches!(verdict, Err(Error::Late { .. })), "{verdict:?}");
                // I3: a job that is late may still run.
                if end != End::Unsaid || hit == last {
                    assert!(self.host.is_in_use() && self.hbm.is_in_use());
                }
                self.reset(end);
            }
            End::Breach(codes) => {
                before.was_said(breach(&verdict.unwrap_err(), codes).name());
                let refused = queue.submit_one(&nop(0)).unwrap_err();
                assert_eq!(refused.code(), Code::Protocol, "{refused}");
            }
            End::BreachIfSeen(code) => {
                if let Err(error) = verdict {
                    before.was_said(breach(&error, &[code]).name());
                }
            }
        }
    }

    /// The documented step after silence.
    fn reset(&mut self, end: End) {
        let Lane { queue, side, tally } = &mut self.victim;
        let outcome = match end {
            End::Standstill => {
                let device = self.session.device();
                device.reset(ResetLevel::Engines, 0, SOON).unwrap();
                queue.resume()
            }
            _ => queue.cancel(SOON),
        };
        match outcome {
            // The reset hit a queue that had done all its jobs: room is needed for one more.
            Err(Error::Full) if end == End::Unsaid => {
                tally.reap(side).unwrap();
                queue.resume().unwrap();
            }
            other => other.unwrap(),
        }
    }

    /// Every job's end, of every queue; then all of them work on.
    fn finish(&mut self, end: End, first: u64, hit: u64, last: u64) {
        let Lane { side, tally, .. } = &mut self.victim;
        let over = tally.reap(side).err();
        let ends: Vec<Completion> = tally.ends().copied().filter(|e| e.seq.0 > first).collect();
        assert!(ends.len() as u64 >= last - first, "{ends:?}");
        let done = ends.iter().filter(|e| e.status == Status::Done).count() as u64;
        let (done_least, done_most) = match end {
            End::Done | End::DoneAfter(_) | End::Unsaid => (last - first, last - first),
            End::Fails(_) | End::Silence | End::Standstill => (hit - 1, hit - 1),
            End::Breach(_) => (0, hit - 1),
            End::BreachIfSeen(_) => (0, last - first),
        };
        assert!((done_least..=done_most).contains(&done), "{done}: {ends:?}");
        for (seq, job) in (first + 1..).zip(&ends) {
            assert_eq!(job.seq, Seq(seq));
            let expected = match end {
                _ if seq <= first + done => Status::Done,
                // The NOP that a resume put where a reset stood.
                _ if seq > last => Status::Cancelled,
                End::Breach(_) | End::BreachIfSeen(_) => Status::Protocol,
                End::Fails(_) if seq == first + hit => Status::Fault,
                _ => Status::Cancelled,
            };
            assert_eq!(job.status, expected, "job {seq} of {}", last - first);
            let cookie = if seq > last { 0 } else { seq };
            assert_eq!(job.cookie, cookie);
        }
        conserved(&side.counters());
        // I2: what was said of a job stands.
        let again = [Status::Done, Status::Cancelled].map(|status| {
            let job = ends.iter().find(|job| job.status == status)?;
            Some(
                side.wait(job.seq, Some(Duration::ZERO))
                    .map_err(|e| e.code()),
            )
        });
        assert!(again[0].is_none_or(|told| told.is_ok()), "{again:?}");
        assert!(
            again[1].is_none_or(|told| told == Err(Code::Cancelled)),
            "{again:?}"
        );
        let breached = done < last - first && matches!(end, End::Breach(_) | End::BreachIfSeen(_));
        assert_eq!(over.is_some() && breached, breached, "{over:?}");
        if side.poll().is_err() {
            // A quarantined queue is closed; another takes its place.
            self.replace();
        }
        self.victim.lap();
        assert!(!self.host.is_in_use() && !self.hbm.is_in_use());
        self.others_go_on(end);
    }

    /// Closes the queue, and only then its jobs' memory is free.
    fn replace(&mut self) {
        let fresh = Lane::new(&self.session, 32);
        drop(std::mem::replace(&mut self.victim, fresh));
    }

    fn others_go_on(&mut self, end: End) {
        self.gate.signal(1).unwrap();
        for other in &mut self.others {
            let last = other.last();
            let outcome = other.side.wait(last, Some(SOON));
            if end == End::Standstill {
                assert_eq!(outcome.unwrap_err().code(), Code::Cancelled);
                other.queue.resume().unwrap();
            } else {
                outcome.unwrap();
            }
            other.tally.reap(&other.side).unwrap();
            other.tally.is_whole(last.0);
            other.lap();
            conserved(&other.side.counters());
        }
    }
}

/// The breach that an error tells of, which must be one of these.
fn breach(error: &Error, codes: &[FaultCode]) -> FaultCode {
    match error {
        Error::Protocol { code, .. } if codes.contains(code) => *code,
        other => panic!("not one of {codes:?}: {other}"),
    }
}

fn by_polling(side: &Completions, last: Seq, limit: Duration) {
    let begin = Instant::now();
    while side.poll().is_ok_and(|seen| seen < last) && begin.elapsed() < limit {
        std::thread::yield_now();
    }
}

fn in_a_loop(side: &Completions, last: Seq, limit: Duration) {
    let begin = Instant::now();
    let fd = side.eventfd().expect("a board has vectors");
    side.arm(last).unwrap();
    while side.poll().is_ok_and(|seen| seen < last) {
        let left = limit.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return;
        }
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        let nap = PollTimeout::try_from(left.min(BACKSTOP)).unwrap();
        if poll(&mut fds, nap).unwrap() > 0 {
            let mut count = [0; 8];
            nix::unistd::read(fd, &mut count).unwrap();
            side.arm(last).unwrap();
        }
    }
}
