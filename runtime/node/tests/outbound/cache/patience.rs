//! How long a call waits that a stale answer may stand in for: to the first thing that goes wrong, and for no pause.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

type Headers = &'static [(&'static str, &'static str)];

const STALE: Headers = &[("cache-control", "max-age=10, stale-if-error=600"), ("age", "30")];
const FRESH: Headers = &[("cache-control", "max-age=600")];

/// Far below every deadline, far above what an answer at once takes.
const SOON: Duration = Duration::from_secs(4);

/// What the upstream does with everything but its first request.
#[derive(Clone, Copy, Debug)]
enum Then {
    Answers(u16, Headers),
    Hangs,
}

async fn then(first: Headers, then: Then) -> Upstream {
    let count = Arc::new(AtomicUsize::new(0));
    Upstream::start(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move {
            match (number, then) {
                (0, _) => answer(200, first, "stored"),
                (_, Then::Answers(status, headers)) => answer(status, headers, "failed"),
                (_, Then::Hangs) => std::future::pending().await,
            }
        }
    })
    .await
}

fn soon<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    let soon = tokio::time::timeout(SOON, Box::pin(future));
    async move { soon.await.unwrap_or_else(|_| panic!("{what}: it waits")) }
}

fn is_stale(got: &Got, asked: &str, what: &str) {
    assert_eq!((got.status, got.text.as_str()), (200, "stored"), "{what}: {}", got.cache);
    assert!(got.cache.starts_with(asked) && got.cache.contains("; ttl=-2"), "{what}: {}", got.cache);
}

#[tokio::test]
async fn the_first_refusal_or_failure_ends_with_the_stale_answer_at_once() {
    for (status, headers) in [
        (429, &[][..]),
        (429, &[("retry-after", "5")]),
        (429, &[("retry-after", "300")]),
        (403, &[("retry-after", "5")]),
        (503, &[]),
        (503, &[("retry-after", "5")]),
        (529, &[]),
        (504, &[]),
        (520, &[]),
        (500, &[]),
    ] {
        let what = format!("{status} {headers:?}");
        let upstream = then(STALE, Then::Answers(status, headers)).await;
        let gate = enabled(&upstream).await;
        let url = upstream.url("/");
        fetch_get(&gate, &url, &[]).await;
        let got = soon(&what, fetch_get(&gate, &url, &[])).await;
        is_stale(&got, &format!("fwd=stale; fwd-status={status}; "), &what);
        assert!(got.cache.ends_with("; detail=stale-if-error"), "{}", got.cache);
        assert_eq!(upstream.requests(), 2, "{what}: nothing was tried again");
        // So it is for those who come behind it, until the upstream is well.
        for _ in 0..5 {
            is_stale(&soon(&what, fetch_get(&gate, &url, &[])).await, "", &what);
        }
        let head = soon(&what, fetch(&gate, Method::HEAD, &url, &[])).await;
        assert_eq!((head.status, head.text.as_str()), (200, ""), "{what}: {}", head.cache);
    }
}

#[tokio::test]
async fn what_no_stale_answer_may_stand_in_for_is_tried_again_as_ever() {
    let no_error: Headers = &[("cache-control", "max-age=10"), ("age", "30"), ("etag", "\"a\"")];
    for (first, status) in [(STALE, 408), (no_error, 500)] {
        let upstream = then(first, Then::Answers(status, &[])).await;
        let gate = enabled(&upstream).await;
        fetch_get(&gate, &upstream.url("/"), &[]).await;
        let got = fetch_get(&gate, &upstream.url("/"), &[("tidegate-policy", "retries=1")]).await;
        assert_eq!((got.status, upstream.requests()), (status, 3), "{}", got.cache);
    }
}

#[tokio::test]
async fn a_connection_that_is_closed_ends_with_the_stale_answer_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut first = true;
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            if std::mem::take(&mut first) {
                let head = "HTTP/1.1 200 OK\r\ncache-control: max-age=10, stale-if-error=600\r\nage: 30\r\n";
                let rest = "connection: close\r\ncontent-length: 6\r\n\r\nstored";
                let _ = stream.write_all(format!("{head}{rest}").as_bytes()).await;
            }
        }
    });
    let gate = gate(&[]).await;
    let url = format!("http://{address}");
    gate.configure(&[("mock", json!({"match": url, "cache": {"enabled": true}}))]);
    fetch_get(&gate, &url, &[]).await;
    for _ in 0..3 {
        is_stale(&soon("closed", fetch_get(&gate, &url, &[])).await, "", "closed");
    }
}

#[tokio::test]
async fn an_upstream_that_hangs_is_waited_for_within_cache_patience_and_asked_once_more_in_the_background() {
    let count = Arc::new(AtomicUsize::new(0));
    let upstream = Upstream::start(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move {
            match number {
                0 => answer(200, STALE, "stored"),
                1 => std::future::pending().await,
                _ => answer(200, FRESH, "new"),
            }
        }
    })
    .await;
    let gate = gate(&["--cache-patience=300ms"]).await;
    let url = upstream.url("/");
    gate.configure(&[("mock", json!({"match": upstream.url(""), "cache": {"enabled": true}}))]);
    fetch_get(&gate, &url, &[]).await;
    let began = Instant::now();
    let (answer, trail) = soon("hangs", gate.told(get(&url))).await;
    assert!(began.elapsed() >= Duration::from_millis(300));
    let answer = answer.unwrap();
    let said = answer.headers()["cache-status"].to_str().unwrap().to_owned();
    assert!(said.contains("fwd=stale; ttl=-2") && said.ends_with("; detail=stale-if-error"), "{said}");
    assert_eq!(read(answer).await, "stored");
    for line in ["it had 300 ms", "setting cache_patience", "in the background"] {
        assert!(trail.iter().any(|told| told.contains(line)), "{line}: {trail:?}");
    }
    until("it is asked for in the background", || upstream.requests() == 3).await;
    let new = async { while fetch_get(&gate, &url, &[]).await.text != "new" {} };
    soon("it is renewed", new).await;
    assert_eq!(upstream.requests(), 3);
}

#[tokio::test]
async fn the_window_of_a_stale_answer_does_not_pass_while_a_call_waits() {
    const SHORT: Headers = &[("cache-control", "max-age=10, stale-if-error=22"), ("age", "30")];
    for what in [Then::Hangs, Then::Answers(429, &[])] {
        let upstream = then(SHORT, what).await;
        let gate = enabled(&upstream).await;
        let url = upstream.url("/");
        fetch_get(&gate, &url, &[]).await;
        is_stale(&soon("its window", fetch_get(&gate, &url, &[])).await, "fwd=stale; ", &format!("{what:?}"));
    }
}

#[tokio::test]
async fn a_call_in_the_queue_waits_for_its_turn_and_not_for_a_pause() {
    let let_go = Arc::new(tokio::sync::Semaphore::new(0));
    let permits = Arc::clone(&let_go);
    let upstream = Upstream::start(move |request| {
        let permits = Arc::clone(&permits);
        async move {
            if request.uri().path() == "/slow" {
                permits.acquire().await.unwrap().forget();
                return answer(429, &[("retry-after", "8")], "refused");
            }
            answer(200, STALE, "stored")
        }
    })
    .await;
    let gate = Arc::new(gate(&[]).await);
    let config = json!({"match": upstream.url(""), "max_concurrency": 1, "cache": {"enabled": true}});
    gate.configure(&[("mock", config)]);
    let url = upstream.url("/");
    fetch_get(&gate, &url, &[]).await;
    let call = |url: String| {
        let gate = Arc::clone(&gate);
        tokio::spawn(async move { fetch_get(&gate, &url, &[]).await })
    };
    let slow = call(upstream.url("/slow"));
    until("the slow one is there", || upstream.requests() == 2).await;
    let waits = call(url.clone());
    until("the other waits", || gate.state()["destinations"][0]["partitions"][0]["queue"]["calls"] == 1).await;
    let_go.add_permits(1);
    is_stale(&soon("paused", waits).await.unwrap(), "fwd=stale; ttl", "paused");
    let got = soon("paused by now", fetch_get(&gate, &url, &[])).await;
    is_stale(&got, "hit; ttl", "paused by now");
    assert!(got.cache.ends_with("; detail=paused"), "{}", got.cache);
    assert_eq!(upstream.requests(), 2);
    slow.abort();
}

#[tokio::test]
async fn another_endpoint_is_asked_where_that_costs_no_wait() {
    // One call in 32 looks how another endpoint does, whatever its weight: that one shows nothing here.
    for _ in 0..5 {
        let (bad, good) = (then(STALE, Then::Answers(503, &[])).await, counting(FRESH).await);
        let gate = gate(&[]).await;
        let endpoints = json!([
            {"url": bad.url(""), "name": "bad", "weight": 1000}, {"url": good.url(""), "name": "good"},
        ]);
        let config = json!({"match": "http://api.example", "endpoints": endpoints, "cache": {"enabled": true}});
        gate.configure(&[("api", config)]);
        let url = "http://api.example/";
        if fetch_get(&gate, url, &[]).await.text != "stored" {
            continue;
        }
        let got = soon("elsewhere", fetch_get(&gate, url, &[])).await;
        assert_eq!((got.text.as_str(), got.cache.as_str()), ("0", "fwd=stale; stored"));
        assert_eq!(good.requests(), 1);
        if bad.requests() == 2 {
            return;
        }
    }
    panic!("the first endpoint was never asked again");
}

#[tokio::test]
async fn all_who_wait_for_one_that_fails_or_hangs_get_the_stale_answer_with_it() {
    for what in [Then::Answers(429, &[]), Then::Answers(503, &[("retry-after", "5")]), Then::Hangs] {
        let upstream = then(STALE, what).await;
        let gate = Arc::new(gate(&["--cache-patience=300ms"]).await);
        gate.configure(&[("mock", json!({"match": upstream.url(""), "cache": {"enabled": true}}))]);
        let url = upstream.url("/");
        fetch_get(&gate, &url, &[]).await;
        let calls: Vec<_> = (0..20)
            .map(|_| {
                let (gate, url) = (Arc::clone(&gate), url.clone());
                tokio::spawn(async move { fetch_get(&gate, &url, &[]).await })
            })
            .collect();
        for call in calls {
            is_stale(&soon("equal calls", call).await.unwrap(), "", &format!("{what:?}"));
        }
        // Whether it hangs still is asked in the background.
        let asked = if matches!(what, Then::Hangs) { 3 } else { 2 };
        until("all is asked", || upstream.requests() >= asked).await;
        assert_eq!(upstream.requests(), asked, "{what:?}");
    }
}

#[tokio::test]
async fn two_tenants_share_no_answer_be_it_fresh_or_stale_or_under_way() {
    let upstream = then(STALE, Then::Answers(429, &[])).await;
    let gate = gate(&[]).await;
    let (theirs, _) = two_tenants(&gate, &upstream);
    let url = upstream.url("/");
    fetch_get(&gate, &url, &[]).await;
    let hasty = [("tidegate-policy", "deadline=0.5")];
    let (own, other) = tokio::join!(fetch_get(&gate, &url, &hasty), fetch_get(&theirs, &url, &hasty));
    is_stale(&own, "fwd=stale; fwd-status=429; ", "its own");
    assert_eq!(other.status, 429, "{}", other.cache);
    assert!(other.cache.starts_with("fwd=miss") && !other.text.contains("stored"), "{} {}", other.cache, other.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_after_a_get_is_a_hit_each_time_however_soon_it_comes() {
    let upstream = Upstream::start(|_| async {
        let (sender, body) = channel_body();
        tokio::spawn(async move {
            for _ in 0..4 {
                let _ = sender.send("1234".into()).await;
                tokio::task::yield_now().await;
            }
        });
        let fresh = Response::builder().header("cache-control", "max-age=600").header("content-length", 16);
        fresh.body(body).unwrap()
    })
    .await;
    let gate = enabled(&upstream).await;
    for number in 0..200 {
        let url = upstream.url(&format!("/{number}"));
        let mut got = gate.get(&url).await.unwrap().into_body();
        // As a client does that knows the length.
        let mut left = 16;
        while left > 0 {
            let frame = http_body_util::BodyExt::frame(&mut got).await.unwrap().unwrap();
            left -= frame.into_data().unwrap().len();
        }
        for _ in 0..2 {
            let head = fetch(&gate, Method::HEAD, &url, &[]).await;
            assert!(head.cache.starts_with("hit"), "{number}: {}", head.cache);
            assert_eq!(head.headers["content-length"], "16");
        }
    }
    assert_eq!(upstream.requests(), 200);
}

#[tokio::test]
async fn nobody_waits_for_an_upstream_that_hangs_while_it_is_asked_again() {
    let upstream = then(STALE, Then::Hangs).await;
    let gate = gate(&["--cache-patience=500ms"]).await;
    gate.configure(&[("mock", json!({"match": upstream.url(""), "cache": {"enabled": true}}))]);
    let url = upstream.url("/");
    fetch_get(&gate, &url, &[]).await;
    is_stale(&soon("the first", fetch_get(&gate, &url, &[])).await, "fwd=stale; ", "the first");
    let began = Instant::now();
    for _ in 0..5 {
        let got = soon("those after it", fetch_get(&gate, &url, &[])).await;
        is_stale(&got, "hit; ", "those after it");
        assert!(got.cache.ends_with("; detail=late"), "{}", got.cache);
    }
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    until("it is asked again", || upstream.requests() == 3).await;
}
