//! `/to/{destination}/{path}` and `/to/https://host/path`: any program's request through the gate.
//!
//! `tidegate-policy` counts here: whoever holds a token with the scope `to:DESTINATION` may say how its own calls go.

use std::{collections::HashMap, net::IpAddr, pin::pin, sync::Arc, time::Instant};

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode,
    header::{self, Entry},
    uri::{Authority, PathAndQuery},
};
use parking_lot::Mutex;
use tidegate_core::Policy;

use super::{
    Ingress, Lingering, OfConnection,
    credentials::{self, Credentials},
    inbound::{bounded, too_large},
    invoke::preferences,
    record::Record,
    recorded::Recorded,
    route::name_below,
};
use crate::{
    cluster::registry::Scope,
    control::auth::{Caller, unauthorized},
    guest::InvokeError,
    ids::{TenantId, TraceContext},
    outbound::{CallTimeouts, Mount, OutboundCall, Sender, SenderKind},
    problem::Problem,
};

/// One sender a token, shared by its calls, so that what the door resolved for it is found again.
pub struct Senders {
    known: Mutex<HashMap<Option<String>, Arc<Sender>>>,
    bound: usize,
}

impl Senders {
    /// Keeps at most this many.
    pub fn new(bound: usize) -> Self {
        Self { known: Mutex::default(), bound }
    }

    /// That of a token, by its id and its weight.
    fn get(&self, tenant: &TenantId, token: Option<(&str, u16)>) -> Arc<Sender> {
        let (token, weight) = token.map_or((None, 1), |(id, weight)| (Some(id.to_owned()), weight));
        let mut known = self.known.lock();
        if known.len() >= self.bound && !known.contains_key(&token) {
            // Tokens come and go slowly; those in use are back at once.
            known.clear();
        }
        let new = || {
            let kind = SenderKind::Program { token: token.clone() };
            let flow = Sender::flow_of(tenant, &kind, weight);
            Arc::new(Sender { tenant: tenant.clone(), kind, flow, policy: Policy::default() })
        };
        Arc::clone(known.entry(token.clone()).or_insert_with(new))
    }
}

/// Sends a program's request through the gate.
///
/// # Errors
/// What is in the way before anything is begun.
pub(super) async fn to(
    ingress: OfConnection,
    trace: TraceContext,
    began: Instant,
    request: Request<Lingering>,
) -> Result<Response<Recorded>, Problem> {
    let (mut parts, incoming) = request.into_parts();
    let caller = ingress.caller(&mut parts.headers)?;
    let tenant = caller.as_ref().map_or_else(TenantId::default_tenant, |caller| caller.tenant().clone());
    let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/to/"));
    let routed = ingress.door.route(&tenant, &path)?;
    let mount = Mount::new(path, routed.uri.clone(), routed.origin);
    if let Some(caller) = &caller {
        caller.require(Scope::To(routed.destination))?;
    }
    preferences(&parts.headers)?;
    let (body, exceeded) = bounded(incoming, ingress.max_body)?;
    parts.uri = routed.uri;
    let method = parts.method.clone();
    let sender = ingress.senders.get(&tenant, caller.as_ref().map(|caller| (caller.token_id(), caller.weight())));
    let record = Record::of_call(ingress, tenant, trace, began);
    let call = OutboundCall {
        request: Request::from_parts(parts, body),
        sender,
        timeouts: CallTimeouts::default(),
        trail: record.trail.clone(),
        trace,
        wait_clock: None,
    };
    let ingress = &record.ingress;
    let answer = match ingress.closing.until_over(pin!(ingress.door.send(call))).await {
        Some(Ok(answer)) => Ok(answer),
        Some(Err(_)) if exceeded.get() => Err(too_large(ingress.max_body)),
        Some(Err(error)) => Err(error.into()),
        None => Err(InvokeError::ShuttingDown.into()),
    };
    let mut answer = record.answer(answer, &method);
    if let Some(location) = answer.headers().get(header::LOCATION)
        && let Some(own) = location.to_str().ok().and_then(|location| mount.location(location))
        && let Ok(own) = HeaderValue::try_from(own)
    {
        answer.headers_mut().insert(header::LOCATION, own);
    }
    if let Entry::Occupied(mut cookies) = answer.headers_mut().entry(header::SET_COOKIE) {
        for cookie in cookies.iter_mut() {
            if let Ok(own) = HeaderValue::try_from(mount.cookie(cookie.as_bytes())) {
                *cookie = own;
            }
        }
    }
    Ok(answer)
}

impl Ingress {
    /// Who sends; nobody in particular where no token is needed.
    fn caller(&self, headers: &mut HeaderMap) -> Result<Option<Caller>, Problem> {
        match credentials::take(headers, &self.registry) {
            Credentials::Known(caller) => Ok(Some(caller)),
            _ if self.open => Ok(None),
            Credentials::Unknown => Err(unauthorized("the token is not known here, or was revoked")),
            Credentials::Absent => Err(unauthorized(
                "the gate needs a token with the scope to:DESTINATION: as `tidegate-token: TOKEN` (then Authorization \
                 goes to the upstream as it is), or in the place of the API key",
            )),
        }
    }
}

/// Refuses what a web page sends to a gate that asks for no token: it could read services of this machine through it.
///
/// A page can have its own name resolve to our address (DNS rebinding), but it can't be loaded from an address that it
/// does not have: addresses pass, of names those of this machine, the node's own, and those that nobody can buy: without a
/// dot (a container's), or below `internal`, which is reserved for private use.
///
/// # Errors
/// 400 for the name of somebody else, 403 for a page of another site.
pub(super) fn refuse_web_pages(
    authority: &Authority,
    headers: &HeaderMap,
    domain: Option<&str>,
) -> Result<(), Problem> {
    let host = authority.host().trim_end_matches('.');
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_or_is_below = |name: &str| host.eq_ignore_ascii_case(name) || name_below(host, name).is_some();
    let last_label = host.rsplit('.').next().unwrap_or_default();
    let is_private =
        !host.contains('.') || ["localhost", "internal"].iter().any(|own| last_label.eq_ignore_ascii_case(own));
    let is_own = bare.parse::<IpAddr>().is_ok() || is_private || domain.is_some_and(is_or_is_below);
    if !is_own {
        let detail = format!(
            "`{host}` is no name of this gate, which asks for no token and so answers only to addresses, to names \
             without a dot or below `localhost` and `internal`, and to the name that --domain gives it"
        );
        let title = "The request does not say whom it is for";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "bad-authority", title, detail).final_answer());
    }
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let of_other_site = text(&SEC_FETCH_SITE).is_some_and(|site| site.eq_ignore_ascii_case("cross-site"));
    let of_other_origin = text(&header::ORIGIN).is_some_and(|origin| {
        !origin.split_once("://").is_some_and(|(_, own)| own.eq_ignore_ascii_case(authority.as_str()))
    });
    if of_other_site || of_other_origin {
        let detail = "a web page of another origin may not send through a gate that asks for no token; run `tidegate \
                      serve` and send a token";
        return Err(
            Problem::new(StatusCode::FORBIDDEN, "cross-site", "Not for other sites' pages", detail).final_answer()
        );
    }
    Ok(())
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_gate_answers_programs_and_no_page_of_another_site() {
        for (host, header, status) in [
            ("127.0.0.1:8080", None, None),
            ("[::1]:8080", None, None),
            ("10.1.2.3:8080", None, None),
            ("localhost:8080", None, None),
            ("gate.localhost", None, None),
            ("tidegate:8080", None, None),
            ("host.docker.internal:8080", None, None),
            ("internal.evil.example", None, Some(400)),
            ("gate.example", None, None),
            ("f.gate.example:80", None, None),
            ("evil.example:8080", None, Some(400)),
            ("127.0.0.1.evil.example", None, Some(400)),
            ("notlocalhost.example", None, Some(400)),
            ("localhost:8080", Some(("sec-fetch-site", "cross-site")), Some(403)),
            ("localhost:8080", Some(("sec-fetch-site", "same-origin")), None),
            ("localhost:8080", Some(("sec-fetch-site", "none")), None),
            ("localhost:8080", Some(("origin", "http://localhost:8080")), None),
            ("localhost:8080", Some(("origin", "http://localhost:3000")), Some(403)),
            ("localhost:8080", Some(("origin", "https://evil.example")), Some(403)),
            ("localhost:8080", Some(("origin", "null")), Some(403)),
        ] {
            let mut headers = HeaderMap::new();
            if let Some((name, value)) = header {
                headers.insert(name, HeaderValue::from_static(value));
            }
            let outcome = refuse_web_pages(&Authority::from_static(host), &headers, Some("gate.example"));
            assert_eq!(outcome.err().map(|problem| problem.status.as_u16()), status, "{host} {header:?}");
        }
    }

    #[test]
    fn a_token_has_one_sender_and_there_are_never_more_than_the_bound() {
        let senders = Senders::new(2);
        let tenant = TenantId::default_tenant();
        let first = senders.get(&tenant, Some(("a", 4)));
        assert_eq!(first.flow.weight.get(), 4);
        assert!(Arc::ptr_eq(&first, &senders.get(&tenant, Some(("a", 4)))));
        for token in ["b", "c", "d"] {
            senders.get(&tenant, Some((token, 1)));
            assert!(senders.known.lock().len() <= 2);
        }
    }
}
