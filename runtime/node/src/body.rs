//! One body type for every stream that crosses a node: inbound, outbound, answers.
//!
//! The door, the guests and the listeners hand bodies to each other by this alias, so that none of them needs to know
//! where a stream comes from.

mod read_on;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};

pub use read_on::ReadOn;
pub(crate) use read_on::{Rest, read_on};

/// A streaming body. Frames are data or trailers.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The peer that sends the body went away or broke the protocol.
    #[error("the sender of the body went away: {0}")]
    Transport(String),
    /// No bytes for longer than the idle bound.
    #[error("no bytes for {limit:?} (setting {setting})")]
    Idle {
        /// The bound.
        limit: std::time::Duration,
        /// The setting that changes it.
        setting: &'static str,
    },
    /// The stream lasted longer than its bound.
    #[error("the stream lasted longer than {limit:?} (setting {setting})")]
    Total {
        /// The bound.
        limit: std::time::Duration,
        /// The setting that changes it.
        setting: &'static str,
    },
    /// More bytes than the bound.
    #[error("the body is larger than {limit} bytes (setting {setting})")]
    TooLarge {
        /// The bound, in bytes.
        limit: u64,
        /// The setting that changes it.
        setting: &'static str,
    },
    /// The guest ended, trapped or was ended while its body was being sent.
    #[error("the guest ended before its body did: {0}")]
    Guest(String),
    /// Whoever wanted the body is gone.
    #[error("cancelled")]
    Cancelled,
}

/// A body without bytes.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// What hyper received, as our body.
pub fn incoming(body: hyper::body::Incoming) -> Body {
    body.map_err(|error| BodyError::Transport(error.to_string())).boxed_unsync()
}
