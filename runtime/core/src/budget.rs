//! The retry budget of a destination: retries may be at most a share of its requests, so that an outage is not
//! multiplied, with a floor that lets quiet destinations retry at all.
//!
//! Both counts are over the last ten seconds, by two half-overlapping buckets of ten: the one before counts by the part
//! of it that is still inside the window. That is exact for even traffic and needs four words instead of a history.

use crate::{
    rest::{Group, In, Out, Rest},
    time::{Time, nanos},
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The window over which requests and retries are counted.
pub const WINDOW: Duration = Duration::from_secs(10);

/// Requests in a [`WINDOW`] from which on one trial is allowed in it, whatever the share of hedges.
const FOR_A_TRIAL: f64 = 5.0;

/// How much may be retried.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Retries per request over the last [`WINDOW`], 0.2 unless stated.
    pub share: f64,
    /// Retries per second that are always allowed, 10 unless stated.
    pub per_second: u32,
    /// Hedges and trials of ejected endpoints per request over the same time, 0.05 unless stated. They are retries, too.
    /// Where that is less than one, from five requests on one trial is allowed all the same, unless this is 0.
    pub hedges: f64,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { share: 0.2, per_second: 10, hedges: 0.05 }
    }
}

/// What was spent lately.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// Number of the current bucket, wrapping.
    bucket: u32,
    requests: [u32; 2],
    retries: [u32; 2],
    hedges: [u32; 2],
}

impl Rest for Spent {
    const SIZE: usize = u32::SIZE + <(Group<2>, Group<4>)>::SIZE;
    #[inline(always)]
    fn more(&self) -> usize {
        self.groups().more()
    }
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        self.bucket.write(out);
        self.groups().write(out);
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        self.bucket.read(from);
        let mut groups = self.groups();
        groups.read(from);
        let (Group(requests), Group([first, second, third, fourth])) = groups;
        (self.requests, self.retries, self.hedges) = (requests, [first, second], [third, fourth]);
    }
}

impl Spent {
    /// Requests, and what most destinations have none of.
    fn groups(&self) -> (Group<2>, Group<4>) {
        let ([first, second], [third, fourth]) = (self.retries, self.hedges);
        (Group(self.requests), Group([first, second, third, fourth]))
    }

    /// What is of no meaning at this time any more is gone.
    pub(crate) fn roll(&mut self, now: Time) {
        let bucket = (now.as_nanos() / nanos(WINDOW)) as u32;
        if bucket == self.bucket {
            return;
        }
        let keep = bucket == self.bucket.wrapping_add(1);
        let shift = |[_, current]: [u32; 2]| [if keep { current } else { 0 }, 0];
        self.requests = shift(self.requests);
        self.retries = shift(self.retries);
        self.hedges = shift(self.hedges);
        self.bucket = bucket;
    }

    fn weigh([before, current]: [u32; 2], now: Time) -> f64 {
        let width = nanos(WINDOW);
        let inside = 1.0 - (now.as_nanos() % width) as f64 / width as f64;
        f64::from(before) * inside + f64::from(current)
    }

    /// A first attempt left.
    pub fn request(&mut self, now: Time) {
        self.roll(now);
        self.requests[1] = self.requests[1].saturating_add(1);
    }

    /// Takes one retry if the budget has it: within `share` of the requests, or within `per_second`.
    pub fn retry(&mut self, budget: &Budget, now: Time) -> bool {
        self.roll(now);
        if self.unspent(budget, now) < 1.0 {
            return false;
        }
        self.retries[1] = self.retries[1].saturating_add(1);
        true
    }

    /// Another budget granted a retry.
    pub(crate) fn retried(&mut self, now: Time) {
        self.roll(now);
        self.retries[1] = self.retries[1].saturating_add(1);
    }

    /// Takes one hedge if the budget has it: within `hedges` of the requests, and as a retry.
    pub fn hedge(&mut self, budget: &Budget, now: Time) -> bool {
        self.roll(now);
        if Self::weigh(self.hedges, now) + 1.0 > Self::weigh(self.requests, now) * budget.hedges
            || !self.retry(budget, now)
        {
            return false;
        }
        self.hedges[1] = self.hedges[1].saturating_add(1);
        true
    }

    /// Takes one trial of an endpoint that is left alone: as a hedge, or, where there are too few requests for that, one in
    /// about ten seconds.
    pub fn trial(&mut self, budget: &Budget, now: Time) -> bool {
        if self.hedge(budget, now) {
            return true;
        }
        let scarce = Self::weigh(self.hedges, now) <= 0.5 && Self::weigh(self.requests, now) >= FOR_A_TRIAL;
        if budget.hedges == 0.0 || !scarce || !self.retry(budget, now) {
            return false;
        }
        self.hedges[1] = self.hedges[1].saturating_add(1);
        true
    }

    fn unspent(&self, budget: &Budget, now: Time) -> f64 {
        let allowed =
            (Self::weigh(self.requests, now) * budget.share).max(f64::from(budget.per_second) * WINDOW.as_secs_f64());
        allowed - Self::weigh(self.retries, now)
    }

    /// Retries that the budget has now.
    pub fn left(&mut self, budget: &Budget, now: Time) -> u32 {
        self.roll(now);
        self.unspent(budget, now).max(0.0) as u32
    }

    /// Requests and retries of the last [`WINDOW`].
    pub fn lately(&mut self, now: Time) -> (u32, u32) {
        self.roll(now);
        (Self::weigh(self.requests, now) as u32, Self::weigh(self.retries, now) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_destination_may_retry_ten_a_second() {
        let (mut spent, budget, now) = (Spent::default(), Budget::default(), Time::from_millis(100_000));
        let granted = (0..500).filter(|_| spent.retry(&budget, now)).count();
        assert_eq!(granted, 100);
    }

    #[test]
    fn a_busy_destination_may_retry_a_fifth_of_its_requests() {
        let (mut spent, budget, now) = (Spent::default(), Budget::default(), Time::from_millis(100_000));
        (0..10_000).for_each(|_| spent.request(now));
        assert_eq!((0..9_000).filter(|_| spent.retry(&budget, now)).count(), 2_000);
    }

    #[test]
    fn a_quiet_destination_may_try_an_endpoint_once_in_ten_seconds() {
        let (mut spent, budget) = (Spent::default(), Budget::default());
        let mut trials = 0;
        for second in 0..60 {
            let now = Time::from_millis(100_000 + second * 1_000);
            spent.request(now);
            assert!(!spent.hedge(&budget, now), "a hedge is no trial");
            trials += usize::from(spent.trial(&budget, now));
            assert!(!spent.trial(&budget, now), "one is enough");
        }
        assert!((4..=7).contains(&trials), "{trials}");
        let none = Budget { hedges: 0.0, ..budget };
        let later = Time::from_millis(190_000);
        (0..10).for_each(|_| spent.request(later));
        assert!(!spent.trial(&none, later) && spent.trial(&budget, later));
    }

    #[test]
    fn the_budget_comes_back_with_time() {
        let (mut spent, budget, now) = (Spent::default(), Budget::default(), Time::from_millis(100_000));
        while spent.retry(&budget, now) {}
        assert_eq!(spent.left(&budget, now), 0);
        assert!(!spent.retry(&budget, now + Duration::from_secs(9)));
        assert!(spent.retry(&budget, now + Duration::from_secs(11)));
        assert_eq!(spent.lately(now + Duration::from_secs(40)), (0, 0));
        assert_eq!(spent.left(&budget, now + Duration::from_secs(40)), 100);
    }
}
