//! The data directory: one node's at a time, private to its user, without leftovers of a crash.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

/// Mode of its directories.
const PRIVATE: u32 = 0o700;

/// A data directory that is ours alone while this lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    // The system lets go of the lock when the process ends, however it ends.
    _lock: File,
}

impl DataDir {
    /// Makes the directory if need be, locks it, and removes what a crash left unfinished.
    ///
    /// # Errors
    /// Names the directory and what is wrong with it: in use, not writable, no directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let wrong = |error: io::Error| {
            let hint = match error.kind() {
                io::ErrorKind::PermissionDenied => "; the node must be able to write there",
                _ => "",
            };
            io::Error::new(error.kind(), format!("data directory {}: {error}{hint} (--data)", path.display()))
        };
        std::fs::DirBuilder::new().recursive(true).mode(PRIVATE).create(path).map_err(wrong)?;
        let path = path.canonicalize().map_err(wrong)?;
        // To open a pipe would wait for whoever opens its other end.
        if std::fs::symlink_metadata(path.join("lock")).is_ok_and(|lock| !lock.is_file()) {
            return Err(wrong(io::Error::new(io::ErrorKind::InvalidInput, "`lock` in it is no regular file")));
        }
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path.join("lock"));
        let lock = lock.map_err(wrong)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(wrong(io::Error::new(io::ErrorKind::ResourceBusy, "another node uses it")));
            }
            Err(TryLockError::Error(error)) => return Err(wrong(error)),
        }
        let this = Self { path, _lock: lock };
        for name in ["", "modules", "artifacts"] {
            this.keep_private(name).map_err(wrong)?;
        }
        // Ours alone by now: whatever is in there, nobody writes it any more.
        match std::fs::remove_dir_all(this.path("tmp")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(wrong(error)),
            _ => {}
        }
        std::fs::DirBuilder::new().mode(PRIVATE).create(this.path("tmp")).map_err(wrong)?;
        Ok(this)
    }

    /// Makes a directory in there, which only the node's user gets into, or takes it from others where it was made by
    /// somebody else, or by an earlier release.
    fn keep_private(&self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        std::fs::DirBuilder::new().recursive(true).mode(PRIVATE).create(&path)?;
        let mode = std::fs::metadata(&path)?.permissions().mode() & 0o7777;
        if mode & !PRIVATE == 0 {
            return Ok(());
        }
        let (path_shown, was) = (path.display(), format_args!("{mode:04o}"));
        match std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode & PRIVATE)) {
            Ok(()) => {
                tracing::warn!(path = %path_shown, %was, "others could get into this directory; now only its owner can");
            }
            // It belongs to somebody else, who let the node in.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                tracing::warn!(path = %path_shown, %was, "others can get into this directory, and the node may not change that");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The path of a file in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.path
    }

    /// A new temporary file, on the same file system as everything else of the node, removed at the next start at last.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn temporary(&self) -> io::Result<NamedTempFile> {
        NamedTempFile::new_in(self.path.join("tmp"))
    }

    /// Writes a file that only the node's user can read, whole or not at all.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write_private(&self, name: &str, contents: &[u8]) -> io::Result<PathBuf> {
        let target = self.path(name);
        let mut file = self.temporary()?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o600))?;
        file.write_all(contents)?;
        file.as_file().sync_all()?;
        file.persist(&target)?;
        // The name is durable only with its directory.
        File::open(&self.path)?.sync_all()?;
        Ok(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_node_is_refused_while_the_first_lives() {
        let directory = tempfile::tempdir().unwrap();
        let first = DataDir::open(directory.path()).unwrap();
        let error = DataDir::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("another node uses it (--data)"), "{error}");
        drop(first);
        DataDir::open(directory.path()).unwrap();
    }

    #[test]
    fn leftovers_are_swept_and_private_files_are_private() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::open(&directory.path().join("a/b")).unwrap();
        data.temporary().unwrap().keep().unwrap();
        let path = data.write_private("secret", b"x").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(data.root()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(std::fs::read_dir(data.path("tmp")).unwrap().count(), 1);
        let root = data.root().to_owned();
        drop(data);
        let data = DataDir::open(&root).unwrap();
        assert_eq!(std::fs::read_dir(data.path("tmp")).unwrap().count(), 0);
        assert_eq!(std::fs::read(path).unwrap(), b"x");
    }

    #[test]
    fn directories_that_others_could_get_into_are_taken_from_them() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let modules = data.join("modules");
        std::fs::create_dir_all(&modules).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        for path in [&data, &modules] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let opened = DataDir::open(&data).unwrap();
        for path in [&data, &modules, &data.join("artifacts"), &data.join("tmp")] {
            assert_eq!(mode(path), 0o700, "{}", path.display());
        }
        drop(opened);
    }

    #[test]
    fn a_file_in_the_place_of_the_directory_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = DataDir::open(file.path()).unwrap_err().to_string();
        assert!(error.contains(&file.path().display().to_string()), "{error}");
    }
}
