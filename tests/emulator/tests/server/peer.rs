//! A peer of the server: raw messages on a raw socket.

use std::io::{IoSlice, IoSliceMut, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use jalapeno_emulator::board::Board;
use jalapeno_emulator::identity::Options;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

pub const VERSION: u16 = 1;
pub const DMA_MAP: u16 = 2;
pub const DMA_UNMAP: u16 = 3;
pub const GET_INFO: u16 = 4;
pub const GET_REGION_INFO: u16 = 5;
pub const GET_REGION_IO_FDS: u16 = 6;
pub const GET_IRQ_INFO: u16 = 7;
pub const SET_IRQS: u16 = 8;
pub const REGION_READ: u16 = 9;
pub const REGION_WRITE: u16 = 10;
pub const DMA_READ: u16 = 11;
pub const DMA_WRITE: u16 = 12;
pub const RESET: u16 = 13;

pub const REPLY: u32 = 1;
pub const NO_REPLY: u32 = 0x10;
pub const ERROR: u32 = 0x20;

pub const BAR0: u32 = 0;
pub const BAR2: u32 = 2;
pub const BAR4: u32 = 4;
pub const CONFIG: u32 = 7;

pub const EPERM: u32 = 1;
pub const EBUSY: u32 = 16;
pub const EEXIST: u32 = 17;
pub const EINVAL: u32 = 22;
pub const EOPNOTSUPP: u32 = 95;

pub const HELLO: &str = r#"{"capabilities":{"max_msg_fds":8}}"#;
pub const WATCH: &str = r#"{"capabilities":{"jalapeno":{"role":"observer"}}}"#;
pub const ALONE: &str = r#"{"capabilities":{"jalapeno":{"role":"exclusive"}}}"#;

/// No answer of the server takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Peer {
    pub stream: UnixStream,
    next: u16,
}

/// What came from the server: a reply, or a command of its own.
#[derive(Debug)]
pub struct Message {
    pub id: u16,
    pub command: u16,
    pub flags: u32,
    pub error: u32,
    pub body: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

/// Bytes of a message whose size is right.
pub fn message(id: u16, command: u16, flags: u32, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(16 + body.len()).unwrap();
    sized(id, command, size, flags, body)
}

/// Bytes of a message that says to be `size` bytes long.
pub fn sized(id: u16, command: u16, size: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + body.len());
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.extend_from_slice(&command.to_le_bytes());
    bytes.extend_from_slice(&size.to_le_bytes());
    bytes.extend_from_slice(&flags.to_le_bytes());
    bytes.extend_from_slice(&0u32.to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// Little-endian 4-byte words.
pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// VERSION with capabilities.
pub fn hello(major: u16, minor: u16, json: &str) -> Vec<u8> {
    let mut body = [major.to_le_bytes(), minor.to_le_bytes()].concat();
    body.extend_from_slice(json.as_bytes());
    body.push(0);
    body
}

/// DMA_MAP: flags 1 readable, 2 writable.
pub fn map(flags: u32, offset: u64, address: u64, bytes: u64) -> Vec<u8> {
    let mut body = words(&[32, flags]);
    for word in [offset, address, bytes] {
        body.extend_from_slice(&word.to_le_bytes());
    }
    body
}

/// DMA_UNMAP: flag 2 everything.
pub fn unmap(flags: u32, address: u64, bytes: u64) -> Vec<u8> {
    let mut body = words(&[24, flags]);
    for word in [address, bytes] {
        body.extend_from_slice(&word.to_le_bytes());
    }
    body
}

/// GET_REGION_INFO.
pub fn region_info(argsz: u32, index: u32) -> Vec<u8> {
    words(&[argsz, 0, index, 0, 0, 0, 0, 0])
}

/// REGION_READ, or the head of REGION_WRITE.
pub fn access(region: u32, offset: u64, count: u32) -> Vec<u8> {
    let mut body = offset.to_le_bytes().to_vec();
    body.extend_from_slice(&words(&[region, count]));
    body
}

/// REGION_WRITE.
pub fn store(region: u32, offset: u64, data: &[u8]) -> Vec<u8> {
    let mut body = access(region, offset, u32::try_from(data.len()).unwrap());
    body.extend_from_slice(data);
    body
}

/// SET_IRQS of MSI-X: data 1 none, 2 bool, 4 eventfd; action 8 mask, 0x10 unmask, 0x20 trigger.
pub fn set_irqs(flags: u32, start: u32, count: u32, data: &[u8]) -> Vec<u8> {
    let argsz = u32::try_from(20 + data.len()).unwrap();
    let mut body = words(&[argsz, flags, 2, start, count]);
    body.extend_from_slice(data);
    body
}

/// Bytes that differ from page to page.
pub fn pattern(bytes: usize, seed: usize) -> Vec<u8> {
    let byte = |at: usize| u8::try_from((31 * at + (at >> 8) + seed) & 0xFF).unwrap();
    (0..bytes).map(byte).collect()
}

/// A board of 64 MiB.
pub fn board() -> Board {
    let options = Options {
        hbm_bytes: 64 << 20,
        ..Options::default()
    };
    Board::start(options).unwrap()
}

/// Memory of a client's own, sealed against shrinking.
pub fn memory(bytes: u64) -> OwnedFd {
    let file = shrinkable(bytes);
    let seals = nix::fcntl::SealFlag::F_SEAL_SHRINK;
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_ADD_SEALS(seals)).unwrap();
    file
}

/// Memory of a client's own, not sealed.
pub fn shrinkable(bytes: u64) -> OwnedFd {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let file = memfd_create(c"peer", MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC).unwrap();
    nix::unistd::ftruncate(&file, i64::try_from(bytes).unwrap()).unwrap();
    file
}

impl Peer {
    /// Connected, and silent.
    pub fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, next: 100 }
    }

    /// Connected and greeted with these capabilities; they were taken.
    pub fn greeted(path: &Path, json: &str) -> Self {
        let mut peer = Self::connect(path);
        let reply = peer.ask(VERSION, &hello(0, 1, json));
        assert_eq!(reply.errno(), 0, "greeting {json}");
        peer
    }

    pub fn owner(path: &Path) -> Self {
        Self::greeted(path, HELLO)
    }

    /// An owner, as soon as the one before is gone.
    pub fn next_owner(path: &Path) -> Self {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            let mut peer = Self::connect(path);
            match peer.ask(VERSION, &hello(0, 1, HELLO)).errno() {
                0 => return peer,
                errno => assert_eq!(errno, EBUSY),
            }
            assert!(
                std::time::Instant::now() < end,
                "the owner before is still there"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn observer(path: &Path) -> Self {
        Self::greeted(path, WATCH)
    }

    pub fn send(&self, bytes: &[u8]) {
        (&self.stream).write_all(bytes).unwrap();
    }

    /// Sends to a server that may hang up before it has read it all.
    pub fn try_send(&self, bytes: &[u8]) {
        let _ = (&self.stream).write_all(bytes);
    }

    pub fn send_with(&self, bytes: &[u8], fds: &[RawFd]) {
        let control = [ControlMessage::ScmRights(fds)];
        let sent = sendmsg::<()>(
            self.stream.as_raw_fd(),
            &[IoSlice::new(bytes)],
            &control,
            MsgFlags::empty(),
            None,
        );
        // A long message may go in parts; the descriptors went with the first.
        let sent = sent.unwrap();
        (&self.stream).write_all(&bytes[sent..]).unwrap();
    }

    /// Sends without waiting; false: the server has hung up, or listens no more.
    pub fn offer(&self, bytes: &[u8], fds: &[RawFd]) -> bool {
        let control = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() || bytes.is_empty() {
            &control[..0]
        } else {
            &control[..]
        };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        let fd = self.stream.as_raw_fd();
        sendmsg::<()>(fd, &[IoSlice::new(bytes)], control, flags, None) == Ok(bytes.len())
    }

    /// The next message of the server; `None` when it has hung up.
    pub fn receive(&self) -> Option<Message> {
        let mut fds = Vec::new();
        let mut head = [0; 16];
        if !self.fill(&mut head, &mut fds) {
            return None;
        }
        let half = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        let size = word(4) as usize;
        assert!((16..=16 + 32 + (1 << 20)).contains(&size), "{size} bytes");
        let mut body = vec![0; size - 16];
        assert!(self.fill(&mut body, &mut fds), "cut short");
        Some(Message {
            id: half(0),
            command: half(2),
            flags: word(8),
            error: word(12),
            body,
            fds,
        })
    }

    fn fill(&self, mut into: &mut [u8], fds: &mut Vec<OwnedFd>) -> bool {
        while !into.is_empty() {
            let mut control = nix::cmsg_space!([RawFd; 32]);
            let mut parts = [IoSliceMut::new(into)];
            let fd = self.stream.as_raw_fd();
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let count = match recvmsg::<()>(fd, &mut parts, Some(&mut control), flags) {
                Ok(got) => {
                    for control in got.cmsgs().unwrap() {
                        if let ControlMessageOwned::ScmRights(raw) = control {
                            // SAFETY: the kernel has just given us these descriptors.
                            fds.extend(
                                raw.into_iter()
                                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                            );
                        }
                    }
                    got.bytes
                }
                Err(nix::errno::Errno::ECONNRESET) => 0,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(errno) => panic!("no answer: {errno}"),
            };
            if count == 0 {
                return false;
            }
            into = &mut into[count..];
        }
        true
    }

    pub fn number(&mut self) -> u16 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    /// Sends a command and takes its reply.
    pub fn ask(&mut self, command: u16, body: &[u8]) -> Message {
        self.ask_with(command, body, &[])
    }

    pub fn ask_with(&mut self, command: u16, body: &[u8], fds: &[RawFd]) -> Message {
        let id = self.number();
        self.send_with(&message(id, command, 0, body), fds);
        self.reply(id, command)
    }

    /// The reply to a command that was sent.
    pub fn reply(&self, id: u16, command: u16) -> Message {
        let reply = self.receive().expect("the server hung up");
        assert_eq!((reply.id, reply.command), (id, command), "{reply:?}");
        assert_eq!(reply.flags & !ERROR, REPLY, "{reply:?}");
        if reply.flags & ERROR != 0 {
            assert!(reply.body.is_empty() && reply.fds.is_empty(), "{reply:?}");
        }
        reply
    }

    /// Reads a region's bytes.
    pub fn read(&mut self, region: u32, offset: u64, count: usize) -> Vec<u8> {
        let head = access(region, offset, u32::try_from(count).unwrap());
        let reply = self.ask(REGION_READ, &head);
        assert_eq!(reply.errno(), 0, "read {count} at {region}:{offset:#x}");
        assert_eq!(reply.body[..16], head, "the access is repeated");
        assert_eq!(reply.body.len(), 16 + count);
        reply.body[16..].to_vec()
    }

    /// Writes a region's bytes.
    pub fn write(&mut self, region: u32, offset: u64, data: &[u8]) {
        let reply = self.ask(REGION_WRITE, &store(region, offset, data));
        assert_eq!(
            reply.errno(),
            0,
            "write {} at {region}:{offset:#x}",
            data.len()
        );
        assert_eq!(
            reply.body,
            access(region, offset, u32::try_from(data.len()).unwrap())
        );
    }

    /// Whether the connection is in step: the next good message has its own, right answer.
    pub fn assert_in_step(&mut self) {
        let magic = self.read(CONFIG, 0, 4);
        assert_eq!(magic.len(), 4);
        assert_ne!(magic, [0; 4]);
        let info = self.ask(GET_INFO, &words(&[16, 0, 0, 0]));
        assert_eq!(info.body, words(&[16, 3, 9, 5]), "PCI, resettable, 9, 5");
    }

    /// Whether the server hung up, with nothing said before.
    pub fn assert_dropped(&self, why: &str) {
        let last = self.receive();
        assert!(last.is_none(), "{why}: not dropped but {last:?}");
    }
}

impl Message {
    /// 0 for a good reply.
    pub fn errno(&self) -> u32 {
        if self.flags & ERROR != 0 {
            assert_ne!(self.error, 0, "an error has a number");
            self.error
        } else {
            assert_eq!(self.error, 0);
            0
        }
    }
}
