//! An HTTP/2 connection: many calls at once, driven by a task of its own.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;

use super::{OpenConnection, Upstream, socket::Socket};
use crate::outbound::body::OutBody;

/// Streams that a connection may carry before the peer's SETTINGS said how many it takes.
const BEFORE_SETTINGS: usize = 64;
/// What hyper is told to take meanwhile, so that one sees whether they have come: no peer can say this number, which is
/// beyond 32 bits, nor does it stand for a peer that sets no bound.
const UNSAID: usize = usize::MAX - 1;
/// Streams on one connection however many the peer takes: beyond this a second connection is faster.
const STREAMS: usize = 256;
/// What a stream may send before somebody reads it, bytes.
const STREAM_WINDOW: u32 = 128 << 10;
/// The same of a connection: whoever leaves answers unread, or reads them in turn, must not stop those of others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS as u32;

/// One connection, shared by its calls.
pub(super) struct H2 {
    pub(super) sender: http2::SendRequest<OutBody>,
    streams: AtomicUsize,
    max_streams: Arc<AtomicUsize>,
    pub(super) reused: AtomicBool,
    /// Gets no more calls: one of them was not answered in time, and the peer may be gone without a word.
    retired: AtomicBool,
    idle_since: Mutex<Instant>,
}

impl H2 {
    pub(super) async fn handshake(
        socket: Socket,
        open: OpenConnection,
        upstream: &Arc<Upstream>,
    ) -> hyper::Result<Arc<Self>> {
        let liveness = upstream.shared.liveness;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_max_send_streams(UNSAID)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(liveness.every)
            .keep_alive_timeout(liveness.within)
            .max_header_list_size(u32::try_from(upstream.shared.heads.bytes.get()).unwrap_or(u32::MAX))
            .handshake(TokioIo::new(socket))
            .await?;
        let max_streams = Arc::new(AtomicUsize::new(UNSAID));
        let (max, origin) = (Arc::clone(&max_streams), Arc::downgrade(upstream));
        tokio::spawn(async move {
            let mut connection = pin!(connection);
            let ended = std::future::poll_fn(|cx| {
                let polled = connection.as_mut().poll(cx);
                let now = connection.current_max_send_streams();
                if max.swap(now, Ordering::Relaxed) != now
                    && let Some(upstream) = origin.upgrade()
                {
                    upstream.changed.notify_waiters();
                }
                polled
            })
            .await;
            if let Err(error) = ended {
                tracing::debug!(%error, "an HTTP/2 connection ended");
            }
            drop(open);
            if let Some(upstream) = origin.upgrade() {
                upstream.changed.notify_waiters();
            }
        });
        Ok(Arc::new(Self {
            sender,
            streams: AtomicUsize::new(0),
            max_streams,
            reused: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            idle_since: Mutex::new(Instant::now()),
        }))
    }

    /// Whether it can carry more calls at all.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed() && !self.retired.load(Ordering::Relaxed)
    }

    /// Gives it no more calls; those that it carries go on.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Whether the peer has not yet said how many streams it takes.
    pub(super) fn awaits_settings(&self) -> bool {
        self.max_streams.load(Ordering::Relaxed) == UNSAID
    }

    /// Takes a stream, if one is free. Called under the upstream's lock only.
    pub(super) fn take(self: &Arc<Self>, upstream: &Arc<Upstream>) -> Option<Stream> {
        let max = match self.max_streams.load(Ordering::Relaxed) {
            UNSAID => BEFORE_SETTINGS,
            said => said.min(STREAMS),
        };
        if self.streams.load(Ordering::Relaxed) >= max {
            return None;
        }
        self.streams.fetch_add(1, Ordering::Relaxed);
        Some(Stream { connection: Arc::clone(self), upstream: Arc::clone(upstream) })
    }

    /// Since when it carries no call, if it carries none.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.streams.load(Ordering::Relaxed) == 0).then(|| *self.idle_since.lock())
    }
}

/// One stream of a connection, given back when dropped.
pub(super) struct Stream {
    pub(super) connection: Arc<H2>,
    upstream: Arc<Upstream>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.reused.store(true, Ordering::Relaxed);
        if self.connection.streams.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.connection.idle_since.lock() = Instant::now();
        }
        self.upstream.changed.notify_one();
    }
}
