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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn a_call_through_the_door_beside_the_same_over_bare_hyper() {
    let upstream = Upstream::start(|_| async { text(200, "hello") }).await;
    let url = upstream.url("/");
    let stream = tokio::net::TcpStream::connect(upstream.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut bare = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let begin = Instant::now();
        sender.ready().await.unwrap();
        let request =
            http::Request::get("/").header("host", upstream.address.to_string()).body(Full::new(Bytes::new())).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        answer.into_body().collect().await.unwrap();
        bare.push(begin.elapsed());
    }
    let gate = Gate::new(&[]);
    let mut door = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let begin = Instant::now();
        let (trail, call) = gate.call(get(&url));
        let answer = gate.door.send(call).await.unwrap();
        answer.into_body().collect().await.unwrap();
        gate.observe.trails.finish(&trail, tidegate::observe::Ending::Status(200));
        door.push(begin.elapsed());
    }
    for (name, times) in [("bare hyper", &mut bare), ("the door", &mut door)] {
        println!(
            "{name}: p50 {:.1?}, p90 {:.1?}, p99 {:.1?}",
            percentile(times, 0.5),
            percentile(times, 0.9),
            percentile(times, 0.99)
        );
    }
    let added = percentile(&mut door, 0.5).saturating_sub(percentile(&mut bare, 0.5));
    assert!(added < Duration::from_micros(50), "{added:?}");
}

/// What a door alone does on one thread, the upstream on another.
#[test]
#[ignore = "a measurement"]
fn calls_a_second_on_one_thread() {
    let (address, stop) = {
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
    };
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
