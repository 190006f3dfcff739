//! The request body as the call loop sees it: something that can be sent, perhaps more than once.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};

use super::{
    memory::Reservation,
    pump::{Pump, Reader, Shared, Start},
};
use crate::{
    body::{Body, BodyError},
    outbound::TransportError,
};

/// How long a call waits for the end of a body of unknown length before its head leaves.
const LINGER: Duration = Duration::from_millis(5);

/// The request body, for as long as its call may need it.
pub(crate) enum KeptBody {
    /// No bytes, no trailers.
    Empty,
    /// Whole and small.
    Whole {
        /// Its bytes.
        data: Bytes,
        /// Its trailers.
        trailers: Option<HeaderMap>,
        /// Its share of the replay memory.
        #[allow(dead_code, reason = "held for its drop")]
        reservation: Reservation,
    },
    /// Still coming, or too large to keep.
    Pumped(Arc<Shared>),
}

impl KeptBody {
    /// Takes a body from its sender, as far as it is there without waiting; a pump goes on with the rest.
    ///
    /// `declared` is the length that the sender's `content-length` states.
    ///
    /// # Errors
    /// [`TransportError::RequestBody`] when the body fails at once, [`TransportError::BadRequest`] when it is not as
    /// long as declared.
    pub(crate) async fn take(
        body: Body,
        declared: Option<u64>,
        start: Start<'_>,
    ) -> Result<(Self, Option<Pump>), TransportError> {
        if body.is_end_stream() {
            return match declared {
                Some(length) if length > 0 => Err(wrong_length(length, 0)),
                _ => Ok((Self::Empty, None)),
            };
        }
        let (mut pump, shared) = Pump::new(body, declared, start);
        // One poll: it takes everything that is there and returns Pending where more is to come.
        let done = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut pump).poll_fill(cx).is_ready())).await;
        if !done {
            return Ok((Self::Pumped(shared), Some(pump)));
        }
        pump.into_whole()
    }

    /// Waits until the body is here completely or is known to be too large to be kept.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub(crate) async fn settle(self, pump: Option<Pump>) -> Result<(Self, Option<Pump>), TransportError> {
        self.settle_within(pump, None).await
    }

    /// Waits a moment for the end of a body whose length nobody stated. Guests hand their bodies over while they write
    /// them: most are whole a moment later, and can then be sent with their length, and with trailers that are named
    /// in the head.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub(crate) async fn linger(self, pump: Option<Pump>) -> Result<(Self, Option<Pump>), TransportError> {
        self.settle_within(pump, Some(LINGER)).await
    }

    async fn settle_within(
        self,
        pump: Option<Pump>,
        patience: Option<Duration>,
    ) -> Result<(Self, Option<Pump>), TransportError> {
        let (Self::Pumped(shared), Some(mut pump)) = (&self, pump) else { return Ok((self, None)) };
        let done = std::future::poll_fn(|cx| match Pin::new(&mut pump).poll_fill(cx) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending if !shared.is_kept() => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        });
        let done = match patience {
            None => done.await,
            Some(patience) => tokio::time::timeout(patience, done).await.unwrap_or(false),
        };
        if done { pump.into_whole() } else { Ok((self, Some(pump))) }
    }

    /// A body of one piece, or of pieces put together.
    pub(super) fn whole(
        mut chunks: std::collections::VecDeque<Bytes>,
        trailers: Option<HeaderMap>,
        reservation: Reservation,
    ) -> Self {
        let data = match chunks.len() {
            0 if trailers.is_none() => return Self::Empty,
            0 => Bytes::new(),
            1 => chunks.pop_front().unwrap_or_default(),
            _ => {
                let mut whole = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
                chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk));
                whole.freeze()
            }
        };
        Self::Whole { data, trailers, reservation }
    }

    /// The body for the next attempt; nothing once it was streamed and is gone.
    pub(crate) fn attempt(&self) -> Option<OutBody> {
        match self {
            Self::Empty => Some(OutBody::Empty),
            Self::Whole { data, trailers: None, .. } if data.is_empty() => Some(OutBody::Empty),
            Self::Whole { data, trailers, .. } => {
                Some(OutBody::Whole { data: Some(data.clone()), trailers: trailers.clone() })
            }
            Self::Pumped(shared) => shared.reader().map(OutBody::Pumped),
        }
    }

    /// Whether a further attempt could have it.
    pub(crate) fn is_replayable(&self) -> bool {
        match self {
            Self::Empty | Self::Whole { .. } => true,
            Self::Pumped(shared) => shared.is_replayable(),
        }
    }

    /// Bytes it occupies now, or will for sure.
    pub(crate) fn held(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Whole { data, .. } => data.len() as u64,
            Self::Pumped(shared) => shared.held(),
        }
    }

    /// The body as far as splitting by it needs it: nothing, its bytes, or an error where it is too large.
    pub(crate) fn as_split(&self) -> Result<Option<&[u8]>, ()> {
        match self {
            Self::Empty => Ok(None),
            Self::Whole { data, .. } => Ok(Some(data)),
            Self::Pumped(_) => Err(()),
        }
    }

    /// Puts other bytes in the place of a body that is whole.
    pub(crate) fn replace(&mut self, bytes: Bytes) {
        if let Self::Whole { data, .. } = self {
            *data = bytes;
        }
    }

    /// What the sender's body failed with, if it did.
    pub(crate) fn failure(&self) -> Option<String> {
        match self {
            Self::Pumped(shared) => shared.failure(),
            Self::Empty | Self::Whole { .. } => None,
        }
    }
}

impl Drop for KeptBody {
    fn drop(&mut self) {
        if let Self::Pumped(shared) = self {
            shared.release();
        }
    }
}

/// The body is not as long as its `content-length` says.
pub(super) fn wrong_length(declared: u64, is: u64) -> TransportError {
    TransportError::BadRequest { why: format!("content-length says {declared} bytes, the body has {is}") }
}

/// The request body of one attempt, as hyper takes it.
pub(crate) enum OutBody {
    /// Nothing.
    Empty,
    /// Bytes that are all here.
    Whole {
        /// The bytes, until taken.
        data: Option<Bytes>,
        /// The trailers, until taken.
        trailers: Option<HeaderMap>,
    },
    /// From the pump's buffer.
    Pumped(Reader),
}

impl OutBody {
    /// Tells later whether all of it was taken; nothing where it is known to be taken at once.
    pub(crate) fn progress(&self) -> Option<Arc<Shared>> {
        match self {
            Self::Empty | Self::Whole { .. } => None,
            Self::Pumped(reader) => Some(reader.shared()),
        }
    }

    /// Whether it leaves while it comes.
    pub(crate) fn is_streamed(&self) -> bool {
        matches!(self, Self::Pumped(_))
    }

    /// The trailers, where they are known before it is sent.
    pub(crate) fn trailers(&self) -> Option<HeaderMap> {
        match self {
            Self::Empty => None,
            Self::Whole { trailers, .. } => trailers.clone(),
            Self::Pumped(reader) => reader.shared().trailers(),
        }
    }

    /// The exact length, where it is known before it is sent.
    pub(crate) fn length(&self) -> Option<u64> {
        self.size_hint().exact()
    }
}

impl http_body::Body for OutBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Whole { data, trailers } => match data.take().filter(|data| !data.is_empty()) {
                Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
                None => Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
            },
            Self::Pumped(reader) => reader.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole { data, trailers } => data.is_none() && trailers.is_none(),
            Self::Pumped(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            // With trailers the length must stay open: HTTP/1.1 has no trailers behind a content-length.
            Self::Whole { trailers: Some(_), .. } => SizeHint::default(),
            Self::Whole { data, .. } => SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64)),
            Self::Pumped(reader) => reader.size_hint(),
        }
    }
}
