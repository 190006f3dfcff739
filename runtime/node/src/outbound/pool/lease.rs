//! A connection in the hands of one call, and the answer that comes over it.

use std::{
    collections::VecDeque,
    error::Error as _,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{
    Upstream,
    h1::{H1, Rest},
    h2::Stream,
};
use crate::outbound::body::{OutBody, Shared};

/// A shared connection on which a call waited in vain for at least this long gets no more calls: its peer may be gone
/// without a word, and every further attempt would wait for it again.
const SUSPECT: Duration = Duration::from_secs(5);

/// How often it is looked within the time that a request's body may stand still: it is ended within a quarter more.
const LOOKS: u32 = 4;

/// The right to send one request over a connection.
pub(crate) struct Lease(Link);

enum Link {
    H1 { connection: H1, upstream: Arc<Upstream> },
    H2(Stream),
}

/// An exchange that broke before the head of the answer.
pub(crate) struct Broken {
    /// What was seen.
    pub(crate) error: hyper::Error,
    /// The request, where not a byte of it was sent.
    pub(crate) request: Option<Request<OutBody>>,
    /// The connection had served before: the peer may have closed it for its age.
    pub(crate) reused: bool,
}

impl Lease {
    pub(super) fn h1(connection: H1, upstream: Arc<Upstream>) -> Self {
        Self(Link::H1 { connection, upstream })
    }

    pub(super) fn h2(stream: Stream) -> Self {
        Self(Link::H2(stream))
    }

    /// Whether it speaks HTTP/2.
    pub(crate) fn is_h2(&self) -> bool {
        matches!(self.0, Link::H2(_))
    }

    /// Gives the connection back unused.
    pub(crate) fn give_back(self) {
        if let Link::H1 { connection, upstream } = self.0 {
            upstream.put(connection);
        }
    }

    /// Sends the request and waits for the head of the answer. While its body is still on its way, `upload` bounds that;
    /// how long the head is then waited for, `head` is asked only when the body has left, with `true` where that took
    /// time. Dropping the future closes the connection (HTTP/1.1) or resets the stream (HTTP/2).
    ///
    /// # Errors
    /// [`Broken`] when the connection ended before.
    pub(crate) async fn exchange(
        self,
        request: Request<OutBody>,
        upload: Upload,
        head: impl FnOnce(bool) -> Duration,
    ) -> Result<Exchanged, Broken> {
        let shared = match &self.0 {
            Link::H1 { .. } => None,
            Link::H2(stream) => Some(Arc::clone(&stream.connection)),
        };
        let retire = |time: Duration| {
            if let Some(connection) = shared.as_ref().filter(|_| time >= SUSPECT) {
                connection.retire();
            }
        };
        let body = request.body().progress();
        let mut exchange = pin!(self.exchange_unbounded(request));
        if let Some(body) = &body {
            match Box::pin(upload.watch(body, exchange.as_mut())).await {
                Uploaded::All => {}
                Uploaded::Exchanged(exchanged) => return (*exchanged).map(Exchanged::answer),
                Uploaded::Stopped(stopped) => {
                    if matches!(stopped, Exchanged::Unread) {
                        retire(upload.idle);
                    }
                    return Ok(stopped);
                }
            }
        }
        let time = head(body.is_some());
        if let Ok(exchanged) = tokio::time::timeout(time, exchange).await {
            return exchanged.map(Exchanged::answer);
        }
        retire(time);
        Ok(Exchanged::Late)
    }

    async fn exchange_unbounded(self, request: Request<OutBody>) -> Result<Response<Streaming>, Broken> {
        match self.0 {
            Link::H1 { mut connection, upstream } => {
                let reused = connection.reused;
                match connection.exchange(request).await {
                    Ok(response) => Ok(response.map(|body| Streaming::new(body, Link::H1 { connection, upstream }))),
                    Err(mut error) => Err(Broken { request: error.take_message(), error: error.into_error(), reused }),
                }
            }
            Link::H2(stream) => {
                let reused = stream.connection.reused.load(Ordering::Relaxed);
                let sent = stream.connection.sender.clone().try_send_request(request);
                match sent.await {
                    Ok(response) => Ok(response.map(|body| Streaming::new(body, Link::H2(stream)))),
                    Err(mut error) => Err(Broken { request: error.take_message(), error: error.into_error(), reused }),
                }
            }
        }
    }
}

/// What an exchange came to.
pub(crate) enum Exchanged {
    /// The head of an answer.
    Answer(Box<Response<Streaming>>),
    /// No head in time.
    Late,
    /// The peer took nothing more of the request's body.
    Unread,
    /// Nothing more came of the request's body.
    Unsent,
    /// The body was still on its way when all time was over.
    OutOfTime,
}

impl Exchanged {
    fn answer(response: Response<Streaming>) -> Self {
        Self::Answer(Box::new(response))
    }
}

/// How long a request's body may take that is sent while it comes. It takes as long as it takes, but must move.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upload {
    /// Time without any progress.
    pub(crate) idle: Duration,
    /// All of it, where its sender said so.
    pub(crate) whole: Option<Duration>,
}

enum Uploaded {
    All,
    Exchanged(Box<Result<Response<Streaming>, Broken>>),
    Stopped(Exchanged),
}

impl Upload {
    async fn watch(
        self,
        body: &Shared,
        mut exchange: Pin<&mut impl Future<Output = Result<Response<Streaming>, Broken>>>,
    ) -> Uploaded {
        let mut over = pin!(async {
            match self.whole {
                Some(whole) => tokio::time::sleep(whole).await,
                None => std::future::pending().await,
            }
        });
        let (mut before, mut still) = (body.progress(), 0);
        while still < LOOKS {
            tokio::select! {
                biased;
                exchanged = exchange.as_mut() => return Uploaded::Exchanged(Box::new(exchanged)),
                () = body.left() => return Uploaded::All,
                () = &mut over => return Uploaded::Stopped(Exchanged::OutOfTime),
                () = tokio::time::sleep(self.idle / LOOKS) => {}
            }
            let now = body.progress();
            still = if now == before { still + 1 } else { 0 };
            before = now;
        }
        Uploaded::Stopped(if before.waits { Exchanged::Unread } else { Exchanged::Unsent })
    }
}

impl Broken {
    /// Whether the peer says that it did nothing with the request: it refused the stream (RFC 9113 section 8.7), or left
    /// it out of what it still serves before it goes away (section 6.8). A connection that goes away with an error says
    /// nothing of the kind.
    pub(crate) fn is_unprocessed(&self) -> bool {
        let Some(error) = self.error.source().and_then(|source| source.downcast_ref::<h2::Error>()) else {
            return false;
        };
        let reason = error.reason();
        error.is_remote()
            && (error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM)
                || error.is_go_away() && reason == Some(h2::Reason::NO_ERROR))
    }

    /// Whether this side ended the stream over HTTP/2 because of what came on it: a head beyond `max_answer_head`, or one
    /// that no rule allows (RFC 9113 section 8.1.1).
    pub(crate) fn is_malformed(&self) -> bool {
        let error = self.error.source().and_then(|source| source.downcast_ref::<h2::Error>());
        error.is_some_and(|error| {
            error.is_library() && error.is_reset() && error.reason() == Some(h2::Reason::PROTOCOL_ERROR)
        })
    }
}

/// What a look at a body found.
pub(crate) enum Peeked {
    /// All of it.
    Whole(Vec<u8>),
    /// More than one looks at.
    TooLarge,
    /// Its end did not come in time.
    TooSlow,
    /// It ended before its end.
    Broken,
}

/// How reading ahead ended.
enum Ahead {
    Ended,
    Enough,
    TooLarge,
    Broken,
}

/// The body of an answer, with the connection it comes over. Its end gives the connection back; dropping it before
/// closes the connection or resets the stream.
pub(crate) struct Streaming {
    body: Incoming,
    link: Option<Link>,
    /// What was read already by a look at it.
    ahead: VecDeque<hyper::Result<Frame<Bytes>>>,
    /// Its stream was reset before its end, with a code that says that nothing went wrong.
    cut: bool,
}

impl Streaming {
    fn new(body: Incoming, link: Link) -> Self {
        Self { body, link: Some(link), ahead: VecDeque::new(), cut: false }
    }

    /// Looks at the body, which stays as it is: all of it, where it ends within `bound` bytes and `time`.
    pub(crate) async fn peek(&mut self, bound: u64, time: Duration) -> Peeked {
        if self.size_hint().lower() > bound {
            return Peeked::TooLarge;
        }
        let mut bytes = Vec::new();
        let read = self.read_ahead(bound, |piece| {
            bytes.extend_from_slice(piece);
            false
        });
        match tokio::time::timeout(time, read).await {
            Ok(Ahead::Ended) => Peeked::Whole(bytes),
            Ok(Ahead::Enough | Ahead::TooLarge) => Peeked::TooLarge,
            Ok(Ahead::Broken) => Peeked::Broken,
            Err(_) => Peeked::TooSlow,
        }
    }

    /// Looks at the body, which stays as it is, piece by piece, until `enough` says so of one, for so many bytes and so long at
    /// most. Returns whether that was all of it.
    pub(crate) async fn look(&mut self, bound: u64, time: Duration, enough: impl FnMut(&[u8]) -> bool) -> bool {
        matches!(tokio::time::timeout(time, self.read_ahead(bound, enough)).await, Ok(Ahead::Ended))
    }

    async fn read_ahead(&mut self, bound: u64, mut enough: impl FnMut(&[u8]) -> bool) -> Ahead {
        let mut seen = 0;
        while !self.has_ended() {
            let Some(frame) = std::future::poll_fn(|cx| self.poll_next(cx)).await else { break };
            let data = frame.as_ref().ok().and_then(Frame::data_ref).cloned().unwrap_or_default();
            let broken = frame.is_err();
            self.ahead.push_back(frame);
            seen += data.len() as u64;
            match () {
                () if broken => return Ahead::Broken,
                () if enough(&data) => return Ahead::Enough,
                () if seen > bound => return Ahead::TooLarge,
                () => {}
            }
        }
        if self.cut { Ahead::Broken } else { Ahead::Ended }
    }

    /// Whether it ended before its end, of which no frame tells.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut && self.ahead.is_empty()
    }

    /// Whether nothing more comes from the connection.
    fn has_ended(&self) -> bool {
        self.link.is_none() || self.body.is_end_stream()
    }

    /// Gives the connection back where the body has ended already.
    pub(crate) fn settle(&mut self, cx: &mut Context<'_>) {
        if self.body.is_end_stream() {
            self.give_back(cx);
        }
    }

    /// Closes the connection, or resets the stream.
    pub(crate) fn close(&mut self) {
        self.link = None;
    }

    fn give_back(&mut self, cx: &mut Context<'_>) {
        if let Some(Link::H1 { mut connection, upstream }) = self.link.take() {
            match connection.rest(cx) {
                Rest::Ready => upstream.put(connection),
                Rest::Soon => {
                    tokio::spawn(async move {
                        if connection.settle().await {
                            upstream.put(connection);
                        }
                    });
                }
                Rest::Over => {}
            }
        }
    }

    /// The next frame from the connection.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = match &mut self.link {
            Some(Link::H1 { connection, .. }) => connection.poll_body(&mut self.body, cx),
            Some(Link::H2(_)) => Pin::new(&mut self.body).poll_frame(cx),
            None => Poll::Ready(None),
        };
        match &frame {
            Poll::Ready(None) if matches!(self.link, Some(Link::H2(_))) && !self.body.is_end_stream() => {
                self.cut = true;
                self.close();
            }
            Poll::Ready(None) => self.give_back(cx),
            Poll::Ready(Some(Err(_))) => self.close(),
            Poll::Ready(Some(Ok(_))) if self.body.is_end_stream() => self.give_back(cx),
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        frame
    }
}

impl Body for Streaming {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        match this.ahead.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => this.poll_next(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && self.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        let ahead = self.ahead.iter().filter_map(|frame| frame.as_ref().ok()?.data_ref());
        let ahead: u64 = ahead.map(|data| data.len() as u64).sum();
        match self.body.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(rest + ahead),
            None => SizeHint::default(),
        }
    }
}
