//! The node's own parts, as the control API and the data listener know them.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};

use crate::{
    cluster::registry::{ConfigError, DestinationConfig, FunctionLimits},
    control::{Admitted, Gate, Modules, Spooled},
    guest::GuestHost,
    ids::TenantId,
    outbound::{DestinationPage, Door},
    problem::Problem,
};

impl Gate for Door {
    fn check(&self, config: &DestinationConfig) -> Result<(), ConfigError> {
        Self::check(self, config)
    }

    fn destinations(&self, tenant: &TenantId, after: Option<&str>, limit: usize) -> DestinationPage {
        Self::destinations(self, tenant, after, limit)
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
