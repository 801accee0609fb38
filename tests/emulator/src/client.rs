//! One client: its messages taken one by one, each command answered, until it leaves.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use jalapeno_wire as wire;
use nix::errno::Errno;
use zerocopy::IntoBytes;

use crate::answer::{Answer, Answered};
use crate::asking::Asking;
use crate::greeting::Greeting;
use crate::server::Shared;
use crate::session::Session;
use crate::stream::{MESSAGE_MAX, Message, Receiver, SMALL_MAX, send};

/// A connection.
#[derive(Debug)]
pub struct Client {
    receiver: Receiver,
    stream: Arc<UnixStream>,
    /// Held by whoever sends: a reply here, or a question of the engine's.
    sending: Arc<Mutex<()>>,
    pid: u32,
    session: Option<Session>,
    shared: Arc<Shared>,
}

fn broken(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl Client {
    /// A connection that has said nothing yet.
    ///
    /// # Errors
    /// What the kernel said to the socket.
    pub fn new(stream: Arc<UnixStream>, pid: u32, shared: Arc<Shared>) -> io::Result<Self> {
        Ok(Self {
            receiver: Receiver::new(stream.clone())?,
            stream,
            sending: Arc::default(),
            pid,
            session: None,
            shared,
        })
    }

    /// Serves until the client closes, breaks the protocol, or the server ends.
    pub fn serve(mut self) {
        let ended = loop {
            match self.receiver.receive() {
                Ok(Some(message)) => {
                    if let Err(error) = self.handle(message) {
                        break Some(error);
                    }
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        if let Some(error) = ended {
            log::info!("client {}: {error}", self.pid);
        }
        // Either may fail: the client may be gone already.
        let _ = self.stream.shutdown(std::net::Shutdown::Read);
        self.session = None;
        // Only now: a client that waits for our end knows that the card is free.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    fn handle(&mut self, mut message: Message) -> io::Result<()> {
        let header = message.header;
        match header.flags & wire::FLAGS_TYPE {
            wire::TYPE_COMMAND => {}
            wire::TYPE_REPLY => return self.hear(&message),
            other => return Err(broken(format!("a message of type {other}"))),
        }
        let counters = &self.shared.messages;
        let counter = counters.get(usize::from(header.command));
        let counter = counter.unwrap_or(&counters[counters.len() - 1]);
        counter.fetch_add(1, Ordering::Relaxed);
        let fds = std::mem::take(&mut message.fds);
        let quiet = header.flags & wire::FLAG_NO_REPLY != 0;
        let sound = header.flags & !(wire::FLAGS_TYPE | wire::FLAG_NO_REPLY) == 0;
        let Some(session) = &self.session else {
            return self.greet(&message, sound && !quiet && fds.is_empty());
        };
        let body = self.receiver.body(&message);
        let answered = match header.command {
            _ if !sound => Err(Errno::EINVAL),
            // A read that nobody wants to know the result of is not carried out.
            wire::command::REGION_READ if quiet => return Ok(()),
            wire::command::REGION_READ => return self.read(session, header, body, &fds),
            command => session.command(command, body, fds),
        };
        if quiet {
            return Ok(());
        }
        self.reply(header, answered)
    }

    /// A reply of the client's.
    fn hear(&self, message: &Message) -> io::Result<()> {
        match &self.session {
            Some(session) => {
                let body = self.receiver.body(message);
                session.asking.0.answer(&message.header, body);
                Ok(())
            }
            None => Err(broken("a reply instead of a greeting")),
        }
    }

    /// The first message: VERSION, or the connection ends.
    fn greet(&mut self, message: &Message, sound: bool) -> io::Result<()> {
        let header = message.header;
        let answered = if sound && header.command == wire::command::VERSION {
            self.seat(message)
        } else {
            Err(Errno::EINVAL)
        };
        let refused = answered.as_ref().err().copied();
        if header.flags & wire::FLAG_NO_REPLY == 0 {
            self.reply(header, answered)?;
        }
        match refused {
            Some(errno) => Err(io::Error::new(
                io::ErrorKind::ConnectionRefused,
                format!("its greeting was refused: {errno}"),
            )),
            None if self.session.is_none() => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "it only asked who owns the card",
            )),
            None => Ok(()),
        }
    }

    fn seat(&mut self, message: &Message) -> Answered {
        let greeting = Greeting::read(self.receiver.body(message))?;
        let roles = &self.shared.roles;
        let Some(role) = greeting.role else {
            return Ok(greeting.answer(&roles.clients()));
        };
        let seat = roles.take(self.pid, role).ok_or(Errno::EBUSY)?;
        let page = self.shared.function.page().map_err(|_| Errno::ENOMEM)?;
        let asking = Asking::new(self.stream.clone(), self.sending.clone(), greeting.transfer);
        let answer = greeting.answer(&roles.clients());
        let session = Session::new(Arc::new(asking), seat, page, self.shared.clone());
        self.receiver.greeted(if session.owns() {
            MESSAGE_MAX
        } else {
            SMALL_MAX
        });
        self.session = Some(session);
        Ok(answer)
    }

    /// The path of a register access: nothing is allocated here.
    fn read(
        &self,
        session: &Session,
        header: wire::Header,
        body: &[u8],
        fds: &[OwnedFd],
    ) -> io::Result<()> {
        let (mut small, mut large) = ([0; 64], Vec::new());
        let read = match fds {
            [] => session.read_region(body, &mut small, &mut large),
            _ => Err(Errno::EINVAL),
        };
        match read {
            Ok((access, data)) => {
                let header = wire::Header {
                    flags: wire::TYPE_REPLY,
                    error: 0,
                    ..header
                };
                let _sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
                send(&self.stream, header, [access.as_bytes(), data], &[])
            }
            Err(errno) => self.reply(header, Err(errno)),
        }
    }

    fn reply(&self, header: wire::Header, answered: Answered) -> io::Result<()> {
        let (flags, error, answer) = match answered {
            Ok(answer) => (0, 0, answer),
            Err(errno) => {
                let error = (errno as i32).unsigned_abs();
                (wire::FLAG_ERROR, error, Answer::default())
            }
        };
        let header = wire::Header {
            flags: wire::TYPE_REPLY | flags,
            error,
            ..header
        };
        let file = answer.file.as_ref().map(AsFd::as_fd);
        let _sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let parts = [answer.head.as_slice(), &answer.data];
        send(&self.stream, header, parts, file.as_slice())
    }
}
