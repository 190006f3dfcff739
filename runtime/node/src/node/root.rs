//! The function of `tidegate dev`: deployed at the start, it owns every path.

use std::sync::Arc;

use super::{
    data::DataDir,
    parts::Intake,
    start::{RootFunction, StartError},
};
use crate::{
    cluster::registry::{
        Ceilings, Command, FunctionConfig, Registry, VersionRecord, now_ms, parse_function, validate_name,
    },
    control::{Modules as _, Spooled, unbound},
    ids::{FunctionName, SecretName, TenantId},
    problem::Problem,
    secrets::HandleSeed,
    settings::Settings,
};

/// Deploys the function that owns every path (dev).
pub(super) async fn deploy_root(
    root: &RootFunction,
    registry: &Registry,
    data: &DataDir,
    intake: &Intake,
    ceilings: &Ceilings,
    settings: &Settings,
) -> Result<FunctionName, StartError> {
    let of_module = |why: String| StartError::Root { name: root.module.display().to_string(), why };
    let of_function = |why: String| StartError::Root { name: format!("function `{}`", root.name), why };
    validate_name(&root.name).map_err(|error| of_function(error.to_string()))?;
    let config: FunctionConfig =
        parse_function(root.config.clone(), ceilings).map_err(|error| of_function(error.to_string()))?;
    let handles = (!config.secrets.is_empty()).then(HandleSeed::mint);
    for name in &config.secrets {
        let key = (TenantId::default_tenant(), SecretName::from(name.as_str()));
        let secret = registry.state().secrets.get(&key).cloned();
        if !secret.as_ref().is_some_and(|secret| secret.binding.functions.contains(root.name.as_str())) {
            // Set while the function is there: its handle means something from then on.
            tracing::warn!("{}", unbound(name, &root.name, secret.is_some()));
        }
    }
    // A copy: the file may be built anew while it is read.
    let copy = data.temporary()?.into_temp_path();
    std::fs::copy(&root.module, &copy).map_err(|error| of_module(error.to_string()))?;
    let tenant = TenantId::default_tenant();
    let admitted = intake.admit(&tenant, Spooled { path: copy }, &config.limits).await;
    let admitted = admitted.map_err(|problem: Problem| of_module(problem.detail.clone()))?;
    let name = FunctionName::from(root.name.as_str());
    let version = VersionRecord {
        number: 0,
        digest: admitted.digest,
        size: admitted.size,
        world: admitted.world,
        reuse_safe: admitted.reuse_safe,
        config: Arc::new(config),
        created_ms: now_ms(),
        message: Some(root.module.display().to_string()),
        handles,
    };
    let command = Command::AddVersion {
        tenant,
        name: name.clone(),
        version,
        activate: true,
        if_revision: None,
        keep: settings.guest.keep_versions,
    };
    registry.write(command).await?;
    Ok(name)
}
