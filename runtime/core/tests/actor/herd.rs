//! What waits for the end of a pause goes by and by when it ends, whoever paused.

use std::sync::Arc;

use tidegate_core::{
    Effect, Settings, Time,
    guard::{OPEN_AT, RAMP_WINDOW},
    shard::{Brake, Config},
};

use crate::{
    gate::{Gate, KEY, MS, SEC, fine, refused},
    stated::last_one,
};

const HERD: usize = 600;

/// How a pause begins, and how it ends.
#[derive(Debug, Clone, Copy)]
enum Pause {
    BrakedAndTakenBack,
    BrakedForATime,
    Stated,
    StatedAndResumed,
    RefusedAndResumed,
}
use Pause::*;

impl Gate {
    /// One whose window is open.
    fn open() -> Gate {
        Gate::new(Settings { max_concurrency: Some(10_000), ..Settings::default() })
    }

    fn brakes(&mut self, brake: Brake) {
        let old = Arc::clone(&self.config);
        let settings = Settings { max_concurrency: Some(10_000), brake, ..Settings::default() };
        self.config = Arc::new(Config::new(&settings).unwrap());
        self.shard.reconfigure(self.now, &old, &self.config.clone(), &mut self.fx);
    }

    fn pauses(&mut self, pause: Pause) {
        let permit = self.sent();
        let until = self.now + SEC * 10;
        match pause {
            BrakedAndTakenBack => self.brakes(Brake::Paused { until: Time::NEVER }),
            BrakedForATime => self.brakes(Brake::Paused { until }),
            Stated | StatedAndResumed => _ = self.report(permit, last_one(200, SEC * 10)),
            RefusedAndResumed => _ = self.report(permit, refused(Some(SEC * 10))),
        }
        if let BrakedAndTakenBack | BrakedForATime = pause {
            self.report(permit, fine());
        }
    }

    /// It ends.
    fn goes_on(&mut self, pause: Pause) {
        match pause {
            BrakedAndTakenBack => self.brakes(Brake::Off),
            StatedAndResumed | RefusedAndResumed => self.shard.resume(self.now, KEY, &mut self.fx),
            BrakedForATime | Stated => {
                self.now += SEC * 10;
                self.shard.tick(self.now, &mut self.fx);
            }
        }
    }

    /// How many were admitted.
    fn lets_go(&mut self) -> usize {
        self.effects().iter().filter(|effect| matches!(effect, Effect::Admit { .. })).count()
    }
}

#[test]
fn no_herd_leaves_when_a_pause_ends_and_all_have_left_two_seconds_later() {
    for pause in [BrakedAndTakenBack, BrakedForATime, Stated, StatedAndResumed, RefusedAndResumed] {
        let mut gate = Gate::open();
        gate.pauses(pause);
        (0..HERD).for_each(|_| _ = gate.queued());
        gate.goes_on(pause);
        let began = gate.now;
        let mut left = gate.lets_go();
        assert_eq!(left, RAMP_WINDOW as usize, "{pause:?}");
        // Nobody answers: only time passes.
        while left < HERD {
            let before = gate.now;
            gate.now = gate.shard.next_wake().unwrap();
            gate.shard.tick(gate.now, &mut gate.fx);
            left += gate.lets_go();
            // Twice as many every quarter of a second, and all when that is no herd any more.
            let most = f64::from(RAMP_WINDOW) * (gate.now.since(began).as_secs_f64() * 4.0).exp2();
            let open = most >= f64::from(OPEN_AT) * 0.9;
            assert!(open || left as f64 <= most, "{pause:?}: {left} after {:?}", gate.now.since(began));
            assert!(gate.now > before);
        }
        assert!(gate.now.since(began) < SEC * 2, "{pause:?}: {:?}", gate.now.since(began));
    }
}

#[test]
fn what_flies_when_a_pause_ends_keeps_nobody_from_leaving() {
    for pause in [BrakedAndTakenBack, BrakedForATime, Stated, StatedAndResumed] {
        let mut gate = Gate::open();
        let flying: Vec<_> = (0..50).map(|_| gate.sent()).collect();
        gate.pauses(pause);
        (0..HERD).for_each(|_| _ = gate.queued());
        gate.goes_on(pause);
        assert_eq!(gate.lets_go(), RAMP_WINDOW as usize, "{pause:?}");
        flying.into_iter().for_each(|permit| _ = gate.report(permit, fine()));
        gate.now += MS * 20;
        gate.shard.tick(gate.now, &mut gate.fx);
        assert!(gate.lets_go() > 0, "{pause:?}");
    }
}

#[test]
fn who_waited_alone_for_the_end_of_an_operator_s_pause_slows_nobody_down() {
    let mut gate = Gate::open();
    gate.pauses(BrakedAndTakenBack);
    gate.queued();
    gate.goes_on(BrakedAndTakenBack);
    assert_eq!(gate.lets_go(), 1);
    (0..20).for_each(|_| _ = gate.admitted());
}
