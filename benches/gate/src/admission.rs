//! What an admission takes of the core itself while half of the machine is busy with something else.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tidegate_core::{
    Attempt, Effective, Effects, Limit, NewCall, Outcome, Settings, Shard, Signal, Submitted, Time, shard::Config,
};

use crate::measure::percentile;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Admissions a second
    #[arg(long, default_value_t = 50_000)]
    rate: u32,
    /// Destinations among which they are spread
    #[arg(long, default_value_t = 10_000)]
    destinations: u64,
    #[arg(long)]
    seconds: u64,
}

/// A shard, as a host holds it, with what drives it.
struct Host {
    shard: Mutex<(Shard, Effects)>,
    config: Arc<Config>,
    policy: Effective,
    began: Instant,
}

/// Admissions at an even pace; the rest of each call's life is lived as well, and not counted.
pub(crate) fn run(options: &Options) -> Result<Value> {
    ensure!(options.rate > 0 && options.destinations > 0, "there is nothing to admit");
    // Limits that never hold anything up: an admission that waits is another figure.
    let limits = vec![Limit::requests(100_000_000, Duration::from_secs(1))];
    let host = Host {
        shard: Mutex::new((Shard::new(1), Effects::default())),
        config: Arc::new(Config::new(&Settings { limits, ..Settings::default() })?),
        policy: Effective::default(),
        began: Instant::now(),
    };
    for destination in 0..options.destinations {
        host.call(destination);
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let busy = (cores / 2).max(1);
    eprintln!("{} admissions a second for {} s, {busy} of {cores} cores busy", options.rate, options.seconds);
    let over = Arc::new(AtomicBool::new(false));
    let guests: Vec<_> = (0..busy)
        .map(|_| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || spin(&over))
        })
        .collect();
    let measured = paced(&host, options);
    over.store(true, Ordering::Relaxed);
    for guest in guests {
        // One that ended otherwise was busy long enough.
        let _ = guest.join();
    }
    let micros = |values: &[Duration], share| {
        percentile(values.to_vec(), share).map_or(f64::NAN, |value| value.as_secs_f64() * 1e6)
    };
    Ok(json!({
        "admissions": measured.took.len(),
        "refused": measured.refused,
        "p50_us": micros(&measured.took, 0.5),
        "p99_us": micros(&measured.took, 0.99),
        "p999_us": micros(&measured.took, 0.999),
        "most_us": micros(&measured.took, 1.0),
        "from_due_p99_us": micros(&measured.from_due, 0.99),
        "busy": busy,
        "cores": cores,
    }))
}

#[derive(Default)]
struct Measured {
    took: Vec<Duration>,
    /// From the moment at which it was due: what the system did to the thread is in it.
    from_due: Vec<Duration>,
    refused: u64,
}

fn paced(host: &Host, options: &Options) -> Measured {
    let apart = Duration::from_secs(1) / options.rate;
    let begin = Instant::now();
    let end = begin + Duration::from_secs(options.seconds);
    let mut measured = Measured::default();
    let mut due = begin;
    while due < end {
        // No sleep: how late a timer is has nothing to do with an admission.
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        let destination = fastrand::u64(..options.destinations);
        match host.call(destination) {
            Some((from, until)) => {
                measured.took.push(until - from);
                measured.from_due.push(until - due);
            }
            None => measured.refused += 1,
        }
        due += apart;
    }
    measured
}

impl Host {
    fn now(&self) -> Time {
        Time::from_millis(1_000).plus_nanos(self.began.elapsed().as_nanos() as u64)
    }

    /// The whole life of a call; when its admission began and ended, if it was admitted at once.
    fn call(&self, destination: u64) -> Option<(Instant, Instant)> {
        let key = u128::from(destination).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let began = Instant::now();
        let submitted = {
            let now = self.now();
            let (shard, fx) = &mut *self.shard.lock();
            shard.submit(now, key, &self.config, NewCall::by(now.plus_nanos(60_000_000_000)), fx)
        };
        let ended = Instant::now();
        let (shard, fx) = &mut *self.shard.lock();
        let admitted = match submitted {
            Submitted::Admitted(permit) => {
                shard.departed(self.now(), permit, fx);
                let outcome = Outcome::Answer { status: 200, signal: Signal::default() };
                let attempt = Attempt {
                    policy: &self.policy,
                    repeatable: true,
                    costs: false,
                    replayable: true,
                    keyed: false,
                    spent: 0,
                };
                shard.report(self.now(), permit, &outcome, &attempt, fx);
                shard.release(self.now(), permit, fx);
                Some((began, ended))
            }
            Submitted::Queued { call, .. } => {
                shard.release_call(self.now(), call, fx);
                None
            }
            Submitted::Refused(_) => None,
        };
        black_box(fx.drain().count());
        admitted
    }
}

/// What a guest does that computes, until it is over.
fn spin(over: &AtomicBool) {
    let mut number = 1u64;
    while !over.load(Ordering::Relaxed) {
        for _ in 0..1_000 {
            number = black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
}
