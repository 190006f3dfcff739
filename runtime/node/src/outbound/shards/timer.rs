//! One thread that drives the timers of all shards.
//!
//! A thread of its own, because departures are paced to a fraction of a millisecond, and a runtime whose workers run
//! guests or compile can be late by many of them.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use tidegate_core::Time;

use super::{Shards, clock};

/// Longest sleep: after it the thread looks whether the shards still exist.
const LOOK: Duration = Duration::from_secs(1);

/// When the thread wakes next, and how to make it wake earlier.
pub(super) struct Timer {
    /// What the thread sleeps until, nanoseconds; a hint that saves the lock.
    target: AtomicU64,
    earliest: Mutex<Time>,
    changed: Condvar,
}

impl Default for Timer {
    fn default() -> Self {
        Self { target: AtomicU64::new(0), earliest: Mutex::new(Time::ZERO), changed: Condvar::new() }
    }
}

impl Timer {
    /// Makes sure that the thread is awake at `at`.
    pub(super) fn arm(&self, at: Time) {
        if at.as_nanos() >= self.target.load(Ordering::Acquire) {
            return;
        }
        let mut earliest = self.earliest.lock();
        if at < *earliest {
            *earliest = at;
            self.target.store(at.as_nanos(), Ordering::Release);
            self.changed.notify_one();
        }
    }

    /// Sleeps until the earliest time is due, at most until `limit`.
    fn sleep(&self, limit: Time) {
        let mut earliest = self.earliest.lock();
        loop {
            let now = clock::now();
            let until = (*earliest).min(limit);
            if until <= now {
                break;
            }
            self.changed.wait_for(&mut earliest, until.since(now));
        }
        // What is armed from here on is later than the look at the shards that follows, or seen by it.
        *earliest = Time::NEVER;
        self.target.store(Time::NEVER.as_nanos(), Ordering::Release);
    }
}

/// Starts the thread. It ends when the shards are gone.
pub(super) fn spawn(shards: &Arc<Shards>) -> std::io::Result<()> {
    let shards = Arc::downgrade(shards);
    std::thread::Builder::new().name("tidegate-timers".into()).spawn(move || run(&shards)).map(drop)
}

fn run(shards: &Weak<Shards>) {
    while let Some(shards) = shards.upgrade() {
        if let Some(next) = shards.tick() {
            shards.timer.arm(next);
        }
        shards.timer.sleep(clock::now() + LOOK);
    }
}
