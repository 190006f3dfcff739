//! The guard of a destination: pauses, the probe after a pause, and the pace nobody configured.
//!
//! Nothing known means no limit, carefully: a *window* of unanswered requests starts at [`FIRST_WINDOW`] and doubles
//! while nothing is refused, by time (answers of language models take long) or by evidence (fast answers), until it is
//! open. A refusal *cuts*: the destination pauses for as long as it said, or by a growing backoff; what departed before
//! the cut does not cut again. A pause ends with one probe; when it passes, the window starts small again and departures
//! are paced by what was learned. A long pause for which only a header speaks is tried before its end, see [`doubt`].
//!
//! What can be learned. Between two refusals the destination accepted `n` requests in `d`; whatever burst it allows, it
//! was empty at both ends, so `n/d` is at most its limit (`floor`; less when a pause was longer than needed). And it
//! refused while we sent at some pace, so its limit is below that pace (`ceiling`). The pace starts at the floor, grows
//! quickly to somewhat below the ceiling, then slowly; each cut narrows the two. When they meet, or two floors in a row
//! agree within 20 %, the pace is held at 0.97 of what was accepted, and tried 3 % higher for a second now and then.
//!
//! Where the shape of refusals shows that requests at once are limited and not a rate, slots are learned instead, see
//! [`at_once`]: then refusals neither pause nor pace. Where nothing is refused and answers get slower with more, see
//! [`adaptive`].
//!
//! Where refusals have nothing to do with the pace, they are their calls' own, see [`chance`].
//!
//! What can't. Where nobody pressed (a few requests at once, nothing waiting), a refusal after few accepted requests,
//! or after many at once, may be an accident, such as somebody else's use of the same quota: nothing is learned from it unless another follows
//! before [`CALM`] requests have passed. Of many accepted ones the pace is what it was while they were sent: the pause
//! after them does not count. Nor does an outage.

mod adaptive;
mod at_once;
mod chance;
mod doubt;
mod learned;
mod outcomes;
mod refill;
mod refusals;
mod said;
mod stated;

use crate::{
    calls::Call,
    endpoint::Quantile,
    refusal::{Cause, Waiting},
    rest::at_rest,
    time::{Micros, Time},
};
use adaptive::{Adaptive, MANY};
use at_once::{AtOnce, Shape};
use chance::Chance;
use doubt::Doubt;
use learned::Learned;
use refill::Emptied;
pub(crate) use said::{Beside, Failed, Said};
use stated::Stated;
use std::time::Duration;

/// Requests that may be unanswered at once towards a destination of which nothing is known.
pub const FIRST_WINDOW: u32 = 4;
/// The window after a probe has passed.
pub const RAMP_WINDOW: u32 = 2;
/// A window of this size has shown enough: it opens.
pub const OPEN_AT: u32 = 128;
/// Shortest time in which the window doubles.
pub const DOUBLING: Duration = Duration::from_millis(250);
/// Growing by ones lets more leave than doubling at the end of the same time would: it takes a little longer for that, or
/// the return of a slow destination overshoots.
const SMOOTH: f64 = 1.1;
/// Accepted requests per place of the window that double it without waiting for time.
pub const EVIDENCE: u32 = 8;
/// First pause after a refusal that names no wait.
pub const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause after refusals that name no wait.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// Longest pause of a destination that fails: it must be back at full pace within 5 s of its recovery.
pub const LONGEST_DOWN: Duration = Duration::from_secs(3);
/// Failures in a row, without one success, after which a destination that lived counts as down.
pub const DOWN_AFTER: u8 = 4;
/// A destination that answered within this time is one that lives.
pub const LIVED: Duration = Duration::from_secs(600);
/// A busy period ends when nothing left for this long although it could have.
const QUIET: Duration = Duration::from_secs(1);
/// Requests that pass between two refusals after which neither says much about the other.
const CALM: u32 = 8;
/// Cuts in a row, each after less than [`CALM`] requests of a sender at a learned pace, after which the pace is forgotten.
const VAIN: u8 = 2;
/// Calls that wait at once although nobody presses: a few senders that call one by one, all held by a pause.
const FEW: usize = 3;
/// What was accepted at once is taken for at least this long a time: most limits allow about a second's worth.
const AT_LEAST: Duration = Duration::from_secs(1);
const OPEN: u32 = u32::MAX;
/// Doublings of [`FIRST_PAUSE`] that reach [`LONGEST_BACKOFF`].
const DOUBLINGS: u8 = 7;

/// Half of a pause is random: never nothing, never in step with other nodes.
fn up_to_half_less(pause: Duration, random: &mut fastrand::Rng) -> Duration {
    pause.mul_f64(0.5 + random.f64() / 2.0)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Open,
    /// `eager`: the end for calls that were neither refused nor failed before.
    Paused {
        until: Time,
        eager: Time,
        cause: Cause,
    },
    /// `until`: the end of the pause, ahead of which the probe may have left.
    Probing {
        call: Call,
        passes: Time,
        until: Time,
        cause: Cause,
    },
}

/// What a partition knows about its destination beyond the configured limits.
#[derive(Debug)]
pub(crate) struct Guard {
    phase: Phase,
    window: u32,
    unanswered: u32,
    /// Requests that were admitted and whose answers have not ended, and those of them that departed.
    flying: u32,
    departed: u32,
    /// Numbers what departs, wrapping.
    number: u16,
    /// When the window last changed.
    grown: Time,
    /// Accepted since it was last doubled by evidence.
    fresh: u32,
    /// Accepted since the last cut or failure.
    calm: u32,
    /// Doublings of the backoff: one more with each pause, one less with each request that passes.
    exponent: u8,
    /// A probe of this pause did not pass.
    failed_probe: bool,
    /// Failures in a row, and when the first of them left.
    streak: u8,
    streak_left: Time,
    /// Cuts so far; numbers the pauses.
    cuts: u32,
    /// The last that a fresh call made.
    fresh_cut: u32,
    /// When the last cut was made; what departed before belongs to it.
    cut_at: Time,
    /// Probes of a long pause.
    doubt: Option<Box<Doubt>>,
    /// The end of the pause as the destination named it; without a word of it, the last refusal.
    told: Time,
    /// Start of the busy period, or of the part of it that can be learned from; departures since the last cut, and the
    /// last departure.
    began: Time,
    departures: u32,
    last_departure: Time,
    /// Departures before the last cut that were not refused, so far; to be learned from when the pause ends.
    cut_accepted: u32,
    unlearned: bool,
    /// Whether there was more demand at the last cut, or since, than a few senders make one by one.
    pressed: bool,
    /// The last cut was taken for an accident.
    spared: bool,
    /// Cuts in a row that the learned pace did not keep away.
    vain: u8,
    /// The cut at which learning began.
    learned_at: u32,
    last_accepted: Time,
    /// Accepted so far, wrapping.
    passed: u32,
    /// When the latest request left that is known to have passed.
    proof: Time,
    /// How long refusals take to arrive, moving average.
    refusal_rtt: Micros,
    /// The same of failures, some of which are timeouts.
    failure_rtt: Micros,
    /// The fastest answer so far; zero when none was seen.
    fastest: Micros,
    learned: Option<Box<Learned>>,
    /// Whether refusals have to do with the pace.
    chance: Option<Box<Chance>>,
    /// What refusals have in common, and the slots learned from that.
    shape: Option<Box<Shape>>,
    at_once: Option<Box<AtOnce>>,
    /// How long answers take that are not kept waiting, and what is in flight at most where they are.
    base: Quantile,
    adaptive: Option<Box<Adaptive>>,
    /// Something is configured about it at present: it is not for us to find a limit where nothing is refused.
    configured: bool,
    /// A quota that is used up was back at its reset only, and what was said of it last.
    windowed: bool,
    emptied: Emptied,
    /// What answers stated of quotas that are used up.
    stated: Option<Box<Stated>>,
}

impl Default for Guard {
    fn default() -> Guard {
        Guard {
            phase: Phase::Open,
            window: FIRST_WINDOW,
            unanswered: 0,
            flying: 0,
            departed: 0,
            number: 0,
            grown: Time::ZERO,
            fresh: 0,
            calm: 0,
            exponent: 0,
            failed_probe: false,
            streak: 0,
            streak_left: Time::ZERO,
            cuts: 0,
            fresh_cut: 0,
            cut_at: Time::ZERO,
            doubt: None,
            told: Time::ZERO,
            began: Time::ZERO,
            departures: 0,
            last_departure: Time::ZERO,
            cut_accepted: 0,
            unlearned: false,
            pressed: false,
            spared: false,
            vain: 0,
            learned_at: 0,
            last_accepted: Time::ZERO,
            passed: 0,
            proof: Time::ZERO,
            refusal_rtt: Micros::ZERO,
            failure_rtt: Micros::ZERO,
            fastest: Micros::ZERO,
            learned: None,
            chance: None,
            shape: None,
            at_once: None,
            base: Quantile::NONE,
            adaptive: None,
            configured: false,
            windowed: false,
            emptied: Emptied::NEVER,
            stated: None,
        }
    }
}

at_rest!(
    Guard {
        grown,
        exponent,
        streak,
        streak_left,
        cut_at,
        told,
        began,
        last_departure,
        vain,
        last_accepted,
        proof,
        refusal_rtt,
        failure_rtt,
        fastest,
        learned,
        chance,
        shape,
        base
    } counts {
        window,
        fresh,
        calm,
        cuts,
        fresh_cut,
        departures,
        cut_accepted,
        learned_at,
        passed
    } flags {
        unlearned,
        pressed,
        spared,
        configured,
        windowed
    } else {
        emptied: Emptied::NEVER,
        phase: Phase::Open,
        unanswered: 0,
        flying: 0,
        departed: 0,
        number: 0,
        failed_probe: false,
        doubt: None,
        at_once: None,
        adaptive: None,
        stated: None
    }
);

impl Guard {
    /// Whether its state at rest tells all: not while it pauses, nor where slots were learned or quotas are stated, which
    /// few destinations have.
    pub(crate) fn rests(&self) -> bool {
        self.phase == Phase::Open
            && !self.failed_probe
            && self.unanswered == 0
            && self.flying == 0
            && self.doubt.is_none()
            && self.at_once.is_none()
            && self.adaptive.is_none()
            && self.stated.is_none()
    }

    /// Whether what a destination takes is configured: then no window is needed to find it out, and when it is not any
    /// more the window begins anew.
    pub(crate) fn is_known(&mut self, known: bool, now: Time) {
        if known {
            self.adaptive = None;
        }
        if known != self.configured && self.cuts == 0 {
            (self.window, self.grown, self.fresh) = (if known { OPEN } else { FIRST_WINDOW }, now, 0);
        }
        self.configured = known;
    }

    /// What holds the next call, and until when at most. `None`: it may leave. `fresh`: it was neither refused nor
    /// failed before.
    pub(crate) fn hold(&mut self, fresh: bool, now: Time) -> Option<(Time, Waiting)> {
        if let Some(stated) = &mut self.stated {
            if let Some((at, until, by)) = stated.hold(now) {
                return Some((at, Waiting::Paused { left: until.since(now), cause: Cause::Stated { by } }));
            }
            if stated.lets_go(now) {
                self.starts_small(now);
            }
        }
        match self.phase {
            Phase::Open => {}
            Phase::Paused { until, eager, cause } => {
                // The next call is the probe; it is held by nothing else here.
                let end = if fresh { eager } else { until };
                let opens = self.opens(end);
                return (now < opens).then_some((opens, Waiting::Paused { left: end.since(now), cause }));
            }
            Phase::Probing { passes, cause, .. } if now < passes => return Some((passes, Waiting::Probe(cause))),
            Phase::Probing { .. } => {
                // Refusals and failures arrive faster than this: it passed, whenever its answer comes.
                self.passes(self.last_departure);
                self.resume(now);
            }
        }
        if self.unanswered >= self.window {
            // One by one and not twice as many at once: of those that leave together all are refused, or none.
            let window = f64::from(self.window);
            let wider = self.grown + self.doubling().mul_f64(SMOOTH * (1.0 + 1.0 / window).log2());
            if now < wider {
                return Some((wider, Waiting::Guard { window: self.window }));
            }
            self.widen(1, now);
        }
        if let Some(held) = self.at_once.as_mut().and_then(|at_once| at_once.hold(self.flying, now)) {
            return Some(held);
        }
        if let Some(held) = self.adaptive.as_ref().and_then(|adaptive| adaptive.hold(self.flying)) {
            return Some(held);
        }
        if self.chance.as_ref().is_some_and(|chance| chance.tries()) {
            return None;
        }
        self.learned.as_mut()?.hold(now)
    }

    /// Whether refusals are by chance, for all that is known: they are their calls' own.
    pub(crate) fn is_free(&self) -> bool {
        self.chance.as_ref().is_some_and(|chance| chance.is_free())
    }

    /// How often a call is refused that is to blame for it, where that is not `usual`.
    pub(crate) fn owned_after(&self, usual: u8) -> u8 {
        self.chance.as_ref().filter(|chance| chance.is_free()).map_or(usual, |chance| chance.owned_after().max(usual))
    }

    /// A pause is over of which nothing was learned: what waited for its end goes by and by, beside what flies.
    pub(crate) fn starts_small(&mut self, now: Time) {
        let small = self.unanswered.saturating_add(RAMP_WINDOW);
        if small < self.window {
            (self.window, self.grown, self.fresh) = (small, now, 0);
        }
    }

    fn doubling(&self) -> Duration {
        // Before the first refusal its delay is not known: as fast as the fastest answer, unless those take for ever.
        let rtt = if self.cuts == 0 { self.fastest.get().min(DOUBLING) } else { self.refusal_rtt.get() };
        DOUBLING.max(rtt * 2)
    }

    fn widen(&mut self, by: u32, now: Time) {
        self.window = self.window.saturating_add(by);
        if self.window >= OPEN_AT {
            self.window = OPEN;
        }
        self.grown = now;
    }

    /// A call leaves. `idle`: nothing waited before it. `fresh`: it was neither refused nor failed before.
    pub(crate) fn launch(&mut self, call: Call, idle: bool, fresh: bool, now: Time) {
        if idle && self.unanswered == 0 && self.phase == Phase::Open && now.since(self.last_departure) > QUIET {
            self.began = now;
            self.departures = 0;
            if let Some(learned) = &mut self.learned {
                learned.quiet();
            }
            if let Some(chance) = &mut self.chance {
                chance.quiet(now);
            }
        }
        if self.unanswered == 0 && self.window == FIRST_WINDOW {
            self.grown = now;
        }
        self.unanswered += 1;
        self.departures = self.departures.saturating_add(1);
        self.last_departure = now;
        if let Phase::Paused { until, eager, cause } = self.phase {
            let until = if fresh { eager } else { until };
            self.phase = Phase::Probing { call, passes: Time::NEVER, until, cause };
        }
        if let Some(at_once) = &mut self.at_once {
            at_once.launch(call, self.flying);
        }
        self.flying += 1;
        if let Some(learned) = &mut self.learned {
            learned.launch(now, self.refusal_rtt.get());
        }
        if let Some(stated) = &mut self.stated {
            stated.launch(call, now);
        }
    }

    /// A call leaves: beside what.
    pub(crate) fn leaves(&mut self, call: Call, now: Time) -> Beside {
        if let Some(at_once) = &mut self.at_once {
            at_once.departed(call, self.refusal_rtt.get(), now);
        }
        let others = self.departed;
        self.departed += 1;
        self.number = self.number.wrapping_add(1);
        if others >= FEW as u32 && !self.configured && self.adaptive.is_none() {
            self.adaptive = Some(Box::new(Adaptive::new(now)));
        }
        let number = self.number;
        Beside { others, number, window: self.adaptive.as_mut().map_or(0, |adaptive| adaptive.leaves(others, now)) }
    }

    /// A call that was admitted is over, to the end of its answer. `departed`: it left.
    pub(crate) fn ends(&mut self, departed: bool) {
        self.flying = self.flying.saturating_sub(1);
        self.departed = self.departed.saturating_sub(u32::from(departed));
        if self.flying == 0 && self.adaptive.as_ref().is_some_and(|adaptive| adaptive.is_blank()) {
            self.adaptive = None;
        }
    }

    /// A call that may depart does. Where it is the probe, the time is returned at which it has passed unless it is
    /// refused before.
    pub(crate) fn departed(&mut self, call: Call, now: Time) -> Option<Time> {
        match &mut self.phase {
            Phase::Probing { call: probe, passes, until, cause } if *probe == call => {
                // A refusal or failure arrives fast even where answers take long: neither in this time is a pass. Where
                // failures are timeouts, this takes a multiple of them: the probe has to answer. Before the end of the
                // pause nothing but an answer is a pass.
                let rtt = match cause {
                    Cause::Down { .. } => self.refusal_rtt.max(self.failure_rtt).get(),
                    Cause::Refused { .. } | Cause::Stated { .. } => self.refusal_rtt.get(),
                };
                *passes = (now + DOUBLING.max(rtt * 4)).max(*until);
                Some(*passes)
            }
            _ => None,
        }
    }

    /// Whether a call that was admitted earlier must not depart now: paused since, or another is the probe.
    pub(crate) fn stops(&self, call: Call, now: Time) -> bool {
        if self.stated.as_ref().is_some_and(|stated| stated.stops(call, now)) {
            return true;
        }
        match self.phase {
            Phase::Open => false,
            Phase::Paused { .. } => true,
            Phase::Probing { call: probe, .. } => probe != call,
        }
    }

    pub(crate) fn is_probe(&self, call: Call) -> bool {
        matches!(self.phase, Phase::Probing { call: probe, .. } if probe == call)
    }

    fn answered(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    /// Another call waits, and so many do now.
    pub(crate) fn waits(&mut self, waiting: usize) {
        self.pressed |= waiting > FEW;
    }

    /// Whether the destination lived before and does not now.
    pub(crate) fn is_down(&self) -> bool {
        matches!(
            self.phase,
            Phase::Paused { cause: Cause::Down { .. }, .. } | Phase::Probing { cause: Cause::Down { .. }, .. }
        )
    }

    /// The end of the pause for a call, where there is one.
    pub(crate) fn paused_until(&self, fresh: bool, now: Time) -> Option<(Time, Cause)> {
        let stated = self.stated.as_ref().and_then(|stated| stated.paused_until(now));
        let stated = stated.map(|(until, by)| (until, Cause::Stated { by }));
        let paused = match self.phase {
            Phase::Open => return stated,
            Phase::Paused { eager, cause, .. } if fresh => (eager, cause),
            Phase::Paused { until, cause, .. } | Phase::Probing { until, cause, .. } => (until, cause),
        };
        let paused = Some(paused).filter(|(until, _)| *until > now);
        [paused, stated].into_iter().flatten().max_by_key(|(until, _)| *until)
    }

    /// When a call may leave as far as pauses go.
    pub(crate) fn resumes(&self, fresh: bool, now: Time) -> Time {
        let until = match self.phase {
            Phase::Open => now,
            Phase::Paused { eager, .. } if fresh => eager,
            Phase::Paused { until, .. } | Phase::Probing { until, .. } => until,
        };
        let until = self.doubt.as_ref().map_or(until, |doubt| doubt.resumes(until));
        let stated = self.stated.as_ref().and_then(|stated| stated.resumes(now));
        stated.map_or(until, |stated| stated.max(until)).max(now)
    }

    /// When the next probe of a pause until `until` may leave.
    fn opens(&self, until: Time) -> Time {
        self.doubt.as_ref().map_or(until, |doubt| doubt.next().min(until))
    }

    /// Whether a call is a probe that left before the end of a pause which lasts.
    fn is_early(&self, call: Call, now: Time) -> bool {
        matches!(self.phase, Phase::Probing { call: probe, until, .. } if probe == call && now < until)
    }

    /// How long a call that stands back for a wait named to it does so.
    pub(crate) fn believed(wait: Duration, believed: Duration) -> Duration {
        doubt::believed(wait, believed)
    }

    /// When the next fresh call may leave as the probe of the pause, where there is one and none is out.
    pub(crate) fn probes_at(&self) -> Option<Time> {
        if let Phase::Paused { eager, .. } = self.phase { Some(self.opens(eager)) } else { None }
    }

    /// Whether a probe of this pause did not pass.
    pub(crate) fn has_failed_probe(&self) -> bool {
        self.failed_probe
    }

    /// Whether a request passed that left after `then`.
    pub(crate) fn passed_since(&self, then: Time) -> bool {
        self.proof > then
    }

    /// The learned rate in requests per second.
    pub(crate) fn learned(&self) -> Option<f64> {
        self.learned.as_ref().map(|learned| learned.rate())
    }

    /// Requests at once that it was found to take.
    pub(crate) fn slots(&self) -> Option<u32> {
        let refused = self.at_once.as_ref().map(|at_once| at_once.slots());
        let slow = self.adaptive.as_ref().and_then(|adaptive| adaptive.limit());
        [refused, slow].into_iter().flatten().min()
    }

    /// The window, `None` when open.
    pub(crate) fn window(&self) -> Option<u32> {
        (self.window != OPEN).then_some(self.window)
    }

    pub(crate) fn unanswered(&self) -> u32 {
        self.unanswered
    }

    /// The number of the last pause that a fresh call began by being refused.
    pub(crate) fn fresh_cut(&self) -> u32 {
        self.fresh_cut
    }

    pub(crate) fn cuts(&self) -> u32 {
        self.cuts
    }

    /// Accepted so far, wrapping: tells whether others passed between two refusals of a call.
    pub(crate) fn passed(&self) -> u32 {
        self.passed
    }
}
