//! Endpoints that refuse, deny or fail.

use crate::world::*;

#[test]
fn a_refusal_of_one_endpoint_costs_nothing_and_sends_the_call_to_another() {
    let settings = endpoints(2, |_| weighing(1));
    let refuses: Serves = Box::new(|_, _| (MS, status(429, Some(SEC * 5))));
    let mut world = World::new(4, &settings, vec![refuses, about(MS * 20)]);
    world.calls(20.0, SEC * 20);
    world.run();
    assert!(world.calls.iter().all(|call| call.status == 200 && call.spent == 0));
    assert!(world.percentile(100, Duration::ZERO, SEC * 20) < MS * 200);
    assert!(world.sent[0].len() <= 12, "{}: a probe after each pause", world.sent[0].len());
}

/// Out of credit between these times since the start.
fn broke_between(from: Duration, to: Duration) -> Serves {
    let signal = Signal { last_word: true, ..Signal::default() };
    Box::new(move |now, _| match (START + from..START + to).contains(&now) {
        true => (MS, Outcome::Answer { status: 429, signal }),
        false => (MS * 40, fine()),
    })
}

#[test]
fn one_that_is_out_of_credit_is_left_to_copies_until_it_serves_again() {
    let settings = endpoints(2, |index| EndpointSettings { home: index == 0, ..weighing(1) });
    let (from, to) = (SEC * 10, SEC * 70);
    let mut world = World::new(9, &settings, vec![broke_between(from, to), about(MS * 40)]);
    world.calls(50.0, SEC * 140);
    world.run();
    assert!(world.calls.iter().all(|call| call.status == 200 && call.spent == 0));
    assert!(world.percentile(100, from, to) < MS * 150, "nobody waits");
    // One copy in two seconds, and those that leave before the first denial is known.
    let asked = world.sent_between(0, from, to);
    assert!((20..=45).contains(&asked), "{asked}");
    let after = world.sent_between(0, to + SEC * 3, SEC * 140);
    assert!(after > 3_000, "{after}");
}

#[test]
fn where_all_are_out_of_credit_the_answer_is_passed_on_at_once() {
    let settings = endpoints(3, |_| weighing(1));
    let broke = || broke_between(Duration::ZERO, SEC * 60);
    let mut world = World::new(10, &settings, vec![broke(), broke(), broke()]);
    world.calls(20.0, SEC * 25);
    world.run();
    assert!(world.calls.iter().all(|call| call.status == 429));
    assert!(world.percentile(100, Duration::ZERO, SEC * 25) < MS * 10);
    assert!(world.extra() < 0.1, "{}", world.extra());
}

#[test]
fn who_is_denied_by_one_endpoint_waits_for_the_pause_of_another() {
    let settings = endpoints(2, |index| EndpointSettings { home: index == 0, ..weighing(1) });
    let refuses: Serves = Box::new(|now, _| match now < START + SEC * 2 {
        true => (MS, status(429, Some(SEC * 2))),
        false => (MS * 40, fine()),
    });
    let mut world = World::new(11, &settings, vec![broke_between(Duration::ZERO, SEC * 60), refuses]);
    world.calls(1.0, SEC * 10);
    world.run();
    assert!(world.calls.iter().all(|call| call.status == 200 && call.spent == 0));
}

#[test]
fn a_failure_goes_elsewhere_at_once() {
    let settings = endpoints(2, |_| weighing(1));
    let fails: Serves = Box::new(|_, _| (MS, status(503, None)));
    let mut world = World::new(5, &settings, vec![fails, about(MS * 20)]);
    world.calls(20.0, SEC * 20);
    world.run();
    assert!(world.calls.iter().all(|call| call.status == 200 && call.spent <= 1));
    assert!(world.percentile(100, Duration::ZERO, SEC * 20) < MS * 100, "without a backoff");
}

/// Answers like this in a while, and well after about `time` otherwise.
fn wrong_between(time: Duration, wrong: u16, from: Duration, to: Duration) -> Serves {
    Box::new(move |now, random| {
        let outcome = if (START + from..START + to).contains(&now) { status(wrong, None) } else { fine() };
        let quick = matches!(outcome, Outcome::Answer { status: 400..500, .. });
        (if quick { MS * 5 } else { time.mul_f64(0.5 + random.f64()) }, outcome)
    })
}

#[test]
fn a_home_that_fails_all_or_knows_nothing_is_left_for_a_slower_region_and_used_again_when_it_is_back() {
    // From the start, and after a while of good answers.
    for (wrong, first, from) in
        [(500, 20, SEC * 20), (500, 20, Duration::ZERO), (404, 40, SEC * 20), (401, 40, Duration::ZERO)]
    {
        for seed in 0..10 {
            let to = SEC * 80;
            let settings = endpoints(2, |index| EndpointSettings { home: index == 0, ..weighing(1) });
            let serves = vec![wrong_between(MS * 100, wrong, from, to), about(MS * 250)];
            let mut world = World::new(seed, &settings, serves);
            world.calls(20.0, SEC * 140);
            world.run();
            let began = world.sent[0].iter().filter(|at| **at >= START + from).nth(first);
            let noticed = began.map_or(to, |at| at.since(START).min(to));
            let met = world.sent_between(0, noticed, to) as f64;
            let all = world.sent_between(1, noticed, to) as f64;
            println!("{wrong} {seed}: {noticed:?}, then {met} met it, {all} did not");
            assert!(met <= 0.05 * all, "{wrong} {seed}: {met} of {all} since {noticed:?}");
            assert!(world.sent_between(0, from, to) as f64 <= first as f64 + 0.05 * 20.0 * (to - from).as_secs_f64());
            let again = world.sent_between(0, to + SEC * 30, SEC * 140) as f64;
            let other = world.sent_between(1, to + SEC * 30, SEC * 140) as f64;
            assert!(again > 0.8 * (again + other), "{wrong} {seed}: {again} at home, {other} not");
        }
    }
}

#[test]
fn where_all_regions_decline_or_fail_none_is_ejected() {
    for wrong in [404, 500] {
        let settings = endpoints(2, |index| EndpointSettings { home: index == 0, ..weighing(1) });
        let always = || wrong_between(MS * 50, wrong, Duration::ZERO, SEC * 1000);
        let mut world = World::new(8, &settings, vec![always(), always()]);
        world.calls(20.0, SEC * 30);
        world.run();
        let snapshot = world.shard.snapshot(world.now, KEY).unwrap();
        assert!(snapshot.endpoints.iter().all(|endpoint| endpoint.ejected.is_none()), "{wrong}");
    }
}
