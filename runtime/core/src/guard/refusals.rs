//! What refusals say about their destination: a pace that is learned when the pause ends, slots, or nothing.

use super::{
    AT_LEAST, AtOnce, Beside, CALM, FIRST_WINDOW, Guard, LONGEST_BACKOFF, OPEN, Phase, RAMP_WINDOW, Said, VAIN,
    at_once::Effect,
    chance::{Chance, Free, Shown},
    learned::Learned,
    outcomes::smoothed,
};
use crate::{calls::Call, refusal::Cause, time::Time};
use std::time::Duration;

/// So many that were accepted one after the other are no burst: whatever the limit is, it is near what was sent.
const MANY_PASSED: u32 = 64;

impl Guard {
    /// A refusal of a call.
    pub(crate) fn refused(&mut self, call: Call, said: Said, random: &mut fastrand::Rng, now: Time) {
        let Said { left, beside, cause, wait, waiting, believed, longest, fresh, concurrency } = said;
        self.answered();
        if let Some(stated) = &mut self.stated
            && stated.refused(call, left, wait, random, now)
        {
            if let Some(at_once) = &mut self.at_once {
                at_once.over(call, now);
            }
            self.departures = self.departures.saturating_sub(1);
            return;
        }
        self.streak = 0;
        self.refusal_rtt = smoothed(self.refusal_rtt, now.since(left));
        let probe = self.is_probe(call);
        let stale = left < self.cut_at && !probe;
        let crowded = self.crowded(call, &said, stale, now);
        if crowded && wait.is_none() {
            self.departures = self.departures.saturating_sub(1);
            self.lets_slots_hold(call, now);
            return;
        }
        let concurrency = concurrency || crowded;
        let early = self.is_early(call, now);
        if !early && !concurrency && self.is_own(left, wait, now) {
            self.departures = self.departures.saturating_sub(1);
            if probe {
                // The destination takes requests, only not this one.
                self.resume(now);
            }
            return;
        }
        self.told = self.told.max(now + wait.unwrap_or_default());
        if early || stale {
            // The same pause, if perhaps a longer one.
            if early {
                self.departures = self.departures.saturating_sub(1);
                self.early_failed(true, random, now);
            } else if !concurrency {
                self.cut_accepted = self.cut_accepted.saturating_sub(1);
                if let Some(beside) = beside {
                    self.look(left, beside, false, now);
                }
            }
            if let Some(wait) = wait {
                self.pause(now + wait, now + wait, cause, now);
                self.doubt(believed, random, now);
            }
            return;
        }
        if probe {
            // The same shortage: nothing new to learn from, but what departed meanwhile belongs to it.
            self.failed_probe = true;
            self.departures = self.departures.saturating_sub(1);
        } else if concurrency {
            // How fast requests may follow each other is another question: what was learned of it stays.
            self.departures = self.departures.saturating_sub(1);
        } else {
            self.cut_accepted = self.departures.saturating_sub(1);
            self.departures = 0;
            if self.cut_accepted >= CALM {
                // Answers may take far longer than refusals: departures that were not refused are good news by themselves.
                self.exponent = 0;
            }
            // A long wait is kept, and says nothing of a pace where others have none.
            self.unlearned = !self.is_free();
            self.pressed = waiting || self.unanswered > RAMP_WINDOW;
            if self.chance.is_none() && Chance::may_be(wait) {
                self.chance = Some(Box::default());
            }
            if let Some(learned) = self.learned.as_mut().filter(|_| !self.chance.as_ref().is_some_and(|it| it.tries()))
            {
                learned.cut(self.cut_at, left);
            } else if let Some(beside) = beside {
                self.begin_look(beside, left, now);
            }
        }
        self.cut(now);
        if fresh {
            self.fresh_cut = self.cuts;
        }
        match wait {
            Some(wait) => self.pause(now + wait, now + wait, cause, now),
            None => self.back_off(fresh, LONGEST_BACKOFF.min(longest), cause, random, now),
        }
        self.doubt(believed, random, now);
    }

    /// A cut while nothing held anybody: what left after the refused request is looked at.
    fn begin_look(&mut self, beside: Beside, left: Time, now: Time) {
        let limit = match &self.learned {
            Some(learned) => learned.rate(),
            // So many in a row are no burst: whatever the limit is, it is near what was sent.
            None if self.cut_accepted >= MANY_PASSED => 0.0,
            None => {
                let busy = now.since(self.cut_at.max(self.began)).max(AT_LEAST);
                f64::from(self.cut_accepted) / busy.as_secs_f64()
            }
        };
        let (expected, passed) = (limit * now.since(left).as_secs_f64(), self.proof > left);
        if self.chance.as_mut().is_some_and(|chance| chance.looks(beside.number, expected, passed, now)) {
            self.unlearn();
        }
    }

    /// What became of a request that may have left between a refused one and the cut that it made.
    pub(super) fn look(&mut self, left: Time, beside: Beside, passed: bool, now: Time) {
        if left < self.cut_at
            && let Some(chance) = &mut self.chance
            && chance.sees(beside.number, passed, now)
        {
            self.unlearn();
        }
    }

    /// Whether a refusal concerns nobody but its call.
    fn is_own(&mut self, left: Time, wait: Option<Duration>, now: Time) -> bool {
        let Some(chance) = self.chance.as_mut().filter(|chance| chance.is_free() && Chance::may_be(wait)) else {
            return false;
        };
        match chance.refuses(left, now) {
            Free::Own => {}
            Free::Asks(rate) => {
                self.learned = Some(Box::new(Learned::at(rate, now)));
                self.learned_at = self.cuts;
                (self.began, self.departures) = (now, 0);
            }
            Free::Useless => self.learned = None,
            Free::Limit { accepted, since } => {
                self.learned = None;
                (self.began, self.departures) = (since, accepted + 1);
                return false;
            }
        }
        true
    }

    /// Whether a refusal is one of too many requests at once, which slots keep away from here on.
    fn crowded(&mut self, call: Call, said: &Said, stale: bool, now: Time) -> bool {
        let Said { left, beside, fresh, wait, concurrency, .. } = *said;
        // Beside none it is not the gate that fills the slots: others do, or there are none.
        let beside = beside.map(|beside| beside.others).filter(|others| *others > 0);
        match (&mut self.at_once, beside) {
            // Nor did a trial of one more pass.
            (Some(at_once), beside) if !at_once.explains(concurrency) || beside.is_none() && concurrency => {
                at_once.over(call, now);
                return false;
            }
            (Some(at_once), beside) => {
                let effect = beside.map_or(Effect::Disproved, |beside| at_once.refused(call, beside, left, now));
                if effect == Effect::Disproved {
                    self.at_once = None;
                    self.shape.get_or_insert_default().misled();
                    return false;
                }
                if effect == Effect::Lowered {
                    self.cuts = self.cuts.wrapping_add(1);
                }
                if effect == Effect::Lowered && fresh {
                    self.fresh_cut = self.cuts;
                }
            }
            (None, None) => {
                if let Some(shape) = &mut self.shape {
                    shape.restart();
                }
                return false;
            }
            (None, Some(beside)) if concurrency => {
                self.at_once = Some(Box::new(AtOnce::new(beside, true, now)));
            }
            // Who limits a rate often says for how long.
            (None, Some(_)) if wait.is_some() => return false,
            (None, Some(beside)) => {
                let shape = self.shape.get_or_insert_default();
                let Some(slots) = shape.refused(beside, left, !stale, now) else { return false };
                self.at_once = Some(Box::new(AtOnce::new(slots, false, now)));
                // The pace was learned from the same refusals.
                self.unlearn();
            }
        }
        true
    }

    /// Slots hold what a pause without a word from the destination would.
    fn lets_slots_hold(&mut self, call: Call, now: Time) {
        match self.phase {
            Phase::Probing { call: probe, until, cause, .. } if probe == call && now < until => {
                self.phase = Phase::Paused { until, eager: until, cause };
            }
            Phase::Probing { call: probe, .. } if probe == call => self.phase = Phase::Open,
            Phase::Paused { cause: Cause::Refused { by: None, .. }, .. } => self.phase = Phase::Open,
            _ => {}
        }
        if self.phase == Phase::Open {
            self.failed_probe = false;
            self.doubt = None;
            self.exponent = 0;
            (self.window, self.grown) = (OPEN, now);
        }
    }

    pub(super) fn learn(&mut self, now: Time) {
        let paced = self.learned.is_some();
        let passed = self.chance.as_ref().map_or(0, |chance| chance.in_trial(self.cut_accepted));
        let gains = self.learned.as_mut().is_some_and(|learned| learned.is_outdone(passed, self.cut_at));
        match self.chance.as_mut().map(|chance| chance.shows(self.cut_accepted, paced, gains, self.pressed, now)) {
            None | Some(Shown::Limit) => {
                if self.chance.as_ref().is_some_and(|chance| chance.tries() && chance.leans()) {
                    self.window = FIRST_WINDOW;
                }
            }
            Some(Shown::Needed) => {
                if let Some(learned) = &mut self.learned {
                    learned.counts_from(self.cut_at);
                }
                return;
            }
            Some(Shown::Anew) => {
                if let Some(learned) = &mut self.learned {
                    learned.relearn(passed, self.cut_at, now);
                }
                return;
            }
            Some(Shown::Perhaps) => {
                if self.chance.as_ref().is_some_and(|chance| chance.leans()) {
                    self.window = FIRST_WINDOW;
                }
                self.began = self.cut_at;
                return;
            }
            Some(Shown::Chance) => {
                self.unlearn();
                return;
            }
        }
        let (accepted, alone) = (self.cut_accepted, self.cut_at.since(self.began));
        let thin = accepted < CALM || alone < AT_LEAST;
        if !self.pressed && thin && !std::mem::replace(&mut self.spared, true) {
            // Should another follow, it is counted from this one on, as between any two.
            self.began = self.cut_at;
            return;
        }
        // Who sends one by one at a pace that was learned is not refused after a few again and again, unless the pace is
        // not what is refused.
        let vain = self.learned.is_some() && !self.pressed && accepted < CALM && self.told <= self.cut_at;
        self.vain = if vain { self.vain + 1 } else { 0 };
        if self.vain >= VAIN {
            self.unlearn();
            return;
        }
        if self.learned.is_none() {
            self.learned_at = self.cuts;
        }
        let busy = if self.pressed { self.told.since(self.began).max(AT_LEAST) } else { alone };
        self.learned.get_or_insert_default().learn(accepted, busy, self.cut_at, now);
    }
}
