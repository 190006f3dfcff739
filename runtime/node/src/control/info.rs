//! What a node says about itself: bounds, members, health.

use std::sync::Arc;

use axum::{Json, extract::State, response::IntoResponse};
use http::StatusCode;
use serde_json::{Value, json};

use super::{Control, auth::Caller};
use crate::{cluster::registry::Scope, problem::Problem, settings::bounds};

/// Every bound with its value, its setting and where the value comes from.
pub(super) async fn limits(State(control): State<Arc<Control>>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.require(Scope::Deploy)?;
    let limits: Vec<_> = bounds(&control.settings)
        .into_iter()
        .map(|bound| {
            json!({
                "name": bound.meaning,
                "value": bound.value,
                "setting": bound.key,
                "flag": bound.flag,
                "variable": bound.variable,
                "source": bound.source.to_string(),
            })
        })
        .collect();
    Ok(Json(json!({"limits": limits})))
}

/// The nodes: this one.
pub(super) async fn cluster(State(control): State<Arc<Control>>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.require(Scope::Deploy)?;
    let node = json!({
        "region": control.settings.node.region,
        "version": env!("CARGO_PKG_VERSION"),
        "this": true,
        "ready": control.readiness.is_ready(),
        "revision": control.registry.state().revision,
        "data_url": control.data_url,
    });
    Ok(Json(json!({"nodes": [node]})))
}

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(State(control): State<Arc<Control>>) -> impl IntoResponse {
    match control.readiness.why_not() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}
