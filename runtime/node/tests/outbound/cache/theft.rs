//! Nobody gets what was stored for somebody else.

use serde_json::json;

use super::*;

/// An upstream that answers with whatever says who asks, and lets everything be stored.
async fn telling() -> Upstream {
    Upstream::start(|request| async move {
        let said = format!("{:?} {}", request.headers(), request.uri());
        answer(200, &[("cache-control", "public, max-age=600")], &said)
    })
    .await
}

#[tokio::test]
async fn answers_are_never_shared_across_credentials_of_whatever_name() {
    let upstream = telling().await;
    let gate = caching(&upstream, json!({"enabled": true, "ignore_headers": ["x-number"]})).await;
    let names =
        ["authorization", "cookie", "x-api-key", "api-key", "x-goog-api-key", "x-auth-token", "x-nobody-knows-it"];
    for name in names {
        let url = upstream.url(&format!("/{name}"));
        let mine = fetch_get(&gate, &url, &[(name, "mine")]).await;
        assert!(mine.text.contains("mine"));
        for theirs in [
            &[][..],
            &[(name, "theirs")],
            &[(name, "")],
            &[(name, "mine"), (name, "theirs")],
            &[(name, "MINE")],
            &[(name, "theirs-2"), ("cache-control", "max-stale")],
            &[(name, "theirs-3"), ("if-none-match", "*")],
            &[(name, "theirs-4"), ("x-number", "mine")],
        ] {
            let got = fetch_get(&gate, &url, theirs).await;
            assert!(
                !got.text.contains("\"mine\"") || theirs.iter().any(|(_, value)| *value == "mine"),
                "{theirs:?} {}",
                got.text
            );
            assert!(got.cache.starts_with("fwd"), "{name} {theirs:?} {}", got.cache);
        }
        assert!(fetch_get(&gate, &url, &[(name, "mine"), ("x-number", "2")]).await.cache.starts_with("hit"), "{name}");
        let only = [(name, "thieves"), ("cache-control", "only-if-cached")];
        assert_eq!(fetch_get(&gate, &url, &only).await.status, 504, "{name}");
    }
}

#[tokio::test]
async fn a_key_in_the_query_is_a_part_of_what_is_asked_for() {
    let upstream = telling().await;
    let gate = enabled(&upstream).await;
    fetch_get(&gate, &upstream.url("/a?key=mine"), &[]).await;
    for path in ["/a", "/a?", "/a?key=theirs", "/a?KEY=mine", "/a?key=mine&", "/a%3Fkey=mine"] {
        let got = fetch_get(&gate, &upstream.url(path), &[]).await;
        assert!(got.cache.starts_with("fwd"), "{path} {}", got.cache);
    }
    assert!(fetch_get(&gate, &upstream.url("/a?key=mine"), &[]).await.cache.starts_with("hit"));
}

#[tokio::test]
async fn what_splits_the_destination_tells_requests_apart_whatever_else_is_said_of_it() {
    let upstream = telling().await;
    let gate = gate(&[]).await;
    let cache = json!({"enabled": true, "ignore_headers": ["x-team", "user-agent"]});
    let splits = json!(["header:x-team", "header:user-agent"]);
    gate.configure(&[("mock", json!({"match": upstream.url(""), "split_by": splits, "cache": cache}))]);
    for name in ["x-team", "user-agent"] {
        fetch_get(&gate, &upstream.url("/"), &[(name, "mine")]).await;
        let got = fetch_get(&gate, &upstream.url("/"), &[(name, "theirs")]).await;
        assert!(got.cache.starts_with("fwd"), "{}", got.cache);
    }
}

#[tokio::test]
async fn a_tenants_answers_are_its_own() {
    let upstream = telling().await;
    let first = gate(&[]).await;
    let (gate, mut state) = two_tenants(&first, &upstream);
    fetch_get(&first, &upstream.url("/"), &[]).await;
    assert!(fetch_get(&gate, &upstream.url("/"), &[]).await.cache.starts_with("fwd"));
    assert!(fetch_get(&gate, &upstream.url("/"), &[]).await.cache.starts_with("hit"));
    // So are the counts of them, whatever a destination of another is called, and over a change of its configuration.
    let counted = |gate: &Gate| {
        let counts = gate.state()["destinations"][0]["cache"].clone();
        (counts["miss"].as_u64().unwrap(), counts["hit"].as_u64().unwrap())
    };
    assert_eq!(counted(&gate), (1, 1));
    let key = (gate.sender.tenant.clone(), "mock".into());
    let mut changed = DestinationRecord::clone(&state.destinations[&key]);
    changed.config =
        Arc::new(DestinationConfig { max_concurrency: Some(5), ..DestinationConfig::clone(&changed.config) });
    state.destinations.insert(key, Arc::new(changed));
    gate.door.configure(&state);
    assert_eq!(counted(&gate), (1, 1));
    assert_eq!(counted(&first), (1, 0));
}

#[tokio::test]
async fn a_cookie_that_is_set_reaches_one_client_only() {
    let upstream = counting(&[("cache-control", "public, max-age=600"), ("set-cookie", "session=1")]).await;
    let gate = enabled(&upstream).await;
    for number in ["0", "1"] {
        assert_eq!(fetch_get(&gate, &upstream.url("/"), &[]).await.text, number);
    }
}

#[tokio::test]
async fn a_host_that_may_not_be_sent_to_is_not_answered_from_the_cache_either() {
    let upstream = telling().await;
    let gate = enabled(&upstream).await;
    fetch_get(&gate, &upstream.url("/"), &[]).await;
    let gate = gate.function(&["elsewhere.test"]);
    assert_eq!(fetch_get(&gate, &upstream.url("/"), &[]).await.status, 403);
}
