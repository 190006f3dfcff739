//! Paths of `/to`: `/to/https://host/path?query` and `/to/{destination}/{path}`.
//!
//! What follows the host goes out byte for byte. Clients and proxies between rewrite URLs in URLs: slashes are merged
//! (`/to/https:/host`), the whole is percent-encoded (`/to/https%3A%2F%2Fhost%2Fpath`); both are read as what was meant.

use std::{borrow::Cow, sync::Arc};

use http::{StatusCode, Uri};
use percent_encoding::percent_decode_str;

use super::{Origin, Scheme};
use crate::problem::Problem;

/// Where a request to `/to` goes.
#[derive(Clone, Debug)]
pub struct Routed {
    /// The absolute URI to send.
    pub uri: Uri,
    /// Its origin.
    pub origin: Origin,
    /// The destination, for scopes of tokens (`to:NAME`): its configured name, else `host` (https) or `host:port`.
    pub destination: String,
}

/// Why a path of `/to` leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ToError {
    /// No destination of that name.
    #[error("there is no destination `{name}`: write /to/https://host/path, or configure one of that name")]
    Unknown {
        /// The name.
        name: String,
    },
    /// A destination that stands for many origins.
    #[error("the destination `{name}` stands for {matches}: write /to/https://host/path with the host you mean")]
    Pattern {
        /// The name.
        name: String,
        /// The pattern.
        matches: String,
    },
    /// Not a URL that can be sent to.
    #[error("the URL in the path can't be read: {why}")]
    Invalid {
        /// What is wrong with it.
        why: String,
    },
}

impl From<ToError> for Problem {
    fn from(error: ToError) -> Self {
        let (status, kind, title) = match &error {
            ToError::Unknown { .. } => (StatusCode::NOT_FOUND, "destination-unknown", "No such destination"),
            ToError::Pattern { .. } => (StatusCode::BAD_REQUEST, "destination-many", "Which host is meant?"),
            ToError::Invalid { .. } => (StatusCode::BAD_REQUEST, "to-invalid", "The path of /to leads nowhere"),
        };
        Problem::new(status, kind, title, error.to_string()).final_answer()
    }
}

/// Reads a path and query that begins with `/to/`. `lookup` gives the origin of a configured destination, or what it
/// stands for where that is more than one origin.
///
/// # Errors
/// [`ToError`].
pub(super) fn parse(
    path_and_query: &str,
    lookup: impl Fn(&str) -> Option<Result<Origin, Arc<str>>>,
) -> Result<Routed, ToError> {
    let rest = path_and_query.strip_prefix("/to/").unwrap_or_default();
    if let Some((scheme, rest)) = split_scheme(rest) {
        return url(scheme, rest);
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (name, tail) = rest.split_at(end);
    match lookup(name) {
        Some(Ok(origin)) => routed(origin, tail),
        Some(Err(matches)) => Err(ToError::Pattern { name: name.to_owned(), matches: matches.to_string() }),
        None => Err(ToError::Unknown { name: name.to_owned() }),
    }
}

/// `https://`, with merged slashes or escapes, and what follows.
fn split_scheme(text: &str) -> Option<(Scheme, &str)> {
    let (scheme, rest) = match strip(text, "https") {
        Some(rest) => (Scheme::Https, rest),
        None => (Scheme::Http, strip(text, "http")?),
    };
    let rest = strip(rest, ":").or_else(|| strip(rest, "%3a"))?;
    let slash = |text| strip(text, "/").or_else(|| strip(text, "%2f"));
    let rest = slash(rest)?;
    Some((scheme, slash(rest).unwrap_or(rest)))
}

fn strip<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, tail) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(tail)
}

fn url(scheme: Scheme, rest: &str) -> Result<Routed, ToError> {
    let invalid = |why: String| ToError::Invalid { why };
    // Where the host ends with an escaped slash or question mark, all of the URL was escaped, once.
    let plain = rest.find(['/', '?']).unwrap_or(rest.len());
    let lower = rest.to_ascii_lowercase();
    let escaped = ["%2f", "%3f"].iter().filter_map(|escape| lower.find(escape)).min().unwrap_or(usize::MAX);
    let (authority, tail) = if escaped < plain {
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        let (authority, path) = path.split_at_checked(escaped).ok_or_else(|| invalid("it is cut".into()))?;
        let path = percent_decode_str(path).decode_utf8().map_err(|error| invalid(error.to_string()))?;
        let tail = match query {
            Some(query) => Cow::Owned(format!("{path}?{query}")),
            None => path,
        };
        (authority, tail)
    } else {
        let (authority, tail) = rest.split_at(plain);
        (authority, Cow::Borrowed(tail))
    };
    let authority = percent_decode_str(authority).decode_utf8().map_err(|error| invalid(error.to_string()))?;
    let authority =
        Origin::authority_of(&authority).map_err(|_| invalid(format!("`{}` is no host", without_user(&authority))))?;
    routed(Origin::new(scheme, &authority).map_err(invalid)?, &tail)
}

/// The authority as it may be printed.
fn without_user(authority: &str) -> &str {
    authority.rsplit('@').next().unwrap_or_default()
}

/// The scope that a request to this host needs, which is written as in scopes or as a URL.
///
/// # Errors
/// Why it is no host.
pub fn scope_of(text: &str) -> Result<String, String> {
    let (scheme, rest) = split_scheme(text).unwrap_or((Scheme::Https, text));
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let authority = Origin::authority_of(rest).map_err(|_| format!("`{}` is no host", without_user(rest)))?;
    Ok(scope(&Origin::new(scheme, &authority)?))
}

/// How scopes of tokens name an origin that is no configured destination: `host` where that says all, else `host:port`.
/// Spoken to in plain text it is another, and a host without a dot could be the name of a destination.
fn scope(origin: &Origin) -> String {
    let authority = origin.authority().to_string();
    let says_all = origin.scheme == Scheme::Https && origin.host.contains(['.', ':']);
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port == origin.port.to_string());
    if says_all || has_port { authority } else { format!("{authority}:{}", origin.port) }
}

/// The URI of an origin and the client's own path and query.
fn routed(origin: Origin, tail: &str) -> Result<Routed, ToError> {
    let slash = if tail.starts_with('/') { "" } else { "/" };
    let uri = format!("{origin}{slash}{tail}").parse().map_err(|error| ToError::Invalid { why: format!("{error}") })?;
    let destination = scope(&origin);
    Ok(Routed { uri, origin, destination })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lookup(name: &str) -> Option<Result<Origin, Arc<str>>> {
        let uri: Uri = "https://api.openai.com".parse().unwrap();
        match name {
            "openai" => Some(Ok(Origin::of(&uri).unwrap())),
            "many" => Some(Err("https://*.example.com".into())),
            _ => None,
        }
    }

    fn to(path: &str) -> Result<String, ToError> {
        parse(path, lookup).map(|routed| routed.uri.to_string())
    }

    #[test]
    fn a_scope_names_one_origin() {
        for (path, scope) in [
            ("/to/https://api.example.com/v1", "api.example.com"),
            ("/to/https://api.example.com:443/v1", "api.example.com"),
            ("/to/https://api.example.com:8443/v1", "api.example.com:8443"),
            ("/to/http://api.example.com/v1", "api.example.com:80"),
            ("/to/http://127.0.0.1:9999/", "127.0.0.1:9999"),
            ("/to/http://127.0.0.1/", "127.0.0.1:80"),
            ("/to/https://openai/", "openai:443"),
            ("/to/http://openai:8080/", "openai:8080"),
            ("/to/https://[2001:db8::1]/", "[2001:db8::1]"),
            ("/to/http://[2001:db8::80]/", "[2001:db8::80]:80"),
        ] {
            assert_eq!(parse(path, lookup).unwrap().destination, scope, "{path}");
        }
    }

    #[test]
    fn a_scope_may_be_written_as_a_url_and_one_that_matches_nothing_is_none() {
        for (text, scope) in [
            ("api.example.com", "api.example.com"),
            ("API.example.com:443", "api.example.com"),
            ("https://api.example.com/", "api.example.com"),
            ("http://127.0.0.1:9999", "127.0.0.1:9999"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("http://api.example.com", "api.example.com:80"),
            ("openai:443", "openai:443"),
            ("bücher.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(scope_of(text).as_deref(), Ok(scope), "{text}");
        }
        for text in ["https://a b", "../x", "https://host/path", "a@b.c", "", "https://", &"a".repeat(100_000)] {
            assert!(scope_of(text).is_err(), "{text:.20}");
        }
    }

    #[test]
    fn urls_and_names_lead_where_they_say() {
        for (path, uri) in [
            ("/to/https://api.openai.com/v1/chat?x=1", "https://api.openai.com/v1/chat?x=1"),
            ("/to/https:/api.openai.com/v1/chat", "https://api.openai.com/v1/chat"),
            ("/to/HTTPS://API.OpenAI.com/v1", "https://api.openai.com/v1"),
            ("/to/http://127.0.0.1:8080", "http://127.0.0.1:8080/"),
            ("/to/http://127.0.0.1:8080?q", "http://127.0.0.1:8080/?q"),
            ("/to/http://[::1]:8080/x", "http://[::1]:8080/x"),
            ("/to/https%3A%2F%2Fapi.openai.com%2Fv1%2Fa%252Fb%3Fx%3D1", "https://api.openai.com/v1/a%2Fb?x=1"),
            ("/to/https%3a%2f%2fapi.openai.com%3A8443%2fv1?y=2", "https://api.openai.com:8443/v1?y=2"),
            ("/to/https%3A//api.openai.com/a%2Fb", "https://api.openai.com/a%2Fb"),
            ("/to/https://host/a//b/../c%20d?e=%2F&f", "https://host/a//b/../c%20d?e=%2F&f"),
            ("/to/https://bücher.example:8443/ü?ö", "https://xn--bcher-kva.example:8443/ü?ö"),
            ("/to/https://b%C3%BCcher.example/", "https://xn--bcher-kva.example/"),
            ("/to/https%3A%2F%2FB%C3%9Ccher.example%2Fv1", "https://xn--bcher-kva.example/v1"),
            ("/to/openai/v1/chat/completions?x=%20", "https://api.openai.com/v1/chat/completions?x=%20"),
            ("/to/openai", "https://api.openai.com/"),
            ("/to/openai?x=1", "https://api.openai.com/?x=1"),
            ("/to/openai//v1", "https://api.openai.com//v1"),
        ] {
            assert_eq!(to(path).as_deref(), Ok(uri), "{path}");
        }
    }

    #[test]
    fn what_leads_nowhere_says_why() {
        for (path, why) in [
            ("/to/nobody/v1", "no destination `nobody`"),
            ("/to/", "no destination ``"),
            ("/to/many/v1", "https://*.example.com"),
            ("/to/https://user:pass@host/", "user names"),
            ("/to/https://user%40host/", "user names"),
            ("/to/https:///path", "no host"),
            ("/to/https://host:99999/", "port"),
            ("/to/http://fe80%2525eth0/", "no host"),
            ("/to/https://user:pass@a b@host^/", "`host^` is no host"),
        ] {
            let error = to(path).unwrap_err().to_string();
            assert!(error.contains(why), "{path}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_path_makes_it_panic_and_what_it_reads_is_absolute(path in "(https?(:|%3A)(/|%2F){0,2})?[a-z%0-9A-F@:\\[\\]/?.#é]{0,40}") {
            if let Ok(routed) = parse(&format!("/to/{path}"), lookup) {
                prop_assert!(Origin::of(&routed.uri).is_ok());
            }
        }

        #[test]
        fn the_clients_bytes_go_out_unchanged(tail in "/([!-\"$-;=@-~é?]|%[0-9A-Fa-f]{2}|//|/\\.\\./|%2[fF]){0,40}") {
            // What a server takes as a request's target at all.
            prop_assume!(tail.parse::<http::uri::PathAndQuery>().is_ok());
            for mount in ["/to/https://host.example", "/to/HTTPS:/host.example:443"] {
                let uri = parse(&format!("{mount}{tail}"), lookup).unwrap().uri;
                prop_assert_eq!(uri.path_and_query().unwrap().as_str(), tail.as_str());
            }
            let uri = parse(&format!("/to/openai{tail}"), lookup).unwrap().uri;
            prop_assert_eq!(uri.path_and_query().unwrap().as_str(), tail.as_str());
        }
    }
}
