//! A shard: many destination partitions by key, their calls, and one exact timer. What a host talks to.
//!
//! The host keeps a shard behind a short mutex: it calls an operation, takes the [`Effects`] out, unlocks, and then
//! wakes whom they name. `tick` is due at [`Shard::next_wake`], which may come earlier after any operation.
//!
//! Life of a call: [`Shard::submit`] admits, queues or refuses it. An admission is a [`Permit`]; wrap it in a token whose
//! drop calls [`Shard::release`]. Right before the first byte leaves, [`Shard::departed`]; when the outcome is known,
//! [`Shard::report`], which says what to do next; at the end of the body, release. A call that is put back or retried
//! releases its permit and is submitted again with the ticket of the verdict.

mod said;
mod settings;

use crate::{
    actor::{Actor, Context},
    budgets::Budgets,
    calls::{Call, Calls, NewCall, Permit, Ticket},
    partitions::Partitions,
    refusal::{Cause, Refusal},
    repeat::{Attempt, Outcome, Reason},
    snapshot::{self, Snapshot},
    time::Time,
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

pub use crate::{actor::CopyFor, queue::Bounds as QueueBounds};
pub use said::{Departure, Effect, Effects, Submitted, Verdict};
pub use settings::{BELIEVED_PAUSE, Brake, Config, MAX_PAUSE, Settings};

/// How many destination partitions a shard keeps, unless stated.
pub const MAX_DESTINATIONS: usize = 1 << 20;
/// Many destinations, one writer.
#[derive(Debug)]
pub struct Shard {
    partitions: Partitions,
    calls: Calls,
    timers: BTreeSet<(Time, u32)>,
    random: fastrand::Rng,
    arrivals: u64,
    max_destinations: usize,
    /// The same of all shards of its group: what people have set.
    max_together: usize,
    budgets: Budgets,
}

impl Shard {
    /// An empty shard. The same seed and the same events make the same decisions.
    pub fn new(seed: u64) -> Shard {
        Shard::with_capacity(seed, MAX_DESTINATIONS)
    }

    /// An empty shard that keeps at most `max_destinations` partitions.
    pub fn with_capacity(seed: u64, max_destinations: usize) -> Shard {
        Shard {
            partitions: Partitions::new(),
            calls: Calls::default(),
            timers: BTreeSet::new(),
            random: fastrand::Rng::with_seed(seed),
            arrivals: 0,
            max_destinations: max_destinations.max(1),
            max_together: max_destinations.max(1),
            budgets: Budgets::default(),
        }
    }

    /// Empty shards, one for each seed, that keep at most `max_destinations` partitions together. Each may have any part of a
    /// destination that is split: they share its retry budget.
    pub fn group(seeds: impl ExactSizeIterator<Item = u64>, max_destinations: usize) -> Vec<Shard> {
        let (each, budgets) = (max_destinations.div_ceil(seeds.len().max(1)), Budgets::default());
        let shard = |seed| Shard {
            max_together: max_destinations.max(1),
            budgets: budgets.clone(),
            ..Shard::with_capacity(seed, each)
        };
        seeds.map(shard).collect()
    }

    /// A call asks for admission to the destination partition `key`, whose settings are `config`.
    pub fn submit(&mut self, now: Time, key: u128, config: &Arc<Config>, new: NewCall, fx: &mut Effects) -> Submitted {
        let index = match self.partitions.rouse(key, now) {
            Some(index) => index,
            None => match self.add(now, key, config, new.part_of, fx) {
                Some(index) => index,
                None => return Submitted::Refused(Refusal::TooManyDestinations { limit: self.max_together }),
            },
        };
        self.arrivals += 1;
        let arrival = self.arrivals;
        self.with(index, now, fx, |actor, cx| {
            actor.follow(index, config, cx);
            actor.submit(index, new, arrival, cx)
        })
        .unwrap_or(Submitted::Refused(Refusal::TooManyDestinations { limit: self.max_together }))
    }

    fn add(
        &mut self,
        now: Time,
        key: u128,
        config: &Arc<Config>,
        part_of: Option<u64>,
        fx: &mut Effects,
    ) -> Option<u32> {
        if self.partitions.len() >= self.max_destinations {
            // Each that is busy has a call, so one is at rest where there are fewer calls.
            let some_rest = self.calls.len() < self.partitions.len();
            let (key, joint) = self.partitions.forget(some_rest, now)?;
            joint.into_iter().for_each(|joint| self.budgets.forget(joint));
            fx.push(Effect::Forgot { key });
        }
        let joint = part_of.map(|destination| self.budgets.of(destination));
        self.partitions.add(Actor::new(key, config.clone(), joint))
    }

    /// Runs an operation on an actor and keeps its timer true.
    fn with<T>(
        &mut self,
        index: u32,
        now: Time,
        fx: &mut Effects,
        run: impl FnOnce(&mut Actor, &mut Context<'_>) -> T,
    ) -> Option<T> {
        self.partitions.stirs(index, now);
        let actor = self.partitions.get_mut(index)?;
        let result = run(actor, &mut Context { calls: &mut self.calls, random: &mut self.random, fx, now });
        if actor.wake != actor.armed {
            if !actor.armed.is_never() {
                self.timers.remove(&(actor.armed, index));
            }
            if !actor.wake.is_never() {
                self.timers.insert((actor.wake, index));
            }
            actor.armed = actor.wake;
        }
        Some(result)
    }

    #[cfg(test)]
    pub(crate) fn partitions(&mut self) -> &mut Partitions {
        &mut self.partitions
    }

    #[cfg(test)]
    pub(crate) fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    /// The first byte of an attempt is about to leave. Limits count from here; a pause that began since the admission
    /// stops it.
    pub fn departed(&mut self, now: Time, permit: Permit, fx: &mut Effects) -> Departure {
        let Some(index) = self.calls.get(permit.call).map(|entry| entry.actor) else { return Departure::Released };
        self.with(index, now, fx, |actor, cx| actor.departed(permit, cx)).unwrap_or(Departure::Released)
    }

    /// The outcome of an attempt is known: the head of an answer, or that there is none. Once per permit.
    pub fn report(
        &mut self,
        now: Time,
        permit: Permit,
        outcome: &Outcome,
        attempt: &Attempt<'_>,
        fx: &mut Effects,
    ) -> Verdict {
        let Some(index) = self.calls.get(permit.call).map(|entry| entry.actor) else {
            return Verdict::Return(Reason::Released);
        };
        self.with(index, now, fx, |actor, cx| actor.report(permit, outcome, attempt, cx))
            .unwrap_or(Verdict::Return(Reason::Released))
    }

    /// An attempt was lost with a connection that its peer closed meanwhile, which says nothing of the destination. It was
    /// charged, as it may have been counted there and even processed: the call comes back with this ticket, at no cost.
    pub fn lost(&mut self, now: Time, permit: Permit, fx: &mut Effects) -> Option<Ticket> {
        let index = self.calls.get(permit.call)?.actor;
        self.with(index, now, fx, |actor, cx| actor.lost(permit, cx)).flatten()
    }

    /// A copy of a call that flies leaves now, too, where budget, limits and another endpoint let it. Every permit of a
    /// call is departed and released by itself; of all its attempts one is reported, the others are observed.
    pub fn copy(&mut self, now: Time, permit: Permit, why: CopyFor, fx: &mut Effects) -> Option<Permit> {
        let index = self.calls.get(permit.call).map(|entry| entry.actor)?;
        self.with(index, now, fx, |actor, cx| actor.copy(permit.call, why, cx)).flatten()
    }

    /// When the answer of an attempt is late, by what answers of its destination took so far; `None` while too little is
    /// known.
    pub fn late_after(&self, permit: Permit) -> Option<Duration> {
        let entry = self.calls.get(permit.call)?;
        self.partitions.get(entry.actor)?.late_after()
    }

    /// How long answers take of another endpoint that an attempt could go to instead, and that serves calls now.
    pub fn elsewhere_takes(&self, now: Time, permit: Permit) -> Option<Duration> {
        let entry = self.calls.get(permit.call)?;
        self.partitions.get(entry.actor)?.elsewhere_takes(entry, now)
    }

    /// The outcome of an attempt beside the one that is reported; none: it was given up for the other's answer.
    pub fn observe(&mut self, now: Time, permit: Permit, outcome: Option<&Outcome>, fx: &mut Effects) {
        let Some(index) = self.calls.get(permit.call).map(|entry| entry.actor) else { return };
        self.with(index, now, fx, |actor, cx| actor.observe(permit, outcome, cx));
    }

    /// The call used this many tokens, says its answer: what its limits were charged is corrected. Harmless when the call
    /// is over, and when it is said again.
    pub fn settle(&mut self, now: Time, permit: Permit, tokens: u32, fx: &mut Effects) {
        let Some(index) = self.calls.get(permit.call).map(|entry| entry.actor) else { return };
        self.with(index, now, fx, |actor, cx| actor.settle(permit, tokens, cx));
    }

    /// The answer of a reported attempt turned out to be a refusal or a failure in its midst: it counts as such, though
    /// its sender has it already. Once per permit, before it is released.
    pub fn amend(&mut self, now: Time, permit: Permit, outcome: &Outcome, fx: &mut Effects) {
        let Some(index) = self.calls.get(permit.call).map(|entry| entry.actor) else { return };
        self.with(index, now, fx, |actor, cx| actor.amend(permit, outcome, cx));
    }

    /// The answer of a reported attempt still flows: where slots are limited it keeps its own until `until`. To be called
    /// again before that for as long as somebody reads.
    pub fn flows(&mut self, now: Time, permit: Permit, until: Time, fx: &mut Effects) {
        let Some(index) = self.calls.get(permit.call).map(|entry| entry.actor) else { return };
        self.with(index, now, fx, |actor, cx| actor.flows(permit, until, cx));
    }

    /// The attempt is over: its body has ended, or it was given up. Harmless if it is over already.
    pub fn release(&mut self, now: Time, permit: Permit, fx: &mut Effects) {
        self.release_call(now, permit.call, fx);
    }

    /// The caller of a call went away. Right in every phase: also when the admission is on its way to the caller.
    pub fn release_call(&mut self, now: Time, call: Call, fx: &mut Effects) {
        let Some(index) = self.calls.get(call).map(|entry| entry.actor) else { return };
        self.with(index, now, fx, |actor, cx| actor.release(call, cx));
    }

    /// Runs everything that is due at `now`.
    pub fn tick(&mut self, now: Time, fx: &mut Effects) {
        while let Some((at, index)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            if let Some(actor) = self.partitions.get_mut(index) {
                actor.armed = Time::NEVER;
            }
            self.with(index, now, fx, |actor, cx| actor.pump(cx));
        }
    }

    /// When [`Shard::tick`] is due next; `None`: only an operation can make it due.
    pub fn next_wake(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Gives `new` settings to every partition that follows `old`, at once: queues are kept, calls that can't make their
    /// deadline any more are refused. Linear in the number of partitions: for operators, not for traffic.
    pub fn reconfigure(&mut self, now: Time, old: &Arc<Config>, new: &Arc<Config>, fx: &mut Effects) {
        for key in self.partitions.following(old) {
            let Some(index) = self.partitions.rouse(key, now) else { continue };
            self.with(index, now, fx, |actor, cx| actor.reconfigure(index, new, cx));
        }
    }

    /// Refuses everything that waits at a partition, at once. Returns how much that was.
    pub fn flush(&mut self, now: Time, key: u128, fx: &mut Effects) -> usize {
        let Some(index) = self.partitions.rouse(key, now) else { return 0 };
        self.with(index, now, fx, |actor, cx| actor.flush(cx)).unwrap_or(0)
    }

    /// Sends on all that waits at a partition, because what it asked for belongs to another one now. Returns how much that
    /// was.
    pub fn send_on(&mut self, now: Time, key: u128, fx: &mut Effects) -> usize {
        let Some(index) = self.partitions.rouse(key, now) else { return 0 };
        self.with(index, now, fx, |actor, cx| actor.send_on(cx)).unwrap_or(0)
    }

    /// Ends the pauses of a partition, whatever made them, and begins again as after one. What was learned stays.
    pub fn resume(&mut self, now: Time, key: u128, fx: &mut Effects) {
        let Some(index) = self.partitions.rouse(key, now) else { return };
        self.with(index, now, fx, |actor, cx| actor.resume(cx));
    }

    /// The live state of one partition.
    pub fn snapshot(&self, now: Time, key: u128) -> Option<Snapshot> {
        self.partitions.seen(key, |actor| actor.snapshot(now))
    }

    /// How its endpoints do, where several are configured: a part of [`Shard::snapshot`].
    pub fn endpoint_state(&self, now: Time, key: u128) -> Option<Vec<snapshot::Endpoint>> {
        self.partitions.seen(key, |actor| actor.endpoint_state(now))
    }

    /// How many calls wait at a partition: a part of [`Shard::snapshot`], too.
    pub fn queued(&self, key: u128) -> usize {
        self.partitions.awake(key).map_or(0, Actor::queued)
    }

    /// What is left of a partition's pause, and why it pauses: a part of [`Shard::snapshot`] that costs little.
    pub fn pause(&self, now: Time, key: u128) -> Option<(Duration, Cause)> {
        self.partitions.awake(key)?.pause(now)
    }

    /// Whether calls of a partition wait for the end of a pause, be it an operator's.
    pub fn is_paused(&self, now: Time, key: u128) -> bool {
        self.partitions.seen(key, |actor| actor.holds_all(now)).unwrap_or(false)
    }

    /// The keys of all partitions the shard knows, in no order.
    pub fn keys(&self) -> impl Iterator<Item = u128> + '_ {
        self.partitions.keys()
    }

    /// How many partitions the shard knows.
    pub fn destinations(&self) -> usize {
        self.partitions.len()
    }

    /// How many calls wait or fly.
    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    /// Bytes of one actor that is awake, without its endpoints: for capacity planning and benches.
    pub const fn actor_size() -> usize {
        size_of::<Actor>()
    }
}
