//! How the control API's errors look on the wire.

use std::time::Duration;

use http::{Method, StatusCode};
use tidegate_core::units::Span;

use crate::{
    cluster::registry::{ConfigError, RegistryError, Rejection},
    problem::Problem,
    settings::names,
};

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        let detail = rejection.to_string();
        match rejection {
            Rejection::NotFound { .. } => {
                Self::new(StatusCode::NOT_FOUND, "not-found", "There is no such thing", detail)
            }
            Rejection::Changed { is, .. } => {
                let title = "It changed since you looked";
                let detail = format!("{detail}; read it again and decide anew");
                Self::new(StatusCode::PRECONDITION_FAILED, "changed-meanwhile", title, detail).member("revision", is)
            }
            Rejection::NoOlderVersion { .. } => {
                Self::new(StatusCode::CONFLICT, "no-older-version", "There is nothing to go back to", detail)
            }
            Rejection::Conflict(_) => {
                Self::new(StatusCode::CONFLICT, "conflict", "Something else is in the way", detail)
            }
        }
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Rejected(rejection) => rejection.into(),
            RegistryError::Full { what, limit, setting } => {
                let detail = RegistryError::Full { what, limit, setting }.to_string();
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "registry-full", "The node keeps no more of these", detail)
                    .bound(what, limit, setting)
            }
            error => {
                tracing::error!(%error, "the registry could not be written");
                let title = "The node could not store the change";
                let detail = format!("{error}; the change is not in force. The node's log and its disk tell more");
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "storage", title, detail)
            }
        }
    }
}

impl From<ConfigError> for Problem {
    fn from(error: ConfigError) -> Self {
        let detail = error.to_string();
        let title = "The configuration is not valid";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-configuration", title, detail).member("key", error.key)
    }
}

/// A request that can't be understood.
pub(super) fn bad_request(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad-request", "The request can't be understood", detail)
}

/// A version did not open in time.
pub(super) fn open_timeout(limit: Span) -> Problem {
    let detail = format!(
        "the version is still being opened after {limit} (setting {}); that goes on, so try again in a while",
        names::OPEN_TIMEOUT
    );
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "open-timeout", "The version did not open in time", detail)
        .bound("time to open a version", limit, names::OPEN_TIMEOUT)
        .retry_after(Duration::from_secs(10))
}

/// Whoever opened a version ended without a word.
pub(super) fn not_opened(error: &tokio::task::JoinError) -> Problem {
    tracing::error!(%error, "the opening of a version ended");
    let detail = "the node failed while it opened the version; its log tells more";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "module-store", "The version can't be opened", detail)
}

/// A path that is nothing.
pub(super) fn no_such_path(path: &str) -> Problem {
    let detail = format!("there is nothing at `{path}`; /openapi.json lists what there is");
    Problem::new(StatusCode::NOT_FOUND, "no-such-path", "There is nothing here", detail)
}

/// A path that is something, by another method.
pub(super) fn wrong_method(method: &Method, path: &str) -> Problem {
    let detail = format!("`{path}` does not take {method}; the Allow header says what it takes");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Another method is needed", detail)
}

/// An upload that stands still, or takes too long for what it is.
pub(super) fn upload_idle(what: &'static str, detail: String, limit: Span) -> Problem {
    Problem::new(StatusCode::REQUEST_TIMEOUT, "upload-idle", "The upload stood still", detail).bound(
        what,
        limit,
        names::UPLOAD_IDLE,
    )
}

/// A body beyond its bound.
pub(super) fn body_too_large(limit: u64, setting: &'static str) -> Problem {
    let size = tidegate_core::units::Size(limit);
    let detail = format!("the body is larger than {size} (setting {setting})");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "The body is too large", detail).bound(
        "request body",
        size,
        setting,
    )
}
