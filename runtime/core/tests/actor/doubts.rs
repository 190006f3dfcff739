//! Long pauses for which only a header speaks.

use tidegate_core::{Effect, Settings, Submitted, Verdict, shard::Departure};

use crate::gate::{Gate, KEY, SEC, fine, refused};

#[test]
fn a_long_pause_for_which_one_header_speaks_is_tried_and_a_success_ends_it() {
    let mut gate = Gate::new(Settings::default());
    let permit = gate.sent();
    let Verdict::PutBack(ticket) = gate.report(permit, refused(Some(SEC * 86_400))) else { panic!() };
    let begin = gate.now;
    let Submitted::Queued { call: first, why, .. } = gate.again(SEC * 60, ticket) else { panic!() };
    assert_eq!(why.to_string(), "paused for 10m by Retry-After of a 429");
    let second = gate.queued();
    let [Effect::Admit { call, permit: probe, .. }] = gate.next()[..] else { panic!() };
    assert_eq!(call, second, "the first was refused itself");
    let tried = gate.now.since(begin);
    assert!(tried >= SEC * 2 && tried <= SEC * 3, "{tried:?}");
    assert_eq!(gate.shard.departed(gate.now, probe, &mut gate.fx), Departure::Go);
    // One probe, however long its answer takes; the pause is still to be seen.
    gate.now += SEC * 20;
    gate.shard.tick(gate.now, &mut gate.fx);
    assert!(gate.effects().is_empty());
    assert!(gate.shard.snapshot(gate.now, KEY).unwrap().paused.is_some());
    gate.report(probe, fine());
    let [Effect::Admit { call, .. }] = gate.effects()[..] else { panic!() };
    assert_eq!(call, first);
    let now = gate.shard.snapshot(gate.now, KEY).unwrap();
    assert_eq!((now.paused, now.window), (None, Some(2)));
}

#[test]
fn a_long_pause_that_its_probe_confirms_turns_away_who_cannot_make_it_and_is_still_tried() {
    let mut gate = Gate::new(Settings::default());
    let permit = gate.sent();
    let wait = Some(SEC * 300);
    let Verdict::PutBack(ticket) = gate.report(permit, refused(wait)) else { panic!() };
    gate.again(SEC * 600, ticket);
    assert!(matches!(gate.call(SEC * 600), Submitted::Queued { .. }));
    let waiting = gate.queued();
    let [Effect::Admit { permit: probe, .. }] = gate.next()[..] else { panic!() };
    gate.shard.departed(gate.now, probe, &mut gate.fx);
    assert!(matches!(gate.report(probe, refused(wait)), Verdict::PutBack(_)));
    let [Effect::Refuse { call, refusal }] = gate.effects()[..] else { panic!() };
    assert_eq!((call, refusal.kind()), (waiting, "deadline-unreachable"));
    assert_eq!(gate.shard.snapshot(gate.now, KEY).unwrap().cuts, 1, "the same pause");
    let Submitted::Refused(refusal) = gate.call(SEC * 60) else { panic!() };
    assert_eq!(refusal.retry_after(), wait);
    let [Effect::Admit { permit: probe, .. }] = gate.next()[..] else { panic!() };
    let Submitted::Refused(_) = gate.call(SEC * 60) else { panic!() };
    gate.report(probe, fine());
    gate.sent();
}

#[test]
fn only_a_pause_that_a_header_made_long_is_tried_before_its_end() {
    let mut gate = Gate::new(Settings::default());
    let permit = gate.sent();
    let Verdict::PutBack(ticket) = gate.report(permit, refused(Some(SEC * 15))) else { panic!() };
    let begin = gate.now;
    gate.again(SEC * 60, ticket);
    let [Effect::Admit { .. }] = gate.next()[..] else { panic!() };
    assert_eq!(gate.now.since(begin), SEC * 15);
}

#[test]
fn how_long_a_header_is_believed_is_a_setting() {
    for (believed, earliest, latest) in [(SEC * 600, SEC * 30, SEC * 30), (SEC * 29, SEC * 2, SEC * 3)] {
        let mut gate = Gate::new(Settings { believed_pause: believed, ..Settings::default() });
        let permit = gate.sent();
        let Verdict::PutBack(ticket) = gate.report(permit, refused(Some(SEC * 30))) else { panic!() };
        let begin = gate.now;
        gate.again(SEC * 60, ticket);
        let [Effect::Admit { .. }] = gate.next()[..] else { panic!() };
        let tried = gate.now.since(begin);
        assert!(tried >= earliest && tried <= latest, "{believed:?}: {tried:?}");
    }
}

#[test]
fn doubts_about_a_pause_end_with_it() {
    let mut gate = Gate::new(Settings::default());
    let permit = gate.sent();
    gate.report(permit, refused(Some(SEC * 60)));
    // Nobody called until it was over.
    gate.now += SEC * 61;
    let probe = gate.sent();
    let Verdict::PutBack(ticket) = gate.report(probe, refused(Some(SEC))) else { panic!() };
    let begin = gate.now;
    gate.again(SEC * 60, ticket);
    let [Effect::Admit { .. }] = gate.next()[..] else { panic!() };
    assert_eq!(gate.now.since(begin), SEC);
}

#[test]
fn a_probe_given_up_before_the_end_of_a_long_pause_leaves_its_place_to_the_next() {
    let mut gate = Gate::new(Settings::default());
    let permit = gate.sent();
    gate.report(permit, refused(Some(SEC * 600)));
    let (_, second) = (gate.queued(), gate.queued());
    let [Effect::Admit { permit: probe, .. }] = gate.next()[..] else { panic!() };
    gate.shard.release(gate.now, probe, &mut gate.fx);
    let [Effect::Admit { call, .. }] = gate.effects()[..] else { panic!() };
    assert_eq!(call, second);
}

#[test]
fn probes_that_are_given_up_after_they_left_do_not_follow_one_another() {
    let mut gate = Gate::new(Settings::default());
    let permit = gate.sent();
    gate.report(permit, refused(Some(SEC * 600)));
    let mut gaps = Vec::new();
    for _ in 0..5 {
        gate.queued();
    }
    for _ in 0..4 {
        let begin = gate.now;
        let [Effect::Admit { permit: probe, .. }] = gate.next()[..] else { panic!() };
        gaps.push(gate.now.since(begin));
        assert_eq!(gate.shard.departed(gate.now, probe, &mut gate.fx), Departure::Go);
        gate.shard.release(gate.now, probe, &mut gate.fx);
        assert!(gate.effects().is_empty(), "the next waits");
    }
    for (gap, least) in gaps.iter().zip([2, 4, 8, 16]) {
        assert!(*gap >= SEC * least && *gap <= SEC * least * 3 / 2, "{gaps:?}");
    }
}
