//! The pace of a destination: all its limits together. A call leaves when every limit lets it, and is charged to all of
//! them or to none.
//!
//! [`gcra`] paces periods up to a minute, [`window`] counts longer ones, of which a pace keeps the burst where one is stated. [`Limits`] is the compiled configuration,
//! shared by every partition of a destination; [`Paces`] is the state of one partition.

pub mod gcra;
#[cfg(test)]
mod tests;
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
