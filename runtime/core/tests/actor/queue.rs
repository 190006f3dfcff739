//! Limits, slots and the queue: who leaves when, who waits, who is refused.

use std::sync::Arc;
use tidegate_core::{
    Cost, Effect, Flow, Limit, NewCall, Refusal, Settings, Submitted, Unit, Verdict,
    repeat::Reason,
    shard::{Config, QueueBounds},
    units::Size,
};

use crate::gate::{Gate, KEY, MS, SEC, T, fine, first_attempt, refused};

#[test]
fn a_queued_call_says_what_for_and_when() {
    let mut gate = Gate::ten_a_second();
    gate.admitted();
    let Submitted::Queued { expected, why, .. } = gate.call(SEC * 60) else { panic!() };
    assert_eq!(why.to_string(), "for 10/s");
    assert_eq!(expected.unwrap().since(gate.now), T);
    let Submitted::Queued { expected, why, .. } = gate.call(SEC * 60) else { panic!() };
    assert_eq!(why.to_string(), "for 10/s");
    assert_eq!(expected.unwrap().since(gate.now), 2 * T);
    match gate.next()[..] {
        [Effect::Admit { waited, why, .. }] => {
            assert_eq!(waited, T);
            assert_eq!(why.to_string(), "for 10/s");
        }
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_make_its_deadline_is_refused_at_once_with_the_time_at_which_it_could() {
    let mut gate = Gate::ten_a_second();
    gate.admitted();
    for _ in 0..20 {
        gate.queued();
    }
    let Submitted::Refused(refusal) = gate.call(SEC) else { panic!() };
    assert_eq!(refusal.kind(), "deadline-unreachable");
    assert_eq!(refusal.retry_after(), Some(21 * T));
    assert!(refusal.to_string().contains("for 10/s"), "{refusal}");
}

#[test]
fn the_queue_is_bounded_by_calls_and_bytes_and_names_both() {
    let queue = QueueBounds { calls: 2, bytes: Size(100) };
    let mut gate = Gate::new(Settings { limits: vec![Limit::requests(1, SEC)], queue, ..Settings::default() });
    gate.admitted();
    gate.queued();
    let big = NewCall { bytes: 101, ..NewCall::by(gate.now + SEC * 60) };
    let Submitted::Refused(refusal) = gate.submit(big) else { panic!() };
    assert_eq!(
        (refusal.kind(), refusal.value().unwrap_or_default().as_str(), refusal.limit()),
        ("queue-full", "100B", "bytes waiting for one destination")
    );
    gate.queued();
    let Submitted::Refused(refusal) = gate.call(SEC * 60) else { panic!() };
    assert_eq!(
        (refusal.kind(), refusal.value().unwrap_or_default().as_str(), refusal.limit()),
        ("queue-full", "2", "calls waiting for one destination")
    );
    assert!(refusal.retry_after().is_some());
}

#[test]
fn a_call_that_comes_back_to_a_full_queue_displaces_the_newest() {
    let queue = QueueBounds { calls: 2, bytes: Size(1 << 20) };
    let mut gate = Gate::new(Settings { max_concurrency: Some(1), queue, ..Settings::default() });
    let first = gate.sent();
    let (_, newest) = (gate.queued(), gate.queued());
    let attempt = first_attempt(&gate.policy);
    let verdict = gate.shard.report(gate.now, first, &refused(Some(SEC)), &attempt, &mut gate.fx);
    let Verdict::PutBack(ticket) = verdict else { panic!() };
    gate.shard.release(gate.now, first, &mut gate.fx);
    assert!(matches!(gate.again(SEC * 60, ticket), Submitted::Queued { .. }));
    let [Effect::Refuse { call, refusal: Refusal::QueueFull { .. } }] = gate.effects()[..] else { panic!() };
    assert_eq!(call, newest);
}

#[test]
fn a_call_that_costs_more_than_the_quota_is_refused_at_once() {
    let limit = Limit { unit: Unit::Tokens, ..Limit::requests(1000, SEC * 60) };
    let mut gate = Gate::new(Settings { limits: vec![limit], ..Settings::default() });
    let cost = Cost { requests: 1, tokens: 1001 };
    let Submitted::Refused(refusal) = gate.submit(NewCall { cost, ..NewCall::by(gate.now + SEC * 60) }) else {
        panic!()
    };
    assert_eq!(refusal.to_string(), "costs 1001 tokens, more than the whole quota of 1000");
}

#[test]
fn a_permit_dropped_before_departure_gives_everything_back() {
    let mut gate = Gate::new(Settings {
        limits: vec![Limit::requests(1, SEC * 10)],
        max_concurrency: Some(1),
        ..Settings::default()
    });
    let permit = gate.admitted();
    let waiting = gate.queued();
    gate.shard.release(gate.now, permit, &mut gate.fx);
    let [Effect::Admit { call, .. }] = gate.effects()[..] else { panic!() };
    assert_eq!(call, waiting);
}

#[test]
fn a_slot_is_held_until_the_body_has_ended() {
    let mut gate = Gate::one_at_a_time();
    let permit = gate.sent();
    let waiting = gate.queued();
    let attempt = first_attempt(&gate.policy);
    let verdict = gate.shard.report(gate.now, permit, &fine(), &attempt, &mut gate.fx);
    assert_eq!(verdict, Verdict::Return(Reason::Final));
    assert!(gate.effects().is_empty(), "the head is not the end");
    gate.shard.release(gate.now, permit, &mut gate.fx);
    let [Effect::Admit { call, .. }] = gate.effects()[..] else { panic!() };
    assert_eq!(call, waiting);
}

#[test]
fn a_slot_whose_answer_nobody_reads_lapses_and_one_that_flows_is_kept() {
    let mut gate = Gate::one_at_a_time();
    let permit = gate.sent();
    let attempt = first_attempt(&gate.policy);
    gate.shard.report(gate.now, permit, &fine(), &attempt, &mut gate.fx);
    let begin = gate.now;
    gate.shard.flows(gate.now, permit, begin + SEC * 2, &mut gate.fx);
    let waiting = gate.queued();
    gate.now += SEC;
    gate.shard.flows(gate.now, permit, begin + SEC * 4, &mut gate.fx);
    assert!(gate.next().is_empty(), "the slot was kept meanwhile");
    let [Effect::Admit { call, permit: second, .. }] = gate.next()[..] else { panic!() };
    assert_eq!((call, gate.now), (waiting, begin + SEC * 4));
    assert_eq!(gate.shard.snapshot(gate.now, KEY).unwrap().in_flight, 2);
    // It flows again: that is one more than the maximum, and nobody else may leave until one of them ends.
    gate.shard.flows(gate.now, permit, begin + SEC * 60, &mut gate.fx);
    gate.queued();
    gate.shard.release(gate.now, second, &mut gate.fx);
    assert!(gate.effects().is_empty());
    gate.shard.release(gate.now, permit, &mut gate.fx);
    assert!(matches!(gate.effects()[..], [Effect::Admit { .. }]));
}

#[test]
fn a_waiting_call_is_refused_at_its_deadline_at_the_latest() {
    let mut gate = Gate::one_at_a_time();
    let _held = gate.sent();
    let Submitted::Queued { call: waiting, .. } = gate.call(SEC * 3) else { panic!() };
    let asked = gate.now;
    let [Effect::Refuse { call, refusal }] = gate.next()[..] else { panic!() };
    assert_eq!((call, gate.now.since(asked)), (waiting, SEC * 3));
    assert_eq!(refusal.to_string(), "its deadline passed after it waited 3 s (for one of 1 slots (max_concurrency))");
}

#[test]
fn a_new_limit_takes_effect_on_the_live_queue() {
    let mut gate = Gate::new(Settings { limits: vec![Limit::requests(1, SEC * 20)], ..Settings::default() });
    gate.admitted();
    gate.queued();
    gate.queued();
    let old = gate.config.clone();
    let faster = Settings { limits: vec![Limit::requests(100, SEC)], ..Settings::default() };
    gate.config = Arc::new(Config::new(&faster).unwrap());
    gate.shard.reconfigure(gate.now, &old, &gate.config.clone(), &mut gate.fx);
    let changed = gate.now;
    let mut admitted = gate.effects().len();
    while gate.shard.next_wake().is_some() {
        admitted += gate.next().len();
    }
    assert_eq!(admitted, 2);
    assert!(gate.now.since(changed) < MS * 100, "{:?}", gate.now.since(changed));
}

#[test]
fn a_queue_that_stands_in_an_outage_turns_nobody_away_by_what_left_in_it() {
    let mut gate = Gate::new(Settings::default());
    let mut left = vec![gate.sent()];
    let long = SEC * 3_600;
    for _ in 0..200 {
        match gate.call(long) {
            Submitted::Admitted(permit) => left.push(permit),
            Submitted::Queued { .. } => {}
            Submitted::Refused(refusal) => panic!("{refusal}"),
        }
    }
    // Everything is refused, and each probe after a second, too.
    for _ in 0..60 {
        for permit in std::mem::take(&mut left) {
            gate.shard.departed(gate.now, permit, &mut gate.fx);
            if let Verdict::PutBack(ticket) = gate.report(permit, refused(Some(SEC))) {
                assert!(matches!(gate.again(long, ticket), Submitted::Queued { .. } | Submitted::Admitted(_)));
            }
        }
        gate.now += SEC;
        gate.shard.tick(gate.now, &mut gate.fx);
        left = gate
            .effects()
            .into_iter()
            .filter_map(|effect| match effect {
                Effect::Admit { permit, .. } => Some(permit),
                _ => None,
            })
            .collect();
        assert!(matches!(gate.call(SEC * 60), Submitted::Queued { .. }));
    }
}

#[test]
fn a_queue_that_stands_turns_away_at_once_who_could_only_wait_in_vain() {
    let mut gate = Gate::one_at_a_time();
    let mut flies = gate.sent();
    let long = SEC * 3_600;
    let flow = |id| Flow { id, ..Flow::default() };
    let call = |gate: &mut Gate, id, within| gate.submit(NewCall { flow: flow(id), ..NewCall::by(gate.now + within) });
    for _ in 0..100 {
        assert!(matches!(call(&mut gate, 1, long), Submitted::Queued { .. }));
    }
    assert!(matches!(call(&mut gate, 1, SEC * 30), Submitted::Queued { .. }), "nothing is known of its pace yet");
    // An answer a second.
    for _ in 0..12 {
        gate.now += SEC;
        gate.report(flies, fine());
        let [Effect::Admit { permit, .. }] = gate.effects()[..] else { panic!() };
        gate.shard.departed(gate.now, permit, &mut gate.fx);
        flies = permit;
    }
    let Submitted::Refused(refusal) = call(&mut gate, 1, SEC * 30) else { panic!() };
    assert_eq!((refusal.kind(), refusal.retry_after()), ("deadline-unreachable", Some(SEC * 89)));
    assert!(refusal.to_string().contains("for one of 1 slots"), "{refusal}");
    assert!(matches!(call(&mut gate, 1, SEC * 120), Submitted::Queued { .. }), "it could make it");
    assert!(matches!(call(&mut gate, 2, SEC * 5), Submitted::Queued { .. }), "the turn of another comes soon");
}

#[test]
fn what_left_by_other_limits_or_before_a_resume_tells_no_pace() {
    type Step = fn(&mut Gate);
    let steps: [(Step, bool); 3] = [
        (|_| {}, true),
        (
            |gate| {
                let old = Arc::clone(&gate.config);
                let more = Settings { max_concurrency: Some(1000), ..Settings::default() };
                gate.config = Arc::new(Config::new(&more).unwrap());
                gate.shard.reconfigure(gate.now, &old, &gate.config.clone(), &mut gate.fx);
            },
            false,
        ),
        (|gate| gate.shard.resume(gate.now, KEY, &mut gate.fx), false),
    ];
    for (step, late) in steps {
        let mut gate = Gate::one_at_a_time();
        let mut flying = gate.sent();
        (0..3000).for_each(|_| _ = gate.call(SEC * 3600));
        // One a second.
        for _ in 0..20 {
            gate.now += SEC;
            gate.report(flying, fine());
            let [Effect::Admit { permit, .. }] = gate.effects()[..] else { panic!() };
            gate.shard.departed(gate.now, permit, &mut gate.fx);
            flying = permit;
        }
        step(&mut gate);
        let refused = matches!(gate.call(SEC * 60), Submitted::Refused(_));
        assert_eq!(refused, late);
    }
}
