//! Calls through a door to real sockets: what leaves, and what a guest is told when nothing comes back.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use tidegate::guest::Deployment;

use crate::support::{Host, Seen, eventually};

/// An upstream that keeps the bytes of each request and gives the same bytes as each answer.
struct Wire {
    address: SocketAddr,
    seen: Seen,
}

impl Wire {
    fn start(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Seen::default());
        let keep = seen.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let Ok(mut connection) = connection else { return };
                let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
                while !is_whole(&bytes) {
                    match connection.read(&mut chunk) {
                        Ok(0) | Err(_) => break,
                        Ok(count) => bytes.extend_from_slice(&chunk[..count]),
                    }
                }
                keep.push(String::from_utf8_lossy(&bytes).to_lowercase());
                // The caller may have given up.
                let _ = connection.write_all(answer.as_bytes());
            }
        });
        Self { address, seen }
    }

    /// The one request that came.
    fn request(&self) -> String {
        let seen = self.seen.all();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen[0].clone()
    }
}

fn is_whole(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    if head.contains("transfer-encoding: chunked") {
        return body.ends_with("\r\n\r\n") && (body.starts_with("0\r\n") || body.contains("\r\n0\r\n"));
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";

async fn probe() -> (Host, Arc<Deployment>) {
    let host = Host::with_door(&["--egress-allow", "127.0.0.0/8"]);
    let probe = host.deploy("probe-p3").await;
    (host, probe)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_reached_nobody_was_not_transmitted_either() {
    let (host, probe) = probe().await;
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let long = "a".repeat(64);
    for (query, code) in [
        (format!("scheme=http&path=/&authority={long}.invalid%3A80"), "DnsError"),
        ("scheme=http&path=/&authority=nonexistent.invalid%3A80".to_owned(), "DnsError"),
        (format!("scheme=http&path=/&authority={closed}"), "ConnectionRefused"),
        ("scheme=http&path=/".to_owned(), "HttpRequestUriInvalid"),
        (format!("scheme=ftp&path=/&authority={closed}"), "HttpProtocolError"),
        (format!("scheme=http&path=/&method=CONNECT&authority={closed}"), "HttpRequestUriInvalid"),
    ] {
        let told = host.text(&probe, &format!("/send?{query}")).await;
        let (send, sent) = told.split_once("sent: ").unwrap();
        assert!(send.contains(code), "{query}: {told}");
        assert!(sent.starts_with("Err") && sent.contains(code), "{query}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_no_request_is_refused_where_it_is_set() {
    let (host, probe) = probe().await;
    for (query, told) in [
        ("header=host%3Ax", "header: HeaderError::Forbidden"),
        ("header=transfer-encoding%3Achunked", "header: HeaderError::Forbidden"),
        ("header=bad%20name%3Ax", "header: HeaderError::InvalidSyntax"),
        ("method=NO%20METHOD", "set: [Err(()), Ok(()), Ok(()), Ok(())]"),
        ("scheme=a%20b", "set: [Ok(()), Err(()), Ok(()), Ok(())]"),
        ("authority=a%20b", "set: [Ok(()), Ok(()), Err(()), Ok(())]"),
        ("path=/a%20b", "set: [Ok(()), Ok(()), Ok(()), Err(())]"),
    ] {
        assert_eq!(host.text(&probe, &format!("/send?{query}")).await.trim_end(), told, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_path_is_a_slash_and_no_body_is_no_body() {
    let (host, probe) = probe().await;
    for path in ["", "&path=", "&path=/"] {
        let wire = Wire::start(ANSWER);
        let told = host.text(&probe, &format!("/send?scheme=http&authority={}{path}", wire.address)).await;
        assert_eq!(told, "send: 200\nbody: hi\ntrailers: Ok(None)\nsent: Ok(())\n", "{path}");
        let request = wire.request();
        assert!(request.starts_with("get / http/1.1\r\n"), "{request}");
        assert!(!request.contains("transfer-encoding") && !request.contains("content-length"), "{request}");
        assert_eq!(request.matches(&format!("\r\nhost: {}\r\n", wire.address)).count(), 1, "{request}");
    }
    let misbehave = host.deploy("misbehave").await;
    let wire = Wire::start(ANSWER);
    assert_eq!(host.text(&misbehave, &format!("/fetch?url=http%3A%2F%2F{}", wire.address)).await, "hi");
    assert!(wire.request().starts_with("get / http/1.1\r\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_head_has_a_length_and_no_body() {
    let (host, probe) = probe().await;
    let wire = Wire::start("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n");
    let told = host.text(&probe, &format!("/send?scheme=http&method=HEAD&authority={}", wire.address)).await;
    assert_eq!(told, "send: 200\nbody: \ntrailers: Ok(None)\nsent: Ok(())\n");
    assert!(wire.request().starts_with("head / http/1.1\r\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_soon_whole_is_sent_with_its_length() {
    let (host, probe) = probe().await;
    let wire = Wire::start(ANSWER);
    let query = format!("scheme=http&method=POST&body=ping&authority={}", wire.address);
    host.text(&probe, &format!("/send?{query}")).await;
    let request = wire.request();
    assert!(request.contains("\r\ncontent-length: 4\r\n") && request.ends_with("\r\n\r\nping"), "{request}");
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_both_ways_named_in_the_head() {
    let (host, probe) = probe().await;
    let wire = Wire::start(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n4\r\npong\r\n0\r\nx-theirs: 7\r\n\r\n",
    );
    let query = format!("scheme=http&method=POST&body=ping&trailer=x-sum%3Aabc&authority={}", wire.address);
    let told = host.text(&probe, &format!("/send?{query}")).await;
    assert_eq!(told, "send: 200\nbody: pong\ntrailers: Ok(Some([\"x-theirs: 7\"]))\nsent: Ok(())\n");
    let request = wire.request();
    assert!(request.contains("\r\ntrailer: x-sum\r\n") && request.contains("transfer-encoding: chunked"), "{request}");
    assert!(request.ends_with("0\r\nx-sum: abc\r\n\r\n"), "{request}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_whose_trailers_fail_fails_its_call() {
    let (host, probe) = probe().await;
    let wire = Wire::start(ANSWER);
    let query = format!("scheme=http&method=POST&body=ping&fail=1&authority={}", wire.address);
    let told = host.text(&probe, &format!("/send?{query}")).await;
    assert!(told.starts_with("send: ErrorCode::InternalError"), "{told}");
    assert!(told.contains("sent: Err(ErrorCode::InternalError"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_outputs_are_logged_and_a_panic_can_be_read() {
    let host = Host::new(&[]);
    for guest in ["misbehave", "probe-p3"] {
        let deployment = host.deploy(guest).await;
        host.text(&deployment, "/say").await;
        for line in ["to standard output", "to standard error"] {
            let said = || host.logs().iter().filter(|logged| *logged == line).count();
            eventually("it is logged", || said() >= if guest == "misbehave" { 1 } else { 2 }).await;
        }
    }
    let misbehave = host.deploy("misbehave").await;
    let error = host.get(&misbehave, "/panic").await.unwrap_err();
    assert!(error.to_string().contains("unreachable"), "{error}");
    eventually("the panic is logged", || host.logs().iter().any(|line| line.contains("the tide is out"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_refuse() {
    let host = Host::new(&[]);
    let misbehave = host.deploy("misbehave").await;
    let told = host.text(&misbehave, "/sockets").await;
    assert_eq!(told.matches("access-denied").count(), 3, "{told}");
}
