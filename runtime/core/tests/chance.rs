//! Refusals that have nothing to do with how fast requests come: who is refused waits, and nobody else does for long.
//!
//! `cargo test -p tidegate-core --test chance -- --nocapture` prints the figures of every case.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]
mod world;
use std::time::Duration;
use tidegate_core::{Outcome, Settings, Signal, signal::Source};
use world::*;

fn refusal(status: u16, wait: Option<(Duration, Source)>) -> Outcome {
    Outcome::Answer { status, signal: Signal { wait, ..Signal::default() } }
}

/// What is refused says this, and what callers make of it who honour their own wait: those that are told nothing wait for
/// half a second.
fn forms() -> [(&'static str, Vec<Outcome>, Duration); 6] {
    let (second, short) = ((SEC, Source::RetryAfter), (MS * 300, Source::RetryAfterMs));
    let reset = (MS * 500, Source::XRateLimit);
    [
        ("retry-after 1", vec![refusal(429, Some(second))], SEC),
        ("retry-after-ms 300", vec![refusal(429, Some(short))], MS * 300),
        ("reset in 500 ms", vec![refusal(429, Some(reset))], MS * 500),
        ("bare", vec![refusal(429, None)], MS * 500),
        ("three kinds", [Some(second), Some(short), None].map(|wait| refusal(429, wait)).to_vec(), MS * 600),
        (
            "with 503 and 529",
            vec![refusal(429, Some(second)), refusal(503, None), refusal(529, None), refusal(503, Some(second))],
            MS * 750,
        ),
    ]
}

/// As many callers, one call after the other: how long all calls take.
fn took(callers: usize, calls: usize, part: f64, moods: &[Outcome], seed: u64) -> World {
    let mut upstream = Upstream::new(Law::Unlimited, Says::Nothing).serving(MS * 20, MS * 20).refusing(MS * 20);
    (upstream.moody, upstream.moods) = (part, moods.to_vec());
    let mut world = World::new(seed, upstream, &Settings::default());
    world.again = calls - callers;
    world.clients(callers, MS);
    world.run_out();
    world
}

/// The same without a gate, each waiting for what it was told.
fn plain(callers: usize, calls: usize, part: f64, wait: Duration, seed: u64) -> Duration {
    let mut random = fastrand::Rng::with_seed(seed);
    let one = |random: &mut fastrand::Rng| {
        let mut took = Duration::ZERO;
        for _ in 0..calls / callers {
            while random.f64() < part {
                took += wait + MS * 20;
            }
            took += MS * 21;
        }
        took
    };
    (0..callers).map(|_| one(&mut random)).max().unwrap()
}

#[test]
fn refusals_by_chance_make_calls_take_at_most_twice_as_long_as_their_own_waits() {
    for (callers, calls) in [(6, 72), (20, 240), (6, 300)] {
        for part in [1.0 / 3.0, 0.1] {
            for (name, moods, wait) in forms() {
                let (mut sum, mut worst, mut own, mut sent, mut lost) = (0.0, 0.0f64, 0.0, 0, 0);
                const SEEDS: u64 = 20;
                for seed in 0..SEEDS {
                    let world = took(callers, calls, part, &moods, seed);
                    let took = world.took().as_secs_f64();
                    sum += took / SEEDS as f64;
                    worst = worst.max(took);
                    own += plain(callers, calls, part, wait, seed).as_secs_f64() / SEEDS as f64;
                    sent += world.seen.len() / SEEDS as usize;
                    lost += world.calls.len() - world.succeeded();
                }
                println!(
                    "{callers} callers, {calls} calls, {part:.2} refused, {name}: {sum:.1} s (worst {worst:.1}), {own:.1} s without, {sent} sent, {lost} lost"
                );
            }
        }
    }
}

#[test]
fn once_no_more_is_refused_all_is_as_fast_as_ever_within_ten_seconds() {
    for callers in [6, 20] {
        for part in [1.0 / 3.0, 0.1] {
            for (name, moods, _) in forms() {
                let mut least = f64::INFINITY;
                for seed in 0..20 {
                    let mut upstream =
                        Upstream::new(Law::Unlimited, Says::Nothing).serving(MS * 20, MS * 20).refusing(MS * 20);
                    (upstream.moody, upstream.moods) = (part, moods.clone());
                    upstream.well_at = START + SEC * 60;
                    let mut world = World::new(seed, upstream, &Settings::default());
                    world.until = START + SEC * 75;
                    world.clients(callers, MS);
                    world.run_out();
                    let full = callers as f64 * 1000.0 / 21.4;
                    let share = world.accepted_between(SEC * 70, SEC * 75) as f64 / 5.0 / full;
                    least = least.min(share);
                }
                println!(
                    "{callers} callers, {part:.2} refused, {name}: {:.0} % of full speed ten seconds later",
                    least * 100.0
                );
            }
        }
    }
}
