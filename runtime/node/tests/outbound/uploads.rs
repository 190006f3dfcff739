//! Long uploads: they take as long as they take, while they move.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tidegate::{body::Body, outbound::TransportError, problem::Problem};
use tokio::net::TcpListener;

use crate::support::*;

/// A body of this many chunks of 1 KiB, one every 20 ms.
fn slow(chunks: usize) -> Body {
    let (sender, body) = channel_body();
    tokio::spawn(async move {
        for _ in 0..chunks {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if sender.send(Bytes::from(vec![1; 1 << 10])).await.is_err() {
                return;
            }
        }
    });
    body
}

#[tokio::test]
async fn the_clock_of_the_first_byte_starts_when_the_body_has_left() {
    let upstream = Upstream::start(|request| async move {
        let length = read_incoming(request.into_body()).await.len();
        tokio::time::sleep(Duration::from_millis(60)).await;
        text(200, &length.to_string())
    })
    .await;
    let gate = Gate::new(&["--first-byte-timeout=100ms", "--call-deadline=150ms", "--replay-body=2KiB"]);
    for length in [None, Some(25 << 10)] {
        let begin = Instant::now();
        let mut request = Request::post(upstream.url("/")).body(slow(25)).unwrap();
        if let Some(length) = length {
            // Nobody asks for the end of a body whose length was stated.
            request.headers_mut().insert("content-length", HeaderValue::from(length));
        }
        assert_eq!(read(gate.send(request).await.unwrap()).await, (25 << 10).to_string());
        assert!(begin.elapsed() >= Duration::from_millis(500));
    }
    // A head that does not come within its time is late all the same.
    let deaf = Upstream::start(|request| async move {
        read_incoming(request.into_body()).await;
        std::future::pending().await
    })
    .await;
    let error = gate.send(Request::post(deaf.url("/")).body(slow(10)).unwrap()).await.unwrap_err();
    assert!(matches!(error, TransportError::FirstByteTimeout { .. }), "{error:?}");
    // So is a body when somebody said by when.
    let begin = Instant::now();
    let request = Request::post(upstream.url("/")).header("tidegate-policy", "deadline=0.2").body(slow(200)).unwrap();
    assert_eq!(gate.send(request).await.unwrap().status(), 504);
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn the_deadline_of_an_upload_begins_once_however_often_it_is_repeated() {
    let upstream = Upstream::start(|request| async move {
        read_incoming(request.into_body()).await;
        text(429, "no")
    })
    .await;
    let gate = Gate::new(&["--call-deadline=400ms"]);
    let begin = Instant::now();
    let answer = gate.send(Request::post(upstream.url("/")).body(slow(10)).unwrap()).await.unwrap();
    let took = begin.elapsed();
    assert_eq!(answer.status(), 429);
    assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test]
async fn an_upload_that_stands_still_is_ended_and_it_is_told_whose_fault_that_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let gate = Gate::new(&["--body-idle-timeout=100ms", "--replay-body=2KiB"]);
    // Nobody reads what the sender has.
    let chunks = (0..64).map(|_| Ok(Frame::data(Bytes::from(vec![1; 1 << 20]))));
    let request = Request::post(&url).body(StreamBody::new(stream::iter(chunks)).boxed_unsync()).unwrap();
    let problem = Problem::from(gate.send(request).await.unwrap_err());
    assert_eq!((problem.kind, problem.setting.as_deref()), ("request-unread", Some("body_idle_timeout")));
    // The sender has nothing.
    let (_sender, body) = channel_body();
    let error = gate.send(Request::post(&url).body(body).unwrap()).await.unwrap_err();
    assert!(matches!(error, TransportError::RequestBody { .. }), "{error:?}");
    assert!(error.to_string().contains("(setting body_idle_timeout)"), "{error}");
}
