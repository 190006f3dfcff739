//! Who goes first: shares between flows, order within one, and who makes room.

use std::{collections::BTreeMap, num::NonZeroU16};

use proptest::prelude::*;
use tidegate_core::{
    Call, Cost, Effect, Flow, Limit, NewCall, Refusal, Settings, Submitted, Unit,
    shard::{Departure, QueueBounds},
    units::Size,
};

use crate::gate::{Gate, KEY, MS, SEC, T, refused};

fn flow(id: u64, weight: u16) -> Flow {
    Flow { id, weight: NonZeroU16::new(weight).unwrap() }
}

impl Gate {
    fn asks(&mut self, flow: Flow, priority: i8) -> Submitted {
        self.submit(NewCall { flow, priority, ..NewCall::by(self.now + SEC * 100_000) })
    }

    fn waits(&mut self, flow: Flow) -> Call {
        self.waits_with(flow, 0)
    }

    fn waits_with(&mut self, flow: Flow, priority: i8) -> Call {
        match self.asks(flow, priority) {
            Submitted::Queued { call, .. } => call,
            other => panic!("{other:?}"),
        }
    }

    /// The calls that leave next, in order.
    fn leave(&mut self, number: usize) -> Vec<Call> {
        let mut left = Vec::new();
        while left.len() < number {
            for effect in self.next() {
                match effect {
                    Effect::Admit { call, .. } => left.push(call),
                    other => panic!("{other:?}"),
                }
            }
        }
        left
    }
}

/// How many of each flow there are among these; others don't count.
fn by_flow(calls: &[Call], flows: &BTreeMap<Call, u64>) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for call in calls {
        if let Some(flow) = flows.get(call) {
            *counts.entry(*flow).or_default() += 1;
        }
    }
    counts
}

#[test]
fn ten_thousand_calls_of_one_flow_stop_another_for_two_turns_at_most() {
    let mut gate = Gate::ten_a_second();
    gate.admitted();
    while !matches!(gate.asks(flow(1, 1), 0), Submitted::Refused(_)) {}
    assert_eq!(gate.shard.snapshot(gate.now, KEY).unwrap().queued, 10_000);
    for round in 0..20 {
        let Submitted::Queued { call: quiet, expected, .. } = gate.asks(flow(2, 1), 0) else { panic!() };
        // One of the others makes room.
        let turned_away = gate.effects();
        assert_eq!(turned_away.len(), usize::from(round == 0));
        assert!(turned_away.iter().all(|it| matches!(it, Effect::Refuse { refusal: Refusal::QueueFull { .. }, .. })));
        assert!(expected.unwrap().since(gate.now) <= 2 * T, "{:?}", expected.unwrap().since(gate.now));
        assert!(gate.leave(2).contains(&quiet));
        gate.leave(8);
    }
}

#[test]
fn flows_share_a_destination_by_their_weights() {
    let mut gate = Gate::new(Settings { limits: vec![Limit::requests(100, SEC)], ..Settings::default() });
    while matches!(gate.asks(flow(9, 1), 0), Submitted::Admitted(_)) {}
    let mut flows = BTreeMap::new();
    for _ in 0..400 {
        for (id, weight) in [(1, 1), (2, 3), (3, 4)] {
            flows.insert(gate.waits(flow(id, weight)), id);
        }
    }
    let counts = by_flow(&gate.leave(801), &flows);
    assert_eq!(counts, BTreeMap::from([(1, 100), (2, 300), (3, 400)]));
}

#[test]
fn who_asks_seldom_saves_nothing_up_and_who_asks_again_at_once_gains_nothing() {
    let mut gate = Gate::ten_a_second();
    gate.admitted();
    let mut flows = BTreeMap::new();
    (0..200).for_each(|_| _ = flows.insert(gate.waits(flow(1, 1)), 1));
    gate.leave(50);
    // It was away for fifty turns; now it asks for many.
    (0..50).for_each(|_| _ = flows.insert(gate.waits(flow(2, 1)), 2));
    let left = gate.leave(20);
    let counts = by_flow(&left, &flows);
    assert!(counts[&1].abs_diff(counts[&2]) <= 1, "{counts:?}");
    // One that always has a single call, the next as soon as the one before left.
    let mut mine = 0;
    let mut waiting = gate.waits(flow(3, 1));
    for _ in 0..60 {
        if gate.leave(1) == [waiting] {
            mine += 1;
            waiting = gate.waits(flow(3, 1));
        }
    }
    assert!((19..=21).contains(&mine), "{mine} of 60 turns, with two others that wait");
}

#[test]
fn a_call_that_goes_away_costs_its_flow_nothing() {
    let mut gate = Gate::ten_a_second();
    gate.admitted();
    let gone: Vec<_> = (0..50).map(|_| gate.waits(flow(1, 1))).collect();
    (0..50).for_each(|_| _ = gate.waits(flow(2, 1)));
    for call in gone {
        gate.shard.release_call(gate.now, call, &mut gate.fx);
    }
    let mine = gate.waits(flow(1, 1));
    assert!(gate.leave(2).contains(&mine));
}

#[test]
fn priority_passes_calls_of_its_own_flow_that_came_within_its_seconds_and_no_others() {
    let mut gate = Gate::new(Settings { limits: vec![Limit::requests(1, SEC * 5)], ..Settings::default() });
    gate.admitted();
    let early = gate.waits(flow(1, 1));
    gate.now += SEC * 3;
    let late = gate.waits(flow(1, 1));
    let urgent = gate.waits_with(flow(1, 1), 2);
    let lazy = gate.waits_with(flow(1, 1), -1);
    gate.now += MS * 500;
    let last = gate.waits(flow(1, 1));
    assert_eq!(gate.leave(5), [early, urgent, late, last, lazy]);
    // Another flow has its turn, whoever is urgent.
    gate.now += SEC * 60;
    gate.admitted();
    let urgent = [gate.waits_with(flow(1, 1), 100), gate.waits_with(flow(1, 1), 100)];
    let other = gate.waits(flow(2, 1));
    let left = gate.leave(3);
    assert_eq!((left[0], left[1]), (urgent[0], other));
}

#[test]
fn flows_share_tokens_where_tokens_are_what_is_scarce() {
    let tokens = Limit { unit: Unit::Tokens, ..Limit::requests(1_000, SEC) };
    let mut gate = Gate::new(Settings { limits: vec![Limit::requests(1_000, SEC), tokens], ..Settings::default() });
    let cost = |tokens| Cost { requests: 1, tokens };
    let ask = |gate: &mut Gate, id: u64, tokens| {
        let new = NewCall { cost: cost(tokens), flow: flow(id, 1), ..NewCall::by(gate.now + SEC * 10_000) };
        gate.submit(new)
    };
    while matches!(ask(&mut gate, 9, 50), Submitted::Admitted(_)) {}
    let mut flows = BTreeMap::new();
    for _ in 0..300 {
        for (id, tokens) in [(1, 200), (2, 50)] {
            let Submitted::Queued { call, .. } = ask(&mut gate, id, tokens) else { panic!() };
            flows.insert(call, id);
        }
    }
    let counts = by_flow(&gate.leave(101), &flows);
    assert!(counts[&1].abs_diff(20) <= 1 && counts[&2].abs_diff(80) <= 1, "a call of the first costs four: {counts:?}");
}

#[test]
fn a_full_queue_has_room_for_a_flow_that_takes_up_less_than_another() {
    let queue = QueueBounds { calls: 6, bytes: Size(600) };
    let mut gate = Gate::new(Settings { max_concurrency: Some(1), queue, ..Settings::default() });
    let _held = gate.sent();
    let ask = |gate: &mut Gate, id: u64, bytes: u64| {
        let new = NewCall { bytes, flow: flow(id, 1), ..NewCall::by(gate.now + SEC * 60) };
        let submitted = gate.submit(new);
        let refused = gate.effects();
        (submitted, refused.len())
    };
    for _ in 0..6 {
        assert!(matches!(ask(&mut gate, 1, 0), (Submitted::Queued { .. }, 0)));
    }
    assert!(matches!(ask(&mut gate, 1, 0), (Submitted::Refused(Refusal::QueueFull { limit: 6, .. }), 0)));
    for _ in 0..3 {
        assert!(matches!(ask(&mut gate, 2, 0), (Submitted::Queued { .. }, 1)), "another makes room");
    }
    assert!(matches!(ask(&mut gate, 2, 0), (Submitted::Refused(_), 0)), "three each");
    assert!(matches!(ask(&mut gate, 3, 0), (Submitted::Queued { .. }, 1)));
    // The same of bytes: whoever takes up more of them makes room, unless it would not be enough by itself.
    assert!(matches!(ask(&mut gate, 4, 601), (Submitted::Refused(Refusal::QueueBytes { .. }), 0)));
}

proptest! {
    /// Between two flows that always wait, what one gets more than its weight says is bounded by a call of each
    /// (Goyal et al., theorem 1), whatever else comes and goes.
    #[test]
    fn no_flow_that_waits_gets_more_than_its_share(
        weights in (1u16..10, 1u16..10), costs in (1u32..20, 1u32..20),
        others in prop::collection::vec((3u64..8, 1u16..5, 1u32..30, any::<bool>()), 0..60),
    ) {
        let tokens = Limit { unit: Unit::Tokens, ..Limit::requests(100, SEC) };
        let mut gate = Gate::new(Settings { limits: vec![tokens], ..Settings::default() });
        let ask = |gate: &mut Gate, flow: Flow, tokens: u32| {
            let cost = Cost { requests: 1, tokens };
            gate.submit(NewCall { cost, flow, ..NewCall::by(gate.now + SEC * 100_000) })
        };
        while matches!(ask(&mut gate, flow(9, 1), 5), Submitted::Admitted(_)) {}
        let mut flows = BTreeMap::new();
        for _ in 0..400 {
            for (id, weight, cost) in [(1, weights.0, costs.0), (2, weights.1, costs.1)] {
                let Submitted::Queued { call, .. } = ask(&mut gate, flow(id, weight), cost) else { panic!() };
                flows.insert(call, id);
            }
        }
        let mut got = [0.0, 0.0];
        let bound = f64::from(costs.0) / f64::from(weights.0) + f64::from(costs.1) / f64::from(weights.1);
        let mut others = others.into_iter();
        for _ in 0..120 {
            if let Some((id, weight, cost, leaves)) = others.next()
                && let Submitted::Queued { call, .. } = ask(&mut gate, flow(id, weight), cost)
                && leaves
            {
                gate.shard.release_call(gate.now, call, &mut gate.fx);
            }
            for call in gate.leave(1) {
                match flows.get(&call) {
                    Some(1) => got[0] += f64::from(costs.0) / f64::from(weights.0),
                    Some(2) => got[1] += f64::from(costs.1) / f64::from(weights.1),
                    _ => {}
                }
            }
            let apart = (got[0] - got[1]).abs();
            prop_assert!(apart <= bound + 1e-6, "{apart} of {bound}");
        }
    }
}

#[test]
fn what_was_sent_on_and_never_left_takes_turns_with_those_that_wait_there() {
    const ELSEWHERE: u128 = KEY + 1;
    for (admitted, turn) in [(false, 1), (true, 30)] {
        let mut gate = Gate::one_at_a_time();
        let (crowd, quiet) = (flow(1, 1), flow(2, 1));
        // They wait, and have been admitted before or not.
        let holds = gate.sent();
        let mut tickets = Vec::new();
        for _ in 0..30 {
            let call = gate.waits(crowd);
            if admitted {
                gate.shard.release_call(gate.now, call, &mut gate.fx);
            }
        }
        if admitted {
            let mut other = Gate::new(Settings { max_concurrency: Some(100), ..Settings::default() });
            let sent = other.sent();
            let flying: Vec<_> = (0..30).map(|_| other.admitted()).collect();
            other.report(sent, refused(Some(SEC)));
            for permit in flying {
                let Departure::PutBack(ticket) = other.shard.departed(other.now, permit, &mut other.fx) else {
                    panic!()
                };
                tickets.push(ticket.elsewhere());
            }
        } else {
            gate.shard.send_on(gate.now, KEY, &mut gate.fx);
            for effect in gate.effects() {
                let Effect::SentOn { ticket, .. } = effect else { panic!("{effect:?}") };
                tickets.push(ticket);
            }
        }
        gate.shard.release(gate.now, holds, &mut gate.fx);
        let config = gate.config.clone();
        let ask = |gate: &mut Gate, flow, returning| {
            let new = NewCall { flow, returning, ..NewCall::by(gate.now + SEC * 600) };
            gate.shard.submit(gate.now, ELSEWHERE, &config, new, &mut gate.fx)
        };
        gate.now += SEC;
        let Submitted::Admitted(mut holds) = ask(&mut gate, flow(3, 1), None) else { panic!() };
        let Submitted::Queued { call: waits, .. } = ask(&mut gate, quiet, None) else { panic!() };
        for ticket in tickets {
            assert!(matches!(ask(&mut gate, crowd, Some(ticket)), Submitted::Queued { .. }));
        }
        let mut before = 0;
        loop {
            gate.shard.release(gate.now, holds, &mut gate.fx);
            let [Effect::Admit { call, permit, .. }] = gate.effects()[..] else { panic!() };
            if call == waits {
                break;
            }
            (holds, before) = (permit, before + 1);
        }
        assert!(if admitted { before == turn } else { before <= turn }, "admitted {admitted}: behind {before}");
    }
}

#[test]
fn whoever_took_the_place_of_the_first_leaves_if_nothing_holds_it() {
    // The first waits for tokens, and fills the queue by its number or by its bytes.
    for (calls, bytes, second) in [(1, 0, 0), (10, 900, 200)] {
        let limit = Limit { unit: Unit::Tokens, quota: 100, per: SEC.into(), burst: Some(10) };
        let queue = QueueBounds { calls, bytes: Size(1_000) };
        let mut gate = Gate::new(Settings { limits: vec![limit], queue, ..Settings::default() });
        let asks = |gate: &mut Gate, id, weight, bytes, tokens| {
            let cost = Cost { requests: 1, tokens };
            gate.submit(NewCall { flow: flow(id, weight), bytes, cost, ..NewCall::by(gate.now + SEC * 60) })
        };
        assert!(matches!(asks(&mut gate, 1, 1, 0, 50), Submitted::Admitted(_)));
        let Submitted::Queued { call: first, .. } = asks(&mut gate, 1, 1, bytes, 50) else { panic!() };
        let Submitted::Queued { call: other, .. } = asks(&mut gate, 2, 10, second, 0) else { panic!() };
        let effects = gate.effects();
        let [Effect::Refuse { call: away, .. }, Effect::Admit { call: left, .. }] = effects[..] else {
            panic!("{effects:?}")
        };
        assert_eq!((away, left), (first, other));
    }
}

#[test]
fn of_two_flows_whose_turn_it_is_the_one_that_nothing_holds_leaves_at_once() {
    for (waits, comes) in [(2, 1), (1, 2)] {
        let limit = Limit { unit: Unit::Tokens, quota: 100, per: SEC.into(), burst: Some(10) };
        let mut gate = Gate::new(Settings { limits: vec![limit], ..Settings::default() });
        let asks = |gate: &mut Gate, id, tokens| {
            let cost = Cost { requests: 1, tokens };
            gate.submit(NewCall { flow: flow(id, 1), cost, ..NewCall::by(gate.now + SEC * 60) })
        };
        assert!(matches!(asks(&mut gate, 3, 50), Submitted::Admitted(_)));
        assert!(matches!(asks(&mut gate, waits, 50), Submitted::Queued { .. }));
        let free = matches!(asks(&mut gate, comes, 0), Submitted::Admitted(_));
        // Equal turns go by their numbers: whoever is behind waits for the other, and no timer is needed for that.
        assert_eq!(free, comes < waits, "{comes} beside {waits}");
    }
}

#[test]
fn whoever_passes_the_first_of_its_flow_gives_the_next_turn_to_another() {
    let limit = Limit { unit: Unit::Tokens, quota: 100, per: SEC.into(), burst: Some(10) };
    let mut gate = Gate::new(Settings { limits: vec![limit], ..Settings::default() });
    let asks = |gate: &mut Gate, id, tokens, priority| {
        let cost = Cost { requests: 1, tokens };
        gate.submit(NewCall { flow: flow(id, 1), cost, priority, ..NewCall::by(gate.now + SEC * 60) })
    };
    assert!(matches!(asks(&mut gate, 3, 50, 0), Submitted::Admitted(_)));
    assert!(matches!(asks(&mut gate, 1, 50, 0), Submitted::Queued { .. }));
    let Submitted::Queued { call: other, .. } = asks(&mut gate, 2, 0, 0) else { panic!() };
    assert!(gate.effects().is_empty());
    assert!(matches!(asks(&mut gate, 1, 0, 1), Submitted::Admitted(_)));
    let effects = gate.effects();
    assert!(matches!(effects[..], [Effect::Admit { call, .. }] if call == other), "{effects:?}");
}
