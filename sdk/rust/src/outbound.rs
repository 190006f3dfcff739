//! Requests to elsewhere. All of them pass Tidegate's gate: limits, pauses, retries and regions are its business.

use crate::{Error, Response};
use wstd::http::{Body, Client};

/// Sends a request with a full URL and returns the answer's head, its body streaming.
///
/// A refusal by the gate (a rate limit, a host the function may not reach) is an answer with its status, not an error. An error
/// means that no answer came: the name did not resolve, the connection broke, the request was malformed.
pub async fn fetch<B: Into<Body>>(request: http::Request<B>) -> Result<Response, Error> {
    Client::new().send(request).await
}
