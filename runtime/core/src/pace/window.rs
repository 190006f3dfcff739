//! Counters for periods over a minute ("1,000 a day"): pacing those evenly would make the first call of the day wait
//! for its turn, so they are counted, in a ring of [`CELLS`] cells per period.
//!
//! A unit counts until a whole period after the *end* of its cell, so the quota holds in every half-open window; the
//! price is that a unit is forgotten up to one cell (1/64 of the period) late.

use crate::time::{Time, nanos};
use std::time::Duration;

/// Cells per period.
const CELLS: usize = 64;

/// A sliding window counter. Boxed in the limiter: half a kilobyte, only for destinations with long periods.
#[derive(Debug, Clone)]
pub struct Window {
    /// Units per cell, by cell number modulo the ring; one more than a period's worth, as the oldest counts to its end.
    ring: [u64; CELLS + 1],
    /// Number of the newest cell the ring holds.
    newest: u64,
    /// Sum of the ring.
    total: u64,
    /// Length of a cell in nanoseconds.
    cell: u64,
}

impl Window {
    /// An empty window of length `per`.
    pub fn new(per: Duration) -> Window {
        Window { ring: [0; CELLS + 1], newest: 0, total: 0, cell: nanos(per).div_ceil(CELLS as u64).max(1) }
    }

    fn index(number: u64) -> usize {
        usize::try_from(number % (CELLS as u64 + 1)).unwrap_or(0)
    }

    fn count(&self, number: u64) -> u64 {
        self.ring.get(Self::index(number)).copied().unwrap_or(0)
    }

    /// Forgets what is older than a period.
    fn advance(&mut self, now: Time) {
        let number = now.as_nanos() / self.cell;
        if number <= self.newest {
            return;
        }
        if number - self.newest > CELLS as u64 {
            self.ring = [0; CELLS + 1];
            self.total = 0;
        } else {
            for n in self.newest + 1..=number {
                if let Some(cell) = self.ring.get_mut(Self::index(n)) {
                    self.total -= *cell;
                    *cell = 0;
                }
            }
        }
        self.newest = number;
    }

    /// The first instant at which `units` fit under `quota` if nothing else is charged before; in the past if now.
    pub fn when(&self, quota: u64, units: u64) -> Time {
        if units > quota {
            return Time::NEVER;
        }
        let mut over = self.total.saturating_add(units).saturating_sub(quota);
        if over == 0 {
            return Time::ZERO;
        }
        let oldest = self.newest.saturating_sub(CELLS as u64);
        for number in oldest..=self.newest {
            let count = self.count(number);
            if count >= over {
                // The cell leaves the ring when the cell a full period after it begins.
                return Time::from_nanos((number + CELLS as u64 + 1).saturating_mul(self.cell));
            }
            over -= count;
        }
        Time::NEVER
    }

    /// Counts `units` at `now`.
    pub fn charge(&mut self, units: u64, now: Time) {
        self.advance(now);
        if let Some(cell) = self.ring.get_mut(Self::index(self.newest)) {
            *cell = cell.saturating_add(units);
            self.total = self.total.saturating_add(units);
        }
    }

    /// Takes back `units` counted at `charged_at`.
    pub fn refund(&mut self, units: u64, charged_at: Time, now: Time) {
        self.advance(now);
        let number = charged_at.as_nanos() / self.cell;
        if number + (CELLS as u64) < self.newest || number > self.newest {
            return;
        }
        if let Some(cell) = self.ring.get_mut(Self::index(number)) {
            let taken = (*cell).min(units);
            *cell -= taken;
            self.total -= taken;
        }
    }

    /// Units that still count at `now`.
    pub fn counted(&mut self, now: Time) -> u64 {
        self.advance(now);
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_quota_leaves_at_once_and_the_next_waits_for_the_first_to_age() {
        let mut window = Window::new(Duration::from_secs(6_400)); // cells of 100 s
        let start = Time::from_millis(1_000_050_000);
        for _ in 0..5 {
            assert!(window.when(5, 1) <= start);
            window.charge(1, start);
        }
        // Counted in the cell from 1,000,000 s to 1,000,100 s, forgotten a period after its end.
        assert_eq!(window.when(5, 1), Time::from_millis(1_006_500_000));
        assert_eq!(window.when(5, 6), Time::NEVER);
        window.refund(1, start, start);
        assert!(window.when(5, 1) <= start);
    }

    #[test]
    fn a_quota_of_any_size_is_counted_to_its_end() {
        for quota in [5, 1 << 32, 1 << 33, 10_000_000_000, 1 << 50] {
            let mut window = Window::new(Duration::from_secs(86_400));
            let now = Time::from_millis(1_000_000_000);
            for part in [quota / 2, quota - quota / 2] {
                assert!(window.when(quota, part) <= now, "{part} of {quota}");
                window.charge(part, now);
            }
            assert!(window.when(quota, 1) > now, "one more than {quota}");
            window.refund(quota, now, now);
            assert!(window.when(quota, quota) <= now && window.counted(now) == 0, "{quota}");
        }
    }

    proptest! {
        #[test]
        fn no_window_holds_more_than_the_quota(
            quota in 1u64..50, per_s in 61u64..10_000,
            steps in prop::collection::vec((0u64..200_000, 1u64..5, prop::bool::weighted(0.2)), 1..150),
        ) {
            let per = Duration::from_secs(per_s);
            let mut window = Window::new(per);
            let mut left: Vec<(Time, u64)> = Vec::new();
            let mut now = Time::from_millis(77_777_777);
            for (wait, units, refunded) in steps {
                now += Duration::from_millis(wait);
                let units = units.min(quota);
                let next = window.when(quota, units);
                prop_assert!(next.since(now) <= per + per / 32);
                now = now.max(next);
                window.charge(units, now);
                if refunded { window.refund(units, now, now) } else { left.push((now, units)) }
            }
            for (i, (start, _)) in left.iter().enumerate() {
                let sum: u64 = left[i..].iter().take_while(|(t, _)| t.since(*start) < per).map(|(_, n)| n).sum();
                prop_assert!(sum <= quota);
            }
        }
    }
}
