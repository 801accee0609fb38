//! LAUNCH: finds a kernel's operands in memory and runs it. Host interface 6.8.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::limits::{HBM_BASE, OPERANDS_MAX};
use jalapeno_hw::packets::{Launch, Parameters, Tensor};
use zerocopy::FromBytes;

use crate::energy::{self, Engine};
use crate::execute::{Failure, Runner, Running};
use crate::kernels::{self, KernelError, KernelId, Operand};
use crate::operands::Beat;
use crate::trouble::Trouble;

/// Bytes of a line of the argument block.
const LINE: usize = 64;
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
        let mut found = self.operands(running, &tensors)?;
        let operands: Vec<Operand> = found.iter().map(|found| found.operand).collect();
        let started = self.own_time();
        let pulse = Beat::new(self, running, &found);
        let pool = &self.pool;
        let ran = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: every operand's extent was found in memory just now, the destination's for
            // writing. The engine stays inside the gate until the kernel returns, except where
            // the pulse lets go, which finds out whether all of it is still there.
            unsafe { kernels::launch(kernel, &parameters.word, &operands, pool, &pulse) }
        }));
        let work = match ran {
            Ok(Ok(work)) => work,
            Ok(Err(KernelError::Stopped)) => return Err(pulse.failure()),
            Ok(Err(error)) => return Err(trouble(error, &tensors, &parameters).into()),
            // A fault of the emulator's own must not end the engine.
            Err(_) => return Err(Trouble::new(FaultCode::EngineHang).into()),
        };
        if let Some(destination) = found.first_mut() {
            self.give_back(running, destination)?;
        }
        self.count(work, &tensors, started);
        if let Some(launches) = self.card.launches.get(kernel.code() as usize) {
            launches.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(tensor) = tensors.first() {
            self.spoil(tensor.address);
        }
        Ok(())
    }

    /// Copies the argument block once.
    fn arguments(&self, launch: &Launch) -> Result<(Parameters, Vec<Tensor>), Trouble> {
        let lines = launch.argument_bytes as usize / LINE;
        let mut block = vec![0; lines * LINE];
        let graph = self.graph.as_ref();
        if !graph.is_some_and(|graph| graph.read(launch.arguments, &mut block)) {
            self.card.memory().read(launch.arguments, &mut block)?;
        }
        let mut lines = block.chunks_exact(LINE);
        let first = lines
            .next()
            .and_then(|line| Parameters::read_from_bytes(line).ok());
        let tensors = lines.filter_map(|line| Tensor::read_from_bytes(line).ok());
        Ok((first.unwrap_or(Parameters::ZERO), tensors.collect()))
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
        let took = self.own_time().saturating_sub(started);
        self.card.meter.add(Engine::Compute, work, took);
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
        let mut trouble = Trouble::at(FaultCode::Misaligned, launch.arguments);
        trouble.detail[0] = 0x18;
        return Err(trouble);
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

pub(crate) fn of_operand(mut trouble: Trouble, index: usize) -> Trouble {
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
        KernelError::Index {
            operand,
            index,
            rows,
        } => {
            let code = FaultCode::IndexRange;
            of_operand(
                Trouble::detail(code, index.cast_unsigned(), rows.into()),
                operand,
            )
        }
        KernelError::Overlap { operand } => of_operand(Trouble::new(FaultCode::Overlap), operand),
        KernelError::Parameter { word } => {
            let value = parameters.word.get(word).copied().unwrap_or(0);
            let mut trouble = Trouble::parameter(4 * word as u64, value.into());
            trouble.detail[2] = 1;
            trouble
        }
        KernelError::Reserved { word } => {
            let mut trouble = Trouble::reserved(4 * word as u64);
            trouble.detail[2] = 1;
            trouble
        }
        // Its pulse says why.
        KernelError::Stopped => Trouble::new(FaultCode::EngineHang),
    }
}
