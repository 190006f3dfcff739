//! The calls that wait at one destination: by place, those that were refused or failed before apart from the fresh ones;
//! those with a delay of their own beside them, and all of them by deadline. Every operation is O(log n).

use crate::{
    calls::{Call, Entry, Place},
    pace::Units,
    time::Time,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How much may wait at one destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    /// Calls, 10,000 unless stated.
    pub calls: u32,
    /// Bytes of their bodies, 64 MiB unless stated.
    pub bytes: crate::units::Size,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { calls: 10_000, bytes: crate::units::Size(64 << 20) }
    }
}

/// Everything that waits. Exists only while something does.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    fresh: BTreeMap<Place, Call>,
    again: BTreeMap<Place, Call>,
    delayed: BTreeSet<(Time, Call)>,
    deadlines: BTreeSet<(Time, Call)>,
    /// Sum of the costs of `fresh` and `again`.
    cost: Units,
    bytes: u64,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.deadlines.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.deadlines.is_empty()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Cost of everything that waits for its turn.
    pub(crate) fn cost(&self) -> Units {
        self.cost
    }

    pub(crate) fn first(&self) -> Option<(Place, Call)> {
        self.in_order().next()
    }

    /// The calls that were neither refused nor failed yet, in order.
    pub(crate) fn fresh(&self) -> impl DoubleEndedIterator<Item = Call> + '_ {
        self.fresh.values().copied()
    }

    /// The call that waits last in order, delayed ones included only by order of nothing else waiting.
    pub(crate) fn last(&self) -> Option<(Place, Call)> {
        let last = [&self.fresh, &self.again].into_iter().filter_map(BTreeMap::last_key_value).max()?;
        Some((*last.0, *last.1))
    }

    /// In order of their turns.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = (Place, Call)> + '_ {
        let (mut fresh, mut again) = (self.fresh.iter().peekable(), self.again.iter().peekable());
        std::iter::from_fn(move || {
            let first = match (fresh.peek(), again.peek()) {
                (Some(one), Some(other)) if one < other => fresh.next(),
                (_, Some(_)) => again.next(),
                _ => fresh.next(),
            };
            first.map(|(place, call)| (*place, *call))
        })
    }

    fn take_place(&mut self, call: Call, entry: &Entry) {
        let order = if entry.ticket.is_fresh() { &mut self.fresh } else { &mut self.again };
        order.insert(entry.ticket.place, call);
        self.cost.add(entry.cost);
    }

    pub(crate) fn delayed(&self) -> impl Iterator<Item = Call> + '_ {
        self.delayed.iter().map(|(_, call)| *call)
    }

    pub(crate) fn insert(&mut self, call: Call, entry: &Entry, now: Time) {
        self.deadlines.insert((entry.deadline, call));
        self.bytes = self.bytes.saturating_add(entry.bytes);
        if entry.ticket.not_before > now {
            self.delayed.insert((entry.ticket.not_before, call));
        } else {
            self.take_place(call, entry);
        }
    }

    pub(crate) fn remove(&mut self, call: Call, entry: &Entry) {
        self.deadlines.remove(&(entry.deadline, call));
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        if self.delayed.remove(&(entry.ticket.not_before, call)) {
            return;
        }
        let order = if entry.ticket.is_fresh() { &mut self.fresh } else { &mut self.again };
        if order.remove(&entry.ticket.place).is_some() {
            self.cost.sub(entry.cost);
        }
    }

    /// The first delayed call whose delay is over.
    pub(crate) fn due(&self, now: Time) -> Option<Call> {
        self.delayed.first().filter(|(at, _)| *at <= now).map(|(_, call)| *call)
    }

    /// A delayed call takes its place.
    pub(crate) fn undelay(&mut self, call: Call, entry: &Entry) {
        if self.delayed.remove(&(entry.ticket.not_before, call)) {
            self.take_place(call, entry);
        }
    }

    /// The first call whose deadline is at or before `until`.
    pub(crate) fn expiring(&self, until: Time) -> Option<Call> {
        self.deadlines.first().filter(|(at, _)| *at <= until).map(|(_, call)| *call)
    }

    /// The first deadline or end of a delay.
    pub(crate) fn next_event(&self) -> Time {
        let deadline = self.deadlines.first().map_or(Time::NEVER, |(at, _)| *at);
        let delay = self.delayed.first().map_or(Time::NEVER, |(at, _)| *at);
        deadline.min(delay)
    }

    pub(crate) fn first_deadline(&self) -> Time {
        self.deadlines.first().map_or(Time::NEVER, |(at, _)| *at)
    }
}
