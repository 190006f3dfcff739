//! How often destinations were forgotten. The number is a part of what their answers are found by.

use std::{
    collections::HashMap,
    io::{self, Write},
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Scope;

/// File in the cache's directory.
const FILE: &str = "purges.json";
/// Destinations that are counted by themselves (no setting: the next one forgets them all).
const MOST: usize = 65_536;

/// The counts, in memory and in a file, where answers outlive the process, too.
pub(super) struct Purges {
    counts: Mutex<Counts>,
    file: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Counts {
    /// What every destination's count begins from.
    base: u64,
    #[serde(default)]
    destinations: HashMap<String, u64>,
}

impl Purges {
    /// The counts of a directory. Where they can't be read, all that lies there is forgotten.
    pub(super) fn open(directory: Option<&Path>) -> Self {
        let file = directory.map(|directory| directory.join(FILE));
        let counts = file.as_deref().map(read).unwrap_or_default();
        Self { counts: Mutex::new(counts), file }
    }

    /// How often a destination was forgotten.
    pub(super) fn count(&self, scope: &Scope) -> u64 {
        let counts = self.counts.lock();
        if counts.destinations.is_empty() {
            return counts.base;
        }
        counts.base.wrapping_add(counts.destinations.get(&scope.text()).copied().unwrap_or_default())
    }

    /// A destination is forgotten once more.
    ///
    /// # Errors
    /// When it can't be written down. It is forgotten for this process all the same.
    pub(super) fn add(&self, scope: &Scope) -> io::Result<()> {
        let mut counts = self.counts.lock();
        if counts.destinations.len() >= MOST {
            *counts = Counts { base: rand::random(), destinations: HashMap::new() };
        }
        *counts.destinations.entry(scope.text()).or_default() += 1;
        match &self.file {
            Some(file) => write(file, &counts),
            None => Ok(()),
        }
    }
}

fn read(file: &Path) -> Counts {
    let anew = || Counts { base: rand::random(), ..Counts::default() };
    match std::fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(file = %file.display(), %error, "which stored answers were forgotten can't be read: all are");
            anew()
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Counts::default(),
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "which stored answers were forgotten can't be read: all are");
            anew()
        }
    }
}

/// Whole or not at all.
fn write(file: &Path, counts: &Counts) -> io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("."));
    let mut beside = tempfile::NamedTempFile::new_in(directory)?;
    beside.write_all(&serde_json::to_vec(counts)?)?;
    beside.as_file().sync_all()?;
    beside.persist(file)?;
    std::fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_forgotten_stays_forgotten_and_more_where_that_is_not_known() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (Scope::of(1, &[], &[]), Scope::of(2, &[], &[]));
        let purges = Purges::open(Some(directory.path()));
        let before = purges.count(&other);
        purges.add(&one).unwrap();
        let after = purges.count(&one);
        assert_ne!(after, before);
        let again = Purges::open(Some(directory.path()));
        assert_eq!((again.count(&one), again.count(&other)), (after, before));
        std::fs::write(directory.path().join(FILE), "{").unwrap();
        assert_ne!(Purges::open(Some(directory.path())).count(&other), before);
    }
}
