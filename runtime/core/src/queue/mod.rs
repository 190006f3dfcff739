//! The calls that wait at one destination. Those that come back go first, in the order of their places; the others by
//! flow, see [`fair`]. Those with a delay of their own are beside them, and all are ordered by deadline, too. What a call
//! needs to wait, to leave or to go away is O(log n). What stands ahead of one that comes to wait is a look at each flow that
//! goes before it, and who makes room in a full queue is one at each flow: few have calls waiting at one destination.

mod drain;
mod fair;

use crate::{
    calls::{Call, Entry, Flow, Place},
    limit::Cost,
    pace::Units,
    time::Time,
};
use drain::Drain;
pub(crate) use fair::Room;
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

/// What the queue needs to know of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waits {
    pub(crate) flow: Flow,
    pub(crate) place: Place,
    pub(crate) cost: Cost,
    /// How long the destination is taken up by it, in nanoseconds.
    pub(crate) share: u64,
    pub(crate) bytes: u64,
}

/// Everything that waits. Exists only while something does.
#[derive(Debug)]
pub(crate) struct Queue {
    /// Calls that were put back although nothing speaks against them, and those that were refused or failed.
    back: BTreeMap<Place, Call>,
    again: BTreeMap<Place, Call>,
    fair: fair::Fair,
    delayed: BTreeSet<(Time, Call)>,
    deadlines: BTreeSet<(Time, Call)>,
    /// By when they first asked.
    since: BTreeSet<(Time, Call)>,
    /// Sum of the costs of what waits for its turn, and that of `back` and `again` in it.
    cost: Units,
    front: Units,
    bytes: u64,
    /// How many have another answer.
    fallbacks: usize,
    drain: Drain,
}

impl Queue {
    pub(crate) fn new(now: Time) -> Queue {
        Queue {
            back: BTreeMap::new(),
            again: BTreeMap::new(),
            fair: fair::Fair::default(),
            delayed: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            since: BTreeSet::new(),
            cost: Units::default(),
            front: Units::default(),
            bytes: 0,
            fallbacks: 0,
            drain: Drain::new(now),
        }
    }

    /// What held the first call was nothing that goes on as it is, such as a pause, or it is settings that changed: what
    /// left so far tells no pace.
    pub(crate) fn unsteady(&mut self, now: Time) {
        self.drain = Drain::new(now);
    }

    /// When a call behind `ahead` others would leave, by what the queue let go lately, where that is too late by far.
    pub(crate) fn too_late(&mut self, ahead: u64, deadline: Time, now: Time) -> Option<Time> {
        self.drain.too_late(ahead, deadline, now)
    }

    pub(crate) fn len(&self) -> usize {
        self.deadlines.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.deadlines.is_empty()
    }

    /// Whether any has another answer.
    pub(crate) fn has_fallbacks(&self) -> bool {
        self.fallbacks > 0
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When the one that waits longest first asked.
    pub(crate) fn oldest(&self) -> Option<Time> {
        self.since.first().map(|(since, _)| *since)
    }

    /// Cost of everything that waits for its turn.
    pub(crate) fn cost(&self) -> Units {
        self.cost
    }

    /// The calls that came back, in order.
    fn returned(&self) -> impl Iterator<Item = (Place, Call)> + '_ {
        let (mut back, mut again) = (self.back.iter().peekable(), self.again.iter().peekable());
        std::iter::from_fn(move || {
            let first = match (back.peek(), again.peek()) {
                (Some(one), Some(other)) if one < other => back.next(),
                (_, Some(_)) => again.next(),
                _ => back.next(),
            };
            first.map(|(place, call)| (*place, *call))
        })
    }

    pub(crate) fn first(&self) -> Option<Call> {
        self.returned().next().map(|(_, call)| call).or_else(|| self.fair.first())
    }

    /// Whether a call that comes now would be the first; `again`: it comes back.
    pub(crate) fn would_be_first(&self, flow: Flow, place: Place, again: bool) -> bool {
        match self.returned().next() {
            Some((first, _)) => again && place < first,
            None => again || self.fair.would_be_first(flow, place),
        }
    }

    /// The first call that was neither refused nor failed yet.
    pub(crate) fn first_fresh(&self) -> Option<Call> {
        self.back.values().next().copied().or_else(|| self.fair.first())
    }

    /// One of those that stands as far from the first as its flow allows.
    pub(crate) fn other_fresh(&self) -> Option<Call> {
        self.fair.newest_of_first().or_else(|| self.back.values().next_back().copied())
    }

    /// The newest call that waits for its turn.
    pub(crate) fn newest(&self) -> Option<(Place, Call)> {
        let back = [&self.back, &self.again].into_iter().filter_map(BTreeMap::last_key_value).max();
        self.fair.newest().or(back.map(|(place, call)| (*place, *call)))
    }

    /// A call that makes room for one of `flow`, because its own flow takes up more.
    pub(crate) fn crowding(&self, flow: Flow, more: u64, room: Room) -> Option<Call> {
        self.fair.crowding(flow, more, room)
    }

    /// What leaves before a call that comes now for the first time.
    pub(crate) fn ahead_of(&self, flow: Flow, place: Place) -> Units {
        let mut ahead = self.fair.ahead_of(flow, place);
        ahead.join(self.front);
        ahead
    }

    /// In order of their turns. `share` tells how long a call takes the destination up.
    pub(crate) fn in_order<'a>(&'a self, share: impl Fn(Call) -> u64 + 'a) -> impl Iterator<Item = Call> + 'a {
        self.returned().map(|(_, call)| call).chain(self.fair.in_order(share))
    }

    fn returning(&mut self, entry: &Entry) -> Option<&mut BTreeMap<Place, Call>> {
        entry.ticket.again.then(|| if entry.ticket.is_fresh() { &mut self.back } else { &mut self.again })
    }

    fn take_place(&mut self, call: Call, entry: &Entry) {
        match self.returning(entry) {
            Some(order) => {
                order.insert(entry.ticket.place, call);
                self.front.add(entry.cost);
            }
            None => self.fair.insert(call, &entry.waits()),
        }
        self.cost.add(entry.cost);
    }

    /// Everything that waits, in no order that means anything.
    pub(crate) fn all(&self) -> impl Iterator<Item = Call> + '_ {
        self.deadlines.iter().map(|(_, call)| *call)
    }

    pub(crate) fn insert(&mut self, call: Call, entry: &Entry, now: Time) {
        self.deadlines.insert((entry.deadline, call));
        self.since.insert((entry.ticket.since, call));
        self.bytes = self.bytes.saturating_add(entry.bytes);
        self.fallbacks += usize::from(entry.fallback);
        if entry.ticket.not_before > now {
            self.delayed.insert((entry.ticket.not_before, call));
        } else {
            self.take_place(call, entry);
        }
    }

    fn let_go(&mut self, call: Call, entry: &Entry) {
        self.deadlines.remove(&(entry.deadline, call));
        self.since.remove(&(entry.ticket.since, call));
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        self.fallbacks -= usize::from(entry.fallback);
    }

    /// A call goes away without having left.
    pub(crate) fn remove(&mut self, call: Call, entry: &Entry) {
        self.let_go(call, entry);
        if self.delayed.remove(&(entry.ticket.not_before, call)) {
            return;
        }
        let there = match self.returning(entry) {
            Some(order) => {
                let there = order.remove(&entry.ticket.place).is_some();
                if there {
                    self.front.sub(entry.cost);
                }
                there
            }
            None => self.fair.remove(&entry.waits()),
        };
        if there {
            self.cost.sub(entry.cost);
        }
    }

    /// A call leaves.
    pub(crate) fn serve(&mut self, call: Call, entry: &Entry, now: Time) {
        self.drain.leaves(now);
        if entry.ticket.again {
            self.remove(call, entry);
        } else {
            self.let_go(call, entry);
            self.cost.sub(entry.cost);
            self.fair.serve(&entry.waits());
        }
    }

    /// A call leaves that did not wait, while others do.
    pub(crate) fn serve_unqueued(&mut self, entry: &Entry, now: Time) {
        self.drain.leaves(now);
        if !entry.ticket.again {
            self.fair.serve(&entry.waits());
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
