//! One vfio-user connection: a request goes out, its reply comes in, nothing else is believed.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use jalapeno_wire as wire;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    connect, recvmsg, sendmsg, socket,
};
use zerocopy::{FromBytes, IntoBytes};

/// Longest that a reply may take.
const REPLY_TIME: Duration = Duration::from_secs(5);
/// One wait for bytes; the reply's deadline is looked at in between.
const SLICE: Duration = Duration::from_millis(100);
/// Longest that a goodbye may take; a server cleans up within a second in any case.
const GOODBYE_TIME: Duration = Duration::from_millis(500);
/// Most of the server's own commands answered before the reply must be there.
const COMMANDS_MAX: u32 = 1000;
/// Largest message believed.
const MESSAGE_MAX: usize = (1 << 20) + 4096;
/// Room for as many file descriptors as the kernel passes at once, so that none is ever lost to
/// truncation and left open in this process.
const FDS_ROOM: usize = 253;

/// Why an exchange failed.
#[derive(Debug)]
pub(super) enum Failure {
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
pub(super) struct Reply {
    body: std::ops::Range<usize>,
    /// File descriptors that came along.
    pub(super) fds: Vec<OwnedFd>,
}

/// The connection. Its owner takes turns: one exchange at a time.
pub(super) struct Socket {
    stream: UnixStream,
    next_id: u16,
    buffer: Vec<u8>,
    filled: usize,
    consumed: usize,
    fds: VecDeque<OwnedFd>,
    control: Vec<u8>,
    reply_time: Duration,
}

/// Without the bytes of the last message, which may be a million.
impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket")
            .field("stream", &self.stream)
            .field("next_id", &self.next_id)
            .finish_non_exhaustive()
    }
}

impl Socket {
    /// Connects. A listener that never accepts does not hold it up for longer than a reply may
    /// take.
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let address = UnixAddr::new(path)?;
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        let stream = UnixStream::from(fd);
        stream.set_write_timeout(Some(REPLY_TIME))?; // connect() obeys it too
        loop {
            match connect(stream.as_raw_fd(), &address) {
                Ok(()) => break,
                Err(nix::Error::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Self::over(stream, REPLY_TIME)
    }

    /// A connection over a stream that is there already.
    pub(super) fn over(stream: UnixStream, reply_time: Duration) -> io::Result<Self> {
        stream.set_read_timeout(Some(SLICE.min(reply_time)))?;
        stream.set_write_timeout(Some(SLICE.min(reply_time)))?;
        Ok(Self {
            control: nix::cmsg_space!([RawFd; FDS_ROOM]),
            reply_time,
            stream,
            next_id: 0,
            buffer: vec![0; 4096],
            filled: 0,
            consumed: 0,
            fds: VecDeque::new(),
        })
    }

    fn raw(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Another fd of the same connection.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        Ok(self.stream.try_clone()?.into())
    }

    /// The bytes of a reply.
    pub(super) fn body(&self, reply: &Reply) -> &[u8] {
        &self.buffer[reply.body.clone()]
    }

    /// Sends a command and waits for its reply, which may bring at most `fds_back` descriptors.
    /// A connection that broke is closed for good: out of step, nothing on it can be believed.
    pub(super) fn exchange(
        &mut self,
        command: u16,
        parts: [&[u8]; 2],
        fds: &[BorrowedFd<'_>],
        fds_back: usize,
    ) -> Result<Reply, Failure> {
        let result = self.attempt(command, parts, fds, fds_back);
        if matches!(result, Err(Failure::Broken(_))) {
            self.close();
            self.fds.clear();
        }
        result
    }

    /// Says goodbye and waits, for a moment at most, until the server has let go of all that it
    /// holds for us: then the next owner is welcome.
    pub(super) fn leave(&mut self) {
        let begin = Instant::now();
        if self.stream.shutdown(Shutdown::Write).is_err() {
            return; // it has ended already
        }
        let mut scrap = [0; 512];
        while begin.elapsed() < GOODBYE_TIME {
            match self.stream.read(&mut scrap) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if is_passing(&error) => {}
                Err(_) => return,
            }
        }
    }

    /// Hangs up: the server lets go of all it holds for us.
    pub(super) fn close(&self) {
        // It may be closed at the other end already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn attempt(
        &mut self,
        command: u16,
        parts: [&[u8]; 2],
        fds: &[BorrowedFd<'_>],
        fds_back: usize,
    ) -> Result<Reply, Failure> {
        let until = Instant::now() + self.reply_time;
        self.next_id = self.next_id.wrapping_add(1);
        let id = self.next_id;
        let head = (id, command, wire::TYPE_COMMAND, 0);
        self.send(head, parts, fds, until)?;
        let mut strangers = 0;
        loop {
            let (header, body) = self.receive(until)?;
            let fds: Vec<OwnedFd> = self.fds.drain(..).collect();
            let reply = header.flags & wire::FLAGS_TYPE == wire::TYPE_REPLY;
            if fds.len() > if reply { fds_back } else { 0 } {
                return Err(broken(format!(
                    "{} file descriptors nobody asked for",
                    fds.len()
                )));
            }
            strangers += 1;
            if strangers > COMMANDS_MAX {
                return Err(broken("commands without end instead of a reply"));
            }
            match header.flags & wire::FLAGS_TYPE {
                wire::TYPE_REPLY if header.id == id && header.command == command => {
                    if header.flags & wire::FLAG_ERROR == 0 {
                        return Ok(Reply { body, fds });
                    }
                    if body.is_empty() && header.error < 4096 {
                        // The errno is optional.
                        return Err(Failure::Refused(match header.error.cast_signed() {
                            0 => libc::EIO,
                            errno => errno,
                        }));
                    }
                    return Err(broken("an error reply that is no errno"));
                }
                wire::TYPE_REPLY => {
                    return Err(broken(format!(
                        "a reply to message {} of command {}, awaited {id} of {command}",
                        header.id, header.command
                    )));
                }
                // The server asks for memory that came without a file: none did.
                wire::TYPE_COMMAND if header.flags & wire::FLAG_NO_REPLY == 0 => {
                    let head = (header.id, header.command, wire::TYPE_REPLY, libc::EFAULT);
                    self.send(head, [&[], &[]], &[], until)?;
                }
                wire::TYPE_COMMAND => {}
                other => return Err(broken(format!("a message of type {other}"))),
            }
        }
    }

    fn send(
        &mut self,
        (id, command, kind, errno): (u16, u16, u32, i32),
        parts: [&[u8]; 2],
        fds: &[BorrowedFd<'_>],
        until: Instant,
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
                Err(nix::Error::EINTR | nix::Error::EAGAIN) if Instant::now() < until => {}
                Err(nix::Error::EINTR | nix::Error::EAGAIN) => return Err(self.silent()),
                Err(errno) => return Err(Failure::Broken(errno.into())),
            }
        }
        Ok(())
    }

    fn silent(&self) -> Failure {
        let why = format!("no answer within {:?}", self.reply_time);
        Failure::Broken(io::Error::new(io::ErrorKind::TimedOut, why))
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
        if Instant::now() >= until {
            return Err(self.silent());
        }
        let raw = self.raw();
        let mut into = [IoSliceMut::new(&mut self.buffer[self.filled..])];
        match recvmsg::<()>(
            raw,
            &mut into,
            Some(&mut self.control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        ) {
            Ok(message) => {
                let count = message.bytes;
                for control in message.cmsgs().map_err(|e| Failure::Broken(e.into()))? {
                    if let ControlMessageOwned::ScmRights(fds) = control {
                        // SAFETY: the kernel has just given us these descriptors; nobody else owns them.
                        self.fds.extend(
                            fds.into_iter()
                                .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                        );
                    }
                }
                if count == 0 {
                    return Err(Failure::Broken(io::ErrorKind::UnexpectedEof.into()));
                }
                self.filled += count;
                Ok(())
            }
            // The deadline is looked at above, by the next turn.
            Err(nix::Error::EINTR | nix::Error::EAGAIN) => Ok(()),
            Err(errno) => Err(Failure::Broken(errno.into())),
        }
    }
}

/// Whether to look again: a signal, or the end of one wait for bytes.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}
