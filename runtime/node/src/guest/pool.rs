//! Places for instances: how many may live on this node, who waits for one, and who makes room.
//!
//! A permit belongs to an instance from before it is made until its store is dropped, idle or not. When none is free,
//! the longest-idle instance of the function that holds most goes; when nothing is idle, requests wait in line.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{InvokeError, limits::Bound};

/// Where a deployment keeps the instances it may use again.
pub(super) trait Shelf: Send + Sync {
    /// Instances of the deployment that serve nobody.
    fn idle(&self) -> usize;
    /// All instances of the deployment.
    fn instances(&self) -> usize;
    /// Drops the longest-idle instance; false if there is none.
    fn evict(&self) -> bool;
    /// Drops what is too old or idle for too long.
    fn sweep(&self, idle: Duration, age: Duration);
}

/// A place for one instance.
pub(super) struct Permit(Option<Arc<Pool>>);

impl Permit {
    fn of(pool: &Arc<Pool>) -> Self {
        Self(Some(Arc::clone(pool)))
    }

    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(pool) = self.0.take() {
            pool.give_back();
        }
    }
}

/// What somebody who waited gets.
pub(super) enum Grant<I> {
    /// A place for a new instance.
    Permit(Permit),
    /// An instance of the same deployment that just became free.
    Instance(I),
}

/// Hands an instance to a waiter of the same deployment; gives it back if there is none any more.
type Offer = Box<dyn std::any::Any + Send>;

struct Waiter {
    shelf: u64,
    sender: oneshot::Sender<Offer>,
}

/// The places of the node.
pub(super) struct Pool {
    state: Mutex<State>,
    waiting: AtomicUsize,
    wait: Bound<Duration>,
    queue: Bound<u32>,
    shelves: Mutex<Vec<Weak<dyn Shelf>>>,
}

struct State {
    free: u32,
    waiters: VecDeque<Waiter>,
}

impl Pool {
    pub(super) fn new(places: u32, wait: Bound<Duration>, queue: Bound<u32>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State { free: places.max(1), waiters: VecDeque::new() }),
            waiting: AtomicUsize::new(0),
            wait,
            queue,
            shelves: Mutex::new(Vec::new()),
        })
    }

    /// Makes a shelf known to eviction and sweeping for as long as it lives.
    pub(super) fn register(&self, shelf: Weak<dyn Shelf>) {
        let mut shelves = self.shelves.lock();
        shelves.retain(|shelf| shelf.strong_count() > 0);
        shelves.push(shelf);
    }

    fn live_shelves(&self) -> Vec<Arc<dyn Shelf>> {
        self.shelves.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Drops what is idle or old, in all shelves.
    pub(super) fn sweep(&self, idle: Duration, age: Duration) {
        for shelf in self.live_shelves() {
            shelf.sweep(idle, age);
        }
    }

    /// A free place, if there is one and nobody waits.
    pub(super) fn try_permit(self: &Arc<Self>) -> Option<Permit> {
        let mut state = self.state.lock();
        if state.free == 0 || !state.waiters.is_empty() {
            return None;
        }
        state.free -= 1;
        Some(Permit::of(self))
    }

    fn try_permit_by_eviction(self: &Arc<Self>) -> Option<Permit> {
        let mut shelves = self.live_shelves();
        shelves.retain(|shelf| shelf.idle() > 0);
        shelves.sort_by_key(|shelf| std::cmp::Reverse(shelf.instances()));
        shelves.iter().find_map(|shelf| if shelf.evict() { self.try_permit() } else { None })
    }

    /// A place, or an instance of the same shelf that becomes free first, waiting in line for either.
    pub(super) async fn acquire<I: Send + 'static>(self: &Arc<Self>, shelf: u64) -> Result<Grant<I>, InvokeError> {
        if let Some(permit) = self.try_permit().or_else(|| self.try_permit_by_eviction()) {
            return Ok(Grant::Permit(permit));
        }
        let receiver = {
            let mut state = self.state.lock();
            if state.free > 0 && state.waiters.is_empty() {
                state.free -= 1;
                return Ok(Grant::Permit(Permit::of(self)));
            }
            // Waiters who left are found by their closed channels.
            if state.waiters.len() >= self.queue.value as usize {
                state.waiters.retain(|waiter| !waiter.sender.is_closed());
                if state.waiters.len() >= self.queue.value as usize {
                    return Err(InvokeError::QueueFull(self.queue));
                }
            }
            let (sender, receiver) = oneshot::channel();
            state.waiters.push_back(Waiter { shelf, sender });
            self.waiting.store(state.waiters.len(), Ordering::Release);
            receiver
        };
        let offer = match tokio::time::timeout(self.wait.value, receiver).await {
            Ok(Ok(offer)) => offer,
            Ok(Err(_)) | Err(_) => return Err(InvokeError::NoInstance(self.wait)),
        };
        match offer.downcast::<Permit>() {
            Ok(permit) => Ok(Grant::Permit(*permit)),
            Err(offer) => match offer.downcast::<I>() {
                Ok(instance) => Ok(Grant::Instance(*instance)),
                Err(_) => Err(InvokeError::NoInstance(self.wait)),
            },
        }
    }

    /// Whether anybody waits. An idle instance is worth nothing then.
    pub(super) fn has_waiters(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Offers an instance that became free to the first in line. It comes back where nobody waits; where the first in
    /// line wants another function's, the caller should drop it, so that its place goes there.
    pub(super) fn offer<I: Send + 'static>(&self, shelf: u64, instance: I) -> Offered<I> {
        let mut instance = instance;
        loop {
            let waiter = {
                let mut state = self.state.lock();
                let next = state.waiters.front().map(|waiter| waiter.sender.is_closed() || waiter.shelf == shelf);
                let waiter = match next {
                    None => return Offered::Nobody(instance),
                    Some(false) => return Offered::Other(instance),
                    Some(true) => state.waiters.pop_front(),
                };
                self.waiting.store(state.waiters.len(), Ordering::Release);
                waiter
            };
            let Some(waiter) = waiter.filter(|waiter| waiter.shelf == shelf) else { continue };
            match waiter.sender.send(Box::new(instance)) {
                Ok(()) => return Offered::Taken,
                Err(back) => match back.downcast::<I>() {
                    Ok(back) => instance = *back,
                    Err(_) => return Offered::Taken,
                },
            }
        }
    }

    fn give_back(self: &Arc<Self>) {
        loop {
            let waiter = {
                let mut state = self.state.lock();
                let waiter = state.waiters.pop_front();
                self.waiting.store(state.waiters.len(), Ordering::Release);
                match waiter {
                    None => {
                        state.free += 1;
                        return;
                    }
                    Some(waiter) => waiter,
                }
            };
            match waiter.sender.send(Box::new(Permit::of(self))) {
                Ok(()) => return,
                // It left. Its permit is ours still, and must not be given back by its own drop as well.
                Err(back) => {
                    if let Ok(permit) = back.downcast::<Permit>() {
                        permit.disarm();
                    }
                }
            }
        }
    }
}

/// What became of an instance on offer.
pub(super) enum Offered<I> {
    /// Somebody who waited has it.
    Taken,
    /// Nobody waits.
    Nobody(I),
    /// Somebody waits for a place of another deployment.
    Other(I),
}

/// When the pool is asked to look for idle instances.
pub(super) const SWEEP: Duration = Duration::from_millis(500);

/// Age of something, for shelves.
pub(super) fn older_than(since: Instant, bound: Duration) -> bool {
    since.elapsed() > bound
}
