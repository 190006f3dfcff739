//! What becomes of a call that was admitted: it departs, its outcome is reported, it is over.

use super::{ALONE_AFTER, ASIDE, Actor, Context, OTHERS, OWNED_AFTER};
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
        let resumed = self.guard.resumes(now);
        let mut owns_refusal = false;
        match (class, outcome) {
            (Class::Refused, Outcome::Answer { status, signal }) => {
                let wait = signal.wait.map(|(wait, _)| wait.min(self.config.max_pause));
                ticket.tries = ticket.tries.saturating_add(1);
                if ticket.refusals == 0 || self.guard.passed().wrapping_sub(ticket.passed) >= OTHERS {
                    ticket.refusals = ticket.refusals.saturating_add(1);
                    ticket.passed = self.guard.passed();
                }
                owns_refusal = ticket.refusals >= OWNED_AFTER;
                if ticket.refusals >= ALONE_AFTER && self.guard.is_open() {
                    self.guard.forgotten(call);
                } else {
                    let cause = Cause::Refused { status: *status, by: signal.wait.map(|(_, by)| by) };
                    let (waiting, believed) = (self.busy.is_some(), self.config.believed_pause);
                    let said = Said { left, cause, wait, waiting, believed };
                    self.guard.refused(call, said, cx.random, now);
                }
                if ticket.tries > 1 {
                    // Others go first for a while: if they pass, the refusal is this call's own.
                    let aside = ASIDE.saturating_mul(1 << u32::from(ticket.tries - 2).min(4));
                    let believed = self.config.believed_pause;
                    let wait = wait.map(|wait| Guard::believed(wait, believed)).unwrap_or_default();
                    ticket.not_before = self.guard.resumes(now).max(now + wait) + aside;
                }
            }
            (Class::Down, _) => {
                self.guard.failed(call, left, status, cx.random, now);
            }
            (Class::Faulty | Class::Denied, _) => self.guard.faulty(call, now),
            _ => self.guard.accepted(call, left, now),
        }
        let facts = Facts {
            departed,
            down: self.guard.is_down(),
            owns_refusal,
            resumes: self.guard.resumes(now).max(ticket.not_before),
            deadline,
        };
        let (spent, budget) = (&mut self.spent, &self.config.retry_budget);
        let verdict = match after(outcome, attempt, &facts, || spent.retry(budget, now), cx.random, now) {
            Decision::Return(reason) => Verdict::Return(reason),
            Decision::PutBack => Verdict::PutBack(ticket),
            Decision::Retry(delay) => Verdict::Retry(Ticket { not_before: now + delay, ..ticket }),
        };
        if self.guard.resumes(now) > resumed {
            self.recheck(cx);
        }
        self.pump(cx);
        verdict
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
                self.guard.forgotten(call);
            }
            Phase::Reported => {}
        }
        if entry.phase != Phase::Waiting {
            self.slots.give(call, entry.slot);
        }
        self.pump(cx);
    }
}
