//! TLS: HTTP/2 and HTTP/1.1 by ALPN, one pioneer, roots.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tidegate::outbound::{DoorParts, TransportError};

use crate::support::*;

/// A certificate for `upstream.test`, as the server's configuration and as the roots that trust it.
pub fn certificate(alpn: &[&str]) -> (rustls::ServerConfig, rustls::RootCertStore) {
    let signed = rcgen::generate_simple_self_signed(vec!["upstream.test".to_owned()]).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(signed.cert.der().clone()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    (config, roots)
}

fn gate(roots: Option<rustls::RootCertStore>) -> Arc<Gate> {
    let parts = DoorParts {
        resolver: Arc::new(Scripted(Mutex::new(vec![vec!["127.0.0.1".parse().unwrap()]]))),
        roots: roots.map(Arc::new),
        ..DoorParts::default()
    };
    Arc::new(Gate::with(&[], parts))
}

fn url(upstream: &Upstream, path: &str) -> String {
    format!("https://upstream.test:{}{path}", upstream.address.port())
}

async fn at_once(gate: &Arc<Gate>, url: &str, calls: usize) {
    let calls: Vec<_> = (0..calls)
        .map(|_| {
            let (gate, url) = (Arc::clone(gate), url.to_owned());
            tokio::spawn(async move { read(gate.get(&url).await.unwrap()).await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), "ok");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_calls_share_one_http2_connection() {
    let (tls, roots) = certificate(&["h2", "http/1.1"]);
    let upstream = Upstream::start_tls(
        |request| async move {
            assert_eq!(request.version(), http::Version::HTTP_2);
            assert_eq!(request.uri().authority().unwrap().host(), "upstream.test");
            tokio::time::sleep(Duration::from_millis(20)).await;
            text(200, "ok")
        },
        tls,
    )
    .await;
    let gate = gate(Some(roots));
    at_once(&gate, &url(&upstream, "/"), 100).await;
    assert_eq!(upstream.connections(), 1);
    assert!(upstream.peak() > 1, "at once, not one by one");
}

/// A function that reads its answers in turn, or not at all, waits for nobody but itself.
#[tokio::test]
async fn answers_that_nobody_reads_stop_no_other_of_their_connection() {
    const LENGTH: usize = 3 << 20;
    let (tls, roots) = certificate(&["h2"]);
    let upstream = Upstream::start_tls(|_| async move { text(200, &"x".repeat(LENGTH)) }, tls).await;
    let gate = gate(Some(roots));
    let mut answers = Vec::new();
    for _ in 0..8 {
        answers.push(gate.get(&url(&upstream, "/")).await.unwrap());
    }
    assert_eq!(upstream.connections(), 1);
    for answer in answers {
        let read = tokio::time::timeout(Duration::from_secs(10), read(answer)).await;
        assert_eq!(read.expect("it comes while the others are unread").len(), LENGTH);
    }
}

#[tokio::test]
async fn without_http2_a_burst_dials_once_each_after_the_pioneer() {
    let (tls, roots) = certificate(&["http/1.1"]);
    let upstream = Upstream::start_tls(
        |_| async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            text(200, "ok")
        },
        tls,
    )
    .await;
    let gate = gate(Some(roots));
    at_once(&gate, &url(&upstream, "/"), 8).await;
    assert!(upstream.connections() <= 8, "{}", upstream.connections());
    let before = upstream.connections();
    at_once(&gate, &url(&upstream, "/"), 4).await;
    assert_eq!(upstream.connections(), before);
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_a_tls_error_for_all_who_waited() {
    let (tls, _) = certificate(&["h2"]);
    let (_, other) = certificate(&["h2"]);
    let upstream = Upstream::start_tls(|_| async { text(200, "ok") }, tls).await;
    let gate = gate(Some(other));
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let (gate, url) = (Arc::clone(&gate), url(&upstream, "/"));
            tokio::spawn(async move { gate.get(&url).await.map(|_| ()) })
        })
        .collect();
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error, TransportError::Tls { certificate: true, .. }), "{error:?}");
    }
    assert_eq!(upstream.requests(), 0);
    assert!(upstream.connections() <= 4, "none is tried again: {}", upstream.connections());
}

#[tokio::test]
async fn dropping_the_body_of_an_http2_answer_resets_its_stream_and_keeps_the_connection() {
    let (tls, roots) = certificate(&["h2"]);
    let stopped = Arc::new(tokio::sync::Notify::new());
    let upstream = Upstream::start_tls(
        {
            let stopped = Arc::clone(&stopped);
            move |request| {
                let stopped = Arc::clone(&stopped);
                async move {
                    if request.uri().path() == "/ok" {
                        return text(200, "ok");
                    }
                    let (sender, body) = channel_body();
                    tokio::spawn(async move {
                        while sender.send(Bytes::from_static(b"tick")).await.is_ok() {
                            tokio::time::sleep(Duration::from_millis(2)).await;
                        }
                        stopped.notify_one();
                    });
                    Response::new(body)
                }
            }
        },
        tls,
    )
    .await;
    let gate = gate(Some(roots));
    let mut answer = gate.get(&url(&upstream, "/stream")).await.unwrap();
    assert!(answer.body_mut().frame().await.unwrap().is_ok());
    drop(answer);
    tokio::time::timeout(Duration::from_millis(100), stopped.notified()).await.expect("the stream was reset");
    assert_eq!(read(gate.get(&url(&upstream, "/ok")).await.unwrap()).await, "ok");
    assert_eq!(upstream.connections(), 1);
}

/// How an HTTP/2 server ends a stream without an answer.
#[derive(Clone, Copy)]
enum Ends {
    Refused,
    Internal,
    /// And the connection goes away after it.
    RefusedAndGone,
}

/// An HTTP/2 server that ends the first stream in this way and answers the others. Counts streams.
async fn ending_the_first(ends: Ends, tls: rustls::ServerConfig) -> (u16, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let streams = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&streams);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, streams) = (acceptor.clone(), Arc::clone(&counted));
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(acceptor.accept(stream).await.unwrap()).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    if streams.fetch_add(1, Ordering::SeqCst) > 0 {
                        respond.send_response(Response::new(()), true).unwrap();
                        continue;
                    }
                    match ends {
                        Ends::Refused => respond.send_reset(h2::Reason::REFUSED_STREAM),
                        Ends::Internal => respond.send_reset(h2::Reason::INTERNAL_ERROR),
                        Ends::RefusedAndGone => {
                            respond.send_reset(h2::Reason::REFUSED_STREAM);
                            connection.graceful_shutdown();
                        }
                    }
                }
            });
        }
    });
    (port, streams)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_number_of_streams_a_peer_takes_more_calls_get_another_connection() {
    for most in [61, 64] {
        let (tls, roots) = certificate(&["h2"]);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let held = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&held);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, held) = (acceptor.clone(), Arc::clone(&counted));
                tokio::spawn(async move {
                    let mut builder = h2::server::Builder::new();
                    builder.max_concurrent_streams(most);
                    let stream = acceptor.accept(stream).await.unwrap();
                    let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
                    let mut unanswered = Vec::new();
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        if request.uri().path() == "/first" {
                            respond.send_response(Response::new(()), true).unwrap();
                            continue;
                        }
                        held.fetch_add(1, Ordering::SeqCst);
                        unanswered.push(respond);
                    }
                });
            }
        });
        let gate = gate(Some(roots));
        gate.configure(&[(
            "many",
            serde_json::json!({"match": format!("https://upstream.test:{port}"), "max_concurrency": 1000}),
        )]);
        // With its answer the peer has said how many it takes.
        assert_eq!(gate.get(&format!("https://upstream.test:{port}/first")).await.unwrap().status(), 200);
        let calls: Vec<_> = (0..most as usize + 10)
            .map(|_| {
                let (gate, url) = (Arc::clone(&gate), format!("https://upstream.test:{port}/"));
                tokio::spawn(async move { gate.get(&url).await.map(drop) })
            })
            .collect();
        until("all are sent", || held.load(Ordering::SeqCst) == most as usize + 10).await;
        calls.iter().for_each(|call| call.abort());
        server.abort();
    }
}

#[tokio::test]
async fn what_the_peer_did_nothing_with_is_sent_again_at_no_cost_even_a_post() {
    for ends in [Ends::Refused, Ends::RefusedAndGone] {
        let (tls, roots) = certificate(&["h2"]);
        let (port, streams) = ending_the_first(ends, tls).await;
        let gate = gate(Some(roots));
        let mut request = post(&format!("https://upstream.test:{port}/"), "once");
        request.headers_mut().insert("tidegate-policy", "retries=0".parse().unwrap());
        assert_eq!(gate.send(request).await.unwrap().status(), 200);
        assert_eq!(streams.load(Ordering::SeqCst), 2);
    }
}

#[tokio::test]
async fn a_post_that_may_have_been_processed_is_not_sent_again() {
    let (tls, roots) = certificate(&["h2"]);
    let (port, streams) = ending_the_first(Ends::Internal, tls).await;
    let error = gate(Some(roots)).send(post(&format!("https://upstream.test:{port}/"), "once")).await.unwrap_err();
    assert!(matches!(error, TransportError::Closed { .. }), "{error:?}");
    assert_eq!(streams.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn tenants_never_share_a_connection() {
    let (tls, roots) = certificate(&["h2"]);
    let upstream = Upstream::start_tls(|_| async { text(200, "ok") }, tls).await;
    let gate = gate(Some(roots));
    at_once(&gate, &url(&upstream, "/"), 1).await;
    let (_, mut call) = gate.call(get(&url(&upstream, "/")));
    call.sender = Arc::new(tidegate::outbound::Sender {
        tenant: "other".into(),
        kind: tidegate::outbound::SenderKind::Program { token: None },
        policy: Default::default(),
        flow: Default::default(),
    });
    assert_eq!(gate.door.send(call).await.unwrap().status(), 200);
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test]
async fn a_stream_that_is_reset_before_its_end_is_cut_off_whatever_the_code() {
    let (tls, roots) = certificate(&["h2"]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(acceptor.accept(stream).await.unwrap()).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let mut body = respond.send_response(Response::new(()), false).unwrap();
                    match request.uri().path() {
                        "/whole" => body.send_data(Bytes::from_static(b"whole"), true).unwrap(),
                        "/half" => {
                            body.send_data(Bytes::from_static(b"half"), false).unwrap();
                            tokio::spawn(async move {
                                // The data must have left before the reset, which takes the place of what has not.
                                tokio::time::sleep(Duration::from_millis(50)).await;
                                body.send_reset(h2::Reason::NO_ERROR);
                            });
                        }
                        _ => body.send_reset(h2::Reason::NO_ERROR),
                    }
                }
            });
        }
    });
    let gate = gate(Some(roots));
    for (path, whole) in [("whole", true), ("half", false)] {
        let answer = gate.get(&format!("https://upstream.test:{port}/{path}")).await;
        let body = match answer {
            Ok(answer) => answer.into_body().collect().await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        assert_eq!(body.is_ok(), whole, "{path}: {body:?}");
    }
    server.abort();
}
