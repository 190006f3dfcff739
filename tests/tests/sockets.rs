//! Garbage, floods, trickles and bombs on every socket: the node lives, its memory stays bounded, a good client is served
//! meanwhile ([`contained`]).

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use http::Method;
use tidegate_tests::{Gate, Upstream, besieged, contained, frame, h2_preface, say};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const QUIET: Duration = Duration::from_millis(300);

async fn gate() -> Gate {
    besieged("misbehave", "--header-timeout 1s --guest-cpu 200ms --guest-wall 1s --guest-stream-idle 1s").await
}

fn sockets(gate: &Gate) -> [&str; 3] {
    [&gate.data_address, &gate.control_address, &gate.metrics_address]
}

/// How many answers of success are in what came back.
fn successes(answer: &[u8]) -> usize {
    answer.windows(11).filter(|eleven| eleven.starts_with(b"HTTP/1.1 2")).count()
}

#[tokio::test]
async fn garbage_gets_an_error_or_nothing() {
    let gate = gate().await;
    let pieces: [&[u8]; 14] = [
        b"\0\0\0\0\0\0\0\0",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /f/neighbour/ HTTP/1.1\r\nhost: \xff\xff\r\n\r\n",
        b"GET /f/neighbour/ HTTP/1.1\r\n\r\n",
        b"GET /f/neighbour/ HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET /f/neighbour/ HTTP/1.1\r\nhost : a\r\n\r\n",
        b"GET /f/neighbour/ HTTP/1.1\r\nhost: a\r\nx: \0\r\n\r\n",
        b"GET /f/neighbour/ \r\n\r\n",
        b"GET  /f/neighbour/  HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET http://b/f/neighbour/ HTTP/1.1\r\nhost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\0\0",
        b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n\r\n",
        b"TRACE / HTTP/1.1\r\nhost: a\r\n\r\n",
    ];
    contained(&gate, "garbage", async {
        for address in sockets(&gate) {
            for answer in join_all(pieces.map(|piece| say(address, piece, QUIET))).await {
                assert_eq!(successes(&answer), 0, "{address}: {}", String::from_utf8_lossy(&answer));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_message_with_two_readings_is_refused() {
    let gate = gate().await;
    let head = "POST /f/misbehave/echo HTTP/1.1\r\nhost: a\r\n";
    let next = "GET /f/neighbour/ HTTP/1.1\r\nhost: a\r\n\r\n";
    for framing in [
        "content-length: 4\r\ncontent-length: 5\r\n",
        "content-length: 4, 5\r\n",
        "content-length: +4\r\n",
        "content-length: -1\r\n",
        "content-length: 0x4\r\n",
        "content-length: 4 4\r\n",
        "content-length: 99999999999999999999\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: identity\r\n",
        "transfer-encoding : chunked\r\n",
        "transfer-encoding:\r\n chunked\r\n",
    ] {
        let bytes = format!("{head}{framing}\r\n0\r\n\r\n{next}");
        let answer = contained(&gate, framing, say(&gate.data_address, bytes.as_bytes(), QUIET)).await;
        assert_eq!(successes(&answer), 0, "{framing}: {}", String::from_utf8_lossy(&answer));
    }
    for chunks in [
        "zz\r\nx\r\n",
        "ffffffffffffffff1\r\nx",
        "-1\r\nx",
        "0x1\r\nx\r\n0\r\n\r\n",
        "1\r\nxy\r\n0\r\n\r\n",
        "1\nx\n0\n\n",
    ] {
        let bytes = format!("{head}transfer-encoding: chunked\r\n\r\n{chunks}{next}");
        let answer = contained(&gate, chunks, say(&gate.data_address, bytes.as_bytes(), QUIET)).await;
        // The echo may have begun; what follows on the connection may not be taken for a request.
        assert!(successes(&answer) <= 1, "{chunks}: {}", String::from_utf8_lossy(&answer));
        assert!(!String::from_utf8_lossy(&answer).contains("tidegate-function: neighbour"), "{chunks}");
    }
}

#[tokio::test]
async fn nothing_is_smuggled_through_the_gate() {
    let upstream = Upstream::scripted(|request| async {
        let body = http_body_util::BodyExt::collect(request.into_body()).await.map(|body| body.to_bytes());
        tidegate_tests::text(200, &format!("{body:?}"))
    })
    .await;
    let gate = gate().await;
    let inner = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    for headers in [
        "content-length: 4\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 4\r\n",
        "connection: content-length\r\ntransfer-encoding: chunked\r\n",
        "connection: transfer-encoding\r\ntransfer-encoding: chunked\r\n",
    ] {
        let bytes = format!(
            "POST /to/{} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n{headers}\r\n{:x}\r\n{inner}\r\n0\r\n\r\n",
            upstream.url("/outer"),
            tidegate_tests::TOKEN,
            inner.len(),
        );
        contained(&gate, headers, say(&gate.data_address, bytes.as_bytes(), QUIET)).await;
    }
    assert!(!upstream.seen().is_empty(), "none of them arrived: nothing was tested");
    for seen in upstream.seen() {
        assert_eq!(seen.path, "/outer");
        let both = seen.headers.contains_key("content-length") && seen.headers.contains_key("transfer-encoding");
        assert!(!both, "{:?}", seen.headers);
    }
}

#[tokio::test]
async fn huge_heads_are_refused_and_not_held() {
    let gate = gate().await;
    let long_path = format!("GET /f/neighbour/{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(1 << 20));
    let long_header = format!("GET /f/neighbour/ HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "a".repeat(1 << 20));
    let many = format!("GET /f/neighbour/ HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(20_000));
    contained(&gate, "heads", async {
        for address in sockets(&gate) {
            for head in [&long_path, &long_header, &many] {
                for answer in join_all((0..20).map(|_| say(address, head.as_bytes(), QUIET))).await {
                    assert_eq!(successes(&answer), 0, "{address}: {}", String::from_utf8_lossy(&answer));
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn who_speaks_letter_by_letter_is_hung_up_on() {
    let gate = gate().await;
    contained(&gate, "slowloris", async {
        for address in sockets(&gate) {
            let slow = (0..100).map(|_| async {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let began = Instant::now();
                let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nx: ").await;
                while stream.write_all(b"x").await.is_ok() {
                    assert!(began.elapsed() < Duration::from_secs(5), "{address}: still open");
                    let closed = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut [0; 512])).await;
                    if matches!(closed, Ok(Ok(0) | Err(_))) {
                        break;
                    }
                }
            });
            join_all(slow).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_letter_by_letter_meets_the_deadline_of_its_call() {
    let upstream = Upstream::scripted(|request| async {
        let _ = http_body_util::BodyExt::collect(request.into_body()).await;
        tidegate_tests::text(200, "read")
    })
    .await;
    let gate = gate().await;
    let paths = [format!("/to/{}", upstream.url("/")), "/f/misbehave/echo".to_owned()];
    contained(&gate, "slow bodies", async {
        join_all(paths.iter().map(async |path| {
            let began = Instant::now();
            let mut stream = TcpStream::connect(&gate.data_address).await.unwrap();
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\ntidegate-policy: deadline=1\r\n\
                 content-length: 1000000\r\n\r\n",
                tidegate_tests::TOKEN
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            let (mut read, mut write) = stream.into_split();
            let dripping = async {
                while write.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            let mut answer = vec![0; 1024];
            tokio::select! {
                length = read.read(&mut answer) => answer.truncate(length.unwrap_or(0)),
                () = dripping => {}
            }
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(began.elapsed() < Duration::from_secs(4), "{path}: {:?}", began.elapsed());
            // The guest echoes what it has at once; the upstream waits for the whole.
            let expected = if path.starts_with("/to/") { "HTTP/1.1 504" } else { "HTTP/1.1 200" };
            assert!(answer.starts_with(expected), "{path}: {answer}");
        }))
        .await;
    })
    .await;
}

#[tokio::test]
async fn an_endless_body_meets_its_bound() {
    let gate = gate().await;
    for path in ["/f/neighbour/", "/f/misbehave/echo"] {
        contained(&gate, path, async {
            let mut stream = TcpStream::connect(&gate.data_address).await.unwrap();
            let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let chunk = [b"10000\r\n".as_slice(), &[b'x'; 65_536], b"\r\n"].concat();
            let mut sent = 0_u64;
            // It reads no answer, either: whoever waits for that must be held up by nobody.
            while let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(4), stream.write_all(&chunk)).await {
                sent += 65_536;
                assert!(sent < 300 << 20, "{path} took {sent} bytes");
            }
        })
        .await;
    }
}

/// Writes frames until they are all sent, the node hangs up, or it takes no more; then says how many went.
async fn flood(address: &str, begin: Vec<u8>, mut frames: impl Iterator<Item = Vec<u8>>) -> usize {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    // Answers are read: a node that only waits for its own to be taken is not the matter here.
    let reader = tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok(1..) = read.read(&mut buffer).await {}
    });
    let _ = write.write_all(&begin).await;
    let mut sent = 0;
    for batch in std::iter::from_fn(|| {
        let batch: Vec<_> = frames.by_ref().take(64).collect();
        (!batch.is_empty()).then_some(batch)
    }) {
        match tokio::time::timeout(Duration::from_secs(2), write.write_all(&batch.concat())).await {
            Ok(Ok(())) => sent += batch.len(),
            _ => break,
        }
    }
    reader.abort();
    sent
}

const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// HPACK: `GET http://a PATH`.
fn block(path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).unwrap();
    [&[0x82, 0x86, 0x41, 1, b'a', 0x44, length], path.as_bytes()].concat()
}

#[tokio::test]
async fn floods_of_http_2_frames_are_cut_off() {
    let gate = gate().await;
    const MANY: usize = 200_000;
    let odd = |number: usize| u32::try_from(2 * number + 1).unwrap();
    contained(&gate, "floods", async {
        for address in sockets(&gate) {
            // A head that never ends.
            let open = [h2_preface(), frame(HEADERS, 0, 1, &block("/f/neighbour/"))].concat();
            let more = frame(CONTINUATION, 0, 1, &[b"\0\x01x\x7f\x81\x7f".as_slice(), &[b'y'; 256]].concat());
            let sent = flood(address, open, std::iter::repeat_n(more, MANY)).await;
            assert!(sent < MANY, "{address}: {sent} continuations were taken");

            // Requests that are taken back at once: each would have begun a guest.
            let reset = |number| {
                let stream = odd(number);
                [
                    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block("/f/misbehave/spin")),
                    frame(RESET, 0, stream, &8_u32.to_be_bytes()),
                ]
                .concat()
            };
            let sent = flood(address, h2_preface(), (0..MANY).map(reset)).await;
            assert!(sent < MANY, "{address}: {sent} resets were taken");

            // A head of 16 KiB that unfolds to 64 MiB.
            let entry = [&[0x40, 1, b'x', 0x7f, 0x81, 0x1e][..], &[b'y'; 4_000]].concat();
            let bomb = [block("/f/neighbour/"), entry, vec![0xbe; 12_000]].concat();
            flood(
                address,
                h2_preface(),
                (0..200).map(|number| frame(HEADERS, END_HEADERS | END_STREAM, odd(number), &bomb)),
            )
            .await;

            // Frames that only make work.
            for (kind, stream, payload) in [
                (PING, 0, &[0; 8][..]),
                (SETTINGS, 0, &[]),
                (SETTINGS, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]),
                (PRIORITY, 1, &[0, 0, 0, 0, 1]),
                (WINDOW_UPDATE, 0, &[0x7f, 0xff, 0xff, 0xff]),
                (0x42, 0, &[]),
            ] {
                flood(address, h2_preface(), std::iter::repeat_n(frame(kind, 0, stream, payload), 20_000)).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn answers_that_no_window_lets_out_are_held_within_bounds() {
    // Long enough for all of them to be there at once, however slow the machine.
    let gate = besieged("misbehave", "--guest-stream-idle 4s --guest-wall 4s").await;
    let instances = async || gate.metric("tidegate_instances").await;
    // What is measured is what the answers hold. What their guests' places keep in memory once they are free is another
    // matter (ARCHITECTURE.md, known gaps).
    let held = contained(&gate, "windows of nothing", async {
        let mut held = Vec::new();
        for _ in 0..5 {
            let mut stream = TcpStream::connect(&gate.data_address).await.unwrap();
            let closed = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
            let mut bytes = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &closed].concat();
            for number in 0..100 {
                let head = block("/f/misbehave/big?bytes=1000000000");
                bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &head));
            }
            stream.write_all(&bytes).await.unwrap();
            held.push(stream);
        }
        tidegate_tests::eventually("the guests answer", async || instances().await >= 500.0).await;
        held
    })
    .await;
    // Each answer stands still, and is ended for that.
    tidegate_tests::eventually("the guests are ended", async || instances().await <= 3.0).await;
    drop(held);
}

#[tokio::test]
async fn uploads_that_nobody_may_make_are_not_kept() {
    let gate = gate().await;
    let module = Bytes::from(vec![0; 1 << 20]);
    contained(&gate, "uploads", async {
        for token in ["", "Bearer tg_wrong"] {
            let request = http::Request::builder()
                .method(Method::PUT)
                .uri(format!("http://{}/v1/functions/x", gate.control_address))
                .header("authorization", token)
                .body(http_body_util::Full::new(module.clone()))
                .unwrap();
            let answer = gate.client.try_send(request).await;
            assert!(answer.as_ref().map_or(true, |answer| answer.status == 401), "{answer:?}");
        }
    })
    .await;
}
