//! What comes of quotas that answers state ahead of any refusal, in a seeded world.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]
mod world;
use std::time::Duration;
use tidegate_core::Settings;
use world::*;

/// Eight clients that call one after the other for as long as this.
fn run(law: Law, states: States, time: Duration) -> World {
    let mut upstream = Upstream::new(law, Says::Seconds).serving(MS * 5, MS * 20);
    upstream.states = states;
    let mut world = World::new(7, upstream, &Settings::default());
    world.until = START + time;
    world.think = MS * 10;
    world.clients(8, MS);
    world.run_out();
    world
}

#[test]
fn true_words_keep_refusals_away() {
    for law in [
        Law::Fixed { quota: 50, per: SEC * 5 },
        Law::Fixed { quota: 100, per: SEC * 60 },
        Law::Sliding { quota: 30, per: SEC * 3 },
    ] {
        let plain = run(law.clone(), States::Nothing, SEC * 300);
        let told = run(law.clone(), States::Truly, SEC * 300);
        println!(
            "{law:?}: refused {} of {} untold, {} of {} told",
            plain.refused(),
            plain.seen.len(),
            told.refused(),
            told.seen.len()
        );
        assert!(told.succeeded() as f64 >= plain.succeeded() as f64 * 0.95, "{law:?}");
        assert!(told.refused() * 3 <= plain.refused() * 2 || told.refused_share() < 0.01, "{law:?}");
    }
}

#[test]
fn words_that_are_wrong_hold_nobody_for_long() {
    for lie in [MS * 100, SEC, SEC * 10, SEC * 60, SEC * 600] {
        let plain = run(Law::Unlimited, States::Nothing, SEC * 300);
        let told = run(Law::Unlimited, States::Lies(lie), SEC * 300);
        let lost = 1.0 - told.succeeded() as f64 / plain.succeeded() as f64;
        println!("{lie:?}: {:.1} % of the calls are lost in five minutes", lost * 100.0);
        // At most two pauses that are believed and half of one that is tested.
        let most = if lie > SEC * 15 { 4.0 } else { lie.as_secs_f64() * 2.6 + 1.0 };
        assert!(lost < most / 300.0, "{lie:?}: {lost}");
    }
}

#[test]
fn words_that_are_wrong_beside_a_limit_that_is_true_do_not_starve_it() {
    for law in [Law::Bucket { rate: 10.0, burst: 10.0 }, Law::Sliding { quota: 20, per: SEC * 2 }] {
        let plain = run(law.clone(), States::Nothing, SEC * 300);
        for lie in [SEC, SEC * 5, SEC * 600] {
            let told = run(law.clone(), States::Lies(lie), SEC * 300);
            let part = told.succeeded() as f64 / plain.succeeded() as f64;
            println!("{law:?}, {lie:?}: {:.0} % of the calls", part * 100.0);
            assert!(part > 0.8, "{law:?} {lie:?}: {part}");
        }
    }
}

#[test]
fn a_reset_is_read_as_what_it_shows_to_be() {
    for law in [
        Law::Fixed { quota: 20, per: SEC * 10 },
        Law::Fixed { quota: 5, per: SEC },
        Law::Bucket { rate: 2.0, burst: 20.0 },
        Law::Bucket { rate: 1.0, burst: 60.0 },
    ] {
        let plain = run(law.clone(), States::Nothing, SEC * 300);
        let told = run(law.clone(), States::AsBucket, SEC * 300);
        println!(
            "{law:?}: refused {} of {} untold, {} of {} told; {} and {} succeeded",
            plain.refused(),
            plain.seen.len(),
            told.refused(),
            told.seen.len(),
            plain.succeeded(),
            told.succeeded()
        );
        assert!(told.refused_share() < (plain.refused_share() * 1.2).max(0.05), "{law:?}: {}", told.refused_share());
        assert!(told.succeeded() as f64 >= plain.succeeded() as f64 * 0.95, "{law:?}");
    }
}
