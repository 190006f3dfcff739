//! The body of an answer goes to its client and into the cache.
//!
//! Mostly all of it is here with its head. Otherwise a task reads it as fast as it comes, so that who waits for it does not
//! wait for a slow client, and the client reads what the task has read. Where it gets too large to be stored, or there is
//! no memory for it, the task hands the rest over to the client and is gone: from then on the client reads by itself, and
//! what it does not read is not read ahead. So nobody's pace holds more memory than what may be stored. A client that goes
//! away ends it, unless somebody waits for the whole.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::body::{self, Body, BodyError};

/// What a chunk takes beside its bytes, about.
const CHUNK: u64 = 64;
/// What all chunks of a body may take beside their bytes: one that comes in crumbs is not worth more.
const CRUMBS: u64 = 64 << 10;

/// Memory of all answers on their way.
pub(crate) struct Memory {
    used: AtomicU64,
    bound: u64,
}

impl Memory {
    pub(super) fn new(bound: u64) -> Arc<Self> {
        Arc::new(Self { used: AtomicU64::new(0), bound })
    }

    fn take(&self, bytes: u64) -> bool {
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= self.bound)
        });
        taken.is_ok()
    }
}

/// What is kept of a body so far.
struct Taken {
    memory: Arc<Memory>,
    bytes: u64,
    bound: u64,
}

impl Taken {
    /// Takes a chunk of this length; false where it is too much.
    fn take(&mut self, length: usize) -> bool {
        let length = length as u64 + CHUNK;
        if self.bytes + length > self.bound || !self.memory.take(length) {
            return false;
        }
        self.bytes += length;
        true
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What becomes of a body that is read to its end, or of one that is not.
pub(crate) trait Kept: Send + 'static {
    /// It is whole.
    fn whole(self, body: Bytes);
    /// It is too large to be kept.
    fn too_large(self);
    /// Whether somebody waits for it beside its client.
    fn is_awaited(&self) -> bool;
}

/// The body for the client, while `kept` waits for the whole. `object`: largest body that is kept, bytes.
pub(crate) fn tee<K: Kept>(mut body: Body, memory: &Arc<Memory>, object: u64, kept: K) -> Body {
    let taken = Taken { memory: Arc::clone(memory), bytes: 0, bound: object.saturating_add(CRUMBS) };
    let hint = body.size_hint();
    let shared = Arc::new(Shared { state: Mutex::new(State::default()), gone: Notify::new() });
    let mut filler = Filler { taken, length: 0, object, shared: Arc::clone(&shared), kept: Some(kept) };
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        match Pin::new(&mut body).poll_frame(&mut cx) {
            Poll::Ready(frame) => match filler.frame(frame) {
                Step::More => {}
                Step::HandOver => {
                    filler.hand_over(body);
                    break;
                }
                Step::Over => break,
            },
            Poll::Pending => {
                tokio::spawn(filler.run(body));
                break;
            }
        }
    }
    let mut state = shared.state.lock();
    // Whole by now, of one piece or less: it needs nothing around it.
    if matches!(state.end, Some(End::Whole(None))) && state.chunks.len() <= 1 {
        return state.chunks.pop().map_or_else(body::empty, body::full);
    }
    drop(state);
    Tee { shared, next: 0, hint: hint.exact() }.boxed_unsync()
}

struct Shared {
    state: Mutex<State>,
    /// Rung when the client goes away.
    gone: Notify,
}

#[derive(Default)]
struct State {
    chunks: Vec<Bytes>,
    end: Option<End>,
    waker: Option<Waker>,
    gone: bool,
}

enum End {
    Whole(Option<HeaderMap>),
    Broken(BodyError),
    /// The rest, for the client to read.
    Rest(Body),
    Over,
}

enum Step {
    More,
    HandOver,
    Over,
}

/// Reads a body for its client and for the cache.
struct Filler<K: Kept> {
    taken: Taken,
    length: u64,
    object: u64,
    shared: Arc<Shared>,
    kept: Option<K>,
}

impl<K: Kept> Filler<K> {
    async fn run(mut self, mut body: Body) {
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                () = self.shared.gone.notified() => {
                    if self.is_wanted() {
                        continue;
                    }
                    return;
                }
            };
            match self.frame(frame) {
                Step::More if self.is_wanted() => {}
                Step::HandOver => return self.hand_over(body),
                Step::More | Step::Over => return,
            }
        }
    }

    fn is_wanted(&self) -> bool {
        !self.shared.state.lock().gone || self.kept.as_ref().is_some_and(Kept::is_awaited)
    }

    fn frame(&mut self, frame: Option<Result<Frame<Bytes>, BodyError>>) -> Step {
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                self.kept = None;
                self.end(End::Broken(error));
                return Step::Over;
            }
            None => {
                self.whole(None);
                return Step::Over;
            }
        };
        match frame.into_data() {
            Ok(data) => {
                self.length += data.len() as u64;
                let fits = self.length <= self.object && self.taken.take(data.len());
                let waker = {
                    let mut state = self.shared.state.lock();
                    if !data.is_empty() {
                        state.chunks.push(data);
                    }
                    state.waker.take()
                };
                waker.into_iter().for_each(Waker::wake);
                if fits { Step::More } else { Step::HandOver }
            }
            Err(frame) => {
                self.whole(frame.into_trailers().ok());
                Step::Over
            }
        }
    }

    /// Trailers end it. They go to the client; nobody stores them.
    fn whole(&mut self, trailers: Option<HeaderMap>) {
        let body = {
            let state = self.shared.state.lock();
            let mut whole = BytesMut::with_capacity(state.chunks.iter().map(Bytes::len).sum());
            state.chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk));
            whole.freeze()
        };
        // Before the client sees its end: what it asks for next is there then.
        if let Some(kept) = self.kept.take() {
            kept.whole(body);
        }
        self.end(End::Whole(trailers));
    }

    fn hand_over(mut self, body: Body) {
        if let Some(kept) = self.kept.take() {
            kept.too_large();
        }
        self.end(End::Rest(body));
    }

    fn end(&self, end: End) {
        let waker = {
            let mut state = self.shared.state.lock();
            state.end = Some(end);
            state.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

impl<K: Kept> Drop for Filler<K> {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        if state.end.is_none() {
            state.end = Some(End::Broken(BodyError::Cancelled));
            if let Some(waker) = state.waker.take() {
                drop(state);
                waker.wake();
            }
        }
    }
}

/// What the client reads.
struct Tee {
    shared: Arc<Shared>,
    /// Number of the chunk that comes next.
    next: usize,
    hint: Option<u64>,
}

impl http_body::Body for Tee {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let mut state = this.shared.state.lock();
        if let Some(chunk) = state.chunks.get(this.next) {
            let chunk = chunk.clone();
            this.next += 1;
            this.hint = this.hint.map(|left| left.saturating_sub(chunk.len() as u64));
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        match state.end.take() {
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(End::Rest(mut body)) => {
                // Nobody else has it.
                state.chunks = Vec::new();
                this.next = 0;
                drop(state);
                let frame = Pin::new(&mut body).poll_frame(cx);
                if let Poll::Ready(Some(Ok(frame))) = &frame {
                    let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                    this.hint = this.hint.map(|left| left.saturating_sub(length));
                }
                let mut state = this.shared.state.lock();
                state.end = Some(if matches!(frame, Poll::Ready(None)) { End::Over } else { End::Rest(body) });
                frame
            }
            Some(End::Whole(trailers)) => {
                state.end = Some(End::Over);
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Some(End::Broken(error)) => {
                state.end = Some(End::Over);
                Poll::Ready(Some(Err(error)))
            }
            Some(End::Over) => {
                state.end = Some(End::Over);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let state = self.shared.state.lock();
        let over = match &state.end {
            Some(End::Over | End::Whole(None)) => true,
            Some(End::Rest(body)) => body.is_end_stream(),
            _ => false,
        };
        over && state.chunks.len() <= self.next
    }

    fn size_hint(&self) -> SizeHint {
        self.hint.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        // The rest of the body, if it is here, goes after the lock does.
        let _rest = {
            let mut state = self.shared.state.lock();
            state.gone = true;
            state.end.take()
        };
        self.shared.gone.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[derive(Debug, PartialEq)]
    enum What {
        Whole(Bytes),
        TooLarge,
    }

    /// Tells what becomes of a body, and says whether it is awaited.
    struct Told(tokio::sync::mpsc::Sender<What>, Arc<AtomicBool>);

    impl Kept for Told {
        fn whole(self, body: Bytes) {
            self.0.try_send(What::Whole(body)).unwrap();
        }

        fn too_large(self) {
            self.0.try_send(What::TooLarge).unwrap();
        }

        fn is_awaited(&self) -> bool {
            self.1.load(Ordering::Relaxed)
        }
    }

    struct Fixture {
        chunks: tokio::sync::mpsc::Sender<Result<Frame<Bytes>, BodyError>>,
        body: Body,
        told: tokio::sync::mpsc::Receiver<What>,
        memory: Arc<Memory>,
        awaited: Arc<AtomicBool>,
    }

    struct Channel(tokio::sync::mpsc::Receiver<Result<Frame<Bytes>, BodyError>>);

    impl http_body::Body for Channel {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            self.0.poll_recv(cx)
        }
    }

    fn fixture(object: u64, memory: u64) -> Fixture {
        let (chunks, body) = tokio::sync::mpsc::channel(1);
        let (tell, told) = tokio::sync::mpsc::channel(1);
        let (memory, awaited) = (Memory::new(memory), Arc::new(AtomicBool::new(false)));
        let body = tee(Channel(body).boxed_unsync(), &memory, object, Told(tell, Arc::clone(&awaited)));
        Fixture { chunks, body, told, memory, awaited }
    }

    fn data(text: &'static str) -> Result<Frame<Bytes>, BodyError> {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    #[tokio::test]
    async fn a_body_goes_to_its_client_and_is_kept_whole_with_its_trailers_left_out() {
        let mut fixture = fixture(100, 1 << 20);
        for text in ["ab", "", "c"] {
            fixture.chunks.send(data(text)).await.unwrap();
        }
        let trailers = [(http::header::ETAG, "x".parse().unwrap())].into_iter().collect::<HeaderMap>();
        fixture.chunks.send(Ok(Frame::trailers(trailers.clone()))).await.unwrap();
        assert_eq!(fixture.told.recv().await, Some(What::Whole("abc".into())));
        let collected = fixture.body.collect().await.unwrap();
        assert_eq!(collected.trailers(), Some(&trailers));
        assert_eq!(collected.to_bytes(), "abc");
        assert_eq!(fixture.memory.used.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_holds_nobody_up_and_no_more_than_may_be_kept() {
        let mut fixture = fixture(4, 1 << 20);
        for text in ["ab", "cd", "ef"] {
            fixture.chunks.send(data(text)).await.unwrap();
        }
        assert_eq!(fixture.told.recv().await, Some(What::TooLarge));
        // The channel holds one, and nobody takes it but the client.
        fixture.chunks.try_send(data("gh")).unwrap();
        assert!(fixture.chunks.try_send(data("ij")).is_err());
        assert_eq!(fixture.memory.used.load(Ordering::Relaxed), 0);
        drop(fixture.chunks);
        assert_eq!(fixture.body.collect().await.unwrap().to_bytes(), "abcdefgh");
    }

    #[tokio::test]
    async fn without_memory_nothing_is_kept_and_all_is_passed_on() {
        let mut fixture = fixture(100, 10);
        fixture.chunks.send(data("ab")).await.unwrap();
        assert_eq!(fixture.told.recv().await, Some(What::TooLarge));
        drop(fixture.chunks);
        assert_eq!(fixture.body.collect().await.unwrap().to_bytes(), "ab");
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_not_kept_and_its_client_is_told() {
        let mut fixture = fixture(100, 1 << 20);
        fixture.chunks.send(data("ab")).await.unwrap();
        fixture.chunks.send(Err(BodyError::Cancelled)).await.unwrap();
        assert_eq!(fixture.told.recv().await, None);
        assert_eq!(fixture.body.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
        assert!(fixture.body.frame().await.unwrap().is_err());
        assert!(fixture.body.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_client_that_goes_away_ends_it_unless_somebody_waits() {
        let mut fixture = fixture(100, 1 << 20);
        fixture.chunks.send(data("ab")).await.unwrap();
        drop(fixture.body);
        assert_eq!(fixture.told.recv().await, None);
        fixture.chunks.closed().await;

        let mut fixture = super::tests::fixture(100, 1 << 20);
        fixture.awaited.store(true, Ordering::Relaxed);
        fixture.chunks.send(data("ab")).await.unwrap();
        drop(fixture.body);
        fixture.chunks.send(data("cd")).await.unwrap();
        drop(fixture.chunks);
        assert_eq!(fixture.told.recv().await, Some(What::Whole("abcd".into())));
    }
}
