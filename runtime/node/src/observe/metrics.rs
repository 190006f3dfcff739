//! Counters and histograms that Prometheus reads.
//!
//! Labels are configured names only (functions, destinations); whatever has no configured name counts as `other`, so
//! that no caller can make a node hold a series for each URL it invents.

use std::sync::{Arc, atomic::AtomicU64};

use prometheus_client::{
    encoding::text::{encode_eof, encode_registry},
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

use super::{
    cached::CacheMetrics,
    destinations::{ByDestination, DestinationCounts},
    invocations::{ByFunction, Invocations},
    log_queue::LOST,
    otlp::ExportCounts,
};

/// The label of all destinations that are not configured.
pub const OTHER: &str = "other";

/// The first part of every series' name.
const PREFIX: &str = "tidegate";

/// All series of a node.
pub struct Metrics {
    registry: Registry,
    invocations: ByFunction,
    destinations: ByDestination,
    /// Instances alive now.
    pub instances: Gauge,
    /// Instances made.
    pub instances_made: Counter,
    /// Bytes of memory that all guests hold together. Their host counts in it.
    pub guest_memory: Gauge<u64, AtomicU64>,
    /// Bytes that they may hold.
    pub guest_memory_bound: Gauge<u64, AtomicU64>,
    /// Modules compiled.
    pub compiles: Counter,
    /// Outbound connections opened.
    pub connections_opened: Counter,
    /// Outbound connections open now.
    pub connections_open: Gauge,
    /// Stored answers.
    pub cache: CacheMetrics,
    /// Calls that have no line in the log, as there were too many a second.
    pub(super) call_lines_cut: Counter,
    export: Arc<ExportCounts>,
}

impl Metrics {
    /// All series at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let export = ExportCounts::register(&mut registry);
        let mut metrics = Self {
            registry,
            invocations: ByFunction::default(),
            destinations: ByDestination::default(),
            instances: Gauge::default(),
            instances_made: Counter::default(),
            guest_memory: Gauge::default(),
            guest_memory_bound: Gauge::default(),
            compiles: Counter::default(),
            connections_opened: Counter::default(),
            connections_open: Gauge::default(),
            cache: CacheMetrics::default(),
            call_lines_cut: Counter::default(),
            export,
        };
        let registry = &mut metrics.registry;
        registry.register_collector(Box::new(metrics.invocations.clone()));
        registry.register_collector(Box::new(metrics.destinations.clone()));
        registry.register("instances", "Guest instances alive", metrics.instances.clone());
        registry.register("instances_made", "Guest instances made", metrics.instances_made.clone());
        registry.register("guest_memory_bytes", "Memory of all guests together", metrics.guest_memory.clone());
        registry.register(
            "guest_memory_bound_bytes",
            "Memory that all guests together may hold",
            metrics.guest_memory_bound.clone(),
        );
        registry.register("compiles", "Compilations of modules", metrics.compiles.clone());
        registry.register("connections_opened", "Outbound connections opened", metrics.connections_opened.clone());
        registry.register("connections_open", "Outbound connections open", metrics.connections_open.clone());
        metrics.cache.register(registry);
        let help = "Calls without a line in the log: there were more a second than call_log_rate";
        registry.register("call_lines_cut", help, metrics.call_lines_cut.clone());
        let help = "Lines of the log that were lost: more waited to be written than log_queue_bytes";
        registry.register("log_lines_lost", help, LOST.clone());
        // Most series are there from the start, at zero: rates of what comes later begin with the first.
        metrics.destinations.of(OTHER);
        metrics
    }

    /// The counts of a function's invocations.
    pub fn of_function(&self, function: &str) -> Arc<Invocations> {
        self.invocations.of(function)
    }

    /// The counts of the calls to a destination.
    pub fn of_destination(&self, destination: &str) -> Arc<DestinationCounts> {
        self.destinations.of(destination)
    }

    /// The counts of trails for a collector.
    pub(super) fn export_counts(&self) -> Arc<ExportCounts> {
        Arc::clone(&self.export)
    }

    /// Forgets the series of a function that is gone.
    pub fn forget_function(&self, function: &str) {
        self.invocations.forget(function);
    }

    /// Forgets the series of a destination that is gone.
    pub fn forget_destination(&self, destination: &str) {
        self.destinations.forget(destination);
    }

    /// The exposition text (OpenMetrics).
    pub fn render(&self) -> String {
        self.render_with(|_| {})
    }

    /// The same with series that are worked out only now.
    pub fn render_with(&self, more: impl FnOnce(&mut Registry)) -> String {
        let mut registry = Registry::with_prefix(PREFIX);
        more(&mut registry);
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = encode_registry(&mut text, &self.registry);
        let _ = encode_registry(&mut text, &registry);
        let _ = encode_eof(&mut text);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
