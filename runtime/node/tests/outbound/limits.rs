//! Limits, pauses, retries, deadlines: the actor as its senders feel it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::Request;
use http_body_util::BodyExt;
use serde_json::json;
use tidegate::{body, outbound::TransportError};

use crate::support::*;

#[tokio::test]
async fn a_429_is_put_back_and_costs_no_attempt() {
    let upstream = Upstream::start({
        let count = AtomicUsize::new(0);
        move |_| {
            let first = count.fetch_add(1, Ordering::SeqCst) == 0;
            async move { if first { refusal("0.2") } else { text(200, "done") } }
        }
    })
    .await;
    let gate = Gate::new(&[]);
    let begin = Instant::now();
    // A POST without a key, and no retries at all: a refusal was never processed.
    let mut request = post(&upstream.url("/"), "body");
    request.headers_mut().insert("tidegate-policy", "retries=0".parse().unwrap());
    let (answer, told) = gate.told(request).await;
    assert_eq!(read(answer.unwrap()).await, "done");
    assert!(begin.elapsed() >= Duration::from_millis(200), "{:?}", begin.elapsed());
    assert!(told.iter().any(|line| line.contains("put back at no cost")), "{told:?}");
    assert!(told.iter().any(|line| line.contains("queued, paused for")), "{told:?}");
    assert_eq!(upstream.connections(), 1, "the refusal's connection is used again");
}

/// An upstream that refuses its first request with this body, in two pieces, and answers the others.
async fn refusing_once(media: &'static str, body: String) -> Upstream {
    let count = AtomicUsize::new(0);
    Upstream::start(move |_| {
        let (first, body) = (count.fetch_add(1, Ordering::SeqCst) == 0, body.clone());
        async move {
            if !first {
                return text(200, "done");
            }
            let (sender, stream) = channel_body();
            tokio::spawn(async move {
                let (head, tail) = body.split_at(body.len() / 2);
                for part in [head, tail] {
                    sender.send(bytes::Bytes::copy_from_slice(part.as_bytes())).await.unwrap();
                }
            });
            let refusal =
                http::Response::builder().status(429).header("retry-after", "1").header("content-type", media);
            refusal.body(stream).unwrap()
        }
    })
    .await
}

#[tokio::test]
async fn a_429_for_want_of_credit_is_passed_on_at_once_whole_and_pauses_nobody() {
    let body = r#"{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}"#;
    for media in ["application/json", "application/problem+json; charset=utf-8"] {
        let upstream = refusing_once(media, body.to_owned()).await;
        let gate = Gate::new(&[]);
        let begin = Instant::now();
        let (answer, told) = gate.told(post(&upstream.url("/"), "x")).await;
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 429);
        assert_eq!(read(answer).await, body);
        assert!(told.iter().any(|line| line.contains("no waiting helps")), "{told:?}");
        assert_eq!(gate.get(&upstream.url("/")).await.unwrap().status(), 200);
        assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
    }
}

#[tokio::test]
async fn a_429_that_says_it_otherwise_is_waited_for() {
    let spent = r#"{"error": {"code": "insufficient_quota"}}"#;
    for (media, body) in [
        ("application/json", r#"{"error": {"code": "rate_limit_exceeded"}}"#.to_owned()),
        ("text/plain", spent.to_owned()),
        ("application/json", format!("{spent}{}", " ".repeat(17 << 10))),
    ] {
        let upstream = refusing_once(media, body).await;
        let gate = Gate::new(&[]);
        assert_eq!(read(gate.send(post(&upstream.url("/"), "x")).await.unwrap()).await, "done");
        assert_eq!(upstream.requests(), 2);
    }
}

#[tokio::test]
async fn how_far_a_429_is_searched_for_want_of_credit_is_a_setting_that_the_trail_names() {
    let spent = r#"{"error": {"code": "insufficient_quota"}}"#;
    let upstream = refusing_once("application/json", format!("{spent}{}", " ".repeat(17 << 10))).await;
    let (answer, _) = Gate::new(&["--refusal-body=18KiB"]).told(post(&upstream.url("/"), "x")).await;
    assert_eq!(answer.unwrap().status(), 429, "it was read");
    let upstream = refusing_once("application/json", spent.to_owned()).await;
    let (answer, told) = Gate::new(&["--refusal-body=10"]).told(post(&upstream.url("/"), "x")).await;
    assert_eq!(answer.unwrap().status(), 200);
    assert!(told.iter().any(|line| line.ends_with("larger than 10B (setting refusal_body)")), "{told:?}");
    let stalled = Upstream::start({
        let count = AtomicUsize::new(0);
        move |_| {
            let first = count.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                if !first {
                    return text(200, "done");
                }
                let (sender, body) = channel_body();
                tokio::spawn(async move {
                    sender.send(spent.into()).await.unwrap();
                    sender.closed().await;
                });
                let refusal = http::Response::builder().status(429).header("retry-after", "1");
                refusal.header("content-type", "application/json").body(body).unwrap()
            }
        }
    })
    .await;
    let (answer, told) = Gate::new(&["--refusal-wait=20ms"]).told(post(&stalled.url("/"), "x")).await;
    assert_eq!(answer.unwrap().status(), 200);
    assert!(told.iter().any(|line| line.ends_with("not here within 20ms (setting refusal_wait)")), "{told:?}");
}

#[tokio::test]
async fn a_pause_holds_everyone_and_ends_with_one_probe() {
    let upstream = Upstream::start({
        let count = AtomicUsize::new(0);
        move |_| {
            let first = count.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                tokio::time::sleep(Duration::from_millis(30)).await;
                if first { refusal("0.3") } else { text(200, "") }
            }
        }
    })
    .await;
    let gate = Arc::new(Gate::new(&[]));
    let mut feed = gate.observe.feed.subscribe();
    let url = upstream.url("/");
    assert_eq!(gate.get(&url).await.unwrap().status(), 200);
    let arrivals = upstream.seen.arrivals.lock().clone();
    assert_eq!(arrivals.len(), 2);
    assert!(arrivals[1] - arrivals[0] >= Duration::from_millis(300));
    let refused = std::iter::from_fn(|| feed.try_recv().ok()).find_map(|event| match event {
        tidegate::observe::FeedEvent::Refused { status, paused, .. } => Some((status, paused)),
        _ => None,
    });
    let (status, paused) = refused.unwrap();
    assert_eq!(status, 429);
    assert!(paused > Duration::from_millis(200) && paused <= Duration::from_millis(300), "{paused:?}");
}

#[tokio::test]
async fn a_configured_pace_is_kept_without_one_refusal() {
    let upstream = Upstream::start(|_| async { text(200, "") }).await;
    let gate = Arc::new(Gate::new(&[]));
    gate.configure(&[(
        "mock",
        json!({"match": upstream.url(""), "limits": [{"quota": 20, "per": "200ms", "burst": 1}]}),
    )]);
    let begin = Instant::now();
    let calls = (0..60).map(|_| {
        let (gate, url) = (Arc::clone(&gate), upstream.url("/"));
        tokio::spawn(async move { gate.get(&url).await.unwrap().status() })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap(), 200);
    }
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(550) && took < Duration::from_millis(900), "{took:?}");
    let arrivals = upstream.seen.arrivals.lock().clone();
    for (first, twenty_first) in arrivals.iter().zip(arrivals.iter().skip(20)) {
        // Departures keep the limit exactly; arrivals carry the network's own jitter.
        assert!(*twenty_first - *first >= Duration::from_millis(185), "{:?}", *twenty_first - *first);
    }
}

#[tokio::test]
async fn a_changed_limit_takes_effect_on_calls_that_wait() {
    let upstream = Upstream::start(|_| async { text(200, "") }).await;
    let gate = Arc::new(Gate::new(&[]));
    gate.configure(&[("mock", json!({"match": upstream.url(""), "limits": [{"quota": 1, "per": "30s"}]}))]);
    gate.get(&upstream.url("/")).await.unwrap();
    let waiting = tokio::spawn({
        let (gate, url) = (Arc::clone(&gate), upstream.url("/"));
        async move { gate.get(&url).await.unwrap().status() }
    });
    until("the call waits", || gate.state()["destinations"][0]["partitions"][0]["queue"]["calls"] == 1).await;
    gate.configure(&[("mock", json!({"match": upstream.url(""), "limits": [{"quota": 1000, "per": "1s"}]}))]);
    assert_eq!(tokio::time::timeout(Duration::from_secs(1), waiting).await.unwrap().unwrap(), 200);
}

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
async fn concurrency_is_kept_and_a_slot_lasts_to_the_end_of_the_body() {
    let upstream = Upstream::start(|_| async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        text(200, "body")
    })
    .await;
    let gate = Arc::new(Gate::new(&[]));
    gate.configure(&[("mock", json!({"match": upstream.url(""), "max_concurrency": 3}))]);
    let calls = (0..20).map(|_| {
        let (gate, url) = (Arc::clone(&gate), upstream.url("/"));
        tokio::spawn(async move { read(gate.get(&url).await.unwrap()).await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap(), "body");
    }
    assert_eq!(upstream.peak(), 3);
    assert_eq!(upstream.connections(), 3);
    assert_eq!(gate.state()["destinations"][0]["partitions"][0]["in_flight"], 0);
}

#[tokio::test]
async fn who_stops_reading_an_answer_keeps_nobody_out() {
    let upstream = Upstream::start(|request| async move {
        if request.uri().path() == "/short" {
            return text(200, "short");
        }
        let (sender, body) = channel_body();
        tokio::spawn(async move {
            while sender.send("tick".into()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        http::Response::new(body)
    })
    .await;
    let gate = Gate::new(&["--body-idle-timeout=200ms"]);
    gate.configure(&[("mock", json!({"match": upstream.url(""), "max_concurrency": 1}))]);
    let mut endless = gate.get(&upstream.url("/endless")).await.unwrap();
    let url = upstream.url("/short");
    let mut short = std::pin::pin!(gate.get(&url));
    // For as long as it is read, however long that is, its slot is its own.
    let reading = async {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(1) {
            endless.body_mut().frame().await.unwrap().unwrap();
        }
    };
    tokio::select! {
        () = reading => {}
        _ = &mut short => panic!("a slot that is in use was given away"),
    }
    assert_eq!(read(short.await.unwrap()).await, "short");
    assert_eq!(gate.state()["destinations"][0]["partitions"][0]["in_flight"], 1);
    assert!(endless.body_mut().frame().await.unwrap().is_ok(), "its answer goes on");
}

#[tokio::test]
async fn a_server_error_is_tried_again_and_the_last_answer_is_passed_on() {
    let upstream = Upstream::start({
        let count = AtomicUsize::new(0);
        move |request| {
            let number = count.fetch_add(1, Ordering::SeqCst);
            let always = request.uri().path() == "/always";
            async move { if always || number < 2 { text(503, "down") } else { text(200, "up") } }
        }
    })
    .await;
    let gate = Gate::new(&[]);
    let (answer, told) = gate.told(get(&upstream.url("/"))).await;
    assert_eq!(read(answer.unwrap()).await, "up");
    assert_eq!(told.iter().filter(|line| line.ends_with("tried again")).count(), 2, "{told:?}");
    let before = upstream.requests();
    let request = Request::get(upstream.url("/always")).header("tidegate-policy", "retries=2").body(body::empty());
    let answer = gate.send(request.unwrap()).await.unwrap();
    assert_eq!(answer.status(), 503);
    assert_eq!(read(answer).await, "down", "the upstream's own words");
    assert_eq!(upstream.requests() - before, 3);
}

#[tokio::test]
async fn what_may_not_be_repeated_is_not() {
    let upstream = Upstream::start(|_| async { text(500, "") }).await;
    let gate = Gate::new(&[]);
    let (answer, told) = gate.told(post(&upstream.url("/"), "order")).await;
    assert_eq!(answer.unwrap().status(), 500);
    assert_eq!(upstream.requests(), 1);
    assert!(told.iter().any(|line| line.contains("must not be repeated")), "{told:?}");
    let mut keyed = post(&upstream.url("/"), "order");
    keyed.headers_mut().insert("idempotency-key", "\"k1\"".parse().unwrap());
    keyed.headers_mut().insert("tidegate-policy", "retries=1".parse().unwrap());
    gate.send(keyed).await.unwrap();
    assert_eq!(upstream.requests(), 3);
}

#[tokio::test]
async fn partitions_do_not_wait_for_each_other() {
    let upstream = Upstream::start(|_| async { text(200, "") }).await;
    let gate = Arc::new(Gate::new(&[]));
    gate.configure(&[(
        "mock",
        json!({"match": upstream.url(""), "split_by": ["header:authorization", "body:/model"],
               "limits": [{"quota": 1, "per": "30s"}]}),
    )]);
    let send = |key: &str, model: &str| {
        let request = Request::post(upstream.url("/"))
            .header("authorization", format!("Bearer {key}"))
            .header("prefer", "wait=5")
            .body(body::full(format!(r#"{{"model": "{model}"}}"#)))
            .unwrap();
        gate.send(request)
    };
    assert_eq!(send("a", "m1").await.unwrap().status(), 200);
    assert_eq!(send("b", "m1").await.unwrap().status(), 200);
    assert_eq!(send("a", "m2").await.unwrap().status(), 200);
    assert_eq!(send("a", "m1").await.unwrap().status(), 429);
    let state = gate.state();
    let partitions = state["destinations"][0]["partitions"].as_array().unwrap();
    assert_eq!(partitions.len(), 3);
    assert!(!state.to_string().contains("Bearer"), "{state}");
}

#[tokio::test]
async fn a_call_given_up_in_the_queue_leaves_nothing_behind() {
    let upstream = Upstream::start(|_| async { text(200, "") }).await;
    let gate = Arc::new(Gate::new(&[]));
    gate.configure(&[("mock", json!({"match": upstream.url(""), "limits": [{"quota": 1, "per": "30s"}]}))]);
    gate.get(&upstream.url("/")).await.unwrap();
    let queued = |gate: &Gate| gate.state()["destinations"][0]["partitions"][0]["queue"]["calls"].as_u64();
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let (gate, url) = (Arc::clone(&gate), upstream.url("/"));
            tokio::spawn(async move { gate.get(&url).await.map(|_| ()) })
        })
        .collect();
    until("one waits, the others can't make it", || queued(&gate) == Some(1)).await;
    waiting.iter().for_each(|call| call.abort());
    until("the queue is empty", || queued(&gate) == Some(0)).await;
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

/// An upstream that allows `rate` a second with a burst of `burst`, and says by what header when there is room again.
async fn limited(rate: f64, burst: f64, header: Option<&'static str>) -> (Upstream, Arc<AtomicUsize>) {
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    let bucket = parking_lot::Mutex::new((burst, Instant::now()));
    let upstream = Upstream::start(move |_| {
        let wait = {
            let mut bucket = bucket.lock();
            let now = Instant::now();
            bucket.0 = (bucket.0 + now.duration_since(bucket.1).as_secs_f64() * rate).min(burst);
            bucket.1 = now;
            if bucket.0 >= 1.0 {
                bucket.0 -= 1.0;
                None
            } else {
                Some((1.0 - bucket.0) / rate)
            }
        };
        if wait.is_some() {
            count.fetch_add(1, Ordering::SeqCst);
        }
        async move {
            match (wait, header) {
                (None, _) => text(200, ""),
                (Some(_), None) => text(429, ""),
                (Some(wait), Some(header)) => {
                    let mut response = text(429, "");
                    let unit = if header == "retry-after" { 1.0 } else { 1e3 };
                    let wait = (wait * unit).ceil() as u64;
                    response.headers_mut().insert(header, wait.to_string().parse().unwrap());
                    response
                }
            }
        }
    })
    .await;
    (upstream, refused)
}

async fn hundred_at_once(upstream: &Upstream) {
    let gate = Arc::new(Gate::new(&[]));
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let (gate, url) = (Arc::clone(&gate), upstream.url("/"));
            tokio::spawn(async move { gate.send(post(&url, "x")).await.unwrap().status() })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), 200);
    }
}

#[tokio::test]
async fn a_hundred_at_once_towards_an_unknown_limit_all_succeed_with_few_refusals() {
    let (upstream, refused) = limited(50.0, 5.0, Some("retry-after-ms")).await;
    hundred_at_once(&upstream).await;
    let refused = refused.load(Ordering::SeqCst);
    println!("{refused} refusals for 100 calls with a hint");
    assert!(refused < 18, "{refused} refusals for 100 calls");
}

#[tokio::test]
async fn a_hundred_at_once_towards_bare_429s_all_succeed() {
    let (upstream, refused) = limited(50.0, 5.0, None).await;
    hundred_at_once(&upstream).await;
    println!("{} refusals for 100 calls without a hint", refused.load(Ordering::SeqCst));
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

#[tokio::test]
async fn a_call_that_comes_back_follows_the_limits_of_now() {
    // While its first attempt is out, the limit is lifted. When it asks again it must not bring the old limit along.
    let upstream = Upstream::start({
        let count = AtomicUsize::new(0);
        move |_| {
            let first = count.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                if first {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    refusal("0.1")
                } else {
                    text(200, "")
                }
            }
        }
    })
    .await;
    let gate = Arc::new(Gate::new(&[]));
    let config = |quota: u64| json!({"match": upstream.url(""), "limits": [{"quota": quota, "per": "30s"}]});
    gate.configure(&[("mock", config(1))]);
    let call = tokio::spawn({
        let (gate, url) = (Arc::clone(&gate), upstream.url("/"));
        async move { gate.get(&url).await.unwrap().status() }
    });
    until("the first was sent", || upstream.requests() == 1).await;
    gate.configure(&[("mock", config(30_000))]);
    assert_eq!(tokio::time::timeout(Duration::from_secs(2), call).await.unwrap().unwrap(), 200);
    let limits = gate.state()["destinations"][0]["partitions"][0]["limits"].clone();
    assert_eq!(limits, json!(["30000 requests per 30s"]));
}

#[tokio::test]
async fn more_busy_destinations_than_the_node_remembers_are_told_so() {
    let upstream = Upstream::start(|_| async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        text(200, "")
    })
    .await;
    let other = Upstream::start(|_| async { text(200, "") }).await;
    let parts = tidegate::outbound::DoorParts { shards: 1, ..Default::default() };
    let gate = Arc::new(Gate::with(&["--max-actors=1"], parts));
    let call = tokio::spawn({
        let (gate, url) = (Arc::clone(&gate), upstream.url("/"));
        async move { gate.get(&url).await.unwrap().status() }
    });
    until("it is under way", || upstream.requests() == 1).await;
    let answer = gate.get(&other.url("/")).await.unwrap();
    assert_eq!(answer.status(), 503);
    let problem: serde_json::Value = serde_json::from_str(&read(answer).await).unwrap();
    assert_eq!((problem["setting"].as_str(), problem["value"].as_str()), (Some("max_actors"), Some("1")));
    assert_eq!(call.await.unwrap(), 200);
    assert_eq!(gate.get(&other.url("/")).await.unwrap().status(), 200, "an idle one makes room");
}

#[tokio::test]
async fn a_full_queue_is_told_so() {
    let upstream = Upstream::start(|_| async { text(200, "") }).await;
    let gate = Arc::new(Gate::new(&["--queue-calls=2"]));
    gate.configure(&[("mock", json!({"match": upstream.url(""), "limits": [{"quota": 1, "per": "2s"}]}))]);
    gate.get(&upstream.url("/")).await.unwrap();
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let (gate, url) = (Arc::clone(&gate), upstream.url("/"));
            tokio::spawn(async move { gate.get(&url).await.map(|_| ()) })
        })
        .collect();
    until("two wait", || gate.state()["destinations"][0]["partitions"][0]["queue"]["calls"] == 2).await;
    let answer = gate.get(&upstream.url("/")).await.unwrap();
    assert_eq!(answer.status(), 429);
    assert!(read(answer).await.contains(r#""setting":"queue_calls""#));
    waiting.iter().for_each(|call| call.abort());
}

/// The numbers that people will see with `tidegate mock-llm --limit 10/s`.
#[tokio::test]
#[ignore = "takes a minute"]
async fn a_hundred_at_once_towards_ten_a_second() {
    for (burst, header) in [(1.0, Some("retry-after-ms")), (10.0, Some("retry-after")), (1.0, None), (10.0, None)] {
        let (upstream, refused) = limited(10.0, burst, header).await;
        let begin = Instant::now();
        hundred_at_once(&upstream).await;
        let refused = refused.load(Ordering::SeqCst);
        println!("burst {burst}, {header:?}: {refused} refusals, {:.1?}", begin.elapsed());
    }
}
