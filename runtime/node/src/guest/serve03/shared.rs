//! What an instance's task and everybody else share: its inbox, its places, and the shelf it stands on.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures::task::AtomicWaker;
use http::{Request, Response};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use wasmtime_wasi_http::WasiBody;

use super::files::{Filed, Files};
use crate::{
    clock::{self, nanos},
    cluster::registry::Isolation,
    guest::{
        InvokeError,
        deployment::Deployed,
        failure,
        hogs::FunctionKey,
        meter::Meter,
        pool::{Offered, Shelf},
        running::Running,
        watch,
    },
    threads,
};

pub(super) type Head = Result<Response<WasiBody>, InvokeError>;

/// An instance that has been computing for this long in one go gets no more requests until it rests.
const BUSY: Duration = Duration::from_millis(2);

/// One request on its way into an instance.
pub(super) struct Job {
    pub(super) request: Request<WasiBody>,
    pub(super) running: Arc<Running>,
    pub(super) head: oneshot::Sender<Head>,
}

/// What the instance's task and everybody else share.
pub(super) struct Shared {
    pub(super) inbox: Mutex<VecDeque<Job>>,
    pub(super) wake: AtomicWaker,
    /// Requests on the instance, until their answers are through.
    pub(super) active: AtomicU32,
    pub(super) served: AtomicU32,
    pub(super) reuse_limit: u32,
    /// All that could run in the store has run since requests were last taken: what is left waits for something outside.
    pub(super) rested: AtomicBool,
    /// Takes no more requests; ends when it serves nobody.
    pub(super) retired: AtomicBool,
    /// Ends at once.
    pub(super) killed: AtomicBool,
    /// Since when it serves nobody, in [`clock::nanos`]; 0 while it serves.
    pub(super) idle_since: AtomicU64,
    pub(super) born: Instant,
    /// The number of the thread that polled it last, whose processor has its memory at hand.
    pub(super) home: AtomicUsize,
    /// Bytes of memory that it used when it last answered.
    pub(super) memory: AtomicU64,
    pub(super) meter: Arc<Meter>,
    pub(super) deployed: Arc<Deployed>,
    /// Invocations whose client left before the guest answered, with the time by which it should have noticed.
    pub(super) abandoned: Mutex<Vec<(Arc<Running>, Instant, Slot)>>,
    /// Invocations that calls of the guest may belong to.
    pub(super) filed: Mutex<Files>,
    pub(super) failure: Mutex<Option<InvokeError>>,
    eviction: Mutex<Eviction>,
}

/// Whether somebody was promised the instance's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Eviction {
    No,
    /// And so much of its memory.
    Expected(u64),
    /// Its place is on its way already, or back.
    Ended,
}

/// A request's place in an instance. When it is free again, somebody who waits for this deployment gets it.
pub(super) struct Slot {
    pub(super) shared: Arc<Shared>,
    pub(super) offered: bool,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let shared = &self.shared;
        // In one order with coming to the line, which looks at the places after: one of both sees the other.
        if shared.active.fetch_sub(1, Ordering::SeqCst) == 1 {
            shared.idle_since.store(clock::coarse().max(1), Ordering::Release);
        }
        if shared.retired.load(Ordering::Acquire) {
            shared.wake.wake();
        } else if self.offered && shared.deployed.account.has_waiters() {
            shared.offer();
        }
    }
}

impl Shared {
    /// Of an instance that was made for a request, with that request's place taken.
    pub(super) fn new(deployed: &Arc<Deployed>, meter: &Arc<Meter>, memory: u64) -> (Arc<Self>, Slot) {
        let shared = Arc::new(Self {
            inbox: Mutex::default(),
            wake: AtomicWaker::new(),
            active: AtomicU32::new(1),
            served: AtomicU32::new(1),
            reuse_limit: deployed.reuse_limit(),
            rested: AtomicBool::new(true),
            retired: AtomicBool::new(deployed.isolation == Isolation::Request),
            killed: AtomicBool::new(false),
            idle_since: AtomicU64::new(0),
            born: Instant::now(),
            home: AtomicUsize::new(threads::number()),
            memory: AtomicU64::new(memory),
            meter: Arc::clone(meter),
            deployed: Arc::clone(deployed),
            abandoned: Mutex::default(),
            filed: Mutex::default(),
            failure: Mutex::new(None),
            eviction: Mutex::new(Eviction::No),
        });
        let slot = Slot { shared: Arc::clone(&shared), offered: true };
        (shared, slot)
    }

    /// This thread polls it.
    pub(super) fn settle(&self) {
        let here = threads::number();
        if self.home.load(Ordering::Relaxed) != here {
            self.home.store(here, Ordering::Relaxed);
        }
    }

    /// Takes a place, if the instance may have company.
    pub(super) fn try_slot(self: &Arc<Self>) -> Option<Slot> {
        // One that computes for long may be a runaway, and whoever joins it would end with it.
        let busy = self.meter.polled_for() > BUSY || self.meter.is_hog();
        if busy || self.retired.load(Ordering::Acquire) {
            return None;
        }
        let concurrency = self.deployed.reuse.concurrency.max(1);
        let taken = self
            .active
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |active| (active < concurrency).then_some(active + 1));
        if taken.is_err() {
            return None;
        }
        self.idle_since.store(0, Ordering::Release);
        let slot = Slot { shared: Arc::clone(self), offered: false };
        // Checked again: it may have retired between the two looks, and nobody would serve the job. Who retires it looks
        // at the places after that.
        if self.retired.load(Ordering::SeqCst) {
            return None;
        }
        if self.served.fetch_add(1, Ordering::AcqRel) + 1 >= self.reuse_limit {
            self.retire();
        }
        Some(slot)
    }

    /// Offers a place to whoever is first in line.
    fn offer(self: &Arc<Self>) {
        while let Some(mut slot) = self.try_slot() {
            // Somebody who leaves the line with it offers it to the next.
            slot.offered = true;
            match self.deployed.account.offer(slot) {
                Offered::Taken => return,
                // Whoever came to the line meanwhile may have found this place taken, by the offer.
                Offered::Nobody(mut slot) => {
                    slot.offered = false;
                    drop(slot);
                    if !self.deployed.account.is_wanted() {
                        break;
                    }
                }
                Offered::Other(mut slot) => {
                    slot.offered = false;
                    drop(slot);
                    // Somebody else's function needs the place more than nobody's request does.
                    if self.is_idle() {
                        self.evict();
                    }
                    return;
                }
            }
        }
        // Whoever waits for memory may need it more, too.
        if self.is_idle() {
            self.deployed.account.rests();
        }
    }

    pub(super) fn send(self: &Arc<Self>, job: Job) {
        self.inbox.lock().push_back(job);
        self.wake.wake();
    }

    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        self.wake.wake();
    }

    /// Takes no more requests, if there are no more than `most` on it. Whether that is so still: a request that comes
    /// in between either sees that it comes too late or is seen here.
    pub(super) fn retire_at(&self, most: u32) -> bool {
        if self.active.load(Ordering::SeqCst) > most {
            return false;
        }
        self.retire();
        self.active.load(Ordering::SeqCst) <= most
    }

    /// Ends the instance if it serves nobody; whoever waits for a place counts on it then. False if it serves somebody.
    fn evict(&self) -> bool {
        let idle = self.retire_at(0);
        if idle {
            let mut eviction = self.eviction.lock();
            if *eviction == Eviction::No {
                let bytes = self.memory.load(Ordering::Relaxed);
                self.deployed.account.expect(bytes);
                *eviction = Eviction::Expected(bytes);
            }
        }
        idle
    }

    /// The instance has ended. Says whether somebody counts on its place, and on how much of its memory.
    pub(super) fn ended(&self) -> Option<u64> {
        match std::mem::replace(&mut *self.eviction.lock(), Eviction::Ended) {
            Eviction::Expected(bytes) => Some(bytes),
            Eviction::No | Eviction::Ended => None,
        }
    }

    pub(super) fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.retire();
    }

    pub(super) fn is_idle(&self) -> bool {
        self.active.load(Ordering::Acquire) == 0
    }

    /// Whether it serves nobody and would serve again.
    fn rests(&self) -> bool {
        self.is_idle() && !self.retired.load(Ordering::Acquire)
    }

    fn idle_for(&self) -> Option<Duration> {
        match self.idle_since.load(Ordering::Acquire) {
            0 => None,
            since => Some(Duration::from_nanos(nanos().saturating_sub(since))),
        }
    }

    /// Why the instance is gone, for those who waited to be called.
    pub(super) fn lost(&self) -> InvokeError {
        match self.failure.lock().clone() {
            Some(reason) => InvokeError::Neighbour(reason.to_string().into()),
            None => InvokeError::ShuttingDown,
        }
    }

    /// Looks after invocations that outstayed their bounds: the instance takes no more company, and ends when they are
    /// all that is left.
    fn look_after(&self) {
        let mut stuck = 0;
        let mut free = Vec::new();
        {
            let mut abandoned = self.abandoned.lock();
            let (gone, kept) = abandoned.drain(..).partition(|(running, ..)| running.ended());
            *abandoned = kept;
            free.extend::<Vec<_>>(gone);
            stuck += abandoned.iter().filter(|(_, until, _)| Instant::now() >= *until).count();
        }
        drop(free);
        for Filed { running, .. } in self.filed.lock().iter().filter(|filed| !filed.running.ended()) {
            let Some(error) = watch::overdue(running) else { continue };
            running.cancel();
            if !running.is_answered() {
                stuck += 1;
            }
            failure::overdue(&self.deployed, running, error);
            running.end();
        }
        if stuck > 0 {
            self.retire();
            if stuck >= self.active.load(Ordering::SeqCst) as usize {
                self.kill();
            }
        }
    }
}

/// The instances of one deployment.
pub(in crate::guest) struct Shelf03 {
    function: FunctionKey,
    /// Every request looks through them, and few change them.
    instances: ArcSwap<Vec<Arc<Shared>>>,
}

impl Shelf03 {
    pub(in crate::guest) fn new(function: FunctionKey) -> Arc<Self> {
        Arc::new(Self { function, instances: ArcSwap::default() })
    }

    /// A place in an instance that this thread ran last, else in one that rests, else in the one that was made last.
    pub(super) fn try_slot(&self) -> Option<Slot> {
        let instances = self.instances.load();
        let here = threads::number();
        let is_near = |shared: &&Arc<Shared>| shared.home.load(Ordering::Relaxed) == here;
        let rests = |shared: &&Arc<Shared>| shared.meter.polled_for().is_zero();
        let near = instances.iter().rev().filter(is_near);
        let far = || instances.iter().rev().filter(|shared| !is_near(shared));
        let (resting, working) = (far().filter(rests), far().filter(|shared| !rests(shared)));
        near.chain(resting).chain(working).find_map(Shared::try_slot)
    }

    pub(super) fn add(&self, new: &Arc<Shared>) {
        self.instances.rcu(|instances| instances.iter().chain([new]).cloned().collect::<Vec<_>>());
    }

    pub(super) fn remove(&self, gone: &Arc<Shared>) {
        self.instances
            .rcu(|instances| instances.iter().filter(|shared| !Arc::ptr_eq(shared, gone)).cloned().collect::<Vec<_>>());
    }
}

impl Drop for Shelf03 {
    fn drop(&mut self) {
        for shared in self.instances.load().iter() {
            shared.retire();
        }
    }
}

impl Shelf for Shelf03 {
    fn function(&self) -> FunctionKey {
        self.function
    }

    fn idle(&self) -> usize {
        self.instances.load().iter().filter(|shared| shared.rests()).count()
    }

    fn idle_memory(&self) -> u64 {
        let instances = self.instances.load();
        instances.iter().filter(|shared| shared.rests()).map(|shared| shared.memory.load(Ordering::Relaxed)).sum()
    }

    fn instances(&self) -> usize {
        self.instances.load().len()
    }

    fn evict(&self) -> bool {
        let instances = self.instances.load_full();
        let mut idle: Vec<_> = instances
            .iter()
            .filter(|shared| !shared.retired.load(Ordering::Acquire))
            .filter_map(|shared| Some((shared.idle_for()?, shared)))
            .collect();
        idle.sort_by_key(|(idle, _)| std::cmp::Reverse(*idle));
        // One that somebody has just come to serves on, and counts for nothing.
        idle.iter().any(|(_, shared)| shared.evict())
    }

    fn sweep(&self, idle: Duration, age: Duration) {
        let instances = self.instances.load_full();
        for shared in instances.iter() {
            shared.look_after();
            if shared.idle_for().is_some_and(|for_| for_ > idle) || shared.born.elapsed() > age {
                shared.retire();
            }
        }
    }
}
