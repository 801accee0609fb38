//! A file put in its place whole, or not at all, and taken back when the rest of its step fails.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What a write replaced, so that it can be taken back.
#[derive(Debug)]
pub struct Written {
    path: PathBuf,
    before: Option<Vec<u8>>,
    folders: Vec<PathBuf>,
}

/// Writes `text` to `path`, which lies below `root`. A link on the way that leads out of `root` is
/// refused; a link at the end is replaced, not followed.
///
/// # Errors
/// What the system says; then everything is as it was.
pub fn write(root: &Path, path: &Path, text: &str) -> io::Result<Written> {
    let mut written = Written {
        path: path.into(),
        before: None,
        folders: Vec::new(),
    };
    let result = enter(root, path, &mut written.folders).and_then(|()| {
        // What is there is a file of ours or was found to be different and is to be replaced.
        written.before = match fs::symlink_metadata(path) {
            Ok(about) if about.is_file() => Some(fs::read(path)?),
            Ok(about) if about.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            _ => None,
        };
        replace(path, text.as_bytes())
    });
    match result {
        Ok(()) => Ok(written),
        Err(error) => {
            written.remove_folders();
            Err(error)
        }
    }
}

impl Written {
    /// Puts back what was there before.
    ///
    /// # Errors
    /// What the system says.
    pub fn undo(self) -> io::Result<()> {
        match &self.before {
            Some(bytes) => replace(&self.path, bytes)?,
            None => fs::remove_file(&self.path)?,
        }
        self.remove_folders();
        Ok(())
    }

    fn remove_folders(&self) {
        for folder in self.folders.iter().rev() {
            // Somebody else may have put something in it meanwhile: then it stays.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Makes the folders of `path`, one after the other, each inside `root`.
fn enter(root: &Path, path: &Path, made: &mut Vec<PathBuf>) -> io::Result<()> {
    let real_root = root.canonicalize()?;
    let outside = |folder: &Path| {
        io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} leads out of {}", folder.display(), root.display()),
        )
    };
    let parent = path.parent().unwrap_or(root);
    let inside = parent.strip_prefix(root).map_err(|_| outside(parent))?;
    let mut folder = root.to_owned();
    for part in inside.components() {
        folder.push(part);
        match fs::create_dir(&folder) {
            Ok(()) => {
                made.push(folder.clone());
                // Whatever the umask says: daemons read these.
                fs::set_permissions(&folder, PermissionsExt::from_mode(0o755))?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        if !folder.canonicalize()?.starts_with(&real_root) {
            return Err(outside(&folder));
        }
    }
    Ok(())
}

/// Beside its place first, then renamed into it.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let write = || {
        let mut file: File = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&beside)?;
        file.set_permissions(PermissionsExt::from_mode(0o644))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    let result = write();
    if matches!(&result, Err(error) if error.kind() != io::ErrorKind::AlreadyExists) {
        let _ = fs::remove_file(&beside);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("jalapeno-place-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).expect("a folder");
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_and_its_folders_come_and_go_together() {
        let folder = Folder::new("comes");
        let path = folder.0.join("etc/udev/rules.d/70-x.rules");
        let written = write(&folder.0, &path, "one\n").expect("written");
        assert_eq!(fs::read_to_string(&path).expect("text"), "one\n");
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        written.undo().expect("undone");
        assert!(!folder.0.join("etc").exists());
    }

    #[test]
    fn what_was_there_before_comes_back() {
        let folder = Folder::new("before");
        let path = folder.0.join("limits");
        fs::write(&path, "theirs\n").expect("a file");
        let written = write(&folder.0, &path, "ours\n").expect("written");
        assert_eq!(fs::read_to_string(&path).expect("text"), "ours\n");
        written.undo().expect("undone");
        assert_eq!(fs::read_to_string(&path).expect("text"), "theirs\n");
        assert_eq!(fs::read_dir(&folder.0).expect("a folder").count(), 1);
    }

    #[test]
    fn a_link_out_of_the_root_is_refused_and_one_at_the_end_is_replaced() {
        let (folder, outside) = (Folder::new("links"), Folder::new("outside"));
        symlink(&outside.0, folder.0.join("etc")).expect("a link");
        let error = write(&folder.0, &folder.0.join("etc/a/b"), "x").expect_err("refused");
        assert!(error.to_string().contains("leads out of"), "{error}");
        assert_eq!(fs::read_dir(&outside.0).expect("a folder").count(), 0);
        let victim = outside.0.join("victim");
        fs::write(&victim, "safe").expect("a file");
        symlink(&victim, folder.0.join("end")).expect("a link");
        write(&folder.0, &folder.0.join("end"), "x").expect("written");
        assert_eq!(fs::read_to_string(&victim).expect("text"), "safe");
        assert!(write(&folder.0, Path::new("/elsewhere/x"), "x").is_err());
    }

    #[test]
    fn a_folder_in_its_place_is_an_error_that_leaves_nothing() {
        let folder = Folder::new("folder");
        fs::create_dir(folder.0.join("taken")).expect("a folder");
        assert!(write(&folder.0, &folder.0.join("taken"), "x").is_err());
        fs::write(folder.0.join("file"), "").expect("a file");
        assert!(write(&folder.0, &folder.0.join("file/below/it"), "x").is_err());
        assert_eq!(fs::read_dir(&folder.0).expect("a folder").count(), 2);
    }
}
