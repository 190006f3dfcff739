//! Peers that are gone without a word.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tidegate::outbound::{DoorParts, Liveness};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{support::*, tls::certificate};

/// What a NAT does: passes connections on, until it forgets those that there are.
struct Nat {
    port: u16,
    connections: Arc<AtomicUsize>,
    forgotten: Arc<Mutex<Vec<Arc<AtomicBool>>>>,
}

impl Nat {
    async fn before(upstream: &Upstream) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, to) = (listener.local_addr().unwrap().port(), upstream.address);
        let nat = Self { port, connections: Arc::default(), forgotten: Arc::default() };
        let (connections, all) = (Arc::clone(&nat.connections), Arc::clone(&nat.forgotten));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let forgotten = Arc::new(AtomicBool::new(false));
                all.lock().push(Arc::clone(&forgotten));
                let server = TcpStream::connect(to).await.unwrap();
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::spawn(pass(from_client, to_server, Arc::clone(&forgotten)));
                tokio::spawn(pass(from_server, to_client, forgotten));
            }
        });
        nat
    }

    fn forget(&self) {
        self.forgotten.lock().iter().for_each(|connection| connection.store(true, Ordering::SeqCst));
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    forgotten: Arc<AtomicBool>,
) {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        if !forgotten.load(Ordering::SeqCst) && to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
    if forgotten.load(Ordering::SeqCst) {
        // Nothing is said about it, either.
        std::future::pending::<()>().await;
    }
}

#[tokio::test]
async fn a_shared_connection_whose_peer_is_gone_without_a_word_is_given_up_long_before_the_first_byte_is_due() {
    let (tls, roots) = certificate(&["h2"]);
    let upstream = Upstream::start_tls(|_| async { text(200, "ok") }, tls).await;
    let nat = Nat::before(&upstream).await;
    let liveness = Liveness { every: Duration::from_millis(100), within: Duration::from_millis(200) };
    let gate = Gate::with(
        &[],
        DoorParts {
            resolver: Arc::new(Scripted(Mutex::new(vec![vec!["127.0.0.1".parse().unwrap()]]))),
            roots: Some(Arc::new(roots)),
            liveness,
            ..DoorParts::default()
        },
    );
    let url = format!("https://upstream.test:{}/", nat.port);
    for _ in 0..2 {
        assert_eq!(read(gate.get(&url).await.unwrap()).await, "ok");
    }
    assert_eq!(nat.connections.load(Ordering::SeqCst), 1);
    nat.forget();
    let begin = Instant::now();
    assert_eq!(read(gate.get(&url).await.unwrap()).await, "ok", "it is tried again over another connection");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(nat.connections.load(Ordering::SeqCst), 2);
}
