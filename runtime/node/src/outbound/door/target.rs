//! An origin with everything that calls to it need, found once.

use std::sync::{Arc, Weak, atomic::AtomicU64};

use http::{HeaderValue, Uri, uri};
use parking_lot::Mutex;
use tidegate_core::{Effective, Policy};

use crate::outbound::{Sender, destinations::Destination, pool::Upstream};

/// An origin of a tenant.
pub(super) struct Target {
    pub(super) upstream: Arc<Upstream>,
    pub(super) destination: Arc<Destination>,
    /// The table that the destination is from.
    pub(super) generation: u64,
    /// `host` or `host:port`, for people.
    pub(super) host: Arc<str>,
    host_header: Option<HeaderValue>,
    authority: Option<uri::Authority>,
    /// The epoch in which its partition was remembered.
    pub(super) known: AtomicU64,
    /// The policy of the sender seen last; most origins have one sender.
    policy: Mutex<Option<(Weak<Sender>, Arc<Effective>)>>,
}

impl Target {
    pub(super) fn new(upstream: Arc<Upstream>, destination: Arc<Destination>, generation: u64) -> Self {
        let host = upstream.origin().authority().to_string();
        Self {
            host_header: upstream.origin().host_header(),
            authority: host.parse().ok(),
            host: host.into(),
            upstream,
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

    /// The `Host` header.
    pub(super) fn host_header(&self) -> Option<HeaderValue> {
        self.host_header.clone()
    }

    /// The URI as HTTP/2 wants it, with the authority that is dialled.
    pub(super) fn absolute(&self, uri: &Uri) -> Option<Uri> {
        let mut parts = uri::Parts::default();
        parts.scheme = uri.scheme().cloned();
        parts.authority = self.authority.clone();
        parts.path_and_query = uri.path_and_query().cloned();
        Uri::from_parts(parts).ok()
    }

    /// The policy in force: defaults < profile < destination < sender < the request's own.
    pub(super) fn policy(&self, defaults: &Effective, sender: &Arc<Sender>, own: Option<&Policy>) -> Arc<Effective> {
        let shared = self.shared_policy(defaults, sender);
        let Some(own) = own else { return shared };
        let mut policy = Effective::clone(&shared);
        policy.apply(own);
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
