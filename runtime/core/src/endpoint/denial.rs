//! An endpoint that says of itself that no waiting helps (an account out of credit): others take its calls.

use crate::time::{Time, nanos};
use std::time::Duration;

/// How long it is believed at first; the n-th time in a row n times as long, up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(300);
/// Gap between copies of calls that look whether it is true still.
const GAP: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Denial {
    since: Time,
    until: Time,
    next_copy: Time,
    times: u8,
}

impl Denial {
    /// Whether there is nothing to be kept.
    pub(super) fn rests(&self) -> bool {
        *self == Denial::default()
    }

    /// It denied a call.
    pub(crate) fn denied(&mut self, random: &mut fastrand::Rng, now: Time) {
        if self.until > now {
            // Of several at once the first counts.
            return;
        }
        let calm = nanos(now.since(self.until)) / nanos(LONGEST);
        self.times = self.times.saturating_sub(u8::try_from(calm).unwrap_or(u8::MAX)).saturating_add(1);
        let time = FIRST.saturating_mul(u32::from(self.times)).min(LONGEST);
        self.until = now + time.mul_f64(0.9 + random.f64() / 5.0);
        (self.since, self.next_copy) = (now, now + GAP);
    }

    /// It served a call that left at this time: so it is over, unless the call had left before.
    pub(crate) fn served(&mut self, left: Time) {
        if left > self.since {
            self.lift();
        }
    }

    /// An operator says that it is over.
    pub(crate) fn lift(&mut self) {
        *self = Denial::default();
    }

    /// Until when its calls go elsewhere, where they can.
    pub(super) fn until(&self, now: Time) -> Option<Time> {
        Some(self.until).filter(|until| now < *until)
    }

    /// Whether a copy of a call should try it now; the next may in a while.
    pub(super) fn wants_copy(&mut self, now: Time) -> bool {
        let due = now < self.until && now >= self.next_copy;
        if due {
            self.next_copy = now + GAP;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_millis(1_000_000);
    const SEC: Duration = Duration::from_secs(1);

    #[test]
    fn a_denial_lasts_longer_each_time_until_a_call_is_served() {
        let (mut denial, mut random, mut now) = (Denial::default(), fastrand::Rng::with_seed(1), NOW);
        for times in [1, 2, 3, 9, 20] {
            while denial.times < times {
                denial.denied(&mut random, now);
                let left = denial.until(now).unwrap().since(now);
                let expected = (FIRST * u32::from(denial.times)).min(LONGEST);
                assert!((expected.mul_f64(0.89)..expected.mul_f64(1.11)).contains(&left), "{left:?} of {expected:?}");
                now = denial.until(now).unwrap();
            }
        }
        assert_eq!(denial.until(now), None);
        denial.denied(&mut random, now);
        denial.served(now);
        assert!(denial.until(now).is_some(), "it left before");
        denial.served(now + SEC);
        assert!(denial.until(now).is_none() && denial.rests());
        denial.denied(&mut random, now);
        assert!(denial.until(now).unwrap().since(now) <= FIRST.mul_f64(1.1));
    }

    #[test]
    fn a_copy_tries_it_every_two_seconds() {
        let (mut denial, mut random) = (Denial::default(), fastrand::Rng::with_seed(1));
        assert!(!denial.wants_copy(NOW));
        denial.denied(&mut random, NOW);
        let tries: Vec<_> = (0..6).filter(|seconds| denial.wants_copy(NOW + SEC * *seconds)).collect();
        assert_eq!(tries, [2, 4]);
        assert!(!denial.wants_copy(NOW + LONGEST));
    }
}
