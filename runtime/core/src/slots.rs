//! Concurrency: a count of held slots. A slot is held from the admission until the body has ended or the attempt was
//! given up; an RAII token of the host makes sure of it.
//!
//! Where there is a maximum a slot also lapses by time, so that somebody who has stopped reading an answer, and does not
//! close it either, can't keep the others out: at the call's deadline, and from the head of the answer on at the time
//! that each sign of life moves on. A lapsed slot is free for others; its attempt goes on, and takes one again when it
//! shows that it lives.

use crate::{calls::Call, time::Time};
use std::{collections::BTreeSet, num::NonZeroU32};

/// What an attempt holds; kept in its call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Until it is given back.
    #[default]
    Held,
    /// Until then at most.
    Until(Time),
    /// It held one for too long.
    Lapsed,
}

/// Slots held, against an optional maximum.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    /// Attempts that fly, lapsed ones included.
    flying: u32,
    lapsed: u32,
    /// Made by the first that lapses, and of one word while none did: a million destinations rest.
    #[expect(clippy::box_collection, reason = "an empty map is three words")]
    lapses: Option<Box<BTreeSet<(Time, Call)>>>,
}

impl Slots {
    /// Whether one more may be held.
    pub(crate) fn free(&self, max: NonZeroU32) -> bool {
        self.flying - self.lapsed < max.get()
    }

    /// Attempts that fly.
    pub(crate) fn flying(&self) -> u32 {
        self.flying
    }

    /// Takes one, until `lapses` at most where that is finite.
    pub(crate) fn take(&mut self, call: Call, lapses: Time) -> Slot {
        self.flying += 1;
        if lapses.is_never() {
            return Slot::Held;
        }
        self.lapses.get_or_insert_default().insert((lapses, call));
        Slot::Until(lapses)
    }

    /// Gives one back.
    pub(crate) fn give(&mut self, call: Call, slot: Slot) {
        self.flying -= 1;
        match slot {
            Slot::Held => {}
            Slot::Until(at) => _ = self.lapses.as_mut().map(|lapses| lapses.remove(&(at, call))),
            Slot::Lapsed => self.lapsed -= 1,
        }
    }

    /// Keeps one until `until`, or takes it again where it had lapsed.
    pub(crate) fn keep(&mut self, call: Call, slot: &mut Slot, until: Time) {
        match *slot {
            Slot::Held => return,
            Slot::Until(at) => _ = self.lapses.as_mut().map(|lapses| lapses.remove(&(at, call))),
            Slot::Lapsed => self.lapsed -= 1,
        }
        self.lapses.get_or_insert_default().insert((until, call));
        *slot = Slot::Until(until);
    }

    /// Takes one back whose time is over; the caller marks its call as [`Slot::Lapsed`].
    pub(crate) fn lapse(&mut self, now: Time) -> Option<Call> {
        let lapses = self.lapses.as_mut()?;
        let (_, call) = lapses.first().filter(|(at, _)| *at <= now).copied()?;
        lapses.pop_first();
        self.lapsed += 1;
        Some(call)
    }

    /// When the next one lapses.
    pub(crate) fn next_lapse(&self) -> Time {
        self.lapses.as_ref().and_then(|lapses| lapses.first()).map_or(Time::NEVER, |(at, _)| *at)
    }
}
