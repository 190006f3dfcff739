//! What a shard says to its host: answers to what it is asked, and effects.

#[cfg(doc)]
use super::Shard;
use crate::{
    calls::{Call, Permit, Ticket},
    refusal::{Refusal, Waiting},
    repeat::Reason,
    time::Time,
};
use std::time::Duration;

/// What the host has to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Effect {
    /// A call that waited may leave.
    Admit {
        /// The call, as [`Submitted::Queued`] named it.
        call: Call,
        /// Its permit.
        permit: Permit,
        /// How long it waited since it asked this time.
        waited: Duration,
        /// For what, at the end: perhaps not for what it was told when it asked.
        why: Waiting,
    },
    /// A call that waited was refused; it is gone.
    Refuse {
        /// The call.
        call: Call,
        /// Why.
        refusal: Refusal,
    },
    /// A call that waited is to ask at another partition, see [`Shard::send_on`]; it is gone here.
    SentOn {
        /// The call.
        call: Call,
        /// What it submits there: it has kept its place.
        ticket: Ticket,
    },
    /// A partition at rest made room for another; whoever keeps something of it may let go.
    Forgot {
        /// The key it was known by.
        key: u128,
    },
}

/// The effects of one or several operations, in order. Reuse one: it keeps its memory.
#[derive(Debug, Default)]
pub struct Effects(Vec<Effect>);

impl Effects {
    pub(crate) fn push(&mut self, effect: Effect) {
        self.0.push(effect);
    }

    /// Takes the effects out.
    pub fn drain(&mut self) -> impl Iterator<Item = Effect> + '_ {
        self.0.drain(..)
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The answer to a call that asks for admission.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Submitted {
    /// It may leave now.
    Admitted(Permit),
    /// It waits; an [`Effect`] will name it.
    Queued {
        /// Its name; [`Shard::release_call`] when its caller goes away.
        call: Call,
        /// When it will probably leave; `None` when that depends on others' answers.
        expected: Option<Time>,
        /// What for.
        why: Waiting,
    },
    /// It was refused.
    Refused(Refusal),
}

/// May the first byte leave?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// Yes; from here on the attempt counts as sent.
    Go,
    /// The destination was paused since the admission. Release the permit and submit again with this ticket; it costs
    /// nothing.
    PutBack(Ticket),
    /// The permit was released before.
    Released,
}

/// What to do after an attempt. In every case the permit has to be released (for an answer: at the end of its body).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Give the answer, or the error, to the caller.
    Return(Reason),
    /// Submit again with this ticket; it costs no attempt and has kept its place.
    PutBack(Ticket),
    /// Submit again with this ticket; it costs an attempt, and the ticket carries its delay.
    Retry(Ticket),
}
