//! The door: the one way out of a node.
//!
//! [`Door::send`] decides what a call is (destination, partition, policy, deadline), refuses what may not leave, and
//! hands the rest to the call loop. Refusals are answers, like any upstream's; an error means that nobody answered.

mod aim;
mod attempt;
mod behind;
mod cached;
mod calls;
mod comments;
mod copies;
mod ending;
mod gauges;
mod known;
mod refusal;
mod target;
mod targets;

use std::sync::Arc;

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use http::{HeaderValue, Method, Response, Uri, header, uri::PathAndQuery};
use parking_lot::Mutex;
use tidegate_core::{Effective, Repeatable};

pub use self::gauges::DestinationGauges;
use self::{
    calls::FirstByte,
    comments::{Early, may_stream},
    ending::Ending,
    known::Known,
    target::Target,
    targets::Targets,
};
use super::{
    Cache, Hops, Origin, OutboundCall, Said, Sender, SenderKind, TransportError,
    body::{Idle, KeptBody, ReplayMemory, Start, drain},
    destinations::{DestinationPage, Table, check_override, compile},
    guard::AddressGuard,
    headers::{self, Stated},
    pool::{HeadBounds, Liveness, Pool, PoolParts, Resolve, SystemResolver},
    refuse,
    secrets::{AsMade, SecretTable, fill},
    shards::{self, Shards},
    to::{self, Routed, ToError},
};
use crate::{
    body::{Body, ReadOn},
    cluster::registry::{ConfigError, DestinationConfig, OverrideRecord, State},
    guest::Egress,
    ids::{TRACEPARENT, TenantId, TraceContext},
    observe::{Note, Observe, TAG, tags_of},
    problem::Problem,
    secrets::Keyring,
    settings::{OutboundSettings, names},
};

/// Partitions that calls on their way may know of beyond those that the shards keep.
const ON_THEIR_WAY: usize = 1024;

/// What tests replace.
pub struct DoorParts {
    /// Looks names up.
    pub resolver: Arc<dyn Resolve>,
    /// Roots that TLS trusts; nothing: the system's.
    pub roots: Option<Arc<rustls::RootCertStore>>,
    /// Shards that host the actors.
    pub shards: usize,
    /// How far request bodies are read that nobody wants any more.
    pub read_on: ReadOn,
    /// When a silent peer is taken for gone.
    pub liveness: Liveness,
    /// What secrets are opened with.
    pub keys: Arc<Keyring>,
    /// Stored answers, for destinations that opted in.
    pub cache: Option<Arc<Cache>>,
}

impl Default for DoorParts {
    fn default() -> Self {
        let shards = std::thread::available_parallelism().map_or(1, usize::from);
        let (resolver, liveness) = (Arc::new(SystemResolver::default()), Liveness::default());
        let (keys, cache) = Default::default();
        Self { resolver, roots: None, shards, read_on: ReadOn::default(), liveness, keys, cache }
    }
}

/// The door of a node. Cheap to clone.
#[derive(Clone)]
pub struct Door(Arc<Inner>);

struct Inner {
    settings: OutboundSettings,
    observe: Arc<Observe>,
    pool: Arc<Pool>,
    shards: Arc<Shards>,
    memory: Arc<ReplayMemory>,
    read_on: ReadOn,
    table: ArcSwap<Table>,
    secrets: ArcSwap<SecretTable>,
    keys: Arc<Keyring>,
    configuring: Mutex<()>,
    targets: Targets,
    known: Known,
    cache: Option<Arc<Cache>>,
    /// What calls follow where nothing else is said.
    defaults: Effective,
}

impl Door {
    /// A door with the settings of its node.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn new(settings: &OutboundSettings, read_on: ReadOn, observe: Arc<Observe>) -> std::io::Result<Arc<Self>> {
        Self::with_parts(settings, observe, DoorParts { read_on, ..DoorParts::default() })
    }

    /// A door with parts of one's own.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn with_parts(
        settings: &OutboundSettings,
        observe: Arc<Observe>,
        parts: DoorParts,
    ) -> std::io::Result<Arc<Self>> {
        let pool = Pool::start(PoolParts {
            guard: AddressGuard::new(settings.egress_allow.clone()),
            resolver: parts.resolver,
            roots: parts.roots,
            observe: Arc::clone(&observe),
            heads: HeadBounds { headers: settings.max_answer_headers, bytes: settings.max_answer_head },
            liveness: parts.liveness,
            unread: settings.body_idle_timeout.get(),
            max_idle: settings.max_idle_connections,
            idle_time: settings.connection_idle.get(),
        })?;
        let defaults = Effective {
            deadline: settings.call_deadline.get(),
            attempt_timeout: settings.first_byte_timeout.get(),
            retries: settings.attempts.saturating_sub(1),
            ..Effective::default()
        };
        let inner = Inner {
            shards: Shards::start(parts.shards, settings.max_actors)?,
            pool,
            observe,
            memory: ReplayMemory::new(settings.replay_memory.get()),
            read_on: parts.read_on,
            table: ArcSwap::from_pointee(Table::empty(settings)),
            secrets: ArcSwap::default(),
            keys: parts.keys,
            configuring: Mutex::default(),
            targets: Targets::default(),
            // Calls on their way know of some that the shards have not made room for yet.
            known: Known::new(settings.max_actors.saturating_add(ON_THEIR_WAY)),
            cache: parts.cache,
            defaults,
            settings: settings.clone(),
        };
        Ok(Arc::new(Self(Arc::new(inner))))
    }

    /// Takes the destinations and secrets of the registry over. Called once at the start and after each write; live actors follow
    /// at once, with their queues.
    pub fn configure(&self, state: &State) {
        let _one_at_a_time = self.0.configuring.lock();
        let table = self.0.table.load();
        if state.revision < table.revision {
            // A later state was shown already.
            return;
        }
        // Secrets first: what a destination is given was bound to it before.
        if let Some(next) = self.0.secrets.load().next(state, &self.0.keys) {
            self.0.secrets.store(Arc::new(next));
        }
        let (next, changed) = table.next(state, &self.0.settings);
        let next = Arc::new(next);
        self.0.table.store(Arc::clone(&next));
        let gone = table.forget_gone(&next, &self.0.observe.metrics);
        for (old, new) in changed {
            self.0.shards.reconfigure(&old, &new);
        }
        self.0.send_on(&next);
        // Those that waited are gone by now: no brake and no limit of theirs says anything any more.
        for destination in gone {
            self.0.known.forget(&destination);
            self.0.shards.reconfigure(&destination.limits, next.default_limits());
        }
    }

    /// What outbound calls of this node follow where nothing else is said.
    pub fn settings(&self) -> &OutboundSettings {
        &self.0.settings
    }

    /// Whether a destination's configuration means something; what the control API asks before it stores one.
    ///
    /// # Errors
    /// The first key that is wrong or unknown.
    pub fn check(&self, config: &DestinationConfig) -> Result<(), ConfigError> {
        compile(config, &self.0.settings).map(drop)
    }

    /// Reads the path of a request to `/to`.
    ///
    /// # Errors
    /// [`ToError`], which becomes a problem.
    pub fn route(&self, tenant: &TenantId, path_and_query: &PathAndQuery) -> Result<Routed, ToError> {
        let table = self.0.table.load();
        let mut routed = to::parse(path_and_query.as_str(), |name| table.origin_of(tenant, name))?;
        if let Some(name) = &table.resolve(tenant, &routed.origin).name {
            routed.destination = name.as_str().to_owned();
        }
        Ok(routed)
    }

    /// The live state of a tenant's destinations, ordered by name, at most `limit` after `after`.
    pub fn destinations(&self, tenant: &TenantId, after: Option<&str>, limit: usize) -> DestinationPage {
        self.0.known.page(tenant, after, limit, &self.0.table.load(), &self.0.shards)
    }

    /// Forgets the stored answers of a tenant's destination, or that to one URL. Says whether there is such a destination
    /// and the URL, where one is named, belongs to it.
    ///
    /// # Errors
    /// When it can't be written down, so that they would be there again after a restart.
    pub fn purge(&self, tenant: &TenantId, name: &str, uri: Option<&Uri>) -> std::io::Result<bool> {
        let table = self.0.table.load();
        let Some(destination) = table.configured(tenant).find(|destination| destination.label() == name) else {
            return Ok(false);
        };
        let theirs = |uri: &Uri| {
            let origin = Origin::of(uri).ok();
            origin.is_some_and(|origin| table.resolve(tenant, &origin).name == destination.name)
        };
        if !uri.is_none_or(theirs) {
            return Ok(false);
        }
        if let (Some(cache), Some(caching)) = (&self.0.cache, &destination.caching) {
            cache.purge(&caching.scope, uri)?;
        }
        Ok(true)
    }

    /// Whether limits for a time mean something to a destination.
    ///
    /// # Errors
    /// The first key that is wrong.
    pub fn check_override(&self, config: &DestinationConfig, limits: &OverrideRecord) -> Result<(), ConfigError> {
        check_override(config, limits, &self.0.settings)
    }

    /// Refuses all calls that wait for a tenant's destination. Returns how many that were.
    pub fn flush(&self, tenant: &TenantId, destination: &str) -> usize {
        let keys = self.0.known.keys_of(tenant, destination);
        keys.into_iter().map(|key| self.0.shards.flush(key)).sum()
    }

    /// Ends the pauses of a tenant's destination that its upstream asked for or its failures made.
    pub fn resume(&self, tenant: &TenantId, destination: &str) {
        self.0.known.keys_of(tenant, destination).into_iter().for_each(|key| self.0.shards.resume(key));
    }

    /// Sends a call: waits for its turn, makes its attempts, and returns the answer that counts. A refusal by the gate
    /// is an answer too.
    ///
    /// Dropping the future gives the call up: its place in the queue, its slot and its connection are free at once.
    ///
    /// # Errors
    /// [`TransportError`] when nobody answered, or the request can't be sent as it is.
    pub fn send(
        &self,
        call: OutboundCall,
    ) -> impl Future<Output = Result<Response<Body>, TransportError>> + Send + 'static + use<> {
        // Not inside the future: calls are numbered in the order in which they are made.
        let number = call.trail.next_call();
        let inner = Arc::clone(&self.0);
        let every = inner.settings.stream_comment.get();
        let may_stream = !every.is_zero() && may_stream(call.request.method(), call.request.headers());
        async move {
            if may_stream {
                return comments::send(every, |early| async move { inner.send(call, number, Some(early)).await }).await;
            }
            inner.send(call, number, None).await
        }
    }
}

impl Egress for Door {
    fn send(&self, call: OutboundCall) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        Box::pin(self.send(call))
    }
}

impl Inner {
    async fn send(
        self: &Arc<Self>,
        call: OutboundCall,
        number: u32,
        early: Option<Early>,
    ) -> Result<Response<Body>, TransportError> {
        let OutboundCall { request, sender, timeouts, trail, trace, wait_clock } = call;
        let (mut parts, body) = request.into_parts();
        let checked = Origin::of(&parts.uri).and_then(|origin| match parts.method {
            Method::CONNECT => Err(TransportError::BadRequest { why: "CONNECT is not offered".into() }),
            _ => Ok(origin),
        });
        let origin = match checked {
            Ok(origin) => origin,
            Err(error) => {
                drain(body, self.read_on);
                trail.note(Note::Decided { call: number, what: error.to_string() });
                return Err(error);
            }
        };
        let target = self.target(&sender.tenant, &origin);
        trail.note(Note::Call {
            call: number,
            what: Said { method: &parts.method, uri: &parts.uri }.to_string(),
            destination: target.destination.shared_label(),
            configured: target.destination.name.is_some(),
        });
        if parts.headers.contains_key(TAG) {
            trail.tag(tags_of(&parts.headers));
        }
        let mut ending = Ending::new(self, &target, trail, number, &parts, &sender);
        if let SenderKind::Function { name, allowed_hosts: Some(hosts), .. } = &sender.kind
            && !hosts.allow(&origin)
        {
            drain(body, self.read_on);
            return Ok(ending.refuse(hosts.denial(name.as_str(), &origin)));
        }
        let stated = match headers::stated(&parts.headers) {
            Ok(stated) => stated,
            Err((name, why)) => {
                drain(body, self.read_on);
                return Ok(ending.refuse(refuse::wrong_header(&name, &why)));
            }
        };
        let hops = parts.extensions.get::<Hops>().map_or(0, |hops| hops.0).max(Hops::of(&parts.headers).0);
        if hops >= headers::HOPS {
            drain(body, self.read_on);
            return Ok(ending.refuse(refuse::looped(&origin)));
        }
        let has_key = parts.headers.contains_key("idempotency-key");
        // A guest may trace its own work: its call then stands below the span that it names. Another trace would lead nowhere
        // from here, so it is replaced.
        let mut continued = trace.parent.is_some();
        if matches!(sender.kind, SenderKind::Function { .. }) && parts.headers.contains_key(TRACEPARENT) {
            let own = TraceContext::stated(&parts.headers).filter(|(id, ..)| *id == trace.trace);
            continued = own.is_some();
            if let Some((_, span, _)) = own.filter(|(_, span, _)| *span != trace.span) {
                ending.note(|call| Note::Under { call, span });
            }
        }
        headers::outgoing(&mut parts.headers, continued, hops + 1);
        let made = AsMade { method: &parts.method, headers: &parts.headers, uri: &parts.uri };
        let filled = fill(&self.secrets.load(), &sender, &target.destination, &origin, made);
        let filled = match filled {
            Ok(filled) => filled,
            Err(problem) => {
                drain(body, self.read_on);
                return Ok(ending.refuse(*problem));
            }
        };
        if let Some(filled) = &filled {
            let usual = filled.usual().told().iter().filter(|_| !filled.differs()).cloned();
            for what in usual.chain(filled.closed(&target.destination.endpoints)) {
                ending.note(|call| Note::Decided { call, what });
            }
        }
        let policy = target.policy(&self.defaults, &sender, &stated);
        if let Err(problem) = aim::ways(&target.destination, &self.settings.region, &policy, filled.as_deref()) {
            drain(body, self.read_on);
            return Ok(ending.refuse(*problem));
        }
        if !policy.regions.is_empty() && target.destination.endpoints.is_empty() {
            let home = &self.settings.region;
            let what =
                format!("`regions` of its policy has no effect: no endpoints are configured, calls leave from {home}");
            ending.note(|call| Note::Decided { call, what });
        }
        let first_byte = self.first_byte(&target, &sender, &stated, &policy);
        let idle = self.idle(&stated);
        let own = stated.policy.as_ref().and_then(|policy| policy.deadline);
        let deadline_stated = stated.patience.is_some()
            || own.or(sender.policy.deadline).or(target.destination.policy.deadline).is_some();
        let deadline = shards::now() + policy.deadline;

        let start = Start { keep: self.settings.replay_body.get(), memory: &self.memory, read_on: self.read_on };
        let (mut kept, mut pump) = match KeptBody::take(body, stated.length, start).await {
            Ok(taken) => taken,
            Err(error) => return Err(ending.fail(error)),
        };
        if stated.length.is_none() && matches!(sender.kind, SenderKind::Function { .. }) {
            (kept, pump) = match kept.linger(pump).await {
                Ok(settled) => settled,
                Err(error) => return Err(ending.fail(error)),
            };
        }
        if target.destination.needs_body(&parts) {
            let settled = tokio::time::timeout(policy.deadline, kept.settle(pump)).await;
            (kept, pump) = match settled {
                Ok(Ok(settled)) => settled,
                Ok(Err(error)) => return Err(ending.fail(error)),
                Err(_) => return Ok(ending.refuse(refuse::deadline_passed(target.label(), policy.deadline, 0))),
            };
        }
        let partition = aim::partition(&target.destination, (&parts.headers, &parts.uri), filled.as_deref(), &kept);
        self.known.remember(&target, &partition, &self.shards);
        let repeatable = target.destination.repeatable(&parts.method, parts.uri.path());
        let has_key = has_key || policy.idempotency_key.is_some();
        let costs = repeatable.costs(&parts.method, has_key);
        let (copies, keyed) = (repeatable.copies(&parts.method), has_key && repeatable != Repeatable::Never);
        let repeatable = repeatable.allows(&parts.method, has_key);
        let asked_usage = kept.as_split().ok().flatten().and_then(|body| {
            target.destination.ask_usage(&parts, body).map(|body| (body, "the usage of its stream is asked for"))
        });
        let tokens = policy.tokens.unwrap_or_else(|| target.destination.tokens(kept.as_split()));
        let asked_usage = asked_usage.map(|(body, what)| {
            kept.replace(body);
            // The chunk that comes of it can be taken out only where it can be read.
            parts.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            ending.note(|call| Note::Decided { call, what: what.into() });
        });
        let call = calls::Call {
            door: self,
            target: &target,
            aimed: None,
            key: partition.key,
            asked: partition.key,
            policy,
            repeatable,
            copies,
            keyed,
            costs,
            uploaded: false,
            failed: 0,
            lost: 0,
            tokens,
            asked_usage: asked_usage.is_some(),
            flow: sender.flow,
            deadline,
            deadline_stated,
            fallback: None,
            sender: &sender,
            head: calls::Head { method: parts.method, uri: parts.uri, headers: parts.headers, filled },
            timeouts,
            first_byte,
            spent: 0,
            idle,
            kept,
            wait_clock,
            early,
            trace,
            ending,
        };
        match (&target.destination.caching, &self.cache) {
            (Some(caching), Some(cache)) => {
                let around =
                    cached::Around { door: self, target: &target, sender: &sender, cache, caching, behind: false };
                Box::pin(call.through(around, pump)).await
            }
            _ => call.run(pump).await,
        }
    }

    /// How long an attempt may take to the head of its answer: what a policy says, else longer where the client says that
    /// it waits longer.
    fn first_byte(&self, target: &Target, sender: &Sender, stated: &Stated, policy: &Effective) -> FirstByte {
        let setting = match policy.attempt_timeout == self.defaults.attempt_timeout {
            true => names::FIRST_BYTE_TIMEOUT,
            false => "policy.attempt_timeout",
        };
        let ours = FirstByte { time: policy.attempt_timeout, setting };
        let own = stated.policy.as_ref().and_then(|policy| policy.attempt_timeout);
        let said = own.or(sender.policy.attempt_timeout).or(target.destination.policy.attempt_timeout);
        match stated.patience {
            Some(patience) if said.is_none() && patience > ours.time => {
                let most = self.settings.patient_first_byte_timeout.get().max(ours.time);
                FirstByte { time: patience.min(most), setting: names::PATIENT_FIRST_BYTE_TIMEOUT }
            }
            _ => ours,
        }
    }

    /// How long the answer's body may stand still: longer, too, where the client says that it waits longer. Models that
    /// think send nothing meanwhile.
    fn idle(&self, stated: &Stated) -> Idle {
        let time = self.settings.body_idle_timeout.get();
        let patient = self.settings.patient_first_byte_timeout.get();
        match stated.patience.map(|patience| patience.min(patient)) {
            Some(patience) if patience > time => Idle { time: patience, setting: names::PATIENT_FIRST_BYTE_TIMEOUT },
            _ => Idle { time, setting: names::BODY_IDLE_TIMEOUT },
        }
    }
}

/// An answer of the gate itself, as a response.
fn answer(problem: Problem) -> Response<Body> {
    problem.into_response()
}
