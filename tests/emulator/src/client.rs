//! One client: each command checked, carried out, answered.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver as Channel, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jalapeno_wire as wire;
use nix::errno::Errno;
use zerocopy::{FromBytes, IntoBytes};

use crate::gate::Gate;
use crate::host::Refusal;
use crate::irq::Vectors;
use crate::pci::Effect;
use crate::server::{Page, Role, Shared};
use crate::slot::Asked;
use crate::stream::{FDS_MAX, Message, Receiver, TRANSFER_MAX, send};

/// How long the owner may take to answer for memory that it mapped without a file.
const ASK_TIME: Duration = Duration::from_secs(1);
/// Regions a client is told it may map: the most that QEMU 11.1 believes. More are taken.
const MAPS_TOLD: u32 = 65_535;

/// A connection.
#[derive(Debug)]
pub struct Client {
    receiver: Receiver,
    stream: Arc<Mutex<UnixStream>>,
    answers: Sender<(u16, Option<Vec<u8>>)>,
    asking: Option<Arc<Asking>>,
    number: u64,
    pid: u32,
    role: Option<Role>,
    page: Option<Arc<dyn Page>>,
    shared: Arc<Shared>,
}

/// What a command gives: the reply's parts, and a descriptor.
#[derive(Default)]
struct Answer {
    head: Vec<u8>,
    data: Vec<u8>,
    file: Option<OwnedFd>,
}

impl Answer {
    fn of(head: &(impl IntoBytes + zerocopy::Immutable)) -> Self {
        Self {
            head: head.as_bytes().to_vec(),
            ..Self::default()
        }
    }
}

type Answered = Result<Answer, Errno>;

fn parse<T: FromBytes>(body: &[u8]) -> Result<(T, &[u8]), Errno> {
    T::read_from_prefix(body).map_err(|_| Errno::EINVAL)
}

impl Client {
    /// A connection that has said nothing yet.
    ///
    /// # Errors
    /// What the kernel said to the socket.
    pub fn new(stream: UnixStream, number: u64, pid: u32, shared: Arc<Shared>) -> io::Result<Self> {
        let receiver = Receiver::new(stream.try_clone()?)?;
        let stream = Arc::new(Mutex::new(stream));
        let (answers, channel) = channel();
        let asking = Arc::new(Asking {
            stream: stream.clone(),
            answers: Mutex::new(channel),
            next: AtomicU16::new(1),
        });
        Ok(Self {
            receiver,
            stream,
            answers,
            asking: Some(asking),
            number,
            pid,
            role: None,
            page: None,
            shared,
        })
    }

    /// Serves until the client closes, breaks the protocol, or the server ends.
    pub fn serve(mut self) {
        loop {
            match self.receiver.receive() {
                Ok(Some(message)) => {
                    if let Err(error) = self.handle(message) {
                        log::info!("client {}: {error}", self.pid);
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    log::info!("client {}: {error}", self.pid);
                    break;
                }
            }
        }
        // Nobody waits for this client's replies any more.
        self.hang_up(std::net::Shutdown::Read);
        if let Some(role) = self.role {
            self.shared.give_back(self.number, role);
        }
        // Only now: a client that waits for our end knows that the card is free.
        self.hang_up(std::net::Shutdown::Both);
    }

    fn hang_up(&self, how: std::net::Shutdown) {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        // It may be gone already.
        let _ = stream.shutdown(how);
    }

    fn handle(&mut self, mut message: Message) -> io::Result<()> {
        let header = message.header;
        match header.flags & wire::FLAGS_TYPE {
            wire::TYPE_COMMAND => {}
            wire::TYPE_REPLY => {
                let good = header.flags & wire::FLAG_ERROR == 0;
                let body = good.then(|| self.receiver.body(&message).to_vec());
                // Nobody waits for it: it came too late, or was never asked for.
                let _ = self.answers.send((header.id, body));
                return Ok(());
            }
            other => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("a message of type {other}"),
                ));
            }
        }
        let counter = self
            .shared
            .messages
            .get(usize::from(header.command))
            .unwrap_or(&self.shared.messages[19]);
        counter.fetch_add(1, Ordering::Relaxed);
        // The path of a register access: nothing is allocated here.
        if header.command == wire::command::REGION_READ && self.role.is_some() {
            return self.read_region(&message);
        }
        let fds = std::mem::take(&mut message.fds);
        let greeted = self.role.is_some();
        let answered = match (header.command, greeted) {
            (wire::command::VERSION, false) => self.version(&message),
            (wire::command::VERSION, true) | (_, false) => Err(Errno::EINVAL),
            (command, true) => self.command(command, &message, fds),
        };
        let refused = answered.is_err() && !greeted;
        if header.flags & wire::FLAG_NO_REPLY == 0 {
            self.reply(header, answered)?;
        }
        if refused {
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "refused"));
        }
        Ok(())
    }

    fn reply(&self, header: wire::Header, answered: Answered) -> io::Result<()> {
        let head = |flags, error| wire::Header {
            flags: wire::TYPE_REPLY | flags,
            error,
            ..header
        };
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        match answered {
            Ok(answer) => {
                let file = answer.file.as_ref().map(AsFd::as_fd);
                send(
                    &stream,
                    head(0, 0),
                    [&answer.head, &answer.data],
                    file.as_slice(),
                )
            }
            Err(errno) => send(
                &stream,
                head(wire::FLAG_ERROR, (errno as i32).unsigned_abs()),
                [&[], &[]],
                &[],
            ),
        }
    }

    fn command(&mut self, command: u16, message: &Message, fds: Vec<OwnedFd>) -> Answered {
        let owner = self.role.is_some_and(Role::owns);
        let body = self.receiver.body(message);
        match command {
            wire::command::DEVICE_GET_INFO => device_info(body),
            wire::command::DEVICE_GET_REGION_INFO => self.region_info(body),
            wire::command::DEVICE_GET_IRQ_INFO => self.irq_info(body),
            wire::command::DMA_MAP
            | wire::command::DMA_UNMAP
            | wire::command::DEVICE_SET_IRQS
            | wire::command::REGION_WRITE
            | wire::command::DEVICE_RESET
                if !owner =>
            {
                Err(Errno::EPERM)
            }
            wire::command::DMA_MAP => self.map(body, fds),
            wire::command::DMA_UNMAP => self.unmap(body),
            wire::command::DEVICE_SET_IRQS => self.set_irqs(body, fds),
            wire::command::REGION_WRITE => self.write_region(body),
            wire::command::DEVICE_RESET => {
                self.reset();
                Ok(Answer::default())
            }
            wire::command::DEVICE_GET_REGION_IO_FDS => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn version(&mut self, message: &Message) -> Answered {
        let (version, json) = parse::<wire::Version>(self.receiver.body(message))?;
        if version.major != wire::VERSION_MAJOR {
            return Err(Errno::EINVAL);
        }
        let json = json.split(|&b| b == 0).next().unwrap_or_default();
        let theirs: serde_json::Value = match json {
            [] => serde_json::Value::Null,
            json => serde_json::from_slice(json).map_err(|_| Errno::EINVAL)?,
        };
        let ours = &theirs["capabilities"]["jalapeno"];
        let role = match &ours["role"] {
            serde_json::Value::Null => Role::Owner,
            serde_json::Value::String(name) => match name.as_str() {
                "owner" => Role::Owner,
                "exclusive" => Role::Exclusive,
                "observer" => Role::Observer,
                _ => return Err(Errno::EINVAL),
            },
            _ => return Err(Errno::EINVAL),
        };
        let page = self.shared.function.page().map_err(|_| Errno::ENOMEM)?;
        if !self.shared.take(self.number, self.pid, role) {
            return Err(Errno::EBUSY);
        }
        self.page = Some(page);
        self.role = Some(role);
        if role.owns() {
            self.shared
                .slot
                .ask(self.asking.take().map(|asking| asking as Arc<dyn Asked>));
        }
        let mut capabilities = serde_json::json!({
            "max_msg_fds": FDS_MAX,
            "max_data_xfer_size": TRANSFER_MAX,
            "max_dma_maps": MAPS_TOLD,
            "pgsizes": crate::dma::PAGE,
        });
        if !ours.is_null() {
            capabilities["jalapeno"] = serde_json::json!({ "owner_pid": self.shared.owner_pid() });
        }
        let mut text = serde_json::json!({ "capabilities": capabilities })
            .to_string()
            .into_bytes();
        text.push(0);
        let version = wire::Version {
            major: wire::VERSION_MAJOR,
            minor: version.minor.min(wire::VERSION_MINOR),
        };
        Ok(Answer {
            data: text,
            ..Answer::of(&version)
        })
    }

    fn region_bytes(&self, region: u32) -> u64 {
        match region {
            wire::REGION_CONFIG => crate::pci::BYTES as u64,
            bar => self
                .shared
                .function
                .bars()
                .get(bar as usize)
                .copied()
                .unwrap_or(0),
        }
    }

    fn region_info(&self, body: &[u8]) -> Answered {
        let (ask, _) = parse::<wire::RegionInfo>(body)?;
        if ask.argsz < 32 || ask.index >= wire::PCI_REGIONS {
            return Err(Errno::EINVAL);
        }
        let bytes = self.region_bytes(ask.index);
        let mut info = wire::RegionInfo {
            argsz: 32,
            index: ask.index,
            bytes,
            ..Default::default()
        };
        if bytes == 0 {
            return Ok(Answer::of(&info));
        }
        info.flags = wire::REGION_READABLE | wire::REGION_WRITABLE;
        let function = &self.shared.function;
        let owned = self.role.is_some_and(Role::owns);
        let (file, area) = match (ask.index, &self.page) {
            (0, Some(page)) => (page.file(), function.page_area()),
            (bar, _) => match function.backing(bar).filter(|_| owned) {
                Some(backing) => {
                    info.offset = backing.offset;
                    (backing.file, backing.area)
                }
                None => return Ok(Answer::of(&info)),
            },
        };
        let file = Some(file.try_clone_to_owned().map_err(|_| Errno::EMFILE)?);
        info.flags |= wire::REGION_MMAP;
        if area == (0, bytes) {
            return Ok(Answer {
                file,
                ..Answer::of(&info)
            });
        }
        info.flags |= wire::REGION_CAPS;
        info.argsz = 64;
        // Also in the short answer: QEMU 11.1 refuses a region that has capabilities at 0.
        info.cap_offset = 32;
        if ask.argsz < info.argsz {
            return Ok(Answer {
                file,
                ..Answer::of(&info)
            });
        }
        let cap = wire::CapHeader {
            id: wire::CAP_SPARSE_MMAP,
            version: 1,
            next: 0,
        };
        let sparse = wire::SparseMmap {
            areas: 1,
            reserved: 0,
        };
        let area = wire::SparseArea {
            offset: area.0,
            bytes: area.1,
        };
        let data = [cap.as_bytes(), sparse.as_bytes(), area.as_bytes()].concat();
        Ok(Answer {
            data,
            file,
            ..Answer::of(&info)
        })
    }

    fn vectors(&self, index: u32) -> Option<&Vectors> {
        match index {
            wire::IRQ_MSIX => Some(&self.shared.slot.msix),
            wire::IRQ_ERR => Some(&self.shared.slot.err),
            wire::IRQ_REQ => Some(&self.shared.slot.req),
            _ => None,
        }
    }

    fn irq_info(&self, body: &[u8]) -> Answered {
        let (ask, _) = parse::<wire::IrqInfo>(body)?;
        if ask.argsz < 16 || ask.index >= wire::PCI_IRQS {
            return Err(Errno::EINVAL);
        }
        let count = self.vectors(ask.index).map_or(0, Vectors::count);
        let flags = if count > 0 { wire::IRQ_EVENTFD } else { 0 };
        Ok(Answer::of(&wire::IrqInfo {
            argsz: 16,
            flags,
            index: ask.index,
            count,
        }))
    }

    fn set_irqs(&self, body: &[u8], fds: Vec<OwnedFd>) -> Answered {
        let (set, data) = parse::<wire::SetIrqs>(body)?;
        let vectors = self.vectors(set.index).ok_or(Errno::EINVAL)?;
        let end = set
            .start
            .checked_add(set.count)
            .filter(|&end| end <= vectors.count())
            .ok_or(Errno::EINVAL)?;
        let kinds =
            set.flags & (wire::SET_DATA_NONE | wire::SET_DATA_BOOL | wire::SET_DATA_EVENTFD);
        let actions = set.flags
            & (wire::SET_ACTION_MASK | wire::SET_ACTION_UNMASK | wire::SET_ACTION_TRIGGER);
        let known = kinds | actions;
        if set.argsz < 20
            || set.flags != known
            || !kinds.is_power_of_two()
            || !actions.is_power_of_two()
        {
            return Err(Errno::EINVAL);
        }
        let range = set.start..end;
        match (kinds, actions) {
            (wire::SET_DATA_NONE, wire::SET_ACTION_TRIGGER) if set.count == 0 => vectors.clear(),
            (wire::SET_DATA_EVENTFD, wire::SET_ACTION_TRIGGER) => {
                if fds.is_empty() {
                    // No descriptors: these are disabled.
                    return range
                        .clone()
                        .try_for_each(|v| vectors.assign(v, None))
                        .map(|()| Answer::default());
                }
                if fds.len() != set.count as usize {
                    return Err(Errno::EINVAL);
                }
                for (vector, fd) in range.clone().zip(fds) {
                    if let Err(errno) = vectors.assign(vector, Some(fd)) {
                        // All or none.
                        for vector in range {
                            let _ = vectors.assign(vector, None);
                        }
                        return Err(errno);
                    }
                }
            }
            // Masking by eventfd is for interrupts that mask themselves: there are none.
            (wire::SET_DATA_EVENTFD, _) => return Err(Errno::EOPNOTSUPP),
            _ => {
                if kinds == wire::SET_DATA_BOOL && data.len() < set.count as usize {
                    return Err(Errno::EINVAL);
                }
                for (at, vector) in range.enumerate() {
                    if kinds == wire::SET_DATA_BOOL && data[at] == 0 {
                        continue;
                    }
                    match actions {
                        wire::SET_ACTION_TRIGGER => vectors.fire(vector),
                        action => vectors.mask(vector, action == wire::SET_ACTION_MASK)?,
                    }
                }
            }
        }
        Ok(Answer::default())
    }

    fn map(&self, body: &[u8], mut fds: Vec<OwnedFd>) -> Answered {
        let (map, _) = parse::<wire::DmaMap>(body)?;
        if map.argsz < 32
            || map.flags & !(wire::DMA_READABLE | wire::DMA_WRITABLE) != 0
            || fds.len() > 1
        {
            return Err(Errno::EINVAL);
        }
        let may = (
            map.flags & wire::DMA_READABLE != 0,
            map.flags & wire::DMA_WRITABLE != 0,
        );
        let file = fds.pop().map(|fd| (fd, map.offset));
        self.shared.slot.map(map.address, map.bytes, may, file)?;
        Ok(Answer::default())
    }

    fn unmap(&self, body: &[u8]) -> Answered {
        let (unmap, _) = parse::<wire::DmaUnmap>(body)?;
        if unmap.argsz < 24 || unmap.flags & !wire::UNMAP_ALL != 0 {
            // There are no dirty bitmaps.
            return Err(if unmap.flags & wire::UNMAP_DIRTY_BITMAP != 0 {
                Errno::EOPNOTSUPP
            } else {
                Errno::EINVAL
            });
        }
        let slot = &self.shared.slot;
        if unmap.flags & wire::UNMAP_ALL != 0 {
            if (unmap.address, unmap.bytes) != (0, 0) {
                return Err(Errno::EINVAL);
            }
            slot.unmap_all();
        } else {
            slot.unmap(unmap.address, unmap.bytes)?;
        }
        Ok(Answer::of(&unmap))
    }

    /// The checked range of an access, or an errno.
    fn access(&self, body: &[u8]) -> Result<wire::RegionAccess, Errno> {
        let (access, _) = parse::<wire::RegionAccess>(body)?;
        let bytes = self.region_bytes(access.region);
        let end = access.offset.checked_add(u64::from(access.count));
        if access.count as usize > TRANSFER_MAX || end.is_none_or(|end| end > bytes) {
            return Err(Errno::EINVAL);
        }
        Ok(access)
    }

    fn read_region(&self, message: &Message) -> io::Result<()> {
        let access = match self.access(self.receiver.body(message)) {
            Ok(access) => access,
            Err(errno) => return self.reply(message.header, Err(errno)),
        };
        let (mut small, mut large) = ([0u8; 64], Vec::new());
        let count = access.count as usize;
        let data = match small.get_mut(..count) {
            Some(small) => small,
            None => {
                large.resize(count, 0);
                &mut large
            }
        };
        if access.region == wire::REGION_CONFIG {
            // In range by the check above; an access cut short would read zeros.
            let _ = self
                .shared
                .slot
                .read_config(usize::try_from(access.offset).unwrap_or(usize::MAX), data);
        } else {
            self.shared
                .function
                .read(access.region, access.offset, data);
        }
        let header = wire::Header {
            flags: wire::TYPE_REPLY,
            error: 0,
            ..message.header
        };
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        send(&stream, header, [access.as_bytes(), data], &[])
    }

    fn write_region(&self, body: &[u8]) -> Answered {
        let access = self.access(body)?;
        let data = body
            .get(size_of::<wire::RegionAccess>()..)
            .unwrap_or_default();
        if data.len() != access.count as usize {
            return Err(Errno::EINVAL);
        }
        if access.region == wire::REGION_CONFIG {
            let at = usize::try_from(access.offset).map_err(|_| Errno::EINVAL)?;
            match self.shared.slot.write_config(at, data) {
                Some(Effect::Reset) => self.reset(),
                Some(Effect::None) => {}
                None => return Err(Errno::EINVAL),
            }
        } else {
            self.shared
                .function
                .write(access.region, access.offset, data);
        }
        Ok(Answer::of(&access))
    }

    fn reset(&self) {
        self.shared.function.reset();
        self.shared.slot.reset_config();
    }
}

fn device_info(body: &[u8]) -> Answered {
    let (ask, _) = parse::<wire::DeviceInfo>(body)?;
    if ask.argsz < 16 {
        return Err(Errno::EINVAL);
    }
    let flags = wire::DEVICE_RESETTABLE | wire::DEVICE_PCI;
    Ok(Answer::of(&wire::DeviceInfo {
        argsz: 16,
        flags,
        regions: wire::PCI_REGIONS,
        irqs: wire::PCI_IRQS,
    }))
}

/// Asks the owner for memory that came without a file.
#[derive(Debug)]
struct Asking {
    stream: Arc<Mutex<UnixStream>>,
    answers: Mutex<Channel<(u16, Option<Vec<u8>>)>>,
    next: AtomicU16,
}

impl Asking {
    fn ask(
        &self,
        command: u16,
        address: u64,
        count: usize,
        data: &[u8],
        gate: &Gate,
    ) -> Result<Vec<u8>, Refusal> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let access = wire::DmaAccess {
            address,
            count: count as u64,
        };
        let header = wire::Header {
            id,
            command,
            ..Default::default()
        };
        {
            let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
            send(&stream, header, [access.as_bytes(), data], &[]).map_err(|_| Refusal::Broken)?;
        }
        let until = Instant::now() + ASK_TIME;
        loop {
            match answers.recv_timeout(Duration::from_millis(5)) {
                Ok((answered, body)) if answered == id => {
                    let body = body.ok_or(Refusal::Broken)?;
                    let (head, data) =
                        parse::<wire::DmaAccess>(&body).map_err(|_| Refusal::Broken)?;
                    let same = head.address == address && head.count == count as u64;
                    return if same {
                        Ok(data.to_vec())
                    } else {
                        Err(Refusal::Broken)
                    };
                }
                Ok(_) => {}
                // The one who would answer waits for us to leave: it comes first.
                Err(RecvTimeoutError::Timeout) if gate.wanted() || Instant::now() > until => {
                    return Err(Refusal::Broken);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Refusal::Broken),
            }
        }
    }
}

impl Asked for Asking {
    fn read(&self, address: u64, into: &mut [u8], gate: &Gate) -> Result<(), Refusal> {
        let mut at = address;
        for piece in into.chunks_mut(TRANSFER_MAX) {
            let data = self.ask(wire::command::DMA_READ, at, piece.len(), &[], gate)?;
            if data.len() != piece.len() {
                return Err(Refusal::Broken);
            }
            piece.copy_from_slice(&data);
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn write(&self, address: u64, from: &[u8], gate: &Gate) -> Result<(), Refusal> {
        let mut at = address;
        for piece in from.chunks(TRANSFER_MAX) {
            self.ask(wire::command::DMA_WRITE, at, piece.len(), piece, gate)?;
            at += piece.len() as u64;
        }
        Ok(())
    }
}
