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

#[tokio::test]
async fn what_the_gate_refuses_of_completions_comes_in_the_shape_of_the_services_own_errors() {
    let upstream = Upstream::start(|_| async { refusal("60") }).await;
    for (profile, path, pointer, expected) in [
        ("openai", "/v1/chat/completions", "/error/type", "rate_limit_error"),
        ("azure-openai", "/openai/deployments/d/chat/completions", "/error/type", "rate_limit_error"),
        ("anthropic", "/v1/messages", "/error/type", "rate_limit_error"),
        ("gemini", "/v1beta/models/m:generateContent", "/error/status", "RESOURCE_EXHAUSTED"),
        ("openai", "/v1/files", "/type", "/problems/deadline-unreachable"),
        ("github", "/v1/chat/completions", "/type", "/problems/deadline-unreachable"),
    ] {
        // Believed at once, so that who can't wait is told at once.
        let gate = Gate::new(&["--believed-pause=10m"]);
        gate.configure(&[("llm", json!({"match": upstream.url(""), "profile": profile, "repeatable": "keyed"}))]);
        let ask = || {
            let mut request = post(&upstream.url(path), r#"{"model": "m"}"#);
            request.headers_mut().insert("tidegate-policy", "deadline=5".parse().unwrap());
            request
        };
        assert_eq!(gate.send(ask()).await.unwrap().status(), 429);
        let answer = gate.send(ask()).await.unwrap();
        assert_eq!(
            (answer.status(), answer.headers()["proxy-status"].to_str().unwrap()),
            (429.try_into().unwrap(), "tidegate; error=connection_limit_reached")
        );
        assert!(answer.headers().contains_key("retry-after"));
        let media = answer.headers()["content-type"].to_str().unwrap().to_owned();
        assert_eq!(media == "application/problem+json", pointer == "/type", "{profile} {path}: {media}");
        let body: serde_json::Value = serde_json::from_str(&read(answer).await).unwrap();
        assert_eq!(body.pointer(pointer).unwrap(), expected, "{profile} {path}");
    }
}

#[tokio::test]
async fn an_answer_that_a_profile_calls_final_pauses_nobody() {
    let upstream = Upstream::start(|_| async { text(402, "no credit") }).await;
    for (profile, denied) in [("openrouter", true), ("stripe", false)] {
        let gate = Gate::new(&[]);
        gate.configure(&[("api", json!({"match": upstream.url(""), "profile": profile}))]);
        let (answer, told) = gate.told(post(&upstream.url("/api/v1/chat/completions"), "{}")).await;
        assert_eq!(answer.unwrap().status(), 402);
        assert_eq!(told.iter().any(|line| line.contains("no waiting helps")), denied, "{profile}: {told:?}");
    }
}

#[tokio::test]
async fn a_destination_is_split_as_its_profile_says_unless_it_says_what_its_limits_are_of() {
    let upstream = Upstream::start(|_| async { text(200, "") }).await;
    for (own, partitions) in [
        (json!({}), 2),
        (json!({"limits": [{"quota": 100, "per": "1s"}]}), 1),
        (json!({"split_by": ["header:authorization"]}), 1),
        (json!({"profile": "generic"}), 1),
    ] {
        let gate = Gate::new(&[]);
        let mut config = json!({"match": upstream.url(""), "profile": "openai"});
        config.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        gate.configure(&[("llm", config)]);
        for model in ["one", "two", "one"] {
            let body = format!(r#"{{"model": "{model}"}}"#);
            assert_eq!(gate.send(post(&upstream.url("/v1/responses"), &body)).await.unwrap().status(), 200);
        }
        let state = gate.state();
        assert_eq!(state["destinations"][0]["partitions"].as_array().unwrap().len(), partitions, "{own}");
    }
}

#[tokio::test]
async fn what_a_destination_calls_final_stands_in_the_place_of_what_its_profile_does() {
    let credit = r#"{"error": {"code": "insufficient_quota", "message": "x"}}"#;
    let frozen = r#"{"error": {"code": "frozen", "message": "Your Account is frozen."}}"#;
    for (status, body, own, denied) in [
        (429, credit, json!({}), true),
        (429, credit, json!({"final_codes": []}), false),
        (429, frozen, json!({}), false),
        (429, frozen, json!({"final_codes": ["FROZEN"]}), true),
        (429, frozen, json!({"final_codes": ["account is frozen"]}), true),
        (402, credit, json!({}), true),
        (400, credit, json!({}), true),
        (402, frozen, json!({}), false),
        (402, frozen, json!({"final_statuses": [402]}), true),
    ] {
        let upstream = Upstream::start(move |_| async move {
            let answer = http::Response::builder().status(status).header("content-type", "application/json");
            answer.body(tidegate::body::full(body)).unwrap()
        })
        .await;
        let gate = Gate::new(&[]);
        let mut config = json!({"match": upstream.url(""), "profile": "openai"});
        config.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        gate.configure(&[("llm", config)]);
        let mut request = post(&upstream.url("/v1/chat/completions"), "{}");
        request.headers_mut().insert("tidegate-policy", "deadline=1, retries=0".parse().unwrap());
        let (answer, told) = gate.told(request).await;
        assert_eq!(answer.unwrap().status(), status);
        assert_eq!(told.iter().any(|line| line.contains("no waiting helps")), denied, "{own} {body}: {told:?}");
    }
}

#[tokio::test]
async fn a_refusal_of_one_model_pauses_no_other_of_the_same_path_and_no_key_of_a_query_is_shown() {
    let upstream = Upstream::start(|request| {
        let refused = request.uri().path().contains("pro");
        std::future::ready(if refused { refusal("60") } else { text(200, "on") })
    })
    .await;
    let gate = Gate::new(&["--believed-pause=10m"]);
    gate.configure(&[("llm", json!({"match": upstream.url(""), "profile": "gemini", "repeatable": "keyed"}))]);
    let mut told = Vec::new();
    for (model, status) in [("gemini-pro", 429), ("gemini%2Dpro", 429), ("flash", 200)] {
        let path = format!("/v1beta/models/{model}:generateContent?key=AIza-SECRET");
        let mut request = post(&upstream.url(&path), "{}");
        request.headers_mut().insert("tidegate-policy", "deadline=5".parse().unwrap());
        let (answer, lines) = gate.told(request).await;
        assert_eq!(answer.unwrap().status(), status, "{model}");
        told.extend(lines);
    }
    let state = gate.state();
    let partitions = state["destinations"][0]["partitions"].as_array().unwrap();
    let labels: Vec<_> = partitions.iter().map(|partition| partition["partition"].as_str().unwrap()).collect();
    assert_eq!(labels.len(), 2, "{labels:?}");
    assert!(labels.iter().any(|label| label.ends_with("model=gemini-pro")), "{labels:?}");
    assert!(!format!("{told:?} {state}").contains("SECRET"));
}
