//! A shard full of destinations, for the benches: `cargo bench -p tidegate-benches`.

use std::sync::Arc;
use tidegate_core::{
    Attempt, Effective, Effects, NewCall, Outcome, Settings, Shard, Signal, Submitted, Time, shard::Config,
};

/// A shard and what is needed to drive it.
#[derive(Debug)]
pub struct Rig {
    shard: Shard,
    config: Arc<Config>,
    policy: Effective,
    fx: Effects,
    now: Time,
    random: u64,
    destinations: u64,
}

impl Rig {
    /// A shard that knows `destinations` destinations with these settings, each of which has answered once.
    pub fn new(destinations: u64, settings: &Settings) -> Rig {
        let mut rig = Rig {
            shard: Shard::new(1),
            config: Arc::new(Config::new(settings).unwrap_or_default()),
            policy: Effective::default(),
            fx: Effects::default(),
            now: Time::from_millis(1_000),
            random: 1,
            destinations,
        };
        for key in 0..destinations {
            rig.whole_call(key);
        }
        rig
    }

    /// The next destination, uniformly spread (an LCG: cheaper than what is measured).
    pub fn anyone(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % self.destinations
    }

    fn key(number: u64) -> u128 {
        u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
    }

    /// Admission and release, nothing between. Whether it was admitted.
    pub fn admission(&mut self, key: u64) -> bool {
        self.now = self.now.plus_nanos(400);
        let new = NewCall::by(self.now.plus_nanos(60_000_000_000));
        match self.shard.submit(self.now, Self::key(key), &self.config, new, &mut self.fx) {
            Submitted::Admitted(permit) => {
                self.shard.release(self.now, permit, &mut self.fx);
                true
            }
            Submitted::Queued { call, .. } => {
                self.shard.release_call(self.now, call, &mut self.fx);
                false
            }
            Submitted::Refused(_) => false,
        }
    }

    /// Everything that happens to a call that is answered: admission, departure, outcome, release.
    pub fn whole_call(&mut self, key: u64) -> bool {
        self.now = self.now.plus_nanos(400);
        let new = NewCall::by(self.now.plus_nanos(60_000_000_000));
        let submitted = self.shard.submit(self.now, Self::key(key), &self.config, new, &mut self.fx);
        let permit = match submitted {
            Submitted::Admitted(permit) => permit,
            Submitted::Queued { call, .. } => {
                self.shard.release_call(self.now, call, &mut self.fx);
                return false;
            }
            Submitted::Refused(_) => return false,
        };
        self.shard.departed(self.now, permit, &mut self.fx);
        let outcome = Outcome::Answer { status: 200, signal: Signal::default() };
        let attempt =
            Attempt { policy: &self.policy, repeatable: true, costs: false, replayable: true, keyed: false, spent: 0 };
        self.shard.report(self.now, permit, &outcome, &attempt, &mut self.fx);
        self.shard.release(self.now, permit, &mut self.fx);
        true
    }

    /// One more call queues behind the others of destination 0.
    pub fn queue(&mut self) {
        let new = NewCall::by(self.now.plus_nanos(u64::MAX / 4));
        self.shard.submit(self.now, Self::key(0), &self.config, new, &mut self.fx);
    }

    /// The next timer: how many calls it let go.
    pub fn tick(&mut self) -> usize {
        if let Some(wake) = self.shard.next_wake() {
            self.now = wake;
            self.shard.tick(wake, &mut self.fx);
        }
        let admitted: Vec<_> = self.fx.drain().collect();
        let count = admitted.len();
        for effect in admitted {
            if let tidegate_core::Effect::Admit { permit, .. } = effect {
                self.shard.departed(self.now, permit, &mut self.fx);
                self.shard.release(self.now, permit, &mut self.fx);
            }
        }
        count
    }
}
