//! One client's stream of messages: whole ones in, replies out, descriptors always closed.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use jalapeno_wire as wire;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use zerocopy::{FromBytes, IntoBytes};

/// Most data in one message.
pub const TRANSFER_MAX: usize = 1 << 20;
/// Largest message taken.
pub const MESSAGE_MAX: usize = TRANSFER_MAX + 4096;
/// Most descriptors in one message; QEMU 11.1 calls more than 16 malformed.
pub const FDS_MAX: usize = 16;
/// How long a message may take from its first byte to its last.
const MESSAGE_TIME: Duration = Duration::from_secs(5);
/// How long a reply may wait for room in the client's socket.
const SEND_TIME: Duration = Duration::from_secs(2);

/// A message: its header, where its body lies, and what came along.
#[derive(Debug)]
pub struct Message {
    /// The header, its size checked.
    pub header: wire::Header,
    body: std::ops::Range<usize>,
    /// Descriptors, in order; closed when the message is dropped.
    pub fds: Vec<OwnedFd>,
}

/// The receiving side.
#[derive(Debug)]
pub struct Receiver {
    stream: UnixStream,
    buffer: Vec<u8>,
    filled: usize,
    consumed: usize,
    /// Descriptors, with where in the buffer the bytes ended that they came with.
    fds: VecDeque<(usize, Vec<OwnedFd>)>,
}

impl Receiver {
    /// Listens to a client.
    ///
    /// # Errors
    /// What the kernel said to the socket's time-outs.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.set_write_timeout(Some(SEND_TIME))?;
        Ok(Self {
            stream,
            buffer: vec![0; 4096],
            filled: 0,
            consumed: 0,
            fds: VecDeque::new(),
        })
    }

    /// The bytes of a message after its header.
    #[must_use]
    pub fn body(&self, message: &Message) -> &[u8] {
        &self.buffer[message.body.clone()]
    }

    /// The next whole message; `None` when the client has closed.
    ///
    /// # Errors
    /// For a size that cannot be, too many descriptors, a message that is not finished in time:
    /// the stream is not in step any more and must be dropped.
    pub fn receive(&mut self) -> io::Result<Option<Message>> {
        self.shift();
        let mut begun: Option<Instant> = None;
        loop {
            if let Ok((header, _)) = wire::Header::read_from_prefix(&self.buffer[..self.filled]) {
                let bytes = header.bytes as usize;
                if !(wire::HEADER_BYTES..=MESSAGE_MAX).contains(&bytes) {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("a message of {bytes} bytes"),
                    ));
                }
                if self.filled >= bytes {
                    self.consumed = bytes;
                    return Ok(Some(Message {
                        header,
                        body: wire::HEADER_BYTES..bytes,
                        fds: self.fds_until(bytes),
                    }));
                }
                if self.buffer.len() < bytes {
                    self.buffer.resize(bytes, 0);
                }
            }
            if self.filled > 0 && begun.get_or_insert_with(Instant::now).elapsed() > MESSAGE_TIME {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "an unfinished message",
                ));
            }
            if !self.more()? {
                return Ok(None);
            }
        }
    }

    fn shift(&mut self) {
        self.buffer.copy_within(self.consumed..self.filled, 0);
        self.filled -= self.consumed;
        for (end, _) in &mut self.fds {
            *end -= self.consumed;
        }
        self.consumed = 0;
    }

    /// Descriptors belong to the message in which the bytes end that they came with.
    fn fds_until(&mut self, end: usize) -> Vec<OwnedFd> {
        let mut fds = Vec::new();
        while let Some((_, more)) = self.fds.pop_front_if(|(at, _)| *at <= end) {
            fds.extend(more);
        }
        fds
    }

    fn more(&mut self) -> io::Result<bool> {
        let mut control = nix::cmsg_space!([RawFd; FDS_MAX]);
        let mut into = [IoSliceMut::new(&mut self.buffer[self.filled..])];
        match recvmsg::<()>(
            self.stream.as_raw_fd(),
            &mut into,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        ) {
            Ok(message) => {
                let mut fds = Vec::new();
                let truncated = message.flags.contains(MsgFlags::MSG_CTRUNC);
                for control in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(raw) = control {
                        // SAFETY: the kernel has just given us these descriptors; nobody else owns them.
                        fds.extend(
                            raw.into_iter()
                                .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                        );
                    }
                }
                let count = message.bytes;
                self.filled += count;
                let held: usize = self.fds.iter().map(|(_, fds)| fds.len()).sum();
                if truncated || held + fds.len() > FDS_MAX {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "too many descriptors",
                    ));
                }
                if !fds.is_empty() {
                    self.fds.push_back((self.filled, fds));
                }
                Ok(count > 0)
            }
            Err(Errno::EINTR | Errno::EAGAIN) => Ok(true),
            Err(Errno::ECONNRESET) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Sends one message, whole.
///
/// # Errors
/// When the client has gone, or has not read for two seconds: it must be dropped.
pub fn send(
    stream: &UnixStream,
    header: wire::Header,
    parts: [&[u8]; 2],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = wire::HEADER_BYTES + parts[0].len() + parts[1].len();
    let header = wire::Header {
        bytes: u32::try_from(bytes).map_err(io::Error::other)?,
        ..header
    };
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let until = Instant::now() + SEND_TIME;
    let mut sent = 0;
    while sent < bytes {
        let mut skip = sent;
        let mut left = [IoSlice::new(&[]); 3];
        for (slot, part) in left.iter_mut().zip([header.as_bytes(), parts[0], parts[1]]) {
            let begin = skip.min(part.len());
            *slot = IoSlice::new(&part[begin..]);
            skip -= begin;
        }
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if sent > 0 || raw.is_empty() {
            &rights[..0]
        } else {
            &rights[..]
        };
        match sendmsg::<()>(
            stream.as_raw_fd(),
            &left,
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Ok(count) => sent += count,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if sent < bytes && Instant::now() > until {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}
