//! One endpoint: what is configured for it, and what it holds of that.

use super::{Mask, Ways, denial::Denial, health::Health};
use crate::{
    calls::{Call, Calls},
    guard::Guard,
    limit::{Cost, Limit},
    pace::{Charge, Limits, Paces, Units},
    refusal::Waiting,
    rest::at_rest,
    slots::{Slot, Slots},
    snapshot::Ejected,
    time::Time,
};
use std::num::{NonZeroU16, NonZeroU32};

/// The settings of one endpoint.
#[derive(Debug, Clone)]
pub struct EndpointSettings {
    /// What it is known by when its place changes.
    pub id: u64,
    /// Its weight among those that are about as fast.
    pub weight: NonZeroU16,
    /// Preferred where no other is clearly better.
    pub home: bool,
    /// Limits of its own, beside those of the destination.
    pub limits: Vec<Limit>,
    /// Attempts in flight there at once.
    pub max_concurrency: Option<u32>,
}

impl Default for EndpointSettings {
    fn default() -> EndpointSettings {
        EndpointSettings { id: 0, weight: NonZeroU16::MIN, home: false, limits: Vec::new(), max_concurrency: None }
    }
}

/// The same, checked and compiled.
#[derive(Debug, Clone)]
pub(crate) struct Compiled {
    pub(crate) id: u64,
    pub(crate) weight: NonZeroU16,
    pub(crate) home: bool,
    pub(crate) limits: Limits,
    pub(crate) max_concurrency: Option<NonZeroU32>,
}

impl Compiled {
    fn has_own(&self) -> bool {
        !self.limits.is_empty() || self.max_concurrency.is_some()
    }
}

/// The state of the limits of one endpoint.
#[derive(Debug)]
pub(super) struct Own {
    paces: Paces,
    slots: Slots,
}

/// What a call holds of the limits of its endpoint.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Held {
    charge: Charge,
    slot: Option<Slot>,
}

/// One endpoint.
#[derive(Debug, Default)]
pub(crate) struct Endpoint {
    pub(crate) guard: Guard,
    pub(crate) health: Health,
    pub(crate) denial: Denial,
    pub(super) own: Option<Box<Own>>,
    /// Smooth weighted round robin: grows by the weight with each choice, and falls by all weights when chosen.
    pub(super) credit: i32,
}

at_rest!(Endpoint { guard, health, credit } else { own: None, denial: Denial::default() });

impl Endpoint {
    pub(super) fn new(compiled: Option<&Compiled>, known: bool) -> Endpoint {
        let mut endpoint = Endpoint::default();
        endpoint.follow(None, compiled, known, Time::ZERO);
        endpoint
    }

    /// The configuration changed: what was learned and charged stays.
    pub(super) fn follow(&mut self, old: Option<&Compiled>, new: Option<&Compiled>, known: bool, now: Time) {
        let new = new.filter(|compiled| compiled.has_own());
        self.guard.is_known(known || new.is_some(), now);
        match (&mut self.own, old, new) {
            // Also where nothing is limited any more: what flies holds a part of it.
            (Some(own), Some(old), _) => {
                let none = Limits::default();
                own.paces.reconfigure(&old.limits, new.map_or(&none, |new| &new.limits), now);
            }
            (own @ None, _, Some(new)) => {
                *own = Some(Box::new(Own { paces: Paces::new(&new.limits), slots: Slots::default() }));
            }
            _ => {}
        }
    }

    /// Until when its calls go elsewhere at most, and why.
    pub(super) fn ejected(&self, now: Time) -> Option<(Time, Ejected)> {
        let denying = self.denial.until(now).map(|until| (until, Ejected::Denying));
        denying.or_else(|| self.health.ejected_until(now))
    }

    /// What holds a call here.
    pub(super) fn hold(
        &mut self,
        compiled: Option<&Compiled>,
        wants: &Wants,
        calls: &mut Calls,
        now: Time,
    ) -> Option<(Time, Waiting)> {
        if let Some(held) = self.guard.hold(wants.fresh, now) {
            return Some(held);
        }
        let (own, compiled) = (self.own.as_mut()?, compiled?);
        if let Some(limit) = compiled.limits.never(wants.cost) {
            return Some((Time::NEVER, Waiting::Limit(*limit)));
        }
        if let Some((at, limit)) = own.paces.when(&compiled.limits, now, Units::default(), wants.cost)
            && at > now
        {
            return Some((at, Waiting::Limit(*limit)));
        }
        let max = compiled.max_concurrency?;
        while !own.slots.free(max) {
            let Some(call) = own.slots.lapse(now) else {
                return Some((own.slots.next_lapse(), Waiting::Slots { max: max.get() }));
            };
            if let Some(entry) = calls.get_mut(call) {
                entry.held.slot = Some(Slot::Lapsed);
            }
        }
        None
    }

    /// A call was admitted here.
    pub(crate) fn take(&mut self, compiled: Option<&Compiled>, call: Call, cost: Cost, until: Time, now: Time) -> Held {
        let (Some(own), Some(compiled)) = (&mut self.own, compiled) else { return Held::default() };
        let limited = compiled.max_concurrency.is_some();
        Held {
            charge: own.paces.charge(&compiled.limits, cost, now),
            slot: Some(own.slots.take(call, if limited { until } else { Time::NEVER })),
        }
    }

    /// It left.
    pub(crate) fn departed(&mut self, compiled: Option<&Compiled>, cost: Cost, held: Held, now: Time) {
        if let (Some(own), Some(compiled)) = (&mut self.own, compiled) {
            own.paces.departed(&compiled.limits, cost, held.charge, now);
        }
    }

    /// It did not leave, and will not.
    pub(crate) fn refund(&mut self, compiled: Option<&Compiled>, cost: Cost, held: Held, now: Time) {
        if let (Some(own), Some(compiled)) = (&mut self.own, compiled) {
            own.paces.refund(&compiled.limits, cost, held.charge, now);
        }
    }

    /// It used other tokens than it was charged, see [`Paces::settle`].
    pub(crate) fn settle(
        &mut self,
        compiled: Option<&Compiled>,
        charged: u32,
        used: u32,
        held: Held,
        left: Time,
        now: Time,
    ) {
        if let (Some(own), Some(compiled)) = (&mut self.own, compiled) {
            own.paces.settle(&compiled.limits, charged, used, held.charge, left, now);
        }
    }

    /// Its answer flows until `until` at least.
    pub(crate) fn flows(&mut self, call: Call, held: &mut Held, until: Time) {
        if let (Some(own), Some(slot)) = (&mut self.own, &mut held.slot) {
            own.slots.keep(call, slot, until);
        }
    }

    /// It is over.
    pub(crate) fn give(&mut self, call: Call, held: Held) {
        if let (Some(own), Some(slot)) = (&mut self.own, held.slot) {
            own.slots.give(call, slot);
        }
    }
}

/// What a call asks of the endpoint that it takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wants {
    pub(crate) cost: Cost,
    pub(crate) fresh: bool,
    pub(crate) ways: Ways,
    /// Those that failed it before.
    pub(crate) tried: Mask,
}
