//! An origin with everything that calls to it need, found once.

use std::sync::{Arc, Weak, atomic::AtomicU64};

use http::{HeaderValue, Uri, uri};
use parking_lot::Mutex;
use tidegate_core::{Effective, endpoint::Mask};

use crate::outbound::{
    Origin, Sender,
    destinations::{Destination, Endpoint},
    headers::{self, Stated},
    pool::{Pool, Upstream},
};

/// One way to a destination: its connections, and how requests are addressed to it.
pub(super) struct Way {
    pub(super) id: u64,
    /// How its endpoint is shown; nothing where it is the destination's own origin.
    pub(super) name: Option<Arc<str>>,
    pub(super) upstream: Arc<Upstream>,
    /// `host` or `host:port`, for people.
    pub(super) host: Arc<str>,
    host_header: Option<HeaderValue>,
    authority: Option<uri::Authority>,
    destination: Arc<Destination>,
}

impl Way {
    fn new(upstream: Arc<Upstream>, destination: &Arc<Destination>, endpoint: Option<&Endpoint>) -> Self {
        let host = upstream.origin().authority().to_string();
        Self {
            id: endpoint.map_or(0, |endpoint| endpoint.id),
            name: endpoint.map(|endpoint| Arc::clone(&endpoint.name)),
            host_header: upstream.origin().host_header(),
            authority: host.parse().ok(),
            host: host.into(),
            upstream,
            destination: Arc::clone(destination),
        }
    }

    /// The `Host` header.
    pub(super) fn host_header(&self) -> Option<HeaderValue> {
        self.host_header.clone()
    }

    /// The URI as HTTP/2 wants it, with the authority that is dialled.
    pub(super) fn absolute(&self, uri: &Uri) -> Option<Uri> {
        let mut parts = uri::Parts::default();
        parts.scheme = Some(self.upstream.origin().scheme.into());
        parts.authority = self.authority.clone();
        parts.path_and_query = self.path(uri);
        Uri::from_parts(parts).ok()
    }

    /// Path and query as its endpoint has them.
    pub(super) fn path(&self, uri: &Uri) -> Option<uri::PathAndQuery> {
        let asked = uri.path_and_query();
        let endpoint = self.destination.endpoints.iter().find(|endpoint| endpoint.id == self.id);
        let own = endpoint.zip(asked).and_then(|(endpoint, asked)| endpoint.path(asked));
        own.or_else(|| asked.cloned())
    }
}

/// An origin of a tenant.
pub(super) struct Target {
    /// The origin itself, or the endpoints of its destination.
    first: Arc<Way>,
    /// The others.
    ways: Box<[Arc<Way>]>,
    /// The origin that is asked for.
    pub(super) origin: Origin,
    pub(super) destination: Arc<Destination>,
    /// The table that the destination is from.
    pub(super) generation: u64,
    /// `host` or `host:port`, for people.
    pub(super) host: Arc<str>,
    /// The epoch in which its partition was remembered.
    pub(super) known: AtomicU64,
    /// The policy of the sender seen last; most origins have one sender.
    policy: Mutex<Option<(Weak<Sender>, Arc<Effective>)>>,
}

impl Target {
    pub(super) fn new(pool: &Pool, origin: &Origin, destination: Arc<Destination>, generation: u64) -> Self {
        let upstream = |origin: &Origin| pool.upstream(&destination.tenant, origin);
        let way = |it: &Endpoint| Arc::new(Way::new(upstream(&it.origin), &destination, Some(it)));
        let mut endpoints = destination.endpoints.iter().map(way);
        let own = || Arc::new(Way::new(upstream(origin), &destination, None));
        Self {
            first: endpoints.next().unwrap_or_else(own),
            ways: endpoints.collect(),
            host: origin.authority().to_string().into(),
            origin: origin.clone(),
            destination,
            generation,
            known: AtomicU64::new(0),
            policy: Mutex::default(),
        }
    }

    /// The destination, for people.
    pub(super) fn label(&self) -> &str {
        self.destination.label()
    }

    /// The way of this id, where the destination still has it.
    pub(super) fn way(&self, id: u64) -> Option<&Arc<Way>> {
        std::iter::once(&self.first).chain(&self.ways).find(|way| way.id == id)
    }

    /// The first of these ways.
    pub(super) fn way_within(&self, allowed: Mask) -> &Arc<Way> {
        let numbered = (0u8..).zip(std::iter::once(&self.first).chain(&self.ways));
        numbered.filter(|(index, _)| allowed.has(*index)).map(|(_, way)| way).next().unwrap_or(&self.first)
    }

    /// Whether there are several.
    pub(super) fn has_ways(&self) -> bool {
        !self.ways.is_empty()
    }

    /// How many there are.
    pub(super) fn ways(&self) -> usize {
        self.ways.len() + 1
    }

    /// The policy in force: defaults < profile < destination < sender < the request's own. Its client's patience is the
    /// deadline where only the first two say one, and a bound on that of destination and sender.
    pub(super) fn policy(&self, defaults: &Effective, sender: &Arc<Sender>, stated: &Stated) -> Arc<Effective> {
        let shared = self.shared_policy(defaults, sender);
        let own = stated.policy.as_ref();
        let patience = stated.patience.filter(|_| own.is_none_or(|own| own.deadline.is_none())).map(headers::before);
        if own.is_none() && patience.is_none() {
            return shared;
        }
        let mut policy = Effective::clone(&shared);
        own.into_iter().for_each(|own| policy.apply(own));
        if let Some(patience) = patience {
            let configured = sender.policy.deadline.or(self.destination.policy.deadline);
            policy.heed(patience, configured.is_some());
        }
        Arc::new(policy)
    }

    fn shared_policy(&self, defaults: &Effective, sender: &Arc<Sender>) -> Arc<Effective> {
        let mut cached = self.policy.lock();
        if let Some((of, policy)) = &*cached
            && std::ptr::eq(of.as_ptr(), Arc::as_ptr(sender))
        {
            return Arc::clone(policy);
        }
        let mut policy = defaults.clone();
        self.destination.apply(&mut policy);
        policy.apply(&sender.policy);
        let policy = Arc::new(policy);
        // A weak reference keeps the address taken, so that another sender can't be mistaken for this one.
        *cached = Some((Arc::downgrade(sender), Arc::clone(&policy)));
        policy
    }
}
