//! `/v1/functions`: what is deployed, which version serves, and going back.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Control, Deed, auth::Caller, body, etag, extract::Named, problems::bad_request, secrets, set};
use crate::{
    cluster::registry::{
        Change, Command, FunctionRecord, Rejection, Scope, VersionNumber, VersionRecord, now_ms, parse_function,
    },
    ids::FunctionName,
    problem::Problem,
};

pub(super) async fn list(State(control): State<Arc<Control>>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.require(Scope::Deploy)?;
    let state = control.registry.snapshot();
    let own = state.functions.values().filter(|function| function.tenant == *caller.tenant());
    let functions: Vec<_> = own.map(|function| summary(&control, function)).collect();
    Ok(Json(json!({"functions": functions})))
}

pub(super) async fn show(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named,
) -> Result<Response, Problem> {
    caller.require(Scope::Deploy)?;
    let function = find(&control, &caller, &name)?;
    let mut shown = summary(&control, &function);
    set(&mut shown, "config", json!(function.active_version().map(|version| &version.config)));
    Ok(([etag::tag(function.revision)], Json(shown)).into_response())
}

pub(super) async fn versions(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named,
) -> Result<Response, Problem> {
    caller.require(Scope::Deploy)?;
    let function = find(&control, &caller, &name)?;
    let versions: Vec<_> = function
        .versions
        .values()
        .rev()
        .map(|version| {
            let mut shown = version_json(version);
            set(&mut shown, "active", function.active == Some(version.number));
            set(&mut shown, "config", json!(version.config));
            shown
        })
        .collect();
    Ok(([etag::tag(function.revision)], Json(json!({"name": function.name, "versions": versions}))).into_response())
}

pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    caller.require(Scope::Deploy)?;
    let function = find(&control, &caller, &name)?;
    let if_revision = etag::expected(&headers, Some(function.revision))?;
    let tenant = caller.tenant().clone();
    let command = Command::DeleteFunction { tenant, name: name.into(), if_revision };
    control.write(&caller, Deed::plain("delete"), command).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    version: Option<VersionNumber>,
}

pub(super) async fn rollback(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.require(Scope::Deploy)?;
    let value = body::json(body, &control.settings.control).await?;
    let target: Target = match value {
        None => Target::default(),
        Some(value) => serde_json::from_value(value)
            .map_err(|error| bad_request(format!("{error}; the body is {{\"version\": NUMBER}} or nothing")))?,
    };
    let function = find(&control, &caller, &name)?;
    let if_revision = etag::expected(&headers, Some(function.revision))?;
    // Without a number it is the one before the one that the caller could see.
    let version = target.version.or_else(|| function.version_before());
    let wanted = version.filter(|number| function.active != Some(*number));
    let opened = match wanted.and_then(|number| function.versions.get(&number)) {
        Some(version) => Some(control.open_ahead(&function.tenant, &function.name, version).await?),
        None => None,
    };
    let (tenant, name) = (function.tenant.clone(), function.name.clone());
    let detail = version.map(|number| format!("version {number}")).unwrap_or_default();
    let command = Command::Activate { tenant, name, version, if_revision };
    control.write(&caller, Deed { action: "rollback", detail }, command).await?;
    drop(opened);
    let name = function.name.as_str();
    let function = find(&control, &caller, name)?;
    Ok(([etag::tag(function.revision)], Json(summary(&control, &function))).into_response())
}

/// A new configuration of the module that serves: a new version.
pub(super) async fn configure(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.require(Scope::Deploy)?;
    let value = body::required_json(body, &control.settings.control).await?;
    let config = Arc::new(parse_function(value, &control.ceilings)?);
    let insisted = etag::expected(&headers, Some(find(&control, &caller, &name)?.revision))?;
    let warnings = secrets::check(&control, caller.tenant(), &name, &config)?;
    let function = loop {
        let function = find(&control, &caller, &name)?;
        // The module is that of the version that serves, or of the newest where none does yet.
        let base = function.active_version().or_else(|| function.versions.last_key_value().map(|(_, newest)| newest));
        let Some(base) = base else {
            return Err(Rejection::NotFound { what: "version", name }.into());
        };
        let version = VersionRecord {
            number: control.registry.state().next_number(&function.tenant, &function.name),
            config: Arc::clone(&config),
            created_ms: now_ms(),
            message: Some(format!("configuration changed, module of version {}", base.number)),
            handles: secrets::seed(&config),
            ..VersionRecord::clone(base)
        };
        let version = Arc::new(version);
        let _opened = control.open_ahead(&function.tenant, &function.name, &version).await?;
        let command = Command::AddVersion {
            tenant: function.tenant.clone(),
            name: function.name.clone(),
            version: VersionRecord::clone(&version),
            activate: true,
            if_revision: insisted.or(Some(function.revision)),
            keep: control.settings.guest.keep_versions,
        };
        match control.write(&caller, Deed::plain("configure"), command).await {
            Ok(applied) => match applied.change {
                Some(Change::Function { function, .. }) => break function,
                _ => continue,
            },
            // Somebody else deployed meanwhile, and this caller did not insist: go on from what there is now.
            Err(problem) if problem.status == StatusCode::PRECONDITION_FAILED && insisted.is_none() => continue,
            Err(problem) => return Err(problem),
        }
    };
    let mut shown = summary(&control, &function);
    set(&mut shown, "config", json!(config));
    set(&mut shown, "warnings", json!(warnings));
    Ok(([etag::tag(function.revision)], Json(shown)).into_response())
}

/// The function of this name, of the caller's tenant.
pub(super) fn find(control: &Control, caller: &Caller, name: &str) -> Result<Arc<FunctionRecord>, Problem> {
    let key = (caller.tenant().clone(), FunctionName::from(name));
    let found = control.registry.state().functions.get(&key).cloned();
    found.ok_or_else(|| Rejection::NotFound { what: "function", name: name.to_owned() }.into())
}

pub(super) fn version_json(version: &VersionRecord) -> Value {
    json!({
        "version": version.number,
        "digest": version.digest,
        "size": version.size,
        "world": version.world,
        "created_ms": version.created_ms,
        "message": version.message,
    })
}

/// A function as lists show it. `version` is the one that serves, where one does.
pub(super) fn summary(control: &Control, function: &FunctionRecord) -> Value {
    let active = function.active_version();
    let live = control.observe.metrics.of_function(function.name.as_str()).summed();
    json!({
        "name": function.name,
        "revision": function.revision,
        "live": live,
        "version": function.active,
        "active": active.map(|version| version_json(version)),
        "auth": active.map(|version| version.config.auth),
        "versions": function.versions.keys().collect::<Vec<_>>(),
        "urls": control.urls(function.name.as_str(), active.map(|version| version.config.routes.as_slice())),
    })
}
