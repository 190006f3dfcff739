//! The body of a request, read on for a while when nobody wants the rest of it.
//!
//! Whoever answers early drops the body. The client may be sending it still; a connection closed under its hands would
//! be reset, and the answer lost with it.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// How long the rest of an unwanted body is read (no setting: it costs a buffer, and nobody waits for it).
const READ_ON: Duration = Duration::from_secs(5);
/// Bytes of it that are read: an honest upload, never an endless one.
const READ_ON_BYTES: usize = 128 << 20;

/// An inbound body whose rest is read and thrown away when it is dropped before its end.
#[derive(Debug)]
pub struct Lingering {
    incoming: Option<Incoming>,
    linger: bool,
}

impl Lingering {
    /// The request with such a body.
    pub fn request(request: Request<Incoming>) -> Request<Self> {
        // Who expects `100 Continue` has sent nothing yet; to read would be to ask for it.
        let linger = !request.headers().contains_key(header::EXPECT);
        request.map(|incoming| Self { incoming: Some(incoming), linger })
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(mut incoming) = self.incoming.take().filter(|incoming| self.linger && !incoming.is_end_stream())
        else {
            return;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let rest = async {
                    let mut left = READ_ON_BYTES;
                    while let (Some(Ok(frame)), 1..) = (incoming.frame().await, left) {
                        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                    }
                };
                let _ = tokio::time::timeout(READ_ON, rest).await;
            });
        }
    }
}

impl Body for Lingering {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let polled = Pin::new(incoming).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.incoming = None;
        } else {
            // Whatever was expected has been asked for by now.
            self.linger = true;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
