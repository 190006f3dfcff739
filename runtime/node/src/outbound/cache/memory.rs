//! One account for the bodies of answers: those that are stored, those on their way, and those that slow clients still
//! read, be they stored or not any more. A body is in it once, however many read it, and leaves with the last of them.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;

/// Memory of all bodies.
#[derive(Debug)]
pub(crate) struct Memory {
    used: Gauge<u64, AtomicU64>,
    bound: u64,
}

impl Memory {
    /// So many bytes (setting `cache_memory`); `used` shows what of them is taken.
    pub(super) fn new(bound: u64, used: Gauge<u64, AtomicU64>) -> Arc<Self> {
        Arc::new(Self { used, bound })
    }

    /// Nothing of it yet.
    pub(super) fn part(self: &Arc<Self>) -> Taken {
        Taken { memory: Arc::clone(self), bytes: 0 }
    }

    fn take(&self, bytes: u64) -> bool {
        let taken = self.used.inner().fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= self.bound)
        });
        taken.is_ok()
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> u64 {
        self.used.get()
    }
}

/// A part of the memory, until it is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    memory: Arc<Memory>,
    bytes: u64,
}

impl Taken {
    /// Makes it so large at least; false where there is no room.
    pub(super) fn grow(&mut self, bytes: u64) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 && !self.memory.take(more) {
            return false;
        }
        self.bytes += more;
        true
    }

    /// Makes it so large at most.
    pub(super) fn shrink(&mut self, bytes: u64) {
        let less = self.bytes.saturating_sub(bytes);
        self.memory.used.dec_by(less);
        self.bytes -= less;
    }

    /// Gives so much of it back.
    pub(super) fn give_back(&mut self, bytes: u64) {
        self.shrink(self.bytes.saturating_sub(bytes));
    }

    /// The same part, and nothing left here.
    pub(super) fn hand_on(&mut self) -> Self {
        Self { memory: Arc::clone(&self.memory), bytes: std::mem::take(&mut self.bytes) }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.memory.used.dec_by(self.bytes);
    }
}

/// The body of a stored answer. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoredBody {
    bytes: Bytes,
    taken: OnceLock<Arc<Taken>>,
}

impl StoredBody {
    /// One that is in no account yet, as it comes from a file.
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { bytes, taken: OnceLock::new() }
    }

    /// One that is in the account.
    pub(super) fn of(bytes: Bytes, mut taken: Taken) -> Self {
        taken.shrink(bytes.len() as u64);
        Self { bytes, taken: OnceLock::from(Arc::new(taken)) }
    }

    /// Puts it into the account, unless it is there; false where there is no room.
    pub(super) fn hold(&self, memory: &Arc<Memory>) -> bool {
        if self.taken.get().is_some() {
            return true;
        }
        let mut taken = memory.part();
        let fits = taken.grow(self.bytes.len() as u64);
        // Somebody else may have been first; then this goes again.
        fits && (self.taken.set(Arc::new(taken)).is_ok() || self.taken.get().is_some())
    }

    /// Its length, bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Its bytes, to be looked at.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its bytes, for a client: no copy, and in the account until the last client has read them.
    pub(crate) fn read(&self) -> Bytes {
        struct Read {
            bytes: Bytes,
            _taken: Arc<Taken>,
        }
        impl AsRef<[u8]> for Read {
            fn as_ref(&self) -> &[u8] {
                &self.bytes
            }
        }
        match self.taken.get() {
            Some(taken) => Bytes::from_owner(Read { bytes: self.bytes.clone(), _taken: Arc::clone(taken) }),
            None => self.bytes.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(bound: u64) -> Arc<Memory> {
        Memory::new(bound, Gauge::default())
    }

    #[test]
    fn what_is_taken_is_within_the_bound_and_comes_back() {
        let memory = memory(100);
        let (mut one, mut two) = (memory.part(), memory.part());
        assert!(one.grow(60) && one.grow(50), "it is large enough");
        assert_eq!(memory.used(), 60);
        assert!(!two.grow(41) && two.grow(40));
        one.give_back(10);
        assert_eq!(memory.used(), 90);
        one.give_back(1_000);
        assert_eq!(memory.used(), 40);
        let handed = two.hand_on();
        drop(two);
        assert_eq!(memory.used(), 40);
        drop(handed);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_body_counts_once_and_until_its_last_reader_is_done() {
        let memory = memory(10);
        let body = StoredBody::new("12345678".into());
        assert!(body.hold(&memory) && body.hold(&memory) && body.clone().hold(&memory));
        assert_eq!(memory.used(), 8);
        let (one, two) = (body.read(), body.read());
        assert!(!StoredBody::new("123".into()).hold(&memory));
        drop(body);
        drop(one);
        assert_eq!((memory.used(), &two[..]), (8, &b"12345678"[..]), "it is stored no more, but read");
        let part = two.slice(3..);
        drop(two);
        assert_eq!(memory.used(), 8);
        drop(part);
        assert_eq!(memory.used(), 0);
    }
}
