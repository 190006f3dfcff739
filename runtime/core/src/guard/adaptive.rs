//! A destination that refuses nothing and gets slower the more it is given: its own queue grows. Then the queue moves to
//! the gate, where it is fair, bounded, and seen.
//!
//! The time to the first byte is watched in *windows*, each a sample of the requests that left one after the other, so that
//! slow answers count as much as fast ones. Its *base* is the median while few are in flight. Two windows far above it, with
//! many in flight, are a suspicion; a limit on what is in flight is its test. Where answers get faster with fewer, they were
//! waiting, and the limit stays, moved by the gradient `1.5 base / median` with some room to grow (after Netflix's
//! `Gradient2` and Envoy's adaptive concurrency). Where they do not, the destination is slow by itself: that is its base
//! from here on, nothing is limited, and the next test is further away.

use crate::{
    endpoint::Quantile,
    refusal::{Found, Waiting},
    time::Time,
};
use smallvec::SmallVec;
use std::time::Duration;

/// With fewer in flight nothing is suspected, and the base is measured.
pub(super) const MANY: u32 = 8;
/// Answers that make a base.
const KNOWN: u16 = 32;
/// The lowest limit.
const LEAST: f32 = 4.0;
/// Requests in a window and the time they take to leave, at least; of more than so many in that time some are left out.
const SAMPLES: u16 = 32;
const LENGTH: Duration = Duration::from_secs(1);
const MOST_SAMPLES: usize = 64;
/// A window of which too much is unanswered after this long tells nothing.
const STALE: Duration = Duration::from_secs(120);
/// Logarithms to base 2. The median that is suspicious, above the base, and the lower quartile, which stays below it where
/// answers just differ much: twice, and half as much again.
const SLOW: f32 = 1.0;
const SLOW_QUARTER: f32 = 0.585;
/// As much must a limit take away: a fifth.
const FASTER: f32 = -0.322;
/// What is aimed at, above the base: half as much again. Then a server is busy, and its queue short.
const AIM: f32 = 0.585;
/// Windows in a row that make a suspicion, and that end a limit which nobody needs.
const IN_A_ROW: u8 = 2;
/// Windows in a row at the lowest limit that are as slow as before, after which the limit does not help any more.
const PINNED: u8 = 4;
/// The base follows a window that is faster by this part, and one that is slower by that: it is a low, forgotten slowly.
const DOWN: f32 = 0.25;
const UP: f32 = 1.0 / 64.0;
/// Times between tests that failed.
const GAPS: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(1800));

/// A sample of what left lately.
#[derive(Debug)]
struct Window {
    /// Tells its requests from those of another.
    number: u8,
    from: Time,
    /// When the next request may belong to it.
    next: Time,
    left: u16,
    /// Sum of those that were in flight with each, itself counted.
    flying: u32,
    /// Logarithms of microseconds, in 1024ths.
    took: SmallVec<[u16; MOST_SAMPLES]>,
}

/// What a window showed, as logarithms of microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Shown {
    median: f32,
    quarter: f32,
    flying: f32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    /// Suspicious windows in a row.
    Free(u8),
    /// A limit is tested; what the median was before.
    Test { limit: f32, median: f32 },
    /// It helps. `mark`: limit and median when it last did; `unused`: windows in a row that did not need it;
    /// `pinned`: those that were slow at the lowest limit.
    Held { limit: f32, mark: (f32, f32), unused: u8, pinned: u8 },
}

/// What is known of how a destination takes load. Exists while several requests are in flight, or a limit is kept.
#[derive(Debug)]
pub(super) struct Adaptive {
    window: Window,
    mode: Mode,
    /// When a test may follow one that failed.
    not_before: Time,
    gap: Duration,
}

impl Window {
    fn new(number: u8, from: Time) -> Window {
        Window { number, from, next: from, left: 0, flying: 0, took: SmallVec::new() }
    }

    fn is_full(&self, now: Time) -> bool {
        usize::from(self.left) >= MOST_SAMPLES || self.left >= SAMPLES && now.since(self.from) >= LENGTH
    }

    /// What it shows, once three in four are answered: those which are not take longer than half.
    fn shows(&mut self, now: Time) -> Option<Shown> {
        if !self.is_full(now) || self.took.len() * 4 < usize::from(self.left) * 3 {
            return None;
        }
        self.took.sort_unstable();
        let at = |part: u16| self.took.get(usize::from(self.left / part)).map(|took| f32::from(*took) / 1024.0);
        Some(Shown { median: at(2)?, quarter: at(4)?, flying: self.flying as f32 / f32::from(self.left) })
    }
}

impl Adaptive {
    pub(super) fn new(now: Time) -> Adaptive {
        Adaptive { window: Window::new(1, now), mode: Mode::Free(0), not_before: Time::ZERO, gap: GAPS.0 }
    }

    /// How many may be in flight.
    pub(super) fn limit(&self) -> Option<u32> {
        match self.mode {
            Mode::Free(_) => None,
            Mode::Test { limit, .. } | Mode::Held { limit, .. } => Some(limit as u32),
        }
    }

    /// Nothing that is worth keeping when nothing is in flight.
    pub(super) fn is_blank(&self) -> bool {
        matches!(self.mode, Mode::Free(_)) && self.gap == GAPS.0
    }

    pub(super) fn hold(&self, flying: u32) -> Option<(Time, Waiting)> {
        let slots = self.limit().filter(|limit| flying >= *limit)?;
        Some((Time::NEVER, Waiting::AtOnce { slots, found: Found::Slowness }))
    }

    /// A request leaves beside so many others: the number of the window to which it belongs, if it does to one.
    pub(super) fn leaves(&mut self, beside: u32, now: Time) -> u8 {
        let window = &mut self.window;
        if window.is_full(now) || now < window.next {
            if now.since(window.from) > STALE {
                self.begin(now);
            }
            return 0;
        }
        window.left += 1;
        window.flying = window.flying.saturating_add(beside + 1);
        window.next = now + LENGTH / MOST_SAMPLES as u32;
        window.number
    }

    fn begin(&mut self, now: Time) {
        self.window = Window::new(self.window.number.checked_add(1).unwrap_or(1), now);
    }

    /// A request of a window was answered.
    pub(super) fn answered(&mut self, number: u8, took: Duration, base: &mut Quantile, now: Time) {
        if number != self.window.number {
            return;
        }
        self.window.took.push((Quantile::log(took) * 1024.0) as u16);
        if let Some(shown) = self.window.shows(now) {
            self.judge(shown, base, now);
            self.begin(now);
        }
    }

    fn judge(&mut self, shown: Shown, base: &mut Quantile, now: Time) {
        let Shown { median, quarter, flying } = shown;
        let above = median - base.at();
        // To what part of itself the gradient moves a limit.
        let gradient = (AIM - above).clamp(-1.0, 0.0).exp2();
        self.mode = match self.mode {
            Mode::Free(in_a_row) => {
                if base.samples() < KNOWN {
                    // So far there are too few, and the fast ones of them came first.
                    base.lean(median, if base.samples() < KNOWN / 2 { 1.0 } else { 0.5 }, KNOWN / 2);
                    Mode::Free(0)
                } else if flying < MANY as f32
                    || now < self.not_before
                    || above < SLOW
                    || quarter - base.at() < SLOW_QUARTER
                {
                    if flying >= MANY as f32 {
                        base.lean(median, if above < 0.0 { DOWN } else { UP }, 0);
                    }
                    Mode::Free(0)
                } else if in_a_row + 1 < IN_A_ROW {
                    Mode::Free(in_a_row + 1)
                } else {
                    Mode::Test { limit: (flying * gradient).max(LEAST), median }
                }
            }
            Mode::Test { median: before, .. } if median - before > FASTER => self.innocent(median, base, now),
            Mode::Test { limit, .. } => Mode::Held { limit, mark: (limit, median), unused: 0, pinned: 0 },
            Mode::Held { limit, mark, unused, pinned } => {
                // Lower than that it can't be tried.
                let pinned =
                    if limit < LEAST + 1.0 && above > AIM && median - mark.1 > FASTER { pinned + 1 } else { 0 };
                let unused = if flying * 2.0 < limit { unused + 1 } else { 0 };
                if unused >= IN_A_ROW {
                    Mode::Free(0)
                } else if pinned >= PINNED || limit <= mark.0 / 2.0 && median - mark.1 > FASTER {
                    self.innocent(median, base, now)
                } else {
                    let mark = if median - mark.1 <= FASTER || limit > mark.0 { (limit, median) } else { mark };
                    base.lean(median.min(base.at()), DOWN, 0);
                    let grown = if unused > 0 { limit } else { limit * gradient + limit.sqrt() };
                    Mode::Held { limit: grown.max(LEAST), mark, unused, pinned }
                }
            }
        };
    }

    /// Fewer in flight did not make it faster: so it is like that.
    fn innocent(&mut self, median: f32, base: &mut Quantile, now: Time) -> Mode {
        base.lean(median, 1.0, 0);
        self.not_before = now + self.gap;
        self.gap = (self.gap * 2).min(GAPS.1);
        Mode::Free(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_millis(1_000_000);
    const MS: Duration = Duration::from_millis(1);

    /// Windows of answers of so many milliseconds with so many in flight, one a second: the limits after each.
    fn limits(windows: &[(u32, u32)]) -> (Vec<Option<u32>>, f32) {
        let mut base = Quantile::NONE;
        (0..50).for_each(|_| base.add(MS * 100, Quantile::MEDIAN));
        let mut adaptive = Adaptive::new(NOW);
        let limits = (0u32..).zip(windows).map(|(second, (took, flying))| {
            let shown =
                Shown { median: Quantile::log(MS * *took), quarter: Quantile::log(MS * *took), flying: *flying as f32 };
            adaptive.judge(shown, &mut base, NOW + MS * 1000 * second);
            adaptive.limit()
        });
        (limits.collect(), base.get().unwrap().as_secs_f32())
    }

    #[test]
    fn the_table_of_windows() {
        // Ten workers that take 100 ms each, 100 at once: 100 at 10 s^-1 each wait for a second.
        let (queue, _) = limits(&[(1000, 100), (1000, 100), (500, 50), (270, 27), (180, 18), (200, 20)]);
        assert_eq!(queue, [None, Some(50), Some(50), Some(34), Some(34), Some(32)]);
        // Slow by itself: tested once, and its base from then on.
        let (slow, base) = limits(&[(1000, 20), (1000, 20), (1000, 10), (1000, 20), (1000, 20), (1000, 20)]);
        assert_eq!(slow, [None, Some(10), None, None, None, None]);
        assert!((base - 1.0).abs() < 0.01, "{base}");
        for (windows, why) in [
            (&[(1000, 7), (1000, 7), (1000, 7)][..], "few in flight"),
            (&[(1000, 50), (150, 50), (1000, 50)], "not in a row"),
            (&[(190, 50), (190, 50), (190, 50)], "not far above"),
        ] {
            assert_eq!(limits(windows).0, [None; 3], "{why}");
        }
        // What is not used for two windows is let go.
        let (unused, _) = limits(&[(1000, 100), (1000, 100), (500, 50), (100, 5), (100, 5)]);
        assert_eq!(unused[3..], [Some(50), None]);
        // Never below four.
        let (least, _) = limits(&[(1000, 8), (1000, 8), (500, 4), (500, 4), (480, 4)]);
        assert_eq!(least[1..], [Some(4); 4]);
        // It got slow, and a little faster again while that was tested: nobody is kept at four for that.
        let (eased, base) =
            limits(&[(1000, 10), (1000, 10), (500, 5), (500, 4), (500, 4), (500, 4), (500, 4), (500, 4), (500, 10)]);
        assert_eq!(eased, [&[None, Some(5)][..], &[Some(5)], &[Some(4); 4], &[None; 2]].concat());
        assert!((base - 0.5).abs() < 0.01, "{base}");
    }

    #[test]
    fn a_window_counts_slow_answers_as_much_as_fast_ones() {
        let mut window = Window::new(1, NOW);
        (window.left, window.flying) = (40, 400);
        let later = NOW + LENGTH;
        window.took.extend([0; 10]);
        assert_eq!(window.shows(later), None, "the fastest come first");
        window.took.extend((0..20).map(|_| 10 * 1024));
        assert_eq!(window.shows(later), Some(Shown { median: 10.0, quarter: 10.0, flying: 10.0 }));
    }
}
