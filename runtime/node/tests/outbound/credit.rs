//! Refusals for want of credit, as clients ask for them: compressed.

use std::time::{Duration, Instant};

use flate2::{Compression, write::GzEncoder};
use http::Response;
use http_body_util::BodyExt;
use serde_json::json;
use tidegate::body;

use crate::support::*;

/// An upstream that refuses everything with this body, packed by gzip.
async fn refusing(body: String) -> (Upstream, Vec<u8>) {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    std::io::Write::write_all(&mut packed, body.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    let sent = packed.clone();
    let upstream = Upstream::start(move |_| {
        let refusal = Response::builder().status(429).header("retry-after", "1").header("content-encoding", "gzip");
        let refusal = refusal.header("content-type", "application/json").body(body::full(sent.clone())).unwrap();
        async move { refusal }
    })
    .await;
    (upstream, packed)
}

#[tokio::test]
async fn a_compressed_refusal_for_want_of_credit_is_passed_on_at_once_as_it_came() {
    let spent = r#"{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}"#;
    let (upstream, packed) = refusing(spent.to_owned()).await;
    let begin = Instant::now();
    let answer = Gate::new(&[]).send(post(&upstream.url("/"), "x")).await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["content-encoding"]), (429, &"gzip".parse().unwrap()));
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), packed);
    assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
    assert_eq!(upstream.requests(), 1);
}

#[tokio::test]
async fn a_refusal_that_grows_beyond_the_bound_when_unpacked_is_told_in_the_trail() {
    let (upstream, _) =
        refusing(format!(r#"{{"error": {{"code": "insufficient_quota"}}}}{}"#, " ".repeat(1 << 20))).await;
    let mut request = post(&upstream.url("/"), "x");
    request.headers_mut().insert("tidegate-policy", "deadline=0.5".parse().unwrap());
    let (_, told) = Gate::new(&[]).told(request).await;
    assert!(told.iter().any(|line| line.ends_with("unpacked, larger than 16KiB (setting refusal_body)")), "{told:?}");
}

#[tokio::test]
async fn want_of_credit_that_is_said_with_a_400_sends_the_call_to_another_account() {
    let broke =
        r#"{"type": "error", "error": {"type": "invalid_request_error", "message": "Your credit balance is too low"}}"#;
    let of = |status: u16, body: &'static str| {
        Upstream::start(move |_| async move {
            let answer = Response::builder().status(status).header("content-type", "application/json");
            answer.body(body::full(body)).unwrap()
        })
    };
    let (empty, full) = (of(400, broke).await, of(200, "{}").await);
    let gate = Gate::new(&[]);
    let endpoint = |upstream: &Upstream, name: &str| json!({"url": upstream.url(""), "name": name});
    let configured = |endpoints: serde_json::Value| {
        let config = json!({"match": "http://api.example", "profile": "anthropic", "endpoints": endpoints});
        gate.configure(&[("api", config)]);
    };
    configured(json!([endpoint(&empty, "a"), endpoint(&full, "b")]));
    for _ in 0..10 {
        assert_eq!(gate.send(post("http://api.example/v1/messages", "{}")).await.unwrap().status(), 200);
    }
    assert_eq!(empty.requests(), 1, "it is left alone");
    configured(json!([endpoint(&empty, "a")]));
    let answer = gate.send(post("http://api.example/v1/messages", "{}")).await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["x-should-retry"]), (400, &"false".parse().unwrap()));
}
