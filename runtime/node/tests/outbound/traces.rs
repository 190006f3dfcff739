//! W3C trace context: which trace upstreams see, and which spans.

use std::sync::Arc;

use http::{HeaderMap, Request};
use parking_lot::Mutex;
use tidegate::{
    body,
    ids::{TraceContext, TraceId},
    outbound::OutboundCall,
};

use crate::support::*;

/// An upstream that fails its first request, and the heads of all that it got.
async fn failing_once() -> (Upstream, Arc<Mutex<Vec<HeaderMap>>>) {
    let heads = Arc::<Mutex<Vec<HeaderMap>>>::default();
    let seen = Arc::clone(&heads);
    let upstream = Upstream::start(move |request| {
        let count = {
            let mut seen = seen.lock();
            seen.push(request.headers().clone());
            seen.len()
        };
        async move { text(if count == 1 { 500 } else { 200 }, "") }
    })
    .await;
    (upstream, heads)
}

/// Sends a call with these headers that is part of this trace, and returns the sentences of its trail.
async fn send(gate: &Gate, url: &str, headers: &[(&'static str, String)], trace: TraceContext) -> Vec<String> {
    let mut request = Request::get(url).body(body::empty()).unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let (trail, call) = gate.call(request);
    let call = OutboundCall { trace, ..call };
    assert_eq!(gate.door.send(call).await.unwrap().status(), 200);
    gate.sentences(&trail)
}

fn continued(sampled: bool) -> TraceContext {
    TraceContext { trace: TraceId(0xabc), parent: Some(7), span: 0x1234, sampled }
}

#[tokio::test]
async fn each_attempt_is_a_span_of_its_own_in_the_callers_trace() {
    for sampled in [true, false] {
        let (upstream, heads) = failing_once().await;
        let trace = continued(sampled);
        send(&Gate::new(&[]), &upstream.url("/"), &[("tracestate", "vendor=1".into())], trace).await;
        let heads = heads.lock();
        let spans: Vec<_> = heads.iter().map(|head| TraceContext::stated(head).unwrap()).collect();
        assert_eq!(spans.len(), 2);
        assert!(spans.iter().all(|(id, _, flag)| *id == trace.trace && *flag == sampled), "{spans:?}");
        assert_eq!(spans.iter().map(|(_, span, _)| *span).collect::<Vec<_>>(), [trace.below(1, 1), trace.below(1, 2)]);
        assert!(heads.iter().all(|head| head["tracestate"] == "vendor=1"));
    }
}

#[tokio::test]
async fn a_tracestate_without_a_trace_and_one_that_is_too_long_end_at_the_gate() {
    let (upstream, heads) = failing_once().await;
    let gate = Gate::new(&[]);
    let begun = TraceContext { parent: None, ..continued(true) };
    send(&gate, &upstream.url("/"), &[("tracestate", "vendor=1".into())], begun).await;
    send(&gate, &upstream.url("/"), &[("tracestate", "x".repeat(600))], continued(true)).await;
    assert!(heads.lock().iter().all(|head| !head.contains_key("tracestate")));
}

#[tokio::test]
async fn a_guest_may_put_its_call_below_a_span_of_its_own_but_not_into_another_trace() {
    let (upstream, heads) = failing_once().await;
    let gate = Gate::new(&[]).function(&["127.0.0.1:*"]);
    let trace = continued(true);
    let stated = |id: TraceId| ("traceparent", format!("00-{id}-00000000000000aa-01"));
    let told = send(&gate, &upstream.url("/"), &[stated(trace.trace)], trace).await;
    assert!(told.iter().any(|line| line.ends_with("below the guest's own span 00000000000000aa")), "{told:?}");
    let foreign = [stated(TraceId(0xf00)), ("tracestate", "vendor=1".into())];
    let told = send(&gate, &upstream.url("/"), &foreign, trace).await;
    assert!(!told.iter().any(|line| line.contains("own span")), "{told:?}");
    let heads = heads.lock();
    for head in &*heads {
        assert_eq!(TraceContext::stated(head).unwrap().0, trace.trace);
        assert!(!head.contains_key("tracestate"));
    }
}
