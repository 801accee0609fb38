//! The budget of mappings: whether buffers will all fit, said before the first is made.

use std::sync::Arc;

use vm_allocator::AllocPolicy;

use super::arena::{LONGEST, PLACE_MOST, arena_bytes};
use super::{DmaSpace, HUGE, memlock};
use crate::error::{Error, Result};

impl DmaSpace {
    /// Whether `buffers` more buffers of `bytes` each, made by the default options, will fit: mappings
    /// that the host permits (for a VFIO container 65,535, unless its module was told otherwise),
    /// addresses that host and device share, and memory that this process may pin. A buffer is one
    /// mapping, of whatever size; once half of the mappings are in use, those of at most 2 MiB share
    /// mappings of up to 64 MiB. What others take in the meantime is not foreseen, nor how addresses
    /// fall to pieces.
    ///
    /// # Errors
    /// `Memory`, with what is needed and what there is; `Invalid` where the sum overflows.
    pub fn fits(self: &Arc<Self>, buffers: usize, bytes: u64) -> Result<()> {
        let wish = Wish::new(self, buffers as u64, bytes).ok_or_else(|| Error::Invalid {
            what: format!("{buffers} buffers of {bytes:#x} bytes overflow the address space"),
        })?;
        // What arenas still have is tried only where it matters: it may take a while.
        wish.verdict(0).or_else(|error| match wish.places_there() {
            0 => Err(error),
            there => wish.verdict(there),
        })
    }
}

/// Buffers that are wanted, and what there is for them.
#[derive(Debug)]
struct Wish<'a> {
    space: &'a DmaSpace,
    count: u64,
    bytes: u64,
    /// Bytes of a place in an arena: its alignment is its size, so it has no less.
    place: u64,
    /// What a mapping of its own takes, in memory and in addresses.
    own: (u64, u64),
    /// How many of them get a mapping of their own.
    alone: u64,
    live: u64,
    arenas: usize,
    addresses: u64,
}

/// What is taken by so many mappings.
#[derive(Debug, Default)]
struct Sum {
    maps: u64,
    addresses: u64,
    pinned: u64,
    /// Buffers that there was no mapping for.
    left: u64,
    /// The last arena: its bytes, and the buffers in it.
    last: (u64, u64),
}

impl<'a> Wish<'a> {
    fn new(space: &'a DmaSpace, count: u64, bytes: u64) -> Option<Self> {
        let whole = bytes.checked_next_multiple_of(space.page)?;
        // In huge pages where it may come in such.
        let pinned = match whole >= HUGE {
            true => whole.checked_next_multiple_of(HUGE)?,
            false => whole,
        };
        let place = space.alignment(whole);
        // A guard page behind each.
        let span = pinned.checked_add(space.page)?;
        let span = span.checked_next_multiple_of(place)?;
        span.checked_mul(count)?;
        let books = space.lock();
        let live = books.live as u64;
        let before_scarce = (space.scarce_from() as u64).saturating_sub(live);
        let all = books.ranges.iter().map(|r| r.end() - r.base() + 1);
        let taken = live.saturating_mul(space.page).saturating_add(books.bytes);
        Some(Self {
            space,
            count,
            bytes,
            place,
            own: (pinned, span),
            alone: match whole <= PLACE_MOST {
                true => count.min(before_scarce),
                false => count,
            },
            live,
            arenas: books.arenas.count(),
            addresses: all.sum::<u64>().saturating_sub(taken),
        })
    }

    /// How many of those that get no mapping of their own find a place in the arenas there are.
    fn places_there(&self) -> u64 {
        let wanted = self.count - self.alone;
        if wanted == 0 {
            return 0;
        }
        let whole = self.bytes.next_multiple_of(self.space.page);
        let roomy = self.space.lock().arenas.with_room(whole);
        let mut found = 0;
        for mut books in roomy {
            let mut one = || books.allocate(whole, self.place, AllocPolicy::FirstMatch);
            while found < wanted && one().is_ok() {
                found += 1;
            }
        }
        found
    }

    /// What they take in at most `maps` mappings, where `there` have a place already.
    fn sum(&self, there: u64, maps: u64) -> Sum {
        let alone = self.alone.min(maps);
        let mut sum = Sum {
            maps: alone,
            addresses: alone.saturating_mul(self.own.1),
            pinned: alone.saturating_mul(self.own.0),
            left: self.count - alone - there,
            last: (0, 0),
        };
        let small = self.alone < self.count;
        let mut arenas = self.arenas;
        while small && sum.left > 0 && sum.maps < maps {
            let bytes = arena_bytes(arenas);
            let places = bytes / self.place;
            let more = match bytes {
                LONGEST => sum.left.div_ceil(places).min(maps - sum.maps),
                _ => 1,
            };
            sum.last = (
                bytes,
                sum.left.saturating_sub((more - 1) * places).min(places),
            );
            sum.left = sum.left.saturating_sub(more.saturating_mul(places));
            sum.maps += more;
            sum.addresses = sum
                .addresses
                .saturating_add(more.saturating_mul(bytes + HUGE));
            sum.pinned = sum.pinned.saturating_add(more.saturating_mul(bytes));
            arenas += 1;
        }
        sum
    }

    fn verdict(&self, there: u64) -> Result<()> {
        let (count, bytes) = (self.count, self.bytes);
        let maps = (self.space.limit as u64).saturating_sub(self.live);
        let sum = self.sum(there, u64::MAX);
        if sum.maps > maps {
            let larger = (bytes * count).div_ceil(maps.max(1));
            // Those with a mapping of their own grow with the limit, to half of it.
            let limit = self.live + (sum.maps - self.alone).saturating_mul(2).max(sum.maps);
            return Err(Error::Memory {
                what: format!(
                    "host memory in {} mappings, where {maps} more can be",
                    sum.maps
                ),
                needed: bytes * count,
                have: bytes * (count - self.sum(there, maps).left),
                hint: format!(
                    "fewer and larger buffers ({} bytes each), or modprobe vfio_iommu_type1 \
                     dma_entry_limit={limit}",
                    larger.next_multiple_of(HUGE),
                ),
            });
        }
        if sum.addresses > self.addresses {
            return Err(Error::Memory {
                what: format!("addresses for {count} buffers of {bytes} bytes"),
                needed: sum.addresses,
                have: self.addresses,
                hint: "fewer or smaller buffers: host and device share no more addresses".into(),
            });
        }
        let about = self.space.transport.describe();
        memlock::preflight(about, sum.pinned).or_else(|error| {
            // Where the last arena is too much, its buffers get mappings of their own.
            let (arena, inside) = sum.last;
            match inside > 0 && sum.maps - 1 + inside <= maps {
                true => memlock::preflight(about, sum.pinned - arena + inside * self.own.0),
                false => Err(error),
            }
        })
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
    fn gibibytes_by_the_hundred_fit_in_small_buffers_too() {
        let space = container(65_535);
        for bytes in [64 << 10, 1 << 20, 2 << 20, 4 << 20, 1 << 30] {
            let buffers = usize::try_from(128 * GIB / bytes).unwrap();
            space.fits(buffers, bytes).unwrap();
        }
        // Of odd sizes, which leave most between them.
        space.fits(1 << 20, (1 << 20) + 1).unwrap();
        space.fits(1 << 20, 1 << 20).unwrap();
        space.fits(1 << 19, 2 << 20).unwrap();
        assert_eq!(space.usage().maps, 0, "it only asked");
    }

    #[test]
    fn small_buffers_that_arenas_cannot_hold_either_are_refused_by_number() {
        let space = container(65_535);
        // Half of the mappings one by one, and the other half in arenas of 64 MiB: a little over 2 TiB.
        space.fits(1 << 20, 2 << 20).unwrap();
        let error = space.fits(1_100_000, 2 << 20).unwrap_err();
        assert_eq!(error.code(), Code::Memory);
        let text = error.to_string();
        assert!(text.contains("mappings, where 65535 more can be"), "{text}");
        let hint = error.hint().unwrap();
        let (_, limit) = hint.split_once("dma_entry_limit=").unwrap();
        let limit: usize = limit.parse().unwrap();
        container(limit).fits(1_100_000, 2 << 20).unwrap();
        assert!(limit < 70_000, "{limit}");
    }

    #[test]
    fn buffers_one_mapping_too_many_are_refused_with_the_size_that_would_do() {
        let space = container(65_535);
        let error = space.fits(65_536, 4 << 20).unwrap_err();
        assert_eq!(error.code(), Code::Memory, "{error}");
        let hint = error.hint().unwrap();
        assert!(hint.contains("(6291456 bytes each)"), "{hint}");
        space.fits(43_691, 6 << 20).unwrap();
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
