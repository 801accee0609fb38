//! The kernel library: what LAUNCH runs. `docs/kernels.md` defines each kernel.
//!
//! Operands lie in memory that the client can change at the same time, so they are reached by raw
//! loads and stores of rows into private buffers only; no reference to them exists. Everything
//! that can be refused is refused before the first store.

mod attention;
mod blocks;
mod copy;
mod elementwise;
mod experts;
#[cfg(target_arch = "x86_64")]
mod lanes;
mod matmul;
mod normal;
mod online;
mod order;
mod pace;
mod pack;
mod pages;
mod quantised;
mod rope;
mod rows;
mod rules;
mod sample;
mod simd;
mod soft_max;
mod tensor;

pub use jalapeno_hw::kernels::{DType, KernelId};
pub use pace::{Pulse, Undisturbed};
pub use simd::Level;
pub use tensor::{Operand, extent, reach};

use pace::{Pace, Threads};

/// What a kernel did, for the model of time and energy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Arithmetic operations; a multiply-add counts two.
    pub operations: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
}

/// Why a kernel was refused, with nothing stored, or stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelError {
    /// The kernel is reserved.
    Unknown,
    /// The number of operands is wrong.
    Operands {
        /// Found.
        found: usize,
        /// Wanted, at least.
        wanted: usize,
    },
    /// An operand's type does not fit.
    Type {
        /// Which operand.
        operand: usize,
    },
    /// Operands' shapes do not fit.
    Shape {
        /// Which operand.
        operand: usize,
        /// Which dimension.
        dimension: usize,
        /// Its size.
        found: u32,
        /// The size it should have, or be a multiple of.
        wanted: u32,
    },
    /// A stride does not fit.
    Stride {
        /// Which operand.
        operand: usize,
        /// Which dimension.
        dimension: usize,
    },
    /// A row index is outside its table.
    Index {
        /// Which operand holds it.
        operand: usize,
        /// The index.
        index: i64,
        /// Rows there are.
        rows: u32,
    },
    /// Destination and a source overlap where they must not.
    Overlap {
        /// Which source.
        operand: usize,
    },
    /// A parameter is outside its range.
    Parameter {
        /// Which word.
        word: usize,
    },
    /// A word that the kernel does not name is not zero.
    Reserved {
        /// Which word.
        word: usize,
    },
    /// Its pulse stopped it; part of the destination may be stored.
    Stopped,
}

/// What kernels compute with: threads and instructions.
#[derive(Debug)]
pub struct Pool {
    threads: Threads,
    level: Level,
}

impl Pool {
    /// So many threads; one runs everything where it is called.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self {
            threads: Threads::new(threads),
            level: Level::detect(),
        }
    }

    /// The same with instructions held to a level.
    #[must_use]
    pub fn with_level(self, level: Level) -> Self {
        Self {
            level: level.min(Level::detect()),
            ..self
        }
    }
}

/// Runs a kernel. Operand 0 is the destination.
///
/// # Errors
/// Why it was refused; nothing was stored then. Or that its pulse stopped it.
///
/// # Safety
/// Every operand's extent lies in memory that may be read, and operand 0's in memory that may be
/// written, for as long as this runs, except while the pulse has let it go.
pub unsafe fn launch(
    kernel: KernelId,
    params: &[u32; 16],
    operands: &[Operand],
    pool: &Pool,
    pulse: &dyn Pulse,
) -> Result<Work, KernelError> {
    rules::unnamed(kernel, params)?;
    if let Some(destination) = operands.first() {
        destination.spread()?;
    }
    let pace = &Pace::new(pulse);
    match kernel {
        KernelId::GetRows => rows::get(operands, pace),
        KernelId::SetRows => rows::set(operands, pace),
        KernelId::MulMat => matmul::run(operands, pool, pace),
        KernelId::MulMatId => experts::run(operands, pool, pace),
        KernelId::RmsNorm => normal::rms_norm(params, operands, pace),
        KernelId::SoftMax => soft_max::run(params, operands, pace),
        KernelId::Argmax => normal::argmax(operands, pace),
        KernelId::Rope => rope::run(params, operands, pace),
        KernelId::Add => elementwise::binary(operands, pace, |a, b| a + b),
        KernelId::Mul => elementwise::binary(operands, pace, |a, b| a * b),
        KernelId::Sub => elementwise::binary(operands, pace, |a, b| a - b),
        KernelId::Div => elementwise::binary(operands, pace, |a, b| a / b),
        KernelId::Scale => elementwise::scale(params, operands, pace),
        KernelId::Clamp => elementwise::clamp(params, operands, pace),
        KernelId::Silu => elementwise::silu(operands, pace),
        KernelId::Swiglu => elementwise::swiglu(params, operands, pace),
        KernelId::Geglu => elementwise::geglu(params, operands, pace),
        KernelId::SumRows => normal::sum_rows(operands, pace),
        KernelId::Argsort => order::argsort(params, operands, pace),
        KernelId::TopK => order::top_k(operands, pace),
        KernelId::Sample => sample::run(params, operands, pace),
        KernelId::Attention => attention::run(params, operands, pool, pace),
        KernelId::Copy => copy::run(operands, pace),
        _ => Err(KernelError::Unknown),
    }
}
