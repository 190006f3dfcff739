//! Upstreams of which nothing is configured and which refuse nothing: the queue of one that gets slower moves to the gate,
//! and one that is slow by itself is let alone.
//!
//! `cargo test -p tidegate-core --test adaptive -- --nocapture` prints the figures of every case.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]
mod world;
use std::time::Duration;
use tidegate_core::{Settings, Time};
use world::*;

fn world(seed: u64, upstream: Upstream) -> World {
    let mut world = World::new(seed, upstream, &Settings::default());
    world.deadline = SEC * 3600;
    world
}

fn slots(world: &World) -> Option<u32> {
    world.shard.snapshot(world.now, KEY).unwrap().learned_slots
}

/// How many waited at the upstream, on average and at most, looked at ten times a second.
fn queue(world: &World, from: u32, to: u32) -> (f64, usize) {
    let looks: Vec<usize> = (from * 10..to * 10)
        .map(|tenth| START + MS * 100 * tenth)
        .map(|at| world.begun.iter().filter(|(came, begun)| *came <= at && at < *begun).count())
        .collect();
    (looks.iter().sum::<usize>() as f64 / looks.len() as f64, *looks.iter().max().unwrap())
}

#[test]
fn the_queue_of_a_server_moves_to_the_gate_and_it_stays_as_busy() {
    for (workers, work, callers) in [(10, 200, 100), (10, 200, 400), (4, 100, 60), (32, 500, 300)] {
        for spread in [1.0, 1.5] {
            let mut upstream = Upstream::new(Law::Unlimited, Says::Nothing).serving(MS * work, MS * work);
            upstream = upstream.workers(workers);
            upstream.spread = spread;
            let mut world = world(workers as u64, upstream);
            world.until = START + SEC * 180;
            // A few first, then many.
            world.clients(workers / 2, MS * 13);
            world.run(START + SEC * 20);
            world.clients(callers, Duration::from_micros(30));
            for second in 60..160 {
                world.quiet(second as usize, SEC * second);
            }
            world.run(START + SEC * 179);
            let now = slots(&world);
            let busy = world.begun.iter().zip(&world.held);
            let within = |begun: Time, ended: Time| {
                ended.min(START + SEC * 160).since(begun.max(START + SEC * 60)).as_secs_f64()
            };
            let busy =
                busy.map(|((_, begun), (_, ended))| within(*begun, *ended)).sum::<f64>() / 100.0 / workers as f64;
            let (mean, most) = queue(&world, 100, 160);
            world.run_out();
            let quiet = world.calls.iter().filter(|call| {
                let second = call.began.since(START);
                second >= SEC * 60 && second < SEC * 160 && call.began.since(START).subsec_nanos() == 0
            });
            let mut waits: Vec<Duration> = quiet.map(|call| call.ended.unwrap().since(call.began)).collect();
            waits.sort();
            let (half, late) = (waits[waits.len() / 2], waits[waits.len() * 9 / 10]);
            println!(
                "{workers} workers of {work} ms (x{spread}), {callers} callers: {:.1} % busy, {mean:.1} wait there \
                 (at most {most}), slots {now:?}, a quiet function {half:?}, one in ten over {late:?}",
                busy * 100.0
            );
            assert!(busy > 0.95, "{busy}");
            assert!(mean < 2.0 * workers as f64 && most <= workers * 3, "{mean}, {most}");
            assert!(half < MS * work * 4, "{half:?}");
        }
    }
}

#[test]
fn a_destination_that_gets_slow_by_itself_is_let_alone() {
    for callers in [20, 60, 200] {
        for times in [3, 10] {
            let mut upstream = Upstream::new(Law::Unlimited, Says::Nothing).serving(MS * 80, MS * 120);
            upstream.spread = 1.3;
            let mut world = world(callers as u64, upstream);
            world.until = START + SEC * 120;
            world.clients(callers, MS * 7);
            world.run(START + SEC * 40);
            world.upstream.service = (MS * 80 * times, MS * 120 * times);
            world.run_out();
            let each = 0.1 * f64::from(times) * 1.035 + 0.0014;
            let passed = world.accepted_between(SEC * 41, SEC * 101) as f64 / 60.0;
            let most = callers as f64 / each;
            println!("{callers} callers, {times} times slower: {passed:.1}/s of {most:.1}/s");
            assert!(passed > most * 0.9, "{callers}, {times}: {passed} of {most}");
        }
    }
}

#[test]
fn a_brownout_that_eases_while_its_cause_is_looked_for_leaves_no_limit() {
    for lasts in (4..24).step_by(2) {
        let upstream = Upstream::new(Law::Unlimited, Says::Nothing).serving(MS * 80, MS * 120);
        let mut world = world(lasts, upstream);
        world.until = START + SEC * 180;
        world.clients(10, MS * 7);
        world.run(START + SEC * 40);
        world.upstream.service = (MS * 900, MS * 1100);
        world.run(START + SEC * (40 + lasts as u32));
        world.upstream.service = (MS * 450, MS * 550);
        world.run_out();
        let passed = world.accepted_between(SEC * 120, SEC * 180) as f64 / 60.0;
        println!("a brownout of {lasts} s: {passed:.1}/s after it");
        assert!(passed > 0.9 * 10.0 / 0.5014, "{lasts}: {passed}");
    }
}

#[test]
fn answers_that_just_differ_much_are_never_limited() {
    for spread in [2.0, 2.7, 4.0] {
        let mut limited = 0;
        for seed in 0..100 {
            let mut upstream = Upstream::new(Law::Unlimited, Says::Nothing).serving(MS * 700, MS * 700);
            upstream.spread = spread;
            let mut world = world(seed, upstream);
            world.until = START + SEC * 120;
            world.clients(40, MS * 50);
            for second in 1..120 {
                world.run(START + SEC * second);
                limited += u32::from(slots(&world).is_some());
            }
            world.run_out();
        }
        println!("spread {spread}: limited in {limited} of 11,900 looks");
        assert_eq!(limited, 0);
    }
}
