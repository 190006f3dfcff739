//! A version that is ready to run: its code mapped, its bounds resolved, its instances on a shelf.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use wasmtime::Engine;
use wasmtime_wasi_http::{p2::bindings::ProxyPre as PreProxy02, p3::bindings::ServicePre as PreService03};

use super::{
    Egress,
    hogs::FunctionKey,
    limits::Limits,
    logs::LogOwner,
    meter::Overseer,
    pool::{Account, Shelf as _},
    serve02::Shelf02,
    serve03::Shelf03,
    state::GuestState,
    timers::Timers,
};
use crate::{
    body::ReadOn,
    cluster::registry::Isolation,
    ids::{Digest, FunctionName, TenantId},
    observe::{Invocations, Observe},
    outbound::Sender,
};

/// Which function: a name within a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FunctionIdentity {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name.
    pub name: FunctionName,
}

/// Bounds of a reused instance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reuse {
    /// Requests it may serve, before jitter.
    pub(super) requests: u32,
    /// Requests it may serve at once (0.3).
    pub(super) concurrency: u32,
    /// How old it may become.
    pub(super) age: std::time::Duration,
}

/// What a deployment's instances share. They outlive the deployment while they serve, so they hold this and not it.
pub(super) struct Deployed {
    pub(super) identity: FunctionIdentity,
    pub(super) version: u64,
    pub(super) digest: Digest,
    pub(super) engine: Engine,
    pub(super) env: Vec<(String, String)>,
    pub(super) limits: Arc<Limits>,
    pub(super) isolation: Isolation,
    pub(super) reuse: Reuse,
    pub(super) sender: Arc<Sender>,
    pub(super) egress: Arc<dyn Egress>,
    pub(super) log_owner: Arc<LogOwner>,
    pub(super) observe: Arc<Observe>,
    pub(super) overseer: Arc<Overseer>,
    pub(super) function_key: FunctionKey,
    pub(super) account: Arc<Account>,
    pub(super) timers: Timers,
    /// How far the bodies of refused calls are read: some guests abort when they are closed.
    pub(super) read_on: ReadOn,
    pub(super) instances: AtomicUsize,
    pub(super) counts: Arc<Invocations>,
    pub(super) code: Code,
}

/// The code, ready to instantiate.
pub(super) enum Code {
    /// Exports `wasi:http/incoming-handler@0.2`.
    Http02(PreProxy02<GuestState>),
    /// Exports `wasi:http/handler@0.3`.
    Http03(PreService03<GuestState>),
}

/// A version that can be invoked. Dropping it drops its idle instances; those that serve end with their requests.
pub struct Deployment {
    pub(super) deployed: Arc<Deployed>,
    pub(super) shelf: Kept,
}

/// The shelf of the deployment's kind.
pub(super) enum Kept {
    Http02(Arc<Shelf02>),
    Http03(Arc<Shelf03>),
}

impl Deployment {
    /// The function it is of.
    pub fn identity(&self) -> &FunctionIdentity {
        &self.deployed.identity
    }

    /// The version it is.
    pub fn version(&self) -> u64 {
        self.deployed.version
    }

    /// Its module.
    pub fn digest(&self) -> Digest {
        self.deployed.digest
    }

    /// Whether its instances are reused.
    pub fn isolation(&self) -> Isolation {
        self.deployed.isolation
    }

    /// Its bounds, resolved.
    pub fn limits(&self) -> &Limits {
        &self.deployed.limits
    }

    /// Instances it has now, busy and idle.
    pub fn instances(&self) -> usize {
        self.deployed.instances.load(Ordering::Relaxed)
    }

    /// Those of them that rest until somebody uses them again.
    pub fn idle_instances(&self) -> usize {
        match &self.shelf {
            Kept::Http02(shelf) => shelf.idle(),
            Kept::Http03(shelf) => shelf.idle(),
        }
    }
}

impl Deployed {
    /// How many requests the next instance may serve: within 20 % of the setting, so that instances made together do
    /// not end together.
    pub(super) fn reuse_limit(&self) -> u32 {
        match self.isolation {
            Isolation::Request => 1,
            Isolation::Function => {
                let requests = u64::from(self.reuse.requests.max(1));
                let jittered = requests * rand::random_range(800..=1_200) / 1_000;
                jittered.max(1).min(u64::from(u32::MAX)) as u32
            }
        }
    }
}

/// Counts an instance for as long as it lives.
pub(super) struct Alive(Arc<Deployed>);

impl Alive {
    pub(super) fn new(deployed: &Arc<Deployed>) -> Self {
        deployed.instances.fetch_add(1, Ordering::Relaxed);
        deployed.observe.metrics.instances.inc();
        deployed.counts.made();
        deployed.observe.metrics.instances_made.inc();
        Self(Arc::clone(deployed))
    }

    pub(super) fn deployed(&self) -> &Arc<Deployed> {
        &self.0
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.instances.fetch_sub(1, Ordering::Relaxed);
        self.0.observe.metrics.instances.dec();
        self.0.counts.gone();
    }
}

/// A number no other shelf has.
pub(super) fn next_shelf_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
