//! Upstreams that repeat a key where few look, and configurations that change under calls with one.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::StreamExt;
use http::HeaderValue;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tidegate::{body::BodyError, observe::CacheMetrics, outbound::Cache};

use super::*;

/// An upstream that repeats its caller's key in a header and in a trailer, and says of its one answer that it still holds.
async fn echo() -> Upstream {
    let count = Arc::new(AtomicUsize::new(0));
    Upstream::start(move |request| {
        let first = count.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            let said = request.headers()["authorization"].clone();
            let trailers: HeaderMap = [(http::HeaderName::from_static("x-said"), said.clone())].into_iter().collect();
            let frames = [Ok::<_, BodyError>(Frame::data("text".into())), Ok(Frame::trailers(trailers))];
            let body = StreamBody::new(futures::stream::iter(frames).then(|frame| async { frame })).boxed_unsync();
            let mut answer = Response::new(if first { body } else { body::empty() });
            if first {
                answer.headers_mut().insert("trailer", HeaderValue::from_static("x-said"));
            } else {
                *answer.status_mut() = http::StatusCode::NOT_MODIFIED;
            }
            answer.headers_mut().insert("x-echo", said);
            answer.headers_mut().insert("etag", HeaderValue::from_static("\"1\""));
            answer.headers_mut().insert("cache-control", HeaderValue::from_static("public, max-age=0"));
            answer
        }
    })
    .await
}

#[tokio::test]
async fn an_upstream_that_repeats_a_key_in_trailers_and_on_a_304_teaches_nobody() {
    let mut world = World::new().await;
    let echo = echo().await;
    let cache = Cache::open(&settings(&[]), None, CacheMetrics::default()).await;
    let parts = DoorParts { cache, keys: Arc::clone(&world.keys), ..DoorParts::default() };
    world.gate = Gate::with(&[], parts);
    world.gate.sender = sender(SenderKind::Program { token: Some("t".into()) });
    world.destination("echo", json!({"match": echo.url(""), "secret": "KEY", "cache": {"enabled": true}}));
    world.bind("KEY", "agent", &[("echo", &echo.url(""))], Place::usual());
    for asked in 1..=3 {
        let mut ask = request(&echo.url("/"), &[]);
        ask.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        let answer = world.gate.send(ask).await.unwrap();
        assert_eq!(answer.status(), 200);
        let head = headers_of(&answer);
        let body = answer.into_body().collect().await.unwrap();
        let said = format!("{head} {:?}", body.trailers());
        assert!(said.contains("[secret KEY]"), "{said}");
        assert!(!said.contains("sk-live"), "{said}");
        if asked == 1 {
            assert!(body.trailers().is_some(), "it has trailers");
        }
        assert_eq!(echo.requests(), asked);
        assert_eq!(head.contains("fwd-status=304"), asked > 1, "{head}");
    }
}

/// An upstream that answers after this time, and writes down the keys that it saw.
async fn keeping(name: &'static str, after: Duration) -> (Upstream, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let keys = Arc::clone(&seen);
    let upstream = Upstream::start(move |request| {
        let key = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        keys.lock().push(key.unwrap_or_default());
        async move {
            tokio::time::sleep(after).await;
            text(200, name)
        }
    })
    .await;
    (upstream, seen)
}

#[tokio::test]
async fn no_copy_leaves_once_a_destination_was_led_elsewhere_or_its_secret_is_gone() {
    const API: &str = "http://api.example";
    for change in ["nothing", "an endpoint", "no secret"] {
        let mut world = World::new().await;
        let (slow, _) = keeping("slow", Duration::from_secs(3)).await;
        let (other, seen) = keeping("other", Duration::ZERO).await;
        let mut config = json!({"match": API, "endpoints": [{"url": slow.url(""), "region": "iad"}],
            "secret": "KEY", "policy": {"mode": "hedge", "hedge_after": "1s", "regions": ["iad"]}});
        if change != "an endpoint" {
            config["endpoints"] =
                json!([{"url": slow.url(""), "region": "iad"}, {"url": other.url(""), "region": "lhr"}]);
        }
        world.gate.sender = sender(SenderKind::Program { token: Some("t".into()) });
        world.destination("api", config.clone());
        let stands = world.stands("api");
        world.bind("KEY", "agent", &[("api", &stands)], Place::usual());
        if change != "an endpoint" {
            // A hedge is a share of the requests of the last ten seconds, whose first half may just be over.
            for _ in 0..3 {
                let there = request(&format!("{API}/"), &[("tidegate-policy", "regions=lhr, regions_only")]);
                assert_eq!(read(world.gate.send(there).await.unwrap()).await, "other");
            }
            seen.lock().clear();
        }
        let call = tokio::spawn(world.gate.door.send(world.gate.call(request(&format!("{API}/"), &[])).1));
        until("it is sent", || slow.requests() == 1).await;
        match change {
            "an endpoint" => {
                config["endpoints"] = json!([{"url": slow.url(""), "region": "iad"}, {"url": other.url("")}]);
                world.destination("api", config);
            }
            "no secret" => world.unset("KEY"),
            _ => {}
        }
        let answer = read(call.await.unwrap().unwrap()).await;
        if change == "nothing" {
            assert_eq!((answer.as_str(), seen.lock().len()), ("other", 1), "it would be copied otherwise");
        } else {
            assert_eq!((answer.as_str(), seen.lock().len()), ("slow", 0), "{change}");
        }
    }
}
