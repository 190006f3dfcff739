//! Three regions of one service, of which one becomes slow without a single error.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use http::Method;
use serde_json::{Value, json};

use crate::{
    client::{Client, Done, Retry},
    load,
    measure::{count_in, percent, percentile_ms},
    upstream::{Latency, Upstream},
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where the clients send to; several in turn
    #[arg(long, required = true)]
    url: Vec<String>,
    /// Headers of their requests, `name: value`
    #[arg(long)]
    header: Vec<String>,
    /// Where the regions listen; the first becomes slow
    #[arg(long, required = true)]
    upstream: Vec<SocketAddr>,
    /// Calls a second
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// Calls of each percentile
    #[arg(long)]
    calls: u32,
}

const LATENCY: Latency = Latency { median: Duration::from_millis(100), sigma: 0.3 };
/// What the first requests say of the machine is not wanted.
const WARM: Duration = Duration::from_secs(5);
const SLOWER: u32 = 10;
/// Requests that the slow region is granted before calls count.
const GRANTED: usize = 50;
/// They count after this at the latest: who avoids the region does not send it as many.
const GRANTED_TIME: Duration = Duration::from_secs(5);
/// How long the region is watched when it is well again.
const WATCHED: Duration = Duration::from_secs(40);
/// Over which a share is taken, and how much of an equal one is fair: 83 of 250 calls vary by 7.
const SHARE_OVER: Duration = Duration::from_secs(5);
const FAIR: f64 = 0.8;

/// Well, slow, well again.
pub(crate) async fn run(options: &Options) -> Result<Value> {
    let start = |address: &SocketAddr| Upstream::start(*address, None, LATENCY);
    let regions = options.upstream.iter().map(start).collect::<Result<Vec<_>>>()?;
    let slow = regions.first().context("there is no region")?;
    let client = Arc::new(Client::new(&options.url, Method::GET, &options.header, Retry::Never)?);
    let counted = Duration::from_secs_f64(f64::from(options.calls) / options.rate);
    let begin = Instant::now();
    let warm = begin + WARM;
    let slowed = warm + counted;
    let well = slowed + GRANTED_TIME + counted;
    let end = well + WATCHED;
    eprintln!("{} calls a second for {} s", options.rate, (end - begin).as_secs());
    let calls = tokio::spawn(load::open_loop(client, options.rate, begin, end));
    tokio::time::sleep_until(slowed.into()).await;
    slow.slow_down(SLOWER);
    tokio::time::sleep_until(well.into()).await;
    slow.slow_down(1);
    let calls = calls.await?;

    let moments = |region: &Upstream| region.seen().iter().map(|seen| seen.at).collect::<Vec<_>>();
    let of_slow = moments(slow);
    let all: Vec<_> = regions.iter().flat_map(moments).collect();
    let fiftieth = of_slow.iter().filter(|at| **at >= slowed).nth(GRANTED - 1).copied();
    let counts = fiftieth.map_or(slowed + GRANTED_TIME, |at| at.min(slowed + GRANTED_TIME));
    let due = |from, until| calls.iter().filter(move |call| (from..until).contains(&call.due));
    let p99 = |from, until| percentile_ms(due(from, until).map(Done::latency).collect(), 0.99);
    let extra = |from, until| percent(count_in(&all, from, until), due(from, until).count()) - 100.0;
    let share = |from, until| percent(count_in(&of_slow, from, until), count_in(&all, from, until));
    let fair = 100.0 * FAIR / regions.len() as f64;
    let steps = (0..).map(|step| SHARE_OVER + Duration::from_millis(250) * step);
    let used = steps.take_while(|after| well + *after <= end).find(|after| {
        let until = well + *after;
        share(until - SHARE_OVER, until) >= fair
    });
    let (healthy, slow_p99) = (p99(warm, slowed), p99(counts, well));
    Ok(json!({
        "calls": calls.len(),
        "lost": calls.iter().filter(|call| !call.succeeded()).count(),
        "healthy_p99_ms": healthy,
        "slow_p99_ms": slow_p99,
        "slow_calls": due(counts, well).count(),
        "times": slow_p99 / healthy,
        "reaction_p99_ms": p99(slowed, counts),
        "extra": extra(warm, end),
        "extra_healthy": extra(warm, slowed),
        "extra_slow": extra(slowed, well),
        "healthy_share": share(warm, slowed),
        "slow_requests": count_in(&of_slow, slowed, well),
        "slow_share": share(counts, well),
        "used_after_s": used.map_or(f64::NAN, |after| after.as_secs_f64()),
        "well_share": share(well + WATCHED / 2, end),
    }))
}
