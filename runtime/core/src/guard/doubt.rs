//! When a long pause is tried before its end.
//!
//! A pause of minutes may rest on one word of one refusal, and words are wrong: of another quota, of a wrong clock, of
//! whoever stands in between. So where only a header speaks for more than is believed (`believed_pause`), a probe leaves after
//! [`FIRST`] and then after gaps that double. Until the first of them is refused nobody is turned away for the length of the pause;
//! from then on it is believed, and still tried now and then.

use crate::time::Time;
use std::time::Duration;

/// The first gap before a probe; half as much again by chance, so that nodes and destinations are not in step. Shorter,
/// the probe would meet the limit that refused; longer, callers that can wait a little would wait for nothing. No setting:
/// whoever wants no probes believes every pause.
const FIRST: Duration = Duration::from_secs(2);
/// The longest gap, without chance: a probe a minute is no load on anybody, and a pause that ends early is noticed.
const LONGEST: Duration = Duration::from_secs(60);

/// The probes of one long pause.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doubt {
    /// When the next may leave.
    next: Time,
    gap: Duration,
    /// A probe was refused: the pause is believed.
    confirmed: bool,
}

impl Doubt {
    /// The doubt about a pause that begins at `now` and has `left` to go; none where it is no longer than what is
    /// `believed`.
    pub(super) fn of(left: Duration, believed: Duration, random: &mut fastrand::Rng, now: Time) -> Option<Doubt> {
        (left > believed).then(|| Doubt { next: now + up_to_half_more(FIRST, random), gap: FIRST, confirmed: false })
    }

    /// When the next probe may leave.
    pub(super) fn next(&self) -> Time {
        self.next
    }

    /// When a call may count on leaving, of a pause until `until`.
    pub(super) fn resumes(&self, until: Time) -> Time {
        if self.confirmed { until } else { self.next.min(until) }
    }

    /// A probe came back without a word: the next one is as far away again.
    pub(super) fn waits(&mut self, now: Time) {
        self.next = self.next.max(now + self.gap);
    }

    /// A probe did not pass. `refused`: the destination said so itself.
    pub(super) fn failed(&mut self, refused: bool, random: &mut fastrand::Rng, now: Time) {
        self.confirmed |= refused;
        self.gap = (self.gap * 2).min(LONGEST);
        self.next = now + up_to_half_more(self.gap, random);
    }
}

/// What a call that stands back for a named wait believes of it.
pub(super) fn believed(wait: Duration, believed: Duration) -> Duration {
    if wait > believed { wait.min(FIRST) } else { wait }
}

fn up_to_half_more(gap: Duration, random: &mut fastrand::Rng) -> Duration {
    gap.mul_f64(1.0 + random.f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Time = Time::from_millis(1_000_000);
    const SEC: Duration = Duration::from_secs(1);

    #[test]
    fn the_table_of_gaps() {
        let mut random = fastrand::Rng::with_seed(3);
        for (left, believed, doubted) in [
            (SEC, SEC * 15, false),
            (SEC * 15, SEC * 15, false),
            (SEC * 16, SEC * 15, true),
            (SEC * 600, SEC * 15, true),
            (SEC * 600, SEC * 600, false),
            (SEC, Duration::ZERO, true),
        ] {
            assert_eq!(Doubt::of(left, believed, &mut random, NOW).is_some(), doubted, "{left:?} of {believed:?}");
        }
        let mut doubt = Doubt::of(SEC * 600, SEC * 15, &mut random, NOW).unwrap();
        let mut from = NOW;
        for gap in [2, 4, 8, 16, 32, 60, 60, 60] {
            let waits = doubt.next().since(from);
            assert!(waits >= SEC * gap && waits <= SEC * gap * 3 / 2, "{gap}: {waits:?}");
            from = doubt.next();
            doubt.failed(true, &mut random, from);
        }
    }

    #[test]
    fn it_is_believed_once_the_destination_says_it_again() {
        let mut random = fastrand::Rng::with_seed(3);
        let until = NOW + SEC * 600;
        let mut doubt = Doubt::of(SEC * 600, SEC * 15, &mut random, NOW).unwrap();
        assert_eq!(doubt.resumes(until), doubt.next());
        doubt.failed(false, &mut random, NOW + SEC * 3);
        assert_eq!(doubt.resumes(until), doubt.next(), "a failure says nothing about the pause");
        doubt.failed(true, &mut random, NOW + SEC * 10);
        assert_eq!(doubt.resumes(until), until);
        assert_eq!(believed(SEC * 15, SEC * 15), SEC * 15);
        assert_eq!(believed(SEC * 600, SEC * 15), FIRST);
        assert_eq!(believed(SEC, Duration::ZERO), SEC);
    }

    proptest! {
        #[test]
        fn probes_come_now_and_then_and_never_in_a_row(seed: u64, late_ms in prop::collection::vec(0u64..100_000, 1..30)) {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut doubt = Doubt::of(SEC * 600, SEC * 15, &mut random, NOW).unwrap();
            let mut now = NOW;
            for late in late_ms {
                let waits = doubt.next().since(now);
                prop_assert!(waits >= FIRST && waits <= LONGEST * 3 / 2, "{waits:?}");
                now = doubt.next() + Duration::from_millis(late);
                doubt.failed(late % 2 == 0, &mut random, now);
            }
        }
    }
}
