//! What the outcomes of calls say about their destination.
//!
//! Good ones widen the window, refusals and failures pause, and when a pause ends its cut is learned from.

use super::{
    Beside, CALM, DOUBLINGS, DOWN_AFTER, EVIDENCE, FIRST_PAUSE, Failed, Guard, LIVED, LONGEST_DOWN, MANY, OPEN, Phase,
    RAMP_WINDOW, Stated, doubt::Doubt, up_to_half_less,
};
use crate::{
    calls::Call,
    endpoint::Quantile,
    refusal::Cause,
    signal::SpentQuota,
    time::{Micros, Time},
};
use std::time::Duration;

impl Guard {
    /// An answer that shows that the destination takes requests. `beside`: what was in flight when it left.
    pub(crate) fn accepted(&mut self, call: Call, left: Time, beside: Option<Beside>, now: Time) {
        self.answered();
        self.filled(left);
        let took = Micros::of(now.since(left).max(Duration::from_micros(1)));
        self.fastest = if self.fastest == Micros::ZERO { took } else { self.fastest.min(took) };
        self.passes(left);
        match (&mut self.at_once, beside) {
            (Some(at_once), _) => at_once.accepted(call, now),
            (None, Some(beside)) => {
                if let Some(shape) = &mut self.shape {
                    shape.accepted(beside.others, left);
                }
            }
            (None, None) => {}
        }
        if let Some(beside) = beside {
            self.watch(beside, now.since(left), now);
            self.look(left, beside, true, now);
        }
        self.last_accepted = now;
        if left >= self.streak_left {
            self.streak = 0;
        }
        if self.is_probe(call) {
            self.resume(now);
        }
        if let Some(stated) = &mut self.stated {
            stated.passed(call, left, now);
        }
        if let Some(chance) = self.chance.as_mut().filter(|chance| chance.is_free())
            && chance.passes(left)
            && let Some(learned) = &mut self.learned
        {
            learned.try_soon(now);
        }
        if self.phase != Phase::Open {
            return;
        }
        self.calm = self.calm.saturating_add(1);
        if self.calm >= CALM {
            self.spared = false;
        }
        self.fresh = self.fresh.saturating_add(1);
        if self.window != OPEN && self.fresh >= self.window.saturating_mul(EVIDENCE) {
            self.widen(self.window, now);
            self.fresh = 0;
        }
    }

    /// How long an answer took.
    fn watch(&mut self, beside: Beside, took: Duration, now: Time) {
        if self.configured {
            return;
        }
        let limited = self.adaptive.as_ref().is_some_and(|adaptive| adaptive.limit().is_some());
        if !limited && beside.others < MANY {
            self.base.add(took, Quantile::MEDIAN);
        }
        if let Some(adaptive) = &mut self.adaptive
            && beside.window != 0
        {
            adaptive.answered(beside.window, took, &mut self.base, now);
        }
    }

    /// An answer that is no refusal states that nothing is left of a quota.
    pub(crate) fn states(&mut self, spent: SpentQuota, believed: Duration, random: &mut fastrand::Rng, now: Time) {
        let spent = SpentQuota { wait: self.refill(spent), ..spent };
        let stated = self.stated.get_or_insert_with(|| Box::new(Stated::new(spent.source)));
        stated.says(spent, believed, random, now);
    }

    /// A request that left at `left` passed.
    pub(super) fn passes(&mut self, left: Time) {
        if left >= self.cut_at {
            self.passed = self.passed.wrapping_add(1);
            self.proof = self.proof.max(left);
            self.exponent = self.exponent.saturating_sub(1);
        }
    }

    /// The call was given up after it had left.
    pub(crate) fn given_up(&mut self, call: Call, random: &mut fastrand::Rng, now: Time) {
        if self.is_early(call, now) {
            // Who asked for silence is not asked by one after another who does not wait for the answer.
            self.early_failed(false, random, now);
        }
        self.forgotten(call, now);
    }

    /// The call ended without telling anything: given up, or failed by its own fault.
    pub(crate) fn forgotten(&mut self, call: Call, now: Time) {
        self.answered();
        self.tried(call, now);
        if let Phase::Probing { call: probe, until, cause, .. } = self.phase
            && probe == call
        {
            self.phase = Phase::Paused { until, eager: until, cause };
        }
    }

    fn tried(&mut self, call: Call, now: Time) {
        if let Some(at_once) = &mut self.at_once {
            at_once.over(call, now);
        }
        if let Some(stated) = &mut self.stated {
            stated.over(call, now);
        }
    }

    /// The call was refused for a reason of its own, and was so at cut `since` already: what was learned from it and
    /// later ones is no more than that.
    pub(crate) fn misled(&mut self, call: Call, since: u32, now: Time) {
        self.forgotten(call, now);
        if self.learned_at >= since && self.learned.is_some() {
            self.unlearn();
        }
    }

    /// Forgets the pace. What is learned next is counted from the last cut on, as between any two.
    pub(super) fn unlearn(&mut self) {
        self.learned = None;
        if let Some(chance) = &mut self.chance {
            chance.unlearns();
        }
        self.unlearned = false;
        self.spared = false;
        self.vain = 0;
        self.began = self.cut_at;
    }

    /// It answered, if not well (500, 408): alive, no sign of a limit.
    pub(crate) fn faulty(&mut self, call: Call, now: Time) {
        self.answered();
        self.tried(call, now);
        self.streak = 0;
        if self.is_probe(call) {
            self.resume(now);
        }
    }

    /// What follows is about a call whose answer was counted before.
    pub(crate) fn amends(&mut self) {
        self.unanswered += 1;
    }

    /// Pauses for a time that the destination does not name. A call that was refused or failed before may do so for a
    /// reason of its own: those that did not are kept for the shortest such time only.
    pub(super) fn back_off(&mut self, fresh: bool, cap: Duration, cause: Cause, random: &mut fastrand::Rng, now: Time) {
        let pause = self.backoff(cap, random);
        let eager = if fresh { pause } else { pause.min(up_to_half_less(FIRST_PAUSE, random)) };
        self.pause(now + pause, now + eager, cause, now);
    }

    /// A probe that left before the end of the pause did not pass: the pause goes on.
    pub(super) fn early_failed(&mut self, refused: bool, random: &mut fastrand::Rng, now: Time) {
        if let Phase::Probing { until, cause, .. } = self.phase {
            self.phase = Phase::Paused { until, eager: until, cause };
        }
        if let Some(doubt) = &mut self.doubt {
            doubt.failed(refused, random, now);
        }
    }

    /// A failure of the destination as a whole.
    pub(crate) fn failed(&mut self, call: Call, failed: Failed, random: &mut fastrand::Rng, now: Time) {
        let Failed { left, status, fresh, others_live, longest } = failed;
        self.answered();
        self.tried(call, now);
        self.failure_rtt = smoothed(self.failure_rtt, now.since(left));
        if self.streak == 0 {
            self.streak_left = left;
        }
        self.streak = self.streak.saturating_add(1);
        let cause = Cause::Down { status };
        if self.is_early(call, now) {
            self.early_failed(false, random, now);
        } else if self.is_probe(call) {
            self.failed_probe = true;
            self.cut(now);
            self.phase = Phase::Open;
            self.back_off(fresh, LONGEST_DOWN.min(longest), cause, random, now);
        } else if self.streak >= DOWN_AFTER && (others_live || self.lived(now)) && left >= self.cut_at {
            self.departures = 0;
            self.cut(now);
            self.back_off(fresh, LONGEST_DOWN.min(longest), cause, random, now);
        }
    }

    pub(crate) fn lived(&self, now: Time) -> bool {
        self.passed > 0 && now.since(self.last_accepted) < LIVED
    }

    pub(super) fn cut(&mut self, now: Time) {
        self.cuts = self.cuts.wrapping_add(1);
        self.cut_at = now;
        self.calm = 0;
        // What was thought of the pause before says nothing about this one.
        self.doubt = None;
    }

    fn backoff(&mut self, cap: Duration, random: &mut fastrand::Rng) -> Duration {
        let full = FIRST_PAUSE.saturating_mul(1 << self.exponent.min(DOUBLINGS)).min(cap);
        self.exponent = (self.exponent + 1).min(DOUBLINGS);
        up_to_half_less(full, random)
    }

    /// Pauses until `until`, for fresh calls until `eager`; a pause is extended, never shortened by a later word.
    pub(super) fn pause(&mut self, until: Time, eager: Time, cause: Cause, now: Time) {
        match &mut self.phase {
            Phase::Paused { until: other, eager: sooner, .. } if *other >= until => *sooner = eager.max(*sooner),
            Phase::Paused { eager: sooner, .. } => {
                let eager = eager.max(*sooner);
                self.phase = Phase::Paused { until, eager, cause };
            }
            // A probe is out before the end, which moves.
            Phase::Probing { until: other, passes, .. } if *other > now => {
                *other = until.max(*other);
                *passes = until.max(*passes);
            }
            _ => self.phase = Phase::Paused { until, eager, cause },
        }
        if let Phase::Paused { cause: Cause::Refused { by: None, .. } | Cause::Down { .. }, .. } = self.phase {
            self.doubt = None;
        }
    }

    /// Doubts a pause for which only a header speaks, where it is longer than what is `believed`.
    pub(super) fn doubt(&mut self, believed: Duration, random: &mut fastrand::Rng, now: Time) {
        if let Phase::Paused { until, cause: Cause::Refused { by: Some(_), .. }, .. } = self.phase
            && self.doubt.is_none()
        {
            self.doubt = Doubt::of(until.since(now), believed, random, now).map(Box::new);
        }
    }

    /// The probe passed: learn from the cut, start small.
    pub(super) fn resume(&mut self, now: Time) {
        let Phase::Probing { until, cause, .. } = std::mem::replace(&mut self.phase, Phase::Open) else { return };
        if now < until {
            // It did not mean what it said.
            self.told = now;
        }
        self.doubt = None;
        self.failed_probe = false;
        if !self.is_free() || matches!(cause, Cause::Down { .. }) {
            self.window = RAMP_WINDOW;
        }
        self.grown = now;
        self.fresh = 0;
        self.streak = 0;
        if std::mem::take(&mut self.unlearned) {
            self.learn(now);
        }
        if let Cause::Down { .. } = cause {
            // Neither what an outage let pass nor its length says anything about a limit.
            self.began = now;
            if let Some(learned) = &mut self.learned {
                learned.quiet();
            }
        }
    }

    /// Somebody who knows better ends the pause. Probes that are out are calls like others.
    pub(crate) fn lift(&mut self, now: Time) {
        if let Some(stated) = &mut self.stated {
            stated.lift();
        }
        if self.phase == Phase::Open {
            return;
        }
        self.phase = Phase::Open;
        self.told = now;
        self.doubt = None;
        self.failed_probe = false;
        self.exponent = 0;
        self.window = RAMP_WINDOW;
        self.grown = now;
        self.fresh = 0;
        self.streak = 0;
        self.unlearned = false;
        self.began = now;
    }
}

/// What was heard of so far with one more, each of which counts for an eighth. The first counts wholly.
pub(super) fn smoothed(so_far: Micros, rtt: Duration) -> Micros {
    if so_far == Micros::ZERO { Micros::of(rtt) } else { Micros::of((so_far.get() * 7 + rtt) / 8) }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{AtOnce, LONGEST_BACKOFF, Said},
        *,
    };

    const SEC: Duration = Duration::from_secs(1);

    #[test]
    fn how_long_failures_take_says_nothing_about_refusals() {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut guard, call) = (Guard::default(), Call { index: 0, generation: 0 });
        let (left, late) = (Time::from_millis(1_000_000), Time::from_millis(1_060_000));
        guard.failed(
            call,
            Failed { left, status: None, fresh: true, others_live: false, longest: LONGEST_BACKOFF },
            &mut random,
            late,
        );
        assert_eq!((guard.refusal_rtt.get(), guard.failure_rtt.get()), (Duration::ZERO, SEC * 60));
        let cause = Cause::Refused { status: 429, by: None };
        let said = Said {
            left: late,
            beside: None,
            cause,
            wait: None,
            waiting: false,
            believed: SEC,
            longest: LONGEST_BACKOFF,
            fresh: true,
            concurrency: false,
        };
        guard.refused(call, said, &mut random, late + SEC / 20);
        assert_eq!((guard.refusal_rtt.get(), guard.failure_rtt.get()), (SEC / 20, SEC * 60));
        assert_eq!(guard.doubling(), super::super::DOUBLING.max(SEC / 10), "the window is not as slow as a timeout");
    }

    #[test]
    fn the_window_follows_what_is_configured() {
        let (mut guard, now) = (Guard::default(), Time::from_millis(1_000_000));
        for (known, window) in [(false, 4), (true, OPEN), (true, OPEN), (false, 4), (true, OPEN)] {
            guard.is_known(known, now);
            assert_eq!((guard.window, guard.configured), (window, known));
        }
        // What was learned since stays.
        guard.cut(now);
        guard.is_known(false, now);
        assert_eq!((guard.window, guard.configured), (OPEN, false));
        for index in 0..8 {
            guard.leaves(Call { index, generation: 0 }, now);
        }
        assert!(guard.adaptive.is_some());
        guard.is_known(true, now);
        assert!(guard.adaptive.is_none());
    }

    #[test]
    fn a_trial_of_one_slot_more_that_is_refused_for_another_reason_does_not_pass() {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut guard, now) = (Guard::default(), Time::from_millis(1_000_000));
        guard.is_known(true, now);
        guard.at_once = Some(Box::new(AtOnce::new(2, true, now)));
        let call = |index| Call { index, generation: 0 };
        let later = now + SEC * 3600;
        for index in 0..3 {
            assert_eq!(guard.hold(true, later), None);
            guard.launch(call(index), true, true, later);
            guard.leaves(call(index), later);
        }
        let said = Said {
            left: later,
            beside: Some(Beside { others: 2, number: 0, window: 0 }),
            cause: Cause::Refused { status: 429, by: None },
            wait: Some(SEC),
            waiting: false,
            believed: SEC * 60,
            longest: LONGEST_BACKOFF,
            fresh: true,
            concurrency: false,
        };
        guard.refused(call(2), said, &mut random, later + SEC / 100);
        guard.ends(true);
        if let Some(at_once) = &mut guard.at_once {
            at_once.hold(2, later + SEC * 60);
        }
        assert_eq!(guard.slots(), Some(2));
    }

    #[test]
    fn a_stream_holds_its_slot_until_its_body_ends_and_a_word_about_concurrency_pauses_nobody() {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut guard, now) = (Guard::default(), Time::from_millis(1_000_000));
        guard.is_known(true, now);
        let call = |index| Call { index, generation: 0 };
        for index in 0..3 {
            assert_eq!(guard.hold(true, now), None);
            guard.launch(call(index), true, true, now);
            assert_eq!(guard.leaves(call(index), now).others, index);
        }
        for index in 0..2 {
            guard.accepted(call(index), now, Some(Beside { others: index, number: 0, window: 0 }), now + SEC);
        }
        let cause = Cause::Refused { status: 429, by: None };
        let said = Said {
            left: now,
            beside: Some(Beside { others: 2, number: 0, window: 0 }),
            cause,
            wait: None,
            waiting: false,
            believed: SEC,
            longest: LONGEST_BACKOFF,
            fresh: true,
            concurrency: true,
        };
        guard.refused(call(2), said, &mut random, now + SEC);
        guard.ends(true);
        assert_eq!((guard.slots(), guard.learned(), guard.paused_until(true, now)), (Some(2), None, None));
        let held = guard.hold(true, now + SEC).map(|(_, why)| why.to_string());
        assert_eq!(held.as_deref(), Some("for one of 2 slots, learned"), "both were answered, and still flow");
        guard.ends(true);
        assert_eq!(guard.hold(true, now + SEC), None, "as soon as one ends");
    }
}
