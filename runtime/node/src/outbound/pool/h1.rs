//! An HTTP/1.1 connection that is driven by whoever uses it.
//!
//! hyper splits a client connection in two: a handle to send requests and a future that moves bytes. The usual way is
//! to spawn that future; each request then costs two or three hops between tasks, and often between threads. Here the
//! future stays with the handle and is polled by the call that waits for the answer, then by the answer's body. Three
//! things follow, all wanted: no hop at all, dropping the call or the body closes the socket in that very moment, and
//! an idle connection belongs to no runtime. The one case where both sides may be slow on their own, a request body
//! that is still being sent when the head of the answer is here, gets a task after all.

use std::{
    future::Future,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;

use super::{HeadBounds, OpenConnection, socket::Socket};
use crate::outbound::body::OutBody;

/// A connection that was idle for longer is looked at before it is used again.
const TRUSTED_IDLE: Duration = Duration::from_millis(2);

/// How long a connection whose answer has ended may take to send the rest of the request.
const SETTLE: Duration = Duration::from_secs(1);

/// The smallest buffer that hyper takes, bytes.
const LEAST_BUFFER: usize = 8 << 10;
/// Headers that hyper reads without being told a number.
const HEADERS: usize = 100;

type Connection = http1::Connection<TokioIo<Socket>, OutBody>;

enum Link {
    /// Polled by whoever uses the connection.
    Inline(Box<Connection>),
    /// In a task of its own.
    Task(AbortHandle),
    /// Over.
    Done,
}

/// Whether a connection can be used again.
pub(super) enum Rest {
    /// At once.
    Ready,
    /// As soon as its task has come round.
    Soon,
    /// Never.
    Over,
}

/// One connection, in use by one call or idle.
pub(super) struct H1 {
    sender: http1::SendRequest<OutBody>,
    link: Link,
    fd: RawFd,
    is_tls: bool,
    /// When it became idle.
    pub(super) idle_since: Instant,
    /// Whether it has served a call.
    pub(super) reused: bool,
    #[allow(dead_code, reason = "held for its drop")]
    open: OpenConnection,
}

impl H1 {
    pub(super) async fn handshake(socket: Socket, open: OpenConnection, heads: HeadBounds) -> hyper::Result<Self> {
        let (fd, is_tls) = (socket.tcp().as_raw_fd(), socket.is_tls());
        let mut builder = http1::Builder::new();
        builder.max_buf_size(usize::try_from(heads.bytes.get()).unwrap_or(usize::MAX).max(LEAST_BUFFER));
        // Stating it, be it the same, costs an allocation for each answer.
        if heads.headers != HEADERS {
            builder.max_headers(heads.headers);
        }
        let (sender, connection) = builder.handshake(TokioIo::new(socket)).await?;
        let link = Link::Inline(Box::new(connection));
        Ok(Self { sender, link, fd, is_tls, idle_since: Instant::now(), reused: false, open })
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn exchange(
        &mut self,
        request: Request<OutBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<OutBody>>> {
        let progress = request.body().progress();
        let mut response = pin!(tokio::task::unconstrained(self.sender.try_send_request(request)));
        let link = &mut self.link;
        let answer = std::future::poll_fn(|cx| {
            let Link::Inline(connection) = link else { return response.as_mut().poll(cx) };
            if Pin::new(connection.as_mut()).poll(cx).is_ready() {
                // Dropped, it answers what it has not answered yet.
                *link = Link::Done;
            }
            // Only the connection, polled just now, can have brought the answer: nothing else needs to wake us for it.
            response.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        })
        .await?;
        if progress.is_some_and(|progress| !progress.is_taken()) {
            self.detach();
        }
        Ok(answer)
    }

    /// Gives the connection a task of its own.
    fn detach(&mut self) {
        self.link = match std::mem::replace(&mut self.link, Link::Done) {
            Link::Inline(connection) => Link::Task(tokio::spawn(connection).abort_handle()),
            other => other,
        };
    }

    /// The next frame of the answer's body.
    pub(super) fn poll_body(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let Link::Inline(connection) = &mut self.link else { return Pin::new(body).poll_frame(cx) };
        // As above: only the connection brings frames, and it wakes us by itself.
        let mut idle = Context::from_waker(Waker::noop());
        if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(&mut idle) {
            return Poll::Ready(frame);
        }
        if Pin::new(connection.as_mut()).poll(cx).is_ready() {
            self.link = Link::Done;
        }
        Pin::new(body).poll_frame(&mut idle)
    }

    /// After the end of an answer's body: whether the connection can serve another call.
    pub(super) fn rest(&mut self, cx: &mut Context<'_>) -> Rest {
        if !self.sender.is_ready()
            && let Link::Inline(connection) = &mut self.link
            && Pin::new(connection.as_mut()).poll(cx).is_ready()
        {
            self.link = Link::Done;
        }
        self.reused = true;
        self.idle_since = Instant::now();
        match self.link {
            Link::Inline(_) | Link::Task(_) if self.sender.is_ready() => Rest::Ready,
            // Its task has not come round yet.
            Link::Task(_) if !self.sender.is_closed() => Rest::Soon,
            _ => Rest::Over,
        }
    }

    /// Waits a moment for a connection that will soon be ready.
    pub(super) async fn settle(&mut self) -> bool {
        let ready = tokio::time::timeout(SETTLE, self.sender.ready()).await;
        self.idle_since = Instant::now();
        matches!(ready, Ok(Ok(())))
    }

    /// Before another use: whether the peer has kept it open. Looks at the socket itself, because the runtime may not
    /// have noticed yet that the peer closed it.
    pub(super) fn is_usable(&mut self) -> bool {
        if !self.sender.is_ready() {
            return false;
        }
        if self.idle_since.elapsed() < TRUSTED_IDLE {
            return true;
        }
        let Link::Inline(connection) = &mut self.link else { return !self.sender.is_closed() };
        // SAFETY: the descriptor belongs to the socket inside `connection`, which hyper keeps until the connection is
        // dropped; `connection` is borrowed for as long as the borrow of the descriptor is used.
        let socket = unsafe { BorrowedFd::borrow_raw(self.fd) };
        match socket2::SockRef::from(&socket).peek(&mut [MaybeUninit::uninit()]) {
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
            // TLS 1.3 sends session tickets whenever it likes: let the connection read them, then see.
            Ok(1..) if self.is_tls => {
                let ended = Pin::new(connection.as_mut()).poll(&mut Context::from_waker(Waker::noop())).is_ready();
                if ended {
                    self.link = Link::Done;
                }
                !ended && self.sender.is_ready()
            }
            // Closed, or speaking without being asked.
            Ok(_) => false,
        }
    }
}

impl Drop for H1 {
    fn drop(&mut self) {
        if let Link::Task(task) = &self.link {
            task.abort();
        }
    }
}
