//! `/v1/secrets`: set, bound, listed, removed; never read. And what else of the API has to do with them.
//!
//! Who holds the scope `deploy` sets values and uses them, but can't get at one: a value that is kept goes to further
//! destinations or functions only by the word of an admin, and what a destination stood for is bound with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::{Control, Deed, auth::Caller, body, etag, extract::Named, problems::bad_request, set};
use crate::{
    cluster::registry::{
        self, Change, Command, ConfigError, DestinationRecord, FunctionConfig, Place, Rejection, Scope, SecretBinding,
        SecretHead, SecretInput, SecretRecord, now_ms, parse_secret, validate_secret_name,
    },
    ids::{DestinationName, SecretName, TenantId},
    outbound::{self, HostPattern, HostPatterns},
    problem::Problem,
    secrets::{HandleSeed, KeyError, SecretValue, Unopened},
    settings::names,
};

pub(super) async fn list(State(control): State<Arc<Control>>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.require(Scope::Deploy)?;
    let state = control.registry.snapshot();
    let own = state.secrets.values().filter(|secret| secret.tenant == *caller.tenant());
    let secrets: Vec<_> = own.map(|secret| shown(&control, &state, secret)).collect();
    Ok(Json(json!({"secrets": secrets})))
}

pub(super) async fn show(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named,
) -> Result<Response, Problem> {
    caller.require(Scope::Deploy)?;
    let secret = find(&control, &caller, &name).ok_or_else(|| not_found(&name))?;
    let answer = shown(&control, &control.registry.state(), &secret);
    Ok(([etag::tag(secret.revision)], Json(answer)).into_response())
}

pub(super) async fn put(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.require(Scope::Deploy)?;
    validate_secret_name(&name).map_err(|error| bad_request(error.to_string()))?;
    let input = parse_secret(body::required_json(body, &control.settings.control).await?)?;
    let insisted = etag::expected(&headers, find(&control, &caller, &name).map(|secret| secret.revision))?;
    let (secret, created) = loop {
        let old = find(&control, &caller, &name);
        let is = old.as_ref().map_or(0, |old| old.revision);
        if let Some(expected) = insisted.filter(|expected| *expected != is) {
            return Err(Rejection::Changed { name, is, expected }.into());
        }
        let (value, set_ms) = value(&control, &caller, &input, old.as_deref())?;
        let binding = binding(&control.registry.state(), caller.tenant(), &input, old.as_deref())?;
        let (tenant, name) = (caller.tenant().clone(), SecretName::from(name.as_str()));
        let head = SecretHead { tenant, name, binding, follows: is, set_ms };
        let secret = head.seal(&control.keys, &value).map_err(no_key)?;
        let detail = if input.value.is_some() { "value set" } else { "value kept" };
        let deed = Deed { action: "put", detail: detail.to_owned() };
        match control.write(&caller, deed, Command::PutSecret { secret }).await {
            Ok(applied) => match applied.change {
                Some(Change::Secret { secret, created }) => break (secret, created),
                _ => continue,
            },
            // Somebody else changed it meanwhile, and this caller did not insist: go on from what there is now.
            Err(problem) if problem.status == StatusCode::PRECONDITION_FAILED && insisted.is_none() => continue,
            Err(problem) => return Err(problem),
        }
    };
    let binding = &secret.binding;
    tracing::info!(
        token = caller.token_id(), secret = %secret.name, value = if input.value.is_some() { "set" } else { "kept" },
        functions = ?binding.functions, destinations = ?binding.destinations, "a secret was changed"
    );
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let answer = shown(&control, &control.registry.state(), &secret);
    Ok((status, [etag::tag(secret.revision)], Json(answer)).into_response())
}

pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    caller.require(Scope::Deploy)?;
    let secret = find(&control, &caller, &name).ok_or_else(|| not_found(&name))?;
    let if_revision = etag::expected(&headers, Some(secret.revision))?;
    let (tenant, name) = (caller.tenant().clone(), secret.name.clone());
    let command = Command::DeleteSecret { tenant, name, if_revision };
    control.write(&caller, Deed::plain("delete"), command).await?;
    tracing::info!(token = caller.token_id(), secret = %secret.name, "a secret was removed");
    Ok(StatusCode::NO_CONTENT)
}

/// The value that the secret is to have, and since when.
fn value(
    control: &Control,
    caller: &Caller,
    input: &SecretInput,
    old: Option<&SecretRecord>,
) -> Result<(SecretValue, u64), Problem> {
    match (&input.value, old) {
        (Some(value), _) => Ok((value.clone(), now_ms())),
        (None, None) => Err(wrong("value", "is missing: a new secret has one")),
        (None, Some(old)) => {
            // Whoever knows no value must not be able to lead one to where it can be read.
            caller.require(Scope::Admin).map_err(|mut problem| {
                problem
                    .detail
                    .push_str(": without `value` the one that is kept would be bound anew; or send the value");
                problem
            })?;
            Ok((old.open(&control.keys).map_err(|why| sealed(&old.name, &why))?, old.set_ms))
        }
    }
}

/// Whom the secret is to serve: what is stated, else what was. Destinations are bound with what they stand for now.
fn binding(
    state: &registry::State,
    tenant: &TenantId,
    input: &SecretInput,
    old: Option<&SecretRecord>,
) -> Result<SecretBinding, Problem> {
    let old = old.map(|old| old.binding.clone()).unwrap_or_default();
    let destinations = match &input.destinations {
        // As what they stood for then: a new value must not follow a destination that was led elsewhere.
        None => old.destinations,
        Some(stated) => {
            let bound = |(name, origin): (&DestinationName, &Option<String>)| {
                let stands = stands(state, tenant, name, origin.as_deref(), old.destinations.get(name))?;
                Ok::<_, Problem>((name.clone(), stands))
            };
            stated.iter().map(bound).collect::<Result<BTreeMap<_, _>, _>>()?
        }
    };
    let places = input.places.clone().unwrap_or(old.places);
    Ok(SecretBinding {
        functions: input.functions.clone().unwrap_or(old.functions),
        destinations,
        places: if places.is_empty() { Place::usual() } else { places },
    })
}

/// What a destination is bound as: what it stands for now, or what it was bound as before where that is what is stated.
fn stands(
    state: &registry::State,
    tenant: &TenantId,
    name: &DestinationName,
    stated: Option<&str>,
    was: Option<&String>,
) -> Result<String, Problem> {
    if let Some(was) = was.filter(|was| stated == Some(was.as_str())) {
        return Ok(was.clone());
    }
    let is = stands_for(state, tenant, name).ok_or_else(|| {
        let why = format!(
            "there is no destination `{name}`: `tidegate destinations put {name} --match https://HOST` makes it"
        );
        wrong("destinations", why)
    })?;
    if let Some(stated) = stated.filter(|stated| *stated != is) {
        return Err(wrong("destinations", format!("`{name}` stands for {is}, not for {stated}")));
    }
    // The pattern comes first, endpoints behind it.
    let pattern = is.split(", ").next().unwrap_or_default().parse();
    if pattern.is_ok_and(|pattern: HostPattern| !pattern.names_a_host()) {
        let why = format!("`{name}` stands for every host there is, and a secret goes to hosts that are named");
        return Err(wrong("destinations", why));
    }
    Ok(is)
}

/// What a destination stands for, in its normal form.
fn stands_for(state: &registry::State, tenant: &TenantId, name: &DestinationName) -> Option<String> {
    let destination = state.destinations.get(&(tenant.clone(), name.clone()))?;
    Some(outbound::stands_for(&destination.config).to_string())
}

/// A secret without its value.
fn shown(control: &Control, state: &registry::State, secret: &SecretRecord) -> Value {
    let SecretBinding { functions, destinations, places } = &secret.binding;
    let mut answer = json!({
        "name": secret.name,
        "revision": secret.revision,
        "functions": functions,
        "destinations": destinations.keys().collect::<Vec<_>>(),
        "origins": destinations,
        "in": places,
        "set_ms": secret.set_ms,
    });
    let mut warnings = Vec::new();
    if let Err(why) = secret.open(&control.keys) {
        warnings.push(format!("`{}` can't be opened: {why}", secret.name));
    }
    if destinations.is_empty() {
        warnings.push(format!("`{0}` goes nowhere yet: `tidegate secrets bind {0} --destination NAME`", secret.name));
    }
    for (name, was) in destinations {
        if let Some(destination) = state.destinations.get(&(secret.tenant.clone(), name.clone())) {
            warnings.extend(misplaced(secret, destination));
        }
        match stands_for(state, &secret.tenant, name) {
            Some(is) if is == *was => {}
            Some(is) => warnings.push(moved(&secret.name, name, was, &is)),
            None => warnings.push(format!("there is no destination `{name}` any more")),
        }
    }
    set(&mut answer, "warnings", json!(warnings));
    answer
}

fn moved(secret: &SecretName, destination: &DestinationName, was: &str, is: &str) -> String {
    format!(
        "`{destination}` stood for {was} when `{secret}` was bound to it, and stands for {is} now: nothing is sent until \
         `tidegate secrets bind {secret} --destination {destination}` binds it anew"
    )
}

/// Where a destination would put a secret that may not stand there.
fn misplaced(secret: &SecretRecord, destination: &DestinationRecord) -> Vec<String> {
    let (name, to) = (&secret.name, &destination.name);
    let places = outbound::injected(&destination.config).into_iter().filter(|(injected, _)| injected == name);
    let places: BTreeSet<_> = places
        .filter(|(_, place)| !secret.binding.places.contains(place))
        .map(|(_, place)| place.to_string())
        .collect();
    let told = |place: String| {
        format!(
            "`{to}` puts `{name}` into {place}, where it may not stand: nothing is sent until `tidegate secrets bind {name} \
             --in {place}` lets it"
        )
    };
    places.into_iter().map(told).collect()
}

/// What a version's handles are derived from, where it needs any.
pub(super) fn seed(config: &FunctionConfig) -> Option<HandleSeed> {
    (!config.secrets.is_empty()).then(HandleSeed::mint)
}

/// Refuses a configuration with secrets that don't serve the function; gives what its deployer should know. The function
/// of `tidegate dev` is let pass: its secrets are set while it runs.
pub(super) fn check(
    control: &Control,
    tenant: &TenantId,
    function: &str,
    config: &FunctionConfig,
) -> Result<Vec<String>, Problem> {
    let state = control.registry.state();
    let in_dev = control.root.as_ref().is_some_and(|root| root.as_str() == function);
    let allowed = HostPatterns::parse(config.allowed_hosts.iter().flatten()).unwrap_or_default();
    let mut warnings = Vec::new();
    for (index, name) in config.secrets.iter().enumerate() {
        let secret = state.secrets.get(&(tenant.clone(), SecretName::from(name.as_str())));
        let Some(secret) = secret.filter(|secret| secret.binding.functions.contains(function)) else {
            let why = unbound(name, function, secret.is_some());
            if !in_dev {
                return Err(wrong(&format!("secrets[{index}]"), why));
            }
            warnings.push(why);
            continue;
        };
        if let Err(why) = secret.open(&control.keys) {
            warnings.push(format!("the secret `{name}` can't be opened: {why}"));
        }
        // A pattern may stand for many hosts; of those only the calls themselves can tell.
        let origins = secret.binding.destinations.values().map(|text| text.parse::<HostPattern>().ok()?.exact());
        let out_of_reach = |origin: &Option<_>| origin.as_ref().is_some_and(|origin| !allowed.allow(origin));
        let origins: Vec<_> = origins.collect();
        if !control.settings.guest.allow_any_host && !origins.is_empty() && origins.iter().all(out_of_reach) {
            let hosts: Vec<_> = origins.iter().flatten().map(ToString::to_string).collect();
            warnings.push(format!(
                "the secret `{name}` goes to {}, which `allowed_hosts` does not let the function send to",
                hosts.join(", ")
            ));
        }
    }
    Ok(warnings)
}

/// Why a function can't have a secret, and both ways to mend it.
pub(crate) fn unbound(name: &str, function: &str, is_there: bool) -> String {
    match is_there {
        true => format!(
            "the secret `{name}` does not serve the function `{function}`: `tidegate secrets bind {name} --function \
             {function}` lets it, or leave it out of `secrets`"
        ),
        false => format!(
            "there is no secret `{name}`: `tidegate secrets set {name} --function {function} --destination NAME` sets it, \
             or leave it out of `secrets`"
        ),
    }
}

/// What is missing so that the secrets of a destination and of its endpoints reach it.
pub(super) fn of_destination(control: &Control, destination: &DestinationRecord) -> Vec<String> {
    let config = &destination.config;
    let own = config.endpoints.iter().filter_map(|endpoint| endpoint.get("secret")?.as_str());
    let names: BTreeSet<&str> = config.secret.as_deref().into_iter().chain(own).collect();
    names.into_iter().flat_map(|name| missing(control, destination, name)).collect()
}

/// What is missing so that this secret reaches it.
fn missing(control: &Control, destination: &DestinationRecord, name: &str) -> Vec<String> {
    let state = control.registry.state();
    let (tenant, to) = (&destination.tenant, &destination.name);
    let Some(secret) = state.secrets.get(&(tenant.clone(), SecretName::from(name))) else {
        return vec![format!(
            "there is no secret `{name}` yet: `tidegate secrets set {name} --destination {to}` sets it"
        )];
    };
    let Some(is) = stands_for(&state, tenant, to) else { return Vec::new() };
    let unbound = match secret.binding.destinations.get(to) {
        None => Some(format!(
            "the secret `{name}` does not go to `{to}` yet: `tidegate secrets bind {name} --destination {to}` lets it"
        )),
        Some(was) if *was != is => Some(moved(&secret.name, to, was, &is)),
        Some(_) => None,
    };
    unbound.into_iter().chain(misplaced(secret, destination)).collect()
}

fn find(control: &Control, caller: &Caller, name: &str) -> Option<Arc<SecretRecord>> {
    let key = (caller.tenant().clone(), SecretName::from(name));
    control.registry.state().secrets.get(&key).cloned()
}

fn not_found(name: &str) -> Problem {
    Rejection::NotFound { what: "secret", name: name.to_owned() }.into()
}

fn wrong(key: &str, why: impl Into<String>) -> Problem {
    ConfigError { key: key.to_owned(), why: why.into() }.into()
}

fn sealed(name: &SecretName, why: &Unopened) -> Problem {
    let detail = format!("the secret `{name}` can't be opened: {why}");
    let mut problem =
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "secret-sealed", "A secret can't be opened", detail)
            .final_answer();
    problem.setting = Some(names::SECRET_KEY.to_owned());
    problem
}

fn no_key(error: KeyError) -> Problem {
    let detail = format!("a secret can't be sealed: {error} (setting {})", names::SECRET_KEY);
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "secret-sealed", "A secret can't be sealed", detail)
}
