//! Refusals and failures: pauses, want of credit, repetitions.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::Request;
use tidegate::body;

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
    assert_eq!(told.iter().filter(|line| line.contains("tried again in ")).count(), 2, "{told:?}");
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
async fn a_503_that_names_a_wait_pauses_and_repeats_only_what_may_be() {
    let upstream = Upstream::start({
        let count = AtomicUsize::new(0);
        move |_| {
            let number = count.fetch_add(1, Ordering::SeqCst);
            async move {
                let mut answer = if number.is_multiple_of(2) { text(503, "soon") } else { text(200, "up") };
                answer.headers_mut().insert("retry-after-ms", "200".parse().unwrap());
                answer
            }
        }
    })
    .await;
    let gate = Gate::new(&[]);
    assert_eq!(gate.get(&upstream.url("/")).await.unwrap().status(), 200, "waited for");
    assert_eq!(upstream.requests(), 2);
    let (answer, told) = gate.told(post(&upstream.url("/"), "order")).await;
    let answer = answer.unwrap();
    assert_eq!((answer.status(), upstream.requests()), (503.try_into().unwrap(), 3));
    assert_eq!(answer.headers()["retry-after-ms"], "200", "the sender may decide");
    assert!(told.iter().any(|line| line.contains("must not be repeated")), "{told:?}");
    // A request that comes now waits for the end of the pause.
    let before = std::time::Instant::now();
    gate.get(&upstream.url("/")).await.unwrap();
    assert!(before.elapsed() >= Duration::from_millis(100), "{:?}", before.elapsed());
}
