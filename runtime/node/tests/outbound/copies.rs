//! What becomes of the attempts of a call that is copied: each is counted and told, whichever counts.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use http::Request;
use serde_json::{Value, json};
use tidegate::{
    body,
    outbound::{DoorParts, Resolve},
};

use crate::support::{Gate, Upstream, get, read, refusal, text, until};

const API: &str = "http://api.example";

/// An upstream that answers with this status after this time.
async fn after(millis: u64, status: u16, said: &'static str) -> Upstream {
    Upstream::start(move |_| async move {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        if status == 429 { refusal("30") } else { text(status, said) }
    })
    .await
}

fn at(upstream: &Upstream, name: &str) -> Value {
    json!({"url": upstream.url(""), "name": name, "region": name})
}

/// A call that would rather go to `one`.
fn to_one(mode: &str) -> Request<body::Body> {
    Request::get(API).header("tidegate-policy", format!("regions=one, {mode}")).body(body::empty()).unwrap()
}

fn has(told: &[String], what: &str) -> bool {
    told.iter().any(|line| line.contains(what))
}

#[tokio::test]
async fn a_race_sends_a_copy_to_each_endpoint_and_the_first_head_wins() {
    let (one, two, three) =
        (after(20_000, 200, "").await, after(20_000, 200, "").await, after(300, 200, "three").await);
    let gate = Gate::new(&[]);
    let endpoints = json!([at(&one, "one"), at(&two, "two"), at(&three, "three")]);
    gate.configure(&[("api", json!({"match": API, "endpoints": endpoints}))]);
    let (answer, told) = gate.told(to_one("mode=race")).await;
    assert_eq!(read(answer.unwrap()).await, "three");
    assert_eq!((one.requests(), two.requests(), three.requests()), (1, 1, 1));
    for line in [
        "to endpoint one",
        "a copy races to two",
        "a copy races to three",
        "one lost: copy to three answered first",
        "copy to two lost: copy to three answered first",
    ] {
        assert!(has(&told, line), "{line}: {told:?}");
    }
    let lost: Vec<_> = told.iter().filter(|line| line.ends_with("another was answered first")).collect();
    assert_eq!(lost.len(), 2, "those that lost are told with the time that they took: {told:?}");
    assert!(has(&told, "is a copy (race)") && has(&told, " to three"), "{told:?}");
    until("nothing is in flight", || gate.state()["destinations"][0]["partitions"][0]["in_flight"] == 0).await;
}

#[tokio::test]
async fn what_a_copied_call_was_refused_is_counted_and_told() {
    let (one, two) = (after(300, 429, "").await, after(700, 200, "two").await);
    let gate = Gate::new(&[]);
    gate.configure(&[("api", json!({"match": API, "endpoints": [at(&one, "one"), at(&two, "two")]}))]);
    let (answer, told) = gate.told(to_one("mode=race")).await;
    assert_eq!(read(answer.unwrap()).await, "two");
    for line in ["races to two", "one refused 429, its copy goes on"] {
        assert!(has(&told, line), "{line}: {told:?}");
    }
    assert!(told.iter().any(|line| line.contains("attempt 1") && line.contains("429")), "{told:?}");
    let metrics = gate.observe.metrics.render();
    for line in [
        r#"tidegate_attempt_outcomes_total{destination="api",outcome="refused"} 1"#,
        r#"tidegate_attempt_outcomes_total{destination="api",outcome="accepted"} 1"#,
        r#"tidegate_upstream_seconds_count{destination="api"} 2"#,
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
    // The one that refused is left alone, and the next call says so.
    let (answer, told) = gate.told(to_one("mode=failover")).await;
    assert_eq!(read(answer.unwrap()).await, "two");
    assert!(has(&told, "to endpoint two: one is paused for"), "{told:?}");
}

#[tokio::test]
async fn a_call_that_goes_elsewhere_for_being_faster_there_says_so() {
    let (one, two) = (after(200, 200, "one").await, after(0, 200, "two").await);
    let gate = Gate::new(&[]);
    gate.configure(&[("api", json!({"match": API, "endpoints": [at(&one, "one"), at(&two, "two")]}))]);
    for region in ["one", "two"] {
        for _ in 0..4 {
            let mut call = get(API);
            let policy = format!("regions={region}, regions_only").parse().unwrap();
            call.headers_mut().insert("tidegate-policy", policy);
            assert_eq!(read(gate.send(call).await.unwrap()).await, region);
        }
    }
    let (answer, told) = gate.told(to_one("mode=failover")).await;
    assert_eq!(read(answer.unwrap()).await, "two");
    assert!(told.iter().any(|line| line.contains("to endpoint two: ") && line.contains(" against ")), "{told:?}");
}

#[tokio::test]
async fn an_attempt_that_ends_with_its_call_is_told_with_the_reason() {
    let slow = after(20_000, 200, "").await;
    let gate = Gate::new(&[]);
    let (trail, call) = gate.call(get(&slow.url("/")));
    let sending = tokio::spawn(gate.door.send(call));
    until("it is at the upstream", || slow.requests() == 1).await;
    sending.abort();
    assert!(sending.await.unwrap_err().is_cancelled());
    let told = gate.sentences(&trail);
    assert!(
        told.iter().any(|line| line.contains("attempt 1 ended") && line.contains("its sender went away")),
        "{told:?}"
    );
    let mut call = get(&slow.url("/"));
    call.headers_mut().insert("tidegate-policy", "deadline=0.1".parse().unwrap());
    let (answer, told) = gate.told(call).await;
    assert_eq!(answer.unwrap().status(), 504);
    assert!(has(&told, "the deadline of the call passed"), "{told:?}");
}

/// An upstream that does what it is asked for once, in this time and whether or not somebody waits for it, and says
/// meanwhile that the key is in use.
async fn once(millis: u64) -> Upstream {
    let state = Arc::new(AtomicUsize::new(0));
    Upstream::start(move |_| {
        let state = Arc::clone(&state);
        async move {
            match state.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst) {
                Err(1) => return text(409, "this key is in use"),
                Err(_) => return text(200, "done before"),
                Ok(_) => {}
            }
            let work = tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                state.store(2, Ordering::SeqCst);
            });
            work.await.unwrap();
            text(200, "done")
        }
    })
    .await
}

fn keyed(method: http::Method, url: &str, policy: &str) -> Request<body::Body> {
    let request = Request::builder().method(method).uri(url).header("tidegate-policy", policy);
    request.header("idempotency-key", "\"7\"").body(body::full("one")).unwrap()
}

#[tokio::test]
async fn what_the_first_may_spoil_is_not_copied() {
    for mode in ["mode=hedge, hedge_after=0.01", "mode=race"] {
        for method in [http::Method::POST, http::Method::DELETE, http::Method::PUT] {
            let upstream = once(200).await;
            let gate = Gate::new(&[]);
            let (answer, told) = gate.told(keyed(method, &upstream.url("/"), mode)).await;
            assert_eq!(read(answer.unwrap()).await, "done", "{told:?}");
            assert_eq!(upstream.requests(), 1);
            assert!(has(&told, "not copied, in spite of the mode of its policy"), "{told:?}");
        }
    }
}

#[tokio::test]
async fn a_retry_waits_for_the_attempt_before_it_where_its_key_is_in_use() {
    let upstream = once(1_200).await;
    let gate = Gate::new(&[]);
    let policy = "attempt_timeout=0.3, retries=1";
    let (answer, told) = gate.told(keyed(http::Method::POST, &upstream.url("/"), policy)).await;
    assert_eq!(read(answer.unwrap()).await, "done before", "{told:?}");
    assert!(has(&told, "an attempt of it before is under way still"), "{told:?}");
}

#[tokio::test]
async fn a_copy_that_finds_nothing_left_to_do_does_not_win() {
    let (one, two) = (after(300, 200, "deleted").await, after(0, 404, "no such thing").await);
    let gate = Gate::new(&[]);
    let endpoints = json!([at(&one, "one"), at(&two, "two")]);
    gate.configure(&[("api", json!({"match": API, "endpoints": endpoints, "repeatable": "always"}))]);
    for (method, answer) in [(http::Method::DELETE, "deleted"), (http::Method::GET, "no such thing")] {
        let came = gate.send(keyed(method, API, "regions=one, mode=race")).await.unwrap();
        assert_eq!(read(came).await, answer);
    }
}

/// A refusal for want of credit.
fn broke() -> http::Response<body::Body> {
    let said = r#"{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}"#;
    let mut refusal = text(429, said);
    refusal.headers_mut().insert("content-type", "application/json".parse().unwrap());
    refusal
}

#[tokio::test]
async fn an_endpoint_that_is_out_of_credit_sends_its_calls_to_another_and_is_tried_by_copies_of_safe_requests() {
    let asked = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let one = Upstream::start({
        let asked = Arc::clone(&asked);
        move |request| {
            asked.lock().push(request.method().clone());
            async { broke() }
        }
    })
    .await;
    let two = after(0, 200, "two").await;
    let gate = Gate::new(&[]);
    gate.configure(&[("api", json!({"match": API, "endpoints": [at(&one, "one"), at(&two, "two")]}))]);
    let order = || keyed(http::Method::POST, API, "regions=one, retries=0");
    let (answer, told) = gate.told(order()).await;
    assert_eq!(read(answer.unwrap()).await, "two", "{told:?}");
    assert!(has(&told, "put back at no cost: no waiting helps there"), "{told:?}");
    let (answer, told) = gate.told(order()).await;
    assert_eq!(read(answer.unwrap()).await, "two");
    assert!(has(&told, "saying that no waiting helps"), "{told:?}");
    let endpoints = gate.state()["destinations"][0]["partitions"][0]["endpoints"].clone();
    assert_eq!(endpoints[0]["ejected"], "saying that no waiting helps", "{endpoints}");
    assert_eq!(one.requests(), 1);
    // In two seconds it is time to try it: with a request that nothing is changed by.
    let begun = std::time::Instant::now();
    loop {
        gate.send(keyed(http::Method::DELETE, API, "regions=one")).await.unwrap();
        let (_, told) = gate.told(to_one("mode=failover")).await;
        if has(&told, "a copy tries endpoint one") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "never tried: {told:?}");
    }
    until("it is tried", || one.requests() == 2).await;
    assert_eq!(*asked.lock(), [http::Method::POST, http::Method::GET]);
    // Its answer is understood: a refusal as any other would pause it.
    let state = || gate.state()["destinations"][0]["partitions"][0]["endpoints"][0].clone();
    until("its answer is taken down", || state()["unanswered"] == 0).await;
    assert!(state()["paused"].is_null(), "{}", state());
}

#[tokio::test]
async fn where_all_endpoints_are_out_of_credit_the_first_answer_is_passed_on() {
    let upstream = || Upstream::start(|_| async { broke() });
    let (one, two) = (upstream().await, upstream().await);
    let gate = Gate::new(&[]);
    gate.configure(&[("api", json!({"match": API, "endpoints": [at(&one, "one"), at(&two, "two")]}))]);
    for _ in 0..3 {
        let answer = gate.send(to_one("mode=failover")).await.unwrap();
        assert_eq!(answer.status(), 429);
        assert!(read(answer).await.contains("insufficient_quota"));
    }
    // Both were asked by the first call, and one by each of the others.
    assert_eq!(one.requests() + two.requests(), 4);
}

#[tokio::test]
async fn a_copy_that_is_out_of_credit_does_not_win() {
    let one = after(300, 200, "one").await;
    let two = Upstream::start(|_| async { broke() }).await;
    let gate = Gate::new(&[]);
    gate.configure(&[("api", json!({"match": API, "endpoints": [at(&one, "one"), at(&two, "two")]}))]);
    let answer = gate.send(to_one("mode=race")).await.unwrap();
    assert_eq!((read(answer).await.as_str(), two.requests()), ("one", 1));
}

/// Looks everything up here, and some names slowly.
struct Slowly(Vec<(&'static str, Duration)>);

impl Resolve for Slowly {
    fn resolve(&self, host: Arc<str>) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> {
        let takes = self.0.iter().find(|(name, _)| **name == *host).map(|(_, takes)| *takes);
        Box::pin(async move {
            tokio::time::sleep(takes.unwrap_or_default()).await;
            Ok(vec![IpAddr::from([127, 0, 0, 1])])
        })
    }
}

#[tokio::test]
async fn an_answer_is_late_by_the_time_since_its_request_left() {
    let resolver =
        Slowly(vec![("cold.example", Duration::from_millis(400)), ("dead.example", Duration::from_secs(20))]);
    let gate = Gate::with(&[], DoorParts { resolver: Arc::new(resolver), ..DoorParts::default() });
    let (warm, cold) = (after(60, 200, "warm").await, after(0, 200, "cold").await);
    let named = |name: &str, upstream: &Upstream| {
        let url = format!("http://{name}.example:{}", upstream.address.port());
        json!({"url": url, "name": name, "region": name})
    };
    let endpoints = json!([named("warm", &warm), named("cold", &cold), named("dead", &cold)]);
    gate.configure(&[("api", json!({"match": API, "endpoints": endpoints, "max_concurrency": 100}))]);
    let to = |region: &str| {
        let policy = format!("regions={region}, mode=hedge");
        Request::get(API).header("tidegate-policy", policy).body(body::empty()).unwrap()
    };
    // What answers take is known after fifty.
    futures::future::join_all((0..60).map(|_| gate.send(to_only_warm()))).await;
    let (answer, told) = gate.told(to("cold")).await;
    assert_eq!(read(answer.unwrap()).await, "cold", "{told:?}");
    assert!(!has(&told, "hedged"), "{told:?}");
    // What does not even connect is hedged all the same.
    let (answer, told) = gate.told(to("dead")).await;
    assert_ne!(read(answer.unwrap()).await, "");
    assert!(has(&told, "no answer within 1 s: hedged to"), "{told:?}");
}

fn to_only_warm() -> Request<body::Body> {
    Request::get(API).header("tidegate-policy", "regions=warm, regions_only").body(body::empty()).unwrap()
}
