//! How long an invocation has waited at the gate, so that its wall time does not count it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// A stopwatch that runs while at least one call of an invocation waits at the gate.
#[derive(Debug, Default)]
pub struct WaitClock(Mutex<Waits>);

#[derive(Debug, Default)]
struct Waits {
    calls: u32,
    since: Option<Instant>,
    total: Duration,
}

impl WaitClock {
    /// Counts from now until the guard is dropped.
    pub fn wait(self: &Arc<Self>) -> WaitGuard {
        let mut waits = self.0.lock();
        waits.calls += 1;
        if waits.calls == 1 {
            waits.since = Some(Instant::now());
        }
        WaitGuard(Arc::clone(self))
    }

    /// Time waited so far.
    pub fn total(&self) -> Duration {
        let waits = self.0.lock();
        waits.total + waits.since.map(|since| since.elapsed()).unwrap_or_default()
    }

    /// Whether a call waits right now.
    pub fn is_waiting(&self) -> bool {
        self.0.lock().calls > 0
    }
}

/// Stops the clock's count for one call when dropped.
#[derive(Debug)]
pub struct WaitGuard(Arc<WaitClock>);

impl Drop for WaitGuard {
    fn drop(&mut self) {
        let mut waits = self.0.0.lock();
        waits.calls -= 1;
        if waits.calls == 0 {
            let waited = waits.since.take().map(|since| since.elapsed()).unwrap_or_default();
            waits.total += waited;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_calls_that_wait_at_once_count_once() {
        let clock = Arc::new(WaitClock::default());
        let (first, second) = (clock.wait(), clock.wait());
        drop(first);
        assert!(clock.is_waiting());
        drop(second);
        assert!(!clock.is_waiting());
        let total = clock.total();
        assert_eq!(total, clock.total(), "the clock stands still when nothing waits");
    }
}
