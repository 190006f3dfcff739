//! The pace of a destination: all its limits together. A call leaves when every limit lets it, and is charged to all of
//! them or to none.
//!
//! [`gcra`] paces periods up to a minute, [`window`] counts longer ones, of which a pace keeps the burst where one is stated. [`Limits`] is the compiled configuration,
//! shared by every partition of a destination; [`Paces`] is the state of one partition.

pub mod gcra;
pub mod window;

use crate::{
    limit::{Cost, Limit, LimitError, LimitProblem, Unit},
    rest::{In, Out, Rest},
    time::{Time, nanos},
};
use gcra::{Gcra, Rate};
use smallvec::SmallVec;
use window::Window;

/// How one limit is kept, or a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Paced(Rate),
    Counted,
}

/// Whether this is the pace of a limit that is counted, too.
fn keeps_burst((limit, kind): &(Limit, Kind)) -> bool {
    limit.per.0 > Limit::LONGEST_PACED && *kind != Kind::Counted
}

/// The limits of a destination, checked and compiled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits(SmallVec<[(Limit, Kind); 2]>);

impl Limits {
    /// Checks and compiles the limits of a destination.
    ///
    /// # Errors
    /// The first limit that is none, with the field that makes it so.
    pub fn new(limits: &[Limit]) -> Result<Limits, LimitError> {
        if limits.len() > Limit::MAX_PER_DESTINATION {
            let problem = LimitProblem::TooMany { given: limits.len(), max: Limit::MAX_PER_DESTINATION };
            return Err(LimitError { key: "limits".into(), problem });
        }
        let mut compiled = SmallVec::new();
        for (index, limit) in limits.iter().enumerate() {
            limit.validate(index)?;
            if limit.per.0 > Limit::LONGEST_PACED {
                compiled.push((*limit, Kind::Counted));
                if let Some(burst) = limit.burst {
                    compiled.push((*limit, Kind::Paced(Rate::even(limit.quota, limit.per.0, burst))));
                }
            } else {
                compiled.push((*limit, Kind::Paced(Rate::windowed(limit.quota, limit.per.0, limit.burst()))));
            }
        }
        Ok(Limits(compiled))
    }

    /// The limits as configured.
    pub fn iter(&self) -> impl Iterator<Item = &Limit> {
        self.0.iter().filter(|it| !keeps_burst(it)).map(|(limit, _)| limit)
    }

    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How long a call of `cost` takes the destination up: as long as the limit that it uses up most takes to let as much
    /// pass again. In nanoseconds, at least 1; a million a request where nothing is limited.
    pub(crate) fn share(&self, cost: Cost) -> u64 {
        let used = |limit: &Limit| {
            let part = u128::from(cost.of(limit.unit)) * limit.per.0.as_nanos() / u128::from(limit.quota.max(1));
            u64::try_from(part).unwrap_or(u64::MAX)
        };
        self.iter().map(used).max().unwrap_or_else(|| 1_000_000 * u64::from(cost.requests)).max(1)
    }

    /// The limit that `cost` alone exceeds, if there is one: such a call could never leave.
    pub fn never(&self, cost: Cost) -> Option<&Limit> {
        self.iter().find(|limit| cost.of(limit.unit) > limit.quota)
    }
}

#[derive(Debug, Clone)]
enum State {
    Paced(Gcra),
    Counted(Box<Window>),
}

impl State {
    fn new(limit: &Limit, kind: &Kind) -> State {
        match kind {
            Kind::Paced(_) => State::Paced(Gcra::default()),
            Kind::Counted => State::Counted(Box::new(Window::new(limit.per.0))),
        }
    }
}

/// A limit's state, and how many requests had been charged when it was new.
#[derive(Debug, Clone)]
struct Kept {
    state: State,
    since: u64,
}

impl Kept {
    /// Whether this was charged here: not before the limit was there.
    fn holds(&self, charge: Charge) -> bool {
        charge.mark.requests.wrapping_sub(self.since).cast_signed() > 0
    }
}

/// Units of both kinds, wrapping counters or sums.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Units {
    /// Requests.
    pub requests: u64,
    /// Tokens.
    pub tokens: u64,
}

impl Units {
    fn of(&self, unit: Unit) -> u64 {
        match unit {
            Unit::Requests => self.requests,
            Unit::Tokens => self.tokens,
        }
    }

    /// Adds the cost of a call.
    pub fn add(&mut self, cost: Cost) {
        self.requests = self.requests.wrapping_add(u64::from(cost.requests));
        self.tokens = self.tokens.wrapping_add(u64::from(cost.tokens));
    }

    /// Adds other units.
    pub fn join(&mut self, other: Units) {
        self.requests = self.requests.wrapping_add(other.requests);
        self.tokens = self.tokens.wrapping_add(other.tokens);
    }

    /// Takes the cost of a call away.
    pub fn sub(&mut self, cost: Cost) {
        self.requests = self.requests.saturating_sub(u64::from(cost.requests));
        self.tokens = self.tokens.saturating_sub(u64::from(cost.tokens));
    }
}

/// What a call's charge needs to be moved or given back: kept in the call while it flies.
#[derive(Debug, Clone, Copy, Default)]
pub struct Charge {
    mark: Units,
    at: Time,
}

impl Charge {
    /// There was no limit then.
    fn is_none(&self) -> bool {
        self.mark == Units::default()
    }
}

/// The state of the limits of one partition; nothing where there is none.
#[derive(Debug, Clone, Default)]
pub struct Paces(Option<Box<States>>);

#[derive(Debug, Clone, Default)]
struct States {
    states: SmallVec<[Kept; 1]>,
    /// All units ever charged, wrapping.
    charged: Units,
    /// Units charged that did not leave the node yet.
    waiting: Units,
    /// How long after its admission a call usually leaves, in nanoseconds: the part of its lateness that the calls
    /// before and after it share, which changes no distance between them.
    lag: u64,
}

impl Rest for Paces {
    const SIZE: usize = 1;
    #[inline(always)]
    fn more(&self) -> usize {
        self.some().map_or(0, |states| u64::SIZE + states.states.len() * Gcra::SIZE)
    }
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        let Some(states) = self.some() else { return 0u8.write(out) };
        // As many limits as there may be are far fewer.
        (states.states.len() as u8).write(out);
        out.one(&states.lag);
        for kept in &states.states {
            if let State::Paced(gcra) = &kept.state {
                out.one(gcra);
            }
        }
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        let mut count = 0u8;
        count.read(from);
        if count == 0 {
            self.0 = None;
            return;
        }
        let states = self.0.get_or_insert_default();
        **states = States::default();
        from.one(&mut states.lag);
        for _ in 0..count {
            let mut gcra = Gcra::default();
            from.one(&mut gcra);
            states.states.push(Kept { state: State::Paced(gcra), since: 0 });
        }
    }
}

impl Paces {
    fn some(&self) -> Option<&States> {
        self.0.as_deref().filter(|states| !states.states.is_empty())
    }

    /// Whether their state at rest tells all, while nothing flies: what was charged is counted only to know what flies. Not
    /// where a limit counts units.
    pub(crate) fn rests(&self) -> bool {
        self.0.as_ref().is_none_or(|states| {
            let paced = |kept: &Kept| matches!(kept.state, State::Paced(_));
            states.waiting == Units::default() && states.states.iter().all(paced)
        })
    }

    /// Fresh state: every limit has its whole quota.
    pub fn new(limits: &Limits) -> Paces {
        Paces((!limits.is_empty()).then(|| Box::new(States::new(limits))))
    }

    /// The first instant at which a call of `cost` could leave when nothing leaves before `from`, then calls of `ahead`
    /// in sum, then this one; and the limit that says so. `None` when there is no limit on what it costs.
    pub fn when<'a>(&self, limits: &'a Limits, from: Time, ahead: Units, cost: Cost) -> Option<(Time, &'a Limit)> {
        self.0.as_ref()?.when(limits, from, ahead, cost)
    }

    /// Charges every limit.
    pub fn charge(&mut self, limits: &Limits, cost: Cost, now: Time) -> Charge {
        self.0.as_mut().map_or(Charge::default(), |states| states.charge(limits, cost, now))
    }

    /// The call left the node: its charge moves to when it truly did.
    pub fn departed(&mut self, limits: &Limits, cost: Cost, charge: Charge, now: Time) {
        if let Some(states) = &mut self.0 {
            states.departed(limits, cost, charge, now);
        }
    }

    /// The call never left: nothing of it counts.
    pub fn refund(&mut self, limits: &Limits, cost: Cost, charge: Charge, now: Time) {
        if let Some(states) = &mut self.0 {
            states.refund(limits, cost, charge, now);
        }
    }

    /// A call that left at `left` used other tokens than it was `charged`: the difference is given back, or charged now.
    /// Nobody is charged more than a whole quota, whatever an upstream counts.
    pub fn settle(&mut self, limits: &Limits, charged: u32, used: u32, charge: Charge, left: Time, now: Time) {
        if let Some(states) = &mut self.0 {
            states.settle(limits, charged, used, charge, left, now);
        }
    }

    /// The configuration changed under a live partition: what was charged to a limit goes on counting in its heir, scaled
    /// where it is paced; limits that are nobody's heir start fresh, and what was charged before them is none of theirs. An heir has the same unit and kind and the same
    /// period; of paced limits the period may be another where no limit has the same. Their order means nothing.
    pub fn reconfigure(&mut self, old: &Limits, new: &Limits, now: Time) {
        match &mut self.0 {
            // Also where no limit is left: what flies is known by the count of charges.
            Some(states) => states.reconfigure(old, new, now),
            None => *self = Paces::new(new),
        }
    }
}

impl States {
    fn new(limits: &Limits) -> States {
        let states = limits.0.iter().map(|(limit, kind)| Kept { state: State::new(limit, kind), since: 0 });
        States { states: states.collect(), ..States::default() }
    }

    fn when<'a>(&self, limits: &'a Limits, from: Time, ahead: Units, cost: Cost) -> Option<(Time, &'a Limit)> {
        let mut latest: Option<(Time, &Limit)> = None;
        for ((limit, kind), Kept { state, .. }) in limits.0.iter().zip(&self.states) {
            let own = cost.of(limit.unit);
            if own == 0 {
                continue;
            }
            let ahead = ahead.of(limit.unit);
            let at = match (kind, state) {
                (Kind::Paced(rate), State::Paced(gcra)) => gcra.when_after(rate, from, ahead, own),
                (_, State::Counted(window)) => Self::counted(window, limit, own.saturating_add(ahead)).max(from),
                _ => from,
            };
            if latest.is_none_or(|(other, _)| at > other) {
                latest = Some((at, limit));
            }
        }
        latest
    }

    /// Units beyond one quota wait for as many whole periods as their number takes.
    fn counted(window: &Window, limit: &Limit, units: u64) -> Time {
        let periods = units.saturating_sub(1) / limit.quota.max(1);
        let rest = units - periods * limit.quota;
        let first = window.when(limit.quota, rest);
        if periods == 0 {
            first
        } else {
            first + limit.per.0.saturating_mul(u32::try_from(periods).unwrap_or(u32::MAX))
        }
    }

    fn charge(&mut self, limits: &Limits, cost: Cost, now: Time) -> Charge {
        for ((limit, kind), Kept { state, .. }) in limits.0.iter().zip(&mut self.states) {
            let units = cost.of(limit.unit);
            match (kind, state) {
                _ if units == 0 => {}
                (Kind::Paced(rate), State::Paced(gcra)) => gcra.charge(rate, units, now),
                (_, State::Counted(window)) => window.charge(units, now),
                _ => {}
            }
        }
        self.charged.add(cost);
        self.waiting.add(cost);
        Charge { mark: self.charged, at: now }
    }

    fn departed(&mut self, limits: &Limits, cost: Cost, charge: Charge, now: Time) {
        if charge.is_none() {
            return;
        }
        self.waiting.sub(cost);
        let late = nanos(now.since(charge.at));
        let own = charge.at.plus_nanos(late.saturating_sub(self.lag));
        self.lag = if late < self.lag { late } else { self.lag + (late - self.lag) / 8 };
        let states = self.states.iter_mut();
        for ((limit, kind), Kept { state, .. }) in limits.0.iter().zip(states).filter(|(_, kept)| kept.holds(charge)) {
            let units = cost.of(limit.unit);
            let after = self.charged.of(limit.unit).wrapping_sub(charge.mark.of(limit.unit));
            match (kind, state) {
                (Kind::Paced(rate), State::Paced(gcra)) => {
                    gcra.departed(rate, units, after, self.waiting.of(limit.unit), charge.at, own);
                }
                (_, State::Counted(window)) if units > 0 => {
                    window.refund(units, charge.at, now);
                    window.charge(units, now);
                }
                _ => {}
            }
        }
    }

    fn refund(&mut self, limits: &Limits, cost: Cost, charge: Charge, now: Time) {
        if charge.is_none() {
            return;
        }
        self.waiting.sub(cost);
        let states = self.states.iter_mut();
        for ((limit, kind), Kept { state, .. }) in limits.0.iter().zip(states).filter(|(_, kept)| kept.holds(charge)) {
            let units = cost.of(limit.unit);
            let after = self.charged.of(limit.unit).wrapping_sub(charge.mark.of(limit.unit));
            match (kind, state) {
                _ if units == 0 => {}
                (Kind::Paced(rate), State::Paced(gcra)) => gcra.refund(rate, units, after, now),
                (_, State::Counted(window)) => window.refund(units, charge.at, now),
                _ => {}
            }
        }
    }

    fn settle(&mut self, limits: &Limits, charged: u32, used: u32, charge: Charge, left: Time, now: Time) {
        let (charged, used) = (u64::from(charged), u64::from(used));
        let after = self.charged.tokens.wrapping_sub(charge.mark.tokens);
        let mut more = 0;
        let states = self.states.iter_mut();
        for ((limit, kind), Kept { state, .. }) in limits.0.iter().zip(states).filter(|(_, kept)| kept.holds(charge)) {
            if limit.unit != Unit::Tokens {
                continue;
            }
            let back = charged.saturating_sub(used);
            let due = used.min(limit.quota).saturating_sub(charged);
            more = more.max(due);
            match (kind, state) {
                (Kind::Paced(rate), State::Paced(gcra)) if back > 0 => gcra.refund(rate, back, after, now),
                (Kind::Paced(rate), State::Paced(gcra)) if due > 0 => gcra.charge(rate, due, now),
                (_, State::Counted(window)) if back > 0 => window.refund(back, left, now),
                (_, State::Counted(window)) if due > 0 => window.charge(due, now),
                _ => {}
            }
        }
        self.charged.tokens = self.charged.tokens.wrapping_add(more);
    }

    fn reconfigure(&mut self, old: &Limits, new: &Limits, now: Time) {
        let mut parents: SmallVec<[_; 2]> = old.0.iter().zip(self.states.drain(..)).map(Some).collect();
        let mut heirs: SmallVec<[Option<Kept>; 2]> = new.0.iter().map(|_| None).collect();
        for exactly in [true, false] {
            for ((limit, kind), heir) in new.0.iter().zip(&mut heirs).filter(|(_, heir)| heir.is_none()) {
                let inherits = |(was, was_kind): &(Limit, Kind)| {
                    let same = was.per == limit.per;
                    let alike = keeps_burst(&(*was, *was_kind)) == keeps_burst(&(*limit, *kind));
                    was.unit == limit.unit
                        && match (was_kind, kind) {
                            (Kind::Paced(_), Kind::Paced(_)) => same || !exactly && alike,
                            (Kind::Counted, Kind::Counted) => same,
                            _ => false,
                        }
                };
                let parent = parents.iter_mut().find(|parent| parent.as_ref().is_some_and(|(was, _)| inherits(was)));
                let Some(((_, was_kind), mut kept)) = parent.and_then(Option::take) else { continue };
                if let (Kind::Paced(was), Kind::Paced(rate), State::Paced(gcra)) = (was_kind, kind, &mut kept.state) {
                    gcra.rescale(was, rate, now);
                }
                *heir = Some(kept);
            }
        }
        let since = self.charged.requests;
        let fresh = |(limit, kind): &(Limit, Kind)| Kept { state: State::new(limit, kind), since };
        self.states = new.0.iter().zip(heirs).map(|(it, heir)| heir.unwrap_or_else(|| fresh(it))).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn limits(list: &[(Unit, u64, u64)]) -> Limits {
        let list: Vec<Limit> = list
            .iter()
            .map(|&(unit, quota, secs)| Limit { unit, quota, per: Duration::from_secs(secs).into(), burst: None })
            .collect();
        Limits::new(&list).unwrap()
    }

    #[test]
    fn the_table_of_settlements() {
        let now = Time::from_millis(100_000);
        // 1,000 tokens a window; each row: charged, used, then how many more may leave at once after quiet.
        for (per, charged, used, room) in [
            (60, 600, 600, 400),
            (60, 600, 100, 900),
            (60, 600, 0, 1000),
            (60, 100, 600, 400),
            (60, 600, 1_000_000, 0),
            (60, 0, 300, 700),
            (3600, 600, 100, 900),
            (3600, 100, 600, 400),
            (3600, 600, 4_000_000_000, 0),
        ] {
            let limits = Limits::new(&[Limit {
                unit: Unit::Tokens,
                quota: 1000,
                per: Duration::from_secs(per).into(),
                burst: Some(1000),
            }])
            .unwrap();
            let mut paces = Paces::new(&limits);
            let cost = Cost { requests: 1, tokens: charged };
            let charge = paces.charge(&limits, cost, now);
            paces.departed(&limits, cost, charge, now);
            paces.settle(&limits, charged, used, charge, now, now);
            let fits = |paces: &Paces, tokens| {
                let at = paces.when(&limits, now, Units::default(), Cost { requests: 1, tokens });
                at.is_none_or(|(at, _)| at <= now)
            };
            assert!(room == 0 || fits(&paces, room), "{charged} {used}: {room} fit");
            assert!(!fits(&paces, room + 1), "{charged} {used}: no more than {room} fit");
        }
    }

    #[test]
    fn what_came_after_a_call_that_is_given_back_still_counts() {
        let limits = limits(&[(Unit::Tokens, 1000, 60)]);
        let now = Time::from_millis(100_000);
        let mut paces = Paces::new(&limits);
        let [one, two] = [600, 300].map(|tokens| {
            let cost = Cost { requests: 1, tokens };
            let charge = paces.charge(&limits, cost, now);
            paces.departed(&limits, cost, charge, now);
            charge
        });
        paces.settle(&limits, 600, 0, one, now, now);
        let at = |paces: &Paces, tokens| {
            paces.when(&limits, now, Units::default(), Cost { requests: 1, tokens }).map_or(now, |(at, _)| at)
        };
        assert!(at(&paces, 1) > now, "300 of a burst of 50 are ahead");
        paces.settle(&limits, 300, 0, two, now, now);
        assert_eq!(at(&paces, 1), now);
    }

    #[test]
    fn a_burst_of_a_long_period_is_kept_and_so_is_its_quota() {
        for (quota, per, burst, at_once, then) in [
            (100, 3600, Some(5), 5, Some(36)),
            (100, 3600, Some(1), 1, Some(36)),
            (1000, 86_400, Some(50), 50, Some(87)),
            // Whoever states none may use it up at once, and who states all of it no more.
            (100, 3600, None, 100, None),
            (100, 3600, Some(100), 100, None),
        ] {
            let secs = Duration::from_secs;
            let limit = Limit { unit: Unit::Requests, quota, per: secs(per).into(), burst };
            let limits = Limits::new(&[limit]).unwrap();
            assert_eq!(limits.iter().collect::<Vec<_>>(), [&limit], "it is one limit to people");
            let mut paces = Paces::new(&limits);
            let mut now = Time::from_millis(200_000_000);
            let start = now;
            let mut left = Vec::new();
            while now.since(start) < secs(per) {
                paces.charge(&limits, Cost::ONE, now);
                left.push(now);
                now = paces.when(&limits, now, Units::default(), Cost::ONE).map_or(now, |(at, _)| at.max(now));
            }
            assert_eq!(left.iter().filter(|at| **at == start).count(), at_once, "{limit:?}");
            let gap = left.get(at_once).map(|at| at.since(start).as_secs_f64().ceil() as u64);
            assert_eq!(gap, then, "{limit:?}");
            assert!(left.len() <= quota as usize, "{limit:?}: {}", left.len());
        }
    }

    #[test]
    fn all_limits_pass_or_none_is_charged() {
        let limits = limits(&[(Unit::Requests, 10, 1), (Unit::Tokens, 1000, 60)]);
        let mut paces = Paces::new(&limits);
        let now = Time::from_millis(100_000);
        let cost = Cost { requests: 1, tokens: 50 };
        assert!(paces.when(&limits, now, Units::default(), cost).is_some_and(|(at, _)| at == now));
        paces.charge(&limits, cost, now);
        // The tokens bind: 50 more wait far longer than one more request.
        let (at, limit) = paces.when(&limits, now, Units::default(), cost).unwrap();
        assert_eq!(limit.unit, Unit::Tokens);
        assert!(at.since(now) > Duration::from_secs(2));
        // A call without tokens is not held by them.
        let (at, limit) = paces.when(&limits, now, Units::default(), Cost::ONE).unwrap();
        assert_eq!(limit.unit, Unit::Requests);
        assert!(at.since(now) <= Duration::from_millis(102));
    }

    #[test]
    fn the_queue_ahead_is_counted() {
        let limits = limits(&[(Unit::Requests, 10, 1)]);
        let paces = Paces::new(&limits);
        let ahead = Units { requests: 99, tokens: 0 };
        let now = Time::from_millis(1_000);
        // 99 intervals of 101.8625 ms from now.
        let at = paces.when(&limits, now, ahead, Cost::ONE).unwrap().0;
        assert_eq!(at, Time::from_nanos(1_000_000_000 + 99 * 101_862_500));
    }

    #[test]
    fn a_cost_above_the_quota_never_passes() {
        let limits = limits(&[(Unit::Tokens, 1000, 60)]);
        assert!(limits.never(Cost { requests: 1, tokens: 1001 }).is_some());
        assert!(limits.never(Cost { requests: 1, tokens: 1000 }).is_none());
    }

    #[test]
    fn a_new_limit_takes_effect_and_keeps_what_was_charged() {
        let (slow, fast) = (limits(&[(Unit::Requests, 1, 10)]), limits(&[(Unit::Requests, 10, 1)]));
        let mut paces = Paces::new(&slow);
        let now = Time::from_millis(50_000);
        paces.charge(&slow, Cost::ONE, now);
        paces.reconfigure(&slow, &fast, now);
        let (at, _) = paces.when(&fast, now, Units::default(), Cost::ONE).unwrap();
        assert!(at > now && at.since(now) < Duration::from_millis(102), "{at:?}");
    }

    #[test]
    fn a_limit_put_before_another_takes_nothing_from_it() {
        let (day, both) =
            (limits(&[(Unit::Requests, 10, 86_400)]), limits(&[(Unit::Requests, 10, 1), (Unit::Requests, 10, 86_400)]));
        let now = Time::from_millis(200_000_000);
        let held = |paces: &Paces, limits: &Limits| {
            let (at, limit) = paces.when(limits, now, Units::default(), Cost::ONE).unwrap();
            (at.since(now) > Duration::from_secs(60), limit.per.0.as_secs())
        };
        let mut paces = Paces::new(&day);
        (0..10).for_each(|_| _ = paces.charge(&day, Cost::ONE, now));
        paces.reconfigure(&day, &both, now);
        assert_eq!(held(&paces, &both), (true, 86_400));
        paces.reconfigure(&both, &day, now);
        assert_eq!(held(&paces, &day), (true, 86_400));
        // Two of one kind that change places, and a third that is new.
        let of = |secs: &[u64]| limits(&secs.iter().map(|secs| (Unit::Requests, 1, *secs)).collect::<Vec<_>>());
        let (before, after) = (of(&[1, 30]), of(&[5, 30, 1]));
        let mut paces = Paces::new(&before);
        paces.charge(&before, Cost::ONE, now);
        paces.reconfigure(&before, &after, now);
        let (at, limit) = paces.when(&after, now, Units::default(), Cost::ONE).unwrap();
        assert_eq!(limit.per.0.as_secs(), 30);
        assert!(at.since(now) > Duration::from_secs(29));
    }
}
