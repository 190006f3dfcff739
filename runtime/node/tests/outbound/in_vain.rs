//! What clients that repeat by themselves are told: their repetitions multiply those of the gate.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::{Response, StatusCode};
use serde_json::json;
use tidegate::{
    body::{self, Body},
    problem::Problem,
};
use tokio::net::TcpListener;

use crate::support::*;

/// What an upstream says to each request, the first on its own.
async fn saying(first: fn() -> Response<Body>, others: fn() -> Response<Body>) -> Upstream {
    let count = AtomicUsize::new(0);
    Upstream::start(move |_| {
        let answer = if count.fetch_add(1, Ordering::SeqCst) == 0 { first } else { others };
        async move { answer() }
    })
    .await
}

fn failing() -> Response<Body> {
    text(500, "")
}

fn unavailable() -> Response<Body> {
    text(503, "")
}

fn refusing() -> Response<Body> {
    text(429, "")
}

fn refusing_briefly() -> Response<Body> {
    refusal("0.2")
}

fn refusing_for_long() -> Response<Body> {
    refusal("300")
}

fn out_of_credit() -> Response<Body> {
    let mut answer = text(429, r#"{"error": {"code": "insufficient_quota"}}"#);
    answer.headers_mut().insert("content-type", "application/json".parse().unwrap());
    answer
}

fn is_final(answer: &Response<Body>) -> bool {
    answer.headers().get("x-should-retry").is_some_and(|word| word == "false")
}

#[tokio::test]
async fn what_was_repeated_in_vain_is_not_to_be_repeated_by_its_sender() {
    for (what, says, method, policy, requests, status, ends) in [
        ("all attempts failed", failing as fn() -> _, "GET", "deadline=60", 4, 500, true),
        ("all attempts failed, 503", unavailable, "GET", "deadline=60", 4, 503, true),
        ("no waiting helps", out_of_credit, "POST", "deadline=60", 1, 429, true),
        ("its sender wants to repeat it", failing, "GET", "retries=0", 1, 500, false),
        ("it may have been processed", failing, "POST", "deadline=60", 1, 500, false),
        ("none of these is repeated", failing, "GET", "retry_on=502", 1, 500, false),
        ("a wait helps", refusing_for_long, "GET", "deadline=1", 1, 429, false),
    ] {
        let upstream = saying(says, says).await;
        let mut request = get(&upstream.url("/"));
        *request.method_mut() = method.parse().unwrap();
        request.headers_mut().insert("tidegate-policy", policy.parse().unwrap());
        let (answer, told) = Gate::new(&[]).told(request).await;
        let answer = answer.unwrap();
        assert_eq!((answer.status().as_u16(), upstream.requests()), (status, requests), "{what}: {told:?}");
        assert_eq!(is_final(&answer), ends, "{what}: {told:?}");
    }
}

#[tokio::test]
async fn a_refusal_that_outlasts_the_call_says_when_it_may_end() {
    for (says, after) in [(refusing as fn() -> _, None), (refusing_for_long, Some("300"))] {
        let upstream = saying(says, says).await;
        let mut request = get(&upstream.url("/"));
        request.headers_mut().insert("tidegate-policy", "deadline=1".parse().unwrap());
        let (answer, told) = Gate::new(&[]).told(request).await;
        let answer = answer.unwrap();
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS, "{told:?}");
        assert!(!is_final(&answer), "{told:?}");
        let said = answer.headers()["retry-after"].to_str().unwrap();
        assert!(after.is_none_or(|after| said == after), "{said}: {told:?}");
        assert!(said.parse::<u64>().unwrap() >= 1, "{said}: {told:?}");
    }
}

#[tokio::test]
async fn what_can_t_be_reached_at_the_last_attempt_is_not_to_be_tried_by_its_sender() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let closing = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let with = |policy: &str| {
        let mut request = get(&url);
        request.headers_mut().insert("tidegate-policy", policy.parse().unwrap());
        request
    };
    for (policy, ends) in [("retries=0", false), ("retries=3", true)] {
        let error = Gate::new(&[]).send(with(policy)).await.unwrap_err();
        let answer = Problem::from(error).into_response();
        assert_eq!((answer.status(), is_final(&answer)), (StatusCode::BAD_GATEWAY, ends), "{policy}");
    }
    closing.abort();
    closing.await.unwrap_err();
    let error = Gate::new(&[]).get(&url).await.unwrap_err();
    assert!(is_final(&Problem::from(error).into_response()), "nobody listens, at the last attempt, too");
}

#[tokio::test]
async fn a_deadline_that_passes_after_failures_is_the_end_and_one_that_passes_at_once_is_not() {
    for (first, ends) in [(failing as fn() -> _, true), (refusing_briefly, false)] {
        let upstream = {
            let count = AtomicUsize::new(0);
            Upstream::start(move |_| {
                let is_first = count.fetch_add(1, Ordering::SeqCst) == 0;
                async move {
                    match is_first {
                        true => first(),
                        false => std::future::pending().await,
                    }
                }
            })
            .await
        };
        let mut request = get(&upstream.url("/"));
        request.headers_mut().insert("tidegate-policy", "deadline=2".parse().unwrap());
        let (answer, told) = Gate::new(&[]).told(request).await;
        let answer = answer.unwrap();
        assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT, "{told:?}");
        assert_eq!(is_final(&answer), ends, "{told:?}");
    }
}

#[tokio::test]
async fn who_is_refused_by_the_gate_because_of_others_may_come_again() {
    let upstream = Upstream::start(|_| async { Response::new(body::empty()) }).await;
    let gate = Gate::new(&["--queue-calls=1"]);
    let limits = json!([{"quota": 1, "per": "10s", "burst": 1}]);
    gate.configure(&[("slow", json!({"match": upstream.url(""), "limits": limits}))]);
    gate.get(&upstream.url("/")).await.unwrap();
    let mut late = get(&upstream.url("/"));
    late.headers_mut().insert("tidegate-policy", "deadline=1".parse().unwrap());
    let late = gate.send(late).await.unwrap();
    let waits = tokio::spawn(gate.door.send(gate.call(get(&upstream.url("/"))).1));
    until("one waits", || gate.state()["destinations"][0]["partitions"][0]["queue"]["calls"] == 1).await;
    let full = gate.get(&upstream.url("/")).await.unwrap();
    assert!(late.headers().contains_key("retry-after"));
    for (answer, kind) in [(late, "deadline-unreachable"), (full, "queue-full")] {
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(!is_final(&answer), "{kind}");
        let problem = read(answer).await;
        assert!(problem.contains(kind), "{problem}");
    }
    // An operator's word is another matter.
    gate.door.flush(&gate.sender.tenant, "slow");
    assert!(is_final(&waits.await.unwrap().unwrap()));
}

#[tokio::test]
async fn who_is_told_that_its_first_attempt_is_under_way_may_come_back_for_it() {
    let count = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&count);
    let upstream = Upstream::start(move |_| {
        let is_first = count.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if is_first {
                std::future::pending::<()>().await;
            }
            text(409, "this key is in use")
        }
    })
    .await;
    let mut request = post(&upstream.url("/"), "x");
    request.headers_mut().insert("idempotency-key", "1".parse().unwrap());
    request.headers_mut().insert("tidegate-policy", "deadline=2, attempt_timeout=0.3".parse().unwrap());
    let (answer, told) = Gate::new(&[]).told(request).await;
    let answer = answer.unwrap();
    assert!(asked.load(Ordering::SeqCst) > 2, "it is asked again: {told:?}");
    assert!(!is_final(&answer), "{told:?}");
    let status = answer.status();
    assert!(matches!(status.as_u16(), 409 | 504), "it did not fail: {status}, {told:?}");
}
