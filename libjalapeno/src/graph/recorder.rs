//! The recorder: what a graph is made of, and its image.

use std::collections::HashMap;
use std::sync::Arc;

use jalapeno_hw::kernels::DType;
use jalapeno_hw::limits::{GRAPH_BYTES_MAX, GRAPH_PACKETS_MAX, OPERANDS_MAX};
use jalapeno_hw::packets::{
    HEADER_OPCODE, HEADER_RESERVED, HEADER_VALID, Opcode, PACKET_BYTES, Packet, Parameters, Patch,
    Tensor, header,
};
use jalapeno_hw::regs::Feature;
use zerocopy::IntoBytes;

use super::checked::{self, Bounds};
use super::{Graph, VALUES};
use crate::dma::HostOptions;
use crate::error::{Error, Result};
use crate::named::Named;
use crate::session::Session;
use crate::transport::Protection;

/// The first byte of a packet that a patch may change.
const BODY: u32 = 0x18;
/// Bytes of a packet, of Parameters and of a Tensor.
const LINE: u32 = 64;

/// Where in a step a patch goes; its offset counts from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// The packet itself, bytes 0x18 to 0x3F; not of a LAUNCH.
    Packet,
    /// A LAUNCH's parameters.
    Parameters,
    /// A LAUNCH's tensor; 0 is the destination.
    Tensor(u32),
}

/// A packet, and the argument block of a LAUNCH.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) packet: Packet,
    pub(super) block: Option<(Parameters, Vec<Tensor>)>,
}

/// A patch whose place in the image is not known yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) step: usize,
    pub(super) place: Place,
    pub(super) offset: u32,
    pub(super) width: u8,
    pub(super) value: u8,
    pub(super) scale: u64,
}

/// Records a graph. Nothing runs and nothing is checked against memory before `finish`.
#[derive(Debug)]
pub struct Recorder {
    session: Session,
    steps: Vec<Step>,
    changes: Vec<Change>,
    /// The width in which a step's 8 bytes are patched: in two, a carry of one would escape the other.
    widths: HashMap<(usize, Place, u32), u8>,
}

/// Whether what the step touches only grows with this word: `finish` looks at its least and its most.
fn grows(packet: &Packet, place: Place, offset: u32, width: u8) -> bool {
    let opcode = u32::try_from(packet.header & HEADER_OPCODE).unwrap_or(0);
    match place {
        // Type and flags; two sizes side by side, of which a carry would lower one.
        Place::Tensor(_) => {
            !((8..16).contains(&offset) || width == 8 && (16..32).contains(&offset))
        }
        // Row bytes and rows.
        Place::Packet => opcode != Opcode::CopyStrided.code() || width == 4 || offset != BODY + 16,
        Place::Parameters => true,
    }
}

fn invalid<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::Invalid { what: what.into() })
}

impl Session {
    /// Begins to record a graph: `add` and `launch` give what runs, `patch` what changes from one
    /// run to the next, `finish` checks it all.
    ///
    /// # Errors
    /// `Unsupported` where the device has no graphs.
    pub fn record(&self) -> Result<Recorder> {
        if self.device().info().features & 1 << Feature::Graph.code() == 0 {
            return Err(Error::Unsupported {
                what: "recorded graphs: the device does not offer GRAPH".into(),
            });
        }
        Ok(Recorder {
            session: self.clone(),
            steps: Vec::new(),
            changes: Vec::new(),
            widths: HashMap::new(),
        })
    }
}

impl Recorder {
    /// Appends a packet and gives its number. A LAUNCH is given to `launch`.
    ///
    /// # Errors
    /// `Invalid` for what no graph may hold: MANAGE, INDIRECT, unknown opcodes, a deadline.
    pub fn add(&mut self, packet: &Packet) -> Result<usize> {
        let code = u32::try_from(packet.header & HEADER_OPCODE).unwrap_or(0);
        match Opcode::from_code(code) {
            Some(Opcode::Launch) => return invalid("a LAUNCH is recorded with its operands"),
            Some(opcode @ (Opcode::Manage | Opcode::Indirect)) => {
                return invalid(format!("{} may not stand in a graph", opcode.name()));
            }
            Some(opcode) if !opcode.is_reserved() => {}
            _ => return invalid(format!("opcode {code:#04x} is unknown or reserved")),
        }
        if packet.header & HEADER_RESERVED & !HEADER_VALID != 0 {
            return invalid("bits 31:9 of a packet's header are zero");
        }
        if packet.deadline != 0 {
            return invalid("a graph's packet has no deadline: give it to the packet that runs it");
        }
        let mut packet = *packet;
        packet.header &= !HEADER_VALID;
        self.push(Step {
            packet,
            block: None,
        })
    }

    /// Appends a LAUNCH and gives its number; `tensors` begin with the destination. Its argument
    /// block is the graph's.
    ///
    /// # Errors
    /// `Invalid` for a count of operands, or a type, that no kernel has.
    pub fn launch(
        &mut self,
        kernel: u32,
        parameters: &Parameters,
        tensors: &[Tensor],
    ) -> Result<usize> {
        if tensors.is_empty() || tensors.len() > OPERANDS_MAX as usize {
            let found = tensors.len();
            return invalid(format!(
                "{found} operands: a LAUNCH has 1 to {OPERANDS_MAX}"
            ));
        }
        let unknown = |tensor: &&Tensor| DType::from_code(tensor.dtype).is_none();
        if let Some(tensor) = tensors.iter().find(unknown) {
            return invalid(format!("type {} of an operand is unknown", tensor.dtype));
        }
        self.push(Step {
            packet: Packet {
                header: header(Opcode::Launch, kernel),
                ..Packet::ZERO
            },
            block: Some((*parameters, tensors.to_vec())),
        })
    }

    fn push(&mut self, step: Step) -> Result<usize> {
        if self.steps.len() >= GRAPH_PACKETS_MAX as usize {
            return invalid(format!("a graph has at most {GRAPH_PACKETS_MAX} packets"));
        }
        self.steps.push(step);
        Ok(self.steps.len() - 1)
    }

    /// Lets a word of a step change from run to run: to what was recorded, `scale` times the value
    /// `value` (0 to 5) is added. Several patches may change one word, all of one width. `width` is 4
    /// or 8 bytes.
    ///
    /// # Errors
    /// `Invalid` for a step, place, offset, width or value that there is not, and for a patch by which
    /// memory could be touched that `finish` does not see: of a tensor's type and flags, of two sizes
    /// at once, of bytes that another patch changes in another width.
    pub fn patch(
        &mut self,
        step: usize,
        place: Place,
        (offset, width): (u32, u8),
        value: u8,
        scale: u64,
    ) -> Result<()> {
        let Some(Step { packet, block }) = self.steps.get(step) else {
            return invalid(format!("step {step}: there are {}", self.steps.len()));
        };
        let first = match (place, block) {
            (Place::Packet, None) => BODY,
            (Place::Parameters, Some(_)) => 0,
            (Place::Tensor(index), Some((_, tensors))) if (index as usize) < tensors.len() => 0,
            _ => return invalid(format!("step {step} has no {place:?} to be patched")),
        };
        let end = offset.checked_add(width.into());
        if !matches!(width, 4 | 8)
            || !offset.is_multiple_of(width.into())
            || offset < first
            || end.is_none_or(|end| end > LINE)
        {
            return invalid(format!(
                "a patch of {width} bytes at {offset:#x}: 4 or 8, aligned, in {first:#x} to {LINE:#x}"
            ));
        }
        if !grows(packet, place, offset, width) {
            return invalid(format!(
                "a patch of {width} bytes at {offset:#x} of step {step}, {place:?}: a tensor's type and \
                 flags stay as recorded, and two 4-byte fields are patched one by one"
            ));
        }
        let word = (step, place, offset / 8);
        if self.widths.get(&word).is_some_and(|other| *other != width) {
            return invalid(format!(
                "step {step}, {place:?}: patches of 4 and of 8 bytes meet at {offset:#x}"
            ));
        }
        if usize::from(value) >= VALUES {
            return invalid(format!("value {value}: a graph has at most {VALUES}"));
        }
        self.widths.insert(word, width);
        self.changes.push(Change {
            step,
            place,
            offset,
            width,
            value,
            scale,
        });
        Ok(())
    }

    /// Checks it all, once and for every value up to `limits`, and puts the image in place. What was
    /// recorded stays, for another graph.
    ///
    /// # Errors
    /// `Invalid` for a graph without packets or beyond what a device takes, a patch of a value that
    /// has no limit or that leaves its word, and memory that lies in no buffer of the session. As
    /// `Session::host_memory`.
    pub fn finish(&self, limits: &[u32]) -> Result<Graph> {
        if self.steps.is_empty() {
            return invalid("a graph without packets");
        }
        if limits.len() > VALUES {
            return invalid(format!("{} values: at most {VALUES}", limits.len()));
        }
        let bounds = Bounds::new(&self.steps, &self.changes, limits)?;
        let core = self.session.core();
        let ranges = checked::buffers(&bounds, |start, bytes| core.buffer_with(start, bytes))?;
        let (offsets, blocks) = self.places();
        let patches = self.changes.len() * size_of::<Patch>();
        let bytes = (blocks + patches).next_multiple_of(LINE as usize);
        let sizes = (
            u32::try_from(self.steps.len()),
            u32::try_from(bytes),
            u32::try_from(self.changes.len()),
        );
        let (Ok(packets), Ok(length), Ok(count)) = sizes else {
            return invalid("a graph of more than 4 GiB");
        };
        if length > GRAPH_BYTES_MAX {
            return invalid(format!(
                "a graph of {length} bytes: a device takes {GRAPH_BYTES_MAX}"
            ));
        }
        let options = HostOptions {
            protection: Protection::Read,
            ..HostOptions::default()
        };
        let image = self.session.host_memory(u64::from(length), options)?;
        let written = self.image(image.address().0, &offsets, bytes);
        image.memory().write(0, &written)?;
        let named = Arc::new(Named::new(ranges));
        core.adopt_graph(image.address().0, &named);
        let sizes = (packets, length, count);
        Ok(Graph::new(image, sizes, limits, core.mark(), named))
    }

    /// Where each step's block stands in the image, and where the last ends.
    fn places(&self) -> (Vec<usize>, usize) {
        let mut at = self.steps.len() * PACKET_BYTES;
        let offsets = self.steps.iter().map(|step| {
            let here = at;
            at += step
                .block
                .as_ref()
                .map_or(0, |(_, tensors)| LINE as usize * (1 + tensors.len()));
            here
        });
        let offsets: Vec<usize> = offsets.collect();
        (offsets, at)
    }

    /// The image, as it stands at `base`.
    fn image(&self, base: u64, offsets: &[usize], bytes: usize) -> Vec<u8> {
        let mut image = Vec::with_capacity(bytes);
        for (step, offset) in self.steps.iter().zip(offsets) {
            let mut packet = step.packet;
            if let Some((_, tensors)) = &step.block {
                packet.body[0] = base + *offset as u64;
                packet.body[1] = u64::from(LINE) * (1 + tensors.len() as u64);
            }
            image.extend_from_slice(packet.as_bytes());
        }
        for (parameters, tensors) in self.steps.iter().filter_map(|step| step.block.as_ref()) {
            image.extend_from_slice(parameters.as_bytes());
            image.extend_from_slice(tensors.as_bytes());
        }
        image.resize(bytes - self.changes.len() * size_of::<Patch>(), 0);
        for change in &self.changes {
            let block = offsets.get(change.step).copied().unwrap_or_default();
            let start = match change.place {
                Place::Packet => change.step * PACKET_BYTES,
                Place::Parameters => block,
                Place::Tensor(index) => block + (1 + index as usize) * LINE as usize,
            };
            let patch = Patch {
                offset: u32::try_from(start).unwrap_or(u32::MAX) + change.offset,
                width: change.width,
                value: change.value,
                reserved: 0,
                scale: change.scale,
            };
            image.extend_from_slice(patch.as_bytes());
        }
        image
    }
}
