//! What the gate makes of upstreams nobody described to it.
mod world;
use std::time::Duration;
use tidegate_core::Settings;
use world::*;

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
            for (from, to, refusing) in [(0, 0, 0), (0, 200, 1), (0, 200, 100), (50, 50, 50), (200, 200, 0), (200, 200, 200)] {
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
                println!("{says:?} {name} {from}-{to}/{refusing}: refused {:.1} % worst {:.1} %, took {took:.2} s, failed {failed}", share * 100.0, worst * 100.0);
            }
        }
    }
}

#[test]
fn trace() {
    let i: usize = std::env::var("LAW").unwrap_or("0".into()).parse().unwrap();
    let says = match std::env::var("SAYS").unwrap_or("S".into()).as_str() { "S" => Says::Seconds, "E" => Says::Exactly, _ => Says::Nothing };
    let n = |name: &str| MS * std::env::var(name).unwrap_or("0".into()).parse::<u32>().unwrap();
    let (name, law) = laws().remove(i);
    let upstream = Upstream::new(law, says).serving(n("FROM"), n("TO")).refusing(n("REF"));
    let mut world = World::new(3, upstream, &Settings::default());
    world.clients(100, Duration::from_micros(30));
    println!("{name}");
    let mut seen = 0;
    let mut t = START;
    while t < START + SEC * 30 {
        t = t + MS;
        world.run(t);
        for (at, ok) in &world.seen[seen..] {
            let s = world.shard.snapshot(world.now, KEY).unwrap();
            println!("{:.3} {} rate {:.1} window {:?} queued {} paused {:?}", at.since(START).as_secs_f64(), if *ok { "ok" } else { "REFUSED" }, s.learned_rate.unwrap_or(0.0), s.window, s.queued, s.paused.map(|p| p.0));
        }
        seen = world.seen.len();
    }
}
