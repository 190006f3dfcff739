//! What a guard is told of a call that ended.

use crate::{refusal::Cause, time::Time};
use std::time::Duration;

/// What was in flight to an endpoint when a request left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beside {
    /// How many others.
    pub(crate) others: u32,
    /// Which it is of those that left, wrapping.
    pub(super) number: u16,
    /// The window of answers that it belongs to; 0: none.
    pub(super) window: u8,
}

/// What a refusal says, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said {
    /// When the refused call departed.
    pub(crate) left: Time,
    /// What was in flight then, where it is known to have departed.
    pub(crate) beside: Option<Beside>,
    pub(crate) cause: Cause,
    /// How long to wait, where it names that.
    pub(crate) wait: Option<Duration>,
    /// Whether other calls wait at the gate.
    pub(crate) waiting: bool,
    /// Longest pause that is believed at its word.
    pub(crate) believed: Duration,
    /// Longest pause of all, chosen by backoff or asked for.
    pub(crate) longest: Duration,
    /// Whether the call was neither refused nor failed before.
    pub(crate) fresh: bool,
    /// Whether it is about requests under way at once: that says nothing about a pace.
    pub(crate) concurrency: bool,
}

/// What a failure says, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failed {
    /// When the failed call departed.
    pub(crate) left: Time,
    /// Nothing where no answer came.
    pub(crate) status: Option<u16>,
    /// Whether the call was neither refused nor failed before.
    pub(crate) fresh: bool,
    /// Whether another endpoint of the destination lives.
    pub(crate) others_live: bool,
    /// Longest pause of all.
    pub(crate) longest: Duration,
}
