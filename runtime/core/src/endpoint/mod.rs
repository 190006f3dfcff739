//! The endpoints of a destination as one of its partitions sees them, and which of them a call takes.
//!
//! Each has a guard of its own, so that a refusal or an outage of one pauses no other, limits of its own where they are
//! configured, and a health: how long its answers take. A call goes where its answer is expected first, counting what it
//! would have to wait there. Of endpoints that are about as fast the preferred ones share the calls by weight.
//!
//! One that is far slower than the others, or fails where another does not, is ejected for a while. Meanwhile copies of calls try it, from the budget of
//! hedges, and a few good answers bring it back at once.

mod health;
mod quantile;

use crate::{
    calls::{Call, Calls},
    guard::Guard,
    limit::{Cost, Limit},
    pace::{Charge, Limits, Paces, Units},
    refusal::{Cause, Waiting},
    rest::{In, Out, Rest, at_rest},
    slots::{Slot, Slots},
    snapshot::Endpoint as Snapshot,
    time::Time,
};
use health::{Health, NEAR, is_slow};
pub(crate) use quantile::Quantile;
use smallvec::SmallVec;
use std::{
    num::{NonZeroU16, NonZeroU32},
    time::Duration,
};

/// Endpoints of one destination at most: as many as a [`Mask`] has bits.
pub const MAX_ENDPOINTS: usize = 16;
/// What it costs to be sent again where it failed, in time to the answer.
const TRIED: Duration = Duration::from_secs(1);
/// Of so many calls one goes to an endpoint that nobody called lately.
const EXPLORED: u8 = 32;
/// Differences below this are none.
const NOTHING: Duration = Duration::from_millis(1);

/// A set of endpoints, by their places in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mask(pub u16);

impl Mask {
    /// All of them.
    pub const ALL: Mask = Mask(u16::MAX);
    /// None.
    pub const NONE: Mask = Mask(0);

    /// Just one.
    pub const fn of(index: u8) -> Mask {
        Mask(1u16.wrapping_shl(index as u32))
    }

    /// Whether it holds this one.
    pub const fn has(self, index: u8) -> bool {
        self.0 & Mask::of(index).0 != 0
    }

    /// This one, too.
    pub const fn with(self, index: u8) -> Mask {
        Mask(self.0 | Mask::of(index).0)
    }

    /// All but this one.
    pub const fn without(self, index: u8) -> Mask {
        Mask(self.0 & !Mask::of(index).0)
    }

    /// The same endpoints at their new places, by their places before.
    pub(crate) fn moved(self, places: &[Option<u8>]) -> Mask {
        if self == Mask::ALL {
            return self;
        }
        let moved = (0u8..).zip(places).filter(|(before, _)| self.has(*before));
        moved.filter_map(|(_, now)| *now).fold(Mask::NONE, Mask::with)
    }

    /// All but those.
    pub(crate) const fn beside(self, those: Mask) -> Mask {
        Mask(self.0 & !those.0)
    }

    /// Those of both.
    const fn and(self, other: Mask) -> Mask {
        Mask(self.0 & other.0)
    }

    /// Those of both, or of this one alone where there are none.
    const fn within(self, other: Mask) -> Mask {
        if self.0 & other.0 == 0 { self } else { Mask(self.0 & other.0) }
    }
}

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
struct Own {
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
    own: Option<Box<Own>>,
    /// Smooth weighted round robin: grows by the weight with each choice, and falls by all weights when chosen.
    credit: i32,
}

at_rest!(Endpoint { guard, health, credit } else { own: None });

impl Endpoint {
    fn new(compiled: Option<&Compiled>, known: bool) -> Endpoint {
        let mut endpoint = Endpoint { guard: Guard::default(), health: Health::default(), own: None, credit: 0 };
        endpoint.follow(None, compiled, known, Time::ZERO);
        endpoint
    }

    /// The configuration changed: what was learned and charged stays.
    fn follow(&mut self, old: Option<&Compiled>, new: Option<&Compiled>, known: bool, now: Time) {
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

    /// What holds a call here.
    fn hold(
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

/// Which endpoints a call may take, and which it would rather.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ways {
    /// No others: where none of them is left, the call is refused.
    pub allowed: Mask,
    /// These, unless another is clearly better; none: as configured.
    pub preferred: Mask,
}

impl Ways {
    /// Any of them.
    pub const ANY: Ways = Ways { allowed: Mask::ALL, preferred: Mask::NONE };
}

/// How long answers of each endpoint take, where that is known.
type Latencies = SmallVec<[Option<Duration>; 4]>;

/// The endpoint for a call, and those which would have done as well.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chosen {
    pub(crate) index: u8,
    among: Mask,
}

/// All of them; none only while their state is at rest.
#[derive(Debug, Default)]
pub(crate) struct Endpoints(Box<[Endpoint]>);

impl Rest for Endpoints {
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        self.0.write(out);
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        self.0.read(from);
    }
}

impl Endpoints {
    pub(crate) fn new(compiled: &[Compiled], known: bool) -> Endpoints {
        if compiled.is_empty() {
            return Endpoints([Endpoint::new(None, known)].into());
        }
        Endpoints(compiled.iter().map(|compiled| Endpoint::new(Some(compiled), known)).collect())
    }

    /// The configuration changed. Returns where each endpoint is now, by its place before.
    pub(crate) fn follow(&mut self, old: &[Compiled], new: &[Compiled], known: bool, now: Time) -> Vec<Option<u8>> {
        let mut before: Vec<_> = std::mem::take(&mut self.0).into_iter().map(Some).collect();
        let mut after = Vec::new();
        let mut places = vec![None; before.len()];
        let count = new.len().max(1);
        for index in 0..count {
            let compiled = new.get(index);
            let id = compiled.map_or(0, |compiled| compiled.id);
            let same = (0..before.len()).find(|at| old.get(*at).map_or(0, |old| old.id) == id);
            let kept = same.and_then(|at| Some((at, before.get_mut(at)?.take()?)));
            let endpoint = match kept {
                Some((at, mut endpoint)) => {
                    endpoint.follow(old.get(at), compiled, known, now);
                    if let Some(place) = places.get_mut(at) {
                        *place = u8::try_from(index).ok();
                    }
                    endpoint
                }
                None => Endpoint::new(compiled, known),
            };
            after.push(endpoint);
        }
        self.0 = after.into();
        places
    }

    /// Whether their state is at rest.
    pub(crate) fn is_blank(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether their state at rest tells all. Limits of their own are not written.
    pub(crate) fn rest(&self) -> bool {
        self.0.iter().all(|it| it.own.is_none() && it.guard.rests() && it.health.rests())
    }

    pub(crate) fn get(&self, index: u8) -> Option<&Endpoint> {
        self.0.get(usize::from(index))
    }

    pub(crate) fn get_mut(&mut self, index: u8) -> Option<&mut Endpoint> {
        self.0.get_mut(usize::from(index))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.0.iter()
    }

    pub(crate) fn is_single(&self) -> bool {
        self.0.len() == 1
    }

    fn all(&self) -> Mask {
        Mask(u16::MAX >> (MAX_ENDPOINTS - self.0.len().clamp(1, MAX_ENDPOINTS)))
    }

    /// What is left of the ways of a call that is at `index`, where something is.
    pub(crate) fn ways_beside(&self, ways: Ways, index: u8) -> Option<Ways> {
        let allowed = self.all().and(ways.allowed).without(index);
        (allowed != Mask::NONE).then_some(Ways { allowed, preferred: ways.preferred.without(index) })
    }

    fn numbered(&self, mask: Mask) -> impl Iterator<Item = (u8, &Endpoint)> {
        (0..).zip(&self.0).filter(move |(index, _)| mask.has(*index))
    }

    /// The endpoint that a call takes now; else until when what holds it at least.
    pub(crate) fn choose(
        &mut self,
        compiled: &[Compiled],
        wants: &Wants,
        calls: &mut Calls,
        random: &mut fastrand::Rng,
        now: Time,
    ) -> Result<Chosen, (Time, Waiting)> {
        if let [only] = &mut self.0[..] {
            let among = Mask::of(0);
            return only.hold(compiled.first(), wants, calls, now).map_or(Ok(Chosen { index: 0, among }), Err);
        }
        let latencies = self.latencies(now);
        self.judge(&latencies, random, now);
        let allowed = self.all().and(wants.ways.allowed);
        let best = self.numbered(allowed).zip(&latencies).filter(|((_, it), _)| !it.health.is_ejected(now));
        let best = best.filter_map(|(_, latency)| *latency).min().unwrap_or_default();
        let mut free: SmallVec<[(u8, Duration); 4]> = SmallVec::new();
        let mut held: Option<(Duration, (Time, Waiting))> = None;
        for ((index, endpoint), latency) in (0u8..).zip(&mut self.0).zip(&latencies) {
            if !allowed.has(index) {
                continue;
            }
            let mut expected = endpoint.health.faded(*latency, best, now);
            if wants.tried.has(index) {
                expected += TRIED;
            }
            if !endpoint.health.is_free(now) {
                // Only where the others would take longer still.
                expected = expected.saturating_mul(2).max(best * 2 * NEAR);
            }
            match endpoint.hold(compiled.get(usize::from(index)), wants, calls, now) {
                None => free.push((index, expected)),
                Some((at, why)) => {
                    let expected = expected.saturating_add(at.since(now));
                    if held.is_none_or(|(other, (until, _))| (expected, at) < (other, until)) {
                        held = Some((expected, (at, why)));
                    }
                }
            }
        }
        // Whoever is always passed over is never seen to be better.
        let unseen = free
            .iter()
            .map(|(index, _)| *index)
            .filter(|index| self.get(*index).is_some_and(|it| it.health.is_unseen(now)) && !wants.tried.has(*index));
        if let Some(index) = unseen.min()
            && random.u8(..EXPLORED) == 0
        {
            return Ok(Chosen { index, among: Mask::NONE });
        }
        // How soon one answers that fails is of no use.
        let fails = |index: u8| self.get(index).is_some_and(|it| it.health.is_failing(now));
        if free.iter().any(|(index, _)| !fails(*index) && !wants.tried.has(*index)) {
            free.retain(|(index, _)| !fails(*index));
        }
        let first = free.iter().map(|(_, expected)| *expected).chain(held.map(|(expected, _)| expected)).min();
        let near = first.unwrap_or_default() * NEAR + NOTHING;
        let among = free.iter().filter(|(_, expected)| *expected <= near);
        let among = among.fold(Mask::NONE, |among, (index, _)| among.with(*index));
        let homes = (0u8..).zip(compiled).filter(|(_, compiled)| compiled.home);
        let homes = homes.fold(Mask::NONE, |homes, (index, _)| homes.with(index));
        let preferred = if wants.ways.preferred == Mask::NONE { homes } else { wants.ways.preferred };
        let among = among.within(preferred);
        let credit = |index: u8, it: &Endpoint| it.credit + Self::weight(compiled, index);
        match self.numbered(among).max_by_key(|(index, it)| (credit(*index, it), std::cmp::Reverse(*index))) {
            Some((index, _)) => Ok(Chosen { index, among }),
            None => Err(held.map_or((Time::NEVER, Waiting::Turn), |(_, held)| held)),
        }
    }

    fn weight(compiled: &[Compiled], index: u8) -> i32 {
        compiled.get(usize::from(index)).map_or(1, |compiled| i32::from(compiled.weight.get()))
    }

    /// A call takes the endpoint that was chosen for it.
    pub(crate) fn taken(&mut self, compiled: &[Compiled], chosen: Chosen) {
        if self.is_single() {
            return;
        }
        let mut all = 0;
        for (index, endpoint) in (0u8..).zip(&mut self.0).filter(|(index, _)| chosen.among.has(*index)) {
            let weight = Self::weight(compiled, index);
            endpoint.credit += weight;
            all += weight;
        }
        if let Some(endpoint) = self.get_mut(chosen.index) {
            endpoint.credit -= all;
        }
    }

    /// An ejected endpoint that a copy of a call should try now.
    pub(crate) fn overdue(
        &mut self,
        compiled: &[Compiled],
        wants: &Wants,
        calls: &mut Calls,
        now: Time,
    ) -> Option<Chosen> {
        let allowed = self.all().and(wants.ways.allowed);
        for (index, endpoint) in (0u8..).zip(&mut self.0).filter(|(index, _)| allowed.has(*index)) {
            if endpoint.hold(compiled.get(usize::from(index)), wants, calls, now).is_none()
                && endpoint.health.wants_copy(now)
            {
                return Some(Chosen { index, among: Mask::NONE });
            }
        }
        None
    }

    /// How long answers of each take at present.
    fn latencies(&self, now: Time) -> Latencies {
        self.iter().map(|it| it.health.latency(now)).collect()
    }

    /// The median of what the others take.
    pub(crate) fn others(&self, index: u8, now: Time) -> Option<Duration> {
        self.median_beside(index, &self.latencies(now), now)
    }

    fn median_beside(&self, index: u8, latencies: &Latencies, now: Time) -> Option<Duration> {
        let known = |it: &Endpoint| it.health.answers() && !it.health.is_ejected(now);
        let all = (0u8..).zip(self.iter()).zip(latencies);
        let others = all.filter(|((other, it), _)| *other != index && known(it));
        let mut latencies: SmallVec<[Duration; 4]> = others.filter_map(|(_, latency)| *latency).collect();
        latencies.sort_unstable();
        latencies.get(latencies.len().saturating_sub(1) / 2).copied()
    }

    /// Whether another than `index` serves calls at present.
    pub(crate) fn others_serve(&self, index: u8, now: Time) -> bool {
        self.numbered(self.all().without(index))
            .any(|(_, it)| it.health.serves() && !it.health.is_ejected(now) && it.guard.resumes(true, now) <= now)
    }

    /// Ejects what is far slower than the others, a third of all at most, but one where there are two; and what fails
    /// while another serves.
    fn judge(&mut self, latencies: &Latencies, random: &mut fastrand::Rng, now: Time) {
        // Nobody is far slower than the median of others who is not far slower than the fastest.
        let answers = self.iter().zip(latencies).filter(|(it, _)| it.health.answers());
        let fastest = answers.filter_map(|(_, latency)| *latency).min();
        let slow = |latency: &Duration| fastest.is_some_and(|fastest| is_slow(*latency, fastest));
        if !latencies.iter().flatten().any(slow) && !self.iter().any(|it| it.health.is_suspect()) {
            return;
        }
        for (index, latency) in (0u8..).zip(latencies) {
            let ejected = self.iter().filter(|it| it.health.is_ejected(now)).count();
            let others = self.median_beside(index, latencies, now);
            let others = others.filter(|_| ejected < (self.0.len() / 3).max(1));
            let serves = self.others_serve(index, now);
            if let Some(endpoint) = self.get_mut(index) {
                endpoint.health.judge(*latency, others, serves, random, now);
            }
        }
    }

    /// Ends what keeps calls from any of them.
    pub(crate) fn lift(&mut self, now: Time) {
        for endpoint in &mut self.0 {
            endpoint.guard.lift(now);
            endpoint.health.lift();
        }
    }

    /// Whether another than `index` answered lately.
    pub(crate) fn others_live(&self, index: u8, now: Time) -> bool {
        self.numbered(self.all().without(index)).any(|(_, it)| it.guard.lived(now))
    }

    /// Whether another than `index` that was not tried would take a call at once, as far as pauses go.
    pub(crate) fn elsewhere(&self, ways: Ways, tried: Mask, index: u8, now: Time) -> bool {
        let others = self.all().and(ways.allowed).without(index);
        self.numbered(Mask(others.0 & !tried.0)).any(|(_, it)| it.guard.resumes(true, now) <= now)
    }

    /// Whether a call may take any of them.
    pub(crate) fn any(&self, ways: Ways) -> bool {
        self.all().and(ways.allowed) != Mask::NONE
    }

    /// The limit that keeps a call of this cost out for ever, where each of its endpoints has one.
    pub(crate) fn never<'a>(&self, compiled: &'a [Compiled], ways: Ways, cost: Cost) -> Option<&'a Limit> {
        let allowed = self.all().and(ways.allowed);
        let mut all = (0u8..).zip(compiled).filter(|(index, _)| allowed.has(*index));
        let first = all.next()?.1.limits.never(cost)?;
        all.all(|(_, compiled)| compiled.limits.never(cost).is_some()).then_some(first)
    }

    /// When a call may leave as far as pauses of those go that it may take.
    pub(crate) fn resumes(&self, ways: Ways, fresh: bool, now: Time) -> Time {
        let allowed = self.all().and(ways.allowed);
        self.numbered(allowed).map(|(_, it)| it.guard.resumes(fresh, now)).min().unwrap_or(now)
    }

    /// The same of one that may take none but that which takes longest.
    pub(crate) fn all_resume(&self, now: Time) -> Time {
        self.iter().map(|it| it.guard.resumes(true, now)).max().unwrap_or(now)
    }

    /// The end of the pause of all of those that a call may take, where all are paused.
    pub(crate) fn paused_until(&self, ways: Ways, fresh: bool, now: Time) -> Option<(Time, Cause)> {
        let mut first: Option<(Time, Cause)> = None;
        for (_, endpoint) in self.numbered(self.all().and(ways.allowed)) {
            let (until, cause) = endpoint.guard.paused_until(fresh, now)?;
            if first.is_none_or(|(other, _)| until < other) {
                first = Some((until, cause));
            }
        }
        first
    }

    /// When the next fresh call may leave as a probe, where all are paused.
    pub(crate) fn probes_at(&self) -> Option<Time> {
        let mut first: Option<Time> = None;
        for endpoint in self.iter() {
            let at = endpoint.guard.probes_at()?;
            first = Some(first.map_or(at, |first| first.min(at)));
        }
        first
    }

    /// Whether a probe did not pass where all are paused.
    pub(crate) fn has_failed_probe(&self) -> bool {
        self.iter().any(|it| it.guard.has_failed_probe())
    }

    /// Another call waits, and so many do now.
    pub(crate) fn waits(&mut self, waiting: usize) {
        self.0.iter_mut().for_each(|it| it.guard.waits(waiting));
    }

    /// The learned rate of all together, where each has one.
    pub(crate) fn learned(&self) -> Option<f64> {
        self.iter().map(|it| it.guard.learned()).sum()
    }

    /// Requests at once that all together were found to take, where each was found to.
    pub(crate) fn slots(&self) -> Option<u32> {
        self.iter().map(|it| it.guard.slots()).sum()
    }

    /// How long `ahead` more departures take at the learned pace, when there is one.
    pub(crate) fn spacing(&self, ahead: u64) -> Duration {
        self.learned()
            .map_or(Duration::ZERO, |rate| Duration::try_from_secs_f64(ahead as f64 / rate).unwrap_or(Duration::MAX))
    }

    /// Each of them, for people.
    pub(crate) fn snapshot(&self, compiled: &[Compiled], now: Time) -> Vec<Snapshot> {
        let of = |(compiled, it): (&Compiled, &Endpoint)| Snapshot {
            id: compiled.id,
            latency: it.health.latency(now),
            failures: it.health.failures(),
            unanswered: it.guard.unanswered(),
            paused: it.guard.paused_until(true, now).map(|(until, cause)| (until.since(now), cause)),
            ejected: it.health.ejected_until(now).map(|until| until.since(now)),
            learned_rate: it.guard.learned(),
            learned_slots: it.guard.slots(),
        };
        compiled.iter().zip(&self.0).map(of).collect()
    }

    /// Attempts whose answers are awaited.
    pub(crate) fn unanswered(&self) -> u32 {
        self.iter().map(|it| it.guard.unanswered()).sum()
    }
}
