//! `/to/{destination}/{path}` and `/to/https://host/path`: any program's request through the gate.

use std::{collections::HashMap, sync::Arc};

use http::{HeaderMap, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tidegate_core::Policy;

use super::{
    Ingress,
    answer::decorate,
    credentials::{self, Credentials},
    inbound::bounded,
    invoke::preferences,
};
use crate::{
    body::Body,
    cluster::registry::Scope,
    control::auth::{Caller, missing_scope, unauthorized},
    ids::{TenantId, TraceContext},
    observe::{Ending, Observe, Subject, Trail},
    outbound::{CallTimeouts, OutboundCall, Sender, SenderKind},
    problem::Problem,
};

/// Knows the configured destinations.
pub trait Destinations: Send + Sync + 'static {
    /// The origin of a destination, as `https://host[:port]`. `None`: there is no such destination.
    ///
    /// # Errors
    /// The pattern, where it stands for more than one origin.
    fn origin_of(&self, tenant: &TenantId, name: &str) -> Option<Result<String, String>>;

    /// The name of the destination that stands for the origin of a URI, if one is configured.
    fn name_of(&self, tenant: &TenantId, uri: &Uri) -> Option<String>;
}

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

    fn get(&self, tenant: &TenantId, token: Option<&str>) -> Arc<Sender> {
        let token = token.map(str::to_owned);
        let mut known = self.known.lock();
        if known.len() >= self.bound && !known.contains_key(&token) {
            // Tokens come and go slowly; those in use are back at once.
            known.clear();
        }
        let new = || {
            let kind = SenderKind::Program { token: token.clone() };
            Arc::new(Sender { tenant: tenant.clone(), kind, policy: Policy::default() })
        };
        Arc::clone(known.entry(token.clone()).or_insert_with(new))
    }
}

/// What follows `/to/`.
#[derive(Debug, PartialEq, Eq)]
enum Goal<'a> {
    /// A URL of its own.
    Url { scheme: &'a str, rest: &'a str },
    /// A destination's name and what follows it.
    Named { name: &'a str, rest: &'a str },
}

/// Reads the target of a request to the gate; `whole` is path and query.
fn parse(whole: &str) -> Option<Goal<'_>> {
    let after = whole.strip_prefix("/to/")?;
    for scheme in ["http", "https"] {
        // Clients that tidy paths make one slash of two.
        let rest = after.strip_prefix(scheme).and_then(|rest| rest.strip_prefix(":/"));
        if let Some(rest) = rest {
            return Some(Goal::Url { scheme, rest: rest.strip_prefix('/').unwrap_or(rest) });
        }
    }
    let end = after.find(['/', '?']).unwrap_or(after.len());
    let (name, rest) = after.split_at(end);
    (!name.is_empty()).then_some(Goal::Named { name, rest })
}

impl Ingress {
    pub(super) async fn to(&self, request: Request<Incoming>) -> Result<Response<Body>, Problem> {
        let (mut parts, incoming) = request.into_parts();
        let caller = self.caller(&mut parts.headers)?;
        let tenant = caller.as_ref().map_or_else(TenantId::default_tenant, |caller| caller.tenant().clone());
        let (uri, name) = self.target(&tenant, &parts.uri)?;
        if let Some(caller) = &caller {
            // A URL is allowed by the name of its destination, or by its host where it has none.
            let named = name.or_else(|| self.destinations.name_of(&tenant, &uri));
            let host = uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
            let needed = Scope::To(named.unwrap_or(host));
            if !caller.may(&needed) {
                return Err(missing_scope(&needed));
            }
        }
        preferences(&parts.headers)?;
        let (body, _) = bounded(incoming, self.max_body)?;
        parts.uri = uri;
        let trace = TraceContext::from_headers(&parts.headers);
        let trail = Trail::begin(trace.trace, tenant.clone(), Subject::Call);
        let mut record = Record { trail: &trail, observe: &self.observe, ended: false };
        let call = OutboundCall {
            request: Request::from_parts(parts, body),
            sender: self.senders.get(&tenant, caller.as_ref().map(Caller::token_id)),
            timeouts: CallTimeouts::default(),
            trail: trail.clone(),
            trace,
            wait_clock: None,
        };
        let mut answer = match self.egress.send(call).await {
            Ok(answer) => answer,
            Err(error) => Problem::from(error).trail(trail.id()).into_response(),
        };
        decorate(answer.headers_mut(), None, &self.region, &trail);
        record.ended = true;
        self.observe.trails.finish(&trail, Ending::Status(answer.status().as_u16()));
        Ok(answer)
    }

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

    /// The absolute URI that is meant, and the destination's name where it was given.
    fn target(&self, tenant: &TenantId, uri: &Uri) -> Result<(Uri, Option<String>), Problem> {
        let whole = uri.path_and_query().map_or("", |path| path.as_str());
        let hint = "write /to/DESTINATION/path or /to/https://host/path";
        let invalid = |why: String| {
            Problem::new(StatusCode::BAD_REQUEST, "bad-target", "The request's target can't be understood", why)
                .final_answer()
        };
        let (text, name) = match parse(whole) {
            None => return Err(invalid(format!("nothing follows /to/; {hint}"))),
            Some(Goal::Url { scheme, rest }) => (format!("{scheme}://{rest}"), None),
            Some(Goal::Named { name, rest }) => match self.destinations.origin_of(tenant, name) {
                Some(Ok(origin)) => (format!("{origin}{rest}"), Some(name.to_owned())),
                Some(Err(pattern)) => {
                    let why = format!(
                        "destination `{name}` stands for {pattern}, not for one origin; write the URL: \
                        /to/https://host/path"
                    );
                    return Err(invalid(why));
                }
                None => {
                    let detail =
                        format!("there is no destination `{name}`; `tidegate destinations` lists them, and {hint}");
                    let title = "There is no such destination";
                    return Err(
                        Problem::new(StatusCode::NOT_FOUND, "no-such-destination", title, detail).final_answer()
                    );
                }
            },
        };
        let parsed: Uri = text.parse().map_err(|_| invalid(format!("`{text}` is no URL; {hint}")))?;
        match parsed.authority() {
            Some(authority) if !authority.host().is_empty() && !authority.as_str().contains('@') => Ok((parsed, name)),
            _ => Err(invalid(format!("`{text}` names no host; {hint}"))),
        }
    }
}

/// Sees to it that a call is recorded once, however it ends.
struct Record<'a> {
    trail: &'a Trail,
    observe: &'a Observe,
    ended: bool,
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.observe.trails.finish(self.trail, Ending::Cancelled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_to_is_a_url_or_a_destination() {
        let url = |scheme, rest| Some(Goal::Url { scheme, rest });
        let named = |name, rest| Some(Goal::Named { name, rest });
        for (path, expected) in [
            ("/to/https://api.openai.com/v1/x?y", url("https", "api.openai.com/v1/x?y")),
            ("/to/http:/127.0.0.1:9/x", url("http", "127.0.0.1:9/x")),
            ("/to/openai/v1/x?y", named("openai", "/v1/x?y")),
            ("/to/openai", named("openai", "")),
            ("/to/openai?x", named("openai", "?x")),
            ("/to/httpbin/x", named("httpbin", "/x")),
            ("/to/", None),
            ("/to", None),
        ] {
            assert_eq!(parse(path), expected, "{path}");
        }
    }

    #[test]
    fn a_token_has_one_sender_and_there_are_never_more_than_the_bound() {
        let senders = Senders::new(2);
        let tenant = TenantId::default_tenant();
        let first = senders.get(&tenant, Some("a"));
        assert!(Arc::ptr_eq(&first, &senders.get(&tenant, Some("a"))));
        for token in ["b", "c", "d"] {
            senders.get(&tenant, Some(token));
            assert!(senders.known.lock().len() <= 2);
        }
    }
}
