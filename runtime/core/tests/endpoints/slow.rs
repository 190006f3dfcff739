//! Endpoints that are slow, or hang.

use crate::world::*;

#[test]
fn a_region_that_is_ten_times_slower_is_left_alone_at_once_and_used_again_soon_after() {
    for seed in 0..10 {
        let settings = endpoints(3, |_| weighing(1));
        let (from, to) = (SEC * 20, SEC * 80);
        let mut world =
            World::new(seed, &settings, vec![about(MS * 100), slow_between(MS * 100, 10, from, to), about(MS * 100)]);
        world.hedges = true;
        world.calls(60.0, SEC * 140);
        world.run();
        let healthy = world.percentile(99, Duration::ZERO, from);
        // The time of its first fifty requests while it is slow.
        let seen = world.sent[1].iter().filter(|at| **at >= START + from).nth(50);
        let seen = seen.map_or(to, |at| at.since(START).min(to));
        let slow = world.percentile(99, from + SEC, to);
        let asked = world.sent_between(1, from, to);
        println!(
            "{seed}: p99 {healthy:?} healthy, {slow:?} slow, {asked} asked, the 50th at {seen:?}, extra {:.3}",
            world.extra()
        );
        assert!(slow < healthy.mul_f64(1.3), "{seed}: {slow:?} against {healthy:?}");
        assert!(world.extra() <= 0.05, "{seed}: {}", world.extra());
        assert!(asked < 120, "{seed}: {asked}");
        let again = world.sent_between(1, to + SEC * 30, to + SEC * 60) as f64;
        let all = world.calls.iter().filter(|call| call.began.unwrap() >= START + to + SEC * 30).count() as f64;
        assert!(again / all > 0.25, "{seed}: {again} of {all}");
    }
}

#[test]
fn one_that_hangs_is_noticed_before_it_answers() {
    let settings = endpoints(3, |_| weighing(1));
    let (from, to) = (SEC * 10, SEC * 40);
    let mut world =
        World::new(3, &settings, vec![slow_between(MS * 50, 400, from, to), about(MS * 50), about(MS * 50)]);
    world.hedges = true;
    world.calls(100.0, SEC * 60);
    world.run();
    let asked = world.sent_between(0, from, to);
    assert!(asked < 60, "{asked}");
    assert!(world.percentile(98, from, to) < MS * 200, "{:?}", world.percentile(98, from, to));
}

#[test]
fn one_that_hangs_is_noticed_by_who_calls_one_by_one_and_gives_up() {
    // The second is not known yet, or it is.
    for seen in [0, 40] {
        let settings = endpoints(2, |index| EndpointSettings { home: index == 0, ..weighing(1) });
        let config = Arc::new(Config::new(&settings).unwrap());
        let (mut shard, mut fx, mut now) = (Shard::new(7), Effects::default(), START);
        let attempt = Attempt {
            policy: &Effective::default(),
            repeatable: true,
            costs: false,
            replayable: true,
            keyed: false,
            spent: 0,
        };
        let mut call = |hangs: bool, ways: Ways| {
            let new = NewCall { ways, ..NewCall::by(now + SEC) };
            let Submitted::Admitted(permit) = shard.submit(now, KEY, &config, new, &mut fx) else { panic!() };
            assert_eq!(shard.departed(now, permit, &mut fx), Departure::Go);
            if hangs && permit.endpoint() == 1 {
                now += SEC;
            } else {
                now += MS * 20;
                assert!(matches!(shard.report(now, permit, &fine(), &attempt, &mut fx), Verdict::Return(_)));
            }
            shard.release(now, permit, &mut fx);
            now += MS * 100;
            permit.endpoint()
        };
        for n in 0..seen {
            call(false, Ways { allowed: Mask::of(n % 2), ..Ways::ANY });
        }
        let lost = (0..50).filter(|_| call(true, Ways::ANY) == 1).count();
        assert!((1..=2).contains(&lost), "{lost} of 50 calls were lost");
    }
}

#[test]
fn a_quiet_destination_uses_an_endpoint_again_soon_after_it_is_well() {
    for seed in 0..10 {
        let settings = endpoints(2, |_| weighing(1));
        let (from, to) = (SEC * 30, SEC * 240);
        let mut world = World::new(seed, &settings, vec![slow_between(MS * 50, 20, from, to), about(MS * 50)]);
        world.calls(1.0, SEC * 400);
        world.run();
        let again = world.sent_between(0, to + SEC * 60, to + SEC * 160);
        assert!(again > 30, "{seed}: {again}");
        let extra = world.extra();
        assert!(extra < 0.1, "{seed}: {extra}");
    }
}
