//! What enters the door and what can come out besides an answer.

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use http::Request;
use tidegate_core::units::Size;

use super::{HostPatterns, WaitClock, destinations::hash_key};
use crate::{
    body::Body,
    ids::{FunctionName, TenantId, TraceContext},
    observe::Trail,
    secrets::Handles,
    settings::names,
};

/// One outbound request as its sender made it.
pub struct OutboundCall {
    /// The request with an absolute URI. Its `Host` header is ignored: the authority of the URI is what is dialled.
    pub request: Request<Body>,
    /// Who sends it, and what it may do.
    pub sender: Arc<Sender>,
    /// Bounds the sender itself set.
    pub timeouts: CallTimeouts,
    /// Where its decisions are written.
    pub trail: Trail,
    /// The trace it belongs to; the call gets a span below it.
    pub trace: TraceContext,
    /// Stopped while the call waits at the gate, so that a guest's wall time does not count it.
    pub wait_clock: Option<Arc<WaitClock>>,
}

/// Bounds that the sender set on one call (`wasi:http` request options).
#[derive(Clone, Copy, Debug, Default)]
pub struct CallTimeouts {
    /// To connect.
    pub connect: Option<Duration>,
    /// To the head of the answer.
    pub first_byte: Option<Duration>,
    /// Between two chunks of the answer's body.
    pub between_bytes: Option<Duration>,
}

/// Who sends a call. Made once a version or token, shared by its calls.
#[derive(Debug)]
pub struct Sender {
    /// Whose it is. Actors, connections and tickets are never shared between tenants.
    pub tenant: TenantId,
    /// Function or program.
    pub kind: SenderKind,
    /// Its share of a destination beside others.
    pub flow: tidegate_core::Flow,
    /// The policy of the function, below what the request itself says.
    pub policy: tidegate_core::policy::Policy,
}

impl Sender {
    /// What its calls to a destination are shared out by: all versions of a function are one, and each token is. `weight`
    /// is 1 to 1,000, or what is nearest.
    pub fn flow_of(tenant: &TenantId, kind: &SenderKind, weight: u16) -> tidegate_core::Flow {
        let name = match kind {
            SenderKind::Function { name, .. } => format!("function {name}"),
            SenderKind::Program { token } => format!("token {}", token.as_deref().unwrap_or_default()),
        };
        let weight = NonZeroU16::new(weight.min(tidegate_core::Flow::MAX_WEIGHT)).unwrap_or(NonZeroU16::MIN);
        tidegate_core::Flow { id: hash_key(tenant.as_str(), &name) as u64, weight }
    }

    /// What stands for secrets in its calls, if anything does.
    pub(crate) fn handles(&self) -> Option<&Handles> {
        match &self.kind {
            SenderKind::Function { handles, .. } => Some(handles).filter(|handles| !handles.is_empty()),
            SenderKind::Program { .. } => None,
        }
    }
}

/// Function or program.
#[derive(Debug)]
pub enum SenderKind {
    /// A guest.
    Function {
        /// Its name.
        name: FunctionName,
        /// Its version.
        version: u64,
        /// Hosts it may send to, read once; `None` allows any (dev).
        allowed_hosts: Option<HostPatterns>,
        /// What stands for secrets in its calls.
        handles: Handles,
    },
    /// A program at `/to`.
    Program {
        /// Public id of its token; `None` where dev needs none.
        token: Option<String>,
    },
}

/// A call failed without an answer from anybody: the only thing that becomes a `wasi:http` error code. Refusals by the
/// gate are answers.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransportError {
    /// The name has no address.
    #[error("no address for {host}: {why}")]
    Dns {
        /// The name.
        host: String,
        /// What the resolver said.
        why: String,
        /// Whether there is no such name, and not just nobody to ask.
        lasting: bool,
    },
    /// No connection.
    #[error("can't connect to {host}: {why}")]
    Connect {
        /// Host and port.
        host: String,
        /// What the system said.
        why: String,
    },
    /// The connection took too long.
    #[error("no connection to {host} within {limit:?} (setting {setting})")]
    ConnectTimeout {
        /// Host and port.
        host: String,
        /// The bound.
        limit: Duration,
        /// The setting.
        setting: &'static str,
    },
    /// TLS failed.
    #[error("TLS with {host} failed: {why}")]
    Tls {
        /// Host and port.
        host: String,
        /// What failed.
        why: String,
        /// Whether it is the certificate that is wrong.
        certificate: bool,
    },
    /// No head in time.
    #[error("no answer from {host} within {limit:?} (setting {setting})")]
    FirstByteTimeout {
        /// Host and port.
        host: String,
        /// The bound.
        limit: Duration,
        /// The setting.
        setting: &'static str,
        /// Whether the request may be sent again although the upstream may have processed it.
        repeatable: bool,
    },
    /// The upstream takes nothing more of the request's body.
    #[error("{host} took nothing more of the request's body for {limit:?} (setting {setting})")]
    Unread {
        /// Host and port.
        host: String,
        /// The bound.
        limit: Duration,
        /// The setting.
        setting: &'static str,
    },
    /// The head of the answer is beyond what is taken.
    #[error(
        "the head of {host}'s answer has more than {headers} headers (setting {}) or more than {bytes} (setting {})",
        names::MAX_ANSWER_HEADERS,
        names::MAX_ANSWER_HEAD
    )]
    HeadTooLarge {
        /// Host and port.
        host: String,
        /// Headers that are taken.
        headers: usize,
        /// Size that is taken.
        bytes: Size,
    },
    /// The connection broke before the head of the answer.
    #[error("{host} closed the connection: {why}")]
    Closed {
        /// Host and port.
        host: String,
        /// What was seen.
        why: String,
    },
    /// What came back is no HTTP.
    #[error("{host} broke the protocol: {why}")]
    Protocol {
        /// Host and port.
        host: String,
        /// What was seen.
        why: String,
    },
    /// It failed so at the last of the attempts that it is given: for its sender to try again is in vain.
    #[error("{0}")]
    InVain(Box<TransportError>),
    /// The sender's request body failed.
    #[error("the request body ended early: {why}")]
    RequestBody {
        /// What was seen.
        why: String,
    },
    /// The request itself can't be sent.
    #[error("the request can't be sent: {why}")]
    BadRequest {
        /// What is wrong with it.
        why: String,
    },
}
