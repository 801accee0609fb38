//! One vfio-user connection: a request goes out, its reply comes in, nothing else is believed.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use jalapeno_wire as wire;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use zerocopy::{FromBytes, IntoBytes};

/// Longest that a reply may take.
const REPLY_TIME: Duration = Duration::from_secs(5);
/// One wait for bytes; the reply's deadline is looked at in between.
const SLICE: Duration = Duration::from_millis(100);
/// Largest message believed.
const MESSAGE_MAX: usize = (1 << 20) + 4096;
/// Most file descriptors believed in one message.
const FDS_MAX: usize = 8;

/// Why an exchange failed.
#[derive(Debug)]
pub enum Failure {
    /// The server refused, with this errno; the stream is in step.
    Refused(i32),
    /// The stream cannot be used any more.
    Broken(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

fn broken(why: impl Into<String>) -> Failure {
    Failure::Broken(io::Error::new(io::ErrorKind::InvalidData, why.into()))
}

/// A reply: its body lies in the connection's buffer.
#[derive(Debug)]
pub struct Reply {
    body: std::ops::Range<usize>,
    /// File descriptors that came along.
    pub fds: Vec<OwnedFd>,
}

/// The connection. Its owner takes turns: one exchange at a time.
#[derive(Debug)]
pub struct Socket {
    stream: UnixStream,
    next_id: u16,
    buffer: Vec<u8>,
    filled: usize,
    consumed: usize,
    fds: VecDeque<OwnedFd>,
}

impl Socket {
    /// Connects.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(SLICE))?;
        stream.set_write_timeout(Some(REPLY_TIME))?;
        Ok(Self {
            stream,
            next_id: 0,
            buffer: vec![0; 4096],
            filled: 0,
            consumed: 0,
            fds: VecDeque::new(),
        })
    }

    /// The fd, to be watched for hang-up.
    pub fn raw(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Another fd of the same connection.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        Ok(self.stream.try_clone()?.into())
    }

    /// The bytes of a reply.
    pub fn body(&self, reply: &Reply) -> &[u8] {
        &self.buffer[reply.body.clone()]
    }

    /// Sends a command and waits for its reply.
    pub fn exchange(
        &mut self,
        command: u16,
        parts: [&[u8]; 2],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Reply, Failure> {
        self.next_id = self.next_id.wrapping_add(1);
        let id = self.next_id;
        self.send(id, command, wire::TYPE_COMMAND, 0, parts, fds)?;
        let until = Instant::now() + REPLY_TIME;
        loop {
            let (header, body) = self.receive(until)?;
            let fds: Vec<OwnedFd> = self.fds.drain(..).collect();
            match header.flags & wire::FLAGS_TYPE {
                wire::TYPE_REPLY if header.id == id && header.command == command => {
                    if header.flags & wire::FLAG_ERROR == 0 {
                        return Ok(Reply { body, fds });
                    }
                    if body.is_empty() && (1..4096).contains(&header.error) {
                        return Err(Failure::Refused(header.error.cast_signed()));
                    }
                    return Err(broken("an error reply without an errno"));
                }
                wire::TYPE_REPLY => {
                    return Err(broken(format!(
                        "a reply to message {} of command {}, awaited {id} of {command}",
                        header.id, header.command
                    )));
                }
                // The server asks for memory that came without a file: none did.
                wire::TYPE_COMMAND if header.flags & wire::FLAG_NO_REPLY == 0 => {
                    self.send(
                        header.id,
                        header.command,
                        wire::TYPE_REPLY,
                        libc::EFAULT,
                        [&[], &[]],
                        &[],
                    )?;
                }
                wire::TYPE_COMMAND => {}
                other => return Err(broken(format!("a message of type {other}"))),
            }
        }
    }

    fn send(
        &mut self,
        id: u16,
        command: u16,
        kind: u32,
        errno: i32,
        parts: [&[u8]; 2],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Failure> {
        let bytes = wire::HEADER_BYTES + parts[0].len() + parts[1].len();
        let header = wire::Header {
            id,
            command,
            bytes: u32::try_from(bytes).map_err(|_| broken("the message is too long"))?,
            flags: kind | if errno == 0 { 0 } else { wire::FLAG_ERROR },
            error: errno.unsigned_abs(),
        };
        let mut sent = 0;
        while sent < bytes {
            // What is left of header and parts; the fds go with the first byte.
            let mut skip = sent;
            let mut left = [IoSlice::new(&[]); 3];
            for (slot, part) in left.iter_mut().zip([header.as_bytes(), parts[0], parts[1]]) {
                let begin = skip.min(part.len());
                *slot = IoSlice::new(&part[begin..]);
                skip -= begin;
            }
            let raw: Vec<RawFd> = if sent == 0 {
                fds.iter().map(AsRawFd::as_raw_fd).collect()
            } else {
                Vec::new()
            };
            let rights = [ControlMessage::ScmRights(&raw)];
            let control = if raw.is_empty() {
                &rights[..0]
            } else {
                &rights[..]
            };
            match sendmsg::<()>(self.raw(), &left, control, MsgFlags::MSG_NOSIGNAL, None) {
                Ok(count) => sent += count,
                Err(nix::Error::EINTR) => {}
                Err(errno) => return Err(Failure::Broken(errno.into())),
            }
        }
        Ok(())
    }

    /// One whole message; its body's place in the buffer.
    fn receive(
        &mut self,
        until: Instant,
    ) -> Result<(wire::Header, std::ops::Range<usize>), Failure> {
        // What lies behind the last message moves to the front.
        self.buffer.copy_within(self.consumed..self.filled, 0);
        self.filled -= self.consumed;
        self.consumed = 0;
        loop {
            if let Ok((header, _)) = wire::Header::read_from_prefix(&self.buffer[..self.filled]) {
                let bytes = header.bytes as usize;
                if !(wire::HEADER_BYTES..=MESSAGE_MAX).contains(&bytes) {
                    return Err(broken(format!("a message of {bytes} bytes")));
                }
                if self.filled >= bytes {
                    self.consumed = bytes;
                    return Ok((header, wire::HEADER_BYTES..bytes));
                }
                if self.buffer.len() < bytes {
                    self.buffer.resize(bytes, 0);
                }
            }
            self.more(until)?;
        }
    }

    fn more(&mut self, until: Instant) -> Result<(), Failure> {
        let raw = self.raw();
        let mut control = nix::cmsg_space!([RawFd; FDS_MAX]);
        let mut into = [IoSliceMut::new(&mut self.buffer[self.filled..])];
        match recvmsg::<()>(
            raw,
            &mut into,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        ) {
            Ok(message) => {
                let count = message.bytes;
                let truncated = message.flags.contains(MsgFlags::MSG_CTRUNC);
                for control in message.cmsgs().map_err(|e| Failure::Broken(e.into()))? {
                    if let ControlMessageOwned::ScmRights(fds) = control {
                        // SAFETY: the kernel has just given us these descriptors; nobody else owns them.
                        self.fds.extend(
                            fds.into_iter()
                                .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                        );
                    }
                }
                if truncated || self.fds.len() > FDS_MAX {
                    return Err(broken("more file descriptors than a message may carry"));
                }
                if count == 0 {
                    return Err(Failure::Broken(io::ErrorKind::UnexpectedEof.into()));
                }
                self.filled += count;
                Ok(())
            }
            Err(nix::Error::EINTR | nix::Error::EAGAIN) if Instant::now() < until => Ok(()),
            Err(nix::Error::EINTR | nix::Error::EAGAIN) => Err(Failure::Broken(io::Error::new(
                io::ErrorKind::TimedOut,
                "no reply within 5 s",
            ))),
            Err(errno) => Err(Failure::Broken(errno.into())),
        }
    }
}
