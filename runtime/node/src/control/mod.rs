//! The control listener: `/v1`, where people and their tools deploy, configure and look.
//!
//! Every route but `/healthz`, `/readyz` and `/openapi.json` needs a bearer token with the scope that the route names;
//! everything is looked up within the token's tenant. A change is answered when it is durable *and* serves. Every error
//! is problem+json. What the API offers is written down in `openapi.json` beside this file, and a test holds the two
//! together.

#![allow(
    clippy::indexing_slicing,
    reason = "the indices are keys of JSON objects made beside them; assigning to one inserts"
)]

mod audit;
pub mod auth;
mod body;
mod calls;
mod deploy;
mod destinations;
mod etag;
mod extract;
mod functions;
mod info;
mod logs;
mod openapi;
mod problems;
mod profiles;
mod routes;
mod seams;
mod secrets;
mod steering;
#[cfg(test)]
mod tests;
mod tokens;
mod trails;

use std::sync::Arc;

use http::{HeaderMap, header};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

pub use routes::router;
pub use seams::{Admitted, Gate, Modules, Opened, Spooled, Versions};
pub(crate) use secrets::unbound;

use self::{
    auth::Caller,
    problems::{not_opened, open_timeout},
};
use crate::{
    cluster::registry::{Applied, AuditRecord, Ceilings, Command, Registry, VersionRecord},
    ids::{FunctionName, TenantId},
    node::{DataDir, Readiness},
    observe::Observe,
    problem::Problem,
    secrets::Keyring,
    settings::Settings,
};

/// What the control API works on.
pub struct Control {
    /// The node's settings.
    pub settings: Arc<Settings>,
    /// What is deployed and configured.
    pub registry: Registry,
    /// The registry's revision that the data listener serves by now.
    pub shown: watch::Receiver<u64>,
    /// What people can see.
    pub observe: Arc<Observe>,
    /// Where uploads are spooled.
    pub data: Arc<DataDir>,
    /// Takes modules in.
    pub modules: Arc<dyn Modules>,
    /// Opens versions.
    pub versions: Arc<dyn Versions>,
    /// What leaves the node.
    pub gate: Arc<dyn Gate>,
    /// Whether the node is ready.
    pub readiness: Arc<Readiness>,
    /// `http://HOST:PORT` of the data listener.
    pub data_url: String,
    /// The function that owns every path of the data listener (dev).
    pub root: Option<FunctionName>,
    /// What secrets are sealed with.
    pub keys: Arc<Keyring>,
    /// The most that functions may ask for.
    pub ceilings: Ceilings,
    /// One permit for each deploy that is uploaded or compiled.
    pub deploys: Arc<Semaphore>,
    /// Cancelled when the node stops: endless answers end.
    pub shutdown: CancellationToken,
}

/// What a caller does, for the audit trail.
#[derive(Debug, Clone)]
struct Deed {
    action: &'static str,
    detail: String,
}

impl Deed {
    /// One about which nothing more is to be said.
    fn plain(action: &'static str) -> Self {
        Self { action, detail: String::new() }
    }

    fn record(self, caller: &Caller, target: String) -> AuditRecord {
        AuditRecord::new(caller.tenant().clone(), caller.token(), self.action, target, self.detail)
    }
}

impl Control {
    /// Writes down something that changes no record.
    async fn note(&self, caller: &Caller, deed: Deed, target: String) -> Result<(), Problem> {
        Ok(self.registry.note(deed.record(caller, target)).await?)
    }

    /// Carries out a command and waits until the data listener serves by it.
    async fn write(&self, caller: &Caller, deed: Deed, command: Command) -> Result<Applied, Problem> {
        let record = deed.record(caller, command.target());
        let applied = self.registry.write_as(command, record).await?;
        let mut shown = self.shown.clone();
        // Fails only when the node is going down; the change is durable all the same.
        let _ = shown.wait_for(|shown| *shown >= applied.revision).await;
        Ok(applied)
    }

    /// Opens a version that is about to serve. The registry is told of none that can't be opened, and no other change
    /// waits meanwhile.
    async fn open_ahead(
        &self,
        tenant: &TenantId,
        name: &FunctionName,
        version: &Arc<VersionRecord>,
    ) -> Result<Opened, Problem> {
        let limit = self.settings.control.open_timeout;
        // A task of its own: what takes longer is finished all the same, and the next try finds it.
        let opening = tokio::spawn(self.versions.prepare(tenant.clone(), name.clone(), Arc::clone(version)));
        let opened = match tokio::time::timeout(limit.get(), opening).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => Err(not_opened(&error)),
            Err(_) => Err(open_timeout(limit)),
        };
        opened.map_err(|mut problem| {
            problem.detail.push_str("; nothing was changed");
            problem
        })
    }

    /// Where a function is invoked.
    fn urls(&self, name: &str, routes: Option<&[String]>) -> Vec<String> {
        let mut urls = match &self.root {
            None => vec![format!("{}/f/{name}/", self.data_url)],
            Some(root) if root.as_str() == name => vec![format!("{}/", self.data_url)],
            // Paths are the root's then; only a host of its own leads to another function.
            Some(_) => Vec::new(),
        };
        if let Some(domain) = &self.settings.node.domain {
            urls.push(format!("http://{name}.{domain}/"));
        }
        let with_host = routes.into_iter().flatten().filter(|route| !route.starts_with(['/', '*']));
        urls.extend(with_host.map(|route| format!("http://{}", route.trim_end_matches('*'))));
        urls
    }
}

/// Whether the caller prefers this media type: the first one it names.
fn wants(headers: &HeaderMap, media_type: &str) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.and_then(|accept| accept.split([',', ';']).next()).is_some_and(|first| first.trim() == media_type)
}

/// Adds a member to an object.
fn set(object: &mut serde_json::Value, key: &str, value: impl Into<serde_json::Value>) {
    if let serde_json::Value::Object(members) = object {
        members.insert(key.to_owned(), value.into());
    }
}
