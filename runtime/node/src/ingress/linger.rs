//! The body of a request: watched until it is whole, and read on for a while when nobody wants it.
//!
//! Whoever refuses a request drops its body. The client may be sending it still; a connection closed under its hands
//! would be reset, and the answer lost with it. A body that somebody began to read is that reader's: the door and the
//! guests have bounds of their own for the rest.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Version, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::traffic::{Coming, Traffic};
use crate::body::{ReadOn, read_on};

/// An inbound body that is read and thrown away when it is dropped unread.
#[derive(Debug)]
pub struct Lingering {
    incoming: Option<Incoming>,
    linger: bool,
    read_on: ReadOn,
    to_the_end: bool,
    /// What came with the head.
    first: Option<Bytes>,
    /// The same where it is no data.
    odd: Option<Box<Result<Frame<Bytes>, hyper::Error>>>,
    watched: Option<Watched>,
}

/// How its connection is told that the body is whole.
#[derive(Debug)]
struct Watched {
    traffic: Arc<Traffic>,
    coming: Option<Coming>,
}

impl Watched {
    fn came(&mut self) {
        if let Some(coming) = self.coming.take() {
            self.traffic.came(coming);
        }
    }
}

impl Lingering {
    /// The request with such a body.
    pub(super) fn request(request: Request<Incoming>, traffic: &Arc<Traffic>, read_on: ReadOn) -> Request<Self> {
        // Who expects `100 Continue` has sent nothing yet; to read would be to ask for it.
        let linger = !request.headers().contains_key(header::EXPECT);
        // HTTP/2 is always read, and so tells by itself.
        let is_watched = request.version() <= Version::HTTP_11 && !request.body().is_end_stream();
        let watched = is_watched.then(|| Watched { traffic: Arc::clone(traffic), coming: None });
        request.map(|incoming| Self {
            incoming: Some(incoming),
            linger,
            read_on,
            to_the_end: false,
            first: None,
            odd: None,
            watched,
        })
    }

    /// Also when it was read in part: for readers that only give up.
    pub fn to_the_end(mut self) -> Self {
        self.to_the_end = true;
        self
    }

    /// From now on the connection ends when the client leaves before its body was whole. To be called when the
    /// request's handler is polled first: hyper has handed over then all that it has read of the body, and where its
    /// end will be is known.
    pub(super) fn watch(&mut self) {
        let (Some(watched), Some(incoming)) = (&mut self.watched, &mut self.incoming) else { return };
        if self.linger {
            match Pin::new(&mut *incoming).poll_frame(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.first = Some(data),
                    Err(trailers) => self.odd = Some(Box::new(Ok(trailers))),
                },
                Poll::Ready(Some(Err(error))) => self.odd = Some(Box::new(Err(error))),
                Poll::Ready(None) => {
                    self.incoming = None;
                    return;
                }
                Poll::Pending => {}
            }
        }
        if !incoming.is_end_stream() && !matches!(self.odd.as_deref(), Some(Ok(_))) {
            watched.coming = Some(watched.traffic.expect(incoming.size_hint().exact()));
        }
    }

    fn came(&mut self) {
        if let Some(watched) = &mut self.watched {
            watched.came();
        }
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(incoming) = self.incoming.take().filter(|incoming| self.linger && !incoming.is_end_stream()) else {
            return;
        };
        let (mut watched, bounds) = (self.watched.take(), self.read_on);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let whole = read_on(incoming, bounds).await;
                if let Some(watched) = watched.as_mut().filter(|_| whole) {
                    watched.came();
                }
            });
        }
    }
}

impl Body for Lingering {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let polled = if let Some(data) = this.first.take() {
            Poll::Ready(Some(Ok(Frame::data(data))))
        } else if let Some(odd) = this.odd.take() {
            Poll::Ready(Some(*odd))
        } else if let Some(incoming) = &mut this.incoming {
            Pin::new(incoming).poll_frame(cx)
        } else {
            return Poll::Ready(None);
        };
        match &polled {
            Poll::Ready(None) => {
                this.came();
                this.incoming = None;
            }
            Poll::Ready(Some(Err(_))) => this.incoming = None,
            Poll::Ready(Some(Ok(frame))) => {
                if frame.is_trailers() || this.incoming.as_ref().is_none_or(Body::is_end_stream) {
                    this.came();
                }
                this.linger = this.to_the_end;
            }
            Poll::Pending => this.linger = this.to_the_end,
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.odd.is_none() && self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let ahead = self.first.as_ref().map_or(0, Bytes::len) as u64;
        let mut hint = self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        if ahead > 0 {
            if let Some(upper) = hint.upper() {
                hint.set_upper(upper.saturating_add(ahead));
            }
            hint.set_lower(hint.lower().saturating_add(ahead));
        }
        hint
    }
}
