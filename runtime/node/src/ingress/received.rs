//! The body of a request as a peer sends it, read to its end whatever becomes of the request.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// How long, and up to how many bytes, what nobody wanted is read.
const TIME: Duration = Duration::from_secs(5);
const BYTES: usize = 128 << 20;

/// What a peer sends. Where it is dropped before its end, the rest is read and thrown away within bounds: the peer then
/// reads our answer instead of a reset, and its connection serves on.
pub struct Received(Option<Incoming>);

impl Received {
    pub(super) fn new(incoming: Incoming) -> Self {
        Self(Some(incoming).filter(|incoming| !incoming.is_end_stream()))
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(incoming) = &mut self.0 else { return Poll::Ready(None) };
        let polled = Pin::new(incoming).poll_frame(cx);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.0 = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        let Some(rest) = self.0.take().filter(|rest| !rest.is_end_stream()) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(TIME, discard(rest)));
        }
    }
}

async fn discard(mut rest: Incoming) {
    let mut left = BYTES;
    while let Some(Ok(frame)) = rest.frame().await {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            return;
        }
    }
}
