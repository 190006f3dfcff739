//! The functions as they serve: an immutable table of routes, swapped whole when the registry changes.
//!
//! A request takes the version it will run from the table once and keeps it; a redeploy swaps the table and touches no
//! request. The version before is held only by its open requests then, so its instances go with the last of them.
//!
//! Nothing is opened while a table is made, so no change waits for another's. Whoever changes a function opens the
//! version that is to serve first ([`Functions::prepare`]), and it is in the table, open, from the moment the change is
//! shown. Where nobody did, or it can't be opened, the version that served goes on until the new one is open.

mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, watch};

pub use self::table::Table;
use crate::{
    cluster::registry::{Auth, FunctionRecord, State, VersionNumber, VersionRecord},
    ids::{FunctionName, TenantId},
    problem::Problem,
};

/// What makes a version ready to run.
pub trait Open: Send + Sync + 'static {
    /// A version that is ready to run. What it holds ends when it is dropped.
    type Deployment: Send + Sync + 'static;

    /// Makes the version ready.
    fn open(&self, version: &Identity) -> impl Future<Output = Result<Self::Deployment, Problem>> + Send;
}

/// One version of a function, as an invocation needs to know it.
#[derive(Debug)]
pub struct Identity {
    /// Whose it is.
    pub tenant: TenantId,
    /// The function.
    pub name: FunctionName,
    /// The version.
    pub record: Arc<VersionRecord>,
    used: Arc<AtomicBool>,
}

/// A version that is kept; opened before it serves, or by the first request that names it.
pub struct LiveVersion<D> {
    identity: Identity,
    deployment: OnceCell<D>,
}

impl<D> LiveVersion<D> {
    fn new(tenant: &TenantId, name: &FunctionName, record: &Arc<VersionRecord>, used: Arc<AtomicBool>) -> Self {
        let identity = Identity { tenant: tenant.clone(), name: name.clone(), record: Arc::clone(record), used };
        Self { identity, deployment: OnceCell::new() }
    }

    /// Which version it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The version, where it is ready to run already.
    pub fn opened(&self) -> Option<&D> {
        self.deployment.get()
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.deployment.initialized()
    }

    /// The version, ready to run; opens it if nobody has yet.
    ///
    /// # Errors
    /// When it can't be opened; the next request tries again.
    pub async fn deployment<O: Open<Deployment = D>>(&self, opener: &O) -> Result<&D, Problem> {
        match self.opened_to_use() {
            Some(deployment) => Ok(deployment),
            None => Box::pin(self.open_ahead(opener)).await,
        }
    }

    /// The version for a request, where it is ready to run already.
    pub fn opened_to_use(&self) -> Option<&D> {
        // Read first: a cache line that nobody writes is shared by all threads.
        if !self.identity.used.load(Ordering::Relaxed) {
            self.identity.used.store(true, Ordering::Relaxed);
        }
        self.opened()
    }

    /// Opens it without it being used.
    ///
    /// # Errors
    /// When it can't be opened.
    pub async fn open_ahead<O: Open<Deployment = D>>(&self, opener: &O) -> Result<&D, Problem> {
        self.deployment.get_or_try_init(|| opener.open(&self.identity)).await
    }
}

/// A function with the versions that are kept.
pub struct LiveFunction<D> {
    record: Arc<FunctionRecord>,
    versions: BTreeMap<VersionNumber, Arc<LiveVersion<D>>>,
    /// What serves until the version that is to serve is open.
    before: Option<Arc<LiveVersion<D>>>,
    used: Arc<AtomicBool>,
}

impl<D> LiveFunction<D> {
    /// Its name.
    pub fn name(&self) -> &FunctionName {
        &self.record.name
    }

    /// The registry's revision of its last change.
    pub fn revision(&self) -> u64 {
        self.record.revision
    }

    /// The version that serves, or the one asked for.
    pub fn version(&self, number: Option<VersionNumber>) -> Option<&Arc<LiveVersion<D>>> {
        match (number, &self.before) {
            (Some(number), _) => self.versions.get(&number),
            (None, None) => self.active(),
            (None, Some(before)) => self.active().filter(|active| active.is_open()).or(Some(before)),
        }
    }

    /// The version that is to serve by the registry.
    fn active(&self) -> Option<&Arc<LiveVersion<D>>> {
        self.versions.get(&self.record.active?)
    }

    /// The version that is to serve, where it is not open yet.
    pub fn awaited(&self) -> Option<&Arc<LiveVersion<D>>> {
        self.active().filter(|active| !active.is_open())
    }

    /// Whether anyone may invoke the version. One asked for by its number is never more open than the one that serves:
    /// what was public once is not, once its function wants tokens.
    pub fn is_public(&self, version: &LiveVersion<D>) -> bool {
        let of = |version: &LiveVersion<D>| version.identity.record.config.auth == Auth::Public;
        of(version) && self.version(None).is_none_or(|serving| of(serving))
    }

    /// Whether it was invoked since this was asked last.
    pub fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }
}

/// The live functions of a node.
pub struct Functions<O: Open> {
    opener: O,
    table: ArcSwap<Table<O::Deployment>>,
    one_at_a_time: Mutex<()>,
    /// Open versions whose change is on its way to the table, one a change.
    prepared: Mutex<Vec<Arc<LiveVersion<O::Deployment>>>>,
    shown: watch::Sender<u64>,
}

/// A version that is open and about to be shown. Dropped, it is only if it is shown by then.
pub struct Prepared<O: Open> {
    functions: Arc<Functions<O>>,
    version: Arc<LiveVersion<O::Deployment>>,
}

impl<O: Open> Drop for Prepared<O> {
    fn drop(&mut self) {
        self.functions.prepared.lock().retain(|version| !Arc::ptr_eq(version, &self.version));
    }
}

impl<O: Open> Functions<O> {
    /// No functions yet.
    pub fn new(opener: O) -> Self {
        let (shown, _) = watch::channel(0);
        Self {
            opener,
            table: ArcSwap::from_pointee(Table::empty(0)),
            one_at_a_time: Mutex::new(()),
            prepared: Mutex::default(),
            shown,
        }
    }

    /// The table now.
    pub fn table(&self) -> arc_swap::Guard<Arc<Table<O::Deployment>>> {
        self.table.load()
    }

    /// What opens versions.
    pub fn opener(&self) -> &O {
        &self.opener
    }

    /// Opens a version that is to serve, before the registry is told. Hold what is returned until the change is shown.
    ///
    /// # Errors
    /// When it can't be opened: then it should not serve.
    pub async fn prepare(
        self: &Arc<Self>,
        tenant: &TenantId,
        name: &FunctionName,
        record: &Arc<VersionRecord>,
    ) -> Result<Prepared<O>, Problem> {
        let version = {
            let table = self.table();
            let function = table.by_name(name.as_str()).filter(|function| function.record.tenant == *tenant);
            let kept = function.and_then(|function| function.versions.get(&record.number));
            match kept.filter(|kept| kept.identity.record == *record) {
                Some(kept) => Arc::clone(kept),
                None => {
                    let used = function.map(|function| Arc::clone(&function.used)).unwrap_or_default();
                    Arc::new(LiveVersion::new(tenant, name, record, used))
                }
            }
        };
        version.open_ahead(&self.opener).await?;
        self.prepared.lock().push(Arc::clone(&version));
        Ok(Prepared { functions: Arc::clone(self), version })
    }

    /// Shows the registry's state. Shown again, it lets go of versions that served only until others were open.
    pub fn show(&self, state: &State) {
        let _one = self.one_at_a_time.lock();
        let old = self.table.load_full();
        if state.revision < old.revision {
            return;
        }
        let mut table = Table::empty(state.revision);
        // One tenant for now: names of another would need a host of their own.
        for function in state.functions.values().filter(|function| function.tenant == TenantId::default_tenant()) {
            table.add(self.live(function, old.by_name(function.name.as_str())));
        }
        table.sort();
        self.table.store(Arc::new(table));
        self.shown.send_replace(state.revision);
    }

    /// Tells which revision of the registry the table shows.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.shown.subscribe()
    }

    /// The function with what is open of it. The version that served before is closed for newcomers, unless it has to
    /// serve on: those who run it hold it.
    fn live(
        &self,
        function: &Arc<FunctionRecord>,
        old: Option<&Arc<LiveFunction<O::Deployment>>>,
    ) -> Arc<LiveFunction<O::Deployment>> {
        if let Some(old) = old
            && Arc::ptr_eq(&old.record, function)
            && (old.before.is_none() || old.awaited().is_some())
        {
            return Arc::clone(old);
        }
        let served = old.and_then(|old| old.version(None)).filter(|served| served.is_open());
        let active = function.active.and_then(|number| self.found(function, number, old));
        let is_open = active.as_ref().is_some_and(|active| active.is_open());
        let before = served
            .filter(|served| function.active.is_some_and(|number| !is_open && served.identity.record.number != number));
        let used = match (old, &active) {
            (Some(old), _) => Arc::clone(&old.used),
            (None, Some(active)) => Arc::clone(&active.identity.used),
            (None, None) => Arc::default(),
        };
        let versions = function.versions.iter().map(|(number, record)| {
            let goes_on = function.active == Some(*number)
                || before.is_some_and(|before| before.identity.record.number == *number);
            let retired = !goes_on && old.is_some_and(|old| old.serves_by(*number));
            let found = if retired { None } else { self.found(function, *number, old) };
            let version = found.unwrap_or_else(|| {
                Arc::new(LiveVersion::new(&function.tenant, &function.name, record, Arc::clone(&used)))
            });
            (*number, version)
        });
        let (versions, before) = (versions.collect(), before.cloned());
        Arc::new(LiveFunction { record: Arc::clone(function), versions, before, used: Arc::clone(&used) })
    }

    /// A version of the function that is in the old table, or prepared for the new one.
    fn found(
        &self,
        function: &FunctionRecord,
        number: VersionNumber,
        old: Option<&Arc<LiveFunction<O::Deployment>>>,
    ) -> Option<Arc<LiveVersion<O::Deployment>>> {
        let record = function.versions.get(&number)?;
        let kept = old.and_then(|old| old.versions.get(&number));
        if let Some(kept) = kept.filter(|kept| Arc::ptr_eq(&kept.identity.record, record)) {
            return Some(Arc::clone(kept));
        }
        let prepared = self.prepared.lock();
        let of_it = |version: &&Arc<LiveVersion<_>>| {
            let Identity { tenant, name, record: prepared, .. } = &version.identity;
            *tenant == function.tenant && *name == function.name && prepared == record
        };
        prepared.iter().find(of_it).cloned()
    }
}

impl<D> LiveFunction<D> {
    /// Whether this version serves, or would if it were open.
    fn serves_by(&self, number: VersionNumber) -> bool {
        let before = self.before.as_ref().map(|before| before.identity.record.number);
        self.record.active == Some(number) || before == Some(number)
    }
}
