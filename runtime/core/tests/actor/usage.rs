//! What an answer says in its body, after its head counted: tokens it used, and errors.

use std::time::Duration;
use tidegate_core::{
    Cost, Effect, Limit, NewCall, Outcome, Permit, Settings, Signal, Submitted, Unit, shard::Departure, signal::Source,
};

use crate::gate::{Gate, KEY, SEC, fine, first_attempt, refused};

fn thousand_tokens(per: Duration) -> Gate {
    let limit = Limit { unit: Unit::Tokens, quota: 1000, per: per.into(), burst: Some(1000) };
    Gate::new(Settings { limits: vec![limit], ..Settings::default() })
}

fn ask(gate: &mut Gate, tokens: u32) -> Submitted {
    let new = NewCall { cost: Cost { requests: 1, tokens }, ..NewCall::by(gate.now + SEC * 60_000) };
    gate.submit(new)
}

/// A call whose answer flows.
fn answered(gate: &mut Gate, tokens: u32) -> Permit {
    let Submitted::Admitted(permit) = ask(gate, tokens) else { panic!() };
    assert_eq!(gate.shard.departed(gate.now, permit, &mut gate.fx), Departure::Go);
    let attempt = first_attempt(&gate.policy);
    gate.shard.report(gate.now, permit, &fine(), &attempt, &mut gate.fx);
    permit
}

#[test]
fn a_call_that_used_less_than_it_was_taken_to_lets_others_go_at_once() {
    for per in [SEC * 60, SEC * 3_600] {
        let mut gate = thousand_tokens(per);
        let permit = answered(&mut gate, 900);
        let Submitted::Queued { call: waiting, .. } = ask(&mut gate, 300) else { panic!() };
        gate.shard.settle(gate.now, permit, 600, &mut gate.fx);
        let [Effect::Admit { call, .. }] = gate.effects()[..] else { panic!() };
        assert_eq!(call, waiting);
        // Said again, or once it is over, it changes nothing.
        gate.shard.settle(gate.now, permit, 600, &mut gate.fx);
        gate.shard.release(gate.now, permit, &mut gate.fx);
        gate.shard.settle(gate.now, permit, 0, &mut gate.fx);
        let Submitted::Queued { .. } = ask(&mut gate, 101) else { panic!("900 are used") };
    }
}

#[test]
fn a_call_that_used_more_makes_others_wait_longer() {
    let mut gate = thousand_tokens(SEC * 3_600);
    let permit = answered(&mut gate, 10);
    gate.shard.settle(gate.now, permit, 900, &mut gate.fx);
    assert!(matches!(ask(&mut gate, 200), Submitted::Queued { .. }));
    assert!(matches!(ask(&mut gate, 1001), Submitted::Refused(_)));
}

#[test]
fn what_has_not_left_is_not_settled() {
    let mut gate = thousand_tokens(SEC * 60);
    let Submitted::Admitted(permit) = ask(&mut gate, 900) else { panic!() };
    gate.shard.settle(gate.now, permit, 0, &mut gate.fx);
    assert!(matches!(ask(&mut gate, 900), Submitted::Queued { .. }));
    gate.shard.release(gate.now, permit, &mut gate.fx);
    assert!(matches!(gate.effects()[..], [Effect::Admit { .. }]), "a call that never left gives all back");
}

#[test]
fn a_refusal_in_the_midst_of_an_answer_pauses_its_destination() {
    for concurrency in [false, true] {
        let mut gate = Gate::new(Settings::default());
        let permit = answered(&mut gate, 0);
        gate.now += SEC;
        let Outcome::Answer { status, signal } = refused(Some(SEC * 5)) else { panic!() };
        let signal = Signal { wait: Some((SEC * 5, Source::Body)), concurrency, ..signal };
        gate.shard.amend(gate.now, permit, &Outcome::Answer { status, signal }, &mut gate.fx);
        let Submitted::Queued { why, .. } = gate.call(SEC * 60) else { panic!() };
        assert_eq!(why.to_string(), "paused for 5 s by the body of a 429");
        gate.shard.release(gate.now, permit, &mut gate.fx);
        let now = gate.shard.snapshot(gate.now, KEY).unwrap();
        assert_eq!((now.unanswered, now.in_flight, now.cuts), (0, 0, 1));
        assert_eq!((now.counts.succeeded, now.counts.refused), (0, 1), "one outcome, not two");
    }
}

#[test]
fn a_failure_in_the_midst_of_an_answer_is_counted_and_one_alone_stops_nobody() {
    let mut gate = Gate::new(Settings::default());
    let permit = answered(&mut gate, 0);
    let failed = Outcome::Answer { status: 529, signal: Signal::default() };
    gate.shard.amend(gate.now, permit, &failed, &mut gate.fx);
    gate.sent();
    let now = gate.shard.snapshot(gate.now, KEY).unwrap();
    assert_eq!((now.counts.server_errors, now.unanswered, now.paused), (1, 1, None));
    // Over: nothing is known of it any more.
    gate.shard.release(gate.now, permit, &mut gate.fx);
    gate.shard.amend(gate.now, permit, &failed, &mut gate.fx);
    assert_eq!(gate.shard.snapshot(gate.now, KEY).unwrap().counts.server_errors, 1);
}
