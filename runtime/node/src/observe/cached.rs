//! What the stored answers of destinations come to.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

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

/// How often the cache did what.
#[derive(Debug, Default)]
pub struct CachedCounts([AtomicU64; Cached::ALL.len()]);

impl CachedCounts {
    /// The cache did this for a call.
    pub fn count(&self, how: Cached) {
        if let Some(count) = self.0.get(how as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// In the order of [`Cached::ALL`].
    pub fn all(&self) -> [u64; Cached::ALL.len()] {
        self.0.each_ref().map(|count| count.load(Relaxed))
    }
}

/// The series. Clones count the same.
#[derive(Clone, Debug, Default)]
pub struct CacheMetrics {
    /// Bytes of bodies that were stored so far.
    pub stored_bytes: Counter,
    /// Memory of what is stored.
    pub memory_bytes: Gauge<u64, AtomicU64>,
    /// Memory of all bodies: stored, on their way into the cache, or read yet by slow clients.
    pub held_bytes: Gauge<u64, AtomicU64>,
    /// Answers that were not stored, or not read from the files, as there was no memory for them.
    pub unstored: Counter,
    /// What failed in the files of stored answers.
    pub errors: Counter,
}

impl CacheMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("cache_stored_bytes", "Bytes of bodies that were stored", self.stored_bytes.clone());
        registry.register("cache_memory_bytes", "Memory of stored answers", self.memory_bytes.clone());
        let help = "Memory of bodies that are stored, on their way into the cache, or read yet by slow clients";
        registry.register("cache_held_bytes", help, self.held_bytes.clone());
        let help = "Answers not stored, or not read from the files, for want of memory (setting cache_memory)";
        registry.register("cache_unstored", help, self.unstored.clone());
        registry.register("cache_errors", "Failures of the files of stored answers", self.errors.clone());
    }
}
