//! Logs, read and followed.

use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::json;
use tower::ServiceExt;

use super::*;
use crate::observe::{FeedEvent, LogLine, LogStream};

fn line(text: &str) -> LogLine {
    LogLine {
        sequence: 0,
        time_ms: 1,
        tenant: TenantId::default_tenant(),
        function: "f".into(),
        version: 1,
        trace: None,
        stream: LogStream::Stdout,
        text: text.into(),
    }
}

#[tokio::test]
async fn logs_are_read_back_and_followed_without_a_gap_or_a_repetition() {
    let api = api();
    api.deploy("f", "x").await;
    let print = |text: &str| {
        let line = api.observe.logs.push(line(text));
        api.observe.feed.send(|| FeedEvent::Log(line));
    };
    print("one");
    print("two");
    let past = api.ask("GET /v1/functions/f/logs?after=1", &[], Body::empty()).await;
    assert_eq!(past.body["lines"][0]["text"], "two");
    assert_eq!(past.body["lines"].as_array().unwrap().len(), 1);
    assert_eq!(api.ask("GET /v1/functions/g/logs", &[], Body::empty()).await.status, StatusCode::NOT_FOUND);
    let request = Request::builder()
        .uri("/v1/functions/f/logs?follow=true")
        .header("authorization", format!("Bearer {}", api.admin))
        .header("last-event-id", "1");
    let answer = api.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
    print("three");
    let mut body = answer.into_body();
    let mut text = String::new();
    while text.matches("event: log").count() < 2 {
        let frame = tokio::time::timeout(Duration::from_secs(5), body.frame()).await.unwrap().unwrap().unwrap();
        text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
    assert!(!text.contains("\"one\"") && text.contains("\"two\"") && text.contains("\"three\""), "{text}");
    assert!(text.contains("id: 2\n") && text.contains("id: 3\n"), "{text}");
}

#[tokio::test]
async fn who_follows_the_logs_is_cut_off_when_its_token_is_revoked() {
    let api = api();
    api.deploy("f", "module").await;
    let made = api.ask("POST /v1/tokens", &[], json!({"scopes": ["deploy"]}).to_string()).await.body;
    let request = Request::builder()
        .uri("/v1/functions/f/logs?follow=true")
        .header("authorization", format!("Bearer {}", made["token"].as_str().unwrap()));
    let answer = api.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let id = made["id"].as_str().unwrap();
    api.ask(&format!("DELETE /v1/tokens/{id}"), &[], Body::empty()).await;
    let rest = tokio::time::timeout(Duration::from_secs(5), answer.into_body().collect()).await.unwrap().unwrap();
    assert!(rest.to_bytes().is_empty());
}

#[tokio::test]
async fn who_follows_a_quiet_function_misses_none_of_its_lines_while_another_prints_without_end() {
    let api = api_with(&["--feed-lines", "4", "--log-bytes", "64KiB"]);
    api.deploy("f", "module").await;
    api.deploy("loud", "module").await;
    let print = |function: &str, text: &str| {
        let line = api.observe.logs.push(LogLine { function: function.into(), ..line(text) });
        api.observe.feed.send(|| FeedEvent::Log(line));
    };
    let request = Request::builder()
        .uri("/v1/functions/f/logs?follow=true")
        .header("authorization", format!("Bearer {}", api.admin));
    let answer = api.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    for text in ["one", "two", "three"] {
        print("f", text);
        (0..1_000).for_each(|_| print("loud", &"x".repeat(100)));
    }
    let mut body = answer.into_body();
    let mut text = String::new();
    while text.matches("event: log").count() < 3 {
        let frame = tokio::time::timeout(Duration::from_secs(5), body.frame()).await;
        let frame = frame.unwrap_or_else(|_| panic!("nothing more after {text}")).unwrap().unwrap();
        text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
    assert!(["\"one\"", "\"two\"", "\"three\""].iter().all(|line| text.matches(line).count() == 1), "{text}");
    assert!(text.contains("event: missed") && text.contains("feed_lines"), "calls are in the feed only: {text}");
    let past = api.ask("GET /v1/functions/f/logs", &[], Body::empty()).await;
    assert_eq!(past.body["lines"].as_array().unwrap().len(), 3);
    let loud = api.ask("GET /v1/functions/loud/logs?limit=10000", &[], Body::empty()).await;
    assert!((10..1_000).contains(&loud.body["lines"].as_array().unwrap().len()), "its own are bounded");
}
