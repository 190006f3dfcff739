//! What the stored answers of destinations come to.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::metrics::DestinationLabels;

/// What the cache did for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    /// A stored answer, fresh.
    Hit,
    /// A stored answer, stale.
    Stale,
    /// A stored answer that the upstream was asked about.
    Revalidated,
    /// What an equal call fetched.
    Collapsed,
    /// Nothing: the call went to the upstream.
    Miss,
    /// Nothing: calls of its kind go by.
    Bypass,
}

impl Cached {
    /// All of them, in their order.
    pub const ALL: [&str; 6] = ["hit", "stale", "revalidated", "collapsed", "miss", "bypass"];
}

/// The series. Clones count the same.
#[derive(Clone, Debug, Default)]
pub struct CacheMetrics {
    /// Calls to destinations that store answers, by destination and what came of it.
    pub answers: Family<DestinationLabels, Counter>,
    /// Bytes of bodies that were stored so far.
    pub stored_bytes: Counter,
    /// Memory of what is stored.
    pub memory_bytes: Gauge<u64, AtomicU64>,
    /// What failed in the files of stored answers.
    pub errors: Counter,
}

impl CacheMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let calls = "Calls to destinations that store answers, by destination and outcome";
        registry.register("cache_answers", calls, self.answers.clone());
        registry.register("cache_stored_bytes", "Bytes of bodies that were stored", self.stored_bytes.clone());
        registry.register("cache_memory_bytes", "Memory of stored answers", self.memory_bytes.clone());
        registry.register("cache_errors", "Failures of the files of stored answers", self.errors.clone());
    }

    /// The counter of a destination's calls with an outcome of [`Cached::ALL`].
    pub fn of(&self, destination: String, outcome: Cached) -> Counter {
        let outcome = Cached::ALL.get(outcome as usize).copied().unwrap_or_default();
        self.answers.get_or_create(&DestinationLabels { destination, outcome }).clone()
    }

    /// Forgets the series of a destination.
    pub(super) fn forget(&self, destination: &str) {
        for outcome in Cached::ALL {
            self.answers.remove(&DestinationLabels { destination: destination.to_owned(), outcome });
        }
    }
}
