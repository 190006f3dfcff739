//! Whether a quota that is used up comes back bit by bit, or all at once.
//!
//! OpenAI and Anthropic say when all of a quota is back, and mean a bucket: a request can be made long before. Others say
//! the same of windows, in which nothing comes back before the end. Whoever is refused again when something should have
//! been back is at a window, and waits for its end from there on; whoever is not refused before the end is at a bucket.

use super::Guard;
use crate::{signal::SpentQuota, time::Time};
use std::time::Duration;

/// What was stated last of a quota that is used up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Emptied {
    /// When the refused request left, when a bucket has one request back, and when all is back.
    left: Time,
    one: Time,
    all: Time,
}

impl Emptied {
    pub(super) const NEVER: Emptied = Emptied { left: Time::NEVER, one: Time::NEVER, all: Time::NEVER };
}

impl Guard {
    /// A request that left at `left` was refused for want of this quota. How long to wait.
    pub(crate) fn emptied(&mut self, spent: SpentQuota, left: Time, now: Time) -> Duration {
        if spent.reset > spent.wait {
            // What was on its way at that time says nothing.
            self.windowed |= left >= self.emptied.one;
            if self.emptied.one.is_never() || left >= self.emptied.one {
                self.emptied = Emptied { left, one: now + spent.wait, all: now + spent.reset };
            }
        }
        self.refill(spent)
    }

    /// How long to wait where nothing is left.
    pub(super) fn refill(&self, spent: SpentQuota) -> Duration {
        if self.windowed { spent.reset } else { spent.wait }
    }

    /// A request that left at `left` passed.
    pub(super) fn filled(&mut self, left: Time) {
        if left > self.emptied.left && left < self.emptied.all {
            self.windowed = false;
        }
        if left > self.emptied.left {
            self.emptied = Emptied::NEVER;
        }
    }
}
