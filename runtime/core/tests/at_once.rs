//! Upstreams that limit requests at once, and say so or not: slots are learned, and nothing else slows down.
//!
//! `cargo test -p tidegate-core --test at_once -- --nocapture` prints the figures of every case.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]
mod world;
use std::time::Duration;
use tidegate_core::{Settings, Snapshot};
use world::*;

/// A hundred callers towards an upstream.
fn hundred(seed: u64, upstream: Upstream, secs: u32) -> World {
    let mut world = World::new(seed, upstream, &Settings::default());
    world.deadline = SEC * 3600;
    world.until = START + SEC * secs;
    world.clients(100, Duration::from_micros(30));
    world
}

fn eight(says: Says) -> Upstream {
    Upstream::new(Law::Concurrent { most: 8 }, says).serving(MS * 200, SEC * 5).refusing(MS)
}

/// Slots in use of `most`, and the refused part of all requests.
fn use_of(world: &World, most: u32, from: u32, to: u32) -> (f64, f64) {
    let (from, to) = (SEC * from, SEC * to);
    let (accepted, seen) = (world.accepted_between(from, to), world.seen_between(from, to));
    (world.busy_between(from, to) / f64::from(most), (seen - accepted) as f64 / seen as f64)
}

fn state(world: &World) -> Snapshot {
    world.shard.snapshot(world.now, KEY).unwrap()
}

#[test]
fn eight_at_once_that_nobody_told_are_used_and_next_to_nothing_is_refused() {
    for seed in 0..20 {
        for net in [1, 20] {
            let mut upstream = eight(Says::Nothing);
            upstream.net = MS * net;
            let mut world = hundred(seed, upstream, 140);
            world.run(START + SEC * 139);
            let now = state(&world);
            println!("seed {seed}, {net} ms away: {:?} slots, pace {:?}", now.learned_slots, now.learned_rate);
            for from in [20, 50, 80, 110] {
                let (used, refused) = use_of(&world, 8, from, from + 30);
                println!("  from {from} s: {:.1} % used, {:.1} % refused", used * 100.0, refused * 100.0);
                // From far away it looks longer as if more had passed: answers are on their way.
                if net == 1 || from >= 80 {
                    assert!(used > 0.9, "seed {seed}, {net} ms, from {from}: {used}");
                    assert!(refused < 0.04, "seed {seed}, {net} ms, from {from}: {refused}");
                }
            }
            assert!(now.learned_rate.is_none());
            world.run_out();
            assert_eq!(world.succeeded(), world.calls.len());
        }
    }
}

#[test]
fn a_number_that_halves_and_comes_back_is_followed() {
    for seed in 0..20 {
        let mut world = hundred(seed, eight(Says::Nothing), 240);
        world.run(START + SEC * 80);
        world.upstream.law = Law::Concurrent { most: 4 };
        world.run(START + SEC * 140);
        world.upstream.law = Law::Concurrent { most: 8 };
        world.run_out();
        for (most, from, to) in [(8, 20, 80), (4, 95, 140), (8, 185, 240)] {
            let (used, refused) = use_of(&world, most, from, to);
            println!("seed {seed}, {from}-{to} s: {:.1} % used, {:.1} % refused", used * 100.0, refused * 100.0);
            assert!(used > 0.9, "seed {seed}, from {from}: {used}");
            assert!(refused < 0.04, "seed {seed}, from {from}: {refused}");
        }
        let (_, refused) = use_of(&world, 8, 20, 240);
        assert!(refused < 0.04, "seed {seed}, all the time: {refused}");
        assert_eq!(world.succeeded(), world.calls.len());
    }
}

#[test]
fn what_was_learned_outlives_a_quiet_hour() {
    let mut world = hundred(3, eight(Says::Nothing), 40);
    world.run_out();
    assert_eq!(state(&world).learned_slots, Some(8));
    let before = world.refused();
    world.now += SEC * 3600;
    world.clients(100, Duration::from_micros(30));
    world.run_out();
    // One trial of one more.
    assert!(world.refused() - before <= 2, "{}", world.refused() - before);
}

#[test]
fn a_rate_is_still_learned_as_one() {
    for (law, says) in [
        (Law::Bucket { rate: 20.0, burst: 20.0 }, Says::Nothing),
        (Law::Bucket { rate: 20.0, burst: 1.0 }, Says::Nothing),
        (Law::Fixed { quota: 20, per: SEC }, Says::Nothing),
        (Law::Sliding { quota: 20, per: SEC }, Says::Nothing),
        (Law::Bucket { rate: 20.0, burst: 20.0 }, Says::Seconds),
        (Law::Sliding { quota: 20, per: SEC }, Says::Seconds),
    ] {
        for service in [(2000, 2000), (200, 5000), (1000, 3000), (300, 300)] {
            for seed in 0..5 {
                let upstream = Upstream::new(law.clone(), says).serving(MS * service.0, MS * service.1).refusing(MS);
                let mut world = hundred(seed, upstream, 150);
                world.run(START + SEC * 149);
                let now = state(&world);
                let (accepted, seen) =
                    (world.accepted_between(SEC * 30, SEC * 149), world.seen_between(SEC * 30, SEC * 149));
                let (goodput, refused) = (accepted as f64 / 119.0 / 20.0, (seen - accepted) as f64 / seen as f64);
                println!(
                    "{law:?} {says:?} {service:?} seed {seed}: {:.1} % of it, {:.1} % refused, slots {:?}, pace {:?}",
                    goodput * 100.0,
                    refused * 100.0,
                    now.learned_slots,
                    now.learned_rate
                );
                assert!(now.learned_rate.is_some() && now.learned_slots.is_none(), "{law:?} {says:?} {service:?}");
                assert!(goodput > 0.8 && refused < 0.04, "{law:?} {says:?} {service:?}: {goodput}, {refused}");
            }
        }
    }
}
