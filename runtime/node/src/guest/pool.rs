//! Places for instances: how many may live on this node, who waits for one, and who makes room.
//!
//! A permit belongs to an instance from before it is made until its store is dropped, idle or not. An instance takes as
//! many places as its memories and tables fill ([`places`]), so that what the engine has set aside is never exhausted
//! by a few big guests. A function holds its share at most, so that its neighbours find a place however much it wants.
//!
//! What all guests together hold of the node's memory is kept here as well ([`memory`]), and who lacks it waits likewise.
//!
//! When none is free, requests wait in line, first come, first served; who has to wait for its own function's share
//! keeps nobody else. Idle instances of the function that holds most go, the longest idle first, and no more of them
//! than are missing.

mod line;
mod memory;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use wasmtime::component::Component;

use line::{State, Waiter};
pub(super) use memory::{Charge, Memory, most_of_one};

use super::{InvokeError, hogs::FunctionKey, limits::Bound};
use crate::settings::names;

/// Memories and tables that one place stands for.
pub(super) const MEMORIES_PER_PLACE: u32 = 2;
/// See [`MEMORIES_PER_PLACE`].
pub(super) const TABLES_PER_PLACE: u32 = 4;
/// Bytes of a page of a memory.
pub(super) const PAGE: u64 = 64 << 10;

/// What an instance takes to begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    /// Places.
    pub(super) places: u32,
    /// Bytes of memory at least: of its largest. What others begin with is charged when they do.
    memory: u64,
}

/// What an instance of the component takes to begin.
pub(super) fn needs(component: &Component) -> Needs {
    let needs = component.resources_required();
    needs.map_or(Needs { places: 1, memory: 0 }, |needs| Needs {
        places: places_for(needs.num_memories, needs.num_tables),
        memory: needs.max_initial_memory_size.unwrap_or(0).saturating_mul(PAGE),
    })
}

fn places_for(memories: u32, tables: u32) -> u32 {
    memories.div_ceil(MEMORIES_PER_PLACE).max(tables.div_ceil(TABLES_PER_PLACE)).max(1)
}

/// Where a deployment keeps the instances it may use again.
pub(super) trait Shelf: Send + Sync {
    /// The function that it is of.
    fn function(&self) -> FunctionKey;
    /// Instances of the deployment that serve nobody.
    fn idle(&self) -> usize;
    /// Memory that these hold, bytes.
    fn idle_memory(&self) -> u64;
    /// All instances of the deployment.
    fn instances(&self) -> usize;
    /// Ends the longest-idle instance; false if there is none. Its place comes back at once or, announced by
    /// [`Account::expect`], soon.
    fn evict(&self) -> bool;
    /// Drops what is too old or idle for too long.
    fn sweep(&self, idle: Duration, age: Duration);
}

/// What one function holds, all its versions together.
struct Share {
    function: FunctionKey,
    /// Places. Changed under the pool's lock only.
    held: AtomicU32,
    /// Bytes of memory.
    memory: AtomicU64,
}

/// On whose account a deployment's instances take places.
pub(super) struct Account {
    pool: Arc<Pool>,
    share: Arc<Share>,
    /// Places of one instance.
    places: u32,
    /// Bytes that one instance begins with.
    start: u64,
    /// Places that the function may hold.
    bound: Bound<u32>,
    /// The deployment.
    shelf: u64,
}

/// Places for one instance, and the memory that it begins with.
pub(super) struct Permit {
    account: Option<Arc<Account>>,
    charge: Option<Charge>,
    expected: Option<u64>,
}

impl Permit {
    fn of(account: &Arc<Account>, charge: Charge) -> Self {
        Self { account: Some(Arc::clone(account)), charge: Some(charge), expected: None }
    }

    /// The memory, for the instance's store to hold.
    pub(super) fn charge(&mut self, account: &Arc<Account>) -> Charge {
        self.charge.take().unwrap_or_else(|| Charge::none(account))
    }

    /// Its instance was evicted, and somebody counts on its places and so many bytes.
    pub(super) fn was_expected(&mut self, bytes: u64) {
        self.expected = Some(bytes);
    }

    fn disarm(mut self) {
        self.account = None;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // Before others are looked for who could use it.
        drop(self.charge.take());
        if let Some(account) = self.account.take() {
            account.give_back(self.expected);
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

/// The places of the node.
pub(super) struct Pool {
    state: Mutex<State>,
    waiting: AtomicUsize,
    places: Bound<u32>,
    memory: Memory,
    wait: Bound<Duration>,
    queue: Bound<u32>,
    shares: Mutex<HashMap<FunctionKey, Weak<Share>>>,
    shelves: Mutex<Vec<Weak<dyn Shelf>>>,
}

impl Pool {
    pub(super) fn new(places: u32, memory: Memory, wait: Bound<Duration>, queue: Bound<u32>) -> Arc<Self> {
        let places = Bound { value: places.max(1), setting: names::MAX_INSTANCES };
        let state =
            State { free: places.value, coming: 0, coming_bytes: 0, next_turn: 0, lines: HashMap::new(), waiters: 0 };
        Arc::new(Self {
            state: Mutex::new(state),
            waiting: AtomicUsize::new(0),
            places,
            memory,
            wait,
            queue,
            shares: Mutex::default(),
            shelves: Mutex::new(Vec::new()),
        })
    }

    /// The account of a deployment whose instances take so much each.
    pub(super) fn account(
        self: &Arc<Self>,
        function: FunctionKey,
        shelf: u64,
        needs: Needs,
        bound: Bound<u32>,
    ) -> Arc<Account> {
        let mut shares = self.shares.lock();
        let share = shares.get(&function).and_then(Weak::upgrade).unwrap_or_else(|| {
            shares.retain(|_, share| share.strong_count() > 0);
            let share = Arc::new(Share { function, held: AtomicU32::new(0), memory: AtomicU64::new(0) });
            shares.insert(function, Arc::downgrade(&share));
            share
        });
        let Needs { places, memory: start } = needs;
        Arc::new(Account { pool: Arc::clone(self), share, places, start, bound, shelf })
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

    // In one order with what frees an instance: of that and of coming to the line one sees the other.
    fn has_waiters(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Ends one idle instance, of the function that holds most; `of` names the only function that may lose one.
    fn evict_one(&self, of: Option<FunctionKey>) -> bool {
        let mut shelves = self.live_shelves();
        shelves.retain(|shelf| of.is_none_or(|function| shelf.function() == function) && shelf.idle() > 0);
        shelves.sort_by_key(|shelf| std::cmp::Reverse(shelf.instances()));
        shelves.iter().any(|shelf| shelf.evict())
    }

    /// Gives what is free to those whose turn it is.
    fn hand_out(&self) {
        loop {
            let granted = {
                let mut state = self.state.lock();
                let granted = state.grant();
                self.waiting.store(state.waiters, Ordering::Release);
                granted
            };
            let Some((Waiter { account, sender, .. }, charge)) = granted else { break };
            if let Err(back) = sender.send(Box::new(Permit::of(&account, charge))) {
                // It left. Its permit must not be given back by its own drop as well.
                if let Ok(permit) = back.downcast::<Permit>() {
                    permit.disarm();
                }
                self.state.lock().put_back(&account, None);
            }
        }
        self.make_memory_for_waiters();
    }
}

impl Account {
    fn has_share_left(&self) -> bool {
        self.share.held.load(Ordering::Relaxed).saturating_add(self.places) <= self.bound.value
    }

    /// Whether anybody waits. An idle instance may be worth less than its place then.
    pub(super) fn has_waiters(&self) -> bool {
        self.pool.has_waiters()
    }

    /// Takes places if they are free and nobody has waited for them longer.
    fn take(self: &Arc<Self>, state: &mut State) -> Option<Permit> {
        if self.places > state.free || !self.has_share_left() {
            return None;
        }
        if state.waiters > 0 && (state.lines.contains_key(&self.share.function) || state.next().is_some()) {
            return None;
        }
        let charge = self.charge()?;
        state.take(self);
        Some(Permit::of(self, charge))
    }

    /// A free place, if there is one and nobody waits for it.
    pub(super) fn try_permit(self: &Arc<Self>) -> Option<Permit> {
        self.take(&mut self.pool.state.lock())
    }

    /// A place, or an instance of the same deployment that becomes free first, waiting in line for either: as long as
    /// the node lets it, and the client.
    pub(super) async fn acquire<I: Send + 'static>(
        self: &Arc<Self>,
        deadline: Option<Instant>,
    ) -> Result<Grant<I>, InvokeError> {
        /// Whoever leaves the line may have kept others who want less.
        struct InLine<'a>(&'a Pool);
        impl Drop for InLine<'_> {
            fn drop(&mut self) {
                if self.0.has_waiters() {
                    self.0.hand_out();
                }
            }
        }
        let pool = &*self.pool;
        let receiver = {
            let mut state = pool.state.lock();
            if let Some(permit) = self.take(&mut state) {
                return Ok(Grant::Permit(permit));
            }
            if state.waiters >= pool.queue.value as usize {
                state.lines.values_mut().for_each(|line| line.retain(|waiter| !waiter.sender.is_closed()));
                state.lines.retain(|_, line| !line.is_empty());
                state.waiters = state.lines.values().map(VecDeque::len).sum();
                if state.waiters >= pool.queue.value as usize {
                    return Err(InvokeError::QueueFull(pool.queue));
                }
            }
            let (sender, receiver) = oneshot::channel();
            let turn = state.next_turn;
            state.next_turn += 1;
            let waiter = Waiter { turn, account: Arc::clone(self), sender };
            state.lines.entry(self.share.function).or_default().push_back(waiter);
            state.waiters += 1;
            pool.waiting.store(state.waiters, Ordering::SeqCst);
            receiver
        };
        let in_line = InLine(pool);
        self.make_room();
        let wait = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            Some(left) if left < pool.wait.value => Bound { value: left, setting: "Prefer: wait" },
            _ => pool.wait,
        };
        let offer = match tokio::time::timeout(wait.value, receiver).await {
            Ok(Ok(offer)) => offer,
            Ok(Err(_)) | Err(_) => {
                let error = self.shortage(wait);
                drop(in_line);
                return Err(error);
            }
        };
        match offer.downcast::<Permit>() {
            Ok(permit) => Ok(Grant::Permit(*permit)),
            Err(offer) => match offer.downcast::<I>() {
                Ok(instance) => Ok(Grant::Instance(*instance)),
                Err(_) => Err(InvokeError::NoInstance { wait, full: pool.places }),
            },
        }
    }

    /// What it waited for in vain.
    fn shortage(&self, wait: Bound<Duration>) -> InvokeError {
        let free = self.pool.state.lock().free;
        match (self.has_share_left(), self.places <= free && !self.has_memory()) {
            (false, _) => InvokeError::NoInstance { wait, full: self.bound },
            (true, true) => InvokeError::NoMemory { wait, full: self.pool.memory.bound() },
            (true, false) => InvokeError::NoInstance { wait, full: self.pool.places },
        }
    }

    /// Has idle instances ended for whoever came just now: as many as are missing, and none that would not help.
    fn make_room(&self) {
        self.make_places();
        self.pool.make_memory_for_waiters();
    }

    /// An instance is idle now: whoever waits for memory may need it more.
    pub(super) fn rests(&self) {
        self.pool.make_memory_for_waiters();
    }

    fn make_places(&self) {
        if !self.has_share_left() {
            self.pool.evict_one(Some(self.share.function));
        }
        for _ in 0..self.places {
            let enough = self.pool.state.lock().missing() == 0;
            if enough || !self.pool.evict_one(None) {
                return;
            }
        }
    }

    /// An instance was evicted and gives its places and these bytes back as soon as it has ended: its permit says so then.
    pub(super) fn expect(&self, bytes: u64) {
        let mut state = self.pool.state.lock();
        state.coming += self.places;
        state.coming_bytes += bytes;
    }

    /// It ended in another way than expected, and its permit says nothing.
    pub(super) fn expect_no_more(&self, bytes: u64) {
        self.pool.state.lock().expect_no_more(self, bytes);
    }

    /// Offers an instance that became free to the first in line. It comes back where nobody could use it or its place;
    /// where another deployment's turn is next, the caller should drop it, so that its place goes there.
    pub(super) fn offer<I: Send + 'static>(&self, instance: I) -> Offered<I> {
        let mut instance = instance;
        loop {
            let waiter = {
                let mut state = self.pool.state.lock();
                let next = state.next().map(|(_, turn, _)| turn);
                // A waiter of its own deployment needs no more of the share for it.
                let own = state.lines.get(&self.share.function).and_then(VecDeque::front);
                let own = own.map(|waiter| (waiter.turn, waiter.account.shelf == self.shelf));
                let missing = state.missing() > 0;
                let waiter = match own {
                    Some((turn, true)) if !missing || next.is_none_or(|next| turn <= next) => {
                        state.pop(self.share.function)
                    }
                    Some((_, false)) => return Offered::Other(instance),
                    _ if missing => return Offered::Other(instance),
                    _ => return Offered::Nobody(instance),
                };
                self.pool.waiting.store(state.waiters, Ordering::Release);
                waiter
            };
            let Some(waiter) = waiter else { continue };
            match waiter.sender.send(Box::new(instance)) {
                Ok(()) => return Offered::Taken,
                Err(back) => match back.downcast::<I>() {
                    Ok(back) => instance = *back,
                    Err(_) => return Offered::Taken,
                },
            }
        }
    }

    /// Whether somebody in line could use an instance that is free, or its place.
    pub(super) fn is_wanted(&self) -> bool {
        self.has_waiters() && {
            let state = self.pool.state.lock();
            state.lines.contains_key(&self.share.function) || state.missing() > 0
        }
    }

    fn give_back(&self, expected: Option<u64>) {
        self.pool.state.lock().put_back(self, expected);
        if self.pool.has_waiters() {
            self.pool.hand_out();
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
