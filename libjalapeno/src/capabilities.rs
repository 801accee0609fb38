//! Capability records: parsed once, at the door, from one copy. Host interface 4.

use jalapeno_hw::caps::{
    CAP_REQUIRED, CapFaults, CapHeader, CapId, CapIova, CapKernels, CapMemory, CapProduct,
    CapProfile, CapQueues, CapTelemetry, CapTime,
};
use jalapeno_hw::faults::{FAULT_RECORD_BYTES, FaultCode};
use jalapeno_hw::limits::{DEPTH_LOG2_MAX, QUEUES_MAX};
use jalapeno_hw::profile::PROFILE_RECORD_BYTES;
use jalapeno_hw::regs::BAR0_BYTES;
use zerocopy::FromBytes;

use crate::error::{Error, Result};

/// Longest that any worst-case time of the TIME record is believed, in microseconds: an hour.
const TIME_MAX_US: u32 = 3_600_000_000;

/// What the device says about itself, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Queues and doorbells.
    pub queues: CapQueues,
    /// HBM and its window.
    pub memory: CapMemory,
    /// Host addresses the device can form.
    pub iova: CapIova,
    /// Clock and worst-case times.
    pub time: CapTime,
    /// The telemetry page, where there is one.
    pub telemetry: Option<CapTelemetry>,
    /// The card's profile ring, where there is one.
    pub profile: Option<CapProfile>,
    /// The fault log, where there is one.
    pub faults: Option<CapFaults>,
    /// The kernel library, where there is one.
    pub kernels: Option<CapKernels>,
    /// Product name; empty where unknown.
    pub product: String,
    /// Firmware version; empty where unknown.
    pub firmware: String,
}

fn broken(what: String) -> Error {
    Error::Protocol {
        code: FaultCode::BadDiscovery,
        what,
    }
}

/// Records as found, before the required ones are known to be there.
#[derive(Debug, Default)]
struct Found {
    queues: Option<CapQueues>,
    memory: Option<CapMemory>,
    iova: Option<CapIova>,
    time: Option<CapTime>,
    telemetry: Option<CapTelemetry>,
    profile: Option<CapProfile>,
    faults: Option<CapFaults>,
    kernels: Option<CapKernels>,
    product: Option<CapProduct>,
}

fn fill<T: FromBytes>(slot: &mut Option<T>, id: CapId, record: &[u8]) -> Result<()> {
    let (value, _) = T::read_from_prefix(record).map_err(|_| {
        broken(format!(
            "capability {} has {} bytes, fewer than its version 1",
            id.name(),
            record.len()
        ))
    })?;
    if slot.replace(value).is_some() {
        return Err(broken(format!("capability {} stands twice", id.name())));
    }
    Ok(())
}

/// Whether these first bytes of the chain hold its end, or a record after which there is no telling
/// where it goes on: then more of it need not be read.
pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Ok((header, _)) = CapHeader::read_from_prefix(rest) {
        let length = usize::from(header.bytes);
        if u32::from(header.id) == CapId::End.code() || length < size_of::<CapHeader>() {
            return true;
        }
        match rest.get(length..) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    false
}

/// The chain from its first record on. It is contiguous, so it cannot loop.
pub(crate) fn parse(bytes: &[u8]) -> Result<Capabilities> {
    let mut found = Found::default();
    let mut rest = bytes;
    loop {
        let place = bytes.len() - rest.len();
        let Ok((header, _)) = CapHeader::read_from_prefix(rest) else {
            return Err(broken("the capability chain runs off its page".into()));
        };
        let Some(id) = CapId::from_code(u32::from(header.id)).filter(|id| !id.is_reserved()) else {
            if header.flags & CAP_REQUIRED != 0 {
                return Err(Error::Version {
                    what: "a capability that the device requires drivers to know",
                    found: format!(
                        "record {:#x}{}",
                        header.id,
                        CapId::from_code(u32::from(header.id))
                            .map_or(String::new(), |id| format!(" ({})", id.name()))
                    ),
                    needed: "a newer library".into(),
                });
            }
            rest = skip(rest, header, place)?;
            continue;
        };
        if id == CapId::End {
            return check(found);
        }
        let after = skip(rest, header, place)?;
        let record = &rest[..rest.len() - after.len()];
        if header.version == 0 {
            return Err(broken(format!("capability {} has version 0", id.name())));
        }
        match id {
            CapId::Queues => fill(&mut found.queues, id, record)?,
            CapId::Memory => fill(&mut found.memory, id, record)?,
            CapId::Iova => fill(&mut found.iova, id, record)?,
            CapId::Time => fill(&mut found.time, id, record)?,
            CapId::Telemetry => fill(&mut found.telemetry, id, record)?,
            CapId::Profile => fill(&mut found.profile, id, record)?,
            CapId::Faults => fill(&mut found.faults, id, record)?,
            CapId::Kernels => fill(&mut found.kernels, id, record)?,
            CapId::Product => fill(&mut found.product, id, record)?,
            _ => {}
        }
        rest = after;
    }
}

/// What follows the record that `rest` begins with.
fn skip(rest: &[u8], header: CapHeader, place: usize) -> Result<&[u8]> {
    let bytes = usize::from(header.bytes);
    if bytes < size_of::<CapHeader>() || !bytes.is_multiple_of(8) {
        return Err(broken(format!(
            "the capability record at {place:#x} has {bytes} bytes"
        )));
    }
    rest.get(bytes..)
        .ok_or_else(|| broken("the capability chain runs off its page".into()))
}

fn check(found: Found) -> Result<Capabilities> {
    let need = |id: CapId| broken(format!("capability {} is missing", id.name()));
    let capabilities = Capabilities {
        queues: found.queues.ok_or_else(|| need(CapId::Queues))?,
        memory: found.memory.ok_or_else(|| need(CapId::Memory))?,
        iova: found.iova.ok_or_else(|| need(CapId::Iova))?,
        time: found.time.ok_or_else(|| need(CapId::Time))?,
        telemetry: found.telemetry,
        profile: found.profile,
        faults: found.faults,
        kernels: found.kernels,
        product: found.product.map_or(String::new(), |p| ascii(&p.name)),
        firmware: found.product.map_or(String::new(), |p| ascii(&p.firmware)),
    };
    let Capabilities {
        queues,
        memory,
        iova,
        time,
        telemetry,
        profile,
        faults,
        ..
    } = &capabilities;
    let in_bar0 = |offset: u32, bytes: u64| {
        offset.is_multiple_of(8) && u64::from(offset) + bytes <= BAR0_BYTES
    };
    let rules = [
        (
            "QUEUES.count",
            u64::from(queues.count),
            (1..=QUEUES_MAX).contains(&queues.count),
        ),
        (
            "QUEUES.doorbell_stride",
            u64::from(queues.doorbell_stride),
            matches!(queues.doorbell_stride, 0x1000 | 0x1_0000),
        ),
        (
            "QUEUES.depth_log2_max",
            u64::from(queues.depth_log2_max),
            queues.depth_log2_max <= DEPTH_LOG2_MAX
                && queues.depth_log2_min <= queues.depth_log2_max,
        ),
        (
            "QUEUES.errors_log2_max",
            u64::from(queues.errors_log2_max),
            queues.errors_log2_max <= DEPTH_LOG2_MAX,
        ),
        (
            "QUEUES.vectors",
            u64::from(queues.vectors),
            queues.vectors <= 2048,
        ),
        (
            "MEMORY.hbm_bytes",
            memory.hbm_bytes,
            memory.hbm_bytes > 0 && memory.hbm_base.checked_add(memory.hbm_bytes).is_some(),
        ),
        (
            "MEMORY.window_offset",
            memory.window_offset,
            memory.window_offset <= memory.hbm_bytes,
        ),
        (
            "MEMORY.small_page",
            u64::from(memory.small_page),
            memory.small_page.is_power_of_two() && memory.small_page >= 4096,
        ),
        (
            "MEMORY.large_page",
            u64::from(memory.large_page),
            memory.large_page.is_power_of_two() && memory.large_page >= memory.small_page,
        ),
        (
            "IOVA.last",
            iova.last,
            iova.last >= u64::from(u32::MAX) && iova.last < memory.hbm_base,
        ),
        (
            "TIME.ticks_per_second",
            time.ticks_per_second,
            (1_000_000..=1_000_000_000).contains(&time.ticks_per_second),
        ),
        (
            "TELEMETRY.offset",
            telemetry.map_or(0, |t| u64::from(t.offset)),
            telemetry.is_none_or(|t| t.bytes >= 64 && in_bar0(t.offset, u64::from(t.bytes))),
        ),
        (
            "PROFILE.records",
            profile.map_or(0, |p| u64::from(p.records)),
            profile.is_none_or(|p| {
                (2..=1 << 16).contains(&p.records)
                    && p.records.is_power_of_two()
                    && p.record_bytes as usize == PROFILE_RECORD_BYTES
                    && p.lease_ms >= 10
                    && in_bar0(p.offset, u64::from(p.records) * PROFILE_RECORD_BYTES as u64)
            }),
        ),
        (
            "FAULTS.records",
            faults.map_or(0, |f| u64::from(f.records)),
            faults.is_none_or(|f| {
                (1..=1024).contains(&f.records)
                    && f.record_bytes as usize == FAULT_RECORD_BYTES
                    && in_bar0(f.offset, u64::from(f.records) * FAULT_RECORD_BYTES as u64)
            }),
        ),
    ];
    for (name, value, good) in rules {
        if !good {
            return Err(broken(format!("{name} is {value:#x}")));
        }
    }
    for (name, micros) in [
        ("TIME.reset_queue_us", time.reset_queue_us),
        ("TIME.reset_device_us", time.reset_device_us),
        ("TIME.heartbeat_us", time.heartbeat_us),
        ("TIME.quiesce_us", time.quiesce_us),
        ("TIME.scrub_us", time.scrub_us),
        ("TIME.boot_us", time.boot_us),
    ] {
        if micros > TIME_MAX_US {
            return Err(broken(format!("{name} is {micros}")));
        }
    }
    Ok(capabilities)
}

/// Printable ASCII up to the first zero; anything else becomes `?`, so that no terminal obeys it.
fn ascii(bytes: &[u8]) -> String {
    bytes
        .iter()
        .take_while(|&&byte| byte != 0)
        .map(|&byte| {
            if byte.is_ascii_graphic() || byte == b' ' {
                char::from(byte)
            } else {
                '?'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    /// Records by hand from the specification, section 4: {id, version, bytes, flags} and body.
    fn record(id: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let bytes = u16::try_from(8 + body.len()).unwrap();
        let mut record = Vec::new();
        for word in [id, 1, bytes, flags] {
            record.extend(word.to_le_bytes());
        }
        record.extend(body);
        record
    }

    fn queues(count: u32) -> Vec<u8> {
        let mut body = vec![0; 24];
        body[0..4].copy_from_slice(&count.to_le_bytes());
        body[4..8].copy_from_slice(&0x1000u32.to_le_bytes());
        body[8..11].copy_from_slice(&[2, 12, 8]);
        body[12] = 17;
        record(1, 1, &body)
    }

    fn memory() -> Vec<u8> {
        let mut body = vec![0; 40];
        body[7] = 1; // HBM at 1 << 56
        body[11] = 0x40; // 1 GiB
        body[24..28].copy_from_slice(&0x1_0000u32.to_le_bytes());
        body[28..32].copy_from_slice(&0x20_0000u32.to_le_bytes());
        record(2, 1, &body)
    }

    fn iova() -> Vec<u8> {
        let mut body = vec![0; 16];
        body[..6].fill(0xFF); // 48 bits
        record(3, 1, &body)
    }

    fn time() -> Vec<u8> {
        let mut body = vec![0; 32];
        body[0..8].copy_from_slice(&1_000_000_000u64.to_le_bytes());
        record(4, 1, &body)
    }

    fn whole() -> Vec<Vec<u8>> {
        vec![queues(16), memory(), iova(), time()]
    }

    fn chain(records: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = records.concat();
        bytes.extend([0; 8]);
        bytes.resize(4096, 0);
        bytes
    }

    #[test]
    fn a_chain_is_read_and_optional_strangers_are_skipped() {
        let mut records = whole();
        records.insert(1, record(0x7777, 0, &[0xAA; 16]));
        let mut product = [0; 64];
        product[..9].copy_from_slice(b"Jalape\x1b\xf1o");
        records.push(record(8, 0, &product));
        let found = parse(&chain(&records)).unwrap();
        assert_eq!((found.queues.count, found.memory.hbm_bytes), (16, 1 << 30));
        assert_eq!(
            found.product, "Jalape??o",
            "control characters do not reach a terminal"
        );
        assert_eq!(found.telemetry, None);
    }

    #[test]
    fn a_stranger_that_is_required_is_refused_by_name() {
        let mut records = whole();
        records.insert(0, record(0x22, 1, &[]));
        let error = parse(&chain(&records)).unwrap_err();
        assert_eq!(error.code(), Code::Version);
        assert!(error.to_string().contains("0x22 (GRAPH)"), "{error}");
    }

    #[test]
    fn every_required_record_is_missed() {
        for missing in 0..4 {
            let mut records = whole();
            records.remove(missing);
            let error = parse(&chain(&records)).unwrap_err();
            assert!(error.to_string().contains("missing"), "{error}");
        }
    }

    #[test]
    fn chains_that_run_off_stand_still_or_repeat_are_refused() {
        let good = chain(&whole());
        let end = whole().concat().len();
        for bytes in 0..end + 8 {
            assert!(parse(&good[..bytes]).is_err(), "{bytes} bytes");
        }
        assert!(parse(&good[..end + 8]).is_ok());
        for bytes in [0u16, 4, 7, 9, 0xFFFF, 0x8000] {
            let mut bad = good.clone();
            bad[4..6].copy_from_slice(&bytes.to_le_bytes());
            let error = parse(&bad).unwrap_err();
            assert_eq!(error.code(), Code::Protocol, "{bytes}: {error}");
        }
        let mut twice = whole();
        twice.push(time());
        assert!(
            parse(&chain(&twice))
                .unwrap_err()
                .to_string()
                .contains("twice")
        );
        assert!(parse(&[0xFF; 4096]).is_err());
    }

    #[test]
    fn no_more_of_a_chain_is_asked_for_than_tells_all() {
        let good = chain(&whole());
        let end = whole().concat().len();
        let enough = |chain: &[u8]| (0..chain.len()).find(|&bytes| is_whole(&chain[..bytes]));
        assert_eq!(enough(&good), Some(end + 8));
        let mut still = good.clone();
        still[4..6].copy_from_slice(&[4, 0]);
        assert_eq!(enough(&still), Some(8), "nothing can follow");
        for bytes in [9u16, 0xFFFF, 0x8000] {
            let mut bad = good.clone();
            bad[4..6].copy_from_slice(&bytes.to_le_bytes());
            let told = |chain: &[u8]| parse(chain).unwrap_err().to_string();
            let part = enough(&bad).unwrap_or(bad.len());
            assert_eq!(told(&bad[..part]), told(&bad), "{bytes}");
        }
    }

    #[test]
    fn absurd_counts_are_refused_with_their_name_and_value() {
        for count in [0, QUEUES_MAX + 1, u32::MAX] {
            let mut records = whole();
            records[0] = queues(count);
            let error = parse(&chain(&records)).unwrap_err().to_string();
            assert!(
                error.contains(&format!("QUEUES.count is {count:#x}")),
                "{error}"
            );
        }
        // (record, byte of it, value, name)
        for (at, byte, value, name) in [
            (0, 12, 1, "QUEUES.doorbell_stride"),
            (0, 17, 17, "QUEUES.depth_log2_max"),
            (0, 16, 13, "QUEUES.depth_log2_max"),
            (1, 19, 0, "MEMORY.hbm_bytes"),
            (1, 33, 1, "MEMORY.small_page"),
            (2, 15, 1, "IOVA.last"),
            (3, 15, 0xFF, "TIME.ticks_per_second"),
            (3, 19, 0xFF, "TIME.reset_queue_us"),
        ] {
            let mut records = whole();
            records[at][byte] = value;
            let error = parse(&chain(&records)).unwrap_err().to_string();
            assert!(error.contains(name), "{name}: {error}");
        }
    }

    #[test]
    fn a_profile_ring_that_cannot_be_is_refused_by_name() {
        let told = |words: [u32; 4]| {
            let body: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let mut records = whole();
            records.push(record(0x21, 1, &body));
            parse(&chain(&records)).map(drop)
        };
        assert!(told([0x1_8000, 512, 64, 1000]).is_ok());
        for bad in [
            [0x1_8000, 0, 64, 1000],
            [0x1_8000, 1, 64, 1000],
            [0x1_8000, 500, 64, 1000],
            [0x1_8000, 1 << 17, 64, 1000],
            [0x1_8000, u32::MAX, 64, 1000],
            [0x1_8000, 512, 32, 1000],
            [0x1_8000, 512, 64, 0],
            [0xFFFF_FFC0, 512, 64, 1000],
            [0x3_9000, 512, 64, 1000], // beyond BAR0's end
        ] {
            let error = told(bad).unwrap_err().to_string();
            assert!(error.contains("PROFILE.records"), "{bad:x?}: {error}");
        }
    }
}
