//! A histogram of times that many threads write to.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper ends of the buckets, seconds.
pub(super) const SECONDS: [f64; 16] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Times by the first of [`SECONDS`] that is not shorter; the last bucket takes the rest.
#[derive(Debug, Default)]
pub(super) struct Times {
    micros: AtomicU64,
    buckets: [AtomicU64; SECONDS.len() + 1],
}

/// Sums of times and buckets.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct TimesSum {
    micros: u64,
    buckets: [u64; SECONDS.len() + 1],
}

impl Times {
    /// Something took this long.
    pub(super) fn observe(&self, time: Duration) {
        self.micros.fetch_add(time.as_micros() as u64, Relaxed);
        let seconds = time.as_secs_f64();
        let bucket = SECONDS.iter().position(|end| seconds <= *end).unwrap_or(SECONDS.len());
        if let Some(count) = self.buckets.get(bucket) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Adds what was observed.
    pub(super) fn add_to(&self, sum: &mut TimesSum) {
        sum.micros = sum.micros.wrapping_add(self.micros.load(Relaxed));
        for (sum, count) in sum.buckets.iter_mut().zip(&self.buckets) {
            *sum = sum.wrapping_add(count.load(Relaxed));
        }
    }

    /// What was observed.
    pub(super) fn sum(&self) -> TimesSum {
        let mut sum = TimesSum::default();
        self.add_to(&mut sum);
        sum
    }
}

impl TimesSum {
    /// All of it, seconds.
    pub(super) fn seconds(&self) -> f64 {
        Duration::from_micros(self.micros).as_secs_f64()
    }

    /// How many.
    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The buckets, each by its upper end.
    pub(super) fn buckets(&self) -> Vec<(f64, u64)> {
        SECONDS.into_iter().chain([f64::INFINITY]).zip(self.buckets).collect()
    }
}
