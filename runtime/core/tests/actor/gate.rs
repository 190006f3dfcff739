//! A destination with a clock in the hand of its test.

use std::{sync::Arc, time::Duration};
use tidegate_core::{
    Attempt, Call, Effect, Effective, Effects, Limit, NewCall, Outcome, Permit, Settings, Shard, Signal, Submitted,
    Ticket, Time, Verdict,
    shard::{Config, Departure},
    signal::Source,
};

pub(crate) const SEC: Duration = Duration::from_secs(1);
pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const KEY: u128 = 42;

pub(crate) struct Gate {
    pub(crate) shard: Shard,
    pub(crate) config: Arc<Config>,
    pub(crate) fx: Effects,
    pub(crate) now: Time,
    pub(crate) policy: Effective,
}

/// The first attempt of a call that may be repeated at no cost.
pub(crate) fn first_attempt(policy: &Effective) -> Attempt<'_> {
    Attempt { policy, repeatable: true, costs: false, replayable: true, keyed: false, spent: 0 }
}

impl Gate {
    pub(crate) fn new(settings: Settings) -> Gate {
        Gate {
            shard: Shard::new(1),
            config: Arc::new(Config::new(&settings).unwrap()),
            fx: Effects::default(),
            now: Time::from_millis(500_000),
            policy: Effective::default(),
        }
    }

    pub(crate) fn ten_a_second() -> Gate {
        Gate::new(Settings { limits: vec![Limit::requests(10, SEC)], ..Settings::default() })
    }

    pub(crate) fn one_at_a_time() -> Gate {
        Gate::new(Settings { max_concurrency: Some(1), ..Settings::default() })
    }

    pub(crate) fn submit(&mut self, new: NewCall) -> Submitted {
        self.shard.submit(self.now, KEY, &self.config, new, &mut self.fx)
    }

    pub(crate) fn call(&mut self, within: Duration) -> Submitted {
        self.submit(NewCall::by(self.now + within))
    }

    pub(crate) fn again(&mut self, within: Duration, ticket: Ticket) -> Submitted {
        self.submit(NewCall { returning: Some(ticket), ..NewCall::by(self.now + within) })
    }

    pub(crate) fn admitted(&mut self) -> Permit {
        match self.call(SEC * 60) {
            Submitted::Admitted(permit) => permit,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn queued(&mut self) -> Call {
        match self.call(SEC * 60) {
            Submitted::Queued { call, .. } => call,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn sent(&mut self) -> Permit {
        let permit = self.admitted();
        assert_eq!(self.shard.departed(self.now, permit, &mut self.fx), Departure::Go);
        permit
    }

    pub(crate) fn report(&mut self, permit: Permit, outcome: Outcome) -> Verdict {
        let verdict = self.shard.report(self.now, permit, &outcome, &first_attempt(&self.policy), &mut self.fx);
        self.shard.release(self.now, permit, &mut self.fx);
        verdict
    }

    pub(crate) fn effects(&mut self) -> Vec<Effect> {
        self.fx.drain().collect()
    }

    /// Goes to the next timer and returns what it did.
    pub(crate) fn next(&mut self) -> Vec<Effect> {
        self.now = self.shard.next_wake().expect("a timer");
        self.shard.tick(self.now, &mut self.fx);
        self.effects()
    }
}

pub(crate) fn refused(wait: Option<Duration>) -> Outcome {
    let signal = Signal { wait: wait.map(|wait| (wait, Source::RetryAfter)), ..Signal::default() };
    Outcome::Answer { status: 429, signal }
}

pub(crate) fn fine() -> Outcome {
    Outcome::Answer { status: 200, signal: Signal::default() }
}

/// What ten a second leave between two departures: (1 s + 15.625 ms of jitter + 3 ms of slack) / 10.
pub(crate) const T: Duration = Duration::from_nanos(101_862_500);
