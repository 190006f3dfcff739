//! What a guest is made from, as one hash: the files of its folder and of the SDK, the lock file.

use super::{Guest, Language};
use crate::shell::root;
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

/// Folders that are made and not written.
const MADE: [&str; 5] = ["target", "node_modules", "build", "dist", ".git"];

/// Hash of everything the guest's component depends on, as hexadecimal text.
pub(super) fn hash(guest: &Guest) -> Result<String> {
    let root = root();
    let mut sources = vec![guest.folder.clone()];
    match guest.language {
        Language::Rust => sources.extend([root.join("sdk/rust"), root.join("rust-toolchain.toml")]),
        Language::TypeScript => {
            sources.extend([root.join("sdk/ts"), root.join("sdk/wit"), root.join("package-lock.json")]);
        }
    }
    // How guests are built is an input as well.
    sources.push(root.join("xtask/src/guests"));

    let mut files = Vec::new();
    for source in sources {
        collect(&source, &mut files)?;
    }
    files.sort();
    let mut hasher = Sha256::new();
    for file in files {
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        hasher.update(file.strip_prefix(&root).unwrap_or(&file).to_string_lossy().as_bytes());
        hasher.update([0]);
        hasher.update(Sha256::digest(&bytes));
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if path.is_file() {
        files.push(path.to_path_buf());
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_file() {
            files.push(entry.path());
        } else if kind.is_dir() && !MADE.contains(&entry.file_name().to_string_lossy().as_ref()) {
            collect(&entry.path(), files)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_depends_on_its_own_folder_and_its_sdk() {
        let guest =
            Guest { name: "hello-rust".into(), folder: root().join("guests/hello-rust"), language: Language::Rust };
        let mut files = Vec::new();
        collect(&guest.folder, &mut files).unwrap();
        assert!(files.contains(&guest.folder.join("src/lib.rs")));
        let as_rust = hash(&guest).unwrap();
        assert_eq!(as_rust, hash(&guest).unwrap());
        assert_ne!(as_rust, hash(&Guest { language: Language::TypeScript, ..guest }).unwrap());
    }
}
