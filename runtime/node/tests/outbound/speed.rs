//! What the door costs. Not part of the suite: times of a busy machine prove nothing.
//! `cargo nextest run -p tidegate --test outbound --run-ignored only --no-capture speed`

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;

use crate::support::*;

const CALLS: usize = 20_000;

fn percentile(times: &mut [Duration], part: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * part) as usize]
}

async fn bare(address: std::net::SocketAddr) -> Vec<Duration> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let begin = Instant::now();
        sender.ready().await.unwrap();
        let request =
            http::Request::get("/").header("host", address.to_string()).body(Full::new(Bytes::new())).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        answer.into_body().collect().await.unwrap();
        times.push(begin.elapsed());
    }
    times
}

async fn through_the_door(address: std::net::SocketAddr) -> Vec<Duration> {
    let gate = Gate::new(&[]);
    let url = format!("http://{address}/");
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let begin = Instant::now();
        let (trail, call) = gate.call(get(&url));
        let answer = gate.door.send(call).await.unwrap();
        answer.into_body().collect().await.unwrap();
        gate.observe.trails.finish(&trail, tidegate::observe::Ending::Status(200));
        times.push(begin.elapsed());
    }
    times
}

/// The upstream on a thread of its own, so that both ways have the same distance to it.
fn upstream_apart() -> (std::net::SocketAddr, tokio::sync::oneshot::Sender<()>) {
    let (address, told) = std::sync::mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let upstream = Upstream::start(|_| async { text(200, "hello") }).await;
            address.send(upstream.address).unwrap();
            let _ = stopped.await;
        });
    });
    (told.recv().unwrap(), stop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn a_call_through_the_door_beside_the_same_over_bare_hyper() {
    let (address, stop) = upstream_apart();
    let mut medians = Vec::new();
    for round in 0..2 {
        let runs = [
            ("bare hyper", tokio::spawn(bare(address)).await.unwrap()),
            ("the door", tokio::spawn(through_the_door(address)).await.unwrap()),
        ];
        for (name, mut times) in runs {
            let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|part| percentile(&mut times, part));
            println!("{name}: p50 {p50:.1?}, p90 {p90:.1?}, p99 {p99:.1?}");
            if round == 1 {
                medians.push(p50);
            }
        }
    }
    drop(stop);
    let added = medians[1].saturating_sub(medians[0]);
    assert!(added < Duration::from_micros(50), "{added:?}");
}

/// What a door alone does on one thread, the upstream on another.
#[test]
#[ignore = "a measurement"]
fn calls_a_second_on_one_thread() {
    let (address, stop) = upstream_apart();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let gate = std::sync::Arc::new(Gate::new(&[]));
        let url = format!("http://{address}/");
        gate.get(&url).await.unwrap();
        let begin = Instant::now();
        let tasks: Vec<_> = (0..64)
            .map(|_| {
                let (gate, url) = (std::sync::Arc::clone(&gate), url.clone());
                tokio::spawn(async move {
                    for _ in 0..2_000 {
                        let (trail, call) = gate.call(get(&url));
                        let answer = gate.door.send(call).await.unwrap();
                        answer.into_body().collect().await.unwrap();
                        gate.observe.trails.finish(&trail, tidegate::observe::Ending::Status(200));
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        println!("{:.0} calls a second on one thread", 128_000.0 / begin.elapsed().as_secs_f64());
    });
    drop(stop);
}
