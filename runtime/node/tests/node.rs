//! A node as its callers see it: start, tokens, the gate, the end. Over real sockets, without guests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{net::SocketAddr, time::Duration};

use clap::{Args, Command, FromArgMatches};
use tidegate::{
    node::{Node, NodeOptions, RunningNode},
    settings::Settings,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const TOKEN: &str = "tg_a-token-for-the-tests-of-a-node";

fn settings(data: &std::path::Path, flags: &[&str]) -> Settings {
    let command = Settings::augment_args(Command::new("serve"));
    let data = data.display().to_string();
    let fixed =
        ["serve", "--listen", "127.0.0.1:0", "--control-listen", "127.0.0.1:0", "--egress-allow", "127.0.0.0/8"];
    let own = ["--data", &data, "--admin-token", TOKEN];
    let all = fixed.iter().chain(&own).chain(flags);
    Settings::from_arg_matches(&command.try_get_matches_from(all).unwrap()).unwrap()
}

async fn start(flags: &[&str], open: bool) -> (RunningNode, tempfile::TempDir) {
    let data = tempfile::tempdir().unwrap();
    let options = NodeOptions { open, ..NodeOptions::default() };
    (Node::start(settings(data.path(), flags), options).await.unwrap(), data)
}

/// Waits until something holds; ten seconds are never needed on a machine that works.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waits = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), waits).await.is_ok(), "never: {what}");
}

/// Sends the bytes and reads until the peer closes.
async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn get(address: SocketAddr, path: &str, headers: &str) -> String {
    exchange(address, &format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}\r\n")).await
}

/// An upstream that says what it was asked, once a connection.
async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                    let mut chunk = [0; 4_096];
                    match stream.read(&mut chunk).await {
                        Ok(0) | Err(_) => return,
                        Ok(length) => head.extend_from_slice(&chunk[..length]),
                    }
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let answer =
                    format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{head}", head.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_wants_a_token_takes_it_where_clients_put_it_and_keeps_it_to_itself() {
    let (node, _data) = start(&[], false).await;
    let path = format!("/to/http://{}/v1/x?y=1", upstream().await);
    let refused = get(node.data_addr, &path, "").await;
    assert!(refused.starts_with("HTTP/1.1 401") && refused.contains("tidegate-token"), "{refused}");
    let wrong = get(node.data_addr, &path, "tidegate-token: tg_wrong\r\n").await;
    assert!(wrong.starts_with("HTTP/1.1 401"), "{wrong}");
    for header in ["tidegate-token", "x-api-key"] {
        let answer = get(node.data_addr, &path, &format!("{header}: {TOKEN}\r\nx-mine: 1\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("GET /v1/x?y=1"), "{answer}");
        assert!(answer.contains("x-mine: 1") && !answer.contains(TOKEN), "{answer}");
        assert!(answer.contains("tidegate-trace: ") && answer.contains("server-timing: "), "{answer}");
    }
    let both = format!("tidegate-token: {TOKEN}\r\nauthorization: Bearer sk-theirs\r\n");
    assert!(get(node.data_addr, &path, &both).await.contains("authorization: Bearer sk-theirs"));
    assert!(node.shutdown().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_dev_nobody_needs_a_token_and_every_key_is_the_upstreams() {
    let (node, _data) = start(&[], true).await;
    let path = format!("/to/http://{}/", upstream().await);
    let answer = get(node.data_addr, &path, "authorization: Bearer sk-theirs\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("authorization: Bearer sk-theirs"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_the_options_of_the_node_itself_is_told_its_methods() {
    let (node, _data) = start(&[], true).await;
    let answer = exchange(node.data_addr, "OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 204") && answer.contains("\r\nallow: GET, HEAD, "), "{answer}");
    let of_a_path = exchange(node.data_addr, "OPTIONS /* HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(of_a_path.starts_with("HTTP/1.1 404"), "{of_a_path}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_offered_is_refused_as_a_problem() {
    let (node, _data) = start(&[], true).await;
    let address = node.data_addr;
    for (request, status) in [
        ("CONNECT a.example:443 HTTP/1.1\r\nhost: a.example:443\r\nconnection: close\r\n\r\n", 405),
        ("GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade, close\r\n\r\n", 501),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n", 400),
        ("GET /f/nobody/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 404),
        ("GET /to/nowhere/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 404),
        ("GET /to/http://h/ HTTP/1.1\r\nhost: x\r\nprefer: respond-async\r\nconnection: close\r\n\r\n", 501),
        ("GET /else HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 404),
    ] {
        let answer = exchange(address, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
        assert!(answer.contains("content-type: application/problem+json"), "{request}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_beyond_the_bound_is_refused_with_its_length_known_or_not() {
    let (node, _data) = start(&["--max-request-body", "10"], true).await;
    let path = format!("/to/http://{}/", upstream().await);
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
    let known = exchange(node.data_addr, &format!("{head}content-length: 11\r\n\r\n12345678901")).await;
    assert!(known.starts_with("HTTP/1.1 413") && known.contains("max_request_body"), "{known}");
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\nb\r\n12345678901\r\n0\r\n\r\n");
    let unknown = exchange(node.data_addr, &chunked).await;
    assert!(unknown.contains("max_request_body"), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_can_not_be_says_which_setting_is_in_the_way() {
    let (node, data) = start(&[], false).await;
    let failure = async |settings| Node::start(settings, NodeOptions::default()).await.err().unwrap().to_string();
    let in_use = failure(settings(data.path(), &[])).await;
    assert!(in_use.contains("another node uses it (--data)"), "{in_use}");
    let other = tempfile::tempdir().unwrap();
    let mut taken = settings(other.path(), &[]);
    taken.node.listen = node.data_addr;
    let in_use = failure(taken).await;
    assert!(in_use.contains(&node.data_addr.to_string()) && in_use.contains("(--listen)"), "{in_use}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_drains_says_so_finishes_what_is_open_and_listens_no_more() {
    let (node, _data) = start(&["--drain-timeout", "5s"], true).await;
    let (address, control) = (node.data_addr, node.control_addr);
    eventually("it is ready", async || get(control, "/readyz", "").await.starts_with("HTTP/1.1 200")).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let path = format!("/to/http://{}/", silent.local_addr().unwrap());
    let open = tokio::spawn(async move { get(address, &path, "").await });
    let (mut upstream, _) = silent.accept().await.unwrap();
    // An answer before its request would be none.
    assert!(upstream.read(&mut [0; 4_096]).await.unwrap() > 0);
    let ended = tokio::spawn(node.shutdown());
    eventually("it listens no more", async || TcpStream::connect(address).await.is_err()).await;
    assert!(!ended.is_finished(), "a request is open");
    upstream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate").await.unwrap();
    let answer = open.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("late"), "{answer}");
    assert!(ended.await.unwrap(), "all finished in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_grace_lasts_a_draining_node_accepts_and_says_that_it_is_not_ready() {
    let (node, _data) = start(&["--drain-grace", "1h"], true).await;
    let address = node.data_addr;
    eventually("it is ready", async || get(address, "/readyz", "").await.starts_with("HTTP/1.1 200")).await;
    let draining = tokio::spawn(node.shutdown());
    eventually("it says so", async || get(address, "/readyz", "").await.starts_with("HTTP/1.1 503")).await;
    let path = format!("/to/http://{}/", upstream().await);
    assert!(get(address, &path, "").await.starts_with("HTTP/1.1 200"), "it still serves");
    assert!(!draining.is_finished());
    draining.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grace_that_is_over_ends_the_node() {
    let (node, _data) = start(&["--drain-grace", "20ms"], true).await;
    let address = node.data_addr;
    assert!(node.shutdown().await);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_answer_when_the_drain_is_over_is_told_so() {
    let (node, _data) = start(&["--drain-timeout", "100ms"], true).await;
    let address = node.data_addr;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let path = format!("/to/http://{}/", silent.local_addr().unwrap());
    let open = tokio::spawn(async move { get(address, &path, "").await });
    let (mut upstream, _) = silent.accept().await.unwrap();
    assert!(upstream.read(&mut [0; 4_096]).await.unwrap() > 0);
    assert!(!node.shutdown().await, "one did not finish");
    let answer = open.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("/problems/shutting-down"), "{answer}");
    assert!(answer.contains("retry-after: 1"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_destinations_show_what_went_through() {
    let (node, _data) = start(&["--metrics-listen", "127.0.0.1:0"], false).await;
    let upstream = upstream().await;
    let bearer = format!("authorization: Bearer {TOKEN}\r\n");
    get(node.data_addr, &format!("/to/http://{upstream}/"), &bearer).await;
    let live = get(node.control_addr, "/v1/destinations", &bearer).await;
    assert!(live.contains(&format!("\"destination\":\"http://{upstream}\"")), "{live}");
    let trails = get(node.control_addr, "/v1/trails", &bearer).await;
    assert!(trails.contains("\"call\":true") && trails.contains("\"status\":200"), "{trails}");
    let metrics = get(node.metrics_addr.unwrap(), "/metrics", "").await;
    assert!(metrics.contains("tidegate_attempts_total{destination=\"other\"} 1"), "{metrics}");
}
