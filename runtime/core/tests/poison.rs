//! What a few calls that fail for a reason of their own do to everybody else of their destination: nothing for long.
//!
//! `cargo test -p tidegate-core --test poison -- --nocapture` prints the figures of every case.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]
mod world;
use std::time::Duration;
use tidegate_core::Settings;
use world::*;

const FATES: [Fate; 5] =
    [Fate::Status(504), Fate::Broken, Fate::Status(429), Fate::Wait(SEC), Fate::Wait(Duration::from_millis(2500))];

struct Came {
    /// Answers to healthy callers in the time after the doomed ones came.
    answers: usize,
    longest: Duration,
    world: World,
}

/// Callers one by one, and after three seconds `doomed` calls of a fate, over half a minute.
fn beside(doomed: usize, fate: Fate, callers: usize, service: Duration, think: Duration, seed: u64) -> Came {
    let mut world =
        World::new(seed, Upstream::new(Law::Unlimited, Says::Nothing).serving(service, service), &Settings::default());
    world.until = START + SEC * 33;
    world.think = think;
    world.deadline = SEC * 60;
    world.clients(callers, Duration::from_micros(50));
    world.doomed(doomed, SEC * 3, fate);
    world.run_out();
    let (from, to) = (START + SEC * 3, START + SEC * 33);
    let answers = world.healthy().filter(|call| (from..to).contains(&call.ended.unwrap())).count();
    let longest = world.healthy().map(|call| call.ended.unwrap().since(call.began)).max().unwrap();
    Came { answers, longest: longest - service, world }
}

#[test]
fn calls_that_fail_for_a_reason_of_their_own_stop_nobody_else() {
    for (callers, service, think) in
        [(8, MS * 2, MS * 100), (8, MS * 50, MS), (8, MS * 800, MS * 100), (1, MS * 200, SEC), (1, MS * 2, MS * 10)]
    {
        for fate in FATES {
            for doomed in [1, 2, 3, 10] {
                let (mut share, mut longest): (f64, _) = (1.0, Duration::ZERO);
                let mut sent = 0;
                for seed in 0..10 {
                    let without = beside(0, fate, callers, service, think, seed).answers;
                    let came = beside(doomed, fate, callers, service, think, seed);
                    share = share.min(came.answers as f64 / without as f64);
                    longest = longest.max(came.longest);
                    sent = sent.max(came.world.unhealthy().map(|call| call.sent).max().unwrap());
                }
                let name = format!("{callers} callers, {doomed} doomed to {fate:?}: {share}, {longest:?}");
                println!(
                    "{callers} callers of {service:?} each {think:?}, {doomed} doomed to {fate:?}: {:.1} % of the answers, longest wait {longest:?}, sent {sent} times",
                    share * 100.0
                );
                // Many that are refused, beside a few who need long for each call, are too alike a limit.
                let alike = matches!(fate, Fate::Wait(_) | Fate::Status(429)) && service > MS * 100 && doomed > 1;
                if alike && (doomed > 3 || matches!(fate, Fate::Wait(_))) {
                    continue;
                }
                // The first word of one of them counts for all, and of one that came later perhaps, too.
                let (least, most) = match fate {
                    // A header is believed twice: several that are always told to wait hold the others up, but not for good.
                    Fate::Wait(_) if doomed > 2 => (0.14, SEC * 25),
                    Fate::Wait(wait) => (0.6, wait * 2 + SEC),
                    _ if doomed > 3 => (0.8, SEC * 6),
                    _ => (0.88, SEC * 4),
                };
                assert!(share >= least && longest <= most, "{name}");
            }
        }
    }
}

/// One caller, a call after the other, each refused by chance: how long 200 calls take.
fn moody(says: Says, service: Duration, upstream: impl Fn(&mut Upstream), seed: u64) -> (Duration, Duration) {
    let mut world =
        World::new(seed, Upstream::new(Law::Unlimited, says).serving(service, service), &Settings::default());
    upstream(&mut world.upstream);
    world.until = START + SEC * 3_600;
    world.clients(1, MS);
    let mut longest = Duration::ZERO;
    while world.calls.iter().filter(|call| call.ended.is_some()).count() < 200 {
        world.run(world.now + SEC);
        world.now += MS;
    }
    for call in world.calls.iter().take(200) {
        longest = longest.max(call.ended.unwrap_or(world.now).since(call.began));
    }
    (world.calls[199].ended.unwrap().since(START), longest)
}

#[test]
fn refusals_by_chance_cost_one_caller_little_more_than_a_plain_backoff() {
    for service in [MS, MS * 50, MS * 500] {
        for (name, refusals, change) in [
            ("every fifth by chance", 50, (|upstream: &mut Upstream| upstream.moody = 0.2) as fn(&mut Upstream)),
            ("every second", 200, |upstream| upstream.every = Some(2)),
            ("every fifth", 50, |upstream| upstream.every = Some(5)),
        ] {
            let plain = (service + MS) * 200 + MS * 250 * refusals;
            for seed in 0..10 {
                let (took, longest) = moody(Says::Nothing, service, change, seed);
                println!("{service:?}, {name}: {took:?} of {plain:?}, longest {longest:?}");
                assert!(took < plain * 3 && longest < SEC * 8, "{service:?}, {name}: {took:?}, {longest:?}");
            }
        }
    }
}

#[test]
fn a_destination_that_is_down_is_tried_by_few_and_nobody_is_lost() {
    for (fate, silent) in [(Fate::Status(504), false), (Fate::Broken, true)] {
        let upstream = Upstream::new(Law::Unlimited, Says::Nothing).serving(MS * 20, MS * 20);
        let mut world = World::new(5, upstream.outage(SEC * 5, SEC * 35, silent), &Settings::default());
        world.until = START + SEC * 50;
        world.think = MS * 100;
        world.clients(8, MS * 3);
        world.doomed(3, SEC * 4, fate);
        world.run_out();
        assert!(world.healthy().all(|call| call.status == 200), "silent: {silent}");
        let (asked, back) = (world.asked_while_out, world.accepted_between(SEC * 38, SEC * 48));
        println!("silent {silent}: {asked} asked while it was down, {back} answers in ten seconds from 3 s after");
        assert!(asked < 60, "{asked}");
        assert!(back > 550, "{back}");
    }
}

#[test]
fn a_final_refusal_is_passed_on_at_once_and_is_nothing_to_the_others() {
    for (callers, service) in [(1, MS * 2), (8, MS * 50), (8, MS * 800)] {
        for doomed in [1, 10, 100] {
            let without = beside(0, Fate::Final, callers, service, MS * 100, 5).answers;
            let came = beside(doomed, Fate::Final, callers, service, MS * 100, 5);
            let name = format!("{callers} callers of {service:?}, {doomed} doomed");
            // Nobody counts them as answers that widen the window of one that is new, nor as refusals that close it.
            assert!(came.answers * 100 >= without * 97, "{name}: {} of {without}", came.answers);
            for call in came.world.unhealthy() {
                let took = call.ended.unwrap().since(call.began);
                assert_eq!((call.status, call.sent), (429, 1), "{name}: {}", call.why);
                assert!(took < SEC * 5, "{name}: {took:?}");
            }
            let seen = came.world.shard.snapshot(came.world.now, KEY).unwrap();
            assert_eq!((seen.cuts, seen.paused), (0, None), "{name}");
        }
    }
}
