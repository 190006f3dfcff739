//! The table of configured destinations, and what a call follows once it is found.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Method, Uri, request};
use tidegate_core::{Config, Effective, Policy, Repeatable, endpoint::Ways, signal::Finals};

use super::{
    CompiledDestination, Endpoint, Injection, Partition,
    api::Api,
    compile::{compile_known, node_settings},
    endpoints, hash_key,
    partition::{self, Split, SplitBody},
    profiles::Profile,
    tokens,
};
use crate::{
    cluster::registry::{DestinationConfig, State, Steering, now_ms},
    ids::{DestinationName, TenantId},
    observe::{Cached, CachedCounts, DestinationCounts, Metrics, OTHER},
    outbound::{Origin, cache::Caching},
    problem::Shape,
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
    pub(crate) policy: Policy,
    /// What is known of the API behind it.
    pub(crate) api: Api,
    /// Several equal ways to it; none: the origin itself.
    pub(crate) endpoints: Arc<[Endpoint]>,
    /// What programs' requests are given, if anything.
    pub(crate) injection: Option<Injection>,
    /// All that its calls may be led to, as secrets are bound to it.
    pub(crate) stands: Arc<str>,
    /// Where tokens of calls are estimated: the most that one is taken to cost.
    token_quota: Option<u64>,
    counts_tokens: bool,
    split_by: Vec<partition::Splitter>,
    key: u128,
    counts: OnceLock<Arc<DestinationCounts>>,
    /// How often its stored answers served, over changes of its configuration.
    answers: Arc<CachedCounts>,
    /// How its answers are stored, where they are.
    pub(crate) caching: Option<Caching>,
    /// Its configuration was deleted, over changes of it: calls that are still under way make it no series anew.
    gone: Arc<AtomicBool>,
}

impl Destination {
    fn configured(
        tenant: &TenantId,
        name: &DestinationName,
        compiled: CompiledDestination,
        before: Option<&Self>,
    ) -> Self {
        let matches: Arc<str> = compiled.pattern.to_string().into();
        let key = hash_key(tenant.as_str(), &format!("{name}={matches}"));
        Self {
            key,
            caching: compiled.cache.map(|cache| cache.of(key, &compiled.split_by)),
            name: Some(name.clone()),
            tenant: tenant.clone(),
            matches,
            limits: compiled.limits,
            policy: compiled.policy,
            endpoints: compiled.endpoints,
            counts_tokens: compiled.token_quota.is_some(),
            injection: compiled.injection,
            stands: compiled.stands,
            token_quota: compiled.token_quota.filter(|_| compiled.api.profile.estimates_tokens),
            api: compiled.api,
            split_by: compiled.split_by,
            counts: OnceLock::new(),
            answers: before.map(|before| Arc::clone(&before.answers)).unwrap_or_default(),
            gone: before.map(|before| Arc::clone(&before.gone)).unwrap_or_default(),
        }
    }

    fn implicit(tenant: &TenantId, origin: &Origin, limits: Arc<Config>) -> Self {
        let matches: Arc<str> = origin.to_string().into();
        let profile = Profile::of(origin);
        Self {
            key: hash_key(tenant.as_str(), &matches),
            name: None,
            tenant: tenant.clone(),
            matches,
            limits,
            policy: Policy::default(),
            api: Api::of(profile),
            endpoints: Arc::default(),
            injection: None,
            stands: Arc::default(),
            token_quota: None,
            counts_tokens: false,
            split_by: partition::of_profile(profile),
            caching: None,
            counts: OnceLock::new(),
            answers: Arc::default(),
            gone: Arc::default(),
        }
    }

    /// Whether its configuration was deleted.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// How it is shown: its name, or what it stands for.
    pub(crate) fn label(&self) -> &str {
        self.name.as_ref().map_or(&*self.matches, DestinationName::as_str)
    }

    /// The same, to keep.
    pub(crate) fn shared_label(&self) -> Arc<str> {
        self.name.as_ref().map_or_else(|| Arc::clone(&self.matches), DestinationName::shared)
    }

    /// Lays its profile and its policy over what stands below them.
    pub(crate) fn apply(&self, policy: &mut Effective) {
        self.api.apply(policy);
        policy.apply(&self.policy);
    }

    /// Which of its endpoints a call may take; nothing: none of those that its policy insists on.
    pub(crate) fn ways(&self, home: &str, policy: &Effective) -> Option<Ways> {
        endpoints::ways(&self.endpoints, home, policy)
    }

    /// Which requests may be sent twice.
    pub(crate) fn repeatable(&self, method: &Method, path: &str) -> Repeatable {
        self.api.repeatable(method, path)
    }

    /// Whether the body of such a request decides about the partition or about the cost, or may be given a question.
    pub(crate) fn needs_body(&self, head: &request::Parts) -> bool {
        self.token_quota.is_some()
            || partition::needs_body(&self.split_by, &head.headers, &head.uri)
            || self.api.asks(&head.method, &head.uri)
    }

    /// The shape of errors of the gate's own to such a request.
    pub(crate) fn shape(&self, method: &Method, path: &str) -> Shape {
        self.api.shape(method, path)
    }

    /// Whether no waiting changes an answer of this status.
    pub(crate) fn is_final(&self, status: u16) -> bool {
        self.api.is_final(status)
    }

    /// What in the body of an error no waiting changes.
    pub(crate) fn finals(&self) -> &Finals {
        self.api.finals()
    }

    /// Whether answers say how many tokens they used.
    pub(crate) fn reads_usage(&self) -> bool {
        self.api.reads_usage()
    }

    /// Whether a limit counts tokens.
    pub(crate) fn counts_tokens(&self) -> bool {
        self.counts_tokens
    }

    /// The body with the question for the usage of its stream, where that is to be asked and the sender does not.
    pub(crate) fn ask_usage(&self, head: &request::Parts, body: &[u8]) -> Option<Bytes> {
        if self.api.asks(&head.method, &head.uri) { tokens::with_usage(&head.headers, body) } else { None }
    }

    /// What a call that does not say it costs in tokens, as far as a limit asks for it.
    pub(crate) fn tokens(&self, body: Result<Option<&[u8]>, ()>) -> u32 {
        match (self.token_quota, body) {
            (Some(quota), Ok(Some(body))) => u32::try_from(tokens::estimate(body).min(quota)).unwrap_or(u32::MAX),
            _ => 0,
        }
    }

    /// The partition of a request. `body`: nothing where there is none, an error where it is too large to be kept.
    pub(crate) fn partition(&self, headers: &HeaderMap, uri: &Uri, body: Result<Option<&[u8]>, ()>) -> Partition {
        let body = match body {
            Ok(None) => SplitBody::Empty,
            Ok(Some(bytes)) => SplitBody::Whole(bytes),
            Err(()) => SplitBody::Large,
        };
        partition::partition(self.key, &self.split_by, Split { headers, uri, body })
    }

    /// What a partition is a part of, where it is not all of it.
    pub(crate) fn of_part(&self, key: u128) -> Option<u64> {
        (key != self.key).then_some(self.key as u64)
    }

    /// What is counted of its calls.
    pub(crate) fn counts(&self, metrics: &Metrics) -> &Arc<DestinationCounts> {
        self.counts.get_or_init(|| {
            let name = self.name.as_ref().filter(|_| !self.gone.load(Ordering::Relaxed));
            metrics.of_destination(name.map_or(OTHER, DestinationName::as_str))
        })
    }

    /// How often the cache did what, by the names of [`Cached::ALL`]; nothing where it stores no answers.
    pub(crate) fn cached(&self) -> Option<BTreeMap<&'static str, u64>> {
        self.caching.as_ref().map(|_| Cached::ALL.into_iter().zip(self.answers.all()).collect())
    }

    /// The cache did this for a call. Counted here as well as in the series, which tenants share that give the same name.
    pub(crate) fn count_cached(&self, how: Cached, metrics: &Metrics) {
        self.answers.count(how);
        self.counts(metrics).cache(how);
    }
}

struct Entry {
    config: Arc<DestinationConfig>,
    /// What operators do to it just now.
    steering: Steering,
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
            let steering = record.steering.at(now_ms());
            let entry = match before {
                Some(before) if Arc::ptr_eq(&before.config, &record.config) && before.steering == steering => Entry {
                    config: Arc::clone(&before.config),
                    steering,
                    compiled: before.compiled.clone(),
                    destination: Arc::clone(&before.destination),
                },
                _ => match compile_known(&record.config, &steering, settings) {
                    Ok(compiled) => {
                        if let Some(before) = before {
                            changed.push((Arc::clone(&before.compiled.limits), Arc::clone(&compiled.limits)));
                        }
                        let destination =
                            Destination::configured(tenant, name, compiled.clone(), before.map(|it| &*it.destination));
                        let destination = Arc::new(destination);
                        Entry { config: Arc::clone(&record.config), steering, compiled, destination }
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

    /// The destinations that are not in the table which follows this one. Their series are forgotten, where no tenant has one
    /// of the same name.
    pub(crate) fn forget_gone(&self, next: &Self, metrics: &Metrics) -> Vec<Arc<Destination>> {
        let names: HashSet<_> = next.all().filter_map(|destination| destination.name.as_ref()).collect();
        let left: HashSet<_> = next.all().map(|destination| (&destination.tenant, &destination.name)).collect();
        let gone = self.all().filter(|it| !left.contains(&(&it.tenant, &it.name))).cloned();
        let gone: Vec<_> = gone.inspect(|it| it.gone.store(true, Ordering::Relaxed)).collect();
        for name in gone.iter().filter_map(|it| it.name.as_ref()).filter(|name| !names.contains(name)) {
            metrics.forget_destination(name.as_str());
        }
        gone
    }

    /// What destinations without configuration follow.
    pub(crate) fn default_limits(&self) -> &Arc<Config> {
        &self.default
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Destination>> {
        self.tenants.values().flatten().map(|entry| &entry.destination)
    }

    fn entry(&self, tenant: &TenantId, name: &DestinationName) -> Option<&Entry> {
        self.tenants.get(tenant)?.iter().find(|entry| entry.destination.name.as_ref() == Some(name))
    }

    /// The destination of an origin: the narrowest configured one that stands for it, or the origin itself.
    pub(crate) fn resolve(&self, tenant: &TenantId, origin: &Origin) -> Arc<Destination> {
        match self.configured_for(tenant, origin) {
            Some(destination) => Arc::clone(destination),
            None => Arc::new(Destination::implicit(tenant, origin, Arc::clone(&self.default))),
        }
    }

    /// Whether calls to an origin still belong to this destination, however it is configured now.
    pub(crate) fn is_current(&self, destination: &Destination, origin: &Origin) -> bool {
        let configured = self.configured_for(&destination.tenant, origin);
        configured.map(|now| now.key) == destination.name.as_ref().map(|_| destination.key)
    }

    fn configured_for(&self, tenant: &TenantId, origin: &Origin) -> Option<&Arc<Destination>> {
        let mut entries = self.tenants.get(tenant)?.iter();
        entries.find(|entry| entry.compiled.pattern.matches(origin)).map(|entry| &entry.destination)
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
