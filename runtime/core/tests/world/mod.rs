//! A small deterministic world around one shard: clients that call, and an upstream that limits them. Seeded; no clock.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]
#![allow(dead_code, unreachable_pub)]

mod upstream;

pub use upstream::{Fate, Law, Says, States, Upstream};

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use tidegate_core::{
    Attempt, Call, Effect, Effective, Effects, Flow, NewCall, Outcome, Permit, Settings, Shard, Signal, Submitted,
    Ticket, Time, Verdict,
    repeat::{Class, Failure},
    shard::{Config, Departure},
    signal::Source,
};

pub const MS: Duration = Duration::from_millis(1);
pub const SEC: Duration = Duration::from_secs(1);
pub const KEY: u128 = 7;
/// Clients from here on are functions of their own, which call once; the others are one.
pub const QUIET: usize = 1_000_000;
/// The world does not begin at zero: neither does a machine's clock.
pub const START: Time = Time::from_millis(3_600_123);

enum Event {
    Arrive { client: usize },
    Doomed { fate: Fate },
    Depart { call: usize, permit: Permit },
    Receive { call: usize, permit: Permit },
    Served,
    Head { call: usize, permit: Permit, outcome: Outcome },
}

#[derive(Clone, Debug)]
pub struct Done {
    pub began: Time,
    pub ended: Option<Time>,
    /// The status the caller got; 0: no answer; 1: refused by the gate.
    pub status: u16,
    pub sent: u32,
    /// Why the gate gave up, in its own words.
    pub why: String,
}

pub struct World {
    pub now: Time,
    pub shard: Shard,
    pub upstream: Upstream,
    pub policy: Effective,
    pub config: Arc<Config>,
    pub deadline: Duration,
    pub repeatable: bool,
    /// Time between admission and the first byte.
    pub connect: Duration,
    /// The same for the first: it has to open the connection that others use.
    pub first_connect: Duration,
    events: BTreeMap<(Time, u64), Event>,
    sequence: u64,
    fx: Effects,
    random: fastrand::Rng,
    pub calls: Vec<Done>,
    spent: Vec<u32>,
    deadlines: Vec<Time>,
    clients: Vec<Option<usize>>,
    fates: HashMap<usize, Fate>,
    waiting: HashMap<Call, usize>,
    /// Clients call again after an answer until this time.
    pub until: Time,
    pub think: Duration,
    /// Clients call again so many times in all, whenever that is.
    pub again: usize,
    /// Every request the upstream saw: when, and whether it was accepted.
    pub seen: Vec<(Time, bool)>,
    /// Every request the upstream took: from when on, until when.
    pub held: Vec<(Time, Time)>,
    /// When each came there, and when it was begun with.
    pub begun: Vec<(Time, Time)>,
    pub flying: u32,
    pub most_flying: u32,
    /// Departures while a known wait was still running.
    pub dishonoured: u32,
    /// Requests that reached the upstream during its outage.
    pub asked_while_out: u32,
    told: Time,
}

impl World {
    pub fn new(seed: u64, upstream: Upstream, settings: &Settings) -> World {
        World {
            now: START,
            shard: Shard::new(seed),
            upstream,
            policy: Effective::default(),
            config: Arc::new(Config::new(settings).unwrap()),
            deadline: Duration::from_secs(600),
            repeatable: true,
            connect: Duration::ZERO,
            first_connect: Duration::ZERO,
            events: BTreeMap::new(),
            sequence: 0,
            fx: Effects::default(),
            random: fastrand::Rng::with_seed(seed ^ 0x5eed),
            calls: Vec::new(),
            spent: Vec::new(),
            deadlines: Vec::new(),
            clients: Vec::new(),
            fates: HashMap::new(),
            waiting: HashMap::new(),
            until: START,
            think: Duration::ZERO,
            again: 0,
            seen: Vec::new(),
            held: Vec::new(),
            begun: Vec::new(),
            flying: 0,
            most_flying: 0,
            dishonoured: 0,
            asked_while_out: 0,
            told: START,
        }
    }

    fn at(&mut self, at: Time, event: Event) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }

    /// `clients` that call at once, each `offset` after the one before.
    pub fn clients(&mut self, clients: usize, offset: Duration) {
        for client in 0..clients {
            self.at(self.now + offset * client as u32, Event::Arrive { client });
        }
    }

    /// One call of a client of its own, after so long.
    pub fn quiet(&mut self, client: usize, at: Duration) {
        self.at(START + at, Event::Arrive { client: QUIET + client });
    }

    /// As many calls at `at` that have the same fate whenever they are sent, and are not made again.
    pub fn doomed(&mut self, calls: usize, at: Duration, fate: Fate) {
        for _ in 0..calls {
            self.at(START + at, Event::Doomed { fate });
        }
    }

    /// All calls but the doomed.
    pub fn healthy(&self) -> impl Iterator<Item = &Done> {
        self.calls.iter().enumerate().filter(|(call, _)| !self.fates.contains_key(call)).map(|(_, done)| done)
    }

    /// The doomed ones.
    pub fn unhealthy(&self) -> impl Iterator<Item = &Done> {
        self.calls.iter().enumerate().filter(|(call, _)| self.fates.contains_key(call)).map(|(_, done)| done)
    }

    fn submit(&mut self, call: usize, returning: Option<Ticket>) {
        let flow = Flow::of(self.clients[call].filter(|client| *client >= QUIET).unwrap_or(0) as u64);
        let new = NewCall { returning, flow, ..NewCall::by(self.deadlines[call]) };
        match self.shard.submit(self.now, KEY, &self.config, new, &mut self.fx) {
            Submitted::Admitted(permit) => self.admitted(call, permit),
            Submitted::Queued { call: id, .. } => {
                assert!(self.waiting.insert(id, call).is_none());
            }
            Submitted::Refused(refusal) => self.end(call, 1, refusal.to_string()),
        }
        self.effects();
    }

    fn effects(&mut self) {
        let effects: Vec<Effect> = self.fx.drain().collect();
        for effect in effects {
            match effect {
                Effect::Admit { call, permit, .. } => {
                    let call = self.waiting.remove(&call).expect("admitted a call that does not wait");
                    self.admitted(call, permit);
                }
                Effect::SentOn { call, .. } => panic!("{call:?} was sent on, and nobody asked for it"),
                Effect::Forgot { key } => panic!("{key} was forgotten, and there is room"),
                Effect::Refuse { call, refusal } => {
                    let call = self.waiting.remove(&call).expect("refused a call that does not wait");
                    self.end(call, 1, refusal.to_string());
                }
            }
        }
    }

    fn admitted(&mut self, call: usize, permit: Permit) {
        let connect = if call == 0 { self.first_connect } else { self.connect };
        self.at(self.now + connect, Event::Depart { call, permit });
    }

    fn end(&mut self, call: usize, status: u16, why: String) {
        let done = &mut self.calls[call];
        assert!(done.ended.is_none(), "call {call} was answered twice");
        done.ended = Some(self.now);
        done.status = status;
        done.why = why;
        if (self.now < self.until || self.again > 0)
            && let Some(client) = self.clients[call].filter(|client| *client < QUIET)
        {
            self.again = self.again.saturating_sub(1);
            let at = self.now + self.think.max(MS);
            self.at(at, Event::Arrive { client });
        }
    }

    fn between(&mut self, (from, to): (Duration, Duration)) -> Duration {
        from + (to - from).mul_f64(self.random.f64())
    }

    /// When the next request would be worked on.
    fn begins(&self) -> Time {
        self.upstream.workers.iter().min().map_or(self.now, |free| self.now.max(*free))
    }

    fn work(&mut self) -> Duration {
        let work = self.between(self.upstream.service);
        if self.upstream.spread == 1.0 {
            return work;
        }
        // Box and Muller.
        let (one, other) = (1.0 - self.random.f64(), self.random.f64());
        let normal = (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos();
        work.mul_f64(self.upstream.spread.powf(normal))
    }

    fn arrive(&mut self, client: Option<usize>, fate: Option<Fate>) {
        let call = self.calls.len();
        self.calls.push(Done { began: self.now, ended: None, status: 0, sent: 0, why: String::new() });
        self.spent.push(0);
        self.clients.push(client);
        self.deadlines.push(self.now + self.deadline);
        self.fates.extend(fate.map(|fate| (call, fate)));
        self.submit(call, None);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive { client } => self.arrive(Some(client), None),
            Event::Doomed { fate } => self.arrive(None, Some(fate)),
            Event::Depart { call, permit } => match self.shard.departed(self.now, permit, &mut self.fx) {
                Departure::Go => {
                    if self.now < self.told {
                        self.dishonoured += 1;
                    }
                    self.calls[call].sent += 1;
                    self.flying += 1;
                    self.most_flying = self.most_flying.max(self.flying);
                    self.at(self.now + self.upstream.net, Event::Receive { call, permit });
                    self.effects();
                }
                Departure::PutBack(ticket) => {
                    self.shard.release(self.now, permit, &mut self.fx);
                    self.submit(call, Some(ticket));
                }
                Departure::Released => panic!("nobody released it"),
            },
            Event::Receive { call, permit } => {
                let out = self.upstream.outage.filter(|(from, to, _)| (*from..*to).contains(&self.now));
                let net = self.upstream.net;
                let answer = |status| Outcome::Answer { status, signal: Signal::default() };
                let (after, outcome) = if let Some((_, _, silent)) = out {
                    self.asked_while_out += 1;
                    (MS, if silent { Outcome::Failed(Failure::Broken) } else { answer(503) })
                } else if let Some(fate) = self.fates.get(&call) {
                    (MS, fate.outcome())
                } else {
                    let moody = self.random.f64() < self.upstream.moody && self.now < self.upstream.well_at;
                    let taken = match self.upstream.accident {
                        _ if self.upstream.poison == Some(call) => Err(SEC),
                        Some((number, wait)) if self.seen.len() == number => Err(wait),
                        _ if moody => Err(SEC),
                        _ if self.upstream.every.is_some_and(|every| self.seen.len() % every == every - 1) => Err(SEC),
                        _ => self.upstream.take(self.now),
                    };
                    self.seen.push((self.now, taken.is_ok()));
                    match taken {
                        Ok(()) => {
                            let (waits, work) = (self.begins().since(self.now), self.work());
                            let service = waits + work;
                            if let Some(first) = self.upstream.workers.iter_mut().min() {
                                *first = self.now + service;
                            }
                            self.begun.push((self.now, self.now + waits));
                            self.at(self.now + service, Event::Served);
                            self.held.push((self.now, self.now + service));
                            let signal = Signal { spent: self.upstream.told(self.now), ..Signal::default() };
                            (service, Outcome::Answer { status: 200, signal })
                        }
                        Err(_) if moody && !self.upstream.moods.is_empty() => {
                            let mood = self.random.usize(0..self.upstream.moods.len());
                            (self.upstream.refusing, self.upstream.moods[mood])
                        }
                        Err(wait) => {
                            let wait = match self.upstream.says {
                                Says::Nothing => None,
                                Says::Seconds => Some(Duration::from_secs(wait.as_secs_f64().ceil().max(1.0) as u64)),
                                Says::Exactly => Some(wait.max(MS)),
                                Says::Lies => [Some(MS), Some(SEC * 600), Some(SEC * 600), None, None, None, None]
                                    [self.random.usize(0..7)],
                            };
                            let mut signal =
                                Signal { wait: wait.map(|w| (w, Source::RetryAfter)), ..Signal::default() };
                            if let (States::AsBucket, Some(spent)) =
                                (self.upstream.states, self.upstream.told(self.now))
                            {
                                (signal.wait, signal.spent) = (Some((spent.wait, spent.source)), Some(spent));
                            }
                            (self.upstream.refusing, Outcome::Answer { status: 429, signal })
                        }
                    }
                };
                self.at(self.now + after + net, Event::Head { call, permit, outcome });
            }
            Event::Served => self.upstream.busy = self.upstream.busy.saturating_sub(1),
            Event::Head { call, permit, outcome } => {
                self.flying -= 1;
                if let Outcome::Answer { signal, .. } = outcome
                    && let Some((wait, _)) = signal.wait
                    && self.upstream.poison != Some(call)
                    && !self.fates.contains_key(&call)
                {
                    self.told = self.told.max(self.now + wait);
                }
                let spent = self.spent[call];
                let attempt = Attempt {
                    policy: &self.policy,
                    repeatable: self.repeatable,
                    costs: false,
                    replayable: true,
                    keyed: false,
                    spent,
                };
                let verdict = self.shard.report(self.now, permit, &outcome, &attempt, &mut self.fx);
                self.shard.release(self.now, permit, &mut self.fx);
                match verdict {
                    Verdict::Return(reason) => {
                        let status = if let Outcome::Answer { status, .. } = outcome { status } else { 0 };
                        assert!(outcome.class() != Class::Accepted || status == 200);
                        self.end(call, status, reason.to_string());
                        self.effects();
                    }
                    Verdict::PutBack(ticket) => self.submit(call, Some(ticket)),
                    Verdict::Retry(ticket) => {
                        self.spent[call] += 1;
                        self.submit(call, Some(ticket));
                    }
                }
            }
        }
    }

    /// Until nothing is left to happen, or `until`.
    pub fn run(&mut self, until: Time) {
        loop {
            let event = self.events.first_key_value().map_or(Time::NEVER, |((at, _), _)| *at);
            let wake = self.shard.next_wake().unwrap_or(Time::NEVER);
            let next = event.min(wake);
            if next.is_never() || next > until {
                return;
            }
            self.now = self.now.max(next);
            if wake <= event {
                self.shard.tick(self.now, &mut self.fx);
                self.effects();
                assert!(self.shard.next_wake().is_none_or(|next| next > self.now), "a timer that is due stays due");
            } else if let Some((_, event)) = self.events.pop_first() {
                self.handle(event);
            }
        }
    }

    pub fn run_out(&mut self) {
        self.run(Time::NEVER);
        assert!(self.calls.iter().all(|call| call.ended.is_some()), "a call was lost");
        assert_eq!(self.shard.calls(), 0);
        let rest = self.shard.snapshot(self.now, KEY).unwrap();
        assert_eq!((rest.queued, rest.queued_bytes, rest.in_flight, rest.unanswered), (0, 0, 0, 0));
    }

    pub fn refused(&self) -> usize {
        self.seen.iter().filter(|(_, ok)| !ok).count()
    }

    /// Refused part of all requests the upstream saw.
    pub fn refused_share(&self) -> f64 {
        self.refused() as f64 / self.seen.len().max(1) as f64
    }

    pub fn succeeded(&self) -> usize {
        self.calls.iter().filter(|call| call.status == 200).count()
    }

    /// From the start to the last answer.
    pub fn took(&self) -> Duration {
        self.calls.iter().filter_map(|call| call.ended).max().unwrap_or(START).since(START)
    }

    pub fn accepted_between(&self, from: Duration, to: Duration) -> usize {
        let range = START + from..START + to;
        self.seen.iter().filter(|(at, ok)| *ok && range.contains(at)).count()
    }

    /// How many requests the upstream had in its hands at once, on average.
    pub fn busy_between(&self, from: Duration, to: Duration) -> f64 {
        let (from, to) = (START + from, START + to);
        let within = |(began, ended): &(Time, Time)| (*ended).min(to).since((*began).max(from)).as_secs_f64();
        self.held.iter().map(within).sum::<f64>() / to.since(from).as_secs_f64()
    }

    pub fn seen_between(&self, from: Duration, to: Duration) -> usize {
        let range = START + from..START + to;
        self.seen.iter().filter(|(at, _)| range.contains(at)).count()
    }
}
