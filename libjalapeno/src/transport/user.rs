//! The vfio-user transport: a PCI function behind a Unix socket.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use jalapeno_wire as wire;
use memmap2::{Advice, MmapOptions, MmapRaw};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use zerocopy::{FromBytes, IntoBytes};

mod greeting;
mod socket;

use greeting::greet;
use socket::{Failure, Reply, Socket};

use super::region;
use super::{Area, BarMapping, Description, HostRange, Protection, Transport};
use crate::error::{Error, Result};
use crate::fork::ForkMark;
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

/// The processes that are connected to a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clients {
    /// The one that owns it.
    pub owner: Option<u32>,
    /// Those that watch, by number.
    pub observers: Vec<u32>,
}

/// Who is connected to the device behind the socket at `path`. Takes no role there, so it works
/// beside whoever owns it.
///
/// # Errors
/// `NotFound`: nothing serves there. `Permission`.
pub fn clients(path: &Path) -> Result<Clients> {
    greeting::clients(path)
}

/// Longest that the owner's traces may outlive its process.
const EXIT_TIME: Duration = Duration::from_secs(1);
/// Longest that a server may refuse us for an owner that has left already.
const HANDOVER_TIME: Duration = Duration::from_millis(100);

/// A vfio-user client.
#[derive(Debug)]
pub struct User {
    name: String,
    owns: bool,
    mark: ForkMark,
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
        let begin = Instant::now();
        loop {
            let socket = Socket::connect(path).map_err(|source| connect_error(path, source))?;
            let on = match Self::over(socket, name.clone(), role) {
                Err(Error::Busy { on, .. }) => on,
                other => return other,
            };
            let holder = clients(path).ok().and_then(|clients| clients.owner);
            let patience = match holder {
                Some(pid) if is_running(pid) => Duration::ZERO,
                Some(_) => EXIT_TIME,
                None => HANDOVER_TIME,
            };
            if begin.elapsed() >= patience {
                return Err(Error::Busy { on, holder });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn over(mut socket: Socket, name: String, role: Role) -> Result<Self> {
        let greeting = greet(&mut socket, role, &name)?;
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
                pins_per_user: false,
                hidden_for: Duration::ZERO,
                owner_pid: greeting.clients.owner,
            },
            name,
            owns: role != Role::Observer,
            mark: ForkMark::here(),
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
        let info: wire::DeviceInfo =
            self.ask((wire::command::DEVICE_GET_INFO, "describe"), &ask)?;
        if info.flags & wire::DEVICE_PCI == 0 || info.regions < wire::PCI_REGIONS {
            return Err(Error::NotFound {
                name: format!("vfio-user:{}", self.name),
                why: "the server there does not serve a PCI function".into(),
            });
        }
        for bar in [0u32, 2, 4] {
            self.look_at_bar(bar)?;
        }
        let ask = wire::IrqInfo {
            argsz: 16,
            index: wire::IRQ_MSIX,
            ..Default::default()
        };
        let command = wire::command::DEVICE_GET_IRQ_INFO;
        let irqs: wire::IrqInfo = self.ask((command, "describe interrupts of"), &ask)?;
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
            let command = (wire::command::DEVICE_GET_REGION_INFO, "describe a BAR of");
            let parts = [ask.as_bytes(), &[][..]];
            let mut reply = self.exchange(&mut socket, command, parts, &[], None)?;
            let (info, areas) = region::parse(socket.body(&reply), bar)
                .map_err(|why| self.breach(&socket, &why))?;
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

    /// The server broke the protocol: nothing more on this connection can be believed.
    fn breach(&self, socket: &Socket, why: &str) -> Error {
        log::warn!("vfio-user server {}: {why}", self.name);
        self.lost.store(true, Ordering::Release);
        socket.close();
        Error::Lost {
            why: "its vfio-user server broke the protocol",
        }
    }

    /// One exchange. A reply must be as long as `bytes` says, where that is known.
    fn exchange(
        &self,
        socket: &mut Socket,
        (command, tried): (u16, &'static str),
        parts: [&[u8]; 2],
        fds: &[BorrowedFd<'_>],
        bytes: Option<usize>,
    ) -> Result<Reply> {
        self.mark.check()?;
        if self.lost.load(Ordering::Acquire) {
            return Err(Error::Lost {
                why: "the connection to its vfio-user server broke",
            });
        }
        let fds_back = usize::from(command == wire::command::DEVICE_GET_REGION_INFO);
        let reply = match socket.exchange(command, parts, fds, fds_back) {
            Ok(reply) => reply,
            Err(Failure::Refused(errno)) => return Err(refused(tried, &self.name, errno)),
            Err(Failure::Broken(source)) => {
                log::warn!("vfio-user server {}: {source}", self.name);
                self.lost.store(true, Ordering::Release);
                return Err(Error::Lost {
                    why: match source.kind() {
                        std::io::ErrorKind::InvalidData => {
                            "its vfio-user server broke the protocol"
                        }
                        std::io::ErrorKind::TimedOut => "its vfio-user server does not answer",
                        _ => "its vfio-user server closed the connection",
                    },
                });
            }
        };
        let got = socket.body(&reply).len();
        match bytes {
            Some(due) if due != got => Err(self.breach(
                socket,
                &format!("a reply to command {command} with {got} bytes, {due} are due"),
            )),
            _ => Ok(reply),
        }
    }

    /// A command whose reply is a structure of the same kind.
    fn ask<T: FromBytes + IntoBytes + zerocopy::Immutable>(
        &self,
        (command, tried): (u16, &'static str),
        body: &T,
    ) -> Result<T> {
        let mut socket = self.lock();
        let parts = [body.as_bytes(), &[]];
        let bytes = Some(size_of::<T>());
        let reply = self.exchange(&mut socket, (command, tried), parts, &[], bytes)?;
        T::read_from_bytes(socket.body(&reply))
            .map_err(|_| self.breach(&socket, "a reply that is too short"))
    }

    /// A command whose reply is empty.
    fn tell(
        &self,
        command: (u16, &'static str),
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<()> {
        let mut socket = self.lock();
        self.exchange(&mut socket, command, [body, &[]], fds, Some(0))
            .map(drop)
    }
}

fn access(region: u32, offset: u64, bytes: usize) -> wire::RegionAccess {
    wire::RegionAccess {
        offset,
        region,
        // At most the transfer limit, which is below 4 GiB.
        count: u32::try_from(bytes).unwrap_or(u32::MAX),
    }
}

/// The server said no, with an errno; the connection goes on.
fn refused(tried: &'static str, on: &str, errno: i32) -> Error {
    io_error(tried, on, std::io::Error::from_raw_os_error(errno))
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
            why: "there is no such socket: start jalapeno-emulator --socket PATH".into(),
        },
        std::io::ErrorKind::ConnectionRefused => Error::NotFound {
            name,
            why: "the socket is there, but nothing listens on it: its server has ended".into(),
        },
        std::io::ErrorKind::WouldBlock => Error::NotFound {
            name,
            why: "the socket is there, but its server accepts no connection".into(),
        },
        std::io::ErrorKind::PermissionDenied => Error::Permission {
            tried: "connect to",
            on: name,
            hint: format!(
                "run as the user who started the emulator: ls -l {}",
                path.display()
            ),
        },
        _ => Error::Io {
            tried: "connect to",
            on: name,
            source,
        },
    }
}

/// Whether a process lives; one that was killed and not yet waited for does not.
fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

impl Drop for User {
    fn drop(&mut self) {
        // In a child of fork() the connection is its parent's. An observer holds nothing.
        if self.owns && self.mark.check().is_ok() && !self.is_lost() {
            self.lock().leave();
        }
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
        // Out of children's reach: a forked process must not ring doorbells.
        let _ = map.advise(Advice::DontFork);
        Ok(Arc::new(Mapping(map)))
    }

    fn bar_file(&self, bar: u32, at: u64) -> Option<(BorrowedFd<'_>, u64)> {
        let (file, base) = self.files.get(bar as usize)?.as_ref()?;
        Some((file.as_fd(), base.checked_add(at)?))
    }

    fn read(&self, region: u32, offset: u64, into: &mut [u8]) -> Result<()> {
        let command = (wire::command::REGION_READ, "read a region of");
        let mut offset = offset;
        for piece in into.chunks_mut(self.transfer_max) {
            let ask = access(region, offset, piece.len());
            let mut socket = self.lock();
            let due = Some(size_of::<wire::RegionAccess>() + piece.len());
            let parts = [ask.as_bytes(), &[]];
            let reply = self.exchange(&mut socket, command, parts, &[], due)?;
            match wire::RegionAccess::read_from_prefix(socket.body(&reply)) {
                Ok((echo, data)) if echo == ask => piece.copy_from_slice(data),
                _ => return Err(self.breach(&socket, "it read elsewhere than asked")),
            }
            offset += piece.len() as u64;
        }
        Ok(())
    }

    fn write(&self, region: u32, offset: u64, from: &[u8]) -> Result<()> {
        let command = (wire::command::REGION_WRITE, "write a region of");
        let mut offset = offset;
        for piece in from.chunks(self.transfer_max) {
            let ask = access(region, offset, piece.len());
            let mut socket = self.lock();
            let due = Some(size_of::<wire::RegionAccess>());
            let parts = [ask.as_bytes(), piece];
            let reply = self.exchange(&mut socket, command, parts, &[], due)?;
            if wire::RegionAccess::read_from_bytes(socket.body(&reply)) != Ok(ask) {
                return Err(self.breach(&socket, "it wrote elsewhere than asked"));
            }
            offset += piece.len() as u64;
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
            (wire::command::DMA_MAP, "map memory for"),
            map.as_bytes(),
            &[fd],
        )
    }

    fn unmap_dma(&self, iova: Iova, bytes: u64) -> Result<()> {
        let unmap = wire::DmaUnmap {
            argsz: 24,
            flags: 0,
            address: iova.0,
            bytes,
        };
        let command = (wire::command::DMA_UNMAP, "unmap memory from");
        let done: wire::DmaUnmap = self.ask(command, &unmap)?;
        if (done.address, done.bytes) != (unmap.address, unmap.bytes) {
            return Err(self.breach(&self.lock(), "it unmapped elsewhere than asked"));
        }
        Ok(())
    }

    fn set_vectors(&self, first: u32, eventfds: &[Option<BorrowedFd<'_>>]) -> Result<()> {
        let end = u64::from(first) + eventfds.len() as u64;
        let vectors = self.description.vectors;
        if end > u64::from(vectors) {
            return Err(Error::Invalid {
                what: format!(
                    "vectors {first} to {end} of {}: it has {vectors}",
                    self.name
                ),
            });
        }
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
                (wire::command::DEVICE_SET_IRQS, "set an interrupt of"),
                set.as_bytes(),
                fds,
            )?;
        }
        Ok(())
    }

    fn reset(&self) -> Result<()> {
        self.tell((wire::command::DEVICE_RESET, "reset"), &[], &[])
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

#[cfg(test)]
mod tests;
