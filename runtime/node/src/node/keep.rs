//! What goes on beside the requests: the live table follows the registry, functions are opened ahead, files that
//! nothing refers to go.

use std::{collections::HashSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::Semaphore, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{data::DataDir, ready::Readiness, recent::Recent};
use crate::{
    cluster::registry::{FunctionRecord, Registry, State},
    guest::GuestHost,
    ids::FunctionName,
    ingress::{
        GuestOpener, forget,
        live::{Functions, Opening},
    },
    observe::Observe,
    outbound::Door,
};

/// How often the functions used lately are written down, and modules that no version names are removed.
const NOTED: Duration = Duration::from_secs(30);
const COLLECTED: Duration = Duration::from_secs(600);

/// Everything the keepers work on.
pub(super) struct Keeper {
    pub(super) registry: Registry,
    pub(super) functions: Arc<Functions<GuestOpener>>,
    pub(super) door: Door,
    pub(super) guests: Arc<GuestHost>,
    pub(super) data: Arc<DataDir>,
    pub(super) deploys: Arc<Semaphore>,
    pub(super) max_deploys: u32,
    pub(super) observe: Arc<Observe>,
}

impl Keeper {
    /// Starts the keepers; they end with `stop`.
    pub(super) fn start(self, readiness: Arc<Readiness>, stop: &CancellationToken) -> Vec<JoinHandle<()>> {
        let this = Arc::new(self);
        let recent = Arc::new(Mutex::new(Recent::load(&this.data)));
        let until = |stop: &CancellationToken, task: futures::future::BoxFuture<'static, ()>| {
            let stop = stop.clone();
            tokio::spawn(async move {
                let _ = stop.run_until_cancelled(task).await;
            })
        };
        vec![
            until(stop, Box::pin(Arc::clone(&this).follow(Arc::clone(&recent)))),
            until(stop, Box::pin(Arc::clone(&this).warm(Arc::clone(&recent), readiness))),
            until(stop, Box::pin(Arc::clone(&this).collect())),
            tokio::spawn(this.note(recent, stop.clone())),
        ]
    }

    /// Shows every change of the registry: first to the door, then to the data listener, which ends the wait of whoever
    /// wrote it.
    async fn follow(self: Arc<Self>, recent: Arc<Mutex<Recent>>) {
        let mut revision = self.registry.watch();
        loop {
            let state = self.registry.snapshot();
            self.door.configure(&state);
            let before = self.names();
            self.remember(&recent, self.changed(&state));
            self.functions.show(&state, Opening::Before).await;
            for name in before {
                if self.functions.table().by_name(name.as_str()).is_none() {
                    forget(&self.observe, &name);
                }
            }
            if revision.changed().await.is_err() {
                return;
            }
        }
    }

    fn names(&self) -> HashSet<FunctionName> {
        self.functions.table().functions().map(|function| function.name().clone()).collect()
    }

    /// Functions that another version serves than in the live table. Whoever deploys is about to invoke.
    fn changed(&self, state: &State) -> Vec<String> {
        let table = self.functions.table();
        let serving = |function: &FunctionRecord| {
            let live = table.by_name(function.name.as_str())?.version(None)?;
            Some(live.identity().record.number)
        };
        let changed = state.functions.values().filter(|function| function.active != serving(function));
        changed.map(|function| function.name.to_string()).collect()
    }

    /// These were used just now.
    fn remember(&self, recent: &Mutex<Recent>, names: Vec<String>) {
        let mut recent = recent.lock();
        if recent.used(names) {
            recent.save(&self.data);
        }
    }

    /// Opens what was used lately, calls the node ready, then opens the rest.
    async fn warm(self: Arc<Self>, recent: Arc<Mutex<Recent>>, readiness: Arc<Readiness>) {
        let names: Vec<_> = recent.lock().names().to_vec();
        for name in &names {
            self.open(name).await;
        }
        readiness.ready();
        let mut rest: Vec<_> = self.functions.table().functions().map(|function| function.name().to_string()).collect();
        rest.retain(|name| !names.contains(name));
        for name in rest {
            self.open(&name).await;
        }
    }

    async fn open(&self, name: &str) {
        let version = self.functions.table().by_name(name).and_then(|function| function.version(None).cloned());
        if let Some(version) = version
            && let Err(problem) = version.open_ahead(self.functions.opener()).await
        {
            tracing::error!(function = name, why = problem.detail, "a function can't be opened");
        }
    }

    /// Writes down what was invoked lately, now and then and at the end.
    async fn note(self: Arc<Self>, recent: Arc<Mutex<Recent>>, stop: CancellationToken) {
        loop {
            let going_on = stop.run_until_cancelled(tokio::time::sleep(NOTED)).await.is_some();
            let table = self.functions.table();
            let used = table.functions().filter(|function| function.take_used());
            self.remember(&recent, used.map(|function| function.name().to_string()).collect());
            if !going_on {
                return;
            }
        }
    }

    /// Removes modules and artifacts that no kept version names. No deploy is under way meanwhile: one that has stored
    /// its module and not yet its version would lose it.
    async fn collect(self: Arc<Self>) {
        loop {
            if let Ok(_permits) = self.deploys.acquire_many(self.max_deploys).await {
                let (this, state) = (Arc::clone(&self), self.registry.snapshot());
                let named = state.functions.values().flat_map(|function| function.versions.values());
                let keep: HashSet<_> = named.map(|version| version.digest).collect();
                // Only a panic could fail it, and that is reported by itself.
                let _ = tokio::task::spawn_blocking(move || this.guests.collect_modules(&keep)).await;
            }
            tokio::time::sleep(COLLECTED).await;
        }
    }
}
