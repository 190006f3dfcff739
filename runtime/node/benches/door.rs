//! What the door adds to a call: beside it the same client library without it, in turns, over one connection to an
//! upstream on a thread of its own. `cargo xtask bench door`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    unreachable_pub,
    dead_code,
    missing_docs,
    reason = "a measurement, with the helpers of tests"
)]

#[path = "../tests/outbound/support.rs"]
mod support;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use support::{Gate, Upstream, get, text};
use tokio::runtime::{Builder, Runtime};

/// Calls of one round, one after the other.
const CALLS: usize = 20_000;
/// Rounds of each side, in turns; the first warms up.
const ROUNDS: usize = 6;
/// What the door may add to the median call.
const ASKED: Duration = Duration::from_micros(50);
/// Calls at once, and of each, where throughput is measured.
const AT_ONCE: (usize, usize) = (64, 2_000);

fn main() {
    let address = upstream();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (mut bare, mut door) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let pair = (percentiles(&runtime, without(address)), percentiles(&runtime, through(address)));
        if round > 0 {
            bare.push(pair.0);
            door.push(pair.1);
        }
    }
    let (bare, door) = (medians(&bare), medians(&door));
    println!("one call at a time  {:>10} {:>10} {:>10}", "p50", "p90", "p99");
    for (name, [p50, p90, p99]) in [("bare hyper", bare), ("the door", door)] {
        println!("{name:<19} {p50:>10.1?} {p90:>10.1?} {p99:>10.1?}");
    }
    let added = door[0].saturating_sub(bare[0]);
    println!("the door adds {added:.1?} at p50 (asked: at most {ASKED:?})");
    println!("{:.0} calls a second on one thread, {} at once", throughput(address), AT_ONCE.0);
}

/// An upstream on a thread of its own, so that both ways have the same distance to it.
fn upstream() -> SocketAddr {
    let (address, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(async move {
            let upstream = Upstream::start(|_| async { text(200, "hello") }).await;
            address.send(upstream.address).unwrap();
            std::future::pending::<()>().await;
        });
    });
    told.recv().unwrap()
}

fn percentiles(runtime: &Runtime, times: impl Future<Output = Vec<Duration>> + Send + 'static) -> [Duration; 3] {
    let mut times = runtime.block_on(async { tokio::spawn(times).await.unwrap() });
    times.sort_unstable();
    [50, 90, 99].map(|part| times[(times.len() - 1) * part / 100])
}

fn medians(rounds: &[[Duration; 3]]) -> [Duration; 3] {
    [0, 1, 2].map(|column| {
        let mut values: Vec<_> = rounds.iter().map(|round| round[column]).collect();
        values.sort_unstable();
        values[values.len() / 2]
    })
}

async fn without(address: SocketAddr) -> Vec<Duration> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let begin = Instant::now();
        sender.ready().await.unwrap();
        let request = http::Request::get("/").header("host", address.to_string()).body(Full::new(Bytes::new()));
        let answer = sender.send_request(request.unwrap()).await.unwrap();
        answer.into_body().collect().await.unwrap();
        times.push(begin.elapsed());
    }
    times
}

async fn through(address: SocketAddr) -> Vec<Duration> {
    let (gate, url) = (Gate::new(&[]), format!("http://{address}/"));
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let begin = Instant::now();
        call(&gate, &url).await;
        times.push(begin.elapsed());
    }
    times
}

/// One call with its trail, as a node makes it.
async fn call(gate: &Gate, url: &str) {
    let (trail, call) = gate.call(get(url));
    let answer = gate.door.send(call).await.unwrap();
    answer.into_body().collect().await.unwrap();
    let subject = tidegate::observe::Subject { tenant: "t", invocation: None };
    gate.observe.trails.finish(&trail, subject, tidegate::observe::Ending::Status(200));
}

/// Calls a second through a door on one thread.
fn throughput(address: SocketAddr) -> f64 {
    Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let (gate, url) = (Arc::new(Gate::new(&[])), format!("http://{address}/"));
        call(&gate, &url).await;
        let begin = Instant::now();
        let tasks: Vec<_> = (0..AT_ONCE.0)
            .map(|_| {
                let (gate, url) = (Arc::clone(&gate), url.clone());
                tokio::spawn(async move {
                    for _ in 0..AT_ONCE.1 {
                        call(&gate, &url).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        (AT_ONCE.0 * AT_ONCE.1) as f64 / begin.elapsed().as_secs_f64()
    })
}
