//! The played kernel's card: an emulated one, one connection an opening.

use std::ffi::c_int;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use jalapeno::error::{Code, Error, Result};
use jalapeno::transport::user::{Role, User};
use jalapeno::transport::{Area, CONFIG_REGION, HostRange, Protection, Transport};
use jalapeno::units::Iova;

use crate::calls::Answer;
use crate::kernel::Manners;

/// See the file's head.
#[derive(Debug)]
pub struct Card {
    way: User,
    bar0: u64,
    ids: Option<[u8; 4]>,
    /// Vectors that were taken; 0: MSI-X is off.
    taken: AtomicU32,
    busy_resets: AtomicU32,
    /// Doorbells that were rung by a write to the device's file.
    relayed: AtomicU32,
    mapped: AtomicU32,
    /// What the kernel raises: an error of the link, a wish to have the card back.
    told: Mutex<[Option<OwnedFd>; 2]>,
}

/// What a kernel says of an error.
fn errno(error: &Error) -> c_int {
    match error.code() {
        Code::Lost => libc::ENODEV,
        Code::Invalid => libc::EINVAL,
        _ => libc::EIO,
    }
}

/// The file behind memory of this process, by inode, and where in it the memory begins.
fn file_behind(at: u64) -> Option<(OwnedFd, u64)> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (offset, inode) = maps.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (low, high) = fields.next()?.split_once('-')?;
        let (low, high) = (hex(low)?, hex(high)?);
        let offset = hex(fields.nth(1)?)?;
        let inode: u64 = fields.nth(1)?.parse().ok()?;
        (low..high)
            .contains(&at)
            .then_some((offset + (at - low), inode))
    })?;
    let open = std::fs::read_dir("/proc/self/fd").ok()?.flatten();
    let fd = open
        .filter_map(|entry| entry.file_name().to_str()?.parse::<c_int>().ok())
        .find(|&fd| {
            let about = std::fs::metadata(format!("/proc/self/fd/{fd}"));
            about.is_ok_and(|about| std::os::unix::fs::MetadataExt::ino(&about) == inode)
        })?;
    // SAFETY: it was open a moment ago, and its owner is inside the ioctl that this answers.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    Some((fd.try_clone_to_owned().ok()?, offset))
}

impl Card {
    pub fn connect(socket: &Path, manners: &Manners) -> Result<Self> {
        Ok(Self {
            way: User::connect(socket, Role::Owner)?,
            bar0: manners.bar0,
            ids: manners.ids,
            taken: AtomicU32::new(0),
            busy_resets: AtomicU32::new(manners.busy_resets),
            relayed: AtomicU32::new(0),
            mapped: AtomicU32::new(0),
            told: Mutex::default(),
        })
    }

    pub fn region_bytes(&self, index: u32) -> u64 {
        match index {
            0 => self.bar0,
            CONFIG_REGION => 4096,
            bar => {
                let bars = self.way.describe().bars;
                bars.get(bar as usize).copied().unwrap_or(0)
            }
        }
    }

    /// Which region a place in the device's file is, and where in it.
    fn place(at: i64) -> (u32, u64) {
        let at = at.cast_unsigned();
        (
            u32::try_from(at >> 40).unwrap_or(u32::MAX),
            at & 0xFF_FFFF_FFFF,
        )
    }

    pub fn read(&self, at: i64, into: &mut [u8]) -> Answer {
        let (region, offset) = Self::place(at);
        if let (CONFIG_REGION, 0, Some(ids)) = (region, offset, self.ids) {
            into.copy_from_slice(&ids[..into.len().min(4)]);
        } else {
            let read = self.way.read(region, offset, into);
            read.map_err(|error| errno(&error))?;
        }
        Ok(c_int::try_from(into.len()).unwrap_or(c_int::MAX))
    }

    pub fn write(&self, at: i64, from: &[u8]) -> Answer {
        let (region, offset) = Self::place(at);
        if region == 2 {
            self.relayed.fetch_add(1, Ordering::SeqCst);
        }
        let written = self.way.write(region, offset, from);
        written.map_err(|error| errno(&error))?;
        Ok(c_int::try_from(from.len()).unwrap_or(c_int::MAX))
    }

    /// Doorbells that were no store until now.
    pub fn relayed(&self) -> u32 {
        self.relayed.load(Ordering::SeqCst)
    }

    /// Maps a part of a BAR. Whoever asked unmaps it.
    pub fn map_region(&self, at: i64, bytes: usize) -> std::result::Result<NonNull<u8>, c_int> {
        let (region, offset) = Self::place(at);
        let bytes = bytes as u64;
        let mapped = self.way.map_bar(region, Area { offset, bytes }, true);
        let mapping = mapped.map_err(|error| errno(&error))?;
        let base = mapping.base();
        std::mem::forget(mapping);
        Ok(base)
    }

    /// Maps memory: where it is in this process, its address for the card, its length.
    pub fn map(&self, (at, iova, bytes): (u64, u64, u64), writable: bool) -> Answer {
        let (file, offset) = file_behind(at).ok_or(libc::EFAULT)?;
        let range = HostRange {
            at: NonNull::new(at as *mut u8).ok_or(libc::EFAULT)?,
            bytes,
            file: Some((file.as_fd(), offset)),
        };
        let protection = match writable {
            true => Protection::ReadWrite,
            false => Protection::Read,
        };
        let mapped = self.way.map_dma(Iova(iova), range, protection);
        mapped.map_err(|error| errno(&error))?;
        self.mapped.fetch_add(1, Ordering::SeqCst);
        Ok(0)
    }

    pub fn unmap(&self, iova: u64, bytes: u64) -> Answer {
        let unmapped = self.way.unmap_dma(Iova(iova), bytes);
        unmapped.map_err(|error| errno(&error))?;
        self.mapped.fetch_sub(1, Ordering::SeqCst);
        Ok(0)
    }

    /// Mappings of host memory that there are.
    pub fn mapped(&self) -> u32 {
        self.mapped.load(Ordering::SeqCst)
    }

    pub fn set_irqs(&self, index: u32, start: u32, data: &[u32], manners: &Manners) -> Answer {
        // SAFETY: the library keeps its eventfds open over the call.
        let borrow = |fd: u32| unsafe { BorrowedFd::borrow_raw(fd.cast_signed()) };
        let fds: Vec<Option<BorrowedFd<'_>>> = data
            .iter()
            .map(|&fd| (fd != u32::MAX).then(|| borrow(fd)))
            .collect();
        if index == 3 || index == 4 {
            let fd = fds.first().copied().flatten();
            let own = fd.map(|fd| fd.try_clone_to_owned()).transpose();
            self.told.lock().unwrap()[index as usize - 3] = own.map_err(|_| libc::EMFILE)?;
            return Ok(0);
        }
        let end = start + u32::try_from(fds.len()).map_err(|_| libc::EINVAL)?;
        let taken = self.taken.load(Ordering::SeqCst);
        if index != 2 || end > manners.vectors || manners.cannot_add && taken > 0 && end > taken {
            return Err(libc::EINVAL);
        }
        if end > manners.to_be_had {
            return match manners.says_how_many {
                true => Ok(manners.to_be_had.cast_signed()),
                false => Err(libc::ENOSPC),
            };
        }
        let mut given = (start..).zip(&fds).filter(|(_, fd)| fd.is_some());
        if given.any(|(vector, _)| vector >= manners.to_be_given) {
            return Err(libc::ENOSPC);
        }
        self.taken.fetch_max(end, Ordering::SeqCst);
        let set = self.way.set_vectors(start, &fds);
        set.map(|()| 0).map_err(|error| errno(&error))
    }

    pub fn reset(&self) -> Answer {
        self.way.reset().map(|()| 0).map_err(|error| errno(&error))
    }

    pub fn hot_reset(&self, manners: &Manners) -> Answer {
        let left = self.busy_resets.load(Ordering::SeqCst);
        if left > 0 {
            let next = if manners.busy_resets == u32::MAX {
                left
            } else {
                left - 1
            };
            self.busy_resets.store(next, Ordering::SeqCst);
            return Err(libc::EBUSY);
        }
        self.reset()
    }

    /// Tells the library something by the eventfd of that interrupt: 3, an error; 4, a wish.
    pub fn tell(&self, index: usize) {
        let told = self.told.lock().unwrap();
        let fd = told[index - 3].as_ref().expect("it watches");
        nix::unistd::write(fd, &1u64.to_ne_bytes()).expect("an eventfd");
    }
}
