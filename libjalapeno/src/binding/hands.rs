//! The hands that bind: writes to the kernel's files, records on the disk, modules loaded.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

/// What binding does to a machine. A test has hands of its own, which play the kernel or fail.
pub(super) trait Hands: Debug {
    /// Writes a word to one of the kernel's files.
    fn write(&self, file: &Path, word: &str) -> io::Result<()>;
    /// Loads a kernel module.
    fn load(&self, module: &str) -> io::Result<()>;
    /// Makes a file have this text, or be gone: whole, or as it was before.
    fn save(&self, file: &Path, text: Option<&str>) -> io::Result<()>;
}

/// Longest that one write may take. The kernel's unbind of a card that somebody opened meanwhile
/// waits until it is let go.
const WRITE_TIME: Duration = Duration::from_secs(15);
/// Longest that another process that binds may be waited for.
const LOCK_TIME: Duration = Duration::from_secs(20);

/// This machine's.
#[derive(Debug)]
pub(super) struct Real;

impl Hands for Real {
    fn write(&self, file: &Path, word: &str) -> io::Result<()> {
        let (file, word) = (file.to_owned(), format!("{word}\n"));
        let (sender, done) = mpsc::channel();
        std::thread::spawn(move || {
            let written = OpenOptions::new()
                .write(true)
                .open(file)
                .and_then(|mut file| file.write_all(word.as_bytes()));
            // Nobody listens any more where the time has run out.
            let _ = sender.send(written);
        });
        done.recv_timeout(WRITE_TIME)
            .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
    }

    fn load(&self, module: &str) -> io::Result<()> {
        // Where it is in each distribution; PATH is not asked, because this runs as root.
        let places = ["/sbin/modprobe", "/usr/sbin/modprobe", "/bin/modprobe"];
        let program = places.into_iter().find(|place| Path::new(place).exists());
        let program = program.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "there is no program modprobe here")
        })?;
        let said = Command::new(program)
            .args(["--", module])
            .stdin(Stdio::null())
            .output()?;
        match said.status.success() {
            true => Ok(()),
            false => Err(io::Error::other(
                String::from_utf8_lossy(&said.stderr).trim().to_owned(),
            )),
        }
    }

    fn save(&self, file: &Path, text: Option<&str>) -> io::Result<()> {
        let folder = file
            .parent()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let Some(text) = text else {
            return match fs::remove_file(file) {
                Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
                _ => Ok(()),
            };
        };
        fs::create_dir_all(folder)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let new = folder.join(format!(".{name}.new"));
        // What a process left that died half-way. Not there is as good.
        let _ = fs::remove_file(&new);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&new)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&new, file))
            .and_then(|()| File::open(folder)?.sync_all());
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }
}

/// Keeps other processes from binding at the same time, until it is dropped.
pub(super) fn lock(folder: &Path) -> io::Result<Flock<File>> {
    fs::create_dir_all(folder)?;
    let open = || {
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(folder.join(".lock"))
    };
    let begin = Instant::now();
    loop {
        match Flock::lock(open()?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) if begin.elapsed() < LOCK_TIME => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err((_, errno)) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::played::Machine;

    #[test]
    fn a_record_is_saved_whole_replaced_and_removed() {
        let machine = Machine::new();
        let file = machine.path.join("etc/jalapeno/bindings/0000:01:00.0");
        Real.save(&file, Some("one")).unwrap();
        machine.write("etc/jalapeno/bindings/.0000:01:00.0.new", "left over");
        Real.save(&file, Some("two")).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "two");
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
        Real.save(&file, None).unwrap();
        Real.save(&file, None).unwrap();
        assert!(!file.exists());
        // A folder in its place is no record, and is not removed.
        fs::create_dir_all(file.join("x")).unwrap();
        assert!(Real.save(&file, Some("three")).is_err());
        assert!(Real.save(&file, None).is_err() && file.join("x").is_dir());
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_needs_a_file_that_is_there() {
        let machine = Machine::new();
        let file = machine.path.join("sys/bus/pci/drivers_probe");
        let error = Real.write(&file, "0000:01:00.0").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(!file.exists(), "a write makes no file");
        machine.write("sys/bus/pci/drivers_probe", "");
        Real.write(&file, "0000:01:00.0").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "0000:01:00.0\n");
    }

    #[test]
    fn two_that_bind_wait_for_each_other() {
        let machine = Machine::new();
        let folder = machine.path.join("run/jalapeno-bindings");
        let first = lock(&folder).unwrap();
        let other = folder.clone();
        let begin = Instant::now();
        let second = std::thread::spawn(move || lock(&other).map(drop));
        std::thread::sleep(Duration::from_millis(60));
        drop(first);
        second.join().unwrap().unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(60));
    }
}
