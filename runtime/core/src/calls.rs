//! The calls of a shard: waiting ones and flying ones, in one slab. An id carries a generation, so that one used twice
//! (a permit released after a cancel) does nothing.

use crate::{
    endpoint::{Held, Mask, Wants, Ways},
    guard::Beside,
    limit::Cost,
    pace::Charge,
    queue::Waits,
    slots::Slot,
    time::Time,
};
use std::{num::NonZeroU16, time::Duration};

/// A call that waits. Handed back by [`crate::Shard::submit`]; the id of the [`Permit`] it becomes is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Call {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl Call {
    /// A small number, unique among the live calls of a shard: hosts index their wakers by it.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// The right to send one attempt. The host wraps it in a token whose drop calls [`crate::Shard::release`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Permit {
    pub(crate) call: Call,
    pub(crate) endpoint: u64,
}

impl Permit {
    /// The call this permit was given to.
    pub fn call(self) -> Call {
        self.call
    }

    /// Which endpoint of the destination it is for: [`crate::endpoint::EndpointSettings::id`]; 0 where none is configured.
    pub fn endpoint(self) -> u64 {
        self.endpoint
    }
}

/// Whose call it is. What waits for a destination is served fairly between flows, whatever number of calls each has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Which flow.
    pub id: u64,
    /// Its weight beside the others'.
    pub weight: NonZeroU16,
}

impl Flow {
    /// The largest weight.
    pub const MAX_WEIGHT: u16 = 1000;

    /// A flow of weight 1.
    pub const fn of(id: u64) -> Flow {
        Flow { id, weight: NonZeroU16::MIN }
    }
}

impl Default for Flow {
    fn default() -> Flow {
        Flow::of(0)
    }
}

/// A place in the order of a flow: by arrival, which priority shifts by a bounded time. So whoever came long enough
/// before is never passed, and nobody starves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Place {
    /// Nanoseconds.
    turn: u64,
    arrival: u64,
}

impl Place {
    /// By how much one step of priority shifts.
    const STEP: Duration = Duration::from_secs(1);

    /// The place of call number `arrival`, which came `at` this time.
    pub(crate) fn new(at: Time, priority: i8, arrival: u64) -> Place {
        let shift = Place::STEP.saturating_mul(u32::from(priority.unsigned_abs()));
        let shift = u64::try_from(shift.as_nanos()).unwrap_or(u64::MAX);
        // Times count from here, so that a shift never reaches below zero.
        let at = at.as_nanos().saturating_add(u64::MAX / 2);
        let turn = if priority < 0 { at.saturating_add(shift) } else { at.saturating_sub(shift) };
        Place { turn, arrival }
    }
}

/// What a call that was put back keeps: its place, since when it waits, how often it was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    pub(crate) place: Place,
    pub(crate) since: Time,
    pub(crate) not_before: Time,
    /// How often it was refused or failed, where that may be the destination's fault.
    pub(crate) tries: u8,
    /// Refusals that are its own: enough others passed since the one before.
    pub(crate) refusals: u8,
    /// Others that passed since the last of these.
    pub(crate) others: u8,
    /// How many had passed, and when, when it was refused or failed last.
    pub(crate) passed: u32,
    pub(crate) failed: Time,
    /// The cuts at which it was refused first and last.
    pub(crate) cut: u32,
    pub(crate) last_cut: u32,
    /// It was admitted before: it was counted as a request then.
    pub(crate) again: bool,
    /// An attempt of it may have been processed, and how often it was told that this one is under way still.
    pub(crate) in_doubt: bool,
    pub(crate) under_way: u8,
    /// Where it failed before, and where last.
    pub(crate) tried: Mask,
    pub(crate) endpoint: u8,
}

impl Ticket {
    /// Whether nothing speaks against it: it was neither refused nor failed yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.tries == 0
    }

    /// What it is worth at another partition: its place, its delay, and that it was admitted before. What was refused or failed
    /// here says nothing of what is asked there.
    pub fn elsewhere(self) -> Ticket {
        let Ticket { not_before, again, in_doubt, under_way, .. } = self;
        Ticket { not_before, again, in_doubt, under_way, ..Ticket::fresh(self.place, self.since) }
    }

    /// What it is worth once it was admitted.
    pub(crate) fn put_back(self) -> Ticket {
        Ticket { not_before: Time::ZERO, again: true, ..self }
    }

    pub(crate) fn fresh(place: Place, since: Time) -> Ticket {
        Ticket {
            place,
            since,
            not_before: Time::ZERO,
            tries: 0,
            refusals: 0,
            others: 0,
            passed: 0,
            failed: Time::ZERO,
            cut: 0,
            last_cut: 0,
            again: false,
            in_doubt: false,
            under_way: 0,
            tried: Mask::NONE,
            endpoint: 0,
        }
    }

    /// When the call first asked for admission.
    pub fn since(&self) -> Time {
        self.since
    }

    /// Not admitted before this instant (the delay of a retry); [`Time::ZERO`] when only the queue decides.
    pub fn not_before(&self) -> Time {
        self.not_before
    }
}

/// A call that asks for admission.
#[derive(Debug, Clone, Copy)]
pub struct NewCall {
    /// It must start before this instant, or is refused as soon as it is known that it can't.
    pub deadline: Time,
    /// Bytes of its body held while it waits.
    pub bytes: u64,
    /// What it costs against limits.
    pub cost: Cost,
    /// Whose it is.
    pub flow: Flow,
    /// Seconds by which it stands before its time in the order of its flow; negative: behind.
    pub priority: i8,
    /// Which endpoints it may take.
    pub ways: Ways,
    /// The destination, where the partition is not all of it: its partitions share one retry budget.
    pub part_of: Option<u64>,
    /// There is another answer to it, a stale one. It waits for its turn, but for no pause to end, and not where it comes back
    /// to leave at once.
    pub fallback: bool,
    /// The ticket of its last verdict, when it comes back.
    pub returning: Option<Ticket>,
}

impl NewCall {
    /// A first call of one request without a body.
    pub fn by(deadline: Time) -> NewCall {
        let (cost, flow, ways) = (Cost::ONE, Flow::default(), Ways::ANY);
        NewCall { deadline, bytes: 0, cost, flow, priority: 0, ways, part_of: None, fallback: false, returning: None }
    }
}

/// How far a flying call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Waiting,
    /// Admitted, nothing left the node.
    Admitted,
    /// The first byte left.
    Departed,
    /// Its outcome was reported; it holds its slot until released.
    Reported,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) generation: u32,
    pub(crate) actor: u32,
    pub(crate) phase: Phase,
    pub(crate) ticket: Ticket,
    pub(crate) deadline: Time,
    pub(crate) bytes: u64,
    pub(crate) cost: Cost,
    pub(crate) flow: Flow,
    /// How long it takes the destination up, in nanoseconds.
    pub(crate) share: u64,
    /// See [`NewCall::fallback`].
    pub(crate) fallback: bool,
    pub(crate) charge: Charge,
    pub(crate) slot: Slot,
    pub(crate) ways: Ways,
    /// The endpoint it was admitted to, and what it holds of it.
    pub(crate) endpoint: u8,
    pub(crate) held: Held,
    /// Endpoints that copies of it race to.
    pub(crate) copied: Mask,
    /// Its answer was counted as a success.
    pub(crate) succeeded: bool,
    /// The health of its endpoint knows that it left.
    pub(crate) judged: bool,
    /// When it asked, then when it was admitted, then when it departed.
    pub(crate) left: Time,
    /// When the call departed whose copy it is, where it is to answer for it.
    pub(crate) since: Option<Time>,
    /// What was in flight to its endpoint when it departed; nothing before.
    pub(crate) beside: Option<Beside>,
}

impl Entry {
    pub(crate) fn wants(&self) -> Wants {
        Wants { cost: self.cost, fresh: self.ticket.is_fresh(), ways: self.ways, tried: self.ticket.tried }
    }

    pub(crate) fn waits(&self) -> Waits {
        let Entry { flow, cost, share, bytes, .. } = *self;
        Waits { flow, place: self.ticket.place, cost, share, bytes }
    }
}

/// The slab.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    entries: slab::Slab<Entry>,
    generation: u32,
}

impl Calls {
    pub(crate) fn insert(&mut self, mut entry: Entry) -> Call {
        self.generation = self.generation.wrapping_add(1);
        entry.generation = self.generation;
        let index = self.entries.insert(entry);
        // A slab of 2^32 entries of over a hundred bytes does not fit any machine we run on.
        Call { index: u32::try_from(index).unwrap_or(u32::MAX), generation: self.generation }
    }

    pub(crate) fn get(&self, call: Call) -> Option<&Entry> {
        self.entries.get(call.index()).filter(|entry| entry.generation == call.generation)
    }

    pub(crate) fn get_mut(&mut self, call: Call) -> Option<&mut Entry> {
        self.entries.get_mut(call.index()).filter(|entry| entry.generation == call.generation)
    }

    pub(crate) fn remove(&mut self, call: Call) -> Option<Entry> {
        self.get(call)?;
        self.entries.try_remove(call.index())
    }

    /// The calls of an actor.
    pub(crate) fn of(&mut self, actor: u32) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut().map(|(_, entry)| entry).filter(move |entry| entry.actor == actor)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}
