//! Calls that have another answer, a stale one.

use crate::gate::*;
use tidegate_core::{Effect, NewCall, Refusal, Settings, Submitted, Ticket, Verdict, Waiting};

fn spared(gate: &mut Gate, returning: Option<Ticket>) -> Submitted {
    gate.submit(NewCall { fallback: true, returning, ..NewCall::by(gate.now + SEC * 60) })
}

fn reason(refusal: Refusal) -> Waiting {
    match refusal {
        Refusal::Spared { why, .. } => why,
        other => panic!("{other:?}"),
    }
}

fn refused_for(submitted: Submitted) -> Waiting {
    match submitted {
        Submitted::Refused(refusal) => reason(refusal),
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_has_another_answer_waits_for_its_turn_but_for_no_pause() {
    let mut gate = Gate::ten_a_second();
    let flying = gate.sent();
    let Submitted::Queued { call, .. } = spared(&mut gate, None) else { panic!("there is a limit") };
    gate.queued();
    assert!(gate.effects().is_empty());
    gate.report(flying, refused(Some(SEC * 5)));
    let effects = gate.effects();
    match effects.as_slice() {
        [Effect::Refuse { call: gone, refusal }] => {
            assert_eq!(*gone, call);
            assert!(matches!(reason(*refusal), Waiting::Paused { .. }), "{refusal:?}");
        }
        other => panic!("{other:?}"),
    }
    let why = refused_for(spared(&mut gate, None));
    assert!(matches!(why, Waiting::Paused { .. } | Waiting::Limit(_)), "{why:?}");
}

#[test]
fn who_has_another_answer_waits_for_no_probe_but_may_be_one() {
    let mut gate = Gate::new(Settings::default());
    let flying = gate.sent();
    gate.report(flying, refused(Some(SEC * 5)));
    assert!(matches!(refused_for(spared(&mut gate, None)), Waiting::Paused { .. }));
    gate.now += SEC * 20;
    let Submitted::Admitted(probe) = spared(&mut gate, None) else { panic!("the pause is over") };
    assert!(matches!(refused_for(spared(&mut gate, None)), Waiting::Probe(_)));
    gate.shard.departed(gate.now, probe, &mut gate.fx);
    gate.report(probe, fine());
    assert!(matches!(spared(&mut gate, None), Submitted::Admitted(_)));
}

#[test]
fn who_has_another_answer_and_comes_back_leaves_at_once_or_not_at_all() {
    let mut gate = Gate::ten_a_second();
    let flying = gate.sent();
    let Verdict::PutBack(ticket) = gate.report(flying, refused(None)) else { panic!("a 429 is put back") };
    let ticket = ticket.elsewhere();
    gate.now += SEC * 60;
    let Submitted::Admitted(permit) = spared(&mut gate, Some(ticket)) else { panic!("nothing is in its way") };
    gate.shard.departed(gate.now, permit, &mut gate.fx);
    gate.report(permit, fine());
    let why = refused_for(spared(&mut gate, Some(ticket)));
    assert!(matches!(why, Waiting::Limit(_) | Waiting::Learned { .. }), "{why:?}");
    assert!(matches!(spared(&mut gate, None), Submitted::Queued { .. }));
}
