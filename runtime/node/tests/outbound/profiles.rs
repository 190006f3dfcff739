//! Profiles of well-known APIs: patience, what may be repeated, limits in tokens.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn a_completion_is_repeated_where_a_profile_says_so_and_the_destination_does_not_object() {
    for (profile, path, own, attempts) in [
        (Some("openai"), "/v1/chat/completions", None, 2),
        (Some("anthropic"), "/v1/messages", None, 2),
        (Some("openai"), "/v1/files", None, 1),
        (Some("openai"), "/v1/chat/completions", Some("keyed"), 1),
        (None, "/v1/chat/completions", None, 1),
    ] {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let upstream = Upstream::start(move |_| {
            let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
            async move { if first { text(500, "") } else { text(200, "") } }
        })
        .await;
        let gate = Gate::new(&[]);
        let mut config = json!({"match": upstream.url("")});
        if let Some(profile) = profile {
            config["profile"] = json!(profile);
        }
        if let Some(own) = own {
            config["repeatable"] = json!(own);
        }
        gate.configure(&[("llm", config)]);
        let answer = gate.send(post(&upstream.url(path), "{}")).await.unwrap();
        assert_eq!(answer.status().is_success(), attempts == 2, "{profile:?} {path} {own:?}");
        assert_eq!(count.load(Ordering::SeqCst), attempts, "{profile:?} {path} {own:?}");
    }
}

#[tokio::test]
async fn calls_of_a_profile_are_waited_for_as_it_says() {
    let upstream = Upstream::start(|_| async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        text(200, "at last")
    })
    .await;
    let flags = ["--first-byte-timeout=50ms", "--call-deadline=100ms"];
    let gate = Gate::new(&flags);
    gate.configure(&[("llm", json!({"match": upstream.url(""), "profile": "openai"}))]);
    assert_eq!(read(gate.send(post(&upstream.url("/v1/responses"), "{}")).await.unwrap()).await, "at last");
    // What the destination says itself wins.
    let config = json!({"match": upstream.url(""), "profile": "openai", "policy": {"attempt_timeout": "20ms"}});
    gate.configure(&[("llm", config)]);
    let error = gate.send(post(&upstream.url("/v1/files"), "{}")).await.unwrap_err().to_string();
    assert!(error.ends_with("20ms (setting policy.attempt_timeout)"), "{error}");
}

#[tokio::test]
async fn a_limit_in_tokens_holds_calls_back_by_what_they_state_or_are_taken_to_cost() {
    let upstream = Upstream::start(|_| async { text(200, "") }).await;
    let limits = json!([{"unit": "tokens", "quota": 100, "per": "1s"}]);
    let url = upstream.url("/v1/chat/completions");
    let sixty = r#"{"max_tokens": 60}"#;
    for (config, body) in [
        (json!({"match": upstream.url(""), "profile": "openai", "limits": limits}), sixty),
        (json!({"match": upstream.url(""), "policy": {"tokens": 60}, "limits": limits}), "{}"),
    ] {
        let gate = Gate::new(&[]);
        gate.configure(&[("llm", config)]);
        let begin = Instant::now();
        for _ in 0..3 {
            assert_eq!(gate.send(post(&url, body)).await.unwrap().status(), 200);
        }
        assert!(begin.elapsed() >= Duration::from_secs(1), "no second holds more than 100: {:?}", begin.elapsed());
    }
    // An estimate beyond the quota is the quota: it must not keep a call out for ever.
    let gate = Gate::new(&[]);
    gate.configure(&[("llm", json!({"match": upstream.url(""), "profile": "openai", "limits": limits}))]);
    assert_eq!(gate.send(post(&url, r#"{"max_tokens": 5000}"#)).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_limit_in_tokens_alone_says_nothing_about_how_many_requests_may_leave() {
    let upstream = Upstream::start(|_| async { text(200, "") }).await;
    for (unit, known) in [("tokens", false), ("requests", true)] {
        let gate = Gate::new(&[]);
        let limits = json!([{"unit": unit, "quota": 100_000, "per": "1s"}]);
        gate.configure(&[("llm", json!({"match": upstream.url(""), "profile": "openai", "limits": limits}))]);
        assert_eq!(gate.send(post(&upstream.url("/"), "{}")).await.unwrap().status(), 200);
        let state = gate.state();
        let pace = &state["destinations"][0]["partitions"][0]["pace"];
        assert_eq!(pace["window"].is_null(), known, "{unit}: {pace}");
    }
}
