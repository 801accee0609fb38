//! Packets, executed exactly. Host interface 6.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::packets::{
    Fence, HEADER_ARGUMENT_SHIFT, HEADER_OPCODE, HEADER_RESERVED, Opcode, Stamp, Timestamp, WaitOp,
};
use zerocopy::IntoBytes;

use crate::bands::{Stolen, Urgent};
use crate::card::Card;
use crate::faults::Fault;
use crate::graph::Graph;
use crate::kernels::Pool;
use crate::memory::{Intent, Piece};
use crate::queue::Block;
use crate::trouble::Trouble;

/// Bytes that go through the card's own buffer at once.
pub(crate) const BOUNCE_BYTES: usize = 1 << 20;

/// What became of a packet.
#[derive(Debug)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It waits.
    Blocked(Block),
    /// It is for the management processor.
    Manage,
    /// Its graph was read and is to be run.
    Graph(Graph),
}

/// Why a packet was not done.
#[derive(Debug)]
pub enum Failure {
    /// It failed.
    Trouble(Trouble),
    /// A reset took it away.
    Abandoned,
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// What a WAIT waits for.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// The fence's address.
    pub address: u64,
    /// The value compared with.
    pub value: u64,
    /// How.
    pub op: WaitOp,
    /// Device time by which; 0: endless.
    pub deadline: u64,
}

impl Wait {
    fn is_met_by(&self, value: u64) -> bool {
        match self.op {
            WaitOp::Equal => value == self.value,
            WaitOp::AtLeast => value >= self.value,
        }
    }
}

/// The packet that runs: whose it is and until when.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    /// Its queue.
    pub queue: u16,
    /// Device time after which it fails; 0: none.
    pub deadline: u64,
}

/// Device time, read at most once a burst.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock(u64);

impl Clock {
    /// The time, read now unless it was read before.
    pub fn now(&mut self, card: &Card) -> u64 {
        if self.0 == 0 {
            self.0 = card.now();
        }
        self.0
    }

    /// Time has passed.
    pub fn forget(&mut self) {
        self.0 = 0;
    }
}

/// Runs packets. It owns the buffers that they need.
#[derive(Debug)]
pub struct Runner {
    pub(crate) card: Arc<Card>,
    pub(crate) pool: Pool,
    pub(crate) from: Vec<Piece>,
    pub(crate) to: Vec<Piece>,
    pub(crate) bounce: Vec<u8>,
    /// The graph whose packet runs.
    pub(crate) graph: Option<Graph>,
    /// Memory of a graph that has run, for the next one.
    pub(crate) spare: Vec<u64>,
    /// Whose packets interrupt those of this runner.
    pub(crate) urgent: Urgent,
    /// What they took.
    pub(crate) stolen: Cell<Stolen>,
}

impl Runner {
    /// A runner for a card; `pool` is what kernels compute on.
    #[must_use]
    pub fn new(card: Arc<Card>, pool: Pool) -> Self {
        Self {
            card,
            pool,
            from: Vec::new(),
            to: Vec::new(),
            bounce: vec![0; BOUNCE_BYTES],
            graph: None,
            spare: Vec::new(),
            urgent: Urgent::default(),
            stolen: Cell::default(),
        }
    }

    /// Runs one packet.
    ///
    /// # Errors
    /// The fault that its record will name, or that a reset took it away.
    #[inline]
    pub fn execute(
        &mut self,
        queue: u16,
        words: &[u64; 8],
        clock: &mut Clock,
    ) -> Result<Outcome, Failure> {
        let [header, cookie, deadline, body @ ..] = *words;
        if header & HEADER_RESERVED != 0 {
            return Err(Trouble::reserved(1).into());
        }
        if deadline != 0 && clock.now(&self.card) >= deadline {
            return Err(Trouble::new(FaultCode::Deadline).into());
        }
        if header & HEADER_OPCODE == u64::from(Opcode::Nop.code()) {
            return no_argument(header)
                .and_then(|()| unused(&body, 0))
                .map(|()| Outcome::Done);
        }
        clock.forget();
        let running = Running { queue, deadline };
        if header & HEADER_OPCODE == u64::from(Opcode::Indirect.code()) {
            return self.indirect(running, (header, cookie), &zerocopy::transmute!(body));
        }
        self.execute_other(running, header, body)
    }

    fn execute_other(
        &mut self,
        running: Running,
        header: u64,
        body: [u64; 5],
    ) -> Result<Outcome, Failure> {
        let opcode = u32::try_from(header & HEADER_OPCODE).unwrap_or_default();
        let argument = u32::try_from(header >> HEADER_ARGUMENT_SHIFT).unwrap_or_default();
        let unknown = Trouble::detail(FaultCode::UnknownOpcode, header, 0);
        let opcode = Opcode::from_code(opcode).ok_or(unknown)?;
        if !matches!(opcode, Opcode::Wait | Opcode::Launch | Opcode::Manage)
            && !opcode.is_reserved()
        {
            no_argument(header)?;
        }
        match opcode {
            Opcode::Nop => {}
            Opcode::Copy => {
                unused(&body, 3)?;
                self.copy(running, &zerocopy::transmute!(body))?;
            }
            Opcode::CopyStrided => self.copy_strided(running, &zerocopy::transmute!(body))?,
            Opcode::Fill => {
                unused(&body, 3)?;
                self.fill(running, &zerocopy::transmute!(body))?;
            }
            Opcode::Signal => {
                unused(&body, 2)?;
                self.signal(&zerocopy::transmute!(body))?;
            }
            Opcode::Wait => {
                unused(&body, 2)?;
                return self.wait(running, argument, &zerocopy::transmute!(body));
            }
            Opcode::Timestamp => {
                unused(&body, 1)?;
                self.timestamp(&zerocopy::transmute!(body))?;
            }
            Opcode::Launch => self.launch(running, argument, &zerocopy::transmute!(body))?,
            // Packets of a queue run one after the other: only other observers must catch up.
            Opcode::Barrier => {
                unused(&body, 0)?;
                fence(Ordering::SeqCst);
            }
            Opcode::Manage if running.queue == 0 => {
                unused(&body, 3)?;
                return Ok(Outcome::Manage);
            }
            Opcode::Manage => return Err(Trouble::new(FaultCode::NotPermitted).into()),
            Opcode::Indirect | Opcode::Replay => return Err(unknown.into()),
        }
        Ok(Outcome::Done)
    }

    /// Whether a packet may run on: looks at resets, a quiesce and the deadline.
    ///
    /// # Errors
    /// DEADLINE, QUEUE_RESET for a quiesce that waits, or that a reset took the packet away.
    pub(crate) fn may_run(&self, running: Running) -> Result<(), Failure> {
        let card = &self.card;
        if card.abandon.load(Ordering::Relaxed) >> running.queue & 1 != 0 {
            return Err(Failure::Abandoned);
        }
        let quiesce_by = card.quiesce_by.load(Ordering::Relaxed);
        if quiesce_by != 0 && card.now() >= quiesce_by {
            return Err(Trouble::new(FaultCode::QueueReset).into());
        }
        if running.deadline != 0 && card.now() >= running.deadline {
            return Err(Trouble::new(FaultCode::Deadline).into());
        }
        Ok(())
    }

    fn signal(&mut self, signal: &Fence) -> Result<(), Failure> {
        aligned(signal.address)?;
        let memory = self.card.memory();
        let stray = self.card.injector.is_active(Fault::FenceStray);
        let value = signal.value.saturating_add(if stray { 1000 } else { 0 });
        match memory.whole(signal.address, 8, Intent::Write)? {
            Some(span) => span.raise(0, value),
            None => {
                let old = self.read_word(signal.address)?;
                memory.write(signal.address, &old.max(value).to_le_bytes())?;
            }
        }
        Ok(())
    }

    fn wait(&self, running: Running, op: u32, wait: &Fence) -> Result<Outcome, Failure> {
        let op = WaitOp::from_code(op).ok_or(Trouble::parameter(4, op.into()))?;
        aligned(wait.address)?;
        let wait = Wait {
            address: wait.address,
            value: wait.value,
            op,
            deadline: running.deadline,
        };
        if self.is_met(&wait)? {
            return Ok(Outcome::Done);
        }
        Ok(Outcome::Blocked(Block::Fence(wait, [0; 8])))
    }

    /// Whether a fence has the value waited for.
    ///
    /// # Errors
    /// What memory says.
    pub fn is_met(&self, wait: &Wait) -> Result<bool, Trouble> {
        Ok(wait.is_met_by(self.read_word(wait.address)?))
    }

    /// The same without a question to the client; `None` where only it knows.
    ///
    /// # Errors
    /// As [`Runner::is_met`].
    pub(crate) fn is_met_here(&self, wait: &Wait) -> Result<Option<bool>, Trouble> {
        let span = self.card.memory().whole(wait.address, 8, Intent::Read)?;
        Ok(span.map(|span| wait.is_met_by(span.load(0, Ordering::Acquire))))
    }

    /// Loads an aligned word in one piece; everything stored before it by whoever stored it is
    /// visible afterwards.
    fn read_word(&self, address: u64) -> Result<u64, Trouble> {
        let memory = self.card.memory();
        match memory.whole(address, 8, Intent::Read)? {
            Some(span) => Ok(span.load(0, Ordering::Acquire)),
            None => {
                let mut bytes = [0; 8];
                memory.read(address, &mut bytes)?;
                Ok(u64::from_le_bytes(bytes))
            }
        }
    }

    fn timestamp(&self, timestamp: &Timestamp) -> Result<(), Failure> {
        aligned(timestamp.address)?;
        let stamp = Stamp {
            time: self.card.now(),
            energy_uj: self.card.energy_uj(),
        };
        let memory = self.card.memory();
        memory.write(timestamp.address, stamp.as_bytes())?;
        Ok(())
    }

    /// Flips a bit of a result, if that was asked for (fault injection).
    pub fn spoil(&self, address: u64) {
        if !self.card.injector.is_active(Fault::WrongResult) {
            return;
        }
        let mut byte = [0];
        let memory = self.card.memory();
        if memory.read(address, &mut byte).is_ok() {
            byte[0] ^= 1;
            // The packet itself succeeded: a failure to spoil it is not its failure.
            let _ = memory.write(address, &byte);
        }
    }
}

/// The header's argument is not named by the opcode.
fn no_argument(header: u64) -> Result<(), Failure> {
    if header >> HEADER_ARGUMENT_SHIFT != 0 {
        return Err(Trouble::reserved(4).into());
    }
    Ok(())
}

/// Words of the body from `first` on are not named by the opcode.
fn unused(body: &[u64; 5], first: usize) -> Result<(), Failure> {
    match body.iter().skip(first).position(|word| *word != 0) {
        Some(index) => Err(Trouble::reserved(0x18 + 8 * (first + index) as u64).into()),
        None => Ok(()),
    }
}

/// Wants an address, the first field of a body, to be a multiple of 8.
fn aligned(address: u64) -> Result<(), Trouble> {
    if address.is_multiple_of(8) {
        Ok(())
    } else {
        let mut trouble = Trouble::at(FaultCode::Misaligned, address);
        trouble.detail[0] = 0x18;
        Err(trouble)
    }
}
