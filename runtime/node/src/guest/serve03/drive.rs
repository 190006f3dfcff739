//! The task of one instance: takes requests, calls the guest, and says why when it ends.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, Weak, atomic::Ordering},
    task::{Context, Poll, Waker},
};

use futures::{StreamExt, stream::FuturesUnordered};
use wasmtime::{
    AsContextMut,
    component::{Accessor, Resource, TypedFunc},
};
use wasmtime_wasi_http::{
    WasiHttpView,
    p3::{
        Request as GuestRequest, Response as GuestResponse,
        bindings::{Service, http::types::ErrorCode},
    },
};

use super::{
    files::Filed,
    shared::{Job, Shared, Shelf03},
};
use crate::{
    bell::Bell,
    guest::{InvokeError, deployment::Alive, failure, meter::Metered, pool::Permit, state::GuestState},
    observe::Note,
};

/// A live store with what must outlive it.
pub(super) struct Live {
    pub(super) store: wasmtime::Store<GuestState>,
    #[allow(dead_code, reason = "held for its drop")]
    pub(super) alive: Alive,
    pub(super) permit: Permit,
}

/// Times that an instance is polled for what requests left to do, at most, before it takes the next ones all the same.
const MOST_TURNS: u32 = 256;

/// The instance's task: until it retires and serves nobody, is killed, or traps.
pub(super) async fn run(mut live: Live, service: Service, shared: Arc<Shared>, shelf: Weak<Shelf03>) {
    // Whatever ends this task, nobody may send it more requests afterwards.
    struct Close(Arc<Shared>, Weak<Shelf03>);
    impl Drop for Close {
        fn drop(&mut self) {
            self.0.retired.store(true, Ordering::Release);
            if let Some(bytes) = self.0.ended() {
                self.0.deployed.account.expect_no_more(bytes);
            }
            if let Some(shelf) = self.1.upgrade() {
                shelf.remove(&self.0);
            }
            // Jobs that came meanwhile learn it by their closed channels. Whoever is still filed was cut off without a
            // word, by a panic or the end of the node, and must not take a truncated answer for a whole one.
            let jobs = std::mem::take(&mut *self.0.inbox.lock());
            let abandoned = std::mem::take(&mut *self.0.abandoned.lock());
            let filed: Vec<_> = self.0.filed.lock().drain().collect();
            filed.iter().for_each(|filed| filed.running.fail(InvokeError::ShuttingDown));
            drop((jobs, abandoned, filed));
        }
    }
    let close = Close(Arc::clone(&shared), shelf);
    let outcome = {
        let work = live.store.run_concurrent(async |accessor| serve(accessor, &service, &shared).await);
        let mut work = pin!(Metered::new(work, Arc::clone(&shared.meter)));
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let mut turns = 0;
        poll_fn(|cx| {
            shared.settle();
            bell.register(cx.waker());
            bell.take();
            let polled = work.as_mut().poll(&mut Context::from_waker(&waker));
            if polled.is_pending() {
                if shared.killed.load(Ordering::Acquire) {
                    return Poll::Ready(Ok(Ok(())));
                }
                // Whoever yields to others rings as it does so: then there is more to run. But not for ever: a guest that
                // does nothing but yield must not keep out those who came before anybody could know.
                turns += 1;
                let rests = !bell.is_rung() || turns > MOST_TURNS;
                if rests {
                    turns = 0;
                }
                if rests && !shared.rested.swap(true, Ordering::AcqRel) && !shared.inbox.lock().is_empty() {
                    shared.wake.wake();
                }
            }
            polled
        })
        .await
    };
    let error = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(error)) | Err(error) => Some(error),
    };
    let (answered, left): (Vec<_>, Vec<_>) = shared.filed.lock().drain().partition(|filed| filed.running.is_answered());
    // What an answered request left to do may be what failed.
    let alone = answered.len() + left.len() == 1;
    if let Some(error) = error {
        let reason = failure::reason(live.store.data(), &error);
        live.store.data().logs.host(None, failure::account(&reason.to_string(), &error));
        *shared.failure.lock() = Some(reason.clone());
        // Whoever used up its own time has been told so by now.
        let known = left.iter().any(|filed| filed.running.failure().is_some());
        for Filed { running, .. } in left.iter().filter(|filed| filed.running.failure().is_none()) {
            running.trail.note(Note::Guest(reason.to_string()));
            running.fail(match &reason {
                // With company it can't be told whose fault a trap is.
                InvokeError::Trap(_) | InvokeError::Exit(_) if !alone => {
                    InvokeError::Neighbour(reason.to_string().into())
                }
                InvokeError::Cpu(_) if known => InvokeError::Neighbour(reason.to_string().into()),
                reason => reason.clone(),
            });
        }
    }
    for Filed { running, .. } in &left {
        running.fail(InvokeError::NoAnswer);
        live.store.data().logs.finish(running);
        running.cancel();
    }
    if let Some(bytes) = shared.ended() {
        live.permit.was_expected(bytes);
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
            // Calls come before what earlier ones left to do after their answers. Were they taken one after another, that
            // would never have its turn, and its streams and futures would pile up.
            if !shared.rested.load(Ordering::Acquire) {
                break;
            }
            let jobs = std::mem::take(&mut *shared.inbox.lock());
            if jobs.is_empty() {
                break;
            }
            shared.rested.store(false, Ordering::Release);
            if calls.is_empty() {
                shared.meter.reset();
                // Those before left nothing to do, and nothing that goes wrong now is theirs.
                if accessor.poll_no_interesting_tasks(cx).is_ready() {
                    forget(accessor, shared);
                }
            }
            calls.extend(jobs.into_iter().map(|job| Box::pin(call(accessor, handle, job, shared))));
        }
        if !calls.is_empty() || accessor.poll_no_interesting_tasks(cx).is_pending() {
            return Poll::Pending;
        }
        if shared.is_idle() {
            forget(accessor, shared);
            if shared.retired.load(Ordering::Acquire) {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    })
    .await
}

/// Forgets all invocations whose answers are through.
fn forget(accessor: &Accessor<GuestState>, shared: &Shared) {
    accessor.with(|mut access| {
        let mut store = access.as_context_mut();
        unfile(store.data_mut(), shared, 0);
        store.data_mut().logs.attribute(None);
    });
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
        state.logs.join(&running);
        let mut filed = shared.filed.lock();
        if state.tasks.insert(call.task(), Arc::clone(&running)).is_some() {
            filed.forget_task(call.task());
        }
        filed.push(Filed { task: Some(call.task()), running: Arc::clone(&running), head: Some(head) });
        // Lines of log belong to an invocation where there is only one they can be of.
        state.logs.attribute(filed.sole());
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
        shared.memory.store(state.memory.used(), Ordering::Relaxed);
        if state.memory.is_exhausted() || state.memory.is_half_full() || state.leaks_resources() {
            shared.retire();
        }
    });
    shared.meter.set_done();
    // The guest may go on: tasks that `handle` left behind stream its body. Their calls belong to this invocation, which
    // stays filed.
    let head = shared.filed.lock().take_head(task);
    if head.is_none_or(|head| head.send(answer).is_err()) {
        running.end();
    }
    Ok(())
}

/// Invocations that stay filed after their answers are through, for what their guests do afterwards.
const FILED: usize = 64;

/// Forgets invocations whose answers are through, the oldest first, until no more than `keep` of them are filed.
fn unfile(state: &mut GuestState, shared: &Shared, keep: usize) {
    let mut filed = shared.filed.lock();
    for Filed { task, running, .. } in filed.settle(keep) {
        task.and_then(|task| state.tasks.remove(&task));
        state.logs.finish(&running);
        running.end();
    }
    if state.tasks.is_empty() {
        state.hooks.current = None;
    }
}
