//! How long a guest has been on a processor, and the poll that measures it.

use std::{
    pin::Pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::{engine::Ticker, hogs::Hogs};

/// Nanoseconds since the process first asked. Monotonic, for arithmetic in atomics.
pub(super) fn nanos() -> u64 {
    static BASE: LazyLock<Instant> = LazyLock::new(Instant::now);
    BASE.elapsed().as_nanos() as u64
}

/// Counts the time one instance spends inside polls. Written by the thread that polls it, read by anybody.
///
/// It is time on a guest thread, not on the processor's own clock: where the machine is overcommitted it runs fast.
/// Asking the kernel twice a poll would cost more than most requests do.
pub(super) struct Meter {
    used: AtomicU64,
    entered: AtomicU64,
    holding: AtomicBool,
    host: Option<(Arc<Ticker>, Arc<Hogs>)>,
}

impl Meter {
    /// A meter at zero. Without a host it only counts (tests).
    pub(super) fn new(host: Option<(Arc<Ticker>, Arc<Hogs>)>) -> Self {
        Self { used: AtomicU64::new(0), entered: AtomicU64::new(0), holding: AtomicBool::new(false), host }
    }

    /// Counts from zero again: another request, or progress on a shared instance.
    pub(super) fn reset(&self) {
        self.used.store(0, Relaxed);
        if self.entered.load(Relaxed) != 0 {
            self.entered.store(nanos(), Relaxed);
        }
    }

    /// Time used since the last reset, the current poll included.
    pub(super) fn used(&self) -> Duration {
        Duration::from_nanos(self.used.load(Relaxed)) + self.slice()
    }

    /// Time in the current poll.
    pub(super) fn slice(&self) -> Duration {
        match self.entered.load(Relaxed) {
            0 => Duration::ZERO,
            entered => Duration::from_nanos(nanos().saturating_sub(entered)),
        }
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
                let slice = nanos().saturating_sub(meter.entered.swap(0, Relaxed));
                meter.used.fetch_add(slice, Relaxed);
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
