//! Deadlines, timeouts, and how long somebody says that it waits.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::Request;
use serde_json::json;
use tidegate::{body, outbound::TransportError};

use crate::support::*;

#[tokio::test]
async fn a_deadline_that_cannot_be_met_is_answered_at_once() {
    let upstream = Upstream::start(|_| async { text(200, "") }).await;
    let gate = Gate::new(&[]);
    gate.configure(&[("mock", json!({"match": upstream.url(""), "limits": [{"quota": 1, "per": "30s"}]}))]);
    gate.get(&upstream.url("/")).await.unwrap();
    let begin = Instant::now();
    let request = Request::get(upstream.url("/")).header("x-stainless-read-timeout", "2").body(body::empty()).unwrap();
    let answer = gate.send(request).await.unwrap();
    assert!(begin.elapsed() < Duration::from_millis(100));
    assert_eq!(answer.status(), 429);
    let after: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((28..=31).contains(&after), "{after}");
    assert!(answer.headers()["proxy-status"].to_str().unwrap().starts_with("tidegate"));
    let problem: serde_json::Value = serde_json::from_str(&read(answer).await).unwrap();
    assert_eq!(problem["type"], "/problems/deadline-unreachable");
    assert_eq!(problem["setting"], "policy.deadline");
    assert!(problem["trail"].is_string());
    assert_eq!(upstream.requests(), 1);
    // The value is that of the deadline, and not what is left of it.
    let request = Request::get(upstream.url("/")).header("tidegate-policy", "deadline=2").body(body::empty()).unwrap();
    let problem: serde_json::Value = serde_json::from_str(&read(gate.send(request).await.unwrap()).await).unwrap();
    assert_eq!((&problem["limit"], &problem["value"]), (&json!("deadline of the call"), &json!("2s")), "{problem}");
}

#[tokio::test]
async fn a_deadline_that_passes_during_an_attempt_is_a_504_that_says_so() {
    let upstream = Upstream::start(|_| async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        text(200, "")
    })
    .await;
    let gate = Gate::new(&[]);
    let request = Request::get(upstream.url("/")).header("prefer", "wait=0.2").body(body::empty()).unwrap();
    let begin = Instant::now();
    let answer = gate.send(request).await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(1));
    assert_eq!(answer.status(), 504);
    let detail = read(answer).await;
    assert!(detail.contains(", in one attempt"), "{detail}");
    until("the connection is closed", || upstream.open() == 0).await;
}

/// An upstream that thinks for 300 ms.
async fn slow() -> Upstream {
    Upstream::start(|_| async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        text(200, "at last")
    })
    .await
}

#[tokio::test]
async fn who_says_that_it_waits_longer_is_not_cut_off_by_the_ordinary_bound() {
    let upstream = slow().await;
    let gate = Gate::new(&["--first-byte-timeout=100ms"]);
    let patient = |policy: &'static str, header: &'static str| {
        let request = Request::post(upstream.url("/")).header(header, "20").header("tidegate-policy", policy);
        gate.send(request.body(body::full("x")).unwrap())
    };
    assert_eq!(read(patient("retries=0", "x-stainless-read-timeout").await.unwrap()).await, "at last");
    let error = patient("attempt_timeout=0.1", "x-stainless-read-timeout").await.unwrap_err();
    assert!(error.to_string().ends_with("100ms (setting first_byte_timeout)"), "what a policy says is meant: {error}");
    let gate = Gate::new(&["--first-byte-timeout=50ms", "--patient-first-byte-timeout=100ms"]);
    let request = Request::post(upstream.url("/")).header("x-stainless-timeout", "20").body(body::full("x")).unwrap();
    let error = gate.send(request).await.unwrap_err();
    assert!(error.to_string().ends_with("100ms (setting patient_first_byte_timeout)"), "{error}");
}

#[tokio::test]
async fn no_answer_in_time_to_what_must_not_be_repeated_is_final_for_the_client_too() {
    let upstream = slow().await;
    let gate = Gate::new(&["--first-byte-timeout=50ms", "--attempts=1"]);
    let last = |answer: Result<http::Response<body::Body>, TransportError>| {
        let answer = answer.unwrap_or_else(|error| tidegate::problem::Problem::from(error).into_response());
        assert_eq!(answer.status(), 504);
        answer.headers().get("x-should-retry").is_some_and(|word| word == "false")
    };
    assert!(last(gate.send(post(&upstream.url("/"), "x")).await));
    assert!(!last(gate.get(&upstream.url("/")).await));
    let deadline = |mut request: Request<body::Body>| {
        request.headers_mut().insert("prefer", "wait=0.03".parse().unwrap());
        gate.send(request)
    };
    assert!(last(deadline(post(&upstream.url("/"), "x")).await));
    assert!(!last(deadline(get(&upstream.url("/"))).await));
}

#[tokio::test]
async fn time_at_the_gate_stops_the_waiting_clock_of_a_guest() {
    let upstream = Upstream::start(|_| async { text(200, "") }).await;
    let gate = Gate::new(&[]);
    gate.configure(&[("mock", json!({"match": upstream.url(""), "limits": [{"quota": 10, "per": "1s", "burst": 1}]}))]);
    gate.get(&upstream.url("/")).await.unwrap();
    let clock = Arc::new(tidegate::outbound::WaitClock::default());
    let (_, mut call) = gate.call(get(&upstream.url("/")));
    call.wait_clock = Some(Arc::clone(&clock));
    gate.door.send(call).await.unwrap();
    assert!(clock.total() > Duration::from_millis(50), "{:?}", clock.total());
    assert!(!clock.is_waiting());
}

#[tokio::test]
async fn a_short_deadline_of_one_call_is_no_mark_against_the_upstream() {
    let upstream = Upstream::start(|request| async move {
        if request.uri().path() == "/slow" {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        text(200, "")
    })
    .await;
    let gate = Gate::new(&[]);
    for _ in 0..8 {
        let request = Request::get(upstream.url("/slow")).header("prefer", "wait=0.02").body(body::empty()).unwrap();
        assert_eq!(gate.send(request).await.unwrap().status(), 504);
        let (_, mut call) = gate.call(get(&upstream.url("/slow")));
        call.timeouts.first_byte = Some(Duration::from_millis(20));
        assert!(gate.door.send(call).await.is_err());
    }
    let begin = Instant::now();
    assert_eq!(gate.get(&upstream.url("/")).await.unwrap().status(), 200);
    assert!(begin.elapsed() < Duration::from_millis(100), "{:?}", begin.elapsed());
}
