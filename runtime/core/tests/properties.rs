//! What must hold for every order of events: random calls, departures, outcomes, drops at each step, and time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU16,
    sync::Arc,
    time::Duration,
};
use tidegate_core::{
    Attempt, Call, Cost, Effect, Effective, Effects, Flow, Limit, NewCall, Outcome, Permit, Settings, Shard, Signal,
    Submitted, Ticket, Time, Unit, Verdict,
    endpoint::{EndpointSettings, Mask, Ways},
    repeat::Failure,
    shard::{Config, CopyFor, Departure, QueueBounds},
    signal::Source,
    units::Size,
};

#[derive(Debug, Clone)]
enum Op {
    Submit { key: u128, deadline_ms: u64, tokens: u32, bytes: u64, flow: Flow, priority: i8, ways: Ways },
    Depart(usize),
    Copy(usize, CopyFor),
    GiveUp(usize),
    Report { which: usize, what: u8, wait_ms: u64, repeatable: bool, replayable: bool },
    Release(usize),
    Cancel(usize),
    Wait(u64),
    ToNextWake,
    LookAgain,
}

fn flow() -> impl Strategy<Value = Flow> {
    (0u64..4, 1u16..4).prop_map(|(id, weight)| Flow { id, weight: NonZeroU16::new(weight).unwrap() })
}

fn ways() -> impl Strategy<Value = Ways> {
    let mask = prop_oneof![3 => Just(Mask::ALL), 1 => (1u16..8).prop_map(Mask)];
    (mask, 0u16..4).prop_map(|(allowed, preferred)| Ways { allowed, preferred: Mask(preferred).into() })
}

fn op() -> impl Strategy<Value = Op> {
    let index = any::<prop::sample::Index>().prop_map(|i| i.index(1 << 16));
    prop_oneof![
        6 => (0u128..3, 1u64..5_000, 0u32..40, 0u64..400, flow(), -2i8..3, ways()).prop_map(
            |(key, deadline_ms, tokens, bytes, flow, priority, ways)| {
                Op::Submit { key, deadline_ms, tokens, bytes, flow, priority, ways }
            }
        ),
        2 => (index.clone(), prop::sample::select(vec![CopyFor::Hedge, CopyFor::Race, CopyFor::Trial]))
            .prop_map(|(which, why)| Op::Copy(which, why)),
        1 => index.clone().prop_map(Op::GiveUp),
        4 => index.clone().prop_map(Op::Depart),
        4 => (index.clone(), 0u8..8, 1u64..3_000, any::<bool>(), any::<bool>()).prop_map(
            |(which, what, wait_ms, repeatable, replayable)| Op::Report { which, what, wait_ms, repeatable, replayable }
        ),
        2 => index.clone().prop_map(Op::Release),
        1 => index.prop_map(Op::Cancel),
        3 => (0u64..200).prop_map(Op::Wait),
        3 => Just(Op::ToNextWake),
        1 => Just(Op::LookAgain),
    ]
}

#[derive(Debug, Clone, Copy)]
struct Flying {
    id: usize,
    permit: Permit,
    /// Of another that flies, or flew: nobody waits for its end.
    copy: bool,
    departed: bool,
    reported: bool,
    admitted: Time,
}

struct Model {
    shard: Shard,
    config: Arc<Config>,
    settings: Settings,
    fx: Effects,
    now: Time,
    waiting: HashMap<Call, usize>,
    flying: Vec<Flying>,
    keys: Vec<u128>,
    deadlines: Vec<Time>,
    asked: Vec<Time>,
    costs: Vec<(Cost, u64)>,
    flows: Vec<(Flow, i8, Ways)>,
    /// How each call ended; exactly once.
    ended: Vec<bool>,
    /// When units that left towards a destination were charged; `wire.rs` looks at when they left.
    charged: BTreeMap<u128, Vec<(Time, u8, Cost)>>,
    told: HashMap<u128, Time>,
}

/// One in four has another answer, and waits for its turn only.
fn has_fallback(id: usize) -> bool {
    id % 4 == 3
}

impl Model {
    fn new(settings: Settings, seed: u64) -> Model {
        Model {
            shard: Shard::new(seed),
            config: Arc::new(Config::new(&settings).unwrap()),
            settings,
            fx: Effects::default(),
            now: Time::from_millis(1_000_000),
            waiting: HashMap::new(),
            flying: Vec::new(),
            keys: Vec::new(),
            deadlines: Vec::new(),
            asked: Vec::new(),
            costs: Vec::new(),
            flows: Vec::new(),
            ended: Vec::new(),
            charged: BTreeMap::new(),
            told: HashMap::new(),
        }
    }

    fn submit(&mut self, id: usize, returning: Option<Ticket>) {
        let (cost, bytes) = self.costs[id];
        let (flow, priority, ways) = self.flows[id];
        let part_of = (self.keys[id] > 0).then_some(1);
        let (deadline, fallback) = (self.deadlines[id], has_fallback(id));
        let new = NewCall { deadline, bytes, cost, flow, priority, ways, part_of, fallback, returning };
        match self.shard.submit(self.now, self.keys[id], &self.config, new, &mut self.fx) {
            Submitted::Admitted(permit) => self.admitted(id, permit),
            Submitted::Queued { call, why, .. } => {
                assert!(!why.to_string().is_empty());
                assert!(self.waiting.insert(call, id).is_none());
            }
            Submitted::Refused(refusal) => {
                assert!(!refusal.to_string().is_empty() && refusal.value().is_none_or(|value| !value.is_empty()));
                self.end(id);
            }
        }
    }

    fn admitted(&mut self, id: usize, permit: Permit) {
        assert!(self.now < self.deadlines[id], "admitted after its deadline");
        let allowed = self.flows[id].2.allowed;
        let endpoints = self.settings.endpoints.len().max(1);
        let endpoint = permit.endpoint() as u8;
        assert!(usize::from(endpoint) < endpoints && allowed.has(endpoint));
        self.flying.push(Flying { id, permit, copy: false, departed: false, reported: false, admitted: self.now });
    }

    fn end(&mut self, id: usize) {
        assert!(!std::mem::replace(&mut self.ended[id], true), "call {id} was answered twice");
    }

    fn effects(&mut self) {
        let effects: Vec<Effect> = self.fx.drain().collect();
        self.heed(effects);
    }

    fn heed(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Admit { call, permit, .. } => {
                    let id = self.waiting.remove(&call).expect("admitted what does not wait");
                    self.admitted(id, permit);
                }
                Effect::Forgot { key } => panic!("{key} was forgotten, and there is room"),
                Effect::SentOn { .. } => panic!("nobody asked for it"),
                Effect::Refuse { call, .. } => {
                    let id = self.waiting.remove(&call).expect("refused what does not wait");
                    self.end(id);
                }
            }
        }
    }

    fn left(&mut self, flying: Flying, at: Time) {
        let (cost, _) = self.costs[flying.id];
        self.charged.entry(self.keys[flying.id]).or_default().push((at, flying.permit.endpoint() as u8, cost));
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Submit { key, deadline_ms, tokens, bytes, flow, priority, ways } => {
                let id = self.keys.len();
                self.keys.push(key);
                self.deadlines.push(self.now + Duration::from_millis(deadline_ms));
                self.asked.push(self.now);
                self.costs.push((Cost { requests: 1, tokens }, bytes));
                self.flows.push((flow, priority, ways));
                self.ended.push(false);
                self.submit(id, None);
            }
            Op::Depart(which) if !self.flying.is_empty() => {
                let at = which % self.flying.len();
                let flying = self.flying[at];
                match self.shard.departed(self.now, flying.permit, &mut self.fx) {
                    Departure::Go => {
                        if !flying.departed && !flying.reported {
                            let told = self.told.get(&self.keys[flying.id]).copied().unwrap_or(Time::ZERO);
                            assert!(self.now >= told, "departed during a pause");
                            self.flying[at].departed = true;
                            self.left(flying, flying.admitted);
                        }
                    }
                    Departure::PutBack(ticket) => {
                        assert!(!flying.departed);
                        self.flying.swap_remove(at);
                        self.shard.release(self.now, flying.permit, &mut self.fx);
                        if !flying.copy {
                            self.submit(flying.id, Some(ticket));
                        }
                    }
                    Departure::Released => panic!("nobody released it"),
                }
            }
            Op::Report { which, what, wait_ms, repeatable, replayable } if !self.flying.is_empty() => {
                let at = which % self.flying.len();
                let flying = self.flying[at];
                let wait = Some((Duration::from_millis(wait_ms), Source::RetryAfter));
                let answer = |status, signal| Outcome::Answer { status, signal };
                let none = Signal::default();
                let outcome = match what {
                    0 => answer(429, Signal { wait, ..none }),
                    1 => answer(429, none),
                    2 => answer(503, none),
                    3 => answer(500, none),
                    4 => Outcome::Failed(Failure::Connect),
                    5 => answer(404, none),
                    _ => answer(200, none),
                };
                if flying.copy {
                    self.shard.observe(self.now, flying.permit, Some(&outcome), &mut self.fx);
                    if !flying.departed && !flying.reported && matches!(outcome, Outcome::Answer { .. }) {
                        self.left(flying, flying.admitted);
                    }
                    self.flying[at].reported = true;
                    self.effects();
                    return;
                }
                let policy = Effective::default();
                let attempt = Attempt {
                    policy: &policy,
                    repeatable,
                    costs: false,
                    replayable,
                    keyed: false,
                    spent: u32::from(what) % 4,
                };
                let verdict = self.shard.report(self.now, flying.permit, &outcome, &attempt, &mut self.fx);
                if flying.reported {
                    assert!(matches!(verdict, Verdict::Return(_)));
                    return;
                }
                self.flying[at].reported = true;
                if !flying.departed && what != 4 {
                    self.left(flying, flying.admitted);
                }
                let seen = self.shard.snapshot(self.now, self.keys[flying.id]).unwrap();
                if seen.learned_slots.is_some() && seen.paused.is_none() {
                    // Slots that were learned take the place of a pause which nobody asked for.
                    self.told.remove(&self.keys[flying.id]);
                }
                if let Some((until, _)) = seen.paused {
                    let told = self.told.entry(self.keys[flying.id]).or_insert(Time::ZERO);
                    // Extended, never shortened.
                    assert!(self.now + until >= *told);
                    *told = (*told).max(self.now + until);
                }
                match verdict {
                    Verdict::Return(_) => {}
                    Verdict::PutBack(ticket) | Verdict::Retry(ticket) => {
                        assert!(what < 5, "a good answer was repeated");
                        self.flying.swap_remove(at);
                        self.shard.release(self.now, flying.permit, &mut self.fx);
                        self.submit(flying.id, Some(ticket));
                    }
                }
            }
            Op::Copy(which, why) if !self.flying.is_empty() => {
                let of = self.flying[which % self.flying.len()];
                if let Some(permit) = self.shard.copy(self.now, of.permit, why, &mut self.fx) {
                    assert!(
                        !of.reported
                            && (self.settings.endpoints.len() < 2 || permit.endpoint() != of.permit.endpoint())
                    );
                    let copy =
                        Flying { permit, copy: true, departed: false, reported: false, admitted: self.now, ..of };
                    self.flying.push(copy);
                }
            }
            Op::GiveUp(which) if self.flying.iter().any(|flying| flying.copy) => {
                let copies: Vec<_> = (0..self.flying.len()).filter(|at| self.flying[*at].copy).collect();
                let flying = self.flying.swap_remove(copies[which % copies.len()]);
                self.shard.observe(self.now, flying.permit, None, &mut self.fx);
                self.shard.release(self.now, flying.permit, &mut self.fx);
            }
            Op::Release(which) if !self.flying.is_empty() => {
                let flying = self.flying.swap_remove(which % self.flying.len());
                self.shard.release(self.now, flying.permit, &mut self.fx);
                // Twice is once.
                self.shard.release(self.now, flying.permit, &mut self.fx);
                if !flying.copy {
                    self.end(flying.id);
                }
            }
            Op::Cancel(which) if !self.waiting.is_empty() => {
                let mut calls: Vec<Call> = self.waiting.keys().copied().collect();
                calls.sort_unstable();
                let call = calls[which % calls.len()];
                let id = self.waiting.remove(&call).unwrap();
                self.shard.release_call(self.now, call, &mut self.fx);
                self.end(id);
            }
            Op::Wait(ms) => {
                // The host's timer may be late; then everything due happens at once.
                self.now += Duration::from_millis(ms);
                self.shard.tick(self.now, &mut self.fx);
            }
            Op::ToNextWake => {
                if let Some(wake) = self.shard.next_wake() {
                    self.now = self.now.max(wake);
                    self.shard.tick(self.now, &mut self.fx);
                }
            }
            // Nobody who could leave waits until somebody looks again. Among several endpoints chance has a part in it: one
            // that nobody called lately is tried now and then.
            Op::LookAgain if self.settings.endpoints.len() < 2 => {
                self.shard.tick(self.now, &mut self.fx);
                self.effects();
                let before = std::mem::replace(&mut self.config, Arc::new(Config::new(&self.settings).unwrap()));
                self.shard.reconfigure(self.now, &before, &self.config, &mut self.fx);
                let effects: Vec<Effect> = self.fx.drain().collect();
                // Whoever is refused for what a look at everybody's place shows makes way for the next.
                let first = effects.first().filter(|effect| matches!(effect, Effect::Admit { .. }));
                assert!(first.is_none(), "{first:?} could have left before");
                self.heed(effects);
            }
            _ => {}
        }
        self.effects();
    }

    fn check(&self) {
        assert!(self.shard.next_wake().is_none_or(|wake| wake > self.now) || !self.waiting.is_empty());
        assert_eq!(self.shard.calls(), self.waiting.len() + self.flying.len());
        for key in 0..3 {
            let Some(now) = self.shard.snapshot(self.now, key) else { continue };
            let waiting: Vec<usize> = self.waiting.values().copied().filter(|id| self.keys[*id] == key).collect();
            let flying = self.flying.iter().filter(|f| self.keys[f.id] == key).count();
            assert_eq!((now.queued, now.in_flight as usize), (waiting.len(), flying));
            assert_eq!(now.queued_bytes, waiting.iter().map(|id| self.costs[*id].1).sum::<u64>());
            let pauses = self.settings.endpoints.len() < 2 && now.paused.is_some();
            assert!(!pauses || !waiting.iter().any(|id| has_fallback(*id)), "{:?}", now.paused);
            assert_eq!(now.oldest_wait, waiting.iter().map(|id| self.now.since(self.asked[*id])).max());
            assert!(
                now.queued <= self.settings.queue.calls as usize && now.queued_bytes <= self.settings.queue.bytes.0
            );
            // A slot lapses with the deadline of its call.
            let held = self.flying.iter().filter(|f| self.keys[f.id] == key && self.deadlines[f.id] > self.now).count();
            assert!(self.settings.max_concurrency.is_none_or(|max| held <= max as usize));
            // Work-conserving: whoever waits has a timer, or somebody in flight whose end will move things on.
            assert!(waiting.is_empty() || flying > 0 || self.shard.next_wake().is_some(), "nothing will ever happen");
        }
    }

    fn windows_hold(&self) {
        for (key, charged) in &self.charged {
            let mut charged = charged.clone();
            charged.sort_by_key(|(at, ..)| *at);
            let own = (0u8..).zip(&self.settings.endpoints).map(|(index, it)| (Some(index), &it.limits));
            for (endpoint, limits) in own.chain([(None, &self.settings.limits)]) {
                let charged: Vec<_> =
                    charged.iter().filter(|(_, at, _)| endpoint.is_none_or(|endpoint| *at == endpoint)).collect();
                for limit in limits {
                    for (i, (start, ..)) in charged.iter().enumerate() {
                        let inside = charged[i..].iter().take_while(|(at, ..)| at.since(*start) < limit.per.0);
                        let sum: u64 = inside.map(|(.., cost)| cost.of(limit.unit)).sum();
                        assert!(sum <= limit.quota, "{sum} of {limit} at {key}, {endpoint:?}, from {start:?}");
                    }
                }
            }
        }
    }

    /// Everything that flies succeeds, time goes on: everybody is answered, and nothing is left.
    fn drain(&mut self) {
        for round in 0.. {
            assert!(round < 100_000, "it never ends");
            for flying in std::mem::take(&mut self.flying) {
                if flying.copy {
                    self.shard.observe(self.now, flying.permit, None, &mut self.fx);
                    self.shard.release(self.now, flying.permit, &mut self.fx);
                    continue;
                }
                if !flying.reported {
                    let policy = Effective::default();
                    let attempt = Attempt {
                        policy: &policy,
                        repeatable: true,
                        costs: false,
                        replayable: true,
                        keyed: false,
                        spent: 0,
                    };
                    let fine = Outcome::Answer { status: 200, signal: Signal::default() };
                    self.shard.report(self.now, flying.permit, &fine, &attempt, &mut self.fx);
                    if !flying.departed {
                        self.left(flying, flying.admitted);
                    }
                }
                self.shard.release(self.now, flying.permit, &mut self.fx);
                self.end(flying.id);
            }
            self.effects();
            if !self.flying.is_empty() {
                continue;
            }
            match self.shard.next_wake() {
                Some(wake) => {
                    self.now = self.now.max(wake);
                    self.shard.tick(self.now, &mut self.fx);
                    self.effects();
                }
                None => break,
            }
        }
        assert!(self.waiting.is_empty(), "a call waits for ever");
        assert!(self.ended.iter().all(|ended| *ended), "a call was lost");
        assert_eq!(self.shard.calls(), 0);
        for key in self.shard.keys().collect::<Vec<_>>() {
            let rest = self.shard.snapshot(self.now, key).unwrap();
            assert_eq!((rest.queued, rest.queued_bytes, rest.in_flight, rest.unanswered), (0, 0, 0, 0));
            assert_eq!(rest.oldest_wait, None);
        }
    }
}

fn settings() -> impl Strategy<Value = Settings> {
    let limit =
        (any::<bool>(), 1u64..12, prop::sample::select(vec![50u64, 500, 1_000, 90_000]), prop::option::of(1u64..12))
            .prop_map(|(tokens, quota, per_ms, burst)| {
                let quota = if tokens { quota * 20 } else { quota };
                let unit = if tokens { Unit::Tokens } else { Unit::Requests };
                Limit {
                    unit,
                    quota,
                    per: Duration::from_millis(per_ms).into(),
                    burst: burst.map(|burst| burst.min(quota)),
                }
            });
    let at_once = || prop::option::of(1u32..6);
    let endpoint = (1u16..5, any::<bool>(), prop::collection::vec(limit.clone(), 0..2), at_once()).prop_map(
        |(weight, home, limits, max_concurrency)| EndpointSettings {
            id: 0,
            weight: NonZeroU16::new(weight).unwrap(),
            home,
            limits,
            max_concurrency,
        },
    );
    let endpoints = prop_oneof![1 => Just(Vec::new()), 1 => prop::collection::vec(endpoint, 1..4)];
    (prop::collection::vec(limit, 0..3), at_once(), endpoints, 1u32..20, 100u64..3_000).prop_map(
        |(limits, max_concurrency, endpoints, calls, bytes)| Settings {
            limits,
            max_concurrency,
            endpoints: endpoints.into_iter().zip(0..).map(|(it, id)| EndpointSettings { id, ..it }).collect(),
            queue: QueueBounds { calls, bytes: Size(bytes) },
            ..Settings::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(1_500), ..ProptestConfig::default() })]
    #[test]
    fn every_order_of_events_keeps_the_promises(
        settings in settings(), seed: u64, ops in prop::collection::vec(op(), 1..200),
    ) {
        let mut model = Model::new(settings, seed);
        for op in &ops {
            model.step(op);
            model.check();
        }
        model.windows_hold();
        model.drain();
        model.windows_hold();
    }
}
