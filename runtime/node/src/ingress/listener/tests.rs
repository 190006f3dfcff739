//! Real sockets: who stays, who is ended, who is told what.

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::TokioExecutor;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use super::*;
use crate::body::{self, Body};

#[derive(Clone)]
struct Hello;

impl Handler for Hello {
    type Body = Body;

    async fn handle(self: Arc<Self>, _: Peer, request: Request<Lingering>) -> Response<Body> {
        if request.uri().path() == "/slow" {
            // Open while the listener is told to stop; nothing is measured by it.
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
        write_timeout: Duration::from_millis(300),
        read_on: ReadOn::default(),
    }
}

async fn start(connections: usize) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
    start_with(bounds(connections)).await
}

async fn start_with(bounds: Bounds) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
    start_handler(bounds, Hello).await
}

async fn start_handler<H: Handler>(
    bounds: Bounds,
    handler: H,
) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
    let socket = TcpListener::from_std(bind(([127, 0, 0, 1], 0).into(), "--listen").unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let stop = CancellationToken::new();
    let served = tokio::spawn(serve(socket, handler, bounds, stop.clone()));
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

/// Answers with a body without end, and tells when one is dropped.
#[derive(Clone)]
struct Endless(mpsc::Sender<()>);

struct Dropped(mpsc::Sender<()>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

impl Handler for Endless {
    type Body = Body;

    async fn handle(self: Arc<Self>, _: Peer, _: Request<Lingering>) -> Response<Body> {
        let dropped = Dropped(self.0.clone());
        let frames = futures::stream::repeat_with(move || {
            let _held = &dropped;
            Ok(Frame::data(Bytes::from_static(&[b'x'; 16 << 10])))
        });
        Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

fn endless() -> (Endless, mpsc::Receiver<()>) {
    let (sender, dropped) = mpsc::channel(16);
    (Endless(sender), dropped)
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.unwrap()
}

#[tokio::test]
async fn who_reads_nothing_of_an_answer_over_http_1_1_loses_the_connection() {
    let (handler, mut dropped) = endless();
    let (address, _stop, _served) = start_handler(bounds(1), handler).await;
    let mut stuck = TcpStream::connect(address).await.unwrap();
    ask(&mut stuck, "/").await;
    soon(dropped.recv()).await.unwrap();
    let mut next = TcpStream::connect(address).await.unwrap();
    ask(&mut next, "/").await;
    assert!(soon(answer(&mut next)).await.starts_with("HTTP/1.1 200"), "its place is free");
}

#[tokio::test]
async fn who_opens_no_window_over_http_2_loses_that_answer_and_no_other() {
    let (handler, mut dropped) = endless();
    let (address, _stop, _served) = start_handler(bounds(1), handler).await;
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(32 << 10)
        .initial_connection_window_size(1 << 20)
        .handshake(stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    let get = || Request::get(format!("http://{address}/")).body(body::empty()).unwrap();
    let read = sender.send_request(get()).await.unwrap();
    let unread = sender.send_request(get()).await.unwrap();
    let mut read = read.into_body();
    let began = Instant::now();
    let mut frames = 0;
    while dropped.try_recv().is_err() {
        assert!(began.elapsed() < Duration::from_secs(10), "an answer that nobody reads is held");
        soon(read.frame()).await.unwrap().unwrap();
        frames += 1;
    }
    assert!(frames > 2 && began.elapsed() >= Duration::from_millis(200), "{frames} frames");
    soon(read.frame()).await.unwrap().unwrap();
    let error = soon(unread.into_body().collect()).await.unwrap_err();
    assert!(error.to_string().contains("error"), "{error}");
    drop(read);
    soon(dropped.recv()).await.unwrap();
}

#[tokio::test]
async fn an_answer_to_head_has_no_body_over_either_version() {
    let (address, _stop, _served) = start(10).await;
    let head = || Request::head(format!("http://{address}/")).body(body::empty()).unwrap();
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let answer = soon(sender.send_request(head())).await.unwrap();
    // hyper states a length over HTTP/2 only where it sends the body.
    assert!(answer.headers().get("content-length").is_none_or(|length| length == "5"));
    assert!(soon(answer.into_body().collect()).await.unwrap().to_bytes().is_empty());
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let answer = soon(sender.send_request(head())).await.unwrap();
    assert_eq!(answer.headers()["content-length"], "5");
}
