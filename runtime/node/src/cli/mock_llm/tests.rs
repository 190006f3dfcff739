//! The fake upstream over real sockets.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use serde_json::{Value, json};

use super::{MockLlm, MockOptions, start};
use crate::{
    body,
    cli::http::{self as client, sse::Parser},
};

async fn mock(args: &[&str]) -> MockLlm {
    start(MockOptions::from_args(args.iter().copied()).unwrap()).await.unwrap()
}

/// Waits until something holds; ten seconds are never needed on a machine that works.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let waits = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), waits).await.is_ok(), "never: {what}");
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn events(&self) -> Vec<(String, String)> {
        Parser::default().feed(&self.body).into_iter().map(|event| (event.kind, event.data)).collect()
    }
}

async fn try_post(mock: &MockLlm, path: &str, body: &Value) -> Option<Answer> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{}{path}", mock.url()))
        .body(body::full(body.to_string()))
        .unwrap();
    let (head, body) = client::send(request).await.ok()?.into_parts();
    Some(Answer { status: head.status, headers: head.headers, body: client::read(body).await.ok()? })
}

async fn post(mock: &MockLlm, path: &str, body: &Value) -> Answer {
    try_post(mock, path, body).await.unwrap()
}

fn question(text: &str) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": text}]})
}

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn the_same_question_gets_the_same_answer_whole_or_streamed() {
    let mock = mock(&[]).await;
    let whole = post(&mock, CHAT, &question("step 3")).await;
    assert_eq!(whole.status, StatusCode::OK);
    let whole = whole.json();
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert!(text.starts_with("Mock answer ") && text.ends_with("to: step 3"), "{text}");

    let mut request = question("step 3");
    request["stream"] = json!(true);
    request["stream_options"] = json!({"include_usage": true});
    let streamed = post(&mock, CHAT, &request).await;
    assert_eq!(streamed.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let mut events: Vec<_> = streamed.events().into_iter().map(|(_, data)| data).collect();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let events: Vec<Value> = events.iter().map(|data| serde_json::from_str(data).unwrap()).collect();
    let pieces = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
    assert_eq!(pieces.collect::<String>(), text);
    let usage = &events.last().unwrap()["usage"];
    assert_eq!(usage, &whole["usage"]);
    assert!(usage["total_tokens"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn anthropics_messages_stream_in_anthropics_order() {
    let mock = mock(&[]).await;
    let mut request = question("hello");
    let whole = post(&mock, "/v1/messages", &request).await.json();
    assert_eq!(whole["stop_reason"], "end_turn");
    request["stream"] = json!(true);
    let events = post(&mock, "/v1/messages", &request).await.events();
    let kinds: Vec<_> =
        events.iter().map(|(kind, _)| kind.as_str()).filter(|kind| *kind != "content_block_delta").collect();
    assert_eq!(
        kinds,
        ["message_start", "content_block_start", "ping", "content_block_stop", "message_delta", "message_stop"]
    );
    let text: String = events
        .iter()
        .map(|(_, data)| serde_json::from_str::<Value>(data).unwrap())
        .filter_map(|event| event["delta"]["text"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(Some(text.as_str()), whole["content"][0]["text"].as_str());
}

#[tokio::test]
async fn responses_and_embeddings_answer_too() {
    let mock = mock(&[]).await;
    let response = post(&mock, "/v1/responses", &json!({"model": "m", "input": "hi"})).await.json();
    let text = response["output"][0]["content"][0]["text"].as_str().unwrap();
    assert!(text.ends_with("to: hi"), "{text}");
    let events = post(&mock, "/v1/responses", &json!({"model": "m", "input": "hi", "stream": true})).await.events();
    let last: Value = serde_json::from_str(&events.last().unwrap().1).unwrap();
    assert_eq!(last["type"], "response.completed");
    assert_eq!(last["response"]["output"][0]["content"][0]["text"], text);
    let vectors = post(&mock, "/v1/embeddings", &json!({"input": ["a", "b"], "dimensions": 8})).await.json();
    assert_eq!(vectors["data"][1]["embedding"].as_array().unwrap().len(), 8);
}

#[tokio::test]
async fn beyond_its_limit_an_honest_upstream_says_when_to_come_back() {
    let mock = mock(&["--limit", "2/m", "--burst", "2"]).await;
    for remaining in ["1", "0"] {
        let answer = post(&mock, CHAT, &question("x")).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("2"));
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some(remaining));
    }
    let refused = post(&mock, CHAT, &question("x")).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.json()["error"]["code"], "rate_limit_exceeded");
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    let millis: u64 = refused.header("retry-after-ms").unwrap().parse().unwrap();
    // Half of the period, less what the requests before it took: two seconds are many for three.
    assert!((28..=30).contains(&seconds) && millis.div_ceil(1_000) == seconds, "{seconds} s, {millis} ms");

    let refused = post(&mock, "/v1/messages", &question("x")).await;
    assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
    assert!(refused.header("anthropic-ratelimit-requests-reset").unwrap().ends_with('Z'));

    let stats = mock.stats();
    assert_eq!((stats.requests, stats.accepted, stats.refused, stats.busiest_period), (4, 2, 2, 2));
    mock.reset();
    assert_eq!(post(&mock, CHAT, &question("x")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_bare_upstream_says_nothing_and_a_lying_one_lies() {
    let refusal = async |manner: &str| {
        let mock = mock(&["--limit", "1/m", "--limits", manner]).await;
        let passed = post(&mock, CHAT, &question("x")).await;
        (passed, post(&mock, CHAT, &question("x")).await)
    };
    let (passed, bare) = refusal("bare").await;
    for answer in [&passed, &bare] {
        let names = answer.headers.keys().map(|name| name.as_str());
        let telling: Vec<_> = names.filter(|name| name.contains("retry") || name.contains("ratelimit")).collect();
        assert!(telling.is_empty(), "{telling:?}");
    }
    assert!(!bare.json()["error"]["message"].as_str().unwrap().contains("try again"));
    let (_, only) = refusal("retry-after").await;
    assert!(only.header("retry-after").is_some() && only.header("retry-after-ms").is_none());
    let (_, long) = refusal("long").await;
    assert_eq!(long.header("retry-after"), Some("86400"));
}

#[tokio::test]
async fn limits_can_be_kept_for_each_key_and_model() {
    let mock = mock(&["--limit", "1/m", "--split", "key,model"]).await;
    let ask = async |key: &str, model: &str| {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}{CHAT}", mock.url()))
            .header("authorization", key)
            .body(body::full(json!({"model": model, "messages": []}).to_string()))
            .unwrap();
        client::send(request).await.unwrap().status().as_u16()
    };
    assert_eq!(
        [ask("a", "m").await, ask("b", "m").await, ask("a", "n").await, ask("a", "m").await],
        [200, 200, 200, 429]
    );
}

#[tokio::test]
async fn faults_happen_as_often_as_told_and_are_counted() {
    let mock = mock(&["--fail", "30%", "--drop", "20%", "--slow", "10%", "--slow-for", "1ms", "--seed", "3"]).await;
    let (mut ok, mut failed, mut dropped) = (0, 0, 0);
    for _ in 0..200 {
        match try_post(&mock, CHAT, &question("x")).await.map(|answer| answer.status.as_u16()) {
            Some(200) => ok += 1,
            Some(500) => failed += 1,
            None => dropped += 1,
            other => panic!("{other:?}"),
        }
    }
    let stats = mock.stats();
    assert_eq!((stats.failed, stats.dropped), (failed, dropped));
    assert_eq!(stats.finished, ok + failed);
    assert!((20..70).contains(&dropped) && (25..85).contains(&failed) && stats.slow > 3, "{stats:?}");
}

#[tokio::test]
async fn a_concurrency_limit_holds_a_slot_until_the_answers_end() {
    let mock = mock(&["--limit", "1", "--limiter", "concurrency", "--latency", "1h"]).await;
    let question = question("x");
    let mut first = Box::pin(post(&mock, CHAT, &question));
    tokio::select! {
        _ = &mut first => panic!("it answers within the hour"),
        () = eventually("the first is taken", || mock.stats().accepted == 1) => {}
    }
    let second = post(&mock, CHAT, &question).await;
    assert_eq!(second.status, StatusCode::TOO_MANY_REQUESTS);
    drop(first);
    eventually("its slot is free", || mock.stats().in_flight == 0).await;
    assert_eq!(mock.stats().cancelled, 1);
}

#[tokio::test]
async fn out_of_credit_is_final() {
    let mock = mock(&["--credit", "1"]).await;
    assert_eq!(post(&mock, CHAT, &question("x")).await.status, StatusCode::OK);
    let refused = post(&mock, CHAT, &question("x")).await;
    assert_eq!(refused.json()["error"]["code"], "insufficient_quota");
}

#[tokio::test]
async fn a_client_that_hangs_up_in_mid_stream_is_noticed() {
    let mock = mock(&["--chunk-delay", "1h"]).await;
    let mut request = question("a question of some words, so that the answer has some chunks");
    request["stream"] = json!(true);
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{}{CHAT}", mock.url()))
        .body(body::full(request.to_string()))
        .unwrap();
    drop(client::send(request).await.unwrap());
    eventually("it is noticed", || mock.stats().cancelled == 1).await;
    assert_eq!(mock.stats().in_flight, 0);
}

#[tokio::test]
async fn a_wrong_request_is_told_so() {
    let mock = mock(&[]).await;
    assert_eq!(post(&mock, "/v1/nothing", &json!({})).await.status, StatusCode::NOT_FOUND);
    let request =
        Request::builder().method(Method::POST).uri(format!("{}{CHAT}", mock.url())).body(body::full("{")).unwrap();
    assert_eq!(client::send(request).await.unwrap().status(), StatusCode::BAD_REQUEST);
}
