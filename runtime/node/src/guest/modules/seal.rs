//! The seal of an artifact: compiled code is code, and is run only if this node made it.
//!
//! An artifact is the compiler's output followed by its keyed BLAKE3 hash, under a key that only this node has. It is
//! checked before the first request of a function after a start: HMAC-SHA-256 took 20 ms over a JavaScript guest's 36 MB.

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Bytes of the seal at the end of an artifact.
const SEAL: u64 = 32;

/// The node's key.
#[derive(Clone)]
pub(super) struct Key([u8; 32]);

impl Key {
    /// Reads the key, or makes it where there is none.
    ///
    /// # Errors
    /// When the file can't be read or made, or is no key.
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => bytes.try_into().map(Self).map_err(|_| {
                let what = format!("{} is no key of 32 bytes; remove it to have a new one made", path.display());
                std::io::Error::new(std::io::ErrorKind::InvalidData, what)
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let key: [u8; 32] = rand::random();
                let partial = path.with_extension("tmp");
                let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
                file.write_all(&key)?;
                file.sync_all()?;
                std::fs::rename(&partial, path)?;
                sync_parent(path)?;
                Ok(Self(key))
            }
            Err(error) => Err(error),
        }
    }

    fn over(&self, file: &mut File, length: u64) -> std::io::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update_reader(file.take(length))?;
        Ok(hasher.finalize())
    }

    /// Appends the seal to a file that holds the compiler's output, and makes it durable.
    ///
    /// # Errors
    /// When the file can't be read or written.
    pub(super) fn seal(&self, path: &Path) -> std::io::Result<()> {
        let mut file = File::options().read(true).append(true).open(path)?;
        let length = file.metadata()?.len();
        let hash = self.over(&mut file, length)?;
        file.write_all(hash.as_bytes())?;
        file.sync_all()
    }

    /// Whether the file's seal is this node's.
    ///
    /// # Errors
    /// When the file can't be read.
    pub(super) fn verify(&self, path: &Path) -> std::io::Result<bool> {
        let mut file = File::open(path)?;
        let Some(length) = file.metadata()?.len().checked_sub(SEAL) else { return Ok(false) };
        let hash = self.over(&mut file, length)?;
        let mut seal = [0; SEAL as usize];
        file.read_exact(&mut seal)?;
        // In constant time, as hashes of this crate compare.
        Ok(hash == blake3::Hash::from_bytes(seal))
    }
}

/// Makes a rename in the file's directory durable.
///
/// # Errors
/// When the directory can't be opened or synced.
pub(super) fn sync_parent(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_breaks_with_any_byte_and_with_any_other_key() {
        let dir = tempfile::tempdir().unwrap();
        let key = Key::open(&dir.path().join("key")).unwrap();
        let file = dir.path().join("artifact");
        std::fs::write(&file, b"code").unwrap();
        key.seal(&file).unwrap();
        let again = Key::open(&dir.path().join("key")).unwrap();
        assert!(again.verify(&file).unwrap());
        assert!(!Key::open(&dir.path().join("other")).unwrap().verify(&file).unwrap());
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[0] ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        assert!(!key.verify(&file).unwrap());
    }
}
