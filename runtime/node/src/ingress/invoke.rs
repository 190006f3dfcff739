//! One invocation: who asks, what the guest gets to see, what is said about it afterwards.

use std::{
    future::{Future, ready},
    pin::pin,
    time::Instant,
};

use futures::{FutureExt, TryFutureExt, future::Either};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, uri::Authority};

use super::{
    Lingering, OfConnection, Target,
    credentials::{self, Credentials},
    head,
    inbound::{Exceeded, bounded, too_large},
    listener::Peer,
    record::Record,
    recorded::Recorded,
};
use crate::{
    body::Body,
    cluster::registry::Scope,
    control::auth::{missing_scope, unauthorized},
    guest::{Invocation, InvokeError},
    ids::{TRACEPARENT, TRACESTATE, TraceContext, bound_tracestate},
    observe::{TAG, tags_of},
    outbound::{Preferences, strip_connection},
    problem::Problem,
};

const POLICY: HeaderName = HeaderName::from_static(tidegate_core::policy::HEADER);

/// Runs a function for a request. Whatever comes of it is recorded, and says which function it was.
///
/// All that need not wait is done before there is a future: it is moved to where it is polled, and with it all that it
/// will hold.
pub(super) fn invoke(
    ingress: OfConnection,
    target: Target,
    authority: Authority,
    peer: Peer,
    trace: TraceContext,
    began: Instant,
    request: Request<Lingering>,
) -> impl Future<Output = Response<Recorded>> + Send {
    let method = request.method().clone();
    let record = Record::of_version(ingress, target.version, trace, began);
    let prepared = prepare(&record, target.start, target.public, authority, peer, trace, request);
    async move {
        let ended = match prepared {
            Ok(prepared) => {
                // Pinned here, so that all that it will hold is not moved once more.
                let work = pin!(run(&record, prepared));
                record.ingress.closing.until_over(work).await
            }
            Err(problem) => Some(Err(problem)),
        };
        record.answer(ended.unwrap_or_else(|| Err(InvokeError::ShuttingDown.into())), &method)
    }
}

/// A request as the guest sees it, and what comes with it.
struct Prepared {
    request: Request<Body>,
    exceeded: Exceeded,
    invocation: Invocation,
}

fn prepare(
    record: &Record,
    start: usize,
    public: bool,
    authority: Authority,
    peer: Peer,
    trace: TraceContext,
    request: Request<Lingering>,
) -> Result<Prepared, Problem> {
    let ingress = &*record.ingress;
    let Some(version) = record.version() else { return Err(InvokeError::NoAnswer.into()) };
    let (mut parts, incoming) = request.into_parts();
    // Also where nobody needs a token: a guest must not see those of its callers.
    let credentials = credentials::take(&mut parts.headers, &ingress.registry);
    if !public && !ingress.open {
        authorize(&credentials, version.identity().name.as_str())?;
    }
    if parts.headers.contains_key(TAG) {
        record.trail.tag(tags_of(&parts.headers));
    }
    // A policy from outside would steer the calls of a guest that hands its headers on.
    parts.headers.remove(POLICY);
    let deadline = preferences(&parts.headers)?;
    let (body, exceeded) = bounded(incoming, ingress.max_body)?;

    strip_connection(&mut parts.headers);
    let scheme = head::forwarded(&mut parts.headers, peer, &ingress.trusted_proxies);
    if start > 0
        && let Some(prefix) = parts.uri.path().get(..start)
        && let Ok(prefix) = HeaderValue::from_str(prefix)
    {
        parts.headers.insert(head::X_FORWARDED_PREFIX, prefix);
    }
    bound_tracestate(&mut parts.headers, trace.parent.is_some());
    let tracestate = tracestate(&parts.headers);
    parts.headers.insert(TRACEPARENT, trace.header());
    parts.uri = head::absolute(&parts.uri, scheme, authority, start)?;
    let invocation = Invocation { trail: record.trail.clone(), trace, tracestate, deadline };
    Ok(Prepared { request: Request::from_parts(parts, body), exceeded, invocation })
}

/// What tracers before us said, in one line.
fn tracestate(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut lines = headers.get_all(TRACESTATE).iter();
    let first = lines.next()?;
    let Some(second) = lines.next() else { return Some(first.clone()) };
    let all: Vec<_> = [first, second].into_iter().chain(lines).map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&all.join(&b","[..])).ok()
}

fn run(record: &Record, prepared: Prepared) -> impl Future<Output = Result<Response<Body>, Problem>> + Send {
    let ingress = &*record.ingress;
    let Prepared { request, exceeded, invocation } = prepared;
    let answer = match record.version() {
        Some(version) => match version.opened_to_use() {
            Some(running) => {
                let answer = ingress.guests.invoke(&running.deployment, request, invocation);
                Either::Left(answer.map_err(Refused::Guest))
            }
            None => Either::Right(Either::Left(Box::pin(async move {
                let running = version.deployment(ingress.functions.opener()).await.map_err(Refused::Open)?;
                ingress.guests.invoke(&running.deployment, request, invocation).await.map_err(Refused::Guest)
            }))),
        },
        None => Either::Right(Either::Right(ready(Err(Refused::Guest(InvokeError::NoAnswer))))),
    };
    answer.map(move |answer| match answer {
        Ok(answer) if answer.status().is_informational() => {
            let detail = format!("the function answered {}, which is no final answer", answer.status());
            let kind = "guest-status";
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, kind, "The function did not answer", detail))
        }
        Ok(mut answer) => {
            strip_connection(answer.headers_mut());
            Ok(answer)
        }
        Err(Refused::Open(problem)) => Err(problem),
        // Whatever the guest made of it, the reason was the body.
        Err(Refused::Guest(_)) if exceeded.get() => Err(too_large(ingress.max_body)),
        Err(Refused::Guest(error)) => Err(error.into()),
    })
}

/// Why there is no answer of a guest.
enum Refused {
    /// Its version can't be opened.
    Open(Problem),
    /// It, or its host, gave none.
    Guest(InvokeError),
}

fn authorize(credentials: &Credentials, name: &str) -> Result<(), Problem> {
    let needed = || Scope::Invoke(name.to_owned());
    match credentials {
        Credentials::Known(caller) if caller.may(&needed()) => Ok(()),
        Credentials::Known(_) => Err(missing_scope(&needed())),
        Credentials::Unknown => Err(unauthorized("the token is not known here, or was revoked")),
        Credentials::Absent => Err(unauthorized(
            "the function needs a token with the scope invoke:NAME, as `Authorization: Bearer TOKEN` or \
             `tidegate-token: TOKEN`; `\"auth\": \"public\"` in its configuration lets anyone in",
        )),
    }
}

/// How long the client waits, and whether it wants to (RFC 7240).
///
/// # Errors
/// 501 where it wants to come back for the answer.
pub(super) fn preferences(headers: &HeaderMap) -> Result<Option<Instant>, Problem> {
    let Preferences { respond_async, wait } = Preferences::of(headers);
    if respond_async {
        let detail = "`Prefer: respond-async` is not offered by this release; ask again without it and wait";
        let title = "Answers can't be fetched later yet";
        return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "no-respond-async", title, detail).final_answer());
    }
    Ok(wait.map(|wait| Instant::now() + wait))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_waits_as_long_as_it_says_and_can_not_come_back() {
        let of = |text: &'static str| {
            preferences(&HeaderMap::from_iter([(
                http::HeaderName::from_static("prefer"),
                HeaderValue::from_static(text),
            )]))
        };
        let wait = of("wait=10").unwrap().unwrap().saturating_duration_since(Instant::now());
        assert_eq!(wait.as_secs_f64().ceil(), 10.0);
        assert_eq!(of("return=minimal").unwrap(), None);
        assert_eq!(of("respond-async, wait=10").unwrap_err().status, StatusCode::NOT_IMPLEMENTED);
    }
}
