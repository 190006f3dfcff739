//! What is kept of a request: its trail, and the counts of its function.

use http::StatusCode;

use super::opener::{OUTCOMES, Running};
use crate::observe::{Ending, Observe, Trail};

/// Sees to it that a request is recorded once, however it ends: dropped without an answer, nobody waited for one.
pub(super) struct Record<'a> {
    trail: &'a Trail,
    observe: &'a Observe,
    function: Option<&'a Running>,
    ended: bool,
}

impl<'a> Record<'a> {
    /// Of an invocation of the function, or of a call through the gate.
    pub(super) fn new(trail: &'a Trail, observe: &'a Observe, function: Option<&'a Running>) -> Self {
        Self { trail, observe, function, ended: false }
    }

    /// It was answered.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.ended = true;
        self.count(usize::from((status.as_u16() / 100).clamp(2, 5) - 2));
        if self.function.is_some() {
            self.observe.metrics.invocation_seconds.observe(self.trail.began().elapsed().as_secs_f64());
        }
        self.observe.trails.finish(self.trail, Ending::Status(status.as_u16()));
    }

    fn count(&self, outcome: usize) {
        if let Some(counter) = self.function.and_then(|function| function.outcomes.get(outcome)) {
            counter.inc();
        }
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.count(OUTCOMES.len() - 1);
            self.observe.trails.finish(self.trail, Ending::Cancelled);
        }
    }
}
