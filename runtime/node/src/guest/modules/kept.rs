//! Modules as they were uploaded, kept under their digest. They are measured before they are believed: disks rot, and copies
//! are torn.

use std::{
    fs::File,
    io::{self, ErrorKind, Read},
    path::Path,
};

use sha2::{Digest as _, Sha256};

use super::error::ModuleError;
use crate::ids::Digest;

/// What is stored of a module.
pub(super) enum Kept {
    Whole,
    Absent,
    /// Something, but not its bytes.
    Other,
}

impl Kept {
    /// Looks at the file of a module.
    pub(super) fn of(path: &Path, digest: Digest) -> Result<Self, ModuleError> {
        match File::open(path).and_then(|mut file| read_through(&mut file)) {
            Ok((measured, _)) if measured == digest => Ok(Self::Whole),
            Ok(_) => Ok(Self::Other),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::Absent),
            Err(error) => Err(ModuleError::system("can't read a stored module")(error)),
        }
    }
}

/// The digest of a file, and whether it begins as WebAssembly does.
pub(super) fn read_through(file: &mut File) -> io::Result<(Digest, bool)> {
    let (mut hasher, mut buffer, mut is_wasm) = (Sha256::new(), vec![0; 1 << 20], None);
    loop {
        let read = file.read(&mut buffer)?;
        let chunk = buffer.get(..read).unwrap_or_default();
        is_wasm.get_or_insert_with(|| chunk.starts_with(b"\0asm"));
        if read == 0 {
            return Ok((Digest(hasher.finalize().into()), is_wasm == Some(true)));
        }
        hasher.update(chunk);
    }
}
