//! Waiting for an admission.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use tidegate_core::{Call, Permit, Refusal, Ticket, Waiting};

use super::{Admission, Shards, Woken};

/// What became of a call that waited.
pub(super) type Outcome = Result<(Permit, Duration, Waiting), Unadmitted>;

/// Why a call that waited did not get its admission.
pub(crate) enum Unadmitted {
    /// It was refused.
    Refused(Refusal),
    /// It is to ask at another partition.
    SentOn(Ticket),
}

/// Where the shard leaves the outcome.
#[derive(Default)]
pub(super) struct Waiter(Mutex<State>);

#[derive(Default)]
struct State {
    outcome: Option<Outcome>,
    waker: Option<Waker>,
}

/// Leaves outcomes and wakes.
pub(super) fn wake(woken: Woken) {
    for (waiter, outcome) in woken {
        let waker = {
            let mut state = waiter.0.lock();
            state.outcome = Some(outcome);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// An admission that was waited for.
pub(crate) struct Admitted {
    /// The right to send.
    pub(crate) admission: Admission,
    /// Time since the call asked.
    pub(crate) waited: Duration,
    /// For what, at the end.
    pub(crate) why: Waiting,
}

/// Waits in the queue. Dropping it leaves the queue.
pub(crate) struct Wait {
    shards: Weak<Shards>,
    shard: usize,
    call: Call,
    waiter: Arc<Waiter>,
    over: bool,
}

impl Wait {
    pub(super) fn new(shards: &Arc<Shards>, shard: usize, call: Call, waiter: Arc<Waiter>) -> Self {
        Self { shards: Arc::downgrade(shards), shard, call, waiter, over: false }
    }
}

impl Future for Wait {
    type Output = Result<Admitted, Unadmitted>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = {
            let mut state = self.waiter.0.lock();
            if state.outcome.is_none() {
                // Cloned only when it is another one.
                match &mut state.waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => state.waker = Some(cx.waker().clone()),
                }
                return Poll::Pending;
            }
            state.outcome.take()
        };
        self.over = true;
        match outcome {
            Some(Ok((permit, waited, why))) => {
                let admission = Admission { shards: self.shards.clone(), shard: self.shard, permit };
                Poll::Ready(Ok(Admitted { admission, waited, why }))
            }
            Some(Err(unadmitted)) => Poll::Ready(Err(unadmitted)),
            None => Poll::Pending,
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        // Right in every phase: an admission that is on its way here is given back too.
        let Some(shards) = self.shards.upgrade() else { return };
        shards.with(self.shard, |hosted, now| {
            // A call that was admitted or refused has no waiter any more, and its place may be another's by now.
            if hosted
                .waiters
                .get(self.call.index())
                .and_then(Option::as_ref)
                .is_some_and(|waiter| Arc::ptr_eq(waiter, &self.waiter))
            {
                hosted.forget(self.call);
            }
            hosted.core.release_call(now, self.call, &mut hosted.effects);
        });
    }
}
