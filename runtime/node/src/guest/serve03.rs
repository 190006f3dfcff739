//! Guests of `wasi:http` 0.3: an instance serves several requests at once.
//!
//! An instance is a task that drives one store. Requests come to it through a short queue; each is a call into the
//! guest, filed under the task id the component model gives it, so that the guest's own calls find their invocation
//! (see [`super::linker`]). A call can't be cancelled from outside in this wasmtime: when a client leaves, its outbound
//! calls are ended, and the instance with it where it serves nobody else. An invocation that outstays its bounds takes
//! no more company: its instance ends as soon as the others are done.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::FuturesUnordered, task::AtomicWaker};
use http::{Request, Response};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use wasmtime::{
    AsContextMut,
    component::{Accessor, GuestTaskId, Resource, TypedFunc},
};
use wasmtime_wasi_http::{
    WasiBody, WasiHttpView,
    p3::{
        Request as GuestRequest, Response as GuestResponse,
        bindings::{Service, ServicePre, http::types::ErrorCode},
    },
};

use super::{
    InvokeError,
    answer::{Answer, Work},
    deployment::{Alive, Deployed},
    failure,
    hogs::Migrating,
    hooks::to_guest,
    meter::{Meter, Metered, nanos},
    pool::{Grant, Offered, Permit, Shelf},
    running::Running,
    state::GuestState,
    watch,
};
use crate::{body::Body, cluster::registry::Isolation, observe::Note};

type Head = Result<Response<WasiBody>, InvokeError>;

/// An instance that has been computing for this long in one go gets no more requests until it rests.
const BUSY: Duration = Duration::from_millis(2);
/// Time that a guest has to end a request whose client left, before its instance takes no more.
const GRACE: Duration = Duration::from_secs(1);

/// One request on its way into an instance.
struct Job {
    request: Request<WasiBody>,
    running: Arc<Running>,
    head: oneshot::Sender<Head>,
}

/// What the instance's task and everybody else share.
pub(super) struct Shared {
    inbox: Mutex<VecDeque<Job>>,
    wake: AtomicWaker,
    /// Requests on the instance, until their answers are through.
    active: AtomicU32,
    served: AtomicU32,
    reuse_limit: u32,
    /// Takes no more requests; ends when it serves nobody.
    retired: AtomicBool,
    /// Ends at once.
    killed: AtomicBool,
    /// Since when it serves nobody, in [`nanos`]; 0 while it serves.
    idle_since: AtomicU64,
    born: Instant,
    meter: Arc<Meter>,
    deployed: Arc<Deployed>,
    /// Invocations whose client left before the guest answered, with the time by which it should have noticed.
    abandoned: Mutex<Vec<(Arc<Running>, Instant, Slot)>>,
    /// Invocations that calls of the guest may belong to.
    filed: Mutex<Vec<Filed>>,
    failure: Mutex<Option<InvokeError>>,
}

/// An invocation under the task that the component model knows it by.
struct Filed {
    task: Option<GuestTaskId>,
    running: Arc<Running>,
    /// Not in the call's own future: that goes with the store's event loop, before anybody could say why it went.
    head: Option<oneshot::Sender<Head>>,
}

/// A request's place in an instance. When it is free again, somebody who waits for this deployment gets it.
struct Slot {
    shared: Arc<Shared>,
    offered: bool,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let shared = &self.shared;
        if shared.active.fetch_sub(1, Ordering::AcqRel) == 1 {
            shared.idle_since.store(nanos().max(1), Ordering::Release);
        }
        if shared.retired.load(Ordering::Acquire) {
            shared.wake.wake();
        } else if self.offered && shared.deployed.pool.has_waiters() {
            shared.offer();
        }
    }
}

impl Shared {
    /// Takes a place, if the instance may have company.
    fn try_slot(self: &Arc<Self>) -> Option<Slot> {
        if self.retired.load(Ordering::Acquire) || self.meter.polled_for() > BUSY {
            return None;
        }
        let concurrency = self.deployed.reuse.concurrency.max(1);
        let taken = self
            .active
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |active| (active < concurrency).then_some(active + 1));
        if taken.is_err() {
            return None;
        }
        self.idle_since.store(0, Ordering::Release);
        let slot = Slot { shared: Arc::clone(self), offered: false };
        // Checked again: it may have retired between the two looks, and nobody would serve the job.
        if self.retired.load(Ordering::Acquire) {
            return None;
        }
        if self.served.fetch_add(1, Ordering::AcqRel) + 1 >= self.reuse_limit {
            self.retire();
        }
        Some(slot)
    }

    /// Offers a place to whoever is first in line.
    fn offer(self: &Arc<Self>) {
        let Some(slot) = self.try_slot() else { return };
        if let Offered::Other(slot) = self.deployed.pool.offer(self.deployed.shelf_id, slot) {
            drop(slot);
            // Somebody else's function needs the place more than nobody's request does.
            if self.is_idle() {
                self.retire();
            }
        }
    }

    fn send(self: &Arc<Self>, job: Job) {
        self.inbox.lock().push_back(job);
        self.wake.wake();
    }

    fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.wake.wake();
    }

    fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.retire();
    }

    fn is_idle(&self) -> bool {
        self.active.load(Ordering::Acquire) == 0
    }

    fn idle_for(&self) -> Option<Duration> {
        match self.idle_since.load(Ordering::Acquire) {
            0 => None,
            since => Some(Duration::from_nanos(nanos().saturating_sub(since))),
        }
    }

    /// Why the instance is gone, for those who waited to be called.
    fn lost(&self) -> InvokeError {
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
                running.trail.note(Note::Guest(error.to_string()));
                running.fail(error);
                stuck += 1;
            }
            running.end();
        }
        if stuck > 0 {
            self.retire();
            if stuck >= self.active.load(Ordering::Acquire) as usize {
                self.kill();
            }
        }
    }
}

/// The instances of one deployment.
pub(super) struct Shelf03 {
    instances: Mutex<Vec<Arc<Shared>>>,
}

impl Shelf03 {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { instances: Mutex::default() })
    }

    /// A place in an instance that rests, else in the one that was made last.
    fn try_slot(&self) -> Option<Slot> {
        let instances = self.instances.lock();
        let resting = instances.iter().rev().filter(|shared| shared.meter.polled_for().is_zero());
        let working = instances.iter().rev().filter(|shared| !shared.meter.polled_for().is_zero());
        resting.chain(working).find_map(Shared::try_slot)
    }

    fn remove(&self, gone: &Arc<Shared>) {
        self.instances.lock().retain(|shared| !Arc::ptr_eq(shared, gone));
    }
}

impl Drop for Shelf03 {
    fn drop(&mut self) {
        for shared in self.instances.get_mut() {
            shared.retire();
        }
    }
}

impl Shelf for Shelf03 {
    fn idle(&self) -> usize {
        self.instances.lock().iter().filter(|shared| shared.is_idle()).count()
    }

    fn instances(&self) -> usize {
        self.instances.lock().len()
    }

    fn evict(&self) -> bool {
        let instances = self.instances.lock();
        let oldest = instances
            .iter()
            .filter(|shared| !shared.retired.load(Ordering::Acquire))
            .filter_map(|shared| Some((shared.idle_for()?, shared)))
            .max_by_key(|(idle, _)| *idle);
        if let Some((_, shared)) = oldest {
            shared.retire();
        }
        oldest.is_some()
    }

    fn sweep(&self, idle: Duration, age: Duration) {
        let instances = self.instances.lock().clone();
        for shared in instances {
            shared.look_after();
            if shared.idle_for().is_some_and(|for_| for_ > idle) || shared.born.elapsed() > age {
                shared.retire();
            }
        }
    }
}

/// Serves one request. Dropping the future or the answer's body ends the request's calls, and its instance where that
/// serves nobody else.
pub(super) async fn invoke(
    deployed: &Arc<Deployed>,
    pre: &ServicePre<GuestState>,
    shelf: &Arc<Shelf03>,
    request: Request<Body>,
    running: Arc<Running>,
) -> Result<Response<Body>, InvokeError> {
    let slot = acquire(deployed, pre, shelf, &running).await?;
    running.start();
    let method = request.method().clone();
    let shared = Arc::clone(&slot.shared);
    let (sender, head) = oneshot::channel();
    let work = Watched { running: Arc::clone(&running), slot: Some(slot) };
    let request = request.map(|body| body.map_err(to_guest).boxed_unsync());
    shared.send(Job { request, running: Arc::clone(&running), head: sender });
    let response = match watch::head(&deployed.timers, &running, head).await {
        Ok(head) => head?,
        // It never came to a call: the instance ended first.
        Err(InvokeError::NoAnswer) if running.failure().is_none() => return Err(shared.lost()),
        Err(error) => return Err(error),
    };
    running.begin_stream();
    Ok(Answer::respond(response, &method, running, Some(Box::new(work))))
}

async fn acquire(
    deployed: &Arc<Deployed>,
    pre: &ServicePre<GuestState>,
    shelf: &Arc<Shelf03>,
    running: &Arc<Running>,
) -> Result<Slot, InvokeError> {
    let found = |reused, waited| running.trail.note(Note::Instance { reused, waited });
    if deployed.isolation == Isolation::Function
        && let Some(mut slot) = shelf.try_slot()
    {
        slot.offered = true;
        found(true, Duration::ZERO);
        return Ok(slot);
    }
    let began = Instant::now();
    let permit = match deployed.pool.try_permit() {
        Some(permit) => permit,
        None => match deployed.pool.acquire::<Slot>(deployed.shelf_id).await? {
            Grant::Permit(permit) => permit,
            Grant::Instance(mut slot) => {
                slot.offered = true;
                found(true, began.elapsed());
                return Ok(slot);
            }
        },
    };
    found(false, began.elapsed());
    start(deployed, pre, shelf, permit, running).await
}

/// Makes an instance and the task that drives it, with one place taken.
async fn start(
    deployed: &Arc<Deployed>,
    pre: &ServicePre<GuestState>,
    shelf: &Arc<Shelf03>,
    permit: Permit,
    running: &Arc<Running>,
) -> Result<Slot, InvokeError> {
    let meter = Arc::new(Meter::new(Some((Arc::clone(&deployed.ticker), Arc::clone(&deployed.hogs)))));
    let store = GuestState::store(deployed, &meter).map_err(|error| InvokeError::Start(format!("{error:#}").into()))?;
    let mut live = Live { store, _alive: Alive::new(deployed), _permit: permit };
    live.store.data_mut().logs.attribute(Some(Arc::clone(running)));
    let service = {
        let instantiate = async { pre.instantiate_async(&mut live.store).await };
        match Metered::new(instantiate, Arc::clone(&meter)).await {
            Ok(service) => service,
            Err(error) => return Err(failure::start(live.store.data(), running, error)),
        }
    };
    let shared = Arc::new(Shared {
        inbox: Mutex::default(),
        wake: AtomicWaker::new(),
        active: AtomicU32::new(1),
        served: AtomicU32::new(1),
        reuse_limit: deployed.reuse_limit(),
        retired: AtomicBool::new(deployed.isolation == Isolation::Request),
        killed: AtomicBool::new(false),
        idle_since: AtomicU64::new(0),
        born: Instant::now(),
        meter: Arc::clone(&meter),
        deployed: Arc::clone(deployed),
        abandoned: Mutex::default(),
        filed: Mutex::default(),
        failure: Mutex::new(None),
    });
    let slot = Slot { shared: Arc::clone(&shared), offered: true };
    if deployed.isolation == Isolation::Function {
        shelf.instances.lock().push(Arc::clone(&shared));
    }
    let drive = Box::pin(drive(live, service, shared, Arc::downgrade(shelf)));
    tokio::spawn(Migrating::new(drive, meter, Arc::clone(&deployed.hogs)));
    Ok(slot)
}

/// A live store with what must outlive it.
struct Live {
    store: wasmtime::Store<GuestState>,
    _alive: Alive,
    _permit: Permit,
}

/// The instance's task: until it retires and serves nobody, is killed, or traps.
async fn drive(mut live: Live, service: Service, shared: Arc<Shared>, shelf: Weak<Shelf03>) {
    // Whatever ends this task, nobody may send it more requests afterwards.
    struct Close(Arc<Shared>, Weak<Shelf03>);
    impl Drop for Close {
        fn drop(&mut self) {
            self.0.retired.store(true, Ordering::Release);
            if let Some(shelf) = self.1.upgrade() {
                shelf.remove(&self.0);
            }
            // Jobs that came meanwhile learn it by their closed channels. Whoever is still filed was cut off without a
            // word, by a panic or the end of the node, and must not take a truncated answer for a whole one.
            let jobs = std::mem::take(&mut *self.0.inbox.lock());
            let abandoned = std::mem::take(&mut *self.0.abandoned.lock());
            let filed = std::mem::take(&mut *self.0.filed.lock());
            filed.iter().for_each(|filed| filed.running.fail(InvokeError::ShuttingDown));
            drop((jobs, abandoned, filed));
        }
    }
    let close = Close(Arc::clone(&shared), shelf);
    let outcome = {
        let work = live.store.run_concurrent(async |accessor| serve(accessor, &service, &shared).await);
        let mut work = pin!(Metered::new(work, Arc::clone(&shared.meter)));
        poll_fn(|cx| {
            let polled = work.as_mut().poll(cx);
            if polled.is_pending() && shared.killed.load(Ordering::Acquire) {
                return Poll::Ready(Ok(Ok(())));
            }
            polled
        })
        .await
    };
    let error = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(error)) | Err(error) => Some(error),
    };
    let left: Vec<_> = shared.filed.lock().drain(..).filter(|filed| !filed.running.is_answered()).collect();
    if let Some(error) = error {
        let reason = failure::reason(live.store.data(), &error);
        live.store.data().logs.host(None, format!("{reason}\n{error:?}"));
        *shared.failure.lock() = Some(reason.clone());
        for Filed { running, .. } in &left {
            running.trail.note(Note::Guest(reason.to_string()));
            running.fail(match &reason {
                // With company it can't be told whose fault a trap is.
                InvokeError::Trap(_) | InvokeError::Exit(_) if left.len() > 1 => {
                    InvokeError::Neighbour(reason.to_string().into())
                }
                reason => reason.clone(),
            });
        }
    }
    for Filed { running, .. } in &left {
        running.fail(InvokeError::NoAnswer);
        live.store.data().logs.finish(running);
        running.cancel();
    }
    drop(close);
    drop(live);
    left.iter().for_each(|filed| filed.running.end());
}

/// Takes requests and calls the guest, inside the store's event loop.
async fn serve(accessor: &Accessor<GuestState>, service: &Service, shared: &Arc<Shared>) -> wasmtime::Result<()> {
    let handle = service.wasi_http_handler().func_handle();
    let mut calls = FuturesUnordered::new();
    poll_fn(|cx: &mut Context<'_>| {
        shared.wake.register(cx.waker());
        loop {
            match calls.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(()))) => {
                    // Something was finished: a guest that makes progress is no runaway.
                    shared.meter.reset();
                    continue;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) | Poll::Pending => {}
            }
            if accessor.poll_ready_for_concurrent_call(*handle.func(), cx).is_pending() {
                return Poll::Pending;
            }
            let Some(job) = shared.inbox.lock().pop_front() else { break };
            if calls.is_empty() {
                shared.meter.reset();
            }
            calls.push(Box::pin(call(accessor, handle, job, shared)));
        }
        if !calls.is_empty() || accessor.poll_no_interesting_tasks(cx).is_pending() {
            return Poll::Pending;
        }
        if shared.is_idle() {
            accessor.with(|mut access| unfile(access.as_context_mut().data_mut(), shared, 0));
            if shared.retired.load(Ordering::Acquire) {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    })
    .await
}

type Handle = TypedFunc<(Resource<GuestRequest>,), (Result<Resource<GuestResponse>, ErrorCode>,)>;

/// One request: the call into the guest, and the head of its answer to whoever waits.
async fn call(accessor: &Accessor<GuestState>, handle: Handle, job: Job, shared: &Arc<Shared>) -> wasmtime::Result<()> {
    let Job { request, running, head } = job;
    if head.is_closed() {
        running.end();
        return Ok(());
    }
    let (call, io) = accessor.with(|mut access| {
        let mut store = access.as_context_mut();
        let state = store.data_mut();
        let (request, io) = GuestRequest::from_http(&mut state.hooks, request);
        let io: Pin<Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send>> = Box::pin(io);
        let request = state.http().table.push(request)?;
        let call = handle.start_call_concurrent(store.as_context_mut(), (request,))?;
        let state = store.data_mut();
        unfile(state, shared, FILED);
        state.tasks.insert(call.task(), Arc::clone(&running));
        let mut filed = shared.filed.lock();
        // Ids are used again once their task is gone for good: no call of the guest can belong to that one any more.
        filed.iter_mut().filter(|filed| filed.task == Some(call.task())).for_each(|filed| filed.task = None);
        filed.push(Filed { task: Some(call.task()), running: Arc::clone(&running), head: Some(head) });
        attribute(state, &filed);
        wasmtime::error::Ok((call, io))
    })?;
    let task = call.task();
    let answer = handle.finish_call_concurrent(accessor, call).await?.0;
    let answer = match answer {
        Ok(response) => accessor.with(|mut access| {
            let response = access.as_context_mut().data_mut().http().table.delete(response)?;
            response.into_http_with_getter(access.as_context_mut(), io, GuestState::http).map(Ok)
        })?,
        Err(code) => Err(InvokeError::ErrorCode(format!("{code:?}").into())),
    };
    accessor.with(|mut access| {
        let mut store = access.as_context_mut();
        let state = store.data_mut();
        if state.memory.exhausted || state.memory.is_half_full() || state.leaks_resources() {
            shared.retire();
        }
    });
    // The guest may go on: tasks that `handle` left behind stream its body. Their calls belong to this invocation, which
    // stays filed.
    let head = shared.filed.lock().iter_mut().find(|filed| filed.task == Some(task)).and_then(|filed| filed.head.take());
    if head.is_none_or(|head| head.send(answer).is_err()) {
        running.end();
    }
    Ok(())
}

/// Invocations that stay filed after their answers are through, for what their guests do afterwards.
const FILED: usize = 64;

/// Forgets invocations whose answers are through, the oldest first, until no more than `keep` are filed.
fn unfile(state: &mut GuestState, shared: &Shared, keep: usize) {
    let mut filed = shared.filed.lock();
    if filed.len() <= keep {
        return;
    }
    let mut surplus = filed.len() - keep;
    filed.retain(|Filed { task, running, .. }| {
        let over = surplus > 0 && (running.is_answered() || running.ended());
        if over {
            surplus -= 1;
            task.and_then(|task| state.tasks.remove(&task));
            state.logs.finish(running);
            running.end();
        }
        !over
    });
    if state.tasks.is_empty() {
        state.hooks.current = None;
    }
    attribute(state, &filed);
}

/// Lines of log belong to an invocation where there is only one they can be of.
fn attribute(state: &GuestState, filed: &[Filed]) {
    let mut open = filed.iter().filter(|filed| !filed.running.is_answered());
    let sole = open.next().filter(|_| open.next().is_none());
    state.logs.attribute(sole.map(|filed| Arc::clone(&filed.running)));
}

/// A request's work on a shared instance, as its client holds it. Dropped without a word, it is abandoned.
struct Watched {
    running: Arc<Running>,
    slot: Option<Slot>,
}

impl Work for Watched {
    fn answered(mut self: Box<Self>) {
        self.running.answered();
        self.slot = None;
    }

    fn abandoned(self: Box<Self>) {}
}

impl Drop for Watched {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        self.running.cancel();
        let shared = Arc::clone(&slot.shared);
        if shared.active.load(Ordering::Acquire) <= 1 {
            shared.kill();
        } else if self.running.stream_age().is_none() && !self.running.ended() {
            shared.abandoned.lock().push((Arc::clone(&self.running), Instant::now() + GRACE, slot));
        } else {
            self.running.end();
        }
    }
}
