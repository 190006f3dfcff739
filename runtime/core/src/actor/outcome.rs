//! What becomes of a call that was admitted: it departs, its outcome is reported, it is over.

use super::{ASIDE, Actor, Context, FIRST_ASIDE, OTHERS, OWNED_AFTER};
use crate::{
    budgets::Purse,
    calls::{Call, Entry, Permit, Phase, Ticket},
    endpoint::Quantile,
    guard::{Beside, Failed, Guard, Said},
    refusal::Cause,
    repeat::{Attempt, Class, Decision, Facts, Outcome, Reason, after},
    shard::{Departure, Verdict},
    signal::SpentQuota,
    time::Time,
};
use std::time::Duration;

/// What an attempt was that is reported for the first time.
#[derive(Clone, Copy)]
struct Flown {
    /// Whether its first byte left.
    departed: bool,
    left: Time,
    /// When the call left whose copy it is.
    since: Option<Time>,
    /// What was in flight then.
    beside: Option<Beside>,
    deadline: Time,
    ticket: Ticket,
    /// Where it went.
    endpoint: u8,
}

impl Actor {
    /// The first byte is about to leave. Not while the endpoint is paused, or an operator pauses the destination: then the
    /// call goes back.
    pub(crate) fn departed(&mut self, permit: Permit, cx: &mut Context<'_>) -> Departure {
        let Some(entry) = cx.calls.get_mut(permit.call) else { return Departure::Released };
        if entry.phase != Phase::Admitted {
            return Departure::Go;
        }
        if self.config.brake.paused(cx.now).is_some() {
            return Departure::PutBack(entry.ticket.put_back());
        }
        entry.judged = !self.endpoints.is_single();
        let (compiled, endpoint) = (self.config.endpoint(entry.endpoint), self.endpoints.get_mut(entry.endpoint));
        let Some(endpoint) = endpoint.filter(|endpoint| !endpoint.guard.stops(permit.call, cx.now)) else {
            return Departure::PutBack(entry.ticket.put_back());
        };
        self.paces.departed(&self.config.limits, entry.cost, entry.charge, cx.now);
        endpoint.departed(compiled, entry.cost, entry.held, cx.now);
        entry.phase = Phase::Departed;
        entry.left = cx.now;
        entry.beside = Some(endpoint.guard.leaves(permit.call, cx.now));
        if entry.judged {
            endpoint.health.launched(cx.now);
        }
        if let (Some(passes), Some(_)) = (endpoint.guard.departed(permit.call, cx.now), &self.busy) {
            self.wake = self.wake.min(passes);
        }
        Departure::Go
    }

    /// Takes down that an attempt is over, once: what it was, where it was not reported before.
    fn landed(&mut self, permit: Permit, outcome: Option<&Outcome>, cx: &mut Context<'_>) -> Option<Flown> {
        let single = self.endpoints.is_single();
        let entry = cx.calls.get_mut(permit.call)?;
        let compiled = self.config.endpoint(entry.endpoint);
        // An answer proves that the request left, whatever we were told.
        let answered = matches!(outcome, Some(Outcome::Answer { .. }));
        let departed = match entry.phase {
            Phase::Departed => true,
            Phase::Admitted => answered,
            Phase::Waiting | Phase::Reported => return None,
        };
        let told = entry.phase == Phase::Departed;
        entry.succeeded = outcome.is_some_and(|it| it.class() == Class::Accepted && it.is_below(400));
        entry.phase = Phase::Reported;
        if !told && departed {
            self.paces.departed(&self.config.limits, entry.cost, entry.charge, entry.left);
        } else if !departed {
            self.paces.refund(&self.config.limits, entry.cost, entry.charge, cx.now);
        }
        let others = if single { None } else { self.endpoints.others(entry.endpoint, cx.now) };
        let odd = !single && self.endpoints.others_serve(entry.endpoint, cx.now);
        if let Some(endpoint) = self.endpoints.get_mut(entry.endpoint) {
            if !told && departed {
                endpoint.departed(compiled, entry.cost, entry.held, entry.left);
                entry.beside = Some(endpoint.guard.leaves(permit.call, cx.now));
            } else if !departed {
                endpoint.refund(compiled, entry.cost, entry.held, cx.now);
            }
            if !told && departed && !single {
                entry.judged = true;
                endpoint.health.launched(entry.left);
            }
            // By what was true when it left: endpoints may have come or gone since.
            if entry.judged {
                let took = cx.now.since(entry.left);
                match outcome {
                    Some(outcome @ Outcome::Answer { status: 400..500, .. }) if outcome.class() == Class::Accepted => {
                        endpoint.health.declined(entry.left, odd, cx.now);
                    }
                    Some(outcome) if outcome.class() == Class::Accepted => {
                        endpoint.health.answered(entry.left, took, others, cx.now);
                    }
                    Some(outcome) => {
                        let failed = !matches!(outcome.class(), Class::Refused | Class::Denied);
                        endpoint.health.failed(entry.left, failed, cx.now);
                    }
                    None => endpoint.health.cut_short(entry.left, took, cx.now),
                }
                match outcome.map(Outcome::class) {
                    Some(Class::Denied) => endpoint.denial.denied(cx.random, cx.now),
                    _ if entry.succeeded => endpoint.denial.served(entry.left),
                    _ => {}
                }
            }
        }
        let Entry { left, since, beside, deadline, mut ticket, endpoint, .. } = *entry;
        if ticket.endpoint != endpoint {
            // What another endpoint did says nothing about this one.
            (ticket.endpoint, ticket.others, ticket.passed, ticket.failed) = (endpoint, 0, 0, Time::ZERO);
            (ticket.cut, ticket.last_cut) = (0, 0);
        }
        let ticket = ticket.put_back();
        Some(Flown { departed, left, since, beside, deadline, ticket, endpoint })
    }

    pub(crate) fn report(
        &mut self,
        permit: Permit,
        outcome: &Outcome,
        attempt: &Attempt<'_>,
        cx: &mut Context<'_>,
    ) -> Verdict {
        let (call, now) = (permit.call, cx.now);
        let asked = cx.calls.get(call).map(|entry| (entry.ways, entry.fallback));
        let (Some(flown), Some((ways, fallback))) = (self.landed(permit, Some(outcome), cx), asked) else {
            return Verdict::Return(Reason::Released);
        };
        let Flown { departed, left, since, beside, deadline, mut ticket, endpoint } = flown;
        let class = outcome.class();
        // Where a copy answers, the call would have taken at least as long without it.
        self.count(outcome, class, now.since(since.unwrap_or(left)));
        let resumed = self.resumes_at(endpoint, now);
        // Whether others' success shows that the endpoint has nothing to do with it.
        let own = self.learn(call, outcome, &mut ticket, (left, beside), cx);
        let failed = !matches!(class, Class::Accepted | Class::Denied);
        let reroutes = failed && attempt.policy.reroute_on.matches(outcome);
        if reroutes {
            ticket.tried = ticket.tried.with(endpoint);
        }
        let elsewhere = match class {
            Class::Denied => self.endpoints.others_may_serve(ways, endpoint, now),
            _ => reroutes && self.endpoints.elsewhere(ways, ticket.tried, endpoint, now),
        };
        if elsewhere {
            ticket.not_before = Time::ZERO;
        }
        ticket.in_doubt |= departed && outcome.leaves_doubt();
        let down = self.endpoints.get(endpoint).is_some_and(|endpoint| endpoint.guard.is_down());
        let facts = Facts {
            departed,
            took: now.since(left),
            // What is the call's own costs it an attempt: waiting for the destination would not help.
            down: down && !own && !elsewhere,
            elsewhere,
            fallback,
            owns_refusal: ticket.refusals >= self.owned_after(endpoint),
            in_doubt: ticket.in_doubt,
            under_way: ticket.under_way,
            resumes: self.endpoints.resumes(ways, ticket.is_fresh(), now).max(ticket.not_before),
            deadline,
        };
        let (mut purse, budget) = (Purse::new(&mut self.spent, self.joint.as_ref()), &self.config.retry_budget);
        let verdict = match after(outcome, attempt, &facts, || purse.retry(budget, now), cx.random, now) {
            Decision::Return(reason) => Verdict::Return(reason),
            Decision::PutBack => Verdict::PutBack(ticket),
            Decision::Later(delay) => {
                let under_way = ticket.under_way.saturating_add(1);
                Verdict::PutBack(Ticket { not_before: now + delay, under_way, ..ticket })
            }
            // The queue decides by itself.
            Decision::Retry(Duration::ZERO) => Verdict::Retry(Ticket { not_before: Time::ZERO, ..ticket }),
            Decision::Retry(delay) => Verdict::Retry(Ticket { not_before: now + delay, ..ticket }),
        };
        if self.resumes_at(endpoint, now) > resumed {
            self.recheck(cx);
        }
        self.pump(cx);
        verdict
    }

    /// How often a call is refused that is to blame for it.
    fn owned_after(&self, index: u8) -> u8 {
        self.endpoints.get(index).map_or(OWNED_AFTER, |endpoint| endpoint.guard.owned_after(OWNED_AFTER))
    }

    /// When a call may leave to one endpoint, as far as pauses go.
    fn resumes_at(&self, index: u8, now: Time) -> Time {
        self.endpoints.get(index).map_or(now, |endpoint| endpoint.guard.resumes(true, now))
    }

    /// Teaches the guard of its endpoint what became of a call. Returns whether that is the call's own.
    fn learn(
        &mut self,
        call: Call,
        outcome: &Outcome,
        ticket: &mut Ticket,
        (left, beside): (Time, Option<Beside>),
        cx: &mut Context<'_>,
    ) -> bool {
        let now = cx.now;
        let fresh = ticket.is_fresh();
        let waiting = self.busy.is_some();
        let (believed, longest) = (self.config.believed_pause, self.config.max_pause);
        let others_live = self.endpoints.others_live(ticket.endpoint, now);
        let Some(endpoint) = self.endpoints.get_mut(ticket.endpoint) else { return false };
        let guard = &mut endpoint.guard;
        let own = match (outcome.class(), outcome) {
            (Class::Refused, Outcome::Answer { status, signal }) => {
                let by_quota = signal.spent.filter(|it| signal.wait == Some((it.wait, it.source)));
                let wait = by_quota.map(|spent| guard.emptied(spent, left, now)).or(signal.wait.map(|(wait, _)| wait));
                let wait = wait.map(|wait| wait.min(longest));
                let own = count_refusal(guard, ticket, wait.is_some(), now);
                if own && !guard.is_free() {
                    guard.misled(call, ticket.cut, now);
                } else {
                    let cause = Cause::Refused { status: *status, by: signal.wait.map(|(_, by)| by) };
                    let concurrency = signal.concurrency;
                    let said = Said { left, beside, cause, wait, waiting, believed, longest, fresh, concurrency };
                    guard.refused(call, said, cx.random, now);
                }
                ticket.last_cut = guard.cuts();
                if ticket.cut == 0 {
                    ticket.cut = ticket.last_cut;
                }
                if guard.is_free() {
                    // Nobody is to be let go first: it waits as it was told, or as long as if it were alone.
                    let alone = FIRST_ASIDE.saturating_mul(1 << u32::from(ticket.tries.saturating_sub(1)).min(4));
                    ticket.not_before = now + wait.unwrap_or(alone.min(longest).mul_f64(0.5 + cx.random.f64() / 2.0));
                } else if waiting || guard.unanswered() > 0 {
                    // Others go first for a while: if they pass, the refusal is this call's own.
                    let wait = wait.map(|wait| Guard::believed(wait, believed)).unwrap_or_default();
                    let again = ASIDE.saturating_mul(1 << u32::from(ticket.tries.saturating_sub(2)).min(4));
                    let aside =
                        if fresh { FIRST_ASIDE } else { again }.min(longest).mul_f64(0.75 + cx.random.f64() / 2.0);
                    ticket.not_before = guard.resumes(false, now).max(now + wait) + aside;
                }
                own
            }
            (Class::Down, _) => {
                // Another that left after this one failed did pass.
                let own = !fresh && guard.passed_since(ticket.failed);
                ticket.tries = ticket.tries.saturating_add(1);
                ticket.failed = now;
                if own {
                    guard.forgotten(call, now);
                } else {
                    let status = match outcome {
                        Outcome::Answer { status, .. } => Some(*status),
                        Outcome::Failed(_) => None,
                    };
                    guard.failed(call, Failed { left, status, fresh, others_live, longest }, cx.random, now);
                }
                own
            }
            (Class::Faulty | Class::Denied, _) => {
                guard.faulty(call, now);
                false
            }
            _ => {
                guard.accepted(call, left, beside, now);
                false
            }
        };
        if let (Class::Accepted | Class::Faulty, Outcome::Answer { signal, .. }) = (outcome.class(), outcome)
            && let Some(spent) = signal.spent
        {
            let spent = SpentQuota { wait: spent.wait.min(longest), reset: spent.reset.min(longest), ..spent };
            guard.states(spent, believed, cx.random, now);
        }
        own
    }

    /// What became of a copy of a call, or of a call whose copy was faster: taken down, and nothing follows from it.
    /// Without an outcome it was given up for the other's answer.
    pub(crate) fn observe(&mut self, permit: Permit, outcome: Option<&Outcome>, cx: &mut Context<'_>) {
        let Some(mut flown) = self.landed(permit, outcome, cx) else { return };
        let resumed = self.resumes_at(flown.endpoint, cx.now);
        match outcome {
            Some(outcome) => {
                self.count(outcome, outcome.class(), cx.now.since(flown.left));
                self.learn(permit.call, outcome, &mut flown.ticket, (flown.left, flown.beside), cx);
            }
            None => {
                // That of the call itself counts by what answers it.
                if flown.since.is_some() {
                    self.late.add_at_least(cx.now.since(flown.left), Quantile::P95);
                }
                if let Some(endpoint) = self.endpoints.get_mut(flown.endpoint) {
                    endpoint.guard.given_up(permit.call, cx.random, cx.now);
                }
            }
        }
        if self.resumes_at(flown.endpoint, cx.now) > resumed {
            self.recheck(cx);
        }
        self.pump(cx);
    }

    /// An attempt was lost with its old connection.
    pub(crate) fn lost(&mut self, permit: Permit, cx: &mut Context<'_>) -> Option<Ticket> {
        let flown = self.landed(permit, None, cx)?;
        if let Some(endpoint) = self.endpoints.get_mut(flown.endpoint) {
            endpoint.guard.given_up(permit.call, cx.random, cx.now);
        }
        self.pump(cx);
        Some(Ticket { in_doubt: true, ..flown.ticket })
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
            self.late.add(took, Quantile::P95);
            let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
            self.latency = if self.latency == 0 {
                micros
            } else {
                u32::try_from((u64::from(self.latency) * 9 + u64::from(micros)) / 10).unwrap_or(u32::MAX)
            };
        }
    }

    /// The call used this many tokens: its charges are corrected, if it left and is not over.
    pub(crate) fn settle(&mut self, permit: Permit, tokens: u32, cx: &mut Context<'_>) {
        let Some(entry) = cx.calls.get_mut(permit.call) else { return };
        let (charged, left) = (entry.cost.tokens, entry.left);
        if !matches!(entry.phase, Phase::Departed | Phase::Reported) || charged == tokens {
            return;
        }
        self.paces.settle(&self.config.limits, charged, tokens, entry.charge, left, cx.now);
        let compiled = self.config.endpoint(entry.endpoint);
        if let Some(endpoint) = self.endpoints.get_mut(entry.endpoint) {
            endpoint.settle(compiled, charged, tokens, entry.held, left, cx.now);
        }
        entry.cost.tokens = tokens;
        self.recheck(cx);
        self.pump(cx);
    }

    /// An answer that was reported turned out to be this, when its head had long been passed on. There is nothing to be
    /// decided about the call any more; others are to know.
    pub(crate) fn amend(&mut self, permit: Permit, outcome: &Outcome, cx: &mut Context<'_>) {
        let Some(entry) = cx.calls.get_mut(permit.call).filter(|entry| entry.phase == Phase::Reported) else { return };
        let succeeded = std::mem::take(&mut entry.succeeded);
        let Entry { left, beside, judged, endpoint: index, mut ticket, .. } = *entry;
        let class = outcome.class();
        ticket.endpoint = index;
        let resumed = self.resumes_at(index, cx.now);
        // It was one outcome, not two.
        if succeeded && class != Class::Accepted {
            self.counts.succeeded = self.counts.succeeded.saturating_sub(1);
            self.count(outcome, class, Duration::ZERO);
        }
        if let (true, Class::Down | Class::Faulty, Some(endpoint)) = (judged, class, self.endpoints.get_mut(index)) {
            endpoint.health.broke();
        }
        if let (Class::Refused | Class::Down, Some(endpoint)) = (class, self.endpoints.get_mut(index)) {
            endpoint.guard.amends();
            self.learn(permit.call, outcome, &mut ticket, (left, beside), cx);
        }
        if self.resumes_at(index, cx.now) > resumed {
            self.recheck(cx);
        }
        self.pump(cx);
    }

    /// The answer still flows: its slot is kept until `until`.
    pub(crate) fn flows(&mut self, permit: Permit, until: Time, cx: &mut Context<'_>) {
        let Some(entry) = cx.calls.get_mut(permit.call) else { return };
        if entry.phase == Phase::Reported {
            self.slots.keep(permit.call, &mut entry.slot, until);
            if let Some(endpoint) = self.endpoints.get_mut(entry.endpoint) {
                endpoint.flows(permit.call, &mut entry.held, until);
            }
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
                let compiled = self.config.endpoint(entry.endpoint);
                if let Some(endpoint) = self.endpoints.get_mut(entry.endpoint) {
                    endpoint.refund(compiled, entry.cost, entry.held, cx.now);
                    endpoint.guard.forgotten(call, cx.now);
                }
            }
            Phase::Departed => {
                self.counts.cancelled += 1;
                let others = if entry.judged { self.endpoints.others(entry.endpoint, cx.now) } else { None };
                if let Some(endpoint) = self.endpoints.get_mut(entry.endpoint) {
                    endpoint.guard.given_up(call, cx.random, cx.now);
                    if entry.judged {
                        endpoint.health.abandoned(entry.left, others, cx.now);
                    }
                }
            }
            Phase::Reported => {}
        }
        if entry.phase != Phase::Waiting {
            self.slots.give(call, entry.slot);
            if let Some(endpoint) = self.endpoints.get_mut(entry.endpoint) {
                endpoint.guard.ends(entry.beside.is_some());
                endpoint.give(call, entry.held);
            }
        }
        self.pump(cx);
    }
}

/// A call was refused. Returns whether that is its own: it was before, another that left since passed, and none that
/// was not refused before was. Where the answer `said` how long to wait, it must have been twice: who leaves
/// meanwhile leaves against a word.
fn count_refusal(guard: &Guard, ticket: &mut Ticket, said: bool, now: Time) -> bool {
    let passed = guard.passed().wrapping_sub(ticket.passed);
    if ticket.tries > 0 {
        ticket.others = ticket.others.saturating_add(u8::try_from(passed).unwrap_or(u8::MAX));
    }
    let own =
        ticket.tries > u8::from(said) && guard.passed_since(ticket.failed) && guard.fresh_cut() <= ticket.last_cut;
    if ticket.tries == 0 || own && ticket.others >= OTHERS {
        ticket.refusals = ticket.refusals.saturating_add(1);
        ticket.others = 0;
    }
    ticket.tries = ticket.tries.saturating_add(1);
    (ticket.passed, ticket.failed) = (guard.passed(), now);
    own
}
