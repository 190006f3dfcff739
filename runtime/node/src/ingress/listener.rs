//! One listener: accepts within a bound, speaks HTTP/1.1 and HTTP/2 (prior knowledge too), drains when told.
//!
//! Both listeners of a node are this one with another handler. Connections live in a set that the accept loop owns, so
//! that ending the loop ends them: nothing outlives its node.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, BorrowedFd},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderValue, Request, Response};
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    leaving::Watch,
    linger::Lingering,
    socket::Socket as Watched,
    stall::{Form, Streams, Told as Body},
    traffic::Traffic,
    waiting::HeadTimer,
};
use crate::{bell::Seldom, body::ReadOn, settings::IngressSettings};

/// Connections the system may hold for us until we accept them.
const BACKLOG: i32 = 4_096;
/// A silent HTTP/2 peer is asked for a sign of life, and closed if none comes within as long again.
const HTTP2_KEEP_ALIVE: Duration = Duration::from_secs(20);
/// A silent TCP peer likewise, by the system.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(60);
/// What one HTTP/2 stream, and all streams of a connection together, may send before a reader takes it.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// After an accept failed (out of descriptors, mostly), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A trouble that lasts, or comes back, is logged again after this.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Bounds of a listener's connections.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections open at once; more wait in the system's backlog.
    pub connections: usize,
    /// The setting behind `connections`.
    pub connections_setting: &'static str,
    /// To read the head of a request that has begun, and to the first request of a connection.
    pub header_timeout: Duration,
    /// Between two requests of a connection of HTTP/1.1.
    pub idle_timeout: Duration,
    /// To take something of an answer that waits for its client.
    pub write_timeout: Duration,
    /// Largest head of a request, bytes.
    pub header_bytes: u32,
    /// Streams that one HTTP/2 connection may have open.
    pub http2_streams: u32,
    /// How far bodies are read that nobody wants.
    pub read_on: ReadOn,
}

impl Bounds {
    /// The settings' bounds with this many connections.
    pub fn new(settings: &IngressSettings, connections: usize, connections_setting: &'static str) -> Self {
        Self {
            connections,
            connections_setting,
            header_timeout: settings.header_timeout.get(),
            idle_timeout: settings.idle_timeout.get(),
            write_timeout: settings.write_timeout.get(),
            header_bytes: u32::try_from(settings.max_header_bytes.get()).unwrap_or(u32::MAX),
            http2_streams: settings.max_http2_streams,
            read_on: settings.read_on(),
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address; one of IPv4 is never hidden in one of IPv6.
    pub address: IpAddr,
    /// The same as a header's value, made once a connection.
    pub text: HeaderValue,
}

impl Peer {
    pub(super) fn new(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let text = HeaderValue::from_str(&address.to_string());
        Self { address, text: text.unwrap_or(HeaderValue::from_static("")) }
    }
}

/// What answers the requests of a listener.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Body of its answers.
    type Body: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static;

    /// Answers one request. Dropped when the client goes away.
    fn handle(
        self: Arc<Self>,
        peer: Peer,
        request: Request<Lingering>,
    ) -> impl Future<Output = Response<Self::Body>> + Send + 'static;
}

/// Binds a socket.
///
/// # Errors
/// Says which address could not be had, why, and which setting chose it.
pub fn bind(address: SocketAddr, flag: &str) -> Result<std::net::TcpListener, io::Error> {
    let bound = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restart must not wait for connections of the process before it.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok::<_, io::Error>(socket.into())
    };
    bound().map_err(|error| io::Error::new(error.kind(), format!("can't listen on {address}: {error} ({flag})")))
}

/// Accepts until `stop`, then lets open requests finish. Dropping the future ends what is still open.
pub async fn serve<H: Handler>(socket: TcpListener, handler: H, bounds: Bounds, stop: CancellationToken) {
    let builder = Arc::new(builder(&bounds));
    let permits = Arc::new(Semaphore::new(bounds.connections));
    let mut connections = JoinSet::new();
    let (mut crowded, mut failing) = (Told::default(), Told::default());
    loop {
        let permit = match Arc::clone(&permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                if crowded.is_news(Instant::now()) {
                    let (limit, setting) = (bounds.connections, bounds.connections_setting);
                    tracing::warn!(limit, setting, "all connections are in use; further ones wait");
                }
                tokio::select! {
                    () = stop.cancelled() => break,
                    Some(_) = connections.join_next() => continue,
                }
            }
        };
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = connection(stream, peer, handler.clone(), Arc::clone(&builder), bounds, stop.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                if failing.is_news(Instant::now()) {
                    tracing::warn!(%error, "connections can't be accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Nobody connects any more; who is connected may finish.
    drop(socket);
    while connections.join_next().await.is_some() {}
}

/// When a trouble was told last: it comes and goes with every connection.
#[derive(Default)]
struct Told(Option<Instant>);

impl Told {
    /// Whether to tell it now.
    fn is_news(&mut self, now: Instant) -> bool {
        let is_news = self.0.is_none_or(|told| now.saturating_duration_since(told) >= TELL_AGAIN);
        if is_news {
            self.0 = Some(now);
        }
        is_news
    }
}

fn builder(bounds: &Bounds) -> auto::Builder<Streams> {
    let mut builder = auto::Builder::new(Streams { most: bounds.write_timeout });
    builder
        .http1()
        .timer(TokioTimer::new())
        // Each connection's own timer shortens it for a head that has begun.
        .header_read_timeout(bounds.idle_timeout)
        // hyper refuses less than 8 KiB.
        // No `pipeline_flush`: with it hyper buffers an answer without bound while its client does not read, and holds
        // its word about a malformed request back.
        .max_buf_size(usize::try_from(bounds.header_bytes).unwrap_or(usize::MAX).max(8 << 10));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(bounds.header_bytes)
        .max_concurrent_streams(bounds.http2_streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(HTTP2_KEEP_ALIVE)
        .keep_alive_timeout(HTTP2_KEEP_ALIVE);
    builder
}

async fn connection<H: Handler>(
    stream: TcpStream,
    peer: SocketAddr,
    handler: H,
    builder: Arc<auto::Builder<Streams>>,
    bounds: Bounds,
    stop: CancellationToken,
) {
    // Neither failing makes the connection useless.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEP_ALIVE));
    let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(bounds.write_timeout));
    let traffic = Arc::<Traffic>::default();
    let mut builder = builder.as_ref().clone();
    builder.http1().timer(HeadTimer::new(Arc::clone(&traffic), bounds.header_timeout));
    let descriptor = stream.as_raw_fd();
    let socket = TokioIo::new(Watched::new(stream, Arc::clone(&traffic), bounds.write_timeout));
    let spoke = Arc::new(AtomicBool::new(false));
    let service = service_fn({
        let (spoke, traffic) = (Arc::clone(&spoke), Arc::clone(&traffic));
        let peer = Peer::new(peer.ip());
        let handler = Arc::new(handler);
        move |request| {
            spoke.store(true, Ordering::Relaxed);
            let form = Form::of(&request);
            // An `async` block around it would be twice its size.
            let answer =
                Arc::clone(&handler).handle(peer.clone(), Lingering::request(request, &traffic, bounds.read_on));
            answer.map(move |answer| Ok::<_, Infallible>(answer.map(|body| Body::new(body, form))))
        }
    });
    let mut connection = pin!(builder.serve_connection(socket, service));
    let mut watch = Watch::default();
    // hyper's timer starts once it knows which HTTP is spoken; this one also ends those who never say.
    let mut silence = pin!(Seldom::new(tokio::time::sleep(bounds.header_timeout)));
    // Polled each time it would take a lock that all connections share.
    let mut stopped = pin!(Seldom::new(stop.cancelled()));
    let (mut stopping, mut waiting) = (false, true);
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, error = &*error, "a connection ended with an error");
                }
                return;
            }
            () = stopped.as_mut(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = silence.as_mut(), if waiting => {
                if !spoke.load(Ordering::Relaxed) {
                    return;
                }
                waiting = false;
            }
            () = poll_fn(|cx| {
                // SAFETY: the descriptor belongs to the socket inside `connection`, which hyper keeps until the
                // connection has ended; it has not, or this would not be polled.
                let socket = unsafe { BorrowedFd::borrow_raw(descriptor) };
                watch.poll_left(cx, &traffic, socket)
            }) => {
                tracing::debug!(%peer, "a client left before the body of its request was whole");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
