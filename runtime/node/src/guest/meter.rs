//! How long a guest has been on a processor, and the poll that measures it.

use std::{
    cell::Cell,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use tidegate_core::{
    Time,
    manners::{Manners, OVERSTAY, Threads},
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
pub(super) fn thread_nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

thread_local! {
    /// When this thread's time on a processor was last read, in [`nanos`], and what it was.
    static READ: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// This thread's time on a processor, read now.
fn read(now: u64) -> u64 {
    let time = thread_nanos();
    READ.set((now, time));
    time
}

/// The same, or what it was up to a tick ago: reading it costs a system call.
fn read_lately(now: u64) -> u64 {
    let (at, time) = READ.get();
    if at == 0 || now.saturating_sub(at) > TICK.as_nanos() as u64 { read(now) } else { time }
}

/// What the host knows of a deployment's way to compute, and whom it asks about it.
pub(super) struct Overseer {
    ticker: Arc<Ticker>,
    pub(super) hogs: Arc<Hogs>,
    /// [`Manners`].
    manners: AtomicU64,
}

impl Overseer {
    pub(super) fn new(ticker: Arc<Ticker>, hogs: Arc<Hogs>) -> Arc<Self> {
        Arc::new(Self { ticker, hogs, manners: AtomicU64::new(Manners::NEW.to_nanos()) })
    }

    fn manners(&self) -> Manners {
        Manners::from_nanos(self.manners.load(Relaxed))
    }

    /// A guest was on its thread for so long, and answered a request or not.
    fn left(&self, stretch: Duration, done: bool) {
        let change: fn(Manners, Duration, Time) -> Manners = if stretch > OVERSTAY {
            Manners::after
        } else if done && self.manners().is_new() {
            |manners, _, _| manners.known()
        } else {
            return;
        };
        let now = Time::from_nanos(nanos());
        let changed = |manners| Some(change(Manners::from_nanos(manners), stretch, now).to_nanos());
        let _ = self.manners.fetch_update(Relaxed, Relaxed, changed);
    }

    fn threads(&self) -> Threads {
        let manners = self.manners();
        if manners.is_trusted() { Threads::Shared } else { manners.threads(Time::from_nanos(nanos())) }
    }
}

/// Counts the time one instance spends computing. Written by the thread that polls it, read by anybody.
///
/// Short polls are measured by the clock on the wall, as asking the kernel twice a poll would cost more than many polls
/// do. For one that is no longer short the thread's own processor time is asked: where the machine is crowded, a guest
/// must not pay for the time it was not let run. It counts from when it was last read, a tick before the poll at most.
pub(super) struct Meter {
    used: AtomicU64,
    entered: AtomicU64,
    /// Processor time of the thread when the poll began, or a little before.
    before: AtomicU64,
    /// The epoch moved in this poll, and it was no longer short.
    ticked: AtomicBool,
    /// Time of this poll that an invocation was charged with.
    charged: AtomicU64,
    holding: AtomicBool,
    /// It computed for so long that it goes on among the hogs.
    hog: AtomicBool,
    /// A request was answered or ended in this poll.
    done: AtomicBool,
    overseer: Option<Arc<Overseer>>,
}

impl Meter {
    /// A meter at zero. Without an overseer it only counts (tests).
    pub(super) fn new(overseer: Option<Arc<Overseer>>) -> Self {
        Self {
            used: AtomicU64::new(0),
            entered: AtomicU64::new(0),
            before: AtomicU64::new(0),
            ticked: AtomicBool::new(false),
            charged: AtomicU64::new(0),
            holding: AtomicBool::new(false),
            hog: AtomicBool::new(false),
            done: AtomicBool::new(false),
            overseer,
        }
    }

    /// Counts from zero again: another request, or progress on a shared instance.
    pub(super) fn reset(&self) {
        self.used.store(0, Relaxed);
        self.hog.store(false, Relaxed);
        // A poll that saw no epoch move is a tick old at most: too little to look at the clock for.
        if self.entered.load(Relaxed) != 0 && self.ticked.load(Relaxed) {
            let now = nanos().max(1);
            self.ticked.store(false, Relaxed);
            self.charged.store(0, Relaxed);
            self.entered.store(now, Relaxed);
            self.before.store(read(now), Relaxed);
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
        let slice = self.slice_nanos();
        if slice >= SHORT {
            self.ticked.store(true, Relaxed);
            if let Some(overseer) = &self.overseer {
                overseer.ticker.alert();
            }
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
        let wall = self.wall();
        if wall < SHORT {
            return wall;
        }
        wall.min(read(self.entered.load(Relaxed) + wall).saturating_sub(self.before.load(Relaxed)))
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

    /// Where its work runs now.
    pub(super) fn threads(&self) -> Threads {
        if self.is_hog() {
            return Threads::Hogs;
        }
        self.overseer.as_ref().map_or(Threads::Shared, |overseer| overseer.threads())
    }

    /// A request was answered, or ended without.
    pub(super) fn set_done(&self) {
        self.done.store(true, Relaxed);
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
                let slice = meter.slice_nanos();
                meter.used.fetch_add(slice, Relaxed);
                meter.entered.store(0, Relaxed);
                meter.ticked.store(false, Relaxed);
                let held = meter.holding.swap(false, Relaxed);
                let Some(overseer) = &meter.overseer else { return };
                let done = meter.done.load(Relaxed);
                if done {
                    meter.done.store(false, Relaxed);
                }
                overseer.left(Duration::from_nanos(slice), done);
                if held {
                    overseer.hogs.release();
                }
            }
        }
        if let Some(overseer) = &self.overseer {
            overseer.ticker.touch();
        }
        let now = nanos().max(1);
        self.charged.store(0, Relaxed);
        self.entered.store(now, Relaxed);
        self.before.store(read_lately(now), Relaxed);
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
