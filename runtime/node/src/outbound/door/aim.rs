//! Where a call goes, by the configuration in force.

use std::sync::Arc;

use http::{HeaderMap, Uri};
use tidegate_core::{
    Effective,
    endpoint::{Ranks, Ways},
    units::Rounded,
};

use super::{Target, calls::Call, target::Way};
use crate::{
    observe::Note,
    outbound::{
        body::KeptBody,
        destinations::{Destination, Endpoint, Partition},
        refuse,
        secrets::{AsMade, Filled, fill},
        shards::Admission,
    },
    problem::Problem,
};

/// So many times as slow as the one that was chosen is a reason.
const SLOWER: u32 = 2;
/// Such a share of failures, too.
const FAILS: f32 = 0.3;

/// Which of the endpoints of a destination a call may take: those that its policy insists on and its secrets may go to.
pub(super) fn ways(
    destination: &Destination,
    home: &str,
    policy: &Effective,
    filled: Option<&Filled>,
) -> Result<Ways, Box<Problem>> {
    policy.validate().map_err(|why| Box::new(refuse::regions_missing(destination.label(), &why)))?;
    let within = destination.ways(home, policy).ok_or_else(|| {
        let leaves = destination.endpoints.is_empty().then_some(home);
        Box::new(refuse::no_region(destination.label(), &policy.regions, leaves))
    })?;
    filled.map_or(Ok(within), |filled| filled.open(within, &destination.endpoints))
}

/// The partition of a request. An upstream limits by the key, whatever handle stands for it.
pub(super) fn partition(
    destination: &Destination,
    (headers, uri): (&HeaderMap, &Uri),
    filled: Option<&Filled>,
    kept: &KeptBody,
) -> Partition {
    let Some(filled) = filled else { return destination.partition(headers, uri, kept.as_split()) };
    let mut headers = headers.clone();
    filled.usual().apply(&mut headers);
    destination.partition(&headers, filled.usual().uri().unwrap_or(uri), kept.as_split())
}

impl Call<'_> {
    /// Where the call goes, as of its last aim.
    pub(super) fn aim(&self) -> &Target {
        self.aimed.as_deref().unwrap_or(self.target)
    }

    /// Whether what its aim was taken by is in force still: neither destinations nor secrets changed.
    pub(super) fn is_aimed(&self) -> bool {
        let filled = self.head.filled.as_ref();
        self.door.table.load().generation == self.aim().generation
            && filled.is_none_or(|filled| filled.is_of(&self.door.secrets.load()))
    }

    /// The way that an admission is for, by the configuration in force: a URL that was corrected while the call waited is
    /// the one that it goes to. Secrets are looked up again by the same configuration: one that is gone must not leave any
    /// more, and none may follow a destination that was led elsewhere.
    pub(super) fn take_aim(&mut self, admission: &Admission) -> Result<Arc<Way>, Box<Problem>> {
        self.aim_again()?;
        let now = self.aim();
        let way = match now.way(admission.endpoint()) {
            Some(way) => way,
            // Its endpoint is gone.
            None => now.way_within(self.ways(&now.destination)?.allowed),
        };
        match self.closed(way) {
            None => Ok(Arc::clone(way)),
            Some(problem) => Err(problem),
        }
    }

    /// Aims by what is in force, where that changed since the last aim: where the call goes, what it is filled with, and
    /// whom it asks.
    pub(super) fn aim_again(&mut self) -> Result<(), Box<Problem>> {
        if !self.is_aimed() {
            let (door, target) = (self.door, self.target);
            if door.table.load().generation != self.aim().generation {
                self.aimed = Some(door.target(&target.destination.tenant, &target.origin));
            }
            let now = self.aim();
            let made = AsMade { method: &self.head.method, headers: &self.head.headers, uri: &self.head.uri };
            let filled = fill(&door.secrets.load(), self.sender, &now.destination, &now.origin, made)?;
            let partition =
                partition(&now.destination, (&self.head.headers, &self.head.uri), filled.as_deref(), &self.kept);
            if partition.key != self.key {
                door.known.remember(now, &partition, &door.shards);
                self.tokens = self.policy.tokens.unwrap_or_else(|| now.destination.tokens(self.kept.as_split()));
                self.key = partition.key;
            }
            self.head.filled = filled;
        }
        Ok(())
    }

    /// Which endpoints of a destination it may take.
    pub(super) fn ways(&self, destination: &Destination) -> Result<Ways, Box<Problem>> {
        ways(destination, &self.door.settings.region, &self.policy, self.head.filled.as_deref())
    }

    /// Why it must not go there: a secret that it would need is withheld.
    pub(super) fn closed(&self, way: &Way) -> Option<Box<Problem>> {
        self.head.filled.as_ref()?.of_endpoint(way.id).err()
    }

    /// Notes which secret leaves with an attempt, where that depends on its endpoint.
    pub(super) fn tell_own_secrets(&self, way: &Way) {
        let Some(filled) = self.head.filled.as_ref().filter(|filled| filled.differs()) else { return };
        for what in filled.of_endpoint(way.id).iter().flat_map(|laid| laid.told()) {
            self.ending.note(|call| Note::Decided { call, what: what.clone() });
        }
    }

    /// Why it is not the endpoint that the call would rather take: the first in its regions, or at home, or of all.
    pub(super) fn why_there(&self, way: &Way) -> Option<String> {
        let destination = &self.aim().destination;
        if destination.endpoints.len() < 2 {
            return None;
        }
        let ways = self.ways(destination).ok()?;
        let is_home = |endpoint: &Endpoint| endpoint.region.as_deref() == Some(&*self.door.settings.region);
        let rank = |index: u8, endpoint: &Endpoint| match ways.preferred {
            Ranks::NONE => is_home(endpoint).then_some(0),
            ranks => ranks.get(index),
        };
        let allowed = || (0u8..).zip(&*destination.endpoints).filter(|(index, _)| ways.allowed.has(*index));
        let ranked = || allowed().map(|(index, endpoint)| (rank(index, endpoint).unwrap_or(u8::MAX), endpoint));
        let (best, first) = ranked().min_by_key(|(rank, _)| *rank)?;
        let of_way = ranked().find(|(_, endpoint)| endpoint.id == way.id).map(|(rank, _)| rank);
        if first.id == way.id || best < u8::MAX && of_way == Some(best) {
            return None;
        }
        let state = self.door.shards.endpoint_state(self.key)?;
        let of = |id| state.iter().find(|endpoint| endpoint.id == id);
        let (chosen, other, name) = (of(way.id)?, of(first.id)?, &first.name);
        if let Some((left, cause)) = other.paused {
            return Some(format!("{name} is paused for {} {cause}", Rounded(left)));
        }
        if let Some((left, why)) = other.ejected {
            return Some(format!("{name} is left alone for {}, {why}", Rounded(left)));
        }
        match (chosen.latency, other.latency) {
            (Some(chosen), Some(other)) if other > chosen * SLOWER => {
                Some(format!("{} against {} of {name}", Rounded(chosen), Rounded(other)))
            }
            _ if other.failures >= FAILS => Some(format!("{name} fails {:.0} % of its calls", other.failures * 100.0)),
            _ => None,
        }
    }
}
