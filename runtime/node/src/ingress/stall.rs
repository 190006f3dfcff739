//! Clients of HTTP/2 that take nothing of an answer.
//!
//! An answer waits for the window of its stream, and the connection's socket may have nothing to write meanwhile. hyper
//! drives every stream in a task, which asks the answer's body for its next frame only when the one before may leave.
//! Where it does not ask for too long, the task is given up: its stream is reset, and all that the answer held is free.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::time::Instant;

use crate::{alarm::Alarm, settings::names};

thread_local! {
    /// How the body ended that was polled last on this thread: a stream's task and the body in it meet here.
    static LAST: Cell<Last> = const { Cell::new(Last::NotAsked) };
}

/// What a body said when it was asked last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// It was not asked.
    NotAsked,
    /// It gave a frame.
    Gave,
    /// It has none now, or has ended.
    HasNone,
}

/// Longest piece of an answer over HTTP/2, bytes: how much a client must take within the bound to be no stalled one.
const PIECE: usize = 64 << 10;

/// How the frames of a body go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As they are: over HTTP/1.1.
    Whole,
    /// In pieces that a client can be expected to take: over HTTP/2.
    Pieces,
    /// Not at all: hyper sends what the body of an answer to HEAD has over HTTP/2, which is an error of the protocol.
    Nothing,
}

impl Form {
    /// That of the answers to a request.
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        match request.version() {
            Version::HTTP_2 if *request.method() == Method::HEAD => Self::Nothing,
            Version::HTTP_2 => Self::Pieces,
            _ => Self::Whole,
        }
    }
}

pin_project_lite::pin_project! {
    /// The body of an answer, which lets its stream's task know what became of it.
    pub(super) struct Told<B> {
        #[pin]
        body: B,
        form: Form,
        rest: Bytes,
    }
}

impl<B> Told<B> {
    pub(super) fn new(body: B, form: Form) -> Self {
        Self { body, form, rest: Bytes::new() }
    }
}

impl<B: Body<Data = Bytes>> Body for Told<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let polled = if *this.form == Form::Nothing {
            Poll::Ready(None)
        } else if this.rest.is_empty() {
            match this.body.poll_frame(cx) {
                Poll::Ready(Some(Ok(frame)))
                    if *this.form == Form::Pieces && frame.data_ref().is_some_and(|data| data.len() > PIECE) =>
                {
                    *this.rest = frame.into_data().unwrap_or_default();
                    Poll::Ready(Some(Ok(Frame::data(this.rest.split_to(PIECE)))))
                }
                polled => polled,
            }
        } else {
            let piece = this.rest.len().min(PIECE);
            Poll::Ready(Some(Ok(Frame::data(this.rest.split_to(piece)))))
        };
        LAST.set(if matches!(polled, Poll::Ready(Some(Ok(_)))) { Last::Gave } else { Last::HasNone });
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.form == Form::Nothing || self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(hint.lower().saturating_add(rest));
        hint
    }
}

/// Runs the tasks of streams, each as long as its client takes its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams {
    /// Time without a piece of the answer taken.
    pub(super) most: Duration,
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        tokio::spawn(Task { stream, most: self.most, stalled: false, alarm: None });
    }
}

pin_project_lite::pin_project! {
    struct Task<F> {
        #[pin]
        stream: F,
        most: Duration,
        // Whether a frame waits to leave.
        stalled: bool,
        // Made for the first that does.
        alarm: Option<Pin<Box<Alarm>>>,
    }
}

impl<F: Future> Future for Task<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        LAST.set(Last::NotAsked);
        if this.stream.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let last = LAST.get();
        match last {
            Last::NotAsked => {}
            Last::Gave => *this.stalled = true,
            Last::HasNone => *this.stalled = false,
        }
        if !*this.stalled {
            return Poll::Pending;
        }
        let due = || Instant::now() + *this.most;
        let alarm = this.alarm.get_or_insert_with(|| Box::pin(Alarm::new(due())));
        if last == Last::Gave {
            alarm.as_mut().set(due());
        }
        ready!(alarm.as_mut().poll(cx));
        tracing::debug!(limit = ?*this.most, setting = names::WRITE_TIMEOUT, "a client took nothing of an answer");
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn long_frames_of_http_2_are_cut_and_none_is_lost() {
        let all: Bytes = (0..PIECE * 2 + 1).map(|at| at as u8).collect();
        for (form, lengths) in [(Form::Pieces, vec![PIECE, PIECE, 1]), (Form::Whole, vec![all.len()])] {
            let mut body = Told::new(crate::body::full(all.clone()), form);
            let (mut seen, mut joined) = (Vec::new(), Vec::new());
            while !body.is_end_stream() {
                assert_eq!(body.size_hint().exact(), Some((all.len() - joined.len()) as u64));
                let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
                seen.push(data.len());
                joined.extend(data);
            }
            assert!(body.frame().await.is_none());
            assert_eq!((seen, joined), (lengths, all.to_vec()));
        }
    }
}
