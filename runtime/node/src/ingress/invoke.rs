//! One invocation: who asks, what the guest gets to see, what is said about it afterwards.

use std::{sync::Arc, time::Instant};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, uri::Authority};

use super::{
    Ingress, Lingering, Target,
    answer::decorate,
    credentials::{self, Credentials},
    head,
    inbound::{bounded, too_large},
    listener::Peer,
    record::Record,
};
use crate::{
    body::Body,
    cluster::registry::Scope,
    control::auth::{missing_scope, unauthorized},
    guest::Invocation,
    ids::TraceContext,
    observe::{Subject, Trail},
    outbound::{Preferences, strip_connection},
    problem::Problem,
};

impl Ingress {
    pub(super) async fn invoke(
        &self,
        Target { version, start, public }: Target,
        authority: Authority,
        peer: Peer,
        trace: TraceContext,
        request: Request<Lingering>,
    ) -> Result<Response<Body>, Problem> {
        let identity = version.identity();
        let (mut parts, incoming) = request.into_parts();
        // Also where nobody needs a token: a guest must not see those of its callers.
        let credentials = credentials::take(&mut parts.headers, &self.registry);
        if !public && !self.open {
            authorize(&credentials, identity.name.as_str())?;
        }
        // A policy from outside would steer the calls of a guest that hands its headers on.
        parts.headers.remove(tidegate_core::policy::HEADER);
        let deadline = preferences(&parts.headers)?;
        let (body, exceeded) = bounded(incoming, self.max_body)?;
        let running = version.deployment(self.functions.opener()).await?;
        let subject = Subject::Invocation { function: Arc::clone(&running.name), version: identity.record.number };
        let trail = Trail::begin(trace.trace, identity.tenant.clone(), subject);
        let mut record = Record::new(&trail, &self.observe, Some(running));

        strip_connection(&mut parts.headers);
        let scheme = head::forwarded(&mut parts.headers, peer, &self.trusted_proxies);
        if start > 0
            && let Some(prefix) = parts.uri.path().get(..start)
            && let Ok(prefix) = HeaderValue::from_str(prefix)
        {
            parts.headers.insert(head::X_FORWARDED_PREFIX, prefix);
        }
        parts.headers.insert("traceparent", trace.header());
        parts.uri = head::absolute(&parts.uri, scheme, authority, start)?;

        let invocation = Invocation { trail: trail.clone(), trace, deadline };
        let result = self.guests.invoke(&running.deployment, Request::from_parts(parts, body), invocation).await;
        let mut answer = match result {
            Ok(answer) if answer.status().is_informational() => {
                let detail = format!("the function answered {}, which is no final answer", answer.status());
                let kind = "guest-status";
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, kind, "The function did not answer", detail)
                    .trail(trail.id())
                    .into_response()
            }
            Ok(mut answer) => {
                strip_connection(answer.headers_mut());
                answer
            }
            // Whatever the guest made of it, the reason was the body.
            Err(_) if exceeded.get() => too_large(self.max_body).trail(trail.id()).into_response(),
            Err(error) => Problem::from(error).trail(trail.id()).into_response(),
        };
        decorate(answer.headers_mut(), Some(identity), &self.region, &trail);
        record.answered(answer.status());
        Ok(answer)
    }
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
