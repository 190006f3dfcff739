//! Why an invocation has no answer from its guest, and what its client is told.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use tidegate_core::units::{Size, Span};

use super::limits::Bound;
use crate::{body::BodyError, ids::SecretName, observe::cut, problem::Problem};

/// Why there is no answer, or no whole one.
#[derive(Clone, Debug, thiserror::Error)]
pub enum InvokeError {
    /// Every place for an instance stayed taken.
    #[error(
        "no place for an instance became free within {} (setting {}): all {} are taken (setting {})",
        Span(.wait.value), .wait.setting, .full.value, .full.setting
    )]
    NoInstance {
        /// How long it waited at most.
        wait: Bound<Duration>,
        /// Places that are taken: the node's or the function's.
        full: Bound<u32>,
    },
    /// All guests together held too much memory for one more.
    #[error(
        "no memory for an instance became free within {} (setting {}): all guests together may hold {} (setting {}), and one \
         function no more of it than it leaves free",
        Span(.wait.value), .wait.setting, Size(.full.value), .full.setting
    )]
    NoMemory {
        /// How long it waited at most.
        wait: Bound<Duration>,
        /// What all guests together may hold.
        full: Bound<u64>,
    },
    /// What the engine has set aside is in use.
    #[error("the engine has room for no more at the moment: {0}")]
    Exhausted(Arc<str>),
    /// Too many requests wait for an instance.
    #[error("{} requests wait for an instance already (setting {})", .0.value, .0.setting)]
    QueueFull(Bound<u32>),
    /// No head of an answer in time.
    #[error("the guest gave no answer within {} (setting {})", Span(.0.value), .0.setting)]
    Wall(Bound<Duration>),
    /// The client's own deadline passed first.
    #[error("the client's deadline passed before the guest answered")]
    Deadline,
    /// Too long on a processor.
    #[error("the guest computed for longer than {} (setting {})", Span(.0.value), .0.setting)]
    Cpu(Bound<Duration>),
    /// More memory than it may have.
    #[error("the guest wanted more than {} of memory (setting {})", Size(.0.value), .0.setting)]
    Memory(Bound<u64>),
    /// More memory than all guests together left for it.
    #[error(
        "the guest wanted more memory than is left for its function: all guests together may hold {} (setting {}), and one \
         function no more of it than it leaves free",
        Size(.0.value), .0.setting
    )]
    TotalMemory(Bound<u64>),
    /// More of the host's memory, in one of its forms, than it may have.
    #[error("the guest wanted more than {} {what} (setting {})", .bound.value, .bound.setting)]
    Host {
        /// Of which problem.
        kind: &'static str,
        /// More of what.
        what: &'static str,
        /// Than this.
        bound: Bound<u64>,
    },
    /// No chunk of the answer was given or taken for too long.
    #[error("nothing moved in the answer for {} (setting {})", Span(.0.value), .0.setting)]
    StreamIdle(Bound<Duration>),
    /// The answer lasted too long.
    #[error("the answer lasted longer than {} (setting {})", Span(.0.value), .0.setting)]
    StreamTotal(Bound<Duration>),
    /// The guest trapped.
    #[error("the guest trapped: {0}")]
    Trap(Arc<str>),
    /// The guest ended its process.
    #[error("the guest exited with code {0}")]
    Exit(i32),
    /// The guest returned without an answer.
    #[error("the guest returned without an answer")]
    NoAnswer,
    /// The guest answered with a `wasi:http` error code.
    #[error("the guest answered with the error {0}")]
    ErrorCode(Arc<str>),
    /// No instance could be made.
    #[error("the guest can't be started: {0}")]
    Start(Arc<str>),
    /// Another request brought the shared instance down.
    #[error("the instance was ended by another of its requests: {0}")]
    Neighbour(Arc<str>),
    /// The request holds a handle that only the function should know.
    #[error(
        "the request holds the function's own handle of the secret `{0}`, which nobody outside it has any use for; somebody \
         may have printed its environment: deploy it anew, and it has another"
    )]
    Handle(SecretName),
    /// The node is going down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

impl InvokeError {
    /// What the client of a truncated answer sees.
    pub(super) fn into_body_error(self) -> BodyError {
        match self {
            Self::StreamIdle(bound) => BodyError::Idle { limit: bound.value, setting: bound.setting },
            Self::StreamTotal(bound) => BodyError::Total { limit: bound.value, setting: bound.setting },
            error => BodyError::Guest(error.to_string()),
        }
    }
}

/// Longest text of a problem, bytes: guests choose what theirs say.
const TEXT: usize = 1 << 10;

impl From<InvokeError> for Problem {
    fn from(error: InvokeError) -> Self {
        let mut text = error.to_string();
        cut(&mut text, TEXT);
        let span = |value: Duration| Span(value).to_string();
        match error {
            InvokeError::NoInstance { wait, .. } => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "instance-wait", "All instances are busy", text)
                    .bound("instance-wait", span(wait.value), wait.setting)
                    .retry_after(Duration::from_secs(1))
            }
            InvokeError::NoMemory { full: bound, .. } | InvokeError::TotalMemory(bound) => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "total-guest-memory",
                "All functions together use up their memory",
                text,
            )
            .bound("total-guest-memory", Size(bound.value), bound.setting)
            .retry_after(Duration::from_secs(1)),
            InvokeError::Exhausted(_) => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "instance-pool", "All instances are busy", text)
                    .retry_after(Duration::from_secs(1))
            }
            InvokeError::QueueFull(bound) => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "instance-queue",
                "Too many requests wait for an instance",
                text,
            )
            .bound("instance-queue", bound.value, bound.setting)
            .retry_after(Duration::from_secs(1)),
            InvokeError::Wall(bound) => Problem::new(
                StatusCode::GATEWAY_TIMEOUT,
                "guest-wall",
                "The function took too long to answer",
                format!("{text}; waiting at the gate is not counted"),
            )
            .bound("wall", span(bound.value), bound.setting),
            InvokeError::Deadline => Problem::new(StatusCode::GATEWAY_TIMEOUT, "deadline", "The deadline passed", text),
            InvokeError::Cpu(bound) => {
                Problem::new(StatusCode::GATEWAY_TIMEOUT, "guest-cpu", "The function used up its processor time", text)
                    .bound("cpu", span(bound.value), bound.setting)
            }
            InvokeError::Memory(bound) => {
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "guest-memory", "The function used up its memory", text)
                    .bound("memory", Size(bound.value), bound.setting)
            }
            InvokeError::Host { kind, what, bound } => {
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, kind, "The function wanted too much of its host", text)
                    .bound(what, bound.value, bound.setting)
            }
            InvokeError::StreamIdle(bound) => Problem::new(
                StatusCode::GATEWAY_TIMEOUT,
                "guest-stream-idle",
                "The function's answer stood still",
                text,
            )
            .bound("stream_idle", span(bound.value), bound.setting),
            InvokeError::StreamTotal(bound) => Problem::new(
                StatusCode::GATEWAY_TIMEOUT,
                "guest-stream-total",
                "The function's answer lasted too long",
                text,
            )
            .bound("stream_total", span(bound.value), bound.setting),
            InvokeError::Trap(_) => {
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "guest-trap", "The function trapped", text)
            }
            InvokeError::Exit(_) => {
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "guest-exit", "The function exited", text)
            }
            InvokeError::NoAnswer => {
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "guest-no-answer", "The function did not answer", text)
            }
            InvokeError::ErrorCode(_) => Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "guest-error",
                "The function answered with an error",
                text,
            ),
            InvokeError::Start(_) => {
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "guest-start", "The function can't be started", text)
            }
            InvokeError::Neighbour(_) => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "instance-lost", "The function's instance was lost", text)
                    .retry_after(Duration::from_secs(1))
            }
            InvokeError::Handle(_) => {
                Problem::new(StatusCode::BAD_REQUEST, "secret-handle", "The request holds a handle of a secret", text)
                    .final_answer()
            }
            InvokeError::ShuttingDown => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "shutting-down", "The node is shutting down", text)
                    .retry_after(Duration::from_secs(1))
            }
        }
    }
}
