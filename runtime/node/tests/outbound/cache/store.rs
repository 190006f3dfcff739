//! What is stored, and how a stored answer is given.

use http::Method;
use serde_json::json;

use super::*;

type Headers = &'static [(&'static str, &'static str)];

#[tokio::test]
async fn the_second_of_two_requests_is_answered_as_rfc_9111_has_it() {
    const FRESH: Headers = &[("cache-control", "max-age=60")];
    const TAGGED: Headers = &[("cache-control", "max-age=60"), ("etag", "\"a\"")];
    const OLD: Headers = &[("cache-control", "max-age=60"), ("age", "70"), ("x-v", "1"), ("last-modified", "x")];
    // Headers of the answers, of the first and second request, and what the cache did for the second.
    let table: &[(Headers, Headers, Headers, &str)] = &[
        (FRESH, &[], &[], "hit; ttl=59"),
        (&[("expires", "Thu, 01 Jan 2099 00:00:00 GMT")], &[], &[], "hit; ttl="),
        (&[("cache-control", "s-maxage=60, max-age=0")], &[], &[], "hit; ttl=59"),
        (&[], &[], &[], "fwd=miss"),
        (&[("cache-control", "no-store, max-age=60")], &[], &[], "fwd=miss"),
        (&[("cache-control", "Private, max-age=60")], &[], &[], "fwd=miss"),
        (&[("cache-control", "max-age=60"), ("set-cookie", "a=b")], &[], &[], "fwd=miss"),
        (&[("cache-control", "max-age=60"), ("vary", "*")], &[], &[], "fwd=miss"),
        (OLD, &[], &[], "fwd=stale; stored"),
        // What requests say.
        (FRESH, &[], &[("cache-control", "no-cache")], "fwd=request; stored"),
        (FRESH, &[], &[("pragma", "no-cache")], "fwd=request; stored"),
        (FRESH, &[], &[("cache-control", "min-fresh=61")], "fwd=request; stored"),
        (FRESH, &[], &[("cache-control", "max-age=30")], "hit; ttl=59"),
        (FRESH, &[("cache-control", "no-store")], &[], "fwd=miss; stored"),
        (OLD, &[], &[("cache-control", "max-stale=30")], "hit; ttl=-10; detail=max-stale"),
        (OLD, &[], &[("cache-control", "max-stale=5")], "fwd=stale; stored"),
        (FRESH, &[], &[("range", "bytes=0-1")], "fwd=bypass; detail=range"),
        (TAGGED, &[], &[("if-match", "\"a\"")], "fwd=bypass; detail=condition"),
        // Vary.
        (&[("cache-control", "max-age=60"), ("vary", "Accept")], &[("accept", "a")], &[("accept", "a")], "hit; ttl=59"),
        (
            &[("cache-control", "max-age=60"), ("vary", "Accept")],
            &[("accept", "a")],
            &[("accept", "b")],
            "fwd=miss; stored",
        ),
        (&[("cache-control", "max-age=60"), ("vary", "Accept")], &[("accept", "a")], &[], "fwd=miss; stored"),
        // The client's own conditions.
        (TAGGED, &[], &[("if-none-match", "W/\"a\"")], "hit; ttl=59"),
        (TAGGED, &[], &[("if-none-match", "\"b\"")], "hit; ttl=59"),
        // Who is known.
        (FRESH, &[("authorization", "x")], &[("authorization", "x")], "fwd=miss"),
        (
            &[("cache-control", "public, max-age=60")],
            &[("authorization", "x")],
            &[("authorization", "x")],
            "hit; ttl=59",
        ),
    ];
    for (answer, first, second, is) in table {
        let upstream = counting(answer).await;
        let gate = enabled(&upstream).await;
        let url = upstream.url("/a?b");
        fetch_get(&gate, &url, first).await;
        let got = fetch_get(&gate, &url, second).await;
        // Seconds may pass.
        let said = got.cache.replace("ttl=60", "ttl=59").replace("ttl=58", "ttl=59");
        assert!(
            said.starts_with(is) && (!is.ends_with("miss") || said == *is),
            "{answer:?} {first:?} {second:?}: {said}"
        );
        let hit = is.starts_with("hit");
        assert_eq!(upstream.requests(), if hit { 1 } else { 2 }, "{answer:?} {first:?} {second:?}");
        let not_modified = second.contains(&("if-none-match", "W/\"a\""));
        assert_eq!(got.status, if not_modified { 304 } else { 200 });
        assert_eq!(
            got.text,
            if not_modified {
                ""
            } else if hit {
                "0"
            } else {
                "1"
            }
        );
    }
}

#[tokio::test]
async fn an_answer_from_the_cache_has_all_headers_its_age_and_a_date() {
    let headers: Headers = &[
        ("cache-control", "max-age=60"),
        ("age", "5"),
        ("link", "<a>"),
        ("link", "<b>"),
        ("cache-status", "Other; hit"),
        ("content-type", "text/plain"),
        ("etag", "\"a\""),
    ];
    let upstream = counting(headers).await;
    let gate = enabled(&upstream).await;
    let url = upstream.url("/");
    fetch_get(&gate, &url, &[]).await;
    let got = fetch_get(&gate, &url, &[]).await;
    let lines = |name| got.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(lines("link"), ["<a>", "<b>"]);
    assert!(["5", "6"].contains(&lines("age")[0]) && lines("age").len() == 1, "{:?}", lines("age"));
    assert_eq!(lines("date").len(), 1);
    assert_eq!(lines("cache-status")[0], "Other; hit");
    assert_eq!(lines("cache-status").len(), 2);
    let head = fetch(&gate, Method::HEAD, &url, &[]).await;
    assert_eq!((head.status, head.text.as_str(), head.headers["content-length"].to_str().unwrap()), (200, "", "1"));
    let same = fetch_get(&gate, &url, &[("if-none-match", "\"a\"")]).await;
    assert_eq!((same.status, same.text.as_str(), same.headers.get("content-type")), (304, "", None));
    assert_eq!(same.headers["etag"], "\"a\"");
    assert_eq!(upstream.requests(), 1);
}

#[tokio::test]
async fn a_hit_costs_no_attempt_and_no_limit_and_is_told_in_the_trail_and_counted() {
    let upstream = counting(&[("cache-control", "max-age=60"), ("age", "12")]).await;
    let gate = gate(&[]).await;
    let limits = json!([{"quota": 1, "per": "1h"}]);
    gate.configure(&[("mock", json!({"match": upstream.url(""), "limits": limits, "cache": {"enabled": true}}))]);
    let url = upstream.url("/");
    gate.get(&url).await.unwrap();
    for _ in 0..3 {
        let (answer, trail) = gate.told(get(&url)).await;
        assert_eq!(answer.unwrap().status(), 200);
        assert!(trail.iter().any(|line| line.contains("answered from the cache, 12")), "{trail:?}");
        assert!(!trail.iter().any(|line| line.contains("let go")), "{trail:?}");
    }
    assert_eq!(upstream.requests(), 1);
    let state = gate.state();
    assert_eq!(state["destinations"][0]["cache"]["hit"], 3);
    assert_eq!(state["destinations"][0]["cache"]["miss"], 1);
    let metrics = gate.observe.metrics.render();
    assert!(metrics.contains("tidegate_cache_answers_total{destination=\"mock\",outcome=\"hit\"} 3"), "{metrics}");
}

#[tokio::test]
async fn time_in_the_queue_makes_no_answer_older() {
    let upstream = counting(&[("cache-control", "max-age=1")]).await;
    let gate = gate(&[]).await;
    let limits = json!([{"quota": 1, "per": "1200ms"}]);
    gate.configure(&[("mock", json!({"match": upstream.url(""), "limits": limits, "cache": {"enabled": true}}))]);
    fetch_get(&gate, &upstream.url("/first"), &[]).await;
    let begin = std::time::Instant::now();
    let waited = fetch_get(&gate, &upstream.url("/second"), &[]).await;
    assert!(begin.elapsed() > std::time::Duration::from_secs(1), "it waited for its turn");
    assert_eq!(waited.cache, "fwd=miss; stored");
}

#[tokio::test]
async fn a_destination_that_did_not_opt_in_stores_nothing_and_says_nothing() {
    let upstream = counting(&[("cache-control", "max-age=60")]).await;
    let gate = gate(&[]).await;
    for cache in [json!(null), json!({}), json!({"enabled": false})] {
        let mut config = json!({"match": upstream.url("")});
        if !cache.is_null() {
            config["cache"] = cache;
        }
        gate.configure(&[("mock", config)]);
        let before = upstream.requests();
        for _ in 0..2 {
            assert_eq!(fetch_get(&gate, &upstream.url("/"), &[]).await.cache, "none");
        }
        assert_eq!(upstream.requests(), before + 2);
    }
}

#[tokio::test]
async fn a_request_for_stored_answers_only_gets_one_or_504() {
    let upstream = counting(&[("cache-control", "max-age=60")]).await;
    let gate = enabled(&upstream).await;
    let (url, only) = (upstream.url("/"), &[("cache-control", "only-if-cached")]);
    let none = fetch_get(&gate, &url, only).await;
    assert_eq!((none.status, none.cache.as_str()), (504, "fwd=request; detail=only-if-cached"));
    assert!(none.text.contains("not-cached"), "{}", none.text);
    assert_eq!(upstream.requests(), 0);
    fetch_get(&gate, &url, &[]).await;
    assert_eq!(fetch_get(&gate, &url, only).await.status, 200);
    assert_eq!(upstream.requests(), 1);
}

#[tokio::test]
async fn an_answer_that_still_holds_is_renewed_and_its_body_comes_from_the_cache() {
    let upstream = Upstream::start(|request| async move {
        let condition = request.headers().get("if-none-match").cloned();
        match condition.as_ref().map(|value| value.to_str().unwrap()) {
            Some("\"a\"") => answer(304, &[("etag", "\"a\""), ("cache-control", "max-age=60"), ("x-new", "1")], ""),
            Some(other) => panic!("asked about {other}"),
            None => answer(200, &[("etag", "\"a\""), ("cache-control", "no-cache"), ("x-old", "1")], "body"),
        }
    })
    .await;
    let gate = enabled(&upstream).await;
    let url = upstream.url("/");
    assert_eq!(fetch_get(&gate, &url, &[]).await.cache, "fwd=miss; stored");
    // What this client has is another one: it gets the whole.
    let got = fetch_get(&gate, &url, &[("if-none-match", "\"mine\"")]).await;
    assert_eq!((got.status, got.text.as_str()), (200, "body"));
    assert!(got.cache.starts_with("fwd=stale; fwd-status=304; stored; ttl="), "{}", got.cache);
    assert_eq!((got.headers["x-new"].as_bytes(), got.headers["x-old"].as_bytes()), (&b"1"[..], &b"1"[..]));
    let again = fetch_get(&gate, &url, &[]).await;
    assert!(again.cache.starts_with("hit"), "{}", again.cache);
    assert_eq!((again.text.as_str(), upstream.requests()), ("body", 2));
}

#[tokio::test]
async fn a_304_about_another_answer_than_the_stored_one_makes_the_gate_ask_for_it() {
    let upstream = Upstream::start(|request| async move {
        match request.headers().contains_key("if-none-match") {
            true => answer(304, &[("etag", "\"other\"")], ""),
            false => answer(200, &[("etag", "\"a\"")], "body"),
        }
    })
    .await;
    let gate = enabled(&upstream).await;
    fetch_get(&gate, &upstream.url("/"), &[]).await;
    let got = fetch_get(&gate, &upstream.url("/"), &[]).await;
    assert_eq!((got.status, got.text.as_str(), upstream.requests()), (200, "body", 3));
}

#[tokio::test]
async fn a_condition_of_the_clients_own_reaches_the_upstream_where_nothing_is_stored() {
    let upstream = Upstream::start(|request| async move {
        match request.headers().get("if-none-match").map(|tag| tag == "\"mine\"") {
            Some(true) => answer(304, &[("etag", "\"mine\"")], ""),
            _ => answer(200, &[("etag", "\"mine\""), ("cache-control", "max-age=60")], "body"),
        }
    })
    .await;
    let gate = enabled(&upstream).await;
    let got = fetch_get(&gate, &upstream.url("/"), &[("if-none-match", "\"mine\"")]).await;
    assert_eq!((got.status, got.cache.as_str()), (304, "fwd=miss"));
    assert_eq!(fetch_get(&gate, &upstream.url("/"), &[]).await.text, "body");
}

#[tokio::test]
async fn a_request_that_is_not_safe_and_succeeds_makes_stored_answers_void() {
    for (method, status, void) in [
        (Method::POST, 200, true),
        (Method::PUT, 204, true),
        (Method::DELETE, 303, true),
        (Method::from_bytes(b"FROB").unwrap(), 200, true),
        (Method::POST, 404, false),
        (Method::POST, 500, false),
        (Method::OPTIONS, 200, false),
    ] {
        let upstream = Upstream::start(move |request| async move {
            match request.method() == Method::GET {
                true => answer(200, &[("cache-control", "max-age=60")], request.uri().path()),
                false => answer(status, &[("location", "/named"), ("content-location", "http://other.test/a")], ""),
            }
        })
        .await;
        let gate = enabled(&upstream).await;
        let urls = [upstream.url("/a"), upstream.url("/named"), upstream.url("/other")];
        for url in &urls {
            fetch_get(&gate, url, &[("authorization", "x")]).await;
            fetch_get(&gate, url, &[]).await;
        }
        fetch(&gate, method.clone(), &urls[0], &[("prefer", "wait=5")]).await;
        for (url, void) in urls.iter().zip([void, void, false]) {
            let cache = fetch_get(&gate, url, &[("cache-control", "only-if-cached")]).await.status;
            assert_eq!(cache == 504, void, "{method} {status} {url}");
        }
    }
}

#[tokio::test]
async fn what_is_too_large_is_passed_on_and_not_stored() {
    let upstream = Upstream::start(|request| async move {
        let fresh = http::Response::builder().header("cache-control", "max-age=60");
        match request.uri().path() {
            "/large" => fresh.body(body::full(vec![b'x'; 2_000])).unwrap(),
            path => {
                let (sender, body) = channel_body();
                let parts = if path == "/large-streamed" { 20 } else { 2 };
                tokio::spawn(async move {
                    for _ in 0..parts {
                        if sender.send(vec![b'x'; 100].into()).await.is_err() {
                            return;
                        }
                        tokio::task::yield_now().await;
                    }
                });
                fresh.body(body).unwrap()
            }
        }
    })
    .await;
    let gate = gate(&["--cache-object=1000B"]).await;
    gate.configure(&[("mock", json!({"match": upstream.url(""), "cache": {"enabled": true}}))]);
    for (path, length, stored) in [("/large", 2_000, false), ("/large-streamed", 2_000, false), ("/small", 200, true)] {
        for round in 0..2 {
            let got = fetch_get(&gate, &upstream.url(path), &[]).await;
            assert_eq!((got.status, got.text.len()), (200, length), "{path}");
            assert_eq!(got.cache.starts_with("hit"), stored && round == 1, "{path} {}", got.cache);
        }
    }
}

/// An upstream that writes this to each connection after a request, and closes it.
async fn writing(text: &'static str) -> std::net::SocketAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            if stream.read(&mut request).await.is_ok() {
                let _ = stream.write_all(text.as_bytes()).await;
            }
        }
    });
    address
}

#[tokio::test]
async fn a_body_that_broke_off_or_may_have_is_not_stored() {
    for (text, whole, stored) in [
        ("HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 4\r\n\r\nbody", true, true),
        ("HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 9\r\n\r\nbody", false, false),
        (
            "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n",
            false,
            false,
        ),
        // The end of the connection is all that ends this one.
        ("HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\n\r\nbody", true, false),
    ] {
        let url = format!("http://{}/", writing(text).await);
        let gate = gate(&[]).await;
        gate.configure(&[("mock", json!({"match": url.trim_end_matches('/'), "cache": {"enabled": true}}))]);
        let answer = gate.get(&url).await.unwrap();
        assert_eq!(http_body_util::BodyExt::collect(answer.into_body()).await.is_ok(), whole, "{text}");
        let again = fetch_get(&gate, &url, &[("cache-control", "only-if-cached")]).await;
        assert_eq!(again.status == 200, stored, "{text}");
    }
}
