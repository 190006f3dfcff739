//! Calls that fail for a reason of their own, and destinations that fail for everybody.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::Request;
use serde_json::json;
use tidegate::body;

use crate::support::*;

#[tokio::test]
async fn calls_that_fail_for_a_reason_of_their_own_stop_nobody_else() {
    for status in [504, 429] {
        let upstream = Upstream::start(move |request| {
            let bad = request.uri().path() == "/bad";
            async move { text(if bad { status } else { 200 }, "") }
        })
        .await;
        let gate = Arc::new(Gate::new(&[]));
        let over = Arc::new(AtomicBool::new(false));
        let healthy: Vec<_> = (0..8)
            .map(|_| {
                let (gate, url, over) = (Arc::clone(&gate), upstream.url("/good"), Arc::clone(&over));
                tokio::spawn(async move {
                    let mut longest = Duration::ZERO;
                    while !over.load(Ordering::SeqCst) {
                        let began = Instant::now();
                        assert_eq!(gate.get(&url).await.unwrap().status(), 200);
                        longest = longest.max(began.elapsed());
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    longest
                })
            })
            .collect();
        until("the healthy ones are under way", || upstream.requests() > 40).await;
        let bad: Vec<_> = (0..3)
            .map(|_| {
                let (gate, url) = (Arc::clone(&gate), upstream.url("/bad"));
                tokio::spawn(async move { gate.get(&url).await.unwrap().status().as_u16() })
            })
            .collect();
        for call in bad {
            assert_eq!(tokio::time::timeout(Duration::from_secs(30), call).await.unwrap().unwrap(), status);
        }
        over.store(true, Ordering::SeqCst);
        for caller in healthy {
            let longest = caller.await.unwrap();
            assert!(longest < Duration::from_secs(4), "{status}: a healthy call took {longest:?}");
        }
    }
}

#[tokio::test]
async fn a_call_that_failed_is_answered_with_its_failure_at_its_deadline_and_not_with_a_429() {
    let (fails, came) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let upstream = Upstream::start({
        let (fails, came) = (Arc::clone(&fails), Arc::clone(&came));
        move |_| {
            let (fails, came) = (fails.load(Ordering::SeqCst), Arc::clone(&came));
            async move {
                if !fails {
                    return text(200, "");
                }
                // One that comes when the others have failed already is refused and has no failure to tell of.
                came.fetch_add(1, Ordering::SeqCst);
                until("all calls are under way", || came.load(Ordering::SeqCst) >= 4).await;
                text(504, "")
            }
        }
    })
    .await;
    let gate = Arc::new(Gate::new(&[]));
    gate.get(&upstream.url("/")).await.unwrap();
    fails.store(true, Ordering::SeqCst);
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let gate = Arc::clone(&gate);
            let request = Request::get(upstream.url("/")).header("prefer", "wait=2").body(body::empty()).unwrap();
            tokio::spawn(async move { gate.send(request).await.unwrap() })
        })
        .collect();
    for call in calls {
        let answer = call.await.unwrap();
        // The upstream's own where the call was under way when it became clear, ours where it waited.
        if answer.status() == 504 {
            continue;
        }
        assert_eq!(answer.status(), 502);
        assert_eq!(answer.headers()["x-should-retry"], "false");
        let problem: serde_json::Value = serde_json::from_str(&read(answer).await).unwrap();
        assert_eq!(problem["type"], "/problems/upstream-failing");
        assert_eq!((&problem["setting"], &problem["status"]), (&"policy.deadline".into(), &502.into()));
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("answered 504; not sent again: "), "{detail}");
    }
}

#[tokio::test]
async fn completions_outlast_an_outage_of_which_the_upstream_tells() {
    for status in [503, 529] {
        let down = Arc::new(AtomicBool::new(false));
        let is_down = Arc::clone(&down);
        let upstream = Upstream::start(move |_| {
            let down = is_down.load(Ordering::SeqCst);
            async move { if down { text(status, "") } else { text(200, "{}") } }
        })
        .await;
        let gate = Arc::new(Gate::new(&[]));
        gate.configure(&[("llm", json!({"match": upstream.url(""), "profile": "openai"}))]);
        let ask = |gate: Arc<Gate>| {
            let mut request = post(&upstream.url("/v1/chat/completions"), "{}");
            request.headers_mut().insert("tidegate-policy", "deadline=60".parse().unwrap());
            async move { gate.told(request).await }
        };
        for _ in 0..5 {
            ask(Arc::clone(&gate)).await.0.unwrap();
        }
        down.store(true, Ordering::SeqCst);
        let asking: Vec<_> = (0..3).map(|_| tokio::spawn(ask(Arc::clone(&gate)))).collect();
        // Longer than four attempts take.
        tokio::time::sleep(Duration::from_secs(8)).await;
        down.store(false, Ordering::SeqCst);
        for asked in asking {
            let (answer, told) = asked.await.unwrap();
            assert_eq!(answer.unwrap().status(), 200, "{status}: {told:?}");
        }
    }
}

#[tokio::test]
async fn a_call_outlasts_a_failure_of_a_second_without_any_outage_being_known_of() {
    for status in [500, 502, 503, 504, 520, 529] {
        let began = Instant::now();
        let upstream = Upstream::start(move |_| async move {
            if began.elapsed() < Duration::from_millis(1_200) { text(status, "") } else { text(200, "{}") }
        })
        .await;
        let (answer, told) = Gate::new(&[]).told(get(&upstream.url("/"))).await;
        assert_eq!(answer.unwrap().status(), 200, "{status}: {told:?}");
    }
}
