//! One client's stream of messages: whole ones in, replies out, descriptors always closed.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jalapeno_wire as wire;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, recvmsg, sendmsg};
use zerocopy::{FromBytes, IntoBytes};

/// Most data in one message.
pub const TRANSFER_MAX: usize = 1 << 20;
/// Largest message taken from an owner.
pub const MESSAGE_MAX: usize = TRANSFER_MAX + 4096;
/// Largest message taken from anybody else, and so the largest greeting.
pub const SMALL_MAX: usize = 64 << 10;
/// Most descriptors in one message; QEMU 11.1 calls more than 16 malformed.
pub const FDS_MAX: usize = 16;
/// Room for the descriptors that the kernel lets anybody send at once (SCM_MAX_FD), so that it
/// never keeps some back, and those that came are all closed.
const FDS_SENT_MAX: usize = 253;
/// How long a message may take from its first byte to its last, and a client to greet.
pub const MESSAGE_TIME: Duration = Duration::from_secs(5);
/// Who asked asks again soon, as a kernel that saves configuration space word by word: for so long looking is
/// quicker than being woken.
const SOON: Duration = Duration::from_micros(50);
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
    stream: Arc<UnixStream>,
    control: Vec<u8>,
    buffer: Vec<u8>,
    /// What of the buffer was received and not yet given out.
    begin: usize,
    end: usize,
    largest: usize,
    silent: Option<Instant>,
    /// Descriptors, with where in the buffer the bytes ended that they came with.
    fds: VecDeque<(usize, Vec<OwnedFd>)>,
}

fn broken(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl Receiver {
    /// Listens to a client that is to greet: messages are small, and the first one is due.
    ///
    /// # Errors
    /// What the kernel said to the socket's time-out.
    pub fn new(stream: Arc<UnixStream>) -> io::Result<Self> {
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(Self {
            stream,
            control: nix::cmsg_space!([RawFd; FDS_SENT_MAX]),
            buffer: vec![0; 4096],
            begin: 0,
            end: 0,
            largest: SMALL_MAX,
            silent: Some(Instant::now()),
            fds: VecDeque::new(),
        })
    }

    /// It has greeted: it may be silent from now on, and send messages so large.
    pub fn greeted(&mut self, largest: usize) {
        self.silent = None;
        self.largest = largest;
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
        let mut begun: Option<Instant> = self.silent;
        loop {
            let here = &self.buffer[self.begin..self.end];
            let mut wanted = wire::HEADER_BYTES;
            if let Ok((header, _)) = wire::Header::read_from_prefix(here) {
                wanted = header.bytes as usize;
                if !(wire::HEADER_BYTES..=self.largest).contains(&wanted) {
                    return Err(broken(format!("a message of {wanted} bytes")));
                }
                if here.len() >= wanted {
                    return Ok(Some(self.take(header)));
                }
            }
            if !here.is_empty() {
                begun.get_or_insert_with(Instant::now);
            }
            if begun.is_some_and(|begun| begun.elapsed() > MESSAGE_TIME) {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "an unfinished message",
                ));
            }
            self.make_room(wanted);
            if !self.more()? {
                return Ok(None);
            }
        }
    }

    fn take(&mut self, header: wire::Header) -> Message {
        let (body, end) = (
            self.begin + wire::HEADER_BYTES,
            self.begin + header.bytes as usize,
        );
        // Descriptors belong to the message in which the bytes end that they came with.
        let mut fds = Vec::new();
        while let Some((_, more)) = self.fds.pop_front_if(|(at, _)| *at <= end) {
            fds.extend(more);
        }
        self.begin = end;
        Message {
            header,
            body: body..end,
            fds,
        }
    }

    /// Room for a whole message of so many bytes. What is there moves only when it must, so that
    /// many small messages in a large buffer are not moved again and again.
    fn make_room(&mut self, wanted: usize) {
        if self.begin == self.end {
            debug_assert!(self.fds.is_empty());
            (self.begin, self.end) = (0, 0);
        }
        if self.begin + wanted > self.buffer.len() {
            self.buffer.copy_within(self.begin..self.end, 0);
            for (at, _) in &mut self.fds {
                *at -= self.begin;
            }
            self.end -= self.begin;
            self.begin = 0;
            if self.buffer.len() < wanted {
                self.buffer.resize(wanted, 0);
            }
        }
    }

    /// What has come, or comes first: how many bytes, and what the kernel says of them.
    fn take_in(&mut self, flags: MsgFlags) -> nix::Result<(usize, MsgFlags)> {
        self.control.fill(0);
        let mut into = [IoSliceMut::new(&mut self.buffer[self.end..])];
        let message = recvmsg::<()>(
            self.stream.as_raw_fd(),
            &mut into,
            Some(&mut self.control),
            flags | MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        Ok((message.bytes, message.flags))
    }

    fn more(&mut self) -> io::Result<bool> {
        let begin = Instant::now();
        let received = loop {
            match self.take_in(MsgFlags::MSG_DONTWAIT) {
                // Where there is one processor it is the asker's turn.
                Err(Errno::EAGAIN) if begin.elapsed() < SOON => std::thread::yield_now(),
                Err(Errno::EAGAIN) => break self.take_in(MsgFlags::empty()),
                received => break received,
            }
        };
        let (count, flags) = match received {
            Ok(received) => received,
            Err(Errno::EINTR | Errno::EAGAIN) => return Ok(true),
            Err(Errno::ECONNRESET) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        let fds = descriptors(&self.control);
        self.end += count;
        if flags.contains(MsgFlags::MSG_CTRUNC) {
            return Err(broken("no room for its descriptors"));
        }
        let held: usize = self.fds.iter().map(|(_, fds)| fds.len()).sum();
        if held + fds.len() > FDS_MAX {
            return Err(broken("too many descriptors"));
        }
        if !fds.is_empty() {
            self.fds.push_back((self.end, fds));
        }
        Ok(count > 0)
    }
}

/// Takes the descriptors out of the control data that the kernel has just written.
///
/// By hand, because they must be taken, to be closed, also where the kernel had more to give than
/// this process may hold, and there nix gives none. There is one control message at most: nothing
/// but descriptors was asked for.
fn descriptors(control: &[u8]) -> Vec<OwnedFd> {
    let int = |at: usize| {
        let bytes = control.get(at..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| i32::from_ne_bytes(*bytes))
    };
    // struct cmsghdr: its length (a machine word), level and type.
    let head = size_of::<libc::cmsghdr>();
    let length = control
        .first_chunk()
        .map_or(0, |bytes| usize::from_ne_bytes(*bytes));
    let word = size_of::<usize>();
    if (int(word), int(word + 4)) != (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
        return Vec::new();
    }
    let data = control.get(head..length).unwrap_or_default();
    data.chunks_exact(size_of::<RawFd>())
        .filter_map(|fd| fd.first_chunk().map(|fd| RawFd::from_ne_bytes(*fd)))
        // SAFETY: the kernel has just given us these descriptors; nobody else owns them.
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
        .collect()
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
    let mut until = None;
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
        // Never asleep in the kernel for longer than this client may make us.
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        match sendmsg::<()>(stream.as_raw_fd(), &left, control, flags, None) {
            Ok(count) => sent += count,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let until = *until.get_or_insert_with(|| Instant::now() + SEND_TIME);
                wait_for_room(stream, until)?;
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn wait_for_room(stream: &UnixStream, until: Instant) -> io::Result<()> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
    let time = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, time) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
