//! How fast a queue that stands empties itself, by what it did.
//!
//! Configured limits say when a call could leave. Slots and paces that were learned do not: there a call could wait out its
//! whole deadline in a queue that never reaches it, one after another. What a standing queue let go lately says when the
//! call behind `ahead` others would leave; one that would be late by far is refused at once, with that time. It is a guess,
//! so it is a kind one: the fastest of the last windows counts, and being late by half is not yet late. What left while the
//! destination was paused, or just began again, tells nothing, nor does what left by other limits: then counting begins
//! anew.

use crate::time::Time;
use std::time::Duration;

/// Over which departures are counted.
const WINDOW: Duration = Duration::from_secs(5);
/// As many are remembered: a pause among them says nothing.
const WINDOWS: usize = 6;
/// Nothing is said before the queue has stood for so many.
const STOOD: u8 = 2;
/// Departures of a window that say something about a rate.
const ENOUGH: u32 = 5;
/// The guess must be past what is left by this factor.
const MARGIN: f64 = 1.5;

#[derive(Debug)]
pub(super) struct Drain {
    /// When the window began.
    began: Time,
    left: u32,
    /// Departures of the windows before, the latest first.
    before: [u32; WINDOWS],
    stood: u8,
}

impl Drain {
    /// That of a queue that begins.
    pub(super) fn new(now: Time) -> Drain {
        Drain { began: now, left: 0, before: [0; WINDOWS], stood: 0 }
    }

    /// A call leaves ahead of those that wait.
    pub(super) fn leaves(&mut self, now: Time) {
        self.roll(now);
        self.left = self.left.saturating_add(1);
    }

    /// When a call that leaves behind `ahead` others will, where it is too late by far for one that has until `deadline`.
    pub(super) fn too_late(&mut self, ahead: u64, deadline: Time, now: Time) -> Option<Time> {
        self.roll(now);
        let most = self.before.iter().copied().max().filter(|most| *most >= ENOUGH && self.stood >= STOOD)?;
        let wait = ahead as f64 * WINDOW.as_secs_f64() / f64::from(most);
        (wait > MARGIN * deadline.since(now).as_secs_f64()).then(|| now + Duration::from_secs_f64(wait.min(1e9)))
    }

    fn roll(&mut self, now: Time) {
        for _ in 0..=WINDOWS {
            if now.since(self.began) < WINDOW {
                return;
            }
            self.before.rotate_right(1);
            self.before[0] = std::mem::take(&mut self.left);
            self.began += WINDOW;
            self.stood = self.stood.saturating_add(1);
        }
        // Nothing left for long.
        self.began = self.began.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_millis(1_000_000);
    const SEC: Duration = Duration::from_secs(1);

    /// A queue that let `each` go in each of these windows.
    fn after(each: &[u32]) -> (Drain, Time) {
        let mut drain = Drain::new(NOW);
        let mut now = NOW;
        for left in each {
            for _ in 0..*left {
                drain.leaves(now);
            }
            now += WINDOW;
        }
        (drain, now)
    }

    #[test]
    fn the_table_of_guesses() {
        for (windows, ahead, left, wait) in [
            // Ten a second: 600 ahead are a minute.
            (&[50, 50, 50][..], 600, 30, Some(60)),
            (&[50, 50, 50], 600, 41, None),
            (&[50, 50, 50], 10, 1, None),
            // It has not stood for long, or let go too few.
            (&[50], 600, 30, None),
            (&[1, 2, 1], 600, 30, None),
            // A pause does not slow it, and neither does a slow window.
            (&[50, 0, 0, 10], 600, 30, Some(60)),
            // What was long ago is forgotten.
            (&[500, 50, 50, 50, 50, 50, 50], 600, 30, Some(60)),
            (&[50, 0, 0, 0, 0, 0, 0], 600, 30, None),
        ] {
            let (mut drain, now) = after(windows);
            let late = drain.too_late(ahead, now + SEC * left, now);
            assert_eq!(late.map(|at| at.since(now)), wait.map(|wait| SEC * wait), "{windows:?} {ahead} {left}");
        }
    }

    #[test]
    fn a_long_silence_is_one_step() {
        let (mut drain, now) = after(&[50, 50]);
        let later = now + SEC * 1_000_000;
        assert_eq!(drain.too_late(600, later + SEC, later), None);
        drain.leaves(later);
        assert_eq!(drain.too_late(600, later + SEC, later), None);
    }
}
