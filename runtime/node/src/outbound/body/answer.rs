//! The body of an answer on its way to the sender.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use tidegate_core::{Outcome, repeat::Failure};
use tokio::time::{Instant, Sleep};

use crate::{
    body::{self, Body, BodyError},
    outbound::{headers, pool::Streaming, secrets::Filled, shards::Admission},
};

use super::Watch;

/// An answer whose length is known and at most this is taken at once, if it is here already, bytes.
const SMALL: u64 = 64 << 10;
/// How much of an answer that nobody wants is read so that its connection can be used again, bytes. More would cost more
/// than a new connection does. No bound that anybody meets: the call goes on meanwhile.
const DISCARD_BYTES: usize = 64 << 10;
/// How long, for the same reason.
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// How long a body may stand still, and which setting says so.
#[derive(Clone, Copy)]
pub(crate) struct Idle {
    pub(crate) time: Duration,
    pub(crate) setting: &'static str,
}

/// The body of an answer with everything that its call holds. Its end, or its drop, gives all of it back.
struct AnswerBody {
    /// What was read ahead.
    first: Option<Result<Frame<Bytes>, BodyError>>,
    stream: Streaming,
    admission: Option<Admission>,
    watch: Option<Box<Watch>>,
    /// What its request was filled with, which its trailers may repeat.
    filled: Option<Arc<Filled>>,
    idle: Idle,
    sleep: Option<Pin<Box<Sleep>>>,
    last: Instant,
    /// When its slot was kept last: one whose reader has stopped goes to others after two idle times.
    kept: Instant,
}

/// Wraps the body of an answer. One that is here completely becomes plain bytes and gives everything back at once.
pub(crate) async fn wrap(
    mut stream: Streaming,
    admission: Admission,
    mut watch: Option<Box<Watch>>,
    filled: Option<Arc<Filled>>,
    idle: Idle,
) -> Body {
    let first = std::future::poll_fn(|cx| {
        stream.settle(cx);
        if stream.is_end_stream() || stream.size_hint().upper().is_none_or(|length| length > SMALL) {
            return Poll::Ready(None);
        }
        match Pin::new(&mut stream).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(frame.map(|frame| checked(frame, filled.as_deref()))),
            Poll::Pending => Poll::Ready(None),
        }
    })
    .await;
    let first = match (first, &mut watch) {
        (Some(Ok(frame)), Some(watch)) => Some(Ok(watch.frame(frame, stream.is_end_stream(), Some(&admission)))),
        (first, _) => first,
    };
    let first = match first {
        Some(Ok(frame)) if stream.is_end_stream() && frame.is_data() => {
            return body::full(frame.into_data().unwrap_or_default());
        }
        None if stream.is_end_stream() && !stream.is_cut() => return body::empty(),
        first => first,
    };
    admission.flows(idle.time.saturating_mul(2));
    let (admission, now) = (Some(admission), Instant::now());
    AnswerBody { first, stream, admission, watch, filled, idle, sleep: None, last: now, kept: now }.boxed_unsync()
}

/// Reads the rest of an answer that nobody wants, if it is short, so that its connection can be used again.
pub(crate) async fn discard(mut stream: Streaming) {
    let mut left = DISCARD_BYTES;
    let mut read = move |stream: &mut Streaming, cx: &mut Context<'_>| {
        stream.settle(cx);
        while !stream.is_end_stream() && left > 0 {
            match std::task::ready!(Pin::new(&mut *stream).poll_frame(cx)) {
                Some(Ok(frame)) => left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len)),
                Some(Err(_)) | None => break,
            }
        }
        Poll::Ready(())
    };
    // Mostly it came along with the head.
    let done = std::future::poll_fn(|cx| Poll::Ready(read(&mut stream, cx).is_ready())).await;
    if !done {
        tokio::spawn(async move {
            let rest = std::future::poll_fn(|cx| read(&mut stream, cx));
            let _ = tokio::time::timeout(DISCARD_TIME, rest).await;
        });
    }
}

impl AnswerBody {
    /// The upstream did not bring it to its end, and counts as one that failed.
    fn broke(&mut self) {
        if let Some(admission) = self.admission.take() {
            admission.amend(&Outcome::Failed(Failure::Broken));
        }
    }

    /// A frame passed. `last`: none follows.
    fn passed(&mut self, last: bool) {
        if last {
            self.admission = None;
        } else if let Some(admission) = &self.admission
            && self.last - self.kept > self.idle.time / 2
        {
            admission.flows(self.idle.time.saturating_mul(2));
            self.kept = self.last;
        }
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let sleep = self.sleep.get_or_insert_with(|| {
            self.last = Instant::now();
            Box::pin(tokio::time::sleep(self.idle.time))
        });
        loop {
            std::task::ready!(sleep.as_mut().poll(cx));
            // Chunks only leave their time behind; the timer is set anew when it rings too early.
            let due = self.last + self.idle.time;
            if due <= Instant::now() {
                return Poll::Ready(BodyError::Idle { limit: self.idle.time, setting: self.idle.setting });
            }
            sleep.as_mut().reset(due);
        }
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(first));
        }
        loop {
            let frame = match Pin::new(&mut this.stream).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    let error = std::task::ready!(this.poll_idle(cx));
                    this.stream.close();
                    this.admission = None;
                    return Poll::Ready(Some(Err(error)));
                }
            };
            this.last = Instant::now();
            let last = this.stream.is_end_stream();
            if frame.is_none() && this.stream.is_cut() {
                this.broke();
                return Poll::Ready(Some(Err(BodyError::Transport("its stream was reset before its end".into()))));
            }
            let frame = frame.map(|frame| checked(frame, this.filled.as_deref()));
            if let Some(Err(_)) = frame {
                this.broke();
            }
            let Some(watch) = &mut this.watch else {
                this.passed(last);
                return Poll::Ready(frame);
            };
            let admission = this.admission.as_ref();
            let frame = match frame {
                Some(Ok(frame)) => Some(Ok(watch.frame(frame, last, admission))),
                None => watch.rest(admission).map(Ok),
                failed => failed,
            };
            this.passed(last || frame.is_none());
            match frame {
                // All of it was held back.
                Some(Ok(frame)) if !last && frame.data_ref().is_some_and(Bytes::is_empty) => {}
                frame => return Poll::Ready(frame),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.watch.as_ref().is_some_and(|watch| watch.shortens()) {
            return SizeHint::default();
        }
        let ahead = self.first.as_ref().and_then(|first| first.as_ref().ok()).and_then(Frame::data_ref);
        let ahead = ahead.map_or(0, |data| data.len() as u64);
        match self.stream.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(rest + ahead),
            None => SizeHint::default(),
        }
    }
}

/// A frame as the sender gets it: trailers without what must not stand in trailers, and without secrets.
fn checked(frame: hyper::Result<Frame<Bytes>>, filled: Option<&Filled>) -> Result<Frame<Bytes>, BodyError> {
    let frame = frame.map_err(|error| BodyError::Transport(error.to_string()))?;
    Ok(match frame.into_trailers() {
        Ok(mut trailers) => {
            headers::strip_trailers(&mut trailers);
            if let Some(filled) = filled {
                filled.mask(&mut trailers);
            }
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    })
}

/// Trailers of a request, likewise.
pub(crate) fn request_trailers(mut trailers: HeaderMap) -> HeaderMap {
    headers::strip_trailers(&mut trailers);
    trailers
}
