//! A small seeded world of endpoints, and calls that go to them.

pub(crate) use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU16,
    sync::Arc,
    time::Duration,
};
pub(crate) use tidegate_core::{
    Attempt, Call, Effect, Effective, Effects, Limit, NewCall, Outcome, Permit, Settings, Shard, Signal, Submitted,
    Ticket, Time, Verdict,
    endpoint::{EndpointSettings, Mask, Ranks, Ways},
    shard::{Config, CopyFor, Departure},
    signal::Source,
};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SEC: Duration = Duration::from_secs(1);
pub(crate) const START: Time = Time::from_millis(7_200_321);
pub(crate) const KEY: u128 = 5;

/// What an endpoint does with a request that comes at this time.
pub(crate) type Serves = Box<dyn Fn(Time, &mut fastrand::Rng) -> (Duration, Outcome)>;

pub(crate) fn fine() -> Outcome {
    Outcome::Answer { status: 200, signal: Signal::default() }
}

pub(crate) fn status(status: u16, wait: Option<Duration>) -> Outcome {
    let signal = Signal { wait: wait.map(|wait| (wait, Source::RetryAfter)), ..Signal::default() };
    Outcome::Answer { status, signal }
}

/// Answers after about this time: half to one and a half times as long.
pub(crate) fn about(time: Duration) -> Serves {
    Box::new(move |_, random| (time.mul_f64(0.5 + random.f64()), fine()))
}

/// The same, `times` as long between two times since the start.
pub(crate) fn slow_between(time: Duration, times: u32, from: Duration, to: Duration) -> Serves {
    Box::new(move |now, random| {
        let times = if (START + from..START + to).contains(&now) { times } else { 1 };
        (time.mul_f64(0.5 + random.f64()) * times, fine())
    })
}

pub(crate) enum Event {
    Arrive,
    Depart { call: usize, permit: Permit },
    Head { call: usize, permit: Permit, outcome: Outcome },
    Late { call: usize, permit: Permit },
}

#[derive(Default)]
pub(crate) struct Done {
    pub(crate) began: Option<Time>,
    pub(crate) took: Option<Duration>,
    pub(crate) status: u16,
    /// Attempts that fly, the first of which is not a trial.
    pub(crate) flying: Vec<Permit>,
    pub(crate) trial: Option<Permit>,
    pub(crate) spent: u32,
}

pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) shard: Shard,
    pub(crate) config: Arc<Config>,
    pub(crate) policy: Effective,
    pub(crate) hedges: bool,
    pub(crate) ways: Ways,
    pub(crate) serves: Vec<Serves>,
    pub(crate) random: fastrand::Rng,
    pub(crate) fx: Effects,
    pub(crate) events: BTreeMap<(Time, u64), Event>,
    pub(crate) sequence: u64,
    pub(crate) calls: Vec<Done>,
    pub(crate) waiting: HashMap<Call, usize>,
    /// What each endpoint was sent, and when.
    pub(crate) sent: Vec<Vec<Time>>,
}

impl World {
    pub(crate) fn new(seed: u64, settings: &Settings, serves: Vec<Serves>) -> World {
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

    pub(crate) fn at(&mut self, at: Time, event: Event) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }

    /// Calls at this rate for this long, at random.
    pub(crate) fn calls(&mut self, rate: f64, time: Duration) {
        let mut at = Duration::ZERO;
        while at < time {
            self.at(self.now + at, Event::Arrive);
            at += Duration::from_secs_f64(-(1.0 - self.random.f64()).ln() / rate);
        }
    }

    pub(crate) fn submit(&mut self, call: usize, returning: Option<Ticket>) {
        let deadline = self.calls[call].began.unwrap() + SEC * 60;
        let new = NewCall { returning, ways: self.ways, ..NewCall::by(deadline) };
        match self.shard.submit(self.now, KEY, &self.config, new, &mut self.fx) {
            Submitted::Admitted(permit) => self.at(self.now, Event::Depart { call, permit }),
            Submitted::Queued { call: id, .. } => _ = self.waiting.insert(id, call),
            Submitted::Refused(refusal) => panic!("{refusal}"),
        }
        self.effects();
    }

    pub(crate) fn effects(&mut self) {
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

    pub(crate) fn send(&mut self, call: usize, permit: Permit) {
        let endpoint = permit.endpoint() as usize - 1;
        self.sent[endpoint].push(self.now);
        let (took, outcome) = (self.serves[endpoint])(self.now, &mut self.random);
        self.at(self.now + took, Event::Head { call, permit, outcome });
    }

    pub(crate) fn depart(&mut self, call: usize, permit: Permit) {
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

    pub(crate) fn head(&mut self, call: usize, permit: Permit, outcome: Outcome) {
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

    pub(crate) fn run(&mut self) {
        self.run_until(Time::NEVER);
        assert!(self.calls.iter().all(|call| call.took.is_some()), "a call was lost");
        assert_eq!(self.shard.calls(), 0);
    }

    pub(crate) fn run_until(&mut self, until: Time) {
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
    pub(crate) fn percentile(&self, p: usize, from: Duration, to: Duration) -> Duration {
        let range = START + from..START + to;
        let inside = self.calls.iter().filter(|call| range.contains(&call.began.unwrap()));
        let mut took: Vec<_> = inside.map(|call| call.took.unwrap()).collect();
        took.sort();
        took[(took.len() * p / 100).min(took.len() - 1)]
    }

    pub(crate) fn sent_between(&self, endpoint: usize, from: Duration, to: Duration) -> usize {
        let range = START + from..START + to;
        self.sent[endpoint].iter().filter(|at| range.contains(at)).count()
    }

    pub(crate) fn extra(&self) -> f64 {
        self.sent.iter().map(Vec::len).sum::<usize>() as f64 / self.calls.len() as f64 - 1.0
    }
}

pub(crate) fn endpoints(number: usize, of: impl Fn(usize) -> EndpointSettings) -> Settings {
    let endpoint = |index| EndpointSettings { id: index as u64 + 1, ..of(index) };
    Settings {
        endpoints: (0..number).map(endpoint).collect(),
        // How many requests a destination takes is not what these tests are about.
        limits: vec![Limit::requests(1_000_000, SEC)],
        ..Settings::default()
    }
}

pub(crate) fn weighing(weight: u16) -> EndpointSettings {
    EndpointSettings { weight: NonZeroU16::new(weight).unwrap(), ..EndpointSettings::default() }
}
