//! Somebody with thousands of calls in the queue, and somebody else who calls once a second.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{net::TcpStream, task::JoinSet};

use crate::{
    client::{Client, Retry},
    load,
    measure::percentile_ms,
    upstream::{Latency, Upstream},
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The gate's own address
    #[arg(long)]
    gate: SocketAddr,
    /// Path of the destination there
    #[arg(long)]
    path: String,
    /// Header of the caller with the queue, `name: value`
    #[arg(long)]
    many: Vec<String>,
    /// Header of the other one
    #[arg(long)]
    few: Vec<String>,
    /// Where the gate shows the destination
    #[arg(long)]
    live: String,
    /// Header that it is shown for
    #[arg(long)]
    admin: Vec<String>,
    /// Where the upstream listens
    #[arg(long)]
    upstream: SocketAddr,
    /// Requests a second that the destination is limited to
    #[arg(long)]
    limit: u32,
    /// Calls in the queue
    #[arg(long)]
    queued: u32,
    /// Calls of the other one, one a second
    #[arg(long)]
    seconds: u64,
}

const LATENCY: Latency = Latency { median: Duration::from_millis(20), sigma: 0.0 };
/// Requests that are open at once on a connection: fewer than any server allows by default.
const STREAMS: u32 = 100;
/// Until the queue stands.
const FILLING: Duration = Duration::from_secs(60);

/// Fills the queue, then calls once a second.
pub(crate) async fn run(options: &Options) -> Result<Value> {
    let _upstream = Upstream::start(options.upstream, None, LATENCY)?;
    let mut calls = JoinSet::new();
    for first in (0..options.queued).step_by(STREAMS as usize) {
        queue(options, STREAMS.min(options.queued - first), &mut calls).await?;
    }
    let queued = filled(options, &mut calls).await?;
    eprintln!("{queued} calls wait");
    let urls = [format!("http://{}{}", options.gate, options.path)];
    let few = Arc::new(Client::new(&urls, Method::GET, &options.few, Retry::Never)?);
    let begin = Instant::now();
    let end = begin + Duration::from_secs(options.seconds);
    let done = load::open_loop(few, 1.0, begin, end).await;
    let turn = 1.0 / f64::from(options.limit);
    let waited = done.iter().filter_map(|call| Some(call.latency().saturating_sub(call.held?)));
    let waited: Vec<_> = waited.collect();
    let turns = |share| percentile_ms(waited.clone(), share) / 1e3 / turn;
    let mut refused = 0;
    let mut served = 0;
    while let Some(status) = calls.try_join_next() {
        let good = status.ok().flatten() == Some(200);
        *if good { &mut served } else { &mut refused } += 1;
    }
    Ok(json!({
        "queued": queued,
        "left": calls.len(),
        "many_served": served,
        "many_lost": refused,
        "calls": done.len(),
        "lost": done.iter().filter(|call| !call.succeeded()).count(),
        "most_turns": turns(1.0),
        "median_turns": turns(0.5),
        "most_ms": percentile_ms(waited.clone(), 1.0),
    }))
}

/// So many calls over one connection.
async fn queue(options: &Options, count: u32, calls: &mut JoinSet<Option<u16>>) -> Result<()> {
    let stream = TcpStream::connect(options.gate).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    for _ in 0..count {
        let mut request = Request::get(format!("http://{}{}", options.gate, options.path));
        for header in &options.many {
            let (name, value) = header.split_once(": ").context("a header is `name: value`")?;
            request = request.header(name, value);
        }
        let (mut sender, request) = (sender.clone(), request.body(Empty::<Bytes>::new())?);
        calls.spawn(async move { Some(sender.send_request(request).await.ok()?.status().as_u16()) });
    }
    Ok(())
}

/// Waits until all calls stand in the queue but those that left it; how many do.
async fn filled(options: &Options, calls: &mut JoinSet<Option<u16>>) -> Result<u64> {
    let show = Client::new(std::slice::from_ref(&options.live), Method::GET, &options.admin, Retry::Never)?;
    let begin = Instant::now();
    let mut before = 0;
    loop {
        let answer = show.send().await?;
        ensure!(answer.status == 200, "{} answered {}", options.live, answer.status);
        let shown: Value = serde_json::from_slice(&answer.body)?;
        // Nothing is shown of one that nobody called yet.
        let partitions = shown.pointer("/live/partitions").and_then(Value::as_array).into_iter().flatten();
        let queued = partitions.filter_map(|partition| partition.pointer("/queue/calls")?.as_u64()).sum();
        // It grows while calls come and falls as they leave.
        if queued > 0 && queued < before {
            return Ok(queued);
        }
        ensure!(begin.elapsed() < FILLING, "{queued} of {} calls wait after {FILLING:?}", calls.len());
        before = queued;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
