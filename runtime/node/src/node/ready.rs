//! Whether the node may be sent traffic.

use std::sync::atomic::{AtomicU8, Ordering};

/// Readiness of a node; steers routing, says nothing about health.
#[derive(Debug, Default)]
pub struct Readiness(AtomicU8);

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

impl Readiness {
    /// The functions used lately are open.
    pub fn ready(&self) {
        // A node that drains already does not become ready again.
        let _ = self.0.compare_exchange(STARTING, READY, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The node is going down.
    pub fn draining(&self) {
        self.0.store(DRAINING, Ordering::Relaxed);
    }

    /// Whether it is ready.
    pub fn is_ready(&self) -> bool {
        self.why_not().is_none()
    }

    /// Why it is not ready.
    pub fn why_not(&self) -> Option<&'static str> {
        match self.0.load(Ordering::Relaxed) {
            STARTING => Some("starting: functions used lately are being opened"),
            READY => None,
            _ => Some("draining: the node is going down"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draining_node_never_becomes_ready() {
        let readiness = Readiness::default();
        assert!(readiness.why_not().unwrap().starts_with("starting"));
        readiness.ready();
        assert!(readiness.is_ready());
        readiness.draining();
        readiness.ready();
        assert!(!readiness.is_ready());
    }
}
