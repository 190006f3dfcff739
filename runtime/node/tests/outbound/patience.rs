//! Clients that say how long they wait: answered before their own timer, and not cut off before it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::json;
use tidegate::body;

use crate::support::*;

#[tokio::test]
async fn the_gate_speaks_before_a_client_that_states_its_patience_gives_up() {
    let upstream = Upstream::start(|_| std::future::pending::<Response<body::Body>>()).await;
    let gate = Gate::new(&[]);
    for (header, value) in [("x-stainless-read-timeout", "1"), ("x-stainless-timeout", "1"), ("prefer", "wait=1")] {
        let request = Request::post(upstream.url("/v1/chat")).header(header, value).body(body::full("{}")).unwrap();
        let begin = Instant::now();
        let answer = gate.send(request);
        let answer = tokio::time::timeout(Duration::from_secs(1), answer).await.expect(header).unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(700), "{header}: not much before: {:?}", begin.elapsed());
        assert_eq!(answer.status(), 504);
        assert_eq!(answer.headers()["x-should-retry"], "false");
    }
}

#[tokio::test]
async fn a_patient_clients_stream_may_stand_still_for_longer() {
    let upstream = Upstream::start(|_| async {
        let (sender, body) = channel_body();
        tokio::spawn(async move {
            sender.send(Bytes::from_static(b"first")).await.unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
            let _ = sender.send(Bytes::from_static(b" last")).await;
        });
        Response::new(body)
    })
    .await;
    let asked = |patience: Option<&'static str>| {
        let mut request = get(&upstream.url("/"));
        if let Some(patience) = patience {
            request.headers_mut().insert("x-stainless-read-timeout", patience.parse().unwrap());
        }
        request
    };
    let flags = ["--body-idle-timeout=100ms", "--patient-first-byte-timeout=5s"];
    let answer = Gate::new(&flags).send(asked(Some("600"))).await.unwrap();
    assert_eq!(read(answer).await, "first last");
    for (flags, patience, setting) in [
        (&flags[..], None, "body_idle_timeout"),
        (
            &["--body-idle-timeout=100ms", "--patient-first-byte-timeout=150ms"],
            Some("600"),
            "patient_first_byte_timeout",
        ),
    ] {
        let answer = Gate::new(flags).send(asked(patience)).await.unwrap();
        let error = answer.into_body().collect().await.unwrap_err().to_string();
        assert!(error.contains(setting), "{error}");
    }
}

#[tokio::test]
async fn what_a_library_says_unasked_does_not_outbid_a_configured_deadline() {
    let upstream = Upstream::start(|_| std::future::pending::<Response<body::Body>>()).await;
    let gate = Gate::new(&[]);
    for (deadline, patience, earliest, latest) in [("1s", "600", 950, 5_000), ("60s", "1", 700, 1_000)] {
        gate.configure(&[("api", json!({"match": upstream.url(""), "policy": {"deadline": deadline}}))]);
        let request = Request::get(upstream.url("/")).header("x-stainless-read-timeout", patience);
        let begin = Instant::now();
        let answer = gate.send(request.body(body::empty()).unwrap()).await.unwrap();
        let took = begin.elapsed().as_millis();
        assert_eq!(answer.status(), 504);
        assert!((earliest..latest).contains(&took), "{deadline}, {patience}: {took} ms");
    }
    // Unlike what the request itself states.
    let request = Request::get(upstream.url("/")).header("tidegate-policy", "deadline=2").header("prefer", "wait=1");
    let begin = Instant::now();
    gate.send(request.body(body::empty()).unwrap()).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(1_900), "{:?}", begin.elapsed());
}
