//! Modules that are ruinous to compile are refused in time, and nobody but their deployer notices.

use std::time::{Duration, Instant};

use http::{Method, Request};
use serde_json::json;
use tidegate_tests::{Gate, bombs, contained, eventually, guest};

async fn gate() -> Gate {
    let gate = Gate::serve().flags("--compile-cpu 5s --compile-memory 1GiB").start().await;
    gate.deploy_as("hello-rust", "neighbour", json!({"auth": "public"})).await;
    gate
}

#[tokio::test]
async fn a_compile_bomb_is_refused_by_its_bound_and_its_process_is_gone() {
    let gate = gate().await;
    for (name, bomb, limits) in [
        ("nested-loops", bombs::nested_loops(), &["compile_cpu"][..]),
        ("many-functions", bombs::many_functions(), &["compile_memory", "compile_cpu"]),
    ] {
        let began = Instant::now();
        let answer = contained(&gate, name, gate.deploy_bytes("bomb", bomb)).await;
        assert_eq!((answer.status.as_u16(), answer.problem().as_str()), (422, "compile-limit"), "{}", answer.text());
        let problem = answer.json();
        let setting = problem["setting"].as_str().unwrap();
        assert!(limits.contains(&setting), "{name}: {}", answer.text());
        assert!(problem["limit"].is_string() && problem["value"].is_string(), "{}", answer.text());
        assert!(began.elapsed() < Duration::from_secs(30), "{name}: {:?}", began.elapsed());
        assert!(gate.children().is_empty(), "{name}: a process stays");
        let answer = gate.get("/f/bomb/").await;
        assert_eq!(answer.status, 404, "{}", answer.text());
        // The next deploy finds everything as it was.
        let answer = gate.deploy_bytes("later", std::fs::read(guest("misbehave")).unwrap()).await;
        assert!(answer.status.is_success(), "{name}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_deployer_who_leaves_or_a_node_that_is_killed_ends_the_compilation() {
    let gate = gate().await;
    let url = format!("http://{}/v1/functions/bomb", gate.control_address);
    let send = || {
        let request = Request::builder()
            .method(Method::PUT)
            .uri(&url)
            .header("authorization", format!("Bearer {}", tidegate_tests::TOKEN))
            .body(http_body_util::Full::new(bombs::nested_loops().into()))
            .unwrap();
        tokio::spawn(async move { tidegate_tests::Client::default().try_send(request).await })
    };
    let deploy = send();
    eventually("the compilation runs", async || !gate.children().is_empty()).await;
    deploy.abort();
    eventually("the compilation is ended", async || gate.children().is_empty()).await;

    let deploy = send();
    eventually("the compilation runs again", async || !gate.children().is_empty()).await;
    let orphans = gate.children();
    gate.signal(rustix::process::Signal::KILL);
    deploy.abort();
    let alive = |pid: &u32| {
        // A zombie is gone; whoever adopted it only has not looked yet.
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    };
    eventually("the orphan ends itself", async || !orphans.iter().any(alive)).await;
}
