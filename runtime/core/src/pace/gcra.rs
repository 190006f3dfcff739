//! The generic cell rate algorithm: one number says when the next unit may leave.
//!
//! State is TAT, the theoretical arrival time. `n` units at `t` may leave when `t >= TAT + (n-1)T - tau`; then
//! `TAT = max(TAT, t) + nT`. With `T = (per + jitter + slack)/(quota - burst + 1)` and `tau = T(burst-1) + slack`, unit
//! number `quota + 1` after any unit leaves at least `per + jitter` later: `t' >= t + (quota + 1 - burst)T - slack`. So the
//! quota holds in every half-open window, where the upstream counts too, and up to `slack` of timer lateness is made up
//! instead of lost.
//!
//! TAT is not raised to `t` before the test: `n` up to `quota` may leave at once after enough quiet, which lets one
//! call that costs more than the burst pass without breaking the window (same inequality).

use crate::{
    rest::at_rest,
    time::{Time, nanos},
};
use std::time::Duration;

/// Lateness of timers that may be made up; without it 500/s reaches 64 %. Not granted where T is over 20 times as long:
/// there a late timer costs next to nothing, and an upstream that minds single gaps ("one every 100 ms") is kept content.
pub const SLACK: Duration = Duration::from_millis(3);

/// How much longer one request may be on its way to the upstream's counter than a later one, in a window of `per`: a 64th
/// of it, at most 25 ms. It costs up to 1.6 % of the pace; without it the window that holds here may be broken there by
/// whatever made the first of its requests late.
pub fn jitter(per: Duration) -> Duration {
    (per / 64).min(Duration::from_millis(25))
}

/// The constants of one paced limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// T: nanoseconds between units.
    pub interval: u64,
    /// tau: how far TAT may be ahead, in nanoseconds.
    pub tolerance: u64,
}

impl Rate {
    /// The rate that keeps `quota` in every half-open window of `per`, letting `burst` leave at once.
    pub fn windowed(quota: u64, per: Duration, burst: u64) -> Rate {
        let slack = nanos(SLACK);
        let window = nanos(per.saturating_add(jitter(per)));
        let interval = (window.saturating_add(slack)).div_ceil(quota.saturating_sub(burst).saturating_add(1).max(1));
        let made_up = if interval > 20 * slack { 0 } else { slack };
        Rate { interval, tolerance: interval.saturating_mul(burst.saturating_sub(1)).saturating_add(made_up) }
    }

    /// The rate that lets `quota` leave in each `per` on average, and `burst` at once. Somebody else keeps the quota.
    pub fn even(quota: u64, per: Duration, burst: u64) -> Rate {
        let interval = nanos(per).div_ceil(quota.max(1));
        Rate { interval, tolerance: interval.saturating_mul(burst.saturating_sub(1)) }
    }
}

/// The state of one paced limit: one word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gcra {
    tat: u64,
}

at_rest!(Gcra { tat });

impl Gcra {
    /// The first instant at which `units` could leave if nothing else does before; in the past if they could now.
    pub fn when(&self, rate: &Rate, units: u64) -> Time {
        let ahead = u128::from(units.saturating_sub(1)) * u128::from(rate.interval) + u128::from(self.tat);
        let at = ahead.saturating_sub(u128::from(rate.tolerance));
        Time::from_nanos(u64::try_from(at).unwrap_or(u64::MAX))
    }

    /// The first instant at which `own` units could leave, when nothing leaves before `from` and then `ahead` units do
    /// before them: a bound from below.
    pub fn when_after(&self, rate: &Rate, from: Time, ahead: u64, own: u64) -> Time {
        if ahead == 0 {
            return self.when(rate, own).max(from);
        }
        let filled = Gcra { tat: self.tat.max(from.as_nanos()) };
        filled.when(rate, ahead.saturating_add(own)).max(from)
    }

    /// Charges `units` that leave at `now`, whether or not they may.
    pub fn charge(&mut self, rate: &Rate, units: u64, now: Time) {
        self.tat = self.tat.max(now.as_nanos()).saturating_add(units.saturating_mul(rate.interval));
    }

    /// The call charged `units` at `charged_at` truly left only `now`. Its charge moves there,
    /// so that the window holds on the wire and not only in our books: a first departure that had to connect would
    /// otherwise arrive closer to the last of its window than the limit allows.
    ///
    /// `after` are the units charged after these, `waiting` those charged and not departed besides these. Departures in order of charge keep their exact
    /// spacing and cost no pace; one that was overtaken moves the schedule by its own lateness, at most its own length.
    pub fn departed(&mut self, rate: &Rate, units: u64, after: u64, waiting: u64, charged_at: Time, now: Time) {
        let late = now.since(charged_at);
        if late.is_zero() || units == 0 {
            return;
        }
        let own = units.saturating_mul(rate.interval);
        if after <= waiting {
            let behind = after.saturating_mul(rate.interval);
            self.tat = self.tat.max(now.as_nanos().saturating_add(own).saturating_add(behind));
        } else {
            self.tat = self.tat.max(now.as_nanos()).saturating_add(own.min(nanos(late)));
        }
    }

    /// Gives back `units`, after which `after` units were charged: they did not leave, or cost less than charged.
    ///
    /// TAT is the maximum over the charges of (time of charge + units from it on), so what came after the refunded
    /// charge keeps at least its own length from now: a refund never opens a window wider than the limit.
    pub fn refund(&mut self, rate: &Rate, units: u64, after: u64, now: Time) {
        let lower = self.tat.saturating_sub(units.saturating_mul(rate.interval));
        let kept = now.as_nanos().saturating_add(after.saturating_mul(rate.interval));
        self.tat = self.tat.min(lower.max(kept));
    }

    /// The rate changed: units already ahead of `now` stay ahead, scaled to the new interval.
    pub fn rescale(&mut self, old: &Rate, new: &Rate, now: Time) {
        let ahead = self.tat.saturating_sub(now.as_nanos());
        if ahead > 0 && old.interval > 0 {
            let scaled = u128::from(ahead) * u128::from(new.interval) / u128::from(old.interval);
            self.tat = now.as_nanos().saturating_add(u64::try_from(scaled).unwrap_or(u64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    #[test]
    fn ten_a_second_leave_every_hundred_milliseconds() {
        let rate = Rate::windowed(10, Duration::from_secs(1), 1);
        // (1,000 + 15.625 + 3) / 10.
        assert_eq!(rate.interval, 101_862_500);
        let mut gcra = Gcra::default();
        assert!(gcra.when(&rate, 1) <= at(5_000));
        gcra.charge(&rate, 1, at(5_000));
        assert_eq!(gcra.when(&rate, 1), Time::from_nanos(5_101_862_500));
    }

    #[test]
    fn a_fast_pace_makes_up_for_late_timers() {
        // 500 a second without a burst: every timer is a millisecond late, and the pace still holds.
        let rate = Rate::windowed(500, Duration::from_secs(1), 1);
        let (mut gcra, mut now, start) = (Gcra::default(), at(1_000), at(1_000));
        for _ in 0..500 {
            now = now.max(gcra.when(&rate, 1) + Duration::from_millis(1));
            gcra.charge(&rate, 1, now);
        }
        assert!(now.since(start) < Duration::from_millis(1_025), "{:?}", now.since(start));
    }

    #[test]
    fn a_burst_leaves_at_once_and_the_window_still_holds() {
        // 20 per second, 5 at once: T = 1018.625/16 = 63.6640625 ms, tau = 4T.
        let rate = Rate::windowed(20, Duration::from_secs(1), 5);
        assert_eq!((rate.interval, rate.tolerance), (63_664_063, 254_656_252));
        let mut gcra = Gcra::default();
        let mut times = Vec::new();
        let mut now = at(1_000);
        for _ in 0..40 {
            now = now.max(gcra.when(&rate, 1));
            gcra.charge(&rate, 1, now);
            times.push(now);
        }
        assert_eq!(times[4], at(1_000));
        assert!(times[5] > at(1_000));
        // The 21st of any run is at least a second after the first.
        assert!(times.windows(21).all(|w| w[20].since(w[0]) >= Duration::from_secs(1)));
    }

    #[test]
    fn a_cost_above_the_burst_passes_after_enough_quiet() {
        let rate = Rate::windowed(100, Duration::from_secs(1), 5);
        let mut gcra = Gcra::default();
        gcra.charge(&rate, 1, at(10_000));
        let big = gcra.when(&rate, 100);
        assert!(big >= at(10_900) && big <= at(11_100), "{big:?}");
        gcra.charge(&rate, 100, big);
        assert!(gcra.when(&rate, 1).since(big) >= Duration::from_millis(950));
    }

    #[test]
    fn a_late_departure_keeps_its_distance() {
        let rate = Rate::windowed(10, Duration::from_secs(1), 1);
        let mut gcra = Gcra::default();
        gcra.charge(&rate, 1, at(1_000));
        gcra.departed(&rate, 1, 0, 0, at(1_000), at(1_040));
        assert_eq!(gcra.when(&rate, 1), Time::from_nanos(1_040 * MS + 101_862_500));
    }

    #[test]
    fn a_refund_of_the_last_charge_restores_the_room() {
        let rate = Rate::windowed(10, Duration::from_secs(1), 1);
        let mut gcra = Gcra::default();
        gcra.charge(&rate, 1, at(1_000));
        gcra.refund(&rate, 1, 0, at(1_000));
        assert!(gcra.when(&rate, 1) <= at(1_000));
    }

    proptest! {
        /// The promise of a limit: no half-open window of `per` ever holds more than `quota`, with refunds of calls
        /// that never left, costs of any size, bursts, and departures at every possible instant.
        #[test]
        fn no_window_holds_more_than_the_quota(
            quota in 1u64..40, burst in 1u64..40, per_ms in 5u64..2_000,
            steps in prop::collection::vec((0u64..300, 1u64..6, prop::bool::weighted(0.2)), 1..200),
        ) {
            let burst = burst.min(quota);
            let per = Duration::from_millis(per_ms);
            let rate = Rate::windowed(quota, per, burst);
            let mut gcra = Gcra::default();
            let mut left: Vec<(Time, u64)> = Vec::new();
            let mut now = at(10_000);
            for (wait, units, refunded) in steps {
                now += Duration::from_millis(wait) / 3;
                let units = units.min(quota);
                now = now.max(gcra.when(&rate, units));
                gcra.charge(&rate, units, now);
                if refunded {
                    now += Duration::from_millis(wait) / 7;
                    gcra.refund(&rate, units, 0, now);
                } else {
                    left.push((now, units));
                }
            }
            for (i, (start, _)) in left.iter().enumerate() {
                let sum: u64 = left[i..].iter().take_while(|(t, _)| t.since(*start) < per).map(|(_, n)| n).sum();
                prop_assert!(sum <= quota, "{sum} of {quota} within {per:?} from {start:?}");
            }
        }

        /// In order of their charges, late departures (connecting takes time) hold the limit where it counts.
        #[test]
        fn late_departures_in_order_hold_the_window_too(
            quota in 1u64..30, per_ms in 50u64..2_000, late in prop::collection::vec(0u64..200, 1..120),
        ) {
            let per = Duration::from_millis(per_ms);
            let rate = Rate::windowed(quota, per, 1);
            let mut gcra = Gcra::default();
            let mut left: Vec<Time> = Vec::new();
            let mut now = at(10_000);
            for late in late {
                now = now.max(gcra.when(&rate, 1));
                gcra.charge(&rate, 1, now);
                let charged = now;
                now += Duration::from_millis(late);
                gcra.departed(&rate, 1, 0, 0, charged, now);
                left.push(now);
            }
            let n = usize::try_from(quota).unwrap() + 1;
            prop_assert!(left.windows(n).all(|w| w[n - 1].since(w[0]) >= per));
        }
    }
}
