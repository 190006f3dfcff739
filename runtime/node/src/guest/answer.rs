//! The body of a guest's answer, on its way to the client.
//!
//! It notices what wasmtime's own body can't: that the guest failed, so that a truncated stream does not look whole;
//! that the guest is gone without having finished; and that the client went away, which ends the invocation.

use std::{
    collections::VecDeque,
    future::ready,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures::{stream, task::noop_waker_ref};
use http::{Method, Response, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, StreamBody};
use wasmtime_wasi_http::{Error, WasiBody};

use super::{deployment::Deployed, failure, hooks::from_guest, running::Running};
use crate::body::{self, Body, BodyError};

/// Ends the guest's work for a request when its client is gone.
pub(super) trait Work: Send {
    /// The answer was given whole, but work after it may go on, within bounds.
    fn answered(self: Box<Self>);
    /// Nobody waits for the rest of the answer.
    fn abandoned(self: Box<Self>);
}

/// A guest's streaming answer.
pub(super) struct Answer {
    inner: WasiBody,
    running: Arc<Running>,
    work: Option<Box<dyn Work>>,
    /// The length that the head stated.
    promise: Option<Promise>,
    done: bool,
}

/// The length of a body, as its head states it: no client can tell what is missing or too much otherwise.
struct Promise {
    bytes: u64,
    given: u64,
    deployed: Arc<Deployed>,
}

/// A guest wrote so many bytes in all, and no more are to come: its function is told where that is not the promise.
fn broken(promised: u64, wrote: u64, deployed: &Deployed, running: &Running) -> Option<BodyError> {
    (wrote != promised).then(|| cut(promised, &format!("wrote {wrote}"), deployed, running))
}

fn cut(promised: u64, but: &str, deployed: &Deployed, running: &Running) -> BodyError {
    let why = format!("it promised {promised} bytes (content-length) and {but}");
    failure::note(deployed, running, format!("the answer was cut: {why}"));
    BodyError::Guest(why)
}

impl Promise {
    fn broken(&self, wrote: u64, running: &Running) -> Option<BodyError> {
        broken(self.bytes, wrote, &self.deployed, running)
    }

    /// The same where the body failed. Wasmtime counts as well, and may be first: it gives no more then.
    fn failed(&self, error: &Error, running: &Running) -> BodyError {
        let but = match error {
            Error::HttpResponseBodySize(Some(wrote)) => format!("wrote {wrote}"),
            error => format!("failed behind {} of them: {error}", self.given),
        };
        cut(self.bytes, &but, &self.deployed, running)
    }
}

impl Answer {
    /// Makes the response that the client gets. `work` is what is left of the guest's work, if anything is.
    pub(super) fn respond(
        response: Response<WasiBody>,
        method: &Method,
        deployed: &Arc<Deployed>,
        running: Arc<Running>,
        work: Option<Box<dyn Work>>,
    ) -> Response<Body> {
        let (mut parts, mut inner) = response.into_parts();
        if parts.status == StatusCode::NO_CONTENT {
            // RFC 9110, 8.6.
            parts.headers.remove(header::CONTENT_LENGTH);
        }
        let bodiless = *method == Method::HEAD
            || parts.status == StatusCode::NO_CONTENT
            || parts.status == StatusCode::NOT_MODIFIED;
        let promised = parts.headers.get(header::CONTENT_LENGTH).filter(|_| !bodiless);
        let promised = promised.and_then(|length| length.to_str().ok()?.parse().ok());
        let mut first = VecDeque::new();
        if work.is_none() && !bodiless && running.failure().is_none() {
            match take_ready(&mut inner, &mut first) {
                Some(whole) => {
                    let wrote = whole.len() as u64;
                    let body = match promised.and_then(|promised| broken(promised, wrote, deployed, &running)) {
                        None => body::full(whole),
                        // Before a byte of it: a client takes what is as long as promised for whole.
                        Some(error) => StreamBody::new(stream::once(ready(Err(error)))).boxed_unsync(),
                    };
                    return Response::from_parts(parts, body);
                }
                None if first.is_empty() => {}
                None => inner = Resumed { first, rest: inner }.boxed_unsync(),
            }
        }
        let promise = promised.map(|bytes| Promise { bytes, given: 0, deployed: Arc::clone(deployed) });
        let answer = Self { inner, running, work, promise, done: bodiless };
        Response::from_parts(parts, answer.boxed_unsync())
    }
}

/// Frames that are looked at before the head is sent. The guest's own buffer holds fewer.
const READY_FRAMES: usize = 4;

/// The whole body, if the guest has finished it already: then its length is known, and one write sends it all. Else
/// the frames that were there are in `frames`.
fn take_ready(body: &mut WasiBody, frames: &mut VecDeque<Result<Frame<Bytes>, Error>>) -> Option<Bytes> {
    let mut cx = Context::from_waker(noop_waker_ref());
    while frames.len() < READY_FRAMES {
        match Pin::new(&mut *body).poll_frame(&mut cx) {
            Poll::Ready(None) => break,
            Poll::Ready(Some(frame)) => frames.push_back(frame),
            Poll::Pending => return None,
        }
    }
    let data = |frame: &Result<Frame<Bytes>, Error>| frame.as_ref().ok().and_then(|frame| frame.data_ref().cloned());
    if frames.len() >= READY_FRAMES || frames.iter().any(|frame| data(frame).is_none()) {
        return None;
    }
    let mut parts = frames.iter().filter_map(data);
    let first = parts.next().unwrap_or_default();
    let mut rest = parts.peekable();
    if rest.peek().is_none() {
        return Some(first);
    }
    let mut whole = BytesMut::from(&*first);
    rest.for_each(|part| whole.extend_from_slice(&part));
    Some(whole.freeze())
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let mut polled = Pin::new(&mut this.inner).poll_frame(cx);
        if polled.is_pending() {
            this.running.on_end(cx.waker());
            if !this.running.ended() {
                return Poll::Pending;
            }
            // What the guest wrote before it ended is still to be had; after that nothing can come.
            polled = Pin::new(&mut this.inner).poll_frame(cx);
        }
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                this.running.touch();
                if let (Some(promise), Some(data)) = (&mut this.promise, frame.data_ref()) {
                    let given = promise.given.saturating_add(data.len() as u64);
                    if given > promise.bytes
                        && let Some(error) = promise.broken(given, &this.running)
                    {
                        return Poll::Ready(Some(Err(error)));
                    }
                    promise.given = given;
                    this.done |= given == promise.bytes;
                }
                this.done |= frame.is_trailers();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                let error = match this.running.failure() {
                    Some(failure) => Some(failure.into_body_error()),
                    None => this.promise.as_ref().and_then(|promise| promise.broken(promise.given, &this.running)),
                };
                this.done = error.is_none();
                Poll::Ready(error.map(Err))
            }
            Poll::Ready(Some(Err(error))) => {
                let error = match (this.running.failure(), &this.promise) {
                    (Some(failure), _) => failure.into_body_error(),
                    (None, Some(promise)) => promise.failed(&error, &this.running),
                    (None, None) => from_guest(error),
                };
                Poll::Ready(Some(Err(error)))
            }
            Poll::Pending => {
                let error = match this.running.failure() {
                    Some(failure) => failure.into_body_error(),
                    None => BodyError::Guest("it returned without finishing its body".into()),
                };
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let kept = self.done || self.promise.as_ref().is_none_or(|promise| promise.given == promise.bytes);
        kept && self.inner.is_end_stream() && self.running.failure().is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let done = self.done || self.is_end_stream();
        if let Some(work) = self.work.take() {
            if done { work.answered() } else { work.abandoned() }
        }
    }
}

/// A body whose first frames were looked at already.
struct Resumed {
    first: VecDeque<Result<Frame<Bytes>, Error>>,
    rest: WasiBody,
}

impl http_body::Body for Resumed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.first.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }
}
