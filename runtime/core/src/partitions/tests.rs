//! Who wakes up, and what of others they take over.

use crate::{
    Attempt, Effective, Effects, NewCall, Outcome, Permit, Settings, Shard, Signal, Submitted, Time,
    endpoint::EndpointSettings, shard::Config,
};
use proptest::prelude::*;
use std::{sync::Arc, time::Duration};

/// Something happens to one of a few destinations.
#[derive(Debug, Clone, Copy)]
enum Event {
    Submit(u8),
    Depart(usize),
    Answer(usize, u16),
    Release(usize),
    Pass(u16),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let status = prop::sample::select(vec![200, 200, 200, 429, 500, 503]);
    let event = prop_oneof![
        4 => (0u8..6).prop_map(Event::Submit),
        3 => any::<usize>().prop_map(Event::Depart),
        3 => (any::<usize>(), status).prop_map(|(which, status)| Event::Answer(which, status)),
        3 => any::<usize>().prop_map(Event::Release),
        3 => (0u16..3000).prop_map(Event::Pass),
    ];
    prop::collection::vec(event, 1..400)
}

/// A shard of which one destination at most is awake without being busy.
struct Rig {
    shard: Shard,
    configs: [Arc<Config>; 3],
    permits: Vec<Permit>,
    fx: Effects,
    now: Time,
}

impl Rig {
    fn new() -> Rig {
        let of = |endpoints: u64| {
            let endpoints = (1..=endpoints).map(|id| EndpointSettings { id, ..EndpointSettings::default() });
            let settings = Settings { endpoints: endpoints.collect(), ..Settings::default() };
            Arc::new(Config::new(&settings).unwrap())
        };
        let mut shard = Shard::new(7);
        shard.partitions().most_awake = 1;
        let now = Time::from_millis(1_000_000);
        Rig { shard, configs: [of(0), of(2), of(3)], permits: Vec::new(), fx: Effects::default(), now }
    }

    /// What the shard says to it.
    fn happens(&mut self, event: Event) -> String {
        let (now, fx) = (self.now, &mut self.fx);
        let permit = |which: usize| self.permits.get(which % self.permits.len().max(1)).copied();
        let said = match event {
            Event::Pass(millis) => {
                self.now += Duration::from_millis(u64::from(millis));
                self.shard.tick(self.now, fx);
                String::new()
            }
            Event::Submit(which) => {
                let new = NewCall::by(now + Duration::from_secs(20));
                let config = &self.configs[usize::from(which % 3)];
                let submitted = self.shard.submit(now, u128::from(which), config, new, fx);
                if let Submitted::Admitted(permit) = submitted {
                    self.permits.push(permit);
                }
                format!("{submitted:?}")
            }
            Event::Depart(which) => match permit(which) {
                Some(permit) => format!("{:?}", self.shard.departed(now, permit, fx)),
                None => String::new(),
            },
            Event::Answer(which, status) => {
                let outcome = Outcome::Answer { status, signal: Signal::default() };
                let policy = Effective::default();
                let attempt = Attempt {
                    policy: &policy,
                    repeatable: true,
                    costs: false,
                    replayable: true,
                    keyed: false,
                    spent: 0,
                };
                match permit(which) {
                    Some(permit) => format!("{:?}", self.shard.report(now, permit, &outcome, &attempt, fx)),
                    None => String::new(),
                }
            }
            Event::Release(which) => {
                if let Some(permit) = permit(which) {
                    self.permits.retain(|other| *other != permit);
                    self.shard.release(now, permit, fx);
                }
                String::new()
            }
        };
        let effects: Vec<_> = self.fx.drain().collect();
        for effect in &effects {
            if let crate::Effect::Admit { permit, .. } = effect {
                self.permits.push(*permit);
            }
        }
        let seen: Vec<_> = (0..6).map(|key| self.shard.snapshot(self.now, key)).collect();
        format!("{said} {effects:?} {seen:?}")
    }
}

proptest! {
    /// Whose allocations a state takes when it wakes up makes no difference.
    #[test]
    fn who_wakes_up_in_the_place_of_another_is_itself(events in events()) {
        let (mut reused, mut fresh) = (Rig::new(), Rig::new());
        for event in events {
            fresh.shard.partitions().afresh = true;
            prop_assert_eq!(reused.happens(event), fresh.happens(event));
        }
    }
}
