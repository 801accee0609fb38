//! MUL_MAT_ID: each token's slots by the weights of the expert that an index chooses.

use super::matmul::{Chosen, Job, WIDE};
use super::pace::Pace;
use super::rows::indices;
use super::rules::{apart, count};
use super::tensor::Operand;
use super::{KernelError, Pool, Work};

/// Slots put in order of their experts at a time.
const SORTED: usize = 1 << 15;

/// dst[:, s, t] = w[:, :, ids[s, t]] x[:, s mod u, t], accumulated in f32.
pub fn run(operands: &[Operand], pool: &Pool, pace: &Pace<'_>) -> Result<Work, KernelError> {
    count(operands, 4..=4)?;
    let [dst, w, x, ids] = [operands[0], operands[1], operands[2], operands[3]];
    dst.real(0)?;
    w.numbers(1)?;
    x.real(2)?;
    ids.indices(3)?;
    x.size(2, 0, w.ne[0])?;
    x.size(2, 2, dst.ne[2])?;
    dst.size(0, 0, w.ne[1])?;
    ids.size(3, 0, dst.ne[1])?;
    ids.size(3, 1, dst.ne[2])?;
    ids.size(3, 2, 1)?;
    (0..4).try_for_each(|at| operands[at].size(at, 3, 1))?;
    if dst.is_empty() {
        return Ok(Work::default());
    }
    x.divides(2, 1, dst.ne[1])?;
    apart(operands, false)?;

    let experts = indices(&ids, 3, w.ne[2], pace)?;
    let (k, m) = (w.length(), w.ne[1] as usize);
    let most = Job::columns(k).min(WIDE);
    let slots = (0..dst.ne[2]).flat_map(|token| (0..dst.ne[1]).map(move |slot| [slot, token]));
    let mut slots = experts.iter().copied().zip(slots);
    let weights = (k as u64).saturating_mul(m as u64);
    let (mut held, mut read) = (Vec::new(), 0u64);
    let mut part: Vec<(u32, [u32; 2])> = Vec::new();
    loop {
        part.clear();
        part.extend(slots.by_ref().take(SORTED));
        if part.is_empty() {
            break;
        }
        pace.spend(16 + 64 * part.len() as u64)?;
        // Slots of one expert together: its weights are converted once for many of them.
        part.sort_unstable();
        for mine in part.chunk_by(|a, b| a.0 == b.0) {
            read = read.saturating_add(w.bytes_of(weights));
            for columns in mine.chunks(most) {
                let chosen = Chosen {
                    expert: columns[0].0,
                    slots: columns.iter().map(|&(_, slot)| slot).collect(),
                };
                held = Job::of_expert([dst, w, x], chosen, held).carry(pool, pace)?;
            }
        }
    }
    Ok(Work {
        operations: weights.saturating_mul(2 * experts.len() as u64),
        bytes_read: read.saturating_add(x.bytes() + ids.bytes()),
        bytes_written: dst.bytes(),
    })
}
