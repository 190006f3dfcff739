//! What stays of a destination, and what people see of it.

use std::sync::Arc;
use tidegate_core::{
    Effect, Effects, Limit, NewCall, Settings, Shard, Snapshot, Submitted, Time, Verdict, Waiting, shard::Config,
};

use crate::gate::{Gate, KEY, MS, SEC, T, fine, refused};

#[test]
fn the_snapshot_shows_what_a_person_wants_to_know() {
    let mut gate = Gate::ten_a_second();
    let permit = gate.sent();
    gate.now += MS * 40;
    gate.report(permit, fine());
    let waiting = gate.queued();
    gate.queued();
    gate.now += MS * 30;
    let now = gate.shard.snapshot(gate.now, KEY).unwrap();
    assert_eq!((now.queued, now.in_flight, now.counts.succeeded), (2, 0, 1));
    assert_eq!((now.oldest_wait, now.latency), (Some(MS * 30), Some(MS * 40)));
    assert_eq!(now.limits, [Limit::requests(10, SEC)]);
    // The third departure from the start, of which 70 ms have passed.
    assert_eq!(now.next_in, 3 * T - MS * 70);
    assert_eq!(now.lately, (1, 0));
    gate.shard.release_call(gate.now, waiting, &mut gate.fx);
    assert_eq!(gate.shard.snapshot(gate.now, KEY).unwrap().queued, 1);
    assert_eq!(gate.shard.snapshot(gate.now, 7), None);
}

#[test]
fn an_actor_at_rest_is_small_and_the_number_of_them_is_bounded() {
    println!("an actor at rest: {} bytes", Shard::actor_size());
    assert!(Shard::actor_size() <= 208, "{}", Shard::actor_size());
    let mut shard = Shard::with_capacity(1, 10);
    let config = Arc::new(Config::new(&Settings::default()).unwrap());
    let (mut fx, mut now) = (Effects::default(), Time::from_millis(1));
    for key in 0..100 {
        now += SEC;
        let Submitted::Admitted(permit) = shard.submit(now, key, &config, NewCall::by(now + SEC), &mut fx) else {
            panic!()
        };
        shard.release(now, permit, &mut fx);
    }
    assert_eq!((shard.destinations(), shard.calls()), (10, 0));
    let mut known: std::collections::BTreeSet<u128> = (0..100).collect();
    for effect in fx.drain() {
        let Effect::Forgot { key } = effect else { panic!("{effect:?}") };
        assert!(known.remove(&key), "{key} was forgotten twice");
    }
    assert_eq!(known, shard.keys().collect(), "whoever keeps books hears of each that went");
    // Busy ones are never forgotten.
    let mut shard = Shard::with_capacity(1, 2);
    let new = NewCall::by(now + SEC);
    assert!(matches!(shard.submit(now, 1, &config, new, &mut fx), Submitted::Admitted(_)));
    assert!(matches!(shard.submit(now, 2, &config, new, &mut fx), Submitted::Admitted(_)));
    let Submitted::Refused(refusal) = shard.submit(now, 3, &config, new, &mut fx) else { panic!() };
    assert_eq!((refusal.kind(), refusal.value().unwrap_or_default().as_str()), ("too-many-destinations", "2"));
}

#[test]
fn what_was_learned_survives_idling() {
    let mut gate = Gate::new(Settings::default());
    for _ in 0..10 {
        let permit = gate.sent();
        gate.now += MS * 200;
        gate.report(permit, fine());
    }
    let permit = gate.sent();
    let Verdict::PutBack(ticket) = gate.report(permit, refused(Some(SEC))) else { panic!() };
    gate.again(SEC * 60, ticket);
    let [Effect::Admit { permit: probe, .. }] = gate.next()[..] else { panic!() };
    gate.shard.departed(gate.now, probe, &mut gate.fx);
    gate.report(probe, fine());
    let learned = gate.shard.snapshot(gate.now, KEY).unwrap().learned_rate.unwrap();
    // Ten in two seconds, and what they taught is kept a little below.
    assert!(learned > 4.5 && learned < 5.0, "{learned}");
    gate.now += SEC * 3_600;
    assert_eq!(gate.shard.snapshot(gate.now, KEY).unwrap().learned_rate, Some(learned));
}

#[test]
fn what_was_learned_survives_among_so_many_others_that_it_falls_asleep() {
    let mut gate = Gate::new(Settings::default());
    for _ in 0..10 {
        let permit = gate.sent();
        gate.now += MS * 200;
        gate.report(permit, fine());
    }
    let permit = gate.sent();
    let Verdict::PutBack(ticket) = gate.report(permit, refused(Some(SEC))) else { panic!() };
    gate.again(SEC * 60, ticket);
    let [Effect::Admit { permit: probe, .. }] = gate.next()[..] else { panic!() };
    gate.shard.departed(gate.now, probe, &mut gate.fx);
    gate.report(probe, fine());
    let before = gate.shard.snapshot(gate.now, KEY).unwrap();
    let others = |gate: &mut Gate| {
        let config = Arc::new(Config::new(&Settings::default()).unwrap());
        for key in 1000..3000 {
            let new = NewCall::by(gate.now + SEC);
            let Submitted::Admitted(permit) = gate.shard.submit(gate.now, key, &config, new, &mut gate.fx) else {
                panic!()
            };
            gate.shard.release(gate.now, permit, &mut gate.fx);
        }
    };
    others(&mut gate);
    let asleep = gate.shard.snapshot(gate.now, KEY).unwrap();
    let (one, other) = (before.learned_rate.unwrap(), asleep.learned_rate.unwrap());
    assert!((one - other).abs() < 1e-5, "{one} {other}");
    assert_eq!(Snapshot { learned_rate: None, ..asleep }, Snapshot { learned_rate: None, ..before });
    gate.now += SEC;
    // Its pace still holds: of two calls at once the second waits for it.
    let first = gate.sent();
    let Submitted::Queued { why: Waiting::Learned { millis }, .. } = gate.call(SEC * 10) else { panic!() };
    assert!(millis.abs_diff((one * 1000.0) as u64) <= 1, "{millis}");
    // A busy one stays awake.
    others(&mut gate);
    gate.report(first, fine());
}
