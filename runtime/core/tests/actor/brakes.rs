//! What an operator does: pauses, drains, flushes, resumes.

use std::{collections::BTreeSet, sync::Arc};

use tidegate_core::{
    Effect, NewCall, Refusal, Settings, Submitted, Time, Verdict,
    shard::{Brake, Config, Departure},
};

use crate::gate::{Gate, KEY, MS, SEC, refused};

/// Another partition.
const OTHER: u128 = KEY + 1;

impl Gate {
    fn brake(&mut self, brake: Brake) {
        let old = Arc::clone(&self.config);
        self.config = Arc::new(Config::new(&Settings { brake, ..Settings::default() }).unwrap());
        self.shard.reconfigure(self.now, &old, &self.config.clone(), &mut self.fx);
    }
}

fn gate() -> Gate {
    let mut gate = Gate::new(Settings::default());
    // It is known there.
    let permit = gate.sent();
    gate.shard.release(gate.now, permit, &mut gate.fx);
    gate
}

#[test]
fn a_paused_destination_takes_calls_and_lets_none_go_until_it_is_resumed() {
    let mut gate = gate();
    gate.brake(Brake::Paused { until: Time::NEVER });
    let Submitted::Queued { call, why, .. } = gate.call(SEC * 60) else { panic!() };
    assert_eq!(why.to_string(), "paused by an operator");
    assert_eq!(gate.shard.snapshot(gate.now, KEY).unwrap().brake, Brake::Paused { until: Time::NEVER });
    gate.now += SEC * 30;
    gate.shard.tick(gate.now, &mut gate.fx);
    assert!(gate.effects().is_empty());
    gate.brake(Brake::Off);
    let [Effect::Admit { call: admitted, .. }] = gate.effects()[..] else { panic!() };
    assert_eq!(admitted, call);
}

#[test]
fn a_pause_with_an_end_ends_by_itself_and_turns_away_who_can_not_wait_for_it() {
    let mut gate = gate();
    let until = gate.now + SEC * 10;
    gate.queued_behind(Brake::Paused { until });
    let Submitted::Refused(refusal) = gate.call(SEC * 5) else { panic!() };
    assert_eq!((refusal.kind(), refusal.retry_after()), ("deadline-unreachable", Some(SEC * 10)));
    assert!(matches!(gate.next()[..], [Effect::Admit { .. }]));
    assert_eq!(gate.now, until);
    assert_eq!(gate.shard.snapshot(gate.now, KEY).unwrap().brake, Brake::Off);
    gate.admitted();
}

impl Gate {
    fn queued_behind(&mut self, brake: Brake) {
        self.brake(brake);
        self.queued();
    }
}

#[test]
fn a_drained_destination_takes_no_further_call_and_lets_go_what_waits() {
    let mut gate = Gate::new(Settings { max_concurrency: Some(1), ..Settings::default() });
    let permit = gate.sent();
    let waiting = gate.queued();
    let old = Arc::clone(&gate.config);
    let brake = Brake::Draining { until: gate.now + SEC * 60 };
    gate.config = Arc::new(Config::new(&Settings { max_concurrency: Some(1), brake, ..Settings::default() }).unwrap());
    gate.shard.reconfigure(gate.now, &old, &gate.config.clone(), &mut gate.fx);
    let Submitted::Refused(refusal) = gate.call(SEC * 5) else { panic!() };
    assert_eq!((refusal.kind(), refusal.retry_after()), ("draining", Some(SEC * 60)));
    gate.shard.release(gate.now, permit, &mut gate.fx);
    let [Effect::Admit { call, .. }] = gate.effects()[..] else { panic!() };
    assert_eq!(call, waiting);
    gate.now += SEC * 61;
    assert!(!matches!(gate.call(SEC), Submitted::Refused(_)), "its time is over");
}

#[test]
fn a_flush_refuses_everything_that_waits_and_nothing_that_flies() {
    let mut gate = Gate::one_at_a_time();
    let _flying = gate.sent();
    (0..3).for_each(|_| _ = gate.queued());
    gate.now += MS * 1500;
    assert_eq!(gate.shard.flush(gate.now, KEY, &mut gate.fx), 3);
    let effects = gate.effects();
    assert_eq!(effects.len(), 3);
    for effect in effects {
        let Effect::Refuse { refusal, .. } = effect else { panic!() };
        assert_eq!(refusal, Refusal::Flushed { waited: MS * 1500 });
        assert_eq!((refusal.kind(), refusal.retry_after()), ("flushed", None));
    }
    let rest = gate.shard.snapshot(gate.now, KEY).unwrap();
    assert_eq!((rest.queued, rest.in_flight), (0, 1));
}

#[test]
fn a_resume_ends_a_pause_that_the_destination_asked_for() {
    let mut gate = gate();
    let permit = gate.sent();
    gate.report(permit, refused(Some(SEC * 300)));
    let waiting = match gate.call(SEC * 600) {
        Submitted::Queued { call, .. } => call,
        other => panic!("{other:?}"),
    };
    gate.shard.resume(gate.now, KEY, &mut gate.fx);
    let [Effect::Admit { call, .. }] = gate.effects()[..] else { panic!() };
    assert_eq!(call, waiting);
    assert_eq!(gate.shard.snapshot(gate.now, KEY).unwrap().paused, None);
}

#[test]
fn a_call_that_was_admitted_before_an_operator_paused_does_not_leave_after_it() {
    let mut gate = gate();
    let permit = gate.admitted();
    gate.brake(Brake::Paused { until: Time::NEVER });
    let Departure::PutBack(ticket) = gate.shard.departed(gate.now, permit, &mut gate.fx) else { panic!() };
    gate.shard.release(gate.now, permit, &mut gate.fx);
    let Submitted::Queued { call, .. } = gate.again(SEC * 60, ticket) else { panic!() };
    gate.brake(Brake::Off);
    let [Effect::Admit { call: admitted, permit, .. }] = gate.effects()[..] else { panic!() };
    assert_eq!(admitted, call);
    assert_eq!(gate.shard.departed(gate.now, permit, &mut gate.fx), Departure::Go);
}

#[test]
fn a_pause_by_an_operator_turns_away_at_once_who_waits_and_can_not_wait_for_its_end() {
    let mut gate = gate();
    gate.brake(Brake::Paused { until: Time::NEVER });
    let short = gate.queued();
    let Submitted::Queued { call: long, .. } = gate.call(SEC * 7200) else { panic!() };
    assert!(gate.effects().is_empty());
    gate.brake(Brake::Paused { until: gate.now + SEC * 3600 });
    let [Effect::Refuse { call, refusal }] = gate.effects()[..] else { panic!() };
    assert_eq!((call, refusal.retry_after()), (short, Some(SEC * 3600)));
    assert!(refusal.to_string().contains("paused by an operator"), "{refusal}");
    gate.brake(Brake::Off);
    let [Effect::Admit { call, .. }] = gate.effects()[..] else { panic!() };
    assert_eq!(call, long);
}

#[test]
fn what_is_sent_on_keeps_its_place_and_waits_out_the_upstream_s_pause_but_no_operator_s() {
    for (paused, braked) in [(false, true), (true, false), (true, true)] {
        let mut gate = gate();
        if paused {
            let permit = gate.sent();
            gate.report(permit, refused(Some(SEC * 30)));
        }
        if braked {
            gate.brake(Brake::Paused { until: Time::NEVER });
        }
        let earlier = gate.queued();
        gate.now += SEC;
        let later = gate.queued();
        gate.effects();
        assert_eq!(gate.shard.send_on(gate.now, KEY, &mut gate.fx), 2);
        let sent: Vec<_> = gate.effects();
        let [Effect::SentOn { call: first, ticket: one }, Effect::SentOn { call: second, ticket: two }] = sent[..]
        else {
            panic!("{sent:?}")
        };
        let (one, two) = if first == earlier { (one, two) } else { (two, one) };
        assert_eq!([first, second].into_iter().collect::<BTreeSet<_>>(), [earlier, later].into_iter().collect());
        assert_eq!(gate.shard.snapshot(gate.now, KEY).unwrap().queued, 0);
        // They are gone here: whoever goes away takes nothing along.
        gate.shard.release_call(gate.now, first, &mut gate.fx);
        // Elsewhere they are served in their order, behind nobody who came after them.
        let config = Arc::new(Config::new(&Settings { max_concurrency: Some(1), ..Settings::default() }).unwrap());
        let ask = |gate: &mut Gate, returning| {
            let new = NewCall { returning, ..NewCall::by(gate.now + SEC * 600) };
            gate.shard.submit(gate.now, OTHER, &config, new, &mut gate.fx)
        };
        assert_eq!((one.not_before() > gate.now, two.not_before() > gate.now), (paused, paused));
        gate.now = gate.now.max(one.not_before());
        let Submitted::Admitted(holds) = ask(&mut gate, None) else { panic!() };
        let Submitted::Queued { call: new, .. } = ask(&mut gate, None) else { panic!() };
        let Submitted::Queued { call: second, .. } = ask(&mut gate, Some(two)) else { panic!() };
        let Submitted::Queued { call: first, .. } = ask(&mut gate, Some(one)) else { panic!() };
        let mut holds = holds;
        for next in [first, second, new] {
            gate.shard.release(gate.now, holds, &mut gate.fx);
            let [Effect::Admit { call, permit, .. }] = gate.effects()[..] else { panic!() };
            assert_eq!(call, next, "paused {paused}, braked {braked}");
            holds = permit;
        }
    }
}

#[test]
fn a_ticket_takes_nothing_along_that_only_its_partition_could_judge() {
    let mut gate = gate();
    let permit = gate.sent();
    let Verdict::PutBack(ticket) = gate.report(permit, refused(Some(SEC * 30))) else { panic!() };
    let config = Arc::new(Config::new(&Settings::default()).unwrap());
    let new = NewCall { returning: Some(ticket.elsewhere()), ..NewCall::by(gate.now + SEC * 60) };
    let submitted = gate.shard.submit(gate.now, OTHER, &config, new, &mut gate.fx);
    assert!(matches!(submitted, Submitted::Admitted(_)), "{submitted:?}");
}
