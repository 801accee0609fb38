//! The vfio-user server: a socket, one owner and any number of observers.

use std::fmt::Debug;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use nix::sys::socket::{getsockopt, sockopt};

use crate::client::Client;
use crate::doorway::Doorway;
use crate::role::Roles;
use crate::slot::Slot;

/// Most clients at a time: each costs a thread and two descriptors.
const GUESTS_MAX: usize = 256;

/// A file that backs an area of a BAR.
#[derive(Clone, Copy, Debug)]
pub struct Backing<'a> {
    /// The file.
    pub file: BorrowedFd<'a>,
    /// Where the BAR begins in it.
    pub offset: u64,
    /// The area that may be mapped.
    pub area: (u64, u64),
}

/// What of BAR0 one connection may map: a copy of its own.
pub trait Page: Send + Sync + Debug {
    /// The file behind it: BAR0 up to the last area's end.
    fn file(&self) -> BorrowedFd<'_>;
    /// What of it can be mapped: offsets and bytes, rising.
    fn areas(&self) -> &[(u64, u64)];
}

/// The card, as the server sees it.
pub trait Function: Send + Sync + Debug {
    /// Sizes of the BARs.
    fn bars(&self) -> [u64; 6];
    /// Reads a BAR; the range is inside it.
    fn read(&self, bar: u32, offset: u64, into: &mut [u8]);
    /// Writes a BAR; the range is inside it.
    fn write(&self, bar: u32, offset: u64, from: &[u8]);
    /// What of a BAR can be mapped, if it is the same for everyone (doorbells, window).
    fn backing(&self, bar: u32) -> Option<Backing<'_>>;
    /// What of BAR0 a new connection may map, kept fresh while it lives.
    ///
    /// # Errors
    /// What the kernel said to its memory.
    fn page(&self) -> io::Result<Arc<dyn Page>>;
    /// Function level reset, done when this returns.
    fn reset(&self);
}

/// What the server's threads share.
#[derive(Debug)]
pub struct Shared {
    /// The card.
    pub function: Arc<dyn Function>,
    /// Its slot.
    pub slot: Arc<Slot>,
    /// Who owns it, who watches.
    pub roles: Arc<Roles>,
    /// Messages taken, by command (the last counts unknown ones).
    pub messages: [AtomicU64; 20],
    /// Function level resets that clients asked for, by whichever message.
    pub resets: AtomicU64,
    /// Everybody connected; `None` when the server ends.
    guests: Mutex<Option<Guests>>,
}

/// Everybody connected, by number.
type Guests = Vec<(u64, Arc<UnixStream>)>;

/// An entry in the list of guests; dropping it strikes it off.
#[derive(Debug)]
struct Entry {
    number: u64,
    shared: Arc<Shared>,
}

impl Shared {
    fn guests(&self) -> MutexGuard<'_, Option<Guests>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_ending(&self) -> bool {
        self.guests().is_none()
    }

    /// Enters a guest; `None` when the house is full or closing.
    fn enter(self: &Arc<Self>, number: u64, stream: &Arc<UnixStream>) -> Option<Entry> {
        let mut guests = self.guests();
        let guests = guests.as_mut()?;
        if guests.len() >= GUESTS_MAX {
            return None;
        }
        guests.push((number, stream.clone()));
        Some(Entry {
            number,
            shared: self.clone(),
        })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(guests) = self.shared.guests().as_mut() {
            guests.retain(|(number, _)| *number != self.number);
        }
    }
}

/// A running server; dropping it disconnects everyone and removes the socket.
#[derive(Debug)]
pub struct Server {
    doorway: Doorway,
    shared: Arc<Shared>,
    listener: OwnedFd,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves a card on a socket. A stale socket is replaced; a live one is refused.
    ///
    /// # Errors
    /// As [`Doorway::open`].
    pub fn start(path: &Path, slot: Arc<Slot>, function: Arc<dyn Function>) -> io::Result<Self> {
        let (doorway, listener) = Doorway::open(path)?;
        let shared = Arc::new(Shared {
            roles: Roles::new(function.clone(), slot.clone()),
            function,
            slot,
            messages: Default::default(),
            resets: AtomicU64::new(0),
            guests: Mutex::new(Some(Vec::new())),
        });
        let closing = listener.try_clone()?.into();
        let accepting = {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name("accept".into())
                .spawn(move || accept(&listener, &shared))?
        };
        Ok(Self {
            doorway,
            shared,
            listener: closing,
            accepting: Some(accepting),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.doorway.path()
    }

    /// What its threads share.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let guests = self.shared.guests().take();
        // Wakes the accepting thread with an error.
        let _ =
            nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        for (_, stream) in guests.into_iter().flatten() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    for number in 1u64.. {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(_) if shared.is_ending() => break,
            Err(error) => {
                // Out of descriptors, perhaps: those that are connected go on.
                log::warn!("accept: {error}");
                std::thread::sleep(std::time::Duration::from_millis(20));
                continue;
            }
        };
        if shared.is_ending() {
            break;
        }
        threads.retain(|thread| !thread.is_finished());
        match welcome(Arc::new(stream), number, shared) {
            Ok(thread) => threads.push(thread),
            Err(error) => log::warn!("a client was turned away: {error}"),
        }
    }
    for thread in threads {
        if thread.join().is_err() {
            log::error!("a client's thread ended by a panic");
        }
    }
}

fn welcome(
    stream: Arc<UnixStream>,
    number: u64,
    shared: &Arc<Shared>,
) -> io::Result<JoinHandle<()>> {
    let peer = getsockopt(&stream, sockopt::PeerCredentials)?;
    let us = nix::unistd::geteuid().as_raw();
    if peer.uid() != us && peer.uid() != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("it belongs to user {}", peer.uid()),
        ));
    }
    let pid = u32::try_from(peer.pid()).unwrap_or(0);
    let entry = shared
        .enter(number, &stream)
        .ok_or_else(|| io::Error::other(format!("there are {GUESTS_MAX} clients already")))?;
    let client = Client::new(stream, pid, shared.clone())?;
    std::thread::Builder::new()
        .name(format!("client {pid}"))
        .spawn(move || {
            let _entry = entry;
            client.serve();
        })
}
