//! Who calls: the bearer of a token, and what the token lets it do.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};

use super::Control;
use crate::{
    cluster::registry::{Scope, State, TokenRecord, token},
    ids::TenantId,
    problem::Problem,
};

/// The bearer of a valid token.
#[derive(Clone, Debug)]
pub struct Caller(Arc<TokenRecord>);

impl Caller {
    /// Whose things it may see.
    pub fn tenant(&self) -> &TenantId {
        &self.0.tenant
    }

    /// Public id of its token.
    pub fn token_id(&self) -> &str {
        &self.0.id
    }

    /// Its share of what a destination takes.
    pub(crate) fn weight(&self) -> u16 {
        self.0.weight.unwrap_or(1)
    }

    /// Public id and label of its token.
    pub(super) fn token(&self) -> (&str, &str) {
        (&self.0.id, &self.0.label)
    }

    /// Finds the caller of a token's text.
    pub fn of(state: &State, token: &str) -> Option<Self> {
        state.token(&token::hash(token)).cloned().map(Self)
    }

    /// Whether its token is still there.
    pub fn is_known(&self, state: &State) -> bool {
        state.token(&self.0.hash).is_some()
    }

    /// Whether it may do this.
    pub fn may(&self, needed: &Scope) -> bool {
        self.0.scopes.iter().any(|held| held.covers(needed))
    }

    /// Refuses unless it may do this.
    ///
    /// # Errors
    /// 403, naming the scope that is missing.
    pub fn require(&self, needed: Scope) -> Result<(), Problem> {
        if self.may(&needed) { Ok(()) } else { Err(missing_scope(&needed)) }
    }
}

impl FromRequestParts<Arc<Control>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, control: &Arc<Control>) -> Result<Self, Problem> {
        let Some(token) = bearer(&parts.headers) else {
            return Err(unauthorized(
                "send `Authorization: Bearer TOKEN`; the first token is in the data directory's `admin-token`, unless TIDEGATE_ADMIN_TOKEN set it",
            ));
        };
        Self::of(&control.registry.state(), token)
            .ok_or_else(|| unauthorized("the token is not known here, or was revoked"))
    }
}

/// The token of an `Authorization: Bearer` header.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    bearer_of(headers.get(header::AUTHORIZATION)?.to_str().ok()?)
}

/// The token of the value of such a header.
pub fn bearer_of(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// 401.
pub fn unauthorized(detail: &str) -> Problem {
    let mut problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "A valid token is needed", detail);
    problem.headers.push((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tidegate\"")));
    problem.final_answer()
}

/// 403.
pub fn missing_scope(needed: &Scope) -> Problem {
    let detail = format!("the token lacks the scope `{needed}`");
    Problem::new(StatusCode::FORBIDDEN, "missing-scope", "The token does not allow this", detail)
        .member("scope", needed.to_string())
        .final_answer()
}
