//! What may not be reached, however it is spelled.

use std::{net::IpAddr, sync::Arc};

use parking_lot::Mutex;
use tidegate::outbound::{DoorParts, TransportError};

use crate::support::*;

fn resolving(answers: &[&[&str]]) -> DoorParts {
    let answers =
        answers.iter().map(|answer| answer.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect()).collect();
    DoorParts { resolver: Arc::new(Scripted(Mutex::new(answers))), ..DoorParts::default() }
}

#[tokio::test]
async fn this_machine_and_private_networks_are_denied_in_every_spelling() {
    let upstream = Upstream::start(|_| async { text(200, "") }).await;
    let port = upstream.address.port();
    let gate = Gate::bare(&[], DoorParts::default());
    for host in [
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "0x7f000001",
        "2130706433",
        "017700000001",
        "0177.0.0.1",
        "127.0.0.1.",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "0.0.0.0",
        "0",
        "[::]",
        "169.254.169.254",
        "10.0.0.1",
        "192.168.1.1",
        "172.16.0.1",
        "100.64.0.1",
        "[fdaa::3]",
        "[fe80::1]",
        "metadata.internal",
        "x.flycast",
        "[2002:7f00:1::]",
    ] {
        let (answer, told) = gate.told(get(&format!("http://{host}:{port}/"))).await;
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 403, "{host}: {told:?}");
        assert_eq!(answer.headers()["x-should-retry"], "false");
        let problem = read(answer).await;
        assert!(problem.contains("address-denied") && problem.contains("--egress-allow"), "{host}: {problem}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_name_is_judged_by_its_address_each_time_it_is_dialled() {
    let upstream = Upstream::start(|_| async { text(200, "") }).await;
    // Public when asked first, this machine when asked again: what was judged is what is dialled.
    let gate = Gate::bare(&["--connect-timeout=200ms"], resolving(&[&["192.0.2.1"], &["127.0.0.1"]]));
    let url = format!("http://rebind.example:{}/", upstream.address.port());
    let answer = gate.get(&url).await.unwrap();
    assert_eq!(answer.status(), 403);
    let told = read(answer).await;
    assert!(told.contains("a reserved address") && !told.contains("192.0.2.1"), "{told}");
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn of_several_addresses_only_the_allowed_are_dialled() {
    let upstream = Upstream::start(|_| async { text(200, "") }).await;
    let gate = Gate::with(&[], resolving(&[&["10.0.0.1", "127.0.0.1", "169.254.169.254"]]));
    let url = format!("http://mixed.example:{}/", upstream.address.port());
    assert_eq!(gate.get(&url).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_public_address_behind_many_private_ones_is_found() {
    let upstream = Upstream::start(|_| async { text(200, "") }).await;
    let mut answer: Vec<_> = (1..20).map(|last| format!("10.0.0.{last}")).collect();
    answer.push("127.0.0.1".into());
    let answer: Vec<&str> = answer.iter().map(String::as_str).collect();
    let gate = Gate::with(&[], resolving(&[&answer]));
    let url = format!("http://many.example:{}/", upstream.address.port());
    assert_eq!(gate.get(&url).await.unwrap().status(), 200);
}

#[tokio::test]
async fn every_spelling_of_an_address_is_the_same_destination() {
    let upstream = Upstream::start(|_| async { text(200, "") }).await;
    let port = upstream.address.port();
    let gate = Gate::new(&[]);
    gate.configure(&[("one", serde_json::json!({"match": format!("http://0x7f.1:{port}"), "max_concurrency": 9}))]);
    for host in ["127.0.0.1", "127.1", "0x7f.1", "2130706433", "017700000001"] {
        assert_eq!(gate.get(&format!("http://{host}:{port}/")).await.unwrap().status(), 200, "{host}");
    }
    let state = gate.state();
    assert_eq!(state["destinations"].as_array().unwrap().len(), 1, "{state}");
    assert_eq!(state["destinations"][0]["partitions"][0]["outcomes"]["succeeded"], 5);
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_function_sends_only_to_its_allowed_hosts() {
    let upstream = Upstream::start(|_| async { text(200, "") }).await;
    let allowed = format!("http://{}", upstream.address);
    let gate = Gate::new(&[]).function(&[&allowed, "*.example.com"]);
    assert_eq!(gate.get(&upstream.url("/")).await.unwrap().status(), 200);
    let answer = gate.get("https://api.openai.com/v1").await.unwrap();
    assert_eq!(answer.status(), 403);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let problem: serde_json::Value = serde_json::from_str(&read(answer).await).unwrap();
    assert_eq!(problem["setting"], "allowed_hosts");
    let detail = problem["detail"].as_str().unwrap();
    let line = format!(r#"allowed_hosts = ["{allowed}", "*.example.com", "api.openai.com"]"#);
    assert!(detail.contains(&line), "{detail}");
}

#[tokio::test]
async fn what_is_no_address_of_an_upstream_is_the_senders_error() {
    let gate = Gate::new(&[]);
    for url in ["http://user:pass@127.0.0.1/", "http://127.0.0.1:0/", "ftp://127.0.0.1/"] {
        let error = gate.get(url).await.unwrap_err();
        assert!(matches!(error, TransportError::BadRequest { .. }), "{url}: {error:?}");
    }
    let connect = http::Request::connect("http://127.0.0.1:1/").body(tidegate::body::empty()).unwrap();
    assert!(matches!(gate.send(connect).await, Err(TransportError::BadRequest { .. })));
}
