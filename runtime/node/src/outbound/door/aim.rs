//! Where a call goes, by the configuration in force.

use std::sync::Arc;

use tidegate_core::{endpoint::Mask, units::Rounded};

use super::{Target, calls::Call, target::Way};
use crate::{
    outbound::{
        destinations::Endpoint,
        refuse,
        secrets::{AsMade, fill},
        shards::Admission,
    },
    problem::Problem,
};

/// So many times as slow as the one that was chosen is a reason.
const SLOWER: u32 = 2;
/// Such a share of failures, too.
const FAILS: f32 = 0.3;

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
        if !self.is_aimed() {
            let (door, target) = (self.door, self.target);
            if door.table.load().generation != self.aim().generation {
                self.aimed = Some(door.target(&target.destination.tenant, &target.origin));
            }
            let now = self.aim();
            let made = AsMade { method: &self.head.method, headers: &self.head.headers, uri: &self.head.uri };
            let filled = fill(&door.secrets.load(), self.sender, &now.destination, &now.origin, made)?;
            self.head.filled = filled.map(Arc::from);
        }
        let now = self.aim();
        if let Some(way) = now.way(admission.endpoint()) {
            return Ok(Arc::clone(way));
        }
        // Its endpoint is gone.
        let ways = now.destination.ways(&self.policy).ok_or_else(|| self.no_region())?;
        Ok(Arc::clone(now.way_within(ways.allowed)))
    }

    pub(super) fn no_region(&self) -> Box<Problem> {
        Box::new(refuse::no_region(self.target.label(), &self.policy.regions))
    }

    /// Why it is not the endpoint that the call would rather take: the first in its regions, or at home, or of all.
    pub(super) fn why_there(&self, way: &Way) -> Option<String> {
        let destination = &self.aim().destination;
        if destination.endpoints.len() < 2 {
            return None;
        }
        let ways = destination.ways(&self.policy)?;
        let is_preferred = |index: u8, endpoint: &Endpoint| match ways.preferred {
            Mask::NONE => endpoint.region.as_deref() == Some(&*self.door.settings.region),
            preferred => preferred.has(index),
        };
        let allowed = || (0u8..).zip(&*destination.endpoints).filter(|(index, _)| ways.allowed.has(*index));
        let mut preferred = allowed().filter(|(index, endpoint)| is_preferred(*index, endpoint)).peekable();
        let first = preferred.peek().copied().or_else(|| allowed().next()).map(|(_, endpoint)| endpoint)?;
        if first.id == way.id || preferred.any(|(_, endpoint)| endpoint.id == way.id) {
            return None;
        }
        let snapshot = self.door.shards.snapshot(self.key)?;
        let of = |id| snapshot.endpoints.iter().find(|endpoint| endpoint.id == id);
        let (chosen, other, name) = (of(way.id)?, of(first.id)?, &first.name);
        if let Some((left, cause)) = other.paused {
            return Some(format!("{name} is paused for {} {cause}", Rounded(left)));
        }
        if let Some(left) = other.ejected {
            return Some(format!("{name} is left alone for {}, being slow", Rounded(left)));
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
