//! The live feed: what `tidegate dev` prints and `tidegate logs -f` follows.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use tokio::sync::broadcast;

use super::LogLine;
use crate::ids::TraceId;

/// One finished outbound call, as a line a person reads.
#[derive(Clone, Debug, Serialize)]
pub struct CallLine {
    /// The trail that tells more.
    pub trace: TraceIdText,
    /// Function that sent it, or nothing for a program at `/to`.
    pub function: Option<String>,
    /// Request method.
    pub method: String,
    /// Scheme-less origin, such as `api.openai.com`.
    pub host: String,
    /// Path without query.
    pub path: String,
    /// Status of the answer that its sender got, or 0 where there was none.
    pub status: u16,
    /// Attempts that left the node.
    pub attempts: u32,
    /// Time spent in the gate's queue and pauses.
    pub waited_ms: u64,
    /// Time from the call's arrival to the head of its answer.
    pub total_ms: u64,
    /// Anything worth saying, such as `paused 12 s, 3 waiting`.
    pub remark: Option<String>,
}

/// A trace id as hex text.
#[derive(Clone, Copy, Debug)]
pub struct TraceIdText(pub TraceId);

impl Serialize for TraceIdText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// What the feed carries.
#[derive(Clone, Debug)]
pub enum FeedEvent {
    /// A guest printed a line.
    Log(Arc<LogLine>),
    /// An outbound call ended.
    Call(Arc<CallLine>),
    /// An upstream refused: shown at once, not when the call ends.
    Refused {
        /// Status of the refusal.
        status: u16,
        /// Scheme-less origin.
        host: Arc<str>,
        /// How long the destination pauses.
        paused: Duration,
        /// Calls that wait there now.
        waiting: u32,
    },
}

/// A bounded broadcast: a reader that is too slow misses lines and is told how many.
pub struct Feed {
    sender: broadcast::Sender<FeedEvent>,
}

impl Feed {
    /// A feed that keeps at most `lines` unread events for its slowest reader.
    pub fn new(lines: usize) -> Self {
        Self { sender: broadcast::Sender::new(lines.max(1)) }
    }

    /// Tells all readers; the event is only made when there is one.
    pub fn send(&self, event: impl FnOnce() -> FeedEvent) {
        if self.sender.receiver_count() > 0 {
            // The only error is that the last reader left meanwhile.
            let _ = self.sender.send(event());
        }
    }

    /// A reader of everything from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<FeedEvent> {
        self.sender.subscribe()
    }
}
