//! The live feed: what `tidegate dev` prints and `tidegate logs -f` follows.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use tokio::{
    sync::broadcast::{self, error::TryRecvError},
    time::Instant,
};

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

    /// A reader of everything from now on that takes what came meanwhile at once.
    pub fn read(&self) -> FeedReader {
        FeedReader { receiver: self.subscribe(), rested: Instant::now() }
    }

    /// A reader of everything from now on that is woken for every event.
    pub fn subscribe(&self) -> broadcast::Receiver<FeedEvent> {
        self.sender.subscribe()
    }
}

/// How long a [`FeedReader`] rests between two looks. To be woken for every call costs a busy gate more than the call's
/// line is worth (a fifth of what it could send, measured), and nobody reads faster.
const REST: Duration = Duration::from_millis(10);
/// Events of one look; more wait for the next.
const AT_ONCE: usize = 1_000;

/// What a reader of the feed finds.
#[derive(Clone, Debug)]
pub enum FeedItem {
    /// Something happened.
    Event(FeedEvent),
    /// So many events came too fast for this reader.
    Missed(u64),
}

/// A reader that looks now and then, and takes all there is.
pub struct FeedReader {
    receiver: broadcast::Receiver<FeedEvent>,
    /// When it may look again.
    rested: Instant,
}

impl FeedReader {
    /// What came since the last look, waiting for the first of it; nothing once the feed is gone. May be dropped at any
    /// time without losing an event.
    pub async fn next(&mut self) -> Option<Vec<FeedItem>> {
        tokio::time::sleep_until(self.rested).await;
        let first = match self.receiver.recv().await {
            Ok(event) => FeedItem::Event(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => FeedItem::Missed(missed),
            Err(broadcast::error::RecvError::Closed) => return None,
        };
        self.rested = Instant::now() + REST;
        let mut items = vec![first];
        self.take(&mut items, AT_ONCE);
        Some(items)
    }

    /// What is there now.
    pub fn rest(mut self) -> Vec<FeedItem> {
        let mut items = Vec::new();
        self.take(&mut items, usize::MAX);
        items
    }

    fn take(&mut self, items: &mut Vec<FeedItem>, most: usize) {
        while items.len() < most {
            match self.receiver.try_recv() {
                Ok(event) => items.push(FeedItem::Event(event)),
                Err(TryRecvError::Lagged(missed)) => items.push(FeedItem::Missed(missed)),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16) -> FeedEvent {
        FeedEvent::Refused { status, host: "a".into(), paused: Duration::ZERO, waiting: 0 }
    }

    #[tokio::test]
    async fn a_reader_takes_what_came_while_it_rested_in_one_look_and_is_told_what_it_missed() {
        let feed = Feed::new(4);
        let mut reader = feed.read();
        feed.send(|| refused(1));
        assert!(matches!(reader.next().await.as_deref(), Some([FeedItem::Event(_)])));
        let looked = reader.rested;
        for status in 0..6 {
            feed.send(|| refused(status));
        }
        let items = reader.next().await.unwrap();
        assert!(Instant::now() >= looked);
        assert!(matches!(items.first(), Some(FeedItem::Missed(2))), "{items:?}");
        assert_eq!(items.len(), 5);
        drop(feed);
        assert!(reader.next().await.is_none());
    }
}
