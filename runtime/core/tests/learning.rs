//! What the gate makes of upstreams nobody described to it, in a seeded world.
//!
//! `cargo test -p tidegate-core --test learning -- --nocapture` prints the figures of every case.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]
mod world;
use std::time::Duration;
use tidegate_core::{Limit, Settings};
use world::*;

fn laws_of_ten_a_second() -> [(&'static str, Law); 7] {
    [
        ("bucket of 20", Law::Bucket { rate: 10.0, burst: 20.0 }),
        ("bucket of 10", Law::Bucket { rate: 10.0, burst: 10.0 }),
        ("bucket of 5", Law::Bucket { rate: 10.0, burst: 5.0 }),
        ("bucket of 2", Law::Bucket { rate: 10.0, burst: 2.0 }),
        ("bucket of 1", Law::Bucket { rate: 10.0, burst: 1.0 }),
        ("fixed window", Law::Fixed { quota: 10, per: SEC }),
        ("sliding window", Law::Sliding { quota: 10, per: SEC }),
    ]
}

/// 100 calls at once against 10/s, over 20 seeds: mean and worst refused share, and mean time.
fn hundred(law: &Law, says: Says, service: (u32, u32), refusing: u32) -> (f64, f64, f64) {
    const SEEDS: u32 = 20;
    let (mut share, mut worst, mut took): (f64, f64, f64) = (0.0, 0.0, 0.0);
    let mut dishonoured = 0;
    for seed in 0..SEEDS {
        let upstream = Upstream::new(law.clone(), says).serving(MS * service.0, MS * service.1).refusing(MS * refusing);
        let mut world = World::new(u64::from(seed), upstream, &Settings::default());
        // Fixed windows begin anywhere.
        world.now += MS * (seed * 97);
        let began = world.now;
        world.clients(100, Duration::from_micros(30));
        world.run_out();
        assert_eq!(world.succeeded(), 100, "{law:?} {says:?}");
        dishonoured += world.dishonoured;
        share += world.refused_share() / f64::from(SEEDS);
        worst = worst.max(world.refused_share());
        took += world.calls.iter().filter_map(|call| call.ended).max().unwrap().since(began).as_secs_f64()
            / f64::from(SEEDS);
    }
    // Only after a refusal that looked as if it were its call's own: others had passed, and no fresh one was refused.
    assert!(dishonoured <= SEEDS * 2, "{dishonoured} requests left while the destination had asked to wait");
    (share, worst, took)
}

#[test]
fn a_hundred_calls_at_once_find_an_unknown_limit() {
    for says in [Says::Seconds, Says::Exactly, Says::Nothing] {
        for (name, law) in laws_of_ten_a_second() {
            for (from, to, refusing) in [
                (0, 0, 0),
                (20, 20, 1),
                (0, 200, 1),
                (0, 200, 100),
                (50, 50, 50),
                (200, 200, 0),
                (200, 200, 200),
                (1000, 3000, 1),
            ] {
                let (share, worst, took) = hundred(&law, says, (from, to), refusing);
                println!(
                    "{says:?}, {name}, answers {from}-{to} ms, refusals {refusing} ms: {:.1} % refused (worst {:.1} %), {took:.1} s",
                    share * 100.0,
                    worst * 100.0
                );
                // Ten seconds' worth; a bucket of one wastes most of every second it is told to wait, and answers of
                // seconds add to the end.
                let longest = if to >= 1000 || name == "bucket of 2" { 22.0 } else { 17.0 };
                assert!(took < longest, "{says:?} {name} {from}-{to}/{refusing}: {took} s");
                // A refusal that takes as long as an answer comes too late for those that left meanwhile: a bucket that
                // lets twenty pass at first hides its limit from most of them.
                let (mean, most) = match (refusing, name) {
                    (0 | 1, "bucket of 20") => (0.13, 0.20),
                    (0 | 1, _) if to >= 1000 => (0.11, 0.14),
                    (0 | 1, _) => (0.10, 0.14),
                    (_, "bucket of 20") => (0.26, 0.28),
                    _ => (0.15, 0.25),
                };
                assert!(share < mean && worst < most, "{says:?} {name} {from}-{to}/{refusing}: {share}, worst {worst}");
            }
        }
    }
}

#[test]
fn a_hundred_calls_that_come_within_a_second_find_an_unknown_limit_too() {
    // The first are answered before the next ones come: until the first refusal it looks as if one sender called.
    for says in [Says::Seconds, Says::Exactly, Says::Nothing] {
        for (name, law) in laws_of_ten_a_second() {
            for gap in [1, 3, 10] {
                let mut world = World::new(5, Upstream::new(law.clone(), says), &Settings::default());
                world.clients(100, MS * gap);
                world.run_out();
                let share = world.refused_share();
                println!("{says:?}, {name}, one every {gap} ms: {:.1} % refused", share * 100.0);
                assert_eq!(world.succeeded(), 100);
                assert!(share < 0.15, "{says:?} {name} {gap}: {share}");
            }
        }
    }
}

#[test]
fn a_configured_limit_is_never_refused_and_nothing_waits_longer_than_the_pace_explains() {
    for (name, law) in laws_of_ten_a_second() {
        let upstream = Upstream::new(law, Says::Seconds).serving(MS, MS * 200);
        let settings = Settings { limits: vec![Limit::requests(10, SEC)], ..Settings::default() };
        let mut world = World::new(11, upstream, &settings);
        // The first request has to connect; none may arrive closer to the next for it.
        world.connect = MS * 2;
        world.first_connect = MS * 80;
        world.clients(100, Duration::from_micros(30));
        world.run_out();
        assert_eq!((world.succeeded(), world.refused()), (100, 0), "{name}");
        for (n, call) in world.calls.iter().enumerate() {
            let waited = call.ended.unwrap().since(call.began).as_secs_f64();
            let explained = n as f64 * 0.101_862_5 + 0.2 + 0.1;
            assert!(waited <= explained, "{name}: call {n} took {waited} s");
        }
    }
}

#[test]
fn no_lie_about_the_wait_costs_a_call() {
    let mut longest = Duration::ZERO;
    for seed in 0..20 {
        let upstream = Upstream::new(Law::Bucket { rate: 10.0, burst: 10.0 }, Says::Lies).serving(MS * 20, MS * 20);
        let mut world = World::new(seed, upstream, &Settings::default());
        world.deadline = SEC * 60;
        world.clients(100, Duration::from_micros(30));
        world.run_out();
        assert_eq!(world.succeeded(), 100, "seed {seed}");
        longest = longest.max(world.took());
    }
    println!("a hundred calls past lies: at most {longest:?}");
}

/// A few that call one after the other, and one refusal out of nowhere: what passes a second, from one second after its
/// pause on, over five.
fn after_an_accident(agents: usize, number: usize, wait: Duration) -> f64 {
    let mut upstream = Upstream::new(Law::Unlimited, Says::Seconds).serving(MS * 50, MS * 50).refusing(MS * 20);
    upstream.accident = Some((number, wait));
    let mut world = World::new(5, upstream, &Settings::default());
    world.until = START + SEC * 120;
    world.clients(agents, MS * 7);
    world.run_out();
    assert_eq!(world.succeeded(), world.calls.len());
    let refused = world.seen.iter().find(|(_, ok)| !ok).unwrap().0.since(START);
    let from = refused + wait + SEC;
    world.accepted_between(from, from + SEC * 5) as f64 / 5.0
}

#[test]
fn one_refusal_out_of_nowhere_slows_nobody_down_who_calls_one_by_one() {
    for agents in [1, 2, 3] {
        for (number, wait) in [(1, SEC), (5, SEC), (12, SEC), (50, SEC), (300, SEC), (300, SEC * 12)] {
            let pace = after_an_accident(agents, number, wait);
            let own = agents as f64 * 1000.0 / 51.4;
            println!("{agents} one by one, request {number} refused for {wait:?}: {pace:.1}/s of {own:.1}/s");
            assert!(pace > own * 0.9, "{agents} agents, request {number}, {wait:?}: {pace} of {own}");
        }
    }
}

#[test]
fn who_calls_one_by_one_learns_a_limit_that_is_there() {
    for (law, says, most) in [
        (Law::Bucket { rate: 5.0, burst: 5.0 }, Says::Seconds, 0.1),
        (Law::Bucket { rate: 5.0, burst: 1.0 }, Says::Seconds, 0.1),
        // Of few requests a few are many.
        (Law::Bucket { rate: 1.0, burst: 1.0 }, Says::Seconds, 0.25),
        (Law::Sliding { quota: 5, per: SEC }, Says::Seconds, 0.1),
        (Law::Bucket { rate: 5.0, burst: 5.0 }, Says::Nothing, 0.1),
        (Law::Bucket { rate: 5.0, burst: 1.0 }, Says::Nothing, 0.1),
        (Law::Sliding { quota: 5, per: SEC }, Says::Nothing, 0.1),
    ] {
        let mut world = World::new(5, Upstream::new(law.clone(), says).serving(MS * 50, MS * 50), &Settings::default());
        world.until = START + SEC * 240;
        world.clients(1, MS);
        world.run_out();
        let share = |from, to| {
            let (accepted, seen) = (world.accepted_between(from, to), world.seen_between(from, to));
            (seen - accepted) as f64 / seen as f64
        };
        let (first, later) = (share(Duration::ZERO, SEC * 60), share(SEC * 60, SEC * 240));
        println!("{law:?} {says:?}: {:.1} % refused in the first minute, then {:.1} %", first * 100.0, later * 100.0);
        assert!(first < most && later < 0.04, "{law:?} {says:?}: {first}, {later}");
    }
}

#[test]
fn an_outage_before_a_refusal_is_no_time_in_which_little_was_accepted() {
    let mut upstream = Upstream::new(Law::Unlimited, Says::Seconds).serving(MS * 50, MS * 50).refusing(MS);
    upstream = upstream.outage(SEC * 5, SEC * 65, false);
    let mut world = World::new(5, upstream, &Settings::default());
    world.until = START + SEC * 90;
    world.clients(20, MS);
    world.run(START + SEC * 66);
    world.upstream.accident = Some((world.seen.len() + 100, SEC));
    world.run_out();
    let passed = world.accepted_between(SEC * 75, SEC * 80) as f64 / 5.0;
    println!("20 clients after an outage and an accident: {passed}/s");
    assert!(passed > 50.0, "{passed}");
}

fn closed(law: Law, says: Says, service: (u32, u32), secs: u32, outage: Option<(u32, u32, bool)>) -> World {
    let mut upstream = Upstream::new(law, says).serving(MS * service.0, MS * service.1).refusing(MS);
    if let Some((from, to, silent)) = outage {
        upstream = upstream.outage(SEC * from, SEC * to, silent);
    }
    let mut world = World::new(5, upstream, &Settings::default());
    world.until = START + SEC * secs;
    world.clients(100, Duration::from_micros(30));
    world.run_out();
    world
}

#[test]
fn once_learned_the_goodput_is_the_limit() {
    for (law, says, goodput) in [
        (Law::Bucket { rate: 20.0, burst: 20.0 }, Says::Nothing, 0.97),
        (Law::Bucket { rate: 20.0, burst: 1.0 }, Says::Nothing, 0.90),
        (Law::Fixed { quota: 20, per: SEC }, Says::Nothing, 0.90),
        (Law::Sliding { quota: 20, per: SEC }, Says::Nothing, 0.90),
        (Law::Bucket { rate: 20.0, burst: 20.0 }, Says::Seconds, 0.94),
        (Law::Bucket { rate: 20.0, burst: 1.0 }, Says::Seconds, 0.80),
        (Law::Fixed { quota: 20, per: SEC }, Says::Seconds, 0.80),
        (Law::Sliding { quota: 20, per: SEC }, Says::Seconds, 0.80),
    ] {
        for service in [(0, 0), (20, 200)] {
            let world = closed(law.clone(), says, service, 150, None);
            for from in [30, 60, 90, 120] {
                let (from, to) = (SEC * from, SEC * (from + 30));
                let (accepted, seen) = (world.accepted_between(from, to), world.seen_between(from, to));
                let (share, refused) = (accepted as f64 / 600.0, (seen - accepted) as f64 / seen as f64);
                println!("{law:?} {says:?} {service:?} from {from:?}: goodput {share:.3}, refused {refused:.3}");
                assert!(share > goodput, "{law:?} {says:?} {service:?} from {from:?}: {share}");
                assert!(refused < 0.04, "{law:?} {says:?} {service:?} from {from:?}: {refused}");
            }
            assert_eq!(world.succeeded(), world.calls.len());
        }
    }
}

#[test]
fn a_limit_far_above_the_first_guess_is_found() {
    let world = closed(Law::Bucket { rate: 500.0, burst: 25.0 }, Says::Nothing, (0, 0), 60, None);
    let share = world.accepted_between(SEC * 30, SEC * 60) as f64 / 15_000.0;
    assert!(share > 0.85, "{share}");
}

#[test]
fn a_limit_per_minute_is_found_and_kept() {
    for says in [Says::Seconds, Says::Nothing] {
        let world = closed(Law::Sliding { quota: 60, per: SEC * 60 }, says, (20, 200), 240, None);
        let share = world.accepted_between(SEC * 120, SEC * 240) as f64 / 120.0;
        println!("{says:?}: goodput {share:.2}, refused {:.3}", world.refused_share());
        assert!(share > 0.8, "{says:?}: {share}");
        assert_eq!(world.succeeded(), world.calls.len());
    }
}

#[test]
fn an_outage_of_a_minute_fails_nobody() {
    for silent in [false, true] {
        for (law, service, pace) in [
            (Law::Unlimited, (50, 100), 1300),
            (Law::Unlimited, (1000, 3000), 45),
            (Law::Bucket { rate: 20.0, burst: 20.0 }, (20, 60), 20),
        ] {
            let world = closed(law.clone(), Says::Nothing, service, 120, Some((20, 80, silent)));
            assert_eq!(world.succeeded(), world.calls.len(), "{law:?} {service:?}");
            let sent: u32 = world.calls.iter().map(|call| call.sent).sum();
            let each = f64::from(sent) / world.calls.len() as f64;
            let after: Vec<usize> = (80..90).map(|s| world.accepted_between(SEC * s, SEC * (s + 1))).collect();
            println!(
                "{law:?} {service:?} silent {silent}: {each:.3} requests a call, accepted each second after: {after:?}"
            );
            assert!(each <= 1.1, "{law:?} {service:?}: {each}");
            // Full pace within five seconds, no spike above it (the bucket has its burst).
            let second = after[5..8].iter().sum::<usize>() / 3;
            assert!(second * 10 >= pace * 8, "{law:?} {service:?}: {after:?}");
            assert!(after.iter().all(|n| *n <= pace * 2), "{law:?} {service:?}: {after:?}");
            // While it was down, little more than the probes went there.
            let asked = world.asked_while_out;
            assert!(asked <= 250, "{law:?} {service:?}: {asked} requests during the outage");
        }
    }
}

#[test]
fn a_destination_without_limits_is_not_hurt() {
    for (service, all_sent) in [
        ((0, 0), 50),
        ((1, 20), 500),
        ((50, 50), 700),
        ((200, 200), 1500),
        ((1000, 1000), 1600),
        ((10_000, 10_000), 1500),
    ] {
        let upstream = Upstream::new(Law::Unlimited, Says::Nothing).serving(MS * service.0, MS * service.1);
        let mut world = World::new(5, upstream, &Settings::default());
        world.clients(100, Duration::from_micros(30));
        world.run_out();
        let last = world.seen.iter().map(|(at, _)| *at).max().unwrap().since(START);
        println!("answers after {service:?} ms: all 100 sent after {last:?}");
        assert!(last < MS * all_sent, "{service:?}: {last:?}");
    }
    let world = closed(Law::Unlimited, Says::Nothing, (5, 15), 3, None);
    let (first, last) = (world.accepted_between(SEC / 2, SEC), world.accepted_between(SEC * 2, SEC * 5 / 2));
    assert!(first * 10 >= last * 9, "not open after half a second: {first} against {last}");
}

#[test]
fn a_limit_on_concurrency_lets_all_calls_succeed() {
    for says in [Says::Nothing, Says::Seconds] {
        for most in [1, 5, 20] {
            for service in [(50, 150), (1000, 1000), (500, 5000)] {
                let upstream = Upstream::new(Law::Concurrent { most }, says).serving(MS * service.0, MS * service.1);
                let mut world = World::new(5, upstream, &Settings::default());
                world.deadline = SEC * 3600;
                world.clients(100, Duration::from_micros(30));
                world.run_out();
                println!(
                    "{says:?}, {most} at once, {service:?} ms: {:.1} % refused, {:.1} s of at least {:.1}",
                    world.refused_share() * 100.0,
                    world.took().as_secs_f64(),
                    100.0 / f64::from(most) * f64::from(service.0 + service.1) / 2000.0
                );
                assert_eq!(world.succeeded(), 100, "{says:?} {most} {service:?}");
                assert!(world.refused_share() < 0.5);
            }
        }
    }
}

#[test]
fn a_call_that_is_always_refused_owns_the_refusal_and_the_others_pass() {
    let mut upstream = Upstream::new(Law::Unlimited, Says::Seconds).serving(MS * 10, MS * 30);
    upstream.poison = Some(3);
    let mut world = World::new(5, upstream, &Settings::default());
    world.until = START + SEC * 60;
    world.clients(20, MS);
    world.run_out();
    let poison = &world.calls[3];
    println!(
        "refused {} times, ended after {:?}: {}",
        poison.sent,
        poison.ended.unwrap().since(poison.began),
        poison.why
    );
    assert_eq!(poison.status, 429);
    assert!(poison.ended.unwrap().since(poison.began) < SEC * 60);
    assert_eq!(world.succeeded(), world.calls.len() - 1);
    assert!(world.calls.len() > 1000, "{}", world.calls.len());
}
