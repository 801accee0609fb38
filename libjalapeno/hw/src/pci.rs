//! PCI identity and BAR layout. No real id is public: every figure here is ASSUMED.

use crate::row::constants;

constants! {
    /// What configuration space says.
    table IDENTITY;

    /// PCI vendor id. ASSUMED.
    VENDOR: u16 = 0xA1A0;
    /// PCI device id. ASSUMED.
    DEVICE: u16 = 0x0001;
    /// PCI revision. ASSUMED.
    REVISION: u8 = 0x01;
    /// Class code: processing accelerator.
    CLASS: u32 = 0x12_00_00;
    /// Link generation: 5 is 32 GT/s. ASSUMED.
    LINK_GENERATION: u8 = 5;
    /// Link lanes. ASSUMED.
    LINK_LANES: u8 = 16;
}

constants! {
    /// What a card carries; a driver asks the capability records instead.
    table CARD;

    /// HBM of a card in bytes: 216 GB, in whole large pages. ASSUMED.
    HBM_BYTES: u64 = 216_000_000_000 / (2 << 20) * (2 << 20);
    /// HBM stacks of a card. ASSUMED.
    HBM_STACKS: u32 = 6;
}

constants! {
    /// BAR numbers.
    table BARS;

    /// BAR number of the registers.
    BAR_REGISTERS: u32 = 0;
    /// BAR number of the doorbells.
    BAR_DOORBELLS: u32 = 2;
    /// BAR number of the HBM window.
    BAR_WINDOW: u32 = 4;
}
