//! Packets, executed exactly. Host interface 6.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::limits::HBM_BASE;
use jalapeno_hw::packets::{
    Copy, CopyStrided, Fence, Fill, HEADER_ARGUMENT_SHIFT, HEADER_OPCODE, HEADER_RESERVED, Opcode,
    Stamp, Timestamp, WaitOp,
};
use zerocopy::IntoBytes;

use crate::card::Card;
use crate::energy::{Engine, Work};
use crate::faults::Fault;
use crate::kernels::Pool;
use crate::memory::{Intent, Piece, STEP_BYTES};
use crate::queue::Block;
use crate::trouble::Trouble;

/// Rows of a strided copy between two looks at deadlines and resets.
const STEP_ROWS: u32 = 4096;
/// Bytes below which a transfer's duration is not measured: a clock read would cost more.
const TIMED_BYTES: u64 = 32 << 10;
/// Bytes that go through the card's own buffer at once.
const BOUNCE_BYTES: usize = 1 << 20;

/// What became of a packet.
#[derive(Debug)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It waits.
    Blocked(Block),
    /// It is for the management processor.
    Manage,
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
    from: Vec<Piece>,
    to: Vec<Piece>,
    bounce: Vec<u8>,
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
        let [header, _cookie, deadline, body @ ..] = *words;
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
        self.execute_other(Running { queue, deadline }, header, body)
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

    /// Looks at resets and the deadline, and lets mappings change: what was found in memory
    /// before is void.
    ///
    /// # Errors
    /// DEADLINE, or that a reset took the packet away.
    pub fn breathe(&self, running: Running) -> Result<(), Failure> {
        if self.card.abandon.load(Ordering::Relaxed) >> running.queue & 1 != 0 {
            return Err(Failure::Abandoned);
        }
        if running.deadline != 0 && self.card.now() >= running.deadline {
            return Err(Trouble::new(FaultCode::Deadline).into());
        }
        let gate = self.card.host.gate();
        if gate.wanted() {
            gate.leave();
            gate.enter();
        }
        Ok(())
    }

    fn copy(&mut self, running: Running, copy: &Copy) -> Result<(), Failure> {
        let (from, to, bytes) = (copy.source, copy.destination, copy.bytes);
        if bytes == 0 {
            return Ok(());
        }
        refuse_overlap((from, bytes), (to, bytes))?;
        let started = (bytes >= TIMED_BYTES).then(|| self.card.now());
        self.find(from, to, bytes)?;
        let mut done = 0;
        loop {
            let step = STEP_BYTES.min(bytes - done);
            if done > 0 {
                self.find(from + done, to + done, step)?;
            }
            self.transfer(from + done, to + done, step)?;
            done += step;
            if done == bytes {
                break;
            }
            self.breathe(running)?;
        }
        self.moved(started, &[(from, bytes), (to, bytes)]);
        self.spoil(to);
        Ok(())
    }

    fn copy_strided(&mut self, running: Running, copy: &CopyStrided) -> Result<(), Failure> {
        let (rows, row) = (copy.rows, u64::from(copy.row_bytes));
        if rows == 0 || row == 0 {
            return Ok(());
        }
        if copy.destination_stride < row && rows > 1 {
            return Err(Trouble::parameter(0x38, copy.destination_stride).into());
        }
        let extent = |stride: u64, offset: u64| {
            stride
                .checked_mul(u64::from(rows - 1))
                .and_then(|bytes| bytes.checked_add(row))
                .ok_or(Trouble::parameter(offset, stride))
        };
        let from_bytes = extent(copy.source_stride, 0x30)?;
        let to_bytes = extent(copy.destination_stride, 0x38)?;
        for (address, bytes, intent) in [
            (copy.source, from_bytes, Intent::Read),
            (copy.destination, to_bytes, Intent::Write),
        ] {
            let memory = self.card.memory();
            address
                .checked_add(bytes)
                .ok_or_else(|| memory.unmapped(address, intent))?;
        }
        refuse_overlap((copy.source, from_bytes), (copy.destination, to_bytes))?;
        let started = self.card.now();
        let place = |index: u32| {
            let index = u64::from(index);
            let from = copy.source + index * copy.source_stride;
            (from, copy.destination + index * copy.destination_stride)
        };
        // All rows are found before the first one is written.
        for index in 0..rows {
            let (from, to) = place(index);
            self.find(from, to, row)?;
            if index % STEP_ROWS == STEP_ROWS - 1 {
                self.breathe(running)?;
            }
        }
        for index in 0..rows {
            let (from, to) = place(index);
            self.find(from, to, row)?;
            self.transfer(from, to, row)?;
            if index % STEP_ROWS == STEP_ROWS - 1 || row >= STEP_BYTES / 4 {
                self.breathe(running)?;
            }
        }
        let bytes = row * u64::from(rows);
        self.moved(
            Some(started),
            &[(copy.source, bytes), (copy.destination, bytes)],
        );
        self.spoil(copy.destination);
        Ok(())
    }

    fn fill(&mut self, running: Running, fill: &Fill) -> Result<(), Failure> {
        let (to, bytes) = (fill.destination, fill.bytes);
        if bytes == 0 {
            return Ok(());
        }
        let started = (bytes >= TIMED_BYTES).then(|| self.card.now());
        self.to.clear();
        self.card
            .memory()
            .find(to, bytes, Intent::Write, &mut self.to)?;
        let pattern = fill.pattern.to_le_bytes();
        let even = pattern.iter().all(|byte| *byte == pattern[0]);
        if !even {
            // Steps are multiples of 8, so each begins with the pattern's first byte.
            for (at, byte) in self.bounce.iter_mut().enumerate() {
                *byte = pattern[at % 8];
            }
        }
        let mut done = 0;
        loop {
            let step = (BOUNCE_BYTES as u64).min(bytes - done);
            let memory = self.card.memory();
            self.to.clear();
            memory.find(to + done, step, Intent::Write, &mut self.to)?;
            let length = usize::try_from(step).unwrap_or(BOUNCE_BYTES);
            match self.to.as_slice() {
                [Piece::Mapped(span)] if even => span.part(0, length).set(pattern[0]),
                _ => {
                    if even {
                        self.bounce.fill(pattern[0]);
                    }
                    memory.write(to + done, self.bounce.get(..length).unwrap_or_default())?;
                }
            }
            done += step;
            if done == bytes {
                break;
            }
            self.breathe(running)?;
        }
        self.moved(started, &[(to, bytes)]);
        self.spoil(to);
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
        let value = self.read_word(wait.address)?;
        Ok(match wait.op {
            WaitOp::Equal => value == wait.value,
            WaitOp::AtLeast => value >= wait.value,
        })
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

    /// Finds both sides of a transfer.
    fn find(&mut self, from: u64, to: u64, bytes: u64) -> Result<(), Trouble> {
        let memory = self.card.memory();
        self.from.clear();
        self.to.clear();
        memory.find(from, bytes, Intent::Read, &mut self.from)?;
        memory.find(to, bytes, Intent::Write, &mut self.to)
    }

    /// Moves `bytes` bytes between the beginnings of what was found.
    fn transfer(&mut self, from: u64, to: u64, bytes: u64) -> Result<(), Trouble> {
        let memory = self.card.memory();
        let mapped = |piece: &Piece| matches!(piece, Piece::Mapped(_));
        if !self.from.iter().all(mapped) || !self.to.iter().all(mapped) {
            let mut done = 0;
            while done < bytes {
                let step = (BOUNCE_BYTES as u64).min(bytes - done);
                let length = usize::try_from(step).unwrap_or(BOUNCE_BYTES);
                let buffer = self.bounce.get_mut(..length).unwrap_or_default();
                memory.read(from + done, buffer)?;
                memory.write(to + done, buffer)?;
                done += step;
            }
            return Ok(());
        }
        let (mut left, mut from_at, mut to_at) = (bytes, 0, 0);
        let (mut sources, mut targets) = (self.from.iter(), self.to.iter());
        let (mut source, mut target) = (sources.next(), targets.next());
        while let (Some(from), Some(to)) = (source, target) {
            let step = left.min(from.bytes() - from_at).min(to.bytes() - to_at);
            if let (Piece::Mapped(a), Piece::Mapped(b)) =
                (from.part(from_at, step), to.part(to_at, step))
            {
                a.copy_to(b);
            }
            left -= step;
            from_at += step;
            to_at += step;
            if left == 0 {
                break;
            }
            if from_at == from.bytes() {
                (source, from_at) = (sources.next(), 0);
            }
            if to_at == to.bytes() {
                (target, to_at) = (targets.next(), 0);
            }
        }
        Ok(())
    }

    /// Counts bytes moved.
    fn moved(&self, started: Option<u64>, ranges: &[(u64, u64)]) {
        let mut work = Work::default();
        for (address, bytes) in ranges {
            if *address >= HBM_BASE {
                work.hbm_bytes += bytes;
            } else {
                work.link_bytes += bytes;
            }
        }
        let took = started.map_or(0, |started| self.card.now().saturating_sub(started));
        self.card.meter.add(Engine::Copy, work, took);
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

fn aligned(address: u64) -> Result<(), Trouble> {
    if address.is_multiple_of(8) {
        Ok(())
    } else {
        Err(Trouble::at(FaultCode::Misaligned, address))
    }
}

/// Ranges given as address and bytes.
fn refuse_overlap(from: (u64, u64), to: (u64, u64)) -> Result<(), Trouble> {
    let end = |range: (u64, u64)| range.0.saturating_add(range.1);
    if from.0 < end(to) && to.0 < end(from) {
        return Err(Trouble::at(FaultCode::Overlap, from.0.max(to.0)));
    }
    Ok(())
}
