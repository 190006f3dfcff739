//! An attack, watched: while it runs, a neighbour function is asked over and over, and the node's memory is looked at.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{Answer, Client, Gate};

/// The neighbour's slowest answer during an attack. Generous: the machine may be busy with other things. A starved node
/// answers after seconds, or never.
const SLOWEST: Duration = Duration::from_secs(2);
/// Half of its answers come within this.
const MEDIAN: Duration = Duration::from_millis(100);
/// What a node may grow by at most, whatever is done to it. Guests in these tests have 64 MiB.
const GROWTH: u64 = 250 << 20;

/// A gate that serves `guest`, whose every path is an attack, and its neighbour. Guests have 64 MiB unless `flags` say more.
pub async fn besieged(guest: &str, flags: &str) -> Gate {
    let memory = if flags.contains("--guest-memory") { "" } else { "--guest-memory 64MiB" };
    let gate = Gate::serve().flags(memory).flags(flags).start().await;
    gate.deploy(guest, json!({"allowed_hosts": ["127.0.0.1:*"], "auth": "public"})).await;
    gate.deploy_as("hello-rust", "neighbour", json!({"auth": "public"})).await;
    gate
}

/// Runs the attack to its end; fails unless the neighbour was well all the time and memory stayed bounded.
pub async fn contained<T>(gate: &Gate, what: &str, attack: impl Future<Output = T>) -> T {
    let before = gate.resident();
    gate.forget_peak();
    let mut times = Vec::new();
    let outcome = {
        let mut attack = Box::pin(attack);
        let client = Client::default();
        let mut neighbour = pin!(async {
            loop {
                let started = Instant::now();
                let request = http::Request::get(gate.url("/f/neighbour/")).body(Default::default()).unwrap();
                let answer = client.try_send(request).await;
                let fine = answer.as_ref().is_ok_and(|answer| answer.status == 200);
                assert!(fine, "{what}: the neighbour said {answer:?}");
                times.push(started.elapsed());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        tokio::select! {
            outcome = &mut attack => outcome,
            () = &mut neighbour => unreachable!(),
        }
    };
    let after = gate.get("/f/neighbour/").await;
    assert_eq!(after.status, 200, "{what}: {}", after.text());
    times.push(after.took);
    times.sort();
    let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
    // Of a short attack there are too few answers for a median: one late one would be it.
    let quick = median < MEDIAN || times.len() < 20;
    assert!(slowest < SLOWEST && quick, "{what}: the neighbour took {median:?}, at most {slowest:?}");
    let grown = gate.peak_resident().saturating_sub(before);
    assert!(grown < GROWTH, "{what}: the node grew by {} MiB", grown >> 20);
    outcome
}

/// Fails unless the answer is a problem of this kind that names a limit, its value and its setting.
pub fn assert_names_its_bound(answer: &Answer, kind: &str, setting: &str) {
    assert_eq!(answer.problem(), kind, "{} {}", answer.status, answer.text());
    let problem = answer.json();
    assert_eq!(problem["setting"], setting, "{}", answer.text());
    for member in ["limit", "value", "title", "detail", "trail"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {}", answer.text());
    }
}
