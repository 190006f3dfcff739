//! Whose request it is: the Tidegate token it carries, wherever a client can put one.
//!
//! `tidegate-token` is ours alone. `Authorization: Bearer` and the headers in which SDKs send their keys (`x-api-key`,
//! `api-key`, `x-goog-api-key`) are ours when what they hold is one of our tokens, else they are the upstream's or the guest's business. Every header that holds a token of
//! ours ends here, whether it was needed or not: neither a guest nor an upstream may act in its bearer's name.

use http::{HeaderMap, HeaderName, header};

use crate::{
    cluster::registry::{Registry, token::TOKEN_PREFIX},
    control::auth::{Caller, bearer_of},
    outbound::has_any,
};

const OWN: HeaderName = HeaderName::from_static("tidegate-token");
/// Where clients put a token; the first that holds one of ours says who asks.
static PLACES: [HeaderName; 5] = [
    OWN,
    header::AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
];

/// What the headers say about who asks.
pub(super) enum Credentials {
    /// The bearer of the first token found; the headers that held tokens are gone.
    Known(Caller),
    /// A header holds what looks like a token of ours but is none, or none any more.
    Unknown,
    /// None of the headers speaks to us.
    Absent,
}

/// Finds the token and takes it, and any other of ours, out of the headers.
pub(super) fn take(headers: &mut HeaderMap, registry: &Registry) -> Credentials {
    let mut looked_like_one = false;
    let mut found = None;
    // Most requests to functions have none of them, and pay for no look at the registry.
    if !has_any(headers, &PLACES) {
        return Credentials::Absent;
    }
    for name in &PLACES {
        if !headers.contains_key(name) {
            continue;
        }
        let state = registry.state();
        let mut ours = *name == OWN;
        for value in headers.get_all(name) {
            let Ok(text) = value.to_str() else { continue };
            let text = if *name == header::AUTHORIZATION { bearer_of(text) } else { Some(text.trim()) };
            let Some(text) = text else { continue };
            match Caller::of(&state, text) {
                Some(caller) => {
                    ours = true;
                    found.get_or_insert(caller);
                }
                None => looked_like_one |= *name == OWN || text.starts_with(TOKEN_PREFIX),
            }
        }
        if ours {
            headers.remove(name);
        }
    }
    match found {
        Some(caller) => Credentials::Known(caller),
        None if looked_like_one => Credentials::Unknown,
        None => Credentials::Absent,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::{
        cluster::registry::{Bounds, Command, Scope, token},
        ids::TenantId,
    };

    #[test]
    fn a_token_is_found_where_clients_put_it_and_every_header_that_holds_one_ends_here() {
        let directory = tempfile::tempdir().unwrap();
        let bounds = Bounds { functions: 1, destinations: 1, secrets: 1, tokens: 1, audit: 9 };
        let registry = Registry::open(&directory.path().join("r"), bounds).unwrap();
        let ours = token::mint();
        let record = token::record(None, TenantId::default_tenant(), String::new(), vec![Scope::Admin], &ours);
        registry.write_blocking(Command::AddToken { token: record }).unwrap();
        let bearer = format!("Bearer {ours}");
        for (given, known, left) in [
            (&[("tidegate-token", ours.as_str()), ("authorization", "Bearer sk-1")][..], true, &["authorization"][..]),
            (&[("authorization", &bearer), ("x-api-key", "sk-1")], true, &["x-api-key"]),
            (&[("x-api-key", &ours)], true, &[]),
            (&[("x-goog-api-key", &ours), ("api-key", &ours)], true, &[]),
            (&[("tidegate-token", &ours), ("authorization", &bearer), ("x-api-key", &ours)], true, &[]),
            (&[("authorization", "Bearer sk-1"), ("authorization", &bearer)], true, &[]),
            (&[("authorization", "Bearer sk-1")], false, &["authorization"]),
            (&[("authorization", "Basic eDp5")], false, &["authorization"]),
            (&[], false, &[]),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in given {
                headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
            }
            let found = take(&mut headers, &registry);
            assert_eq!(matches!(found, Credentials::Known(_)), known, "{given:?}");
            assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), left, "{given:?}");
        }
        for (name, value) in [("tidegate-token", "x"), ("authorization", "Bearer tg_x"), ("x-api-key", "tg_x")] {
            let name = HeaderName::from_static(name);
            let mut headers = HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
            assert!(matches!(take(&mut headers, &registry), Credentials::Unknown), "{value}");
        }
    }
}
