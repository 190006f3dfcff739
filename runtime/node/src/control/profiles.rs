//! `/v1/profiles`: what this node knows of the APIs of well-known services.

use axum::Json;
use serde_json::{Value, json};

use super::auth::Caller;
use crate::{cluster::registry::Scope, outbound::Profile, problem::Problem};

pub(super) async fn list(caller: Caller) -> Result<Json<Value>, Problem> {
    caller.require(Scope::Deploy)?;
    let profiles: Vec<_> = Profile::all().iter().map(|profile| profile.to_json()).collect();
    Ok(Json(json!({"profiles": profiles})))
}
