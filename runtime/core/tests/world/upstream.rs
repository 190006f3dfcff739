//! An upstream: how it limits, what it says of that, and what else it does.

use super::{SEC, START};
use std::{collections::VecDeque, time::Duration};
use tidegate_core::{
    Outcome, Signal, Time,
    repeat::Failure,
    signal::{Counted, Source, SpentQuota},
};

/// How an upstream limits.
#[derive(Clone, Debug)]
pub enum Law {
    Unlimited,
    Bucket { rate: f64, burst: f64 },
    Fixed { quota: u32, per: Duration },
    Sliding { quota: usize, per: Duration },
    Concurrent { most: u32 },
}

/// What a refusal says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Says {
    Nothing,
    /// Whole seconds, rounded up, at least 1: what most upstreams say.
    Seconds,
    /// The exact wait.
    Exactly,
    /// A millisecond, ten minutes or nothing, by chance.
    Lies,
}

/// What answers state of the quota.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum States {
    Nothing,
    /// Where nothing is left, for how long.
    Truly,
    /// That nothing is left, each time for so long.
    Lies(Duration),
    /// Where nothing is left, when all of it is back, as of a bucket: by answers and refusals.
    AsBucket,
}

/// What a call gets whenever it is sent, whatever the others get.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fate {
    /// An answer of this status without a word about waiting.
    Status(u16),
    /// A 429 that names this wait.
    Wait(Duration),
    /// A 429 that no waiting changes, as of credit that is used up.
    Final,
    /// The connection breaks.
    Broken,
}

impl Fate {
    pub(super) fn outcome(self) -> Outcome {
        let none = Signal::default();
        match self {
            Fate::Status(status) => Outcome::Answer { status, signal: none },
            Fate::Wait(wait) => {
                Outcome::Answer { status: 429, signal: Signal { wait: Some((wait, Source::RetryAfter)), ..none } }
            }
            Fate::Final => Outcome::Answer { status: 429, signal: Signal { last_word: true, ..none } },
            Fate::Broken => Outcome::Failed(Failure::Broken),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Upstream {
    pub law: Law,
    pub says: Says,
    pub states: States,
    /// Time between departure and arrival, each way.
    pub net: Duration,
    /// Time an accepted request takes, from and to.
    pub service: (Duration, Duration),
    /// So many requests are worked on at once; the others wait there, in the order in which they came.
    pub workers: Vec<Time>,
    /// Answers take this many times longer or shorter, one in three: lognormal.
    pub spread: f64,
    /// Time a refusal takes.
    pub refusing: Duration,
    /// Answers 503 (or nothing, when `true`) from and to.
    pub outage: Option<(Time, Time, bool)>,
    /// This call is always refused.
    pub poison: Option<usize>,
    /// Refuses this part of all requests, by chance; with which of these answers, and until when.
    pub moody: f64,
    pub moods: Vec<Outcome>,
    pub well_at: Time,
    /// Refuses every so many-th request.
    pub every: Option<usize>,
    /// The request of this number is refused for a time that has nothing to do with the law.
    pub accident: Option<(usize, Duration)>,
    pub(super) tokens: f64,
    pub(super) last: Time,
    pub(super) window: u64,
    pub(super) count: u32,
    pub(super) recent: VecDeque<Time>,
    pub(super) busy: u32,
}

impl Upstream {
    pub fn new(law: Law, says: Says) -> Upstream {
        let tokens = if let Law::Bucket { burst, .. } = law { burst } else { 0.0 };
        Upstream {
            law,
            says,
            states: States::Nothing,
            net: Duration::from_micros(200),
            service: (Duration::ZERO, Duration::ZERO),
            workers: Vec::new(),
            spread: 1.0,
            refusing: Duration::ZERO,
            outage: None,
            poison: None,
            moody: 0.0,
            moods: Vec::new(),
            well_at: Time::NEVER,
            every: None,
            accident: None,
            tokens,
            last: START,
            window: 0,
            count: 0,
            recent: VecDeque::new(),
            busy: 0,
        }
    }

    pub fn serving(mut self, from: Duration, to: Duration) -> Upstream {
        self.service = (from, to);
        self
    }

    /// A queue of its own.
    pub fn workers(mut self, workers: usize) -> Upstream {
        self.workers = vec![Time::ZERO; workers];
        self
    }

    /// Refusals take as long as answers: the hardest for who has to learn from them.
    pub fn refusing(mut self, after: Duration) -> Upstream {
        self.refusing = after;
        self
    }

    pub fn outage(mut self, from: Duration, to: Duration, silent: bool) -> Upstream {
        self.outage = Some((START + from, START + to, silent));
        self
    }

    /// What an accepted request is told of the quota.
    pub(super) fn told(&self, now: Time) -> Option<SpentQuota> {
        let wait = match (self.states, &self.law) {
            (States::Nothing, _) => None,
            (States::Lies(wait), _) => Some(wait),
            (States::Truly, Law::Bucket { rate, .. }) => {
                (self.tokens < 1.0).then(|| Duration::from_secs_f64((1.0 - self.tokens) / rate))
            }
            (States::Truly, Law::Fixed { quota, per }) => {
                let end = Time::from_nanos((self.window + 1) * per.as_nanos() as u64);
                (self.count >= *quota).then(|| end.since(now))
            }
            (States::Truly, Law::Sliding { quota, per }) => {
                (self.recent.len() >= *quota).then(|| *per - now.since(self.recent[0]))
            }
            _ => None,
        };
        let whole = match (self.states, &self.law) {
            (States::AsBucket, Law::Bucket { rate, burst }) => {
                (self.tokens < 1.0).then(|| (Duration::from_secs_f64((burst - self.tokens) / rate), *burst))
            }
            (States::AsBucket, Law::Fixed { quota, per }) => {
                let end = Time::from_nanos((now.as_nanos() / per.as_nanos() as u64 + 1) * per.as_nanos() as u64);
                (self.count >= *quota).then(|| (end.since(now), f64::from(*quota)))
            }
            _ => None,
        };
        let (source, counted) = (Source::OpenAi, Counted::Requests);
        let bucket = whole.map(|(reset, limit)| SpentQuota { wait: reset.div_f64(limit), reset, source, counted });
        let source = Source::XRateLimit;
        wait.map(|wait| SpentQuota { wait, reset: wait, source, counted }).or(bucket)
    }

    /// `Ok` or how long it really would have to wait.
    pub(super) fn take(&mut self, now: Time) -> Result<(), Duration> {
        match self.law {
            Law::Unlimited => Ok(()),
            Law::Bucket { rate, burst } => {
                self.tokens = (self.tokens + now.since(self.last).as_secs_f64() * rate).min(burst);
                self.last = now;
                if self.tokens >= 1.0 {
                    self.tokens -= 1.0;
                    Ok(())
                } else {
                    Err(Duration::from_secs_f64((1.0 - self.tokens) / rate))
                }
            }
            Law::Fixed { quota, per } => {
                let per = per.as_nanos() as u64;
                let window = now.as_nanos() / per;
                if window != self.window {
                    (self.window, self.count) = (window, 0);
                }
                if self.count < quota {
                    self.count += 1;
                    Ok(())
                } else {
                    Err(Time::from_nanos((window + 1) * per).since(now))
                }
            }
            Law::Sliding { quota, per } => {
                while self.recent.front().is_some_and(|t| now.since(*t) >= per) {
                    self.recent.pop_front();
                }
                if self.recent.len() < quota {
                    self.recent.push_back(now);
                    Ok(())
                } else {
                    Err(per - now.since(self.recent[0]))
                }
            }
            Law::Concurrent { most } => {
                if self.busy < most {
                    self.busy += 1;
                    Ok(())
                } else {
                    Err(SEC)
                }
            }
        }
    }
}
