//! Clients that go away: before the head, while they download, while they upload; over HTTP/1.1 and HTTP/2; at `/to` and
//! at guests of both generations. Their upstream calls are freed at once, and with them instances that serve only them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper_util::{client::legacy::Client as Legacy, rt::TokioExecutor};
use serde_json::json;
use tidegate_tests::{Gate, TOKEN, Upstream, eventually, text};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long the upstream's side of a call may live on.
const AT_ONCE: Duration = Duration::from_millis(100);
/// Other work of a busy machine may delay some of the rounds, never most of them.
const ROUNDS: usize = 5;

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A body that has begun and does not go on.
fn begun() -> Body {
    let first = futures::stream::once(async { Ok(Frame::data(Bytes::from_static(&[b'x'; 1000]))) });
    BodyExt::boxed_unsync(StreamBody::new(first.chain(futures::stream::pending())))
}

fn empty() -> Body {
    BodyExt::boxed_unsync(StreamBody::new(futures::stream::empty()))
}

/// When a client leaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Leaving {
    BeforeTheHead,
    Downloading,
    /// While its guest, whose head has gone, waits for a call.
    AfterTheHead,
    Uploading,
}

/// Never answers, answers and stalls, or reads a body that stalls.
async fn upstream() -> Upstream {
    Upstream::scripted(|request| async move {
        match request.uri().path() {
            "/never" => std::future::pending().await,
            "/stall" => http::Response::new(begun()),
            _ => {
                let _read = request.into_body().collect().await;
                text(200, "read")
            }
        }
    })
    .await
}

/// Lets a client leave and gives the time until the upstream's connection was free.
async fn leave(gate: &Gate, upstream: &Upstream, http2: bool, path: &str, leaving: Leaving) -> Duration {
    let client: Legacy<_, Body> = Legacy::builder(TokioExecutor::new()).http2_only(http2).build_http();
    let (method, body) = match leaving {
        Leaving::Uploading => (Method::POST, begun()),
        _ => (Method::GET, empty()),
    };
    let request = Request::builder()
        .method(method)
        .uri(gate.url(path))
        .header("authorization", format!("Bearer {TOKEN}"))
        .body(body)
        .unwrap();
    let succeeded = async || gate.metric("tidegate_attempt_outcomes_total").await;
    let before = succeeded().await;
    let (began, begins) = tokio::sync::oneshot::channel();
    let call = tokio::spawn(async move {
        let mut answer = client.request(request).await.unwrap();
        let first = answer.body_mut().frame().await;
        let _heard = began.send(first.is_some());
        std::future::pending::<()>().await;
    });
    match leaving {
        // Its head has come back to the gate, be it that its guest answers only when it has all of it.
        Leaving::Downloading => eventually("the answer has begun", async || succeeded().await > before).await,
        Leaving::AfterTheHead => {
            assert!(begins.await.unwrap(), "the client is in mid-body");
            eventually("the late call reached the upstream", async || upstream.in_flight() == 1).await;
        }
        _ => eventually("the call reached the upstream", async || upstream.in_flight() == 1).await,
    }
    call.abort();
    let left = Instant::now();
    eventually("the upstream's connection is freed", async || upstream.open() == 0).await;
    left.elapsed()
}

#[tokio::test]
async fn whoever_leaves_frees_the_upstream_and_the_instance_at_once() {
    for guest in [None, Some("misbehave"), Some("probe-p3"), Some("forward")] {
        let (gate, upstream) = (Gate::serve().start().await, upstream().await);
        if let Some(guest) = guest {
            let env = json!({"UPSTREAM": upstream.url("")});
            gate.deploy(guest, json!({"env": env, "allowed_hosts": ["127.0.0.1:*"]})).await;
        }
        for (leaving, at) in [
            (Leaving::BeforeTheHead, "/never"),
            (Leaving::Downloading, "/stall"),
            (Leaving::AfterTheHead, "/never"),
            (Leaving::Uploading, "/read"),
        ] {
            let path = match guest {
                // There is nobody whose head goes before the upstream's.
                None | Some("forward") if leaving == Leaving::AfterTheHead => continue,
                Some(guest) if leaving == Leaving::AfterTheHead => {
                    format!("/f/{guest}/late-fetch?url={}", upstream.url(at))
                }
                None => format!("/to/{}", upstream.url(at)),
                Some("forward") => format!("/f/forward{at}"),
                // These send nothing on of what they are sent.
                Some(_) if leaving == Leaving::Uploading => continue,
                Some(guest) => format!("/f/{guest}/fetch?url={}", upstream.url(at)),
            };
            for http2 in [false, true] {
                let mut times = Vec::new();
                for _ in 0..ROUNDS {
                    let quiet = gate.metric("tidegate_instances").await;
                    times.push(leave(&gate, &upstream, http2, &path, leaving).await);
                    // A guest whose upload broke off ends by itself, and its instance may rest.
                    let rests = if leaving == Leaving::Uploading { 1.0 } else { 0.0 };
                    let gone = async || gate.metric("tidegate_instances").await <= quiet.max(rests);
                    eventually(&format!("the instance is gone: {guest:?} {leaving:?} {http2} {times:?}"), gone).await;
                }
                times.sort();
                assert!(times[ROUNDS / 2] < AT_ONCE, "{guest:?}, {leaving:?}, HTTP/2: {http2}: {times:?}");
            }
        }
    }
}

/// How a client that speaks HTTP/1.1 by hand states the length of its body.
#[derive(Clone, Copy, Debug)]
enum Framing {
    Length,
    Chunks,
}

/// A POST of which `sent` of `whole` bytes are sent.
async fn post(gate: &Gate, path: &str, framing: Framing, sent: usize, whole: usize) -> TcpStream {
    let framed = match framing {
        Framing::Length => format!("content-length: {whole}"),
        Framing::Chunks => "transfer-encoding: chunked".to_owned(),
    };
    let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\n{framed}\r\n\r\n");
    let mut bytes = head.into_bytes();
    match framing {
        Framing::Length => bytes.resize(bytes.len() + sent, b'x'),
        Framing::Chunks => {
            bytes.extend_from_slice(format!("{sent:x}\r\n").as_bytes());
            bytes.resize(bytes.len() + sent, b'x');
            bytes.extend_from_slice(if sent < whole { b"\r\n" } else { b"\r\n0\r\n\r\n" });
        }
    }
    let mut stream = TcpStream::connect(&gate.data_address).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    stream
}

/// hyper does not look at a socket while nobody takes what is on it.
#[tokio::test]
async fn whoever_leaves_with_a_body_that_nobody_reads_frees_the_upstream_and_the_instance_at_once() {
    for guest in ["misbehave", "probe-p3"] {
        let (gate, upstream) = (Gate::serve().start().await, upstream().await);
        gate.deploy(guest, json!({"allowed_hosts": ["127.0.0.1:*"]})).await;
        // The upstream itself looks at its sockets no more than hyper does.
        let open = async || gate.metric("tidegate_connections_open").await;
        for at in ["/never", "/stall"] {
            // Its guest's answer begins when the upstream's has ended.
            let begins = at == "/stall" && guest != "misbehave";
            let path = format!("/f/{guest}/fetch?url={}", upstream.url(at));
            // All of it fits into the socket: an end that waits behind bytes which nobody takes has not come.
            let sent = 100_000;
            for framing in [Framing::Length, Framing::Chunks] {
                let mut times = Vec::new();
                for _ in 0..ROUNDS {
                    let quiet = gate.metric("tidegate_instances").await;
                    let mut stream = post(&gate, &path, framing, sent, 50 << 20).await;
                    eventually("the call is under way", async || open().await == 1.0).await;
                    if begins {
                        let length = stream.read(&mut [0; 512]).await.unwrap();
                        assert!(length > 0, "the answer has begun");
                    }
                    drop(stream);
                    let left = Instant::now();
                    let what = format!("the upstream's connection is freed: {guest:?} {at} {framing:?} {times:?}");
                    eventually(&what, async || open().await == 0.0).await;
                    times.push(left.elapsed());
                    let gone = async || gate.metric("tidegate_instances").await <= quiet;
                    eventually(&format!("the instance is gone: {guest:?} {at} {framing:?} {times:?}"), gone).await;
                }
                times.sort();
                assert!(times[ROUNDS / 2] < AT_ONCE, "{guest:?}, {at}, {framing:?}: {times:?}");
            }
        }
    }
}

/// At `/to` a body is read as far as its call keeps it. One that waits in a queue with more than that is held back, and
/// nobody looks at its socket.
#[tokio::test]
async fn whoever_leaves_the_queue_with_a_body_that_nobody_reads_gives_its_place_up_at_once() {
    let (gate, upstream) = (Gate::serve().flags("--replay-body 64KiB").start().await, upstream().await);
    gate.destination("one", json!({"match": upstream.url(""), "max_concurrency": 1})).await;
    let path = format!("/to/{}", upstream.url("/never"));
    let holder = gate.request(Method::GET, &path, "");
    let client = gate.client.clone();
    let holds = tokio::spawn(async move { client.try_send(holder).await.map(drop) });
    eventually("the slot is taken", async || upstream.in_flight() == 1).await;
    let waiting = async || {
        let live = gate.control_get("/v1/destinations").await.json();
        live["live"][0]["partitions"][0]["queue"]["calls"].as_u64()
    };
    for framing in [Framing::Length, Framing::Chunks] {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            // More than the call keeps; what is left fits into the socket, and the end behind it comes.
            let stream = post(&gate, &path, framing, 100_000, 50 << 20).await;
            eventually("it waits", async || waiting().await == Some(1)).await;
            drop(stream);
            let left = Instant::now();
            eventually("its place is free", async || waiting().await == Some(0)).await;
            times.push(left.elapsed());
        }
        times.sort();
        assert!(times[ROUNDS / 2] < AT_ONCE, "{framing:?}: {times:?}");
    }
    holds.abort();
}

#[tokio::test]
async fn who_has_sent_the_whole_request_and_says_so_still_gets_the_answer() {
    let gate = Gate::serve().start().await;
    gate.deploy("misbehave", json!({})).await;
    for framing in [Framing::Length, Framing::Chunks] {
        // More than hyper reads unasked, so that the body is unread and its end is not.
        let mut stream = post(&gate, "/f/misbehave/sleep?ms=400", framing, 300_000, 300_000).await;
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{framing:?}: {answer:?}");
    }
}

#[tokio::test]
async fn whoever_stays_and_reads_nothing_frees_the_upstream_within_the_bound() {
    let endless = || {
        let chunks = futures::stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(&[b'x'; 65_536]))));
        http::Response::new(BodyExt::boxed_unsync(StreamBody::new(chunks)))
    };
    let upstream = Upstream::scripted(move |_| async move { endless() }).await;
    let gate = Gate::serve().flags("--write-timeout 1s").start().await;
    for http2 in [false, true] {
        let client: Legacy<_, Body> = Legacy::builder(TokioExecutor::new()).http2_only(http2).build_http();
        let request = Request::get(gate.url(&format!("/to/{}", upstream.url("/"))))
            .header("authorization", format!("Bearer {TOKEN}"))
            .body(empty())
            .unwrap();
        let began = Instant::now();
        let unread = client.request(request).await.unwrap();
        eventually("the upstream's connection is freed", async || upstream.open() == 0).await;
        assert!(began.elapsed() >= Duration::from_millis(900), "http2: {http2}, {:?}", began.elapsed());
        drop(unread);
    }
}
