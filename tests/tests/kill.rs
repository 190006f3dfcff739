//! A node that is killed while it is being deployed to serves the old or the new version, never something half-written.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sha2::Digest as _;
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

/// The module of a round; round 0 is the first deploy.
fn module_of(module: &[u8], round: u64) -> Vec<u8> {
    if round == 0 { module.to_vec() } else { another(module, round) }
}

/// The digest of the version that serves, as the API tells it.
async fn digest_of_what_serves(gate: &Gate) -> String {
    let answer = gate.control_get("/v1/functions/victim").await;
    let function: Value = serde_json::from_slice(&answer.body).unwrap();
    function["active"]["digest"].as_str().unwrap().to_owned()
}

fn sha256(bytes: &[u8]) -> String {
    let digest = sha2::Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
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
    let mut gate = Gate::serve().data(data.path()).start().await;
    let (began, answer) = (Instant::now(), gate.deploy_bytes("victim", module.clone()).await);
    assert!(answer.status.is_success(), "{}", answer.text());
    assert!(gate.configure("victim", config(0)).await.status.is_success());
    // From the first byte of an upload to the last sync: each kill falls anywhere into that, or a little after it.
    let longest = began.elapsed().mul_f64(1.2);
    let (mut oldest_allowed, mut finished) = (0, 0);
    for round in 1..=rounds() {
        let deploy = async {
            let answer = gate.deploy_bytes("victim", module_of(&module, round)).await;
            assert!(answer.status.is_success(), "{}", answer.text());
            let answer = gate.configure("victim", config(round)).await;
            assert!(answer.status.is_success(), "{}", answer.text());
        };
        // What serves while it is replaced must be whole at every moment, too.
        let invoke = async {
            loop {
                let answer = gate.get("/f/victim/env").await;
                assert_eq!(answer.status, 200, "round {round}: {}", answer.text());
                let serving = served(&answer.text());
                assert!(serving >= oldest_allowed && serving <= round, "round {round} serves {serving}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let moment = longest.mul_f64((next() % 1_000_000) as f64 / 1e6);
        let whole = tokio::select! {
            () = deploy => true,
            () = tokio::time::sleep(moment) => false,
            () = invoke => unreachable!(),
        };
        gate.signal(rustix::process::Signal::KILL);
        drop(gate);

        gate = Gate::serve().data(data.path()).start().await;
        let answer = gate.get("/f/victim/env").await;
        assert_eq!(answer.status, 200, "round {round}: {}", answer.text());
        let serving = served(&answer.text());
        assert!((oldest_allowed..=round).contains(&serving), "round {round} serves {serving}, {oldest_allowed} was");
        // A round deploys a module and then its configuration; a kill in between leaves the one without the other.
        let digest = digest_of_what_serves(&gate).await;
        let modules = (serving..=round).map(|round| sha256(&module_of(&module, round)));
        assert!(modules.into_iter().any(|module| module == digest), "round {round} serves a module of no round");
        if whole {
            assert_eq!(serving, round, "a deploy that was answered is kept");
            finished += 1;
        }
        oldest_allowed = serving;
        // Nothing half-written stays behind, and nothing that no version names: ten are kept, and each round makes two.
        let files = walk(data.path(), data.path());
        let half_written = |name: &&String| ["tmp/", "upload", "partial"].iter().any(|part| name.contains(part));
        let leftovers: Vec<_> = files.iter().filter(half_written).collect();
        assert!(leftovers.is_empty(), "round {round}: {leftovers:?}");
        assert!(files.len() < 40, "round {round}: {files:#?}");
    }
    eprintln!("{} rounds, {finished} deploys finished before the kill", rounds());
}

#[tokio::test]
async fn an_artifact_that_is_not_what_was_written_is_made_anew() {
    let data = tempfile::tempdir().unwrap();
    let start = async || Gate::serve().data(data.path()).start().await;
    let gate = start().await;
    gate.deploy("misbehave", config(1)).await;
    drop(gate);
    let artifacts = data.path().join("artifacts");
    let artifact = std::fs::read_dir(&artifacts).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&artifact).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    for (what, bytes) in [
        ("cut in half", whole[..whole.len() / 2].to_vec()),
        ("empty", Vec::new()),
        ("one bit of its code is flipped", flipped(whole.len() / 2)),
        ("one bit of its seal is flipped", flipped(whole.len() - 1)),
        ("zeros after a power cut", vec![0; whole.len()]),
    ] {
        std::fs::remove_file(&artifact).unwrap();
        std::fs::write(&artifact, bytes).unwrap();
        let gate = start().await;
        let answer = gate.get("/f/misbehave/env").await;
        assert_eq!((answer.status.as_u16(), served(&answer.text())), (200, 1), "{what}");
        drop(gate);
        assert_eq!(std::fs::read(&artifact).unwrap().len(), whole.len(), "{what}");
    }
}

fn config(round: u64) -> serde_json::Value {
    json!({"auth": "public", "env": {"ROUND": round.to_string()}})
}

/// Which round's configuration answered.
fn served(text: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix("ROUND=")).unwrap().parse().unwrap()
}

/// Files below a folder, as seen from the root.
fn walk(root: &Path, folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => names.extend(walk(root, &entry.path())),
            false => names.push(entry.path().strip_prefix(root).unwrap().display().to_string()),
        }
    }
    names
}
