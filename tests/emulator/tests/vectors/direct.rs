//! A vector run on the kernels themselves, in the test's own memory.

use jalapeno_emulator::kernels::{
    DType, KernelError, KernelId, Operand, Pool, Undisturbed, extent, launch,
};

use super::case::Case;
use super::verdict::{judge, judge_refusal};

/// Runs a case and judges it; its worst error as a share of what is permitted.
pub fn run(case: &Case, pool: &Pool) -> Result<f64, String> {
    let mut memory: Vec<Vec<u64>> = case
        .buffers
        .iter()
        .map(|bytes| {
            let mut words = vec![0u64; bytes.len().div_ceil(8)];
            for (word, part) in words.iter_mut().zip(bytes.chunks(8)) {
                let mut whole = [0; 8];
                whole[..part.len()].copy_from_slice(part);
                *word = u64::from_ne_bytes(whole);
            }
            words
        })
        .collect();
    let bases: Vec<*mut u8> = memory
        .iter_mut()
        .map(|words| words.as_mut_ptr().cast())
        .collect();
    let operands: Vec<Operand> = case
        .operands
        .iter()
        .map(|view| {
            let ty = DType::from_code(view.dtype).expect("a type");
            let reach = extent(ty, view.ne, view.nb).expect("an extent");
            let bytes = case.buffers[view.buffer].len() as u64;
            assert!(reach == 0 || view.offset + reach <= bytes, "{}", case.name);
            let base = bases[view.buffer].wrapping_add(usize::try_from(view.offset).unwrap());
            Operand {
                base,
                address: base.addr() as u64,
                ty,
                ne: view.ne,
                nb: view.nb,
            }
        })
        .collect();
    let kernel = KernelId::from_code(case.kernel).expect("a kernel");
    // SAFETY: every extent lies in a buffer of this function's own, as was asserted.
    let ran = unsafe { launch(kernel, &case.params, &operands, pool, &Undisturbed) };
    let after: Vec<Vec<u8>> = memory
        .iter()
        .zip(&case.buffers)
        .map(|(words, bytes)| {
            let all = words.iter().flat_map(|word| word.to_ne_bytes());
            all.take(bytes.len()).collect()
        })
        .collect();
    match ran {
        Ok(_) => judge(case, &after),
        Err(error) => judge_refusal(case, answer(error), &after).map(|()| 0.0),
    }
}

/// Code and operand plus 1, as a record would have them.
fn answer(error: KernelError) -> (u32, u32) {
    let plus_one = |operand: usize| u32::try_from(operand + 1).unwrap();
    match error {
        KernelError::Unknown => (0x0105, 0),
        KernelError::Operands { .. } => (0x0106, 0),
        KernelError::Type { operand } => (0x0107, plus_one(operand)),
        KernelError::Shape { operand, .. } => (0x0108, plus_one(operand)),
        KernelError::Stride { operand, .. } => (0x0109, plus_one(operand)),
        KernelError::Index { operand, .. } => (0x010A, plus_one(operand)),
        KernelError::Overlap { operand } => (0x010B, plus_one(operand)),
        KernelError::Parameter { .. } => (0x0103, 0),
        KernelError::Reserved { .. } => (0x0102, 0),
        KernelError::Stopped => (0, 0),
    }
}
