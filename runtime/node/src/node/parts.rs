//! The node's own parts, as the control API and the data listener know them.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use http::Uri;

use crate::{
    cluster::registry::{ConfigError, DestinationConfig, FunctionLimits, OverrideRecord, VersionRecord},
    control::{Admitted, Gate, Modules, Opened, Spooled, Versions},
    guest::GuestHost,
    ids::{FunctionName, TenantId},
    ingress::{GuestOpener, live::Functions},
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

    fn check_override(&self, config: &DestinationConfig, limits: &OverrideRecord) -> Result<(), ConfigError> {
        Self::check_override(self, config, limits)
    }

    fn flush(&self, tenant: &TenantId, name: &str) -> usize {
        Self::flush(self, tenant, name)
    }

    fn resume(&self, tenant: &TenantId, name: &str) {
        Self::resume(self, tenant, name);
    }

    fn purge(&self, tenant: &TenantId, name: &str, uri: Option<&Uri>) -> std::io::Result<bool> {
        Self::purge(self, tenant, name, uri)
    }
}

/// The functions, as changes reach them.
pub(super) struct Openings(pub(super) Arc<Functions<GuestOpener>>);

impl Versions for Openings {
    fn prepare(
        &self,
        tenant: TenantId,
        name: FunctionName,
        version: Arc<VersionRecord>,
    ) -> BoxFuture<'static, Result<Opened, Problem>> {
        let functions = Arc::clone(&self.0);
        async move { Ok(Box::new(functions.prepare(&tenant, &name, &version).await?) as Opened) }.boxed()
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
