//! The initramfs: a cpio archive in the "newc" form that the kernel unpacks.

use std::fs;
use std::io;
use std::path::Path;

/// An archive being written. Folders are entered as files need them.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    folders: Vec<String>,
    files: Vec<String>,
    inode: u32,
}

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const DEVICE: u32 = 0o020_600;

impl Archive {
    /// Enters a file, executable, at a path without a leading slash; once, as programs share libraries.
    pub fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        if self.files.iter().any(|known| known == path) {
            return Ok(());
        }
        self.files.push(path.to_owned());
        let mut end = 0;
        while let Some(slash) = path[end..].find('/') {
            self.folder(&path[..end + slash])?;
            end += slash + 1;
        }
        self.entry(path, PROGRAM, (0, 0), content)
    }

    /// Enters a file of the host.
    pub fn copy(&mut self, path: &str, from: &Path) -> io::Result<()> {
        let content = fs::read(from)
            .map_err(|why| io::Error::new(why.kind(), format!("read {}: {why}", from.display())))?;
        self.file(path, &content)
    }

    /// Enters a character device, for the console that the kernel opens before `init` runs.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.entry(path, DEVICE, (major, minor), &[])
    }

    /// Enters an empty folder, once.
    pub fn folder(&mut self, path: &str) -> io::Result<()> {
        if self.folders.iter().any(|known| known == path) {
            return Ok(());
        }
        self.folders.push(path.to_owned());
        self.entry(path, FOLDER, (0, 0), &[])
    }

    /// Ends the archive and gives its bytes.
    pub fn finish(mut self) -> io::Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &str, mode: u32, node: (u32, u32), content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len())
            .map_err(|_| io::Error::other(format!("{path} is too large for an initramfs")))?;
        let name_size = u32::try_from(path.len() + 1).map_err(io::Error::other)?;
        self.inode += 1;
        // inode mode uid gid links mtime size, device (2), node (2), length of the name, checksum
        let fields = [
            self.inode, mode, 0, 0, 1, 0, size, 0, 0, node.0, node.1, name_size, 0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_stands_behind_its_folders_padded_to_four() {
        let mut archive = Archive::default();
        archive.file("a/b", b"hello").unwrap();
        archive.file("a/c", b"").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        // Header of "a": inode 1, a folder; written out by hand from the format's description.
        assert!(bytes.starts_with(
            b"070701\
              00000001000041ed0000000000000000000000010000000000000000\
              000000000000000000000000000000000000000200000000a\0"
        ));
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(
            text.matches("070701").count(),
            4,
            "a, a/b, a/c and the trailer"
        );
        assert!(text.contains("a/b\0") && text.contains("hello\0\0\x00070701"));
    }
}
