//! The live feed: what `tidegate dev` prints and `tidegate logs -f` follows.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::{sync::Notify, time::Instant};

use super::LogLine;
use crate::ids::{TenantId, TraceId};

/// One finished outbound call, as a line a person reads.
#[derive(Clone, Debug, Serialize)]
pub struct CallLine {
    /// The trail that tells more.
    pub trace: TraceIdText,
    /// Function that sent it, or nothing for a program at `/to`.
    pub function: Option<String>,
    /// Whose it is.
    #[serde(skip)]
    pub tenant: TenantId,
    /// Label of its destination: the configured name, or the origin.
    pub destination: Arc<str>,
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

impl FeedEvent {
    /// Memory that it keeps from being freed, bytes.
    fn cost(&self) -> u64 {
        let texts = match self {
            Self::Log(line) => size_of::<LogLine>() + line.function.capacity() + line.text.capacity(),
            Self::Call(line) => {
                let of = |text: &Option<String>| text.as_ref().map_or(0, String::capacity);
                let own = line.destination.len() + line.method.capacity() + line.host.capacity() + line.path.capacity();
                size_of::<CallLine>() + own + of(&line.function) + of(&line.remark)
            }
            Self::Refused { host, .. } => host.len(),
        };
        (size_of::<Self>() + texts) as u64
    }
}

/// A bounded broadcast: a reader that is too slow misses events and is told how many.
pub struct Feed {
    shared: Arc<Shared>,
}

struct Shared {
    ring: Mutex<Ring>,
    news: Notify,
    readers: AtomicUsize,
    /// Most events, and most bytes of them.
    lines: usize,
    bytes: u64,
}

/// The last events, the oldest first, kept for as long as there are readers.
#[derive(Default)]
struct Ring {
    events: VecDeque<FeedEvent>,
    bytes: u64,
    /// Number of the next event.
    next: u64,
    closed: bool,
}

impl Ring {
    fn push(&mut self, event: FeedEvent, lines: usize, bytes: u64) {
        self.bytes += event.cost();
        self.events.push_back(event);
        self.next += 1;
        while self.events.len() > lines || self.bytes > bytes {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.cost();
        }
    }
}

impl Feed {
    /// A feed that keeps at most so many events, of so many bytes, for its slowest reader.
    pub fn new(lines: usize, bytes: u64) -> Self {
        let (ring, readers) = (Mutex::default(), AtomicUsize::new(0));
        Self { shared: Arc::new(Shared { ring, news: Notify::new(), readers, lines: lines.max(1), bytes }) }
    }

    /// Tells all readers; the event is only made when there is one.
    pub fn send(&self, event: impl FnOnce() -> FeedEvent) {
        let shared = &*self.shared;
        if shared.readers.load(Ordering::Relaxed) == 0 {
            return;
        }
        let event = event();
        shared.ring.lock().push(event, shared.lines, shared.bytes);
        shared.news.notify_waiters();
    }

    /// A reader of everything from now on that takes what came meanwhile at once.
    pub fn read(&self) -> FeedReader {
        FeedReader { events: self.subscribe(), rested: Instant::now() }
    }

    /// A reader of everything from now on that is woken for every event.
    pub fn subscribe(&self) -> FeedEvents {
        let shared = Arc::clone(&self.shared);
        let next = {
            let ring = shared.ring.lock();
            shared.readers.fetch_add(1, Ordering::Relaxed);
            ring.next
        };
        FeedEvents { shared, next }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.shared.ring.lock().closed = true;
        self.shared.news.notify_waiters();
    }
}

/// What a reader of the feed finds.
#[derive(Clone, Debug)]
pub enum FeedItem {
    /// Something happened.
    Event(FeedEvent),
    /// So many events came too fast for this reader.
    Missed(u64),
}

/// Why an event can't be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEvent {
    /// It did not happen yet.
    NotYet,
    /// So many events came too fast for this reader.
    Missed(u64),
}

/// The events of a feed, one after another.
pub struct FeedEvents {
    shared: Arc<Shared>,
    /// Number of the event that is read next.
    next: u64,
}

impl FeedEvents {
    /// The next item; nothing once the feed is gone. May be dropped at any time without losing an event.
    pub async fn next(&mut self) -> Option<FeedItem> {
        let shared = Arc::clone(&self.shared);
        loop {
            let mut news = pin!(shared.news.notified());
            // From here on no event goes unnoticed.
            news.as_mut().enable();
            if let Some(item) = self.at_hand() {
                return Some(item);
            }
            if shared.ring.lock().closed {
                return None;
            }
            news.await;
        }
    }

    /// The next event, if it is there.
    ///
    /// # Errors
    /// Where it is not there yet, or not any more.
    pub fn try_recv(&mut self) -> Result<FeedEvent, NoEvent> {
        let ring = self.shared.ring.lock();
        let kept_from = ring.next - ring.events.len() as u64;
        if self.next < kept_from {
            let missed = kept_from - self.next;
            self.next = kept_from;
            return Err(NoEvent::Missed(missed));
        }
        let at = usize::try_from(self.next - kept_from).unwrap_or(usize::MAX);
        let event = ring.events.get(at).cloned().ok_or(NoEvent::NotYet)?;
        self.next += 1;
        Ok(event)
    }

    fn at_hand(&mut self) -> Option<FeedItem> {
        match self.try_recv() {
            Ok(event) => Some(FeedItem::Event(event)),
            Err(NoEvent::Missed(count)) => Some(FeedItem::Missed(count)),
            Err(NoEvent::NotYet) => None,
        }
    }
}

impl Drop for FeedEvents {
    fn drop(&mut self) {
        let mut ring = self.shared.ring.lock();
        if self.shared.readers.fetch_sub(1, Ordering::Relaxed) == 1 {
            ring.bytes = 0;
            let unread = std::mem::take(&mut ring.events);
            drop(ring);
            drop(unread);
        }
    }
}

/// How long a [`FeedReader`] rests between two looks. To be woken for every call costs a busy gate more than the call's
/// line is worth (a fifth of what it could send, measured), and nobody reads faster.
const REST: Duration = Duration::from_millis(10);
/// Events of one look; more wait for the next.
const AT_ONCE: usize = 1_000;

/// A reader that looks now and then, and takes all there is.
pub struct FeedReader {
    events: FeedEvents,
    /// When it may look again.
    rested: Instant,
}

impl FeedReader {
    /// What came since the last look, waiting for the first of it; nothing once the feed is gone. May be dropped at any
    /// time without losing an event.
    pub async fn next(&mut self) -> Option<Vec<FeedItem>> {
        tokio::time::sleep_until(self.rested).await;
        let first = self.events.next().await?;
        self.rested = Instant::now() + REST;
        Some(std::iter::once(first).chain(self.at_hand().take(AT_ONCE - 1)).collect())
    }

    /// What is there now.
    pub fn rest(mut self) -> Vec<FeedItem> {
        self.at_hand().collect()
    }

    fn at_hand(&mut self) -> impl Iterator<Item = FeedItem> {
        std::iter::from_fn(|| self.events.at_hand())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::heap;

    fn refused(status: u16) -> FeedEvent {
        FeedEvent::Refused { status, host: "a".into(), paused: Duration::ZERO, waiting: 0 }
    }

    fn call(path: String) -> FeedEvent {
        FeedEvent::Call(Arc::new(CallLine {
            trace: TraceIdText(TraceId(1)),
            function: None,
            tenant: TenantId::default_tenant(),
            destination: "a".into(),
            method: "GET".into(),
            host: "a".into(),
            path,
            status: 403,
            attempts: 0,
            waited_ms: 0,
            total_ms: 0,
            remark: None,
        }))
    }

    #[tokio::test]
    async fn a_reader_takes_what_came_while_it_rested_in_one_look_and_is_told_what_it_missed() {
        let feed = Feed::new(4, 1 << 20);
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

    #[test]
    fn a_reader_that_stands_still_holds_no_more_than_the_bound_in_bytes() {
        let (bound, before) = (1 << 20, heap::held());
        let feed = Feed::new(4_096, bound);
        let mut reader = feed.subscribe();
        for _ in 0..4_000 {
            feed.send(|| call("a".repeat(60_000)));
        }
        assert!(((heap::held() - before) as u64) < bound + (64 << 10));
        let Some(FeedItem::Missed(missed)) = reader.at_hand() else { panic!("nothing was missed") };
        let read = std::iter::from_fn(|| reader.at_hand()).count() as u64;
        assert!(read > 10 && missed + read == 4_000, "{missed} missed, {read} read");
    }

    #[tokio::test]
    async fn who_waits_is_woken_and_what_nobody_reads_is_not_kept() {
        let feed = Feed::new(4, 1 << 20);
        feed.send(|| unreachable!("nobody reads"));
        let mut reader = feed.subscribe();
        {
            let mut waiting = pin!(reader.next());
            assert!(futures::poll!(waiting.as_mut()).is_pending());
            feed.send(|| refused(1));
            assert!(matches!(waiting.await, Some(FeedItem::Event(_))));
        }
        drop(reader);
        assert!(feed.shared.ring.lock().events.is_empty());
    }
}
