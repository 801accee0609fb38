//! Config space: identity, BARs, command, and real capability chains. Host interface 2.

use jalapeno_hw::{pci, regs};

/// Bytes of config space.
pub const BYTES: usize = 4096;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const POWER: usize = 0x40;
const MSIX: usize = 0x50;
const EXPRESS: usize = 0x60;
// Capability pointers fit a byte, extended ones 12 bits.
const MSIX_POINTER: u16 = 0x50 << 8;
const EXPRESS_POINTER: u16 = 0x60 << 8;
const SERIAL_POINTER: u32 = 0x150 << 20;
const REBAR_POINTER: u32 = 0x160 << 20;
const AER: usize = 0x100;
const SERIAL: usize = 0x150;
const REBAR: usize = 0x160;

const COMMAND_BUS_MASTER: u16 = 1 << 2;
const DEVICE_CONTROL: usize = EXPRESS + 8;
const DEVICE_CONTROL_FLR: u16 = 1 << 15;

/// What a write asks of the function beyond its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// A function level reset.
    Reset,
}

/// Sizes of the BARs and the number of vectors.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Sizes by BAR number, powers of two; 0: absent.
    pub bars: [u64; 6],
    /// MSI-X vectors; 0: no MSI-X capability.
    pub vectors: u16,
    /// For the serial number capability.
    pub serial: u64,
}

/// A function's config space.
#[derive(Debug)]
pub struct Config {
    bytes: [u8; BYTES],
    /// Bits that a write changes.
    writable: [u8; BYTES],
    /// Bits that a write of 1 clears.
    clearable: [u8; BYTES],
    shape: Shape,
}

impl Config {
    /// Config space after power-on.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        let mut config = Self {
            bytes: [0; BYTES],
            writable: [0; BYTES],
            clearable: [0; BYTES],
            shape,
        };
        config.identity();
        config.bars();
        config.power();
        config.msix();
        config.express();
        config.extended();
        config
    }

    fn identity(&mut self) {
        self.put16(0x00, pci::VENDOR);
        self.put16(0x02, pci::DEVICE);
        // Memory space, bus master, parity response, SERR, interrupt disable.
        self.allow16(COMMAND, 0x0546);
        self.put16(STATUS, 1 << 4); // has a capability list
        self.clear16(STATUS, 0xF900);
        self.bytes[0x08] = pci::REVISION;
        self.bytes[0x09..0x0C].copy_from_slice(&pci::CLASS.to_le_bytes()[..3]);
        self.writable[0x0C] = 0xFF; // cache line size
        self.put16(0x2C, pci::VENDOR);
        self.put16(0x2E, pci::DEVICE);
        self.writable[0x3C] = 0xFF; // interrupt line
        self.bytes[CAPABILITIES] = 0x40;
    }

    fn bars(&mut self) {
        for bar in [0usize, 2, 4] {
            let at = BAR0 + 4 * bar;
            let size = self.shape.bars[bar];
            if size == 0 {
                continue;
            }
            // Memory, 64-bit; the window is prefetchable.
            self.bytes[at] = if bar == 4 { 0x0C } else { 0x04 };
            let mask = (!(size - 1)).to_le_bytes();
            self.writable[at..at + 8].copy_from_slice(&mask);
            self.writable[at] &= 0xF0;
        }
    }

    fn power(&mut self) {
        let next = match self.shape.vectors {
            0 => EXPRESS_POINTER,
            _ => MSIX_POINTER,
        };
        self.put16(POWER, 0x01 | next);
        self.put16(POWER + 2, 0x0003); // version 3, no PME
        self.put16(POWER + 4, 1 << 3); // no soft reset: D3hot keeps the context
        self.allow16(POWER + 4, 0x0003);
    }

    fn msix(&mut self) {
        if self.shape.vectors == 0 {
            return;
        }
        self.put16(MSIX, 0x11 | EXPRESS_POINTER);
        self.put16(MSIX + 2, self.shape.vectors.saturating_sub(1) & 0x7FF);
        self.allow16(MSIX + 2, 0xC000); // enable, function mask
        self.put32(MSIX + 4, regs::MSIX_TABLE_OFFSET); // BAR 0
        self.put32(MSIX + 8, regs::MSIX_PBA_OFFSET);
    }

    fn express(&mut self) {
        let speed = u32::from(pci::LINK_GENERATION);
        let link = speed | u32::from(pci::LINK_LANES) << 4;
        self.put16(EXPRESS, 0x10); // last
        self.put16(EXPRESS + 2, 0x0002); // version 2, endpoint
        // 256-byte payloads, role-based errors, FLR.
        self.put32(EXPRESS + 4, 1 | 1 << 15 | 1 << 28);
        self.put16(DEVICE_CONTROL, 0x2810);
        self.allow16(DEVICE_CONTROL, 0x7FFF);
        self.clear16(EXPRESS + 10, 0x000F);
        self.put32(EXPRESS + 12, link | 1 << 20); // reports link activity
        self.allow16(EXPRESS + 16, 0x01EB);
        self.put16(
            EXPRESS + 18,
            u16::from(pci::LINK_GENERATION) | u16::from(pci::LINK_LANES) << 4 | 1 << 13,
        );
        self.put32(EXPRESS + 36, 0x1F); // completion time-out ranges and disable
        self.allow16(EXPRESS + 40, 0x001F);
        self.put32(EXPRESS + 44, ((1 << speed) - 1) << 1);
        self.put16(EXPRESS + 48, u16::from(pci::LINK_GENERATION));
        self.allow16(EXPRESS + 48, 0x000F);
    }

    fn extended(&mut self) {
        self.put32(AER, 0x0001 | 2 << 16 | SERIAL_POINTER);
        for (offset, bits) in [(4, 0x07FF_F030), (16, 0x0000_F1C1)] {
            let mask = u32::to_le_bytes(bits);
            self.clearable[AER + offset..AER + offset + 4].copy_from_slice(&mask);
        }
        self.put32(AER + 12, 0x0046_2030); // uncorrectable severity
        for (offset, bits) in [
            (8, 0x07FF_F030u32),
            (12, 0x07FF_F030),
            (20, 0x0000_F1C1),
            (24, 0x0000_0140),
        ] {
            self.writable[AER + offset..AER + offset + 4].copy_from_slice(&bits.to_le_bytes());
        }
        self.put32(AER + 20, 0x0000_2000); // advisory errors masked
        self.put32(AER + 24, 0x0000_00A0);
        self.put32(SERIAL, 0x0003 | 1 << 16 | REBAR_POINTER);
        let serial = self.shape.serial.to_le_bytes();
        self.bytes[SERIAL + 4..SERIAL + 12].copy_from_slice(&serial);
        // BAR4 alone, of one size, in powers of two from 1 MiB: the window is all of HBM.
        let size = self.shape.bars[4].max(1 << 20).ilog2() - 20;
        self.put32(REBAR, 0x0015 | 1 << 16);
        self.put32(REBAR + 4, 1u32.checked_shl(4 + size).unwrap_or(0));
        self.put32(REBAR + 8, 4 | 1 << 5 | size << 8);
    }

    /// Reads; beyond the end there is nothing.
    #[must_use]
    pub fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        match offset
            .checked_add(into.len())
            .and_then(|end| self.bytes.get(offset..end))
        {
            Some(from) => {
                into.copy_from_slice(from);
                true
            }
            None => false,
        }
    }

    /// Writes what may be written; `None` beyond the end.
    #[must_use]
    pub fn write(&mut self, offset: usize, from: &[u8]) -> Option<Effect> {
        let end = offset.checked_add(from.len()).filter(|&end| end <= BYTES)?;
        let mut effect = Effect::None;
        for (at, &byte) in (offset..end).zip(from) {
            let keep =
                self.bytes[at] & !self.clearable[at] | self.bytes[at] & self.clearable[at] & !byte;
            self.bytes[at] = keep & !self.writable[at] | byte & self.writable[at];
            if at == DEVICE_CONTROL + 1 && byte & (DEVICE_CONTROL_FLR >> 8) as u8 != 0 {
                effect = Effect::Reset;
            }
        }
        Some(effect)
    }

    /// Whether the function may read and write host memory and send interrupts.
    #[must_use]
    pub fn is_bus_master(&self) -> bool {
        let awake = self.bytes[POWER + 4] & 3 == 0;
        awake
            && u16::from_le_bytes([self.bytes[COMMAND], self.bytes[COMMAND + 1]])
                & COMMAND_BUS_MASTER
                != 0
    }

    /// What a function level reset leaves: the identity, and nothing that was written.
    pub fn reset(&mut self) {
        *self = Self::new(self.shape);
    }

    fn put16(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn put32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn allow16(&mut self, at: usize, bits: u16) {
        self.writable[at..at + 2].copy_from_slice(&bits.to_le_bytes());
    }

    fn clear16(&mut self, at: usize, bits: u16) {
        self.clearable[at..at + 2].copy_from_slice(&bits.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::new(Shape {
            bars: [256 << 10, 0, 256 << 10, 0, 256 << 20, 0],
            vectors: 64,
            serial: 7,
        })
    }

    fn word(config: &Config, at: usize) -> u32 {
        let mut bytes = [0; 4];
        assert!(config.read(at, &mut bytes));
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn a_bar_is_sized_by_writing_ones() {
        let mut config = config();
        for (at, low, high) in [
            (0x10, 0xFFFC_0004, u32::MAX),
            (0x18, 0xFFFC_0004, u32::MAX),
            (0x20, 0xF000_000C, u32::MAX),
        ] {
            assert_eq!(config.write(at, &[0xFF; 8]), Some(Effect::None));
            assert_eq!(
                (word(&config, at), word(&config, at + 4)),
                (low, high),
                "{at:#x}"
            );
        }
    }

    #[test]
    fn both_capability_chains_end_and_hold_what_is_promised() {
        let config = config();
        let (mut at, mut ids) = (config.bytes[0x34] as usize, Vec::new());
        while at != 0 && ids.len() < 48 {
            ids.push(config.bytes[at]);
            at = config.bytes[at + 1] as usize;
        }
        assert_eq!(ids, [0x01, 0x11, 0x10], "power, MSI-X, PCI Express");
        let (mut at, mut ids) = (0x100, Vec::new());
        while at != 0 && ids.len() < 48 {
            ids.push(word(&config, at) & 0xFFFF);
            at = (word(&config, at) >> 20) as usize;
        }
        assert_eq!(
            ids,
            [0x0001, 0x0003, 0x0015],
            "AER, serial number, resizable BAR"
        );
    }

    #[test]
    fn the_window_has_one_size_and_says_which() {
        let mut config = config();
        // 256 MiB are 2^8 MiB: bit 4 + 8, and an 8 in bits 8 to 13 beside BAR 4 of 1.
        assert_eq!(word(&config, 0x164), 1 << 12);
        assert_eq!(word(&config, 0x168), 0x0824);
        assert_eq!(config.write(0x168, &[0x24, 7, 0, 0]), Some(Effect::None));
        assert_eq!(word(&config, 0x168), 0x0824, "no other is taken");
    }

    #[test]
    fn without_vectors_the_chain_goes_round_msix() {
        let config = Config::new(Shape {
            vectors: 0,
            ..config().shape
        });
        let power = usize::from(config.bytes[CAPABILITIES]);
        let next = usize::from(config.bytes[power + 1]);
        assert_eq!(config.bytes[next], 0x10, "PCI Express comes after power");
        assert_eq!(config.bytes[next + 1], 0, "and is the last");
    }

    #[test]
    fn identity_is_read_only_and_a_reset_forgets_what_was_written() {
        let mut config = config();
        assert_eq!(config.write(0, &[0; 4]), Some(Effect::None));
        assert_eq!(
            word(&config, 0),
            u32::from(pci::DEVICE) << 16 | u32::from(pci::VENDOR)
        );
        assert!(!config.is_bus_master());
        assert_eq!(config.write(4, &[4, 0]), Some(Effect::None));
        assert!(config.is_bus_master());
        assert_eq!(config.write(POWER + 4, &[3, 0]), Some(Effect::None));
        assert!(!config.is_bus_master(), "asleep");
        let control = [0x10, 0xA8];
        assert_eq!(config.write(DEVICE_CONTROL, &control), Some(Effect::Reset));
        config.reset();
        assert!(!config.is_bus_master());
        assert_eq!(config.write(POWER + 4, &[0, 0]), Some(Effect::None));
    }

    #[test]
    fn accesses_beyond_the_end_are_refused() {
        let mut config = config();
        assert!(!config.read(BYTES - 2, &mut [0; 4]));
        assert_eq!(config.write(BYTES, &[0]), None);
        assert_eq!(config.write(usize::MAX, &[0; 2]), None);
    }
}
