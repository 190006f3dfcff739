//! Which functions were used lately, so that a node opens those before it calls itself ready.

use super::data::DataDir;

/// Names that are remembered, and opened before the node is ready (no setting: the others are opened right behind).
const KEPT: usize = 64;

const FILE: &str = "recently-used";

/// Functions by last use, the latest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Recent(Vec<String>);

impl Recent {
    /// What the node before remembered. Without it, or when it can't be read, nothing: it is a hint.
    pub(super) fn load(data: &DataDir) -> Self {
        let text = std::fs::read_to_string(data.path(FILE)).unwrap_or_default();
        Self(text.lines().take(KEPT).map(str::to_owned).collect())
    }

    /// Remembers it.
    pub(super) fn save(&self, data: &DataDir) {
        if let Err(error) = data.write_private(FILE, self.0.join("\n").as_bytes()) {
            tracing::warn!(%error, "the functions used lately could not be written down");
        }
    }

    /// The names, the latest first.
    pub(super) fn names(&self) -> &[String] {
        &self.0
    }

    /// These were used just now. Says whether that changed anything.
    pub(super) fn used(&mut self, names: impl IntoIterator<Item = String>) -> bool {
        let mut next: Vec<String> = names.into_iter().collect();
        next.sort();
        let older: Vec<_> = self.0.iter().filter(|name| !next.contains(name)).cloned().collect();
        next.extend(older);
        next.truncate(KEPT);
        let changed = next != self.0;
        self.0 = next;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_come_first_and_the_oldest_are_forgotten() {
        let mut recent = Recent::default();
        assert!(recent.used(["a".into(), "b".into()]));
        assert!(recent.used(["c".into()]));
        assert!(!recent.used(["c".into()]));
        assert_eq!(recent.names(), ["c", "a", "b"]);
        recent.used((0..KEPT).map(|number| format!("f{number}")));
        assert_eq!(recent.names().len(), KEPT);
        assert!(!recent.names().contains(&"a".to_owned()));
    }

    #[test]
    fn what_was_remembered_is_known_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::open(directory.path()).unwrap();
        let mut recent = Recent::load(&data);
        recent.used(["a".into(), "b".into()]);
        recent.save(&data);
        assert_eq!(Recent::load(&data).names(), ["a", "b"]);
    }
}
