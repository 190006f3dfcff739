//! Axum's extractors, with problems for errors.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, Query};
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::{Control, problems::bad_request};
use crate::problem::Problem;

/// The name or id in the path.
pub(super) struct Named(pub(super) String);

impl FromRequestParts<Arc<Control>> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, control: &Arc<Control>) -> Result<Self, Problem> {
        let path = Path::from_request_parts(parts, control).await;
        path.map(|Path(name)| Self(name)).map_err(|error| bad_request(format!("the path: {error}")))
    }
}

/// The query.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Control>> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, control: &Arc<Control>) -> Result<Self, Problem> {
        let query = Query::from_request_parts(parts, control).await;
        query.map(|Query(asked)| Self(asked)).map_err(|error| bad_request(format!("the query: {}", error.body_text())))
    }
}
