//! Upstreams that lie, stall, flood and vanish: the caller gets a plain answer in time, and nobody else notices.

use std::time::{Duration, Instant};

use futures::future::join_all;
use http::Method;
use serde_json::json;
use tidegate_tests::{Answer, Gate, RawUpstream, besieged, contained};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// What two attempts of half a second may take on a busy machine.
const IN_TIME: Duration = Duration::from_secs(4);

async fn gate() -> Gate {
    besieged("misbehave", "--first-byte-timeout 500ms --body-idle-timeout 500ms --max-pause 1s --attempts 2").await
}

/// Says these bytes and closes.
async fn saying(bytes: &'static [u8]) -> RawUpstream {
    RawUpstream::start(move |_, mut stream| async move {
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        // Until the other side has closed too: closing with unread bytes would reset what was written.
        let _ = stream.read(&mut [0; 1024]).await;
    })
    .await
}

/// Asks through the gate, by a program and by a guest.
async fn ask(gate: &Gate, upstream: &RawUpstream) -> [Result<Answer, String>; 2] {
    let to = gate.request(Method::POST, &format!("/to/{}", upstream.url("/")), "");
    let guest = gate.request(Method::GET, &format!("/f/misbehave/fetch?method=POST&url={}", upstream.url("/")), "");
    let (to, guest) = futures::future::join(gate.client.try_send(to), gate.client.try_send(guest)).await;
    [to, guest]
}

/// What is wrong with an answer, as both callers are told.
#[derive(Clone, Copy, Debug)]
enum Broken {
    /// The connection ended without one.
    Closed,
    /// It is no HTTP.
    Protocol,
    /// Its head does not come to its end in time.
    Late,
    /// Its head is larger than the node takes, or is still coming when the time is over: whichever is first.
    TooLargeOrLate,
    TooLarge,
    /// Its head was passed on, and its body broke off.
    Body,
    /// The same, because nothing more came.
    BodyLate,
}

impl Broken {
    /// Status and problem at `/to`; nothing where the connection breaks off. And what the guest hears.
    fn told(self) -> (Option<(u16, &'static str)>, &'static str) {
        match self {
            Self::Closed => (Some((502, "closed")), "ConnectionTerminated"),
            Self::Protocol => (Some((502, "protocol")), "HttpProtocolError"),
            Self::Late | Self::TooLargeOrLate => (Some((504, "first-byte-timeout")), "ConnectionReadTimeout"),
            Self::TooLarge => (Some((502, "head-too-large")), "HttpResponseHeaderSectionSize"),
            Self::Body => (None, "connection terminated"),
            Self::BodyLate => (None, "connection read timeout"),
        }
    }

    /// Neither caller took the answer for a whole one, and both were told what is wrong with it.
    fn assert(self, what: &str, [to, guest]: &[Result<Answer, String>; 2]) {
        let told = |broken: Self| {
            let (problem, word) = broken.told();
            let at_to = match (to, problem) {
                (Ok(answer), Some(problem)) => (answer.status.as_u16(), answer.problem().as_str()) == problem,
                // Its head came.
                (Err(error), None) => error.contains("reading a body"),
                _ => false,
            };
            // The guest answers 502 with what the host told it.
            let heard = |answer: &Answer| answer.status == 502 && answer.text().contains(word);
            at_to && guest.as_ref().is_ok_and(heard)
        };
        let is = told(self) || matches!(self, Self::TooLargeOrLate) && told(Self::TooLarge);
        assert!(is, "{what}: not {self:?} but {to:?}, {guest:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_none_or_not_whole_is_never_passed_on_as_whole() {
    use Broken::{Body, Closed, Protocol};
    let gate = gate().await;
    let answers = [
        (&b""[..], Closed),
        (b"\0\0\0\0", Protocol),
        (b"220 mail.example ESMTP\r\n", Protocol),
        (b"HTTP/1.1 999999 What\r\n\r\n", Protocol),
        (b"HTTP/2 200\r\ncontent-length: 0\r\n\r\n", Protocol),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfour", Body),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nfour", Protocol),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -4\r\n\r\nfour", Protocol),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\nfour", Protocol),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nfour", Body),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfour", Body),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfourX\r\n0\r\n\r\n", Body),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff1\r\nfour", Body),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n", Protocol),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: foo\r\n\r\nfour", Protocol),
        (b"HTTP/1.1 200 OK\r\nbad header: x\r\ncontent-length: 4\r\n\r\nfour", Protocol),
        (b"HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 4\r\n\r\nfour", Protocol),
    ];
    let ask_all = join_all(answers.map(async |(bytes, is)| (bytes, is, ask(&gate, &saying(bytes).await).await)));
    for (bytes, is, answers) in contained(&gate, "no answers", ask_all).await {
        is.assert(&String::from_utf8_lossy(bytes), &answers);
    }
}

#[tokio::test]
async fn bytes_after_an_answer_are_nobodys_answer() {
    let gate = gate().await;
    let upstream = RawUpstream::start(|_, mut stream| async move {
        let smuggled =
            b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfourHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
        let _ = stream.write_all(smuggled).await;
        let _ = stream.read(&mut [0; 1024]).await;
    })
    .await;
    for _ in 0..10 {
        for answer in ask(&gate, &upstream).await {
            assert!(answer.as_ref().is_ok_and(|answer| answer.text() == "four"), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn an_upstream_that_floods_or_dawdles_before_its_head_is_given_up_in_time() {
    /// Says one thing again and again, after a beginning.
    async fn forever(first: &[u8], again: &'static [u8], pause: Duration) -> RawUpstream {
        let first = first.to_vec();
        RawUpstream::start(move |_, mut stream| {
            let first = first.clone();
            async move {
                let mut sent = stream.write_all(&first).await;
                while sent.is_ok() {
                    tokio::time::sleep(pause).await;
                    sent = stream.write_all(again).await;
                }
            }
        })
        .await
    }
    let gate = gate().await;
    let (no_pause, slow) = (Duration::ZERO, Duration::from_millis(50));
    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let floods = [
        ("continue, without end", Broken::Late, forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n", no_pause).await),
        (
            "early hints, slowly",
            Broken::Late,
            forever(b"", b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n", slow).await,
        ),
        (
            "headers without end",
            Broken::TooLargeOrLate,
            forever(b"HTTP/1.1 200 OK\r\n", b"x-flood: 12345678901234567890\r\n", no_pause).await,
        ),
        ("a header without end", Broken::TooLarge, forever(b"HTTP/1.1 200 OK\r\nx: ", &[b'x'; 65_536], no_pause).await),
        ("a head letter by letter", Broken::Late, forever(b"HTTP/1.1 200 OK\r\n", b"x", slow).await),
        ("silence", Broken::Late, forever(b"", b"", slow).await),
        (
            "trailers without end",
            Broken::Body,
            forever(&[CHUNKED, b"0\r\n"].concat(), b"x-flood: 1234567890\r\n", no_pause).await,
        ),
        (
            "an extension without end",
            Broken::Body,
            forever(&[CHUNKED, b"4;"].concat(), &[b'x'; 65_536], no_pause).await,
        ),
        (
            "a body that stops",
            Broken::BodyLate,
            forever(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nfour", b"", slow).await,
        ),
    ];
    let ask_all = join_all(floods.iter().map(async |(what, is, upstream)| {
        let began = Instant::now();
        is.assert(what, &ask(&gate, upstream).await);
        assert!(began.elapsed() < IN_TIME, "{what}: {:?}", began.elapsed());
    }));
    contained(&gate, "floods", ask_all).await;
}

#[tokio::test]
async fn a_reset_in_mid_body_is_a_broken_answer() {
    let gate = gate().await;
    let upstream = RawUpstream::start(|_, mut stream: TcpStream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nfour").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    Broken::Body.assert("reset", &ask(&gate, &upstream).await);
}

#[tokio::test]
async fn a_connection_closed_on_its_reuse_costs_a_get_nothing() {
    let gate = gate().await;
    let upstream = RawUpstream::start(|_, mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine").await;
        // The next request on it finds a closed door.
        let _ = stream.read(&mut [0; 1]).await;
    })
    .await;
    for number in 0..20 {
        let answer = gate.get(&format!("/to/{}", upstream.url("/"))).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "fine"), "request {number}");
    }
    assert!(upstream.connections() >= 10, "{} connections", upstream.connections());
}

#[tokio::test]
async fn a_compressed_bomb_is_passed_on_as_it_came() {
    let gate = gate().await;
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 20\r\n\r\n";
    // A gzip head that promises everything; nobody here opens it.
    const BODY: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff";
    let upstream = RawUpstream::start(|_, mut stream| async move {
        let _ = stream.write_all(&[HEAD, BODY].concat()).await;
        let _ = stream.read(&mut [0; 1024]).await;
    })
    .await;
    let answer = gate.get(&format!("/to/{}", upstream.url("/"))).await;
    assert_eq!((answer.header("content-encoding"), &answer.body[..]), ("gzip", BODY));
}

#[tokio::test]
async fn no_retry_after_is_so_absurd_that_a_call_waits_for_it() {
    // The pause each causes is its own destination's.
    let gate = gate().await;
    let waits = [
        "-5",
        "0",
        "1000000000000",
        "99999999999999999999999999",
        "1e400",
        "NaN",
        "",
        "soon",
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Fri, 99 Foo 9999 99:99:99 GMT",
    ];
    join_all(waits.map(async |after| {
        let upstream = RawUpstream::start(move |number, mut stream| async move {
            let answer = match number {
                0 => {
                    format!("HTTP/1.1 429 No\r\nretry-after: {after}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                }
                _ => "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nfine".to_owned(),
            };
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.read(&mut [0; 1024]).await;
        })
        .await;
        let answer = gate.get(&format!("/to/{}", upstream.url("/"))).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "fine"), "{after:?}");
        assert!(answer.took < IN_TIME, "{after:?}: {:?}", answer.took);
    }))
    .await;
}

#[tokio::test]
async fn a_redirect_to_a_guarded_address_leads_nowhere() {
    let gate = gate().await;
    let upstream = saying(
        b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/latest/meta-data/\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let answer = gate.get(&format!("/to/{}", upstream.url("/"))).await;
    assert_eq!(answer.status, 302, "{}", answer.text());
    let location = answer.header("location").to_owned();
    assert_eq!(gate.get(&format!("/to/{location}")).await.problem(), "address-denied");
    assert!(gate.configure("misbehave", json!({"allowed_hosts": ["*"], "auth": "public"})).await.status.is_success());
    let answer = gate.get(&format!("/f/misbehave/fetch?url={location}")).await;
    assert_eq!(answer.header("x-upstream-status"), "403", "{}", answer.text());
    assert!(answer.text().contains("address-denied"), "{}", answer.text());
}

#[tokio::test]
async fn odd_but_lawful_answers_are_passed_on() {
    let gate = gate().await;
    for (bytes, status, body) in [
        (&b"HTTP/1.0 200 OK\r\n\r\nuntil the end"[..], 200, "until the end"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine", 200, "fine"),
        (b"HTTP/1.1 204 No Content\r\n\r\nsurprise", 204, ""),
        (b"HTTP/1.1 299 \xff\xfe\r\ncontent-length: 4\r\n\r\nfine", 299, "fine"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n4\r\nfine\r\n0\r\n\r\n", 200, "fine"),
    ] {
        let upstream = saying(bytes).await;
        let answer = gate.post(&format!("/to/{}", upstream.url("/")), "").await;
        let what = String::from_utf8_lossy(bytes);
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (status, body), "{what}");
    }
}
