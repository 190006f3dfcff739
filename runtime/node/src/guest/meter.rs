//! How long a guest has been on a processor, and the poll that measures it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use super::{
    engine::{TICK, Ticker},
    hogs::Hogs,
};
use crate::clock::nanos;

/// A poll below this is measured by the clock on the wall alone, in nanoseconds. Most that see the epoch move are: it
/// moved while their guest waited for something.
const SHORT: u64 = 200_000;

/// This thread's time on a processor, in nanoseconds.
fn thread_nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Counts the time one instance spends computing. Written by the thread that polls it, read by anybody.
///
/// Short polls are measured by the clock on the wall, as asking the kernel twice a poll would cost more than many polls
/// do. In a poll that is no longer short when the epoch moves, the thread's own processor time is taken from there on:
/// where the machine is crowded, a guest must not pay for the time it was not let run.
pub(super) struct Meter {
    used: AtomicU64,
    entered: AtomicU64,
    /// Processor time of the thread when the epoch moved in this poll and it was no longer short; 0 before.
    ticked: AtomicU64,
    /// Time of this poll before that.
    before_tick: AtomicU64,
    /// Time of this poll that an invocation was charged with.
    charged: AtomicU64,
    holding: AtomicBool,
    /// It computed for so long that it goes on among the hogs.
    hog: AtomicBool,
    host: Option<(Arc<Ticker>, Arc<Hogs>)>,
}

impl Meter {
    /// A meter at zero. Without a host it only counts (tests).
    pub(super) fn new(host: Option<(Arc<Ticker>, Arc<Hogs>)>) -> Self {
        Self {
            used: AtomicU64::new(0),
            entered: AtomicU64::new(0),
            ticked: AtomicU64::new(0),
            before_tick: AtomicU64::new(0),
            charged: AtomicU64::new(0),
            holding: AtomicBool::new(false),
            hog: AtomicBool::new(false),
            host,
        }
    }

    /// Counts from zero again: another request, or progress on a shared instance.
    pub(super) fn reset(&self) {
        self.used.store(0, Relaxed);
        self.hog.store(false, Relaxed);
        // A poll that saw no epoch move is a tick old at most: too little to look at the clock for.
        if self.entered.load(Relaxed) != 0 && self.ticked.load(Relaxed) != 0 {
            self.ticked.store(0, Relaxed);
            self.charged.store(0, Relaxed);
            self.entered.store(nanos().max(1), Relaxed);
        }
    }

    /// The part of the poll's time that nobody was charged with yet; it is now. On the polling thread only.
    pub(super) fn charge(&self, slice: Duration) -> Duration {
        let slice = slice.as_nanos() as u64;
        Duration::from_nanos(slice.saturating_sub(self.charged.swap(slice, Relaxed)))
    }

    /// The epoch moved during the poll, or before it while nothing ran: returns the time used in all, and in this poll.
    /// On the polling thread only.
    pub(super) fn tick(&self) -> (Duration, Duration) {
        let mut slice = self.slice_nanos();
        if slice >= SHORT
            && let Some((ticker, _)) = &self.host
        {
            ticker.alert();
        }
        if self.ticked.load(Relaxed) == 0 && slice >= SHORT {
            slice = slice.min(TICK.as_nanos() as u64);
            self.before_tick.store(slice, Relaxed);
            self.ticked.store(thread_nanos().max(1), Relaxed);
        }
        (Duration::from_nanos(self.used.load(Relaxed) + slice), Duration::from_nanos(slice))
    }

    /// Time in the current poll by the clock on the wall, in nanoseconds.
    fn wall(&self) -> u64 {
        match self.entered.load(Relaxed) {
            0 => 0,
            entered => nanos().saturating_sub(entered),
        }
    }

    /// Time used in the current poll, in nanoseconds. On the polling thread only.
    fn slice_nanos(&self) -> u64 {
        match self.ticked.load(Relaxed) {
            0 => self.wall(),
            ticked => self.before_tick.load(Relaxed) + thread_nanos().saturating_sub(ticked),
        }
    }

    /// How long the current poll has lasted by the clock on the wall; zero where none runs. For other threads.
    pub(super) fn polled_for(&self) -> Duration {
        Duration::from_nanos(self.wall())
    }

    /// It computed for long since the last reset.
    pub(super) fn set_hog(&self) {
        self.hog.store(true, Relaxed);
    }

    /// Whether it computed for long since the last reset.
    pub(super) fn is_hog(&self) -> bool {
        self.hog.load(Relaxed)
    }

    /// A hog permit was granted; it goes back when the poll ends.
    pub(super) fn hold(&self) {
        self.holding.store(true, Relaxed);
    }

    /// Runs `poll` on the clock.
    pub(super) fn measure<R>(&self, poll: impl FnOnce() -> R) -> R {
        struct Exit<'a>(&'a Meter);
        impl Drop for Exit<'_> {
            fn drop(&mut self) {
                let meter = self.0;
                meter.used.fetch_add(meter.slice_nanos(), Relaxed);
                meter.entered.store(0, Relaxed);
                meter.ticked.store(0, Relaxed);
                if meter.holding.swap(false, Relaxed)
                    && let Some((_, hogs)) = &meter.host
                {
                    hogs.release();
                }
            }
        }
        if let Some((ticker, _)) = &self.host {
            ticker.touch();
        }
        self.charged.store(0, Relaxed);
        self.entered.store(nanos().max(1), Relaxed);
        let _exit = Exit(self);
        poll()
    }
}

pin_project_lite::pin_project! {
    /// A guest's future on the clock.
    pub(super) struct Metered<F> {
        #[pin]
        future: F,
        meter: Arc<Meter>,
    }
}

impl<F> Metered<F> {
    pub(super) fn new(future: F, meter: Arc<Meter>) -> Self {
        Self { future, meter }
    }
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let future = this.future;
        this.meter.measure(|| future.poll(cx))
    }
}
