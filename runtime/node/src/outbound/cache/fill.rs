//! The body of an answer goes to its client and into the cache.
//!
//! Mostly all of it is here with its head. Otherwise a task reads it as fast as it comes, so that who waits for it does not
//! wait for a slow client, and the client reads what the task has read. Where it gets too large to be stored, or there is
//! no memory for it, the task hands the rest over to the client and is gone: from then on the client reads by itself, and
//! what it does not read is not read ahead. So nobody's pace holds more memory than what may be stored, and all together
//! no more than `cache_memory`: what was read stays in the account until the client has it. Once the body is whole its
//! clients read the stored one. A client that goes away ends it, unless somebody waits for the whole.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::memory::{Memory, StoredBody, Taken};
use crate::body::{self, Body, BodyError};

/// What a chunk takes beside its bytes, about.
const CHUNK: u64 = 64;
/// What all chunks of a body may take beside their bytes: one that comes in crumbs is not worth more.
const CRUMBS: u64 = 64 << 10;
/// Chunks smaller than this are copied: each would keep the whole buffer that it was read into.
const SMALL: usize = 4 << 10;

/// Why a body is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unkept {
    /// It is larger than `cache_object`.
    TooLarge,
    /// All of `cache_memory` is taken.
    NoMemory,
}

/// What becomes of a body that is read to its end, or of one that is not.
pub(crate) trait Kept: Send + 'static {
    /// It is whole.
    fn whole(self, body: StoredBody);
    /// It can't be kept.
    fn unkept(self, why: Unkept);
    /// Whether somebody waits for it beside its client.
    fn is_awaited(&self) -> bool;
}

/// The body for the client, while `kept` waits for the whole, and why it waits in vain, where that is known already.
/// `object`: largest body that is kept, bytes.
pub(crate) fn tee<K: Kept>(mut body: Body, memory: &Arc<Memory>, object: u64, kept: K) -> (Body, Option<Unkept>) {
    let hint = body.size_hint();
    let mut taken = memory.part();
    // Where the length is stated, there is room for all of it or none is needed.
    let unkept = hint.exact().and_then(|length| match length {
        length if length > object => Some(Unkept::TooLarge),
        length if !taken.grow(length) => Some(Unkept::NoMemory),
        _ => None,
    });
    if let Some(why) = unkept {
        kept.unkept(why);
        return (body, unkept);
    }
    let shared = Arc::new(Shared { state: Mutex::new(State::new(taken)), gone: Notify::new() });
    let stated = hint.exact();
    let mut filler = Filler { length: 0, stated, count: 0, object, shared: Arc::clone(&shared), kept: Some(kept) };
    let mut cx = Context::from_waker(Waker::noop());
    let mut unkept = None;
    loop {
        match Pin::new(&mut body).poll_frame(&mut cx) {
            Poll::Ready(frame) => match filler.frame(frame) {
                Step::More => {}
                Step::HandOver(why) => {
                    unkept = Some(why);
                    filler.hand_over(body, why);
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
    // Whole by now, without trailers: it needs nothing around it.
    if matches!(state.end, Some(End::Whole(None))) {
        return (state.next().map_or_else(body::empty, body::full), None);
    }
    drop(state);
    (Tee { shared, hint: hint.exact() }.boxed_unsync(), unkept)
}

struct Shared {
    state: Mutex<State>,
    /// Rung when the client goes away.
    gone: Notify,
}

struct State {
    chunks: VecDeque<Bytes>,
    /// Whether chunks are kept that the client has read: the first `next` of them, of `read` bytes.
    fills: bool,
    /// The last of them is the end of a body of stated length: who has it asks for the next thing, so it goes when that is
    /// there.
    held: bool,
    next: usize,
    read: usize,
    /// What the chunks take of the memory.
    taken: Taken,
    end: Option<End>,
    waker: Option<Waker>,
    gone: bool,
}

impl State {
    fn new(taken: Taken) -> Self {
        let (chunks, end, waker) = Default::default();
        Self { chunks, fills: true, held: false, next: 0, read: 0, taken, end, waker, gone: false }
    }

    /// The next chunk for the client.
    fn next(&mut self) -> Option<Bytes> {
        if self.fills {
            let chunk = self.chunks.get(self.next)?.clone();
            if self.held && self.next + 1 == self.chunks.len() {
                return None;
            }
            self.next += 1;
            self.read += chunk.len();
            return Some(chunk);
        }
        if self.held {
            // It is whole, and about to be stored.
            return None;
        }
        let chunk = self.chunks.pop_front()?;
        self.taken.give_back(chunk.len() as u64 + CHUNK);
        Some(chunk)
    }

    /// Nothing is kept any more but what the client has not read.
    fn let_go(&mut self) {
        (self.fills, self.held) = (false, false);
        self.chunks.drain(..self.next);
        self.next = 0;
        let left: u64 = self.chunks.iter().map(|chunk| chunk.len() as u64 + CHUNK).sum();
        self.taken.shrink(left);
    }

    /// It is whole: the client reads the rest of the stored one.
    fn whole(&mut self) -> StoredBody {
        let mut whole = BytesMut::with_capacity(self.chunks.iter().map(Bytes::len).sum());
        self.chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk));
        let body = StoredBody::of(whole.freeze(), self.taken.hand_on());
        self.chunks.clear();
        if !self.gone && self.read < body.len() {
            self.chunks.push_back(body.read().slice(self.read..));
        }
        (self.fills, self.next) = (false, 0);
        body
    }
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
    HandOver(Unkept),
    Over,
}

/// Reads a body for its client and for the cache.
struct Filler<K: Kept> {
    length: u64,
    stated: Option<u64>,
    count: u64,
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
                Step::HandOver(why) => return self.hand_over(body, why),
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
            Ok(data) if data.is_empty() => Step::More,
            Ok(data) => self.chunk(data),
            Err(frame) => {
                self.whole(frame.into_trailers().ok());
                Step::Over
            }
        }
    }

    fn chunk(&mut self, data: Bytes) -> Step {
        self.length += data.len() as u64;
        self.count += 1;
        let beside = self.count * CHUNK;
        let data = if data.len() < SMALL { Bytes::copy_from_slice(&data) } else { data };
        let (step, waker) = {
            let mut state = self.shared.state.lock();
            state.chunks.push_back(data);
            state.held = self.stated == Some(self.length);
            let step = match () {
                () if self.length > self.object || beside > CRUMBS => Step::HandOver(Unkept::TooLarge),
                () if !state.taken.grow(self.length + beside) => Step::HandOver(Unkept::NoMemory),
                () => Step::More,
            };
            (step, state.waker.take())
        };
        waker.into_iter().for_each(Waker::wake);
        step
    }

    /// Trailers end it. They go to the client; nobody stores them.
    fn whole(&mut self, trailers: Option<HeaderMap>) {
        let body = self.shared.state.lock().whole();
        // Before the client sees its end: what it asks for next is there then.
        if let Some(kept) = self.kept.take() {
            kept.whole(body);
        }
        self.end(End::Whole(trailers));
    }

    fn hand_over(mut self, body: Body, why: Unkept) {
        if let Some(kept) = self.kept.take() {
            kept.unkept(why);
        }
        self.end(End::Rest(body));
    }

    fn end(&self, end: End) {
        let waker = {
            let mut state = self.shared.state.lock();
            state.let_go();
            state.end = Some(end);
            state.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

impl<K: Kept> Drop for Filler<K> {
    fn drop(&mut self) {
        let ended = self.shared.state.lock().end.is_some();
        if !ended {
            self.end(End::Broken(BodyError::Cancelled));
        }
    }
}

/// What the client reads.
struct Tee {
    shared: Arc<Shared>,
    hint: Option<u64>,
}

impl http_body::Body for Tee {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let mut state = this.shared.state.lock();
        if let Some(chunk) = state.next() {
            this.hint = this.hint.map(|left| left.saturating_sub(chunk.len() as u64));
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        match state.end.take() {
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(End::Rest(mut body)) => {
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
        over && state.chunks.len() <= state.next
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
            if !state.fills {
                state.chunks.clear();
                state.let_go();
            }
            state.end.take()
        };
        self.shared.gone.notify_one();
    }
}

#[cfg(test)]
mod tests;
