//! Several endpoints behind one destination, copies of calls, and who goes first.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::{Request, StatusCode};
use serde_json::json;
use tidegate::body;

use crate::support::{Gate, Upstream, get, post, read, refusal, text, until};

/// An upstream that says its name and what it was asked for.
async fn named(name: &'static str) -> Upstream {
    Upstream::start(move |request| async move { text(200, &format!("{name} {}", request.uri())) }).await
}

/// Long enough that chance makes neither of two look faster.
async fn takes_a_while(name: &'static str) -> Upstream {
    Upstream::start(move |request| async move {
        tokio::time::sleep(Duration::from_millis(40)).await;
        text(200, &format!("{name} {}", request.uri()))
    })
    .await
}

fn with_policy(url: &str, policy: &str) -> Request<body::Body> {
    Request::get(url).header("tidegate-policy", policy).body(body::empty()).unwrap()
}

const API: &str = "http://api.example";

#[tokio::test]
async fn calls_are_shared_out_by_weight_and_written_for_each_endpoint() {
    let (one, two) = (takes_a_while("one").await, takes_a_while("two").await);
    let gate = Gate::new(&[]);
    gate.configure(&[(
        "api",
        json!({"match": API, "endpoints": [
            {"url": one.url("/base"), "name": "one", "strip": "/v1", "query": {"v": "2"}, "weight": 3},
            {"url": two.url(""), "name": "two"},
        ]}),
    )]);
    for _ in 0..40 {
        let answer = read(gate.get(&format!("{API}/v1/chat?x=1")).await.unwrap()).await;
        assert!(["one /base/chat?x=1&v=2", "two /v1/chat?x=1"].contains(&answer.as_str()), "{answer}");
    }
    assert!((28..=32).contains(&one.requests()), "{} of 40", one.requests());
    let endpoints = gate.state()["destinations"][0]["partitions"][0]["endpoints"].clone();
    assert_eq!((&endpoints[0]["endpoint"], &endpoints[1]["endpoint"]), (&json!("one"), &json!("two")));
    assert!(endpoints[0]["latency_ms"].as_f64().unwrap() > 0.0, "{endpoints}");
}

#[tokio::test]
async fn a_refusal_or_a_failure_of_one_endpoint_sends_the_call_to_another_at_once() {
    for status in [429, 503, 0] {
        let bad = Upstream::start(move |_| async move {
            match status {
                429 => refusal("30"),
                _ => text(503, "down"),
            }
        })
        .await;
        let good = named("good").await;
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let url = if status == 0 { format!("http://{closed}") } else { bad.url("") };
        let gate = Gate::new(&[]);
        let endpoints = json!([{"url": url, "name": "bad", "weight": 1000}, {"url": good.url(""), "name": "good"}]);
        gate.configure(&[("api", json!({"match": API, "endpoints": endpoints}))]);
        let began = Instant::now();
        let (answer, told) = gate.told(get(API)).await;
        assert_eq!(answer.unwrap().status(), 200, "{told:?}");
        assert!(began.elapsed() < Duration::from_secs(2), "{status}");
        assert!(told.iter().any(|line| line.contains("to endpoint bad")), "{told:?}");
        assert!(told.iter().any(|line| line.contains("to endpoint good")), "{told:?}");
        if status == 429 {
            assert!(told.iter().any(|line| line.contains("put back at no cost")), "{told:?}");
            // What refused is left alone.
            for _ in 0..5 {
                gate.get(API).await.unwrap();
            }
            assert_eq!(bad.requests(), 1);
            // A post that may not be repeated goes elsewhere, too: only a 429 surely did nothing with it.
            assert_eq!(gate.send(post(API, "order")).await.unwrap().status(), 200);
        }
    }
}

#[tokio::test]
async fn regions_of_a_policy_are_preferred_or_insisted_on() {
    let (iad, lhr) = (named("iad").await, named("lhr").await);
    let gate = Gate::new(&[]);
    let at = |upstream: &Upstream, region: &str| json!({"url": upstream.url(""), "name": region, "region": region});
    gate.configure(&[("api", json!({"match": API, "endpoints": [at(&iad, "iad"), at(&lhr, "lhr")]}))]);
    for (policy, at_least) in [("regions=lhr", 9), ("regions=(\"nrt\" \"lhr\"), regions_only", 10)] {
        let mut there = 0;
        for _ in 0..10 {
            there += usize::from(read(gate.send(with_policy(API, policy)).await.unwrap()).await == "lhr /");
        }
        // One call may look whether the other is better by now.
        assert!(there >= at_least, "{policy}: {there}");
    }
    // Neither does the request state everything that it means, nor does it have to.
    let answer = gate.send(with_policy(API, "regions_only")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let detail = read(answer).await;
    assert!(detail.contains("policy.regions_only: needs `regions`, which nobody states"), "{detail}");
    let endpoints = json!([at(&iad, "iad"), at(&lhr, "lhr")]);
    gate.configure(&[("api", json!({"match": API, "endpoints": endpoints, "policy": {"regions": ["lhr"]}}))]);
    assert_eq!(read(gate.send(with_policy(API, "regions_only")).await.unwrap()).await, "lhr /");
    let answer = gate.send(with_policy(API, "regions=nrt, regions_only")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let detail = read(answer).await;
    assert!(detail.contains("no-region") && detail.contains("no endpoint in nrt"), "{detail}");
}

#[tokio::test]
async fn who_hangs_gets_half_of_the_time_where_another_answers() {
    let hangs = late(|number| number > 0).await;
    // Slower than the other was, which is taken first therefore.
    let fine = Upstream::start(|_| async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        text(200, "lhr /")
    })
    .await;
    let gate = Gate::new(&[]);
    let at = |upstream: &Upstream, region: &str| json!({"url": upstream.url(""), "name": region, "region": region});
    gate.configure(&[("api", json!({"match": API, "endpoints": [at(&hangs, "iad"), at(&fine, "lhr")]}))]);
    for region in ["iad", "lhr"] {
        gate.send(with_policy(API, &format!("regions={region}, regions_only"))).await.unwrap();
    }
    let began = Instant::now();
    let (answer, told) = gate.told(with_policy(API, "regions=iad, deadline=4")).await;
    assert_eq!(read(answer.unwrap()).await, "lhr /", "{told:?}");
    assert!(began.elapsed() >= Duration::from_millis(1900), "{told:?}");
    assert!(told.iter().any(|line| line.contains("another endpoint answers sooner")), "{told:?}");
    // One that nobody else can stand in for has all of it.
    let answer = gate.send(with_policy(API, "regions=iad, regions_only, deadline=1")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(read(answer).await.contains("deadline-passed"));
}

/// An upstream that answers this call late, of all that come, and the others at once.
async fn late(which: impl Fn(usize) -> bool + Send + Sync + 'static) -> Upstream {
    let (count, which) = (AtomicUsize::new(0), Arc::new(which));
    Upstream::start(move |_| {
        let late = which(count.fetch_add(1, Ordering::SeqCst));
        async move {
            if late {
                tokio::time::sleep(Duration::from_secs(20)).await;
            }
            text(200, if late { "late" } else { "at once" })
        }
    })
    .await
}

#[tokio::test]
async fn a_late_answer_is_hedged_and_the_first_one_wins() {
    let upstream = late(|number| number == 60).await;
    let gate = Gate::new(&[]);
    let url = upstream.url("/");
    for _ in 0..60 {
        gate.get(&url).await.unwrap();
    }
    let began = Instant::now();
    let (answer, told) = gate.told(with_policy(&url, "mode=hedge")).await;
    assert_eq!(read(answer.unwrap()).await, "at once");
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(told.iter().any(|line| line.contains("hedged to the same endpoint")), "{told:?}");
    assert!(told.iter().any(|line| line.contains("the first attempt lost: the copy answered first")), "{told:?}");
    // What lost is cancelled, and everything given back.
    until("nothing is in flight", || gate.state()["destinations"][0]["partitions"][0]["in_flight"] == 0).await;
    assert_eq!(upstream.requests(), 62);
}

#[tokio::test]
async fn what_must_not_be_sent_twice_is_not_hedged_and_hedges_have_a_budget() {
    let upstream = late(|_| false).await;
    let gate = Gate::new(&[]);
    let slow = Upstream::start(|_| async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        text(200, "")
    })
    .await;
    let mut order = post(&slow.url("/"), "order");
    order.headers_mut().insert("tidegate-policy", "mode=hedge, hedge_after=0.01".parse().unwrap());
    gate.send(order).await.unwrap();
    assert_eq!(slow.requests(), 1);
    // Of forty calls two may be hedged.
    for _ in 0..40 {
        gate.send(with_policy(&slow.url("/"), "mode=hedge, hedge_after=0.01")).await.unwrap();
    }
    assert!((42..=44).contains(&slow.requests()), "{}", slow.requests());
    drop(upstream);
}

#[tokio::test]
async fn a_race_sends_two_at_once_and_takes_the_first() {
    let (slow, fast) = (late(|_| true).await, named("fast").await);
    let gate = Gate::new(&[]);
    let endpoints = json!([{"url": slow.url(""), "name": "slow"}, {"url": fast.url(""), "name": "fast"}]);
    gate.configure(&[("api", json!({"match": API, "endpoints": endpoints, "policy": {"mode": "race"}}))]);
    for _ in 0..3 {
        assert_eq!(read(gate.get(API).await.unwrap()).await, "fast /");
    }
    assert_eq!(fast.requests(), 3);
}

#[tokio::test]
async fn a_caller_with_a_long_queue_stops_another_for_a_turn_or_two() {
    let upstream = named("one").await;
    let gate = Arc::new(Gate::new(&[]));
    gate.configure(&[("mock", json!({"match": upstream.url(""), "limits": [{"quota": 10, "per": "1s"}]}))]);
    let (busy, quiet) = (Arc::new(gate.program("busy")), gate.program("quiet"));
    let url = upstream.url("/");
    let calls: Vec<_> = (0..30)
        .map(|_| {
            let (busy, url) = (Arc::clone(&busy), url.clone());
            tokio::spawn(async move { busy.get(&url).await.unwrap() })
        })
        .collect();
    until("they wait", || gate.state()["destinations"][0]["partitions"][0]["queue"]["calls"].as_u64() >= Some(25))
        .await;
    let began = Instant::now();
    quiet.get(&url).await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(350), "{:?}", began.elapsed());
    calls.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_call_of_higher_priority_goes_first_of_its_caller_s() {
    let upstream = named("one").await;
    let gate = Arc::new(Gate::new(&[]));
    gate.configure(&[("mock", json!({"match": upstream.url(""), "limits": [{"quota": 5, "per": "1s"}]}))]);
    let url = upstream.url("/");
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let (gate, url) = (Arc::clone(&gate), url.clone());
            tokio::spawn(async move { gate.get(&url).await.unwrap() })
        })
        .collect();
    until("they wait", || gate.state()["destinations"][0]["partitions"][0]["queue"]["calls"].as_u64() >= Some(15))
        .await;
    let began = Instant::now();
    gate.send(with_policy(&url, "priority=60")).await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    calls.iter().for_each(tokio::task::JoinHandle::abort);
}

/// A destination with these endpoints, and a limit that lets a call out now and then.
fn limited(endpoints: &serde_json::Value) -> serde_json::Value {
    json!({"match": API, "endpoints": endpoints, "limits": [{"quota": 1, "per": "1s", "burst": 1}]})
}

#[tokio::test]
async fn a_call_that_waits_goes_to_the_url_that_its_endpoint_has_by_then() {
    let (wrong, right) = (named("wrong").await, named("right").await);
    let gate = Arc::new(Gate::new(&[]));
    gate.configure(&[("api", limited(&json!([{"url": wrong.url(""), "name": "only"}])))]);
    assert_eq!(read(gate.get(API).await.unwrap()).await, "wrong /");
    let waits = tokio::spawn({
        let gate = Arc::clone(&gate);
        async move { read(gate.get(API).await.unwrap()).await }
    });
    until("it waits", || gate.state()["destinations"][0]["partitions"][0]["queue"]["calls"] == 1).await;
    gate.configure(&[("api", limited(&json!([{"url": right.url(""), "name": "only"}])))]);
    assert_eq!(waits.await.unwrap(), "right /");
}

#[tokio::test]
async fn a_retry_goes_where_its_region_is_by_then() {
    let lhr = Upstream::start(|_| async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        text(500, "failed")
    })
    .await;
    let (again, iad) = (named("lhr again").await, named("iad").await);
    let gate = Arc::new(Gate::new(&[]));
    let at = |upstream: &Upstream, name: &str, region: &str| json!({"url": upstream.url(""), "name": name, "region": region});
    gate.configure(&[("api", json!({"match": API, "endpoints": [at(&lhr, "lhr", "lhr"), at(&iad, "iad", "iad")]}))]);
    let call = tokio::spawn({
        let gate = Arc::clone(&gate);
        async move { read(gate.send(with_policy(API, "regions=lhr, regions_only, retries=3")).await.unwrap()).await }
    });
    until("it is sent", || lhr.requests() == 1).await;
    let others = [at(&iad, "iad", "iad"), at(&iad, "two", "iad"), at(&again, "again", "lhr")];
    gate.configure(&[("api", json!({"match": API, "endpoints": others}))]);
    assert_eq!(call.await.unwrap(), "lhr again /");
    assert_eq!(iad.requests(), 0);
}

#[tokio::test]
async fn what_an_endpoint_says_of_its_own_paths_is_led_back() {
    let one = Upstream::start(|_| async {
        let mut answer = text(302, "");
        for (name, value) in [
            ("location", "/base/next"),
            ("set-cookie", "a=1; Path=/base/area"),
            ("set-cookie", "b=2; Path=/; HttpOnly"),
            ("set-cookie", "c=3; Path=/elsewhere"),
        ] {
            answer.headers_mut().append(name, value.parse().unwrap());
        }
        answer
    })
    .await;
    let gate = Gate::new(&[]);
    gate.configure(&[("api", json!({"match": API, "endpoints": [{"url": one.url("/base"), "strip": "/v1"}]}))]);
    let answer = gate.get(&format!("{API}/v1/login")).await.unwrap();
    let cookies: Vec<_> = answer.headers().get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1; Path=/v1/area", "b=2; HttpOnly; Path=/"]);
    assert_eq!(answer.headers()["location"], "/v1/next");
}

#[tokio::test]
async fn an_endpoint_whose_address_is_denied_is_left_for_another() {
    let fine = Upstream::start(|_| async { text(200, "fine") }).await;
    let gate = Gate::new(&[]);
    let denied = json!({"url": "http://10.1.2.3", "name": "inside", "weight": 1000});
    let configured = |endpoints: serde_json::Value| {
        gate.configure(&[("api", json!({"match": API, "endpoints": endpoints}))]);
    };
    configured(json!([denied, {"url": fine.url(""), "name": "fine"}]));
    let mut tried = 0;
    for _ in 0..20 {
        let (answer, told) = gate.told(with_policy(API, "")).await;
        assert_eq!(answer.unwrap().status(), 200, "{told:?}");
        tried += usize::from(told.iter().any(|line| line.contains("no call may go to")));
    }
    assert!((1..=2).contains(&tried), "it is tried now and then only: {tried}");
    configured(json!([denied]));
    let refused = gate.send(with_policy(API, "")).await.unwrap();
    assert_eq!(refused.status(), 403);
    assert!(read(refused).await.contains("address-denied"));
}

#[tokio::test]
async fn an_endpoint_that_cuts_its_answers_off_is_left_for_another() {
    let cuts = Upstream::start(|_| async {
        http::Response::builder().header("content-length", "100").body(body::full("the first of it")).unwrap()
    })
    .await;
    let fine = Upstream::start(|_| async { text(200, "fine") }).await;
    let gate = Gate::new(&[]);
    let at = |upstream: &Upstream, name: &str| json!({"url": upstream.url(""), "name": name});
    gate.configure(&[("api", json!({"match": API, "endpoints": [at(&cuts, "a"), at(&fine, "b")]}))]);
    let ask = async |calls: usize| {
        for _ in 0..calls {
            let answer = gate.send(with_policy(API, "")).await.unwrap();
            let _ = http_body_util::BodyExt::collect(answer.into_body()).await;
        }
        cuts.requests()
    };
    let before = ask(40).await;
    let after = ask(40).await;
    assert!(before >= 1 && after - before <= 4, "{before}, then {}", after - before);
}
