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
    rt::{TokioExecutor, TokioIo, TokioTimer},
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
    traffic::{Socket as Watched, Traffic},
    waiting::HeadTimer,
};
use crate::{body::ReadOn, settings::IngressSettings};

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

fn builder(bounds: &Bounds) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
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
    builder: Arc<auto::Builder<TokioExecutor>>,
    bounds: Bounds,
    stop: CancellationToken,
) {
    // Neither failing makes the connection useless.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEP_ALIVE));
    let traffic = Arc::<Traffic>::default();
    let mut builder = builder.as_ref().clone();
    builder.http1().timer(HeadTimer::new(Arc::clone(&traffic), bounds.header_timeout));
    let descriptor = stream.as_raw_fd();
    let socket = TokioIo::new(Watched::new(stream, Arc::clone(&traffic)));
    let spoke = Arc::new(AtomicBool::new(false));
    let service = service_fn({
        let (spoke, traffic) = (Arc::clone(&spoke), Arc::clone(&traffic));
        let peer = Peer::new(peer.ip());
        let handler = Arc::new(handler);
        move |request| {
            spoke.store(true, Ordering::Relaxed);
            // An `async` block around it would be twice its size.
            Arc::clone(&handler)
                .handle(peer.clone(), Lingering::request(request, &traffic, bounds.read_on))
                .map(Ok::<_, Infallible>)
        }
    });
    let mut connection = pin!(builder.serve_connection(socket, service));
    let mut watch = Watch::default();
    // hyper's timer starts once it knows which HTTP is spoken; this one also ends those who never say.
    let mut silence = pin!(tokio::time::sleep(bounds.header_timeout));
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
            () = stop.cancelled(), if !stopping => {
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
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::body::{self, Body};

    #[derive(Clone)]
    struct Hello;

    impl Handler for Hello {
        type Body = Body;

        async fn handle(self: Arc<Self>, _: Peer, request: Request<Lingering>) -> Response<Body> {
            if request.uri().path() == "/slow" {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Response::new(body::full("hello"))
        }
    }

    fn bounds(connections: usize) -> Bounds {
        Bounds {
            connections,
            connections_setting: "max_connections",
            header_timeout: Duration::from_millis(200),
            idle_timeout: Duration::from_secs(1),
            header_bytes: 8 << 10,
            http2_streams: 10,
            read_on: ReadOn::default(),
        }
    }

    async fn start(connections: usize) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        start_with(bounds(connections)).await
    }

    async fn start_with(bounds: Bounds) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let socket = TcpListener::from_std(bind(([127, 0, 0, 1], 0).into(), "--listen").unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(socket, Hello, bounds, stop.clone()));
        (address, stop, served)
    }

    async fn ask(stream: &mut TcpStream, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
    }

    async fn answer(stream: &mut TcpStream) -> String {
        let mut text = vec![0; 4_096];
        let length = stream.read(&mut text).await.unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    }

    #[tokio::test]
    async fn an_address_in_use_is_named_with_its_flag() {
        let first = bind(([127, 0, 0, 1], 0).into(), "--listen").unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address, "--listen").unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.ends_with("(--listen)"), "{error}");
    }

    #[tokio::test]
    async fn a_peer_that_never_speaks_is_closed_after_the_header_timeout() {
        let (address, _stop, _served) = start(10).await;
        for first_bytes in ["", "PRI * HT", "GET / HTTP/1.1\r\nhost:"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(first_bytes.as_bytes()).await.unwrap();
            let ended = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut [0; 16])).await;
            assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{first_bytes:?}: {ended:?}");
        }
    }

    /// A connection that has had an answer.
    async fn used(address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        ask(&mut stream, "/").await;
        assert!(answer(&mut stream).await.contains("hello"));
        stream
    }

    /// Waits for its end; says nothing about when.
    async fn assert_closed(mut stream: TcpStream) {
        assert_eq!(stream.read(&mut [0; 16]).await.unwrap_or(0), 0);
    }

    const NEVER: Duration = Duration::from_secs(3_600);

    #[tokio::test]
    async fn an_idle_connection_outlives_the_header_timeout_and_a_head_that_has_begun_does_not() {
        let header_timeout = Duration::from_millis(50);
        let (address, _stop, _served) = start_with(Bounds { header_timeout, idle_timeout: NEVER, ..bounds(10) }).await;
        let mut idle = used(address).await;
        let mut begun = used(address).await;
        begun.write_all(b"GET / HTT").await.unwrap();
        // The idle one has waited longer than this one, and serves.
        assert_closed(begun).await;
        ask(&mut idle, "/").await;
        assert!(answer(&mut idle).await.contains("hello"));
    }

    #[tokio::test]
    async fn an_idle_connection_ends_with_the_idle_timeout_and_a_head_that_has_begun_outlives_it() {
        let idle_timeout = Duration::from_millis(50);
        let (address, _stop, _served) = start_with(Bounds { header_timeout: NEVER, idle_timeout, ..bounds(10) }).await;
        let mut begun = used(address).await;
        begun.write_all(b"GET / HTT").await.unwrap();
        let idle = used(address).await;
        assert_closed(idle).await;
        begun.write_all(b"P/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert!(answer(&mut begun).await.contains("hello"));
    }

    #[test]
    fn a_trouble_that_lasts_is_told_now_and_then() {
        let (began, mut told) = (Instant::now(), Told::default());
        let news: Vec<_> = [0, 1, 59, 60, 61, 119, 200]
            .map(|seconds| told.is_news(began + Duration::from_secs(seconds)))
            .into_iter()
            .collect();
        assert_eq!(news, [true, false, false, true, false, false, true]);
    }

    #[tokio::test]
    async fn what_is_no_http_is_told_so_and_closed() {
        let (address, _stop, _served) = start(10).await;
        let many: String = (0..200).map(|number| format!("x-{number}: 1\r\n")).collect();
        for (head, status) in [
            ("content-length: 4\r\ncontent-length: 5\r\n", "400"),
            ("transfer-encoding: chunked, identity\r\n", "400"),
            ("x-a : b\r\n", "400"),
            (many.as_str(), "431"),
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(format!("POST / HTTP/1.1\r\nhost: x\r\n{head}\r\n").as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {text:?}");
        }
    }

    #[tokio::test]
    async fn who_still_sends_a_body_that_nobody_reads_gets_the_answer_and_keeps_the_connection() {
        let (address, _stop, _served) = start(10).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let body = vec![b'x'; 8 << 20];
        let head = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        assert!(answer(&mut stream).await.contains("hello"));
        ask(&mut stream, "/").await;
        assert!(answer(&mut stream).await.contains("hello"));
    }

    #[tokio::test]
    async fn who_waits_to_be_asked_for_its_body_is_not_asked_by_a_refusal() {
        let (address, _stop, _served) = start(10).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = "POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 200 ") && !text.contains("100 Continue"), "{text}");
    }

    #[tokio::test]
    async fn an_answer_does_not_wait_for_the_rest_of_the_next_request() {
        let (address, _stop, _served) = start(10).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HT").await.unwrap();
        assert!(answer(&mut stream).await.contains("hello"));
    }

    #[tokio::test]
    async fn connections_beyond_the_bound_wait_until_one_ends() {
        let (address, _stop, _served) = start(1).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        ask(&mut first, "/").await;
        assert!(answer(&mut first).await.contains("hello"));
        let mut second = TcpStream::connect(address).await.unwrap();
        ask(&mut second, "/").await;
        let early = tokio::time::timeout(Duration::from_millis(50), answer(&mut second)).await;
        assert!(early.is_err(), "{early:?}");
        drop(first);
        assert!(answer(&mut second).await.contains("hello"));
    }

    #[tokio::test]
    async fn a_stop_lets_open_requests_finish_and_then_ends() {
        let (address, stop, served) = start(10).await;
        let mut open = TcpStream::connect(address).await.unwrap();
        let mut idle = TcpStream::connect(address).await.unwrap();
        ask(&mut idle, "/").await;
        assert!(answer(&mut idle).await.contains("hello"));
        ask(&mut open, "/slow").await;
        // The request is in the handler once the idle connection has been answered after it.
        ask(&mut idle, "/").await;
        assert!(answer(&mut idle).await.contains("hello"));
        stop.cancel();
        assert!(answer(&mut open).await.contains("hello"));
        tokio::time::timeout(Duration::from_secs(5), served).await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }
}
