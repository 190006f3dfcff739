//! What a refusal does to everybody: the pause, its probe, and who can make it still.

use std::time::Duration;
use tidegate_core::{
    Call, Effect, Permit, Refusal, Settings, Submitted, Verdict, Waiting,
    shard::{CopyFor, Departure},
};

use crate::gate::{Gate, KEY, MS, SEC, fine, first_attempt, refused};

#[test]
fn a_429_pauses_the_destination_and_costs_no_attempt() {
    let mut gate = Gate::ten_a_second();
    let permit = gate.sent();
    gate.now += MS * 200;
    let Verdict::PutBack(ticket) = gate.report(permit, refused(Some(SEC * 12))) else { panic!() };
    let Submitted::Queued { why, .. } = gate.again(SEC * 60, ticket) else { panic!() };
    assert_eq!(why.to_string(), "paused for 12 s by Retry-After of a 429");
    let (left, _) = gate.shard.snapshot(gate.now, KEY).unwrap().paused.unwrap();
    assert_eq!(left, SEC * 12);
    let paused_at = gate.now;
    let [Effect::Admit { .. }] = gate.next()[..] else { panic!() };
    assert_eq!(gate.now.since(paused_at), SEC * 12);
}

#[test]
fn a_pause_ends_with_one_probe_and_not_with_a_herd() {
    let mut gate = Gate::new(Settings::default());
    let permit = gate.sent();
    gate.report(permit, refused(Some(SEC)));
    for _ in 0..50 {
        gate.queued();
    }
    let effects = gate.next();
    let [Effect::Admit { permit: probe, .. }] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(gate.shard.departed(gate.now, probe, &mut gate.fx), Departure::Go);
    let Submitted::Queued { why, .. } = gate.call(SEC * 60) else { panic!() };
    assert!(matches!(why, Waiting::Probe(_)), "{why:?}");
    gate.now += MS * 20;
    gate.report(probe, fine());
    assert!(gate.effects().len() <= 2);
}

#[test]
fn a_refused_probe_pauses_again_and_longer() {
    let mut gate = Gate::new(Settings::default());
    let mut permit = gate.sent();
    let mut pauses = Vec::new();
    for _ in 0..9 {
        gate.now += MS;
        let Verdict::PutBack(ticket) = gate.report(permit, refused(None)) else { panic!() };
        let at = gate.now;
        assert!(gate.shard.snapshot(gate.now, KEY).unwrap().paused.is_some());
        assert!(matches!(gate.again(SEC * 600, ticket), Submitted::Queued { .. }));
        let admitted = loop {
            if let [Effect::Admit { permit, .. }] = gate.next()[..] {
                break permit;
            }
        };
        pauses.push(gate.now.since(at));
        permit = admitted;
        gate.shard.departed(gate.now, permit, &mut gate.fx);
    }
    assert!(pauses[0] >= MS * 125 && pauses[0] <= MS * 250, "{pauses:?}");
    assert!(pauses[8] >= SEC * 15 && pauses[8] <= SEC * 30, "{pauses:?}");
}

#[test]
fn the_longest_pause_bounds_those_that_nobody_asked_for_too() {
    let mut gate = Gate::new(Settings { max_pause: MS * 400, ..Settings::default() });
    let mut permit = gate.sent();
    for _ in 0..9 {
        gate.now += MS;
        let Verdict::PutBack(ticket) = gate.report(permit, refused(None)) else { panic!() };
        let (left, _) = gate.shard.snapshot(gate.now, KEY).unwrap().paused.unwrap();
        assert!(left <= MS * 400, "{left:?}");
        assert!(matches!(gate.again(SEC * 600, ticket), Submitted::Queued { .. }));
        permit = loop {
            if let [Effect::Admit { permit, .. }] = gate.next()[..] {
                break permit;
            }
        };
        gate.shard.departed(gate.now, permit, &mut gate.fx);
    }
}

#[test]
fn a_pause_is_extended_and_never_shortened_and_only_the_first_refusal_cuts() {
    let mut gate = Gate::new(Settings::default());
    let permits: Vec<Permit> = (0..3).map(|_| gate.sent()).collect();
    gate.now += MS * 10;
    let left = |gate: &Gate| gate.shard.snapshot(gate.now, KEY).unwrap().paused.unwrap().0;
    gate.report(permits[0], refused(Some(SEC * 5)));
    assert_eq!(left(&gate), SEC * 5);
    gate.report(permits[1], refused(Some(SEC)));
    assert_eq!(left(&gate), SEC * 5);
    gate.report(permits[2], refused(Some(SEC * 9)));
    assert_eq!(left(&gate), SEC * 9);
    assert_eq!(gate.shard.snapshot(gate.now, KEY).unwrap().cuts, 1);
}

#[test]
fn a_lying_header_pauses_no_longer_than_max_pause() {
    let mut gate = Gate::new(Settings { max_pause: SEC * 30, ..Settings::default() });
    let permit = gate.sent();
    gate.report(permit, refused(Some(SEC * 86_400)));
    assert_eq!(gate.shard.snapshot(gate.now, KEY).unwrap().paused.unwrap().0, SEC * 30);
}

#[test]
fn calls_that_can_no_longer_make_it_are_refused_when_the_pause_begins() {
    let mut gate = Gate::ten_a_second();
    let permit = gate.sent();
    let calls: Vec<(Duration, Call)> = [SEC * 2, SEC * 30, SEC * 4, SEC * 5 + MS * 150]
        .into_iter()
        .map(|within| match gate.call(within) {
            Submitted::Queued { call, .. } => (within, call),
            other => panic!("{other:?}"),
        })
        .collect();
    gate.report(permit, refused(Some(SEC * 5)));
    let mut refused: Vec<Call> = Vec::new();
    for effect in gate.effects() {
        match effect {
            Effect::Refuse { call, refusal: Refusal::DeadlineUnreachable { could_start_in, .. } } => {
                assert!(could_start_in >= SEC * 5);
                refused.push(call);
            }
            other => panic!("{other:?}"),
        }
    }
    // The first and third by the pause. The last could start 5.1 s from now behind the one that stays: it stays too.
    refused.sort_unstable();
    assert_eq!(refused, [calls[0].1, calls[2].1]);
}

#[test]
fn places_behind_others_count_when_a_pause_begins() {
    let mut gate = Gate::ten_a_second();
    let permit = gate.sent();
    let calls: Vec<Call> = (0..5)
        .map(|_| match gate.call(SEC * 5 + MS * 250) {
            Submitted::Queued { call, .. } => call,
            other => panic!("{other:?}"),
        })
        .collect();
    gate.report(permit, refused(Some(SEC * 5)));
    // At 5.0, 5.1 and 5.2 s three of them can start.
    let refused: Vec<Call> = gate
        .effects()
        .iter()
        .map(|e| if let Effect::Refuse { call, .. } = e { *call } else { panic!("{e:?}") })
        .collect();
    assert_eq!(refused, calls[3..]);
}

#[test]
fn a_call_that_was_refused_lets_those_go_first_that_were_not() {
    let mut gate = Gate::one_at_a_time();
    let first = gate.sent();
    let second = gate.queued();
    gate.now += MS;
    let paused = gate.now;
    let verdict = gate.shard.report(gate.now, first, &refused(Some(SEC)), &first_attempt(&gate.policy), &mut gate.fx);
    gate.shard.release(gate.now, first, &mut gate.fx);
    let Verdict::PutBack(ticket) = verdict else { panic!() };
    let Submitted::Queued { call: back, .. } = gate.again(SEC * 60, ticket) else { panic!() };
    let [Effect::Admit { call, permit, .. }] = gate.next()[..] else { panic!() };
    assert_eq!((call, gate.now.since(paused)), (second, SEC));
    gate.report(permit, fine());
    let admitted = loop {
        match gate.next()[..] {
            [Effect::Admit { call, .. }] => break call,
            ref none => assert!(none.is_empty()),
        }
    };
    // Half a second for them, by half of it more or less.
    assert_eq!(admitted, back);
    assert!(gate.now.since(paused) < SEC * 2);
}

#[test]
fn nothing_departs_into_a_pause_that_began_after_its_admission() {
    let mut gate = Gate::new(Settings::default());
    let (first, connecting) = (gate.sent(), gate.admitted());
    gate.report(first, refused(Some(SEC)));
    let Departure::PutBack(ticket) = gate.shard.departed(gate.now, connecting, &mut gate.fx) else { panic!() };
    gate.shard.release(gate.now, connecting, &mut gate.fx);
    assert!(matches!(gate.again(SEC * 60, ticket), Submitted::Queued { .. }));
}

#[test]
fn a_pause_that_a_copy_brings_about_refuses_at_once_who_can_not_wait_for_its_end() {
    let mut gate = Gate::new(Settings { max_concurrency: Some(2), ..Settings::default() });
    let flies = gate.sent();
    let copy = gate.shard.copy(gate.now, flies, CopyFor::Race, &mut gate.fx).unwrap();
    assert_eq!(gate.shard.departed(gate.now, copy, &mut gate.fx), Departure::Go);
    let Submitted::Queued { call: hasty, .. } = gate.call(SEC * 2) else { panic!("there are two slots") };
    let patient = gate.queued();
    gate.shard.observe(gate.now, copy, Some(&refused(Some(SEC * 5))), &mut gate.fx);
    let effects = gate.effects();
    let [Effect::Refuse { call, refusal: Refusal::DeadlineUnreachable { could_start_in, .. } }] = effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(call, hasty);
    assert!(could_start_in >= SEC * 5, "{could_start_in:?}");
    gate.shard.release_call(gate.now, patient, &mut gate.fx);
}
