//! Connections: never more than needed, never a stale one, free at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::BodyExt;
use tidegate::outbound::TransportError;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::support::*;

async fn storm(gate: &Arc<Gate>, url: &str, tasks: usize, each: usize) {
    let tasks: Vec<_> = (0..tasks)
        .map(|_| {
            let (gate, url) = (Arc::clone(gate), url.to_owned());
            tokio::spawn(async move {
                for _ in 0..each {
                    assert_eq!(read(gate.get(&url).await.unwrap()).await, "ok");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// Reads the head of a request, and of its body what comes along.
async fn read_head(stream: &mut tokio::net::TcpStream) {
    let mut seen = Vec::new();
    while !seen.windows(4).any(|end| end == b"\r\n\r\n") {
        assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "closed before the head was complete");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn there_are_never_more_connections_than_calls_at_once() {
    let upstream = Upstream::start(|_| async { text(200, "ok") }).await;
    let gate = Arc::new(Gate::new(&[]));
    storm(&gate, &upstream.url("/"), 16, 200).await;
    assert!(upstream.connections() <= 16, "{}", upstream.connections());
    storm(&gate, &upstream.url("/"), 1, 100).await;
    assert!(upstream.connections() <= 16, "{}", upstream.connections());
}

#[tokio::test]
async fn a_connection_is_used_again_the_moment_its_answer_has_ended() {
    let upstream = Upstream::start(|_| async { text(200, "ok") }).await;
    let gate = Arc::new(Gate::new(&[]));
    storm(&gate, &upstream.url("/"), 1, 500).await;
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn dropping_a_call_before_the_head_closes_its_connection() {
    let upstream = Upstream::start(|_| std::future::pending()).await;
    let gate = Arc::new(Gate::new(&[]));
    let call = tokio::spawn({
        let (gate, url) = (Arc::clone(&gate), upstream.url("/"));
        async move { gate.get(&url).await.map(|_| ()) }
    });
    until("the request is there", || upstream.requests() == 1).await;
    let begin = Instant::now();
    call.abort();
    until("the connection is closed", || upstream.open() == 0).await;
    assert!(begin.elapsed() < Duration::from_millis(100), "{:?}", begin.elapsed());
    let partition = &gate.state()["destinations"][0]["partitions"][0];
    assert_eq!((partition["in_flight"].as_u64(), partition["outcomes"]["cancelled"].as_u64()), (Some(0), Some(1)));
}

#[tokio::test]
async fn dropping_the_body_of_an_answer_closes_its_connection_and_frees_its_slot() {
    let upstream = Upstream::start(|_| async {
        let (sender, body) = channel_body();
        tokio::spawn(async move {
            while sender.send(Bytes::from_static(b"tick")).await.is_ok() {
                // It goes on for as long as somebody is there; how fast does not matter.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        http::Response::new(body)
    })
    .await;
    let gate = Gate::new(&[]);
    let mut answer = gate.get(&upstream.url("/")).await.unwrap();
    assert_eq!(answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "tick");
    let in_flight = || gate.state()["destinations"][0]["partitions"][0]["in_flight"].as_u64();
    assert_eq!(in_flight(), Some(1));
    let begin = Instant::now();
    drop(answer);
    assert_eq!(in_flight(), Some(0));
    until("the connection is closed", || upstream.open() == 0).await;
    assert!(begin.elapsed() < Duration::from_millis(100), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_connection_that_its_peer_closed_while_idle_is_not_used() {
    let upstream = Upstream::start(|_| async { text(200, "ok") }).await;
    // A server that answers properly and closes every connection after a moment of idleness.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let closed = Arc::new(AtomicUsize::new(0));
    let closes = Arc::clone(&closed);
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            read_head(&mut stream).await;
            count.fetch_add(1, Ordering::SeqCst);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            drop(stream);
            closes.fetch_add(1, Ordering::SeqCst);
        }
    });
    let gate = Gate::new(&[]);
    for number in 1..=5 {
        // A POST that may not be repeated: it must not be lost on a dead connection.
        let answer = gate.send(post(&format!("http://{address}/"), "x")).await.unwrap();
        assert_eq!(read(answer).await, "ok");
        until("the server closed", || closed.load(Ordering::SeqCst) == number).await;
        // So that the gate is likely to have seen it; either way must do.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(served.load(Ordering::SeqCst), 5);
    server.abort();
    drop(upstream);
}

#[tokio::test]
async fn a_connection_closed_behind_the_runtimes_back_is_not_used() {
    use std::io::{Read, Write};
    // A server outside this runtime, so that it can close while the runtime looks away.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut seen = [0; 4096];
            assert!(stream.read(&mut seen).unwrap() > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
            // Closed only when the answer was read and the runtime sleeps.
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let gate = Gate::new(&[]);
    for _ in 0..3 {
        // A POST that may not be repeated: sent on a dead connection it would be lost.
        assert_eq!(read(gate.send(post(&format!("http://{address}/"), "")).await.unwrap()).await, "ok");
        // Blocks the only thread of the runtime: it can't notice that the peer closes.
        std::thread::sleep(Duration::from_millis(30));
    }
    server.join().unwrap();
}

#[tokio::test]
async fn a_request_lost_on_an_old_connection_moves_to_a_new_one_at_no_cost() {
    // The first connection answers once, then takes a second request and closes without a word.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        for number in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            if number == 0 {
                read_head(&mut stream).await;
            }
        }
    });
    let gate = Gate::new(&[]);
    let url = format!("http://{address}/");
    assert_eq!(read(gate.get(&url).await.unwrap()).await, "ok");
    let mut request = get(&url);
    request.headers_mut().insert("tidegate-policy", "retries=0".parse().unwrap());
    assert_eq!(read(gate.send(request).await.unwrap()).await, "ok");
    server.abort();
}

#[tokio::test]
async fn what_was_lost_with_an_old_connection_may_be_under_way_where_its_key_is_in_use() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut old, _) = listener.accept().await.unwrap();
        read_head(&mut old).await;
        old.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        // The next is begun, and the connection is gone.
        read_head(&mut old).await;
        drop(old);
        for answer in ["409 Conflict\r\ncontent-length: 6\r\n\r\nin use", "200 OK\r\ncontent-length: 4\r\n\r\ndone"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await;
            let answer = format!("HTTP/1.1 {}", answer.replacen("\r\n", "\r\nconnection: close\r\n", 1));
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let gate = Gate::new(&[]);
    assert_eq!(read(gate.get(&url).await.unwrap()).await, "ok");
    let mut request = post(&url, "pay");
    request.headers_mut().insert("idempotency-key", "1".parse().unwrap());
    let (answer, told) = gate.told(request).await;
    assert_eq!(read(answer.unwrap()).await, "done", "{told:?}");
    assert!(told.iter().any(|line| line.contains("its old connection was closed")), "{told:?}");
    server.await.unwrap();
}

#[tokio::test]
async fn failures_to_connect_are_tried_again_and_then_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let gate = Gate::new(&[]);
    // Even a POST that may not be repeated: nothing left.
    let mut request = post(&format!("http://{address}/"), "x");
    request.headers_mut().insert("tidegate-policy", "retries=1".parse().unwrap());
    let (answer, told) = gate.told(request).await;
    let Err(TransportError::InVain(last)) = answer else { panic!("it was tried again: {told:?}") };
    assert!(matches!(*last, TransportError::Connect { .. }), "{told:?}");
    assert!(told.iter().any(|line| line.contains("tried again in ")), "{told:?}");
}

#[tokio::test]
async fn an_answer_that_stalls_is_ended_by_the_idle_bound() {
    let upstream = Upstream::start(|_| async {
        let (sender, body) = channel_body();
        tokio::spawn(async move {
            sender.send(Bytes::from_static(b"first")).await.unwrap();
            sender.closed().await;
        });
        http::Response::new(body)
    })
    .await;
    let gate = Gate::new(&["--body-idle-timeout=100ms"]);
    let mut answer = gate.get(&upstream.url("/")).await.unwrap();
    assert!(answer.body_mut().frame().await.unwrap().is_ok());
    let error = answer.body_mut().frame().await.unwrap().unwrap_err().to_string();
    assert!(error.contains("body_idle_timeout"), "{error}");
    until("the connection is closed", || upstream.open() == 0).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error_and_not_an_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await.unwrap();
        }
    });
    let gate = Gate::new(&[]);
    let answer = gate.get(&format!("http://{address}/")).await.unwrap();
    assert!(answer.into_body().collect().await.is_err());
    server.abort();
}

#[tokio::test]
async fn what_is_no_http_is_a_transport_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"220 smtp.example ESMTP\r\n").await.unwrap();
            // It waits for its peer, as such servers do; the gate does not wait for it.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let gate = Gate::new(&[]);
    let mut request = get(&format!("http://{address}/"));
    request.headers_mut().insert("tidegate-policy", "retries=0".parse().unwrap());
    let error = gate.send(request).await.unwrap_err();
    assert!(matches!(error, TransportError::Protocol { .. } | TransportError::Closed { .. }), "{error:?}");
    let problem = tidegate::problem::Problem::from(error);
    assert_eq!(problem.status, 502);
    server.abort();
}

/// An upstream that reads one head and then does as it likes.
async fn raw<R: Future<Output = ()> + Send + 'static>(answer: fn(tokio::net::TcpStream) -> R) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        answer(stream).await;
    });
    url
}

#[tokio::test]
async fn a_length_beside_a_coding_is_a_lie_and_does_not_pass() {
    let url = raw(|mut stream| async move {
        let answer =
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
    })
    .await;
    let answer = Gate::new(&[]).get(&url).await.unwrap();
    assert!(!answer.headers().contains_key("content-length") && !answer.headers().contains_key("transfer-encoding"));
    assert_eq!(read(answer).await, "hello world");
}

#[tokio::test]
async fn a_head_without_end_is_cut_by_its_size_and_a_slow_one_by_its_time() {
    let endless = raw(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while stream.write_all(&[b'a'; 4096]).await.is_ok() {}
    })
    .await;
    let slow = raw(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while stream.write_all(b"a").await.is_ok() {
            // A head that goes on, slower than any bound.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let gate = Gate::new(&["--attempts=1", "--first-byte-timeout=500ms"]);
    let error = gate.get(&endless).await.unwrap_err();
    assert!(matches!(error, TransportError::HeadTooLarge { .. }), "{error:?}");
    let error = gate.get(&slow).await.unwrap_err();
    assert!(matches!(error, TransportError::FirstByteTimeout { .. }), "{error:?}");
}

#[tokio::test]
async fn an_answer_may_have_as_many_headers_as_the_setting_says_and_the_error_names_it() {
    let many = || {
        raw(|mut stream| async move {
            let headers: String = (0..150).map(|number| format!("x-{number}: y\r\n")).collect();
            let head = format!("HTTP/1.1 200 OK\r\n{headers}content-length: 0\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
        })
    };
    let error = Gate::new(&["--attempts=1"]).get(&many().await).await.unwrap_err();
    let problem = tidegate::problem::Problem::from(error);
    assert_eq!((problem.kind, problem.status.as_u16()), ("head-too-large", 502));
    assert_eq!(problem.setting.as_deref(), Some("max_answer_headers, max_answer_head"));
    assert_eq!(problem.value.as_deref(), Some("100, 400KiB"));
    let gate = Gate::new(&["--attempts=1", "--max-answer-headers=151"]);
    assert_eq!(gate.get(&many().await).await.unwrap().headers().len(), 151);
}

#[tokio::test]
async fn a_head_may_be_as_large_as_the_setting_says() {
    let large = || {
        raw(|mut stream| async move {
            let value = "a".repeat(20 << 10);
            let head = format!("HTTP/1.1 200 OK\r\nx: {value}\r\ncontent-length: 0\r\n\r\n");
            // Whoever has seen enough closes.
            let _ = stream.write_all(head.as_bytes()).await;
        })
    };
    let gate = Gate::new(&["--attempts=1", "--max-answer-head=16KiB"]);
    let error = gate.get(&large().await).await.unwrap_err();
    assert!(matches!(error, TransportError::HeadTooLarge { .. }), "{error:?}");
    assert_eq!(Gate::new(&[]).get(&large().await).await.unwrap().status(), 200);
}

/// A resolver that knows no name, and counts who asks.
struct Nobody(Arc<AtomicUsize>, std::io::ErrorKind);

impl tidegate::outbound::Resolve for Nobody {
    fn resolve(&self, _: Arc<str>) -> futures::future::BoxFuture<'static, std::io::Result<Vec<std::net::IpAddr>>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let kind = self.1;
        Box::pin(async move { Err(kind.into()) })
    }
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_asked_for_once_and_a_deaf_resolver_again() {
    for (kind, asked) in [(std::io::ErrorKind::NotFound, 1), (std::io::ErrorKind::TimedOut, 4)] {
        let count = Arc::new(AtomicUsize::new(0));
        let parts = tidegate::outbound::DoorParts {
            resolver: Arc::new(Nobody(Arc::clone(&count), kind)),
            ..Default::default()
        };
        let gate = Gate::with(&[], parts);
        let mut feed = gate.observe.feed.subscribe();
        let (answer, told) = gate.told(get("http://nowhere.example/")).await;
        let error = match answer.unwrap_err() {
            TransportError::InVain(last) if asked > 1 => *last,
            error => error,
        };
        assert!(matches!(error, TransportError::Dns { lasting, .. } if lasting == (asked == 1)), "{error:?}");
        assert_eq!(count.load(Ordering::SeqCst), asked, "{told:?}");
        let shown = std::iter::from_fn(|| feed.try_recv().ok()).find_map(|event| match event {
            tidegate::observe::FeedEvent::Call(line) => Some(line.attempts as usize),
            _ => None,
        });
        assert_eq!(shown, Some(asked));
    }
}

#[tokio::test]
async fn idle_connections_are_closed_after_their_time() {
    let upstream = Upstream::start(|_| async { text(200, "ok") }).await;
    let gate = Arc::new(Gate::new(&["--connection-idle=100ms"]));
    storm(&gate, &upstream.url("/"), 4, 4).await;
    assert!(upstream.open() > 0);
    until("idle connections are closed", || upstream.open() == 0).await;
    assert!(gate.observe.metrics.render().contains("tidegate_connections_open 0"));
}

#[tokio::test]
async fn a_streamed_upload_does_not_cost_its_connection() {
    let upstream = Upstream::start(|request| async move {
        let body = read_incoming(request.into_body()).await;
        text(200, &body.len().to_string())
    })
    .await;
    let gate = Gate::new(&["--replay-body=1KiB"]);
    for _ in 0..5 {
        let (sender, body) = channel_body();
        let writer = tokio::spawn(async move {
            for _ in 0..10 {
                sender.send(Bytes::from(vec![7; 10_000])).await.unwrap();
            }
        });
        let request = http::Request::post(upstream.url("/")).body(body).unwrap();
        assert_eq!(read(gate.send(request).await.unwrap()).await, "100000");
        writer.await.unwrap();
    }
    assert_eq!(upstream.connections(), 1);
}
