//! Answers on their way: whole, or chunk by chunk with a delay between them.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use serde_json::Value;
use tokio::time::Sleep;

use super::stats::Ticket;

/// What a dialect answers.
pub(super) enum Reply {
    /// One JSON value.
    Json(Value),
    /// Server-sent events.
    Events(Vec<Bytes>),
}

/// One server-sent event.
pub(super) fn event(name: Option<&str>, data: &Value) -> Bytes {
    match name {
        Some(name) => format!("event: {name}\ndata: {data}\n\n").into(),
        None => format!("data: {data}\n\n").into(),
    }
}

/// Seconds since 1970.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The body of an answer. It holds the request's ticket until its last chunk is taken.
pub(super) struct AnswerBody {
    chunks: VecDeque<Bytes>,
    delay: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    streamed: bool,
    ticket: Option<Ticket>,
}

impl AnswerBody {
    /// A body of one piece.
    pub(super) fn whole(bytes: impl Into<Bytes>, ticket: Option<Ticket>) -> Self {
        Self { chunks: [bytes.into()].into(), delay: Duration::ZERO, sleep: None, streamed: false, ticket }
    }

    /// A body of chunks with a delay before each but the first.
    pub(super) fn streamed(chunks: Vec<Bytes>, delay: Duration, ticket: Ticket) -> Self {
        Self { chunks: chunks.into(), delay, sleep: None, streamed: true, ticket: Some(ticket) }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(sleep) = self.sleep.as_mut() {
            std::task::ready!(sleep.as_mut().poll(cx));
            self.sleep = None;
        }
        let chunk = self.chunks.pop_front();
        if self.chunks.is_empty() {
            if let Some(ticket) = self.ticket.take() {
                ticket.finished();
            }
        } else if !self.delay.is_zero() {
            self.sleep = Some(Box::pin(tokio::time::sleep(self.delay)));
        }
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.streamed {
            return SizeHint::default();
        }
        SizeHint::with_exact(self.chunks.iter().map(|chunk| chunk.len() as u64).sum())
    }
}
