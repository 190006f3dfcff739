//! Which endpoint a call takes, and which of them are left alone.

use super::{
    Compiled, Endpoint, Endpoints, Mask, Wants,
    health::{NEAR, is_slow},
};
use crate::{calls::Calls, refusal::Waiting, time::Time};
use smallvec::SmallVec;
use std::time::Duration;

/// What it costs to be sent again where it failed, in time to the answer.
const TRIED: Duration = Duration::from_secs(1);
/// Of so many calls one goes to an endpoint that nobody called lately.
const EXPLORED: u8 = 32;
/// Differences below this are none.
const NOTHING: Duration = Duration::from_millis(1);

/// How long answers of each endpoint take, where that is known.
type Latencies = SmallVec<[Option<Duration>; 4]>;

/// The endpoint for a call, and those which would have done as well.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chosen {
    pub(crate) index: u8,
    among: Mask,
}

impl Endpoints {
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
        let allowed = self.open(wants.ways, now);
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
        let among = wants.ways.preferred.best(among).unwrap_or_else(|| among.within(homes));
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
                && (endpoint.health.wants_copy(now) || endpoint.denial.wants_copy(now))
            {
                return Some(Chosen { index, among: Mask::NONE });
            }
        }
        None
    }

    /// How long answers take where a call that is at `index` could have gone instead, and may still: of the fastest that
    /// serves calls.
    pub(crate) fn elsewhere_takes(&self, wants: &Wants, index: u8, now: Time) -> Option<Duration> {
        let others = self.all().and(wants.ways.allowed).without(index).beside(wants.tried);
        let serving = self
            .numbered(others)
            .filter(|(_, it)| it.health.serves() && !it.health.is_ejected(now) && it.guard.resumes(true, now) <= now);
        serving.filter_map(|(_, it)| it.health.latency(now)).min()
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
}
