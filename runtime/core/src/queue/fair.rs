//! Start-time fair queueing between the flows of a destination (Goyal, Vin and Cheng, SIGCOMM 1996).
//!
//! Virtual time is the start tag of the call that left last. A flow's next call has the tag `max(virtual time, finish of
//! its call before)`, the smallest tag leaves first, and leaving moves the flow's tag on by the call's *share* of the
//! destination over the flow's weight. So flows that wait divide the destination by their weights, however much each has
//! waiting; what one didn't use is gone, and who takes nothing but its turn finds its turn at once.
//!
//! Tags belong to flows and not to calls: a call that goes away unserved costs its flow nothing, and a call of higher
//! priority passes those of its own flow only.

use super::{Place, Waits};
use crate::{
    calls::{Call, Flow},
    pace::Units,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    num::NonZeroU16,
};

#[derive(Debug)]
struct State {
    /// Start tag of its next call.
    tag: u64,
    weight: NonZeroU16,
    calls: BTreeMap<Place, Call>,
    sum: Sum,
}

/// What waits of one flow.
#[derive(Debug, Default, Clone, Copy)]
struct Sum {
    cost: Units,
    share: u64,
    bytes: u64,
}

impl State {
    fn new(tag: u64, weight: NonZeroU16) -> State {
        State { tag, weight, calls: BTreeMap::new(), sum: Sum::default() }
    }

    fn served(&mut self, start: u64, share: u64) {
        self.tag = start.saturating_add((share / u64::from(self.weight.get())).max(1));
    }

    /// Its part of the queue by its weight: the larger, the sooner it makes room.
    fn load(&self, per: impl Fn(&State) -> u64) -> u64 {
        per(self).saturating_mul(1 << 16) / u64::from(self.weight.get())
    }
}

/// The flows of a destination, as long as something waits there.
#[derive(Debug, Default)]
pub(super) struct Fair {
    flows: BTreeMap<u64, State>,
    /// Tags of the flows of which something waits, and of the others as long as they are ahead of virtual time.
    waiting: BTreeSet<(u64, u64)>,
    ahead: BTreeSet<(u64, u64)>,
    virtual_time: u64,
}

impl Fair {
    fn state(&mut self, flow: Flow) -> &mut State {
        let tag = self.virtual_time;
        let state = self.flows.entry(flow.id).or_insert_with(|| State::new(tag, flow.weight));
        state.weight = flow.weight;
        state
    }

    pub(super) fn insert(&mut self, call: Call, new: &Waits) {
        let now = self.virtual_time;
        let state = self.state(new.flow);
        if state.calls.is_empty() {
            let was = state.tag;
            state.tag = was.max(now);
            let tag = state.tag;
            self.ahead.remove(&(was, new.flow.id));
            self.waiting.insert((tag, new.flow.id));
        }
        let state = self.state(new.flow);
        state.calls.insert(new.place, call);
        state.sum.cost.add(new.cost);
        state.sum.share = state.sum.share.saturating_add(new.share);
        state.sum.bytes = state.sum.bytes.saturating_add(new.bytes);
    }

    /// A call goes away unserved.
    pub(super) fn remove(&mut self, old: &Waits) -> bool {
        let Some(state) = self.flows.get_mut(&old.flow.id) else { return false };
        if state.calls.remove(&old.place).is_none() {
            return false;
        }
        state.sum.cost.sub(old.cost);
        state.sum.share = state.sum.share.saturating_sub(old.share);
        state.sum.bytes = state.sum.bytes.saturating_sub(old.bytes);
        if state.calls.is_empty() {
            let tag = state.tag;
            self.waiting.remove(&(tag, old.flow.id));
            self.rest(tag, old.flow.id);
        }
        true
    }

    /// Of a flow of which nothing waits only its tag is kept, and that while it means anything.
    fn rest(&mut self, tag: u64, id: u64) {
        if tag > self.virtual_time {
            self.ahead.insert((tag, id));
        } else {
            self.flows.remove(&id);
        }
    }

    /// A call leaves, which waited here or came this moment.
    pub(super) fn serve(&mut self, served: &Waits) {
        let id = served.flow.id;
        let now = self.virtual_time;
        let state = self.state(served.flow);
        let (was, start) = (state.tag, state.tag.max(now));
        state.served(start, served.share);
        let (tag, waits) = (state.tag, !state.calls.is_empty());
        self.virtual_time = start;
        self.waiting.remove(&(was, id));
        self.ahead.remove(&(was, id));
        if waits {
            self.waiting.insert((tag, id));
        }
        if !self.remove(served) && !waits {
            self.rest(tag, id);
        }
        while let Some((tag, id)) = self.ahead.first().copied().filter(|(tag, _)| *tag <= self.virtual_time) {
            self.ahead.remove(&(tag, id));
            self.flows.remove(&id);
        }
    }

    fn first_flow(&self) -> Option<&State> {
        self.flows.get(&self.waiting.first()?.1)
    }

    /// Whose turn it is.
    pub(super) fn first(&self) -> Option<Call> {
        self.first_flow()?.calls.first_key_value().map(|(_, call)| *call)
    }

    /// The last call of the flow whose turn it is.
    pub(super) fn newest_of_first(&self) -> Option<Call> {
        self.first_flow()?.calls.last_key_value().map(|(_, call)| *call)
    }

    /// Whether a call that came now would be the first.
    pub(super) fn would_be_first(&self, flow: Flow, place: Place) -> bool {
        let Some((first, id)) = self.waiting.first().copied() else { return true };
        let own = self.flows.get(&flow.id).map_or(self.virtual_time, |state| state.tag.max(self.virtual_time));
        match self.flows.get(&flow.id).and_then(|state| state.calls.first_key_value()) {
            Some((front, _)) => id == flow.id && place < *front,
            // As the order of turns has it, where two are equal.
            None => (own, flow.id) < (first, id),
        }
    }

    /// What leaves before a call that came now.
    pub(super) fn ahead_of(&self, flow: Flow, place: Place) -> Units {
        let own = self.flows.get(&flow.id);
        let mut start = own.map_or(0, |state| state.tag).max(self.virtual_time);
        let mut ahead = Units::default();
        if let Some(state) = own.filter(|state| !state.calls.is_empty()) {
            let before = match state.calls.last_key_value() {
                Some((last, _)) if *last < place => state.calls.len(),
                _ => state.calls.keys().take_while(|other| **other < place).count(),
            };
            let part = Part { of: before as u64, whole: state.calls.len() as u64 };
            ahead = part.of_units(state.sum.cost);
            start = start.saturating_add(part.of(state.sum.share) / u64::from(flow.weight.get()));
        }
        // Not those whose turn comes later.
        let sooner = self.waiting.range(..=(start, u64::MAX)).filter(|(_, id)| *id != flow.id);
        for other in sooner.filter_map(|(_, id)| self.flows.get(id)) {
            let lead = start.saturating_sub(other.tag);
            let calls = other.calls.len() as u64;
            // Whole calls: one more than fits may have begun.
            let sent =
                lead.saturating_mul(u64::from(other.weight.get())).saturating_add(other.sum.share / calls.max(1));
            ahead.join(Part { of: sent, whole: other.sum.share }.of_units(other.sum.cost));
        }
        ahead
    }

    /// All calls in the order of their turns, if none came or went meanwhile.
    pub(super) fn in_order<'a>(&'a self, share: impl Fn(Call) -> u64 + 'a) -> impl Iterator<Item = Call> + 'a {
        let mut heap: BinaryHeap<_> = self.waiting.iter().map(|(tag, id)| Reverse((*tag, *id))).collect();
        let mut calls: BTreeMap<u64, _> = self
            .waiting
            .iter()
            .filter_map(|(_, id)| {
                let state = self.flows.get(id)?;
                Some((*id, (state.weight, state.calls.values().peekable())))
            })
            .collect();
        std::iter::from_fn(move || {
            let Reverse((tag, id)) = heap.pop()?;
            let (weight, calls) = calls.get_mut(&id)?;
            let call = *calls.next()?;
            if calls.peek().is_some() {
                heap.push(Reverse((tag.saturating_add((share(call) / u64::from(weight.get())).max(1)), id)));
            }
            Some(call)
        })
    }

    /// The newest call of the flow that takes the most room by `per`, if that is more than `of` would with one more that
    /// takes `more`.
    pub(super) fn crowding(&self, of: Flow, more: u64, per: Room) -> Option<Call> {
        let room = |state: &State| match per {
            Room::Calls => state.calls.len() as u64,
            Room::Bytes => state.sum.bytes,
        };
        let (_, most) = self.flows.iter().filter(|(id, _)| **id != of.id).max_by_key(|(_, state)| state.load(room))?;
        let own = self.flows.get(&of.id).map_or(0, room).saturating_add(more);
        let own = own.saturating_mul(1 << 16) / u64::from(of.weight.get());
        (most.load(room) > own).then(|| most.calls.last_key_value().map(|(_, call)| *call))?
    }

    /// The newest of all.
    pub(super) fn newest(&self) -> Option<(Place, Call)> {
        self.flows.values().filter_map(|state| state.calls.last_key_value()).max().map(|(place, call)| (*place, *call))
    }
}

/// What of the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    Calls,
    Bytes,
}

/// A part of a whole, at most all of it.
struct Part {
    of: u64,
    whole: u64,
}

impl Part {
    fn of(&self, number: u64) -> u64 {
        if self.of >= self.whole {
            return number;
        }
        let part = u128::from(number) * u128::from(self.of) / u128::from(self.whole);
        u64::try_from(part).unwrap_or(number)
    }

    fn of_units(&self, units: Units) -> Units {
        Units { requests: self.of(units.requests), tokens: self.of(units.tokens) }
    }
}
