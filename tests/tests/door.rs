//! The gate between callers and upstreams: pace, pauses, repeats, deadlines.

use std::time::{Duration, Instant};

use futures::future::join_all;
use http::Method;
use serde_json::json;
use tidegate_tests::{Answer, Client, Gate, Limit, TOKEN, Upstream, text};

/// Sends `count` requests through `/to` at once.
async fn to_at_once(gate: &Gate, upstream: &Upstream, count: usize) -> Vec<Answer> {
    let client = Client::default();
    let calls = (0..count).map(|number| {
        let client = client.clone();
        let request = gate.request(Method::GET, &format!("/to/{}", upstream.url(&format!("/{number}"))), "");
        async move { client.send(request).await }
    });
    join_all(calls).await
}

/// Invokes a guest `count` times at once; each makes one call.
async fn guests_at_once(gate: &Gate, upstream: &Upstream, count: usize) -> Vec<Answer> {
    let calls = (0..count).map(|number| {
        let path = format!("/f/misbehave/fetch?url={}", upstream.url(&format!("/{number}")));
        async move { gate.get(&path).await }
    });
    join_all(calls).await
}

/// The upstream's 200 reached every caller, through a guest or not.
fn assert_all_fine(answers: &[Answer]) {
    for answer in answers {
        let fine = answer.status == 200 && matches!(answer.header("x-upstream-status"), "" | "200");
        assert!(fine, "{} {:?} {}", answer.status, answer.headers, answer.text());
    }
}

const TEN: Limit = Limit::Sliding { count: 10, per: Duration::from_secs(1) };

async fn gate_with_guest() -> Gate {
    let gate = Gate::serve().start().await;
    gate.deploy(
        "misbehave",
        json!({"allowed_hosts": ["127.0.0.1:*"], "policy": {"deadline": "60s"}, "limits": {"wall": "60s"}}),
    )
    .await;
    gate
}

#[tokio::test]
async fn with_the_limit_configured_nothing_is_refused_and_the_pace_explains_each_wait() {
    for from_guests in [false, true] {
        let upstream = Upstream::limited(TEN, Some("1"), Duration::from_millis(20)).await;
        let gate = gate_with_guest().await;
        gate.destination(
            "ten",
            json!({"match": upstream.url(""), "limits": [{"unit": "requests", "quota": 10, "per": "1s"}]}),
        )
        .await;
        let started = Instant::now();
        let answers = if from_guests {
            guests_at_once(&gate, &upstream, 100).await
        } else {
            to_at_once(&gate, &upstream, 100).await
        };
        let took = started.elapsed();
        assert_all_fine(&answers);
        assert_eq!(upstream.count(429), 0);
        assert_eq!(upstream.seen().len(), 100, "each was sent once");
        // 99 departures at 100.3 ms each.
        assert!(took > Duration::from_secs(9) && took < Duration::from_millis(11_500), "{took:?}");
    }
}

#[tokio::test]
async fn with_nothing_configured_a_429_with_retry_after_teaches_the_pace() {
    for from_guests in [false, true] {
        let upstream = Upstream::limited(TEN, Some("1"), Duration::from_millis(20)).await;
        let gate = gate_with_guest().await;
        let answers = if from_guests {
            guests_at_once(&gate, &upstream, 100).await
        } else {
            to_at_once(&gate, &upstream, 100).await
        };
        assert_all_fine(&answers);
        let (refused, all) = (upstream.count(429), upstream.seen().len());
        assert!(refused * 100 < all * 15, "{refused} of {all} were refused");
    }
}

#[tokio::test]
async fn bare_429s_are_survived_too() {
    let upstream = Upstream::limited(TEN, None, Duration::from_millis(20)).await;
    let gate = gate_with_guest().await;
    let answers = to_at_once(&gate, &upstream, 100).await;
    assert_all_fine(&answers);
}

#[tokio::test]
async fn a_call_that_can_not_make_its_deadline_is_told_at_once() {
    let upstream = Upstream::answering("hello").await;
    let gate = Gate::serve().start().await;
    gate.destination(
        "slow",
        json!({"match": upstream.url(""), "limits": [{"unit": "requests", "quota": 6, "per": "1m", "burst": 1}]}),
    )
    .await;
    assert_eq!(gate.get(&format!("/to/{}", upstream.url("/"))).await.status, 200);
    let mut request = gate.request(Method::GET, &format!("/to/{}", upstream.url("/")), "");
    request.headers_mut().insert("tidegate-policy", "deadline=2".parse().unwrap());
    let answer = gate.client.send(request).await;
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert!(answer.took < Duration::from_millis(500), "{:?}", answer.took);
    assert_eq!(answer.problem(), "deadline-unreachable");
    let after: u64 = answer.header("retry-after").parse().unwrap();
    assert!((8..=12).contains(&after), "{after}");
    assert!(answer.header("proxy-status").contains("tidegate"));
}

#[tokio::test]
async fn a_server_error_is_repeated_only_where_that_is_allowed() {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };
    let fails = |times: usize| {
        let count = Arc::new(AtomicUsize::new(0));
        Upstream::scripted(move |_| {
            let count = Arc::clone(&count);
            async move {
                match count.fetch_add(1, Ordering::SeqCst) {
                    n if n < times => text(503, "not now"),
                    _ => text(200, "fine"),
                }
            }
        })
    };
    let gate = Gate::serve().start().await;
    let upstream = fails(2).await;
    assert_eq!(gate.get(&format!("/to/{}", upstream.url("/"))).await.status, 200, "GET may be repeated");
    assert_eq!(upstream.seen().len(), 3);

    let upstream = fails(1).await;
    let answer = gate.post(&format!("/to/{}", upstream.url("/")), "once").await;
    assert_eq!(
        (answer.status.as_u16(), answer.text().as_str()),
        (503, "not now"),
        "POST may not, its answer is passed on"
    );
    assert_eq!(upstream.seen().len(), 1);

    let upstream = fails(1).await;
    let mut request = gate.request(Method::POST, &format!("/to/{}", upstream.url("/")), "keyed");
    request.headers_mut().insert("idempotency-key", "\"k1\"".parse().unwrap());
    assert_eq!(gate.client.send(request).await.status, 200, "with a key it may");
    let keys: Vec<_> = upstream.seen().iter().map(|seen| seen.headers["idempotency-key"].clone()).collect();
    assert_eq!(keys, ["\"k1\"", "\"k1\""]);

    let upstream = fails(100).await;
    let answer = gate.get(&format!("/to/{}", upstream.url("/"))).await;
    assert_eq!((answer.status.as_u16(), upstream.seen().len()), (503, 4), "four attempts, then the last answer");
}

#[tokio::test]
async fn connections_to_an_upstream_are_no_more_than_the_calls_at_once() {
    let upstream = Upstream::scripted(|_| async {
        tokio::time::sleep(Duration::from_millis(2)).await;
        text(200, "ok")
    })
    .await;
    let gate = Gate::serve().start().await;
    gate.destination("d", json!({"match": upstream.url(""), "max_concurrency": 8})).await;
    for _ in 0..10 {
        assert!(to_at_once(&gate, &upstream, 50).await.iter().all(|answer| answer.status == 200));
    }
    assert!(upstream.connections() <= 8, "{} connections for 8 calls at once", upstream.connections());
}

#[tokio::test]
async fn addresses_are_guarded_whatever_the_name_looks_like() {
    // No --egress-allow for anything but 127.0.0.0/8: everything else that is not public stays closed.
    let gate = Gate::serve().start().await;
    for host in [
        "http://10.0.0.1/",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest",
        "http://172.16.0.1/",
        "http://0.0.0.0/",
        "http://[::1]/",
        "http://[fdaa::3]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[64:ff9b::a00:1]/",
        "http://100.64.0.1/",
        "http://app.internal/",
        "http://app.flycast/",
        "http://167772161/",
        "http://0x0a.0.0.1/",
        "http://012.0.0.1/",
    ] {
        let answer = gate.get(&format!("/to/{host}")).await;
        assert_eq!(answer.status, 403, "{host}: {}", answer.text());
        assert_eq!(answer.problem(), "address-denied", "{host}: {}", answer.text());
        assert_eq!(answer.json()["setting"], "egress_allow", "{host}");
    }
}

#[tokio::test]
async fn a_host_that_is_not_allowed_is_denied_with_the_line_to_paste() {
    let upstream = Upstream::answering("hello").await;
    let gate = Gate::serve().start().await;
    gate.deploy("misbehave", json!({"allowed_hosts": ["api.example.com"]})).await;
    let answer = gate.get(&format!("/f/misbehave/fetch?url={}", upstream.url("/"))).await;
    assert!(answer.text().contains("host-denied"), "{}", answer.text());
    assert!(answer.text().contains("allowed_hosts = ["), "{}", answer.text());
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn what_leaves_at_to_is_the_callers_request_and_nothing_of_ours() {
    let upstream = Upstream::answering("hello").await;
    let gate = Gate::serve().start().await;
    let request = http::Request::builder()
        .method(Method::POST)
        .uri(gate.url(&format!("/to/{}?a=1&b=%2F", upstream.url("/v1/x%20y"))))
        .header("tidegate-token", TOKEN)
        .header("authorization", "Bearer sk-of-the-caller")
        .header("x-own", "kept")
        .body(http_body_util::Full::new("{}".into()))
        .unwrap();
    assert_eq!(gate.client.send(request).await.status, 200);
    let seen = upstream.seen().remove(0);
    assert_eq!(seen.path, "/v1/x%20y?a=1&b=%2F");
    assert_eq!(seen.headers["authorization"], "Bearer sk-of-the-caller");
    assert_eq!(seen.headers["x-own"], "kept");
    assert_eq!(seen.headers["host"], upstream.address());
    assert!(seen.headers.keys().all(|name| !name.as_str().starts_with("tidegate")), "{:?}", seen.headers);
}

#[tokio::test]
async fn who_follows_a_redirect_of_the_upstream_stays_on_the_gate() {
    let upstream = Upstream::scripted(|request| async move {
        let host = request.headers()["host"].to_str().unwrap();
        let location = match request.uri().path() {
            "/absolute" => format!("http://{host}/there?a=%2f"),
            "/path" => "/there".to_owned(),
            "/near" => "there".to_owned(),
            "/elsewhere" => "https://elsewhere.example/there".to_owned(),
            _ => return text(200, "arrived"),
        };
        let mut answer = text(302, "");
        answer.headers_mut().insert("location", location.parse().unwrap());
        answer
    })
    .await;
    let gate = Gate::serve().start().await;
    gate.destination("up", json!({"match": upstream.url("")})).await;
    for mount in [format!("/to/{}", upstream.url("")), "/to/up".to_owned()] {
        for (path, expected) in [
            ("/absolute", format!("{mount}/there?a=%2f")),
            ("/path", format!("{mount}/there")),
            ("/near", "there".to_owned()),
            ("/elsewhere", "https://elsewhere.example/there".to_owned()),
        ] {
            let answer = gate.get(&format!("{mount}{path}")).await;
            assert_eq!((answer.status.as_u16(), answer.header("location")), (302, expected.as_str()), "{mount}{path}");
            if expected.starts_with('/') {
                assert_eq!(gate.get(&expected).await.text(), "arrived");
            }
        }
    }
}
