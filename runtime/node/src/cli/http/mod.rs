//! The small HTTP client of [`crate::client`], with a clear sentence for a person when there is nobody at the other end.

pub(super) mod sse;
mod upload;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;

use super::failure::{Exit, Failure};
use crate::{
    body::Body,
    client::{self, ClientError},
};

pub(super) use upload::{Progress, upload};

/// Largest answer that is read whole.
const MAX_ANSWER: usize = 64 << 20;

/// Sends a request with an absolute URI and returns the head of the answer, its body still to come.
///
/// # Errors
/// When there is no connection, or it breaks before the head.
pub(super) async fn send(request: Request<Body>) -> Result<Response<Incoming>, Failure> {
    client::send(request).await.map_err(|error| match error {
        ClientError::NoHost(_) => Failure::new(Exit::Usage, error.to_string()),
        ClientError::Broken { .. } => Failure::new(Exit::Unreachable, error.to_string()),
        ClientError::Unreachable { .. } => Failure::new(Exit::Unreachable, error.to_string())
            .next("is a node running there? `tidegate dev` or `tidegate serve` starts one; --url names another"),
    })
}

/// Reads the whole body of an answer.
///
/// # Errors
/// When the connection breaks or the body is larger than 64 MiB.
pub(super) async fn read(body: Incoming) -> Result<Bytes, Failure> {
    let whole = client::read(body, MAX_ANSWER).await;
    whole.map_err(|error| Failure::new(Exit::Unreachable, format!("the answer broke off: {error}")))
}
