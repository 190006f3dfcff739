//! Where a redirect through `/to` leads.
//!
//! An upstream knows nothing of `/to`. What it says about its own origin is turned into a path of `/to`, written as the
//! client wrote it, so that whoever follows stays behind the gate; other origins are the client's to judge.

use http::{Uri, uri::PathAndQuery};
use url::Url;

use super::{Origin, cookie::Cookie};

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
        // A client removes dot segments (RFC 3986 section 5.2.4) after the prefix was put on, and would leave it.
        let path = location.split(['?', '#']).next().unwrap_or_default();
        let climbs = path.split(['/', '\\']).any(is_climbing);
        if location.starts_with('/') && !location.starts_with("//") && !climbs {
            return Some(format!("{}{location}", self.base()));
        }
        let after_scheme = location.split_once("://").filter(|(scheme, _)| scheme.bytes().all(in_scheme));
        let written_out = location.strip_prefix("//").or(after_scheme.map(|(_, rest)| rest));
        if written_out.is_none() && !climbs {
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
            Some(rest) if !climbs => rest.find(['/', '?', '#']).and_then(|at| rest.get(at..)).unwrap_or_default(),
            _ => target.as_str().get(target.origin().ascii_serialization().len()..)?,
        };
        let slash = if below.starts_with('/') { "" } else { "/" };
        Some(format!("{}{slash}{below}", self.base()))
    }

    /// The `Set-Cookie` for the client, who sees one host for all upstreams: for no domain, and always below the upstream's
    /// own path, so that no other is sent it. Where it states no path, the one that holds then (RFC 6265, 5.1.4) is stated.
    pub(crate) fn cookie(&self, cookie: &[u8]) -> Vec<u8> {
        let mut cookie = Cookie::read(cookie);
        cookie.domain = None;
        let asked = self.uri.path();
        let folder = asked.rfind('/').and_then(|end| asked.get(..end)).filter(|folder| !folder.is_empty());
        let path = cookie.path.unwrap_or(folder.unwrap_or("/").as_bytes());
        let path = [self.base().as_bytes(), path].concat();
        cookie.write(Some(&path))
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

/// Whether a segment of a path is `..`, in any of its spellings.
fn is_climbing(segment: &str) -> bool {
    segment.len() <= 6 && segment.to_ascii_lowercase().replace("%2e", ".") == ".."
}

fn in_scheme(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(path: &str, uri: &str, location: &str) -> Option<String> {
        let uri: Uri = uri.parse().unwrap();
        let origin = Origin::of(&uri).unwrap();
        Mount::new(path.parse().unwrap(), uri, origin).location(location)
    }

    #[test]
    fn a_cookie_stays_with_its_upstream() {
        let at = |path: &'static str, uri: &'static str| {
            let uri = Uri::from_static(uri);
            let origin = Origin::of(&uri).unwrap();
            Mount::new(PathAndQuery::from_static(path), uri, origin)
        };
        let plain = at("/to/https://a.test/v1/login", "https://a.test/v1/login");
        let named = at("/to/shop", "https://shop.test/");
        for (cookie, by_url, by_name) in [
            (&b"s=1"[..], "s=1; Path=/to/https://a.test/v1", "s=1; Path=/to/shop/"),
            (b"s=a=b; Path=/; Secure", "s=a=b; Secure; Path=/to/https://a.test/", "s=a=b; Secure; Path=/to/shop/"),
            (b"s=1; path = /api", "s=1; Path=/to/https://a.test/api", "s=1; Path=/to/shop/api"),
            (b"s=1;Domain=.a.test", "s=1; Path=/to/https://a.test/v1", "s=1; Path=/to/shop/"),
            (b"s=1; Path=/a; Path=b", "s=1; Path=/to/https://a.test/v1", "s=1; Path=/to/shop/"),
            (b"", "; Path=/to/https://a.test/v1", "; Path=/to/shop/"),
        ] {
            let text = |own: Vec<u8>| String::from_utf8(own).unwrap();
            assert_eq!(text(plain.cookie(cookie)), by_url);
            assert_eq!(text(named.cookie(cookie)), by_name);
        }
        assert_eq!(named.cookie(b"s=\xff; domain=a"), b"s=\xff; Path=/to/shop/", "whatever bytes it has");
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
            ("/a/../../victim/y?to=../x", Some("/victim/y?to=../x")),
            ("/a/%2e%2E/.%2e/%2e./victim", Some("/victim")),
            ("/a/..", Some("/")),
            ("https://host/a/../../victim", Some("/victim")),
            ("//host/%2E%2e/victim#x", Some("/victim#x")),
            ("/a\\..\\..\\victim", Some("/victim")),
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
