//! What is tried again, when, and at whose cost.

use std::sync::Arc;

use tidegate_core::{
    Attempt, Effect, Effective, Effects, NewCall, Outcome, Settings, Shard, Signal, Submitted, Time, Verdict, Waiting,
    budget::Budget,
    repeat::{Failure, Reason},
    shard::{Config, CopyFor, Departure},
};

use crate::gate::{Gate, KEY, MS, SEC, fine, first_attempt, refused};

#[test]
fn a_call_put_back_is_counted_as_one_request_by_the_budget() {
    let mut gate = Gate::new(Settings::default());
    let (permit, connecting) = (gate.sent(), gate.admitted());
    // One by its refusal, one by the pause that it meets on its way.
    let Verdict::PutBack(refused) = gate.report(permit, refused(Some(SEC))) else { panic!() };
    let Departure::PutBack(stopped) = gate.shard.departed(gate.now, connecting, &mut gate.fx) else { panic!() };
    gate.shard.release(gate.now, connecting, &mut gate.fx);
    for ticket in [refused, stopped] {
        gate.again(SEC * 60, ticket);
    }
    let mut left = 0;
    while left < 2 {
        for effect in gate.next() {
            let Effect::Admit { permit, .. } = effect else { panic!("{effect:?}") };
            gate.shard.departed(gate.now, permit, &mut gate.fx);
            gate.report(permit, fine());
            left += 1;
        }
    }
    assert_eq!(gate.shard.snapshot(gate.now, KEY).unwrap().lately, (2, 0));
}

#[test]
fn a_retry_waits_with_jitter_and_spends_the_budget() {
    let mut gate =
        Gate::new(Settings { retry_budget: Budget { share: 0.0, per_second: 1, hedges: 0.0 }, ..Settings::default() });
    let failed = Outcome::Answer { status: 500, signal: Signal::default() };
    let (mut retries, mut returned) = (0, 0);
    for _ in 0..30 {
        let permit = gate.sent();
        match gate.report(permit, failed) {
            Verdict::Retry(ticket) => {
                retries += 1;
                let delay = ticket.not_before().since(gate.now);
                assert!((MS * 50..=MS * 100).contains(&delay), "{delay:?}");
            }
            Verdict::Return(Reason::BudgetSpent) => returned += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((retries, returned), (10, 20));
}

#[test]
fn a_retry_leaves_after_its_delay_and_lets_others_pass() {
    let mut gate = Gate::new(Settings::default());
    let permit = gate.sent();
    let failed = Outcome::Answer { status: 500, signal: Signal::default() };
    let Verdict::Retry(ticket) = gate.report(permit, failed) else { panic!() };
    let Submitted::Queued { call, why, .. } = gate.again(SEC * 60, ticket) else { panic!() };
    assert!(matches!(why, Waiting::Backoff { .. }), "{why}");
    gate.admitted();
    let [Effect::Admit { call: later, .. }] = gate.next()[..] else { panic!() };
    assert_eq!((later, gate.now), (call, ticket.not_before()));
}

#[test]
fn a_destination_that_never_answered_fails_after_its_attempts_and_one_that_lived_is_waited_for() {
    for lived in [false, true] {
        let mut gate = Gate::new(Settings::default());
        if lived {
            let permit = gate.sent();
            gate.report(permit, fine());
        }
        let mut permit = gate.admitted();
        let last = (0..).find_map(|spent| {
            // Nothing left the node: not even a POST is in danger.
            let attempt = Attempt {
                policy: &gate.policy,
                repeatable: false,
                costs: false,
                replayable: true,
                keyed: false,
                spent,
            };
            let outcome = Outcome::Failed(Failure::Connect);
            let verdict = gate.shard.report(gate.now, permit, &outcome, &attempt, &mut gate.fx);
            gate.shard.release(gate.now, permit, &mut gate.fx);
            let Verdict::Retry(ticket) = verdict else { return Some(verdict) };
            gate.again(SEC * 60, ticket);
            let [Effect::Admit { permit: next, .. }] = gate.next()[..] else { panic!() };
            permit = next;
            None
        });
        match (lived, last) {
            (false, Some(Verdict::Return(Reason::AttemptsSpent { retries: 3 }))) => {}
            (true, Some(Verdict::PutBack(_))) => assert!(gate.shard.snapshot(gate.now, KEY).unwrap().paused.is_some()),
            (lived, other) => panic!("lived: {lived}, {other:?}"),
        }
    }
}

#[test]
fn a_call_waits_for_its_own_attempt_before_where_its_key_is_in_use() {
    let conflict = Outcome::Answer { status: 409, signal: Signal::default() };
    for (first, doubt) in [(Outcome::Failed(Failure::TimedOut), true), (refused(Some(SEC)), false)] {
        let mut gate = Gate::new(Settings::default());
        let policy = gate.policy.clone();
        let keyed = Attempt { keyed: true, ..first_attempt(&policy) };
        let (mut outcome, mut permit, mut told) = (first, gate.sent(), 0);
        let last = loop {
            let verdict = gate.shard.report(gate.now, permit, &outcome, &keyed, &mut gate.fx);
            gate.shard.release(gate.now, permit, &mut gate.fx);
            let (Verdict::PutBack(ticket) | Verdict::Retry(ticket)) = verdict else { break verdict };
            told += u32::from(outcome == conflict && ticket.not_before() > gate.now);
            gate.again(SEC * 60, ticket);
            let [Effect::Admit { permit: next, .. }] = gate.next()[..] else { panic!() };
            assert_eq!(gate.shard.departed(gate.now, next, &mut gate.fx), Departure::Go);
            (outcome, permit) = (conflict, next);
        };
        match doubt {
            true => assert_eq!((last, told), (Verdict::Return(Reason::UnderWay), 8)),
            // A 429 did nothing: the key is in use by somebody else.
            false => assert_eq!((last, told), (Verdict::Return(Reason::Final), 0)),
        }
    }
}

#[test]
fn what_is_late_does_not_sink_by_the_answers_of_copies() {
    let retry_budget = Budget { share: 1.0, per_second: 100, hedges: 1.0 };
    let mut gate = Gate::new(Settings { max_concurrency: Some(10), retry_budget, ..Settings::default() });
    let mut late = None;
    // One in ten takes two seconds, and a copy of it as long as the others.
    for call in 0..8000 {
        let permit = gate.sent();
        let takes = if call % 10 == 9 { SEC * 2 } else { MS * 100 };
        late = gate.shard.late_after(permit);
        let hedged = late.filter(|late| *late + MS * 100 < takes).and_then(|late| {
            let copy = gate.shard.copy(gate.now + late, permit, CopyFor::Hedge, &mut gate.fx)?;
            assert_eq!(gate.shard.departed(gate.now + late, copy, &mut gate.fx), Departure::Go);
            Some((copy, late))
        });
        match hedged {
            Some((copy, late)) => {
                gate.now += late + MS * 100;
                gate.report(copy, fine());
                gate.shard.observe(gate.now, permit, None, &mut gate.fx);
                gate.shard.release(gate.now, permit, &mut gate.fx);
            }
            None => {
                gate.now += takes;
                gate.report(permit, fine());
            }
        }
    }
    assert!(late.unwrap() > SEC, "{late:?}");
}

#[test]
fn a_budget_is_of_parts_that_are_numbers() {
    let fine = Budget::default();
    for (retry_budget, wrong) in [
        (fine, None),
        (Budget { share: 0.0, hedges: 0.0, per_second: 0 }, None),
        (Budget { share: 1e9, hedges: 2.0, ..fine }, None),
        (Budget { share: f64::NAN, ..fine }, Some("retry_budget.share")),
        (Budget { share: -0.1, ..fine }, Some("retry_budget.share")),
        (Budget { share: f64::INFINITY, ..fine }, Some("retry_budget.share")),
        (Budget { hedges: f64::NAN, ..fine }, Some("retry_budget.hedges")),
        (Budget { hedges: -1.0, ..fine }, Some("retry_budget.hedges")),
    ] {
        let checked = Config::new(&Settings { retry_budget, ..Settings::default() });
        assert_eq!(checked.err().map(|error| error.key).as_deref(), wrong, "{retry_budget:?}");
    }
}

#[test]
fn one_budget_is_of_all_partitions_of_a_destination_wherever_they_are() {
    let failed = Outcome::Answer { status: 500, signal: Signal::default() };
    let config = Arc::new(Config::new(&Settings { max_concurrency: Some(1_000), ..Settings::default() }).unwrap());
    let (policy, now) = (Effective::default(), Time::from_millis(500_000));
    for (destinations, granted) in [
        // Each is a destination by itself, and ten a second are ten seconds' floor for each.
        ([None, None], 500),
        ([Some(7), Some(7)], 100),
        ([Some(7), Some(8)], 200),
    ] {
        let mut shards = Shard::group([1, 2, 3].into_iter(), 1_000);
        let mut fx = Effects::default();
        let mut retries = 0;
        for key in (0..20).flat_map(|key| [key; 25]) {
            let new = NewCall { part_of: destinations[(key % 2) as usize], ..NewCall::by(now + SEC) };
            let shard = &mut shards[(key % 3) as usize];
            let Submitted::Admitted(permit) = shard.submit(now, key, &config, new, &mut fx) else { panic!() };
            shard.departed(now, permit, &mut fx);
            let verdict = shard.report(now, permit, &failed, &first_attempt(&policy), &mut fx);
            retries += usize::from(matches!(verdict, Verdict::Retry(_)));
            shard.release(now, permit, &mut fx);
        }
        assert_eq!(retries, granted, "{destinations:?}");
    }
}
