//! One invocation while it runs: what its calls, its logs and its bounds are counted against.

use std::{
    collections::VecDeque,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    },
    task::Waker,
    time::{Duration, Instant},
};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{InvokeError, limits::Limits};
use crate::{
    clock::{self, nanos},
    ids::{TraceContext, TraceId},
    observe::Trail,
    outbound::{Hops, WaitClock},
};

/// What comes with a request besides the request.
#[derive(Clone)]
pub struct Invocation {
    /// Where its decisions are written.
    pub trail: Trail,
    /// The trace it belongs to.
    pub trace: TraceContext,
    /// What tracers before us said; its calls carry it on.
    pub tracestate: Option<http::HeaderValue>,
    /// When its client stops waiting for the head of the answer; the function's wall time holds besides.
    pub deadline: Option<Instant>,
}

/// The shared record of one invocation. Held by its instance, its calls and its answer.
pub(super) struct Running {
    pub(super) trail: Trail,
    pub(super) trace: TraceContext,
    pub(super) tracestate: Option<http::HeaderValue>,
    pub(super) deadline: Option<Instant>,
    pub(super) limits: Arc<Limits>,
    /// Gates that the request which it serves has passed; its calls carry it on.
    pub(super) hops: Hops,
    /// When its guest began to work, in [`clock::nanos`]; 0 before.
    started: AtomicU64,
    calls: Mutex<Calls>,
    /// Time on a processor, in nanoseconds, as far as it is known to be this invocation's.
    computed: AtomicU64,
    cancelled: AtomicBool,
    token: OnceLock<CancellationToken>,
    wait_clock: OnceLock<Arc<WaitClock>>,
    log_bytes: AtomicU64,
    log_cut: AtomicU64,
    /// Last time a chunk of the answer was taken, in [`clock::nanos`].
    activity: AtomicU64,
    /// When the head was given, in [`clock::nanos`]; 0 before.
    streaming: AtomicU64,
    answered: AtomicBool,
    failure: Mutex<Option<InvokeError>>,
    failed: AtomicBool,
    ended: AtomicBool,
    end_waker: AtomicWaker,
}

/// The calls of an invocation.
#[derive(Default)]
struct Calls {
    made: u32,
    /// Calls that wait for the heads of their answers.
    open: u32,
    /// Calls that wait for one of those, in the order in which they were made. The bound of all calls bounds them.
    line: VecDeque<oneshot::Sender<OpenCall>>,
}

/// When a call may go to the door.
pub(super) enum Turn {
    /// At once.
    Now(OpenCall),
    /// When calls before it were answered.
    Later(oneshot::Receiver<OpenCall>),
}

/// Why a call was not let to the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallRefusal {
    /// The invocation made all its calls.
    Calls,
    /// The invocation is over.
    Over,
}

impl Running {
    pub(super) fn new(invocation: Invocation, limits: Arc<Limits>, hops: Hops) -> Arc<Self> {
        Arc::new(Self {
            trail: invocation.trail,
            trace: invocation.trace,
            tracestate: invocation.tracestate,
            deadline: invocation.deadline,
            limits,
            hops,
            started: AtomicU64::new(0),
            calls: Mutex::default(),
            computed: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
            token: OnceLock::new(),
            wait_clock: OnceLock::new(),
            log_bytes: AtomicU64::new(0),
            log_cut: AtomicU64::new(0),
            activity: AtomicU64::new(0),
            streaming: AtomicU64::new(0),
            answered: AtomicBool::new(false),
            failure: Mutex::new(None),
            failed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            end_waker: AtomicWaker::new(),
        })
    }

    pub(super) fn trace_id(&self) -> TraceId {
        self.trace.trace
    }

    /// Its guest begins to work now: the wall time counts from here.
    pub(super) fn start(&self, now: Instant) {
        self.started.store(clock::nanos_at(now).max(1), Ordering::Relaxed);
    }

    /// Time from when its guest began to work until now, without the time at the gate.
    pub(super) fn worked(&self, now: Instant) -> Duration {
        match self.started.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            started => Duration::from_nanos(clock::nanos_at(now).saturating_sub(started)).saturating_sub(self.waited()),
        }
    }

    /// Counts a call, and says when its turn is.
    pub(super) fn begin_call(self: &Arc<Self>) -> Result<Turn, CallRefusal> {
        if self.cancelled.load(Ordering::Acquire) {
            return Err(CallRefusal::Over);
        }
        let mut calls = self.calls.lock();
        if calls.made >= self.limits.calls.value {
            return Err(CallRefusal::Calls);
        }
        calls.made += 1;
        if calls.open < self.limits.concurrent_calls.value.max(1) {
            calls.open += 1;
            return Ok(Turn::Now(OpenCall(Some(Arc::clone(self)))));
        }
        let (sender, turn) = oneshot::channel();
        calls.line.push_back(sender);
        Ok(Turn::Later(turn))
    }

    /// It was seen to compute for this long. Returns the time in all.
    pub(super) fn compute(&self, time: Duration) -> Duration {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.computed.fetch_add(nanos, Ordering::Relaxed).saturating_add(nanos))
    }

    /// Cancelled when nobody waits for the answer any more, or the invocation ended.
    pub(super) fn token(&self) -> CancellationToken {
        let token = self.token.get_or_init(CancellationToken::new).clone();
        // One of both sees the other: here the cancellation, or there the token.
        fence(Ordering::SeqCst);
        if self.cancelled.load(Ordering::Acquire) {
            token.cancel();
        }
        token
    }

    /// Whether its calls were freed.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Frees every call that is still open.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        if let Some(token) = self.token.get() {
            token.cancel();
        }
    }

    /// The clock that stands while a call waits at the gate.
    pub(super) fn wait_clock(&self) -> Arc<WaitClock> {
        Arc::clone(self.wait_clock.get_or_init(Arc::default))
    }

    /// Time waited at the gate so far.
    pub(super) fn waited(&self) -> Duration {
        self.wait_clock.get().map(|clock| clock.total()).unwrap_or_default()
    }

    /// Takes `wanted` bytes of the log's bound; returns how many there were.
    pub(super) fn take_log_bytes(&self, wanted: usize) -> usize {
        let bound = self.limits.log_bytes.value;
        let before = self.log_bytes.fetch_add(wanted as u64, Ordering::Relaxed);
        bound.saturating_sub(before).min(wanted as u64) as usize
    }

    /// Bytes that it wrote beyond the log's bound were cut.
    pub(super) fn cut_log(&self, bytes: usize) {
        if bytes > 0 {
            self.log_cut.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// Bytes of the log that were cut; asking forgets them.
    pub(super) fn take_log_cut(&self) -> u64 {
        if self.log_cut.load(Ordering::Relaxed) == 0 { 0 } else { self.log_cut.swap(0, Ordering::Relaxed) }
    }

    /// A chunk of the answer was taken just now.
    pub(super) fn touch(&self) {
        self.activity.store(clock::coarse(), Ordering::Relaxed);
    }

    /// Time since a chunk of the answer was last taken.
    pub(super) fn idle(&self) -> Duration {
        Duration::from_nanos(nanos().saturating_sub(self.activity.load(Ordering::Relaxed)))
    }

    /// The head was given: from now on the bounds of a stream hold.
    pub(super) fn begin_stream(&self) {
        let now = clock::coarse().max(1);
        self.activity.store(now, Ordering::Relaxed);
        self.streaming.store(now, Ordering::Release);
    }

    /// Time since the head was given, if it was.
    pub(super) fn stream_age(&self) -> Option<Duration> {
        match self.streaming.load(Ordering::Acquire) {
            0 => None,
            since => Some(Duration::from_nanos(nanos().saturating_sub(since))),
        }
    }

    /// The answer was given whole, the last chunk of it just now; the guest may still work.
    pub(super) fn answered(&self) {
        self.answered.store(true, Ordering::Release);
    }

    /// Whether the answer was given whole.
    pub(super) fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Acquire)
    }

    /// Says why the invocation failed; the first reason counts. Whatever ends an instance says so before its streams
    /// close, or a truncated answer would look whole.
    pub(super) fn fail(&self, error: InvokeError) {
        let mut failure = self.failure.lock();
        if failure.is_none() {
            *failure = Some(error);
            self.failed.store(true, Ordering::Release);
        }
    }

    /// The guest's work for it is over: whatever it has not written by now never comes.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.end_waker.wake();
    }

    /// Whether the guest's work is over.
    pub(super) fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Wakes when the guest's work is over.
    pub(super) fn on_end(&self, waker: &Waker) {
        self.end_waker.register(waker);
    }

    /// Why it failed, if it did.
    pub(super) fn failure(&self) -> Option<InvokeError> {
        if self.failed.load(Ordering::Acquire) { self.failure.lock().clone() } else { None }
    }
}

/// A call that is open until this is dropped. The next in line goes then.
pub(super) struct OpenCall(Option<Arc<Running>>);

impl Drop for OpenCall {
    fn drop(&mut self) {
        let Some(running) = self.0.take() else { return };
        loop {
            let next = {
                let mut calls = running.calls.lock();
                let next = calls.line.pop_front();
                if next.is_none() {
                    calls.open -= 1;
                }
                next
            };
            let Some(next) = next else { return };
            match next.send(OpenCall(Some(Arc::clone(&running)))) {
                Ok(()) => return,
                // It was given up meanwhile.
                Err(mut unused) => unused.0 = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::guest::testing::settings;

    #[test]
    fn a_token_that_is_made_while_the_invocation_is_cancelled_is_cancelled() {
        let trace = TraceContext::begin();
        let trail = Trail::begin(trace.trace);
        let limits = Arc::new(Limits::resolve(&Default::default(), &settings(&[])));
        let both = Barrier::new(2);
        let rounds: Vec<_> = (0..20_000)
            .map(|_| {
                let invocation = Invocation { trail: trail.clone(), trace, tracestate: None, deadline: None };
                Running::new(invocation, Arc::clone(&limits), Hops(0))
            })
            .collect();
        let forgotten = std::thread::scope(|scope| {
            scope.spawn(|| {
                for running in &rounds {
                    both.wait();
                    running.cancel();
                }
            });
            let is_forgotten = |running: &&Arc<Running>| {
                both.wait();
                let (token, began) = (running.token(), Instant::now());
                while !token.is_cancelled() && began.elapsed() < Duration::from_millis(200) {
                    std::hint::spin_loop();
                }
                !token.is_cancelled()
            };
            rounds.iter().filter(is_forgotten).count()
        });
        assert_eq!(forgotten, 0, "of {} nobody cancelled so many", rounds.len());
    }
}
