//! A steady load while its upstream goes away for a while and comes back.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    client::{Client, Retry},
    load,
    measure::{count_in, most_within, percentile_ms, until_as_many},
    upstream::{Latency, State, Upstream},
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
    /// What becomes of requests in the outage
    #[arg(long, value_enum)]
    kind: Kind,
    /// Calls a second
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// Requests a second that the upstream may be sent
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// Seconds of the outage
    #[arg(long)]
    outage: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Nobody listens
    Refused,
    /// Connections are accepted and closed, so that they can be counted
    Closed,
    /// Each is answered 503
    Unavailable,
}

const LATENCY: Latency = Latency { median: Duration::from_millis(20), sigma: 0.0 };
/// All is well before it.
const BEFORE: Duration = Duration::from_secs(5);
/// The load goes on for a while when the upstream is back.
const AFTER: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);
/// Part of the limit that is its full pace: every window of a second has room for the burst, so an even pace is below it.
const FULL: f64 = 0.9;

/// Well, away, well again, until every call is over.
pub(crate) async fn run(options: &Options) -> Result<Value> {
    let upstream = Upstream::start(options.upstream, None, LATENCY)?;
    let urls = [options.url.clone()];
    let client = Arc::new(Client::new(&urls, Method::GET, &options.header, options.retry)?);
    let begin = Instant::now();
    let away = begin + BEFORE;
    let back = away + Duration::from_secs(options.outage);
    let end = back + AFTER;
    eprintln!(
        "{} calls a second for {} s, away for {} s of them",
        options.rate,
        (end - begin).as_secs(),
        options.outage
    );
    let calls = tokio::spawn(load::open_loop(client, options.rate, begin, end));
    tokio::time::sleep_until(away.into()).await;
    upstream.set(match options.kind {
        Kind::Refused => State::Refusing,
        Kind::Closed => State::Closing,
        Kind::Unavailable => State::Unavailable,
    });
    tokio::time::sleep_until(back.into()).await;
    upstream.set(State::Up);
    eprintln!("it is back after {} requests", upstream.count());
    let calls = calls.await?;

    let seen = upstream.seen();
    let all: Vec<_> = seen.iter().map(|seen| seen.at).collect();
    let served: Vec<_> = seen.iter().filter(|seen| seen.status == Some(StatusCode::OK)).map(|seen| seen.at).collect();
    let full = f64::from(options.limit) * FULL;
    let until_full = until_as_many(&served, back, SECOND, full.ceil() as usize);
    let lost = calls.iter().filter(|call| !call.succeeded()).count();
    // From full pace to the end of the load a backlog waits, if anything does.
    let paced_from = back + until_full.unwrap_or(AFTER);
    let pace = count_in(&served, paced_from, end.max(paced_from)) as f64 / end.duration_since(paced_from).as_secs_f64();
    let last = calls.iter().filter(|call| call.succeeded()).map(|call| call.ended).max();
    Ok(json!({
        "calls": calls.len(),
        "lost": lost,
        "requests_per_call": seen.len() as f64 / calls.len() as f64,
        // What nobody accepts nobody sees.
        "countable": options.kind != Kind::Refused,
        "requests_in_outage": count_in(&all, away, back),
        "until_full_s": until_full.map_or(f64::NAN, |full| full.as_secs_f64()),
        "until_first_s": served.iter().find(|at| **at >= back).map_or(f64::NAN, |at| (*at - back).as_secs_f64()),
        "pace": pace / f64::from(options.limit) * 100.0,
        "most_in_a_second": most_within(&all, SECOND),
        "until_all_s": last.map_or(f64::NAN, |last| last.saturating_duration_since(back).as_secs_f64()),
        "p99_ms": percentile_ms(calls.iter().map(|call| call.latency()).collect(), 0.99),
    }))
}
