//! What guests print, kept within a bound in bytes.
//!
//! Each function's lines are in a ring of their own. Where all together are beyond the bound, the oldest line of the
//! function that keeps most goes: one that prints without end pushes out its own lines, and whoever keeps less than an
//! equal share loses none.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use parking_lot::Mutex;
use serde::Serialize;

use super::feed::TraceIdText;
use crate::ids::TenantId;

/// Where a line was printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The host itself, about the guest: a trap, a limit, lines that were cut.
    Host,
}

/// One line of a guest's log.
#[derive(Clone, Debug, Serialize)]
pub struct LogLine {
    /// Rises by one with each line of this node.
    pub sequence: u64,
    /// Wall clock, milliseconds since 1970.
    pub time_ms: u64,
    /// Tenant of the function; not shown, it is the reader's own.
    #[serde(skip)]
    pub tenant: TenantId,
    /// The function.
    pub function: String,
    /// Its version.
    pub version: u64,
    /// The invocation, where the line belongs to one.
    pub trace: Option<TraceIdText>,
    /// Stream it was printed to.
    pub stream: LogStream,
    /// The text without its line end.
    pub text: String,
}

impl LogLine {
    /// Bytes the line costs in its ring.
    fn cost(&self) -> u64 {
        (self.text.len() + self.function.len() + size_of::<Self>()) as u64
    }
}

/// Which lines a reader wants.
#[derive(Clone, Debug)]
pub struct LogFilter {
    /// Lines of this tenant only.
    pub tenant: TenantId,
    /// Lines of this function only.
    pub function: Option<String>,
    /// Lines after this sequence number only.
    pub after: u64,
}

impl LogFilter {
    /// Whether the line is wanted.
    pub fn wants(&self, line: &LogLine) -> bool {
        line.sequence > self.after
            && line.tenant == self.tenant
            && self.function.as_ref().is_none_or(|function| *function == line.function)
    }
}

/// The lines of one function, the oldest first.
#[derive(Default)]
struct Ring {
    lines: VecDeque<Arc<LogLine>>,
    bytes: u64,
}

/// One number a function, so that its ring is found without making a name. Two that share a number share a ring.
type Key = u64;

/// All rings. None is empty.
#[derive(Default)]
struct Rings {
    by_function: HashMap<Key, Ring>,
    /// The same by what they keep.
    by_bytes: BTreeSet<(u64, Key)>,
    bytes: u64,
    sequence: u64,
}

impl Rings {
    fn push(&mut self, key: Key, line: Arc<LogLine>) {
        let ring = self.by_function.entry(key).or_default();
        let (before, cost) = (ring.bytes, line.cost());
        ring.lines.push_back(line);
        ring.bytes += cost;
        self.bytes += cost;
        self.by_bytes.remove(&(before, key));
        self.by_bytes.insert((ring.bytes, key));
    }

    /// Drops the oldest line of the function that keeps most; false if there is none.
    fn drop_one(&mut self) -> bool {
        let Some((_, key)) = self.by_bytes.pop_last() else { return false };
        let Some(ring) = self.by_function.get_mut(&key) else { return true };
        if let Some(oldest) = ring.lines.pop_front() {
            ring.bytes -= oldest.cost();
            self.bytes -= oldest.cost();
        }
        if ring.lines.is_empty() {
            self.by_function.remove(&key);
        } else {
            self.by_bytes.insert((ring.bytes, key));
        }
        true
    }
}

/// The lines of all functions.
pub struct LogStore {
    rings: Mutex<Rings>,
    keys: RandomState,
    bound: u64,
}

impl LogStore {
    /// A store of at most `bound` bytes.
    pub fn new(bound: u64) -> Self {
        Self { rings: Mutex::default(), keys: RandomState::new(), bound }
    }

    fn key(&self, tenant: &TenantId, function: &str) -> Key {
        self.keys.hash_one((tenant, function))
    }

    /// Adds a line, numbers it, and drops what is beyond the bound. Returns it for the feed.
    pub fn push(&self, mut line: LogLine) -> Arc<LogLine> {
        let key = self.key(&line.tenant, &line.function);
        let mut rings = self.rings.lock();
        rings.sequence += 1;
        line.sequence = rings.sequence;
        let line = Arc::new(line);
        rings.push(key, Arc::clone(&line));
        while rings.bytes > self.bound && rings.drop_one() {}
        line
    }

    /// The newest `limit` lines that the filter wants, oldest first.
    pub fn recent(&self, filter: &LogFilter, limit: usize) -> Vec<Arc<LogLine>> {
        let rings = self.rings.lock();
        let newest = |ring: &Ring| -> Vec<_> {
            let later = ring.lines.iter().rev().take_while(|line| line.sequence > filter.after);
            later.filter(|line| filter.wants(line)).take(limit).cloned().collect()
        };
        let mut lines: Vec<_> = match &filter.function {
            Some(function) => {
                rings.by_function.get(&self.key(&filter.tenant, function)).map(newest).unwrap_or_default()
            }
            None => rings.by_function.values().flat_map(newest).collect(),
        };
        drop(rings);
        lines.sort_by_key(|line| std::cmp::Reverse(line.sequence));
        lines.truncate(limit);
        lines.reverse();
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(function: &str, text: &str) -> LogLine {
        LogLine {
            sequence: 0,
            time_ms: 0,
            tenant: "t".into(),
            function: function.into(),
            version: 1,
            trace: None,
            stream: LogStream::Stdout,
            text: text.into(),
        }
    }

    fn texts(store: &LogStore, function: Option<&str>) -> Vec<String> {
        let filter = LogFilter { tenant: "t".into(), function: function.map(str::to_owned), after: 0 };
        store.recent(&filter, 100).iter().map(|line| line.text.clone()).collect()
    }

    #[test]
    fn the_newest_lines_within_the_bound_are_kept() {
        let store = LogStore::new(4 * line("f", "x").cost());
        for number in 0..10 {
            store.push(line("f", &number.to_string()));
        }
        assert_eq!(texts(&store, None), ["6", "7", "8", "9"]);
    }

    #[test]
    fn one_function_without_end_leaves_the_lines_of_others() {
        let store = LogStore::new(9 * line("f", "x").cost());
        for number in 0..3 {
            store.push(line("a", &number.to_string()));
            store.push(line("b", &number.to_string()));
        }
        for number in 0..1_000 {
            store.push(line("f", &(number % 10).to_string()));
        }
        assert_eq!(texts(&store, Some("a")), ["0", "1", "2"]);
        assert_eq!(texts(&store, Some("b")), ["0", "1", "2"]);
        assert_eq!(texts(&store, Some("f")), ["7", "8", "9"]);
        for number in 3..1_000 {
            store.push(line("a", &(number % 10).to_string()));
        }
        assert_eq!(texts(&store, Some("f")), ["7", "8", "9"], "nobody is pushed below an equal share");
        assert_eq!(texts(&store, None).len(), 9);
        let mut sequences: Vec<_> = {
            let filter = LogFilter { tenant: "t".into(), function: None, after: 0 };
            store.recent(&filter, 100).iter().map(|line| line.sequence).collect()
        };
        assert!(sequences.is_sorted(), "{sequences:?}");
        sequences.dedup();
        assert_eq!(sequences.len(), 9);
    }

    #[test]
    fn a_store_that_holds_nothing_keeps_nothing_of_anybody() {
        let store = LogStore::new(0);
        store.push(line("f", "x"));
        let rings = store.rings.lock();
        assert!(rings.by_function.is_empty() && rings.by_bytes.is_empty() && rings.bytes == 0);
    }

    #[test]
    fn what_is_read_are_the_newest_after_the_one_that_was_read_last() {
        let store = LogStore::new(1 << 20);
        let sequences: Vec<_> = ["0", "1", "2", "3"].map(|text| store.push(line("f", text)).sequence).into();
        let read = |after, limit| {
            let filter = LogFilter { tenant: "t".into(), function: Some("f".into()), after };
            store.recent(&filter, limit).iter().map(|line| line.sequence).collect::<Vec<_>>()
        };
        assert_eq!(read(sequences[1], 100), sequences[2..]);
        assert_eq!(read(0, 2), sequences[2..]);
        assert!(read(sequences[3], 100).is_empty());
    }

    #[test]
    fn one_tenant_never_reads_another() {
        let store = LogStore::new(1 << 20);
        store.push(line("f", "mine"));
        for function in [None, Some("f".to_owned())] {
            let filter = LogFilter { tenant: "other".into(), function, after: 0 };
            assert!(store.recent(&filter, 100).is_empty());
        }
    }
}
