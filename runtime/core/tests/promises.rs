//! What a destination promises, each beside a small model that knows nothing else: whoever could leave does not wait,
//! nothing leaves in a pause, shares are fair whoever goes away, and what is kept is bounded.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::{collections::HashMap, num::NonZeroU16, sync::Arc, time::Duration};

use proptest::prelude::*;
use tidegate_core::{
    Attempt, Call, Cost, Effect, Effective, Effects, Flow, Limit, NewCall, Outcome, Permit, Refusal, Settings, Shard,
    Signal, Submitted, Time,
    guard::DOUBLING,
    pace::{Charge, Limits, Paces, Units},
    shard::{Config, Departure},
    signal::Source,
};

const MS: Duration = Duration::from_millis(1);
const KEY: u128 = 7;

/// A destination, its callers, and a clock in the hand of the test.
struct Gate {
    shard: Shard,
    config: Arc<Config>,
    fx: Effects,
    now: Time,
    waiting: Vec<Call>,
    /// Admitted since this was looked at last.
    admitted: Vec<Permit>,
}

impl Gate {
    fn new(settings: &Settings, seed: u64) -> Gate {
        Gate {
            shard: Shard::new(seed),
            config: Arc::new(Config::new(settings).unwrap()),
            fx: Effects::default(),
            now: Time::from_millis(1_000_000),
            waiting: Vec::new(),
            admitted: Vec::new(),
        }
    }

    fn ask(&mut self, flow: Flow) -> Option<Call> {
        let new = NewCall { flow, ..NewCall::by(self.now + Duration::from_secs(100_000)) };
        let submitted = self.shard.submit(self.now, KEY, &self.config, new, &mut self.fx);
        self.heed();
        match submitted {
            Submitted::Admitted(permit) => self.admitted.push(permit),
            Submitted::Queued { call, .. } => {
                self.waiting.push(call);
                return Some(call);
            }
            Submitted::Refused(refusal) => panic!("{refusal}"),
        }
        None
    }

    fn heed(&mut self) {
        for effect in self.fx.drain() {
            let Effect::Admit { call, permit, .. } = effect else { panic!("{effect:?}") };
            let at = self.waiting.iter().position(|waiting| *waiting == call).expect("it waits");
            self.waiting.remove(at);
            self.admitted.push(permit);
        }
    }

    fn goes_away(&mut self, which: usize) -> Option<Call> {
        let call = (!self.waiting.is_empty()).then(|| self.waiting.remove(which % self.waiting.len()))?;
        self.shard.release_call(self.now, call, &mut self.fx);
        self.heed();
        Some(call)
    }

    fn departs(&mut self, permit: Permit) -> Departure {
        self.shard.departed(self.now, permit, &mut self.fx)
    }

    fn ends(&mut self, permit: Permit, outcome: &Outcome) {
        let policy = Effective::default();
        let attempt =
            Attempt { policy: &policy, repeatable: false, costs: false, replayable: false, keyed: false, spent: 0 };
        self.shard.report(self.now, permit, outcome, &attempt, &mut self.fx);
        self.heed();
    }

    fn is_over(&mut self, permit: Permit) {
        self.shard.release(self.now, permit, &mut self.fx);
        self.heed();
    }

    fn passes(&mut self, time: Duration) {
        let until = self.now + time;
        // The timer of a host that is never late.
        while let Some(wake) = self.shard.next_wake().filter(|wake| *wake <= until) {
            assert!(wake >= self.now, "it was due before");
            self.now = wake;
            self.shard.tick(self.now, &mut self.fx);
            self.heed();
        }
        self.now = until;
    }
}

fn fine() -> Outcome {
    Outcome::Answer { status: 200, signal: Signal::default() }
}

fn flow(id: u64, weight: u16) -> Flow {
    Flow { id, weight: NonZeroU16::new(weight).unwrap() }
}

/// A step that may happen to any of what is there.
#[derive(Debug, Clone, Copy)]
enum Step {
    Ask,
    Depart(usize),
    /// In so many ways, with a wait.
    End(usize, u8, u64),
    Release(usize),
    GoAway(usize),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => Just(Step::Ask),
        3 => (0usize..64).prop_map(Step::Depart),
        3 => (0usize..64, 0u8..6, 50u64..3_000).prop_map(|(which, how, wait)| Step::End(which, how, wait)),
        1 => (0usize..64).prop_map(Step::Release),
        1 => (0usize..64).prop_map(Step::GoAway),
        4 => (0u64..400).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..150)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(2_000), ..ProptestConfig::default() })]

    /// Of configured limits and slots: as long as somebody waits, one of them holds the next call, now; and there is
    /// a timer no later than when it does not any more.
    #[test]
    fn nobody_waits_who_could_leave(
        quota in 1u64..20, per_ms in prop::sample::select(vec![100u64, 1_000, 90_000]), burst in 1u64..20,
        slots in prop::option::of(1u32..4), steps in steps(),
    ) {
        let per = MS * u32::try_from(per_ms).unwrap();
        let limits = vec![Limit { burst: Some(burst.min(quota)), ..Limit::requests(quota, per) }];
        let compiled = Limits::new(&limits).unwrap();
        // The same arithmetic, told of the same departures.
        let mut paces = Paces::new(&compiled);
        let mut gate = Gate::new(&Settings { limits, max_concurrency: slots, ..Settings::default() }, 1);
        let mut flying: Vec<(Permit, Charge, bool)> = Vec::new();
        for step in steps {
            match step {
                Step::Ask => _ = gate.ask(Flow::default()),
                Step::Depart(which) if !flying.is_empty() => {
                    let at = which % flying.len();
                    let (permit, charge, left) = flying[at];
                    prop_assert_eq!(gate.departs(permit), Departure::Go);
                    if !left {
                        paces.departed(&compiled, Cost::ONE, charge, gate.now);
                        flying[at].2 = true;
                    }
                }
                Step::End(which, ..) if !flying.is_empty() => {
                    let at = which % flying.len();
                    let (permit, charge, left) = flying.swap_remove(at);
                    if !left {
                        gate.departs(permit);
                        paces.departed(&compiled, Cost::ONE, charge, gate.now);
                    }
                    gate.ends(permit, &fine());
                    gate.is_over(permit);
                }
                Step::Release(which) if !flying.is_empty() => {
                    let (permit, charge, left) = flying.swap_remove(which % flying.len());
                    if !left {
                        paces.refund(&compiled, Cost::ONE, charge, gate.now);
                    }
                    gate.is_over(permit);
                }
                Step::GoAway(which) => _ = gate.goes_away(which),
                Step::Pass(time) => {
                    // One timer after the other, so that each charge is made when it was.
                    let until = gate.now + MS * u32::try_from(time).unwrap();
                    while let Some(wake) = gate.shard.next_wake().filter(|wake| *wake <= until) {
                        gate.passes(wake.since(gate.now));
                        for permit in std::mem::take(&mut gate.admitted) {
                            flying.push((permit, paces.charge(&compiled, Cost::ONE, gate.now), false));
                        }
                    }
                    gate.now = until;
                }
                _ => {}
            }
            for permit in std::mem::take(&mut gate.admitted) {
                flying.push((permit, paces.charge(&compiled, Cost::ONE, gate.now), false));
            }
            let full = slots.is_some_and(|max| flying.len() >= max as usize);
            if !gate.waiting.is_empty() && !full {
                let (at, _) = paces.when(&compiled, gate.now, Units::default(), Cost::ONE).unwrap();
                prop_assert!(at > gate.now, "{} wait, and nothing holds them", gate.waiting.len());
                prop_assert!(gate.shard.next_wake().is_some_and(|wake| wake <= at), "nobody wakes at {at:?}");
            }
        }
    }

    /// While a destination is paused nobody is let go. Then one is, alone until it has its answer, or until there was
    /// time for a refusal of it.
    #[test]
    fn nothing_leaves_in_a_pause_and_one_alone_after_it(seed: u64, steps in steps()) {
        let mut gate = Gate::new(&Settings::default(), seed);
        let mut flying: Vec<(Permit, bool)> = Vec::new();
        let mut paused = Time::ZERO;
        // Who tries the destination after a pause, and when it left.
        let mut probe: Option<(Permit, Option<Time>)> = None;
        let mut tries = false;
        for step in steps {
            match step {
                Step::Ask => _ = gate.ask(Flow::default()),
                Step::Depart(which) if !flying.is_empty() => {
                    let at = which % flying.len();
                    let (permit, left) = flying[at];
                    match gate.departs(permit) {
                        Departure::Go if !left => {
                            prop_assert!(gate.now >= paused, "it left in a pause");
                            flying[at].1 = true;
                            if let Some((of, left)) = &mut probe && *of == permit {
                                *left = Some(gate.now);
                            }
                        }
                        Departure::Go => {}
                        Departure::PutBack(_) => {
                            flying.swap_remove(at);
                            gate.is_over(permit);
                        }
                        Departure::Released => panic!("nobody released it"),
                    }
                }
                Step::End(which, how, wait) if flying.iter().any(|(_, left)| *left) => {
                    let left: Vec<usize> = (0..flying.len()).filter(|at| flying[*at].1).collect();
                    let (permit, _) = flying.swap_remove(left[which % left.len()]);
                    let wait = Some((MS * u32::try_from(wait).unwrap(), Source::RetryAfter));
                    let outcome = match how {
                        0 => Outcome::Answer { status: 429, signal: Signal { wait, ..Signal::default() } },
                        1 => Outcome::Answer { status: 429, signal: Signal::default() },
                        _ => fine(),
                    };
                    if probe.is_some_and(|(of, _)| of == permit) {
                        probe = None;
                    }
                    gate.ends(permit, &outcome);
                    let seen = gate.shard.snapshot(gate.now, KEY).unwrap();
                    if seen.learned_slots.is_some() && seen.paused.is_none() {
                        // Slots that were learned take the place of a pause which nobody asked for.
                        (paused, probe, tries) = (Time::ZERO, None, false);
                    }
                    if let Some((left, _)) = gate.shard.pause(gate.now, KEY) {
                        prop_assert!(gate.now + left >= paused, "a pause was shortened");
                        if gate.now + left > paused {
                            (paused, probe, tries) = (gate.now + left, None, true);
                        }
                    }
                    gate.is_over(permit);
                }
                Step::Release(which) if !flying.is_empty() => {
                    let (permit, _) = flying.swap_remove(which % flying.len());
                    if let Some((_, left)) = probe.filter(|(of, _)| *of == permit) {
                        // Unless it has passed before, another tries.
                        (probe, tries) = (None, left.is_none_or(|left| gate.now < left + DOUBLING));
                    }
                    gate.is_over(permit);
                }
                Step::GoAway(which) => _ = gate.goes_away(which),
                Step::Pass(time) => gate.passes(MS * u32::try_from(time).unwrap()),
                _ => {}
            }
            for permit in std::mem::take(&mut gate.admitted) {
                prop_assert!(gate.now >= paused, "let go in a pause");
                if std::mem::take(&mut tries) {
                    probe = Some((permit, None));
                } else if let Some((_, left)) = probe {
                    let passes = left.map(|left| left + DOUBLING);
                    prop_assert!(passes.is_some_and(|at| gate.now >= at), "a second before the first has its answer");
                }
                flying.push((permit, false));
            }
        }
    }

    /// What one of two flows that always wait gets more than its weight says is bounded by a call of each, also where
    /// any of their calls may go away and others take their places.
    #[test]
    fn shares_are_fair_whoever_goes_away(
        weights in (1u16..10, 1u16..10), gone in prop::collection::vec(prop::option::of(0usize..1_000), 1..200),
    ) {
        let limits = vec![Limit::requests(100, MS * 1_000)];
        let mut gate = Gate::new(&Settings { limits, ..Settings::default() }, 1);
        while gate.ask(flow(9, 1)).is_none() {}
        let flows = [flow(1, weights.0), flow(2, weights.1)];
        let mut of: HashMap<Call, usize> = HashMap::new();
        for which in [0, 1].repeat(30) {
            of.insert(gate.ask(flows[which]).unwrap(), which);
        }
        gate.admitted.clear();
        let mut got = [0.0, 0.0];
        let bound = 1.0 / f64::from(weights.0) + 1.0 / f64::from(weights.1);
        for gone in gone {
            if let Some(call) = gone.and_then(|which| gate.goes_away(which))
                && let Some(which) = of.remove(&call)
            {
                of.insert(gate.ask(flows[which]).unwrap(), which);
            }
            let wake = gate.shard.next_wake().unwrap();
            gate.passes(wake.since(gate.now));
            for permit in std::mem::take(&mut gate.admitted) {
                if let Some(which) = of.remove(&permit.call()) {
                    got[which] += 1.0 / f64::from([weights.0, weights.1][which]);
                    of.insert(gate.ask(flows[which]).unwrap(), which);
                }
            }
            let apart: f64 = got[0] - got[1];
            prop_assert!(apart.abs() <= bound + 1e-9, "{} of {bound}", apart.abs());
        }
    }

    /// A shard keeps as many destinations as it may; one that is busy is not forgotten, and nobody is refused for want of
    /// room while one is at rest.
    #[test]
    fn destinations_are_bounded_and_busy_ones_are_kept(
        most in 1usize..6, steps in prop::collection::vec((0u128..12, any::<bool>()), 1..120),
    ) {
        let config = Arc::new(Config::new(&Settings { max_concurrency: Some(1), ..Settings::default() }).unwrap());
        let (mut shard, mut fx) = (Shard::with_capacity(1, most), Effects::default());
        let mut busy: HashMap<u128, Permit> = HashMap::new();
        let mut now = Time::from_millis(1_000_000);
        for (key, goes) in steps {
            now += MS;
            if let Some(permit) = busy.get(&key).copied() {
                if goes {
                    busy.remove(&key);
                    shard.release(now, permit, &mut fx);
                }
                continue;
            }
            let known = shard.keys().any(|other| other == key);
            match shard.submit(now, key, &config, NewCall::by(now + MS * 1_000), &mut fx) {
                Submitted::Admitted(permit) => _ = busy.insert(key, permit),
                Submitted::Refused(Refusal::TooManyDestinations { limit }) => {
                    prop_assert_eq!((limit, busy.len(), known), (most, most, false));
                }
                other => panic!("{other:?}"),
            }
            for effect in fx.drain() {
                let Effect::Forgot { key } = effect else { panic!("{effect:?}") };
                prop_assert!(!busy.contains_key(&key), "{key} was busy");
            }
            prop_assert!(shard.destinations() <= most);
            prop_assert!(busy.keys().all(|key| shard.snapshot(now, *key).is_some_and(|it| it.in_flight == 1)));
        }
        for (_, permit) in busy.drain() {
            shard.release(now, permit, &mut fx);
        }
        prop_assert_eq!((shard.calls(), shard.next_wake()), (0, None));
    }
}

#[test]
fn the_one_destination_at_rest_makes_room_wherever_it_is() {
    let config = Arc::new(Config::new(&Settings::default()).unwrap());
    let now = Time::from_millis(1_000_000);
    for (most, rests) in [(64, 63), (300, 0), (300, 150), (300, 299), (5_000, 4_000)] {
        let (mut shard, mut fx) = (Shard::with_capacity(1, most), Effects::default());
        let mut come = |key| match shard.submit(now, key, &config, NewCall::by(now + MS * 1_000), &mut fx) {
            Submitted::Admitted(permit) if key == rests => shard.release(now, permit, &mut fx),
            Submitted::Admitted(_) => {}
            other => panic!("{key} of {most}: {other:?}"),
        };
        (0..=most as u128).for_each(&mut come);
        assert!(matches!(fx.drain().collect::<Vec<_>>()[..], [Effect::Forgot { key }] if key == rests));
    }
}

#[test]
fn shards_of_a_group_name_the_bound_that_people_have_set() {
    let config = Arc::new(Config::new(&Settings::default()).unwrap());
    let now = Time::from_millis(1_000_000);
    for (shards, most) in [(1u32, 4), (2, 4), (3, 4), (4, 1)] {
        for mut shard in Shard::group((0..shards).map(u64::from), most) {
            let mut fx = Effects::default();
            let refusal =
                (0..10).find_map(|key| match shard.submit(now, key, &config, NewCall::by(now + MS * 1_000), &mut fx) {
                    Submitted::Refused(refusal) => Some(refusal),
                    _ => None,
                });
            assert_eq!(refusal, Some(Refusal::TooManyDestinations { limit: most }));
            assert_eq!(shard.destinations(), most.div_ceil(shards as usize));
        }
    }
}
