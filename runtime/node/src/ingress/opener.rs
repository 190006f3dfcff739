//! Opens versions with the guest host.

use std::sync::Arc;

use serde_json::Value;
use tidegate_core::Policy;

use super::live::{Identity, Open};
use crate::{
    guest::{Deployment, FunctionIdentity, GuestHost},
    ids::FunctionName,
    observe::{Invocations, Observe},
    outbound::{HostPatterns, Sender, SenderKind},
    problem::Problem,
    secrets::Handles,
};

/// A version that runs, and where its invocations are counted.
pub struct Running {
    /// The guest host's.
    pub deployment: Arc<Deployment>,
    pub(super) counts: Arc<Invocations>,
}

/// Forgets the counters of a function that is gone.
pub fn forget(observe: &Observe, function: &FunctionName) {
    observe.metrics.forget_function(function.as_str());
}

/// Opens versions with the guest host.
pub struct GuestOpener {
    guests: Arc<GuestHost>,
    observe: Arc<Observe>,
    allow_any_host: bool,
}

impl GuestOpener {
    /// Opens with this host. With `allow_any_host`, a function that names no hosts may send anywhere.
    pub fn new(guests: Arc<GuestHost>, observe: Arc<Observe>, allow_any_host: bool) -> Self {
        Self { guests, observe, allow_any_host }
    }

    fn sender(&self, version: &Identity) -> Sender {
        let config = &version.record.config;
        // What is stored was checked when it came in; a pattern of a later release allows nothing here.
        let read = |text: &String| HostPatterns::parse([text]).is_ok();
        let allowed_hosts = match &config.allowed_hosts {
            Some(hosts) => Some(HostPatterns::parse(hosts.iter().filter(|text| read(text))).unwrap_or_default()),
            None if self.allow_any_host => None,
            None => Some(HostPatterns::default()),
        };
        // Likewise: what a later release added is not for this one to follow.
        let policy = serde_json::from_value::<Policy>(Value::Object(config.policy.clone())).unwrap_or_default();
        let kind = SenderKind::Function {
            name: version.name.clone(),
            version: version.record.number,
            allowed_hosts,
            handles: Handles::issue(version.record.handles.as_ref(), &config.secrets),
        };
        let flow = Sender::flow_of(&version.tenant, &kind, config.weight.unwrap_or(1));
        Sender { tenant: version.tenant.clone(), kind, flow, policy }
    }
}

impl Open for GuestOpener {
    type Deployment = Running;

    async fn open(&self, version: &Identity) -> Result<Running, Problem> {
        let function = FunctionIdentity { tenant: version.tenant.clone(), name: version.name.clone() };
        let sender = Arc::new(self.sender(version));
        let deployment = self.guests.open(function, &version.record, sender).await?;
        let counts = self.observe.metrics.of_function(version.name.as_str());
        Ok(Running { deployment, counts })
    }
}
