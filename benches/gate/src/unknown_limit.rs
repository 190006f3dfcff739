//! Many clients at once, and an upstream that says nothing of its limit but 429.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    client::{Client, Done, Retry},
    load,
    measure::{percent, percentile_ms},
    quota::{Kind, Quota},
    upstream::{Latency, Seen, Upstream},
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where the clients send to
    #[arg(long)]
    url: String,
    /// Headers of their requests, `name: value`
    #[arg(long)]
    header: Vec<String>,
    #[arg(long, value_enum, default_value = "never")]
    retry: Retry,
    /// Where the upstream listens
    #[arg(long)]
    upstream: SocketAddr,
    /// How it counts
    #[arg(long, value_enum)]
    quota: Kind,
    /// Requests a second that it takes
    #[arg(long, default_value_t = 20)]
    limit: u32,
    #[arg(long, default_value_t = 100)]
    clients: u32,
    /// Seconds that are left for learning
    #[arg(long)]
    learn: u64,
    /// Seconds that count
    #[arg(long)]
    seconds: u64,
}

const LATENCY: Latency = Latency { median: Duration::from_millis(20), sigma: 0.0 };

/// Learning first, then what counts.
pub(crate) async fn run(options: &Options) -> Result<Value> {
    let upstream = Upstream::start(options.upstream, Some(Quota::new(options.quota, options.limit)), LATENCY)?;
    let urls = [options.url.clone()];
    let client = Arc::new(Client::new(&urls, Method::POST, &options.header, options.retry)?);
    let begin = Instant::now();
    let learned = begin + Duration::from_secs(options.learn);
    let end = learned + Duration::from_secs(options.seconds);
    eprintln!("{} clients for {} s", options.clients, (end - begin).as_secs());
    let calls = load::closed_loop(client, options.clients, end).await;
    let seen = upstream.seen();
    let limit = f64::from(options.limit);
    let (goodput, refused, requests) = between(&calls, &seen, learned, end);
    let (learning, refused_learning, requests_learning) = between(&calls, &seen, begin, learned);
    let lost = calls.iter().filter(|call| !call.succeeded()).count();
    let good = calls.iter().filter(|call| call.succeeded() && call.ended >= learned);
    Ok(json!({
        "goodput": goodput / limit * 100.0,
        "refused": percent(refused, requests),
        "learning_goodput": learning / limit * 100.0,
        "learning_refused": percent(refused_learning, requests_learning),
        "calls": calls.len(),
        "lost": lost,
        "p99_ms": percentile_ms(good.map(Done::latency).collect(), 0.99),
    }))
}

/// Good answers a second, refusals and requests in a span of time.
fn between(calls: &[Done], seen: &[Seen], from: Instant, until: Instant) -> (f64, usize, usize) {
    let within = |moment| (from..until).contains(&moment);
    let good = calls.iter().filter(|call| call.succeeded() && within(call.ended)).count();
    let requests: Vec<_> = seen.iter().filter(|seen| within(seen.at)).collect();
    let refused = requests.iter().filter(|seen| seen.status == Some(StatusCode::TOO_MANY_REQUESTS)).count();
    (good as f64 / (until - from).as_secs_f64(), refused, requests.len())
}
