//! Queue 0: how a session asks the device for queues. Slow paths only.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::limits::{MANAGE_BYTES_MAX, QUEUE_TIME, RESET_QUEUE_TIME};
use jalapeno_hw::packets::{Command, Opcode, Packet, header};
use jalapeno_hw::queue::{QueueCreate, QueueName};
use jalapeno_hw::regs::{
    Kick, Q0Completion, Q0Control, Q0Errors, Q0Ring, Q0Size, Q0Status, QueueState, ResetLevel,
};
use zerocopy::IntoBytes;

use crate::device::Device;
use crate::dma::{HostMemory, HostOptions};
use crate::error::{Error, Result};
use crate::lane::{Control, Identity, Lane};
use crate::ledger::End;
use crate::mmio::until;
use crate::queue::{Keeper, Queue};
use crate::ring::Rings;
use crate::transport::Protection;
use crate::units::Iova;
use crate::waker::Waker;

/// What a starved host gets on top of the device's own time.
const PATIENCE: Duration = Duration::from_secs(1);
/// Resets in a row that may hit a command before it is given up.
const RESETS_MOST: u32 = 8;
/// log2 of queue 0's packets and error records.
const DEPTH_LOG2: u32 = 4;
const ERRORS_LOG2: u32 = 2;

/// What a lane asks of a real device.
#[derive(Debug)]
pub(crate) struct Registers {
    device: Arc<Device>,
    generation: u64,
}

impl Control for Registers {
    fn kick(&self, queue: u32) -> Result<()> {
        self.device
            .registers()
            .write(Kick::default().with_queue(queue))
    }

    fn check(&self) -> Result<()> {
        if self.device.generation().0 != self.generation {
            return Err(Error::Stale { what: "the queue" });
        }
        self.device.verify()
    }

    fn over(&self) -> Option<End> {
        if self.device.generation().0 != self.generation {
            return Some(End::Stale);
        }
        match self.device.check() {
            Err(Error::Lost { why }) => Some(End::Lost(why)),
            _ => None,
        }
    }

    fn is_wanted(&self) -> bool {
        self.device.is_wanted_back()
    }

    fn wish_is_known(&self) -> bool {
        self.device.wish_is_known()
    }

    fn note_wish(&self) {
        self.device.note_wish();
    }
}

/// A queue's memory, and what creation says of it.
pub(crate) struct Parts {
    /// For the lane.
    pub(crate) rings: Rings,
    /// Where the submission ring is.
    pub(crate) ring: Iova,
    /// Where the completion line is.
    pub(crate) completion: Iova,
    /// Where the error ring is.
    pub(crate) errors: Iova,
    /// Where the profile ring is.
    pub(crate) profile: Option<Iova>,
    /// The writable memory; from `spare` on it is the caller's.
    answers: Arc<HostMemory>,
    spare: u64,
}

/// Zeroed memory for a queue: the submission ring for reading only, the rest writable, with `spare` bytes
/// more for its maker.
pub(crate) fn parts(
    device: &Device,
    depth_log2: u32,
    errors_log2: u32,
    profile: bool,
    spare: u64,
) -> Result<Parts> {
    let space = device.dma()?;
    let reading = HostOptions {
        protection: Protection::Read,
        ..HostOptions::default()
    };
    let ring_bytes = Rings::ring_bytes(depth_log2) as u64;
    let errors_end = Rings::answer_bytes(errors_log2) as u64;
    let answer_bytes = match profile {
        true => errors_end + Rings::profile_bytes(depth_log2) as u64,
        false => errors_end,
    };
    let ring = HostMemory::allocate(space, ring_bytes, reading)?;
    // Whatever else the device does to host memory: its word on each job is by itself.
    let guarded = HostOptions {
        guarded: true,
        ..HostOptions::default()
    };
    let answers = HostMemory::allocate(space, answer_bytes + spare, guarded)?;
    let answers = Arc::new(answers);
    let (at, completion) = (ring.iova(), answers.iova());
    let kept = Box::new(Arc::clone(&answers));
    let rings = Rings::new(Box::new(ring), kept, depth_log2, errors_log2)?;
    Ok(Parts {
        rings: if profile { rings.profiled()? } else { rings },
        ring: at,
        completion,
        errors: completion + Rings::ERRORS_OFFSET as u64,
        profile: profile.then_some(completion + errors_end),
        answers,
        spare: answer_bytes,
    })
}

/// Queue 0 and the numbers of the other queues. Thread-safe: callers take turns.
#[derive(Debug)]
pub(crate) struct Manager {
    device: Arc<Device>,
    generation: u64,
    turn: Mutex<Turn>,
}

#[derive(Debug)]
struct Turn {
    queue: Option<Queue>,
    /// A command neither ended nor could be cancelled: the device may still read the input.
    stuck: bool,
    /// A command's input stands behind queue 0's answers, from here on.
    memory: Arc<HostMemory>,
    input: u64,
    /// Which queues exist, by number.
    taken: Vec<bool>,
}

impl Manager {
    /// Creates queue 0.
    pub(crate) fn open(device: &Arc<Device>, waker: Arc<Waker>, vector: u32) -> Result<Self> {
        let generation = device.generation().0;
        let registers = device.registers();
        let control: Arc<dyn Control> = Arc::new(Registers {
            device: Arc::clone(device),
            generation,
        });
        let state = registers.read::<Q0Status>()?.state();
        if state == QueueState::Running.code() || state == QueueState::Stopped.code() {
            return Err(Error::Busy {
                on: format!("queue 0 of {} (another session)", device.info().name),
                holder: Some(std::process::id()),
            });
        }
        let room = u64::from(MANAGE_BYTES_MAX);
        let parts = parts(device, DEPTH_LOG2, ERRORS_LOG2, false, room)?;
        registers.write(Q0Ring(parts.ring.0))?;
        registers.write(Q0Completion(parts.completion.0))?;
        registers.write(Q0Errors(parts.errors.0))?;
        let size = Q0Size::default()
            .with_depth_log2(DEPTH_LOG2)
            .with_errors_log2(ERRORS_LOG2)
            .with_vector(vector);
        registers.write(size)?;
        registers.write(Q0Control::default().with_enable(1))?;
        let mut status = Q0Status::default();
        until("creation of queue 0", QUEUE_TIME + PATIENCE, || {
            status = registers.read::<Q0Status>()?;
            Ok(status.state() != QueueState::Absent.code())
        })?;
        if status.state() != QueueState::Running.code() {
            return Err(Error::Unsupported {
                what: format!("queue 0: the device refused it with {:#06x}", status.code()),
            });
        }
        let identity = Identity {
            session: 0,
            number: 0,
            generation,
            delivers: false,
        };
        let lane = Lane::new(parts.rings, identity, device.doorbell(0)?, control)?;
        let keeper = QueueZero {
            device: Arc::clone(device),
        };
        let queue = Queue::new(Arc::new(lane), waker, Some(Box::new(keeper)));
        let count = device.info().capabilities.queues.count;
        let mut taken = vec![false; count as usize];
        taken[0] = true;
        Ok(Self {
            device: Arc::clone(device),
            generation,
            turn: Mutex::new(Turn {
                queue: Some(queue),
                stuck: false,
                memory: parts.answers,
                input: parts.spare,
                taken,
            }),
        })
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn control(&self) -> Arc<dyn Control> {
        Arc::new(Registers {
            device: Arc::clone(&self.device),
            generation: self.generation,
        })
    }

    /// A turn is held while its command runs, at most `PATIENCE` and the command's own time: it is
    /// what the lock is for, and no path of a command takes it.
    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the number of a queue that does not exist.
    pub(crate) fn take_number(&self) -> Result<u32> {
        let mut turn = self.turn();
        let total = turn.taken.len();
        let free = turn.taken.iter().position(|taken| !taken);
        let (Some(number), Some(index)) = (free.and_then(|n| u32::try_from(n).ok()), free) else {
            return Err(Error::Memory {
                what: "queues of the device".into(),
                needed: total as u64 + 1,
                have: total as u64,
                hint: "close queues, or share one: each is in order, so use few".into(),
            });
        };
        turn.taken[index] = true;
        Ok(number)
    }

    /// Gives a number back.
    pub(crate) fn give_number(&self, number: u32) {
        if let Some(taken) = self.turn().taken.get_mut(number as usize) {
            *taken = false;
        }
    }

    /// Creates a queue. Where a reset hits the command it may have run: then the queue is made
    /// anew.
    pub(crate) fn create(&self, create: &QueueCreate) -> Result<()> {
        for _ in 0..RESETS_MOST {
            match self.command(Command::QueueCreate, create.as_bytes(), QUEUE_TIME) {
                Err(Error::Cancelled) => self.destroy(create.queue)?,
                told => return told,
            }
        }
        Err(Error::Cancelled)
    }

    /// Returns when the queue does not exist any more, also where a reset hits the command.
    pub(crate) fn destroy(&self, number: u32) -> Result<()> {
        let name = QueueName {
            queue: number,
            reserved: 0,
        };
        for _ in 0..RESETS_MOST {
            match self.command(Command::QueueDestroy, name.as_bytes(), RESET_QUEUE_TIME) {
                Err(Error::Cancelled) => {}
                Err(Error::Fault(fault)) if fault.code == Ok(FaultCode::BadQueue) => return Ok(()),
                told => return told,
            }
        }
        Err(Error::Cancelled)
    }

    fn command(&self, command: Command, input: &[u8], time: Duration) -> Result<()> {
        let mut turn = self.turn();
        let turn = &mut *turn;
        let Some(queue) = &mut turn.queue else {
            return Err(Error::Closed {
                what: "the session",
            });
        };
        // What is known to be gone is not asked: nobody would answer.
        self.device.check()?;
        if self.device.generation().0 != self.generation {
            return Err(Error::Stale {
                what: "the session",
            });
        }
        if turn.stuck {
            return Err(Error::NeedsReset {
                why: "its queue 0 no longer answers",
            });
        }
        // A reset of the engines stops queue 0 too: then it is this session's to let run again.
        match queue.completions().poll() {
            Ok(_) => {}
            Err(Error::Stopped) => queue.resume()?,
            Err(error) => return Err(error),
        }
        turn.memory.write(turn.input, input)?;
        let mut packet = Packet::ZERO;
        packet.header = header(Opcode::Manage, command.code());
        packet.body[0] = (turn.memory.iova() + turn.input).0;
        packet.body[2] = input.len() as u64; // and no room for a result
        let seq = queue.submit_one(&packet)?;
        let within = time + PATIENCE;
        let done = queue.completions().wait(seq, Some(within));
        match &done {
            Err(Error::Fault(_) | Error::Cancelled) => queue.resume()?,
            // The input must not be written again while the device may still read it.
            Err(Error::Late { .. }) => {
                turn.stuck = true;
                queue.cancel(within)?;
                turn.stuck = false;
            }
            _ => {}
        }
        done
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let mut turn = self.turn();
        // Before its input goes: dropping the queue makes the device forget it.
        drop(turn.queue.take());
        if turn.stuck && self.device.generation().0 == self.generation {
            cut_off(&self.device, &turn.memory);
        }
    }
}

/// Cuts a device off from memory that it may still use; where that fails too the memory is kept.
fn cut_off<T>(device: &Device, memory: &Arc<T>) {
    if device.isolate().is_err() && device.check().is_ok() {
        std::mem::forget(Arc::clone(memory));
    }
}

/// Lets go of queue 0, by registers.
#[derive(Debug)]
struct QueueZero {
    device: Arc<Device>,
}

impl Keeper for QueueZero {
    fn reset(&self, within: Duration) -> Result<()> {
        self.device
            .reset(ResetLevel::Queue, 0, within)
            .map(|_report| ())
    }

    fn close(&self, lane: &Arc<Lane>) {
        let registers = self.device.registers();
        let gone = || -> Result<()> {
            registers.write(Q0Control::default())?;
            until("destruction of queue 0", QUEUE_TIME + PATIENCE, || {
                Ok(registers.read::<Q0Status>()?.state() == QueueState::Absent.code())
            })
        };
        if self.device.check().is_ok()
            && let Err(error) = gone()
        {
            log::error!("close queue 0: {error}; bus mastering goes off");
            cut_off(&self.device, lane);
        }
    }
}
