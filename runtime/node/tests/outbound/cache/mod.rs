//! Stored answers: what is stored, for whom, how it is used, and who waits for whom.

mod patience;
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
    cluster::registry::{DestinationConfig, DestinationRecord, State},
    ids::TenantId,
    observe::CacheMetrics,
    outbound::{Cache, DoorParts, Sender, SenderKind},
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

/// A second tenant of a gate, whose destination `mock` is the same upstream as that of the first.
fn two_tenants(gate: &Gate, upstream: &Upstream) -> (Gate, State) {
    let config: DestinationConfig =
        serde_json::from_value(json!({"match": upstream.url(""), "cache": {"enabled": true}})).unwrap();
    let mut state = State::default();
    let other: TenantId = "other".into();
    for tenant in [TenantId::default_tenant(), other.clone()] {
        let record = DestinationRecord {
            tenant: tenant.clone(),
            name: "mock".into(),
            config: Arc::new(config.clone()),
            steering: Default::default(),
            revision: 1,
        };
        state.destinations.insert((tenant, "mock".into()), Arc::new(record));
    }
    gate.door.configure(&state);
    let kind = SenderKind::Program { token: None };
    let sender = Sender { tenant: other, kind, policy: Default::default(), flow: Default::default() };
    let theirs = Gate { door: Arc::clone(&gate.door), observe: Arc::clone(&gate.observe), sender: Arc::new(sender) };
    (theirs, state)
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
