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
    asleep::Asleep,
    awake::Awake,
    budgets::Budgets,
    calls::{Call, Calls, NewCall, Permit, Ticket},
    endpoint::Endpoints,
    refusal::{Cause, Refusal},
    repeat::{Attempt, Outcome, Reason},
    snapshot::{self, Snapshot},
    time::Time,
};
use hashbrown::HashTable;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

pub use crate::{actor::CopyFor, queue::Bounds as QueueBounds};
pub use said::{Departure, Effect, Effects, Submitted, Verdict};
pub use settings::{BELIEVED_PAUSE, Brake, Config, MAX_PAUSE, Settings};

/// How many destination partitions a shard keeps, unless stated.
pub const MAX_DESTINATIONS: usize = 1 << 20;
/// How many actors are looked at to find one to forget, or more where one must be at rest.
const FORGET_CHOICE: usize = 64;

/// Keys are hashes already, with a secret in them.
fn hash(key: u128) -> u64 {
    key as u64 ^ (key >> 64) as u64
}

/// Many destinations, one writer.
#[derive(Debug)]
pub struct Shard {
    actors: slab::Slab<Actor>,
    /// By the keys that the actors themselves hold.
    by_key: HashTable<u32>,
    awake: Awake,
    asleep: Asleep<Endpoints>,
    calls: Calls,
    timers: BTreeSet<(Time, u32)>,
    random: fastrand::Rng,
    arrivals: u64,
    max_destinations: usize,
    /// The same of all shards of its group: what people have set.
    max_together: usize,
    budgets: Budgets,
    /// Where the search for an actor to forget goes on.
    hand: usize,
}

impl Shard {
    /// An empty shard. The same seed and the same events make the same decisions.
    pub fn new(seed: u64) -> Shard {
        Shard::with_capacity(seed, MAX_DESTINATIONS)
    }

    /// An empty shard that keeps at most `max_destinations` partitions.
    pub fn with_capacity(seed: u64, max_destinations: usize) -> Shard {
        Shard {
            actors: slab::Slab::new(),
            by_key: HashTable::new(),
            awake: Awake::default(),
            asleep: Asleep::new(),
            calls: Calls::default(),
            timers: BTreeSet::new(),
            random: fastrand::Rng::with_seed(seed),
            arrivals: 0,
            max_destinations: max_destinations.max(1),
            max_together: max_destinations.max(1),
            budgets: Budgets::default(),
            hand: 0,
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
        let index = match self.find(key) {
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

    fn find(&self, key: u128) -> Option<u32> {
        let is = |index: &u32| {
            self.asleep.touch(*index);
            self.actors.get(*index as usize).is_some_and(|actor| actor.key == key)
        };
        self.by_key.find(hash(key), is).copied()
    }

    fn add(
        &mut self,
        now: Time,
        key: u128,
        config: &Arc<Config>,
        part_of: Option<u64>,
        fx: &mut Effects,
    ) -> Option<u32> {
        if self.actors.len() >= self.max_destinations {
            let key = self.forget(now)?;
            fx.push(Effect::Forgot { key });
        }
        let joint = part_of.map(|destination| self.budgets.of(destination));
        let index = u32::try_from(self.actors.insert(Actor::new(key, config.clone(), joint))).ok()?;
        let actors = &self.actors;
        let rehash = |index: &u32| actors.get(*index as usize).map_or(0, |actor| hash(actor.key));
        self.by_key.insert_unique(hash(key), index, rehash);
        Some(index)
    }

    /// Forgets one actor at rest, rather one that knows nothing worth keeping, and says which.
    fn forget(&mut self, now: Time) -> Option<u128> {
        let capacity = self.actors.capacity().max(1);
        let mut idle = None;
        // Each that is busy has a call, so one is at rest where there are fewer calls.
        let some_rest = self.calls.len() < self.actors.len();
        for looked in 0..capacity.max(FORGET_CHOICE) {
            if looked >= FORGET_CHOICE && (idle.is_some() || !some_rest) {
                break;
            }
            self.hand = (self.hand + 1) % capacity;
            match self.actors.get(self.hand) {
                Some(actor) if actor.is_blank(now) => {
                    idle = Some(self.hand);
                    break;
                }
                Some(actor) if actor.is_idle() => idle = Some(self.hand),
                _ => {}
            }
        }
        let index = idle?;
        let mut actor = self.actors.try_remove(index)?;
        actor.joint.take().into_iter().for_each(|joint| self.budgets.forget(joint));
        u32::try_from(index).into_iter().for_each(|index| self.asleep.forget(index));
        if let Ok(entry) = self.by_key.find_entry(hash(actor.key), |other| *other as usize == index) {
            entry.remove();
        }
        Some(actor.key)
    }

    /// Runs an operation on an actor and keeps its timer true.
    fn with<T>(
        &mut self,
        index: u32,
        now: Time,
        fx: &mut Effects,
        run: impl FnOnce(&mut Actor, &mut Context<'_>) -> T,
    ) -> Option<T> {
        if !std::mem::replace(&mut self.actors.get_mut(index as usize)?.listed, true) {
            // First, as what it was may still be on its way from memory.
            self.rises(index, now);
        }
        let actor = self.actors.get_mut(index as usize)?;
        if let Some(endpoints) = self.asleep.read(index) {
            actor.awake(endpoints);
        }
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

    /// One wakes up; the one that did so longest ago comes to rest, unless it is busy. That one is listed again when
    /// something happens to it.
    fn rises(&mut self, index: u32, now: Time) {
        let Some(eldest) = self.awake.rises(index) else { return };
        if let Some(actor) = self.actors.get_mut(eldest as usize) {
            actor.listed = false;
            actor.sleep(eldest, &mut self.asleep, now);
        }
    }

    #[cfg(test)]
    pub(crate) fn rest(&mut self) -> (&mut Awake, &mut Asleep<Endpoints>) {
        (&mut self.awake, &mut self.asleep)
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
        self.actors.get(entry.actor as usize)?.late_after()
    }

    /// How long answers take of another endpoint that an attempt could go to instead, and that serves calls now.
    pub fn elsewhere_takes(&self, now: Time, permit: Permit) -> Option<Duration> {
        let entry = self.calls.get(permit.call)?;
        self.actors.get(entry.actor as usize)?.elsewhere_takes(entry, now)
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
            if let Some(actor) = self.actors.get_mut(index as usize) {
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
        let following: Vec<u32> = self
            .actors
            .iter()
            .filter(|(_, actor)| Arc::ptr_eq(actor.config(), old))
            .filter_map(|(index, _)| u32::try_from(index).ok())
            .collect();
        for index in following {
            self.with(index, now, fx, |actor, cx| actor.reconfigure(index, new, cx));
        }
    }

    /// Refuses everything that waits at a partition, at once. Returns how much that was.
    pub fn flush(&mut self, now: Time, key: u128, fx: &mut Effects) -> usize {
        let Some(index) = self.find(key) else { return 0 };
        self.with(index, now, fx, |actor, cx| actor.flush(cx)).unwrap_or(0)
    }

    /// Sends on all that waits at a partition, because what it asked for belongs to another one now. Returns how much that
    /// was.
    pub fn send_on(&mut self, now: Time, key: u128, fx: &mut Effects) -> usize {
        let Some(index) = self.find(key) else { return 0 };
        self.with(index, now, fx, |actor, cx| actor.send_on(cx)).unwrap_or(0)
    }

    /// Ends the pauses of a partition, whatever made them, and begins again as after one. What was learned stays.
    pub fn resume(&mut self, now: Time, key: u128, fx: &mut Effects) {
        let Some(index) = self.find(key) else { return };
        self.with(index, now, fx, |actor, cx| actor.resume(cx));
    }

    /// The live state of one partition.
    pub fn snapshot(&self, now: Time, key: u128) -> Option<Snapshot> {
        let index = self.find(key)?;
        let actor = self.actors.get(index as usize)?;
        Some(actor.snapshot(self.asleep.seen(index).as_ref(), now))
    }

    /// How its endpoints do, where several are configured: a part of [`Shard::snapshot`].
    pub fn endpoint_state(&self, now: Time, key: u128) -> Option<Vec<snapshot::Endpoint>> {
        let index = self.find(key)?;
        let actor = self.actors.get(index as usize)?;
        Some(actor.endpoint_state(self.asleep.seen(index).as_ref(), now))
    }

    /// How many calls wait at a partition: a part of [`Shard::snapshot`], too.
    pub fn queued(&self, key: u128) -> usize {
        self.find(key).and_then(|index| self.actors.get(index as usize)).map_or(0, Actor::queued)
    }

    /// What is left of a partition's pause, and why it pauses: a part of [`Shard::snapshot`] that costs little.
    pub fn pause(&self, now: Time, key: u128) -> Option<(Duration, Cause)> {
        let index = self.find(key)?;
        self.actors.get(index as usize)?.pause(self.asleep.seen(index).as_ref(), now)
    }

    /// Whether calls of a partition wait for the end of a pause, be it an operator's.
    pub fn is_paused(&self, now: Time, key: u128) -> bool {
        let actor = self.find(key).and_then(|index| Some((index, self.actors.get(index as usize)?)));
        actor.is_some_and(|(index, actor)| actor.holds_all(self.asleep.seen(index).as_ref(), now))
    }

    /// The keys of all partitions the shard knows, in no order.
    pub fn keys(&self) -> impl Iterator<Item = u128> + '_ {
        self.actors.iter().map(|(_, actor)| actor.key)
    }

    /// How many partitions the shard knows.
    pub fn destinations(&self) -> usize {
        self.actors.len()
    }

    /// How many calls wait or fly.
    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    /// Bytes of one actor at rest, without what it may have learned: for capacity planning and benches.
    pub const fn actor_size() -> usize {
        size_of::<Actor>()
    }
}
