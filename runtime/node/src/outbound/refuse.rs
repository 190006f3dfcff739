//! How the gate says no, and how a failure to reach anybody is told to those who need an answer.

use std::time::Duration;

use http::{HeaderName, StatusCode};
use tidegate_core::{Refusal, Waiting, policy::PolicyError, units::Span};

use super::{Origin, TransportError, headers};
use crate::{problem::Problem, settings::names};

const NO_REGION: &str = "No endpoint in these regions";

/// The answer for a call that the actor refused. `deadline`: how long it might have taken.
pub(super) fn refused(refusal: &Refusal, destination: &str, deadline: Duration) -> Problem {
    let (status, title) = match refusal {
        Refusal::QueueFull { .. } | Refusal::QueueBytes { .. } => {
            (StatusCode::TOO_MANY_REQUESTS, "The destination's queue is full")
        }
        Refusal::DeadlineUnreachable { .. } | Refusal::Spared { .. } => {
            (StatusCode::TOO_MANY_REQUESTS, "The deadline can't be met")
        }
        Refusal::DeadlinePassed { .. } => (StatusCode::GATEWAY_TIMEOUT, "The deadline passed"),
        Refusal::CostTooLarge { .. } => (StatusCode::TOO_MANY_REQUESTS, "The call is larger than its limit"),
        Refusal::TooManyDestinations { .. } => (StatusCode::SERVICE_UNAVAILABLE, "Too many destinations"),
        Refusal::NoRegion => (StatusCode::BAD_REQUEST, NO_REGION),
        Refusal::Draining { .. } => (StatusCode::SERVICE_UNAVAILABLE, "The destination is drained"),
        Refusal::Flushed { .. } => (StatusCode::SERVICE_UNAVAILABLE, "The destination was flushed"),
    };
    let setting = match refusal {
        Refusal::QueueFull { .. } => names::QUEUE_CALLS,
        Refusal::QueueBytes { .. } => names::QUEUE_BYTES,
        Refusal::TooManyDestinations { .. } => names::MAX_ACTORS,
        Refusal::DeadlineUnreachable { .. } | Refusal::Spared { .. } | Refusal::DeadlinePassed { .. } => {
            "policy.deadline"
        }
        Refusal::CostTooLarge { .. } => "limits",
        Refusal::NoRegion => "policy.regions_only",
        Refusal::Draining { .. } | Refusal::Flushed { .. } => "an operator's brake",
    };
    let mut problem = Problem::new(status, refusal.kind(), title, format!("{destination}: {refusal}"))
        .bound(refusal.limit(), value(refusal, deadline), setting)
        .proxy_error(match refusal {
            Refusal::DeadlinePassed { .. } => "http_response_timeout",
            _ => "connection_limit_reached",
        })
        .member("destination", destination);
    let paused = match refusal {
        Refusal::DeadlinePassed { why: Waiting::Paused { left, .. }, .. } => Some(*left),
        _ => None,
    };
    match (refusal.retry_after().or(paused), refusal) {
        (Some(after), _) => problem = problem.retry_after(after),
        (
            None,
            Refusal::CostTooLarge { .. } | Refusal::NoRegion | Refusal::Flushed { .. } | Refusal::Draining { .. },
        ) => problem = problem.final_answer(),
        (None, _) => {}
    }
    problem
}

/// The answer for a call that failed with `last`, was to be sent again, and could not be before its deadline: its
/// failure, and what it waited for. A 429 would be taken for something that another try mends.
pub(super) fn failed(mut last: Problem, refusal: &Refusal, deadline: Duration) -> Problem {
    last.detail = format!("{}; not sent again: {refusal}", last.detail);
    last.bound(refusal.limit(), value(refusal, deadline), "policy.deadline").final_answer()
}

/// The value of the limit that bit.
fn value(refusal: &Refusal, deadline: Duration) -> String {
    refusal.value().unwrap_or_else(|| Span(deadline).to_string())
}

/// Its policy insists on regions in which the destination has no endpoint; where it has none at all, calls leave from `leaves`.
pub(super) fn no_region(destination: &str, regions: &[String], leaves: Option<&str>) -> Problem {
    let regions = regions.join(", ");
    let detail = match leaves {
        None => format!("{destination} has no endpoint in {regions}: policy.regions_only forbids the others"),
        Some(home) => format!(
            "calls to {destination} leave from {home}, as no endpoints are configured for it: policy.regions_only \
             forbids that, and allows {regions}"
        ),
    };
    Problem::new(StatusCode::BAD_REQUEST, "no-region", NO_REGION, detail)
        .member("destination", destination)
        .final_answer()
}

/// Its policy insists on regions, and no layer of it says which.
pub(super) fn regions_missing(destination: &str, why: &PolicyError) -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        "no-region",
        "No regions to insist on",
        format!("{destination}: policy.{why}"),
    )
    .member("destination", destination)
    .final_answer()
}

/// A failure that the upstream answered itself.
pub(super) fn failing(destination: &str, status: u16) -> Problem {
    let detail = format!("{destination}: the last attempt was answered {status}");
    Problem::new(StatusCode::BAD_GATEWAY, "upstream-failing", "The upstream fails", detail)
        .proxy_error("destination_unavailable")
        .member("destination", destination)
}

/// The answer for a call whose deadline passed while an attempt was under way.
pub(super) fn deadline_passed(destination: &str, deadline: Duration, attempts: u32) -> Problem {
    let span = Span(deadline);
    let detail = match attempts {
        0 => format!("{destination}: the deadline of {span} passed before an attempt began"),
        1 => format!("{destination}: no answer within the deadline of {span}, in one attempt"),
        _ => format!("{destination}: no answer within the deadline of {span}, in {attempts} attempts"),
    };
    Problem::new(StatusCode::GATEWAY_TIMEOUT, "deadline-passed", "The deadline passed", detail)
        .bound("deadline of the call", Span(deadline), "policy.deadline")
        .proxy_error("http_response_timeout")
        .member("destination", destination)
}

/// The answer for a request that wants a stored answer only.
pub(super) fn not_cached(destination: &str) -> Problem {
    let detail =
        format!("{destination}: no stored answer does for this request, and it wants no other (only-if-cached)");
    Problem::new(StatusCode::GATEWAY_TIMEOUT, "not-cached", "No stored answer", detail)
        .proxy_error("http_request_denied")
        .member("destination", destination)
        .final_answer()
}

/// The answer for a request that meets itself.
pub(super) fn looped(origin: &Origin) -> Problem {
    let detail = format!("The request to {origin} has passed {} gates: it calls itself", headers::HOPS);
    Problem::new(StatusCode::LOOP_DETECTED, "loop", "Loop detected", detail)
        .bound("gates that a request may pass", headers::HOPS, "none")
        .proxy_error("proxy_loop_detected")
        .final_answer()
}

/// The answer for a header that says something wrong to the gate.
pub(super) fn wrong_header(name: &HeaderName, why: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "header-invalid", "A header is wrong", format!("`{name}`: {why}"))
        .proxy_error("http_request_error")
        .final_answer()
}

impl From<TransportError> for Problem {
    fn from(error: TransportError) -> Self {
        use TransportError as E;
        let (status, kind, title, code) = match &error {
            E::Dns { .. } => (StatusCode::BAD_GATEWAY, "dns", "The name has no address", "dns_error"),
            E::Connect { .. } => (StatusCode::BAD_GATEWAY, "connect", "No connection", "connection_refused"),
            E::ConnectTimeout { .. } => {
                (StatusCode::GATEWAY_TIMEOUT, "connect-timeout", "No connection in time", "connection_timeout")
            }
            E::Tls { .. } => (StatusCode::BAD_GATEWAY, "tls", "TLS failed", "tls_protocol_error"),
            E::FirstByteTimeout { .. } => {
                (StatusCode::GATEWAY_TIMEOUT, "first-byte-timeout", "No answer in time", "http_response_timeout")
            }
            E::Unread { .. } => {
                (StatusCode::GATEWAY_TIMEOUT, "request-unread", "The request is not read", "http_response_timeout")
            }
            E::Closed { .. } => {
                (StatusCode::BAD_GATEWAY, "closed", "The connection was closed", "connection_terminated")
            }
            E::HeadTooLarge { .. } => (
                StatusCode::BAD_GATEWAY,
                "head-too-large",
                "The answer's head is too large",
                "http_response_header_section_size",
            ),
            E::Protocol { .. } => (StatusCode::BAD_GATEWAY, "protocol", "The answer is no HTTP", "http_protocol_error"),
            E::InVain(last) => return Self::from(TransportError::clone(last)).final_answer(),
            E::RequestBody { .. } => {
                (StatusCode::BAD_REQUEST, "request-body", "The request body failed", "http_request_error")
            }
            E::BadRequest { .. } => {
                (StatusCode::BAD_REQUEST, "request-invalid", "The request can't be sent", "http_request_error")
            }
        };
        let problem = Problem::new(status, kind, title, error.to_string()).proxy_error(code);
        match &error {
            E::ConnectTimeout { limit, setting, .. } => problem.bound("time to connect", Span(*limit), *setting),
            E::FirstByteTimeout { limit, setting, repeatable, .. } => {
                let problem = problem.bound("time to the head of the answer", Span(*limit), *setting);
                // It may have been processed: not even a client should send it again by itself.
                if *repeatable { problem } else { problem.final_answer() }
            }
            // Its body is gone: only its sender can send it again, who knows whether that is safe.
            E::Unread { limit, setting, .. } => {
                problem.bound("time without progress of a request's body", Span(*limit), *setting).final_answer()
            }
            E::HeadTooLarge { headers, bytes, .. } => problem
                .bound(
                    "headers and size of an answer's head",
                    format!("{headers}, {bytes}"),
                    format!("{}, {}", names::MAX_ANSWER_HEADERS, names::MAX_ANSWER_HEAD),
                )
                .final_answer(),
            E::Dns { lasting: true, .. } | E::Tls { certificate: true, .. } => problem.final_answer(),
            E::Protocol { .. } | E::RequestBody { .. } | E::BadRequest { .. } => problem.final_answer(),
            _ => problem,
        }
    }
}
