//! What the gate makes of upstreams nobody described to it.
mod world;
use std::time::Duration;
use tidegate_core::Settings;
use world::*;

#[allow(unused)]
fn laws() -> Vec<(&'static str, Law)> {
    vec![
        ("bucket of 10", Law::Bucket { rate: 10.0, burst: 10.0 }),
        ("bucket of 1", Law::Bucket { rate: 10.0, burst: 1.0 }),
        ("fixed window", Law::Fixed { quota: 10, per: SEC }),
        ("sliding window", Law::Sliding { quota: 10, per: SEC }),
    ]
}

#[test]
fn survey() {
    for says in [Says::Seconds, Says::Exactly, Says::Nothing] {
        for (name, law) in laws() {
            for (from, to, refusing) in
                [(0, 0, 0), (0, 200, 1), (0, 200, 100), (50, 50, 50), (200, 200, 0), (200, 200, 200)]
            {
                let (mut share, mut took, mut failed, mut worst): (f64, f64, usize, f64) = (0.0, 0.0, 0, 0.0);
                const N: u64 = 20;
                for seed in 0..N {
                    let upstream = Upstream::new(law.clone(), says).serving(MS * from, MS * to).refusing(MS * refusing);
                    let mut world = World::new(seed, upstream, &Settings::default());
                    world.now = world.now + Duration::from_millis(seed * 97);
                    world.clients(100, Duration::from_micros(30));
                    world.run_out();
                    failed += 100 - world.succeeded();
                    share += world.refused_share() / N as f64;
                    worst = worst.max(world.refused_share());
                    took += (world.took() - MS * (seed * 97) as u32).as_secs_f64() / N as f64;
                    assert_eq!(world.dishonoured, 0);
                }
                println!(
                    "{says:?} {name} {from}-{to}/{refusing}: refused {:.1} % worst {:.1} %, took {took:.2} s, failed {failed}",
                    share * 100.0,
                    worst * 100.0
                );
            }
        }
    }
}

#[test]
fn trace() {
    let i: usize = std::env::var("LAW").unwrap_or("0".into()).parse().unwrap();
    let says = match std::env::var("SAYS").unwrap_or("S".into()).as_str() {
        "S" => Says::Seconds,
        "E" => Says::Exactly,
        _ => Says::Nothing,
    };
    let n = |name: &str| MS * std::env::var(name).unwrap_or("0".into()).parse::<u32>().unwrap();
    let (name, law) = if i < 4 {
        laws().remove(i)
    } else if i == 4 {
        ("20/1", Law::Bucket { rate: 20.0, burst: 1.0 })
    } else {
        ("60/60", Law::Sliding { quota: 60, per: SEC * 60 })
    };
    let upstream = Upstream::new(law, says).serving(n("FROM"), n("TO")).refusing(n("REF"));
    let mut world = World::new(3, upstream, &Settings::default());
    if i >= 4 {
        world.until = START + SEC * 180;
    }
    world.clients(100, Duration::from_micros(30));
    println!("{name}");
    let mut seen = 0;
    let mut t = START;
    while t < START + SEC * 180 {
        t = t + MS;
        world.run(t);
        for (at, ok) in &world.seen[seen..] {
            let s = world.shard.snapshot(world.now, KEY).unwrap();
            println!(
                "{:.3} {} rate {:.1} window {:?} queued {} paused {:?}",
                at.since(START).as_secs_f64(),
                if *ok { "ok" } else { "REFUSED" },
                s.learned_rate.unwrap_or(0.0),
                s.window,
                s.queued,
                s.paused.map(|p| p.0)
            );
        }
        seen = world.seen.len();
    }
}

fn closed(
    law: Law,
    says: Says,
    service: (u32, u32),
    clients: usize,
    secs: u32,
    outage: Option<(u32, u32, bool)>,
) -> World {
    let mut upstream = Upstream::new(law, says).serving(MS * service.0, MS * service.1).refusing(MS);
    if let Some((from, to, silent)) = outage {
        upstream = upstream.outage(SEC * from, SEC * to, silent);
    }
    let mut world = World::new(5, upstream, &Settings::default());
    world.until = START + SEC * secs;
    world.clients(clients, Duration::from_micros(30));
    world.run_out();
    world
}

#[test]
fn steady() {
    for says in [Says::Nothing, Says::Seconds] {
        for (law, rate) in [
            (Law::Bucket { rate: 20.0, burst: 20.0 }, 20.0),
            (Law::Bucket { rate: 20.0, burst: 1.0 }, 20.0),
            (Law::Bucket { rate: 1.0, burst: 60.0 }, 1.0),
            (Law::Bucket { rate: 500.0, burst: 25.0 }, 500.0),
            (Law::Fixed { quota: 20, per: SEC }, 20.0),
            (Law::Sliding { quota: 20, per: SEC }, 20.0),
            (Law::Sliding { quota: 60, per: SEC * 60 }, 1.0),
        ] {
            for service in [(0, 0), (20, 200), (2000, 8000)] {
                let world = closed(law.clone(), says, service, 100, 180, None);
                let share = |from: u32, to: u32| {
                    world.accepted_between(SEC * from, SEC * to) as f64 / (rate * f64::from(to - from)) * 100.0
                };
                let refused = |from, to| {
                    let seen = world.seen_between(SEC * from, SEC * to);
                    100.0 * (seen - world.accepted_between(SEC * from, SEC * to)) as f64 / seen as f64
                };
                println!(
                    "{says:?} {law:?} {service:?}: goodput % 0-10 {:.0} 10-30 {:.0} 30-60 {:.0} 60-120 {:.0} 120-180 {:.0}; refused % 0-10 {:.1} 10-30 {:.1}, 30-60 {:.1}, 60-180 {:.1} failed {}",
                    share(0, 10),
                    share(10, 30),
                    share(30, 60),
                    share(60, 120),
                    share(120, 180),
                    refused(0, 10),
                    refused(10, 30),
                    refused(30, 60),
                    refused(60, 180),
                    world.calls.len() - world.succeeded()
                );
            }
        }
    }
}

#[test]
fn outages() {
    for silent in [false, true] {
        for (law, service) in [
            (Law::Unlimited, (50, 100)),
            (Law::Unlimited, (1000, 3000)),
            (Law::Bucket { rate: 20.0, burst: 20.0 }, (20, 60)),
        ] {
            let world = closed(law.clone(), Says::Nothing, service, 100, 120, Some((20, 80, silent)));
            let sent: u32 = world.calls.iter().map(|c| c.sent).sum();
            println!(
                "silent {silent} {law:?} {service:?}: calls {} failed {} sent per call {:.3} most {:?} per s: {:?}",
                world.calls.len(),
                world.calls.len() - world.succeeded(),
                f64::from(sent) / world.calls.len() as f64,
                world.calls.iter().map(|c| c.sent).max(),
                [10, 19, 20, 79, 80, 81, 82, 83, 84, 85, 90].map(|s| world.accepted_between(SEC * s, SEC * (s + 1)))
            );
            for c in world.calls.iter().filter(|c| c.status != 200).take(2) {
                println!("{c:?}");
            }
        }
    }
}

#[test]
fn unlimited() {
    for service in [(0, 0), (1, 20), (50, 50), (200, 200), (1000, 1000), (10_000, 10_000)] {
        let upstream = Upstream::new(Law::Unlimited, Says::Nothing).serving(MS * service.0, MS * service.1);
        let mut world = World::new(5, upstream, &Settings::default());
        world.clients(100, Duration::from_micros(30));
        world.run_out();
        let last = world.seen.iter().map(|(at, _)| *at).max().unwrap().since(START);
        println!("{service:?}: all sent after {last:?}, took {:?}", world.took());
        let world = closed(Law::Unlimited, Says::Nothing, service, 1000, 20, None);
        println!(
            "    1000 clients: per second {:?}",
            (0..5).map(|s| world.accepted_between(SEC * s, SEC * (s + 1))).collect::<Vec<_>>()
        );
    }
}

#[test]
fn slots() {
    for says in [Says::Nothing, Says::Seconds] {
        for most in [1, 5, 20] {
            for service in [(50, 150), (1000, 1000), (500, 5000)] {
                let world = {
                    let upstream =
                        Upstream::new(Law::Concurrent { most }, says).serving(MS * service.0, MS * service.1);
                    let mut world = World::new(5, upstream, &Settings::default());
                    world.clients(100, Duration::from_micros(30));
                    world.run_out();
                    world
                };
                let ideal = 100.0 / f64::from(most) * f64::from(service.0 + service.1) / 2000.0;
                println!(
                    "{says:?} {most} slots {service:?}: failed {} refused {:.1} % took {:.1} s, ideal {ideal:.1}",
                    100 - world.succeeded(),
                    world.refused_share() * 100.0,
                    world.took().as_secs_f64()
                );
            }
        }
    }
}
