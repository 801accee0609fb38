//! LAUNCH: finds a kernel's operands in memory and runs it. Host interface 6.8.

use std::panic::{AssertUnwindSafe, catch_unwind};

use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::limits::{HBM_BASE, OPERANDS_MAX};
use jalapeno_hw::packets::{Launch, Parameters, Tensor};
use zerocopy::{FromBytes, IntoBytes};

use crate::energy::{self, Engine};
use crate::execute::{Failure, Runner, Running};
use crate::kernels::{self, DType, KernelError, KernelId, Operand, extent};
use crate::memory::Intent;
use crate::trouble::Trouble;

/// Bytes of a line of the argument block.
const LINE: usize = 64;
/// Most elements of an operand: beyond it no memory can hold one, whatever its strides say.
const ELEMENTS_MAX: u128 = 1 << 40;
/// Most bytes of an operand that lies in several places and is brought together.
const GATHER_MAX: u64 = 1 << 30;

/// An operand as it was found.
struct Found {
    operand: Operand,
    address: u64,
    bytes: u64,
    /// A private copy, where the operand lies in several places.
    gathered: Option<Vec<u64>>,
}

impl Runner {
    /// Runs a kernel of the library.
    ///
    /// # Errors
    /// The fault that its record will name.
    pub(crate) fn launch(
        &mut self,
        running: Running,
        kernel: u32,
        launch: &Launch,
    ) -> Result<(), Failure> {
        check(launch)?;
        let unknown = Trouble::new(FaultCode::UnknownKernel);
        let kernel = KernelId::from_code(kernel).filter(|kernel| !kernel.is_reserved());
        let kernel = kernel.ok_or(unknown)?;
        let (parameters, tensors) = self.arguments(launch)?;
        // An operand that is brought together asks the client, which opens the gate: pointers
        // found before would be void. So those come first.
        let mut found = Vec::with_capacity(tensors.len());
        for (index, tensor) in tensors.iter().enumerate() {
            found.push(
                self.gather(index, tensor)
                    .map_err(|it| of_operand(it, index))?,
            );
        }
        for (index, found) in found.iter_mut().enumerate() {
            self.place(index, found)
                .map_err(|it| of_operand(it, index))?;
        }
        self.breathe_before(running)?;
        let operands: Vec<Operand> = found.iter().map(|found| found.operand).collect();
        let started = self.card.now();
        let pool = &self.pool;
        let ran = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: every operand's extent was found in memory just now, the destination's for
            // writing, and the engine stays inside the gate until the kernel returns.
            unsafe { kernels::launch(kernel, &parameters.word, &operands, pool) }
        }));
        let work = match ran {
            Ok(Ok(work)) => work,
            Ok(Err(error)) => return Err(trouble(error, &tensors, &parameters).into()),
            // A fault of the emulator's own must not end the engine.
            Err(_) => return Err(Trouble::new(FaultCode::EngineHang).into()),
        };
        if let Some(Found {
            address,
            bytes,
            gathered: Some(copy),
            ..
        }) = found.first()
        {
            let bytes = usize::try_from(*bytes).unwrap_or_default();
            let copy = copy.as_bytes().get(..bytes).unwrap_or_default();
            self.card.memory().write(*address, copy)?;
        }
        self.count(work, &tensors, started);
        if let Some(tensor) = tensors.first() {
            self.spoil(tensor.address);
        }
        Ok(())
    }

    /// Copies the argument block once.
    fn arguments(&self, launch: &Launch) -> Result<(Parameters, Vec<Tensor>), Trouble> {
        let lines = launch.argument_bytes as usize / LINE;
        let mut block = vec![0; lines * LINE];
        self.card.memory().read(launch.arguments, &mut block)?;
        let mut lines = block.chunks_exact(LINE);
        let first = lines
            .next()
            .and_then(|line| Parameters::read_from_bytes(line).ok());
        let tensors = lines.filter_map(|line| Tensor::read_from_bytes(line).ok());
        Ok((first.unwrap_or(Parameters::ZERO), tensors.collect()))
    }

    /// Checks an operand, and brings it together where it lies in several places.
    fn gather(&self, index: usize, tensor: &Tensor) -> Result<Found, Trouble> {
        let ty = DType::from_code(tensor.dtype).filter(|ty| !ty.is_reserved());
        let bad_type = Trouble::detail(FaultCode::BadType, tensor.dtype.into(), 0);
        let ty = ty.ok_or(bad_type)?;
        if tensor.flags != 0 {
            let mut trouble = Trouble::reserved(0x0C);
            trouble.detail[2] = 1;
            return Err(trouble);
        }
        let elements: u128 = tensor
            .ne
            .iter()
            .fold(1, |product: u128, &n| product.saturating_mul(u128::from(n)));
        if elements > ELEMENTS_MAX {
            return Err(Trouble::detail(FaultCode::BadShape, 3, tensor.ne[3].into()));
        }
        let bad_stride = Trouble::detail(FaultCode::BadStride, 3, tensor.nb[3]);
        let bytes = extent(ty, tensor.ne, tensor.nb).ok_or(bad_stride)?;
        let size = u64::from(ty.block_bytes());
        if bytes > 0 && size.is_power_of_two() {
            if !tensor.address.is_multiple_of(size) {
                return Err(Trouble::at(FaultCode::Misaligned, tensor.address));
            }
            let odd = |dimension: &usize| {
                tensor.ne[*dimension] > 1 && !tensor.nb[*dimension].is_multiple_of(size)
            };
            if let Some(dimension) = (0..4).find(odd) {
                let stride = tensor.nb[dimension];
                return Err(Trouble::detail(
                    FaultCode::BadStride,
                    dimension as u64,
                    stride,
                ));
            }
        }
        let intent = intent(index);
        let memory = self.card.memory();
        let mut found = Found {
            operand: Operand {
                base: std::ptr::null_mut(),
                ty,
                ne: tensor.ne,
                nb: tensor.nb,
            },
            address: tensor.address,
            bytes,
            gathered: None,
        };
        if memory.whole(tensor.address, bytes, intent)?.is_none() {
            if bytes > GATHER_MAX {
                return Err(Trouble::at(FaultCode::HostMemory, tensor.address));
            }
            let length = usize::try_from(bytes).unwrap_or_default();
            let mut copy = vec![0u64; length.div_ceil(8)];
            let into = copy.as_mut_bytes().get_mut(..length).unwrap_or_default();
            // The destination too: bytes between its rows are written back as they were.
            memory.read(tensor.address, into)?;
            found.gathered = Some(copy);
        }
        Ok(found)
    }

    /// Finds where an operand is now.
    fn place(&self, index: usize, found: &mut Found) -> Result<(), Trouble> {
        let intent = intent(index);
        found.operand.base = match &mut found.gathered {
            Some(copy) => copy.as_mut_ptr().cast(),
            None => {
                let span = self
                    .card
                    .memory()
                    .whole(found.address, found.bytes, intent)?;
                let moved = Trouble::at(FaultCode::HostMemory, found.address);
                span.ok_or(moved)?.start()
            }
        };
        Ok(())
    }

    /// Looks at resets and the deadline once more; pointers stay good.
    fn breathe_before(&self, running: Running) -> Result<(), Failure> {
        use std::sync::atomic::Ordering;
        if self.card.abandon.load(Ordering::Relaxed) >> running.queue & 1 != 0 {
            return Err(Failure::Abandoned);
        }
        Ok(())
    }

    fn count(&self, work: kernels::Work, tensors: &[Tensor], started: u64) {
        let bytes = work.bytes_read.saturating_add(work.bytes_written);
        let outside = tensors.iter().any(|tensor| tensor.address < HBM_BASE);
        // Kernels tell bytes, not places: with an operand in host memory half is taken as link.
        let link_bytes = if outside { bytes / 2 } else { 0 };
        let work = energy::Work {
            operations: work.operations,
            hbm_bytes: bytes - link_bytes,
            link_bytes,
        };
        let took = self.card.now().saturating_sub(started);
        self.card.meter.add(Engine::Compute, work, took);
    }
}

fn intent(index: usize) -> Intent {
    if index == 0 {
        Intent::Write
    } else {
        Intent::Read
    }
}

/// Checks what the packet says by itself.
fn check(launch: &Launch) -> Result<(), Trouble> {
    if launch.flags != 0 {
        return Err(Trouble::reserved(0x24));
    }
    if let Some(word) = launch.reserved.iter().position(|word| *word != 0) {
        return Err(Trouble::reserved(0x28 + 8 * word as u64));
    }
    if !launch.arguments.is_multiple_of(LINE as u64) {
        return Err(Trouble::at(FaultCode::Misaligned, launch.arguments));
    }
    let lines = launch.argument_bytes / 64;
    if lines == 0 || lines > 1 + OPERANDS_MAX || !launch.argument_bytes.is_multiple_of(64) {
        let found = u64::from(lines.saturating_sub(1));
        return Err(Trouble::detail(
            FaultCode::BadArguments,
            found,
            OPERANDS_MAX.into(),
        ));
    }
    Ok(())
}

fn of_operand(mut trouble: Trouble, index: usize) -> Trouble {
    trouble.operand = u32::try_from(index + 1).unwrap_or_default();
    trouble
}

/// The record's words for what a kernel said.
fn trouble(error: KernelError, tensors: &[Tensor], parameters: &Parameters) -> Trouble {
    match error {
        KernelError::Unknown => Trouble::new(FaultCode::UnknownKernel),
        KernelError::Operands { found, wanted } => {
            Trouble::detail(FaultCode::BadArguments, found as u64, wanted as u64)
        }
        KernelError::Type { operand } => {
            let ty = tensors.get(operand).map_or(0, |tensor| tensor.dtype);
            of_operand(Trouble::detail(FaultCode::BadType, ty.into(), 0), operand)
        }
        KernelError::Shape {
            operand,
            dimension,
            found,
            wanted,
        } => {
            let mut trouble = Trouble::detail(FaultCode::BadShape, dimension as u64, found.into());
            trouble.detail[2] = wanted.into();
            of_operand(trouble, operand)
        }
        KernelError::Stride { operand, dimension } => {
            let stride = tensors
                .get(operand)
                .and_then(|tensor| tensor.nb.get(dimension));
            let stride = stride.copied().unwrap_or(0);
            of_operand(
                Trouble::detail(FaultCode::BadStride, dimension as u64, stride),
                operand,
            )
        }
        KernelError::Index { index, rows } => {
            Trouble::detail(FaultCode::IndexRange, index.cast_unsigned(), rows.into())
        }
        KernelError::Overlap { operand } => of_operand(Trouble::new(FaultCode::Overlap), operand),
        KernelError::Parameter { word } => {
            let value = parameters.word.get(word).copied().unwrap_or(0);
            let mut trouble = Trouble::parameter(4 * word as u64, value.into());
            trouble.detail[2] = 1;
            trouble
        }
    }
}
