//! Requests to elsewhere. All of them pass Tidegate's gate: limits, pauses, retries and regions are its business.

use crate::{Error, Response};
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http_body_util::Empty;
use wstd::http::{Body, Client};

/// Sends a request with a full URL and returns the answer's head, its body streaming.
///
/// A refusal by the gate (a rate limit, a host the function may not reach) is an answer with its status, not an error. An error
/// means that no answer came: the name did not resolve, the connection broke, the request was malformed.
pub async fn fetch<B: Into<Body>>(request: http::Request<B>) -> Result<Response, Error> {
    let mut request = request.map(Into::into);
    match request.body().content_length() {
        // Writing nothing is still a write, and fails when a host that expects no body has closed it. This form writes nothing.
        Some(0) => *request.body_mut() = Body::from_http_body(Empty::<Bytes>::new()),
        Some(length) => {
            request.headers_mut().entry(CONTENT_LENGTH).or_insert(length.into());
        }
        None => {}
    }
    Client::new().send(request).await
}
