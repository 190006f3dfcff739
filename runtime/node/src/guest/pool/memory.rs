//! The memory of all guests together.
//!
//! Memories and tables are charged to one account of the node as they grow, what they begin with too. A charge lies in a
//! store's data and goes back with it, however the instance ended. It is counted in atomics alone: an instance that
//! begins or grows takes no lock for it.
//!
//! A function may hold as much as it leaves free ([`is_fair`]): one that takes all it can gets half, two at once a third
//! each, ten an eleventh, and as much is left for a newcomer. One that came earlier keeps what it has until its instances
//! end, so the next one finds half of what is free then. Nobody's share depends on a number that somebody must guess, and
//! none can be used up by any number of functions.
//!
//! An instance begins with what its component says that it needs, taken together with its places. Who lacks memory waits
//! in the same line as for a place and keeps nobody else: a function could hold up all others with one instance that it
//! makes too big. Idle instances make room, the longest idle of those first that hold most, as long as all that are idle
//! would be enough: what would not help is not done.

#[cfg(test)]
mod tests;

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use prometheus_client::metrics::gauge::Gauge;

use super::{Account, Pool, line::State};
use crate::guest::limits::Bound;

/// The account of the node.
pub(in crate::guest) struct Memory {
    bound: Bound<u64>,
    /// What all guests hold. The gauge that people see is the account itself.
    used: Gauge<u64, AtomicU64>,
    /// How often somebody asked for idle instances to make room since one began to see to it.
    asked: AtomicU32,
}

/// Whether a function that holds `held` may take `more` where all guests together hold `used` of `bound`.
fn is_fair(bound: u64, used: u64, held: u64, more: u64) -> bool {
    let left = bound.checked_sub(used).and_then(|free| free.checked_sub(more));
    left.is_some_and(|left| held.saturating_add(more) <= left)
}

/// What would have to be free for it.
fn wanted(held: u64, more: u64) -> u64 {
    held.saturating_add(more).saturating_add(more)
}

/// The most that one function can ever hold.
pub(in crate::guest) fn most_of_one(bound: u64) -> u64 {
    bound / 2
}

impl Memory {
    pub(in crate::guest) fn new(bound: Bound<u64>, used: Gauge<u64, AtomicU64>) -> Self {
        Self { bound, used, asked: AtomicU32::new(0) }
    }

    pub(super) fn bound(&self) -> Bound<u64> {
        self.bound
    }

    fn used(&self) -> u64 {
        self.used.inner().load(Ordering::Relaxed)
    }

    fn free(&self) -> u64 {
        self.bound.value.saturating_sub(self.used())
    }
}

/// What one instance holds of the node's memory.
pub(in crate::guest) struct Charge {
    account: Arc<Account>,
    /// What it holds, some of it for later.
    taken: u64,
    used: u64,
}

impl Charge {
    /// Of nothing yet.
    pub(super) fn none(account: &Arc<Account>) -> Self {
        Self { account: Arc::clone(account), taken: 0, used: 0 }
    }

    /// Bytes that the instance uses.
    pub(in crate::guest) fn used(&self) -> u64 {
        self.used
    }

    /// The instance uses `more` from now on. False where there is not so much left for its function.
    pub(in crate::guest) fn grow(&mut self, more: u64) -> bool {
        let used = self.used.saturating_add(more);
        let beyond = used.saturating_sub(self.taken);
        if beyond > 0 && !self.account.take_memory(beyond) && !self.account.take_memory_of_idle(beyond) {
            return false;
        }
        self.taken += beyond;
        self.used = used;
        true
    }

    /// The bound of all guests together.
    pub(in crate::guest) fn bound(&self) -> Bound<u64> {
        self.account.pool.memory.bound
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.pool.memory.used.inner().fetch_sub(self.taken, Ordering::Relaxed);
        self.account.share.memory.fetch_sub(self.taken, Ordering::Release);
    }
}

impl Account {
    fn held(&self) -> u64 {
        self.share.memory.load(Ordering::Acquire)
    }

    /// Whether an instance may begin, as far as memory goes.
    pub(super) fn has_memory(&self) -> bool {
        let memory = &self.pool.memory;
        is_fair(memory.bound.value, memory.used(), self.held(), self.start)
    }

    /// The charge of an instance that begins.
    pub(super) fn charge(self: &Arc<Self>) -> Option<Charge> {
        let taken = self.take_memory(self.start).then_some(self.start)?;
        Some(Charge { account: Arc::clone(self), taken, used: 0 })
    }

    fn take_memory(&self, more: u64) -> bool {
        let memory = &self.pool.memory;
        // Two of its instances that grow at the same moment may both find what it held before: then the function has a little
        // more than is fair, and all together never more than the bound.
        let held = self.held();
        let fair = |used| is_fair(memory.bound.value, used, held, more).then(|| used + more);
        let taken = memory.used.inner().fetch_update(Ordering::Relaxed, Ordering::Relaxed, fair).is_ok();
        if taken {
            self.share.memory.fetch_add(more, Ordering::Relaxed);
        }
        taken
    }

    /// The same once idle instances have made room.
    fn take_memory_of_idle(&self, more: u64) -> bool {
        self.pool.make_memory(|coming| lack(self.pool.memory.free(), wanted(self.held(), more), coming));
        self.take_memory(more)
    }
}

fn lack(free: u64, wanted: u64, coming: u64) -> u64 {
    wanted.saturating_sub(free).saturating_sub(coming)
}

impl State {
    /// Bytes that are neither free nor on their way, and without which the first of those who lack nothing else waits on.
    fn lacking(&self, free: u64) -> u64 {
        let heads = self.lines.values().filter_map(|line| line.front());
        let poor = heads.filter(|waiter| waiter.account.has_share_left() && !waiter.account.has_memory());
        let first = poor.min_by_key(|waiter| waiter.turn);
        first.map_or(0, |waiter| lack(free, wanted(waiter.account.held(), waiter.account.start), self.coming_bytes))
    }
}

impl Pool {
    /// Has idle instances ended for whoever waits for memory. An instance that ends gives back its place, which leads here
    /// again: one goes on for all, and looks once more when somebody came meanwhile.
    pub(super) fn make_memory_for_waiters(&self) {
        let asked = &self.memory.asked;
        if !self.has_waiters() || asked.fetch_add(1, Ordering::AcqRel) > 0 {
            return;
        }
        let mut seen = 1;
        loop {
            self.make_memory(|_| self.state.lock().lacking(self.memory.free()));
            match asked.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Has idle instances ended until nothing is lacking any more, or nothing would help.
    fn make_memory(&self, lacking: impl Fn(u64) -> u64) {
        loop {
            let coming = self.state.lock().coming_bytes;
            if !self.evict_for(lacking(coming)) {
                return;
            }
        }
    }

    /// Ends the longest-idle instance of the deployment whose idle ones hold most, if all that are idle hold `lack`.
    fn evict_for(&self, lack: u64) -> bool {
        if lack == 0 {
            return false;
        }
        let shelves = self.live_shelves().into_iter();
        let mut idle: Vec<_> =
            shelves.map(|shelf| (shelf.idle_memory(), shelf)).filter(|(held, _)| *held > 0).collect();
        if idle.iter().map(|(held, _)| held).sum::<u64>() < lack {
            return false;
        }
        idle.sort_by_key(|(held, _)| std::cmp::Reverse(*held));
        idle.iter().any(|(_, shelf)| shelf.evict())
    }
}
