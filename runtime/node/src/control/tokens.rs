//! `/v1/tokens`: made, listed, revoked. A token is shown once, when it is made.

use std::sync::Arc;

use axum::{Json, body::Body, extract::State};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Control, auth::Caller, body, extract::Named, problems::bad_request, set};
use crate::{
    cluster::registry::{Command, Scope, TokenRecord, token},
    problem::Problem,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewToken {
    #[serde(default)]
    label: String,
    scopes: Vec<Scope>,
}

/// Characters a label may have (no setting: it is a remark, not data).
const LABEL: usize = 200;

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
    let value = body::required_json(body, control.settings.control.max_control_body.get()).await?;
    let new: NewToken = serde_json::from_value(value)
        .map_err(|error| bad_request(format!("{error}; a token is made of `label` and `scopes`")))?;
    if new.scopes.is_empty() {
        return Err(bad_request("a token without scopes can do nothing: name at least one in `scopes`"));
    }
    if new.label.chars().count() > LABEL {
        return Err(bad_request(format!("a label has at most {LABEL} characters")));
    }
    let text = token::mint();
    let record = token::record(None, caller.tenant().clone(), new.label, new.scopes, &text);
    let mut answer = shown(&record);
    control.registry.write(Command::AddToken { token: record }).await?;
    set(&mut answer, "token", Value::String(text));
    Ok((StatusCode::CREATED, Json(answer)))
}

pub(super) async fn revoke(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(id): Named,
) -> Result<StatusCode, Problem> {
    caller.require(Scope::Admin)?;
    control.registry.write(Command::RevokeToken { tenant: caller.tenant().clone(), id }).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn shown(token: &TokenRecord) -> Value {
    json!({
        "id": token.id,
        "label": token.label,
        "scopes": token.scopes,
        "created_ms": token.created_ms,
    })
}
