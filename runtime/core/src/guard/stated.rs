//! What answers state ahead of a refusal: of a quota nothing is left until then. So the next request waits, and the
//! refusal never happens.
//!
//! Words are wrong here, too: of a quota that is not enforced, of one that others use, of a clock. A wrong word that
//! nobody tests would hold a destination for ever, as every answer says it again. So a few pauses are believed, the next
//! is tested by a try half way to its end. A try that is refused earns belief for a while, each time twice as long; one
//! that passes ends the pause, and what is stated counts for nothing until calls that left against it are refused. A
//! pause that is longer than what is believed of any header is tried from its beginning, see [`super::doubt`].

use super::doubt::Doubt;
use crate::{
    calls::Call,
    signal::{Source, SpentQuota},
    time::Time,
};
use std::time::Duration;

/// Pauses that are believed of a destination that has not shown yet what its words are worth.
const FIRST_CREDIT: u8 = 2;
/// A shorter wait is none: it is over before anybody could be refused for it, and nothing could be learned from it.
const LEAST: Duration = Duration::from_millis(10);
/// Standing that further confirmations do not raise: 64 pauses between two tests.
const BEST: i8 = 4;
/// Standing that further contradictions do not lower: so many refusals restore it.
const WORST: i8 = -8;
/// What a contradiction costs: more than a confirmation is worth.
const CONTRADICTED: i8 = 2;

/// What a destination states, and what that was worth.
#[derive(Debug)]
pub(super) struct Stated {
    /// When it was stated last, until when, and by what.
    said: Time,
    until: Time,
    source: Source,
    /// Whether calls have to wait for that, and whether one did.
    holds: bool,
    held: bool,
    /// When a try leaves, if before the end.
    next: Time,
    doubt: Option<Doubt>,
    /// The try that is out.
    trying: Option<Call>,
    /// Pauses that are believed until the next test.
    credit: u8,
    /// Above zero: tests confirmed it. Below: it was contradicted.
    standing: i8,
}

impl Stated {
    pub(super) fn new(source: Source) -> Stated {
        Stated {
            said: Time::ZERO,
            until: Time::ZERO,
            source,
            holds: false,
            held: false,
            next: Time::NEVER,
            doubt: None,
            trying: None,
            credit: FIRST_CREDIT,
            standing: 0,
        }
    }

    /// An answer states that nothing is left. `believed`: the longest pause that is believed of a header.
    pub(super) fn says(&mut self, spent: SpentQuota, believed: Duration, random: &mut fastrand::Rng, now: Time) {
        let until = now + spent.wait;
        if spent.wait < LEAST {
            return;
        }
        if self.until > now {
            // The same shortage, told by another answer.
            if until > self.until {
                self.until = until;
                self.source = spent.source;
            }
            return;
        }
        (self.said, self.until, self.source) = (now, until, spent.source);
        (self.trying, self.next, self.doubt) = (None, Time::NEVER, None);
        self.holds = self.standing >= 0;
        if !self.holds {
            return;
        }
        self.doubt = Doubt::of(spent.wait, believed, random, now);
        match self.credit.checked_sub(1) {
            Some(left) => self.credit = left,
            None if self.doubt.is_none() => self.next = now + spent.wait / 2,
            None => {}
        }
    }

    /// What holds the next call, and until when at most.
    pub(super) fn hold(&mut self, now: Time) -> Option<(Time, Time, Source)> {
        if !self.holds || now >= self.until {
            return None;
        }
        let next = if self.trying.is_some() { Time::NEVER } else { self.tries_at() };
        self.held |= now < next;
        (now < next).then_some((next.min(self.until), self.until, self.source))
    }

    /// Whether calls waited for the end of a pause that is over. Says so once.
    pub(super) fn lets_go(&mut self, now: Time) -> bool {
        let over = !self.holds || now >= self.until;
        over && std::mem::take(&mut self.held)
    }

    fn tries_at(&self) -> Time {
        self.doubt.as_ref().map_or(self.next, Doubt::next)
    }

    /// When a call may count on leaving.
    pub(super) fn resumes(&self, now: Time) -> Option<Time> {
        let until = self.paused_until(now)?.0;
        Some(self.doubt.as_ref().map_or(until, |doubt| doubt.resumes(until)))
    }

    /// The end of the pause, where there is one.
    pub(super) fn paused_until(&self, now: Time) -> Option<(Time, Source)> {
        (self.holds && now < self.until).then_some((self.until, self.source))
    }

    /// A call leaves, which nothing held.
    pub(super) fn launch(&mut self, call: Call, now: Time) {
        if self.holds && now < self.until {
            self.trying = Some(call);
        }
    }

    /// Whether a call that was admitted before must not depart now.
    pub(super) fn stops(&self, call: Call, now: Time) -> bool {
        self.holds && now < self.until && self.trying != Some(call)
    }

    /// Whether a call left against what was stated.
    fn is_against(&self, left: Time) -> bool {
        left >= self.said && left < self.until
    }

    /// A request that left at `left` passed.
    pub(super) fn passed(&mut self, call: Call, left: Time, now: Time) {
        if !self.is_against(left) {
            self.over(call, now);
            return;
        }
        self.standing = (self.standing.min(0) - CONTRADICTED).max(WORST);
        self.credit = 0;
        // Each word is contradicted once.
        self.lift();
    }

    /// A request that left at `left` was refused, and told to wait so long. Says whether it was the try, which teaches
    /// nothing else: it left when it was expected to be refused.
    pub(super) fn refused(
        &mut self,
        call: Call,
        left: Time,
        wait: Option<Duration>,
        random: &mut fastrand::Rng,
        now: Time,
    ) -> bool {
        let tried = self.trying == Some(call);
        if self.is_against(left) {
            self.standing = (self.standing + 1).min(BEST);
            self.credit = if self.standing > 0 { 4 << self.standing } else { 0 };
            if let Some(doubt) = &mut self.doubt {
                doubt.failed(true, random, now);
            }
            self.next = Time::NEVER;
        }
        self.over(call, now);
        if tried {
            self.until = self.until.max(now + wait.unwrap_or_default());
        }
        tried
    }

    /// Somebody who knows better ends the pause.
    pub(super) fn lift(&mut self) {
        (self.holds, self.until, self.trying) = (false, self.said, None);
    }

    /// A call ended without telling anything.
    pub(super) fn over(&mut self, call: Call, now: Time) {
        if self.trying == Some(call) {
            self.trying = None;
            self.next = Time::NEVER;
            if let Some(doubt) = &mut self.doubt {
                doubt.waits(now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::Counted;

    const NOW: Time = Time::from_millis(1_000_000);
    const SEC: Duration = Duration::from_secs(1);
    const BELIEVED: Duration = Duration::from_secs(15);

    struct Case {
        stated: Stated,
        random: fastrand::Rng,
        now: Time,
        calls: u32,
    }

    impl Case {
        fn new() -> Case {
            let stated = Stated::new(Source::XRateLimit);
            Case { stated, random: fastrand::Rng::with_seed(1), now: NOW, calls: 0 }
        }

        /// An answer states this; the time at which a call may leave is returned.
        fn says(&mut self, wait: Duration) -> Duration {
            let spent = SpentQuota { wait, reset: wait, source: Source::XRateLimit, counted: Counted::Requests };
            self.stated.says(spent, BELIEVED, &mut self.random, self.now);
            self.stated.hold(self.now).map_or(Duration::ZERO, |(at, ..)| at.since(self.now))
        }

        /// A call leaves so much later, and is answered at once.
        fn call(&mut self, after: Duration, passes: bool) {
            self.now += after;
            self.calls += 1;
            let call = Call { index: self.calls, generation: 0 };
            self.stated.launch(call, self.now);
            match passes {
                true => self.stated.passed(call, self.now, self.now),
                false => {
                    self.stated.refused(call, self.now, None, &mut self.random, self.now);
                }
            }
        }
    }

    #[test]
    fn a_few_words_are_believed_the_next_is_tested_and_what_passes_is_believed_no_more() {
        let mut lies = Case::new();
        for _ in 0..FIRST_CREDIT {
            assert_eq!(lies.says(SEC * 4), SEC * 4);
            lies.call(SEC * 4, true);
        }
        assert_eq!(lies.says(SEC * 4), SEC * 2, "a test");
        lies.call(SEC * 2, true);
        for _ in 0..20 {
            assert_eq!(lies.says(SEC * 4), Duration::ZERO);
            lies.call(SEC, true);
        }
        // One refusal in between does not make it honest.
        lies.says(SEC * 4);
        lies.call(SEC, false);
        lies.now += SEC * 4;
        assert_eq!(lies.says(SEC * 4), Duration::ZERO);
    }

    #[test]
    fn each_test_that_confirms_it_makes_the_next_one_rarer() {
        let (mut honest, mut tests) = (Case::new(), Vec::new());
        for pause in 0..200 {
            let wait = honest.says(SEC * 4);
            if wait < SEC * 4 {
                tests.push(pause);
                honest.call(wait, false);
                honest.call(SEC * 4 - wait, true);
            } else {
                honest.call(wait, true);
            }
        }
        assert_eq!(tests, [2, 11, 28, 61, 126, 191]);
    }

    #[test]
    fn a_long_word_is_tried_from_the_beginning() {
        let mut lies = Case::new();
        let wait = lies.says(SEC * 600);
        assert!(wait >= SEC * 2 && wait <= SEC * 3, "{wait:?}");
        assert_eq!(lies.stated.resumes(lies.now), Some(lies.now + wait), "nobody is turned away yet");
        lies.call(wait, true);
        assert_eq!(lies.says(SEC * 600), Duration::ZERO);
        let mut honest = Case::new();
        let wait = honest.says(SEC * 600);
        honest.call(wait, false);
        assert_eq!(honest.stated.resumes(honest.now), Some(NOW + SEC * 600), "it is believed");
        assert!(honest.stated.hold(honest.now).is_some_and(|(at, ..)| at > honest.now + SEC * 3));
    }

    #[test]
    fn one_try_is_out_at_a_time_and_what_was_admitted_before_stays() {
        let mut case = Case::new();
        case.stated.credit = 0;
        case.says(SEC * 4);
        let [one, two] = [1, 2].map(|index| Call { index, generation: 0 });
        case.now += SEC * 2;
        assert!(case.stated.stops(one, case.now));
        assert_eq!(case.stated.hold(case.now), None);
        case.stated.launch(one, case.now);
        assert!(!case.stated.stops(one, case.now) && case.stated.stops(two, case.now));
        assert!(case.stated.hold(case.now).is_some());
        // It was given up: no other is sent in its place.
        case.stated.over(one, case.now);
        assert_eq!(case.stated.hold(case.now), Some((NOW + SEC * 4, NOW + SEC * 4, Source::XRateLimit)));
        // An answer to a call that left before says nothing about the word.
        case.stated.passed(two, NOW - SEC, case.now);
        assert!(case.stated.hold(case.now).is_some());
    }
}
