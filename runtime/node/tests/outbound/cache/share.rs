//! Equal requests that come at once.

use std::time::Duration;

use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;

use super::*;

/// An upstream that answers when it is let.
struct Held {
    upstream: Upstream,
    let_go: Arc<Semaphore>,
}

async fn held(headers: &'static [(&'static str, &'static str)]) -> Held {
    let let_go = Arc::new(Semaphore::new(0));
    let permits = Arc::clone(&let_go);
    let upstream = Upstream::start(move |_| {
        let permits = Arc::clone(&permits);
        async move {
            permits.acquire().await.unwrap().forget();
            answer(200, headers, "text")
        }
    })
    .await;
    Held { upstream, let_go }
}

type Calls = Vec<tokio::task::JoinHandle<Got>>;

fn many(gate: &Arc<Gate>, url: &str, count: usize, headers: &'static [(&'static str, &'static str)]) -> Calls {
    let call = |_| {
        let (gate, url) = (Arc::clone(gate), url.to_owned());
        tokio::spawn(async move { fetch_get(&gate, &url, headers).await })
    };
    (0..count).map(call).collect()
}

/// Calls that the gate has taken in, of whatever kind.
async fn taken(gate: &Gate, upstream: &Upstream) {
    until("the first is at the upstream", || upstream.requests() == 1).await;
    // All others have had their turn.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(gate.state()["destinations"][0]["destination"], "mock");
}

const FRESH: &[(&str, &str)] = &[("cache-control", "max-age=60")];

#[tokio::test]
async fn a_hundred_equal_requests_are_one_to_the_upstream() {
    let held = held(FRESH).await;
    let gate = Arc::new(enabled(&held.upstream).await);
    let calls = many(&gate, &held.upstream.url("/"), 100, &[]);
    taken(&gate, &held.upstream).await;
    held.let_go.add_permits(100);
    let mut collapsed = 0;
    for call in calls {
        let got = call.await.unwrap();
        assert_eq!((got.status, got.text.as_str()), (200, "text"));
        collapsed += usize::from(got.cache.contains("collapsed"));
    }
    assert_eq!((held.upstream.requests(), collapsed), (1, 99));
    assert_eq!(gate.state()["destinations"][0]["cache"]["collapsed"], 99);
}

#[tokio::test]
async fn what_may_not_be_shared_lets_all_go_at_once_and_nobody_waits_the_next_time() {
    let held = held(&[("cache-control", "no-store")]).await;
    let gate = Arc::new(enabled(&held.upstream).await);
    let calls = many(&gate, &held.upstream.url("/"), 20, &[]);
    taken(&gate, &held.upstream).await;
    assert_eq!(held.upstream.requests(), 1);
    held.let_go.add_permits(1);
    until("all others are at the upstream", || held.upstream.requests() == 20).await;
    held.let_go.add_permits(19);
    for call in calls {
        assert_eq!(call.await.unwrap().status, 200);
    }
    let calls = many(&gate, &held.upstream.url("/"), 5, &[]);
    until("all are at the upstream", || held.upstream.requests() == 25).await;
    held.let_go.add_permits(5);
    for call in calls {
        call.await.unwrap();
    }
}

#[tokio::test]
async fn a_leader_that_goes_away_hands_over_to_one_who_waits() {
    let held = held(FRESH).await;
    let gate = Arc::new(enabled(&held.upstream).await);
    let url = held.upstream.url("/");
    let first = many(&gate, &url, 1, &[]);
    until("the first is at the upstream", || held.upstream.requests() == 1).await;
    let calls = many(&gate, &url, 9, &[]);
    taken(&gate, &held.upstream).await;
    first[0].abort();
    until("another asks", || held.upstream.requests() == 2).await;
    held.let_go.add_permits(10);
    for call in calls {
        assert_eq!(call.await.unwrap().text, "text");
    }
    assert_eq!(held.upstream.requests(), 2);
}

#[tokio::test]
async fn a_leader_that_fails_hands_over_to_one_who_waits() {
    let count = Arc::new(AtomicUsize::new(0));
    let let_go = Arc::new(Semaphore::new(0));
    let permits = Arc::clone(&let_go);
    let upstream = Upstream::start(move |_| {
        let (number, permits) = (count.fetch_add(1, Ordering::SeqCst), Arc::clone(&permits));
        async move {
            if number == 0 {
                permits.acquire().await.unwrap().forget();
                std::future::pending::<()>().await;
            }
            answer(200, FRESH, "text")
        }
    })
    .await;
    let gate = Arc::new(enabled(&upstream).await);
    let url = upstream.url("/");
    let first = many(&gate, &url, 1, &[("tidegate-policy", "deadline=1, retries=0")]);
    until("the first is at the upstream", || upstream.requests() == 1).await;
    let calls = many(&gate, &url, 5, &[]);
    for call in calls {
        assert_eq!(call.await.unwrap().text, "text");
    }
    assert_eq!(first.into_iter().next().unwrap().await.unwrap().status, 504);
    assert_eq!(upstream.requests(), 2);
}

#[tokio::test]
async fn a_follower_waits_no_longer_than_its_own_deadline() {
    let held = held(FRESH).await;
    let gate = Arc::new(enabled(&held.upstream).await);
    let url = held.upstream.url("/");
    let first = many(&gate, &url, 1, &[]);
    until("the first is at the upstream", || held.upstream.requests() == 1).await;
    let got = fetch_get(&gate, &url, &[("tidegate-policy", "deadline=0.05")]).await;
    assert_eq!(got.status, 504);
    assert!(got.text.contains("deadline-passed"), "{}", got.text);
    held.let_go.add_permits(1);
    assert_eq!(first.into_iter().next().unwrap().await.unwrap().text, "text");
}

#[tokio::test]
async fn nobody_waits_for_what_others_with_other_credentials_or_another_form_ask_for() {
    let upstream = Upstream::start(|request| async move {
        let accept = request.headers().get("accept").cloned().unwrap();
        answer(200, &[("cache-control", "max-age=60"), ("vary", "accept")], accept.to_str().unwrap())
    })
    .await;
    let gate = Arc::new(enabled(&upstream).await);
    let mut calls = Vec::new();
    for accept in [&[("accept", "a")][..], &[("accept", "b")], &[("accept", "c"), ("x-key", "1")]] {
        calls.extend(many(&gate, &upstream.url("/"), 10, accept).into_iter().map(|call| (accept[0].1, call)));
    }
    for (accept, call) in calls {
        assert_eq!(call.await.unwrap().text, accept);
    }
    // Two of the forms may have waited for one that was the other's.
    assert!(upstream.requests() <= 6, "{}", upstream.requests());
}

#[tokio::test]
async fn a_slow_client_of_the_leader_keeps_nobody_waiting() {
    let (sender, body) = channel_body();
    let body = Arc::new(parking_lot::Mutex::new(Some(body)));
    let upstream = Upstream::start(move |_| {
        let body = body.lock().take().unwrap();
        async move { http::Response::builder().header("cache-control", "max-age=60").body(body).unwrap() }
    })
    .await;
    let gate = Arc::new(enabled(&upstream).await);
    let url = upstream.url("/");
    let send = async {
        sender.send("first ".into()).await.unwrap();
        gate.get(&url).await.unwrap()
    };
    let (slow, ()) = tokio::join!(send, async {});
    let calls = many(&gate, &url, 3, &[]);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    // The first client reads nothing of this.
    let text = vec![b'x'; 50_000];
    for _ in 0..10 {
        sender.send(text.clone().into()).await.unwrap();
    }
    drop(sender);
    for call in calls {
        let got = tokio::time::timeout(Duration::from_secs(5), call).await.unwrap().unwrap();
        assert_eq!(got.text.len(), 500_006);
    }
    assert_eq!(read(slow).await.len(), 500_006);
    assert_eq!(upstream.requests(), 1);
}

/// Events, when they are let.
async fn streams() -> (Held, Gate) {
    let held =
        held(&[("cache-control", "max-age=60"), ("content-type", "text/event-stream"), ("vary", "accept-encoding")]);
    let held = held.await;
    let gate = gate(&["--stream-comment", "20ms"]).await;
    gate.configure(&[("mock", json!({"match": held.upstream.url(""), "cache": {"enabled": true}}))]);
    (held, gate)
}

fn wants_stream(url: &str, policy: &str) -> Request<Body> {
    let headers = [("accept", "text/event-stream"), ("accept-encoding", "gzip"), ("tidegate-policy", policy)];
    request(Method::GET, url, &headers)
}

const COMMENT: &str = ": tidegate: waiting\n\n";

#[tokio::test]
async fn who_waits_behind_an_equal_call_for_a_stream_gets_comments_until_it_comes() {
    let (held, gate) = streams().await;
    let gate = Arc::new(gate);
    let url = held.upstream.url("/");
    let first = many(&gate, &url, 1, &[("accept-encoding", "identity")]);
    until("the first is at the upstream", || held.upstream.requests() == 1).await;
    let (trail, call) = gate.call(wants_stream(&url, "retries=1"));
    let waits = gate.door.send(call).await.unwrap();
    assert_eq!(
        (waits.status().as_u16(), &waits.headers()["content-type"]),
        (200, &"text/event-stream".parse().unwrap())
    );
    let mut waits = waits.into_body();
    assert_eq!(waits.frame().await.unwrap().unwrap().into_data().unwrap(), COMMENT);
    held.let_go.add_permits(10);
    assert_eq!(first.into_iter().next().unwrap().await.unwrap().text, "text");
    let text = read(Response::new(waits)).await;
    assert_eq!(text.replace(COMMENT, ""), "text");
    let told = gate.sentences(&trail);
    for line in ["queued, behind an equal call that is under way", "a comment every 20ms (setting stream_comment)"] {
        assert!(told.iter().any(|told| told.contains(line)), "{line}: {told:?}");
    }
}

#[tokio::test]
async fn the_deadline_of_who_waits_behind_an_equal_call_is_its_own_when_its_stream_has_begun() {
    let (held, gate) = streams().await;
    let gate = Arc::new(gate);
    let url = held.upstream.url("/");
    let first = many(&gate, &url, 1, &[("accept-encoding", "gzip")]);
    until("the first is at the upstream", || held.upstream.requests() == 1).await;
    let text = read(gate.send(wants_stream(&url, "deadline=0.1")).await.unwrap()).await;
    let (comments, event) = text.split_once("event: error\ndata: ").unwrap();
    assert!(comments.replace(COMMENT, "").is_empty() && event.contains("deadline-passed"), "{text}");
    held.let_go.add_permits(1);
    assert_eq!(first.into_iter().next().unwrap().await.unwrap().text, "text");
    assert_eq!(held.upstream.requests(), 1);
}

#[tokio::test]
async fn who_waits_with_a_begun_stream_takes_over_from_a_leader_that_leaves_and_may_leave_itself() {
    let (held, gate) = streams().await;
    let gate = Arc::new(gate);
    let url = held.upstream.url("/");
    let first = many(&gate, &url, 1, &[("accept-encoding", "gzip")]);
    until("the first is at the upstream", || held.upstream.requests() == 1).await;
    let leaves = gate.send(wants_stream(&url, "retries=1")).await.unwrap();
    let stays = gate.send(wants_stream(&url, "retries=1")).await.unwrap();
    drop(leaves);
    first[0].abort();
    until("the one that stays asks", || held.upstream.requests() == 2).await;
    held.let_go.add_permits(10);
    assert_eq!(read(stays).await.replace(COMMENT, ""), "text");
    assert_eq!(held.upstream.requests(), 2);
}

#[tokio::test]
async fn slow_readers_hold_no_more_than_the_memory_and_what_does_not_fit_is_passed_on_unstored() {
    const MEMORY: u64 = 1 << 20;
    const OBJECT: usize = 100 << 10;
    let upstream = Upstream::start(|_| async { answer(200, FRESH, &"x".repeat(OBJECT)) }).await;
    let metrics = CacheMetrics::default();
    let flags = ["--cache-memory", "1MiB"];
    let cache = Cache::open(&settings(&flags), None, metrics.clone()).await;
    let gate = Arc::new(Gate::with(&flags, DoorParts { cache, ..DoorParts::default() }));
    gate.configure(&[("mock", json!({"match": upstream.url(""), "cache": {"enabled": true}}))]);
    let mut slow = Vec::new();
    for number in 0..30 {
        let url = upstream.url(&format!("/{number}"));
        let slow_one = gate.send(request(Method::GET, &url, &[])).await.unwrap();
        // Those who ask for the same share it, or get it themselves.
        let other = fetch_get(&gate, &url, &[]).await;
        assert_eq!(other.text.len(), OBJECT);
        slow.push(slow_one);
        assert!(metrics.held_bytes.get() <= MEMORY, "{}", metrics.held_bytes.get());
    }
    let said = |answer: &Response<Body>| answer.headers()["cache-status"].to_str().unwrap().to_owned();
    let unstored = slow.iter().filter(|answer| said(answer).ends_with("fwd=miss; detail=no-memory")).count();
    assert!((20..30).contains(&unstored), "{unstored}");
    assert!(metrics.unstored.get() >= unstored as u64);
    for answer in slow {
        assert_eq!(read(answer).await.len(), OBJECT);
    }
    // What is stored yet is all that is held.
    until("nobody reads", || metrics.held_bytes.get() <= MEMORY * 3 / 4).await;
    let url = upstream.url("/again");
    assert!(fetch_get(&gate, &url, &[]).await.cache.ends_with("stored"));
    assert!(fetch_get(&gate, &url, &[]).await.cache.starts_with("hit"));
}
