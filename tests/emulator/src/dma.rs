//! Client memory: which addresses it mapped, and how each is reached.
//!
//! One mapping a file, not one a region: thousands of regions may name one file, and a process has
//! few mappings and fewer descriptors. A file that its owner can shrink is never mapped, because a
//! touch beyond its end would kill this process: it is read and written through the descriptor.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statfs::{FsType, HUGETLBFS_MAGIC, TMPFS_MAGIC, fstatfs};
use nix::sys::uio::{pread, pwrite};

use crate::host::{Refusal, Stretch};
use crate::span::Span;

/// Smallest granule of a mapping.
pub const PAGE: u64 = 4096;
/// Most regions a client may map.
pub const REGIONS_MAX: usize = 1 << 20;
/// Most mappings of a client's files: the kernel gives a process 65,530 of all kinds.
pub const MAPPINGS_MAX: usize = 49_152;
/// Most files of a client that are kept open, because they can shrink.
pub const OPEN_FILES_MAX: usize = 512;

/// A mapping of a whole file, counted while it lives.
#[derive(Debug)]
struct Mapping {
    map: MmapRaw,
    alive: Arc<AtomicUsize>,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
enum Backing {
    /// A file that cannot shrink, mapped as a whole; the offset of the region's first byte.
    Mapped(Arc<Mapping>, u64),
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
    files: HashMap<(u64, u64, bool), Weak<Mapping>>,
    /// Files kept open, by device, inode and whether they were opened for writing.
    copied: HashMap<(u64, u64, bool), Weak<OwnedFd>>,
    /// Mappings alive.
    mappings: Arc<AtomicUsize>,
    /// How many names of files may gather before those that are gone are swept out.
    sweep: usize,
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
    /// EINVAL for what is empty, misaligned, wrapping, not inside its file, or a file that is not
    /// memory; EACCES for a file that is open for reading only and to be written; EEXIST where a
    /// region is mapped already; ENOSPC beyond the limits; what the kernel said.
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
                let map = &map.map;
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
        if !write && !region.readable {
            return Err(Refusal::Unmapped);
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
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(Errno::EINVAL);
        }
        check_memory(&file, writable)?;
        let size = u64::try_from(stat.st_size).map_err(|_| Errno::EINVAL)?;
        if offset.checked_add(bytes).is_none_or(|end| end > size) || !offset.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let name = (stat.st_dev, stat.st_ino, writable);
        let seals = fcntl(file.as_fd(), FcntlArg::F_GET_SEALS).map_or(0, |bits| bits);
        if !SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_SHRINK) {
            return Ok(Backing::Copied(self.keep_open(name, file)?, offset));
        }
        let known = self.files.get(&name).and_then(Weak::upgrade);
        let mapping = match known.filter(|known| known.map.len() as u64 >= offset + bytes) {
            Some(mapping) => mapping,
            None => {
                let mapping = Arc::new(self.map_whole(&file, size, writable)?);
                self.files.insert(name, Arc::downgrade(&mapping));
                mapping
            }
        };
        Ok(Backing::Mapped(mapping, offset))
    }

    fn keep_open(&mut self, name: (u64, u64, bool), file: OwnedFd) -> Result<Arc<OwnedFd>, Errno> {
        if let Some(known) = self.copied.get(&name).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let open = self.copied.values();
        if open.filter(|file| file.strong_count() > 0).count() >= OPEN_FILES_MAX {
            return Err(Errno::ENOSPC);
        }
        let file = Arc::new(file);
        self.copied.insert(name, Arc::downgrade(&file));
        Ok(file)
    }

    fn map_whole(&self, file: &OwnedFd, size: u64, writable: bool) -> Result<Mapping, Errno> {
        if self.mappings.load(Ordering::Relaxed) >= MAPPINGS_MAX {
            return Err(Errno::ENOSPC);
        }
        let length = usize::try_from(size).map_err(|_| Errno::ENOMEM)?;
        let mut options = MmapOptions::new();
        options.len(length);
        let map = if writable {
            options.map_raw(file)
        } else {
            options.map_raw_read_only(file)
        };
        let map = map.map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
        self.mappings.fetch_add(1, Ordering::Relaxed);
        Ok(Mapping {
            map,
            alive: Arc::clone(&self.mappings),
        })
    }

    fn forget_files(&mut self) {
        // Amortised: only when there are twice as many as the last time.
        if self.files.len() + self.copied.len() > self.sweep.max(64) {
            self.files.retain(|_, map| map.strong_count() > 0);
            self.copied.retain(|_, file| file.strong_count() > 0);
            self.sweep = 2 * (self.files.len() + self.copied.len());
        }
    }
}

/// Only memory is taken. A file system that a client serves itself, or one behind a network, could
/// keep us waiting for as long as it likes.
fn check_memory(file: &OwnedFd, writable: bool) -> Result<(), Errno> {
    const MEMORY: [FsType; 2] = [TMPFS_MAGIC, HUGETLBFS_MAGIC];
    if !MEMORY.contains(&fstatfs(file)?.filesystem_type()) {
        return Err(Errno::EINVAL);
    }
    let flags = OFlag::from_bits_truncate(fcntl(file.as_fd(), FcntlArg::F_GETFL)?);
    if writable && flags & OFlag::O_ACCMODE == OFlag::O_RDONLY {
        return Err(Errno::EACCES);
    }
    Ok(())
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

    #[test]
    fn a_million_regions_are_taken_and_not_one_more() {
        let dma = Dma::default();
        let map = |index: usize| dma.map(index as u64 * PAGE, PAGE, true, true, None);
        for index in 0..REGIONS_MAX {
            map(index).unwrap();
        }
        assert_eq!(map(REGIONS_MAX), Err(Errno::ENOSPC));
        assert_eq!(dma.unmap(0, PAGE), Ok(PAGE));
        map(REGIONS_MAX).unwrap();
        dma.clear();
        assert_eq!(dma.regions(), 0);
    }

    #[test]
    fn the_table_is_searched_by_interval() {
        let dma = Dma::default();
        for start in [0x1_0000, 0x3_0000, 0x5_0000] {
            dma.map(start, 0x1_0000, true, start != 0x3_0000, None)
                .unwrap();
        }
        let way = |at, bytes, write| dma.way(at, bytes, write).map(|(_, bytes)| bytes);
        assert_eq!(way(0x1_0000, 0x100, false), Ok(0x100));
        assert_eq!(way(0x1_FFFF, 0x100, false), Ok(1), "as far as one reaches");
        assert_eq!(way(0xFFFF, 1, false), Err(Refusal::Unmapped));
        assert_eq!(way(0x2_0000, 1, false), Err(Refusal::Unmapped));
        assert_eq!(way(0x3_8000, 1, true), Err(Refusal::ReadOnly));
        assert_eq!(dma.nearest(0x2_FFFF), Some((0x3_0000, 0x1_0000)));
        assert_eq!(dma.nearest(0x7_0000), Some((0x5_0000, 0x1_0000)));
        for (address, bytes, errno) in [
            (0x1_1000, 0x1000, Errno::EINVAL),
            (0x0, 0x1_1000, Errno::EINVAL),
            (0x1_1000, 0x1_F000, Errno::EINVAL),
        ] {
            assert_eq!(dma.unmap(address, bytes), Err(errno), "cuts a region");
        }
        assert_eq!(dma.unmap(0, 0x4_0000), Ok(0x2_0000), "both inside");
        assert_eq!(dma.regions(), 1);
    }
}
