//! What a type1 IOMMU says of itself: page sizes, the addresses it maps, the mappings left.

use vfio_bindings::bindings::vfio;

/// Ranges believed; more are ignored with a warning.
const RANGES_MAX: usize = 256;
/// What is mapped where a kernel names no ranges (before 5.4): what every IOMMU's tables cover.
const RANGE_UNTOLD: (u64, u64) = (0, (1 << 39) - 1);

/// An address space's layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Smallest mapping granule in bytes.
    pub(super) page_bytes: u64,
    /// Addresses that may be mapped, ascending, bounds inclusive.
    pub(super) ranges: Vec<(u64, u64)>,
    /// Mappings that may exist at once.
    pub(super) maps_limit: usize,
}

/// Makes ranges fit to be used: whole, ascending, apart. The error names the one that is not.
pub(super) fn checked(ranges: Vec<(u64, u64)>) -> Result<Vec<(u64, u64)>, String> {
    let mut last = None;
    for &(start, end) in &ranges {
        if start > end || last.is_some_and(|last| start <= last) {
            return Err(format!("the range {start:#x} to {end:#x} out of order"));
        }
        last = Some(end);
    }
    if ranges.is_empty() {
        return Err("no range of addresses".into());
    }
    Ok(ranges)
}

/// Reads `vfio_iommu_type1_info` and its capabilities; the error says what is wrong with them.
pub(super) fn parse(body: &[u8]) -> Result<Layout, String> {
    let word = |at: usize| read(body, at).map(u32::from_ne_bytes);
    let long = |at: usize| read(body, at).map(u64::from_ne_bytes);
    let short = || "a short description".to_owned();
    let flags = word(4).ok_or_else(short)?;
    let sizes = long(8).ok_or_else(short)?;
    let mut layout = Layout {
        page_bytes: 4096,
        ranges: Vec::new(),
        maps_limit: 65_535, // the module's default, where it does not say
    };
    if flags & vfio::VFIO_IOMMU_INFO_PGSIZES != 0 && sizes != 0 {
        layout.page_bytes = 1 << sizes.trailing_zeros();
    }
    let mut at = match flags & vfio::VFIO_IOMMU_INFO_CAPS {
        0 => 0,
        _ => word(16).ok_or_else(short)? as usize,
    };
    // Offsets must rise, so the chain cannot loop.
    while at != 0 {
        let id = word(at).ok_or("a capability beyond its reply")? & 0xFFFF;
        let next = word(at + 4).ok_or("a capability beyond its reply")? as usize;
        let body = at + 8;
        match id {
            vfio::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE => {
                let count = word(body).ok_or("a short range capability")? as usize;
                if count > RANGES_MAX {
                    return Err(format!("{count} ranges of addresses"));
                }
                for number in 0..count {
                    let place = body + 8 + 16 * number;
                    let pair = long(place).zip(long(place + 8));
                    layout.ranges.push(pair.ok_or("a range beyond its reply")?);
                }
            }
            vfio::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL => {
                layout.maps_limit = word(body).ok_or("a short budget")? as usize;
            }
            _ => {}
        }
        if next != 0 && next <= at {
            return Err("capabilities that loop".into());
        }
        at = next;
    }
    if layout.ranges.is_empty() {
        layout.ranges.push(RANGE_UNTOLD);
    }
    layout.ranges = checked(layout.ranges)?;
    Ok(layout)
}

fn read<const N: usize>(body: &[u8], at: usize) -> Option<[u8; N]> {
    body.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of a reply, as the kernel of a PC writes them.
    fn reply(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    const HEAD: [u32; 6] = [0, 3, 0x4020_1000, 0, 24, 0];

    fn with_chain(chain: &[u32]) -> Vec<u8> {
        reply(&[&HEAD[..], chain].concat())
    }

    #[test]
    fn ranges_and_budget_are_read_from_the_chain() {
        // Two ranges around the interrupt window, an unknown capability, the budget.
        let chain = [
            0x0001_0001,
            24 + 48,
            2,
            0, //
            0,
            0,
            0xFEDF_FFFF,
            0, //
            0xFEF0_0000,
            0,
            0xFFFF_FFFF,
            0x7F, //
            0x0001_0002,
            24 + 56, //
            0x0001_0003,
            0,
            65_000,
        ];
        let layout = parse(&with_chain(&chain)).unwrap();
        assert_eq!(layout.page_bytes, 4096);
        assert_eq!(layout.maps_limit, 65_000);
        assert_eq!(
            layout.ranges,
            [(0, 0xFEDF_FFFF), (0xFEF0_0000, 0x7F_FFFF_FFFF)]
        );
    }

    #[test]
    fn a_kernel_that_tells_little_gets_careful_values() {
        let layout = parse(&reply(&[24, 0, 0, 0, 0, 0])).unwrap();
        assert_eq!(layout.page_bytes, 4096);
        assert_eq!(layout.maps_limit, 65_535);
        assert_eq!(layout.ranges, [RANGE_UNTOLD]);
    }

    #[test]
    fn every_hostile_chain_is_refused_in_words() {
        let cases: [(&str, Vec<u8>); 9] = [
            ("short", vec![0; 12]),
            ("beyond", reply(&[24, 2, 0, 0, 4096, 0])),
            ("beyond", reply(&[24, 2, 0, 0, u32::MAX, 0])),
            ("loop", with_chain(&[0x0001_0002, 24])),
            ("loop", with_chain(&[0x0001_0002, 8, 0, 0])),
            (
                "ranges of addresses",
                with_chain(&[0x0001_0001, 0, u32::MAX, 0]),
            ),
            ("beyond", with_chain(&[0x0001_0001, 0, 2, 0, 0, 0, 9, 0])),
            (
                "out of order",
                with_chain(&[0x0001_0001, 0, 1, 0, 9, 0, 8, 0]),
            ),
            (
                "out of order",
                with_chain(&[0x0001_0001, 0, 2, 0, 0, 0, 9, 0, 9, 0, 12, 0]),
            ),
        ];
        for (why, body) in cases {
            let error = parse(&body).unwrap_err();
            assert!(error.contains(why), "{error} is not about {why}");
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic_or_hang() {
        let mut seed = 0x9E37_79B9_7F4A_7C15u64;
        for length in 0..200usize {
            for _ in 0..200 {
                let body: Vec<u8> = (0..length)
                    .map(|_| {
                        seed ^= seed << 13;
                        seed ^= seed >> 7;
                        seed ^= seed << 17;
                        // Small values, which look like offsets and counts.
                        (seed % 64).to_le_bytes()[0]
                    })
                    .collect();
                if let Ok(layout) = parse(&body) {
                    assert!(!layout.ranges.is_empty());
                }
            }
        }
    }
}
