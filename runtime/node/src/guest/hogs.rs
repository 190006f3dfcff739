//! Hog permits: guests that compute for long share the processors that are left over.
//!
//! A guest may run for five milliseconds as it likes. Past that it goes on only with a permit, and there is one fewer of
//! them than guest threads (but at least one), handed out round robin by function. So however many guests spin, no
//! function starves another.
//!
//! A permit is held for one slice: it is given back whenever the guest's poll ends (see [`super::meter`]). And the slice
//! is run on a thread of lower priority: a short request that arrives while all processors compute is let in by the
//! operating system at once, which no scheduling of ours could do. [`Migrating`] carries guests there and back.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use tidegate_core::manners::Threads;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;

use super::meter::Meter;

/// Niceness of the threads that long computations run on: they get a quarter of a processor that a busy guest thread
/// wants as well, and all of an idle one.
const NICE: i32 = 5;

/// Starts the runtime that long computations run on, with a thread a permit.
///
/// # Errors
/// When its threads can't be started.
pub(super) fn runtime(guest_threads: usize) -> std::io::Result<Runtime> {
    runtime_of(permits(guest_threads), "tidegate-hog")
}

/// Starts the one that functions begin on of which nothing is known: none of their operations can keep the threads of
/// others, nor do those that are known to take long keep them waiting.
///
/// # Errors
/// When its thread can't be started.
pub(super) fn newcomers() -> std::io::Result<Runtime> {
    runtime_of(1, "tidegate-new")
}

fn runtime_of(threads: usize, name: &str) -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .on_thread_start(|| {
            // On Linux niceness is a thread's own. Where it is not allowed, permits alone have to do.
            let _ = rustix::process::nice(NICE);
        })
        .build()
}

fn permits(guest_threads: usize) -> usize {
    guest_threads.saturating_sub(1).max(1)
}

/// What the round robin goes by: one function, whatever its version.
pub(super) type FunctionKey = u64;

/// Hands out the permits. Its queues hold one entry a waiting instance at most, so `max_instances` bounds them.
pub(super) struct Hogs {
    state: Mutex<State>,
    runtime: Handle,
    newcomers: Handle,
}

struct State {
    free: usize,
    /// Functions with somebody waiting, next first.
    order: VecDeque<FunctionKey>,
    waiting: HashMap<FunctionKey, VecDeque<Arc<Ticket>>>,
}

#[derive(Default)]
struct Ticket(Mutex<TicketState>);

#[derive(Default)]
enum TicketState {
    #[default]
    New,
    Waiting(Waker),
    Granted,
    Gone,
}

impl Hogs {
    /// Permits for so many guest threads, and the runtimes that work moves to.
    pub(super) fn new(threads: usize, runtime: Handle, newcomers: Handle) -> Arc<Self> {
        let state = State { free: permits(threads), order: VecDeque::new(), waiting: HashMap::new() };
        Arc::new(Self { state: Mutex::new(state), runtime, newcomers })
    }

    /// Waits for the function's turn. Always lets other tasks run first, even when a permit is free.
    pub(super) fn turn(self: &Arc<Self>, function: FunctionKey, meter: Arc<Meter>) -> Turn {
        Turn { hogs: Arc::clone(self), function, meter, yielded: false, ticket: None }
    }

    fn try_take(&self) -> bool {
        let mut state = self.state.lock();
        let free = state.free > 0;
        if free {
            state.free -= 1;
        }
        free
    }

    fn enqueue(&self, function: FunctionKey, ticket: &Arc<Ticket>) {
        let mut state = self.state.lock();
        let queue = state.waiting.entry(function).or_default();
        let first = queue.is_empty();
        queue.push_back(Arc::clone(ticket));
        if first {
            state.order.push_back(function);
        }
    }

    /// Gives a permit back: to the next function in turn, else to the free ones.
    pub(super) fn release(&self) {
        loop {
            let next = {
                let mut state = self.state.lock();
                let Some(function) = state.order.pop_front() else {
                    state.free += 1;
                    return;
                };
                let queue = state.waiting.entry(function).or_default();
                let next = queue.pop_front();
                if queue.is_empty() {
                    state.waiting.remove(&function);
                } else {
                    state.order.push_back(function);
                }
                next
            };
            let Some(ticket) = next else { continue };
            let granted = {
                let mut state = ticket.0.lock();
                match std::mem::replace(&mut *state, TicketState::Granted) {
                    TicketState::Waiting(waker) => Some(Some(waker)),
                    TicketState::New => Some(None),
                    gone => {
                        *state = gone;
                        None
                    }
                }
            };
            if let Some(waker) = granted {
                if let Some(waker) = waker {
                    waker.wake();
                }
                return;
            }
        }
    }
}

/// The wait for one slice.
pub(super) struct Turn {
    hogs: Arc<Hogs>,
    function: FunctionKey,
    meter: Arc<Meter>,
    yielded: bool,
    ticket: Option<Arc<Ticket>>,
}

impl Future for Turn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.yielded {
            self.yielded = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let ticket = match &self.ticket {
            Some(ticket) => Arc::clone(ticket),
            None => {
                if self.hogs.try_take() {
                    self.meter.hold();
                    return Poll::Ready(());
                }
                let ticket = Arc::new(Ticket(Mutex::new(TicketState::Waiting(cx.waker().clone()))));
                self.ticket = Some(Arc::clone(&ticket));
                self.hogs.enqueue(self.function, &ticket);
                // A permit given back between the two steps above went to the free ones, not to us.
                if self.hogs.try_take() {
                    self.hogs.release();
                }
                ticket
            }
        };
        let mut state = ticket.0.lock();
        match &mut *state {
            TicketState::Granted => {
                *state = TicketState::Gone;
                drop(state);
                self.ticket = None;
                self.meter.hold();
                Poll::Ready(())
            }
            TicketState::Waiting(waker) => {
                waker.clone_from(cx.waker());
                Poll::Pending
            }
            TicketState::New | TicketState::Gone => Poll::Ready(()),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let granted = matches!(std::mem::replace(&mut *ticket.0.lock(), TicketState::Gone), TicketState::Granted);
        if granted {
            self.hogs.release();
            return;
        }
        let mut state = self.hogs.state.lock();
        if let Some(queue) = state.waiting.get_mut(&self.function) {
            queue.retain(|other| !Arc::ptr_eq(other, &ticket));
            if queue.is_empty() {
                let function = self.function;
                state.waiting.remove(&function);
                state.order.retain(|other| *other != function);
            }
        }
    }
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A guest's work that changes threads: to those of lower priority when it has computed for long, and back when it made
/// progress since. Work of functions that are not known, or known to keep their thread, begins there. Dropping it ends
/// the work wherever it is.
pub(super) struct Migrating {
    place: Place,
    meter: Arc<Meter>,
    hogs: Arc<Hogs>,
}

enum Place {
    Here(Work),
    There(AbortOnDropHandle<Option<Work>>),
    Done,
}

impl Migrating {
    pub(super) fn new(work: Work, meter: Arc<Meter>, hogs: Arc<Hogs>) -> Self {
        Self { place: Place::Here(work), meter, hogs }
    }
}

impl Future for Migrating {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let this = &mut *self;
            match &mut this.place {
                Place::Here(work) => {
                    let mut threads = this.meter.threads();
                    if threads == Threads::Shared {
                        if work.as_mut().poll(cx).is_ready() {
                            this.place = Place::Done;
                            return Poll::Ready(());
                        }
                        threads = this.meter.threads();
                    }
                    let runtime = match threads {
                        Threads::Shared => return Poll::Pending,
                        Threads::Newcomers => &this.hogs.newcomers,
                        Threads::Hogs => &this.hogs.runtime,
                    };
                    let Place::Here(work) = std::mem::replace(&mut this.place, Place::Done) else { continue };
                    let task = runtime.spawn(away(work, Arc::clone(&this.meter), threads));
                    this.place = Place::There(AbortOnDropHandle::new(task));
                }
                Place::There(task) => match Pin::new(task).poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(Some(work))) => this.place = Place::Here(work),
                    // Finished, panicked, or the node goes down.
                    Poll::Ready(Ok(None) | Err(_)) => {
                        this.place = Place::Done;
                        return Poll::Ready(());
                    }
                },
                Place::Done => return Poll::Ready(()),
            }
        }
    }
}

/// Works elsewhere until it is done, or belongs to other threads: then it comes back.
async fn away(work: Work, meter: Arc<Meter>, threads: Threads) -> Option<Work> {
    let mut work = Some(work);
    std::future::poll_fn(|cx| {
        let Some(running) = &mut work else { return Poll::Ready(()) };
        // It may have been long in coming here.
        if meter.threads() != threads {
            return Poll::Ready(());
        }
        if running.as_mut().poll(cx).is_ready() {
            work = None;
            return Poll::Ready(());
        }
        if meter.threads() == threads { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    work
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::task::noop_waker;

    use super::*;
    use crate::guest::{
        engine::{Engines, Ticker},
        meter::{Metered, Overseer, thread_nanos},
        testing::settings,
    };

    fn hogs(threads: usize) -> (Runtime, Arc<Hogs>) {
        let runtime = runtime(threads).unwrap();
        let hogs = Hogs::new(threads, runtime.handle().clone(), runtime.handle().clone());
        (runtime, hogs)
    }

    fn poll(turn: &mut Turn) -> bool {
        let waker = noop_waker();
        Pin::new(turn).poll(&mut Context::from_waker(&waker)).is_ready()
    }

    fn turn(hogs: &Arc<Hogs>, function: FunctionKey) -> Turn {
        let mut turn = hogs.turn(function, Arc::new(Meter::new(None)));
        assert!(!poll(&mut turn), "the first poll only yields");
        turn
    }

    #[test]
    fn permits_go_round_by_function_not_by_instance() {
        let (_runtime, hogs) = hogs(2);
        let mut holder = turn(&hogs, 1);
        assert!(poll(&mut holder));
        let mut busy: Vec<_> = (0..3).map(|_| turn(&hogs, 1)).collect();
        let mut other = turn(&hogs, 2);
        assert!(busy.iter_mut().all(|turn| !poll(turn)) && !poll(&mut other));
        hogs.release();
        assert!(poll(&mut busy[0]), "the first of the function that asked first");
        hogs.release();
        assert!(poll(&mut other), "then the other function, before the rest of the first");
        assert!(!poll(&mut busy[1]));
    }

    #[tokio::test]
    async fn work_moves_to_the_hogs_and_comes_back_when_it_makes_progress() {
        let (runtime, hogs) = hogs(2);
        let meter = Arc::new(Meter::new(None));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let work = {
            let (meter, seen) = (Arc::clone(&meter), Arc::clone(&seen));
            let note = move || seen.lock().push(std::thread::current().name().unwrap_or_default().to_owned());
            async move {
                note();
                meter.set_hog();
                tokio::task::yield_now().await;
                note();
                meter.reset();
                tokio::task::yield_now().await;
                note();
            }
        };
        Migrating::new(Box::pin(work), meter, hogs).await;
        let seen: Vec<_> = seen.lock().iter().map(|name| name == "tidegate-hog").collect();
        assert_eq!(seen, [false, true, false]);
        runtime.shutdown_background();
    }

    #[tokio::test]
    async fn a_function_begins_among_newcomers_and_one_that_kept_its_thread_goes_to_the_hogs() {
        let engines = Engines::start(&settings(&["--max-instances", "4"])).unwrap();
        let (long, new) = (runtime(2).unwrap(), newcomers().unwrap());
        let hogs = Hogs::new(2, long.handle().clone(), new.handle().clone());
        let overseer = Overseer::new(Ticker::start(&engines).unwrap(), Arc::clone(&hogs));
        // A request that computes for so long without a break; returns where it did.
        let request = async |time: Duration| {
            let meter = Arc::new(Meter::new(Some(Arc::clone(&overseer))));
            let seen = Arc::new(Mutex::new(String::new()));
            let work = {
                let (meter, seen) = (Arc::clone(&meter), Arc::clone(&seen));
                async move {
                    seen.lock().push_str(std::thread::current().name().unwrap_or_default());
                    let end = thread_nanos() + time.as_nanos() as u64;
                    while thread_nanos() < end {}
                    meter.set_done();
                }
            };
            let work = Box::pin(Metered::new(work, Arc::clone(&meter)));
            Migrating::new(work, meter, Arc::clone(&hogs)).await;
            let seen = seen.lock().clone();
            if seen.starts_with("tidegate-") { seen } else { "here".to_owned() }
        };
        assert_eq!(request(Duration::ZERO).await, "tidegate-new", "nobody knows it");
        assert_eq!(request(Duration::ZERO).await, "here");
        assert_eq!(request(Duration::from_millis(30)).await, "here", "nobody knows that it takes long");
        assert_eq!(request(Duration::ZERO).await, "tidegate-hog");
        long.shutdown_background();
        new.shutdown_background();
    }

    #[test]
    fn a_guest_that_ends_while_it_waits_leaves_no_trace_and_one_that_was_granted_passes_it_on() {
        let (_runtime, hogs) = hogs(1);
        let mut holder = turn(&hogs, 1);
        assert!(poll(&mut holder));
        let (mut gone, mut granted, mut last) = (turn(&hogs, 1), turn(&hogs, 2), turn(&hogs, 3));
        assert!(!poll(&mut gone) && !poll(&mut granted) && !poll(&mut last));
        drop(gone);
        hogs.release();
        drop(granted);
        assert!(poll(&mut last));
        hogs.release();
        let state = hogs.state.lock();
        assert!(state.free == 1 && state.order.is_empty() && state.waiting.is_empty());
    }
}
