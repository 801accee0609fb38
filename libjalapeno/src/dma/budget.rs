//! The budget of mappings: whether buffers will all fit, said before the first is made.

use std::sync::{Arc, PoisonError};

use super::{DmaSpace, HUGE, memlock};
use crate::error::{Error, Result};

impl DmaSpace {
    /// Whether `buffers` more buffers of `bytes` each will fit: mappings that the host permits (for
    /// a VFIO container 65,535, unless its module was told otherwise), addresses that host and
    /// device share, and memory that this process may pin. A buffer is one mapping, of whatever
    /// size. What others take in the meantime is not foreseen, nor how addresses fall to pieces.
    ///
    /// # Errors
    /// `Memory`, with what is needed and what there is; `Invalid` where the sum overflows.
    pub fn fits(self: &Arc<Self>, buffers: usize, bytes: u64) -> Result<()> {
        let count = buffers as u64;
        let overflow = || Error::Invalid {
            what: format!("{buffers} buffers of {bytes:#x} bytes overflow the address space"),
        };
        // A guard page behind each.
        let spaced = bytes
            .checked_next_multiple_of(self.page)
            .and_then(|bytes| bytes.checked_add(self.page));
        let align = bytes.checked_next_power_of_two().unwrap_or(HUGE);
        let each =
            spaced.and_then(|bytes| bytes.checked_next_multiple_of(align.clamp(self.page, HUGE)));
        let needed = each.and_then(|each| each.checked_mul(count));
        let needed = needed.ok_or_else(overflow)?;
        let (live, room) = {
            let space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
            let total = space.ranges.iter().map(|r| r.end() - r.base() + 1);
            (space.live, total.sum::<u64>().saturating_sub(space.bytes))
        };
        let maps = self.limit.saturating_sub(live);
        if buffers > maps {
            let larger = (bytes * count).div_ceil(maps.max(1) as u64);
            return Err(Error::Memory {
                what: format!("host memory in {buffers} mappings, where {maps} more can be"),
                needed: bytes * count,
                have: bytes * maps as u64,
                hint: format!(
                    "fewer and larger buffers ({} bytes each), or modprobe vfio_iommu_type1 \
                     dma_entry_limit={}",
                    larger.next_multiple_of(HUGE),
                    live + buffers,
                ),
            });
        }
        if needed > room {
            return Err(Error::Memory {
                what: format!("addresses for {buffers} buffers of {bytes} bytes"),
                needed,
                have: room,
                hint: "fewer or smaller buffers: host and device share no more addresses".into(),
            });
        }
        // In huge pages where it may come in such.
        let pinned = match bytes >= HUGE {
            true => bytes.checked_next_multiple_of(HUGE),
            false => bytes.checked_next_multiple_of(self.page),
        };
        let pinned = pinned.and_then(|pinned| pinned.checked_mul(count));
        memlock::preflight(self.transport.describe(), pinned.ok_or_else(overflow)?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::dma::{DmaSpace, HostMemory, HostOptions};
    use crate::error::Code;
    use crate::played;
    use crate::transport::Protection;

    const GIB: u64 = 1 << 30;
    const TIB: u64 = 1 << 40;

    /// What a PC's IOMMU permits to a container: all but the window for interrupts.
    fn container(limit: usize) -> Arc<DmaSpace> {
        let ranges = vec![(0, 0xFEDF_FFFF), (0xFEF0_0000, (1 << 48) - 1)];
        let transport = played::host(ranges, limit);
        Arc::new(DmaSpace::new(&transport, (1 << 47) - 1).unwrap())
    }

    #[test]
    fn a_tebibyte_fits_in_buffers_of_16_mib_and_is_refused_in_smaller_ones_by_number() {
        let space = container(65_535);
        space.fits(1024, GIB).unwrap();
        space.fits(65_535, TIB / 65_536).unwrap();
        let error = space.fits(262_144, TIB / 262_144).unwrap_err();
        assert_eq!(error.code(), Code::Memory);
        let text = error.to_string();
        assert!(
            text.contains("in 262144 mappings, where 65535 more"),
            "{text}"
        );
        let hint = error.hint().unwrap();
        assert!(hint.contains("dma_entry_limit=262144"), "{hint}");
        assert_eq!(space.usage().maps, 0, "refused before the first map");
    }

    #[test]
    fn buffers_one_mapping_too_many_are_refused_with_the_size_that_would_do() {
        let space = container(65_535);
        let error = space.fits(65_536, 2 << 20).unwrap_err();
        assert_eq!(error.code(), Code::Memory, "{error}");
        let hint = error.hint().unwrap();
        assert!(hint.contains("(4194304 bytes each)"), "{hint}");
        space.fits(32_768, 4 << 20).unwrap();
        assert!(space.fits(65_536, 4 << 20).is_err());
        let space = container(999);
        let _kept: Vec<_> = (0..999)
            .map(|_| space.reserve(4096).expect("it is within the limit"))
            .collect();
        let error = space.reserve(4096).unwrap_err().to_string();
        assert!(error.contains("999 mappings are in use"), "{error}");
    }

    #[test]
    fn mappings_are_in_the_iommus_pages() {
        let page = 64 << 10;
        let transport = played::host_with_pages(page);
        let space = Arc::new(DmaSpace::new(&transport, u64::MAX).unwrap());
        let small = HostMemory::allocate(&space, 1, HostOptions::default()).unwrap();
        let next = HostMemory::allocate(&space, page + 1, HostOptions::default()).unwrap();
        assert_eq!(space.usage().bytes, 3 * page);
        assert_eq!((small.iova().0 % page, next.iova().0 % page), (0, 0));
        assert!(
            small.iova().0.abs_diff(next.iova().0) >= 2 * page,
            "a guard"
        );
        let at = std::ptr::NonNull::<u8>::without_provenance(std::num::NonZero::new(4096).unwrap());
        // SAFETY: refused before it is looked at.
        let error = unsafe { HostMemory::register(&space, at, 4096, Protection::Read) };
        let error = error.unwrap_err().to_string();
        assert!(error.contains("multiples of 65536"), "{error}");
        for nonsense in [3 << 12, 1 << 30] {
            let transport = played::host_with_pages(nonsense);
            assert!(
                DmaSpace::new(&transport, u64::MAX).is_err(),
                "{nonsense:#x}"
            );
        }
    }

    #[test]
    fn what_was_promised_is_there_to_the_last_mapping() {
        let space = container(3999);
        let bytes = 128 * GIB / 2000;
        space.fits(2000, bytes).unwrap();
        let leases: Vec<_> = (0..2000)
            .map(|_| space.reserve(bytes).expect("it was promised"))
            .collect();
        assert_eq!(space.usage().bytes, bytes * 2000);
        space.fits(1999, bytes).unwrap();
        let error = space.fits(2000, bytes).unwrap_err();
        assert!(error.to_string().contains("1999 more"), "{error}");
        drop(leases);
    }

    #[test]
    fn more_than_the_addresses_and_more_than_64_bits_are_refused() {
        let space = container(65_535);
        let error = space.fits(256, TIB).unwrap_err();
        assert_eq!(error.code(), Code::Memory, "{error}");
        for (buffers, bytes) in [(2, u64::MAX / 2), (usize::MAX, GIB), (1, 1 << 62)] {
            assert!(space.fits(buffers, bytes).is_err(), "{buffers} {bytes:#x}");
        }
    }
}
