//! What answers of language models say in their bodies: tokens they used, errors in their midst.

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};
use http::Response;
use parking_lot::Mutex;
use serde_json::json;
use tidegate::body::{self, Body};

use crate::support::*;

const SEC: Duration = Duration::from_secs(1);

fn answer(media: &str, coding: Option<&str>, bytes: Vec<u8>) -> Response<Body> {
    let answer = Response::builder().header("content-type", media);
    coding
        .into_iter()
        .fold(answer, |answer, coding| answer.header("content-encoding", coding))
        .body(body::full(bytes))
        .unwrap()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(text.as_bytes()).unwrap();
    packed.finish().unwrap()
}

/// A stream of these pieces, of unknown length.
fn stream(pieces: Vec<String>) -> Response<Body> {
    let (sender, body) = channel_body();
    tokio::spawn(async move {
        for piece in pieces {
            if sender.send(piece.into()).await.is_err() {
                return;
            }
        }
    });
    Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
}

fn gate(upstream: &Upstream, profile: &str, tokens: u64) -> Gate {
    let gate = Gate::new(&[]);
    let limits = json!([{"unit": "tokens", "quota": tokens, "per": "1h"}]);
    gate.configure(&[("llm", json!({"match": upstream.url(""), "profile": profile, "limits": limits}))]);
    gate
}

/// A call that is taken to cost 600 tokens, and must leave soon.
fn ask(upstream: &Upstream, path: &str) -> http::Request<Body> {
    let mut request = post(&upstream.url(path), r#"{"max_tokens": 600}"#);
    request.headers_mut().insert("tidegate-policy", "deadline=5".parse().unwrap());
    request
}

#[tokio::test]
async fn the_tokens_that_an_answer_used_are_what_its_limit_counts() {
    let usage = r#"{"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 30, "total_tokens": 40}}"#;
    let events = "event: message_start\ndata: {\"message\":{\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\nevent: message_delta\ndata: {\"usage\":{\"output_tokens\":15}}\n\n";
    type Answer = Box<dyn Fn() -> Response<Body> + Send + Sync>;
    let cases: Vec<(&str, &str, Answer)> = vec![
        ("openai", "/v1/chat/completions", Box::new(|| answer("application/json", None, usage.into()))),
        ("openai", "/v1/chat/completions", Box::new(|| answer("application/json", Some("gzip"), gzip(usage)))),
        (
            "anthropic",
            "/v1/messages",
            Box::new(|| {
                stream(events.as_bytes().chunks(7).map(|piece| String::from_utf8(piece.into()).unwrap()).collect())
            }),
        ),
    ];
    for (profile, path, answer) in cases {
        let upstream = Upstream::start(move |_| std::future::ready(answer())).await;
        let gate = gate(&upstream, profile, 1000);
        // Were 600 counted for each, the second would not leave within the hour.
        for _ in 0..10 {
            let (trail, call) = gate.call(ask(&upstream, path));
            let answer = gate.door.send(call).await.unwrap();
            assert_eq!(answer.status(), 200);
            let _ = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
            let told = gate.sentences(&trail);
            assert!(
                told.iter().any(|line| line.contains("used 40 tokens") && line.ends_with("600 were charged")),
                "{told:?}"
            );
        }
        assert!(gate.observe.metrics.render().contains("tidegate_tokens_total{destination=\"llm\"} 400"));
    }
}

#[tokio::test]
async fn an_answer_that_does_not_say_what_it_used_keeps_its_estimate_and_the_trail_says_why() {
    for (answer, why) in [
        (answer("application/json", None, b"{}".to_vec()), "its answer does not say"),
        (answer("application/json", Some("zstd"), b"{}".to_vec()), "packed as `zstd`, which is not unpacked here"),
        (answer("application/json", Some("gzip"), b"no gzip".to_vec()), "how many tokens it used is not known"),
        (answer("application/json", Some("gzip"), gzip(&" ".repeat(10 << 20))), "over 100 times its packed size"),
        (
            answer("application/json", None, format!(r#"{{"usage": {{"x": "{}"}}}}"#, "x".repeat(20 << 10)).into()),
            "(setting usage_buffer)",
        ),
    ] {
        let answer = Arc::new(Mutex::new(Some(answer)));
        let upstream =
            Upstream::start(move |_| std::future::ready(answer.lock().take().unwrap_or_else(|| text(200, "")))).await;
        let gate = gate(&upstream, "openai", 1000);
        let (trail, call) = gate.call(ask(&upstream, "/v1/chat/completions"));
        let _ = http_body_util::BodyExt::collect(gate.door.send(call).await.unwrap().into_body()).await.unwrap();
        let told = gate.sentences(&trail);
        assert!(told.iter().any(|line| line.contains(why)), "{why}: {told:?}");
        let refused = gate.send(ask(&upstream, "/v1/chat/completions")).await.unwrap();
        assert_eq!(refused.status(), 429, "600 of 1000 stay charged");
    }
}

/// An upstream that answers as OpenAI does, with the usage where it is asked for; and what it was sent.
async fn openai() -> (Upstream, Arc<Mutex<Vec<String>>>) {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let shared = Arc::clone(&seen);
    let upstream = Upstream::start(move |request| {
        let seen = Arc::clone(&shared);
        async move {
            let length = request.headers()["content-length"].to_str().unwrap().to_owned();
            let body = read_incoming(request.into_body()).await;
            let body = String::from_utf8(body.to_vec()).unwrap();
            assert_eq!(length, body.len().to_string());
            let asked = body.replace(' ', "").contains("\"include_usage\":true");
            seen.lock().push(body);
            let mut pieces =
                vec!["data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n".to_owned(), "\nda".to_owned()];
            if asked {
                pieces.push("ta: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"comp".into());
                pieces.push("letion_tokens\":4,\"total_tokens\":7}}\n\nda".into());
            }
            pieces.push("ta: [DONE]\n\n".into());
            stream(pieces)
        }
    })
    .await;
    (upstream, seen)
}

const STREAMED: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\ndata: [DONE]\n\n";

#[tokio::test]
async fn a_stream_is_asked_for_its_usage_and_its_sender_sees_nothing_of_that() {
    let (upstream, seen) = openai().await;
    let gate = gate(&upstream, "openai", 1000);
    let (trail, call) =
        gate.call(post(&upstream.url("/v1/chat/completions"), r#"{"stream": true, "max_tokens": 600}"#));
    assert_eq!(read(gate.door.send(call).await.unwrap()).await, STREAMED);
    let told = gate.sentences(&trail);
    assert!(told.iter().any(|line| line.contains("used 7 tokens, 3 in and 4 out; 600 were charged")), "{told:?}");
    assert!(told.iter().any(|line| line.ends_with("the usage of its stream is asked for")), "{told:?}");
    // Who asks gets it.
    let own = r#"{"stream": true, "stream_options": {"include_usage": true}}"#;
    let answer = read(gate.send(post(&upstream.url("/v1/chat/completions"), own)).await.unwrap()).await;
    assert!(answer.contains("total_tokens"), "{answer}");
    let bodies = seen.lock().clone();
    assert_eq!(bodies[0], r#"{"stream": true, "max_tokens": 600,"stream_options":{"include_usage":true}}"#);
    assert_eq!(bodies[1], own);
}

#[tokio::test]
async fn streams_are_asked_wherever_the_service_understands_it_unless_the_destination_says_otherwise() {
    let chat = "/v1/chat/completions";
    let limits = json!([{"unit": "tokens", "quota": 1000, "per": "1h"}]);
    for (config, path, asks) in [
        (json!({"profile": "openai"}), chat, true),
        (json!({"profile": "openai", "ask_usage": false}), chat, false),
        (json!({"profile": "openai", "limits": limits, "ask_usage": false}), chat, false),
        (json!({"profile": "openai", "limits": limits}), "/v1/responses", false),
        (json!({"profile": "anthropic", "limits": limits}), "/v1/messages", false),
        (json!({"profile": "openrouter"}), "/api/v1/chat/completions", false),
        (json!({}), chat, false),
        (json!({"ask_usage": ["/ask"]}), "/ask", true),
        (json!({"profile": "azure-openai"}), "/openai/deployments/d/chat/completions?api-version=2024-10-21", true),
        (json!({"profile": "azure-openai"}), "/openai/deployments/d/chat/completions?api-version=2024-06-01", false),
        (json!({"profile": "azure-openai"}), "/openai/v1/chat/completions", true),
    ] {
        let (upstream, seen) = openai().await;
        let gate = Gate::new(&[]);
        let mut config = config;
        config["match"] = json!(upstream.url(""));
        gate.configure(&[("llm", config.clone())]);
        let body = r#"{"stream": true}"#;
        assert_eq!(read(gate.send(post(&upstream.url(path), body)).await.unwrap()).await, STREAMED);
        assert_eq!(seen.lock()[0].contains("include_usage"), asks, "{config} {path}");
        assert_eq!(gate.observe.metrics.render().contains("tidegate_tokens_total{destination=\"llm\"} 7"), asks);
    }
}

#[tokio::test]
async fn a_body_that_is_not_the_gates_to_change_passes_as_it_is() {
    let large = format!(r#"{{"stream": true, "x": "{}"}}"#, "x".repeat(2_000));
    for (header, body) in [
        (None, r#"{"stream": false}"#),
        (None, r#"{"stream": true, "stream_options": {"include_usage": false}}"#),
        (None, r#"{"stream": true, "stream_options": {"include_obfuscation": false}}"#),
        (None, r#"{"stream": true, "data_sources": []}"#),
        (None, r#"{"stream": true"#),
        (None, large.as_str()),
        (Some(("content-encoding", "gzip")), r#"{"stream": true}"#),
        (Some(("content-digest", "sha-256=:x:")), r#"{"stream": true}"#),
        (Some(("authorization", "AWS4-HMAC-SHA256 Credential=x")), r#"{"stream": true}"#),
    ] {
        let (upstream, seen) = openai().await;
        let gate = Gate::new(&["--replay-body=1KiB"]);
        gate.configure(&[("llm", json!({"match": upstream.url(""), "profile": "openai"}))]);
        let mut request = post(&upstream.url("/v1/chat/completions"), body);
        request.headers_mut().insert("accept-encoding", "gzip".parse().unwrap());
        if let Some((name, value)) = header {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let (answer, told) = gate.told(request).await;
        assert_eq!(read(answer.unwrap()).await, STREAMED, "{body:.80}");
        assert_eq!(seen.lock()[0], body);
        assert!(!told.iter().any(|line| line.contains("is asked for")), "{told:?}");
    }
}

#[tokio::test]
async fn a_stream_that_comes_byte_by_byte_loses_the_chunk_that_nobody_asked_for_and_nothing_else() {
    let stock = concat!(
        "data: {\"id\":\"\",\"choices\":[],\"prompt_filter_results\":[{\"prompt_index\":0}]}\n\n",
        "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}],\"usage\":null}\n\n",
    );
    let usage = "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4,\"total_tokens\":7}}\n\n";
    let done = "data: [DONE]\n\n";
    for end in ["\n", "\r\n"] {
        let written = |text: String| text.replace('\n', end);
        let whole = written(format!("{stock}{usage}{done}"));
        let packed = Arc::new(Mutex::new(Vec::new()));
        let (sent, codings) = (whole.clone(), Arc::clone(&packed));
        let upstream = Upstream::start(move |request| {
            let coding = request.headers().get("accept-encoding").cloned();
            codings.lock().push(coding.map(|coding| coding.to_str().unwrap().to_owned()));
            std::future::ready(stream(sent.chars().map(String::from).collect()))
        })
        .await;
        let gate = gate(&upstream, "openai", 1000);
        let ask = |body: &str| {
            let mut request = post(&upstream.url("/v1/chat/completions"), body);
            request.headers_mut().insert("accept-encoding", "gzip".parse().unwrap());
            gate.send(request)
        };
        // Were 600 counted for each, the second would not leave within the hour.
        for _ in 0..2 {
            let answer = read(ask(r#"{"stream": true, "max_tokens": 600}"#).await.unwrap()).await;
            assert_eq!(answer, written(format!("{stock}{done}")));
        }
        let own = ask(r#"{"stream": true, "stream_options": {"include_usage": true}}"#);
        assert_eq!(read(own.await.unwrap()).await, whole, "who asks gets it");
        let asked = |coding: &str| Some(coding.to_owned());
        assert_eq!(*packed.lock(), [asked("identity"), asked("identity"), asked("gzip")]);
        assert!(gate.observe.metrics.render().contains("tidegate_tokens_total{destination=\"llm\"} 21"));
    }
}

const BEGINS: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n";

#[tokio::test]
async fn an_error_in_the_midst_of_a_stream_pauses_its_destination_and_is_passed_on_as_it_is() {
    let event = "data: {\"error\":{\"code\":429,\"message\":\"x\",\"metadata\":{\"retry_after_seconds\":0.5}},\"choices\":[{\"finish_reason\":\"error\"}]}\n\n";
    let count = AtomicUsize::new(0);
    let upstream = Upstream::start(move |_| {
        let first = count.fetch_add(1, Ordering::SeqCst) == 0;
        let pieces = vec![BEGINS.into(), event.into(), "data: [DONE]\n\n".into()];
        std::future::ready(if first { stream(pieces) } else { text(200, "on") })
    })
    .await;
    let gate = Gate::new(&[]);
    gate.configure(&[("llm", json!({"match": upstream.url(""), "profile": "openai"}))]);
    let (trail, call) = gate.call(ask(&upstream, "/v1/chat/completions"));
    let answer = gate.door.send(call).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(read(answer).await, format!("{BEGINS}{event}data: [DONE]\n\n"));
    let told = gate.sentences(&trail);
    let line = "an error in the midst of its answer counts as a refusal, as a 429 that asks to wait 500 ms would";
    assert!(told.iter().any(|told| told.ends_with(line)), "{told:?}");
    assert!(gate.observe.metrics.render().contains("tidegate_stream_errors_total{destination=\"llm\"} 1"));
    let begin = Instant::now();
    assert_eq!(read(gate.send(ask(&upstream, "/v1/chat/completions")).await.unwrap()).await, "on");
    assert!(begin.elapsed() > SEC / 4 && begin.elapsed() < SEC * 3, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn an_answer_of_which_the_first_is_an_error_is_what_it_says_and_not_its_200() {
    let overloaded =
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"x\"}}\n\n";
    let refused = "{\"error\": {\"code\": 429, \"message\": \"x\", \"metadata\": {\"retry_after_seconds\": 0.2}}}";
    let failed = "data: {\"error\": {\"message\": \"x\", \"type\": \"server_error\"}}\n\n";
    let first_says = |number: usize| match number {
        0 => stream(vec![": hello\n\n".into(), overloaded.into()]),
        1 => answer("application/json", Some("gzip"), gzip(refused)),
        2 => stream(failed.chars().map(String::from).collect()),
        _ => stream(vec![BEGINS.into(), failed.into()]),
    };
    let count = AtomicUsize::new(0);
    let upstream = Upstream::start(move |_| std::future::ready(first_says(count.fetch_add(1, Ordering::SeqCst)))).await;
    let gate = Gate::new(&[]);
    gate.configure(&[("llm", json!({"match": upstream.url(""), "profile": "openai"}))]);
    let (answer, told) = gate.told(ask(&upstream, "/v1/chat/completions")).await;
    // Of what has begun, the rest is passed on, whatever it is.
    assert_eq!(read(answer.unwrap()).await, format!("{BEGINS}{failed}"), "{told:?}");
    assert_eq!(upstream.requests(), 4, "{told:?}");
    for status in [529, 429, 500] {
        let line = format!("says is an error, which counts as a {status} would");
        assert!(told.iter().any(|told| told.ends_with(&line)), "{line}: {told:?}");
    }
    // Where it may not be repeated it is passed on as it came, and at once.
    let count = AtomicUsize::new(0);
    let upstream = Upstream::start(move |_| std::future::ready(first_says(count.fetch_add(1, Ordering::SeqCst)))).await;
    let mut request = ask(&upstream, "/v1/chat/completions");
    request.headers_mut().insert("tidegate-policy", "retries=0, deadline=5".parse().unwrap());
    gate.configure(&[("llm", json!({"match": upstream.url(""), "profile": "openai"}))]);
    assert_eq!(read(gate.send(request).await.unwrap()).await, format!(": hello\n\n{overloaded}"));
    assert_eq!(upstream.requests(), 1);
}
