//! What the outcomes of calls say about their destination.
//!
//! Good ones widen the window, refusals and failures pause, and when a pause ends its cut is learned from.

use super::{
    AT_LEAST, CALM, DOWN_AFTER, EVIDENCE, FIRST_PAUSE, Guard, LIVED, LONGEST_BACKOFF, LONGEST_DOWN, OPEN, Phase,
    RAMP_WINDOW, Said, doubt::Doubt,
};
use crate::{calls::Call, refusal::Cause, time::Time};
use std::time::Duration;

impl Guard {
    /// An answer that shows that the destination takes requests.
    pub(crate) fn accepted(&mut self, call: Call, left: Time, now: Time) {
        self.answered();
        let took = now.since(left).max(Duration::from_nanos(1));
        self.fastest = if self.fastest.is_zero() { took } else { self.fastest.min(took) };
        self.passed = self.passed.wrapping_add(1);
        self.last_accepted = now;
        self.streak = 0;
        if self.is_probe(call) {
            self.resume(now);
        }
        if self.phase != Phase::Open {
            return;
        }
        self.calm = self.calm.saturating_add(1);
        if self.calm >= CALM {
            self.exponent = 0;
            self.spared = false;
        }
        self.fresh = self.fresh.saturating_add(1);
        if self.window != OPEN && self.fresh >= self.window.saturating_mul(EVIDENCE) {
            self.widen(self.window, now);
            self.fresh = 0;
        }
    }

    /// The call ended without telling anything: given up, or failed by its own fault.
    pub(crate) fn forgotten(&mut self, call: Call) {
        self.answered();
        if let Phase::Probing { call: probe, until, cause, .. } = self.phase
            && probe == call
        {
            self.phase = Phase::Paused { until, cause };
        }
    }

    /// It answered, if not well (500, 408): alive, no sign of a limit.
    pub(crate) fn faulty(&mut self, call: Call, now: Time) {
        self.answered();
        self.streak = 0;
        if self.is_probe(call) {
            self.resume(now);
        }
    }

    /// A refusal of a call.
    pub(crate) fn refused(&mut self, call: Call, said: Said, random: &mut fastrand::Rng, now: Time) {
        let Said { left, cause, wait, waiting, believed } = said;
        self.answered();
        self.streak = 0;
        self.heard(left, now);
        let probe = self.is_probe(call);
        let stale = left < self.cut_at && !probe;
        self.told = self.told.max(now + wait.unwrap_or_default());
        let early = self.is_early(call, now);
        if early || stale {
            // The same pause, if perhaps a longer one.
            if early {
                self.departures = self.departures.saturating_sub(1);
                self.early_failed(true, random, now);
            } else {
                self.cut_accepted = self.cut_accepted.saturating_sub(1);
            }
            if let Some(wait) = wait {
                self.pause(now + wait, cause, now);
                self.doubt(believed, random, now);
            }
            return;
        }
        if probe {
            // The same shortage: nothing new to learn from, but what departed meanwhile belongs to it.
            self.departures = self.departures.saturating_sub(1);
        } else {
            self.cut_accepted = self.departures.saturating_sub(1);
            self.departures = 0;
            if self.cut_accepted >= CALM {
                // Answers may take far longer than refusals: departures that were not refused are good news by themselves.
                self.exponent = 0;
            }
            self.unlearned = true;
            self.pressed = waiting || self.unanswered > RAMP_WINDOW;
            if let Some(learned) = &mut self.learned {
                learned.cut(self.cut_at, left);
            }
        }
        self.cut(now);
        let until = now + wait.unwrap_or_else(|| self.backoff(LONGEST_BACKOFF, random));
        self.pause(until, cause, now);
        self.doubt(believed, random, now);
    }

    /// A probe that left before the end of the pause did not pass: the pause goes on.
    fn early_failed(&mut self, refused: bool, random: &mut fastrand::Rng, now: Time) {
        if let Phase::Probing { until, cause, .. } = self.phase {
            self.phase = Phase::Paused { until, cause };
        }
        if let Some(doubt) = &mut self.doubt {
            doubt.failed(refused, random, now);
        }
    }

    /// A failure of the destination as a whole. Returns whether it counts as down from here.
    pub(crate) fn failed(
        &mut self,
        call: Call,
        left: Time,
        status: Option<u16>,
        random: &mut fastrand::Rng,
        now: Time,
    ) -> bool {
        self.answered();
        self.heard(left, now);
        self.streak = self.streak.saturating_add(1);
        let cause = Cause::Down { status };
        if self.is_early(call, now) {
            self.early_failed(false, random, now);
        } else if self.is_probe(call) {
            self.cut(now);
            let until = now + self.backoff(LONGEST_DOWN, random);
            self.phase = Phase::Open;
            self.pause(until, cause, now);
        } else if self.streak >= DOWN_AFTER && self.lived(now) && left >= self.cut_at {
            self.departures = 0;
            self.cut(now);
            let until = now + self.backoff(LONGEST_DOWN, random);
            self.pause(until, cause, now);
        }
        self.is_down()
    }

    fn heard(&mut self, left: Time, now: Time) {
        let rtt = now.since(left);
        self.refusal_rtt = if self.refusal_rtt.is_zero() { rtt } else { (self.refusal_rtt * 7 + rtt) / 8 };
    }

    fn lived(&self, now: Time) -> bool {
        self.passed > 0 && now.since(self.last_accepted) < LIVED
    }

    fn cut(&mut self, now: Time) {
        self.cuts = self.cuts.wrapping_add(1);
        self.cut_at = now;
        self.calm = 0;
        // What was thought of the pause before says nothing about this one.
        self.doubt = None;
    }

    /// Half of the backoff is random: never nothing, never in step with other nodes.
    fn backoff(&mut self, cap: Duration, random: &mut fastrand::Rng) -> Duration {
        let full =
            FIRST_PAUSE.saturating_mul(1u32.checked_shl(u32::from(self.exponent.min(20))).unwrap_or(u32::MAX)).min(cap);
        self.exponent = self.exponent.saturating_add(1);
        full.mul_f64(0.5 + random.f64() / 2.0)
    }

    /// Pauses until `until`; a pause is extended, never shortened by a later word.
    fn pause(&mut self, until: Time, cause: Cause, now: Time) {
        match &mut self.phase {
            Phase::Paused { until: other, .. } if *other >= until => {}
            // A probe is out before the end, which moves.
            Phase::Probing { until: other, passes, .. } if *other > now => {
                *other = until.max(*other);
                *passes = until.max(*passes);
            }
            _ => self.phase = Phase::Paused { until, cause },
        }
        if let Phase::Paused { cause: Cause::Refused { by: None, .. } | Cause::Down { .. }, .. } = self.phase {
            self.doubt = None;
        }
    }

    /// Doubts a pause for which only a header speaks, where it is longer than what is `believed`.
    fn doubt(&mut self, believed: Duration, random: &mut fastrand::Rng, now: Time) {
        if let Phase::Paused { until, cause: Cause::Refused { by: Some(_), .. } } = self.phase
            && self.doubt.is_none()
        {
            self.doubt = Doubt::of(until.since(now), believed, random, now).map(Box::new);
        }
    }

    /// The probe passed: learn from the cut, start small.
    pub(super) fn resume(&mut self, now: Time) {
        let Phase::Probing { until, cause, .. } = std::mem::replace(&mut self.phase, Phase::Open) else { return };
        if now < until {
            // It did not mean what it said.
            self.told = now;
        }
        self.doubt = None;
        self.window = RAMP_WINDOW;
        self.grown = now;
        self.fresh = 0;
        self.streak = 0;
        if std::mem::take(&mut self.unlearned) {
            self.learn(now);
        }
        if let Cause::Down { .. } = cause {
            // Neither what an outage let pass nor its length says anything about a limit.
            self.began = now;
            if let Some(learned) = &mut self.learned {
                learned.quiet();
            }
        }
    }

    fn learn(&mut self, now: Time) {
        let (accepted, alone) = (self.cut_accepted, self.cut_at.since(self.began));
        let thin = accepted < CALM || alone < AT_LEAST;
        if !self.pressed && thin && !std::mem::replace(&mut self.spared, true) {
            // Should another follow, it is counted from this one on, as between any two.
            self.began = self.cut_at;
            return;
        }
        let busy = if self.pressed { self.told.since(self.began).max(AT_LEAST) } else { alone };
        self.learned.get_or_insert_default().learn(accepted, busy, self.cut_at, now);
    }
}
