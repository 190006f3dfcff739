//! Where the actors live: a pure shard per core behind one short mutex each, and one thread for all their timers.
//!
//! No lock is held across an await, and nobody is woken under one. An admission is one token whose drop gives back its
//! slot, its share of limits and its place, whatever phase it is in; so is the wait for one. So a call that is dropped
//! at any point leaves nothing behind.

mod clock;
mod timer;
mod wait;

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tidegate_core::{
    Attempt, Call, Config, Effect, Effects, NewCall, Outcome, Permit, Refusal, Shard, Snapshot, Submitted, Time,
    Verdict, Waiting,
    refusal::Cause,
    shard::{CopyFor, Departure},
};

pub(crate) use clock::now;
use timer::Timer;
use wait::Waiter;
pub(crate) use wait::{Unadmitted, Wait};

/// All shards of a node.
pub(crate) struct Shards {
    shards: Box<[Mutex<Hosted>]>,
    timer: Timer,
    forgotten: Arc<Forgotten>,
}

/// Partitions that made room for others, for whoever keeps books about partitions.
#[derive(Default)]
pub(crate) struct Forgotten {
    keys: Mutex<Vec<u128>>,
    /// All of them so far.
    count: AtomicU64,
}

impl Forgotten {
    /// How many so far: the books are true as long as it stays the same.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Takes out those that were not taken before.
    pub(crate) fn take(&self) -> Vec<u128> {
        std::mem::take(&mut self.keys.lock())
    }

    fn push(&self, key: u128) {
        self.keys.lock().push(key);
        self.count.fetch_add(1, Ordering::Release);
    }
}

/// A core shard with what the host adds: who waits.
struct Hosted {
    core: Shard,
    effects: Effects,
    /// By the index of the call.
    waiters: Vec<Option<Arc<Waiter>>>,
    forgotten: Arc<Forgotten>,
}

/// Wakes what an operation let go or refused, once the lock is gone.
type Woken = SmallVec<[(Arc<Waiter>, wait::Outcome); 4]>;

/// What the gate says to a call that asks.
pub(crate) enum Asked {
    /// Go.
    Admitted(Admission),
    /// Wait.
    Queued {
        /// Waits for the admission.
        wait: Wait,
        /// For what.
        why: Waiting,
    },
    /// No.
    Refused(Refusal),
}

impl Shards {
    /// Shards and their timer thread, which ends when the last reference to the shards does.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(count: usize, max_actors: usize) -> std::io::Result<Arc<Self>> {
        let count = count.max(1);
        let forgotten = Arc::new(Forgotten::default());
        let hosted = |core| {
            Mutex::new(Hosted {
                core,
                effects: Effects::default(),
                waiters: Vec::new(),
                forgotten: Arc::clone(&forgotten),
            })
        };
        let seeds = (0..count).map(|_| rand::random());
        let shards = Shard::group(seeds, max_actors).into_iter().map(hosted).collect();
        let shards = Arc::new(Self { shards, timer: Timer::default(), forgotten });
        timer::spawn(&shards)?;
        Ok(shards)
    }

    /// Runs an operation on the shard of a key, then wakes whom it concerns, then arms the timer.
    fn with<T>(&self, shard: usize, run: impl FnOnce(&mut Hosted, Time) -> T) -> Option<T> {
        let hosted = self.shards.get(shard)?;
        let mut woken = Woken::new();
        let (result, next) = {
            let mut hosted = hosted.lock();
            // Read under the lock: times that a shard sees never go back.
            let result = run(&mut hosted, now());
            hosted.collect(&mut woken);
            (result, hosted.core.next_wake())
        };
        if let Some(next) = next {
            self.timer.arm(next);
        }
        wait::wake(woken);
        Some(result)
    }

    fn shard_of(&self, key: u128) -> usize {
        // The low bits of a hash are as good as any others.
        usize::try_from(key % self.shards.len().max(1) as u128).unwrap_or(0)
    }

    /// A call asks for admission to the partition `key`.
    pub(crate) fn ask(self: &Arc<Self>, key: u128, config: &Arc<Config>, new: NewCall) -> Asked {
        let shard = self.shard_of(key);
        let asked = self.with(shard, |hosted, now| {
            let submitted = hosted.core.submit(now, key, config, new, &mut hosted.effects);
            match submitted {
                Submitted::Admitted(permit) => Asked::Admitted(Admission::new(self, shard, permit)),
                Submitted::Refused(refusal) => Asked::Refused(refusal),
                Submitted::Queued { call, why, .. } => {
                    let waiter = Arc::new(Waiter::default());
                    hosted.register(call, Arc::clone(&waiter));
                    Asked::Queued { wait: Wait::new(self, shard, call, waiter), why }
                }
            }
        });
        asked.unwrap_or(Asked::Refused(Refusal::TooManyDestinations { limit: 0 }))
    }

    /// The partitions that were forgotten.
    pub(crate) fn forgotten(&self) -> &Forgotten {
        &self.forgotten
    }

    /// The live state of a partition.
    pub(crate) fn snapshot(&self, key: u128) -> Option<Snapshot> {
        // A look changes nothing, so nobody is woken.
        self.shards.get(self.shard_of(key))?.lock().core.snapshot(now(), key)
    }

    /// How the endpoints of a partition do.
    pub(crate) fn endpoint_state(&self, key: u128) -> Option<Vec<tidegate_core::snapshot::Endpoint>> {
        self.shards.get(self.shard_of(key))?.lock().core.endpoint_state(now(), key)
    }

    /// How many calls wait at a partition.
    pub(crate) fn queued(&self, key: u128) -> usize {
        self.shards.get(self.shard_of(key)).map_or(0, |shard| shard.lock().core.queued(key))
    }

    /// What is left of a partition's pause, and why it pauses.
    pub(crate) fn pause(&self, key: u128) -> Option<(Duration, Cause)> {
        self.shards.get(self.shard_of(key))?.lock().core.pause(now(), key)
    }

    /// Whether calls of a partition wait for the end of a pause, be it an operator's.
    pub(crate) fn is_paused(&self, key: u128) -> bool {
        self.shards.get(self.shard_of(key)).is_some_and(|shard| shard.lock().core.is_paused(now(), key))
    }

    /// Lets every partition that follows `old` follow `new`.
    pub(crate) fn reconfigure(&self, old: &Arc<Config>, new: &Arc<Config>) {
        for shard in 0..self.shards.len() {
            self.with(shard, |hosted, now| hosted.core.reconfigure(now, old, new, &mut hosted.effects));
        }
    }

    /// Refuses all that waits in a partition. Returns how many calls that were.
    pub(crate) fn flush(&self, key: u128) -> usize {
        let flushed = self.with(self.shard_of(key), |hosted, now| hosted.core.flush(now, key, &mut hosted.effects));
        flushed.unwrap_or_default()
    }

    /// Has all that waits in a partition ask again, where it belongs now.
    pub(crate) fn send_on(&self, key: u128) {
        self.with(self.shard_of(key), |hosted, now| hosted.core.send_on(now, key, &mut hosted.effects));
    }

    /// Ends the pauses of a partition.
    pub(crate) fn resume(&self, key: u128) {
        self.with(self.shard_of(key), |hosted, now| hosted.core.resume(now, key, &mut hosted.effects));
    }

    /// Runs what is due and says when to come again.
    fn tick(&self) -> Option<Time> {
        let mut next = None;
        for shard in &self.shards {
            let mut woken = Woken::new();
            {
                let mut hosted = shard.lock();
                let now = now();
                if hosted.core.next_wake().is_some_and(|due| due <= now) {
                    let Hosted { core, effects, .. } = &mut *hosted;
                    core.tick(now, effects);
                    hosted.collect(&mut woken);
                }
                next = [next, hosted.core.next_wake()].into_iter().flatten().min();
            }
            wait::wake(woken);
        }
        next
    }
}

impl Hosted {
    fn register(&mut self, call: Call, waiter: Arc<Waiter>) {
        let index = call.index();
        if self.waiters.len() <= index {
            self.waiters.resize_with(index + 1, || None);
        }
        if let Some(place) = self.waiters.get_mut(index) {
            *place = Some(waiter);
        }
    }

    fn forget(&mut self, call: Call) -> Option<Arc<Waiter>> {
        self.waiters.get_mut(call.index()).and_then(Option::take)
    }

    /// Takes the effects out and pairs each with who waits for it.
    fn collect(&mut self, woken: &mut Woken) {
        if self.effects.is_empty() {
            return;
        }
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain() {
            let (call, outcome) = match effect {
                Effect::Admit { call, permit, waited, why } => (call, Ok((permit, waited, why))),
                Effect::Refuse { call, refusal } => (call, Err(Unadmitted::Refused(refusal))),
                Effect::SentOn { call, ticket } => (call, Err(Unadmitted::SentOn(ticket))),
                Effect::Forgot { key } => {
                    self.forgotten.push(key);
                    continue;
                }
            };
            if let Some(waiter) = self.forget(call) {
                woken.push((waiter, outcome));
            }
        }
        self.effects = effects;
    }
}

/// The right to send one attempt. Dropping it gives everything back.
pub(crate) struct Admission {
    shards: Weak<Shards>,
    shard: usize,
    permit: Permit,
}

impl Admission {
    fn new(shards: &Arc<Shards>, shard: usize, permit: Permit) -> Self {
        Self { shards: Arc::downgrade(shards), shard, permit }
    }

    fn with<T>(&self, run: impl FnOnce(&mut Hosted, Time) -> T) -> Option<T> {
        self.shards.upgrade()?.with(self.shard, run)
    }

    /// The first byte is about to leave.
    pub(crate) fn departed(&self) -> Departure {
        self.with(|hosted, now| hosted.core.departed(now, self.permit, &mut hosted.effects))
            .unwrap_or(Departure::Released)
    }

    /// It was lost with a connection that was closed meanwhile: what the call comes back with.
    pub(crate) fn lost(&self) -> Option<tidegate_core::Ticket> {
        self.with(|hosted, now| hosted.core.lost(now, self.permit, &mut hosted.effects)).flatten()
    }

    /// Which endpoint of the destination it is for.
    pub(crate) fn endpoint(&self) -> u64 {
        self.permit.endpoint()
    }

    /// When an answer is late, as far as known.
    pub(crate) fn late_after(&self) -> Option<Duration> {
        self.with(|hosted, _| hosted.core.late_after(self.permit)).flatten()
    }

    /// How long answers take of another endpoint that it could go to instead.
    pub(crate) fn elsewhere_takes(&self) -> Option<Duration> {
        self.with(|hosted, now| hosted.core.elsewhere_takes(now, self.permit)).flatten()
    }

    /// The right to send a copy, now or not at all.
    pub(crate) fn copy(&self, why: CopyFor) -> Option<Self> {
        let permit = self.with(|hosted, now| hosted.core.copy(now, self.permit, why, &mut hosted.effects)).flatten()?;
        Some(Self { shards: Weak::clone(&self.shards), shard: self.shard, permit })
    }

    /// What became of an attempt beside the one that is reported; nothing: it was given up for the other's answer.
    pub(crate) fn observe(&self, outcome: Option<&Outcome>) {
        self.with(|hosted, now| hosted.core.observe(now, self.permit, outcome, &mut hosted.effects));
    }

    /// The answer flows: keeps a slot for `time` more.
    pub(crate) fn flows(&self, time: Duration) {
        self.with(|hosted, now| hosted.core.flows(now, self.permit, now + time, &mut hosted.effects));
    }

    /// The call used this many tokens.
    pub(crate) fn settle(&self, tokens: u32) {
        self.with(|hosted, now| hosted.core.settle(now, self.permit, tokens, &mut hosted.effects));
    }

    /// The answer that was reported turned out to be this.
    pub(crate) fn amend(&self, outcome: &Outcome) {
        self.with(|hosted, now| hosted.core.amend(now, self.permit, outcome, &mut hosted.effects));
    }

    /// The outcome is known; says what to do.
    pub(crate) fn report(&self, outcome: &Outcome, attempt: &Attempt<'_>) -> Verdict {
        self.with(|hosted, now| hosted.core.report(now, self.permit, outcome, attempt, &mut hosted.effects))
            .unwrap_or(Verdict::Return(tidegate_core::repeat::Reason::Released))
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.with(|hosted, now| hosted.core.release(now, self.permit, &mut hosted.effects));
    }
}
