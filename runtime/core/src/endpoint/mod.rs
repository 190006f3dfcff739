//! The endpoints of a destination as one of its partitions sees them, and which of them a call takes.
//!
//! Each has a guard of its own, so that a refusal or an outage of one pauses no other, limits of its own where they are
//! configured, and a health: how long its answers take. A call goes where its answer is expected first, counting what it
//! would have to wait there. Of endpoints that are about as fast the preferred ones share the calls by weight.
//!
//! One that is far slower than the others, or fails where another does not, is ejected for a while. Meanwhile copies of calls try it, from the budget of
//! hedges, and a few good answers bring it back at once. One that says that no waiting helps gets no calls while another may
//! serve them.

mod choice;
mod denial;
mod health;
mod mask;
mod one;
mod quantile;

pub(crate) use choice::Chosen;
pub use mask::{MAX_ENDPOINTS, Mask, Ranks, Ways};
pub use one::EndpointSettings;
pub(crate) use one::{Compiled, Endpoint, Held, Wants};
pub(crate) use quantile::Quantile;

use crate::{
    limit::{Cost, Limit},
    refusal::Cause,
    rest::{In, Out, Rest},
    snapshot::Endpoint as Snapshot,
    time::Time,
};
use std::time::Duration;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Endpoints(Box<[Endpoint]>);

impl Rest for Endpoints {
    const SIZE: usize = Box::<[Endpoint]>::SIZE;
    #[inline(always)]
    fn more(&self) -> usize {
        self.0.more()
    }
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

    /// Whether their state at rest tells all. Limits of their own are not written.
    pub(crate) fn rest(&self) -> bool {
        self.0.iter().all(|it| it.own.is_none() && it.guard.rests() && it.health.rests() && it.denial.rests())
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

    /// Those of the ways of a call that may serve it: none that says that no waiting helps, unless all of them do.
    fn open(&self, ways: Ways, now: Time) -> Mask {
        let allowed = self.all().and(ways.allowed);
        if self.is_single() {
            return allowed;
        }
        let denied = self.numbered(allowed).filter(|(_, it)| it.denial.until(now).is_some());
        let denied = denied.fold(Mask::NONE, |denied, (index, _)| denied.with(index));
        allowed.within(Mask(!denied.0))
    }

    /// Whether another than `index` that a call may take does not say that no waiting helps.
    pub(crate) fn others_may_serve(&self, ways: Ways, index: u8, now: Time) -> bool {
        let others = self.all().and(ways.allowed).without(index);
        self.numbered(others).any(|(_, it)| it.denial.until(now).is_none())
    }

    /// What is left of the ways of a call that is at `index`, where something is.
    pub(crate) fn ways_beside(&self, ways: Ways, index: u8) -> Option<Ways> {
        let allowed = self.all().and(ways.allowed).without(index);
        (allowed != Mask::NONE).then_some(Ways { allowed, preferred: ways.preferred.without(index) })
    }

    fn numbered(&self, mask: Mask) -> impl Iterator<Item = (u8, &Endpoint)> {
        (0..).zip(&self.0).filter(move |(index, _)| mask.has(*index))
    }

    /// Ends what keeps calls from any of them.
    pub(crate) fn lift(&mut self, now: Time) {
        for endpoint in &mut self.0 {
            endpoint.guard.lift(now);
            endpoint.health.lift();
            endpoint.denial.lift();
        }
    }

    /// An operator's pause is over: what waited for its end goes by and by.
    pub(crate) fn start_small(&mut self, now: Time) {
        self.0.iter_mut().for_each(|it| it.guard.starts_small(now));
    }

    /// Whether another than `index` answered lately.
    pub(crate) fn others_live(&self, index: u8, now: Time) -> bool {
        self.numbered(self.all().without(index)).any(|(_, it)| it.guard.lived(now))
    }

    /// Whether another than `index` that was not tried would take a call at once, as far as pauses go.
    pub(crate) fn elsewhere(&self, ways: Ways, tried: Mask, index: u8, now: Time) -> bool {
        let others = self.open(ways, now).without(index);
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
        self.numbered(self.open(ways, now)).map(|(_, it)| it.guard.resumes(fresh, now)).min().unwrap_or(now)
    }

    /// The same of one that may take none but that which takes longest.
    pub(crate) fn all_resume(&self, now: Time) -> Time {
        self.iter().map(|it| it.guard.resumes(true, now)).max().unwrap_or(now)
    }

    /// The end of the pause of all of those that a call may take, where all are paused.
    pub(crate) fn paused_until(&self, ways: Ways, fresh: bool, now: Time) -> Option<(Time, Cause)> {
        let mut first: Option<(Time, Cause)> = None;
        for (_, endpoint) in self.numbered(self.open(ways, now)) {
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
            ejected: it.ejected(now).map(|(until, why)| (until.since(now), why)),
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
