//! Quotas that answers state ahead of any refusal, and refusals that say nothing about a pace.

use std::time::Duration;
use tidegate_core::{
    Effect, Limit, Outcome, Settings, Signal, Submitted, Verdict,
    shard::Departure,
    signal::{Counted, Source, SpentQuota},
};

use crate::gate::{Gate, KEY, MS, SEC, fine, refused};

/// An answer after which nothing is left for this long.
pub(crate) fn last_one(status: u16, wait: Duration) -> Outcome {
    let spent = SpentQuota { wait, reset: wait, source: Source::XRateLimit, counted: Counted::Requests };
    Outcome::Answer { status, signal: Signal { spent: Some(spent), ..Signal::default() } }
}

#[test]
fn after_the_last_of_a_quota_the_next_call_waits_for_its_reset_and_none_is_a_probe() {
    for (settings, status) in [
        (Settings::default(), 200),
        (Settings::default(), 404),
        (Settings::default(), 500),
        (Settings { limits: vec![Limit::requests(1000, SEC)], ..Settings::default() }, 200),
    ] {
        let mut gate = Gate::new(settings);
        let admitted = gate.admitted();
        let permit = gate.sent();
        gate.report(permit, last_one(status, SEC * 10));
        let Submitted::Queued { call, why, .. } = gate.call(SEC * 60) else { panic!() };
        assert_eq!(why.to_string(), "paused for 10 s as nothing is left by X-RateLimit-Reset");
        assert!(gate.shard.snapshot(gate.now, KEY).unwrap().paused.is_some());
        // What was admitted and has not left yet goes back.
        assert!(matches!(gate.shard.departed(gate.now, admitted, &mut gate.fx), Departure::PutBack(_)));
        gate.shard.release(gate.now, admitted, &mut gate.fx);
        let begin = gate.now;
        let [Effect::Admit { call: first, .. }] = gate.next()[..] else { panic!() };
        assert_eq!((first, gate.now.since(begin)), (call, SEC * 10));
        // No probe: nothing was refused.
        gate.now += MS * 2;
        gate.admitted();
        let now = gate.shard.snapshot(gate.now, KEY).unwrap();
        assert_eq!((now.paused, now.cuts), (None, 0));
    }
}

#[test]
fn who_cannot_wait_for_the_reset_is_told_at_once() {
    let mut gate = Gate::new(Settings::default());
    let permits: Vec<_> = (0..4).map(|_| gate.sent()).collect();
    let waiting = gate.queued();
    gate.report(permits[0], last_one(200, SEC * 14));
    let effects = gate.effects();
    assert!(effects.is_empty(), "60 s are enough: {effects:?}");
    let Submitted::Refused(refusal) = gate.call(SEC * 5) else { panic!() };
    assert_eq!((refusal.kind(), refusal.retry_after()), ("deadline-unreachable", Some(SEC * 14)));
    gate.shard.release_call(gate.now, waiting, &mut gate.fx);
}

#[test]
fn a_word_for_longer_than_is_believed_is_tried_and_a_success_ends_it() {
    let mut gate = Gate::new(Settings::default());
    let permit = gate.sent();
    gate.report(permit, last_one(200, SEC * 86_400));
    let [call, other] = [gate.queued(), gate.queued()];
    let begin = gate.now;
    let [Effect::Admit { call: tried, permit, .. }] = gate.next()[..] else { panic!() };
    assert!(tried == call && gate.now.since(begin) <= SEC * 3);
    assert_eq!(gate.shard.departed(gate.now, permit, &mut gate.fx), Departure::Go);
    gate.report(permit, last_one(200, SEC * 86_400));
    let [Effect::Admit { call: next, .. }] = gate.effects()[..] else { panic!() };
    assert_eq!(next, other);
    gate.sent();
}

#[test]
fn a_refusal_for_requests_at_once_pauses_and_teaches_no_pace() {
    for concurrency in [true, false] {
        let mut gate = Gate::new(Settings::default());
        // Two refusals with enough between them, as a limit of a pace makes them.
        for gap in [MS * 200, MS * 400] {
            for _ in 0..20 {
                let permit = gate.sent();
                gate.now += gap;
                gate.shard.tick(gate.now, &mut gate.fx);
                gate.report(permit, fine());
            }
            let Outcome::Answer { status, signal } = refused(Some(SEC)) else { panic!() };
            let permit = gate.sent();
            let told = Outcome::Answer { status, signal: Signal { concurrency, ..signal } };
            let Verdict::PutBack(ticket) = gate.report(permit, told) else { panic!() };
            assert!(gate.shard.snapshot(gate.now, KEY).unwrap().paused.is_some());
            let Submitted::Queued { call, .. } = gate.again(SEC * 60, ticket) else { panic!() };
            let effects = gate.next();
            let [Effect::Admit { call: other, permit, .. }] = effects[..] else { panic!("{effects:?}") };
            assert_eq!(other, call);
            gate.shard.departed(gate.now, permit, &mut gate.fx);
            gate.report(permit, fine());
            gate.now += SEC;
            gate.shard.tick(gate.now, &mut gate.fx);
        }
        let learned = gate.shard.snapshot(gate.now, KEY).unwrap().learned_rate;
        assert_eq!(learned.is_none(), concurrency, "{learned:?}");
    }
}

#[test]
fn an_operator_ends_the_pause() {
    let mut gate = Gate::new(Settings::default());
    let permit = gate.sent();
    gate.report(permit, last_one(200, SEC * 10));
    assert!(matches!(gate.call(SEC * 60), Submitted::Queued { .. }));
    gate.shard.resume(gate.now, KEY, &mut gate.fx);
    assert!(matches!(gate.effects()[..], [Effect::Admit { .. }]));
}
