//! A node that is killed while it is being deployed to serves the old or the new version, never something half-written.

use std::time::Duration;

use serde_json::json;
use tidegate_tests::{Gate, guest};

/// Rounds: a few here, `TIDEGATE_TEST_KILLS=200` by hand.
fn rounds() -> u64 {
    std::env::var("TIDEGATE_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

/// The module with a custom section that makes it another module: each deploy compiles and writes anew.
fn another(module: &[u8], round: u64) -> Vec<u8> {
    let mut module = module.to_vec();
    let payload = [&[5][..], b"round", &round.to_le_bytes()].concat();
    module.push(0);
    module.push(u8::try_from(payload.len()).unwrap());
    module.extend(payload);
    module
}

#[tokio::test]
async fn a_killed_node_serves_the_old_or_the_new_version() {
    let data = tempfile::tempdir().unwrap();
    let module = std::fs::read(guest("misbehave")).unwrap();
    // xorshift: the moments of the kills differ each round and are the same each run.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    {
        let gate = Gate::serve().data(data.path()).start().await;
        let answer = gate.deploy_bytes("victim", module.clone()).await;
        assert!(answer.status.is_success(), "{}", answer.text());
        assert!(gate.configure("victim", json!({"env": {"ROUND": "0"}})).await.status.is_success());
    }
    let (mut oldest_allowed, mut finished) = (0, 0);
    for round in 1..=rounds() {
        let gate = Gate::serve().data(data.path()).start().await;
        let deploy = async {
            let answer = gate.deploy_bytes("victim", another(&module, round)).await;
            assert!(answer.status.is_success(), "{}", answer.text());
            let answer = gate.configure("victim", json!({"env": {"ROUND": round.to_string()}})).await;
            assert!(answer.status.is_success(), "{}", answer.text());
        };
        // The longest deploy of this guest takes a second or so; most kills fall into it.
        let moment = Duration::from_micros(next() % 1_200_000);
        let whole = tokio::time::timeout(moment, deploy).await.is_ok();
        gate.signal(rustix::process::Signal::KILL);
        drop(gate);

        let gate = Gate::serve().data(data.path()).start().await;
        let answer = gate.get("/f/victim/env").await;
        assert_eq!(answer.status, 200, "round {round}: {}", answer.text());
        let text = answer.text();
        let serving: u64 = text.lines().find_map(|line| line.strip_prefix("ROUND=")).unwrap().parse().unwrap();
        assert!(
            serving == round || serving >= oldest_allowed,
            "round {round} serves {serving}, {oldest_allowed} was accepted"
        );
        if whole {
            assert_eq!(serving, round, "a deploy that was answered is kept");
            finished += 1;
        }
        oldest_allowed = serving;
        // Nothing half-written stays behind.
        let root = data.path().display().to_string();
        let inside = walk(data.path()).into_iter().map(|name| name.replacen(&root, "", 1));
        let half_written = |name: &String| ["tmp", "upload", "partial"].iter().any(|part| name.contains(part));
        let leftovers: Vec<_> = inside.filter(half_written).collect();
        assert!(leftovers.is_empty(), "round {round}: {leftovers:?}");
    }
    eprintln!("{} rounds, {finished} deploys finished before the kill", rounds());
}

fn walk(folder: &std::path::Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            names.extend(walk(&entry.path()));
        } else {
            names.push(entry.path().display().to_string());
        }
    }
    names
}
