//! What becomes of a call that was admitted: it departs, its outcome is reported, it is over.

use super::{ASIDE, Actor, Context, FIRST_ASIDE, OTHERS, OWNED_AFTER};
use crate::{
    calls::{Call, Permit, Phase, Ticket},
    guard::{Guard, Said},
    refusal::Cause,
    repeat::{Attempt, Class, Decision, Facts, Outcome, Reason, after},
    shard::{Departure, Verdict},
    time::Time,
};
use std::time::Duration;

impl Actor {
    /// The first byte is about to leave. Not while the destination is paused: then the call goes back.
    pub(crate) fn departed(&mut self, permit: Permit, cx: &mut Context<'_>) -> Departure {
        let Some(entry) = cx.calls.get_mut(permit.0) else { return Departure::Released };
        if entry.phase != Phase::Admitted {
            return Departure::Go;
        }
        if self.guard.stops(permit.0) {
            return Departure::PutBack(Ticket { not_before: Time::ZERO, ..entry.ticket });
        }
        self.paces.departed(&self.config.limits, entry.cost, entry.charge, cx.now);
        entry.phase = Phase::Departed;
        entry.left = cx.now;
        if let (Some(passes), Some(_)) = (self.guard.departed(permit.0, cx.now), &self.busy) {
            self.wake = self.wake.min(passes);
        }
        Departure::Go
    }

    pub(crate) fn report(
        &mut self,
        permit: Permit,
        outcome: &Outcome,
        attempt: &Attempt<'_>,
        cx: &mut Context<'_>,
    ) -> Verdict {
        let (call, now) = (permit.0, cx.now);
        let Some(entry) = cx.calls.get_mut(call) else { return Verdict::Return(Reason::Released) };
        // An answer proves that the request left, whatever we were told.
        let departed = match (entry.phase, outcome) {
            (Phase::Departed, _) => true,
            (Phase::Admitted, Outcome::Answer { .. }) => {
                self.paces.departed(&self.config.limits, entry.cost, entry.charge, entry.left);
                true
            }
            (Phase::Admitted, Outcome::Failed(_)) => {
                self.paces.refund(&self.config.limits, entry.cost, entry.charge, now);
                false
            }
            (Phase::Waiting | Phase::Reported, _) => return Verdict::Return(Reason::Released),
        };
        entry.phase = Phase::Reported;
        let (left, deadline, mut ticket) = (entry.left, entry.deadline, entry.ticket);
        ticket.not_before = Time::ZERO;
        ticket.again = true;
        let class = outcome.class();
        self.count(outcome, class, now.since(left));
        let status = match outcome {
            Outcome::Answer { status, .. } => Some(*status),
            Outcome::Failed(_) => None,
        };
        let resumed = self.guard.resumes(true, now);
        let fresh = ticket.is_fresh();
        // Whether others' success shows that the destination has nothing to do with it.
        let mut own = false;
        match (class, outcome) {
            (Class::Refused, Outcome::Answer { status, signal }) => {
                let wait = signal.wait.map(|(wait, _)| wait.min(self.config.max_pause));
                own = self.count_refusal(&mut ticket, wait.is_some(), now);
                if own {
                    self.guard.misled(call, ticket.cut);
                } else {
                    let cause = Cause::Refused { status: *status, by: signal.wait.map(|(_, by)| by) };
                    let (waiting, believed) = (self.busy.is_some(), self.config.believed_pause);
                    let said = Said { left, cause, wait, waiting, believed, fresh };
                    self.guard.refused(call, said, cx.random, now);
                }
                ticket.last_cut = self.guard.cuts();
                if ticket.cut == 0 {
                    ticket.cut = ticket.last_cut;
                }
                if self.busy.is_some() || self.guard.unanswered() > 0 {
                    // Others go first for a while: if they pass, the refusal is this call's own.
                    let believed = self.config.believed_pause;
                    let wait = wait.map(|wait| Guard::believed(wait, believed)).unwrap_or_default();
                    let again = ASIDE.saturating_mul(1 << u32::from(ticket.tries.saturating_sub(2)).min(4));
                    let aside = if fresh { FIRST_ASIDE } else { again }.mul_f64(0.75 + cx.random.f64() / 2.0);
                    ticket.not_before = self.guard.resumes(false, now).max(now + wait) + aside;
                }
            }
            (Class::Down, _) => {
                // Another that left after this one failed did pass.
                own = !fresh && self.guard.passed_since(ticket.failed);
                ticket.tries = ticket.tries.saturating_add(1);
                ticket.failed = now;
                if own {
                    self.guard.forgotten(call);
                } else {
                    self.guard.failed(call, left, status, fresh, cx.random, now);
                }
            }
            (Class::Faulty | Class::Denied, _) => self.guard.faulty(call, now),
            _ => self.guard.accepted(call, left, now),
        }
        let facts = Facts {
            departed,
            // What is the call's own costs it an attempt: waiting for the destination would not help.
            down: self.guard.is_down() && !own,
            owns_refusal: ticket.refusals >= OWNED_AFTER,
            resumes: self.guard.resumes(ticket.is_fresh(), now).max(ticket.not_before),
            deadline,
        };
        let (spent, budget) = (&mut self.spent, &self.config.retry_budget);
        let verdict = match after(outcome, attempt, &facts, || spent.retry(budget, now), cx.random, now) {
            Decision::Return(reason) => Verdict::Return(reason),
            Decision::PutBack => Verdict::PutBack(ticket),
            Decision::Retry(delay) => Verdict::Retry(Ticket { not_before: now + delay, ..ticket }),
        };
        if self.guard.resumes(true, now) > resumed {
            self.recheck(cx);
        }
        self.pump(cx);
        verdict
    }

    /// A call was refused. Returns whether that is its own: it was before, another that left since passed, and none that
    /// was not refused before was. Where the answer `said` how long to wait, it must have been twice: who leaves
    /// meanwhile leaves against a word.
    fn count_refusal(&self, ticket: &mut Ticket, said: bool, now: Time) -> bool {
        let passed = self.guard.passed().wrapping_sub(ticket.passed);
        if ticket.tries > 0 {
            ticket.others = ticket.others.saturating_add(u8::try_from(passed).unwrap_or(u8::MAX));
        }
        let own = ticket.tries > u8::from(said)
            && self.guard.passed_since(ticket.failed)
            && self.guard.fresh_cut() <= ticket.last_cut;
        if ticket.tries == 0 || own && ticket.others >= OTHERS {
            ticket.refusals = ticket.refusals.saturating_add(1);
            ticket.others = 0;
        }
        ticket.tries = ticket.tries.saturating_add(1);
        (ticket.passed, ticket.failed) = (self.guard.passed(), now);
        own
    }

    fn count(&mut self, outcome: &Outcome, class: Class, took: Duration) {
        let counts = &mut self.counts;
        match (class, outcome) {
            (Class::Refused | Class::Denied, _) => counts.refused += 1,
            (_, Outcome::Failed(_)) => counts.failed += 1,
            (_, Outcome::Answer { status: 500.., .. }) => counts.server_errors += 1,
            (_, Outcome::Answer { status: 400.., .. }) => counts.client_errors += 1,
            _ => counts.succeeded += 1,
        }
        if class == Class::Accepted {
            let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
            self.latency = if self.latency == 0 {
                micros
            } else {
                u32::try_from((u64::from(self.latency) * 9 + u64::from(micros)) / 10).unwrap_or(u32::MAX)
            };
        }
    }

    /// The answer still flows: its slot is kept until `until`.
    pub(crate) fn flows(&mut self, permit: Permit, until: Time, cx: &mut Context<'_>) {
        let Some(entry) = cx.calls.get_mut(permit.0) else { return };
        if entry.phase == Phase::Reported {
            self.slots.keep(permit.0, &mut entry.slot, until);
            if self.busy.is_some() {
                self.wake = self.wake.min(until);
            }
        }
    }

    /// The call is over, in whatever phase it is: queue, slot, charge and guard let go of it.
    pub(crate) fn release(&mut self, call: Call, cx: &mut Context<'_>) {
        let Some(entry) = cx.calls.remove(call) else { return };
        match entry.phase {
            Phase::Waiting => {
                if let Some(busy) = &mut self.busy {
                    busy.queue.remove(call, &entry);
                    if busy.queue.is_empty() {
                        self.busy = None;
                    }
                }
            }
            Phase::Admitted => {
                self.paces.refund(&self.config.limits, entry.cost, entry.charge, cx.now);
                self.guard.forgotten(call);
            }
            Phase::Departed => {
                self.counts.cancelled += 1;
                self.guard.given_up(call, cx.random, cx.now);
            }
            Phase::Reported => {}
        }
        if entry.phase != Phase::Waiting {
            self.slots.give(call, entry.slot);
        }
        self.pump(cx);
    }
}
