//! The secrets of a node as its calls find them: opened once, when they change.

use std::{collections::HashMap, sync::Arc};

use super::withheld::Withheld;
use crate::{
    cluster::registry::{SecretRecord, State},
    ids::{FunctionName, SecretName, TenantId},
    outbound::{Origin, destinations::Destination},
    secrets::{Keyring, SecretValue, Unopened},
};

/// A secret, opened if it can be.
pub(crate) struct Secret {
    pub(super) record: Arc<SecretRecord>,
    value: Result<SecretValue, Unopened>,
}

/// All of them. Another one is made when one changes.
#[derive(Default)]
pub(crate) struct SecretTable {
    /// Rises with each table of a node.
    pub(super) generation: u64,
    tenants: HashMap<TenantId, HashMap<SecretName, Arc<Secret>>>,
}

impl SecretTable {
    /// The table that follows this one; nothing where it would be the same.
    pub(crate) fn next(&self, state: &State, keys: &Keyring) -> Option<Self> {
        let known = self.tenants.values().map(HashMap::len).sum::<usize>();
        let same = |record: &Arc<SecretRecord>| {
            self.get(&record.tenant, &record.name).filter(|secret| Arc::ptr_eq(&secret.record, record)).cloned()
        };
        if known == state.secrets.len() && state.secrets.values().all(|record| same(record).is_some()) {
            return None;
        }
        let mut tenants: HashMap<TenantId, HashMap<SecretName, Arc<Secret>>> = HashMap::new();
        for record in state.secrets.values() {
            let opened = || Arc::new(Secret { value: record.open(keys), record: Arc::clone(record) });
            let secret = same(record).unwrap_or_else(opened);
            tenants.entry(record.tenant.clone()).or_default().insert(record.name.clone(), secret);
        }
        Some(Self { generation: self.generation + 1, tenants })
    }

    fn get(&self, tenant: &TenantId, name: &SecretName) -> Option<&Arc<Secret>> {
        self.tenants.get(tenant)?.get(name)
    }

    /// The secret, where it may go to the destination, for a function if it is one that asks.
    pub(super) fn permitted(
        &self,
        name: &SecretName,
        function: Option<&FunctionName>,
        destination: &Destination,
        origin: &Origin,
    ) -> Result<Permitted<'_>, Withheld> {
        let gone = || Withheld::Gone {
            secret: name.clone(),
            function: function.cloned(),
            destination: destination.name.clone(),
        };
        let secret = self.get(&destination.tenant, name).ok_or_else(gone)?;
        let binding = &secret.record.binding;
        if let Some(function) = function.filter(|function| !binding.functions.contains(*function)) {
            return Err(Withheld::OtherFunction { secret: name.clone(), function: function.clone() });
        }
        let was = destination.name.as_ref().and_then(|name| Some((name, binding.destinations.get(name)?)));
        match was {
            None => {
                let bound = binding.destinations.keys().cloned().collect();
                let (destination, origin) = (destination.name.clone(), origin.to_string());
                return Err(Withheld::OtherDestination { secret: name.clone(), bound, destination, origin });
            }
            Some((destination_name, was)) if **was != *destination.stands => {
                let (was, is) = (was.clone(), destination.stands.to_string());
                return Err(Withheld::Moved { secret: name.clone(), destination: destination_name.clone(), was, is });
            }
            Some(_) => {}
        }
        match &secret.value {
            Ok(value) => Ok(Permitted { record: &secret.record, value }),
            Err(why) => Err(Withheld::Sealed { secret: name.clone(), why: why.clone() }),
        }
    }
}

/// A secret that may go where it is about to go.
pub(super) struct Permitted<'a> {
    pub(super) record: &'a SecretRecord,
    pub(super) value: &'a SecretValue,
}
