//! The node's own parts, as the control API and the data listener know them.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use http::{Response, Uri};

use crate::{
    body::Body,
    cluster::registry::{ConfigError, DestinationConfig, FunctionLimits, Registry},
    control::{Admitted, Gate, Modules, Spooled},
    guest::{Egress, GuestHost},
    ids::TenantId,
    ingress::Destinations,
    outbound::{DestinationPage, Door, HostPattern, Origin, OutboundCall, TransportError, compile},
    problem::Problem,
};

/// The door, as guests and programs use it.
pub(super) struct WayOut {
    pub(super) door: Arc<Door>,
    pub(super) registry: Registry,
}

impl Egress for WayOut {
    fn send(&self, call: OutboundCall) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        let door = Arc::clone(&self.door);
        async move { door.send(call).await }.boxed()
    }
}

impl Gate for WayOut {
    fn check(&self, config: &DestinationConfig) -> Result<(), ConfigError> {
        compile(config, self.door.settings()).map(drop)
    }

    fn destinations(&self, tenant: &TenantId, after: Option<&str>, limit: usize) -> DestinationPage {
        self.door.destinations(tenant, after, limit)
    }
}

impl Destinations for WayOut {
    fn origin_of(&self, tenant: &TenantId, name: &str) -> Option<Result<String, String>> {
        let origin = self.door.origin_of(tenant, name)?;
        Some(origin.map(|origin| origin.to_string()).map_err(|pattern| pattern.to_string()))
    }

    fn name_of(&self, tenant: &TenantId, uri: &Uri) -> Option<String> {
        let origin = Origin::of(uri).ok()?;
        let state = self.registry.state();
        let matching = state.destinations.values().filter(|destination| destination.tenant == *tenant);
        let matching = matching.filter_map(|destination| {
            let pattern: HostPattern = destination.config.r#match.parse().ok()?;
            pattern.matches(&origin).then(|| (pattern.narrowness(), destination.name.to_string()))
        });
        // Of several that match, the door takes the narrowest, too.
        matching.max().map(|(_, name)| name)
    }
}

/// The guest host, as uploads reach it.
pub(super) struct Intake(pub(super) Arc<GuestHost>);

impl Modules for Intake {
    fn admit<'a>(
        &'a self,
        tenant: &'a TenantId,
        module: Spooled,
        limits: &'a FunctionLimits,
    ) -> BoxFuture<'a, Result<Admitted, Problem>> {
        async move {
            let info = self.0.admit_module(tenant, &module.path, limits).await?;
            Ok(Admitted {
                digest: info.digest,
                size: info.size,
                world: info.world,
                reuse_safe: info.reuse_safe,
                warnings: Vec::new(),
            })
        }
        .boxed()
    }
}
