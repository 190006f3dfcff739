//! The `tidegate dev` of this directory, as other commands find it.
//!
//! It leaves its addresses in a file and holds a lock on it while it runs: no lock, no node, however it ended.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::Path,
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// Where `tidegate dev` keeps its data unless told otherwise.
pub(super) const DEV_DATA: &str = ".tidegate/dev";
/// The file in it.
const FILE: &str = "addresses.json";

/// Where a node listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Running {
    /// Its control listener.
    pub(super) control: String,
    /// Its data listener.
    pub(super) gate: String,
    /// Its admin token.
    #[serde(skip)]
    pub(super) token: Option<String>,
}

impl Running {
    /// Leaves the addresses in the data directory. They count until the file is dropped.
    pub(super) fn announce(&self, data: &Path) -> io::Result<File> {
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(data.join(FILE))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        file.set_len(0)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        Ok(file)
    }

    /// Finds the node that runs with this data directory.
    pub(super) fn find(data: &Path) -> Option<Self> {
        let mut file = File::open(data.join(FILE)).ok()?;
        if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
            // Nobody holds it: it is from a node that is gone.
            return None;
        }
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        let running: Self = serde_json::from_str(&text).ok()?;
        let token = std::fs::read_to_string(data.join("admin-token")).ok().map(|token| token.trim().to_owned());
        Some(Self { token, ..running })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_found_while_it_runs_and_not_after() {
        let data = tempfile::tempdir().unwrap();
        let running = Running { control: "http://a".into(), gate: "http://b".into(), token: None };
        assert_eq!(Running::find(data.path()), None);
        let held = running.announce(data.path()).unwrap();
        std::fs::write(data.path().join("admin-token"), "tg_x\n").unwrap();
        assert_eq!(Running::find(data.path()), Some(Running { token: Some("tg_x".into()), ..running }));
        drop(held);
        assert_eq!(Running::find(data.path()), None);
    }
}
