//! Where a redirect through `/to` leads.
//!
//! An upstream knows nothing of `/to`. What it says about its own origin is turned into a path of `/to`, written as the
//! client wrote it, so that whoever follows stays behind the gate; other origins are the client's to judge.

use http::{Uri, uri::PathAndQuery};
use url::Url;

use super::Origin;

/// Where an upstream stands below `/to`.
#[derive(Debug)]
pub(crate) struct Mount {
    /// The path that the client asked for.
    path: PathAndQuery,
    /// The URI that was sent to.
    uri: Uri,
    origin: Origin,
}

impl Mount {
    pub(crate) fn new(path: PathAndQuery, uri: Uri, origin: Origin) -> Self {
        Self { path, uri, origin }
    }

    /// The `Location` for the client; nothing where it stays as it is.
    pub(crate) fn location(&self, location: &str) -> Option<String> {
        let location = location.trim_ascii();
        if location.starts_with('/') && !location.starts_with("//") {
            return Some(format!("{}{location}", self.base()));
        }
        let after_scheme = location.split_once("://").filter(|(scheme, _)| scheme.bytes().all(in_scheme));
        let written_out = location.strip_prefix("//").or(after_scheme.map(|(_, rest)| rest));
        let climbs = || location.split(['?', '#']).next().is_some_and(|path| path.split('/').any(|part| part == ".."));
        if written_out.is_none() && !climbs() {
            // Relative to the path, which is the same below `/to`.
            return None;
        }
        // Written out, or one that must not climb above the upstream.
        let target = Url::parse(&self.uri.to_string()).ok()?.join(location).ok()?;
        let origin = target.as_str().parse().ok().and_then(|uri: Uri| Origin::of(&uri).ok())?;
        if origin != self.origin {
            return None;
        }
        let below = match written_out {
            // Byte for byte, as everywhere.
            Some(rest) => rest.find(['/', '?', '#']).and_then(|at| rest.get(at..)).unwrap_or_default(),
            None => target.as_str().get(target.origin().ascii_serialization().len()..)?,
        };
        let slash = if below.starts_with('/') { "" } else { "/" };
        Some(format!("{}{slash}{below}", self.base()))
    }

    /// The `Set-Cookie` for the client, who sees one host for all upstreams: below the upstream's own path, so that no
    /// other is sent it. Nothing where it stays as it is.
    pub(crate) fn cookie(&self, cookie: &str) -> Option<String> {
        let mut parts = cookie.split(';');
        let mut own = parts.next()?.to_owned();
        let mut is_changed = false;
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (name, value) = (name.trim_ascii(), value.trim_ascii());
            if name.eq_ignore_ascii_case("domain") {
                is_changed = true;
            } else if name.eq_ignore_ascii_case("path") && value.starts_with('/') {
                own.push_str(&format!("; Path={}{value}", self.base()));
                is_changed = true;
            } else {
                own.push(';');
                own.push_str(part);
            }
        }
        is_changed.then_some(own)
    }

    /// `/to/https://host` or `/to/name`. A URL is written plainly, however the client had escaped it.
    fn base(&self) -> String {
        let name = self.path.path().strip_prefix("/to/").unwrap_or_default();
        let name = name.split('/').next().unwrap_or_default();
        // No name holds a colon.
        match name.contains([':', '%']) {
            true => format!("/to/{}", self.origin),
            false => format!("/to/{name}"),
        }
    }
}

fn in_scheme(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_stays_with_its_upstream() {
        let at = |path: &'static str, uri: &'static str| {
            let uri = Uri::from_static(uri);
            let origin = Origin::of(&uri).unwrap();
            Mount::new(PathAndQuery::from_static(path), uri, origin)
        };
        let plain = at("/to/https://a.test/v1/login", "https://a.test/v1/login");
        let named = at("/to/shop/login", "https://shop.test/login");
        for (cookie, by_url, by_name) in [
            ("s=1", None, None),
            ("s=1; Secure; HttpOnly", None, None),
            (
                "s=a=b; Path=/; Secure",
                Some("s=a=b; Path=/to/https://a.test/; Secure"),
                Some("s=a=b; Path=/to/shop/; Secure"),
            ),
            ("s=1; path = /api", Some("s=1; Path=/to/https://a.test/api"), Some("s=1; Path=/to/shop/api")),
            ("s=1;Domain=.a.test", Some("s=1"), Some("s=1")),
            ("s=1; domain=a.test; Path=relative", Some("s=1; Path=relative"), Some("s=1; Path=relative")),
        ] {
            assert_eq!(plain.cookie(cookie).as_deref(), by_url, "{cookie}");
            assert_eq!(named.cookie(cookie).as_deref(), by_name, "{cookie}");
        }
    }

    fn location(path: &str, uri: &str, location: &str) -> Option<String> {
        let uri: Uri = uri.parse().unwrap();
        let origin = Origin::of(&uri).unwrap();
        Mount::new(path.parse().unwrap(), uri, origin).location(location)
    }

    #[test]
    fn who_follows_a_redirect_of_the_same_origin_stays_on_the_gate() {
        for (said, below) in [
            ("/login?next=%2Fa#x", Some("/login?next=%2Fa#x")),
            ("https://host/a%2fb//c?d", Some("/a%2fb//c?d")),
            ("https://HOST:443/a", Some("/a")),
            ("https://host", Some("/")),
            ("https://host?x", Some("/?x")),
            ("//host/b", Some("/b")),
            ("../../../../up", Some("/up")),
            ("../c?to=../x", Some("/v1/c?to=../x")),
            ("next", None),
            ("?page=2", None),
            ("#top", None),
            ("./next?to=https%3A%2F%2Fhost", None),
            ("", None),
            ("http://host/a", None),
            ("https://host:8443/a", None),
            ("https://other/a", None),
            ("//other/b", None),
            ("https://host@other/a", None),
            ("https://host.other/a", None),
            ("next?to=https://host/a", None),
            ("mailto:a@host", None),
            ("https://", None),
        ] {
            for (asked, mount) in [
                ("/to/https://host/v1/a/b?q", "/to/https://host"),
                ("/to/https:/host:443/v1/a/b?q", "/to/https://host"),
                ("/to/https%3A%2F%2Fhost%2Fv1%2Fa%2Fb?q", "/to/https://host"),
                ("/to/name/v1/a/b?q", "/to/name"),
                ("/to/https/v1/a/b", "/to/https"),
            ] {
                let expected = below.map(|below| format!("{mount}{below}"));
                assert_eq!(location(asked, "https://host/v1/a/b?q", said), expected, "{asked} {said}");
            }
        }
    }
}
