//! How an endpoint does, beside the others of its destination: how long its answers take, and whether it is slow or fails.
//!
//! A client error is quick, and says nothing of how long work takes: it is no sample of latency. Nor is it a failure, as
//! the fault is the caller's, unless the endpoint answers little else and another answers such calls well: then it is the
//! endpoint that is wrong, by a typo in its deployment.

use super::quantile::Quantile;
use crate::{
    rest::at_rest,
    snapshot::Ejected,
    time::{Time, nanos},
};
use std::time::Duration;

/// An endpoint this many times as slow as the median of the others is ejected, and one that is no slower than
/// [`NEAR`] times comes back.
pub(crate) const SLOW: u32 = 3;
/// Endpoints within this of the fastest share the calls.
pub(crate) const NEAR: u32 = 2;
/// What is known of an endpoint that nobody called since loses its weight at this rate.
const FORGETS: Duration = Duration::from_secs(10);
/// What one attempt weighs in the share of failures.
const OF_EACH: f32 = 0.1;
/// So many times longer takes a call where all fail: a third of failures is as bad as twice the time.
const FAILED: f64 = 3.0;
/// An endpoint fails when more than this share of its last attempts did, about twenty by [`OF_EACH`]; seven in a row do.
/// One of which at most a part did is sound.
const FAILING: f32 = 0.5;
const SOUND: f32 = 0.25;
/// The same of client errors, beside another endpoint that has fewer than half.
const DECLINES: f32 = 0.9;
const SERVES: f32 = 0.5;
/// Answers that tell a slowness, or attempts whose answers are awaited.
const SAMPLES: u16 = 5;
const AWAITED: u32 = 3;
/// Differences below this are no slowness, whatever their ratio.
const NOTHING: Duration = Duration::from_millis(5);
/// The first ejection; the n-th lasts n times as long, up to [`LONGEST`].
const EJECTION: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(300);
/// Gap between copies that try an ejected endpoint.
const GAP: Duration = Duration::from_secs(2);
/// Good ones among them, one after another, that end an ejection.
const GOOD: u8 = 3;
/// What a call that was given up weighs in the share of failures, where others would long have answered it: two in a row
/// are enough.
const IN_VAIN: f32 = 0.3;
/// Where nothing is known of how long answers take, a call that was given up sooner says nothing.
const PATIENT: Duration = Duration::from_millis(500);

/// An endpoint that is left alone until then, and then on trial, until some good answers in a row end it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Alone {
    why: Ejected,
    until: Time,
    next_copy: Time,
    good: u8,
    bad: bool,
}

#[derive(Debug)]
pub(crate) struct Health {
    median: Quantile,
    last: Time,
    /// Share of failures among the last attempts.
    failures: f32,
    /// Share of client errors among the last answers.
    declined: f32,
    /// Attempts whose answers are awaited, and the sum of when they left.
    awaited: u32,
    left: u64,
    ejected: Option<Alone>,
    /// How long calls waited for it in vain since it last answered.
    in_vain: Duration,
    /// Ejections so far, one fewer for each [`LONGEST`] without.
    ejections: u8,
    /// When the last of them was to end.
    over: Time,
}

impl Default for Health {
    fn default() -> Health {
        Health {
            median: Quantile::NONE,
            last: Time::ZERO,
            failures: 0.0,
            declined: 0.0,
            awaited: 0,
            left: 0,
            ejected: None,
            in_vain: Duration::ZERO,
            ejections: 0,
            over: Time::ZERO,
        }
    }
}

at_rest!(Health { median, last, failures, declined, in_vain, ejections, over } else {
    awaited: 0, left: 0, ejected: None
});

/// Whether an answer that took so long is far slower than those of others.
pub(crate) fn is_slow(took: Duration, others: Duration) -> bool {
    took > others * SLOW + NOTHING
}

impl Health {
    /// Whether its state at rest tells all.
    pub(crate) fn rests(&self) -> bool {
        self.awaited == 0 && self.ejected.is_none()
    }

    pub(crate) fn launched(&mut self, at: Time) {
        self.awaited += 1;
        self.left = self.left.wrapping_add(at.as_nanos());
    }

    fn landed(&mut self, at: Time) {
        self.awaited = self.awaited.saturating_sub(1);
        self.left = self.left.wrapping_sub(at.as_nanos());
    }

    /// Nobody called it lately, nor does anybody now, and nothing speaks against it.
    pub(crate) fn is_unseen(&self, now: Time) -> bool {
        self.awaited == 0 && self.ejected.is_none() && now.since(self.last) > FORGETS
    }

    /// An attempt failed, or was refused, after which nothing is known of how long answers take.
    pub(crate) fn failed(&mut self, launched: Time, failed: bool, now: Time) {
        self.landed(launched);
        self.last = now;
        if failed {
            self.failures += (1.0 - self.failures) * OF_EACH;
        }
        if let Some(ejected) = &mut self.ejected {
            (ejected.good, ejected.bad) = (0, ejected.bad || failed);
        }
    }

    /// An answer that counted as one turned out to be none.
    pub(crate) fn broke(&mut self) {
        self.failures = (self.failures / (1.0 - OF_EACH)).min(1.0);
        self.failures += (1.0 - self.failures) * OF_EACH;
        if let Some(ejected) = &mut self.ejected {
            (ejected.good, ejected.bad) = (0, true);
        }
    }

    /// The answer was a client error. `odd`: another endpoint serves such calls.
    pub(crate) fn declined(&mut self, launched: Time, odd: bool, now: Time) {
        self.landed(launched);
        self.last = now;
        self.in_vain = Duration::ZERO;
        self.failures *= 1.0 - OF_EACH;
        self.declined += (1.0 - self.declined) * OF_EACH;
        match &mut self.ejected {
            Some(ejected) if odd => (ejected.good, ejected.bad) = (0, true),
            Some(_) => self.good(None),
            None => {}
        }
    }

    /// A good probe of an ejected endpoint.
    fn good(&mut self, took: Option<Duration>) {
        let Some(ejected) = &mut self.ejected else { return };
        (ejected.good, ejected.bad) = (ejected.good + 1, false);
        if ejected.good >= GOOD {
            self.lift();
            if let Some(took) = took {
                self.median.add(took, Quantile::MEDIAN);
            }
        }
    }

    /// A call was given up before its answer began: by its deadline, or by its sender. That tells something where it took
    /// far longer than the `others` do, or, where that is not known, than it did itself.
    pub(crate) fn abandoned(&mut self, launched: Time, others: Option<Duration>, now: Time) {
        self.landed(launched);
        let took = now.since(launched);
        let usual = others.or_else(|| self.median.get());
        if usual.map_or(took < PATIENT, |usual| !is_slow(took, usual)) {
            return;
        }
        self.last = now;
        self.in_vain = self.in_vain.max(took);
        self.failures += (1.0 - self.failures) * IN_VAIN;
        if let Some(ejected) = &mut self.ejected {
            (ejected.good, ejected.bad) = (0, true);
        }
    }

    /// An answer came. `others`: the median of what the others take.
    pub(crate) fn answered(&mut self, launched: Time, took: Duration, others: Option<Duration>, now: Time) {
        self.landed(launched);
        self.last = now;
        self.in_vain = Duration::ZERO;
        self.failures *= 1.0 - OF_EACH;
        self.declined *= 1.0 - OF_EACH;
        let Some(ejected) = &mut self.ejected else {
            self.median.add(took, Quantile::MEDIAN);
            return;
        };
        if others.is_some_and(|others| took > others * NEAR + NOTHING) {
            (ejected.good, ejected.bad) = (0, true);
        } else {
            self.good(Some(took));
        }
    }

    /// An attempt was given up for another's answer.
    pub(crate) fn cut_short(&mut self, launched: Time, took: Duration, now: Time) {
        self.landed(launched);
        self.last = now;
        match &mut self.ejected {
            Some(ejected) => (ejected.good, ejected.bad) = (0, true),
            None => self.median.add_at_least(took, Quantile::MEDIAN),
        }
    }

    /// How long an answer takes at present, as far as known: those that are awaited count as far as they are.
    pub(crate) fn latency(&self, now: Time) -> Option<Duration> {
        let known = self.median.get();
        if self.awaited < AWAITED {
            return known;
        }
        Some(known.unwrap_or_default().max(self.awaited_for(now)))
    }

    /// It is known how long its answers take: those that are awaited tell no more than that it is longer.
    pub(crate) fn answers(&self) -> bool {
        self.median.samples() > 0
    }

    /// How long answers are awaited, on average: half of what they take, where they come evenly.
    fn awaited_for(&self, now: Time) -> Duration {
        let sum = now.as_nanos().wrapping_mul(u64::from(self.awaited)).wrapping_sub(self.left);
        Duration::from_nanos(sum.checked_div(u64::from(self.awaited)).unwrap_or(0))
    }

    /// What is left of what was seen of it.
    fn remembered(&self, now: Time) -> f32 {
        let quiet = if self.awaited > 0 { Duration::ZERO } else { now.since(self.last) };
        (-quiet.as_secs_f32() / FORGETS.as_secs_f32()).exp()
    }

    /// Most of its last attempts failed, or it answers with hardly anything but client errors.
    pub(crate) fn is_failing(&self, now: Time) -> bool {
        // What is forgotten is costly to work out, and seldom matters.
        self.seems_failing(1.0) && self.seems_failing(self.remembered(now))
    }

    /// The same, where this part of it is remembered.
    fn seems_failing(&self, rest: f32) -> bool {
        self.failures * rest > FAILING || self.declined * rest > DECLINES
    }

    /// It has to be judged, whatever its latency.
    pub(crate) fn is_suspect(&self) -> bool {
        self.ejected.is_some() || self.seems_failing(1.0)
    }

    /// It answers, and its answers are no failures, nor for the most part client errors.
    pub(crate) fn serves(&self) -> bool {
        self.failures < SOUND
            && if self.median.samples() < SAMPLES {
                self.median.samples() > 0 && self.declined == 0.0
            } else {
                self.declined < SERVES
            }
    }

    /// Its `latency` as the next call should take it, beside the `best` of all: what nobody saw lately counts for less.
    pub(crate) fn faded(&self, latency: Option<Duration>, best: Duration, now: Time) -> Duration {
        let more = latency.unwrap_or(best).max(self.in_vain).saturating_sub(best);
        if more.is_zero() && self.failures == 0.0 {
            return best;
        }
        let rest = f64::from(self.remembered(now));
        let failures = 1.0 + f64::from(self.failures) * FAILED * rest;
        let [best, more] = [best, more].map(|time| nanos(time) as f64);
        Duration::from_nanos(((best + more * rest) * failures) as u64)
    }

    /// Ejects it if it is far slower than the `others` are, or fails while another `serves`.
    pub(crate) fn judge(
        &mut self,
        latency: Option<Duration>,
        others: Option<Duration>,
        serves: bool,
        random: &mut fastrand::Rng,
        now: Time,
    ) -> bool {
        let failing = self.is_failing(now);
        let slow = |took: Duration| others.is_some_and(|others| is_slow(took, others));
        let out = match self.ejected {
            Some(ejected) if now < ejected.until => false,
            Some(ejected) => {
                ejected.bad && if failing { serves } else { others.is_some() } || slow(self.awaited_for(now))
            }
            None if failing && serves => true,
            None if self.median.samples() < SAMPLES && self.awaited < AWAITED => false,
            None => latency.is_some_and(slow),
        };
        if !out {
            return false;
        }
        let calm = nanos(now.since(self.over)) / nanos(LONGEST);
        self.ejections = self.ejections.saturating_sub(u8::try_from(calm).unwrap_or(u8::MAX)).saturating_add(1);
        let time = EJECTION.saturating_mul(u32::from(self.ejections));
        let until = now + time.mul_f64(0.9 + random.f64() / 5.0).min(LONGEST);
        self.over = until;
        let why = match failing {
            true if self.failures > FAILING => Ejected::Failing,
            true => Ejected::Declining,
            false => Ejected::Slow,
        };
        self.ejected = Some(Alone { why, until, next_copy: now + GAP, good: 0, bad: false });
        true
    }

    /// It is not left alone any more.
    pub(crate) fn lift(&mut self) {
        if self.ejected.take().is_some() {
            // What it was like before is over.
            (self.median, self.failures, self.declined, self.in_vain) = (Quantile::NONE, 0.0, 0.0, Duration::ZERO);
        }
    }

    /// Left alone, for being slow or failing.
    pub(crate) fn is_ejected(&self, now: Time) -> bool {
        self.ejected.is_some_and(|ejected| now < ejected.until)
    }

    /// Share of failures among the last attempts.
    pub(crate) fn failures(&self) -> f32 {
        self.failures
    }

    /// Until when it is left alone at most, and why.
    pub(crate) fn ejected_until(&self, now: Time) -> Option<(Time, Ejected)> {
        self.ejected.map(|alone| (alone.until, alone.why)).filter(|(until, _)| now < *until)
    }

    /// Whether it may be called: not while it is left alone, and on trial by one at a time.
    pub(crate) fn is_free(&self, now: Time) -> bool {
        self.ejected.is_none_or(|ejected| now >= ejected.until && self.awaited == 0)
    }

    /// Whether a copy of a call should try it now; the next may in a while.
    pub(crate) fn wants_copy(&mut self, now: Time) -> bool {
        match &mut self.ejected {
            Some(ejected) if now < ejected.until && now >= ejected.next_copy => {
                ejected.next_copy = now + GAP;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const START: Time = Time::from_millis(1_000_000);

    fn answered(health: &mut Health, took: Duration, at: Time) {
        health.launched(at);
        health.answered(at, took, Some(MS * 100), at + took);
    }

    #[test]
    fn slow_answers_eject_and_three_good_trials_end_it() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut health = Health::default();
        for n in 0..5 {
            assert!(!health.judge(health.latency(START), Some(MS * 100), false, &mut random, START));
            answered(&mut health, MS * 1000, START + MS * n);
        }
        assert!(health.judge(health.latency(START), Some(MS * 100), false, &mut random, START));
        assert!(health.is_ejected(START + MS * 26_000) && !health.is_ejected(START + MS * 34_000));
        assert!(!health.wants_copy(START + MS * 1_999));
        assert!(health.wants_copy(START + MS * 2_000) && !health.wants_copy(START + MS * 2_001));
        for (took, ejected) in [(90, true), (900, true), (90, true), (110, true), (80, false)] {
            answered(&mut health, MS * took, START + MS * 3_000);
            assert_eq!(health.is_ejected(START + MS * 3_000), ejected, "{took}");
        }
        let latency = health.latency(START).unwrap();
        assert!(latency.abs_diff(MS * 80) < MS, "{latency:?}");
    }

    #[test]
    fn when_its_time_is_over_it_is_called_once_at_a_time_and_one_bad_answer_ejects_it_for_longer() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut health = Health::default();
        (0..5).for_each(|_| answered(&mut health, MS * 1000, START));
        assert!(
            health.judge(health.latency(START), Some(MS * 100), false, &mut random, START) && !health.is_free(START)
        );
        let later = START + MS * 34_000;
        assert!(health.is_free(later));
        health.launched(later);
        assert!(!health.is_free(later));
        health.answered(later, MS * 900, Some(MS * 100), later + MS * 900);
        assert!(health.judge(health.latency(later), Some(MS * 100), false, &mut random, later));
        assert!(!health.is_free(later + MS * 53_000) && health.is_free(later + MS * 67_000));
        // One that does not answer at all.
        let later = later + MS * 67_000;
        health.launched(later);
        assert!(!health.judge(health.latency(later + MS * 305), Some(MS * 100), false, &mut random, later + MS * 305));
        assert!(health.judge(health.latency(later + MS * 306), Some(MS * 100), false, &mut random, later + MS * 306));
    }

    #[test]
    fn it_is_known_what_ejects_it() {
        let mut random = fastrand::Rng::with_seed(3);
        type Comes = fn(&mut Health);
        let table: [(Ejected, Comes); 3] = [
            (Ejected::Slow, |health| health.answered(START, MS * 1000, Some(MS * 100), START)),
            (Ejected::Failing, |health| health.failed(START, true, START)),
            (Ejected::Declining, |health| health.declined(START, true, START)),
        ];
        for (why, each) in table {
            let mut health = Health::default();
            for _ in 0..30 {
                health.launched(START);
                each(&mut health);
            }
            assert!(health.judge(health.latency(START), Some(MS * 100), true, &mut random, START), "{why}");
            assert_eq!(health.ejected_until(START).map(|(_, why)| why), Some(why));
        }
    }

    #[test]
    fn answers_that_do_not_come_tell_a_slowness_too() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut health = Health::default();
        (0..100).for_each(|_| answered(&mut health, MS * 100, START));
        (0..10).for_each(|_| health.launched(START));
        assert!(!health.judge(health.latency(START + MS * 300), Some(MS * 100), false, &mut random, START + MS * 300));
        assert!(health.judge(health.latency(START + MS * 310), Some(MS * 100), false, &mut random, START + MS * 310));
    }

    #[test]
    fn what_nobody_saw_lately_counts_for_less() {
        let mut health = Health::default();
        (0..30).for_each(|_| answered(&mut health, MS * 1000, START));
        let at = |secs: u64| {
            let now = START + MS * 1000 + Duration::from_secs(secs);
            health.faded(health.latency(now), MS * 100, now).as_millis()
        };
        assert!((990..=1010).contains(&at(0)) && (400..460).contains(&at(10)) && at(60) < 105, "{} {}", at(0), at(10));
    }

    #[test]
    fn small_differences_are_no_slowness() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut health = Health::default();
        (0..50).for_each(|_| answered(&mut health, MS * 5, START));
        assert!(!health.judge(health.latency(START), Some(MS), false, &mut random, START));
    }

    fn failed(health: &mut Health, at: Time) {
        health.launched(at);
        health.failed(at, true, at);
    }

    #[test]
    fn failures_eject_while_another_endpoint_serves_and_good_probes_end_it() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut health = Health::default();
        (0..50).for_each(|_| answered(&mut health, MS * 100, START));
        for n in 0..7 {
            assert!(!health.judge(health.latency(START), Some(MS * 100), true, &mut random, START), "{n} failures");
            failed(&mut health, START);
        }
        assert!(!health.judge(health.latency(START), Some(MS * 100), false, &mut random, START), "nobody else serves");
        assert!(health.judge(health.latency(START), None, true, &mut random, START));
        // A bad probe ejects it again as soon as its time is over.
        let later = START + MS * 34_000;
        failed(&mut health, later);
        assert!(health.judge(health.latency(later), None, true, &mut random, later) && health.is_ejected(later));
        (0..3).for_each(|_| answered(&mut health, MS * 100, later));
        assert!(!health.is_ejected(later) && !health.is_failing(later), "what it was before is over");
    }

    #[test]
    fn client_errors_are_no_samples_and_good_probes_only_where_everybody_answers_so() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut health = Health::default();
        let declined = |health: &mut Health, odd| {
            health.launched(START);
            health.declined(START, odd, START + MS * 5);
        };
        (0..10).for_each(|_| declined(&mut health, false));
        assert_eq!((health.latency(START), health.is_failing(START), health.serves()), (None, false, false));
        (0..15).for_each(|_| declined(&mut health, false));
        assert!(health.is_failing(START + MS * 5));
        assert!(health.judge(health.latency(START + MS * 5), None, true, &mut random, START + MS * 5));
        (0..5).for_each(|_| declined(&mut health, true));
        assert!(health.is_ejected(START + MS * 5));
        (0..3).for_each(|_| declined(&mut health, false));
        assert!(!health.is_ejected(START + MS * 5));
    }

    #[test]
    fn who_gives_up_long_after_others_would_have_answered_tells_that_it_hangs() {
        for (others, own, took, tells) in [
            (Some(MS * 100), None, MS * 290, false),
            (Some(MS * 100), None, MS * 310, true),
            (Some(MS * 100), Some(MS * 2000), MS * 310, true),
            (None, Some(MS * 100), MS * 290, false),
            (None, Some(MS * 100), MS * 310, true),
            (None, None, MS * 499, false),
            (None, None, MS * 500, true),
        ] {
            let mut health = Health::default();
            if let Some(own) = own {
                answered(&mut health, own, START);
            }
            health.launched(START);
            health.abandoned(START, others, START + took);
            let expected = health.faded(Some(MS * 100), MS * 100, START + took);
            assert_eq!(expected > MS * 200, tells, "{others:?}, {own:?}, {took:?}: {expected:?}");
            assert!(!health.is_failing(START + took), "once");
            health.launched(START);
            health.abandoned(START, others, START + took);
            assert_eq!(health.is_failing(START + took), tells, "twice");
            answered(&mut health, MS * 100, START + took);
            assert!(!health.is_failing(START + took) && health.faded(None, MS * 100, START + took) < MS * 300);
        }
    }

    #[test]
    fn ejections_grow_and_shrink_again_though_it_is_called_all_the_time() {
        let (mut random, mut health, mut now) = (fastrand::Rng::with_seed(3), Health::default(), START);
        let mut eject = |health: &mut Health, now: Time| {
            (0..7).for_each(|_| {
                health.launched(now);
                health.failed(now, true, now);
            });
            assert!(health.judge(None, None, true, &mut random, now));
            let left = health.ejected_until(now).unwrap().0.since(now);
            health.lift();
            (left.as_secs_f64() / EJECTION.as_secs_f64()).round() as u32
        };
        for times in [1, 2, 3, 4] {
            assert_eq!(eject(&mut health, now), times);
            now += EJECTION * (times + 1);
        }
        // A quarter of an hour of calls, and some more.
        for _ in 0..1_000 {
            answered(&mut health, MS, now);
            now += Duration::from_secs(1);
        }
        assert_eq!(eject(&mut health, now), 2, "four, less three times five minutes, and this one");
        for _ in 0..20 {
            let last = eject(&mut health, now);
            assert!(last <= 10, "{last}");
        }
    }
}
