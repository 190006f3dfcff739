//! The limits of upstreams, as exact as their clock.

use std::{collections::VecDeque, time::Duration};

/// How an upstream counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// A token bucket: as many a second, and as many at once after a quiet second.
    Bucket,
    /// At most so many in every second, wherever it begins; refusals don't count.
    Sliding,
}

/// A limit and what is used of it. Times are since any fixed moment.
#[derive(Debug)]
pub(crate) enum Quota {
    /// Tokens as the time in which they come back: no sum of fractions loses one.
    Bucket {
        each: Duration,
        full: Duration,
        held: Duration,
        at: Duration,
    },
    Sliding {
        limit: usize,
        taken: VecDeque<Duration>,
    },
}

/// What limits are of.
const WINDOW: Duration = Duration::from_secs(1);

impl Quota {
    /// So many a second.
    pub(crate) fn new(kind: Kind, limit: u32) -> Self {
        match kind {
            Kind::Bucket => {
                let each = WINDOW / limit;
                let full = each * limit;
                Quota::Bucket { each, full, held: full, at: Duration::ZERO }
            }
            Kind::Sliding => Quota::Sliding { limit: limit as usize, taken: VecDeque::new() },
        }
    }

    /// Whether a request passes at this moment, which is not before that of the one before.
    pub(crate) fn take(&mut self, now: Duration) -> bool {
        match self {
            Quota::Bucket { each, full, held, at } => {
                *held = (*held + now.saturating_sub(*at)).min(*full);
                *at = now;
                let left = held.checked_sub(*each);
                *held = left.unwrap_or(*held);
                left.is_some()
            }
            Quota::Sliding { limit, taken } => {
                while taken.front().is_some_and(|first| now.saturating_sub(*first) >= WINDOW) {
                    taken.pop_front();
                }
                let passes = taken.len() < *limit;
                if passes {
                    taken.push_back(now);
                }
                passes
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(quota: &mut Quota, times: impl IntoIterator<Item = u64>) -> usize {
        times.into_iter().filter(|millis| quota.take(Duration::from_millis(*millis))).count()
    }

    #[test]
    fn a_bucket_lets_its_burst_through_and_then_its_rate() {
        let mut quota = Quota::new(Kind::Bucket, 20);
        assert_eq!(passed(&mut quota, vec![0; 50]), 20, "the burst");
        assert_eq!(passed(&mut quota, (5..=2_000).step_by(5)), 40, "two seconds of 20");
    }

    #[test]
    fn a_bucket_holds_no_more_than_its_burst() {
        let mut quota = Quota::new(Kind::Bucket, 20);
        assert_eq!(passed(&mut quota, vec![0; 20]), 20);
        assert_eq!(passed(&mut quota, vec![60_000; 100]), 20);
    }

    #[test]
    fn a_sliding_window_has_no_edge_at_which_two_bursts_meet() {
        let mut quota = Quota::new(Kind::Sliding, 20);
        assert_eq!(passed(&mut quota, vec![900; 30]), 20);
        assert_eq!(passed(&mut quota, vec![1_100; 30]), 0, "a second has not passed");
        assert_eq!(passed(&mut quota, vec![1_899; 30]), 0);
        assert_eq!(passed(&mut quota, vec![1_900; 30]), 20, "now it has");
    }

    #[test]
    fn refusals_use_nothing_up() {
        let mut quota = Quota::new(Kind::Sliding, 1);
        assert_eq!(passed(&mut quota, [0, 500, 999, 1_000]), 2);
    }
}
