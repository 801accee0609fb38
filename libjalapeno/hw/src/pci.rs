//! PCI identity and BAR layout. No real id is public: every figure here is ASSUMED.

/// PCI vendor id. ASSUMED.
pub const VENDOR: u16 = 0xA1A0;
/// PCI device id. ASSUMED.
pub const DEVICE: u16 = 0x0001;
/// PCI revision. ASSUMED.
pub const REVISION: u8 = 0x01;
/// Class code: processing accelerator.
pub const CLASS: u32 = 0x12_00_00;
/// Link generation: 5 is 32 GT/s. ASSUMED.
pub const LINK_GENERATION: u8 = 5;
/// Link lanes. ASSUMED.
pub const LINK_LANES: u8 = 16;
/// HBM of a card in bytes: 216 GB. ASSUMED.
pub const HBM_BYTES: u64 = 216_000_000_000 / (2 << 20) * (2 << 20);
/// HBM stacks of a card. ASSUMED.
pub const HBM_STACKS: u32 = 6;

/// BAR number of the registers.
pub const BAR_REGISTERS: u32 = 0;
/// BAR number of the doorbells.
pub const BAR_DOORBELLS: u32 = 2;
/// BAR number of the HBM window.
pub const BAR_WINDOW: u32 = 4;
