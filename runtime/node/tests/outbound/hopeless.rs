//! Answers that can't be passed on: told at once, whoever asks, and no mark against the destination.

use std::time::{Duration, Instant};

use http::{Method, Request};
use tidegate::{body, problem::Problem};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::support::*;

/// An upstream that answers `/ok` with 200, and all else with these bytes. Closes after each answer.
async fn saying(bytes: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut seen = Vec::new();
            while !seen.windows(4).any(|end| end == b"\r\n\r\n") {
                assert!(stream.read_buf(&mut seen).await.unwrap() > 0);
            }
            let ok = seen.windows(4).any(|path| path == b" /ok");
            let answer = if ok { "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n" } else { bytes.as_str() };
            // Whoever has seen enough closes.
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    url
}

#[tokio::test]
async fn an_answer_that_cannot_be_taken_is_told_at_once_and_pauses_nobody() {
    let many: String = (0..150).map(|number| format!("x-{number}: y\r\n")).collect();
    let large = "a".repeat(500 << 10);
    for (method, answer, kind) in [
        ("GET", "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n".to_owned(), "protocol"),
        ("GET", "hello there\r\n\r\n".to_owned(), "protocol"),
        ("GET", "HTTP/1.1 banana\r\n\r\n".to_owned(), "protocol"),
        ("GET", format!("HTTP/1.1 200 OK\r\n{many}content-length: 0\r\n\r\n"), "head-too-large"),
        ("GET", format!("HTTP/1.1 200 OK\r\nx: {large}\r\ncontent-length: 0\r\n\r\n"), "head-too-large"),
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n".to_owned(), "protocol"),
        ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n".to_owned(), "protocol"),
        ("GET", "HTTP/1.1 204 No Content\r\ncontent-length: x\r\n\r\n".to_owned(), "protocol"),
    ] {
        let said = &answer[..answer.len().min(40)];
        let url = saying(answer.clone()).await;
        let gate = Gate::new(&[]);
        // The destination lives: what it lets the gate wait for is none of this.
        assert_eq!(gate.get(&format!("{url}/ok")).await.unwrap().status(), 200);
        let begin = Instant::now();
        let request = Request::builder().method(method.parse::<Method>().unwrap()).uri(format!("{url}/no"));
        let (answer, told) = gate.told(request.body(body::empty()).unwrap()).await;
        let problem = Problem::from(answer.expect_err(said));
        assert_eq!((problem.kind, problem.status.as_u16()), (kind, 502), "{said}");
        assert_eq!(problem.into_response().headers()["x-should-retry"], "false", "{said}");
        assert!(told.iter().any(|line| line.ends_with("passed on: no repetition changes it")), "{said}: {told:?}");
        assert_eq!(gate.get(&format!("{url}/ok")).await.unwrap().status(), 200, "{said}");
        assert!(begin.elapsed() < Duration::from_millis(500), "{said}: {:?}", begin.elapsed());
    }
}

#[tokio::test]
async fn a_length_stated_twice_is_passed_on_once() {
    let url = saying("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok".into()).await;
    for method in [Method::GET, Method::HEAD] {
        let request = Request::builder().method(method).uri(format!("{url}/x")).body(body::empty()).unwrap();
        let answer = Gate::new(&[]).send(request).await.unwrap();
        let lengths: Vec<_> = answer.headers().get_all("content-length").iter().collect();
        assert_eq!(lengths, ["2"]);
    }
}
