//! The table of configured destinations, and what a call follows once it is found.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use http::{HeaderMap, Method};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tidegate_core::{Config, Effective, Policy, Repeatable, endpoint::Ways};

use super::{
    CompiledDestination, Endpoint, Partition,
    compile::{compile_known, node_settings},
    endpoints, hash_key,
    partition::{self, SplitBody},
    profiles::{GENERIC, Profile},
    tokens,
};
use crate::{
    cluster::registry::{DestinationConfig, State},
    ids::{DestinationName, TenantId},
    observe::{Cached, Metrics},
    outbound::{Origin, cache::Caching},
    settings::OutboundSettings,
};

/// What calls to one destination follow. One per configured destination and one per origin without.
pub(crate) struct Destination {
    /// Its configured name.
    pub(crate) name: Option<DestinationName>,
    /// Whose it is.
    pub(crate) tenant: TenantId,
    /// What it stands for: the pattern, or the origin.
    pub(crate) matches: Arc<str>,
    pub(crate) limits: Arc<Config>,
    repeatable: Option<Repeatable>,
    pub(crate) policy: Policy,
    profile: &'static Profile,
    /// Several equal ways to it; none: the origin itself.
    pub(crate) endpoints: Arc<[Endpoint]>,
    /// Where tokens of calls are estimated: the most that one is taken to cost.
    token_quota: Option<u64>,
    split_by: Vec<partition::Splitter>,
    key: u128,
    /// How its answers are stored, where they are.
    pub(crate) caching: Option<Caching>,
    counters: [OnceLock<Counter>; OUTCOMES.len()],
    cached: [OnceLock<Counter>; Cached::ALL.len()],
    queued: OnceLock<Gauge>,
    /// Its configuration was deleted: calls that are still under way make it no series anew.
    gone: AtomicBool,
}

/// A call that waits, as long as this lives.
pub(crate) struct Queued<'a>(&'a Gauge);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Classes of outcomes, as metrics name them.
const OUTCOMES: [&str; 7] = ["2xx", "3xx", "4xx", "5xx", "refused", "failed", "cancelled"];

/// How a call ended, for metrics.
#[derive(Clone, Copy)]
pub(crate) enum Ended {
    /// With an answer of the upstream.
    Answer(u16),
    /// The gate refused it.
    Refused,
    /// Without an answer.
    Failed,
    /// Its sender went away.
    Cancelled,
}

impl Destination {
    fn configured(tenant: &TenantId, name: &DestinationName, compiled: CompiledDestination) -> Self {
        let matches: Arc<str> = compiled.pattern.to_string().into();
        let key = hash_key(tenant.as_str(), &format!("{name}={matches}"));
        Self {
            key,
            caching: compiled.cache.map(|cache| cache.of(key, &compiled.split_by)),
            name: Some(name.clone()),
            tenant: tenant.clone(),
            matches,
            limits: compiled.limits,
            repeatable: compiled.repeatable,
            policy: compiled.policy,
            profile: compiled.profile,
            endpoints: compiled.endpoints,
            token_quota: compiled.token_quota.filter(|_| compiled.profile.estimates_tokens),
            split_by: compiled.split_by,
            counters: Default::default(),
            cached: Default::default(),
            queued: OnceLock::new(),
            gone: AtomicBool::new(false),
        }
    }

    fn implicit(tenant: &TenantId, origin: &Origin, limits: Arc<Config>) -> Self {
        let matches: Arc<str> = origin.to_string().into();
        Self {
            key: hash_key(tenant.as_str(), &matches),
            name: None,
            tenant: tenant.clone(),
            matches,
            limits,
            repeatable: None,
            policy: Policy::default(),
            profile: &GENERIC,
            endpoints: Arc::default(),
            token_quota: None,
            split_by: Vec::new(),
            caching: None,
            counters: Default::default(),
            cached: Default::default(),
            queued: OnceLock::new(),
            gone: AtomicBool::new(false),
        }
    }

    /// How it is shown: its name, or what it stands for.
    pub(crate) fn label(&self) -> &str {
        self.name.as_ref().map_or(&*self.matches, DestinationName::as_str)
    }

    /// Lays its profile and its policy over what stands below them.
    pub(crate) fn apply(&self, policy: &mut Effective) {
        self.profile.apply(policy);
        policy.apply(&self.policy);
    }

    /// Which of its endpoints a call may take; nothing: none of those that its policy insists on.
    pub(crate) fn ways(&self, policy: &Effective) -> Option<Ways> {
        endpoints::ways(&self.endpoints, policy)
    }

    /// Which requests may be sent twice.
    pub(crate) fn repeatable(&self, method: &Method, path: &str) -> Repeatable {
        self.repeatable.unwrap_or_else(|| self.profile.repeatable(method, path))
    }

    /// Whether the body decides about the partition, or about the cost.
    pub(crate) fn needs_body(&self) -> bool {
        partition::needs_body(&self.split_by) || self.token_quota.is_some()
    }

    /// What a call that does not say it costs in tokens, as far as a limit asks for it.
    pub(crate) fn tokens(&self, body: Result<Option<&[u8]>, ()>) -> u32 {
        match (self.token_quota, body) {
            (Some(quota), Ok(Some(body))) => u32::try_from(tokens::estimate(body).min(quota)).unwrap_or(u32::MAX),
            _ => 0,
        }
    }

    /// The partition of a request. `body`: nothing where there is none, an error where it is too large to be kept.
    pub(crate) fn partition(&self, headers: &HeaderMap, body: Result<Option<&[u8]>, ()>) -> Partition {
        let body = match body {
            Ok(None) => SplitBody::Empty,
            Ok(Some(bytes)) => SplitBody::Whole(bytes),
            Err(()) => SplitBody::Large,
        };
        partition::partition(self.key, &self.split_by, headers, body)
    }

    /// Counts a call.
    pub(crate) fn count(&self, metrics: &Metrics, ended: Ended) {
        let index = match ended {
            Ended::Answer(..300) => 0,
            Ended::Answer(300..400) => 1,
            Ended::Answer(400..500) => 2,
            Ended::Answer(500..) => 3,
            Ended::Refused => 4,
            Ended::Failed => 5,
            Ended::Cancelled => 6,
        };
        let (Some(counter), Some(outcome)) = (self.counters.get(index), OUTCOMES.get(index)) else { return };
        let made = || {
            let destination = self.series();
            metrics.calls.get_or_create(&crate::observe::DestinationLabels { destination, outcome }).clone()
        };
        counter.get_or_init(made).inc();
    }

    /// Counts what the cache did for a call.
    pub(crate) fn count_cached(&self, metrics: &Metrics, how: Cached) {
        if let Some(counter) = self.cached.get(how as usize) {
            counter.get_or_init(|| metrics.cache.of(self.series(), how)).inc();
        }
    }

    /// How often the cache did what, by the names of [`Cached::ALL`]; nothing where it stores no answers.
    pub(crate) fn cached(&self) -> Option<BTreeMap<&'static str, u64>> {
        let count = |counter: &OnceLock<Counter>| counter.get().map_or(0, Counter::get);
        self.caching.as_ref().map(|_| Cached::ALL.into_iter().zip(self.cached.iter().map(count)).collect())
    }

    /// Counts a call that waits.
    pub(crate) fn queued(&self, metrics: &Metrics) -> Queued<'_> {
        let gauge = self.queued.get_or_init(|| metrics.of_queue(self.series()));
        gauge.inc();
        Queued(gauge)
    }

    /// Its label in metrics.
    fn series(&self) -> String {
        let name = self.name.as_ref().filter(|_| !self.gone.load(Ordering::Relaxed));
        name.map_or("other", DestinationName::as_str).to_owned()
    }
}

struct Entry {
    config: Arc<DestinationConfig>,
    compiled: CompiledDestination,
    destination: Arc<Destination>,
}

/// Old and new limits of destinations that changed.
pub(crate) type Changes = Vec<(Arc<Config>, Arc<Config>)>;

/// All configured destinations. A new one is made for each change of the registry.
pub(crate) struct Table {
    /// Rises with each table of a node.
    pub(crate) generation: u64,
    /// The registry's revision that it shows.
    pub(crate) revision: u64,
    /// By tenant, the narrowest first.
    tenants: HashMap<TenantId, Vec<Entry>>,
    /// What destinations without configuration follow.
    default: Arc<Config>,
}

impl Table {
    /// A table without destinations.
    pub(crate) fn empty(settings: &OutboundSettings) -> Self {
        // The node's own settings hold no limits, so there is nothing that could be wrong with them.
        let default = Config::new(&node_settings(settings)).unwrap_or_default();
        Self { generation: 0, revision: 0, tenants: HashMap::new(), default: Arc::new(default) }
    }

    /// The table that follows this one, and for each destination whose limits changed the old and the new.
    pub(crate) fn next(&self, state: &State, settings: &OutboundSettings) -> (Self, Changes) {
        let mut tenants: HashMap<TenantId, Vec<Entry>> = HashMap::new();
        let mut changed = Vec::new();
        for ((tenant, name), record) in &state.destinations {
            let before = self.entry(tenant, name);
            let entry = match before {
                Some(before) if Arc::ptr_eq(&before.config, &record.config) => Entry {
                    config: Arc::clone(&before.config),
                    compiled: before.compiled.clone(),
                    destination: Arc::clone(&before.destination),
                },
                _ => match compile_known(&record.config, settings) {
                    Ok(compiled) => {
                        if let Some(before) = before {
                            changed.push((Arc::clone(&before.compiled.limits), Arc::clone(&compiled.limits)));
                        }
                        let destination = Arc::new(Destination::configured(tenant, name, compiled.clone()));
                        Entry { config: Arc::clone(&record.config), compiled, destination }
                    }
                    Err(error) => {
                        tracing::warn!(%tenant, destination = %name, %error, "this destination is not in force");
                        continue;
                    }
                },
            };
            tenants.entry(tenant.clone()).or_default().push(entry);
        }
        for entries in tenants.values_mut() {
            entries.sort_by_key(|entry| std::cmp::Reverse(entry.compiled.pattern.narrowness()));
        }
        let next = Self {
            generation: self.generation + 1,
            revision: state.revision,
            tenants,
            default: Arc::clone(&self.default),
        };
        (next, changed)
    }

    /// Forgets the series of destinations that are not in the table which follows this one, of whatever tenant.
    pub(crate) fn forget_gone(&self, next: &Self, metrics: &Metrics) {
        let left: HashSet<_> = next.all().filter_map(|destination| destination.name.as_ref()).collect();
        for destination in self.all() {
            if let Some(name) = destination.name.as_ref().filter(|name| !left.contains(name)) {
                destination.gone.store(true, Ordering::Relaxed);
                metrics.forget_destination(name.as_str(), &OUTCOMES);
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Destination>> {
        self.tenants.values().flatten().map(|entry| &entry.destination)
    }

    fn entry(&self, tenant: &TenantId, name: &DestinationName) -> Option<&Entry> {
        self.tenants.get(tenant)?.iter().find(|entry| entry.destination.name.as_ref() == Some(name))
    }

    /// The destination of an origin: the narrowest configured one that stands for it, or the origin itself.
    pub(crate) fn resolve(&self, tenant: &TenantId, origin: &Origin) -> Arc<Destination> {
        let configured = self.tenants.get(tenant).and_then(|entries| {
            entries.iter().find(|entry| entry.compiled.pattern.matches(origin)).map(|entry| &entry.destination)
        });
        match configured {
            Some(destination) => Arc::clone(destination),
            None => Arc::new(Destination::implicit(tenant, origin, Arc::clone(&self.default))),
        }
    }

    /// The configured destinations of a tenant.
    pub(crate) fn configured(&self, tenant: &TenantId) -> impl Iterator<Item = &Arc<Destination>> {
        self.tenants.get(tenant).into_iter().flatten().map(|entry| &entry.destination)
    }

    /// The origin of a configured destination that stands for just one.
    pub(crate) fn origin_of(&self, tenant: &TenantId, name: &str) -> Option<Result<Origin, Arc<str>>> {
        let entry = self.tenants.get(tenant)?.iter().find(|entry| entry.destination.label() == name)?;
        Some(entry.compiled.pattern.exact().ok_or_else(|| Arc::clone(&entry.destination.matches)))
    }
}
