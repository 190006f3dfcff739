//! Answers that are forgotten, and those that are there after a restart.

use std::{path::Path, sync::atomic::AtomicBool};

use serde_json::json;

use super::*;

fn purge(gate: &Gate, url: Option<&str>) -> bool {
    let uri = url.map(|url| url.parse().unwrap());
    gate.door.purge(&TenantId::default_tenant(), "mock", uri.as_ref()).unwrap()
}

#[tokio::test]
async fn a_destination_is_forgotten_or_one_url_of_it_for_everybody() {
    let upstream = counting(&[("cache-control", "public, max-age=600"), ("vary", "accept")]).await;
    let gate = enabled(&upstream).await;
    let (one, two) = (upstream.url("/one"), upstream.url("/two"));
    let forms: [&[(&str, &str)]; 3] = [&[], &[("authorization", "x")], &[("accept", "a")]];
    let fill = || async {
        for url in [&one, &two] {
            for form in forms {
                fetch_get(&gate, url, form).await;
            }
        }
    };
    let hits = |url: String| {
        let gate = &gate;
        async move {
            let mut hits = 0;
            for form in forms {
                let form: Vec<_> = form.iter().copied().chain([("cache-control", "only-if-cached")]).collect();
                hits += usize::from(fetch_get(gate, &url, &form).await.status == 200);
            }
            hits
        }
    };
    fill().await;
    // Forms stored before it was known that answers vary are not found; they are there the next time.
    fill().await;
    assert_eq!((hits(one.clone()).await, hits(two.clone()).await), (3, 3));
    assert!(purge(&gate, Some(&one)));
    assert_eq!((hits(one.clone()).await, hits(two.clone()).await), (0, 3));
    fill().await;
    assert!(purge(&gate, None));
    assert_eq!((hits(one.clone()).await, hits(two.clone()).await), (0, 0));
    assert!(!purge(&gate, Some("http://other.test/")));
    assert!(!gate.door.purge(&TenantId::default_tenant(), "nobody", None).unwrap());
}

#[tokio::test]
async fn what_was_on_its_way_when_it_was_forgotten_is_not_stored() {
    let (sender, body) = channel_body();
    let body = Arc::new(parking_lot::Mutex::new(Some(body)));
    let upstream = Upstream::start(move |_| {
        let body = body.lock().take().unwrap_or_else(|| body::full("new"));
        async move { http::Response::builder().header("cache-control", "max-age=60").body(body).unwrap() }
    })
    .await;
    let gate = enabled(&upstream).await;
    let url = upstream.url("/");
    sender.send("old".into()).await.unwrap();
    let answer = gate.get(&url).await.unwrap();
    assert!(purge(&gate, Some(&url)));
    drop(sender);
    assert_eq!(read(answer).await, "old");
    let got = fetch_get(&gate, &url, &[]).await;
    assert_eq!((got.text.as_str(), got.cache.as_str()), ("new", "fwd=miss; stored"));
}

async fn restarted(directory: &Path, upstream: &Upstream) -> (Gate, Arc<Cache>) {
    let flags = ["--cache-disk=16MiB"];
    let cache = Cache::open(&settings(&flags), Some(directory), CacheMetrics::default()).await.unwrap();
    let gate = Gate::with(&flags, DoorParts { cache: Some(Arc::clone(&cache)), ..DoorParts::default() });
    gate.configure(&[("mock", json!({"match": upstream.url(""), "cache": {"enabled": true}}))]);
    (gate, cache)
}

#[tokio::test]
async fn stored_answers_are_there_after_a_restart_and_forgotten_ones_are_not() {
    let upstream = counting(&[("cache-control", "max-age=600"), ("link", "<a>"), ("link", "<b>")]).await;
    let directory = tempfile::tempdir().unwrap();
    let (gate, cache) = restarted(directory.path(), &upstream).await;
    for path in ["/kept", "/forgotten"] {
        fetch_get(&gate, &upstream.url(path), &[("x-key", "1")]).await;
    }
    assert!(purge(&gate, Some(&upstream.url("/forgotten"))));
    cache.close().await;
    drop((gate, cache));

    let (gate, cache) = restarted(directory.path(), &upstream).await;
    let kept = fetch_get(&gate, &upstream.url("/kept"), &[("x-key", "1")]).await;
    assert!(kept.cache.starts_with("hit"), "{}", kept.cache);
    assert_eq!((kept.text.as_str(), kept.headers.get_all("link").iter().count()), ("0", 2));
    let only = [("x-key", "1"), ("cache-control", "only-if-cached")];
    assert_eq!(fetch_get(&gate, &upstream.url("/forgotten"), &only).await.status, 504);
    let theirs = [("x-key", "2"), ("cache-control", "only-if-cached")];
    assert_eq!(fetch_get(&gate, &upstream.url("/kept"), &theirs).await.status, 504);
    assert!(purge(&gate, None));
    cache.close().await;
    drop((gate, cache));

    let (gate, cache) = restarted(directory.path(), &upstream).await;
    assert_eq!(fetch_get(&gate, &upstream.url("/kept"), &only).await.status, 504);
    cache.close().await;
}

#[tokio::test]
async fn after_a_restart_a_head_is_a_hit_a_stale_answer_stands_in_and_another_tenant_has_neither() {
    let fails = Arc::new(AtomicBool::new(false));
    let failing = Arc::clone(&fails);
    let upstream = Upstream::start(move |request| {
        let fails = failing.load(Ordering::SeqCst);
        async move {
            match request.uri().path() {
                _ if fails => answer(429, &[("retry-after", "30")], "refused"),
                "/fresh" => answer(200, &[("cache-control", "max-age=600")], "fresh"),
                _ => answer(200, &[("cache-control", "max-age=10, stale-if-error=600"), ("age", "30")], "stale"),
            }
        }
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let (gate, cache) = restarted(directory.path(), &upstream).await;
    let (fresh, stale) = (upstream.url("/fresh"), upstream.url("/stale"));
    for url in [&fresh, &stale] {
        fetch_get(&gate, url, &[]).await;
    }
    cache.close().await;
    drop((gate, cache));
    fails.store(true, Ordering::SeqCst);

    let (gate, cache) = restarted(directory.path(), &upstream).await;
    let (theirs, _) = two_tenants(&gate, &upstream);
    for _ in 0..3 {
        let head = fetch(&gate, Method::HEAD, &fresh, &[]).await;
        assert_eq!((head.cache.starts_with("hit"), head.headers["content-length"].as_bytes()), (true, &b"5"[..]));
    }
    let stood_in = fetch_get(&gate, &stale, &[]).await;
    assert_eq!((stood_in.status, stood_in.text.as_str()), (200, "stale"), "{}", stood_in.cache);
    assert!(stood_in.cache.starts_with("fwd=stale; fwd-status=429; "), "{}", stood_in.cache);
    for url in [&fresh, &stale] {
        let got = fetch_get(&theirs, url, &[("tidegate-policy", "deadline=0.5")]).await;
        assert_eq!((got.status, got.cache.starts_with("fwd=miss")), (429, true), "{}", got.cache);
    }
    cache.close().await;
}

#[tokio::test]
async fn files_that_are_damaged_or_can_not_be_used_fail_no_request() {
    let upstream = counting(&[("cache-control", "max-age=600")]).await;
    let directory = tempfile::tempdir().unwrap();
    let (gate, cache) = restarted(directory.path(), &upstream).await;
    for number in 0..20 {
        fetch_get(&gate, &upstream.url(&format!("/{number}")), &[]).await;
    }
    cache.close().await;
    drop((gate, cache));
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.iter_mut().step_by(7).for_each(|byte| *byte ^= 0x55);
        std::fs::write(&path, bytes).unwrap();
    }
    let (gate, cache) = restarted(directory.path(), &upstream).await;
    for number in 0..20 {
        let got = fetch_get(&gate, &upstream.url(&format!("/{number}")), &[]).await;
        assert_eq!(got.status, 200);
        assert!(got.cache.starts_with("fwd"), "{}", got.cache);
    }
    cache.close().await;
    // A file is where the directory should be.
    let file = tempfile::NamedTempFile::new().unwrap();
    let (gate, _cache) = restarted(file.path(), &upstream).await;
    for is in ["fwd", "hit"] {
        assert!(fetch_get(&gate, &upstream.url("/a"), &[]).await.cache.starts_with(is));
    }
}
