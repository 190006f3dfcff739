//! What the gate did for a program, in one line.

use serde_json::{Value, json};

use super::super::output::millis;
use crate::observe::{FeedEvent, FeedItem, FeedReader};

/// Counts of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    /// Calls that ended.
    calls: u64,
    /// Refusals by upstreams.
    refused: u64,
    /// Refusals that reached the program.
    seen: u64,
    /// Attempts beyond the first of their call.
    repeated: u64,
    /// Time calls waited at the gate, all together.
    waited_ms: u64,
    /// Events that came too fast to be counted.
    missed: u64,
}

impl Summary {
    /// The counts as JSON.
    pub(super) fn json(&self) -> Value {
        json!({
            "event": "summary",
            "calls": self.calls,
            "refused": self.refused,
            "passed_on": self.seen,
            "repeats": self.repeated,
            "waited_ms": self.waited_ms,
            "not_counted": self.missed,
        })
    }

    /// Counts what was read.
    fn add_all(&mut self, items: &[FeedItem]) {
        for item in items {
            match item {
                FeedItem::Event(event) => self.add(event),
                FeedItem::Missed(count) => self.missed += count,
            }
        }
    }

    /// Counts an event.
    fn add(&mut self, event: &FeedEvent) {
        match event {
            FeedEvent::Log(_) => {}
            FeedEvent::Call(call) => {
                self.calls += 1;
                self.seen += u64::from(call.status == 429);
                self.repeated += u64::from(call.attempts.saturating_sub(1));
                self.waited_ms += call.waited_ms;
            }
            FeedEvent::Refused { .. } => self.refused += 1,
        }
    }

    /// Counts until the feed ends or `stop` is told, and then what is there already.
    pub(super) async fn follow(mut feed: FeedReader, stop: tokio::sync::oneshot::Receiver<()>) -> Self {
        let mut summary = Self::default();
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                items = feed.next() => match items {
                    Some(items) => summary.add_all(&items),
                    None => return summary,
                },
                _ = &mut stop => break,
            }
        }
        summary.add_all(&feed.rest());
        summary
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hidden = self.refused.saturating_sub(self.seen);
        let counted = |count: u64, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
        write!(f, "{}, {} hidden from the program", counted(self.calls, "call"), counted(hidden, "refusal"))?;
        if self.seen > 0 {
            write!(f, ", {} passed on", self.seen)?;
        }
        if self.repeated > 0 {
            write!(f, ", {}", counted(self.repeated, "repeat"))?;
        }
        write!(f, ", waited {} in all", millis(self.waited_ms))?;
        if self.missed > 0 {
            write!(f, " ({} events were too fast to count)", self.missed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::observe::Feed;

    fn refused() -> FeedEvent {
        FeedEvent::Refused { status: 429, host: "a".into(), paused: Duration::from_secs(1), waiting: 1 }
    }

    #[tokio::test]
    async fn refusals_that_the_program_never_saw_are_counted_as_hidden() {
        let feed = Feed::new(16, 1 << 20);
        let (done, stop) = tokio::sync::oneshot::channel();
        let receiver = feed.read();
        for _ in 0..3 {
            feed.send(refused);
        }
        done.send(()).unwrap();
        let summary = Summary::follow(receiver, stop).await;
        assert_eq!(summary.refused, 3);
        let summary = Summary { calls: 5, seen: 1, repeated: 2, waited_ms: 4_200, ..summary };
        assert_eq!(
            summary.to_string(),
            "5 calls, 2 refusals hidden from the program, 1 passed on, 2 repeats, waited 4.2 s in all"
        );
    }

    #[test]
    fn a_guests_log_line_is_no_call() {
        let line = crate::observe::LogLine {
            sequence: 1,
            time_ms: 0,
            tenant: "t".into(),
            function: "f".into(),
            version: 1,
            trace: None,
            stream: crate::observe::LogStream::Stdout,
            text: Value::Null.to_string(),
        };
        let mut summary = Summary::default();
        summary.add(&FeedEvent::Log(Arc::new(line)));
        assert_eq!(summary, Summary::default());
    }
}
