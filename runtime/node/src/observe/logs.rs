//! What guests print, kept in one ring with a bound in bytes.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use serde::Serialize;

use super::feed::TraceIdText;

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
    pub tenant: crate::ids::TenantId,
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
    /// Bytes the line costs in the ring.
    fn cost(&self) -> u64 {
        (self.text.len() + self.function.len() + size_of::<Self>()) as u64
    }
}

/// Which lines a reader wants.
#[derive(Clone, Debug)]
pub struct LogFilter {
    /// Lines of this tenant only.
    pub tenant: crate::ids::TenantId,
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

#[derive(Default)]
struct Ring {
    lines: VecDeque<Arc<LogLine>>,
    bytes: u64,
    sequence: u64,
}

/// The ring of log lines.
pub struct LogStore {
    ring: Mutex<Ring>,
    bound: u64,
}

impl LogStore {
    /// A ring of at most `bound` bytes.
    pub fn new(bound: u64) -> Self {
        Self { ring: Mutex::default(), bound }
    }

    /// Adds a line, numbers it, and drops the oldest beyond the bound. Returns it for the feed.
    pub fn push(&self, mut line: LogLine) -> Arc<LogLine> {
        let mut ring = self.ring.lock();
        ring.sequence += 1;
        line.sequence = ring.sequence;
        ring.bytes += line.cost();
        let line = Arc::new(line);
        ring.lines.push_back(Arc::clone(&line));
        while ring.bytes > self.bound {
            let Some(oldest) = ring.lines.pop_front() else { break };
            ring.bytes -= oldest.cost();
        }
        line
    }

    /// The newest `limit` lines that the filter wants, oldest first.
    pub fn recent(&self, filter: &LogFilter, limit: usize) -> Vec<Arc<LogLine>> {
        let ring = self.ring.lock();
        let mut lines: Vec<_> =
            ring.lines.iter().rev().filter(|line| filter.wants(line)).take(limit).cloned().collect();
        lines.reverse();
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> LogLine {
        LogLine {
            sequence: 0,
            time_ms: 0,
            tenant: "t".into(),
            function: "f".into(),
            version: 1,
            trace: None,
            stream: LogStream::Stdout,
            text: text.into(),
        }
    }

    #[test]
    fn the_ring_keeps_the_newest_lines_within_its_bound() {
        let store = LogStore::new(4 * line("x").cost());
        for number in 0..10 {
            store.push(line(&number.to_string()));
        }
        let filter = LogFilter { tenant: "t".into(), function: None, after: 0 };
        let texts: Vec<_> = store.recent(&filter, 100).iter().map(|line| line.text.clone()).collect();
        assert_eq!(texts, ["6", "7", "8", "9"]);
    }

    #[test]
    fn one_tenant_never_reads_another() {
        let store = LogStore::new(1 << 20);
        store.push(line("mine"));
        let filter = LogFilter { tenant: "other".into(), function: None, after: 0 };
        assert!(store.recent(&filter, 100).is_empty());
    }
}
