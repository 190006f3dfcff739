//! Guests of `wasi:http` 0.2: one request at a time in an instance.
//!
//! A guest is polled where its request arrived, in its connection's task, until it has answered: no task is made and no
//! thread changed, however often it waits for calls of its own. What is left after the head goes on as a task, which the
//! answer's body owns: whoever drops the body, or the wait for the head, drops the guest.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{Request, Response, uri::Scheme};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tidegate_core::manners::Threads;
use tokio::{sync::oneshot, task::AbortHandle};
use wasmtime::{AsContextMut, Store};
use wasmtime_wasi_http::{
    WasiBody, WasiHttpView,
    p2::bindings::{Proxy, ProxyPre, http::types},
};

use super::{
    InvokeError,
    answer::{Answer, Work},
    deployment::{Alive, Deployed},
    failure,
    hogs::{FunctionKey, Migrating},
    hooks::to_guest,
    meter::{Meter, Metered},
    pool::{Grant, Offered, Permit, Shelf, older_than},
    running::Running,
    state::GuestState,
    watch,
};
use crate::{body::Body, cluster::registry::Isolation, observe::Note};

type Head = Result<Response<WasiBody>, types::ErrorCode>;

/// A live instance. Its store is dropped before its place is given back.
pub(super) struct Instance {
    store: Store<GuestState>,
    proxy: Proxy,
    meter: Arc<Meter>,
    served: u32,
    reuse_limit: u32,
    born: Instant,
    idle_since: Instant,
    alive: Alive,
    _permit: Permit,
}

/// Idle instances of one deployment, the latest used last.
pub(super) struct Shelf02 {
    function: FunctionKey,
    deployed: Weak<Deployed>,
    idle: Mutex<VecDeque<Box<Instance>>>,
}

impl Shelf02 {
    pub(super) fn new(deployed: &Arc<Deployed>) -> Arc<Self> {
        Arc::new(Self { function: deployed.function_key, deployed: Arc::downgrade(deployed), idle: Mutex::default() })
    }

    fn take(&self) -> Option<Box<Instance>> {
        self.idle.lock().pop_back()
    }

    fn put(&self, instance: Box<Instance>) {
        self.idle.lock().push_back(instance);
    }
}

impl Shelf for Shelf02 {
    fn function(&self) -> FunctionKey {
        self.function
    }

    fn idle(&self) -> usize {
        self.idle.lock().len()
    }

    fn idle_memory(&self) -> u64 {
        self.idle.lock().iter().map(|instance| instance.store.data().memory.used()).sum()
    }

    fn instances(&self) -> usize {
        self.deployed.upgrade().map_or(0, |deployed| deployed.instances.load(Ordering::Relaxed))
    }

    fn evict(&self) -> bool {
        let oldest = self.idle.lock().pop_front();
        oldest.is_some()
    }

    fn sweep(&self, idle: Duration, age: Duration) {
        let mut gone = Vec::new();
        {
            let mut shelf = self.idle.lock();
            let kept = shelf.len();
            for _ in 0..kept {
                let Some(instance) = shelf.pop_front() else { break };
                if older_than(instance.idle_since, idle) || older_than(instance.born, age) {
                    gone.push(instance);
                } else {
                    shelf.push_back(instance);
                }
            }
        }
        drop(gone);
    }
}

/// Where the request will run.
enum Place {
    Reused(Box<Instance>),
    Fresh(Permit),
}

/// Serves one request. Dropping the future ends the guest's work for it, and so does dropping the answer's body.
pub(super) async fn invoke(
    deployed: &Arc<Deployed>,
    pre: &ProxyPre<GuestState>,
    shelf: &Arc<Shelf02>,
    request: Request<Body>,
    running: Arc<Running>,
) -> Result<Response<Body>, InvokeError> {
    let (place, waited) = acquire(deployed, shelf, running.deadline).await?;
    let now = Instant::now();
    running.start(now);
    running.trail.note_at(now, Note::Instance { reused: matches!(place, Place::Reused(_)), waited });
    let method = request.method().clone();
    let meter = match &place {
        Place::Reused(instance) => Arc::clone(&instance.meter),
        Place::Fresh(_) => Arc::new(Meter::new(Some(Arc::clone(&deployed.overseer)))),
    };
    let (head_sender, mut head) = oneshot::channel();
    let run = {
        let (deployed, pre, shelf) = (Arc::clone(deployed), pre.clone(), Arc::downgrade(shelf));
        let (meter, running) = (Arc::clone(&meter), Arc::clone(&running));
        async move { run(deployed, pre, shelf, place, meter, request, running, head_sender).await }
    };
    let mut run: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(Metered::new(run, Arc::clone(&meter)));

    let finished =
        meter.threads() == Threads::Shared && poll_fn(|cx| Poll::Ready(run.as_mut().poll(cx).is_ready())).await;
    if finished {
        let head = head.try_recv().map_err(|_| failure::of(&running))?;
        let response = head.map_err(|code| InvokeError::ErrorCode(format!("{code:?}").into()))?;
        return Ok(Answer::respond(response, &method, deployed, running, None));
    }

    let mut guest = Guest {
        work: Some(Migrating::new(run, meter, Arc::clone(&deployed.overseer.hogs))),
        running: Arc::clone(&running),
    };
    let answered = poll_fn(|cx| {
        guest.advance(cx);
        Pin::new(&mut head).poll(cx)
    });
    let head = watch::head(deployed, &running, Instant::now(), answered).await?;
    let response = head.map_err(|code| InvokeError::ErrorCode(format!("{code:?}").into()))?;
    let Some(work) = guest.work.take() else { return Ok(Answer::respond(response, &method, deployed, running, None)) };
    running.begin_stream();
    let task = tokio::spawn(watch::stream(work, Arc::clone(&running), Arc::clone(deployed)));
    let work = Task { handle: task.abort_handle(), running: Arc::clone(&running), armed: true };
    Ok(Answer::respond(response, &method, deployed, running, Some(Box::new(work))))
}

/// The guest's work before its answer. Dropped unfinished, its calls are freed before it is.
struct Guest {
    work: Option<Migrating>,
    running: Arc<Running>,
}

impl Guest {
    fn advance(&mut self, cx: &mut Context<'_>) {
        if let Some(work) = &mut self.work
            && Pin::new(work).poll(cx).is_ready()
        {
            self.work = None;
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if self.work.is_some() {
            self.running.cancel();
        }
    }
}

/// The guest's work as a task. Dropped without a word, it is abandoned.
struct Task {
    handle: AbortHandle,
    running: Arc<Running>,
    armed: bool,
}

impl Work for Task {
    fn answered(mut self: Box<Self>) {
        self.armed = false;
        self.running.answered();
    }

    fn abandoned(self: Box<Self>) {}
}

impl Drop for Task {
    fn drop(&mut self) {
        if self.armed {
            self.running.cancel();
            self.handle.abort();
        }
    }
}

async fn acquire(
    deployed: &Arc<Deployed>,
    shelf: &Arc<Shelf02>,
    deadline: Option<Instant>,
) -> Result<(Place, Duration), InvokeError> {
    if let Some(instance) = shelf.take() {
        return Ok((Place::Reused(instance), Duration::ZERO));
    }
    if let Some(permit) = deployed.account.try_permit() {
        return Ok((Place::Fresh(permit), Duration::ZERO));
    }
    Box::pin(wait(deployed, shelf, deadline)).await
}

/// Waits in line for an instance, or for a place for a new one.
async fn wait(
    deployed: &Arc<Deployed>,
    shelf: &Arc<Shelf02>,
    deadline: Option<Instant>,
) -> Result<(Place, Duration), InvokeError> {
    let began = Instant::now();
    let mut waiting = pin!(deployed.account.acquire::<Box<Instance>>(deadline));
    let granted = match futures::poll!(waiting.as_mut()) {
        Poll::Ready(granted) => granted,
        // One that was put on the shelf since it was looked at was offered to nobody: this request was not in line yet.
        Poll::Pending => match shelf.take() {
            Some(instance) => return Ok((Place::Reused(instance), began.elapsed())),
            None => waiting.await,
        },
    };
    let place = match granted? {
        Grant::Permit(permit) => Place::Fresh(permit),
        Grant::Instance(instance) => Place::Reused(instance),
    };
    Ok((place, began.elapsed()))
}

#[allow(clippy::too_many_arguments, reason = "moved into one future")]
async fn run(
    deployed: Arc<Deployed>,
    pre: ProxyPre<GuestState>,
    shelf: Weak<Shelf02>,
    place: Place,
    meter: Arc<Meter>,
    request: Request<Body>,
    running: Arc<Running>,
    head: oneshot::Sender<Head>,
) {
    let mut instance = match place {
        Place::Reused(instance) => instance,
        Place::Fresh(permit) => match start(&deployed, &pre, permit, meter, &running).await {
            Ok(instance) => instance,
            Err(error) => {
                running.fail(error);
                running.end();
                return;
            }
        },
    };
    instance.meter.reset();
    instance.served += 1;
    let state = instance.store.data_mut();
    state.hooks.current = Some(Arc::clone(&running));
    state.logs.attribute(Some(&running));
    let answered = Arc::new(AtomicBool::new(false));
    let cut_off = CutOff(&running);
    let outcome = call(&mut instance, request, head, Arc::clone(&answered)).await;
    std::mem::forget(cut_off);
    settle(instance, outcome, answered.load(Ordering::Acquire), &running, &shelf);
}

/// Dropped while a guest works: by a panic, the end of the node, or a client that left. Dropped before the instance, so
/// that a truncated answer is not taken for a whole one.
struct CutOff<'a>(&'a Running);

impl Drop for CutOff<'_> {
    fn drop(&mut self) {
        self.0.fail(InvokeError::ShuttingDown);
    }
}

async fn start(
    deployed: &Arc<Deployed>,
    pre: &ProxyPre<GuestState>,
    mut permit: Permit,
    meter: Arc<Meter>,
    running: &Arc<Running>,
) -> Result<Box<Instance>, InvokeError> {
    let charge = permit.charge(&deployed.account);
    let store =
        GuestState::store(deployed, &meter, charge).map_err(|error| InvokeError::Start(format!("{error:#}").into()))?;
    let mut starting = Starting { store, alive: Alive::new(deployed), permit };
    starting.store.data_mut().logs.attribute(Some(running));
    let proxy = match pre.instantiate_async(&mut starting.store).await {
        Ok(proxy) => proxy,
        Err(error) => return Err(failure::start(starting.store.data(), running, error)),
    };
    let Starting { store, alive, permit } = starting;
    let now = Instant::now();
    Ok(Box::new(Instance {
        store,
        proxy,
        meter,
        served: 0,
        reuse_limit: deployed.reuse_limit(),
        born: now,
        idle_since: now,
        alive,
        _permit: permit,
    }))
}

/// Keeps the order of drops while an instance is being made.
struct Starting {
    store: Store<GuestState>,
    alive: Alive,
    permit: Permit,
}

async fn call(
    instance: &mut Instance,
    request: Request<Body>,
    head: oneshot::Sender<Head>,
    answered: Arc<AtomicBool>,
) -> wasmtime::Result<()> {
    let scheme = match request.uri().scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => types::Scheme::Https,
        _ => types::Scheme::Http,
    };
    let request = request.map(|body| body.map_err(to_guest).boxed_unsync());
    let mut store = instance.store.as_context_mut();
    let mut view = store.data_mut().http();
    let request = view.new_incoming_request(scheme, request)?;
    let meter = Arc::clone(&instance.meter);
    let out = view.new_response_outparam_from_callback(move |answer| {
        answered.store(true, Ordering::Release);
        meter.set_done();
        // Nobody waits any more: the guest is about to be ended.
        let _ = head.send(answer);
    })?;
    instance.proxy.wasi_http_incoming_handler().call_handle(&mut instance.store, request, out).await
}

/// The guest returned or trapped: what is to be said, and whether the instance serves again.
fn settle(
    mut instance: Box<Instance>,
    outcome: wasmtime::Result<()>,
    answered: bool,
    running: &Arc<Running>,
    shelf: &Weak<Shelf02>,
) {
    let mut reusable = true;
    if let Err(error) = outcome {
        reusable = false;
        running.fail(failure::trap(instance.store.data(), running, error));
    } else if !answered {
        reusable = false;
        running.fail(failure::no_answer(instance.store.data(), running));
    }
    instance.meter.set_done();
    let state = instance.store.data_mut();
    state.logs.finish(running);
    reusable &= instance.alive.deployed().isolation == Isolation::Function && !state.memory.is_exhausted();
    // Where it works on other threads, the end of its calls may wake it before it is ended itself: what it did then was for
    // nobody.
    reusable &= !running.is_cancelled();
    if reusable {
        state.hooks.current = None;
        state.logs.attribute(None);
        reusable = instance.served < instance.reuse_limit
            && !older_than(instance.born, instance.alive.deployed().reuse.age)
            && !state.memory.is_half_full()
            && !state.leaks_resources();
        // What the guest left open would act in the next request.
        running.cancel();
    }
    running.end();
    let shelf = shelf.upgrade().filter(|_| reusable);
    let Some(shelf) = shelf else {
        // Freeing the store costs system calls: the answer goes out first.
        tokio::spawn(async move { drop(instance) });
        return;
    };
    instance.idle_since = Instant::now();
    let deployed = Arc::clone(instance.alive.deployed());
    loop {
        if deployed.account.has_waiters() {
            match deployed.account.offer(instance) {
                Offered::Taken => return,
                Offered::Nobody(back) => instance = back,
                Offered::Other(instance) => return drop(instance),
            }
        }
        shelf.put(instance);
        deployed.account.rests();
        // Whoever came to the line meanwhile may have looked at the shelf before.
        if !deployed.account.is_wanted() {
            return;
        }
        match shelf.take() {
            Some(idle) => instance = idle,
            None => return,
        }
    }
}
