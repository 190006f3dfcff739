//! What the trail of a call tells: every decision with its reason, and the tags it is found by.

use std::sync::atomic::{AtomicUsize, Ordering};

use http::Request;
use serde_json::json;
use tidegate::{
    body,
    observe::{Ending, StatusFilter, Subject, TrailQuery, verdict},
};

use crate::support::*;

/// An upstream whose first answers are these statuses, and all others 200.
async fn answering(first: &'static [(u16, Option<&'static str>)]) -> Upstream {
    let count = AtomicUsize::new(0);
    Upstream::start(move |request| {
        assert!(!request.headers().contains_key("tidegate-tag"), "tags end at the gate");
        let scripted = first.get(count.fetch_add(1, Ordering::SeqCst)).copied();
        async move {
            match scripted {
                Some((429, Some(wait))) => refusal(wait),
                Some((status, _)) => text(status, "no"),
                None => text(200, "done"),
            }
        }
    })
    .await
}

fn has(told: &[String], words: &[&str]) -> bool {
    told.iter().any(|line| words.iter().all(|word| line.contains(word)))
}

#[tokio::test]
async fn what_became_of_a_refused_call_is_told_with_the_reasons() {
    let upstream = answering(&[(429, Some("0.1"))]).await;
    let (answer, told) = Gate::new(&[]).told(post(&upstream.url("/a?key=1"), "x")).await;
    assert_eq!(answer.unwrap().status(), 200);
    for words in [
        &["call 1: POST http://127.0.0.1", "/a"][..],
        &["attempt 1 answered 429"],
        &["put back at no cost: http://127.0.0.1", "is paused for", "by Retry-After of a 429"],
        &["queued, paused for"],
        &["let go after"],
        &["attempt 2 answered 200"],
        &["over after", "answered 200", "of it waiting", "2 attempts"],
    ] {
        assert!(has(&told, words), "{words:?}\n{told:#?}");
    }
}

#[tokio::test]
async fn what_is_tried_again_says_when_and_why_it_may_be() {
    let upstream = answering(&[(500, None)]).await;
    let (answer, told) = Gate::new(&[]).told(get(&upstream.url("/"))).await;
    assert_eq!(answer.unwrap().status(), 200);
    let words = ["tried again in ", "retry 1 of 3 at most: the request may be repeated"];
    assert!(has(&told, &words), "{told:#?}");
}

#[tokio::test]
async fn one_that_cannot_make_its_deadline_says_when_it_could_start_and_is_found_as_refused() {
    let upstream = answering(&[]).await;
    let gate = Gate::new(&[]);
    gate.configure(&[("slow", json!({"match": upstream.url(""), "limits": [{"quota": 1, "per": "1m"}]}))]);
    assert_eq!(gate.get(&upstream.url("/")).await.unwrap().status(), 200);
    let mut request = get(&upstream.url("/"));
    request.headers_mut().insert("tidegate-policy", "deadline=1".parse().unwrap());
    let (trail, call) = gate.call(request);
    assert_eq!(gate.door.send(call).await.unwrap().status(), 429);
    let told = gate.sentences(&trail);
    assert!(
        has(&told, &["refused with 429 deadline-unreachable: slow: could start in ", "for 1 requests per 1m"]),
        "{told:#?}"
    );
    assert!(has(&told, &["over after", "refused by the gate with 429"]), "{told:#?}");
    let query = TrailQuery { status: Some(StatusFilter::Refused), limit: 9, ..TrailQuery::default() };
    let found = gate.observe.trails.search("default", &query);
    assert_eq!(found.iter().map(|found| found.id).collect::<Vec<_>>(), [trail.id()]);
    let said = verdict(&gate.observe.trails.get("default", trail.id()).unwrap());
    assert!(said.starts_with("refused with 429 after ") && said.contains("slow: could start in"), "{said}");
}

#[tokio::test]
async fn a_call_is_found_by_its_tag_and_its_destination() {
    let upstream = answering(&[]).await;
    let gate = Gate::new(&[]);
    gate.configure(&[("mock", json!({"match": upstream.url("")}))]);
    let request = Request::get(upstream.url("/"))
        .header("tidegate-tag", "thread-42, eval, l%C3%A9a")
        .body(body::empty())
        .unwrap();
    let (trail, call) = gate.call(request);
    assert_eq!(gate.door.send(call).await.unwrap().status(), 200);
    let subject = Subject { tenant: "default", invocation: None };
    gate.observe.trails.finish(&trail, subject, Ending::Status(200));
    for (query, count) in [
        (TrailQuery { tag: Some("eval".into()), ..TrailQuery::default() }, 1),
        (TrailQuery { tag: Some("l\u{e9}a".into()), ..TrailQuery::default() }, 1),
        (TrailQuery { tag: Some("thread".into()), ..TrailQuery::default() }, 0),
        (TrailQuery { destination: Some("mock".into()), ..TrailQuery::default() }, 1),
        (TrailQuery { destination: Some(upstream.url("")), ..TrailQuery::default() }, 1),
        (TrailQuery { destination: Some("moc".into()), ..TrailQuery::default() }, 0),
    ] {
        let query = TrailQuery { limit: 9, ..query };
        assert_eq!(gate.observe.trails.search("default", &query).len(), count, "{query:?}");
    }
}
