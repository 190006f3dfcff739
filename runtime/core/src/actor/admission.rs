//! A call asks: it leaves at once, waits, or is refused because it could never leave in time.

use super::{Actor, Busy, Context, spared};
use crate::{
    calls::{Entry, NewCall, Phase, Place, Ticket},
    endpoint::{Held, Mask, Wants, Ways},
    limit::Cost,
    pace::{Charge, Units},
    queue::{Queue, Room},
    refusal::{Refusal, Waiting},
    shard::Submitted,
    slots::Slot,
    time::Time,
};

impl Actor {
    pub(crate) fn submit(&mut self, index: u32, new: NewCall, arrival: u64, cx: &mut Context<'_>) -> Submitted {
        let now = cx.now;
        if self.wake <= now {
            self.pump(cx);
        }
        let submitted = self.admit(index, new, arrival, cx);
        if let Submitted::Refused(_) = submitted {
            self.counts.turned_away += 1;
        }
        submitted
    }

    fn admit(&mut self, index: u32, new: NewCall, arrival: u64, cx: &mut Context<'_>) -> Submitted {
        let now = cx.now;
        if let (Some(until), None) = (self.config.brake.draining(now), new.returning) {
            return Submitted::Refused(Refusal::Draining { left: until.finite().map(|until| until.since(now)) });
        }
        if let Some(refusal) = self.never(new.cost, new.ways) {
            return Submitted::Refused(refusal);
        }
        let ticket = new.returning.unwrap_or_else(|| Ticket::fresh(Place::new(now, new.priority, arrival), now));
        let fresh = ticket.is_fresh();
        // One that was sent on and never admitted waits for its turn as others do.
        let returns = ticket.again;
        // A fresh call may be the probe of a pause that goes on for those which were refused or failed before.
        let probes_at = self.endpoints.probes_at().filter(|_| fresh);
        let first = match &self.busy {
            None => true,
            Some(busy) if probes_at.is_some() => busy.queue.first_fresh().is_none(),
            Some(busy) => busy.queue.would_be_first(new.flow, ticket.place, returns),
        };
        let delayed = ticket.not_before > now;
        let mut held = (ticket.not_before, Waiting::Backoff { left: ticket.not_before.since(now) });
        if !delayed && new.deadline > now {
            let wants = Wants { cost: new.cost, fresh, ways: new.ways, tried: ticket.tried };
            match if first { self.choose(&wants, cx) } else { Err((Time::NEVER, Waiting::Turn)) } {
                Ok(chosen) => {
                    let idle = self.busy.is_none();
                    let entry = self.entry(index, new, ticket, now);
                    if let Some(busy) = &mut self.busy {
                        busy.queue.serve_unqueued(&entry, now);
                    }
                    let call = cx.calls.insert(entry);
                    let permit = self.launch(call, chosen, idle, cx);
                    // Its flow had its turn: the next may be one that nothing holds.
                    if !idle && !returns {
                        self.pump(cx);
                    }
                    return Submitted::Admitted(permit);
                }
                Err(other) => held = other,
            }
        }
        // What came before counts; a call that comes back stands near the front, and is never refused by a guess.
        let ahead = match &self.busy {
            Some(busy) if !returns => busy.queue.ahead_of(new.flow, ticket.place),
            _ => Units::default(),
        };
        let (could, why) = self.earliest(ahead, new.cost, new.ways, fresh, now);
        let (could, why) = if delayed && ticket.not_before > could { held } else { (could, why) };
        if could >= new.deadline {
            let left = new.deadline.since(now);
            return Submitted::Refused(Refusal::DeadlineUnreachable { could_start_in: could.since(now), left, why });
        }
        if !returns
            && let Some(busy) = &mut self.busy
            && let Some(at) = busy.queue.too_late(ahead.requests, new.deadline, now)
        {
            let (could_start_in, left, why) = (at.since(now), new.deadline.since(now), busy.why);
            return Submitted::Refused(Refusal::DeadlineUnreachable { could_start_in, left, why });
        }
        if new.fallback
            && let Some(behind) = self.spares(&new, &ticket, held.1, now)
        {
            let why = if why == Waiting::Turn { behind } else { why };
            return Submitted::Refused(spared(could.max(held.0.finite().unwrap_or(could)), why, now));
        }
        let turned_away = self.counts.turned_away;
        if let Err(refusal) = self.make_room(&new, &ticket, could, cx) {
            return Submitted::Refused(refusal);
        }
        // Among them may be the one that held the others.
        let made_room = self.counts.turned_away != turned_away;
        let entry = self.entry(index, new, ticket, now);
        let call = cx.calls.insert(entry.clone());
        let braked = matches!(held.1, Waiting::Braked { .. });
        let busy = self.busy.get_or_insert_with(|| Box::new(Busy { queue: Queue::new(now), why: held.1, braked }));
        busy.queue.insert(call, &entry, now);
        self.endpoints.waits(busy.queue.len());
        self.wake = self.wake.min(busy.queue.next_event());
        if first {
            self.wake = self.wake.min(held.0);
        } else if let Some(at) = probes_at {
            self.wake = self.wake.min(at);
        }
        // Whoever may take other endpoints than those that wait need not wait for theirs.
        if made_room || !first && !self.endpoints.is_single() {
            self.pump(cx);
        }
        let Some(busy) = &self.busy else { return Submitted::Queued { call, expected: None, why: Waiting::Turn } };
        let behind = if matches!(held.1, Waiting::Turn) { busy.why } else { held.1 };
        let expected = could.max(now + self.endpoints.spacing(ahead.requests)).max(held.0.finite().unwrap_or(now));
        let expected =
            if matches!(behind, Waiting::Slots { .. } | Waiting::AtOnce { .. }) { None } else { Some(expected) };
        Submitted::Queued { call, expected, why: if why == Waiting::Turn { behind } else { why } }
    }

    /// What a call that has another answer would have to wait for, if it is more than its turn. One that comes back with a
    /// delay of its own failed in a way that the other answer is none to. `held`: what holds it.
    fn spares(&self, new: &NewCall, ticket: &Ticket, held: Waiting, now: Time) -> Option<Waiting> {
        let behind = match (&self.busy, held) {
            (Some(busy), Waiting::Turn) => busy.why,
            _ => held,
        };
        let troubled = self.is_paused(new.ways, ticket.is_fresh(), now) || matches!(behind, Waiting::Probe(_));
        let returns = ticket.again && ticket.not_before == Time::ZERO;
        (troubled || returns).then_some(behind)
    }

    /// Why a call could never leave, whatever happens.
    pub(super) fn never(&self, cost: Cost, ways: Ways) -> Option<Refusal> {
        if !self.endpoints.any(ways) {
            return Some(Refusal::NoRegion);
        }
        let limit = self.config.limits.never(cost).or(self.endpoints.never(&self.config.endpoints, ways, cost))?;
        Some(Refusal::CostTooLarge { unit: limit.unit, cost: cost.of(limit.unit), quota: limit.quota })
    }

    fn entry(&self, actor: u32, new: NewCall, ticket: Ticket, now: Time) -> Entry {
        Entry {
            generation: 0,
            actor,
            phase: Phase::Waiting,
            ticket,
            deadline: new.deadline,
            bytes: new.bytes,
            cost: new.cost,
            flow: new.flow,
            share: self.config.limits.share(new.cost),
            fallback: new.fallback,
            charge: Charge::default(),
            slot: Slot::default(),
            ways: new.ways,
            endpoint: 0,
            held: Held::default(),
            copied: Mask::NONE,
            succeeded: false,
            judged: false,
            left: now,
            since: None,
            beside: None,
        }
    }

    /// Keeps the queue within its bounds. A call that comes back was there before: the newest make room for it. So do
    /// those of a flow that takes up more of the queue for one that takes up less.
    fn make_room(&mut self, new: &NewCall, ticket: &Ticket, could: Time, cx: &mut Context<'_>) -> Result<(), Refusal> {
        let bounds = self.config.queue;
        if new.bytes > bounds.bytes.0 {
            let held = self.busy.as_ref().map_or(0, |busy| busy.queue.bytes());
            return Err(Refusal::QueueBytes { held, bytes: new.bytes, limit: bounds.bytes.0 });
        }
        loop {
            let Some(busy) = &self.busy else { return Ok(()) };
            let (refusal, room) = if busy.queue.len() >= bounds.calls as usize {
                let retry_after = Some(could.since(cx.now)).filter(|wait| !wait.is_zero());
                (Refusal::QueueFull { limit: bounds.calls, retry_after }, Room::Calls)
            } else if busy.queue.bytes().saturating_add(new.bytes) > bounds.bytes.0 {
                (Refusal::QueueBytes { held: busy.queue.bytes(), bytes: new.bytes, limit: bounds.bytes.0 }, Room::Bytes)
            } else {
                return Ok(());
            };
            let other = if ticket.again {
                busy.queue.newest().filter(|(last, _)| *last > ticket.place).map(|(_, call)| call)
            } else {
                busy.queue.crowding(new.flow, if room == Room::Calls { 1 } else { new.bytes }, room)
            };
            match other {
                Some(other) => self.turn_away(other, refusal, cx),
                None => return Err(refusal),
            }
        }
    }
}
