//! Client memory: which addresses it mapped, and how each is reached.
//!
//! One mapping a file, not one a region: thousands of regions may name one file, and a process has
//! few mappings and fewer descriptors. A file that its owner can shrink is never mapped, because a
//! touch beyond its end would kill this process: it is read and written through the descriptor.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::stat::fstat;
use nix::sys::uio::{pread, pwrite};

use crate::host::{Refusal, Stretch};
use crate::span::Span;

/// Smallest granule of a mapping.
pub const PAGE: u64 = 4096;
/// Most regions a client may map.
pub const REGIONS_MAX: usize = 1 << 20;

#[derive(Debug)]
enum Backing {
    /// A file that cannot shrink, mapped as a whole; the offset of the region's first byte.
    Mapped(Arc<MmapRaw>, u64),
    /// A file that can shrink: pread and pwrite.
    Copied(Arc<OwnedFd>, u64),
    /// No file: messages to the client.
    Asked,
}

#[derive(Debug)]
struct Region {
    bytes: u64,
    writable: bool,
    readable: bool,
    backing: Backing,
}

#[derive(Debug, Default)]
struct Table {
    regions: BTreeMap<u64, Region>,
    /// Files in use, by device, inode and whether they are mapped writable.
    files: HashMap<(u64, u64, bool), Weak<MmapRaw>>,
    copied: HashMap<(u64, u64), Weak<OwnedFd>>,
}

/// What a client mapped.
#[derive(Debug, Default)]
pub struct Dma {
    table: RwLock<Table>,
}

/// How a piece of relayed memory is reached.
#[derive(Debug)]
pub enum Way {
    /// Through this file, at this offset.
    File(Arc<OwnedFd>, u64),
    /// By asking the client.
    Client,
}

impl Dma {
    /// Maps a region.
    ///
    /// # Errors
    /// EINVAL for what is empty, misaligned, wrapping or not inside its file; EEXIST where one is
    /// mapped already; ENOSPC beyond the limit; what the kernel said.
    pub fn map(
        &self,
        address: u64,
        bytes: u64,
        readable: bool,
        writable: bool,
        file: Option<(OwnedFd, u64)>,
    ) -> Result<(), Errno> {
        let end = address.checked_add(bytes).ok_or(Errno::EINVAL)?;
        if bytes == 0 || !(address | bytes).is_multiple_of(PAGE) || !(readable || writable) {
            return Err(Errno::EINVAL);
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.regions.len() >= REGIONS_MAX {
            return Err(Errno::ENOSPC);
        }
        let before = table.regions.range(..end).next_back();
        if before.is_some_and(|(start, region)| start + region.bytes > address) {
            return Err(Errno::EEXIST);
        }
        let backing = match file {
            None => Backing::Asked,
            Some((file, offset)) => table.back(file, offset, bytes, writable)?,
        };
        table.regions.insert(
            address,
            Region {
                bytes,
                writable,
                readable,
                backing,
            },
        );
        Ok(())
    }

    /// Unmaps every region inside a range, and gives the bytes that were mapped there.
    ///
    /// # Errors
    /// EINVAL for a range that wraps, is empty, or would cut a region in two.
    pub fn unmap(&self, address: u64, bytes: u64) -> Result<u64, Errno> {
        // By its last byte: QEMU unmaps ranges that end at 2^64 exactly.
        let last = bytes
            .checked_sub(1)
            .and_then(|more| address.checked_add(more))
            .ok_or(Errno::EINVAL)?;
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let cut = |at: u64| {
            let before = table.regions.range(..at).next_back();
            before.is_some_and(|(start, region)| start + region.bytes > at)
        };
        if cut(address) || last.checked_add(1).is_some_and(cut) {
            return Err(Errno::EINVAL);
        }
        let inside: Vec<u64> = table
            .regions
            .range(address..=last)
            .map(|(&start, _)| start)
            .collect();
        let mut freed = 0;
        for start in inside {
            if let Some(region) = table.regions.remove(&start) {
                freed += region.bytes;
            }
        }
        table.forget_files();
        Ok(freed)
    }

    /// Unmaps everything.
    pub fn clear(&self) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Table::default();
    }

    /// Regions mapped now.
    #[must_use]
    pub fn regions(&self) -> usize {
        self.table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .regions
            .len()
    }

    /// Resolves the beginning of a range, as far as one region reaches.
    ///
    /// # Errors
    /// Why its first byte cannot be used so.
    pub fn stretch(&self, address: u64, bytes: u64, write: bool) -> Result<Stretch, Refusal> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let (start, region) = table.find(address).ok_or(Refusal::Unmapped)?;
        if write && !region.writable {
            return Err(Refusal::ReadOnly);
        }
        if !write && !region.readable {
            return Err(Refusal::Unmapped);
        }
        let inside = address - start;
        let bytes = bytes.min(region.bytes - inside);
        match &region.backing {
            Backing::Mapped(map, offset) => {
                let at = usize::try_from(offset + inside).map_err(|_| Refusal::Broken)?;
                let count = usize::try_from(bytes).map_err(|_| Refusal::Broken)?;
                if at.checked_add(count).is_none_or(|end| end > map.len()) {
                    return Err(Refusal::Broken);
                }
                // SAFETY: inside the mapping by the check above; it stays mapped while its region is
                // in the table, and regions go only while the engine is outside the gate.
                Ok(Stretch::Mapped(unsafe {
                    Span::new(map.as_mut_ptr().add(at), count)
                }))
            }
            Backing::Copied(..) | Backing::Asked => Ok(Stretch::Relayed(bytes)),
        }
    }

    /// How relayed memory is reached, and how far this way goes.
    ///
    /// # Errors
    /// As `stretch`.
    pub fn way(&self, address: u64, bytes: u64, write: bool) -> Result<(Way, u64), Refusal> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let (start, region) = table.find(address).ok_or(Refusal::Unmapped)?;
        if write && !region.writable {
            return Err(Refusal::ReadOnly);
        }
        let inside = address - start;
        let bytes = bytes.min(region.bytes - inside);
        match &region.backing {
            Backing::Copied(file, offset) => Ok((Way::File(file.clone(), offset + inside), bytes)),
            Backing::Asked => Ok((Way::Client, bytes)),
            Backing::Mapped(..) => Err(Refusal::Broken),
        }
    }

    /// Start and bytes of the region nearest to an address.
    #[must_use]
    pub fn nearest(&self, address: u64) -> Option<(u64, u64)> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let below = table.regions.range(..=address).next_back();
        let above = table.regions.range(address..).next();
        let gap = |&(&start, region): &(&u64, &Region)| {
            if address < start {
                start - address
            } else {
                address.saturating_sub(start + region.bytes - 1)
            }
        };
        [below, above]
            .into_iter()
            .flatten()
            .min_by_key(gap)
            .map(|(&start, region)| (start, region.bytes))
    }
}

impl Way {
    /// Reads all of `into` from a file.
    ///
    /// # Errors
    /// `Broken` when the file has become too short, or the kernel refused.
    pub fn read(file: &OwnedFd, offset: u64, into: &mut [u8]) -> Result<(), Refusal> {
        let mut done = 0;
        while done < into.len() {
            let at = i64::try_from(offset + done as u64).map_err(|_| Refusal::Broken)?;
            match pread(file.as_fd(), &mut into[done..], at) {
                Ok(0) => return Err(Refusal::Broken),
                Ok(count) => done += count,
                Err(Errno::EINTR) => {}
                Err(_) => return Err(Refusal::Broken),
            }
        }
        Ok(())
    }

    /// Writes all of `from` to a file, and never makes it longer.
    ///
    /// # Errors
    /// As `read`.
    pub fn write(file: &OwnedFd, offset: u64, from: &[u8]) -> Result<(), Refusal> {
        let end = offset
            .checked_add(from.len() as u64)
            .ok_or(Refusal::Broken)?;
        let size = fstat(file.as_fd()).map_err(|_| Refusal::Broken)?.st_size;
        if u64::try_from(size).map_err(|_| Refusal::Broken)? < end {
            return Err(Refusal::Broken);
        }
        let mut done = 0;
        while done < from.len() {
            let at = i64::try_from(offset + done as u64).map_err(|_| Refusal::Broken)?;
            match pwrite(file.as_fd(), &from[done..], at) {
                Ok(0) => return Err(Refusal::Broken),
                Ok(count) => done += count,
                Err(Errno::EINTR) => {}
                Err(_) => return Err(Refusal::Broken),
            }
        }
        Ok(())
    }
}

impl Table {
    fn find(&self, address: u64) -> Option<(u64, &Region)> {
        let (&start, region) = self.regions.range(..=address).next_back()?;
        (address - start < region.bytes).then_some((start, region))
    }

    fn back(
        &mut self,
        file: OwnedFd,
        offset: u64,
        bytes: u64,
        writable: bool,
    ) -> Result<Backing, Errno> {
        let stat = fstat(file.as_fd())?;
        let size = u64::try_from(stat.st_size).map_err(|_| Errno::EINVAL)?;
        if offset.checked_add(bytes).is_none_or(|end| end > size) || !offset.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let name = (stat.st_dev, stat.st_ino);
        let seals = fcntl(file.as_fd(), FcntlArg::F_GET_SEALS).map_or(0, |bits| bits);
        if !SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_SHRINK) {
            let known = self.copied.get(&name).and_then(Weak::upgrade);
            let file = known.unwrap_or_else(|| Arc::new(file));
            self.copied.insert(name, Arc::downgrade(&file));
            return Ok(Backing::Copied(file, offset));
        }
        let key = (name.0, name.1, writable);
        let known = self.files.get(&key).and_then(Weak::upgrade);
        let map = match known.filter(|map| map.len() as u64 >= offset + bytes) {
            Some(map) => map,
            None => {
                let length = usize::try_from(size).map_err(|_| Errno::ENOMEM)?;
                let mut options = MmapOptions::new();
                options.len(length);
                let map = if writable {
                    options.map_raw(&file)
                } else {
                    options.map_raw_read_only(&file)
                };
                let map = map.map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
                Arc::new(map)
            }
        };
        self.files.insert(key, Arc::downgrade(&map));
        Ok(Backing::Mapped(map, offset))
    }

    fn forget_files(&mut self) {
        // Amortised: only when most of them are gone.
        if self.files.len() + self.copied.len() > 64 {
            self.files.retain(|_, map| map.strong_count() > 0);
            self.copied.retain(|_, file| file.strong_count() > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_was_never_mapped_is_unmapped_up_to_the_last_address() {
        let dma = Dma::default();
        assert_eq!(
            dma.unmap(0xfef0_0000, 0xffff_ffff_0110_0000),
            Ok(0),
            "as QEMU asks for"
        );
        assert_eq!(
            dma.unmap(0xfef0_0000, 0xffff_ffff_0110_0001),
            Err(Errno::EINVAL),
            "wraps"
        );
        assert_eq!(dma.unmap(0x1000, 0), Err(Errno::EINVAL), "empty");
    }
}
