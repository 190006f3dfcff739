//! The body of a request, read on for a while when nobody wants it.
//!
//! Whoever refuses a request drops its body. The client may be sending it still; a connection closed under its hands
//! would be reset, and the answer lost with it. A body that somebody began to read is that reader's: the door and the
//! guests have bounds of their own for the rest.

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

/// How long, and how far, an unwanted body is read (no setting: it costs a buffer, and nobody waits for it).
const READ_ON: Duration = Duration::from_secs(5);
const READ_ON_BYTES: u64 = 64 << 20;

/// An inbound body that is read and thrown away when it is dropped unread.
#[derive(Debug)]
pub struct Lingering {
    incoming: Option<Incoming>,
    linger: bool,
    to_the_end: bool,
}

impl Lingering {
    /// The request with such a body.
    pub fn request(request: Request<Incoming>) -> Request<Self> {
        // Who expects `100 Continue` has sent nothing yet; to read would be to ask for it.
        let linger = !request.headers().contains_key(header::EXPECT);
        request.map(|incoming| Self { incoming: Some(incoming), linger, to_the_end: false })
    }

    /// Also when it was read in part: for readers that only give up.
    pub fn to_the_end(mut self) -> Self {
        self.to_the_end = true;
        self
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
                    while let Some(Ok(frame)) = incoming.frame().await {
                        let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                        left = left.checked_sub(length)?;
                    }
                    Some(())
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
            self.linger = self.to_the_end;
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
