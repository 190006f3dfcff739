//! Calls that wait at a destination which their origin does not belong to any more.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tidegate::{
    cluster::registry::{BrakeRecord, BrakeState, DestinationRecord, Signed, State, Steering},
    ids::TenantId,
};
use tokio::task::JoinHandle;

use crate::support::{Gate, Upstream, channel_body, read, text, until};

/// An upstream whose answers take so long.
async fn upstream(after: Duration) -> Upstream {
    Upstream::start(move |_| async move {
        tokio::time::sleep(after).await;
        text(200, "answered")
    })
    .await
}

/// Shows the gate these destinations, and no others; with `paused` an operator holds them.
fn show(gate: &Gate, destinations: &[(&str, Value)], paused: bool) {
    let tenant = TenantId::default_tenant();
    let by = Signed { since_ms: 0, by: "somebody".into(), reason: None };
    let brake = paused.then_some(BrakeRecord { state: BrakeState::Paused, until_ms: None, by });
    let mut state = State::default();
    for (name, config) in destinations {
        let record = DestinationRecord {
            tenant: tenant.clone(),
            name: (*name).into(),
            config: Arc::new(serde_json::from_value(config.clone()).unwrap()),
            steering: Steering { brake: brake.clone(), limits: None },
            revision: 1,
        };
        state.destinations.insert((tenant.clone(), (*name).into()), Arc::new(record));
    }
    gate.door.configure(&state);
}

/// Calls that wait at this destination, in all its partitions.
fn waiting(gate: &Gate, destination: &str) -> u64 {
    let state = gate.state();
    let of = state["destinations"].as_array().unwrap().iter().find(|it| it["destination"] == destination);
    let partitions = of.and_then(|of| of["partitions"].as_array().cloned()).unwrap_or_default();
    partitions.iter().map(|it| it["queue"]["calls"].as_u64().unwrap()).sum()
}

fn calls(gate: &Arc<Gate>, url: &str, count: usize) -> Vec<JoinHandle<String>> {
    let call = || {
        let (gate, url) = (Arc::clone(gate), url.to_owned());
        tokio::spawn(async move { read(gate.get(&url).await.unwrap()).await })
    };
    (0..count).map(|_| call()).collect()
}

async fn answered(calls: Vec<JoinHandle<String>>) {
    for call in calls {
        assert_eq!(call.await.unwrap(), "answered");
    }
}

#[tokio::test]
async fn calls_that_a_paused_destination_held_go_on_when_it_is_removed() {
    let upstream = upstream(Duration::ZERO).await;
    let gate = Arc::new(Gate::new(&[]));
    for matches in [upstream.url(""), "http://*:*".into()] {
        show(&gate, &[("held", json!({"match": matches}))], true);
        let before = upstream.requests();
        let held = calls(&gate, &upstream.url("/"), 5);
        until("they wait", || waiting(&gate, "held") == 5).await;
        // A change of another leaves them where they are.
        let other = ("other", json!({"match": "http://other.example"}));
        show(&gate, &[("held", json!({"match": matches})), other], true);
        assert_eq!((waiting(&gate, "held"), upstream.requests()), (5, before));
        show(&gate, &[], false);
        answered(held).await;
        assert_eq!(waiting(&gate, "held"), 0);
    }
}

#[tokio::test]
async fn calls_of_a_destination_that_was_renamed_wait_by_the_limits_of_the_new_one() {
    let upstream = upstream(Duration::ZERO).await;
    let gate = Arc::new(Gate::new(&[]));
    show(&gate, &[("old", json!({"match": upstream.url("")}))], true);
    let held = calls(&gate, &upstream.url("/"), 4);
    until("they wait", || waiting(&gate, "old") == 4).await;
    let limited = json!({"match": upstream.url(""), "limits": [{"quota": 4, "per": "1s", "burst": 1}]});
    show(&gate, &[("new", limited)], false);
    answered(held).await;
    let arrivals = upstream.seen.arrivals.lock().clone();
    assert!(arrivals[3] - arrivals[0] > Duration::from_millis(600), "{arrivals:?}");
}

#[tokio::test]
async fn calls_that_wait_for_an_origin_follow_what_is_configured_for_it_meanwhile() {
    let upstream = upstream(Duration::from_millis(500)).await;
    let gate = Arc::new(Gate::new(&[]));
    // Nothing is known of it: of so many only a few leave at once.
    let held = calls(&gate, &upstream.url("/"), 50);
    let origin = upstream.url("");
    until("some wait", || waiting(&gate, &origin) > 0 && upstream.requests() > 0).await;
    show(&gate, &[("named", json!({"match": origin}))], true);
    until("they wait there", || waiting(&gate, "named") > 0 && waiting(&gate, &origin) == 0).await;
    let left = upstream.requests();
    let (began, waits) = (Instant::now(), waiting(&gate, "named"));
    // What had left is answered, and nobody follows.
    until("those that left are answered", || {
        upstream.seen.in_flight.load(std::sync::atomic::Ordering::SeqCst) == 0
            && began.elapsed() > Duration::from_millis(600)
    })
    .await;
    assert_eq!((upstream.requests(), waiting(&gate, "named")), (left, waits));
    show(&gate, &[("named", json!({"match": origin}))], false);
    answered(held).await;
}

#[tokio::test]
async fn a_call_that_is_tried_again_asks_where_its_origin_belongs_by_then() {
    let upstream = Upstream::start(|_| async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        text(503, "down")
    })
    .await;
    let gate = Arc::new(Gate::new(&[]));
    show(&gate, &[("old", json!({"match": upstream.url(""), "policy": {"retries": 1}}))], false);
    let call = calls(&gate, &upstream.url("/"), 1);
    until("it is sent", || upstream.requests() == 1).await;
    show(&gate, &[("new", json!({"match": upstream.url("")}))], true);
    until("it waits", || waiting(&gate, "new") == 1).await;
    show(&gate, &[], false);
    for call in call {
        assert_eq!(call.await.unwrap(), "down");
    }
    assert_eq!(upstream.requests(), 2);
}

#[tokio::test]
async fn a_destination_that_is_removed_is_in_no_list_and_no_gauge_whoever_still_calls_it() {
    let upstream = upstream(Duration::ZERO).await;
    let gate = Arc::new(Gate::new(&[]));
    let gauges = || gate.observe.metrics.render_with(|all| all.register_collector(Box::new(gate.door.gauges())));
    let paused = r#"tidegate_destination_paused{destination="held"} 1"#;
    let split = json!({"match": upstream.url(""), "split_by": ["body:/model"]});
    show(&gate, &[("held", split.clone())], false);
    // Its partition is known when its body has come.
    let (body, request) = channel_body();
    let late = tokio::spawn({
        let (gate, url) = (Arc::clone(&gate), upstream.url("/"));
        async move { gate.send(http::Request::post(url).body(request).unwrap()).await.unwrap().status() }
    });
    // The second is taken only once the first was read.
    for part in ["{\"model\":", " "] {
        body.send(part.into()).await.unwrap();
    }
    show(&gate, &[("held", split)], true);
    let held = calls(&gate, &upstream.url("/"), 2);
    until("they wait", || waiting(&gate, "held") == 2).await;
    assert!(gauges().contains(paused), "{}", gauges());
    show(&gate, &[], false);
    answered(held).await;
    body.send("\"m\"}".into()).await.unwrap();
    drop(body);
    assert_eq!(late.await.unwrap(), 200);
    assert!(!gauges().contains("\"held\""), "{}", gauges());
    assert!(!gate.state().to_string().contains("\"held\""), "{}", gate.state());
}
