//! Refusals that have nothing to do with how fast requests come.
//!
//! Some upstreams refuse by chance: overloaded, badly balanced, or full of other people's requests. A pace that is learned
//! from such refusals keeps none of them away, and each of them lowers it further. Two things tell them from a limit.
//!
//! *Who left after the refused one.* A limit that refuses one request refuses what leaves right after it, too, whatever its
//! kind, but for the little that comes free meanwhile; chance lets pass as many as before. So a cut that was made while no
//! pace held anybody is looked at: what became of those that had left after the refused request, before its refusal was
//! known? Each is a step towards chance or towards a limit (Wald's sequential test). That costs no request more than the
//! cut did, and no pause is cut short.
//!
//! *Whether a pace helps.* Where cut follows cut at a learned pace, each after few requests, calls leave without it after the
//! next pause, so that the next cuts can be looked at, and it is seen whether it was far too low.
//!
//! Then calls are *free*: a refusal is its call's own matter, which waits as it was told, and nobody else does. Until most are
//! refused, that is no chance; or until so many were that the question is put the other way round: at four fifths of what
//! passed lately a limit, or an overload, refuses nothing, and chance as much as before.

use crate::{
    rest::{In, Out, Rest, at_rest},
    time::Time,
};
use std::time::Duration;

/// What those who left after a refused request show, in steps of three to one: that one passed is about nine times as
/// likely by chance as at a limit, that one was refused three times less. So many steps make chance, or a limit, certain enough.
const PASSED: i16 = 2;
const REFUSED: i16 = -1;
const BY_CHANCE: i16 = 6;
const A_LIMIT: i16 = -2;
/// So many cuts that are looked at and leave it open make no case against a limit.
const LOOKS: u8 = 4;
/// Below this, a limit is likely enough to learn its pace.
const LIKELY_A_LIMIT: i16 = 0;
/// Cuts at a learned pace, one soon after the other, after which it is left out; each time it was needed, twice as many.
const CUTS: (u8, u8) = (3, 96);
/// They say so only when a pace was sought for so long: it is found fast where waits are short.
const SOUGHT: Duration = Duration::from_secs(4);
/// Requests that pass between two such cuts, on average, at most; a pace that holds for so many times as many helps.
const FEW: u32 = 8;
const LONG: u32 = 4;
/// A refusal that names a longer wait speaks for the destination in any case.
const LONGEST: Duration = Duration::from_secs(2);
/// The part of refusals, of about so many requests, above which they are no chance.
const MOST: f64 = 0.8;
const RECENT: f64 = 16.0;
/// What it is taken for at first.
const FIRST_SHARE: f64 = 0.25;
/// Refusals until the question is put the other way round, the first time and at most: twice as many after each answer.
const AGAIN: (u16, u16) = (8, 4096);
/// The part of what passed lately that is tried then.
const SLOWER: f64 = 0.8;
/// How many times as many requests as usual must pass there without a refusal: by chance they do in one case of 400.
const WITHOUT: f64 = 6.0;
/// A call that was refused so often that chance would do so to one of a million calls is to blame itself.
const NEVER: f64 = 1e-6;

/// What is known about whether refusals have to do with the pace.
#[derive(Debug)]
pub(super) struct Chance {
    /// The refused request whose followers are looked at, by its number.
    after: Option<u16>,
    expected: u16,
    /// What they show so far.
    score: i16,
    /// Whether there were any since the last cut.
    seen: bool,
    looked: u8,
    /// Cuts at a learned pace that follow each other closely, how many it takes, and what passed between them.
    cuts: u8,
    needed: u8,
    between: u32,
    /// No pace holds calls until the next cut.
    trial: bool,
    freed: Freed,
    /// How many refusals will be their calls' own the next time.
    again: u16,
    since: Time,
}

/// Calls are free.
#[derive(Debug, Default)]
struct Freed {
    /// Refusals that are still their calls' own; none: they are not.
    left: u16,
    lately: Lately,
}

#[derive(Debug, Default)]
struct Lately {
    /// The part of refusals.
    share: f64,
    /// What passed.
    accepted: u32,
    /// Requests that have yet to pass at a slower pace without a refusal.
    asks: u16,
}

at_rest!(Lately { share, accepted, asks });

impl Rest for Freed {
    const SIZE: usize = size_of::<u16>();

    fn more(&self) -> usize {
        if self.left > 0 { Lately::SIZE } else { 0 }
    }

    fn write(&self, out: &mut Out<'_>) {
        self.left.write(out);
        if self.left > 0 {
            out.one(&self.lately);
        }
    }

    fn read(&mut self, from: &mut In<'_>) {
        self.left.read(from);
        if self.left > 0 {
            from.one(&mut self.lately);
        } else {
            self.lately = Lately::default();
        }
    }
}

impl Default for Chance {
    fn default() -> Chance {
        Chance {
            after: None,
            expected: 0,
            score: 0,
            seen: false,
            looked: 0,
            cuts: 0,
            needed: CUTS.0,
            between: 0,
            trial: false,
            freed: Freed::default(),
            again: AGAIN.0,
            since: Time::ZERO,
        }
    }
}

at_rest!(
    Chance { freed, score, looked, cuts, needed, again, since, trial } counts { between } else {
        after: None,
        expected: 0,
        seen: false
    }
);

/// What a cut was, when its pause ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// The limit of a pace.
    Limit,
    /// Perhaps chance: nothing is learned, and the next is looked at.
    Perhaps,
    /// What was learned before is right.
    Needed,
    /// It is not, whatever is.
    Anew,
    Chance,
}

/// What a refusal is where calls are free.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Free {
    /// Its call's own.
    Own,
    /// The same, and a pace is tried from here on.
    Asks(f64),
    /// The same: the pace that is tried does not help.
    Useless,
    /// Too many are refused: of so many since then.
    Limit { accepted: u32, since: Time },
}

impl Chance {
    /// Whether refusals are their calls' own.
    pub(super) fn is_free(&self) -> bool {
        self.freed.left > 0
    }

    /// What passed in the trial before a cut before which so many did.
    pub(super) fn in_trial(&self, accepted: u32) -> u32 {
        self.between.saturating_add(accepted)
    }

    /// Whether what was learned holds nobody.
    pub(super) fn tries(&self) -> bool {
        self.trial
    }

    /// Whether a refusal may be by chance that names this wait.
    pub(super) fn may_be(wait: Option<Duration>) -> bool {
        wait.is_none_or(|wait| wait <= LONGEST)
    }

    /// A cut while nothing held anybody: the refused request is this one. `expected`: so many of those who left after it a
    /// limit would let pass. `passed`: one of them did.
    pub(super) fn looks(&mut self, after: u16, expected: f64, passed: bool, now: Time) -> bool {
        self.after = Some(after);
        self.expected = if expected < 1.0 { 0 } else { expected.ceil() as u16 };
        passed && self.scores(true, now)
    }

    /// One that left before the cut was made passed, or not. Returns whether refusals are found to be by chance.
    pub(super) fn sees(&mut self, number: u16, passed: bool, now: Time) -> bool {
        let later = self.after.is_some_and(|after| (number.wrapping_sub(after) as i16) > 0);
        later && self.scores(passed, now)
    }

    fn scores(&mut self, passed: bool, now: Time) -> bool {
        if passed && self.expected > 0 {
            self.expected -= 1;
            return false;
        }
        self.seen = true;
        let step = if passed { PASSED } else { REFUSED };
        self.score = (self.score + step).max(A_LIMIT);
        let found = self.score >= BY_CHANCE;
        if found {
            self.frees(now);
        }
        found
    }

    fn frees(&mut self, now: Time) {
        self.freed.lately.share = FIRST_SHARE;
        (self.after, self.score, self.seen) = (None, 0, false);
        (self.trial, self.cuts, self.between) = (false, 0, 0);
        self.freed.left = self.again;
        (self.freed.lately.accepted, self.since, self.freed.lately.asks) = (0, now, 0);
    }

    /// The pause after a cut is over, before which so many had passed since the one before. `paced`: a pace was learned.
    /// `gains`: without it far more passed than it would have let. `pressed`: others waited.
    pub(super) fn shows(&mut self, accepted: u32, paced: bool, gains: bool, pressed: bool, now: Time) -> Shown {
        self.after = None;
        if self.trial {
            self.between = self.between.saturating_add(accepted);
        }
        if paced && !self.trial {
            self.counts(accepted, now);
            return Shown::Limit;
        }
        let seen = std::mem::take(&mut self.seen);
        if !self.trial {
            self.trial = seen && self.score >= LIKELY_A_LIMIT;
            self.looked = u8::from(self.trial);
            self.score = if self.trial { self.score } else { 0 };
            return Shown::Limit;
        }
        if !seen && !pressed {
            // Nobody else called: nobody is disturbed.
            self.frees(now);
            return Shown::Chance;
        }
        if !seen {
            self.score = (self.score + REFUSED).max(A_LIMIT);
        }
        self.looked += 1;
        if self.score > A_LIMIT && self.looked < LOOKS {
            return Shown::Perhaps;
        }
        let limited = self.score <= A_LIMIT;
        (self.score, self.trial, self.between) = (0, false, 0);
        if gains {
            self.needed = CUTS.0;
            return Shown::Anew;
        }
        if limited {
            self.needed = self.needed.saturating_mul(2).min(CUTS.1);
        }
        Shown::Needed
    }

    /// What was learned is forgotten.
    pub(super) fn unlearns(&mut self) {
        if self.trial {
            (self.trial, self.score) = (false, 0);
        }
        (self.cuts, self.between) = (0, 0);
    }

    fn counts(&mut self, accepted: u32, now: Time) {
        if accepted > FEW * LONG || self.cuts == 0 {
            (self.cuts, self.between, self.since) = (1, 0, now);
            return;
        }
        self.cuts = self.cuts.saturating_add(1);
        self.between = self.between.saturating_add(accepted);
        if self.between > FEW * u32::from(self.cuts) {
            (self.cuts, self.between, self.since) = (1, 0, now);
        } else if self.cuts > self.needed && now.since(self.since) >= SOUGHT {
            (self.cuts, self.between) = (0, 0);
            (self.trial, self.looked) = (true, 0);
        }
    }

    /// Calls are free: one was refused.
    pub(super) fn refuses(&mut self, left: Time, now: Time) -> Free {
        self.freed.lately.share += (1.0 - self.freed.lately.share) / RECENT;
        if self.freed.lately.share > MOST {
            (self.freed.left, self.freed.lately.asks) = (0, 0);
            return Free::Limit { accepted: self.freed.lately.accepted, since: self.since };
        }
        if self.freed.lately.asks > 0 && left < self.since {
            return Free::Own;
        }
        if self.freed.lately.asks > 0 {
            self.again = self.again.saturating_mul(2).min(AGAIN.1);
            (self.freed.left, self.freed.lately.asks) = (self.again, 0);
            (self.freed.lately.accepted, self.since) = (0, now);
            return Free::Useless;
        }
        self.freed.left -= 1;
        if self.freed.left > 0 {
            if self.freed.left == AGAIN.0 {
                (self.freed.lately.accepted, self.since) = (0, now);
            }
            return Free::Own;
        }
        self.freed.left = 1;
        if self.freed.lately.accepted == 0 {
            return Free::Own;
        }
        let usual = f64::from(self.freed.lately.accepted) / f64::from(AGAIN.0) + 1.0;
        self.freed.lately.asks = (WITHOUT * usual).min(f64::from(u16::MAX)) as u16;
        let passes = f64::from(self.freed.lately.accepted) / now.since(self.since).as_secs_f64().max(0.001);
        (self.freed.lately.accepted, self.since) = (0, now);
        Free::Asks(SLOWER * passes)
    }

    /// Calls are free: one passed. Returns whether the pace that is tried helps.
    pub(super) fn passes(&mut self, left: Time) -> bool {
        self.freed.lately.share -= self.freed.lately.share / RECENT;
        self.freed.lately.accepted = self.freed.lately.accepted.saturating_add(1);
        if self.freed.lately.asks == 0 || left < self.since {
            return false;
        }
        self.freed.lately.asks -= 1;
        let helps = self.freed.lately.asks == 0;
        if helps {
            self.freed.left = 0;
        }
        helps
    }

    /// Nobody called for a while.
    pub(super) fn quiet(&mut self, now: Time) {
        if self.is_free() && self.freed.lately.asks == 0 {
            (self.freed.lately.accepted, self.since) = (0, now);
        }
    }

    /// Whether the one looked at is likely chance.
    pub(super) fn leans(&self) -> bool {
        self.score > 0
    }

    /// How often a call is refused that is to blame for it, where calls are free.
    pub(super) fn owned_after(&self) -> u8 {
        (NEVER.ln() / self.freed.lately.share.clamp(0.01, 0.95).ln()).ceil() as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_millis(1_000_000);
    const SEC: Duration = Duration::from_secs(1);

    /// What those show that left after a refused request, in the order of their answers (`+` passed, `-` was refused),
    /// where a limit would let `expected` of them pass: whether calls are free then, and what is learned if not.
    fn look(expected: f64, story: &str) -> (bool, Shown) {
        let mut chance = Chance::default();
        chance.looks(7, expected, false, NOW);
        for (number, answer) in (8..).zip(story.chars()) {
            chance.sees(number, answer == '+', NOW);
        }
        (chance.is_free(), chance.shows(20, false, false, true, NOW))
    }

    #[test]
    fn the_table_of_looks() {
        for (expected, story, free, tries, why) in [
            (0.0, "", false, false, "nobody left after it: as ever"),
            (0.0, "---", false, false, "a limit refuses all"),
            (0.0, "--", false, false, "and so it does here"),
            (0.0, "+", false, true, "one passed: the next cut is looked at, too"),
            (0.0, "+-", false, true, "perhaps"),
            (0.0, "+++", true, false, "no limit lets three pass"),
            (0.0, "+-++", false, true, "nearly"),
            (0.0, "+-+++", true, false, "nor four of five"),
            (2.0, "++", false, false, "as many as a limit would let"),
            (2.0, "+++++", true, false, "three more than that"),
        ] {
            let mut chance = Chance::default();
            chance.looks(7, expected, false, NOW);
            for (number, answer) in (8..).zip(story.chars()) {
                chance.sees(number, answer == '+', NOW);
            }
            assert_eq!(chance.is_free(), free, "{why}: {story}");
            if !free {
                assert_eq!(look(expected, story), (false, Shown::Limit), "{why}: {story}");
                chance.shows(20, false, false, true, NOW);
                assert_eq!(chance.tries(), tries, "{why}: {story}");
            }
        }
    }

    #[test]
    fn who_left_before_the_refused_one_shows_nothing() {
        let mut chance = Chance::default();
        chance.looks(7, 0.0, false, NOW);
        (0..7).for_each(|number| assert!(!chance.sees(number, true, NOW)));
        assert!(!chance.is_free());
    }

    #[test]
    fn a_pace_that_keeps_nothing_away_is_left_out_and_one_that_was_needed_less_often() {
        let (mut chance, mut now) = (Chance::default(), NOW);
        for needed in [3, 6, 12] {
            for cut in 0..needed {
                assert!(!chance.tries(), "cut {cut} of {needed}");
                chance.shows(3, true, false, true, now);
                now += SEC * 2;
            }
            chance.shows(3, true, false, true, now);
            assert!(chance.tries(), "after {needed}");
            chance.looks(1, 0.0, false, now);
            chance.sees(2, false, now);
            chance.sees(3, false, now);
            assert_eq!(chance.shows(1, true, false, true, now), Shown::Needed);
        }
        // One that holds for long is no such pace.
        for _ in 0..100 {
            now += SEC * 2;
            chance.shows(100, true, false, true, now);
            assert!(!chance.tries());
        }
    }

    fn free() -> Chance {
        let mut chance = Chance::default();
        chance.looks(0, 0.0, false, NOW);
        (1..4).for_each(|number| _ = chance.sees(number, true, NOW));
        assert!(chance.is_free());
        chance
    }

    #[test]
    fn whether_a_pace_would_help_is_asked_now_and_then() {
        let mut chance = free();
        let now = NOW + SEC;
        for _ in 1..AGAIN.0 {
            (0..10).for_each(|_| assert!(!chance.passes(now)));
            assert_eq!(chance.refuses(now, now), Free::Own);
        }
        let Free::Asks(pace) = chance.refuses(now, now) else { panic!("it is time") };
        assert!((pace - SLOWER * 70.0).abs() < 1e-6, "{pace}");
        // One that left before says nothing; one that left since does.
        assert_eq!(chance.refuses(now - SEC, now), Free::Own);
        assert_eq!(chance.refuses(now, now), Free::Useless);
        assert_eq!(chance.freed.left, AGAIN.0 * 2, "the next time is further away");
    }

    #[test]
    fn a_pace_that_helps_ends_it() {
        let mut chance = free();
        let now = NOW + SEC;
        (0..70).for_each(|_| _ = chance.passes(now));
        (0..AGAIN.0).for_each(|_| _ = chance.refuses(now, now));
        let passed = (0..1_000).take_while(|_| !chance.passes(now)).count();
        assert!(!chance.is_free() && (50..100).contains(&passed), "{passed}");
    }

    #[test]
    fn where_most_are_refused_it_is_no_chance() {
        let mut chance = free();
        chance.freed.left = 1_000;
        let refused = (0..100).take_while(|_| chance.refuses(NOW, NOW) == Free::Own).count();
        assert!(!chance.is_free() && refused < 30, "{refused}");
    }

    #[test]
    fn the_more_are_refused_the_more_refusals_it_takes_to_blame_a_call() {
        let mut chance = free();
        for (share, refusals) in [(0.03, 4), (0.1, 6), (0.33, 13), (0.5, 20)] {
            chance.freed.lately.share = share;
            assert_eq!(chance.owned_after(), refusals, "{share}");
        }
    }
}
