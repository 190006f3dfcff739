//! What whoever asks for a stream sees while the gate holds the call.

use http::Response;
use serde_json::json;

use crate::support::{Gate, Upstream, post, read};

/// A gate that lets one call a while go to an upstream that streams, and refuses what is too large.
async fn gate() -> (Gate, Upstream) {
    let upstream = Upstream::start(|request| {
        let refuses = request.headers().contains_key("x-refuse");
        let packed = request.headers().get("accept-encoding").is_some_and(|coding| coding != "identity");
        let answer = match (refuses, packed) {
            (true, _) => Response::builder().status(400).body(tidegate::body::full(r#"{"error": {"message": "no"}}"#)),
            (_, packed) => {
                let coding = if packed { "x-packed" } else { "x-plain" };
                let answer = Response::builder().header("content-type", "text/event-stream").header(coding, "1");
                answer.body(tidegate::body::full("data: hi\n\n"))
            }
        };
        std::future::ready(answer.unwrap())
    })
    .await;
    let gate = Gate::new(&["--stream-comment", "50ms"]);
    let limits = json!([{"unit": "requests", "quota": 1, "per": "400ms"}]);
    // Not asked for its usage, or it would come unpacked in any case.
    let config = json!({"match": upstream.url(""), "profile": "openai", "limits": limits, "ask_usage": false});
    gate.configure(&[("llm", config)]);
    (gate, upstream)
}

#[tokio::test]
async fn a_stream_that_waits_is_answered_with_comments_until_it_begins() {
    let (gate, upstream) = gate().await;
    let ask = |body: &'static str| {
        let mut request = post(&upstream.url("/v1/chat/completions"), body);
        request.headers_mut().insert("content-type", "application/json".parse().unwrap());
        request.headers_mut().insert("accept-encoding", "gzip".parse().unwrap());
        request
    };
    let first = gate.send(ask(r#"{"stream": true}"#)).await.unwrap();
    assert!(first.headers().contains_key("x-packed"), "who does not wait is answered by the upstream alone");
    assert_eq!(read(first).await, "data: hi\n\n");
    let (trail, call) = gate.call(ask(r#"{"stream": true}"#));
    let waited = gate.door.send(call).await.unwrap();
    assert_eq!(
        (waited.status().as_u16(), &waited.headers()["content-type"]),
        (200, &"text/event-stream".parse().unwrap())
    );
    assert!(!waited.headers().contains_key("x-plain"), "its head went before there was an answer");
    let text = read(waited).await;
    let (comments, rest) = text.rsplit_once(": tidegate: waiting\n\n").unwrap();
    assert_eq!(rest, "data: hi\n\n");
    assert!(comments.matches(": tidegate: waiting\n\n").count() >= 2, "{text}");
    let told = gate.sentences(&trail);
    assert!(told.iter().any(|line| line.contains("a comment every 50ms (setting stream_comment)")), "{told:?}");
    let plain = gate.send(ask(r#"{"stream": false}"#)).await.unwrap();
    assert!(plain.headers().contains_key("x-packed"), "who wants no stream gets the answer itself");
}

#[tokio::test]
async fn what_only_its_sender_may_repeat_is_answered_with_the_upstreams_own_head() {
    let (gate, upstream) = gate().await;
    for (path, policy) in [("/v1/messages", "deadline=60"), ("/v1/chat/completions", "retries=0")] {
        let ask = || {
            let mut request = post(&upstream.url(path), r#"{"stream": true}"#);
            for (name, value) in
                [("content-type", "application/json"), ("accept-encoding", "gzip"), ("tidegate-policy", policy)]
            {
                request.headers_mut().insert(name, value.parse().unwrap());
            }
            request
        };
        read(gate.send(ask()).await.unwrap()).await;
        let (answer, told) = gate.told(ask()).await;
        let answer = answer.unwrap();
        assert!(told.iter().any(|line| line.contains("queued")), "{path}: {told:?}");
        assert!(answer.headers().contains_key("x-packed"), "{path}: {told:?}");
        assert_eq!(read(answer).await, "data: hi\n\n");
    }
}

#[tokio::test]
async fn what_comes_of_it_instead_of_a_stream_is_told_in_it() {
    let (gate, upstream) = gate().await;
    let ask = |refuse: bool, deadline: &str| {
        let mut request = post(&upstream.url("/v1/chat/completions"), r#"{"stream": true}"#);
        request.headers_mut().insert("content-type", "application/json".parse().unwrap());
        request.headers_mut().insert("tidegate-policy", format!("deadline={deadline}").parse().unwrap());
        if refuse {
            request.headers_mut().insert("x-refuse", "1".parse().unwrap());
        }
        request
    };
    read(gate.send(ask(false, "60")).await.unwrap()).await;
    let refused = gate.send(ask(true, "60")).await.unwrap();
    assert_eq!(refused.status(), 200);
    assert!(read(refused).await.ends_with("event: error\ndata: {\"error\": {\"message\": \"no\"}}\n\n"));
    // An operator empties the queue while it waits.
    let begun = gate.send(ask(false, "60")).await.unwrap();
    assert_eq!(begun.status(), 200);
    gate.door.flush(&gate.sender.tenant, "llm");
    let text = read(begun).await;
    let (_, event) = text.rsplit_once("event: error\ndata: ").unwrap();
    let event: serde_json::Value = serde_json::from_str(event.trim_end()).unwrap();
    assert_eq!((&event["error"]["code"], &event["tidegate"]["status"]), (&json!("flushed"), &json!(503)), "{text}");
}
