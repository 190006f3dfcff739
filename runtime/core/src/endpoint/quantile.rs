//! A quantile of a stream in two words: each sample moves the estimate a step on the logarithm, up by the quantile and
//! down by the rest, so that it rests where that share of the samples lies below (stochastic approximation, Robbins and
//! Monro 1951). The step shrinks with the number of samples, and grows while they all lie on one side for longer than
//! chance explains, so that a change is followed soon (after the second of the frugal estimators of Ma, Muthukrishnan and
//! Sandler 2014).

use crate::rest::at_rest;
use std::time::Duration;

/// An estimated quantile of durations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quantile {
    /// Microseconds. It is asked for more often than it changes, so this is not their logarithm.
    at: f32,
    samples: u16,
    /// How many of the last samples lay above, or below as a negative number.
    run: i16,
}

at_rest!(Quantile { at, samples, run });

impl Quantile {
    pub(crate) const NONE: Quantile = Quantile { at: 1.0, samples: 0, run: 0 };

    /// Half of the samples lie below.
    pub(crate) const MEDIAN: f32 = 0.5;
    /// 95 of a hundred do.
    pub(crate) const P95: f32 = 0.95;

    /// Adds a sample; `quantile` is the same each time.
    pub(crate) fn add(&mut self, sample: Duration, quantile: f32) {
        let sample = Self::micros(sample);
        let above = sample > self.at;
        if self.samples == 0 {
            self.at = sample;
        } else {
            self.run = if above { self.run.max(0).saturating_add(1) } else { self.run.min(0).saturating_sub(1) };
            // The smaller the rarer side is, the smaller the steps must be for the estimate to rest.
            let (own, other) = if above { (1.0 - quantile, quantile) } else { (quantile, 1.0 - quantile) };
            let step = (4.0 / f32::from(self.samples)).clamp(0.06, 2.0) * (own.min(other) * 2.0).sqrt();
            // A run of this length comes by chance once in a hundred times.
            let usual = (0.01f32.ln() / own.ln()).max(1.0);
            let faster = (f32::from(self.run.unsigned_abs()) / usual).min(6.0).floor().exp2();
            let step = (other * step * faster).exp2();
            // Never past the sample.
            self.at = if above { (self.at * step).min(sample) } else { (self.at / step).max(sample) };
        }
        self.samples = self.samples.saturating_add(1);
    }

    /// A sample of which is known only that it is longer than this: moves the estimate up, if at all.
    pub(crate) fn add_at_least(&mut self, sample: Duration, quantile: f32) {
        if self.samples > 0 && Self::micros(sample) > self.at {
            self.add(sample, quantile);
        }
    }

    /// The logarithm to base 2 of the estimate in microseconds.
    pub(crate) fn at(&self) -> f32 {
        self.at.log2()
    }

    /// Moves the logarithm of the estimate by this part of the way to that of so many other samples.
    pub(crate) fn lean(&mut self, to: f32, part: f32, samples: u16) {
        self.at *= ((to - self.at()) * part).exp2();
        self.samples = self.samples.saturating_add(samples);
    }

    /// How many samples there were.
    pub(crate) fn samples(&self) -> u16 {
        self.samples
    }

    /// The estimate, once there is one.
    pub(crate) fn get(&self) -> Option<Duration> {
        (self.samples > 0).then(|| Duration::from_nanos((self.at * 1e3) as u64))
    }

    /// The logarithm that it counts in.
    pub(crate) fn log(sample: Duration) -> f32 {
        Self::micros(sample).log2()
    }

    fn micros(sample: Duration) -> f32 {
        (sample.as_secs_f32() * 1e6).clamp(1.0, 1e12)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples between 100 ms and 1.6 s, each octave as likely as the others.
    fn samples(random: &mut fastrand::Rng) -> Duration {
        Duration::from_secs_f64(0.1 * (random.f64() * 4.0).exp2())
    }

    #[test]
    fn it_finds_the_quantiles_of_a_wide_distribution_and_follows_when_they_move() {
        for seed in 0..50 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut half, mut late) = (Quantile::NONE, Quantile::NONE);
            for times in [1.0, 10.0, 1.0] {
                for _ in 0..450 {
                    let sample = samples(&mut random).mul_f64(times);
                    half.add(sample, Quantile::MEDIAN);
                    late.add(sample, Quantile::P95);
                }
                // The true ones are 0.4 s and 1.39 s.
                let half = half.get().unwrap().as_secs_f64() / times;
                assert!((0.2..0.8).contains(&half), "{seed}, {times}: median {half}");
                let late = late.get().unwrap().as_secs_f64() / times;
                assert!((0.9..2.2).contains(&late), "{seed}, {times}: p95 {late}");
            }
        }
    }

    #[test]
    fn twenty_samples_tell_a_slowness_of_ten_times() {
        let mut half = Quantile::NONE;
        (0..1000).for_each(|_| half.add(Duration::from_millis(100), Quantile::MEDIAN));
        let told = (0..).find(|_| {
            half.add(Duration::from_secs(1), Quantile::MEDIAN);
            half.get().unwrap() > Duration::from_millis(300)
        });
        assert!(told.unwrap() <= 20, "{told:?}");
    }

    #[test]
    fn what_was_cut_short_counts_only_where_it_tells_something() {
        let mut half = Quantile::NONE;
        half.add_at_least(Duration::from_secs(9), Quantile::MEDIAN);
        assert_eq!(half.get(), None);
        half.add(Duration::from_millis(100), Quantile::MEDIAN);
        half.add_at_least(Duration::from_millis(10), Quantile::MEDIAN);
        assert_eq!(half.samples(), 1);
        half.add_at_least(Duration::from_secs(9), Quantile::MEDIAN);
        assert!(half.get().unwrap() > Duration::from_millis(100));
    }
}
