//! One adversarial guest for each published advisory on the engine that this host is built upon.
//!
//! | advisory | what was wrong | test |
//! |---|---|---|
//! | GHSA-5qpp-g3j2-8frx | a path in absolute form led the request to another host | [`a_path_in_absolute_form_goes_nowhere_else`] |
//! | GHSA-w36r-2hch-9xp9 | a long URL before its query crashed the host | [`a_long_url_is_refused_or_sent_and_nothing_crashes`] |
//! | GHSA-r8xh-cgf7-392j, GHSA-9prg-84vf-g5fc, GHSA-h4wp-g4x3-7398 | conflicting and wrong lengths of bodies | [`a_body_of_another_length_than_stated_is_never_sent_as_whole`], [`an_answer_of_another_length_than_stated_is_not_passed_on_as_whole`] |
//! | GHSA-jxcf-8qw5-5c33 | forbidden trailers were forwarded | [`forbidden_headers_and_trailers_go_neither_way`] |
//! | GHSA-w4qr-p94g-mjhv | a timeout of zero panicked | [`timeouts_of_nothing_and_of_centuries_end_a_call_not_the_node`] |
//! | GHSA-c9gc-w9vx-w86p | bodies that are written and not sent filled the host's memory | [`bodies_that_nobody_takes_stay_small`] |
//! | GHSA-q554-3cjc-rx7p | handles were not charged to their store | `hostile::a_guest_that_allocates_or_hoards_meets_a_bound_of_memory_that_is_named`: handles, fields, streams, futures |
//! | GHSA-5hhx-4wrr-3j9g | a yield within a start function panicked | [`a_start_function_that_takes_its_time_is_interrupted_and_ended`] |
//! | GHSA-3r89-v5mq-j5xf | a cancelled call panicked later | [`calls_cancelled_at_any_moment_leave_the_function_serving`] |

use std::time::Duration;

use futures::future::join_all;
use http::{Method, Request};
use serde_json::json;
use tidegate_tests::{
    Answer, Client, Gate, Upstream, assert_names_its_bound, besieged, bombs, contained, eventually, text,
};

async fn attempt(gate: &Gate, path: &str) -> Result<Answer, String> {
    let request = Request::get(gate.url(&format!("/f/misbehave/{path}"))).body(Default::default()).unwrap();
    contained(gate, path, Client::default().try_send(request)).await
}

/// An upstream that reads whole requests, and says 400 where their bodies break.
async fn reading() -> Upstream {
    Upstream::scripted(|request| async {
        match http_body_util::BodyExt::collect(request.into_body()).await {
            Ok(_) => text(200, "whole"),
            Err(_) => text(400, "broken"),
        }
    })
    .await
}

#[tokio::test]
async fn a_path_in_absolute_form_goes_nowhere_else() {
    let (upstream, elsewhere) = (reading().await, reading().await);
    let gate = besieged("misbehave", "").await;
    for path in [elsewhere.url("/"), "http://elsewhere.invalid/".into(), "//elsewhere.invalid/".into(), "*".into()] {
        let answer = attempt(&gate, &format!("absolute-form?url={}&path={path}", upstream.url("/"))).await.unwrap();
        assert!(matches!(answer.status.as_u16(), 200 | 502), "{path}: {} {}", answer.status, answer.text());
    }
    assert!(elsewhere.seen().is_empty(), "{:?}", elsewhere.seen());
    for seen in upstream.seen() {
        assert_eq!(seen.headers["host"], upstream.address());
        assert!(!seen.path.starts_with("http"), "{}", seen.path);
    }
}

#[tokio::test]
async fn a_long_url_is_refused_or_sent_and_nothing_crashes() {
    let upstream = reading().await;
    let gate = besieged("misbehave", "").await;
    for bytes in [1_000, 65_000, 65_530, 65_534, 65_535, 65_536, 70_000, 200_000] {
        let answer = attempt(&gate, &format!("long-url?url={}&bytes={bytes}", upstream.url("/"))).await.unwrap();
        let fine = answer.status == 502 || !answer.header("x-upstream-status").is_empty();
        assert!(fine, "{bytes}: {} {}", answer.status, answer.text());
    }
    for (n, bytes) in [(100, 100), (1_000, 20), (3_000, 1), (1, 31_000)] {
        let answer =
            attempt(&gate, &format!("call-headers?url={}&n={n}&bytes={bytes}", upstream.url("/"))).await.unwrap();
        let reached = !answer.header("x-upstream-status").is_empty();
        let fine = answer.status == 502 || reached || answer.problem() == "guest-fields";
        assert!(fine, "{n} x {bytes}: {} {}", answer.status, answer.text());
    }
    let method = "M".repeat(30_000);
    attempt(&gate, &format!("fetch?url={}&method={method}", upstream.url("/"))).await.unwrap();
}

#[tokio::test]
async fn a_body_of_another_length_than_stated_is_never_sent_as_whole() {
    let upstream = reading().await;
    let gate = besieged("misbehave", "").await;
    for (says, bytes, more) in [
        ("10", 4, ""),
        ("4", 10, ""),
        ("0", 4, ""),
        ("4", 4, "&twice=1"),
        ("5", 5, "&twice=1"),
        ("-1", 4, ""),
        ("4x", 4, ""),
        ("18446744073709551616", 4, ""),
        ("4,%204", 4, ""),
    ] {
        let path = format!("content-length?url={}&says={says}&bytes={bytes}{more}", upstream.url("/"));
        let answer = attempt(&gate, &path).await.unwrap();
        let whole = answer.header("x-upstream-status") == "200";
        // Equal lengths given twice may be made one.
        assert!(!whole || (says == "4" && bytes == 4), "{path}: {} {}", answer.status, answer.text());
    }
    for seen in upstream.seen() {
        assert!(seen.headers.get_all("content-length").iter().count() <= 1, "{:?}", seen.headers);
    }
}

#[tokio::test]
async fn an_answer_of_another_length_than_stated_is_not_passed_on_as_whole() {
    let gate = besieged("misbehave", "").await;
    for path in ["short", "half"] {
        let outcome = attempt(&gate, path).await;
        assert!(outcome.as_ref().map_or(true, |answer| answer.status.is_server_error()), "{path}: {outcome:?}");
    }
}

#[tokio::test]
async fn forbidden_headers_and_trailers_go_neither_way() {
    let upstream = Upstream::scripted(|request| async {
        let trailers = http_body_util::BodyExt::collect(request.into_body()).await.ok();
        let trailers = trailers.and_then(|body| body.trailers().cloned()).unwrap_or_default();
        text(200, &format!("{trailers:?}"))
    })
    .await;
    let gate = besieged("misbehave", "").await;
    for name in ["transfer-encoding", "content-length", "host", "connection", "keep-alive", "te", "trailer", "upgrade"]
    {
        let path = format!("forbidden-trailers?url={}&name={name}", upstream.url("/"));
        let answer = attempt(&gate, &path).await.unwrap();
        let reached = answer.header("x-upstream-status") == "200";
        assert!(!reached || answer.text() == "{}", "{name}: {}", answer.text());
        let answer = attempt(&gate, &format!("response-trailers?name={name}")).await.unwrap();
        assert!(answer.trailers.is_none_or(|trailers| !trailers.contains_key(name)), "{name}");
    }
    let answer = attempt(&gate, "forbidden-headers").await.unwrap().text();
    for line in answer.lines() {
        // What a guest may name and the door takes off.
        let allowed = ["x-fine", "te", "trailer"].iter().any(|name| line.split(':').next() == Some(name));
        assert_eq!(line.ends_with("accepted"), allowed, "{answer}");
    }
    let path = format!("fetch?url={}&header=te:gzip&header=trailer:x-a&header=x-fine:1", upstream.url("/"));
    attempt(&gate, &path).await.unwrap();
    let seen = upstream.seen().pop().unwrap().headers;
    assert!(seen.contains_key("x-fine") && !seen.contains_key("te"), "{seen:?}");
}

#[tokio::test]
async fn timeouts_of_nothing_and_of_centuries_end_a_call_not_the_node() {
    let upstream = reading().await;
    let gate = besieged("misbehave", "").await;
    for ns in ["0", "1", "9223372036854775807", "18446744073709551615"] {
        let answer = attempt(&gate, &format!("zero-timeout?url={}&ns={ns}", upstream.url("/"))).await.unwrap();
        assert!(matches!(answer.status.as_u16(), 200 | 502), "{ns}: {} {}", answer.status, answer.text());
        if ns.len() > 2 {
            assert_eq!(answer.header("x-upstream-status"), "200", "{ns}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn bodies_that_nobody_takes_stay_small() {
    // This upstream never reads a body, so whatever is written waits in the node.
    let upstream = Upstream::scripted(|_| async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        text(200, "late")
    })
    .await;
    let gate = besieged("misbehave", "--guest-wall 1s --guest-cpu 1s").await;
    attempt(&gate, "bodies?n=490").await.unwrap();
    let url = gate.url(&format!("/f/misbehave/body-write?url={}", upstream.url("/")));
    let writers = join_all((0..8).map(|_| {
        let (client, request) = (Client::default(), Request::get(&url).body(Default::default()).unwrap());
        async move { client.try_send(request).await }
    }));
    for answer in contained(&gate, "body-write", writers).await {
        let answer = answer.unwrap();
        assert!(answer.status.is_server_error(), "{} {}", answer.status, answer.text());
    }
    let freed = async || gate.metric("tidegate_connections_open").await == 0.0;
    eventually("the calls are freed", freed).await;
}

#[tokio::test]
async fn a_start_function_that_takes_its_time_is_interrupted_and_ended() {
    let gate = besieged("misbehave", "--guest-cpu 1s").await;
    for (name, turns) in [("slow-start", Some(200_000_000)), ("endless-start", None)] {
        let answer = gate.deploy_bytes(name, bombs::slow_start(turns)).await;
        assert!(answer.status.is_success(), "{name}: {}", answer.text());
        assert!(gate.configure(name, json!({"auth": "public"})).await.status.is_success());
        let path = format!("/f/{name}/");
        let answers = contained(&gate, name, join_all((0..4).map(|_| gate.get(&path)))).await;
        for answer in answers {
            match turns {
                // Its handler then does nothing.
                Some(_) => assert_eq!(answer.problem(), "guest-no-answer", "{}", answer.text()),
                None => assert_names_its_bound(&answer, "guest-cpu", "guest_cpu"),
            }
        }
    }
}

#[tokio::test]
async fn calls_cancelled_at_any_moment_leave_the_function_serving() {
    let upstream = Upstream::scripted(|_| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        text(200, "late")
    })
    .await;
    for guest in ["misbehave", "probe-p3"] {
        let gate = besieged(guest, "--guest-cpu 500ms").await;
        let paths = ["spin".to_owned(), "sleep?ms=20".to_owned(), format!("fetch?url={}", upstream.url("/"))];
        contained(&gate, "cancelled", async {
            for round in 0..60_u64 {
                let path = format!("/f/{guest}/{}", paths[round as usize % paths.len()]);
                let request = gate.request(Method::GET, &path, "");
                let call = Client::default().try_send(request).await_for(Duration::from_micros(round * 600)).await;
                drop(call);
            }
        })
        .await;
        let quiet = async || gate.metric("tidegate_instances").await <= 2.0;
        eventually("their instances are gone", quiet).await;
        let answer = gate.get(&format!("/f/{guest}/")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

/// A call that is dropped after a while.
trait AwaitFor: Future + Sized {
    async fn await_for(self, time: Duration) -> Option<Self::Output> {
        tokio::time::timeout(time, self).await.ok()
    }
}

impl<F: Future> AwaitFor for F {}
