//! Partitions that have been used, for people to look at: the shards know them by hash only.
//!
//! A call to a split destination looks its partition up each time, under a lock of a part of the keys. Who lists them goes
//! by the destination and copies a few at a time, so that no call waits for a long walk.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

use super::Target;
use crate::{
    ids::TenantId,
    outbound::{
        destinations::{Destination, DestinationPage, DestinationState, Endpoint, Partition, PartitionState, Table},
        shards::Shards,
    },
};

/// Locks that keys are shared out to.
const PARTS: usize = 64;
/// Partitions that are copied under one hold of a lock.
const AT_ONCE: usize = 256;

/// Groups by the keys of their partitions.
type Part = Mutex<HashMap<u128, Arc<Group>>>;

/// All of them.
pub(super) struct Known {
    /// Whose each key is. Written under the lock of `groups` only.
    parts: Box<[Part]>,
    groups: Mutex<Groups>,
    /// How many there are.
    count: AtomicUsize,
    bound: usize,
    /// The epoch of the shards up to which the forgotten ones were taken out.
    cleaned: AtomicU64,
    cleaning: Mutex<()>,
}

/// A destination of a tenant, by its label.
type Name = (TenantId, Arc<str>);

/// Destinations that have been used.
#[derive(Default)]
struct Groups {
    configured: BTreeMap<Name, Arc<Group>>,
    /// Origins without a configuration, of which there may be many.
    origins: BTreeMap<Name, Arc<Group>>,
}

impl Groups {
    fn of(&mut self, configured: bool) -> &mut BTreeMap<Name, Arc<Group>> {
        if configured { &mut self.configured } else { &mut self.origins }
    }

    fn get(&self, name: &Name) -> Option<&Arc<Group>> {
        self.configured.get(name).or_else(|| self.origins.get(name))
    }
}

/// The partitions of one destination.
struct Group {
    name: Name,
    matches: Arc<str>,
    configured: bool,
    partitions: Mutex<BTreeMap<u128, Option<Arc<str>>>>,
}

impl Group {
    fn new(name: Name, destination: &Destination) -> Self {
        let (matches, configured) = (Arc::clone(&destination.matches), destination.name.is_some());
        Self { name, matches, configured, partitions: Mutex::default() }
    }

    /// Its partitions, so many at most.
    fn partitions(&self, limit: usize) -> Vec<(Option<Arc<str>>, u128)> {
        let mut all: Vec<(Option<Arc<str>>, u128)> = Vec::new();
        loop {
            let after = all.last().map_or(Bound::Unbounded, |(_, key)| Bound::Excluded(*key));
            let (before, most) = (all.len(), AT_ONCE.min(limit.saturating_sub(all.len())));
            let partitions = self.partitions.lock();
            let some = partitions.range((after, Bound::Unbounded)).take(most);
            all.extend(some.map(|(key, label)| (label.clone(), *key)));
            if all.len() == before || all.len() - before < most {
                return all;
            }
        }
    }

    fn keys(&self) -> impl Iterator<Item = u128> {
        self.partitions(usize::MAX).into_iter().map(|(_, key)| key)
    }
}

/// A destination on its way to be shown, with the keys of its partitions.
struct Shown {
    state: DestinationState,
    keys: Vec<(Option<Arc<str>>, u128)>,
    endpoints: Arc<[Endpoint]>,
}

impl Shown {
    fn new(destination: &str, matches: &str, configured: bool) -> Self {
        let state = DestinationState {
            destination: destination.to_owned(),
            configured,
            r#match: matches.to_owned(),
            cache: None,
            partitions: Vec::new(),
        };
        Self { state, keys: Vec::new(), endpoints: Arc::default() }
    }

    /// With the live state of its partitions, as far as the shards still have them.
    fn live(mut self, shards: &Shards) -> DestinationState {
        self.keys.sort();
        let name = |id| {
            let endpoint = self.endpoints.iter().find(|endpoint| endpoint.id == id);
            endpoint.map_or_else(String::new, |endpoint| endpoint.name.to_string())
        };
        let live = |(label, key): &(Option<Arc<str>>, u128)| {
            shards.snapshot(*key).map(|snapshot| PartitionState::new(label.as_deref(), &snapshot, name))
        };
        self.state.partitions = self.keys.iter().filter_map(live).collect();
        self.state
    }
}

impl Known {
    /// At most this many (setting `max_actors`).
    pub(super) fn new(bound: usize) -> Self {
        Self {
            parts: std::iter::repeat_with(Mutex::default).take(PARTS).collect(),
            groups: Mutex::default(),
            count: AtomicUsize::new(0),
            bound,
            cleaned: AtomicU64::new(0),
            cleaning: Mutex::default(),
        }
    }

    /// The part of a key: a hash, of which any bits do.
    fn part(&self, key: u128) -> Option<&Mutex<HashMap<u128, Arc<Group>>>> {
        self.parts.get(usize::from((key >> 64) as u8) % PARTS)
    }

    /// Remembers a partition, once.
    pub(super) fn remember(&self, target: &Target, partition: &Partition, shards: &Shards) {
        // Whoever believes to be known looks again when some were forgotten. Nobody has looked at 0.
        let epoch = shards.forgotten().count() + 1;
        if partition.label.is_none() && target.known.swap(epoch, Ordering::Relaxed) == epoch {
            return;
        }
        if self.cleaned.load(Ordering::Acquire) != epoch {
            let _one_at_a_time = self.cleaning.lock();
            shards.forgotten().take().into_iter().for_each(|key| self.drop_key(key));
            self.cleaned.fetch_max(epoch, Ordering::Release);
        }
        if self.part(partition.key).is_some_and(|part| part.lock().contains_key(&partition.key)) {
            return;
        }
        self.add(&target.destination, partition);
    }

    fn add(&self, destination: &Destination, partition: &Partition) {
        let name = (destination.tenant.clone(), destination.shared_label());
        let mut groups = self.groups.lock();
        // Its configuration may have been deleted since the call came.
        if destination.is_gone() || self.count.load(Ordering::Relaxed) >= self.bound {
            return;
        }
        let groups = groups.of(destination.name.is_some());
        let group = groups.entry(name).or_insert_with_key(|name| Arc::new(Group::new(name.clone(), destination)));
        let new = group.partitions.lock().insert(partition.key, partition.label.clone()).is_none();
        if let Some(part) = self.part(partition.key).filter(|_| new) {
            part.lock().insert(partition.key, Arc::clone(group));
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn drop_key(&self, key: u128) {
        let mut groups = self.groups.lock();
        let Some(group) = self.part(key).and_then(|part| part.lock().remove(&key)) else { return };
        self.count.fetch_sub(1, Ordering::Relaxed);
        let mut partitions = group.partitions.lock();
        partitions.remove(&key);
        if partitions.is_empty() {
            groups.of(group.configured).remove(&group.name);
        }
    }

    /// Forgets a configured destination that is gone.
    pub(super) fn forget(&self, destination: &Destination) {
        let name = (destination.tenant.clone(), destination.shared_label());
        let group = self.groups.lock().configured.get(&name).cloned();
        group.iter().flat_map(|group| group.keys()).for_each(|key| self.drop_key(key));
    }

    /// The partitions of configured destinations with the names of these, so many at most.
    pub(super) fn configured(&self, limit: usize) -> Vec<(Arc<str>, u128)> {
        let groups: Vec<_> = self.groups.lock().configured.values().cloned().collect();
        let mut all = Vec::new();
        for group in groups {
            let some = group.partitions(limit - all.len());
            all.extend(some.into_iter().map(|(_, key)| (Arc::clone(&group.name.1), key)));
        }
        all
    }

    /// The keys of a destination's partitions, by its label.
    pub(super) fn keys_of(&self, tenant: &TenantId, destination: &str) -> Vec<u128> {
        self.keys_of_all(&HashSet::from([(tenant.clone(), destination.into())]))
    }

    /// The keys of the partitions of destinations by their tenants and labels.
    pub(super) fn keys_of_all(&self, destinations: &HashSet<Name>) -> Vec<u128> {
        let group = |name: &Name| self.groups.lock().get(name).cloned();
        destinations.iter().filter_map(group).flat_map(|group| group.keys().collect::<Vec<_>>()).collect()
    }

    /// Destinations of a tenant with live state, ordered by label, at most `limit` after `after`: the configured ones,
    /// used or not, and the origins that were used.
    pub(super) fn page(
        &self,
        tenant: &TenantId,
        after: Option<&str>,
        limit: usize,
        table: &Table,
        shards: &Shards,
    ) -> DestinationPage {
        let wanted = |label: &str| after.is_none_or(|after| label > after);
        let mut found: BTreeMap<Arc<str>, Shown> = BTreeMap::new();
        for destination in table.configured(tenant).filter(|destination| wanted(destination.label())) {
            let label = destination.label();
            let mut shown = Shown::new(label, &destination.matches, true);
            shown.state.cache = destination.cached();
            found.insert(label.into(), Shown { endpoints: Arc::clone(&destination.endpoints), ..shown });
        }
        let mut used = Vec::new();
        {
            let groups = self.groups.lock();
            // Whatever is shown is among the first of the one kind or of the other.
            let after = (tenant.clone(), after.unwrap_or_default().into());
            for groups in [&groups.configured, &groups.origins] {
                let of = groups.range((Bound::Excluded(&after), Bound::Unbounded)).take(limit.saturating_add(1));
                used.extend(of.map(|(_, group)| group).filter(|group| group.name.0 == *tenant).cloned());
            }
        }
        for group in &used {
            let label = &group.name.1;
            let new = || Shown::new(label, &group.matches, group.configured);
            found.entry(Arc::clone(label)).or_insert_with(new);
        }
        let more = found.len() > limit;
        let used: HashMap<_, _> = used.iter().map(|group| (&group.name.1, group)).collect();
        let live = |(label, mut shown): (Arc<str>, Shown)| {
            shown.keys.extend(used.get(&label).into_iter().flat_map(|group| group.partitions(usize::MAX)));
            shown.live(shards)
        };
        let destinations: Vec<_> = found.into_iter().take(limit).map(live).collect();
        let next = destinations.last().filter(|_| more).map(|last| last.destination.clone());
        DestinationPage { destinations, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_copied_whole_or_as_far_as_is_asked_for() {
        let name = (TenantId::default_tenant(), Arc::from("api"));
        for count in [0, 1, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE] {
            let partitions = (0..count as u128).map(|key| (key, None)).collect();
            let partitions = Mutex::new(partitions);
            let group = Group { name: name.clone(), matches: "".into(), configured: true, partitions };
            assert!(group.keys().eq(0..count as u128), "{count}");
            for limit in [0, 1, AT_ONCE, AT_ONCE + 7] {
                assert_eq!(group.partitions(limit).len(), limit.min(count), "{limit} of {count}");
            }
        }
    }
}
