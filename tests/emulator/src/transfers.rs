//! Transfers: COPY, COPY_STRIDED and FILL, piece by piece. Host interface 6.

use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::limits::HBM_BASE;
use jalapeno_hw::packets::{Copy, CopyStrided, Fill};

use crate::energy::{Engine, Work};
use crate::execute::{BOUNCE_BYTES, Failure, Runner, Running};
use crate::memory::{Intent, Piece};
use crate::trouble::Trouble;

/// Rows of a strided copy between two looks at deadlines and resets.
const STEP_ROWS: u32 = 4096;
/// Bytes below which a transfer's duration is not measured: a clock read would cost more.
const TIMED_BYTES: u64 = 32 << 10;

impl Runner {
    /// COPY. Host interface 6.2.
    pub(crate) fn copy(&mut self, running: Running, copy: &Copy) -> Result<(), Failure> {
        let (from, to, bytes) = (copy.source, copy.destination, copy.bytes);
        if bytes == 0 {
            return Ok(());
        }
        refuse_overlap((from, bytes), (to, bytes))?;
        let started = (bytes >= TIMED_BYTES).then(|| self.own_time());
        self.find(from, to, bytes)?;
        let mut done = 0;
        loop {
            let step = self.step().min(bytes - done);
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

    /// COPY_STRIDED. Host interface 6.3.
    pub(crate) fn copy_strided(
        &mut self,
        running: Running,
        copy: &CopyStrided,
    ) -> Result<(), Failure> {
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
        let started = self.own_time();
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
        let rows_a_step = (self.step() / 4 / row).clamp(1, STEP_ROWS.into());
        for index in 0..rows {
            let (from, to) = place(index);
            self.find(from, to, row)?;
            self.transfer(from, to, row)?;
            if u64::from(index) % rows_a_step == rows_a_step - 1 {
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

    /// FILL. Host interface 6.4.
    pub(crate) fn fill(&mut self, running: Running, fill: &Fill) -> Result<(), Failure> {
        let (to, bytes) = (fill.destination, fill.bytes);
        if bytes == 0 {
            return Ok(());
        }
        let started = (bytes >= TIMED_BYTES).then(|| self.own_time());
        self.to.clear();
        self.card
            .memory()
            .find(to, bytes, Intent::Write, &mut self.to)?;
        let pattern = fill.pattern.to_le_bytes();
        let even = pattern.iter().all(|byte| *byte == pattern[0]);
        if !even {
            // Steps are multiples of 8, so each begins with the pattern's first byte.
            let most = usize::try_from(bytes).unwrap_or(usize::MAX);
            for (at, byte) in self.bounce.iter_mut().take(most).enumerate() {
                *byte = pattern[at % 8];
            }
        }
        let mut done = 0;
        loop {
            let step = self.step().min(BOUNCE_BYTES as u64).min(bytes - done);
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
        let took = started.map_or(0, |started| self.own_time().saturating_sub(started));
        self.card.meter.add(Engine::Copy, work, took);
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
