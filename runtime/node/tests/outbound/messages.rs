//! What passes the gate, what ends at it, what begins at it.

use std::sync::Arc;

use http::Request;
use parking_lot::Mutex;
use tidegate::body;

use crate::support::*;

#[tokio::test]
async fn an_answer_passes_with_its_status_headers_and_body() {
    let upstream = Upstream::start(|request| async move {
        assert_eq!(request.uri().to_string(), "/a%2Fb?q=1&q=%20", "origin form, byte for byte");
        let mut response = text(418, "teapot");
        response.headers_mut().insert("x-upstream", "yes".parse().unwrap());
        response.headers_mut().insert("connection", "x-hop".parse().unwrap());
        response.headers_mut().insert("x-hop", "1".parse().unwrap());
        response
    })
    .await;
    let gate = Gate::new(&[]);
    let (answer, told) = gate.told(get(&upstream.url("/a%2Fb?q=1&q=%20"))).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 418);
    assert_eq!(answer.headers()["x-upstream"], "yes");
    assert!(!answer.headers().contains_key("x-hop") && !answer.headers().contains_key("connection"));
    assert!(!answer.headers().contains_key("proxy-status"), "it is the upstream's own answer");
    assert_eq!(read(answer).await, "teapot");
    assert!(told[0].ends_with("/a%2Fb"), "no query in a trail: {told:?}");
    assert!(told.iter().any(|line| line.contains("attempt 1 answered 418")), "{told:?}");
}

#[tokio::test]
async fn host_and_trace_are_ours_and_our_own_headers_stay_here() {
    let seen = Arc::new(Mutex::new(None));
    let (upstream, kept) = {
        let kept = Arc::clone(&seen);
        let upstream = Upstream::start(move |request| {
            *kept.lock() = Some(request.headers().clone());
            async { text(200, "") }
        })
        .await;
        (upstream, seen)
    };
    let gate = Gate::new(&[]);
    let request = Request::get(upstream.url("/"))
        .header("host", "evil.example")
        .header("tidegate-policy", "retries=0")
        .header("connection", "close")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .header("authorization", "Bearer upstream-key")
        .body(body::empty())
        .unwrap();
    let (trail, call) = gate.call(request);
    let span = call.trace.span;
    gate.door.send(call).await.unwrap();
    let headers = kept.lock().take().unwrap();
    assert_eq!(headers["host"], upstream.address.to_string().as_str());
    assert_eq!(headers["authorization"], "Bearer upstream-key");
    assert!(!headers.contains_key("tidegate-policy") && !headers.contains_key("connection"));
    let parent = headers["traceparent"].to_str().unwrap();
    assert!(parent.starts_with(&format!("00-{}-", trail.id())), "{parent}");
    assert!(!parent.contains(&format!("{span:016x}")), "a span of its own: {parent}");
    assert_eq!(headers["cdn-loop"], "tidegate; hops=1");
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let upstream = Upstream::start(|request| async move {
        let mut response = match request.uri().path() {
            "/204" => text(204, ""),
            "/304" => text(304, ""),
            _ => text(200, "hello"),
        };
        response.headers_mut().insert("x-seen", "1".parse().unwrap());
        response
    })
    .await;
    let gate = Gate::new(&[]);
    for path in ["/204", "/304"] {
        let answer = gate.get(&upstream.url(path)).await.unwrap();
        assert_eq!(format!("/{}", answer.status().as_u16()), path);
        assert_eq!(read(answer).await, "");
    }
    let head = Request::head(upstream.url("/x")).body(body::empty()).unwrap();
    let answer = gate.send(head).await.unwrap();
    assert_eq!(answer.headers()["content-length"], "5");
    assert_eq!(read(answer).await, "");
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn no_key_in_a_query_stands_in_a_trail() {
    let upstream = Upstream::start(|_| async { text(200, "") }).await;
    let path = "/v1/models?key=AIza-SECRET";
    for url in
        [upstream.url(path), format!("http://user:SECRET@{}{path}", upstream.address), format!("http://10.0.0.1{path}")]
    {
        let (_, told) = Gate::new(&[]).told(get(&url)).await;
        assert!(!told.is_empty() && told.iter().all(|line| !line.contains("SECRET")), "{url}: {told:?}");
    }
}

#[tokio::test]
async fn a_redirect_is_passed_to_the_sender() {
    let upstream = Upstream::start(|_| async {
        let mut response = text(302, "");
        response.headers_mut().insert("location", "http://169.254.169.254/".parse().unwrap());
        response
    })
    .await;
    let gate = Gate::new(&[]);
    assert_eq!(gate.get(&upstream.url("/")).await.unwrap().status(), 302);
    assert_eq!(upstream.requests(), 1);
}

#[tokio::test]
async fn a_request_that_meets_itself_is_stopped() {
    let upstream = Upstream::start(|_| async { text(200, "") }).await;
    let gate = Gate::new(&[]);
    let hops = |count: &str| {
        Request::get(upstream.url("/"))
            .header("cdn-loop", format!("tidegate; hops={count}"))
            .body(body::empty())
            .unwrap()
    };
    assert_eq!(gate.send(hops("7")).await.unwrap().status(), 200);
    let answer = gate.send(hops("8")).await.unwrap();
    assert_eq!(answer.status(), 508);
    assert!(answer.headers()["proxy-status"].to_str().unwrap().contains("proxy_loop_detected"));
    let mut request = get(&upstream.url("/"));
    request.extensions_mut().insert(tidegate::outbound::Hops(8));
    assert_eq!(gate.send(request).await.unwrap().status(), 508);
}

#[tokio::test]
async fn two_lengths_are_refused_before_anything_leaves() {
    let upstream = Upstream::start(|_| async { text(200, "") }).await;
    let gate = Gate::new(&[]);
    let request = Request::post(upstream.url("/"))
        .header("content-length", "5")
        .header("content-length", "50")
        .body(body::full("hello"))
        .unwrap();
    assert_eq!(gate.send(request).await.unwrap().status(), 400);
    let request = Request::post(upstream.url("/")).header("content-length", "50").body(body::full("hello")).unwrap();
    let error = gate.send(request).await.unwrap_err().to_string();
    assert!(error.contains("50") && error.contains("has 5"), "{error}");
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn what_the_gate_counts_and_shows_is_what_happened() {
    let upstream =
        Upstream::start(|request| async move { text(if request.uri().path() == "/bad" { 404 } else { 200 }, "") })
            .await;
    let gate = Gate::new(&[]);
    gate.configure(&[("mock", serde_json::json!({"match": upstream.url("")}))]);
    let mut feed = gate.observe.feed.subscribe();
    gate.get(&upstream.url("/good")).await.unwrap();
    gate.get(&upstream.url("/bad")).await.unwrap();
    let metrics = gate.observe.metrics.render();
    for line in [
        r#"tidegate_calls_total{destination="mock",outcome="2xx"} 1"#,
        r#"tidegate_calls_total{destination="mock",outcome="4xx"} 1"#,
        r#"tidegate_attempts_total{destination="mock"} 2"#,
        "tidegate_connections_opened_total 1",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
    let Ok(tidegate::observe::FeedEvent::Call(line)) = feed.try_recv() else { panic!("no line") };
    assert_eq!((line.path.as_str(), line.status, line.attempts), ("/good", 200, 1));
    let state = gate.state();
    let mock = &state["destinations"][0];
    assert_eq!((mock["destination"].as_str(), mock["configured"].as_bool()), (Some("mock"), Some(true)));
    let partition = &mock["partitions"][0];
    assert_eq!(partition["outcomes"]["succeeded"], 1);
    assert_eq!(partition["outcomes"]["client_errors"], 1);
    assert_eq!(partition["in_flight"], 0);
    assert!(partition["latency_ms"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn a_destination_that_is_deleted_takes_its_series_with_it() {
    let upstream = Upstream::start(|_| async { text(200, "") }).await;
    let gate = Gate::new(&[]);
    let config = || serde_json::json!({"match": upstream.url("")});
    gate.configure(&[("mock", config()), ("kept", serde_json::json!({"match": "http://kept.example"}))]);
    let under_way = gate.call(get(&upstream.url("/"))).1;
    gate.get(&upstream.url("/")).await.unwrap();
    assert!(gate.observe.metrics.render().contains(r#"destination="mock""#));
    let under_way = gate.door.send(under_way);
    gate.configure(&[("kept", serde_json::json!({"match": "http://kept.example"}))]);
    under_way.await.unwrap();
    let metrics = gate.observe.metrics.render();
    assert!(!metrics.contains(r#"destination="mock""#), "{metrics}");
}

#[tokio::test]
async fn regions_where_there_are_none_are_told_to_be_in_vain() {
    let upstream = Upstream::start(|_| async { text(200, "") }).await;
    let gate = Gate::new(&[]);
    let request = |policy: &'static str| {
        Request::get(upstream.url("/")).header("tidegate-policy", policy).body(body::empty()).unwrap()
    };
    let (answer, told) = gate.told(request("regions=iad, deadline=5")).await;
    assert_eq!(answer.unwrap().status(), 200);
    let vain: Vec<_> = told.iter().filter(|line| line.contains("has no effect")).collect();
    assert!(vain.len() == 1 && vain[0].contains("`regions`"), "{told:?}");
    let (_, told) = gate.told(request("deadline=5")).await;
    assert!(!told.iter().any(|line| line.contains("has no effect")), "{told:?}");
    // Who insists on regions does not leave from another one in silence.
    let (answer, told) = gate.told(request("regions=iad, regions_only, deadline=5")).await;
    let refused = read(answer.unwrap()).await;
    assert!(refused.contains("no-region") && refused.contains("leave from local"), "{refused}, {told:?}");
    let (answer, told) = gate.told(request("regions=(iad local), regions_only, deadline=5")).await;
    assert_eq!(answer.unwrap().status(), 200, "{told:?}");
}

#[tokio::test]
async fn path_and_query_reach_the_upstream_byte_for_byte() {
    let upstream = Upstream::start(|request| async move { text(200, &request.uri().to_string()) }).await;
    let gate = Gate::new(&[]);
    for path in ["/a//b/../c%2fd%2Fe/%41/./?x=%20+&&y=%2f?z", "/?", "/%00", "//", "/a;b=c:d@e!$&'()*+,"] {
        assert_eq!(read(gate.get(&upstream.url(path)).await.unwrap()).await, path);
    }
}
