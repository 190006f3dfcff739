//! The memory that kept request bodies share.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Memory for kept bodies of all calls together (setting `replay_memory`).
#[derive(Debug)]
pub(crate) struct ReplayMemory {
    used: AtomicU64,
    bound: u64,
}

impl ReplayMemory {
    /// At most this many bytes.
    pub(crate) fn new(bound: u64) -> Arc<Self> {
        Arc::new(Self { used: AtomicU64::new(0), bound })
    }

    /// An empty share.
    pub(super) fn reserve(self: &Arc<Self>) -> Reservation {
        Reservation { memory: Arc::clone(self), bytes: 0 }
    }

    /// Bytes in use.
    #[cfg(test)]
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// A share of the replay memory, given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    memory: Arc<ReplayMemory>,
    bytes: u64,
}

impl Reservation {
    /// Takes more; false where there is no more.
    pub(super) fn grow(&mut self, bytes: u64) -> bool {
        let bound = self.memory.bound;
        let grown = self.memory.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= bound)
        });
        if grown.is_ok() {
            self.bytes += bytes;
        }
        grown.is_ok()
    }

    /// Gives some back.
    pub(super) fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.memory.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Gives all back.
    pub(super) fn clear(&mut self) {
        self.shrink(self.bytes);
    }

    /// Hands the share over.
    pub(super) fn take(&mut self) -> Self {
        let empty = self.memory.reserve();
        std::mem::replace(self, empty)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.clear();
    }
}
