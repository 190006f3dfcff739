//! Request bodies: kept, streamed, drained.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, StreamBody};
use tidegate::body::{self, Body, BodyError};

use crate::support::*;

#[tokio::test]
async fn a_kept_body_is_sent_again_whole() {
    let bodies = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let upstream = Upstream::start({
        let bodies = Arc::clone(&bodies);
        move |request| {
            let bodies = Arc::clone(&bodies);
            async move {
                let body = read_incoming(request.into_body()).await;
                bodies.lock().push(body);
                if bodies.lock().len() < 3 { refusal("0.05") } else { text(200, "") }
            }
        }
    })
    .await;
    let gate = Gate::new(&[]);
    let (sender, body) = channel_body();
    let writer = tokio::spawn(async move {
        for chunk in ["one ", "two ", "three"] {
            // Apart from each other, so that they are likely to be frames of their own; either way must do.
            tokio::time::sleep(Duration::from_millis(5)).await;
            sender.send(Bytes::from_static(chunk.as_bytes())).await.unwrap();
        }
    });
    let answer = gate.send(Request::post(upstream.url("/")).body(body).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(*bodies.lock(), ["one two three"; 3]);
    writer.await.unwrap();
}

#[tokio::test]
async fn a_large_body_is_streamed_once_and_its_refusal_passed_on() {
    let total = Arc::new(AtomicUsize::new(0));
    let upstream = Upstream::start({
        let total = Arc::clone(&total);
        move |request| {
            let total = Arc::clone(&total);
            async move {
                total.store(read_incoming(request.into_body()).await.len(), Ordering::SeqCst);
                refusal("0.05")
            }
        }
    })
    .await;
    let gate = Gate::new(&["--replay-body=64KiB"]);
    let (sender, body) = channel_body();
    let writer = tokio::spawn(async move {
        for _ in 0..100 {
            sender.send(Bytes::from(vec![7; 10_000])).await.unwrap();
        }
    });
    let (answer, told) = gate.told(Request::post(upstream.url("/")).body(body).unwrap()).await;
    assert_eq!(answer.unwrap().status(), 429);
    assert!(told.iter().any(|line| line.contains("streamed and is gone")), "{told:?}");
    assert_eq!(total.load(Ordering::SeqCst), 1_000_000);
    writer.await.unwrap();
}

#[tokio::test]
async fn a_streamed_body_holds_its_sender_back() {
    let upstream = Upstream::start(|_unread| std::future::pending()).await;
    let gate = Gate::new(&["--replay-body=16KiB"]);
    let (sender, body) = channel_body();
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let writer = tokio::spawn(async move {
        while sender.send(Bytes::from(vec![7; 64 << 10])).await.is_ok() && count.load(Ordering::SeqCst) < 64 << 20 {
            count.fetch_add(64 << 10, Ordering::SeqCst);
        }
    });
    let call = gate.send(Request::post(upstream.url("/")).body(body).unwrap());
    // By the clock, as nothing tells that no more will be taken: in this time a sender that is not held back sends it all.
    let answer = tokio::time::timeout(Duration::from_millis(250), call).await;
    assert!(answer.is_err(), "the upstream never answers");
    // Kernel buffers on both sides take a few megabytes; what the gate itself holds is far below.
    assert!(sent.load(Ordering::SeqCst) < 32 << 20, "{}", sent.load(Ordering::SeqCst));
    writer.abort();
}

#[tokio::test]
async fn after_an_early_answer_the_rest_of_the_body_is_read_and_thrown_away() {
    let upstream = Upstream::start(|_| async { text(413, "too large") }).await;
    let gate = Gate::new(&["--replay-body=16KiB"]);
    let (sender, body) = channel_body();
    let writer = tokio::spawn(async move {
        for _ in 0..400 {
            sender.send(Bytes::from(vec![7; 50_000])).await.expect("the body is never closed under its sender");
        }
    });
    let answer = gate.send(Request::post(upstream.url("/")).body(body).unwrap()).await;
    // An upstream that closes without reading may reset the connection before its answer is read.
    if let Ok(answer) = answer {
        assert_eq!(answer.status(), 413);
    }
    tokio::time::timeout(Duration::from_secs(5), writer).await.unwrap().unwrap();
}

#[tokio::test]
async fn after_a_refusal_by_the_gate_the_body_is_read_and_thrown_away() {
    let gate = Gate::new(&[]).function(&["allowed.example"]);
    let (sender, body) = channel_body();
    let answer = gate.send(Request::post("https://denied.example/").body(body).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 403);
    for _ in 0..100 {
        sender.send(Bytes::from(vec![7; 50_000])).await.expect("the body is never closed under its sender");
    }
}

#[tokio::test]
async fn a_call_given_up_does_not_close_its_body_under_its_sender() {
    let upstream = Upstream::start(|request| async move {
        read_incoming(request.into_body()).await;
        text(200, "")
    })
    .await;
    let gate = Gate::new(&[]);
    let (sender, body) = channel_body();
    let call = gate.send(Request::post(upstream.url("/")).body(body).unwrap());
    assert!(tokio::time::timeout(Duration::from_millis(50), call).await.is_err());
    for _ in 0..100 {
        sender.send(Bytes::from(vec![7; 50_000])).await.expect("the body is never closed under its sender");
    }
}

#[tokio::test]
async fn a_body_written_after_the_call_was_made_is_no_deadlock() {
    let upstream = Upstream::start(|request| async move {
        let body = read_incoming(request.into_body()).await;
        text(200, &body.len().to_string())
    })
    .await;
    let gate = Gate::new(&["--replay-body=16KiB"]);
    let (sender, body) = channel_body();
    let mut call = Box::pin(gate.send(Request::post(upstream.url("/")).body(body).unwrap()));
    // A guest on one thread: it polls its call a little, then writes, then waits.
    assert!((&mut call).now_or_never().is_none());
    let write = async {
        for _ in 0..50 {
            sender.send(Bytes::from(vec![7; 10_000])).await.unwrap();
        }
        drop(sender);
    };
    let (answer, ()) = tokio::join!(call, write);
    assert_eq!(read(answer.unwrap()).await, "500000");
}

#[tokio::test]
async fn both_ways_stream_at_the_same_time() {
    // An upstream that answers each chunk with a chunk.
    let upstream = Upstream::start(|request| async move {
        let mut incoming = request.into_body();
        let (sender, body) = channel_body();
        tokio::spawn(async move {
            while let Some(Ok(frame)) = incoming.frame().await {
                if let Ok(data) = frame.into_data()
                    && sender.send(data).await.is_err()
                {
                    break;
                }
            }
        });
        http::Response::new(body)
    })
    .await;
    let gate = Gate::new(&[]);
    let (sender, body) = channel_body();
    sender.send(Bytes::from_static(b"0")).await.unwrap();
    let mut answer = gate.send(Request::post(upstream.url("/")).body(body).unwrap()).await.unwrap();
    for number in 1..10 {
        let echoed = answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(echoed, (number - 1).to_string());
        // Not reading the answer meanwhile: the upload must go on by itself.
        sender.send(Bytes::from(number.to_string())).await.unwrap();
    }
    drop(sender);
    let rest = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(rest, "9");
}

#[tokio::test]
async fn an_upload_goes_on_while_nobody_reads_the_answer() {
    let received = Arc::new(AtomicUsize::new(0));
    let upstream = Upstream::start({
        let received = Arc::clone(&received);
        move |request| {
            let received = Arc::clone(&received);
            async move {
                tokio::spawn(async move {
                    let mut incoming = request.into_body();
                    while let Some(Ok(frame)) = incoming.frame().await {
                        received.fetch_add(frame.data_ref().map_or(0, Bytes::len), Ordering::SeqCst);
                    }
                });
                // The head now, the body never: an answer that waits for its request.
                let (sender, body) = channel_body();
                tokio::spawn(async move { sender.closed().await });
                http::Response::new(body)
            }
        }
    })
    .await;
    let gate = Gate::new(&["--replay-body=16KiB"]);
    let (sender, body) = channel_body();
    sender.send(Bytes::from_static(b"0")).await.unwrap();
    let answer = gate.send(Request::post(upstream.url("/")).body(body).unwrap()).await.unwrap();
    for _ in 0..50 {
        let sent = sender.send(Bytes::from(vec![7; 10_000]));
        tokio::time::timeout(Duration::from_secs(5), sent).await.expect("the upload goes on").unwrap();
    }
    until("all of it arrived", || received.load(Ordering::SeqCst) == 500_001).await;
    drop(answer);
}

#[tokio::test]
async fn trailers_pass_both_ways_without_forbidden_ones() {
    let upstream = Upstream::start(|request| async move {
        let collected = request.into_body().collect().await.unwrap();
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let echoed = trailers.get("x-checksum").map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        let mut back = HeaderMap::new();
        back.insert("x-echo", echoed.parse().unwrap());
        let frames = futures::stream::iter([
            Ok::<_, BodyError>(http_body::Frame::data(Bytes::from_static(b"body"))),
            Ok(http_body::Frame::trailers(back)),
        ]);
        let mut response = http::Response::new(StreamBody::new(frames).boxed_unsync());
        response.headers_mut().insert("trailer", "x-echo".parse().unwrap());
        response
    })
    .await;
    let gate = Gate::new(&[]);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", "42".parse().unwrap());
    trailers.insert("content-length", "999".parse().unwrap());
    let frames = futures::stream::iter([
        Ok::<_, BodyError>(http_body::Frame::data(Bytes::from_static(b"hello"))),
        Ok(http_body::Frame::trailers(trailers)),
    ]);
    let body: Body = StreamBody::new(frames).boxed_unsync();
    let request = Request::post(upstream.url("/"))
        .header("trailer", "x-checksum, content-length")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    let collected = gate.send(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x-echo"], "42");
    assert_eq!(collected.to_bytes(), "body");
}

#[tokio::test]
async fn a_body_that_fails_is_its_senders_error_and_no_mark_against_the_upstream() {
    let upstream = Upstream::start(|request| async move {
        let _ = request.into_body().collect().await;
        text(200, "")
    })
    .await;
    let gate = Gate::new(&[]);
    let frames = futures::stream::iter([
        Ok(http_body::Frame::data(Bytes::from_static(b"hello"))),
        Err(BodyError::Guest("it trapped".into())),
    ]);
    let request = Request::post(upstream.url("/")).body(StreamBody::new(frames).boxed_unsync()).unwrap();
    let error = gate.send(request).await.unwrap_err().to_string();
    assert!(error.contains("it trapped"), "{error}");
}

#[tokio::test]
async fn a_body_larger_than_what_is_kept_falls_into_the_partition_large() {
    let upstream = Upstream::start(|request| async move {
        let _ = request.into_body().collect().await;
        text(200, "")
    })
    .await;
    let gate = Gate::new(&["--replay-body=1KiB"]);
    gate.configure(&[("mock", serde_json::json!({"match": upstream.url(""), "split_by": ["body:/model"]}))]);
    let large = format!(r#"{{"model": "m", "text": "{}"}}"#, "x".repeat(5_000));
    assert_eq!(gate.send(post(&upstream.url("/"), &large)).await.unwrap().status(), 200);
    let (sender, body) = channel_body();
    let writer = tokio::spawn(async move {
        sender.send(Bytes::from_static(b"{\"model\": ")).await.unwrap();
        // So that the gate is likely to look at the first piece alone; either way must do.
        tokio::time::sleep(Duration::from_millis(5)).await;
        sender.send(Bytes::from_static(b"\"small\"}")).await.unwrap();
    });
    gate.send(Request::post(upstream.url("/")).body(body).unwrap()).await.unwrap();
    writer.await.unwrap();
    let state = gate.state();
    let labels: Vec<_> = state["destinations"][0]["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|partition| partition["partition"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(labels, ["/model=large", "/model=small"]);
}

#[tokio::test]
async fn a_post_without_a_body_says_so() {
    let upstream = Upstream::start(|request| async move {
        let length = request.headers().get("content-length").map(|value| value.to_str().unwrap().to_owned());
        text(200, &length.unwrap_or_else(|| "none".into()))
    })
    .await;
    let gate = Gate::new(&[]);
    let request = Request::post(upstream.url("/")).body(body::empty()).unwrap();
    assert_eq!(read(gate.send(request).await.unwrap()).await, "0");
    assert_eq!(read(gate.get(&upstream.url("/")).await.unwrap()).await, "none");
}
