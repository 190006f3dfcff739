//! Who wakes up, and what of others they take over.

use crate::{
    Attempt, Effective, Effects, Limit, NewCall, Outcome, Permit, Settings, Shard, Signal, Submitted, Time,
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

/// A shard of which so many destinations are awake without being busy, and one destination in three is not limited.
fn limited(most_awake: usize) -> (Shard, [Arc<Config>; 3]) {
    let of = |per_second: u64| {
        let limits = (0..per_second.min(1)).map(|_| Limit::requests(per_second, Duration::from_secs(1)));
        Arc::new(Config::new(&Settings { limits: limits.collect(), ..Settings::default() }).unwrap())
    };
    let mut shard = Shard::new(7);
    shard.partitions().most_awake = most_awake;
    (shard, [of(0), of(2), of(7)])
}

proptest! {
    #[test]
    fn a_configured_limit_holds_to_the_nanosecond_whoever_rested(
        calls in prop::collection::vec((0u8..9, 0u64..1 << 29), 1..300),
    ) {
        let (mut rests, mut wakes) = (limited(1), limited(100));
        let (mut now, mut fx) = (Time::from_millis(1_000_000), Effects::default());
        for (which, passed) in calls {
            now = now.plus_nanos(passed);
            let mut come = |(shard, configs): &mut (Shard, [Arc<Config>; 3])| {
                let new = NewCall::by(now + Duration::from_secs(20));
                let submitted = shard.submit(now, which.into(), &configs[usize::from(which % 3)], new, &mut fx);
                match submitted {
                    Submitted::Admitted(permit) => {
                        shard.departed(now, permit, &mut fx);
                        shard.release(now, permit, &mut fx);
                    }
                    Submitted::Queued { call, .. } => shard.release_call(now, call, &mut fx),
                    Submitted::Refused(_) => {}
                }
                let next = shard.snapshot(now, which.into()).map(|it| it.next_in);
                (matches!(submitted, Submitted::Admitted(_)), next)
            };
            prop_assert_eq!(come(&mut rests), come(&mut wakes));
        }
    }
}

#[test]
fn what_partitions_spend_together_is_forgotten_with_the_last_wherever_it_rests() {
    let (mut shard, mut fx) = (Shard::with_capacity(7, 200), Effects::default());
    let config = Arc::new(Config::new(&Settings::default()).unwrap());
    for key in 0..1000 {
        let now = Time::from_millis(1_000_000);
        let new = NewCall { part_of: (key < 200).then_some(7), ..NewCall::by(now + Duration::from_secs(1)) };
        let Submitted::Admitted(permit) = shard.submit(now, key, &config, new, &mut fx) else { panic!() };
        shard.release(now, permit, &mut fx);
        if key == 199 {
            assert_eq!(shard.budgets().len(), 1);
        }
    }
    assert!(shard.partitions().keys().all(|key| key >= 200));
    assert_eq!(shard.budgets().len(), 0);
}

#[test]
fn settings_reach_those_who_rest() {
    let (mut shard, mut fx) = (Shard::new(7), Effects::default());
    // States of the new settings are longer: others move as their cells are left.
    let [old, other, new] = [(1, 1), (2, 1), (3, 3)].map(|(limit, endpoints)| {
        let limits = vec![Limit::requests(limit, Duration::from_secs(1))];
        let endpoints = (1..=endpoints).map(|id| EndpointSettings { id, ..EndpointSettings::default() }).collect();
        Arc::new(Config::new(&Settings { limits, endpoints, ..Settings::default() }).unwrap())
    });
    let now = Time::from_millis(1_000_000);
    for key in 0..300 {
        let config = if key % 2 == 0 { &old } else { &other };
        let Submitted::Admitted(permit) =
            shard.submit(now, key, config, NewCall::by(now + Duration::from_secs(1)), &mut fx)
        else {
            panic!()
        };
        shard.release(now, permit, &mut fx);
    }
    shard.reconfigure(now, &old, &new, &mut fx);
    for key in 0..300 {
        let limit = shard.snapshot(now, key).unwrap().limits[0].quota;
        assert_eq!(limit, if key % 2 == 0 { 3 } else { 2 }, "{key}");
    }
    assert!(shard.partitions().following(&old).is_empty());
}
