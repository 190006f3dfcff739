//! A request in one line, for trails, logs and the feed: what may stand where tenants and operators read.

use std::fmt;

use http::{Method, Uri};

use super::Scheme;

/// Bytes of a method, a host and a path that are printed (no setting: more tells nobody more).
const METHOD: usize = 32;
const HOST: usize = 255;
const PATH: usize = 256;

/// Writes method, origin and path. Never a query or a user name: keys stand there.
pub(crate) struct Said<'a> {
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
}

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", Cut(self.method.as_str(), METHOD))?;
        if let Some(host) = self.uri.host() {
            let scheme = match self.uri.scheme_str() {
                Some("http") => Scheme::Http.as_str(),
                Some("https") => Scheme::Https.as_str(),
                _ => "?",
            };
            write!(f, "{scheme}://{}", Cut(host, HOST))?;
            let default = [Scheme::Http, Scheme::Https].into_iter().find(|known| known.as_str() == scheme);
            let port = self.uri.port_u16().filter(|port| default.map(Scheme::default_port) != Some(*port));
            if let Some(port) = port {
                write!(f, ":{port}")?;
            }
        }
        Cut(self.uri.path(), PATH).fmt(f)
    }
}

/// The path, as far as it is printed.
pub(crate) fn path(uri: &Uri) -> String {
    Cut(uri.path(), PATH).to_string()
}

struct Cut<'a>(&'a str, usize);

impl fmt::Display for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(text, most) = *self;
        match text.get(..text.floor_char_boundary(most)) {
            Some(head) if head.len() < text.len() => write!(f, "{head}… ({} bytes)", text.len()),
            _ => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(method: &str, uri: &str) -> String {
        Said { method: &method.parse().unwrap(), uri: &uri.parse().unwrap() }.to_string()
    }

    #[test]
    fn neither_queries_nor_user_names_are_printed_and_nothing_without_end() {
        for (uri, line) in [
            ("https://api.test/v1/models?key=AIza-SECRET", "GET https://api.test/v1/models"),
            ("https://api.test?key=AIza-SECRET", "GET https://api.test/"),
            ("https://user:SECRET@api.test:8443/a?b", "GET https://api.test:8443/a"),
            ("http://[::1]:80/a", "GET http://[::1]/a"),
            ("ftp://SECRET@a:21/b?SECRET", "GET ?://a:21/b"),
            ("/path?SECRET", "GET /path"),
        ] {
            assert_eq!(said("GET", uri), line, "{uri}");
        }
        let long = said("GET", &format!("https://api.test/{}?SECRET", "é".repeat(5_000)));
        assert!(long.len() < 350 && long.ends_with("… (10001 bytes)"), "{long}");
        assert!(said(&"A".repeat(9_000), "https://a/").len() < 100);
    }
}
