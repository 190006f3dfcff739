//! What settings that change mean for calls that wait and fly, and what a copy of one may not do. Each of these was found
//! by the fuzzer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use tidegate_core::{
    Attempt, Call, Cost, Effect, Effective, Effects, Limit, NewCall, Outcome, Permit, Refusal, Settings, Shard, Signal,
    Submitted, Time, Unit,
    endpoint::{EndpointSettings, Mask, Ranks, Ways},
    shard::{Brake, Config, CopyFor, Departure},
    signal::Source,
};

const SEC: Duration = Duration::from_secs(1);
const KEY: u128 = 7;
const NOW: Time = Time::from_millis(500_000);

/// A destination whose settings change.
struct Changing {
    shard: Shard,
    config: Arc<Config>,
    fx: Effects,
    now: Time,
}

impl Changing {
    fn new(settings: &Settings) -> Changing {
        let config = Arc::new(Config::new(settings).unwrap());
        Changing { shard: Shard::new(1), config, fx: Effects::default(), now: NOW }
    }

    fn change(&mut self, settings: &Settings) {
        let new = Arc::new(Config::new(settings).unwrap());
        self.shard.reconfigure(self.now, &self.config, &new, &mut self.fx);
        self.config = new;
    }

    fn ask(&mut self, tokens: u32, ways: Ways) -> Submitted {
        let new = NewCall { cost: Cost { requests: 1, tokens }, ways, ..NewCall::by(self.now + SEC * 3_600) };
        self.shard.submit(self.now, KEY, &self.config, new, &mut self.fx)
    }

    fn leaves(&mut self, ways: Ways) -> Permit {
        let Submitted::Admitted(permit) = self.ask(0, ways) else { panic!("it waits") };
        assert_eq!(self.shard.departed(self.now, permit, &mut self.fx), Departure::Go);
        permit
    }

    fn waits(&mut self, tokens: u32, ways: Ways) -> Call {
        let Submitted::Queued { call, .. } = self.ask(tokens, ways) else { panic!("it does not wait") };
        call
    }

    fn free(&mut self) -> usize {
        (0..).take_while(|_| matches!(self.ask(0, Ways::ANY), Submitted::Admitted(_))).count()
    }
}

fn endpoint(id: u64, limits: &[Limit], max_concurrency: Option<u32>) -> EndpointSettings {
    EndpointSettings { id, weight: NonZeroU16::MIN, home: false, limits: limits.to_vec(), max_concurrency }
}

fn of(endpoints: &[EndpointSettings]) -> Settings {
    Settings { endpoints: endpoints.to_vec(), ..Settings::default() }
}

fn only(index: u8) -> Ways {
    Ways { allowed: Mask::of(index), preferred: Ranks::NONE }
}

#[test]
fn a_copy_of_a_call_goes_nowhere_where_the_call_may_not() {
    for why in [CopyFor::Hedge, CopyFor::Race, CopyFor::Trial] {
        // The other is all that is free.
        let mut it = Changing::new(&of(&[endpoint(1, &[], Some(1)), endpoint(2, &[], None)]));
        let permit = it.leaves(only(0));
        assert_eq!(it.shard.copy(it.now, permit, why, &mut it.fx), None, "{why:?}");
    }
}

#[test]
fn no_copy_leaves_while_an_operator_pauses() {
    let mut it = Changing::new(&Settings::default());
    let permit = it.leaves(Ways::ANY);
    it.change(&Settings { brake: Brake::Paused { until: Time::NEVER }, ..Settings::default() });
    assert_eq!(it.shard.copy(it.now, permit, CopyFor::Race, &mut it.fx), None);
    it.change(&Settings::default());
    assert!(it.shard.copy(it.now, permit, CopyFor::Race, &mut it.fx).is_some());
}

#[test]
fn a_call_that_waits_keeps_its_endpoint_when_their_order_changes() {
    let (one, two) = (endpoint(1, &[], Some(1)), endpoint(2, &[], Some(1)));
    let mut it = Changing::new(&of(&[one.clone(), two.clone()]));
    let (first, second) = (it.leaves(only(0)), it.leaves(only(1)));
    assert_eq!((first.endpoint(), second.endpoint()), (1, 2));
    let call = it.waits(0, only(0));
    it.change(&of(&[two, one]));
    it.shard.release(it.now, second, &mut it.fx);
    assert!(it.fx.is_empty(), "it may not go where there is room now");
    it.shard.release(it.now, first, &mut it.fx);
    let Some(Effect::Admit { call: admitted, permit, .. }) = it.fx.drain().next() else { panic!("it waits") };
    assert_eq!((admitted, permit.endpoint()), (call, 1));
}

#[test]
fn a_call_that_waits_and_costs_more_than_a_new_quota_is_refused() {
    let tokens = |quota| Settings {
        limits: vec![Limit { unit: Unit::Tokens, ..Limit::requests(quota, SEC) }],
        max_concurrency: Some(1),
        ..Settings::default()
    };
    let mut it = Changing::new(&tokens(1_000));
    let permit = it.leaves(Ways::ANY);
    let call = it.waits(300, Ways::ANY);
    it.change(&tokens(200));
    let refusal = Refusal::CostTooLarge { unit: Unit::Tokens, cost: 300, quota: 200 };
    assert_eq!(it.fx.drain().collect::<Vec<_>>(), [Effect::Refuse { call, refusal }]);
    it.shard.release(it.now, permit, &mut it.fx);
}

#[test]
fn what_was_charged_before_a_limit_was_there_is_not_given_back_to_it() {
    let day = Settings { limits: vec![Limit::requests(3, SEC * 86_400)], ..Settings::default() };
    let none = Settings { max_concurrency: Some(100), ..Settings::default() };
    let hour = Settings { limits: vec![Limit::requests(100, SEC * 3_600)], ..Settings::default() };
    // Charged to nothing, to another limit, and to the same before it was taken away.
    for before in [&none, &hour, &day] {
        let mut it = Changing::new(before);
        let Submitted::Admitted(early) = it.ask(0, Ways::ANY) else { panic!("it waits") };
        it.change(&none);
        it.change(&day);
        assert_eq!(it.free(), 3);
        it.shard.release(it.now, early, &mut it.fx);
        assert!(it.fx.drain().next().is_none(), "one left that may not, {:?}", before.limits);
        assert_eq!(it.free(), 0);
    }
}

#[test]
fn slots_of_an_endpoint_are_counted_through_a_time_without_a_limit() {
    let with = |max| of(&[endpoint(1, &[], max)]);
    let mut it = Changing::new(&with(Some(2)));
    let early = it.leaves(Ways::ANY);
    it.change(&with(None));
    it.change(&with(Some(2)));
    assert_eq!(it.free(), 1, "of two one is held");
    it.shard.release(it.now, early, &mut it.fx);
    assert_eq!(it.fx.drain().count(), 1, "the one that waits leaves");
}

#[test]
fn a_call_leaves_from_no_other_region_when_that_which_it_insists_on_is_gone() {
    let home = |limits: &[Limit]| endpoint(1, limits, None);
    let here =
        Settings { endpoints: vec![home(&[]), endpoint(2, &[Limit::requests(1, SEC)], None)], ..Settings::default() };
    let only = Ways { allowed: Mask::of(1), ..Ways::ANY };
    for left in [vec![home(&[])], vec![home(&[]), endpoint(3, &[], None)], Vec::new()] {
        let mut it = Changing::new(&here);
        it.leaves(only);
        let call = it.waits(0, only);
        it.change(&Settings { endpoints: left, ..Settings::default() });
        let [Effect::Refuse { call: refused, refusal }] = it.fx.drain().collect::<Vec<_>>()[..] else { panic!() };
        assert_eq!((refused, refusal.kind()), (call, "no-region"));
        let Submitted::Refused(refusal) = it.ask(0, Ways { allowed: Mask::NONE, ..Ways::ANY }) else { panic!() };
        assert_eq!(refusal, Refusal::NoRegion);
    }
}

#[test]
fn a_call_whose_only_region_pauses_for_longer_than_it_has_is_refused_at_once() {
    // So long a pause is believed at its word.
    let endpoints = vec![endpoint(1, &[], None), endpoint(2, &[], None)];
    let mut it = Changing::new(&Settings { endpoints, believed_pause: SEC * 600, ..Settings::default() });
    let only = |index| Ways { allowed: Mask::of(index), ..Ways::ANY };
    let ask = |it: &mut Changing, ways| {
        let new = NewCall { ways, ..NewCall::by(it.now + SEC * 60) };
        it.shard.submit(it.now, KEY, &it.config, new, &mut it.fx)
    };
    // The first four leave; one more waits for an answer.
    let flying: Vec<Permit> = (0..4).map(|_| it.leaves(only(1))).collect();
    let Submitted::Queued { call: waiting, .. } = ask(&mut it, only(1)) else { panic!() };
    let signal = Signal { wait: Some((SEC * 300, Source::RetryAfter)), ..Signal::default() };
    let refused = Outcome::Answer { status: 429, signal };
    let policy = Effective::default();
    let attempt = Attempt { policy: &policy, repeatable: true, costs: false, replayable: true, keyed: false, spent: 0 };
    it.shard.report(it.now, flying[0], &refused, &attempt, &mut it.fx);
    let [Effect::Refuse { call, refusal }] = it.fx.drain().collect::<Vec<_>>()[..] else { panic!() };
    assert_eq!((call, refusal.kind(), refusal.retry_after()), (waiting, "deadline-unreachable", Some(SEC * 300)));
    let Submitted::Refused(refusal) = ask(&mut it, only(1)) else { panic!("it waits") };
    assert_eq!((refusal.kind(), refusal.retry_after()), ("deadline-unreachable", Some(SEC * 300)));
    for ways in [only(0), Ways::ANY] {
        assert!(matches!(ask(&mut it, ways), Submitted::Admitted(_)));
    }
}

#[test]
fn a_call_races_to_each_endpoint_that_it_may_take_once() {
    for (endpoints, copies) in [(0, 1), (1, 1), (2, 1), (4, 3)] {
        let endpoints: Vec<_> = (0..endpoints).map(|id| endpoint(id + 1, &[], None)).collect();
        let mut it = Changing::new(&of(&endpoints));
        let permit = it.leaves(Ways::ANY);
        let race = |it: &mut Changing| it.shard.copy(it.now, permit, CopyFor::Race, &mut it.fx);
        let all: Vec<Permit> = (0..copies).map(|_| race(&mut it).expect("a copy")).collect();
        assert_eq!(race(&mut it), None);
        let mut met: Vec<u64> = all.iter().chain([&permit]).map(|permit| permit.endpoint()).collect();
        met.sort();
        met.dedup();
        assert_eq!(met.len(), endpoints.len().max(1));
    }
}

#[test]
fn a_copy_of_a_copy_goes_where_neither_is() {
    let mut it = Changing::new(&of(&[endpoint(1, &[], None), endpoint(2, &[], None), endpoint(3, &[], None)]));
    let mut permit = it.leaves(Ways::ANY);
    let mut seen = vec![permit.endpoint()];
    while let Some(copy) = it.shard.copy(it.now, permit, CopyFor::Race, &mut it.fx) {
        seen.push(copy.endpoint());
        permit = copy;
    }
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 3]);
}

#[test]
fn a_call_that_was_on_its_way_since_before_a_change_does_not_undo_it() {
    let one = Settings { max_concurrency: Some(1), ..Settings::default() };
    let mut it = Changing::new(&one);
    let before = Arc::clone(&it.config);
    let first = it.leaves(Ways::ANY);
    it.waits(0, Ways::ANY);
    it.change(&Settings { max_concurrency: Some(3), ..Settings::default() });
    it.fx.drain().for_each(drop);
    let late = NewCall::by(it.now + SEC * 60);
    let late = it.shard.submit(it.now, KEY, &before, late, &mut it.fx);
    assert!(matches!(late, Submitted::Admitted(_)), "{late:?}");
    assert_eq!(it.shard.snapshot(it.now, KEY).unwrap().max_concurrency, Some(3));
    // Who comes with a later one than its own brings it along.
    it.config = Arc::new(Config::new(&one).unwrap());
    it.shard.release(it.now, first, &mut it.fx);
    it.waits(0, Ways::ANY);
    assert_eq!(it.shard.snapshot(it.now, KEY).unwrap().max_concurrency, Some(1));
}
