//! `/v1/audit`: who changed what, the newest first.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Control, auth::Caller, extract::Asked};
use crate::{cluster::registry::Scope, problem::Problem};

/// Records shown when the caller does not say how many.
const SHOWN: usize = 100;
/// Records shown at most in one answer.
const MOST: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    limit: Option<usize>,
    before: Option<u64>,
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Asked(page): Asked<Page>,
) -> Result<Json<Value>, Problem> {
    caller.require(Scope::Admin)?;
    let limit = page.limit.unwrap_or(SHOWN).clamp(1, MOST);
    let before = page.before.unwrap_or(u64::MAX);
    let records = control.registry.audit(caller.tenant().clone(), before, limit).await?;
    let next = records.last().filter(|_| records.len() == limit).map(|last| last.number);
    Ok(Json(json!({"audit": records, "next": next})))
}
