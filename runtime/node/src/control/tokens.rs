//! `/v1/tokens`: made, listed, revoked. A token is shown once, when it is made.

use std::sync::Arc;

use axum::{Json, body::Body, extract::State};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_core::Flow;

use super::{Control, Deed, auth::Caller, body, extract::Named, problems::bad_request, set};
use crate::{
    cluster::registry::{Command, Scope, TokenRecord, token, validate_name},
    outbound::scope_of,
    problem::Problem,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewToken {
    #[serde(default)]
    label: String,
    scopes: Vec<Scope>,
    #[serde(default)]
    weight: Option<u16>,
}

/// Characters a label may have (no setting: it is a remark, not data).
const LABEL: usize = 200;

/// Scopes a token may have (no setting: `*` says more than a hundred names).
const SCOPES: usize = 100;

/// The scope as requests ask for it: an origin may be written as a URL. One that could never match is none.
fn meant(scope: Scope) -> Result<Scope, Problem> {
    match scope {
        Scope::Invoke(name) if name != "*" => match validate_name(&name) {
            Ok(()) => Ok(Scope::Invoke(name)),
            Err(error) => Err(bad_request(format!("the scope `invoke:` takes the name of a function: {error}"))),
        },
        Scope::To(name) if name != "*" && validate_name(&name).is_err() => match scope_of(&name) {
            Ok(name) => Ok(Scope::To(name)),
            Err(why) => Err(bad_request(format!(
                "the scope `to:` takes the name of a destination, or a host as in to:api.openai.com, to:127.0.0.1:8000 \
                 or to:https://host, without a path: {why}"
            ))),
        },
        scope => Ok(scope),
    }
}

pub(super) async fn list(State(control): State<Arc<Control>>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.require(Scope::Admin)?;
    let state = control.registry.snapshot();
    let tokens = state.tokens.values().filter(|token| token.tenant == *caller.tenant());
    Ok(Json(json!({"tokens": tokens.map(|token| shown(token)).collect::<Vec<_>>()})))
}

pub(super) async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Problem> {
    caller.require(Scope::Admin)?;
    let value = body::required_json(body, &control.settings.control).await?;
    let new: NewToken = serde_json::from_value(value)
        .map_err(|error| bad_request(format!("{error}; a token is made of `label`, `scopes` and `weight`")))?;
    if new.scopes.is_empty() {
        return Err(bad_request("a token without scopes can do nothing: name at least one in `scopes`"));
    }
    if new.label.chars().count() > LABEL {
        return Err(bad_request(format!("a label has at most {LABEL} characters")));
    }
    if new.scopes.len() > SCOPES {
        return Err(bad_request(format!("{} scopes are too many, a token has at most {SCOPES}", new.scopes.len())));
    }
    if new.weight.is_some_and(|weight| weight == 0 || weight > Flow::MAX_WEIGHT) {
        return Err(bad_request(format!("weight: is 1 to {}", Flow::MAX_WEIGHT)));
    }
    let scopes = new.scopes.into_iter().map(meant).collect::<Result<_, _>>()?;
    let text = token::mint();
    let record = token::record(None, caller.tenant().clone(), new.label, scopes, &text);
    let record = TokenRecord { weight: new.weight, ..record };
    let mut answer = shown(&record);
    let scopes: Vec<_> = record.scopes.iter().map(ToString::to_string).collect();
    let deed = Deed { action: "create", detail: scopes.join(", ") };
    let (target, command) = (format!("tokens/{}", record.id), Command::AddToken { token: record });
    control.registry.write_as(command, deed.record(&caller, target)).await?;
    set(&mut answer, "token", Value::String(text));
    Ok((StatusCode::CREATED, Json(answer)))
}

pub(super) async fn revoke(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(id): Named,
) -> Result<StatusCode, Problem> {
    caller.require(Scope::Admin)?;
    let command = Command::RevokeToken { tenant: caller.tenant().clone(), id };
    let record = Deed::plain("revoke").record(&caller, command.target());
    control.registry.write_as(command, record).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn shown(token: &TokenRecord) -> Value {
    json!({
        "id": token.id,
        "label": token.label,
        "scopes": token.scopes,
        "created_ms": token.created_ms,
        "weight": token.weight.unwrap_or(1),
    })
}
