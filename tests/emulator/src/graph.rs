//! The graph: packets of an image in memory, copied once, patched, checked, run one by one.
//! Host interface 6.11.

use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::limits::{GRAPH_BYTES_MAX, GRAPH_PACKETS_MAX, GRAPH_VALUES};
use jalapeno_hw::packets::{
    HEADER_ARGUMENT_SHIFT, HEADER_OPCODE, HEADER_RESERVED, HEADER_VALID, Indirect, Opcode, Patch,
};
use jalapeno_hw::regs::Feature;
use zerocopy::{FromBytes, IntoBytes};

use crate::engine::Engine;
use crate::execute::{Failure, Outcome, Runner, Running};
use crate::queue::asked;
use crate::trouble::{Culprit, Trouble};

/// Bytes and words of a packet, and of a line of the image.
const LINE: usize = 64;
const WORDS: usize = LINE / 8;
/// Bytes of a patch.
const PATCH: usize = size_of::<Patch>();
/// The first byte of a packet that a patch may change.
const BODY: usize = 0x18;
/// Bytes of an image that are read between two looks at resets and the deadline.
const STEP: usize = 256 << 10;

/// A graph that runs.
#[derive(Debug)]
pub struct Graph {
    /// Where the image stands in memory.
    address: u64,
    /// The device's copy: packets, then blocks up to `blocks`, in words.
    copy: Vec<u64>,
    packets: usize,
    blocks: usize,
    /// The packet that runs, or runs next.
    next: usize,
    /// The INDIRECT packet's.
    cookie: u64,
    deadline: u64,
}

impl Graph {
    /// The packet that runs next, with the graph's deadline.
    fn head(&self) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        let at = self.next * WORDS;
        if let Some(packet) = self.copy.get(at..at + WORDS) {
            words.copy_from_slice(packet);
        }
        words[2] = self.deadline;
        words
    }

    /// Fills `into` from the copy, if the address lies whole in it, before the patches.
    pub(crate) fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let bytes = self.copy.as_bytes().get(..self.blocks);
        let from = address.checked_sub(self.address);
        let from = from.and_then(|at| usize::try_from(at).ok());
        let range = from.and_then(|at| Some(at..at.checked_add(into.len())?));
        match range.and_then(|range| bytes?.get(range)) {
            Some(found) => {
                into.copy_from_slice(found);
                true
            }
            None => false,
        }
    }

    /// Says in a record which packet of the graph it was.
    pub(crate) fn accuse(&self, trouble: &mut Trouble, culprit: &mut Culprit) {
        trouble.detail[3] = self.next as u64 + 1;
        culprit.cookie = self.cookie;
        (culprit.opcode, culprit.kernel) = asked(self.head()[0]);
    }

    /// Its memory, for another graph.
    pub(crate) fn into_memory(self) -> Vec<u64> {
        self.copy
    }

    /// Adds what the patches add.
    fn patch(&mut self, patches: usize, value: &[u32; 6]) -> Result<(), Trouble> {
        for index in 0..patches {
            let at = self.blocks + index * PATCH;
            let bytes = self.copy.as_bytes().get(at..at + PATCH);
            let patch = bytes.and_then(|bytes| Patch::read_from_bytes(bytes).ok());
            let patch = patch.unwrap_or(Patch::ZERO);
            self.apply(&patch, value).map_err(|mut trouble| {
                trouble.detail[2] = 2;
                trouble.detail[3] = index as u64 + 1;
                trouble
            })?;
        }
        Ok(())
    }

    fn apply(&mut self, patch: &Patch, value: &[u32; 6]) -> Result<(), Trouble> {
        let (offset, width) = (patch.offset as usize, usize::from(patch.width));
        if patch.reserved != 0 {
            return Err(Trouble::reserved(6));
        }
        let value = u64::from(
            *value
                .get(usize::from(patch.value))
                .ok_or(Trouble::parameter(5, patch.value.into()))?,
        );
        if width != 4 && width != 8 {
            return Err(Trouble::parameter(4, width as u64));
        }
        let in_packets = offset < self.packets * LINE;
        let inside = offset + width <= self.blocks;
        if !offset.is_multiple_of(width) || !inside || in_packets && offset % LINE < BODY {
            return Err(Trouble::parameter(0, offset as u64));
        }
        let added = value.wrapping_mul(patch.scale);
        if let Some(word) = self.copy.get_mut(offset / 8) {
            *word = match (width, offset % 8) {
                (8, _) => word.wrapping_add(added),
                (_, 0) => *word & !LOW | word.wrapping_add(added) & LOW,
                _ => word.wrapping_add(added << 32),
            };
        }
        Ok(())
    }

    /// Looks at what can be wrong with packets before the first one starts.
    fn check(&self) -> Result<(), Trouble> {
        for (index, packet) in self.copy.chunks(WORDS).take(self.packets).enumerate() {
            let (header, deadline) = (packet.first().copied(), packet.get(2).copied());
            check(header.unwrap_or(0), deadline.unwrap_or(0)).map_err(|mut trouble| {
                trouble.detail[3] = index as u64 + 1;
                trouble
            })?;
        }
        Ok(())
    }
}

/// The low half of a word.
const LOW: u64 = 0xFFFF_FFFF;

/// What a packet of a graph may not be.
fn check(header: u64, deadline: u64) -> Result<(), Trouble> {
    let opcode = u32::try_from(header & HEADER_OPCODE).unwrap_or_default();
    match Opcode::from_code(opcode) {
        Some(Opcode::Indirect | Opcode::Manage) => {
            return Err(Trouble::new(FaultCode::NotPermitted));
        }
        Some(opcode) if !opcode.is_reserved() => {}
        _ => return Err(Trouble::detail(FaultCode::UnknownOpcode, header, 0)),
    }
    if header & (HEADER_RESERVED | HEADER_VALID) != 0 {
        return Err(Trouble::reserved(1));
    }
    if deadline != 0 {
        return Err(Trouble::reserved(0x10));
    }
    Ok(())
}

impl Runner {
    /// INDIRECT: reads and checks its graph, which then runs packet by packet.
    ///
    /// # Errors
    /// The fault that its record will name.
    pub(crate) fn indirect(
        &mut self,
        running: Running,
        (header, cookie): (u64, u64),
        indirect: &Indirect,
    ) -> Result<Outcome, Failure> {
        if !self.card.has_feature(Feature::Graph) {
            return Err(Trouble::detail(FaultCode::UnknownOpcode, header, 0).into());
        }
        let packets = header >> HEADER_ARGUMENT_SHIFT;
        if !indirect.image.is_multiple_of(LINE as u64) {
            let mut trouble = Trouble::at(FaultCode::Misaligned, indirect.image);
            trouble.detail[0] = 0x18;
            return Err(trouble.into());
        }
        if packets == 0 || packets > GRAPH_PACKETS_MAX.into() {
            return Err(Trouble::parameter(4, packets).into());
        }
        let packets = usize::try_from(packets).unwrap_or_default();
        let bytes = indirect.image_bytes as usize;
        if !bytes.is_multiple_of(LINE)
            || indirect.image_bytes > GRAPH_BYTES_MAX
            || bytes < packets * LINE
        {
            return Err(Trouble::parameter(0x20, bytes as u64).into());
        }
        let patches = indirect.patches as usize;
        let blocks = patches
            .checked_mul(PATCH)
            .and_then(|patches| bytes.checked_sub(patches))
            .filter(|blocks| *blocks >= packets * LINE)
            .ok_or(Trouble::parameter(0x24, indirect.patches.into()))?;
        let mut graph = Graph {
            address: indirect.image,
            copy: std::mem::take(&mut self.spare),
            packets,
            blocks,
            next: 0,
            cookie,
            deadline: running.deadline,
        };
        graph.copy.resize(bytes / 8, 0);
        let whole = graph.copy.as_mut_bytes();
        for (index, part) in (0u64..).zip(whole.chunks_mut(STEP)) {
            let at = indirect.image.saturating_add(index * STEP as u64);
            self.card.memory().read(at, part)?;
            self.breathe(running)?;
        }
        graph.patch(patches, &indirect.value)?;
        graph.check()?;
        Ok(Outcome::Graph(graph))
    }
}

const _: () = assert!(GRAPH_VALUES == 6);

impl Engine {
    /// Runs the next packet of the graph that a queue is in; packets that count as work.
    pub(crate) fn go_on(&mut self, index: usize) -> u32 {
        let Some(queue) = self.queues.get_mut(index) else {
            return 0;
        };
        let Some(graph) = queue.graph.take() else {
            return 0;
        };
        let words = graph.head();
        // A LAUNCH takes its argument block from there.
        self.runner.graph = Some(graph);
        let outcome = self.execute(index, &words);
        if let Some(queue) = self.queues.get_mut(index) {
            queue.graph = self.runner.graph.take();
        }
        match outcome {
            Ok(Outcome::Done) => {
                self.pass(index);
                1
            }
            other => self.conclude(index, other, words, 0),
        }
    }

    /// A packet of a queue's graph is done; so is the graph with the last one.
    pub(crate) fn pass(&mut self, index: usize) {
        let Some(queue) = self.queues.get_mut(index) else {
            return;
        };
        let waited = queue.block.take().is_some();
        if let Some(tally) = queue.tally.as_mut() {
            tally.pass(waited.then(|| self.card.now()));
        }
        let number = queue.number;
        let Some(graph) = queue.graph.as_mut() else {
            return;
        };
        graph.next += 1;
        if graph.next >= graph.packets {
            self.advance(number);
        }
    }
}
