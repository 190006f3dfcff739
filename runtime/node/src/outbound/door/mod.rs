//! The door: the one way out of a node.
//!
//! [`Door::send`] decides what a call is (destination, partition, policy, deadline), refuses what may not leave, and
//! hands the rest to the call loop. Refusals are answers, like any upstream's; an error means that nobody answered.

mod attempt;
mod calls;
mod ending;
mod target;

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use http::{Method, Response};
use parking_lot::Mutex;
use tidegate_core::Effective;

use self::{ending::Ending, target::Target};
use super::{
    Hops, Origin, OutboundCall, SenderKind, TransportError,
    body::{KeptBody, ReplayMemory, Start, drain},
    destinations::{DestinationPage, DestinationState, Partition, PartitionState, Table},
    guard::AddressGuard,
    headers,
    pool::{Pool, PoolParts, Resolve, SystemResolver},
    refuse,
    shards::{self, Shards},
};
use crate::{
    body::Body,
    cluster::registry::State,
    ids::TenantId,
    observe::{Note, Observe},
    problem::Problem,
    settings::OutboundSettings,
};

/// Origins that are remembered with what calls to them follow; those not in use go first.
const TARGETS: usize = 65_536;

/// What tests replace.
pub struct DoorParts {
    /// Looks names up.
    pub resolver: Arc<dyn Resolve>,
    /// Roots that TLS trusts; nothing: the system's.
    pub roots: Option<Arc<rustls::RootCertStore>>,
    /// Shards that host the actors.
    pub shards: usize,
}

impl Default for DoorParts {
    fn default() -> Self {
        let shards = std::thread::available_parallelism().map_or(1, usize::from);
        Self { resolver: Arc::new(SystemResolver), roots: None, shards }
    }
}

/// The door of a node.
pub struct Door {
    settings: OutboundSettings,
    observe: Arc<Observe>,
    pool: Arc<Pool>,
    shards: Arc<Shards>,
    memory: Arc<ReplayMemory>,
    table: ArcSwap<Table>,
    targets: Mutex<HashMap<(TenantId, Origin), Arc<Target>>>,
    known: Known,
    /// What calls follow where nothing else is said.
    defaults: Effective,
}

/// Partitions that have been used, for people to look at.
struct Known {
    partitions: Mutex<HashMap<u128, KnownPartition>>,
    /// Rises whenever some are forgotten: whoever believes to be known looks again.
    epoch: AtomicU64,
    bound: usize,
}

struct KnownPartition {
    tenant: TenantId,
    destination: Arc<str>,
    matches: Arc<str>,
    configured: bool,
    label: Option<Arc<str>>,
}

impl Door {
    /// A door with the settings of its node.
    ///
    /// # Errors
    /// When the system gives no thread for the timers.
    pub fn new(settings: &OutboundSettings, observe: Arc<Observe>) -> std::io::Result<Arc<Self>> {
        Self::with_parts(settings, observe, DoorParts::default())
    }

    /// A door with parts of one's own.
    ///
    /// # Errors
    /// When the system gives no thread for the timers.
    pub fn with_parts(
        settings: &OutboundSettings,
        observe: Arc<Observe>,
        parts: DoorParts,
    ) -> std::io::Result<Arc<Self>> {
        let pool = Arc::new(Pool::new(PoolParts {
            guard: AddressGuard::new(settings.egress_allow.clone()),
            resolver: parts.resolver,
            roots: parts.roots,
            observe: Arc::clone(&observe),
            max_idle: settings.max_idle_connections,
            idle_time: settings.connection_idle.get(),
        }));
        let swept: Weak<Pool> = Arc::downgrade(&pool);
        let sweep = move || {
            if let Some(pool) = swept.upgrade() {
                pool.sweep();
            }
        };
        let defaults = Effective {
            deadline: settings.call_deadline.get(),
            attempt_timeout: settings.first_byte_timeout.get(),
            retries: settings.attempts.saturating_sub(1),
            ..Effective::default()
        };
        Ok(Arc::new(Self {
            shards: Shards::start(parts.shards, settings.max_actors, sweep)?,
            pool,
            observe,
            memory: ReplayMemory::new(settings.replay_memory.get()),
            table: ArcSwap::from_pointee(Table::empty(settings)),
            targets: Mutex::default(),
            known: Known {
                partitions: Mutex::default(),
                epoch: AtomicU64::new(1),
                bound: settings.max_actors,
            },
            defaults,
            settings: settings.clone(),
        }))
    }

    /// Takes the destinations of the registry over. Called once at the start and after each write; live actors follow
    /// at once, with their queues.
    pub fn configure(&self, state: &State) {
        let (next, changed) = self.table.load().next(state, &self.settings);
        self.table.store(Arc::new(next));
        for (old, new) in changed {
            self.shards.reconfigure(&old, &new);
        }
    }

    /// What outbound calls of this node follow where nothing else is said.
    pub fn settings(&self) -> &OutboundSettings {
        &self.settings
    }

    /// The origin of a configured destination, for `/to/{destination}/{path}`.
    ///
    /// # Errors
    /// The pattern, where the destination stands for more than one origin. `None`: there is no such destination.
    pub fn origin_of(&self, tenant: &TenantId, destination: &str) -> Option<Result<Origin, Arc<str>>> {
        self.table.load().origin_of(tenant, destination)
    }

    /// The live state of a tenant's destinations, ordered by name, at most `limit` after `after`.
    pub fn destinations(&self, tenant: &TenantId, after: Option<&str>, limit: usize) -> DestinationPage {
        let mut found: std::collections::BTreeMap<String, (DestinationState, Vec<(u128, Option<Arc<str>>)>)> =
            Default::default();
        let wanted = |label: &str| after.is_none_or(|after| label > after);
        let blank = |label: &str, matches: &str, configured| DestinationState {
            destination: label.to_owned(),
            configured,
            r#match: matches.to_owned(),
            partitions: Vec::new(),
        };
        for destination in self.table.load().configured(tenant) {
            let label = destination.label();
            if wanted(label) {
                found.insert(label.to_owned(), (blank(label, &destination.matches, true), Vec::new()));
            }
        }
        for (key, known) in self.known.partitions.lock().iter() {
            if known.tenant == *tenant && wanted(&known.destination) {
                let entry = found.entry(known.destination.to_string());
                let (_, keys) = entry
                    .or_insert_with(|| (blank(&known.destination, &known.matches, known.configured), Vec::new()));
                keys.push((*key, known.label.clone()));
            }
        }
        let more = found.len() > limit;
        let destinations: Vec<_> = found
            .into_values()
            .take(limit)
            .map(|(mut state, mut keys)| {
                keys.sort_by(|a, b| a.1.cmp(&b.1));
                let partitions = keys.iter().filter_map(|(key, label)| {
                    self.shards.snapshot(*key).map(|snapshot| PartitionState::new(label.as_deref(), &snapshot))
                });
                state.partitions = partitions.collect();
                state
            })
            .collect();
        let next = destinations.last().filter(|_| more).map(|last| last.destination.clone());
        DestinationPage { destinations, next }
    }

    /// Sends a call: waits for its turn, makes its attempts, and returns the answer that counts. A refusal by the gate
    /// is an answer too.
    ///
    /// Dropping the future gives the call up: its place in the queue, its slot and its connection are free at once.
    ///
    /// # Errors
    /// [`TransportError`] when nobody answered, or the request can't be sent as it is.
    pub async fn send(self: &Arc<Self>, call: OutboundCall) -> Result<Response<Body>, TransportError> {
        let OutboundCall { request, sender, timeouts, trail, trace, wait_clock } = call;
        let (mut parts, body) = request.into_parts();
        let number = trail.next_call();
        let checked = Origin::of(&parts.uri).and_then(|origin| match parts.method {
            Method::CONNECT => Err(TransportError::BadRequest { why: "CONNECT is not offered".into() }),
            _ => Ok(origin),
        });
        let origin = match checked {
            Ok(origin) => origin,
            Err(error) => {
                drain(body);
                trail.note(Note::Decided { call: number, what: error.to_string() });
                return Err(error);
            }
        };
        trail.note(Note::Call { call: number, what: format!("{} {origin}{}", parts.method, parts.uri.path()) });
        let target = self.target(&sender.tenant, &origin);
        let mut ending = Ending::new(self, &target, trail, number, &parts, &sender);
        if let SenderKind::Function { name, allowed_hosts: Some(hosts), .. } = &sender.kind
            && !hosts.allow(&origin)
        {
            drain(body);
            return Ok(ending.refuse(hosts.denial(name.as_str(), &origin)));
        }
        let stated = match headers::stated(&parts.headers) {
            Ok(stated) => stated,
            Err((name, why)) => {
                drain(body);
                return Ok(ending.refuse(refuse::wrong_header(&name, &why)));
            }
        };
        let hops = parts.extensions.get::<Hops>().map_or(0, |hops| hops.0).max(Hops::of(&parts.headers).0);
        if hops >= headers::HOPS {
            drain(body);
            return Ok(ending.refuse(refuse::looped(&origin)));
        }
        let has_key = parts.headers.contains_key("idempotency-key");
        headers::outgoing(&mut parts.headers, trace.child().header(), hops + 1);
        let policy = target.policy(&self.defaults, &sender, stated.policy.as_ref());
        let deadline = shards::now() + policy.deadline;

        let start = Start { keep: self.settings.replay_body.get(), memory: &self.memory };
        let (mut kept, mut pump) = match KeptBody::take(body, stated.length, start).await {
            Ok(taken) => taken,
            Err(error) => return Err(ending.fail(error)),
        };
        if target.destination.needs_body() {
            let settled = tokio::time::timeout(policy.deadline, kept.settle(pump)).await;
            (kept, pump) = match settled {
                Ok(Ok(settled)) => settled,
                Ok(Err(error)) => return Err(ending.fail(error)),
                Err(_) => return Ok(ending.refuse(refuse::deadline_passed(target.label(), policy.deadline, 0))),
            };
        }
        let partition = target.destination.partition(&parts.headers, kept.as_split());
        self.known.remember(&target, &partition, self);
        let repeatable = target.destination.repeatable.allows(&parts.method, has_key || policy.idempotency_key.is_some());
        let call = calls::Call {
            door: self,
            target: &target,
            key: partition.key,
            policy,
            repeatable,
            deadline,
            head: calls::Head { method: parts.method, uri: parts.uri, headers: parts.headers },
            timeouts,
            kept,
            wait_clock,
            ending,
        };
        call.run(pump).await
    }

    /// What calls to an origin follow.
    fn target(&self, tenant: &TenantId, origin: &Origin) -> Arc<Target> {
        let table = self.table.load();
        let mut targets = self.targets.lock();
        let key = (tenant.clone(), origin.clone());
        if let Some(target) = targets.get(&key)
            && target.generation == table.generation
        {
            return Arc::clone(target);
        }
        if targets.len() >= TARGETS {
            targets.retain(|_, target| Arc::strong_count(target) > 1);
        }
        // An origin without configuration keeps its destination over a change elsewhere.
        let before = targets.get(&key).map(|target| Arc::clone(&target.destination));
        let mut destination = table.resolve(tenant, origin);
        if let Some(before) = before.filter(|before| before.name.is_none() && destination.name.is_none()) {
            destination = before;
        }
        let target = Arc::new(Target::new(self.pool.upstream(tenant, origin), destination, table.generation));
        if targets.len() < TARGETS {
            targets.insert(key, Arc::clone(&target));
        }
        target
    }
}

impl Known {
    /// Remembers a partition, once.
    fn remember(&self, target: &Target, partition: &Partition, door: &Door) {
        let epoch = self.epoch.load(Ordering::Relaxed);
        if partition.label.is_none() && target.known.swap(epoch, Ordering::Relaxed) == epoch {
            return;
        }
        let mut partitions = self.partitions.lock();
        if partitions.contains_key(&partition.key) {
            return;
        }
        if partitions.len() >= self.bound {
            partitions.retain(|key, _| door.shards.snapshot(*key).is_some());
            self.epoch.fetch_add(1, Ordering::Relaxed);
            if partitions.len() >= self.bound {
                return;
            }
        }
        let destination = &target.destination;
        let known = KnownPartition {
            tenant: destination.tenant.clone(),
            destination: destination.label().into(),
            matches: Arc::clone(&destination.matches),
            configured: destination.name.is_some(),
            label: partition.label.clone(),
        };
        partitions.insert(partition.key, known);
    }
}

/// An answer of the gate itself, as a response.
fn answer(problem: Problem) -> Response<Body> {
    problem.into_response()
}
