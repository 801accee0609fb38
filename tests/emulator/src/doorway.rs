//! The doorway: a socket in the file system, private, its own, gone when the server goes.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// How long another one that starts in the same folder may take.
const START_TIME: Duration = Duration::from_secs(2);

/// A socket that is listened on; dropping it removes the file, if it is still this one.
#[derive(Debug)]
pub struct Doorway {
    path: PathBuf,
    /// Device and inode.
    name: (u64, u64),
}

impl Doorway {
    /// Listens at a path. A stale socket is replaced; a live one is refused.
    ///
    /// # Errors
    /// `AddrInUse` when somebody serves there, `AlreadyExists` for a file that is no socket,
    /// `InvalidInput` for a path that is too long, what the kernel said otherwise.
    pub fn open(path: &Path) -> io::Result<(Self, UnixListener)> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        UnixAddr::new(path).map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "the path is longer than a socket's may be (107 bytes)",
            )
        })?;
        // Two that start at a time must not both find the same socket stale.
        let _lock = lock(folder)?;
        clear_stale(path)?;
        // Under another name until it listens and its mode is right: whoever finds it can use it,
        // and nobody but its owner ever could.
        let hidden = folder.join(format!(".{}.new", std::process::id()));
        let _ = std::fs::remove_file(&hidden);
        let listener = UnixListener::bind(&hidden)?;
        let ready = std::fs::set_permissions(&hidden, Permissions::from_mode(0o600))
            .and_then(|()| std::fs::symlink_metadata(&hidden))
            .and_then(|there| {
                std::fs::rename(&hidden, path)?;
                Ok((there.dev(), there.ino()))
            });
        match ready {
            Ok(name) => {
                let path = path.to_owned();
                Ok((Self { path, name }, listener))
            }
            Err(error) => {
                let _ = std::fs::remove_file(&hidden);
                Err(error)
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Doorway {
    fn drop(&mut self) {
        let there = std::fs::symlink_metadata(&self.path);
        if there.is_ok_and(|there| (there.dev(), there.ino()) == self.name) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn lock(folder: &Path) -> io::Result<Flock<File>> {
    let until = Instant::now() + START_TIME;
    let mut file = File::open(folder)?;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, Errno::EWOULDBLOCK)) if Instant::now() < until => file,
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "somebody keeps its folder locked",
                ));
            }
            Err((_, errno)) => return Err(errno.into()),
        };
        std::thread::sleep(Duration::from_millis(5));
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
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let knock = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(knock.as_raw_fd(), &UnixAddr::new(path)?) {
        // Its queue may be full: somebody listens all the same.
        Ok(()) | Err(Errno::EAGAIN) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another emulator serves this socket",
        )),
        Err(Errno::ECONNREFUSED) => std::fs::remove_file(path),
        Err(errno) => Err(errno.into()),
    }
}
