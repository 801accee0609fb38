//! Registered memory: the file behind a range of the caller's, found by the process's own means.
//!
//! `/proc/self/maps` says which file (device and inode) and offset a range shows. The file itself
//! is taken from the process's open descriptors, then from the path (shm), then from
//! `/proc/self/map_files`, which needs a privilege. Nothing is trusted that does not have the
//! mapping's device and inode.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::error::{Error, Result};
use crate::transport::Protection;

/// One line of `/proc/self/maps`.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    start: u64,
    end: u64,
    readable: bool,
    writable: bool,
    shared: bool,
    offset: u64,
    device: (u32, u32),
    inode: u64,
    path: &'a str,
}

fn parse(text: &str) -> Option<Line<'_>> {
    let mut words = text.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let permissions = words.next()?.as_bytes();
    let offset = words.next()?;
    let (major, minor) = words.next()?.split_once(':')?;
    let inode = words.next()?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let short = |text: &str| u32::from_str_radix(text, 16).ok();
    Some(Line {
        start: hex(start)?,
        end: hex(end)?,
        readable: permissions.first() == Some(&b'r'),
        writable: permissions.get(1) == Some(&b'w'),
        shared: permissions.get(3) == Some(&b's'),
        offset: hex(offset)?,
        device: (short(major)?, short(minor)?),
        inode: inode.trim().parse().ok()?,
        path: words.next().unwrap_or("").trim_start(),
    })
}

/// The file that the whole of a range shows, and the offset in it; `None`: none, or several.
///
/// # Errors
/// `Invalid` where the range is not mapped, or not as the protection needs it.
pub(super) fn find(start: u64, bytes: u64, protection: Protection) -> Result<Option<(File, u64)>> {
    let maps = fs::read_to_string("/proc/self/maps").map_err(|source| Error::Io {
        tried: "read",
        on: "/proc/self/maps".into(),
        source,
    })?;
    let Some((line, offset)) = covering(&maps, start, bytes, protection)? else {
        return Ok(None);
    };
    Ok(open(&line, protection).map(|file| (file, offset)))
}

fn covering(
    maps: &str,
    start: u64,
    bytes: u64,
    protection: Protection,
) -> Result<Option<(Line<'_>, u64)>> {
    let end = start + bytes;
    let mut at = start;
    let mut first: Option<(Line<'_>, u64)> = None;
    let mut one_file = true;
    for line in maps.lines().filter_map(parse) {
        if line.end <= at || at >= end {
            continue;
        }
        if line.start > at {
            break;
        }
        if !line.readable || (protection == Protection::ReadWrite && !line.writable) {
            return Err(Error::Invalid {
                what: format!(
                    "register {bytes:#x} bytes at {start:#x}: memory at {at:#x} is not {}",
                    if line.readable {
                        "writable"
                    } else {
                        "readable"
                    }
                ),
            });
        }
        one_file &= line.shared && line.inode != 0;
        let offset = line.offset + (at - line.start);
        at = line.end;
        match &first {
            None => first = Some((line, offset)),
            Some((head, from)) => {
                one_file &= (head.device, head.inode) == (line.device, line.inode)
                    && offset == from + (line.start - start);
            }
        }
    }
    if at < end {
        return Err(Error::Invalid {
            what: format!("register {bytes:#x} bytes at {start:#x}: nothing is mapped at {at:#x}"),
        });
    }
    Ok(first.filter(|_| one_file))
}

fn open(line: &Line<'_>, protection: Protection) -> Option<File> {
    let is_it = |file: &File| {
        file.metadata().is_ok_and(|found| {
            let device = (libc::major(found.dev()), libc::minor(found.dev()));
            found.ino() == line.inode && device == line.device && found.is_file()
        })
    };
    let reopen = |path: &Path| {
        fs::OpenOptions::new()
            .read(true)
            .write(protection == Protection::ReadWrite)
            .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .ok()
            .filter(&is_it)
    };
    let held = fs::read_dir("/proc/self/fd")
        .ok()?
        .flatten()
        .find_map(|entry| {
            let found = fs::metadata(entry.path()).ok()?;
            (found.ino() == line.inode && found.is_file()).then(|| reopen(&entry.path()))?
        });
    held.or_else(|| {
        line.path
            .starts_with('/')
            .then(|| reopen(Path::new(line.path)))?
    })
    .or_else(|| {
        let name = format!("/proc/self/map_files/{:x}-{:x}", line.start, line.end);
        reopen(Path::new(&name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    const MAPS: &str = "\
7f0000000000-7f0000002000 rw-s 00001000 00:01 77                         /memfd:a (deleted)
7f0000002000-7f0000003000 rw-s 00003000 00:01 77                         /memfd:a (deleted)
7f0000003000-7f0000004000 rw-s 00009000 00:01 77                         /memfd:a (deleted)
7f0000004000-7f0000005000 rw-p 00000000 00:00 0 
7f0000006000-7f0000007000 r--s 00000000 00:1c 12                         /dev/shm/with a space
";

    fn look(start: u64, bytes: u64, protection: Protection) -> Result<Option<u64>> {
        covering(MAPS, start, bytes, protection).map(|found| found.map(|(_, offset)| offset))
    }

    #[test]
    fn a_range_over_pieces_of_one_file_is_one_file() {
        let at = 0x7f00_0000_1000;
        assert_eq!(
            look(at, 0x2000, Protection::ReadWrite).unwrap(),
            Some(0x2000)
        );
    }

    #[test]
    fn a_gap_in_the_file_private_memory_and_holes_are_told_apart() {
        let base = 0x7f00_0000_0000;
        assert_eq!(look(base + 0x2000, 0x2000, Protection::Read).unwrap(), None);
        assert_eq!(look(base + 0x4000, 0x1000, Protection::Read).unwrap(), None);
        for (at, bytes) in [(0x4000, 0x2000), (0x5000, 0x1000), (0x9000, 0x1000)] {
            let error = look(base + at, bytes, Protection::Read).unwrap_err();
            assert_eq!(error.code(), Code::Invalid, "{error}");
        }
    }

    #[test]
    fn read_only_memory_is_not_registered_for_writing() {
        let at = 0x7f00_0000_6000;
        assert_eq!(look(at, 0x1000, Protection::Read).unwrap(), Some(0));
        let error = look(at, 0x1000, Protection::ReadWrite).unwrap_err();
        assert!(error.to_string().contains("not writable"), "{error}");
    }

    #[test]
    fn lines_that_are_not_lines_are_skipped() {
        for bad in [
            "",
            "x",
            "1-2",
            "1-2 rw-s",
            "zz-1 rw-s 0 0:0 0",
            "1-2 rw-s 0 0 0",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
