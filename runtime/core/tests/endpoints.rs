//! Several endpoints behind one destination, in a small seeded world: which of them calls take, and what becomes of calls
//! while one is slow, refuses or fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU16,
    sync::Arc,
    time::Duration,
};
use tidegate_core::{
    Attempt, Call, Effect, Effective, Effects, Limit, NewCall, Outcome, Permit, Settings, Shard, Signal, Submitted,
    Ticket, Time, Verdict,
    endpoint::{EndpointSettings, Mask, Ranks, Ways},
    shard::{Config, CopyFor, Departure},
    signal::Source,
};

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);
const START: Time = Time::from_millis(7_200_321);
const KEY: u128 = 5;

/// What an endpoint does with a request that comes at this time.
type Serves = Box<dyn Fn(Time, &mut fastrand::Rng) -> (Duration, Outcome)>;

fn fine() -> Outcome {
    Outcome::Answer { status: 200, signal: Signal::default() }
}

fn status(status: u16, wait: Option<Duration>) -> Outcome {
    let signal = Signal { wait: wait.map(|wait| (wait, Source::RetryAfter)), ..Signal::default() };
    Outcome::Answer { status, signal }
}

/// Answers after about this time: half to one and a half times as long.
fn about(time: Duration) -> Serves {
    Box::new(move |_, random| (time.mul_f64(0.5 + random.f64()), fine()))
}

/// The same, `times` as long between two times since the start.
fn slow_between(time: Duration, times: u32, from: Duration, to: Duration) -> Serves {
    Box::new(move |now, random| {
        let times = if (START + from..START + to).contains(&now) { times } else { 1 };
        (time.mul_f64(0.5 + random.f64()) * times, fine())
    })
}

enum Event {
    Arrive,
    Depart { call: usize, permit: Permit },
    Head { call: usize, permit: Permit, outcome: Outcome },
    Late { call: usize, permit: Permit },
}

#[derive(Default)]
struct Done {
    began: Option<Time>,
    took: Option<Duration>,
    status: u16,
    /// Attempts that fly, the first of which is not a trial.
    flying: Vec<Permit>,
    trial: Option<Permit>,
    spent: u32,
}

struct World {
    now: Time,
    shard: Shard,
    config: Arc<Config>,
    policy: Effective,
    hedges: bool,
    ways: Ways,
    serves: Vec<Serves>,
    random: fastrand::Rng,
    fx: Effects,
    events: BTreeMap<(Time, u64), Event>,
    sequence: u64,
    calls: Vec<Done>,
    waiting: HashMap<Call, usize>,
    /// What each endpoint was sent, and when.
    sent: Vec<Vec<Time>>,
}

impl World {
    fn new(seed: u64, settings: &Settings, serves: Vec<Serves>) -> World {
        World {
            now: START,
            shard: Shard::new(seed),
            config: Arc::new(Config::new(settings).unwrap()),
            policy: Effective::default(),
            hedges: false,
            ways: Ways::ANY,
            sent: serves.iter().map(|_| Vec::new()).collect(),
            serves,
            random: fastrand::Rng::with_seed(seed ^ 0xfeed),
            fx: Effects::default(),
            events: BTreeMap::new(),
            sequence: 0,
            calls: Vec::new(),
            waiting: HashMap::new(),
        }
    }

    fn at(&mut self, at: Time, event: Event) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }

    /// Calls at this rate for this long, at random.
    fn calls(&mut self, rate: f64, time: Duration) {
        let mut at = Duration::ZERO;
        while at < time {
            self.at(self.now + at, Event::Arrive);
            at += Duration::from_secs_f64(-(1.0 - self.random.f64()).ln() / rate);
        }
    }

    fn submit(&mut self, call: usize, returning: Option<Ticket>) {
        let deadline = self.calls[call].began.unwrap() + SEC * 60;
        let new = NewCall { returning, ways: self.ways, ..NewCall::by(deadline) };
        match self.shard.submit(self.now, KEY, &self.config, new, &mut self.fx) {
            Submitted::Admitted(permit) => self.at(self.now, Event::Depart { call, permit }),
            Submitted::Queued { call: id, .. } => _ = self.waiting.insert(id, call),
            Submitted::Refused(refusal) => panic!("{refusal}"),
        }
        self.effects();
    }

    fn effects(&mut self) {
        for effect in self.fx.drain().collect::<Vec<_>>() {
            match effect {
                Effect::Admit { call, permit, .. } => {
                    let call = self.waiting.remove(&call).unwrap();
                    self.at(self.now, Event::Depart { call, permit });
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn send(&mut self, call: usize, permit: Permit) {
        let endpoint = permit.endpoint() as usize - 1;
        self.sent[endpoint].push(self.now);
        let (took, outcome) = (self.serves[endpoint])(self.now, &mut self.random);
        self.at(self.now + took, Event::Head { call, permit, outcome });
    }

    fn depart(&mut self, call: usize, permit: Permit) {
        match self.shard.departed(self.now, permit, &mut self.fx) {
            Departure::Go => {}
            Departure::PutBack(ticket) => {
                self.shard.release(self.now, permit, &mut self.fx);
                return self.submit(call, Some(ticket));
            }
            Departure::Released => panic!(),
        }
        self.calls[call].flying.push(permit);
        self.send(call, permit);
        if let Some(trial) = self.shard.copy(self.now, permit, CopyFor::Trial, &mut self.fx) {
            assert_eq!(self.shard.departed(self.now, trial, &mut self.fx), Departure::Go);
            self.calls[call].trial = Some(trial);
            self.send(call, trial);
        }
        if let Some(late) = self.shard.late_after(permit).filter(|_| self.hedges) {
            self.at(self.now + late, Event::Late { call, permit });
        }
        self.effects();
    }

    fn head(&mut self, call: usize, permit: Permit, outcome: Outcome) {
        let done = &mut self.calls[call];
        if done.trial == Some(permit) {
            done.trial = None;
            self.shard.observe(self.now, permit, Some(&outcome), &mut self.fx);
            self.shard.release(self.now, permit, &mut self.fx);
            return self.effects();
        }
        let Some(at) = done.flying.iter().position(|flying| *flying == permit) else { return };
        done.flying.remove(at);
        let failed = !matches!(outcome, Outcome::Answer { status: 200, .. });
        if failed && !done.flying.is_empty() {
            // The other may still answer.
            self.shard.observe(self.now, permit, Some(&outcome), &mut self.fx);
            self.shard.release(self.now, permit, &mut self.fx);
            return self.effects();
        }
        for loser in std::mem::take(&mut done.flying) {
            self.shard.observe(self.now, loser, None, &mut self.fx);
            self.shard.release(self.now, loser, &mut self.fx);
        }
        let attempt = Attempt {
            policy: &self.policy,
            repeatable: true,
            costs: false,
            replayable: true,
            keyed: false,
            spent: self.calls[call].spent,
        };
        let verdict = self.shard.report(self.now, permit, &outcome, &attempt, &mut self.fx);
        self.shard.release(self.now, permit, &mut self.fx);
        match verdict {
            Verdict::Return(_) => {
                let done = &mut self.calls[call];
                assert!(done.took.is_none(), "answered twice");
                done.took = Some(self.now.since(done.began.unwrap()));
                if let Outcome::Answer { status, .. } = outcome {
                    done.status = status;
                }
                self.effects();
            }
            Verdict::PutBack(ticket) => self.submit(call, Some(ticket)),
            Verdict::Retry(ticket) => {
                self.calls[call].spent += 1;
                self.submit(call, Some(ticket));
            }
        }
    }

    fn run(&mut self) {
        self.run_until(Time::NEVER);
        assert!(self.calls.iter().all(|call| call.took.is_some()), "a call was lost");
        assert_eq!(self.shard.calls(), 0);
    }

    fn run_until(&mut self, until: Time) {
        loop {
            let event = self.events.first_key_value().map_or(Time::NEVER, |((at, _), _)| *at);
            let wake = self.shard.next_wake().unwrap_or(Time::NEVER);
            if event.min(wake) >= until {
                self.now = until.finite().unwrap_or(self.now);
                break;
            }
            self.now = self.now.max(event.min(wake));
            if wake <= event {
                self.shard.tick(self.now, &mut self.fx);
                self.effects();
                continue;
            }
            match self.events.pop_first().unwrap().1 {
                Event::Arrive => {
                    let call = self.calls.len();
                    self.calls.push(Done { began: Some(self.now), ..Done::default() });
                    self.submit(call, None);
                }
                Event::Depart { call, permit } => self.depart(call, permit),
                Event::Head { call, permit, outcome } => self.head(call, permit, outcome),
                Event::Late { call, permit } => {
                    if self.calls[call].flying == [permit]
                        && let Some(copy) = self.shard.copy(self.now, permit, CopyFor::Hedge, &mut self.fx)
                    {
                        assert_eq!(self.shard.departed(self.now, copy, &mut self.fx), Departure::Go);
                        self.calls[call].flying.push(copy);
                        self.send(call, copy);
                        self.effects();
                    }
                }
            }
        }
    }

    /// The p-th of a hundred of the calls that began between these times.
    fn percentile(&self, p: usize, from: Duration, to: Duration) -> Duration {
        let range = START + from..START + to;
        let inside = self.calls.iter().filter(|call| range.contains(&call.began.unwrap()));
        let mut took: Vec<_> = inside.map(|call| call.took.unwrap()).collect();
        took.sort();
        took[(took.len() * p / 100).min(took.len() - 1)]
    }

    fn sent_between(&self, endpoint: usize, from: Duration, to: Duration) -> usize {
        let range = START + from..START + to;
        self.sent[endpoint].iter().filter(|at| range.contains(at)).count()
    }

    fn extra(&self) -> f64 {
        self.sent.iter().map(Vec::len).sum::<usize>() as f64 / self.calls.len() as f64 - 1.0
    }
}

fn endpoints(number: usize, of: impl Fn(usize) -> EndpointSettings) -> Settings {
    let endpoint = |index| EndpointSettings { id: index as u64 + 1, ..of(index) };
    Settings {
        endpoints: (0..number).map(endpoint).collect(),
        // How many requests a destination takes is not what these tests are about.
        limits: vec![Limit::requests(1_000_000, SEC)],
        ..Settings::default()
    }
}

fn weighing(weight: u16) -> EndpointSettings {
    EndpointSettings { weight: NonZeroU16::new(weight).unwrap(), ..EndpointSettings::default() }
}

#[test]
fn endpoints_that_are_about_as_fast_share_the_calls_by_weight() {
    let settings = endpoints(3, |index| weighing([1, 2, 5][index]));
    let mut world = World::new(1, &settings, vec![about(MS * 40), about(MS * 50), about(MS * 60)]);
    world.calls(100.0, SEC * 20);
    world.run();
    let all = world.calls.len() as f64;
    for (endpoint, share) in [(0, 1.0 / 8.0), (1, 2.0 / 8.0), (2, 5.0 / 8.0)] {
        let got = world.sent[endpoint].len() as f64 / all;
        assert!((got - share).abs() < 0.02, "{endpoint}: {got}");
    }
}

#[test]
fn home_is_preferred_unless_another_is_clearly_better() {
    for (home, expected) in [(MS * 80, 1.0), (MS * 400, 0.05)] {
        let settings = endpoints(2, |index| EndpointSettings { home: index == 0, ..weighing(1) });
        let mut world = World::new(2, &settings, vec![about(home), about(MS * 60)]);
        world.calls(50.0, SEC * 60);
        world.run();
        let got = world.sent[0].len() as f64 / world.calls.len() as f64;
        assert!((got - expected).abs() < 0.05, "home takes {home:?}: {got}");
    }
}

#[test]
fn a_region_that_is_ten_times_slower_is_left_alone_at_once_and_used_again_soon_after() {
    for seed in 0..10 {
        let settings = endpoints(3, |_| weighing(1));
        let (from, to) = (SEC * 20, SEC * 80);
        let mut world =
            World::new(seed, &settings, vec![about(MS * 100), slow_between(MS * 100, 10, from, to), about(MS * 100)]);
        world.hedges = true;
        world.calls(60.0, SEC * 140);
        world.run();
        let healthy = world.percentile(99, Duration::ZERO, from);
        // The time of its first fifty requests while it is slow.
        let seen = world.sent[1].iter().filter(|at| **at >= START + from).nth(50);
        let seen = seen.map_or(to, |at| at.since(START).min(to));
        let slow = world.percentile(99, from + SEC, to);
        let asked = world.sent_between(1, from, to);
        println!(
            "{seed}: p99 {healthy:?} healthy, {slow:?} slow, {asked} asked, the 50th at {seen:?}, extra {:.3}",
            world.extra()
        );
        assert!(slow < healthy.mul_f64(1.3), "{seed}: {slow:?} against {healthy:?}");
        assert!(world.extra() <= 0.05, "{seed}: {}", world.extra());
        assert!(asked < 120, "{seed}: {asked}");
        let again = world.sent_between(1, to + SEC * 30, to + SEC * 60) as f64;
        let all = world.calls.iter().filter(|call| call.began.unwrap() >= START + to + SEC * 30).count() as f64;
        assert!(again / all > 0.25, "{seed}: {again} of {all}");
    }
}

#[test]
fn one_that_hangs_is_noticed_before_it_answers() {
    let settings = endpoints(3, |_| weighing(1));
    let (from, to) = (SEC * 10, SEC * 40);
    let mut world =
        World::new(3, &settings, vec![slow_between(MS * 50, 400, from, to), about(MS * 50), about(MS * 50)]);
    world.hedges = true;
    world.calls(100.0, SEC * 60);
    world.run();
    let asked = world.sent_between(0, from, to);
    assert!(asked < 60, "{asked}");
    assert!(world.percentile(98, from, to) < MS * 200, "{:?}", world.percentile(98, from, to));
}

#[test]
fn one_that_hangs_is_noticed_by_who_calls_one_by_one_and_gives_up() {
    // The second is not known yet, or it is.
    for seen in [0, 40] {
        let settings = endpoints(2, |index| EndpointSettings { home: index == 0, ..weighing(1) });
        let config = Arc::new(Config::new(&settings).unwrap());
        let (mut shard, mut fx, mut now) = (Shard::new(7), Effects::default(), START);
        let attempt = Attempt {
            policy: &Effective::default(),
            repeatable: true,
            costs: false,
            replayable: true,
            keyed: false,
            spent: 0,
        };
        let mut call = |hangs: bool, ways: Ways| {
            let new = NewCall { ways, ..NewCall::by(now + SEC) };
            let Submitted::Admitted(permit) = shard.submit(now, KEY, &config, new, &mut fx) else { panic!() };
            assert_eq!(shard.departed(now, permit, &mut fx), Departure::Go);
            if hangs && permit.endpoint() == 1 {
                now += SEC;
            } else {
                now += MS * 20;
                assert!(matches!(shard.report(now, permit, &fine(), &attempt, &mut fx), Verdict::Return(_)));
            }
            shard.release(now, permit, &mut fx);
            now += MS * 100;
            permit.endpoint()
        };
        for n in 0..seen {
            call(false, Ways { allowed: Mask::of(n % 2), ..Ways::ANY });
        }
        let lost = (0..50).filter(|_| call(true, Ways::ANY) == 1).count();
        assert!((1..=2).contains(&lost), "{lost} of 50 calls were lost");
    }
}

#[test]
fn an_endpoint_that_is_added_while_calls_fly_does_no_harm_to_the_first() {
    let both = endpoints(2, |_| weighing(1));
    let one = Settings { endpoints: both.endpoints[..1].to_vec(), ..Settings::default() };
    let mut world = World::new(4, &one, vec![about(MS * 400), about(MS * 400)]);
    for settings in [&both, &one, &both] {
        world.calls(50.0, SEC * 3);
        let until = world.now + MS * 1500;
        world.run_until(until);
        let config = Arc::new(Config::new(settings).unwrap());
        world.shard.reconfigure(world.now, &world.config, &config, &mut world.fx);
        world.config = config;
    }
    world.run();
    let from = world.now;
    world.calls(50.0, SEC * 20);
    world.run();
    let snapshot = world.shard.snapshot(world.now, KEY).unwrap();
    for endpoint in &snapshot.endpoints {
        assert!(endpoint.ejected.is_none() && endpoint.latency.unwrap() < SEC, "{endpoint:?}");
    }
    let share = world.sent_between(0, from.since(START), SEC * 3_600) as f64 / 1_000.0;
    assert!((share - 0.5).abs() < 0.1, "{share}");
}

#[test]
fn a_quiet_destination_uses_an_endpoint_again_soon_after_it_is_well() {
    for seed in 0..10 {
        let settings = endpoints(2, |_| weighing(1));
        let (from, to) = (SEC * 30, SEC * 240);
        let mut world = World::new(seed, &settings, vec![slow_between(MS * 50, 20, from, to), about(MS * 50)]);
        world.calls(1.0, SEC * 400);
        world.run();
        let again = world.sent_between(0, to + SEC * 60, to + SEC * 160);
        assert!(again > 30, "{seed}: {again}");
        let extra = world.extra();
        assert!(extra < 0.1, "{seed}: {extra}");
    }
}

#[test]
fn the_first_of_the_regions_that_a_call_names_is_taken_unless_another_is_clearly_better() {
    for (second, expected) in [(MS * 60, 1.0), (MS * 10, 0.05)] {
        let settings = endpoints(3, |index| EndpointSettings { home: index == 0, ..weighing(1) });
        let mut world = World::new(2, &settings, vec![about(MS * 80), about(second), about(MS * 80)]);
        world.ways.preferred = Ranks::NONE.with(2, 0).with(1, 1);
        world.calls(50.0, SEC * 60);
        world.run();
        let got = world.sent[2].len() as f64 / world.calls.len() as f64;
        assert!((got - expected).abs() < 0.06, "the second takes {second:?}: {got}");
    }
}

#[test]
fn a_refusal_of_one_endpoint_costs_nothing_and_sends_the_call_to_another() {
    let settings = endpoints(2, |_| weighing(1));
    let refuses: Serves = Box::new(|_, _| (MS, status(429, Some(SEC * 5))));
    let mut world = World::new(4, &settings, vec![refuses, about(MS * 20)]);
    world.calls(20.0, SEC * 20);
    world.run();
    assert!(world.calls.iter().all(|call| call.status == 200 && call.spent == 0));
    assert!(world.percentile(100, Duration::ZERO, SEC * 20) < MS * 200);
    assert!(world.sent[0].len() <= 12, "{}: a probe after each pause", world.sent[0].len());
}

/// Out of credit between these times since the start.
fn broke_between(from: Duration, to: Duration) -> Serves {
    let signal = Signal { last_word: true, ..Signal::default() };
    Box::new(move |now, _| match (START + from..START + to).contains(&now) {
        true => (MS, Outcome::Answer { status: 429, signal }),
        false => (MS * 40, fine()),
    })
}

#[test]
fn one_that_is_out_of_credit_is_left_to_copies_until_it_serves_again() {
    let settings = endpoints(2, |index| EndpointSettings { home: index == 0, ..weighing(1) });
    let (from, to) = (SEC * 10, SEC * 70);
    let mut world = World::new(9, &settings, vec![broke_between(from, to), about(MS * 40)]);
    world.calls(50.0, SEC * 140);
    world.run();
    assert!(world.calls.iter().all(|call| call.status == 200 && call.spent == 0));
    assert!(world.percentile(100, from, to) < MS * 150, "nobody waits");
    // One copy in two seconds, and those that leave before the first denial is known.
    let asked = world.sent_between(0, from, to);
    assert!((20..=45).contains(&asked), "{asked}");
    let after = world.sent_between(0, to + SEC * 3, SEC * 140);
    assert!(after > 3_000, "{after}");
}

#[test]
fn where_all_are_out_of_credit_the_answer_is_passed_on_at_once() {
    let settings = endpoints(3, |_| weighing(1));
    let broke = || broke_between(Duration::ZERO, SEC * 60);
    let mut world = World::new(10, &settings, vec![broke(), broke(), broke()]);
    world.calls(20.0, SEC * 25);
    world.run();
    assert!(world.calls.iter().all(|call| call.status == 429));
    assert!(world.percentile(100, Duration::ZERO, SEC * 25) < MS * 10);
    assert!(world.extra() < 0.1, "{}", world.extra());
}

#[test]
fn who_is_denied_by_one_endpoint_waits_for_the_pause_of_another() {
    let settings = endpoints(2, |index| EndpointSettings { home: index == 0, ..weighing(1) });
    let refuses: Serves = Box::new(|now, _| match now < START + SEC * 2 {
        true => (MS, status(429, Some(SEC * 2))),
        false => (MS * 40, fine()),
    });
    let mut world = World::new(11, &settings, vec![broke_between(Duration::ZERO, SEC * 60), refuses]);
    world.calls(1.0, SEC * 10);
    world.run();
    assert!(world.calls.iter().all(|call| call.status == 200 && call.spent == 0));
}

#[test]
fn a_failure_goes_elsewhere_at_once() {
    let settings = endpoints(2, |_| weighing(1));
    let fails: Serves = Box::new(|_, _| (MS, status(503, None)));
    let mut world = World::new(5, &settings, vec![fails, about(MS * 20)]);
    world.calls(20.0, SEC * 20);
    world.run();
    assert!(world.calls.iter().all(|call| call.status == 200 && call.spent <= 1));
    assert!(world.percentile(100, Duration::ZERO, SEC * 20) < MS * 100, "without a backoff");
}

/// Answers like this in a while, and well after about `time` otherwise.
fn wrong_between(time: Duration, wrong: u16, from: Duration, to: Duration) -> Serves {
    Box::new(move |now, random| {
        let outcome = if (START + from..START + to).contains(&now) { status(wrong, None) } else { fine() };
        let quick = matches!(outcome, Outcome::Answer { status: 400..500, .. });
        (if quick { MS * 5 } else { time.mul_f64(0.5 + random.f64()) }, outcome)
    })
}

#[test]
fn a_home_that_fails_all_or_knows_nothing_is_left_for_a_slower_region_and_used_again_when_it_is_back() {
    // From the start, and after a while of good answers.
    for (wrong, first, from) in
        [(500, 20, SEC * 20), (500, 20, Duration::ZERO), (404, 40, SEC * 20), (401, 40, Duration::ZERO)]
    {
        for seed in 0..10 {
            let to = SEC * 80;
            let settings = endpoints(2, |index| EndpointSettings { home: index == 0, ..weighing(1) });
            let serves = vec![wrong_between(MS * 100, wrong, from, to), about(MS * 250)];
            let mut world = World::new(seed, &settings, serves);
            world.calls(20.0, SEC * 140);
            world.run();
            let began = world.sent[0].iter().filter(|at| **at >= START + from).nth(first);
            let noticed = began.map_or(to, |at| at.since(START).min(to));
            let met = world.sent_between(0, noticed, to) as f64;
            let all = world.sent_between(1, noticed, to) as f64;
            println!("{wrong} {seed}: {noticed:?}, then {met} met it, {all} did not");
            assert!(met <= 0.05 * all, "{wrong} {seed}: {met} of {all} since {noticed:?}");
            assert!(world.sent_between(0, from, to) as f64 <= first as f64 + 0.05 * 20.0 * (to - from).as_secs_f64());
            let again = world.sent_between(0, to + SEC * 30, SEC * 140) as f64;
            let other = world.sent_between(1, to + SEC * 30, SEC * 140) as f64;
            assert!(again > 0.8 * (again + other), "{wrong} {seed}: {again} at home, {other} not");
        }
    }
}

#[test]
fn where_all_regions_decline_or_fail_none_is_ejected() {
    for wrong in [404, 500] {
        let settings = endpoints(2, |index| EndpointSettings { home: index == 0, ..weighing(1) });
        let always = || wrong_between(MS * 50, wrong, Duration::ZERO, SEC * 1000);
        let mut world = World::new(8, &settings, vec![always(), always()]);
        world.calls(20.0, SEC * 30);
        world.run();
        let snapshot = world.shard.snapshot(world.now, KEY).unwrap();
        assert!(snapshot.endpoints.iter().all(|endpoint| endpoint.ejected.is_none()), "{wrong}");
    }
}

#[test]
fn each_endpoint_has_limits_of_its_own_and_what_one_does_not_take_goes_to_the_others() {
    let settings =
        endpoints(2, |index| EndpointSettings { limits: vec![Limit::requests([2, 10][index], SEC)], ..weighing(1) });
    let mut world = World::new(6, &settings, vec![about(MS * 20), about(MS * 20)]);
    world.calls(60.0, SEC * 10);
    world.run();
    let took = world.calls.iter().map(|call| call.began.unwrap().since(START) + call.took.unwrap()).max().unwrap();
    let rate = world.calls.len() as f64 / took.as_secs_f64();
    assert!((11.3..=12.0).contains(&rate), "both are used up: {rate}");
    for (endpoint, quota) in [(0, 2), (1, 10)] {
        let sent = &world.sent[endpoint];
        assert!(sent.windows(quota + 1).all(|all| all[quota].since(all[0]) >= SEC), "{endpoint}");
    }
}

#[test]
fn a_call_takes_the_endpoints_that_it_may_and_passes_one_that_waits_for_another() {
    let settings = endpoints(2, |index| EndpointSettings {
        limits: if index == 0 { vec![Limit::requests(1, SEC * 10)] } else { Vec::new() },
        ..weighing(1)
    });
    let mut world = World::new(7, &settings, vec![about(MS * 20), about(MS * 20)]);
    let only = |index| Ways { allowed: Mask::of(index), ..Ways::ANY };
    for _ in 0..3 {
        world.ways = only(0);
        let call = world.calls.len();
        world.calls.push(Done { began: Some(world.now), ..Done::default() });
        world.submit(call, None);
    }
    world.ways = only(1);
    world.calls(10.0, SEC);
    world.run();
    assert_eq!(world.sent[0].len(), 3);
    let others = world.calls.iter().skip(3).map(|call| call.took.unwrap()).max().unwrap();
    assert!(others < MS * 50, "{others:?}");
}
