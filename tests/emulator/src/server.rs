//! The vfio-user server: a socket, one owner and any number of observers.

use std::fmt::Debug;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use nix::sys::socket::{getsockopt, sockopt};

use crate::client::Client;
use crate::slot::Slot;

/// What a connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one owner.
    Owner,
    /// The one owner, and nobody watches.
    Exclusive,
    /// A reader.
    Observer,
}

impl Role {
    /// Whether it owns the card.
    #[must_use]
    pub const fn owns(self) -> bool {
        matches!(self, Self::Owner | Self::Exclusive)
    }
}

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

/// A telemetry page of one connection's own.
pub trait Page: Send + Sync + Debug {
    /// The file behind it; the page stands at its offset in BAR0.
    fn file(&self) -> BorrowedFd<'_>;
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
    /// A telemetry page for a new connection, kept fresh while it lives.
    ///
    /// # Errors
    /// What the kernel said to its memory.
    fn page(&self) -> io::Result<Arc<dyn Page>>;
    /// The telemetry page's place in BAR0.
    fn page_area(&self) -> (u64, u64);
    /// Function level reset, done when this returns.
    fn reset(&self);
}

#[derive(Debug, Default)]
struct Roles {
    owner: Option<(u64, u32, Role)>,
    observers: usize,
    streams: Vec<(u64, UnixStream)>,
}

/// What the server's threads share.
#[derive(Debug)]
pub struct Shared {
    /// The card.
    pub function: Arc<dyn Function>,
    /// Its slot.
    pub slot: Arc<Slot>,
    /// Messages taken, by command (the last counts unknown ones).
    pub messages: [AtomicU64; 20],
    roles: Mutex<Roles>,
    ending: AtomicBool,
}

impl Shared {
    fn roles(&self) -> MutexGuard<'_, Roles> {
        self.roles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a role; false: the card has an owner, or one that wants nobody to watch.
    pub fn take(&self, connection: u64, pid: u32, role: Role) -> bool {
        let mut roles = self.roles();
        let exclusive = matches!(roles.owner, Some((_, _, Role::Exclusive)));
        match role {
            Role::Observer if exclusive => return false,
            Role::Observer => roles.observers += 1,
            Role::Exclusive if roles.owner.is_some() || roles.observers > 0 => return false,
            Role::Owner if roles.owner.is_some() => return false,
            Role::Owner | Role::Exclusive => roles.owner = Some((connection, pid, role)),
        }
        true
    }

    /// Gives a role back; an owner leaves nothing behind.
    pub fn give_back(&self, connection: u64, role: Role) {
        if role.owns() {
            // First the engine is stopped, then its memory goes, then somebody else may own it.
            self.function.reset();
            self.slot.vacate();
        }
        let mut roles = self.roles();
        match role {
            Role::Observer => roles.observers = roles.observers.saturating_sub(1),
            _ if roles.owner.is_some_and(|(owner, ..)| owner == connection) => roles.owner = None,
            _ => {}
        }
    }

    /// The owner's process.
    #[must_use]
    pub fn owner_pid(&self) -> Option<u32> {
        self.roles().owner.map(|(_, pid, _)| pid)
    }
}

/// A running server; dropping it disconnects everyone and removes the socket.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    shared: Arc<Shared>,
    listener: OwnedFd,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves a card on a socket. A stale socket is replaced; a live one is refused.
    ///
    /// # Errors
    /// `AddrInUse` when somebody serves there, `AlreadyExists` for a file that is no socket, what
    /// the kernel said otherwise.
    pub fn start(path: &Path, slot: Arc<Slot>, function: Arc<dyn Function>) -> io::Result<Self> {
        clear_stale(path)?;
        let listener = bind_private(path)?;
        let shared = Arc::new(Shared {
            function,
            slot,
            messages: Default::default(),
            roles: Mutex::default(),
            ending: AtomicBool::new(false),
        });
        let closing = listener.try_clone()?.into();
        let accepting = {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name("accept".into())
                .spawn(move || accept(&listener, &shared))?
        };
        Ok(Self {
            path: path.to_owned(),
            shared,
            listener: closing,
            accepting: Some(accepting),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What its threads share.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        // Wakes the accepting thread with an error.
        let _ =
            nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        for (_, stream) in &self.shared.roles().streams {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn clear_stale(path: &Path) -> io::Result<()> {
    let Ok(there) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !there.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the path is taken by a file that is no socket",
        ));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another emulator serves this socket",
        )),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Err(error) => Err(error),
    }
}

/// A socket that nobody but its owner can ever have connected to.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    // Bound under another name until its mode is right, so that there is no moment in between.
    let hidden = path.with_extension(format!("{}.new", std::process::id()));
    let _ = std::fs::remove_file(&hidden);
    let listener = UnixListener::bind(&hidden)?;
    let ready = std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::rename(&hidden, path));
    if let Err(error) = ready {
        let _ = std::fs::remove_file(&hidden);
        return Err(error);
    }
    Ok(listener)
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    for number in 1u64.. {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(_) if shared.ending.load(Ordering::Acquire) => break,
            Err(error) => {
                // Out of descriptors, perhaps: those that are connected go on.
                log::warn!("accept: {error}");
                std::thread::sleep(std::time::Duration::from_millis(20));
                continue;
            }
        };
        if shared.ending.load(Ordering::Acquire) {
            break;
        }
        threads.retain(|thread| !thread.is_finished());
        match welcome(stream, number, shared) {
            Ok(thread) => threads.push(thread),
            Err(error) => log::warn!("a client was turned away: {error}"),
        }
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn welcome(stream: UnixStream, number: u64, shared: &Arc<Shared>) -> io::Result<JoinHandle<()>> {
    let peer = getsockopt(&stream, sockopt::PeerCredentials)?;
    let us = nix::unistd::geteuid().as_raw();
    if peer.uid() != us && peer.uid() != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("it belongs to user {}", peer.uid()),
        ));
    }
    let pid = u32::try_from(peer.pid()).unwrap_or(0);
    let client = Client::new(stream.try_clone()?, number, pid, shared.clone())?;
    shared.roles().streams.push((number, stream));
    let shared = shared.clone();
    let thread = std::thread::Builder::new()
        .name(format!("client {pid}"))
        .spawn(move || {
            client.serve();
            shared.roles().streams.retain(|(other, _)| *other != number);
        })?;
    Ok(thread)
}
