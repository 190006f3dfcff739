//! Reads the bodies of control requests, bounded.

use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;

use super::problems::{bad_request, body_too_large};
use crate::{problem::Problem, settings::names};

/// The whole body, within the bound for what is no module.
pub(super) async fn read(body: Body, limit: u64) -> Result<Bytes, Problem> {
    let bound = usize::try_from(limit).unwrap_or(usize::MAX);
    match Limited::new(body, bound).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(body_too_large(limit, names::MAX_CONTROL_BODY))
        }
        Err(error) => Err(bad_request(format!("the body ended early: {error}"))),
    }
}

/// The body as JSON; `None` where there is none.
pub(super) async fn json(body: Body, limit: u64) -> Result<Option<Value>, Problem> {
    let bytes = read(body, limit).await?;
    if bytes.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|error| bad_request(format!("the body is not JSON: {error}")))
}

/// The body as JSON, which there must be.
pub(super) async fn required_json(body: Body, limit: u64) -> Result<Value, Problem> {
    json(body, limit).await?.ok_or_else(|| bad_request("a body is needed: JSON, see /openapi.json"))
}
