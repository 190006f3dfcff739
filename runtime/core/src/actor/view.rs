//! An actor as people see it.

use super::Actor;
use crate::{
    budgets,
    endpoint::Ways,
    limit::Cost,
    pace::Units,
    queue::Queue,
    refusal::Cause,
    snapshot::{Endpoint, Snapshot},
    time::Time,
};
use std::time::Duration;

impl Actor {
    /// What is left of a pause, and why.
    pub(crate) fn pause(&self, now: Time) -> Option<(Duration, Cause)> {
        self.endpoints.paused_until(Ways::ANY, true, now).map(|(until, cause)| (until.since(now), cause))
    }

    /// Whether calls wait for the end of a pause, be it an operator's.
    pub(crate) fn holds_all(&self, now: Time) -> bool {
        self.config.brake.paused(now).is_some() || self.pause(now).is_some()
    }

    pub(crate) fn endpoint_state(&self, now: Time) -> Vec<Endpoint> {
        self.endpoints.snapshot(&self.config.endpoints, now)
    }

    pub(crate) fn queued(&self) -> usize {
        self.busy.as_ref().map_or(0, |busy| busy.queue.len())
    }

    pub(crate) fn snapshot(&self, now: Time) -> Snapshot {
        let endpoints = &self.endpoints;
        let queue = self.busy.as_ref().map(|busy| &busy.queue);
        let ahead = queue.map_or(Units::default(), Queue::cost);
        Snapshot {
            key: self.key,
            limits: self.config.limits.iter().copied().collect(),
            max_concurrency: self.config.max_concurrency.map(std::num::NonZeroU32::get),
            learned_rate: endpoints.learned(),
            learned_slots: endpoints.slots(),
            window: endpoints.iter().map(|it| it.guard.window()).sum(),
            queued: queue.map_or(0, Queue::len),
            queued_bytes: queue.map_or(0, Queue::bytes),
            oldest_wait: queue.and_then(Queue::oldest).map(|since| now.since(since)),
            next_in: self
                .earliest(ahead, Cost::ONE, Ways::ANY, true, now)
                .0
                .since(now)
                .max(endpoints.spacing(ahead.requests)),
            in_flight: self.slots.flying(),
            unanswered: endpoints.unanswered(),
            paused: self.pause(now),
            brake: self.config.brake.at(now),
            cuts: endpoints.iter().map(|it| it.guard.cuts()).fold(0, u32::wrapping_add),
            endpoints: endpoints.snapshot(&self.config.endpoints, now),
            counts: self.counts,
            latency: (self.latency > 0).then(|| Duration::from_micros(u64::from(self.latency))),
            lately: self.spent.clone().lately(now),
            retries_left: budgets::left(&self.spent, self.joint.as_ref(), &self.config.retry_budget, now),
        }
    }
}
