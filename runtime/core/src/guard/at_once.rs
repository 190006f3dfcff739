//! Slots that nobody configured: how many requests at once a destination takes, learned from what it refuses.
//!
//! Some upstreams count requests in flight and not requests in a time, and few of them say so. The shape of their refusals
//! does: whoever is refused had as many beside it as the limit, whoever is accepted had fewer. A limit in time refuses
//! requests that have few beside them, too, and accepts others that have many. So the least number beside a refused
//! request is the limit when several cuts agree on it, and none that was accepted reached it. See [`Shape`].
//!
//! What is in flight by the gate's count is at least what the upstream counts: answers are on their way back, and of the
//! requests that were refused nobody knows yet. So a refusal beside `n` others says that the limit is `n` at most.
//!
//! Then slots are held instead of pauses, see [`AtOnce`]: a refusal below their number lowers it, and now and then one more
//! is tried. Should few slots be refused, too, it was no such limit, and the pace learns as it would have.

use super::DOUBLING;
use crate::{
    calls::Call,
    refusal::{Found, Waiting},
    rest::at_rest,
    time::Time,
};
use std::time::Duration;

/// Cuts that must agree before slots are learned from the shape of refusals; one more with each request that was accepted
/// beside as many as another was refused (its answer may have been on its way), twice as many where one was refused beside
/// fewer than were accepted, and [`WRONG`] times as many where it cannot be chance. Where a pace is found the cuts are soon minutes apart, and where there is none they are not: who takes a limit
/// in time for one on requests at once, as answers of even length make them alike, has hours to do so, and who was wrong
/// about the opposite has minutes.
const AGREEING: u8 = 2;
const WRONG: u8 = 8;
const BELOW: u8 = 2;
/// Numbers agree within this part of the larger, or within one.
const ALIKE: u16 = 24;
/// One that was accepted beside more than were refused, by more than this part of them, or two, is no matter of answers
/// that are on their way.
const FAR: u16 = 8;
/// Times between trials of one more, as those of a held pace; the shorter ones after a trial that passed.
const TRIAL_GAPS: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));
const NEXT_TRIAL: Duration = Duration::from_secs(1);
/// A trial that passed finds one slot more, and one for so many that there are.
const GROWS: u32 = 16;
/// Of refusals that follow each other closely each takes away one of so many slots.
const FALLS: u32 = 8;

/// What refusals have in common, until slots are learned from it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// When the first of the cuts that agree was made.
    since: Time,
    /// When the first that was refused by the last cut had left, and when that was known: whoever left meanwhile did so
    /// beside others that were no more in flight, for the destination.
    burst: (Time, Time),
    /// Least beside a refused one; 0: there was no cut.
    refused: u16,
    /// Most beside an accepted one that left since, and one; 0: there was none.
    accepted: u16,
    /// Cuts that agree so far, and how many must.
    cuts: u8,
    needed: u8,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape { since: Time::ZERO, burst: (Time::ZERO, Time::ZERO), refused: 0, accepted: 0, cuts: 0, needed: AGREEING }
    }
}

at_rest!(Shape { since, burst, refused, accepted, cuts, needed });

fn alike(one: u16, other: u16) -> bool {
    one.abs_diff(other) <= (one.max(other) / ALIKE).max(1)
}

impl Shape {
    /// A request passed that left at `left` beside so many others.
    pub(super) fn accepted(&mut self, beside: u32, left: Time) {
        let beside = u16::try_from(beside).unwrap_or(u16::MAX);
        if self.refused == 0 || (self.burst.0..self.burst.1).contains(&left) {
        } else if beside.saturating_sub(self.refused) >= (self.refused / FAR).max(2) {
            self.misled();
        } else if beside >= self.refused {
            self.needed = self.needed.saturating_add(1);
            self.restart();
        } else if left >= self.since {
            self.accepted = self.accepted.max(beside + 1);
        }
    }

    /// One was refused that left at `left` beside so many others; `cut`: it is the first of its cut. The number of slots is
    /// returned where that is certain now.
    pub(super) fn refused(&mut self, beside: u32, left: Time, cut: bool, now: Time) -> Option<u32> {
        let beside = u16::try_from(beside).unwrap_or(u16::MAX);
        if !cut {
            // A request overtook others of its burst.
            self.refused = self.refused.min(beside);
            return None;
        }
        self.burst = (left, now);
        if self.refused > 0 && beside < self.accepted {
            self.doubted(BELOW);
        }
        if self.refused == 0 || !alike(beside, self.refused) {
            (self.since, self.refused, self.accepted, self.cuts) = (now, beside, 0, 1);
            return None;
        }
        self.refused = self.refused.min(beside);
        self.cuts = self.cuts.saturating_add(1);
        // Nearly as many must have been accepted since, or it is perhaps only one shortage that lasts.
        (self.cuts >= self.needed && self.accepted > 0 && alike(self.accepted, self.refused))
            .then_some(u32::from(self.refused))
    }

    /// What was refused has nothing to do with others.
    pub(super) fn restart(&mut self) {
        self.refused = 0;
    }

    /// It was no limit of this kind.
    pub(super) fn misled(&mut self) {
        self.doubted(WRONG);
    }

    fn doubted(&mut self, times: u8) {
        self.needed = self.needed.saturating_mul(times);
        self.refused = 0;
    }
}

/// What a refusal does to the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing: it was a trial, or left before they were lowered.
    None,
    Lowered,
    /// It was no limit on requests at once.
    Disproved,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Trial {
    Next(Time),
    /// One more than there are slots is out; it passed when it was not refused until then.
    Out(Call, Time),
}

/// Slots that were learned.
#[derive(Debug)]
pub(super) struct AtOnce {
    slots: u32,
    /// The destination itself said that this is what it limits.
    said: bool,
    /// So many at once passed as there are slots.
    proved: bool,
    /// Accepted since they were lowered.
    calm: u32,
    /// How many there were when the last refusals began that followed each other closely, and before the last.
    from: u32,
    before: u32,
    lowered: Time,
    trial: Trial,
    gap: Duration,
}

impl AtOnce {
    pub(super) fn new(slots: u32, said: bool, now: Time) -> AtOnce {
        let (gap, proved) = (TRIAL_GAPS.0, false);
        AtOnce {
            slots,
            said,
            proved,
            calm: 0,
            from: slots,
            before: 0,
            lowered: now,
            trial: Trial::Next(now + gap),
            gap,
        }
    }

    pub(super) fn slots(&self) -> u32 {
        self.slots
    }

    /// Whether a refusal is about these: one that `says` so, or any where refusals say nothing.
    pub(super) fn explains(&self, says: bool) -> bool {
        says || !self.said
    }

    /// What holds the next request, while so many are in flight.
    pub(super) fn hold(&mut self, flying: u32, now: Time) -> Option<(Time, Waiting)> {
        if matches!(self.trial, Trial::Out(_, passes) if now >= passes) {
            self.passed(now);
        }
        let next = match self.trial {
            _ if flying < self.slots => return None,
            Trial::Next(at) if flying == self.slots && now >= at => return None,
            Trial::Next(at) if flying == self.slots => at,
            Trial::Out(_, passes) => passes,
            Trial::Next(_) => Time::NEVER,
        };
        Some((next, Waiting::AtOnce { slots: self.slots, found: Found::Refusals }))
    }

    /// A request is admitted beside so many.
    pub(super) fn launch(&mut self, call: Call, flying: u32) {
        if flying >= self.slots {
            self.trial = Trial::Out(call, Time::NEVER);
        }
    }

    /// It left; refusals take so long to arrive.
    pub(super) fn departed(&mut self, call: Call, rtt: Duration, now: Time) {
        if self.tries(call) {
            self.trial = Trial::Out(call, now + DOUBLING.max(rtt * 4));
        }
    }

    fn tries(&self, call: Call) -> bool {
        matches!(self.trial, Trial::Out(trial, _) if trial == call)
    }

    fn passed(&mut self, now: Time) {
        self.slots = self.slots.saturating_add(1 + self.slots / GROWS);
        self.gap = NEXT_TRIAL;
        self.trial = Trial::Next(now + self.gap);
    }

    pub(super) fn accepted(&mut self, call: Call, now: Time) {
        self.calm = self.calm.saturating_add(1);
        self.proved |= self.calm >= self.slots;
        if self.tries(call) {
            self.passed(now);
        }
    }

    /// A request ended without telling anything.
    pub(super) fn over(&mut self, call: Call, now: Time) {
        if self.tries(call) {
            self.trial = Trial::Next(now + NEXT_TRIAL);
        }
    }

    /// A request that left at `left` beside so many others was refused.
    pub(super) fn refused(&mut self, call: Call, beside: u32, left: Time, now: Time) -> Effect {
        if self.tries(call) {
            self.gap = (self.gap * 2).clamp(TRIAL_GAPS.0, TRIAL_GAPS.1);
            self.trial = Trial::Next(now + self.gap);
            return Effect::None;
        }
        if beside >= self.slots {
            return Effect::None;
        }
        if left < self.lowered {
            // Of the same cut, which halves at most.
            self.slots = beside.max(self.before.div_ceil(2)).clamp(1, self.slots);
            return Effect::None;
        }
        let in_a_row = self.calm < self.slots;
        if !in_a_row {
            self.from = self.slots;
        }
        let step = if in_a_row { (self.slots / FALLS).max(1) } else { 1 };
        let lower = beside.min(self.slots.saturating_sub(step)).max(self.slots.div_ceil(2)).max(1);
        let far_below = if self.proved { lower < self.from.div_ceil(2) } else { beside + 1 < self.slots };
        if !self.said && far_below {
            return Effect::Disproved;
        }
        (self.before, self.slots) = (self.slots, lower);
        (self.calm, self.lowered) = (0, now);
        self.gap = TRIAL_GAPS.0;
        self.trial = Trial::Next(now + self.gap);
        Effect::Lowered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_millis(1_000_000);
    const SEC: Duration = Duration::from_secs(1);
    const RTT: Duration = Duration::from_millis(1);

    fn call(index: u32) -> Call {
        Call { index, generation: 0 }
    }

    /// A second apart each: beside how many, and whether it passed. What is learned at the end.
    fn shape(story: &[(u32, bool)]) -> Option<u32> {
        let (mut shape, mut learned) = (Shape::default(), None);
        for (second, (beside, passed)) in (0u32..).zip(story) {
            let left = NOW + SEC * second;
            if *passed {
                shape.accepted(*beside, left);
            } else {
                learned = shape.refused(*beside, left, true, left + RTT);
            }
        }
        learned
    }

    #[test]
    fn the_table_of_shapes() {
        const YES: bool = true;
        const NO: bool = false;
        for (story, slots, why) in [
            (&[(8, NO)][..], None, "one cut is none"),
            (&[(8, NO), (8, NO)], None, "nothing passed between: perhaps a shortage that lasts"),
            (&[(8, NO), (7, YES), (8, NO)], Some(8), "two that agree"),
            (&[(9, NO), (7, YES), (8, NO)], Some(8), "an answer was on its way"),
            (&[(1, NO), (1, NO), (1, NO)], None, "the same beside one"),
            (&[(8, NO), (3, YES), (8, NO)], None, "how many would have passed is open"),
            (&[(8, NO), (7, YES), (5, NO), (4, YES), (5, NO)], None, "fewer than passed before"),
            (&[(8, NO), (8, YES), (8, NO), (7, YES), (8, NO)], None, "one passed beside as many: three are needed"),
            (&[(8, NO), (8, YES), (8, NO), (7, YES), (8, NO), (8, NO)], Some(8), "three"),
            (&[(20, NO), (38, YES), (40, NO), (39, YES), (40, NO), (40, NO), (40, NO)], None, "far more passed"),
            (&[(4, NO), (3, YES), (60, NO), (59, YES), (60, NO)], Some(60), "another limit than before"),
        ] {
            assert_eq!(shape(story), slots, "{why}: {story:?}");
        }
    }

    #[test]
    fn who_left_while_a_refusal_was_on_its_way_left_beside_fewer() {
        let mut shape = Shape::default();
        assert_eq!(shape.refused(8, NOW, true, NOW + SEC), None);
        shape.accepted(9, NOW + SEC / 2);
        shape.accepted(7, NOW + SEC * 2);
        // Of one burst the least counts.
        assert_eq!(shape.refused(11, NOW, false, NOW + SEC * 3), None);
        assert_eq!(shape.refused(8, NOW + SEC * 3, true, NOW + SEC * 4), Some(8));
    }

    #[test]
    fn slots_hold_and_now_and_then_one_more_is_tried() {
        let mut slots = AtOnce::new(8, false, NOW);
        let waits = |at: Time| Some((at, Waiting::AtOnce { slots: 8, found: Found::Refusals }));
        let trial = NOW + SEC * 30;
        assert_eq!(slots.hold(7, NOW), None);
        assert_eq!(slots.hold(8, NOW), waits(trial));
        assert_eq!(slots.hold(9, NOW), waits(Time::NEVER));
        for next in [60, 120, 240, 480, 600, 600] {
            let at = trial_at(&slots);
            assert_eq!(slots.hold(8, at), None, "a trial");
            slots.launch(call(1), 8);
            slots.departed(call(1), RTT, at);
            assert!(slots.hold(8, at).is_some(), "one at a time");
            assert_eq!(slots.refused(call(1), 8, at, at + RTT), Effect::None);
            assert_eq!((slots.slots(), trial_at(&slots)), (8, at + RTT + SEC * next));
        }
        // One that is not refused passed, whenever its answer comes; the next may follow soon.
        let at = trial_at(&slots);
        slots.launch(call(2), 8);
        slots.departed(call(2), RTT, at);
        assert_eq!(slots.hold(9, at + DOUBLING).unwrap().0, at + DOUBLING + NEXT_TRIAL);
        assert_eq!(slots.slots(), 9);
    }

    fn trial_at(slots: &AtOnce) -> Time {
        if let Trial::Next(at) = slots.trial { at } else { Time::NEVER }
    }

    /// Refusals a second apart after so many were accepted, beside how many: what the slots are after each.
    fn lowered(from: u32, proved: bool, refusals: &[u32]) -> Vec<Result<u32, ()>> {
        let mut slots = AtOnce::new(from, false, NOW);
        (0..if proved { from } else { 0 }).for_each(|_| slots.accepted(call(0), NOW));
        let mut at = NOW;
        refusals
            .iter()
            .map(|beside| {
                at += SEC;
                let effect = slots.refused(call(1), *beside, at, at + RTT);
                if effect == Effect::Disproved { Err(()) } else { Ok(slots.slots()) }
            })
            .collect()
    }

    #[test]
    fn the_table_of_refusals_below_the_slots() {
        assert_eq!(lowered(8, true, &[8, 9]), [Ok(8), Ok(8)], "no more than was known");
        assert_eq!(lowered(8, true, &[7, 6, 5, 4]), [Ok(7), Ok(6), Ok(5), Ok(4)], "it halved");
        assert_eq!(lowered(8, true, &[7, 6, 5, 4, 3]).last(), Some(&Err(())), "it is something else");
        assert_eq!(lowered(64, true, &[63, 62, 54]), [Ok(63), Ok(56), Ok(49)], "faster, the more there are");
        assert_eq!(lowered(64, true, &[3]), [Ok(32)], "by half at once");
        assert_eq!(lowered(8, false, &[7]), [Ok(7)]);
        assert_eq!(lowered(8, false, &[5]), [Err(())], "so many never passed at once");
    }

    #[test]
    fn refusals_of_one_cut_lower_once_and_what_the_destination_says_is_not_disproved() {
        let mut slots = AtOnce::new(20, true, NOW);
        assert_eq!(slots.refused(call(1), 12, NOW - RTT, NOW), Effect::None, "of the cut that showed them");
        assert_eq!(slots.slots(), 12);
        for (beside, at, left) in [(11, 1, 11), (10, 0, 10), (2, 0, 6), (3, 2, 3), (2, 3, 2), (1, 4, 1)] {
            slots.refused(call(1), beside, NOW + SEC * at, NOW + SEC * at + RTT);
            assert_eq!(slots.slots(), left, "beside {beside}");
        }
    }
}
