//! The learned pace: a floor, a ceiling, and a careful way between them.

use crate::{
    pace::gcra::{Gcra, Rate},
    refusal::Waiting,
    time::Time,
};
use std::time::Duration;

/// Growth per departure while well below the ceiling.
const FAST: f64 = 1.25;
/// Where fast growth ends, as a part of the ceiling.
const NEAR: f64 = 0.85;
/// Held part of what was accepted.
const HOLD: f64 = 0.97;
/// Growth of a trial, and per second beyond the fast part.
const TRIAL: f64 = 1.03;
/// How long a trial lasts.
const TRIAL_TIME: Duration = Duration::from_secs(1);
/// First and longest time between trials.
const TRIAL_GAPS: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));
/// Slowest learned pace, per second.
const SLOWEST: f64 = 0.1;

/// What refusals taught.
#[derive(Debug)]
pub(super) struct Learned {
    /// The pace, requests per second.
    rate: f64,
    pace: Gcra,
    /// The pace at which the destination last refused.
    ceiling: f64,
    /// What it accepted between the last two refusals.
    floor: f64,
    /// The pace that is held, once floor and ceiling met.
    held: Option<f64>,
    /// When the rate last grew.
    grown: Time,
    /// Whether the pace held somebody since the last departure: only then is its growth worth anything.
    bound: bool,
    /// The cut before the last, when the time between was busy.
    previous: Option<Time>,
    last_cut: Time,
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
            pace: Gcra::default(),
            ceiling: f64::INFINITY,
            floor: 0.0,
            held: None,
            grown: Time::ZERO,
            bound: false,
            previous: None,
            last_cut: Time::ZERO,
            trial: Trial::Next(Time::NEVER),
            gap: TRIAL_GAPS.0,
        }
    }
}

impl Learned {
    fn every(&self) -> Rate {
        Rate::every((1e9 / self.rate) as u64)
    }

    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    pub(super) fn hold(&mut self, now: Time) -> Option<(Time, Waiting)> {
        let at = self.pace.when(&self.every(), 1);
        if at <= now {
            return None;
        }
        self.bound = true;
        Some((at, Waiting::Learned { millis: (self.rate * 1000.0) as u64 }))
    }

    pub(super) fn launch(&mut self, now: Time, rtt: Duration) {
        if std::mem::take(&mut self.bound) && now.since(self.grown) >= rtt.mul_f64(1.5) {
            self.grow(now);
        }
        self.pace.charge(&self.every(), 1, now);
    }

    fn grow(&mut self, now: Time) {
        let elapsed = now.since(self.grown).as_secs_f64().min(1.0);
        self.grown = now;
        match (self.held, self.trial) {
            (None, _) if self.rate < self.ceiling * NEAR => self.rate = (self.rate * FAST).min(self.ceiling * NEAR),
            (None, _) => self.rate *= TRIAL.powf(elapsed),
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

    /// A new cut at `now`, after the one at `before`.
    pub(super) fn cut(&mut self, before: Time, now: Time) {
        self.previous = self.previous.map(|_| before);
        self.last_cut = now;
        self.ceiling = self.rate;
        if let (Some(held), Trial::Until(_)) = (self.held, self.trial) {
            // The trial was refused: the held pace was right.
            self.rate = held;
        }
    }

    /// A busy period begins: the time since the last cut says nothing about the limit.
    pub(super) fn quiet(&mut self) {
        self.previous = None;
    }

    /// The pause ended: `accepted` departures since the cut before, or since `began`.
    pub(super) fn learn(&mut self, accepted: u32, began: Time, cut_at: Time, now: Time) {
        let since = match self.previous {
            Some(before) => cut_at.since(before),
            None => now.since(began),
        };
        let floor = f64::from(accepted) / since.as_secs_f64().max(0.001);
        let agrees = self.floor > 0.0 && (floor / self.floor - 1.0).abs() < 0.2;
        self.previous = Some(cut_at);
        self.floor = floor;
        if let (Some(held), Trial::Until(_)) = (self.held, self.trial) {
            self.gap = (self.gap * 2).clamp(TRIAL_GAPS.0, TRIAL_GAPS.1);
            self.trial = Trial::Next(now + self.gap);
            self.rate = held;
        } else if floor * 1.3 >= self.ceiling || (agrees && floor * 1.6 >= self.ceiling) {
            self.rate = (floor.min(self.ceiling) * HOLD).max(SLOWEST);
            self.held = Some(self.rate);
            self.trial = Trial::Next(now + self.gap);
        } else {
            self.held = None;
            let half = if self.ceiling.is_finite() { self.ceiling / 2.0 } else { 0.0 };
            self.rate = (floor * HOLD).max(half).clamp(SLOWEST, self.ceiling.max(SLOWEST));
        }
        self.grown = now;
        self.bound = false;
        self.pace = Gcra::default();
        self.pace.charge(&self.every(), 1, now);
    }
}
