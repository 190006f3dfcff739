//! `/v1/destinations`: configured, and as they live.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, Uri};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Control, Deed,
    auth::Caller,
    body, etag,
    extract::{Asked, Named},
    problems::bad_request,
    secrets, set, steering,
};
use crate::{
    cluster::registry::{
        Change, Command, DestinationConfig, DestinationRecord, Rejection, Scope, parse_destination, validate_name,
    },
    ids::DestinationName,
    outbound::DestinationState,
    problem::Problem,
};

/// Live destinations shown when the caller does not say how many.
const SHOWN: usize = 100;
/// Live destinations shown at most in one answer.
const MOST: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    limit: Option<usize>,
    after: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Purge {
    url: Option<String>,
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Asked(page): Asked<Page>,
) -> Result<Json<Value>, Problem> {
    caller.require(Scope::Deploy)?;
    let state = control.registry.snapshot();
    let own = state.destinations.values().filter(|destination| destination.tenant == *caller.tenant());
    let configured: Vec<_> = own.map(|destination| shown(destination)).collect();
    let limit = page.limit.unwrap_or(SHOWN).min(MOST);
    let live = control.gate.destinations(caller.tenant(), page.after.as_deref(), limit);
    Ok(Json(json!({"destinations": configured, "live": live.destinations, "next": live.next})))
}

pub(super) async fn show(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named,
) -> Result<Response, Problem> {
    caller.require(Scope::Deploy)?;
    let destination = find(&control, &caller, &name).ok_or_else(|| not_found(&name))?;
    let mut answer = shown(&destination);
    set(&mut answer, "live", json!(live(&control, &caller, &name)));
    Ok(([etag::tag(destination.revision)], Json(answer)).into_response())
}

/// One destination as it lives: pages from just before its name on.
fn live(control: &Control, caller: &Caller, name: &str) -> Option<DestinationState> {
    let mut after = name.get(..name.len().checked_sub(1)?).filter(|before| !before.is_empty()).map(str::to_owned);
    loop {
        let page = control.gate.destinations(caller.tenant(), after.as_deref(), SHOWN);
        let past = page.destinations.last().is_none_or(|last| last.destination.as_str() >= name);
        if let Some(found) = page.destinations.into_iter().find(|state| state.destination == name) {
            return Some(found);
        }
        if past || page.next.is_none() {
            return None;
        }
        after = page.next;
    }
}

pub(super) async fn put(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.require(Scope::Deploy)?;
    validate_name(&name).map_err(|error| bad_request(error.to_string()))?;
    let is = find(&control, &caller, &name).map(|destination| destination.revision);
    let if_revision = etag::expected(&headers, is)?;
    let value = body::required_json(body, &control.settings.control).await?;
    let config = parse_destination(value)?;
    let name = DestinationName::from(name);
    control.gate.check(&config)?;
    let command =
        Command::PutDestination { tenant: caller.tenant().clone(), name, config: Arc::new(config), if_revision };
    let applied = control.write(&caller, Deed::plain("put"), command).await?;
    let Some(Change::Destination { destination, created }) = applied.change else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let mut warnings = in_vain(&destination.config);
    warnings.extend(secrets::of_destination(&control, &destination));
    let mut answer = shown(&destination);
    set(&mut answer, "warnings", json!(warnings));
    Ok((status, [etag::tag(destination.revision)], Json(answer)).into_response())
}

pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    caller.require(Scope::Deploy)?;
    let destination = find(&control, &caller, &name).ok_or_else(|| not_found(&name))?;
    let if_revision = etag::expected(&headers, Some(destination.revision))?;
    let tenant = caller.tenant().clone();
    let command = Command::DeleteDestination { tenant, name: name.into(), if_revision };
    control.write(&caller, Deed::plain("delete"), command).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What it says of a choice that there is not, and of a secret that nobody is given.
fn in_vain(config: &DestinationConfig) -> Vec<String> {
    if !config.endpoints.is_empty() {
        let own = config.endpoints.iter().all(|endpoint| endpoint.get("secret").is_some());
        let unused = config.secret.as_ref().filter(|_| own);
        return unused
            .map(|_| "secret has no effect: each of the `endpoints` has one of its own".into())
            .into_iter()
            .collect();
    }
    let none = "the destination has no `endpoints` to choose from";
    let only = config.policy.get("regions_only") == Some(&Value::Bool(true));
    let only = only.then(|| format!("policy.regions_only refuses calls on nodes of other regions: {none}"));
    let regions = config.policy.contains_key("regions").then(|| format!("policy.regions has no effect: {none}"));
    regions.into_iter().chain(only).collect()
}

/// Forgets stored answers. Which there are is asked of nobody: to forget what is not there is no error.
pub(super) async fn purge(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named,
    Asked(purge): Asked<Purge>,
) -> Result<StatusCode, Problem> {
    caller.require(Scope::Deploy)?;
    find(&control, &caller, &name).ok_or_else(|| not_found(&name))?;
    let uri = match &purge.url {
        None => None,
        Some(url) => Some(url.parse::<Uri>().map_err(|error| bad_request(format!("url: `{url}` is no URL: {error}")))?),
    };
    // A small file is written, if anything: rarely, and by people.
    let purged = control.gate.purge(caller.tenant(), &name, uri.as_ref());
    match (purged, uri) {
        (Ok(true), _) => Ok(StatusCode::NO_CONTENT),
        (Ok(false), Some(uri)) => {
            Err(bad_request(format!("url: `{uri}` is not one of `{name}`; write all of it, as in https://host/path")))
        }
        (Ok(false), None) => Err(not_found(&name)),
        (Err(error), _) => Err(storage(&error)),
    }
}

fn storage(error: &std::io::Error) -> Problem {
    let detail = format!("forgotten until a restart, for it could not be written down: {error}");
    Problem::new(StatusCode::INSUFFICIENT_STORAGE, "storage", "It could not be written down", detail)
}

pub(super) fn find(control: &Control, caller: &Caller, name: &str) -> Option<Arc<DestinationRecord>> {
    let key = (caller.tenant().clone(), DestinationName::from(name));
    control.registry.state().destinations.get(&key).cloned()
}

pub(super) fn not_found(name: &str) -> Problem {
    Rejection::NotFound { what: "destination", name: name.to_owned() }.into()
}

pub(super) fn shown(destination: &DestinationRecord) -> Value {
    let mut value = json!({"name": destination.name, "revision": destination.revision, "config": destination.config});
    if let Some(steering) = steering::in_force(destination) {
        set(&mut value, "steering", steering);
    }
    value
}
