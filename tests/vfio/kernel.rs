//! A kernel that is played: VFIO by group and by iommufd over an emulated card, as far as the
//! library asks for it, and what a kernel may refuse or say wrongly.

use std::collections::HashMap;
use std::ffi::{c_int, c_ulong, c_void};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jalapeno::error::Code;

use crate::calls::Answer;
use crate::card::Card;

/// Numbers of requests, by hand from linux/vfio.h and linux/iommufd.h.
mod number {
    pub const API_VERSION: u64 = 0x3B64;
    pub const CHECK_EXTENSION: u64 = 0x3B65;
    pub const SET_IOMMU: u64 = 0x3B66;
    pub const GROUP_STATUS: u64 = 0x3B67;
    pub const SET_CONTAINER: u64 = 0x3B68;
    pub const DEVICE_FD: u64 = 0x3B6A;
    pub const DEVICE_INFO: u64 = 0x3B6B;
    pub const REGION_INFO: u64 = 0x3B6C;
    pub const IRQ_INFO: u64 = 0x3B6D;
    pub const SET_IRQS: u64 = 0x3B6E;
    pub const RESET: u64 = 0x3B6F;
    /// Of a container IOMMU_GET_INFO.
    pub const HOT_RESET_INFO: u64 = 0x3B70;
    /// Of a container MAP_DMA.
    pub const HOT_RESET: u64 = 0x3B71;
    pub const UNMAP: u64 = 0x3B72;
    pub const BIND: u64 = 0x3B76;
    pub const ATTACH: u64 = 0x3B77;
    pub const IOAS_ALLOC: u64 = 0x3B81;
    pub const IOAS_RANGES: u64 = 0x3B84;
    pub const IOAS_MAP: u64 = 0x3B85;
    pub const IOAS_UNMAP: u64 = 0x3B86;
}

/// What this kernel is like.
#[derive(Clone, Debug)]
pub struct Manners {
    /// Vectors of the card's MSI-X, as told.
    pub vectors: u32,
    /// Vectors that there are to be had.
    pub to_be_had: u32,
    /// Those below this can be given to an eventfd: processors have vectors free for them.
    pub to_be_given: u32,
    /// How it says that there are fewer: how many, or ENOSPC.
    pub says_how_many: bool,
    /// Vectors cannot be added (kernels before 6.5).
    pub cannot_add: bool,
    /// Length of BAR0.
    pub bar0: u64,
    /// Region descriptions have capabilities that lead to themselves.
    pub loops: bool,
    /// Of the doorbells' BAR only the first page and the third can be mapped.
    pub sparse: bool,
    /// What configuration space begins with, where that is not the card's own.
    pub ids: Option<[u8; 4]>,
    /// Hot resets that meet a reader first.
    pub busy_resets: u32,
    /// BIND_IOMMUFD gives this error.
    pub bind_fails: Option<c_int>,
    /// Mappings that a container may have, where it says so.
    pub entries: Option<u32>,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            vectors: 33,
            to_be_had: 33,
            to_be_given: 33,
            says_how_many: true,
            cannot_add: false,
            bar0: 256 << 10,
            loops: false,
            sparse: false,
            ids: None,
            busy_resets: 0,
            bind_fails: None,
            entries: None,
        }
    }
}

/// What there is to be asked.
#[derive(Debug, Default)]
struct Played {
    root: PathBuf,
    socket: PathBuf,
    manners: Manners,
    cards: HashMap<RawFd, Arc<Card>>,
    /// The card that a container or an iommufd maps memory for.
    current: Option<Arc<Card>>,
}

static PLAYED: Mutex<Option<Played>> = Mutex::new(None);
static CALLS: AtomicU64 = AtomicU64::new(0);
static FAILING: AtomicU64 = AtomicU64::new(0);
/// The request that was made to fail.
static FAILED: AtomicU64 = AtomicU64::new(0);

fn played() -> MutexGuard<'static, Option<Played>> {
    PLAYED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on files below `root` are this machine's, and the card is behind `socket`.
pub fn begin(root: PathBuf, socket: PathBuf, manners: Manners) {
    fail(0);
    *played() = Some(Played {
        root,
        socket,
        manners,
        ..Played::default()
    });
}

/// Nothing is played any more.
pub fn end() {
    let gone = played().take();
    drop(gone); // its cards close sockets, which comes back to `closed`
}

/// Counts from 0, and makes request `number` fail with EIO; 0: none.
pub fn fail(number: u64) {
    CALLS.store(0, Ordering::SeqCst);
    FAILED.store(0, Ordering::SeqCst);
    FAILING.store(number, Ordering::SeqCst);
}

/// From now on so many vectors can be given to an eventfd.
pub fn gives(vectors: u32) {
    if let Some(played) = played().as_mut() {
        played.manners.to_be_given = vectors;
    }
}

/// How many requests since the last `fail`.
pub fn calls() -> u64 {
    CALLS.load(Ordering::SeqCst)
}

/// Whether the request that failed was one to unmap memory.
pub fn failed_to_unmap() -> bool {
    [number::UNMAP, number::IOAS_UNMAP].contains(&FAILED.load(Ordering::SeqCst))
}

/// The card that is open now.
pub fn current() -> Option<Arc<Card>> {
    played().as_ref()?.current.clone()
}

/// The card behind a descriptor.
pub fn card(fd: c_int) -> Option<Arc<Card>> {
    played().as_ref()?.cards.get(&fd).cloned()
}

/// A descriptor is closed.
pub fn closed(fd: c_int) {
    let gone = played().as_mut().and_then(|played| {
        let gone = played.cards.remove(&fd)?;
        played.current.take_if(|card| Arc::ptr_eq(card, &gone));
        Some(gone)
    });
    drop(gone); // outside the lock: it closes a socket
}

/// What a file of the machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Container,
    Group,
    Iommufd,
    Device,
}

fn kind(fd: c_int) -> Option<(Kind, Manners, PathBuf)> {
    let guard = played();
    let played = guard.as_ref()?;
    let told = (played.manners.clone(), played.socket.clone());
    if played.cards.contains_key(&fd) {
        return Some((Kind::Device, told.0, told.1));
    }
    let path = std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
    let kind = match path.strip_prefix(&played.root).ok()?.to_str()? {
        "dev/vfio/vfio" => Kind::Container,
        "dev/vfio/7" => Kind::Group,
        "dev/iommu" => Kind::Iommufd,
        "dev/vfio/devices/vfio0" => Kind::Device,
        _ => return None,
    };
    Some((kind, told.0, told.1))
}

/// Answers a request about one of the machine's files; `None`: it is about another.
pub fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> Option<Answer> {
    let (kind, manners, socket) = kind(fd)?;
    if CALLS.fetch_add(1, Ordering::SeqCst) + 1 == FAILING.load(Ordering::SeqCst) {
        FAILED.store(request, Ordering::SeqCst);
        return Some(Err(libc::EIO));
    }
    Some(match kind {
        Kind::Container => container(request, argument, &manners),
        Kind::Group => group(request, argument, &socket, &manners),
        Kind::Iommufd => iommufd(request, argument),
        Kind::Device if request == number::BIND => bind(fd, argument, &socket, &manners),
        Kind::Device => match card(fd) {
            Some(card) => device(&card, request, argument, &manners),
            None => Err(libc::EINVAL),
        },
    })
}

/// The structure of a request, as words.
fn words<'a>(argument: *mut c_void, count: usize) -> &'a mut [u32] {
    // SAFETY: the library promises that the structure is as long as the request says.
    unsafe { std::slice::from_raw_parts_mut(argument.cast::<u32>(), count) }
}

fn long(words: &[u32], at: usize) -> u64 {
    u64::from(words[at]) | u64::from(words[at + 1]) << 32
}

fn put(words: &mut [u32], at: usize, value: u64) {
    words[at] = u32::try_from(value & 0xFFFF_FFFF).unwrap();
    words[at + 1] = u32::try_from(value >> 32).unwrap();
}

/// A new opening of the card.
fn connect(socket: &std::path::Path, manners: &Manners) -> Result<Arc<Card>, c_int> {
    match Card::connect(socket, manners) {
        Ok(card) => Ok(Arc::new(card)),
        Err(error) if error.code() == Code::Busy => Err(libc::EBUSY),
        Err(_) => Err(libc::ENODEV),
    }
}

fn adopt(fd: RawFd, card: Arc<Card>) {
    if let Some(played) = played().as_mut() {
        played.current = Some(Arc::clone(&card));
        played.cards.insert(fd, card);
    }
}

fn container(request: u64, argument: *mut c_void, manners: &Manners) -> Answer {
    match request {
        number::API_VERSION | number::SET_IOMMU => Ok(0),
        number::CHECK_EXTENSION => Ok(1),
        number::HOT_RESET_INFO => {
            let info = words(argument, 6);
            let room = info[0];
            info[..4].copy_from_slice(&[24, 1, 0x4020_1000, 0]);
            if let Some(entries) = manners.entries {
                (info[0], info[1], info[4]) = (36, 3, 24);
                if room >= 36 {
                    // The one capability: how many mappings there may be.
                    words(argument, 9)[6..].copy_from_slice(&[0x0001_0003, 0, entries]);
                } else {
                    info[4] = 0;
                }
            }
            Ok(0)
        }
        number::HOT_RESET => {
            let map = words(argument, 8);
            let range = (long(map, 2), long(map, 4), long(map, 6));
            let card = current().ok_or(libc::ENODEV)?;
            if manners.entries.is_some_and(|most| card.mapped() >= most) {
                return Err(libc::ENOSPC);
            }
            card.map(range, map[1] & 2 != 0)
        }
        number::UNMAP => {
            let unmap = words(argument, 6);
            let done = current().map(|card| card.unmap(long(unmap, 2), long(unmap, 4)));
            // The device is closed: the container has let its memory go, or does so now.
            done.unwrap_or(Ok(0))
        }
        _ => Err(libc::ENOTTY),
    }
}

fn group(
    request: u64,
    argument: *mut c_void,
    socket: &std::path::Path,
    manners: &Manners,
) -> Answer {
    match request {
        number::GROUP_STATUS => {
            words(argument, 2)[1] = 1;
            Ok(0)
        }
        number::SET_CONTAINER => Ok(0),
        number::DEVICE_FD => {
            let card = connect(socket, manners)?;
            let file = std::fs::File::open("/dev/null").map_err(|_| libc::EMFILE)?;
            let fd = std::os::fd::IntoRawFd::into_raw_fd(file);
            adopt(fd, card);
            Ok(fd)
        }
        _ => Err(libc::ENOTTY),
    }
}

fn bind(fd: c_int, argument: *mut c_void, socket: &std::path::Path, manners: &Manners) -> Answer {
    if let Some(errno) = manners.bind_fails {
        return Err(errno);
    }
    // One that is held by another opener is an argument that makes no sense.
    let card = connect(socket, manners).map_err(|errno| match errno {
        libc::EBUSY => libc::EINVAL,
        other => other,
    })?;
    adopt(fd, card);
    words(argument, 4)[3] = 1;
    Ok(0)
}

fn iommufd(request: u64, argument: *mut c_void) -> Answer {
    match request {
        number::IOAS_ALLOC => {
            words(argument, 3)[2] = 1;
            Ok(0)
        }
        number::IOAS_RANGES => {
            let ask = words(argument, 8);
            let ranges = words(long(ask, 4) as *mut c_void, 4);
            put(ranges, 0, 0);
            put(ranges, 2, (1 << 39) - 1);
            ask[2] = 1;
            put(ask, 6, 4096);
            Ok(0)
        }
        number::IOAS_MAP => {
            let map = words(argument, 10);
            let range = (long(map, 4), long(map, 8), long(map, 6));
            current().ok_or(libc::ENODEV)?.map(range, map[1] & 2 != 0)
        }
        number::IOAS_UNMAP => {
            let unmap = words(argument, 6);
            let done = current().map(|card| card.unmap(long(unmap, 2), long(unmap, 4)));
            done.unwrap_or(Ok(0))
        }
        _ => Err(libc::ENOTTY),
    }
}

fn device(card: &Card, request: u64, argument: *mut c_void, manners: &Manners) -> Answer {
    match request {
        number::ATTACH => Ok(0),
        number::DEVICE_INFO => {
            words(argument, 4)[1..4].copy_from_slice(&[3, 9, 5]);
            Ok(0)
        }
        number::REGION_INFO => {
            let head = words(argument, 3);
            let (room, index) = (head[0], head[2]);
            let bytes = card.region_bytes(index);
            // A capability of an unknown kind whose next one is itself; or a sparse map of two areas.
            let (kind, areas): (&[u32], &[[u64; 2]]) = match index {
                0 if manners.loops => (&[0x0001_0063, 32], &[]),
                2 if manners.sparse => (&[0x0001_0001, 0, 2, 0], &[[0, 4096], [8192, 4096]]),
                _ => (&[], &[]),
            };
            let end = 8 + kind.len() + 4 * areas.len();
            let info = words(argument, 8);
            info[0] = u32::try_from(4 * end).unwrap_or(u32::MAX);
            info[1] = if kind.is_empty() { 3 } else { 3 | 4 | 8 };
            info[3] = if kind.is_empty() { 0 } else { 32 };
            put(info, 4, bytes);
            put(info, 6, u64::from(index) << 40);
            if room >= info[0] {
                let info = words(argument, end);
                info[8..8 + kind.len()].copy_from_slice(kind);
                for (number, area) in areas.iter().flatten().enumerate() {
                    put(info, 8 + kind.len() + 2 * number, *area);
                }
            }
            Ok(0)
        }
        number::IRQ_INFO => {
            let info = words(argument, 4);
            let fixed = if manners.cannot_add { 8 } else { 0 };
            let (flags, count) = match info[2] {
                2 => (1 | fixed, manners.vectors),
                3 | 4 => (1, 1),
                _ => (0, 0),
            };
            (info[1], info[3]) = (flags, count);
            Ok(0)
        }
        number::SET_IRQS => {
            let head = words(argument, 5);
            let (index, start, count) = (head[2], head[3], head[4]);
            let data = &words(argument, 5 + count as usize)[5..];
            card.set_irqs(index, start, data, manners)
        }
        number::RESET => card.reset(),
        number::HOT_RESET_INFO => {
            words(argument, 3)[2] = 1;
            let entry = words(argument, 5);
            // Bus 2, slot 0, function 0: the card alone.
            entry[3..5].copy_from_slice(&[7, u32::from_ne_bytes([0, 0, 2, 0])]);
            Ok(0)
        }
        number::HOT_RESET => card.hot_reset(manners),
        _ => Err(libc::ENOTTY),
    }
}
