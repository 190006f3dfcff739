//! What goes on beside the requests: the live table follows the registry, functions are opened ahead, files that
//! nothing refers to go.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{data::DataDir, ready::Readiness, recent::Recent};
use crate::{
    cluster::registry::{FunctionRecord, Registry, State, now_ms},
    guest::GuestHost,
    ids::FunctionName,
    ingress::{GuestOpener, forget, live::Functions},
    observe::Observe,
    outbound::Door,
};

/// How often the functions used lately are written down, and modules that no version names are removed.
const NOTED: Duration = Duration::from_secs(30);
const COLLECTED: Duration = Duration::from_secs(600);
/// How often it is looked whether what operators do for a time has ended, at least: wall clocks jump.
const LOOKED: Duration = Duration::from_secs(60);
/// How often it is told how many calls had no line in the log.
const TOLD: Duration = Duration::from_secs(1);
/// When it is tried again after a deploy was under way.
const BUSY: Duration = Duration::from_secs(5);

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

/// What the keepers tell each other.
struct Keeping {
    on: Keeper,
    recent: Mutex<Recent>,
    /// `recent` changed in a way that should be written down soon.
    noted: Notify,
    /// Functions that wait for the version that is to serve to be opened.
    awaited: Mutex<BTreeSet<FunctionName>>,
    waiting: Notify,
}

impl Keeper {
    /// Starts the keepers; they end with `stop`.
    pub(super) fn start(self, readiness: Arc<Readiness>, stop: &CancellationToken) -> Vec<JoinHandle<()>> {
        let recent = Mutex::new(Recent::load(&self.data));
        let this = Arc::new(Keeping {
            on: self,
            recent,
            noted: Notify::new(),
            awaited: Mutex::default(),
            waiting: Notify::new(),
        });
        let until = |stop: &CancellationToken, task: futures::future::BoxFuture<'static, ()>| {
            let stop = stop.clone();
            tokio::spawn(async move {
                let _ = stop.run_until_cancelled(task).await;
            })
        };
        vec![
            until(stop, Box::pin(Arc::clone(&this).follow())),
            until(stop, Box::pin(Arc::clone(&this).open_awaited())),
            until(stop, Box::pin(Arc::clone(&this).warm(readiness))),
            until(stop, Box::pin(Arc::clone(&this).collect())),
            until(stop, Box::pin(Arc::clone(&this).tell_cut())),
            tokio::spawn(this.note(stop.clone())),
        ]
    }
}

impl Keeping {
    /// Shows every change of the registry: first to the door, then to the data listener, which ends the wait of whoever
    /// wrote it. Nothing in here waits for a function to open or for the disk.
    async fn follow(self: Arc<Self>) {
        let Keeper { registry, functions, door, .. } = &self.on;
        let mut revision = registry.watch();
        loop {
            let state = registry.snapshot();
            door.configure(&state);
            let before = self.names();
            let changed = self.changed(&state);
            functions.show(&state);
            for name in before {
                if functions.table().by_name(name.as_str()).is_none() {
                    forget(&self.on.observe, &name);
                }
            }
            self.await_open(&changed);
            // Whoever deploys is about to invoke.
            if self.recent.lock().used(changed.iter().map(ToString::to_string)) {
                self.noted.notify_one();
            }
            // What operators do for a time ends without a change of the registry.
            let changed = loop {
                let now = now_ms();
                let ends = state.destinations.values().filter_map(|destination| destination.steering.next_end(now));
                let Some(end) = ends.min() else { break revision.changed().await };
                let left = Duration::from_millis(end.saturating_sub(now)).min(LOOKED);
                match tokio::time::timeout(left, revision.changed()).await {
                    Ok(changed) => break changed,
                    Err(_) => door.configure(&state),
                }
            };
            if changed.is_err() {
                return;
            }
        }
    }

    async fn tell_cut(self: Arc<Self>) {
        loop {
            tokio::time::sleep(TOLD).await;
            self.on.observe.call_log.tell_cut();
        }
    }

    fn names(&self) -> HashSet<FunctionName> {
        self.on.functions.table().functions().map(|function| function.name().clone()).collect()
    }

    /// Functions that changed since they were shown. What failed to open is not tried again by changes of others.
    fn changed(&self, state: &State) -> Vec<FunctionName> {
        let table = self.on.functions.table();
        let shown = |function: &FunctionRecord| Some(table.by_name(function.name.as_str())?.revision());
        let changed = state.functions.values().filter(|function| shown(function) != Some(function.revision));
        changed.map(|function| function.name.clone()).collect()
    }

    /// Has opened, behind, what came without having been opened ahead.
    fn await_open(&self, changed: &[FunctionName]) {
        let table = self.on.functions.table();
        let awaited =
            |name: &&FunctionName| table.by_name(name.as_str()).is_some_and(|function| function.awaited().is_some());
        let mut names = changed.iter().filter(awaited).cloned().peekable();
        if names.peek().is_some() {
            self.awaited.lock().extend(names);
            self.waiting.notify_one();
        }
    }

    async fn open_awaited(self: Arc<Self>) {
        loop {
            let next = self.awaited.lock().pop_first();
            match next {
                Some(name) => {
                    self.open(name.as_str()).await;
                    // What served until now is let go.
                    self.on.functions.show(&self.on.registry.snapshot());
                }
                None => self.waiting.notified().await,
            }
        }
    }

    /// Opens what was used lately, calls the node ready, then opens the rest.
    async fn warm(self: Arc<Self>, readiness: Arc<Readiness>) {
        let names: Vec<_> = self.recent.lock().names().to_vec();
        for name in &names {
            self.open(name).await;
        }
        readiness.ready();
        for name in self.names() {
            self.open(name.as_str()).await;
        }
    }

    async fn open(&self, name: &str) {
        let functions = &self.on.functions;
        let version = functions.table().by_name(name).and_then(|function| function.awaited().cloned());
        if let Some(version) = version
            && let Err(problem) = version.open_ahead(functions.opener()).await
        {
            tracing::error!(
                function = name,
                version = version.identity().record.number,
                why = problem.detail,
                "a function can't be opened"
            );
        }
    }

    /// What was used lately, with what was invoked since this was asked last.
    fn recent(&self) -> Recent {
        let table = self.on.functions.table();
        let used = table.functions().filter(|function| function.take_used());
        let used: Vec<_> = used.map(|function| function.name().to_string()).collect();
        let mut recent = self.recent.lock();
        if !used.is_empty() {
            recent.used(used);
        }
        recent.clone()
    }

    /// Writes down what was invoked lately: soon after a deploy, else now and then, and at the end.
    async fn note(self: Arc<Self>, stop: CancellationToken) {
        let mut written = self.recent.lock().clone();
        loop {
            let soon = async {
                tokio::select! {
                    () = tokio::time::sleep(NOTED) => {}
                    () = self.noted.notified() => {}
                }
            };
            let going_on = stop.run_until_cancelled(soon).await.is_some();
            let recent = self.recent();
            if recent != written {
                written = recent.clone();
                let data = Arc::clone(&self.on.data);
                // It waits for the disk. Only a panic could fail it, and that is reported by itself.
                let _ = tokio::task::spawn_blocking(move || recent.save(&data)).await;
            }
            if !going_on {
                return;
            }
        }
    }

    /// Removes modules and artifacts that no kept version names. No deploy is under way meanwhile: one that has stored
    /// its module and not yet its version would lose it. Deploys do not wait for it either, so it comes when there is
    /// none.
    async fn collect(self: Arc<Self>) {
        let Keeper { registry, guests, deploys, max_deploys, .. } = &self.on;
        loop {
            let Ok(permits) = deploys.try_acquire_many(*max_deploys) else {
                tokio::time::sleep(BUSY).await;
                continue;
            };
            let (guests, state) = (Arc::clone(guests), registry.snapshot());
            let named = state.functions.values().flat_map(|function| function.versions.values());
            let keep: HashSet<_> = named.map(|version| version.digest).collect();
            // Only a panic could fail it, and that is reported by itself.
            let _ = tokio::task::spawn_blocking(move || guests.collect_modules(&keep)).await;
            drop(permits);
            tokio::time::sleep(COLLECTED).await;
        }
    }
}
