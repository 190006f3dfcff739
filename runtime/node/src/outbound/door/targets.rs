//! What is remembered of origins, and what becomes of calls whose origin belongs to another destination by now.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{Inner, target::Target};
use crate::{
    ids::TenantId,
    outbound::{Origin, destinations::Table},
};

/// Origins that are remembered with what calls to them follow; those not in use go first.
const TARGETS: usize = 65_536;

/// Origins of tenants, with what calls to them need.
#[derive(Default)]
pub(super) struct Targets(Mutex<HashMap<(TenantId, Origin), Arc<Target>>>);

impl Inner {
    /// What calls to an origin follow.
    pub(super) fn target(&self, tenant: &TenantId, origin: &Origin) -> Arc<Target> {
        let table = self.table.load();
        let key = (tenant.clone(), origin.clone());
        let before = match self.targets.0.lock().get(&key) {
            Some(target) if target.generation == table.generation => return Arc::clone(target),
            before => before.map(|target| Arc::clone(&target.destination)),
        };
        let mut destination = table.resolve(tenant, origin);
        // An origin without configuration keeps its destination over a change elsewhere.
        if let Some(before) = before.filter(|before| before.name.is_none() && destination.name.is_none()) {
            destination = before;
        }
        let target = Arc::new(Target::new(&self.pool, origin, destination, table.generation));
        // What goes is freed once the lock is gone.
        let mut idle = Vec::new();
        let _replaced = {
            let mut targets = self.targets.0.lock();
            if targets.len() >= TARGETS {
                idle.extend(targets.extract_if(|_, target| Arc::strong_count(target) == 1));
            }
            (targets.len() < TARGETS).then(|| targets.insert(key, Arc::clone(&target)))
        };
        target
    }

    /// Has calls ask again whose origin belongs to another destination by now: to one that was made since, or to none, where
    /// theirs was removed. Nobody would let them go where they wait.
    pub(super) fn send_on(&self, table: &Table) {
        let known: Vec<_> = self.targets.0.lock().values().cloned().collect();
        let moved = known.iter().filter(|target| !table.is_current(&target.destination, &target.origin));
        let moved: HashSet<_> = moved
            .map(|target| {
                let _moved = self.targets.0.lock().remove(&(target.destination.tenant.clone(), target.origin.clone()));
                (target.destination.tenant.clone(), target.destination.shared_label())
            })
            .collect();
        self.known.keys_of_all(&moved).into_iter().for_each(|key| self.shards.send_on(key));
    }
}
