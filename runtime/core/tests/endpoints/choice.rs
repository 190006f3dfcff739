//! Which endpoint a call takes.

use crate::world::*;

#[test]
fn endpoints_that_are_about_as_fast_share_the_calls_by_weight() {
    let settings = endpoints(3, |index| weighing([1, 2, 5][index]));
    let mut world = World::new(1, &settings, vec![about(MS * 40), about(MS * 50), about(MS * 60)]);
    world.calls(100.0, SEC * 20);
    world.run();
    let all = world.calls.len() as f64;
    for (endpoint, share) in [(0, 1.0 / 8.0), (1, 2.0 / 8.0), (2, 5.0 / 8.0)] {
        let got = world.sent[endpoint].len() as f64 / all;
        assert!((got - share).abs() < 0.02, "{endpoint}: {got}");
    }
}

#[test]
fn home_is_preferred_unless_another_is_clearly_better() {
    for (home, expected) in [(MS * 80, 1.0), (MS * 400, 0.05)] {
        let settings = endpoints(2, |index| EndpointSettings { home: index == 0, ..weighing(1) });
        let mut world = World::new(2, &settings, vec![about(home), about(MS * 60)]);
        world.calls(50.0, SEC * 60);
        world.run();
        let got = world.sent[0].len() as f64 / world.calls.len() as f64;
        assert!((got - expected).abs() < 0.05, "home takes {home:?}: {got}");
    }
}

#[test]
fn an_endpoint_that_is_added_while_calls_fly_does_no_harm_to_the_first() {
    let both = endpoints(2, |_| weighing(1));
    let one = Settings { endpoints: both.endpoints[..1].to_vec(), ..Settings::default() };
    let mut world = World::new(4, &one, vec![about(MS * 400), about(MS * 400)]);
    for settings in [&both, &one, &both] {
        world.calls(50.0, SEC * 3);
        let until = world.now + MS * 1500;
        world.run_until(until);
        let config = Arc::new(Config::new(settings).unwrap());
        world.shard.reconfigure(world.now, &world.config, &config, &mut world.fx);
        world.config = config;
    }
    world.run();
    let from = world.now;
    world.calls(50.0, SEC * 20);
    world.run();
    let snapshot = world.shard.snapshot(world.now, KEY).unwrap();
    for endpoint in &snapshot.endpoints {
        assert!(endpoint.ejected.is_none() && endpoint.latency.unwrap() < SEC, "{endpoint:?}");
    }
    let share = world.sent_between(0, from.since(START), SEC * 3_600) as f64 / 1_000.0;
    assert!((share - 0.5).abs() < 0.1, "{share}");
}

#[test]
fn the_first_of_the_regions_that_a_call_names_is_taken_unless_another_is_clearly_better() {
    for (second, expected) in [(MS * 60, 1.0), (MS * 10, 0.05)] {
        let settings = endpoints(3, |index| EndpointSettings { home: index == 0, ..weighing(1) });
        let mut world = World::new(2, &settings, vec![about(MS * 80), about(second), about(MS * 80)]);
        world.ways.preferred = Ranks::NONE.with(2, 0).with(1, 1);
        world.calls(50.0, SEC * 60);
        world.run();
        let got = world.sent[2].len() as f64 / world.calls.len() as f64;
        assert!((got - expected).abs() < 0.06, "the second takes {second:?}: {got}");
    }
}

#[test]
fn each_endpoint_has_limits_of_its_own_and_what_one_does_not_take_goes_to_the_others() {
    let settings =
        endpoints(2, |index| EndpointSettings { limits: vec![Limit::requests([2, 10][index], SEC)], ..weighing(1) });
    let mut world = World::new(6, &settings, vec![about(MS * 20), about(MS * 20)]);
    world.calls(60.0, SEC * 10);
    world.run();
    let took = world.calls.iter().map(|call| call.began.unwrap().since(START) + call.took.unwrap()).max().unwrap();
    let rate = world.calls.len() as f64 / took.as_secs_f64();
    assert!((11.3..=12.0).contains(&rate), "both are used up: {rate}");
    for (endpoint, quota) in [(0, 2), (1, 10)] {
        let sent = &world.sent[endpoint];
        assert!(sent.windows(quota + 1).all(|all| all[quota].since(all[0]) >= SEC), "{endpoint}");
    }
}

#[test]
fn a_call_takes_the_endpoints_that_it_may_and_passes_one_that_waits_for_another() {
    let settings = endpoints(2, |index| EndpointSettings {
        limits: if index == 0 { vec![Limit::requests(1, SEC * 10)] } else { Vec::new() },
        ..weighing(1)
    });
    let mut world = World::new(7, &settings, vec![about(MS * 20), about(MS * 20)]);
    let only = |index| Ways { allowed: Mask::of(index), ..Ways::ANY };
    for _ in 0..3 {
        world.ways = only(0);
        let call = world.calls.len();
        world.calls.push(Done { began: Some(world.now), ..Done::default() });
        world.submit(call, None);
    }
    world.ways = only(1);
    world.calls(10.0, SEC);
    world.run();
    assert_eq!(world.sent[0].len(), 3);
    let others = world.calls.iter().skip(3).map(|call| call.took.unwrap()).max().unwrap();
    assert!(others < MS * 50, "{others:?}");
}
