//! One partition of a destination: what may leave now, what waits, what an outcome means.
//!
//! An actor is a struct with one writer. Of an idle one only a few words stay: pace, pause and what was learned; the
//! queue exists only while something waits.

mod admission;
mod copy;
mod outcome;
mod rest;
mod view;

use crate::{
    budget::Spent,
    budgets::{Joint, Purse},
    calls::{Call, Calls, Entry, Permit, Phase},
    endpoint::{Chosen, Endpoints, Mask, Quantile, Wants, Ways},
    limit::Cost,
    pace::{Paces, Units},
    queue::Queue,
    refusal::{Refusal, Waiting},
    shard::{Config, Effect, Effects},
    slots::{Slot, Slots},
    snapshot::Counts,
    time::Time,
};
use std::{sync::Arc, time::Duration};

pub use copy::CopyFor;
pub(crate) use rest::Mark;

/// How many others must pass between refusals that are a call's own for the next to count towards [`OWNED_AFTER`].
const OTHERS: u8 = 8;
/// Refusals of its own, the first counted, after which the refusal is its answer.
const OWNED_AFTER: u8 = 5;
/// Calls that are looked at for one that may take another endpoint than the first can. No setting: it bounds what an
/// event costs, and who stands farther back is found by a later one.
const PASSED: usize = 64;
/// How long a call that was refused lets others go first, about.
const FIRST_ASIDE: Duration = Duration::from_millis(250);
/// The same after its second refusal; doubles with each further one, four times.
const ASIDE: Duration = Duration::from_millis(500);

/// What every operation is given.
pub(crate) struct Context<'a> {
    pub(crate) calls: &'a mut Calls,
    pub(crate) random: &'a mut fastrand::Rng,
    pub(crate) fx: &'a mut Effects,
    pub(crate) now: Time,
}

#[derive(Debug)]
struct Busy {
    queue: Queue,
    /// What held the first call when it was looked at last.
    why: Waiting,
    /// An operator's pause held it, and none left since.
    braked: bool,
}

impl Busy {
    /// This holds the first call.
    fn held_by(&mut self, why: Waiting) {
        self.braked |= matches!(why, Waiting::Braked { .. });
        self.why = why;
    }
}

#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) key: u128,
    config: Arc<Config>,
    paces: Paces,
    slots: Slots,
    endpoints: Endpoints,
    /// Whether it comes to rest in its turn, see [`crate::partitions`].
    pub(crate) listed: bool,
    spent: Spent,
    /// What all partitions of its destination spent, where that is split.
    joint: Option<Arc<Joint>>,
    counts: Counts,
    /// Microseconds, 0 when nothing was measured.
    latency: u32,
    /// That of the slowest in twenty.
    late: Quantile,
    busy: Option<Box<Busy>>,
    /// When it wants to be pumped next.
    pub(crate) wake: Time,
    /// What the shard's timers say; differs from `wake` only within an operation.
    pub(crate) armed: Time,
}

impl Actor {
    pub(crate) fn new(key: u128, config: Arc<Config>, joint: Option<Arc<Joint>>) -> Actor {
        Actor {
            key,
            paces: Paces::new(&config.limits),
            endpoints: Endpoints::new(&config.endpoints, config.is_known()),
            config,
            listed: false,
            slots: Slots::default(),
            spent: Spent::default(),
            joint,
            counts: Counts::default(),
            latency: 0,
            late: Quantile::NONE,
            busy: None,
            wake: Time::NEVER,
            armed: Time::NEVER,
        }
    }

    pub(crate) fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Nothing waits and nothing flies.
    pub(crate) fn is_idle(&self) -> bool {
        self.busy.is_none() && self.slots.flying() == 0
    }

    pub(crate) fn joint(&self) -> Option<&Arc<Joint>> {
        self.joint.as_ref()
    }

    pub(crate) fn into_joint(self) -> Option<Arc<Joint>> {
        self.joint
    }

    /// Nothing worth keeping: forgotten first when there are too many destinations.
    pub(crate) fn is_blank(&self, now: Time) -> bool {
        self.is_idle()
            && self
                .endpoints
                .iter()
                .all(|it| it.guard.learned().is_none() && it.guard.paused_until(false, now).is_none())
            && self
                .paces
                .when(&self.config.limits, now, Units::default(), Cost { requests: 1, tokens: 1 })
                .is_none_or(|(at, _)| at <= now)
    }

    /// Where a call leaves for now; else what holds it, and until when at most.
    fn choose(&mut self, wants: &Wants, cx: &mut Context<'_>) -> Result<Chosen, (Time, Waiting)> {
        if let Some(until) = self.config.brake.paused(cx.now) {
            return Err((until, Waiting::Braked { left: until.finite().map(|until| until.since(cx.now)) }));
        }
        let chosen = self.endpoints.choose(&self.config.endpoints, wants, cx.calls, cx.random, cx.now)?;
        self.hold(wants.cost, cx).map_or(Ok(chosen), Err)
    }

    /// What holds a call of `cost` of the limits that all endpoints share.
    fn hold(&mut self, cost: Cost, cx: &mut Context<'_>) -> Option<(Time, Waiting)> {
        let now = cx.now;
        if !self.config.limits.is_empty()
            && let Some((at, limit)) = self.paces.when(&self.config.limits, now, Units::default(), cost)
            && at > now
        {
            return Some((at, Waiting::Limit(*limit)));
        }
        let max = self.config.max_concurrency?;
        while !self.slots.free(max) {
            let Some(call) = self.slots.lapse(now) else {
                return Some((self.slots.next_lapse(), Waiting::Slots { max: max.get() }));
            };
            if let Some(entry) = cx.calls.get_mut(call) {
                entry.slot = Slot::Lapsed;
            }
        }
        None
    }

    /// When a call could leave at the earliest behind `ahead`, whatever else happens, and what says so.
    fn earliest(&self, ahead: Units, cost: Cost, ways: Ways, fresh: bool, now: Time) -> (Time, Waiting) {
        if let Some(until) = self.config.brake.paused(now) {
            // Who pauses without an end says nothing about one: calls wait as long as they can.
            let left = until.finite().map(|until| until.since(now));
            return (until.finite().unwrap_or(now), Waiting::Braked { left });
        }
        let from = self.endpoints.resumes(ways, fresh, now);
        match (self.paces.when(&self.config.limits, from, ahead, cost), self.endpoints.paused_until(ways, fresh, now)) {
            (Some((at, limit)), _) if at > from => (at, Waiting::Limit(*limit)),
            (_, Some((until, cause))) => (from, Waiting::Paused { left: until.since(now), cause }),
            _ => (now, Waiting::Turn),
        }
    }

    fn launch(&mut self, call: Call, chosen: Chosen, idle: bool, cx: &mut Context<'_>) -> Permit {
        let endpoint = self.config.endpoint(chosen.index).map_or(0, |compiled| compiled.id);
        let permit = Permit { call, endpoint };
        let Some(entry) = cx.calls.get_mut(call) else { return permit };
        entry.phase = Phase::Admitted;
        entry.left = cx.now;
        entry.charge = self.paces.charge(&self.config.limits, entry.cost, cx.now);
        if !entry.ticket.again {
            Purse::new(&mut self.spent, self.joint.as_ref()).request(cx.now);
        }
        let limited = self.config.max_concurrency.is_some();
        entry.slot = self.slots.take(call, if limited { entry.deadline } else { Time::NEVER });
        let fresh = entry.ticket.is_fresh();
        entry.endpoint = chosen.index;
        self.endpoints.taken(&self.config.endpoints, chosen);
        let compiled = self.config.endpoint(chosen.index);
        if let Some(endpoint) = self.endpoints.get_mut(chosen.index) {
            entry.held = endpoint.take(compiled, call, entry.cost, entry.deadline, cx.now);
            endpoint.guard.launch(call, idle, fresh, cx.now);
        }
        permit
    }

    /// Refuses a call that waits.
    fn turn_away(&mut self, call: Call, refusal: Refusal, cx: &mut Context<'_>) {
        let Some(entry) = cx.calls.remove(call) else { return };
        if let Some(busy) = &mut self.busy {
            busy.queue.remove(call, &entry);
            if busy.queue.is_empty() {
                self.busy = None;
            }
        }
        self.counts.turned_away += 1;
        cx.fx.push(Effect::Refuse { call, refusal });
    }

    /// Refuses everything that waits. Returns how much that was.
    pub(crate) fn flush(&mut self, cx: &mut Context<'_>) -> usize {
        let all: Vec<Call> = self.busy.iter().flat_map(|busy| busy.queue.all()).collect();
        for call in &all {
            let waited = cx.calls.get(*call).map_or(Duration::ZERO, |entry| cx.now.since(entry.ticket.since));
            self.turn_away(*call, Refusal::Flushed { waited }, cx);
        }
        self.pump(cx);
        all.len()
    }

    /// Sends on everything that waits. A pause that the upstream asked for is waited out there, too: it is the same upstream.
    /// Returns how much that was.
    pub(crate) fn send_on(&mut self, cx: &mut Context<'_>) -> usize {
        let resumes = self.endpoints.paused_until(Ways::ANY, true, cx.now).map_or(Time::ZERO, |(until, _)| until);
        let all: Vec<Call> = self.busy.take().iter().flat_map(|busy| busy.queue.all()).collect();
        for call in &all {
            let Some(entry) = cx.calls.remove(*call) else { continue };
            let mut ticket = entry.ticket.elsewhere();
            ticket.not_before = ticket.not_before.max(resumes);
            cx.fx.push(Effect::SentOn { call: *call, ticket });
        }
        self.pump(cx);
        all.len()
    }

    /// Ends the pauses of all endpoints.
    pub(crate) fn resume(&mut self, cx: &mut Context<'_>) {
        self.endpoints.lift(cx.now);
        if let Some(busy) = &mut self.busy {
            busy.queue.unsteady(cx.now);
        }
        self.pump(cx);
    }

    /// Lets go what may leave, refuses what is late, and finds out when to look again.
    pub(crate) fn pump(&mut self, cx: &mut Context<'_>) {
        let now = cx.now;
        let mut held = Time::NEVER;
        while let Some(busy) = &mut self.busy {
            if let Some(call) = busy.queue.due(now) {
                match cx.calls.get(call) {
                    Some(entry) => busy.queue.undelay(call, entry),
                    None => break,
                }
                continue;
            }
            if let Some(call) = busy.queue.expiring(now) {
                let why = busy.why;
                let waited = cx.calls.get(call).map_or(Duration::ZERO, |entry| now.since(entry.ticket.since));
                self.turn_away(call, Refusal::DeadlinePassed { waited, why }, cx);
                continue;
            }
            if busy.braked && self.config.brake.paused(now).is_none() {
                busy.braked = false;
                if busy.queue.len() > 1 {
                    self.endpoints.start_small(now);
                }
            }
            let Some(call) = Self::next(&self.endpoints, &busy.queue) else { break };
            let (call, chosen) = match self.turn(call, cx) {
                Ok(chosen) => chosen,
                Err((until, why)) => {
                    held = until;
                    if let Some(busy) = &mut self.busy {
                        busy.held_by(why);
                        if !why.is_steady() {
                            busy.queue.unsteady(now);
                        }
                    }
                    break;
                }
            };
            if let (Some(busy), Some(entry)) = (&mut self.busy, cx.calls.get(call)) {
                let waited = now.since(entry.left);
                busy.queue.serve(call, entry, now);
                let why = busy.why;
                if busy.queue.is_empty() {
                    self.busy = None;
                }
                let permit = self.launch(call, chosen, false, cx);
                cx.fx.push(Effect::Admit { call, permit, waited, why });
            }
        }
        self.wake = match &self.busy {
            Some(busy) => held.min(busy.queue.next_event()),
            None => Time::NEVER,
        };
    }

    /// Where the call leaves for whose turn it is. Where only its endpoints hold it, one behind it that may take others
    /// passes.
    fn turn(&mut self, first: Call, cx: &mut Context<'_>) -> Result<(Call, Chosen), (Time, Waiting)> {
        let Some(wants) = cx.calls.get(first).map(Entry::wants) else { return Err((Time::NEVER, Waiting::Turn)) };
        let held = match self.choose(&wants, cx) {
            Ok(chosen) => return Ok((first, chosen)),
            Err(held) => held,
        };
        if self.endpoints.is_single() || self.hold(wants.cost, cx).is_some() {
            return Err(held);
        }
        let Some(busy) = &self.busy else { return Err(held) };
        let mut seen = vec![wants.ways];
        let others: Vec<_> = busy
            .queue
            .in_order(|call| cx.calls.get(call).map_or(0, |entry| entry.share))
            .take(PASSED)
            .filter_map(|call| {
                let wants = cx.calls.get(call)?.wants();
                let new = !seen.contains(&wants.ways);
                seen.push(wants.ways);
                new.then_some((call, wants))
            })
            .collect();
        let mut until = held;
        for (call, wants) in others {
            match self.choose(&wants, cx) {
                Ok(chosen) => return Ok((call, chosen)),
                Err(other) if other.0 < until.0 => until = other,
                Err(_) => {}
            }
        }
        Err(until)
    }

    /// The first in order; for the probe of a pause the first that was neither refused nor failed itself, so that calls
    /// which fail for a reason of their own can't hold the others. Should those wait in front that have one and don't
    /// know it yet, the next probe is the last that came.
    fn next(endpoints: &Endpoints, queue: &Queue) -> Option<Call> {
        let first = queue.first()?;
        if endpoints.probes_at().is_none() {
            return Some(first);
        }
        let fresh = if endpoints.has_failed_probe() { queue.other_fresh() } else { queue.first_fresh() };
        fresh.or(Some(first))
    }

    /// Whether calls wait for the end of a pause, be it an operator's.
    fn is_paused(&self, ways: Ways, fresh: bool, now: Time) -> bool {
        self.config.brake.paused(now).is_some() || self.endpoints.paused_until(ways, fresh, now).is_some()
    }

    /// Refuses those that have another answer, where they would wait for the end of a pause.
    fn spare(&mut self, cx: &mut Context<'_>) {
        let now = cx.now;
        let Some(busy) = self.busy.as_ref().filter(|busy| busy.queue.has_fallbacks()) else { return };
        let spare = |call| {
            let entry = cx.calls.get(call).filter(|entry| entry.fallback)?;
            let (could, why) = self.earliest(Units::default(), entry.cost, entry.ways, true, now);
            self.is_paused(entry.ways, true, now).then(|| (call, spared(could, why, now)))
        };
        let all: Vec<_> = busy.queue.all().filter_map(spare).collect();
        for (call, refusal) in all {
            self.turn_away(call, refusal, cx);
        }
    }

    /// A pause, an operator's too, or a limit grew: refuses at once what can't start before its deadline any more.
    fn recheck(&mut self, cx: &mut Context<'_>) {
        let now = cx.now;
        self.spare(cx);
        let resumes = self.endpoints.paused_until(Ways::ANY, true, now);
        let resumes = resumes.map_or(Time::ZERO, |_| self.endpoints.resumes(Ways::ANY, true, now));
        let braked = self.config.brake.paused(now).and_then(Time::finite);
        let resumes = braked.map_or(resumes, |until| until.max(resumes));
        while let Some(call) = self.busy.as_ref().and_then(|busy| busy.queue.expiring(resumes)) {
            let Some(entry) = cx.calls.get(call) else { break };
            let (could, why) = self.earliest(Units::default(), entry.cost, entry.ways, true, now);
            let left = entry.deadline.since(now);
            let refusal = Refusal::DeadlineUnreachable { could_start_in: could.since(now), left, why };
            self.turn_away(call, refusal, cx);
        }
        let Some(busy) = &self.busy else { return };
        let first = busy.queue.first_deadline();
        let limits = !self.config.limits.is_empty()
            && first <= self.earliest(busy.queue.cost(), Cost::ONE, Ways::ANY, true, now).0;
        let pauses = !self.endpoints.is_single() && first <= self.endpoints.all_resume(now);
        if !limits && !pauses {
            return;
        }
        // Only now, and only where limits are configured or there are several endpoints, everybody's place is looked at.
        let mut ahead = Units::default();
        let mut late = Vec::new();
        for call in busy.queue.in_order(|call| cx.calls.get(call).map_or(0, |entry| entry.share)) {
            let Some(entry) = cx.calls.get(call) else { continue };
            let (could, why) = self.earliest(ahead, entry.cost, entry.ways, true, now);
            if could >= entry.deadline {
                let left = entry.deadline.since(now);
                late.push((call, Refusal::DeadlineUnreachable { could_start_in: could.since(now), left, why }));
            } else {
                ahead.add(entry.cost);
            }
        }
        for (call, refusal) in late {
            self.turn_away(call, refusal, cx);
        }
    }

    /// A call comes with this configuration. It may have been on its way since before a change.
    pub(crate) fn follow(&mut self, index: u32, config: &Arc<Config>, cx: &mut Context<'_>) {
        if config.generation > self.config.generation {
            self.reconfigure(index, config, cx);
        }
    }

    pub(crate) fn reconfigure(&mut self, index: u32, config: &Arc<Config>, cx: &mut Context<'_>) {
        if Arc::ptr_eq(&self.config, config) {
            return;
        }
        if let Some(busy) = &mut self.busy {
            busy.queue.unsteady(cx.now);
        }
        if self.config.limits != config.limits {
            self.paces.reconfigure(&self.config.limits, &config.limits, cx.now);
        }
        let old = std::mem::replace(&mut self.config, config.clone());
        let places = self.endpoints.follow(&old.endpoints, &config.endpoints, config.is_known(), cx.now);
        if places.iter().zip(0u8..).any(|(now, before)| *now != Some(before)) {
            for entry in cx.calls.of(index) {
                // What flies to an endpoint that is gone tells nobody anything.
                let at = |before: u8| places.get(usize::from(before)).copied().flatten().unwrap_or(u8::MAX);
                entry.endpoint = at(entry.endpoint);
                entry.ticket.endpoint = at(entry.ticket.endpoint);
                (entry.ticket.tried, entry.copied) = (Mask::NONE, entry.copied.moved(&places));
                let Ways { allowed, preferred } = entry.ways;
                entry.ways = Ways { allowed: allowed.moved(&places), preferred: preferred.moved(&places) };
            }
        }
        let waiting: Vec<Call> = self.busy.iter().flat_map(|busy| busy.queue.all()).collect();
        for call in waiting {
            let never = cx.calls.get(call).and_then(|entry| self.never(entry.cost, entry.ways));
            if let Some(refusal) = never {
                self.turn_away(call, refusal, cx);
            }
        }
        self.recheck(cx);
        self.pump(cx);
    }
}

/// The refusal of a call that has another answer, and so no time to wait.
fn spared(could: Time, why: Waiting, now: Time) -> Refusal {
    Refusal::Spared { could_start_in: could.since(now), why }
}
