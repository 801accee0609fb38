//! The vfio-user transport: a PCI function behind a Unix socket.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use jalapeno_wire as wire;
use memmap2::{MmapOptions, MmapRaw};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use zerocopy::{FromBytes, IntoBytes};

use super::socket::{Failure, Socket};
use super::{Area, BarMapping, Description, HostRange, Protection, Transport};
use crate::error::{Error, Result};
use crate::units::Iova;

/// What the client asks to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one owner; observers may watch.
    Owner,
    /// The one owner, and nobody watches.
    Exclusive,
    /// A reader beside an owner.
    Observer,
}

/// Most areas believed in a region.
const AREAS_MAX: u32 = 64;
/// Largest BAR believed.
const BAR_MAX: u64 = 1 << 46;

/// A vfio-user client.
#[derive(Debug)]
pub struct User {
    name: String,
    socket: Mutex<Socket>,
    lost: AtomicBool,
    watch: OwnedFd,
    description: Description,
    files: [Option<(OwnedFd, u64)>; 6],
    transfer_max: usize,
}

#[derive(Debug)]
struct Mapping(MmapRaw);

impl BarMapping for Mapping {
    fn base(&self) -> NonNull<u8> {
        // A mapping is never at address 0.
        NonNull::new(self.0.as_mut_ptr()).unwrap_or(NonNull::dangling())
    }
    fn bytes(&self) -> usize {
        self.0.len()
    }
}

impl User {
    /// Connects to the server at `path`.
    pub fn connect(path: &Path, role: Role) -> Result<Self> {
        let name = path.display().to_string();
        let mut socket = Socket::connect(path).map_err(|source| connect_error(path, source))?;
        let greeting = match greet(&mut socket, role, &name) {
            Err(Error::Busy { on, .. }) => {
                return Err(Error::Busy {
                    on,
                    holder: holder(path),
                });
            }
            other => other?,
        };
        let watch = socket
            .duplicate()
            .map_err(|source| io_error("watch", &name, source))?;
        let mut user = Self {
            description: Description {
                backend: "vfio-user",
                name: name.clone(),
                bars: [0; 6],
                mappable: Default::default(),
                vectors: 0,
                iova_ranges: vec![(0x1_0000, (1 << 48) - 1)],
                maps_limit: greeting.maps_max,
                page_bytes: 4096,
                needs_file: true,
                pins: false,
            },
            name,
            socket: Mutex::new(socket),
            lost: AtomicBool::new(false),
            watch,
            files: Default::default(),
            transfer_max: greeting.transfer_max,
        };
        user.look_around()?;
        Ok(user)
    }

    fn look_around(&mut self) -> Result<()> {
        let ask = wire::DeviceInfo {
            argsz: 16,
            ..Default::default()
        };
        let info: wire::DeviceInfo = self.ask(wire::command::DEVICE_GET_INFO, &ask, "describe")?;
        if info.flags & wire::DEVICE_PCI == 0 || info.regions < wire::PCI_REGIONS {
            return Err(self.peer("it does not serve a PCI function"));
        }
        for bar in [0u32, 2, 4] {
            self.look_at_bar(bar)?;
        }
        let ask = wire::IrqInfo {
            argsz: 16,
            index: wire::IRQ_MSIX,
            ..Default::default()
        };
        let irqs: wire::IrqInfo = self.ask(
            wire::command::DEVICE_GET_IRQ_INFO,
            &ask,
            "describe interrupts of",
        )?;
        self.description.vectors = irqs.count.min(2048);
        Ok(())
    }

    fn look_at_bar(&mut self, bar: u32) -> Result<()> {
        let at = bar as usize;
        let ask = wire::RegionInfo {
            argsz: 4096,
            index: bar,
            ..Default::default()
        };
        let (info, areas, fd) = {
            let mut socket = self.lock();
            let mut reply = self.settle(
                socket.exchange(
                    wire::command::DEVICE_GET_REGION_INFO,
                    [ask.as_bytes(), &[]],
                    &[],
                ),
                "describe a BAR of",
            )?;
            let body = socket.body(&reply);
            let (info, areas) = parse_region(body, bar).map_err(|why| self.peer(why))?;
            (info, areas, reply.fds.pop())
        };
        self.description.bars[at] = info.bytes;
        if let Some(fd) = fd
            && info.flags & wire::REGION_MMAP != 0
        {
            self.description.mappable[at] = areas;
            self.files[at] = Some((fd, info.offset));
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Socket> {
        self.socket
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn peer(&self, why: impl Into<String>) -> Error {
        self.lost.store(true, Ordering::Release);
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, why.into());
        io_error("talk to", &self.name, source)
    }

    /// Turns a failed exchange into an error; a broken stream means that the device is lost.
    fn settle<T>(&self, result: std::result::Result<T, Failure>, tried: &'static str) -> Result<T> {
        result.map_err(|failure| match failure {
            Failure::Refused(errno) => {
                io_error(tried, &self.name, std::io::Error::from_raw_os_error(errno))
            }
            Failure::Broken(source) => {
                self.lost.store(true, Ordering::Release);
                log::warn!("vfio-user server {}: {source}", self.name);
                match source.kind() {
                    std::io::ErrorKind::InvalidData => io_error(tried, &self.name, source),
                    std::io::ErrorKind::TimedOut => Error::Lost {
                        why: "the vfio-user server does not answer",
                    },
                    _ => Error::Lost {
                        why: "the vfio-user server closed the connection",
                    },
                }
            }
        })
    }

    fn usable(&self) -> Result<()> {
        if self.lost.load(Ordering::Acquire) {
            return Err(Error::Lost {
                why: "the connection to the vfio-user server broke",
            });
        }
        Ok(())
    }

    /// A command whose reply begins with a structure of the same kind.
    fn ask<T: FromBytes + IntoBytes + zerocopy::Immutable>(
        &self,
        command: u16,
        body: &T,
        tried: &'static str,
    ) -> Result<T> {
        self.usable()?;
        let mut socket = self.lock();
        let reply = self.settle(socket.exchange(command, [body.as_bytes(), &[]], &[]), tried)?;
        let parsed = T::read_from_prefix(socket.body(&reply)).map(|(value, _)| value);
        parsed.map_err(|_| self.peer(format!("the reply to command {command} is too short")))
    }

    fn tell(
        &self,
        command: u16,
        parts: [&[u8]; 2],
        fds: &[BorrowedFd<'_>],
        tried: &'static str,
    ) -> Result<()> {
        self.usable()?;
        let mut socket = self.lock();
        self.settle(socket.exchange(command, parts, fds), tried)
            .map(drop)
    }
}

struct Greeting {
    maps_max: usize,
    transfer_max: usize,
    owner: Option<u32>,
}

fn greet(socket: &mut Socket, role: Role, name: &str) -> Result<Greeting> {
    let role = match role {
        Role::Owner => "owner",
        Role::Exclusive => "exclusive",
        Role::Observer => "observer",
    };
    let version = wire::Version {
        major: wire::VERSION_MAJOR,
        minor: wire::VERSION_MINOR,
    };
    let capabilities = format!(
        "{{\"capabilities\":{{\"max_msg_fds\":8,\"max_data_xfer_size\":1048576,\
         \"jalapeno\":{{\"role\":\"{role}\"}}}}}}\0"
    );
    let reply = socket.exchange(
        wire::command::VERSION,
        [version.as_bytes(), capabilities.as_bytes()],
        &[],
    );
    let reply = match reply {
        Ok(reply) => reply,
        Err(Failure::Refused(libc::EBUSY)) => {
            return Err(Error::Busy {
                on: name.into(),
                holder: None,
            });
        }
        Err(Failure::Refused(errno)) => {
            return Err(io_error(
                "greet",
                name,
                std::io::Error::from_raw_os_error(errno),
            ));
        }
        Err(Failure::Broken(source)) => return Err(io_error("greet", name, source)),
    };
    let body = socket.body(&reply);
    let bad = |why: &str| {
        io_error(
            "greet",
            name,
            std::io::Error::new(std::io::ErrorKind::InvalidData, why.to_owned()),
        )
    };
    let (theirs, json) =
        wire::Version::read_from_prefix(body).map_err(|_| bad("it is not a vfio-user server"))?;
    if theirs.major != wire::VERSION_MAJOR {
        return Err(Error::Version {
            what: "vfio-user protocol",
            found: format!("{}.{}", theirs.major, theirs.minor),
            needed: format!("{}.x", wire::VERSION_MAJOR),
        });
    }
    let json = json.split(|&b| b == 0).next().unwrap_or_default();
    let value: serde_json::Value = if json.is_empty() {
        serde_json::Value::Null
    } else {
        serde_json::from_slice(json).map_err(|_| bad("its capabilities are not JSON"))?
    };
    let number = |key: &str| {
        value["capabilities"][key]
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
    };
    Ok(Greeting {
        maps_max: number("max_dma_maps").unwrap_or(65_535),
        transfer_max: number("max_data_xfer_size")
            .unwrap_or(1 << 20)
            .clamp(4096, 1 << 20),
        owner: value["capabilities"]["jalapeno"]["owner_pid"]
            .as_u64()
            .and_then(|pid| u32::try_from(pid).ok())
            .filter(|&pid| pid != 0),
    })
}

/// Who owns a device that refused us: an observer is told.
fn holder(path: &Path) -> Option<u32> {
    let mut socket = Socket::connect(path).ok()?;
    greet(&mut socket, Role::Observer, "").ok()?.owner
}

fn parse_region(
    body: &[u8],
    bar: u32,
) -> std::result::Result<(wire::RegionInfo, Vec<Area>), String> {
    let (info, _) = wire::RegionInfo::read_from_prefix(body)
        .map_err(|_| "a short region description".to_owned())?;
    if info.index != bar
        || info.bytes > BAR_MAX
        || (info.bytes != 0 && !info.bytes.is_power_of_two())
    {
        return Err(format!(
            "BAR {bar} is described as region {} of {} bytes",
            info.index, info.bytes
        ));
    }
    if info.flags & wire::REGION_MMAP == 0 {
        return Ok((info, Vec::new()));
    }
    let mut areas = Vec::new();
    let mut at = info.cap_offset as usize;
    let mut sparse = false;
    // Offsets must rise, so the chain cannot loop.
    while info.flags & wire::REGION_CAPS != 0 && at != 0 {
        let rest = body
            .get(at..)
            .ok_or("a region capability beyond its message")?;
        let (cap, rest) = wire::CapHeader::read_from_prefix(rest)
            .map_err(|_| "a short region capability".to_owned())?;
        if cap.id == wire::CAP_SPARSE_MMAP {
            sparse = true;
            let (head, mut rest) = wire::SparseMmap::read_from_prefix(rest)
                .map_err(|_| "a short sparse mmap".to_owned())?;
            if head.areas > AREAS_MAX {
                return Err(format!("{} mappable areas", head.areas));
            }
            for _ in 0..head.areas {
                let (area, next) = wire::SparseArea::read_from_prefix(rest)
                    .map_err(|_| "a short sparse area".to_owned())?;
                let end = area.offset.checked_add(area.bytes);
                if end.is_none_or(|end| end > info.bytes) || (area.offset | area.bytes) % 4096 != 0
                {
                    return Err(format!(
                        "a mappable area at {:#x} of BAR {bar}",
                        area.offset
                    ));
                }
                if area.bytes > 0 {
                    areas.push(Area {
                        offset: area.offset,
                        bytes: area.bytes,
                    });
                }
                rest = next;
            }
        }
        let next = cap.next as usize;
        if next != 0 && next <= at {
            return Err("region capabilities that loop".into());
        }
        at = next;
    }
    if !sparse && info.bytes > 0 {
        areas.push(Area {
            offset: 0,
            bytes: info.bytes,
        });
    }
    Ok((info, areas))
}

fn io_error(tried: &'static str, on: &str, source: std::io::Error) -> Error {
    Error::Io {
        tried,
        on: format!("vfio-user:{on}"),
        source,
    }
}

fn connect_error(path: &Path, source: std::io::Error) -> Error {
    let name = format!("vfio-user:{}", path.display());
    match source.kind() {
        std::io::ErrorKind::NotFound => Error::NotFound {
            name,
            why: "there is no such socket".into(),
        },
        std::io::ErrorKind::ConnectionRefused => Error::NotFound {
            name,
            why: "the socket is there, but no emulator listens on it".into(),
        },
        std::io::ErrorKind::PermissionDenied => Error::Permission {
            tried: "connect to",
            on: name,
            hint: "run as the user that started the emulator".into(),
        },
        _ => Error::Io {
            tried: "connect to",
            on: name,
            source,
        },
    }
}

impl Transport for User {
    fn describe(&self) -> &Description {
        &self.description
    }

    fn map_bar(&self, bar: u32, area: Area, writable: bool) -> Result<Arc<dyn BarMapping>> {
        let unmappable = || Error::Unsupported {
            what: format!("mapping BAR {bar} of vfio-user:{}", self.name),
        };
        let at = bar as usize;
        let (fd, base) = self
            .files
            .get(at)
            .and_then(Option::as_ref)
            .ok_or_else(unmappable)?;
        let inside = |outer: &Area| {
            outer.offset <= area.offset
                && area
                    .offset
                    .checked_add(area.bytes)
                    .is_some_and(|end| end <= outer.offset + outer.bytes)
        };
        if !self.description.mappable[at].iter().any(inside) {
            return Err(unmappable());
        }
        let length = usize::try_from(area.bytes).map_err(|_| unmappable())?;
        let offset = base.checked_add(area.offset).ok_or_else(unmappable)?;
        let mut options = MmapOptions::new();
        options.offset(offset).len(length);
        let map = if writable {
            options.map_raw(fd)
        } else {
            options.map_raw_read_only(fd)
        };
        let map = map.map_err(|source| io_error("map a BAR of", &self.name, source))?;
        dont_fork(&map);
        Ok(Arc::new(Mapping(map)))
    }

    fn read(&self, region: u32, offset: u64, into: &mut [u8]) -> Result<()> {
        self.usable()?;
        let mut offset = offset;
        for piece in into.chunks_mut(self.transfer_max) {
            let count = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            let ask = wire::RegionAccess {
                offset,
                region,
                count,
            };
            let mut socket = self.lock();
            let reply = self.settle(
                socket.exchange(wire::command::REGION_READ, [ask.as_bytes(), &[]], &[]),
                "read a region of",
            )?;
            let body = socket.body(&reply);
            let answered = wire::RegionAccess::read_from_prefix(body)
                .ok()
                .filter(|(head, data)| head.count == count && data.len() == piece.len());
            let Some((_, data)) = answered else {
                drop(socket);
                return Err(self.peer("it read another count than asked"));
            };
            piece.copy_from_slice(data);
            offset += u64::from(count);
        }
        Ok(())
    }

    fn write(&self, region: u32, offset: u64, from: &[u8]) -> Result<()> {
        let mut offset = offset;
        for piece in from.chunks(self.transfer_max) {
            let count = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            let head = wire::RegionAccess {
                offset,
                region,
                count,
            };
            self.tell(
                wire::command::REGION_WRITE,
                [head.as_bytes(), piece],
                &[],
                "write a region of",
            )?;
            offset += u64::from(count);
        }
        Ok(())
    }

    fn map_dma(&self, iova: Iova, range: HostRange<'_>, protection: Protection) -> Result<()> {
        let Some((fd, offset)) = range.file else {
            return Err(Error::Unsupported {
                what: "memory without a file on vfio-user: use a shared mapping of a memfd, or let the \
                       library allocate it"
                    .into(),
            });
        };
        let flags = wire::DMA_READABLE
            | match protection {
                Protection::Read => 0,
                Protection::ReadWrite => wire::DMA_WRITABLE,
            };
        let map = wire::DmaMap {
            argsz: 32,
            flags,
            offset,
            address: iova.0,
            bytes: range.bytes,
        };
        self.tell(
            wire::command::DMA_MAP,
            [map.as_bytes(), &[]],
            &[fd],
            "map memory for",
        )
    }

    fn unmap_dma(&self, iova: Iova, bytes: u64) -> Result<()> {
        let unmap = wire::DmaUnmap {
            argsz: 24,
            flags: 0,
            address: iova.0,
            bytes,
        };
        self.tell(
            wire::command::DMA_UNMAP,
            [unmap.as_bytes(), &[]],
            &[],
            "unmap memory from",
        )
    }

    fn set_vectors(&self, first: u32, eventfds: &[Option<BorrowedFd<'_>>]) -> Result<()> {
        for (vector, fd) in (first..).zip(eventfds) {
            let (flags, fds) = match fd {
                Some(fd) => (wire::SET_DATA_EVENTFD, std::slice::from_ref(fd)),
                None => (wire::SET_DATA_EVENTFD, &[][..]),
            };
            let set = wire::SetIrqs {
                argsz: 20,
                flags: flags | wire::SET_ACTION_TRIGGER,
                index: wire::IRQ_MSIX,
                start: vector,
                count: 1,
            };
            self.tell(
                wire::command::DEVICE_SET_IRQS,
                [set.as_bytes(), &[]],
                fds,
                "set an interrupt of",
            )?;
        }
        Ok(())
    }

    fn reset(&self) -> Result<()> {
        self.tell(wire::command::DEVICE_RESET, [&[], &[]], &[], "reset")
    }

    fn lost_fd(&self) -> Option<OwnedFd> {
        self.watch.try_clone().ok()
    }

    fn is_lost(&self) -> bool {
        if self.lost.load(Ordering::Acquire) {
            return true;
        }
        let mut watch = [PollFd::new(self.watch.as_fd(), PollFlags::empty())];
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        if poll(&mut watch, PollTimeout::ZERO).is_ok()
            && watch[0]
                .revents()
                .is_some_and(|events| events.intersects(gone))
        {
            self.lost.store(true, Ordering::Release);
            return true;
        }
        false
    }
}

/// Keeps a device mapping out of children: a forked process must not ring doorbells.
fn dont_fork(map: &MmapRaw) {
    if let Some(at) = NonNull::new(map.as_mut_ptr().cast()) {
        // SAFETY: the range is this mapping; the advice changes nothing in this process.
        let _ = unsafe {
            nix::sys::mman::madvise(at, map.len(), nix::sys::mman::MmapAdvise::MADV_DONTFORK)
        };
    }
}
