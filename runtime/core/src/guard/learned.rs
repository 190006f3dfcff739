//! The learned pace: a floor, a ceiling, and a careful way between them.

use crate::{
    pace::gcra::SLACK,
    refusal::Waiting,
    rest::{In, Out, Rest, at_rest},
    time::Time,
};
use std::time::Duration;

/// Growth while next to nothing is known, per second, as a logarithm (2: sevenfold a second).
const FASTEST: f64 = 2.0;
/// Growth while only one refusal is known, if it told much, and near the ceiling, the same way. It doubles every
/// [`IMPATIENCE`] without a refusal, so that a limit that rose tenfold is found within half a minute.
const SLOW: f64 = 0.01;
const SLOWEST: f64 = 0.003;
const IMPATIENCE: f64 = 4.0;
/// Where fast growth ends, as a part of the pace that was refused, at most.
const NEAR: f64 = 0.95;
/// Held part of what was accepted.
const HOLD: f64 = 0.97;
/// Floor and ceiling have met when they are this close.
const MET: f64 = 1.2;
/// A trial of a held pace, how long it lasts, and the times between trials.
const TRIAL: f64 = 1.03;
const TRIAL_TIME: Duration = Duration::from_secs(1);
const TRIAL_GAPS: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));
/// Lowest learned pace, per second.
const LEAST: f64 = 0.05;

/// What refusals taught.
#[derive(Debug)]
pub(super) struct Learned {
    /// The pace, requests per second.
    rate: f64,
    /// Its growth per second, as a logarithm.
    speed: f64,
    /// When the next departure is due.
    due: Time,
    /// The destination's limit is below this, as far as the last refusal tells.
    ceiling: f64,
    /// Up to here the pace grows fast.
    near: f64,
    /// Departures above it, and all, since the last pause.
    steady: u32,
    launched: u32,
    /// The last departure, and seconds between the last two and the two before.
    last: Time,
    gaps: [f64; 2],
    /// What it accepted between the last two refusals.
    floor: f64,
    /// The pace that is held, once floor and ceiling have met.
    held: Option<f64>,
    /// When the rate last grew.
    grown: Time,
    /// Whether the pace held somebody since the last departure: only then is its growth worth anything.
    bound: bool,
    /// The cut before the last, when the time between was busy.
    previous: Option<Time>,
    trial: Trial,
    gap: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Trial {
    Next(Time),
    Until(Time),
}

impl Default for Learned {
    fn default() -> Learned {
        Learned {
            rate: f64::INFINITY,
            speed: 0.0,
            due: Time::ZERO,
            ceiling: f64::INFINITY,
            near: f64::INFINITY,
            steady: 0,
            launched: 0,
            last: Time::ZERO,
            gaps: [0.0; 2],
            floor: 0.0,
            held: None,
            grown: Time::ZERO,
            bound: false,
            previous: None,
            trial: Trial::Next(Time::NEVER),
            gap: TRIAL_GAPS.0,
        }
    }
}

at_rest!(Learned {
    rate,
    speed,
    due,
    ceiling,
    near,
    last,
    gaps,
    floor,
    held,
    grown,
    bound,
    previous,
    trial,
    gap
} counts {
    steady,
    launched
});

impl Rest for Trial {
    const SIZE: usize = bool::SIZE + Time::SIZE;
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        let (Trial::Next(at) | Trial::Until(at)) = *self;
        (matches!(self, Trial::Next(_)), at).write(out);
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        let (mut next, mut at) = (false, Time::ZERO);
        next.read(from);
        at.read(from);
        *self = if next { Trial::Next(at) } else { Trial::Until(at) };
    }
}

impl Learned {
    /// The time to the next departure of a pace that grows: `(r/s)(e^(st) - 1) = 1`.
    fn every(&self) -> Duration {
        let seconds = if self.speed > 0.0 { (self.speed / self.rate).ln_1p() / self.speed } else { 1.0 / self.rate };
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }

    /// A pace that is held until it is known whether it helps.
    pub(super) fn at(rate: f64, now: Time) -> Learned {
        let rate = rate.max(LEAST);
        let mut learned = Learned {
            rate,
            floor: rate,
            held: Some(rate),
            gap: TRIAL_TIME,
            grown: now,
            last: now,
            ..Learned::default()
        };
        learned.due = now + learned.every();
        learned
    }

    /// Without it so many were accepted between the last cut that it was learned from and one at `cut_at`: whether that is
    /// far more than it would have let pass.
    pub(super) fn is_outdone(&self, accepted: u32, cut_at: Time) -> bool {
        let seconds = self.previous.map_or(f64::INFINITY, |previous| cut_at.since(previous).as_secs_f64());
        accepted >= 8 && f64::from(accepted) >= self.rate * seconds * 2.0
    }

    /// What is learned next is counted from a cut that taught nothing.
    pub(super) fn counts_from(&mut self, cut_at: Time) {
        self.previous = Some(cut_at);
    }

    /// It was far too low: so many passed without it since the cut that it was learned from.
    pub(super) fn relearn(&mut self, accepted: u32, cut_at: Time, now: Time) {
        let previous = self.previous;
        *self = Learned { previous, ..Learned::default() };
        self.learn(accepted, Duration::ZERO, cut_at, now);
    }

    /// A held pace may be too low.
    pub(super) fn try_soon(&mut self, now: Time) {
        self.trial = Trial::Next(now + TRIAL_TIME);
    }

    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    pub(super) fn hold(&mut self, now: Time) -> Option<(Time, Waiting)> {
        if self.due <= now {
            return None;
        }
        self.bound = true;
        Some((self.due, Waiting::Learned { millis: (self.rate * 1000.0) as u64 }))
    }

    /// A departure. `rtt`: how long a refusal takes to arrive; the pace does not outgrow what it hears.
    pub(super) fn launch(&mut self, now: Time, rtt: Duration) {
        if std::mem::take(&mut self.bound) {
            self.grow(now, rtt);
        } else {
            self.grown = now;
        }
        self.gaps = [self.gaps[1], now.since(self.last).as_secs_f64()];
        self.last = now;
        self.launched = self.launched.saturating_add(1);
        self.steady += u32::from(self.rate >= self.near);
        // A timer that was a little late is made up for; a quiet time is not saved up.
        self.due = if now.since(self.due) <= SLACK { self.due } else { now } + self.every();
    }

    fn grow(&mut self, now: Time, rtt: Duration) {
        let elapsed = now.since(self.grown).as_secs_f64().min(1.0);
        self.grown = now;
        match (self.held, self.trial) {
            (None, _) => {
                let speed = self.speed.min(0.5 / rtt.as_secs_f64().max(1e-3));
                let grown = self.rate * (speed * elapsed).exp();
                if self.rate < self.near && grown >= self.near {
                    (self.rate, self.speed) = (self.near, SLOWEST);
                } else {
                    self.rate = grown;
                    self.speed = (self.speed * (elapsed / IMPATIENCE).exp2()).min(self.speed.max(FASTEST / 4.0));
                }
            }
            (Some(held), Trial::Next(at)) if now >= at => {
                self.rate = held * TRIAL;
                self.trial = Trial::Until(now + TRIAL_TIME);
            }
            (Some(held), Trial::Until(end)) if now >= end => {
                // Nothing was refused: this is the pace now, and the next trial may come soon.
                self.held = Some(held * TRIAL);
                self.rate = held * TRIAL;
                self.gap = TRIAL_TIME;
                self.trial = Trial::Next(now + self.gap);
            }
            _ => {}
        }
    }

    /// A new cut after the one at `before`; the refused request left at `left`.
    pub(super) fn cut(&mut self, before: Time, left: Time) {
        self.previous = self.previous.map(|_| before);
        // The pace when the refused one left, not what it has grown to since.
        let shrink = (-self.speed * self.last.since(left).as_secs_f64()).exp();
        let pace = |gap: f64| (shrink / gap.max(1e-6)).min(self.rate);
        let [before, last] = self.gaps;
        self.ceiling = pace(last);
        self.near = if self.launched < 3 && self.near.is_finite() {
            self.near.min(self.ceiling) * 0.9
        } else if self.steady <= 1 {
            // It was refused while it grew: one step back.
            pace(before) * HOLD
        } else {
            // It was refused after a while: the longer that was, the less was saved up before, the closer is the limit.
            self.ceiling * (1.0 - 1.0 / (f64::from(self.steady) + 4.0)).min(NEAR)
        };
        if let (Some(held), Trial::Until(_)) = (self.held, self.trial) {
            // The trial was refused: the held pace was right.
            self.rate = held;
        }
    }

    /// A busy period begins: the time since the last cut says nothing about the limit.
    pub(super) fn quiet(&mut self) {
        self.previous = None;
    }

    /// The pause ended: `accepted` departures since the cut before, or in `busy` where there was none.
    pub(super) fn learn(&mut self, accepted: u32, busy: Duration, cut_at: Time, now: Time) {
        let seconds = match self.previous {
            Some(before) => cut_at.since(before),
            None => busy,
        };
        let floor = f64::from(accepted.max(1)) / seconds.as_secs_f64().max(0.001);
        self.previous = Some(cut_at);
        self.floor = floor;
        if let (Some(held), Trial::Until(_)) = (self.held, self.trial) {
            self.gap = (self.gap * 2).clamp(TRIAL_GAPS.0, TRIAL_GAPS.1);
            self.trial = Trial::Next(now + self.gap);
            self.rate = held;
        } else if floor * MET >= self.ceiling && accepted >= 8 {
            // Where pauses are longer than needed the limit is near the ceiling; where they let it save up a burst, near
            // the floor. Try the first, believe the second.
            let (hold, trial) = match self.held {
                None => (self.ceiling, TRIAL_GAPS.0),
                Some(_) => (floor.min(self.ceiling), TRIAL_TIME),
            };
            self.rate = (hold * HOLD).max(LEAST);
            self.held = Some(self.rate);
            self.speed = 0.0;
            self.gap = trial;
            self.trial = Trial::Next(now + trial);
        } else {
            self.held = None;
            // A floor made of few says little: what lies above it is found fast, one made of many carefully.
            let n = f64::from(accepted.max(1));
            self.speed = (FASTEST / (n * n)).max(SLOW);
            self.rate = (floor * HOLD).max(LEAST);
            if self.ceiling.is_finite() {
                self.rate = self.rate.max(self.near).max(LEAST);
                self.speed = SLOWEST;
            }
        }
        self.grown = now;
        self.last = now;
        self.steady = 0;
        self.bound = false;
        self.launched = 0;
        self.due = now + self.every();
    }
}
