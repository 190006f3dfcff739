//! Figures from moments and durations.

use std::time::{Duration, Instant};

/// The value below which this share of the values lies; nothing of none.
pub(crate) fn percentile(mut values: Vec<Duration>, share: f64) -> Option<Duration> {
    values.sort_unstable();
    // The nearest rank: of 2,000 values the 99th percentile is the 1,980th.
    let rank = (values.len() as f64 * share).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied()
}

/// The same in milliseconds; `NaN` of none, which is `null` in JSON.
pub(crate) fn percentile_ms(values: Vec<Duration>, share: f64) -> f64 {
    percentile(values, share).map_or(f64::NAN, |value| value.as_secs_f64() * 1e3)
}

/// Most moments within any window of this length. The moments are in order.
pub(crate) fn most_within(moments: &[Instant], window: Duration) -> usize {
    let mut first = 0;
    let mut most = 0;
    for (last, moment) in moments.iter().enumerate() {
        while moments.get(first).is_some_and(|begin| moment.duration_since(*begin) >= window) {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

/// How long after `from` the first window of this length begins that holds so many moments. They are in order.
pub(crate) fn until_as_many(moments: &[Instant], from: Instant, window: Duration, count: usize) -> Option<Duration> {
    let after: Vec<_> = moments.iter().copied().filter(|moment| *moment >= from).collect();
    let begins = after.iter().zip(after.iter().skip(count.saturating_sub(1)));
    begins.into_iter().find(|(first, last)| last.duration_since(**first) < window).map(|(first, _)| *first - from)
}

/// Moments in `[from, until)`.
pub(crate) fn count_in(moments: &[Instant], from: Instant, until: Instant) -> usize {
    moments.iter().filter(|moment| (from..until).contains(moment)).count()
}

/// How much `part` is of `whole`, per cent; `NaN` of nothing.
pub(crate) fn percent(part: usize, whole: usize) -> f64 {
    part as f64 * 100.0 / whole as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(begin: Instant, millis: &[u64]) -> Vec<Instant> {
        millis.iter().map(|millis| begin + Duration::from_millis(*millis)).collect()
    }

    #[test]
    fn a_percentile_is_a_value_that_there_was() {
        let values: Vec<_> = (1..=2_000).rev().map(Duration::from_micros).collect();
        for (share, expected) in [(0.5, 1_000), (0.99, 1_980), (1.0, 2_000), (0.0, 1)] {
            assert_eq!(percentile(values.clone(), share), Some(Duration::from_micros(expected)));
        }
        assert_eq!(percentile(Vec::new(), 0.99), None);
        assert!(percentile_ms(Vec::new(), 0.99).is_nan());
    }

    #[test]
    fn the_fullest_window_is_found_wherever_it_begins() {
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        for (millis, expected) in [
            (&[][..], 0),
            (&[5][..], 1),
            (&[0, 900, 950, 1_000, 1_850, 1_899, 1_900, 3_000][..], 5),
            (&[0, 1_000, 2_000][..], 1),
        ] {
            assert_eq!(most_within(&moments(begin, millis), second), expected, "{millis:?}");
        }
    }

    #[test]
    fn full_pace_begins_with_the_first_full_window() {
        let begin = Instant::now();
        let seen = moments(begin, &[0, 10, 20, 1_500, 2_600, 2_700, 2_800]);
        let second = Duration::from_secs(1);
        assert_eq!(until_as_many(&seen, begin, second, 3), Some(Duration::ZERO));
        let later = begin + Duration::from_millis(100);
        assert_eq!(until_as_many(&seen, later, second, 3), Some(Duration::from_millis(2_500)));
        assert_eq!(until_as_many(&seen, later, second, 4), None);
    }

    #[test]
    fn a_span_of_time_has_its_begin_and_not_its_end() {
        let begin = Instant::now();
        let seen = moments(begin, &[0, 500, 1_000]);
        assert_eq!(count_in(&seen, begin, begin + Duration::from_secs(1)), 2);
        assert!((percent(1, 4) - 25.0).abs() < 1e-9);
    }
}
