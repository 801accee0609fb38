//! The kernel library: what LAUNCH runs. `docs/kernels.md` defines each kernel.
//!
//! Operands lie in memory that the client can change at the same time, so they are reached by raw
//! loads and stores of rows into private buffers only; no reference to them exists. Everything
//! that can be refused is refused before the first store.

mod elementwise;
mod matmul;
mod normal;
mod rope;
mod rows;
mod simd;
mod tensor;

pub use jalapeno_hw::kernels::{DType, KernelId};
pub use simd::Level;
pub use tensor::{Operand, extent};

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

/// Why a kernel was refused; nothing was stored.
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
}

/// The threads that large kernels run on.
#[derive(Debug)]
pub struct Pool {
    threads: Option<rayon::ThreadPool>,
    level: Level,
}

impl Pool {
    /// So many threads; one runs everything where it is called.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let build = || {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .ok()
        };
        Self {
            threads: (threads > 1).then(build).flatten(),
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

    /// Runs `body` for ranges that cover `0..count`, on all threads when `cost` is worth it.
    fn split(&self, count: usize, cost: u64, body: impl Fn(std::ops::Range<usize>) + Sync) {
        match &self.threads {
            Some(pool) if cost > 1 << 20 && count > 1 => {
                let parts = pool.current_num_threads().min(count);
                pool.scope(|scope| {
                    for part in 0..parts {
                        let range = count * part / parts..count * (part + 1) / parts;
                        let body = &body;
                        scope.spawn(move |_| body(range));
                    }
                });
            }
            _ => body(0..count),
        }
    }
}

/// Runs a kernel. Operand 0 is the destination.
///
/// # Errors
/// Why it was refused; nothing was stored then.
///
/// # Safety
/// Every operand's extent lies in memory that may be read, and operand 0's in memory that may be
/// written, for as long as this runs.
pub unsafe fn launch(
    kernel: KernelId,
    params: &[u32; 16],
    operands: &[Operand],
    pool: &Pool,
) -> Result<Work, KernelError> {
    match kernel {
        KernelId::GetRows => rows::get(operands),
        KernelId::SetRows => rows::set(operands),
        KernelId::MulMat => matmul::run(operands, pool),
        KernelId::RmsNorm => normal::rms_norm(params, operands),
        KernelId::SoftMax => normal::soft_max(params, operands),
        KernelId::Argmax => normal::argmax(operands),
        KernelId::Rope => rope::run(params, operands),
        KernelId::Add => elementwise::binary(operands, |a, b| a + b),
        KernelId::Mul => elementwise::binary(operands, |a, b| a * b),
        KernelId::Scale => elementwise::scale(params, operands),
        KernelId::Silu => elementwise::silu(operands),
        KernelId::Swiglu => elementwise::swiglu(params, operands),
        KernelId::Copy => elementwise::copy(operands),
        _ => Err(KernelError::Unknown),
    }
}

/// Checks the number of operands.
fn count(operands: &[Operand], wanted: std::ops::RangeInclusive<usize>) -> Result<(), KernelError> {
    if wanted.contains(&operands.len()) {
        return Ok(());
    }
    Err(KernelError::Operands {
        found: operands.len(),
        wanted: *wanted.start(),
    })
}
