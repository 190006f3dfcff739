//! What is counted of each function's invocations.
//!
//! Every request counts three or four times, on whatever thread serves it. Each thread has its own counts, and only who
//! reads the metrics adds them up.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    thread::available_parallelism,
    time::Duration,
};

use http::StatusCode;
use parking_lot::RwLock;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};
use serde::Serialize;

use super::times::{Times, TimesSum};
use crate::threads;

/// The outcomes that invocations are counted by; nobody waited for an answer of the last.
const OUTCOMES: [&str; 5] = ["2xx", "3xx", "4xx", "5xx", "cancelled"];
/// Of them, the one of failures.
const FAILED: usize = 3;
/// Threads with counts of their own.
const MOST_STRIPES: usize = 16;

/// How an invocation came out.
#[derive(Clone, Copy, Debug)]
pub struct Outcome(usize);

impl Outcome {
    /// Nobody waited for an answer.
    pub const CANCELLED: Self = Self(OUTCOMES.len() - 1);

    /// An answer with this status.
    pub fn of(status: StatusCode) -> Self {
        Self(usize::from((status.as_u16() / 100).clamp(2, 5) - 2))
    }
}

/// The counts of one function.
#[derive(Debug)]
pub struct Invocations {
    stripes: Box<[Stripe]>,
}

/// Those of one thread, on cache lines that are nobody else's.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe {
    outcomes: [AtomicU64; OUTCOMES.len()],
    /// What one thread begins another may end.
    in_flight: AtomicI64,
    /// What one thread makes another may end.
    instances: AtomicI64,
    times: Times,
}

impl Default for Invocations {
    fn default() -> Self {
        let threads = available_parallelism().map_or(1, usize::from).min(MOST_STRIPES);
        Self { stripes: (0..threads).map(|_| Stripe::default()).collect() }
    }
}

impl Invocations {
    fn stripe(&self) -> Option<&Stripe> {
        threads::own(&self.stripes)
    }

    fn sum(&self, of: impl Fn(&Stripe) -> u64) -> u64 {
        self.stripes.iter().map(of).fold(0, u64::wrapping_add)
    }

    /// One began.
    pub fn begin(&self) {
        if let Some(stripe) = self.stripe() {
            stripe.in_flight.fetch_add(1, Relaxed);
        }
    }

    /// One that began has ended.
    pub fn end(&self) {
        if let Some(stripe) = self.stripe() {
            stripe.in_flight.fetch_sub(1, Relaxed);
        }
    }

    /// One came out so.
    pub fn count(&self, Outcome(outcome): Outcome) {
        if let Some(count) = self.stripe().and_then(|stripe| stripe.outcomes.get(outcome)) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// The head of an answer took this long.
    pub fn took(&self, time: Duration) {
        if let Some(stripe) = self.stripe() {
            stripe.times.observe(time);
        }
    }

    /// An instance was made.
    pub fn made(&self) {
        if let Some(stripe) = self.stripe() {
            stripe.instances.fetch_add(1, Relaxed);
        }
    }

    /// One that was made is gone.
    pub fn gone(&self) {
        if let Some(stripe) = self.stripe() {
            stripe.instances.fetch_sub(1, Relaxed);
        }
    }

    fn instances(&self) -> i64 {
        self.stripes.iter().map(|stripe| stripe.instances.load(Relaxed)).sum()
    }

    /// All of them added up.
    pub fn summed(&self) -> InvocationsSum {
        let of = |index: usize| self.sum(|stripe| stripe.outcomes.get(index).map_or(0, |count| count.load(Relaxed)));
        let times = self.times();
        InvocationsSum {
            invocations: (0..OUTCOMES.len()).map(of).sum(),
            failed: of(FAILED),
            answered: times.count(),
            seconds: times.seconds(),
            in_flight: self.in_flight(),
            instances: self.instances(),
        }
    }

    fn in_flight(&self) -> i64 {
        self.stripes.iter().map(|stripe| stripe.in_flight.load(Relaxed)).sum()
    }

    fn times(&self) -> TimesSum {
        let mut sum = TimesSum::default();
        self.stripes.iter().for_each(|stripe| stripe.times.add_to(&mut sum));
        sum
    }
}

/// The counts of one function, of all threads.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct InvocationsSum {
    /// Invocations that came out somehow.
    pub invocations: u64,
    /// Of them, with 500 or more.
    pub failed: u64,
    /// Of them, with a head of an answer.
    pub answered: u64,
    /// To those heads, in all.
    pub seconds: f64,
    /// Those whose answers have not ended.
    pub in_flight: i64,
    /// Instances alive.
    pub instances: i64,
}

/// The counts of all functions.
#[derive(Clone, Default)]
pub(super) struct ByFunction(Arc<RwLock<BTreeMap<String, Arc<Invocations>>>>);

impl ByFunction {
    /// Those of one; it has some from now on.
    pub(super) fn of(&self, function: &str) -> Arc<Invocations> {
        if let Some(known) = self.0.read().get(function) {
            return Arc::clone(known);
        }
        Arc::clone(self.0.write().entry(function.to_owned()).or_default())
    }

    /// Forgets those of a function that is gone.
    pub(super) fn forget(&self, function: &str) {
        self.0.write().remove(function);
    }
}

impl fmt::Debug for ByFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.read().keys()).finish()
    }
}

impl Collector for ByFunction {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let functions = self.0.read();
        let help = "Invocations by function and outcome";
        let mut series = encoder.encode_descriptor("invocations", help, None, MetricType::Counter)?;
        for (function, counts) in &*functions {
            for (index, outcome) in OUTCOMES.into_iter().enumerate() {
                let count = counts.sum(|stripe| stripe.outcomes.get(index).map_or(0, |count| count.load(Relaxed)));
                let labels = [("function", function.as_str()), ("outcome", outcome)];
                series.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        let help = "Seconds from an invocation's arrival to the head of its answer, by function";
        let mut series = encoder.encode_descriptor("invocation_seconds", help, None, MetricType::Histogram)?;
        for (function, counts) in &*functions {
            let sum = counts.times();
            let labels = [("function", function.as_str())];
            let mut family = series.encode_family(&labels)?;
            family.encode_histogram::<NoLabelSet>(sum.seconds(), sum.count(), &sum.buckets(), None)?;
        }
        let help = "Invocations whose answers have not ended, by function";
        let mut series = encoder.encode_descriptor("invocations_in_flight", help, None, MetricType::Gauge)?;
        for (function, counts) in &*functions {
            series.encode_family(&[("function", function.as_str())])?.encode_gauge(&counts.in_flight())?;
        }
        let help = "Guest instances alive, by function";
        let mut series = encoder.encode_descriptor("function_instances", help, None, MetricType::Gauge)?;
        for (function, counts) in &*functions {
            series.encode_family(&[("function", function.as_str())])?.encode_gauge(&counts.instances())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text::encode, registry::Registry};

    use super::*;

    #[test]
    fn what_threads_count_is_added_up() {
        let functions = ByFunction::default();
        let counts = functions.of("hello");
        std::thread::scope(|scope| {
            for millis in [1, 3, 40, 90_000] {
                let counts = &counts;
                scope.spawn(move || {
                    counts.begin();
                    counts.count(Outcome::of(StatusCode::CREATED));
                    counts.took(Duration::from_millis(millis));
                });
            }
        });
        // Another thread than the one that began it.
        counts.end();
        counts.count(Outcome::CANCELLED);
        (0..3).for_each(|_| counts.made());
        counts.gone();
        let mut registry = Registry::with_prefix("tidegate");
        registry.register_collector(Box::new(functions.clone()));
        let text = || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text
        };
        for line in [
            "# TYPE tidegate_invocations counter",
            "tidegate_invocations_total{function=\"hello\",outcome=\"2xx\"} 4",
            "tidegate_invocations_total{function=\"hello\",outcome=\"5xx\"} 0",
            "tidegate_invocations_total{function=\"hello\",outcome=\"cancelled\"} 1",
            "tidegate_invocation_seconds_sum{function=\"hello\"} 90.044",
            "tidegate_invocation_seconds_count{function=\"hello\"} 4",
            "tidegate_invocation_seconds_bucket{le=\"0.001\",function=\"hello\"} 1",
            "tidegate_invocation_seconds_bucket{le=\"0.05\",function=\"hello\"} 3",
            "tidegate_invocation_seconds_bucket{le=\"60.0\",function=\"hello\"} 3",
            "tidegate_invocation_seconds_bucket{le=\"+Inf\",function=\"hello\"} 4",
            "tidegate_invocations_in_flight{function=\"hello\"} 3",
            "tidegate_function_instances{function=\"hello\"} 2",
        ] {
            assert!(text().lines().any(|known| known == line), "{line}\n{}", text());
        }
        functions.forget("hello");
        assert!(!text().contains("hello"));
    }
}
