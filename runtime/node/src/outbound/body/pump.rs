//! Takes a request body from its sender into a bounded buffer.
//!
//! Three states, one way: *keeping* (every chunk stays, so that the body can be sent again), *streaming* (too large to
//! keep: a chunk leaves when it was read, and the sender is held back), *draining* (nobody will read it any more; what
//! comes is thrown away until its end or a bound).
//!
//! The pump is a future without a task of its own: it rides along in the future of its call and is only spawned when
//! that ends before the body does.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    kept::{KeptBody, wrong_length},
    memory::{ReplayMemory, Reservation},
    request_trailers,
};
use crate::{
    body::{Body, BodyError, ReadOn, Rest, read_on},
    outbound::TransportError,
};

/// Unread bytes of a streamed body beyond which its sender is held back.
const WINDOW: u64 = 64 << 10;

/// Bounds of a new pump.
#[derive(Clone, Copy)]
pub(crate) struct Start<'a> {
    /// A body up to this size is kept, bytes (setting `replay_body`).
    pub(crate) keep: u64,
    /// Memory that kept bodies share.
    pub(crate) memory: &'a Arc<ReplayMemory>,
    /// How far it is read when nobody wants it any more.
    pub(crate) read_on: ReadOn,
}

/// What the pump, the readers and the call share.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Rung when a reader has taken everything.
    taken: Notify,
}

/// How far a body is on its way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Progress {
    /// Number of the chunk that leaves next.
    next: usize,
    /// Whether that one is here and waits to be taken: its sender is not who is slow.
    pub(crate) waits: bool,
}

struct State {
    chunks: VecDeque<Bytes>,
    /// Number of the first chunk in `chunks`; above 0 once one has left.
    first: usize,
    /// Number of the chunk the reader wants next.
    next: usize,
    /// Bytes in `chunks`.
    held: u64,
    /// Bytes that came in all.
    total: u64,
    declared: Option<u64>,
    keep: Option<u64>,
    reservation: Reservation,
    trailers: Option<HeaderMap>,
    end: Option<Result<(), Arc<str>>>,
    /// The call may still want the body.
    wanted: bool,
    /// Readers alive; only the newest one reads, older ones are of attempts that were given up.
    readers: usize,
    /// Number of the newest reader.
    newest: usize,
    /// The reader took everything.
    taken: bool,
    reader: Option<Waker>,
    pump: Option<Waker>,
}

impl State {
    fn drains(&self) -> bool {
        !self.wanted && self.readers == 0
    }

    /// Whether the sender is held back.
    fn is_full(&self) -> bool {
        self.keep.is_none() && self.held >= WINDOW
    }

    /// Whether a chunk is here that the reader has not.
    fn waits(&self) -> bool {
        self.chunks.len() > self.next - self.first.min(self.next)
    }

    /// Whether the reader has all there is. Where a length was stated, nobody asks it for more than that.
    fn has_left(&self) -> bool {
        self.taken || matches!(self.end, Some(Ok(()))) && self.trailers.is_none() && !self.waits()
    }

    /// Takes a chunk in.
    fn push(&mut self, chunk: Bytes) {
        let bytes = chunk.len() as u64;
        self.total += bytes;
        if bytes == 0 || self.drains() {
            return;
        }
        if self.keep.is_some_and(|keep| self.total > keep || !self.reservation.grow(bytes)) {
            // From here on it is streamed: what was read already leaves.
            self.keep = None;
            while self.first < self.next {
                self.pop();
            }
        }
        self.held += bytes;
        self.chunks.push_back(chunk);
    }

    fn pop(&mut self) {
        if let Some(chunk) = self.chunks.pop_front() {
            self.first += 1;
            self.held -= chunk.len() as u64;
            self.reservation.shrink(chunk.len() as u64);
        }
    }

    fn finish(&mut self, end: Result<(), Arc<str>>) {
        self.end = Some(match (end, self.declared) {
            (Ok(()), Some(declared)) if declared != self.total => {
                Err(wrong_length(declared, self.total).to_string().into())
            }
            (end, _) => end,
        });
    }
}

impl Shared {
    /// A reader from the beginning; nothing when the beginning is gone.
    pub(super) fn reader(self: &Arc<Self>) -> Option<Reader> {
        let mut state = self.state.lock();
        if state.first > 0 {
            return None;
        }
        state.next = 0;
        state.readers += 1;
        state.newest += 1;
        state.taken = false;
        Some(Reader { number: state.newest, shared: Arc::clone(self), ended: false })
    }

    /// Whether the beginning is still here.
    pub(super) fn is_replayable(&self) -> bool {
        let state = self.state.lock();
        state.first == 0
    }

    /// Whether it may still turn out to be whole and small.
    pub(super) fn is_kept(&self) -> bool {
        self.state.lock().keep.is_some()
    }

    pub(super) fn held(&self) -> u64 {
        let state = self.state.lock();
        state.declared.unwrap_or(0).min(state.keep.unwrap_or(0)).max(state.held)
    }

    /// Whether the reader took everything there is.
    pub(crate) fn is_taken(&self) -> bool {
        self.state.lock().taken
    }

    /// Ready once the body has left: a reader has all of it.
    pub(crate) async fn left(&self) {
        // What rang may have been an earlier attempt's end.
        while !self.state.lock().has_left() {
            self.taken.notified().await;
        }
    }

    /// How far it is. Where two looks see the same, nothing moved in between.
    pub(crate) fn progress(&self) -> Progress {
        let state = self.state.lock();
        Progress { next: state.next, waits: state.waits() }
    }

    pub(super) fn failure(&self) -> Option<String> {
        match &self.state.lock().end {
            Some(Err(why)) => Some(why.to_string()),
            _ => None,
        }
    }

    /// The trailers, once they came.
    pub(super) fn trailers(&self) -> Option<HeaderMap> {
        self.state.lock().trailers.clone()
    }

    /// The call does not need the body any more; a reader may still be at work.
    pub(super) fn release(&self) {
        self.change(|state| state.wanted = false);
    }

    /// Changes who wants the body, and lets the pump see it.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let pump = {
            let mut state = self.state.lock();
            change(&mut state);
            if state.drains() {
                state.chunks.clear();
                state.held = 0;
                state.reservation.clear();
                state.first = usize::MAX;
            }
            state.pump.take()
        };
        if let Some(pump) = pump {
            pump.wake();
        }
    }
}

/// Reads the buffer for one attempt.
pub(crate) struct Reader {
    number: usize,
    shared: Arc<Shared>,
    ended: bool,
}

impl Reader {
    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let mut state = self.shared.state.lock();
        if state.newest != self.number {
            self.ended = true;
            return Poll::Ready(Some(Err(BodyError::Cancelled)));
        }
        let at = state.next - state.first.min(state.next);
        if let Some(chunk) = state.chunks.get(at).cloned() {
            state.next += 1;
            let mut pump = None;
            if state.keep.is_none() {
                state.pop();
                pump = state.pump.take();
            }
            let left = state.has_left();
            drop(state);
            if let Some(pump) = pump {
                pump.wake();
            }
            if left {
                self.shared.taken.notify_one();
            }
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        match &state.end {
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(Err(why)) => {
                self.ended = true;
                Poll::Ready(Some(Err(BodyError::Transport(why.to_string()))))
            }
            Some(Ok(())) => {
                self.ended = true;
                let trailers = state.trailers.clone();
                state.taken = true;
                drop(state);
                self.shared.taken.notify_one();
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let state = self.shared.state.lock();
        match (&state.end, state.declared) {
            _ if state.trailers.is_some() => SizeHint::default(),
            (Some(Ok(())), _) if state.first == 0 => SizeHint::with_exact(state.total),
            // What the sender declared is what is promised upstream; a body of another length fails.
            (_, Some(declared)) => SizeHint::with_exact(declared),
            _ => SizeHint::default(),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.change(|state| state.readers -= 1);
    }
}

/// Moves the sender's body into the buffer. Dropped before its end it goes on in a task of its own.
pub(crate) struct Pump(Option<Filling>);

struct Filling {
    body: Body,
    shared: Arc<Shared>,
    read_on: ReadOn,
    rest: Option<Rest>,
}

impl Pump {
    pub(super) fn new(body: Body, declared: Option<u64>, start: Start<'_>) -> (Self, Arc<Shared>) {
        let state = State {
            chunks: VecDeque::new(),
            first: 0,
            next: 0,
            held: 0,
            total: 0,
            declared,
            keep: (declared.unwrap_or(0) <= start.keep).then_some(start.keep),
            reservation: start.memory.reserve(),
            trailers: None,
            end: None,
            wanted: true,
            readers: 0,
            newest: 0,
            taken: false,
            reader: None,
            pump: None,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), taken: Notify::new() });
        (Self(Some(Filling { body, shared: Arc::clone(&shared), read_on: start.read_on, rest: None })), shared)
    }

    /// Fills the buffer as far as possible; ready when the body has ended or the drain has.
    pub(crate) fn poll_fill(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(filling) = &mut self.0 else { return Poll::Ready(()) };
        filling.poll(cx)
    }

    /// The body of a pump that is done.
    pub(super) fn into_whole(mut self) -> Result<(KeptBody, Option<Pump>), TransportError> {
        let Some(filling) = self.0.take() else { return Ok((KeptBody::Empty, None)) };
        let mut state = filling.shared.state.lock();
        if let Some(Err(why)) = &state.end {
            return Err(TransportError::RequestBody { why: why.to_string() });
        }
        if state.keep.is_none() {
            drop(state);
            return Ok((KeptBody::Pumped(filling.shared), None));
        }
        let reservation = state.reservation.take();
        Ok((KeptBody::whole(std::mem::take(&mut state.chunks), state.trailers.take(), reservation), None))
    }
}

impl Filling {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let drains = {
                let mut state = self.shared.state.lock();
                state.pump = Some(cx.waker().clone());
                if !state.drains() && state.is_full() {
                    return Poll::Pending;
                }
                state.drains()
            };
            if drains {
                let rest = self.rest.get_or_insert_with(|| Rest::new(self.read_on));
                std::task::ready!(rest.poll(&mut self.body, cx));
                // However it ended, nobody waits for its end.
                self.shared.state.lock().end.get_or_insert(Ok(()));
                return Poll::Ready(());
            }
            let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
            let mut state = self.shared.state.lock();
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) => {
                        state.push(chunk);
                        if state.declared.is_some_and(|declared| state.total > declared) {
                            state.finish(Ok(()));
                        }
                    }
                    Err(frame) => state.trailers = frame.into_trailers().ok().map(request_trailers),
                },
                Some(Err(error)) => state.finish(Err(error.to_string().into())),
                None => state.finish(Ok(())),
            }
            let (reader, ended) = (state.reader.take(), state.end.is_some());
            let left = state.has_left();
            drop(state);
            if left {
                self.shared.taken.notify_one();
            }
            if let Some(reader) = reader {
                reader.wake();
            }
            if ended {
                return Poll::Ready(());
            }
        }
    }
}

impl Future for Filling {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Filling::poll(self.get_mut(), cx)
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        let Some(filling) = self.0.take() else { return };
        if filling.shared.state.lock().end.is_some() {
            return;
        }
        // Outside a runtime the node is going down, and the sender with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(filling);
        }
    }
}

/// Reads a body that nobody wants to its end, without waiting for it here.
pub(crate) fn drain(body: Body, bounds: ReadOn) {
    if body.is_end_stream() {
        return;
    }
    // Outside a runtime the node is going down, and the sender with it.
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(read_on(body, bounds));
    }
}

#[cfg(test)]
mod tests;
