//! Operands of a LAUNCH: found in memory, held there while the kernel runs, given back. Kernels 1.

use std::cell::Cell;

use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::packets::Tensor;
use zerocopy::IntoBytes;

use crate::execute::{Failure, Runner, Running};
use crate::kernels::{DType, Operand, Pulse, reach};
use crate::launch::of_operand;
use crate::memory::Intent;
use crate::trouble::Trouble;

/// Most elements of an operand: beyond it no memory can hold one, whatever its strides say.
const ELEMENTS_MAX: u128 = 1 << 40;
/// Most bytes of all operands that lie in several places and are brought together.
const GATHER_MAX: u64 = 1 << 30;
/// Rows given back between two looks at deadlines and resets.
const STEP_ROWS: usize = 1024;

/// An operand as it was found.
pub(crate) struct Found {
    pub(crate) operand: Operand,
    intent: Intent,
    bytes: u64,
    /// A private copy, where the operand lies in several places.
    gathered: Option<Gathered>,
}

struct Gathered {
    copy: Vec<u64>,
    /// Of a destination: what was there before.
    before: Vec<u64>,
}

impl Runner {
    /// Checks all operands and finds them in memory.
    pub(crate) fn operands(
        &self,
        running: Running,
        tensors: &[Tensor],
    ) -> Result<Vec<Found>, Failure> {
        let mut found = Vec::with_capacity(tensors.len());
        for (index, tensor) in tensors.iter().enumerate() {
            found.push(checked(index, tensor).map_err(|it| of_operand(it, index))?);
        }
        // Bringing together opens the gate: pointers found before would be void. So it comes
        // first.
        let mut room = GATHER_MAX;
        for (index, found) in found.iter_mut().enumerate() {
            self.gather(running, found, &mut room)
                .map_err(|failure| match failure {
                    Failure::Trouble(it) => of_operand(it, index).into(),
                    other => other,
                })?;
        }
        for (index, found) in found.iter_mut().enumerate() {
            found.operand.base = self.start(found).map_err(|it| of_operand(it, index))?;
        }
        Ok(found)
    }

    /// Brings an operand together where it lies in several places.
    fn gather(&self, running: Running, found: &mut Found, room: &mut u64) -> Result<(), Failure> {
        let memory = self.card.memory();
        let address = found.operand.address;
        if memory.whole(address, found.bytes, found.intent)?.is_some() {
            return Ok(());
        }
        let broken = Trouble::at(FaultCode::HostMemory, address);
        *room = room.checked_sub(found.bytes).ok_or(broken)?;
        let length = usize::try_from(found.bytes).unwrap_or_default();
        let mut copy = vec![0u64; length.div_ceil(8)];
        let into = copy.as_mut_bytes().get_mut(..length).unwrap_or_default();
        let step = self.step();
        let length = usize::try_from(step).unwrap_or(usize::MAX);
        for (part, into) in (0..).zip(into.chunks_mut(length)) {
            memory.read(address + part * step, into)?;
            self.breathe(running)?;
        }
        let before = match found.intent {
            Intent::Write => copy.clone(),
            Intent::Read => Vec::new(),
        };
        found.gathered = Some(Gathered { copy, before });
        Ok(())
    }

    /// Where an operand begins now.
    fn start(&self, found: &mut Found) -> Result<*mut u8, Trouble> {
        match &mut found.gathered {
            Some(gathered) => Ok(gathered.copy.as_mut_ptr().cast()),
            None => self.mapped(found),
        }
    }

    /// Where an operand that lies in one place begins now.
    fn mapped(&self, found: &Found) -> Result<*mut u8, Trouble> {
        let address = found.operand.address;
        let memory = self.card.memory();
        let span = memory.whole(address, found.bytes, found.intent)?;
        let moved = Trouble::at(FaultCode::HostMemory, address);
        Ok(span.ok_or(moved)?.start())
    }

    /// Writes a destination that was brought together to where it belongs: the rows that changed,
    /// never the bytes between them.
    pub(crate) fn give_back(&self, running: Running, found: &mut Found) -> Result<(), Failure> {
        let Some(Gathered { copy, before }) = &found.gathered else {
            return Ok(());
        };
        let (copy, before) = (copy.as_bytes(), before.as_bytes());
        let mut row = found.operand;
        // The offsets of rows, as addresses from zero on.
        row.base = std::ptr::null_mut();
        let size = row.ty.block_bytes() as usize;
        let (pieces, bytes) = if row.is_dense() {
            (1, size * row.length() / row.ty.block_elements() as usize)
        } else {
            (row.blocks()[0] as usize, size)
        };
        let block = row.ty.block_elements() as usize;
        for at in 0..row.rows() {
            for piece in 0..pieces {
                let offset = row.at(row.row(at), piece * block).addr();
                let range = offset..offset + bytes;
                let (new, old) = (copy.get(range.clone()), before.get(range));
                if let Some(new) = new.filter(|_| new != old) {
                    let address = row.address + offset as u64;
                    self.card.memory().write(address, new)?;
                }
                if (at * pieces + piece) % STEP_ROWS == STEP_ROWS - 1 {
                    self.breathe(running)?;
                }
            }
        }
        Ok(())
    }
}

/// Checks an operand without a look at memory. Kernels 1.3.
fn checked(index: usize, tensor: &Tensor) -> Result<Found, Trouble> {
    let ty = DType::from_code(tensor.dtype).filter(|ty| !ty.is_reserved());
    let bad_type = Trouble::detail(FaultCode::BadType, tensor.dtype.into(), 0);
    let ty = ty.ok_or(bad_type)?;
    if tensor.flags != 0 {
        let mut trouble = Trouble::reserved(0x0C);
        trouble.detail[2] = 1;
        return Err(trouble);
    }
    let sizes = tensor.ne.iter();
    let elements = sizes.fold(1u128, |all, &n| all.saturating_mul(u128::from(n)));
    if elements > ELEMENTS_MAX {
        return Err(Trouble::detail(FaultCode::BadShape, 3, tensor.ne[3].into()));
    }
    let bad_stride = |dimension: usize| {
        let stride = tensor.nb.get(dimension).copied().unwrap_or_default();
        Trouble::detail(FaultCode::BadStride, dimension as u64, stride)
    };
    let block = ty.block_elements();
    if !tensor.ne[0].is_multiple_of(block) {
        let mut trouble = Trouble::detail(FaultCode::BadShape, 0, tensor.ne[0].into());
        trouble.detail[2] = block.into();
        return Err(trouble);
    }
    let bytes = reach(ty, tensor.ne, tensor.nb).map_err(bad_stride)?;
    let size = u64::from(ty.alignment());
    if bytes > 0 {
        if !tensor.address.is_multiple_of(size) {
            let mut trouble = Trouble::at(FaultCode::Misaligned, tensor.address);
            trouble.detail[2] = 1;
            return Err(trouble);
        }
        let odd = |dimension: &usize| {
            let count = tensor.ne[*dimension] / if *dimension == 0 { block } else { 1 };
            count > 1 && !tensor.nb[*dimension].is_multiple_of(size)
        };
        if let Some(dimension) = (0..4).find(odd) {
            return Err(bad_stride(dimension));
        }
    }
    Ok(Found {
        operand: Operand {
            base: std::ptr::null_mut(),
            address: tensor.address,
            ty,
            ne: tensor.ne,
            nb: tensor.nb,
        },
        intent: if index == 0 {
            Intent::Write
        } else {
            Intent::Read
        },
        bytes,
        gathered: None,
    })
}

/// The pulse of a kernel on a card: resets, the deadline, and mappings that change.
pub(crate) struct Beat<'a> {
    runner: &'a Runner,
    running: Running,
    found: &'a [Found],
    generation: Cell<u64>,
    failure: Cell<Option<Failure>>,
}

impl<'a> Beat<'a> {
    pub(crate) fn new(runner: &'a Runner, running: Running, found: &'a [Found]) -> Self {
        Self {
            runner,
            running,
            found,
            generation: Cell::new(runner.card.host.generation()),
            failure: Cell::new(None),
        }
    }

    /// Why it stopped the kernel.
    pub(crate) fn failure(&self) -> Failure {
        self.failure.take().unwrap_or(Failure::Abandoned)
    }

    fn stop(&self, failure: impl Into<Failure>) -> bool {
        self.failure.set(Some(failure.into()));
        false
    }
}

impl Pulse for Beat<'_> {
    fn goes_on(&self) -> bool {
        match self.runner.may_run(self.running) {
            Ok(()) => true,
            Err(failure) => self.stop(failure),
        }
    }

    fn is_quick(&self) -> bool {
        self.runner.has_urgent()
    }

    fn is_wanted(&self) -> bool {
        self.runner.card.host.gate().wanted() || self.runner.is_pressed()
    }

    fn let_go(&self) -> bool {
        let host = &self.runner.card.host;
        if host.gate().wanted() {
            host.gate().leave();
            host.gate().enter();
        }
        self.runner.attend();
        if host.generation() == self.generation.get() {
            return true;
        }
        self.generation.set(host.generation());
        for (index, found) in self.found.iter().enumerate() {
            if found.gathered.is_some() || found.bytes == 0 {
                continue;
            }
            let moved = Trouble::at(FaultCode::HostMemory, found.operand.address);
            match self.runner.mapped(found) {
                Ok(start) if start == found.operand.base => {}
                Ok(_) => return self.stop(of_operand(moved, index)),
                Err(trouble) => return self.stop(of_operand(trouble, index)),
            }
        }
        true
    }
}
