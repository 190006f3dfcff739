//! Configured limits: pace, slots, partitions, the queue and its bounds.

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
use tidegate::body;

use crate::support::*;

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
