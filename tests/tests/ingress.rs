//! Invoking: what the guest sees, what the client sees, how streams flow.

use std::time::{Duration, Instant};

use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::json;
use tidegate_tests::{Client, Gate, TOKEN, Upstream, eventually};

async fn gate() -> Gate {
    let gate = Gate::serve().flags("--domain fn.example").start().await;
    gate.deploy("misbehave", json!({"auth": "public"})).await;
    gate
}

#[tokio::test]
async fn method_headers_query_and_body_reach_the_guest_over_every_version_of_http() {
    let gate = gate().await;
    for client in [Client::default(), Client::http2()] {
        let request = Request::builder()
            .method(Method::PUT)
            .uri(gate.url("/f/misbehave/headers?a=b%20c"))
            .header("x-one", "1")
            .header("x-two", "2")
            .body(Default::default())
            .unwrap();
        let answer = client.send(request).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let said = answer.text();
        for expected in ["x-one", "x-two", "method: Method::Put", "a=b%20c"] {
            assert!(said.contains(expected), "{expected}: {said}");
        }
        let body = vec![7_u8; 3 << 20];
        let request =
            Request::post(gate.url("/f/misbehave/echo")).body(bytes::Bytes::from(body.clone()).into()).unwrap();
        let answer = client.send(request).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, body.len()));
        for header in ["tidegate-function", "tidegate-version", "tidegate-region", "server-timing"] {
            assert!(!answer.header(header).is_empty(), "{header}: {:?}", answer.headers);
        }
    }
}

#[tokio::test]
async fn events_arrive_as_they_are_written() {
    let gate = gate().await;
    let request = Request::get(gate.url("/f/misbehave/stream?n=5&ms=200")).body(Default::default()).unwrap();
    let started = Instant::now();
    let mut body = gate.client.open(request).await.into_body();
    let mut arrivals = Vec::new();
    while let Some(frame) = body.frame().await {
        if frame.unwrap().is_data() {
            arrivals.push(started.elapsed());
        }
    }
    assert!(arrivals.len() >= 5, "{arrivals:?}");
    let (first, last) = (arrivals[0], arrivals[arrivals.len() - 1]);
    assert!(last - first > Duration::from_millis(600), "buffered: {arrivals:?}");
    assert!(first < Duration::from_millis(600), "{arrivals:?}");
}

#[tokio::test]
async fn a_function_answers_at_its_own_host_and_at_its_routes() {
    let gate = gate().await;
    let config =
        json!({"auth": "public", "routes": ["api.example.com/v1/*", "hooks.fn.example/in/*"], "env": {"AT": "route"}});
    assert!(gate.configure("misbehave", config).await.status.is_success());
    for (host, path, status) in [
        ("misbehave.fn.example", "/env", 200),
        ("nobody.fn.example", "/env", 404),
        ("hooks.fn.example", "/in/env", 200),
        ("hooks.fn.example", "/env", 404),
        ("api.example.com", "/v1/env", 200),
        ("api.example.com", "/v2/env", 404),
    ] {
        let request = Request::get(gate.url(path)).header("host", host).body(Default::default()).unwrap();
        let answer = gate.client.send(request).await;
        // A route hands the whole path on; the guest has no /v1/env and says 404 itself, with its function's name.
        let reached = !answer.header("tidegate-function").is_empty();
        assert_eq!(reached, status == 200, "{host}{path}: {} {}", answer.status, answer.text());
    }
}

#[tokio::test]
async fn a_body_above_the_bound_is_refused_by_name() {
    let gate = Gate::serve().flags("--max-request-body 1MiB").start().await;
    gate.deploy("misbehave", json!({"auth": "public"})).await;
    let request =
        Request::post(gate.url("/f/misbehave/echo")).body(bytes::Bytes::from(vec![0; 2 << 20]).into()).unwrap();
    let answer = gate.client.send(request).await;
    assert_eq!((answer.status.as_u16(), answer.problem().as_str()), (413, "request-too-large"), "{}", answer.text());
    assert_eq!(answer.json()["setting"], "max_request_body");
}

#[tokio::test]
async fn a_node_told_to_end_finishes_what_is_open_and_exits_0() {
    let gate = gate().await;
    let (client, url) = (Client::default(), gate.url("/f/misbehave/sleep?ms=1500"));
    let call = tokio::spawn(async move { client.try_send(Request::get(url).body(Default::default()).unwrap()).await });
    eventually("the call is open", async || gate.metric("tidegate_invocations_in_flight").await == 1.0).await;
    gate.signal(rustix::process::Signal::TERM);
    let answer = call.await.unwrap().expect("the open call is finished");
    assert_eq!(answer.status, 200);
    assert_eq!(gate.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_body_that_nobody_reads_costs_its_client_neither_the_answer_nor_the_connection() {
    let gate = gate().await;
    let module = bytes::Bytes::from(vec![0; 3 << 20]);
    for _ in 0..20 {
        for (path, status) in [("/f/misbehave/early-answer", 403), ("/f/nobody/", 404), ("/to/nowhere/", 404)] {
            let answer = gate.post(path, module.clone()).await;
            assert_eq!(answer.status, status, "{path}: {}", answer.text());
        }
        let answer = gate.deploy_bytes("Not%20a%20name", module.clone()).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        // On the same connections.
        assert_eq!(gate.get("/f/misbehave/env").await.status, 200);
        assert_eq!(gate.control_get("/v1/functions").await.status, 200);
    }
}

/// An answer is through before the guest's task ends. What such tasks hold must not pile up behind new requests, or the
/// instance hits its bound of handles with nobody at fault.
#[tokio::test(flavor = "multi_thread")]
async fn what_answered_requests_leave_to_do_gets_its_turn_under_load() {
    let gate = Gate::serve().flags("--guest-handles 200").start().await;
    gate.deploy_as("hello-rust-p3", "hello", json!({"auth": "public"})).await;
    let url = gate.url("/f/hello/");
    let clients = (0..32).map(|_| {
        let url = url.clone();
        tokio::spawn(async move {
            let client = Client::default();
            for _ in 0..300 {
                let answer = client.send(Request::get(&url).body(Default::default()).unwrap()).await;
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
        })
    });
    for client in futures::future::join_all(clients.collect::<Vec<_>>()).await {
        client.unwrap();
    }
}

#[tokio::test]
async fn a_guest_sees_neither_its_callers_tokens_nor_a_policy_from_outside() {
    let gate = gate().await;
    let seen = async |auth: &str, headers: &[(&str, &str)]| {
        assert!(gate.configure("misbehave", json!({"auth": auth})).await.status.is_success());
        let mut request = Request::get(gate.url("/f/misbehave/headers"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = gate.client.send(request.body(Default::default()).unwrap()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text()
    };
    let bearer = format!("Bearer {TOKEN}");
    for auth in ["public", "token"] {
        let ours = [("tidegate-token", TOKEN), ("authorization", &bearer), ("x-api-key", TOKEN)];
        let said = seen(auth, &[&ours[..], &[("tidegate-policy", "retries=9"), ("x-one", "1")]].concat()).await;
        assert!(said.contains("x-one"), "{said}");
        for hidden in ["tidegate-token", "authorization", "x-api-key", "tidegate-policy", TOKEN] {
            assert!(!said.contains(hidden), "{auth}: {hidden} in {said}");
        }
    }
    let said = seen("public", &[("authorization", "Bearer sk-1"), ("x-api-key", "sk-2")]).await;
    assert!(said.contains("authorization") && said.contains("x-api-key"), "what is not ours passes: {said}");
}

#[tokio::test]
async fn an_offer_to_upgrade_is_ignored_and_the_guest_sees_nothing_of_it() {
    let gate = gate().await;
    for upgrade in ["TLS/1.2", "h2c, TLS/1.2"] {
        let request = Request::get(gate.url("/f/misbehave/headers")).header("upgrade", upgrade);
        let request = request.header("connection", "upgrade").body(Default::default()).unwrap();
        let answer = gate.client.send(request).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(!answer.text().contains("upgrade"), "{}", answer.text());
    }
    let request = Request::get(gate.url("/f/misbehave/headers")).header("upgrade", "websocket");
    let answer = gate.client.send(request.header("connection", "upgrade").body(Default::default()).unwrap()).await;
    assert_eq!((answer.status.as_u16(), answer.problem().as_str()), (501, "no-upgrade"));
}

#[tokio::test]
async fn a_refusal_says_its_trace_its_region_and_its_time() {
    let gate = gate().await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    for (path, status) in [("/nothing", 404), ("/f/nobody/", 404), ("/to/https://a.example/", 401)] {
        let request = Request::get(gate.url(path)).header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"));
        let answer = gate.client.send(request.body(Default::default()).unwrap()).await;
        assert_eq!((answer.status.as_u16(), answer.header("tidegate-trace")), (status, trace), "{path}");
        assert!(!answer.header("tidegate-region").is_empty(), "{path}: {:?}", answer.headers);
        assert!(answer.header("server-timing").starts_with("total;dur="), "{path}: {:?}", answer.headers);
    }
}

#[tokio::test]
async fn whatever_names_a_function_says_which_has_a_trail_and_is_counted() {
    let gate = Gate::serve().flags("--max-request-body 1MiB --domain fn.example").start().await;
    gate.deploy("misbehave", json!({})).await;
    let body = |length: usize| http_body_util::Full::new(bytes::Bytes::from(vec![0; length]));
    let post = |path: &str, headers: &[(&str, &str)], length: usize| {
        let mut request = Request::post(gate.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(body(length)).unwrap()
    };
    let bearer = format!("Bearer {TOKEN}");
    let ours = ("authorization", bearer.as_str());
    for (counted, (request, status, version)) in [
        (post("/f/misbehave/env", &[], 0), 401, "2"),
        (post("/f/misbehave/env", &[ours], 2 << 20), 413, "2"),
        (post("/f/misbehave/env", &[ours, ("prefer", "respond-async")], 0), 501, "2"),
        (post("/f/misbehave@77/env", &[ours], 0), 404, "77"),
        (post("/env", &[("host", "misbehave.fn.example")], 0), 401, "2"),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = gate.client.send(request).await;
        let said = (answer.status.as_u16(), answer.header("tidegate-function"), answer.header("tidegate-version"));
        assert_eq!(said, (status, "misbehave", version), "{}", answer.text());
        let id = answer.header("tidegate-trace");
        assert_eq!(answer.json()["trail"], id);
        let trail = gate.control_get(&format!("/v1/trails/{id}")).await;
        assert_eq!(trail.status, 200, "{}", trail.text());
        let trail = trail.json();
        assert_eq!((&trail["function"], &trail["status"]), (&json!("misbehave"), &json!(status)), "{trail}");
        assert_eq!(gate.metric("tidegate_invocations_total").await, (counted + 1) as f64);
    }
}

#[tokio::test]
async fn a_trail_goes_on_while_the_answer_streams_and_says_when_it_was_cut() {
    let gate = gate().await;
    let whole = gate.get("/f/misbehave/stream?n=4&ms=100").await;
    let trail = async |id: &str| gate.control_get(&format!("/v1/trails/{id}")).await;
    let ended = trail(whole.header("tidegate-trace")).await.json();
    assert_eq!((&ended["status"], ended.get("cut")), (&json!(200), None), "{ended}");
    let time = |trail: &serde_json::Value, key: &str| trail[key].as_f64().unwrap();
    assert!(time(&ended, "lasted_ms") - time(&ended, "head_ms") > 200.0, "{ended}");

    let request = Request::get(gate.url("/f/misbehave/stream?n=1000&ms=20")).body(Default::default()).unwrap();
    let client = Client::default();
    let mut answer = client.open(request).await;
    let id = answer.headers()["tidegate-trace"].to_str().unwrap().to_owned();
    answer.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(trail(&id).await.status, 404, "it goes on");
    assert_eq!(gate.metric("tidegate_invocations_in_flight").await, 1.0);
    drop((answer, client));
    eventually("the trail has ended", async || trail(&id).await.status == 200).await;
    let cut = trail(&id).await.json();
    assert_eq!((&cut["status"], &cut["cut"]), (&json!(200), &json!(true)), "{cut}");
    assert_eq!(gate.metric("tidegate_invocations_in_flight").await, 0.0);
}

#[tokio::test]
async fn a_function_keeps_its_own_name_below_the_domain_from_wildcards_but_not_from_written_hosts() {
    let gate = gate().await;
    gate.deploy_as("misbehave", "wild", json!({"auth": "public", "routes": ["*.fn.example/*"]})).await;
    for (host, function) in
        [("misbehave.fn.example", "misbehave"), ("else.fn.example", "wild"), ("a.b.fn.example", "wild")]
    {
        let request = Request::get(gate.url("/env")).header("host", host).body(Default::default()).unwrap();
        assert_eq!(gate.client.send(request).await.header("tidegate-function"), function, "{host}");
    }
    let routes = json!({"auth": "public", "routes": ["*.fn.example/*", "misbehave.fn.example/*"]});
    assert!(gate.configure("wild", routes).await.status.is_success());
    let request =
        Request::get(gate.url("/env")).header("host", "misbehave.fn.example").body(Default::default()).unwrap();
    assert_eq!(gate.client.send(request).await.header("tidegate-function"), "wild");
    let refused = gate.configure("wild", json!({"routes": ["/f/*"]})).await;
    assert!(refused.status == 400 || refused.status == 422, "{}", refused.status);
    assert!(refused.text().contains("`/f/`"), "{}", refused.text());
}

#[tokio::test]
async fn metrics_tell_functions_and_destinations_apart_by_their_configured_names() {
    let (gate, upstream) = (gate().await, Upstream::scripted(|_| std::future::pending()).await);
    let answering = Upstream::answering("hello").await;
    gate.destination("slow", json!({"match": upstream.url(""), "max_concurrency": 1})).await;
    assert_eq!(gate.get(&format!("/to/{}", answering.url("/"))).await.status, 200);
    assert_eq!(gate.get("/f/misbehave/env").await.status, 200);
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let (client, request) = (gate.client.clone(), gate.request(Method::GET, "/to/slow/", ""));
            tokio::spawn(async move { client.try_send(request).await })
        })
        .collect();
    let url = format!("http://{}/metrics", gate.metrics_address);
    let has = async |line: &str| {
        let text = gate.client.send(Request::get(&url).body(Default::default()).unwrap()).await.text();
        text.lines().any(|found| found == line)
    };
    for line in [
        "tidegate_queued_calls{destination=\"slow\"} 2",
        "tidegate_attempt_outcomes_total{destination=\"other\",outcome=\"accepted\"} 1",
        "tidegate_invocations_total{function=\"misbehave\",outcome=\"2xx\"} 1",
        "tidegate_invocation_seconds_count{function=\"misbehave\"} 1",
        "tidegate_invocations_in_flight{function=\"misbehave\"} 0",
        "tidegate_compiles_total 1",
    ] {
        eventually(line, async || has(line).await).await;
    }
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    eventually("nobody waits any more", async || gate.metric("tidegate_queued_calls").await == 0.0).await;
}
