//! What is done with a request's body when nobody wants it any more: it is read on, and thrown away.
//!
//! Its sender is still at it. A client whose connection closes under its hands gets a reset and loses the answer, a guest
//! whose body closes aborts. So whoever answers early reads on, within bounds: it costs a buffer, and nobody waits for it.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::Body;
use tidegate_core::units::{Size, Span};
use tokio::time::Sleep;

use crate::settings::names;

/// How far, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct ReadOn {
    /// Bytes (setting `read_on_bytes`).
    pub bytes: u64,
    /// Time (setting `read_on_time`).
    pub time: Duration,
}

impl Default for ReadOn {
    fn default() -> Self {
        Self { bytes: Self::BYTES.get(), time: Self::TIME.get() }
    }
}

impl ReadOn {
    /// The default of `read_on_bytes`.
    pub const BYTES: Size = Size::mib(64);
    /// The default of `read_on_time`.
    pub const TIME: Span = Span(Duration::from_secs(5));
}

/// The rest of a body, while it is read.
pub(crate) struct Rest {
    bounds: ReadOn,
    read: u64,
    sleep: Pin<Box<Sleep>>,
}

impl Rest {
    /// From now on.
    pub(crate) fn new(bounds: ReadOn) -> Self {
        Self { bounds, read: 0, sleep: Box::pin(tokio::time::sleep(bounds.time)) }
    }

    /// Reads what is there. Ready at its end, or at a bound; says whether it came whole.
    pub(crate) fn poll<B: Body<Data = Bytes> + Unpin>(&mut self, body: &mut B, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            if self.read > self.bounds.bytes {
                tracing::debug!(limit = %Size(self.bounds.bytes), setting = names::READ_ON_BYTES, "{ENDED}");
                return Poll::Ready(false);
            }
            if self.sleep.as_mut().poll(cx).is_ready() {
                tracing::debug!(limit = %Span(self.bounds.time), setting = names::READ_ON_TIME, "{ENDED}");
                return Poll::Ready(false);
            }
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => self.read += frame.data_ref().map_or(0, Bytes::len) as u64,
                Some(Err(_)) => return Poll::Ready(false),
                None => return Poll::Ready(true),
            }
        }
    }
}

const ENDED: &str = "the body of a request that was answered early is read no further: its sender meets its end";

/// Reads a body that nobody wants; says whether it came whole.
pub(crate) async fn read_on<B: Body<Data = Bytes> + Unpin>(mut body: B, bounds: ReadOn) -> bool {
    let mut rest = Rest::new(bounds);
    poll_fn(|cx| rest.poll(&mut body, cx)).await
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    const BOUNDS: ReadOn = ReadOn { bytes: 100, time: Duration::from_secs(3_600) };

    fn chunks(sizes: &[usize]) -> impl futures::Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Unpin + use<> {
        let frames: Vec<_> = sizes.iter().map(|size| Ok(Frame::data(Bytes::from(vec![1; *size])))).collect();
        futures::stream::iter(frames)
    }

    #[tokio::test]
    async fn it_ends_with_the_body_or_at_the_first_bound() {
        for (sizes, whole) in
            [(&[][..], true), (&[100], true), (&[50, 50], true), (&[50, 51], false), (&[101, 1], false)]
        {
            assert_eq!(read_on(StreamBody::new(chunks(sizes)), BOUNDS).await, whole, "{sizes:?}");
        }
        let broken = chunks(&[1]).chain(futures::stream::iter([Err(std::io::Error::other("gone"))]));
        assert!(!read_on(StreamBody::new(broken), BOUNDS).await);
        let stalled = chunks(&[1]).chain(futures::stream::pending());
        let short = ReadOn { time: Duration::from_millis(10), ..BOUNDS };
        let began = tokio::time::Instant::now();
        assert!(!read_on(StreamBody::new(stalled), short).await);
        assert!(began.elapsed() >= short.time);
    }

    #[tokio::test]
    async fn a_body_that_never_pauses_is_read_no_further_than_the_bound() {
        let read = std::rc::Rc::new(std::cell::Cell::new(0));
        let counted = std::rc::Rc::clone(&read);
        let endless = futures::stream::repeat_with(move || {
            counted.set(counted.get() + 10);
            Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(&[1; 10])))
        });
        assert!(!read_on(StreamBody::new(endless), BOUNDS).await);
        assert_eq!(read.get(), 110);
    }
}
