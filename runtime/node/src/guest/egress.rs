//! The way out, as guests see it.

use futures::future::BoxFuture;

use crate::{
    body::Body,
    outbound::{OutboundCall, TransportError},
};

/// What sends a guest's requests. The node's is the door; tests bring their own.
pub trait Egress: Send + Sync + 'static {
    /// Sends one call. It is numbered by the time this returns; it is sent once the future is polled, and dropping that
    /// cancels it.
    fn send(&self, call: OutboundCall) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>>;
}
