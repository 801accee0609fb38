//! Who the card is, and the capability records that say what it has. Host interface 3.1 and 4.

use jalapeno_hw::caps::{
    CAP_REQUIRED, CapFaults, CapHeader, CapId, CapIova, CapKernels, CapMemory, CapProduct,
    CapProfile, CapQueues, CapTelemetry, CapTime,
};
use jalapeno_hw::faults::FAULT_RECORD_BYTES;
use jalapeno_hw::kernels::{DType, KernelId};
use jalapeno_hw::limits::{
    BOOT_TIME, DEPTH_LOG2_MAX, HBM_BASE, HEARTBEAT_PERIOD, IOVA_LAST, OPERANDS_MAX, QUIESCE_TIME,
    RESET_DEVICE_TIME, RESET_QUEUE_TIME,
};
use jalapeno_hw::pci::{HBM_BYTES, HBM_STACKS};
use jalapeno_hw::profile::{PROFILE_LEASE_MS, PROFILE_RECORD_BYTES};
use jalapeno_hw::regs::{
    BAR0_BYTES, CAPS_BYTES, FAULT_LOG_OFFSET, FAULT_LOG_RECORDS, PROFILE_OFFSET, PROFILE_RECORDS,
    TELEMETRY_BYTES, TELEMETRY_OFFSET,
};
use std::time::Duration;
use zerocopy::IntoBytes;

/// Ticks of device time a second: a tick is a nanosecond.
pub const TICKS_PER_SECOND: u64 = 1_000_000_000;
/// Bytes from one doorbell page to the next.
pub const DOORBELL_STRIDE: u32 = 4096;
/// Greatest log2 of an error ring's records.
pub const ERRORS_LOG2_MAX: u8 = 8;
/// Longest a scrub takes that takes no time, in microseconds.
pub const SCRUB_US: u32 = 30_000_000;
/// Most queues this card can have: one bit each in a word.
pub const QUEUES_MOST: u32 = 64;

/// What a card is made with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of HBM; rounded up to 2 MiB.
    pub hbm_bytes: u64,
    /// Bytes of HBM that may become resident in the host's memory.
    pub resident_limit: u64,
    /// Makes UUID, serial number and boot ids; the same seed makes the same card.
    pub seed: u64,
    /// UUID, bytes in RFC 9562 order; `None`: made from the seed.
    pub uuid: Option<[u8; 16]>,
    /// Queues, queue 0 included: 1 to 64.
    pub queues: u32,
    /// Feature bits that it offers, of those it knows.
    pub features: u64,
    /// Interrupt vectors.
    pub vectors: u16,
    /// Whether config space offers them, by MSI-X.
    pub msix: bool,
    /// Bytes of BAR0, a power of two; all but the specification's are wrong.
    pub bar0_bytes: u64,
    /// How long a scrub takes. The card says twice as much, or 30 s where it takes none.
    pub scrub: Duration,
    /// Whether the owner may map the doorbells; otherwise each is a message, and counted.
    pub doorbells_mapped: bool,
    /// Threads that compute; 0: as many as the host has processors.
    pub threads: usize,
    /// Faults armed from the start.
    pub faults: Vec<crate::faults::Order>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hbm_bytes: HBM_BYTES,
            resident_limit: 4 << 30,
            seed: 1,
            uuid: None,
            queues: QUEUES_MOST,
            features: crate::registers::FEATURES,
            vectors: 65,
            msix: true,
            bar0_bytes: BAR0_BYTES,
            scrub: Duration::ZERO,
            doorbells_mapped: true,
            threads: 0,
            faults: Vec::new(),
        }
    }
}

/// Names that never change while the card lives.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Device UUID, bytes in RFC 9562 order.
    pub uuid: [u8; 16],
    /// Board serial number.
    pub serial: u64,
}

impl Identity {
    /// The card's names.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        let mut state = options.seed;
        let mut made = [0; 16];
        let (low, high) = made.split_at_mut(8);
        low.copy_from_slice(&mix(&mut state).to_le_bytes());
        high.copy_from_slice(&mix(&mut state).to_le_bytes());
        // RFC 9562, version 8 (vendor's own) and its variant.
        made[6] = 0x80 | (made[6] & 0x0F);
        made[8] = 0x80 | (made[8] & 0x3F);
        Self {
            uuid: options.uuid.unwrap_or(made),
            serial: mix(&mut state) >> 16,
        }
    }
}

/// The next of a series of well-mixed numbers (SplitMix64).
pub fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The page of capability records.
#[must_use]
pub fn capabilities(options: &Options, hbm_bytes: u64) -> Vec<u8> {
    let mut page = Vec::with_capacity(CAPS_BYTES as usize);
    page.extend_from_slice(
        CapQueues {
            header: header::<CapQueues>(CapId::Queues, CAP_REQUIRED),
            count: options.queues,
            doorbell_stride: DOORBELL_STRIDE,
            depth_log2_min: 0,
            depth_log2_max: DEPTH_LOG2_MAX,
            errors_log2_max: ERRORS_LOG2_MAX,
            vectors: u32::from(options.vectors),
            ..CapQueues::ZERO
        }
        .as_bytes(),
    );
    page.extend_from_slice(
        CapMemory {
            header: header::<CapMemory>(CapId::Memory, CAP_REQUIRED),
            hbm_base: HBM_BASE,
            hbm_bytes,
            small_page: 64 << 10,
            large_page: 2 << 20,
            stacks: HBM_STACKS,
            ..CapMemory::ZERO
        }
        .as_bytes(),
    );
    page.extend_from_slice(
        CapIova {
            header: header::<CapIova>(CapId::Iova, CAP_REQUIRED),
            last: IOVA_LAST,
            ..CapIova::ZERO
        }
        .as_bytes(),
    );
    page.extend_from_slice(
        CapTime {
            header: header::<CapTime>(CapId::Time, CAP_REQUIRED),
            ticks_per_second: TICKS_PER_SECOND,
            reset_queue_us: micros(RESET_QUEUE_TIME),
            reset_device_us: micros(RESET_DEVICE_TIME),
            heartbeat_us: micros(HEARTBEAT_PERIOD),
            quiesce_us: micros(QUIESCE_TIME),
            scrub_us: match options.scrub {
                Duration::ZERO => SCRUB_US,
                takes => micros(2 * takes),
            },
            boot_us: micros(BOOT_TIME),
        }
        .as_bytes(),
    );
    page.extend_from_slice(
        CapTelemetry {
            header: header::<CapTelemetry>(CapId::Telemetry, 0),
            offset: TELEMETRY_OFFSET,
            bytes: TELEMETRY_BYTES,
        }
        .as_bytes(),
    );
    page.extend_from_slice(
        CapFaults {
            header: header::<CapFaults>(CapId::Faults, 0),
            offset: FAULT_LOG_OFFSET,
            records: FAULT_LOG_RECORDS,
            record_bytes: u32::try_from(FAULT_RECORD_BYTES).unwrap_or(u32::MAX),
            ..CapFaults::ZERO
        }
        .as_bytes(),
    );
    page.extend_from_slice(
        CapKernels {
            header: header::<CapKernels>(CapId::Kernels, 0),
            kernels: bits(
                KernelId::ALL
                    .iter()
                    .filter(|k| !k.is_reserved())
                    .map(|k| k.code()),
            ),
            dtypes: bits(
                DType::ALL
                    .iter()
                    .filter(|t| !t.is_reserved())
                    .map(|t| t.code()),
            ),
            operands_max: OPERANDS_MAX,
            ..CapKernels::ZERO
        }
        .as_bytes(),
    );
    page.extend_from_slice(
        CapProduct {
            header: header::<CapProduct>(CapId::Product, 0),
            name: padded("Jalapeno reference device"),
            firmware: padded(concat!("emulator ", env!("CARGO_PKG_VERSION"))),
        }
        .as_bytes(),
    );
    page.extend_from_slice(
        CapProfile {
            header: header::<CapProfile>(CapId::Profile, 0),
            offset: PROFILE_OFFSET,
            records: PROFILE_RECORDS,
            record_bytes: u32::try_from(PROFILE_RECORD_BYTES).unwrap_or(u32::MAX),
            lease_ms: PROFILE_LEASE_MS,
        }
        .as_bytes(),
    );
    // The rest is zero, and a header of zeros is END.
    page.resize(CAPS_BYTES as usize, 0);
    page
}

fn header<T>(id: CapId, flags: u16) -> CapHeader {
    CapHeader {
        id: u16::try_from(id.code()).unwrap_or_default(),
        version: 1,
        bytes: u16::try_from(size_of::<T>()).unwrap_or_default(),
        flags,
    }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

fn bits(codes: impl Iterator<Item = u32>) -> [u64; 2] {
    codes.fold([0, 0], |[low, high], code| match code {
        0..64 => [low | 1 << code, high],
        64..128 => [low, high | 1 << (code - 64)],
        _ => [low, high],
    })
}

fn padded(text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (to, from) in bytes.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_can_be_walked_to_its_end() {
        let page = capabilities(&Options::default(), 1 << 30);
        let (mut at, mut ids) = (0, Vec::new());
        loop {
            let half = |o: usize| u16::from_le_bytes([page[at + o], page[at + o + 1]]);
            if half(0) == 0 {
                break;
            }
            assert!(half(4) >= 8 && half(4) % 8 == 0);
            ids.push(half(0));
            at += usize::from(half(4));
        }
        assert_eq!(ids, [1, 2, 3, 4, 5, 6, 7, 8, 0x21]);
    }

    #[test]
    fn the_same_seed_makes_the_same_card_and_another_another() {
        let card = |seed| {
            Identity::new(&Options {
                seed,
                ..Options::default()
            })
            .uuid
        };
        assert_eq!(card(7), card(7));
        assert_ne!(card(7), card(8));
        assert_eq!(card(7)[6] >> 4, 8);
    }
}
