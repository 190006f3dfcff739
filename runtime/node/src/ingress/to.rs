//! `/to/{destination}/{path}` and `/to/https://host/path`: any program's request through the gate.
//!
//! `tidegate-policy` counts here: whoever holds a token with the scope `to:DESTINATION` may say how its own calls go.

use std::{collections::HashMap, sync::Arc};

use http::{HeaderMap, Request, Response, uri::PathAndQuery};
use parking_lot::Mutex;
use tidegate_core::Policy;

use super::{
    Ingress, Lingering,
    answer::decorate,
    credentials::{self, Credentials},
    inbound::{bounded, too_large},
    invoke::preferences,
    record::Record,
};
use crate::{
    body::Body,
    cluster::registry::Scope,
    control::auth::{Caller, unauthorized},
    ids::{TenantId, TraceContext},
    observe::{Subject, Trail},
    outbound::{CallTimeouts, OutboundCall, Sender, SenderKind},
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

impl Ingress {
    pub(super) async fn to(&self, trace: TraceContext, request: Request<Lingering>) -> Result<Response<Body>, Problem> {
        let (mut parts, incoming) = request.into_parts();
        let caller = self.caller(&mut parts.headers)?;
        let tenant = caller.as_ref().map_or_else(TenantId::default_tenant, |caller| caller.tenant().clone());
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/to/"));
        let routed = self.door.route(&tenant, &path)?;
        if let Some(caller) = &caller {
            caller.require(Scope::To(routed.destination))?;
        }
        preferences(&parts.headers)?;
        let (body, exceeded) = bounded(incoming, self.max_body)?;
        parts.uri = routed.uri;
        let trail = Trail::begin(trace.trace, tenant.clone(), Subject::Call);
        let mut record = Record::new(&trail, &self.observe, None);
        let call = OutboundCall {
            request: Request::from_parts(parts, body),
            sender: self.senders.get(&tenant, caller.as_ref().map(Caller::token_id)),
            timeouts: CallTimeouts::default(),
            trail: trail.clone(),
            trace,
            wait_clock: None,
        };
        let mut answer = match self.door.send(call).await {
            Ok(answer) => answer,
            Err(_) if exceeded.get() => too_large(self.max_body).trail(trail.id()).into_response(),
            Err(error) => Problem::from(error).trail(trail.id()).into_response(),
        };
        decorate(answer.headers_mut(), None, &self.region, &trail);
        record.answered(answer.status());
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
