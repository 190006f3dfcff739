//! The body of a guest's answer, on its way to the client.
//!
//! It notices what wasmtime's own body can't: that the guest failed, so that a truncated stream does not look whole;
//! that the guest is gone without having finished; and that the client went away, which ends the invocation.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures::task::noop_waker_ref;
use http::{Method, Response, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use wasmtime_wasi_http::WasiBody;

use super::{hooks::from_guest, running::Running};
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
    /// Bytes that the head promised and that are still to come.
    promised: Option<u64>,
    done: bool,
}

impl Answer {
    /// Makes the response that the client gets. `work` is what is left of the guest's work, if anything is.
    pub(super) fn respond(
        response: Response<WasiBody>,
        method: &Method,
        running: Arc<Running>,
        work: Option<Box<dyn Work>>,
    ) -> Response<Body> {
        let (parts, mut inner) = response.into_parts();
        let bodiless = *method == Method::HEAD
            || parts.status == StatusCode::NO_CONTENT
            || parts.status == StatusCode::NOT_MODIFIED;
        let mut first = VecDeque::new();
        if work.is_none() && !bodiless && running.failure().is_none() {
            match take_ready(&mut inner, &mut first) {
                Some(whole) => return Response::from_parts(parts, body::full(whole)),
                None if first.is_empty() => {}
                None => {
                    let rest = Self { inner, running, work, promised: None, done: false };
                    return Response::from_parts(parts, Resumed { first, rest }.boxed_unsync());
                }
            }
        }
        let promised = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let answer = Self { inner, running, work, promised, done: bodiless };
        Response::from_parts(parts, answer.boxed_unsync())
    }
}

/// Frames that are looked at before the head is sent. The guest's own buffer holds fewer.
const READY_FRAMES: usize = 4;

/// The whole body, if the guest has finished it already: then its length is known, and one write sends it all. Else
/// the frames that were there are in `frames`.
fn take_ready(body: &mut WasiBody, frames: &mut VecDeque<Result<Frame<Bytes>, BodyError>>) -> Option<Bytes> {
    let mut cx = Context::from_waker(noop_waker_ref());
    while frames.len() < READY_FRAMES {
        match Pin::new(&mut *body).poll_frame(&mut cx) {
            Poll::Ready(None) => break,
            Poll::Ready(Some(frame)) => frames.push_back(frame.map_err(from_guest)),
            Poll::Pending => return None,
        }
    }
    let data =
        |frame: &Result<Frame<Bytes>, BodyError>| frame.as_ref().ok().and_then(|frame| frame.data_ref().cloned());
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
                if let (Some(promised), Some(data)) = (&mut this.promised, frame.data_ref()) {
                    *promised = promised.saturating_sub(data.len() as u64);
                    this.done |= *promised == 0;
                }
                this.done |= frame.is_trailers();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => match this.running.failure() {
                Some(failure) => Poll::Ready(Some(Err(failure.into_body_error()))),
                None => {
                    this.done = true;
                    Poll::Ready(None)
                }
            },
            Poll::Ready(Some(Err(error))) => {
                let error = match this.running.failure() {
                    Some(failure) => failure.into_body_error(),
                    None => from_guest(error),
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
        self.inner.is_end_stream() && self.running.failure().is_none()
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

pin_project_lite::pin_project! {
    /// A body whose first frames were looked at already.
    struct Resumed {
        first: VecDeque<Result<Frame<Bytes>, BodyError>>,
        #[pin]
        rest: Answer,
    }
}

impl http_body::Body for Resumed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.project();
        match this.first.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => this.rest.poll_frame(cx),
        }
    }
}
