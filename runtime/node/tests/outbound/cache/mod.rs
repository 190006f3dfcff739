//! Stored answers: what is stored, for whom, how it is used, and who waits for whom.

mod purge;
mod share;
mod stale;
mod store;
mod theft;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::{HeaderMap, Method, Request, Response};
use serde_json::{Value, json};
use tidegate::{
    body::{self, Body},
    observe::CacheMetrics,
    outbound::{Cache, DoorParts},
};

use crate::support::*;

/// A door with a cache in memory.
async fn gate(flags: &[&str]) -> Gate {
    let cache = Cache::open(&settings(flags), None, CacheMetrics::default()).await;
    Gate::with(flags, DoorParts { cache, ..DoorParts::default() })
}

/// One whose destination `mock` stores answers.
async fn caching(upstream: &Upstream, cache: Value) -> Gate {
    let gate = gate(&[]).await;
    gate.configure(&[("mock", json!({"match": upstream.url(""), "cache": cache}))]);
    gate
}

async fn enabled(upstream: &Upstream) -> Gate {
    caching(upstream, json!({"enabled": true})).await
}

/// An upstream whose answers have these headers, and say how many there were before.
async fn counting(headers: &'static [(&'static str, &'static str)]) -> Upstream {
    let count = Arc::new(AtomicUsize::new(0));
    Upstream::start(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move { answer(200, headers, &number.to_string()) }
    })
    .await
}

fn answer(status: u16, headers: &[(&str, &str)], text: &str) -> Response<Body> {
    let mut answer = Response::builder().status(status);
    for (name, value) in headers {
        answer = answer.header(*name, *value);
    }
    answer.body(body::full(text.to_owned())).unwrap()
}

fn request(method: Method, url: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body::empty()).unwrap()
}

/// What an answer is: status, what the cache says it did, text.
struct Got {
    status: u16,
    cache: String,
    headers: HeaderMap,
    text: String,
}

async fn fetch(gate: &Gate, method: Method, url: &str, headers: &[(&str, &str)]) -> Got {
    let answer = gate.send(request(method, url, headers)).await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let mut said = headers.get_all("cache-status").iter().map(|value| value.to_str().unwrap());
    let cache = said.next_back().unwrap_or("none").replace("Tidegate; ", "");
    Got { status, cache, headers, text: read(answer).await }
}

async fn fetch_get(gate: &Gate, url: &str, headers: &[(&str, &str)]) -> Got {
    fetch(gate, Method::GET, url, headers).await
}
