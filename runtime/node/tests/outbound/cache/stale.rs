//! Stale answers: while they are asked for, and where asking fails.

use serde_json::json;

use super::*;

/// An upstream whose first answer is stale when it comes, and which then answers with this status.
async fn failing(headers: &'static [(&'static str, &'static str)], status: u16) -> Upstream {
    let count = Arc::new(AtomicUsize::new(0));
    Upstream::start(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move {
            match number {
                0 => answer(200, headers, "stored"),
                _ => answer(status, &[("retry-after", "30"), ("x-should-retry", "false")], "failed"),
            }
        }
    })
    .await
}

const STALE: &[(&str, &str)] = &[("cache-control", "max-age=10, stale-if-error=600"), ("age", "30")];

#[tokio::test]
async fn a_stale_answer_stands_in_for_one_that_fails_as_far_as_the_upstream_or_the_operator_allows() {
    let lenient = json!({"enabled": true, "stale_if_error": "10m"});
    let strict = json!({"enabled": true});
    for (headers, cache, status, asked, is) in [
        (STALE, &strict, 500, &[][..], 200),
        (STALE, &strict, 502, &[], 200),
        (STALE, &strict, 503, &[], 200),
        (STALE, &strict, 504, &[], 200),
        (STALE, &strict, 404, &[], 404),
        (STALE, &strict, 501, &[], 501),
        (STALE, &strict, 500, &[("cache-control", "no-cache")], 500),
        (&[("cache-control", "max-age=10"), ("age", "30"), ("etag", "\"a\"")], &strict, 500, &[], 500),
        (&[("cache-control", "max-age=10"), ("age", "30")], &lenient, 500, &[], 200),
        (
            &[("cache-control", "max-age=10, must-revalidate"), ("age", "30"), ("etag", "\"a\"")],
            &lenient,
            500,
            &[],
            500,
        ),
        (&[("cache-control", "s-maxage=10"), ("age", "30"), ("etag", "\"a\"")], &lenient, 500, &[], 500),
        (&[("cache-control", "no-cache"), ("etag", "\"a\"")], &lenient, 500, &[], 500),
        (
            &[("cache-control", "max-age=10, stale-if-error=5"), ("age", "30"), ("etag", "\"a\"")],
            &lenient,
            500,
            &[],
            500,
        ),
    ] {
        let upstream = failing(headers, status).await;
        let gate = caching(&upstream, cache.clone()).await;
        let policy = ("tidegate-policy", "retries=0, deadline=2");
        fetch_get(&gate, &upstream.url("/"), &[]).await;
        let asked: Vec<_> = asked.iter().copied().chain([policy]).collect();
        let got = fetch_get(&gate, &upstream.url("/"), &asked).await;
        assert_eq!(got.status, is, "{headers:?} {cache} {status} {asked:?} {} {}", got.cache, got.text);
        if is == 200 {
            assert_eq!(got.text, "stored");
            assert!(got.cache.contains("ttl=-2") && got.cache.contains("detail="), "{}", got.cache);
            assert!(["30", "31", "32", "33"].contains(&got.headers["age"].to_str().unwrap()));
        }
    }
}

#[tokio::test]
async fn a_paused_destination_answers_from_the_cache_at_once_instead_of_refusing() {
    let upstream = failing(STALE, 429).await;
    let gate = enabled(&upstream).await;
    let url = upstream.url("/");
    fetch_get(&gate, &url, &[]).await;
    // Another path is refused, which pauses the destination.
    let refused = fetch_get(&gate, &upstream.url("/other"), &[("tidegate-policy", "deadline=1")]).await;
    assert_eq!(refused.status, 429);
    let before = upstream.requests();
    let (answer, trail) = gate.told(get(&url)).await;
    let answer = answer.unwrap();
    let status = answer.headers()["cache-status"].to_str().unwrap().to_owned();
    assert!(status.contains("Tidegate; hit; ttl=-2") && status.ends_with("detail=paused"), "{status}");
    assert_eq!((answer.status().as_u16(), read(answer).await.as_str()), (200, "stored"));
    assert!(trail.iter().any(|line| line.contains("stale for 2") && line.contains("paused")), "{trail:?}");
    assert_eq!(upstream.requests(), before);
}

#[tokio::test]
async fn a_call_that_would_be_refused_for_its_deadline_is_answered_from_the_cache() {
    let upstream = counting(STALE).await;
    let gate = gate(&[]).await;
    let limits = json!([{"quota": 1, "per": "1h"}]);
    gate.configure(&[("mock", json!({"match": upstream.url(""), "limits": limits, "cache": {"enabled": true}}))]);
    fetch_get(&gate, &upstream.url("/"), &[]).await;
    let got = fetch_get(&gate, &upstream.url("/"), &[("prefer", "wait=5")]).await;
    assert_eq!((got.status, got.text.as_str()), (200, "0"));
    assert!(
        got.cache.starts_with("fwd=stale; ttl=-2") && got.cache.ends_with("detail=stale-if-error"),
        "{}",
        got.cache
    );
    assert_eq!(fetch_get(&gate, &upstream.url("/other"), &[("prefer", "wait=5")]).await.status, 429);
    assert_eq!(upstream.requests(), 1);
}

#[tokio::test]
async fn an_upstream_that_is_gone_is_stood_in_for() {
    let upstream = counting(STALE).await;
    let gate = enabled(&upstream).await;
    let url = upstream.url("/");
    fetch_get(&gate, &url, &[]).await;
    drop(upstream);
    let got = fetch_get(&gate, &url, &[("tidegate-policy", "deadline=2, retries=0")]).await;
    assert_eq!((got.status, got.text.as_str()), (200, "0"), "{}", got.cache);
}

#[tokio::test]
async fn a_stale_answer_is_given_at_once_and_renewed_behind_it_once() {
    let count = Arc::new(AtomicUsize::new(0));
    let let_go = Arc::new(tokio::sync::Semaphore::new(0));
    let permits = Arc::clone(&let_go);
    let upstream = Upstream::start(move |request| {
        let (number, permits) = (count.fetch_add(1, Ordering::SeqCst), Arc::clone(&permits));
        async move {
            match number {
                0 => answer(
                    200,
                    &[("cache-control", "max-age=10, stale-while-revalidate=600"), ("age", "30"), ("etag", "\"a\"")],
                    "old",
                ),
                _ => {
                    assert_eq!(request.headers()["if-none-match"], "\"a\"");
                    assert_eq!(request.headers()["x-key"], "1");
                    permits.acquire().await.unwrap().forget();
                    answer(200, &[("cache-control", "max-age=600")], "new")
                }
            }
        }
    })
    .await;
    let gate = enabled(&upstream).await;
    let (url, key) = (upstream.url("/"), [("x-key", "1")]);
    fetch_get(&gate, &url, &key).await;
    for _ in 0..5 {
        let got = fetch_get(&gate, &url, &key).await;
        assert_eq!(got.text, "old");
        assert!(
            got.cache.starts_with("hit; ttl=-2") && got.cache.ends_with("detail=stale-while-revalidate"),
            "{}",
            got.cache
        );
    }
    until("it is asked for", || upstream.requests() == 2).await;
    let_go.add_permits(10);
    let begin = std::time::Instant::now();
    loop {
        let got = fetch_get(&gate, &url, &key).await;
        if got.text == "new" {
            assert!(got.cache == "hit; ttl=600" || got.cache.starts_with("hit; ttl=59"), "{}", got.cache);
            break;
        }
        assert!(begin.elapsed() < std::time::Duration::from_secs(5), "never renewed");
        // An answer from the cache waits for nobody, so nobody else would have a turn.
        tokio::task::yield_now().await;
    }
    assert_eq!(upstream.requests(), 2);
}
