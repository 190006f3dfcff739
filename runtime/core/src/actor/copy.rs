//! Copies of a call that flies: hedges, races, and trials of endpoints that were ejected.

use super::{Actor, Context};
use crate::{
    budgets::Purse,
    calls::{Call, Entry, Permit, Phase},
    endpoint::{Held, Mask, Wants},
    pace::{Charge, Units},
    slots::Slot,
    time::Time,
};
use std::time::Duration;

/// Why a call is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CopyFor {
    /// Its answer takes longer than usual. From the budget of hedges, to another endpoint where there is one.
    Hedge,
    /// Whoever answers first wins, and it was asked for: without a budget, to another endpoint that no copy of the call
    /// races to yet; where it has one only, once.
    Race,
    /// An endpoint that was ejected is tried. From the budget of hedges; nobody waits for its answer.
    Trial,
}

/// Answers that tell what is late.
const SAMPLES: u16 = 50;
/// Nothing is late that took less.
const LEAST: Duration = Duration::from_millis(1);

impl Actor {
    /// When an answer is late: the time that 95 of a hundred take at most, once that is known.
    pub(crate) fn late_after(&self) -> Option<Duration> {
        self.late.get().filter(|_| self.late.samples() >= SAMPLES).map(|late| late.max(LEAST))
    }

    /// How long answers take of another endpoint that a call could go to instead.
    pub(crate) fn elsewhere_takes(&self, entry: &Entry, now: Time) -> Option<Duration> {
        self.endpoints.elsewhere_takes(&entry.wants(), entry.endpoint, now)
    }

    /// Admits a copy of a call that flies, now or not at all. It is a call of its own from here on.
    pub(crate) fn copy(&mut self, call: Call, why: CopyFor, cx: &mut Context<'_>) -> Option<Permit> {
        let entry = cx.calls.get(call).filter(|entry| matches!(entry.phase, Phase::Admitted | Phase::Departed))?;
        let mut entry =
            Entry { phase: Phase::Waiting, charge: Charge::default(), slot: Slot::default(), ..entry.clone() };
        (entry.held, entry.beside) = (Held::default(), None);
        (entry.ticket.again, entry.ticket.in_doubt) = (true, true);
        entry.judged = false;
        entry.since = (why != CopyFor::Trial).then_some(entry.since.unwrap_or(entry.left));
        let mut wants: Wants = entry.wants();
        let copied = std::mem::replace(&mut entry.copied, Mask::NONE);
        if why == CopyFor::Race {
            wants.ways.allowed = wants.ways.allowed.beside(copied);
            if !self.endpoints.any(wants.ways) {
                return None;
            }
        }
        if !self.endpoints.is_single() {
            wants.ways = self.endpoints.ways_beside(wants.ways, entry.endpoint)?;
            // A copy of the copy goes to neither.
            entry.ways = wants.ways;
        }
        let (now, limits) = (cx.now, &self.config.limits);
        // Whoever waits would have to wait longer for it.
        if self.busy.is_some()
            || self.config.brake.paused(now).is_some()
            || self.never(wants.cost, wants.ways).is_some()
            || self.paces.when(limits, now, Units::default(), wants.cost).is_some_and(|(at, _)| at > now)
            || self.config.max_concurrency.is_some_and(|max| !self.slots.free(max))
        {
            return None;
        }
        let chosen = match why {
            CopyFor::Trial => self.endpoints.overdue(&self.config.endpoints, &wants, cx.calls, now)?,
            CopyFor::Hedge | CopyFor::Race => {
                let chosen = self.endpoints.choose(&self.config.endpoints, &wants, cx.calls, cx.random, now).ok()?;
                let others = self.endpoints.others_may_serve(wants.ways, entry.endpoint, now);
                if !self.endpoints.is_single() && (chosen.index == entry.endpoint || !others) {
                    return None;
                }
                chosen
            }
        };
        let (mut purse, budget) = (Purse::new(&mut self.spent, self.joint.as_ref()), &self.config.retry_budget);
        let affordable = match why {
            CopyFor::Race => true,
            CopyFor::Hedge => purse.hedge(budget, now),
            CopyFor::Trial => purse.trial(budget, now),
        };
        if !affordable {
            return None;
        }
        if let Some(original) = cx.calls.get_mut(call) {
            original.ticket.in_doubt = true;
            if why == CopyFor::Race {
                original.copied = copied.with(chosen.index);
            }
        }
        let copy = cx.calls.insert(entry);
        Some(self.launch(copy, chosen, false, cx))
    }
}
