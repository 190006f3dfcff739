//! Counters and histograms, in the text form Prometheus reads.
//!
//! Labels are configured names only (functions, destinations); whatever has no configured name counts as `other`, so
//! that no caller can make a node hold a series for each URL it invents.

use std::sync::{Arc, atomic::AtomicU64};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tidegate_core::repeat::Class;

use super::{
    cached::CacheMetrics,
    invocations::{ByFunction, Invocations},
};

/// Labels of a destination's series.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DestinationLabels {
    /// Configured name, or `other`.
    pub destination: String,
    /// Class of the outcome.
    pub outcome: &'static str,
}

/// Label of a destination's series that have no outcome.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DestinationLabel {
    /// Configured name, or `other`.
    pub destination: String,
}

/// Label of attempts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// What attempts came to, as the core tells it apart.
const CLASSES: [(Class, &str); 5] = [
    (Class::Accepted, "accepted"),
    (Class::Refused, "refused"),
    (Class::Denied, "denied"),
    (Class::Down, "down"),
    (Class::Faulty, "faulty"),
];

/// All series of a node.
pub struct Metrics {
    registry: Registry,
    invocations: ByFunction,
    /// Instances alive now.
    pub instances: Gauge,
    /// Instances made.
    pub instances_made: Counter,
    /// Bytes of memory that all guests hold together. Their host counts in it.
    pub guest_memory: Gauge<u64, AtomicU64>,
    /// Bytes that they may hold.
    pub guest_memory_bound: Gauge<u64, AtomicU64>,
    /// Outbound calls by destination and outcome.
    pub calls: Family<DestinationLabels, Counter>,
    /// Attempts that left the node.
    pub attempts: Counter,
    /// What they came to, in the order of [`CLASSES`].
    attempt_outcomes: [Counter; CLASSES.len()],
    /// Calls that wait now, by destination.
    pub queued_calls: Family<DestinationLabel, Gauge>,
    /// Modules compiled.
    pub compiles: Counter,
    /// Seconds calls waited at the gate.
    pub wait_seconds: Histogram,
    /// Outbound connections opened.
    pub connections_opened: Counter,
    /// Outbound connections open now.
    pub connections_open: Gauge,
    /// Stored answers.
    pub cache: CacheMetrics,
}

/// Upper ends of the buckets of times, seconds.
pub(super) const SECONDS: [f64; 16] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

impl Metrics {
    /// All series at zero.
    pub fn new() -> Self {
        let outcomes = Family::<OutcomeLabel, Counter>::default();
        let mut metrics = Self {
            registry: Registry::with_prefix("tidegate"),
            invocations: ByFunction::default(),
            instances: Gauge::default(),
            instances_made: Counter::default(),
            guest_memory: Gauge::default(),
            guest_memory_bound: Gauge::default(),
            calls: Family::default(),
            attempts: Counter::default(),
            attempt_outcomes: CLASSES.map(|(_, outcome)| outcomes.get_or_create(&OutcomeLabel { outcome }).clone()),
            queued_calls: Family::default(),
            compiles: Counter::default(),
            wait_seconds: Histogram::new(SECONDS),
            connections_opened: Counter::default(),
            connections_open: Gauge::default(),
            cache: CacheMetrics::default(),
        };
        let registry = &mut metrics.registry;
        registry.register_collector(Box::new(metrics.invocations.clone()));
        registry.register("instances", "Guest instances alive", metrics.instances.clone());
        registry.register("instances_made", "Guest instances made", metrics.instances_made.clone());
        registry.register("guest_memory_bytes", "Memory of all guests together", metrics.guest_memory.clone());
        registry.register(
            "guest_memory_bound_bytes",
            "Memory that all guests together may hold",
            metrics.guest_memory_bound.clone(),
        );
        registry.register("calls", "Outbound calls by destination and outcome", metrics.calls.clone());
        registry.register("attempts", "Outbound attempts that left the node", metrics.attempts.clone());
        registry.register("attempt_outcomes", "What outbound attempts came to", outcomes);
        registry.register("queued_calls", "Outbound calls that wait, by destination", metrics.queued_calls.clone());
        registry.register("compiles", "Compilations of modules", metrics.compiles.clone());
        registry.register("wait_seconds", "Seconds outbound calls waited at the gate", metrics.wait_seconds.clone());
        registry.register("connections_opened", "Outbound connections opened", metrics.connections_opened.clone());
        registry.register("connections_open", "Outbound connections open", metrics.connections_open.clone());
        metrics.cache.register(registry);
        metrics
    }

    /// The counts of a function's invocations.
    pub fn of_function(&self, function: &str) -> Arc<Invocations> {
        self.invocations.of(function)
    }

    /// The gauge of a destination's calls that wait.
    pub fn of_queue(&self, destination: String) -> Gauge {
        self.queued_calls.get_or_create(&DestinationLabel { destination }).clone()
    }

    /// Counts what an attempt came to.
    pub fn attempt_came(&self, class: Class) {
        let index = CLASSES.iter().position(|(known, _)| *known == class);
        if let Some(counter) = index.and_then(|index| self.attempt_outcomes.get(index)) {
            counter.inc();
        }
    }

    /// Forgets the series of a function that is gone.
    pub fn forget_function(&self, function: &str) {
        self.invocations.forget(function);
    }

    /// Forgets the series of a destination that is gone.
    pub fn forget_destination(&self, destination: &str, outcomes: &[&'static str]) {
        self.queued_calls.remove(&DestinationLabel { destination: destination.to_owned() });
        self.cache.forget(destination);
        for outcome in outcomes {
            self.calls.remove(&DestinationLabels { destination: destination.to_owned(), outcome });
        }
    }

    /// The exposition text (OpenMetrics).
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
