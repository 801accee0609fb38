//! What a graph can touch, for all values that it may be given, and the buffers that hold it.
//!
//! Patches only add, and what a packet touches only grows with its fields. So all that it can touch
//! lies between its beginning with all values zero and its end with all at their limits.

use jalapeno_hw::kernels::{DType, KernelId};
use jalapeno_hw::packets::{HEADER_OPCODE, Opcode, Packet, Tensor};
use zerocopy::IntoBytes;

use super::recorder::{Change, Place, Step};
use crate::error::{Error, Result};

/// Bytes of memory: beginning and length.
type Range = (u64, u64);

/// What one operand of a step can touch.
#[derive(Clone, Copy, Debug)]
struct Reach {
    step: usize,
    /// Of a LAUNCH: which.
    operand: Option<usize>,
    range: Range,
}

/// What all steps can touch.
#[derive(Debug)]
pub(super) struct Bounds<'a> {
    steps: &'a [Step],
    reaches: Vec<Reach>,
}

impl<'a> Bounds<'a> {
    /// # Errors
    /// `Invalid` for a patch of a value without a limit, or that leaves its word, and for memory
    /// that would pass the end of the address space.
    pub(super) fn new(steps: &'a [Step], changes: &[Change], limits: &[u32]) -> Result<Self> {
        let mut most = steps.to_vec();
        for change in changes {
            let limit = limits.get(usize::from(change.value)).copied();
            let limit = limit.ok_or_else(|| Error::Invalid {
                what: format!("a patch takes value {}, which has no limit", change.value),
            })?;
            raise(&mut most, change, limit).ok_or_else(|| Error::Invalid {
                what: format!(
                    "step {}, {:?}, offset {:#x}: {} x {limit} leaves a word of {} bytes",
                    change.step, change.place, change.offset, change.scale, change.width
                ),
            })?;
        }
        let mut reaches = Vec::new();
        for (step, (low, high)) in steps.iter().zip(&most).enumerate() {
            let (low, high) = (touched(low), touched(high));
            for (index, (low, high)) in low.iter().zip(&high).enumerate() {
                let operand = steps[step].block.is_some().then_some(index);
                let end = high.and_then(|(start, bytes)| start.checked_add(bytes));
                let (Some((start, _)), Some(end)) = (*low, end) else {
                    let what = named(&steps[step], step, operand);
                    return Err(Error::Invalid {
                        what: format!("{what} passes the end of the address space"),
                    });
                };
                if high.is_some_and(|(_, bytes)| bytes > 0) {
                    reaches.push(Reach {
                        step,
                        operand,
                        range: (start, end - start),
                    });
                }
            }
        }
        Ok(Self { steps, reaches })
    }
}

/// The buffers that hold all of it, each once; `holder` gives the one that holds a range.
///
/// # Errors
/// `Invalid` where none does.
pub(super) fn buffers(
    bounds: &Bounds<'_>,
    holder: impl Fn(u64, u64) -> Option<Range>,
) -> Result<Vec<Range>> {
    let mut buffers = Vec::new();
    for reach in &bounds.reaches {
        let (start, bytes) = reach.range;
        let found = holder(start, bytes).ok_or_else(|| Error::Invalid {
            what: format!(
                "{} touches {bytes} bytes at {start:#x}: they lie in no buffer of this session",
                named(&bounds.steps[reach.step], reach.step, reach.operand)
            ),
        })?;
        buffers.push(found);
    }
    buffers.sort_unstable();
    buffers.dedup();
    Ok(buffers)
}

/// A step in words.
fn named(step: &Step, index: usize, operand: Option<usize>) -> String {
    let opcode = opcode(&step.packet).map_or("?", Opcode::name);
    let Some(operand) = operand else {
        return format!("step {index} ({opcode})");
    };
    let kernel = u32::try_from(step.packet.header >> 32).unwrap_or(0);
    let kernel = KernelId::from_code(kernel).map_or("?", KernelId::name);
    format!("step {index} ({opcode} {kernel}), operand {operand},")
}

fn opcode(packet: &Packet) -> Option<Opcode> {
    Opcode::from_code(u32::try_from(packet.header & HEADER_OPCODE).unwrap_or(0))
}

/// Adds the most that a patch can add; `None`: its word does not hold that.
fn raise(steps: &mut [Step], change: &Change, limit: u32) -> Option<()> {
    let step = steps.get_mut(change.step)?;
    let bytes = match (change.place, &mut step.block) {
        (Place::Packet, _) => step.packet.as_mut_bytes(),
        (Place::Parameters, Some((parameters, _))) => parameters.as_mut_bytes(),
        (Place::Tensor(index), Some((_, tensors))) => {
            tensors.get_mut(index as usize)?.as_mut_bytes()
        }
        _ => return None,
    };
    let at = change.offset as usize;
    let added = u64::from(limit).checked_mul(change.scale)?;
    if change.width == 8 {
        let word = bytes.get_mut(at..at + 8)?.first_chunk_mut::<8>()?;
        *word = u64::from_le_bytes(*word).checked_add(added)?.to_le_bytes();
    } else {
        let word = bytes.get_mut(at..at + 4)?.first_chunk_mut::<4>()?;
        let added = u32::try_from(added).ok()?;
        *word = u32::from_le_bytes(*word).checked_add(added)?.to_le_bytes();
    }
    Some(())
}

/// What a step touches; `None` for what does not fit in 64 bits.
fn touched(step: &Step) -> Vec<Option<Range>> {
    if let Some((_, tensors)) = &step.block {
        let range = |tensor: &Tensor| Some((tensor.address, extent(tensor)?));
        return tensors.iter().map(range).collect();
    }
    let [a, b, c, d, e] = step.packet.body;
    match opcode(&step.packet) {
        Some(Opcode::Copy) => vec![Some((a, c)), Some((b, c))],
        Some(Opcode::CopyStrided) => {
            let (row, rows) = (c & 0xFFFF_FFFF, c >> 32);
            let span = |start: u64, stride: u64| match rows {
                0 => Some((start, 0)),
                _ => Some((start, stride.checked_mul(rows - 1)?.checked_add(row)?)),
            };
            vec![span(a, d), span(b, e)]
        }
        Some(Opcode::Fill) => vec![Some((a, b))],
        Some(Opcode::Signal | Opcode::Wait) => vec![Some((a, 8))],
        Some(Opcode::Timestamp) => vec![Some((a, 16))],
        _ => Vec::new(),
    }
}

/// Bytes from a tensor's first to its last.
fn extent(tensor: &Tensor) -> Option<u64> {
    if tensor.ne.contains(&0) {
        return Some(0);
    }
    let ty = DType::from_code(tensor.dtype)?;
    let blocks = tensor.ne[0].div_ceil(ty.block_elements().max(1));
    let steps = [blocks, tensor.ne[1], tensor.ne[2], tensor.ne[3]];
    let mut steps = steps.into_iter().zip(tensor.nb);
    steps.try_fold(u64::from(ty.block_bytes()), |sum, (count, stride)| {
        sum.checked_add(stride.checked_mul(u64::from(count) - 1)?)
    })
}
