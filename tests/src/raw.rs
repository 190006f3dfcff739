//! Bytes on a socket, for what no HTTP library would send.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A server that says what it likes. Each connection is handed to the script, whatever came on it.
pub struct RawUpstream {
    address: String,
    connections: Arc<AtomicUsize>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for RawUpstream {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl RawUpstream {
    /// Reads the head of a request on each connection, then runs the script with the number of the connection.
    pub async fn start<F, R>(script: F) -> Self
    where
        F: Fn(usize, TcpStream) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let connections = Arc::new(AtomicUsize::new(0));
        let (count, script) = (Arc::clone(&connections), Arc::new(script));
        let server = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let (number, script) = (count.fetch_add(1, Ordering::SeqCst), Arc::clone(&script));
                tasks.spawn(async move {
                    if head(&mut stream).await {
                        script(number, stream).await;
                    }
                });
            }
        });
        Self { address, connections, server }
    }

    /// A URL of this upstream.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Connections it accepted in all.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Reads up to the end of a request's head.
async fn head(stream: &mut TcpStream) -> bool {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while !seen.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(read @ 1..) => seen.extend_from_slice(&buffer[..read]),
            _ => return false,
        }
    }
    true
}

/// Sends bytes on a connection of their own and gives what came back until the peer closed or said nothing for `quiet`.
pub async fn say(address: &str, bytes: &[u8], quiet: Duration) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A peer may close before it has read it all.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let mut buffer = [0; 16_384];
    while let Ok(Ok(read @ 1..)) = tokio::time::timeout(quiet, stream.read(&mut buffer)).await {
        answer.extend_from_slice(&buffer[..read]);
        if answer.len() > 1 << 20 {
            break;
        }
    }
    answer
}

/// One HTTP/2 frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What an HTTP/2 client says first: the preface and empty settings.
pub fn h2_preface() -> Vec<u8> {
    [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[])].concat()
}
