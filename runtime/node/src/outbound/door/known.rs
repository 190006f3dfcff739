//! Partitions that have been used, for people to look at: the shards know them by hash only.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
};

use parking_lot::Mutex;

use super::Target;
use crate::{
    ids::TenantId,
    outbound::{
        destinations::{DestinationPage, DestinationState, Endpoint, Partition, PartitionState, Table},
        shards::Shards,
    },
};

/// All of them.
pub(super) struct Known {
    partitions: Mutex<HashMap<u128, Entry>>,
    bound: usize,
}

struct Entry {
    tenant: TenantId,
    destination: Arc<str>,
    matches: Arc<str>,
    configured: bool,
    label: Option<Arc<str>>,
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
        Self { partitions: Mutex::default(), bound }
    }

    /// Remembers a partition, once.
    pub(super) fn remember(&self, target: &Target, partition: &Partition, shards: &Shards) {
        // Whoever believes to be known looks again when some were forgotten. Nobody has looked at 0.
        let epoch = shards.forgotten().count() + 1;
        if partition.label.is_none() && target.known.swap(epoch, Ordering::Relaxed) == epoch {
            return;
        }
        let mut partitions = self.partitions.lock();
        for key in shards.forgotten().take() {
            partitions.remove(&key);
        }
        if partitions.contains_key(&partition.key) || partitions.len() >= self.bound {
            return;
        }
        let destination = &target.destination;
        let entry = Entry {
            tenant: destination.tenant.clone(),
            destination: destination.label().into(),
            matches: Arc::clone(&destination.matches),
            configured: destination.name.is_some(),
            label: partition.label.clone(),
        };
        partitions.insert(partition.key, entry);
    }

    /// The partitions of configured destinations with the names of these, so many at most.
    pub(super) fn configured(&self, limit: usize) -> Vec<(Arc<str>, u128)> {
        let partitions = self.partitions.lock();
        let configured = partitions.iter().filter(|(_, entry)| entry.configured);
        configured.map(|(key, entry)| (Arc::clone(&entry.destination), *key)).take(limit).collect()
    }

    /// The keys of a destination's partitions, by its label.
    pub(super) fn keys_of(&self, tenant: &TenantId, destination: &str) -> Vec<u128> {
        let partitions = self.partitions.lock();
        let of = partitions.iter().filter(|(_, entry)| entry.tenant == *tenant && *entry.destination == *destination);
        of.map(|(key, _)| *key).collect()
    }

    /// The keys of the partitions of destinations by their tenants and labels.
    pub(super) fn keys_of_all(&self, destinations: &HashSet<(TenantId, Arc<str>)>) -> Vec<u128> {
        if destinations.is_empty() {
            return Vec::new();
        }
        let partitions = self.partitions.lock();
        let is_of = |entry: &Entry| destinations.contains(&(entry.tenant.clone(), Arc::clone(&entry.destination)));
        partitions.iter().filter(|(_, entry)| is_of(entry)).map(|(key, _)| *key).collect()
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
        for (key, entry) in self.partitions.lock().iter() {
            if entry.tenant == *tenant && wanted(&entry.destination) {
                let shown = found
                    .entry(Arc::clone(&entry.destination))
                    .or_insert_with(|| Shown::new(&entry.destination, &entry.matches, entry.configured));
                shown.keys.push((entry.label.clone(), *key));
            }
        }
        let more = found.len() > limit;
        let destinations: Vec<_> = found.into_values().take(limit).map(|shown| shown.live(shards)).collect();
        let next = destinations.last().filter(|_| more).map(|last| last.destination.clone());
        DestinationPage { destinations, next }
    }
}
