//! Scheme, host and port of what is dialled, in one normal form.
//!
//! Everything that asks "which upstream is this" (actors, allowed hosts, connections, tickets) asks this type, and what
//! is dialled is this type too: two spellings of one host can't be two upstreams.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use http::{HeaderValue, Uri, uri};

use super::TransportError;

/// How an upstream is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain text.
    Http,
    /// TLS.
    Https,
}

impl From<Scheme> for http::uri::Scheme {
    fn from(scheme: Scheme) -> Self {
        match scheme {
            Scheme::Http => Self::HTTP,
            Scheme::Https => Self::HTTPS,
        }
    }
}

impl Scheme {
    /// The port that needs no mention.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// `http` or `https`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Scheme, host and port of an upstream. The host is in lower case and has no trailing dot; an address stands in its one
/// usual form, an IPv6 address without brackets.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Name or address.
    pub host: Arc<str>,
    /// The port, never 0.
    pub port: u16,
}

impl Origin {
    /// Whether a cookie for this domain is one for this host (RFC 6265, section 5.1.3).
    pub(crate) fn is_within(&self, domain: &[u8]) -> bool {
        let domain = domain.strip_prefix(b".").unwrap_or(domain).to_ascii_lowercase();
        let Some(rest) = self.host.as_bytes().strip_suffix(&*domain) else { return false };
        rest.is_empty() || (rest.ends_with(b".") && self.host.parse::<IpAddr>().is_err())
    }

    /// The origin of an absolute URI.
    ///
    /// # Errors
    /// [`TransportError::BadRequest`] when the URI is not absolute, its scheme is neither http nor https, or its
    /// authority holds user information, an escape, a zone or a port that is none.
    pub fn of(uri: &Uri) -> Result<Self, TransportError> {
        let wrong = |why: String| TransportError::BadRequest { why };
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            Some(other) => return Err(wrong(format!("the scheme `{other}` is neither http nor https"))),
            None => return Err(wrong("its URI is not absolute".into())),
        };
        let authority = uri.authority().ok_or_else(|| wrong("its URI names no host".into()))?;
        Self::new(scheme, authority).map_err(wrong)
    }

    /// The origin of an authority, or what is wrong with it.
    pub(crate) fn new(scheme: Scheme, authority: &uri::Authority) -> Result<Self, String> {
        let text = authority.as_str();
        if text.contains('@') {
            return Err("user names and passwords in a URL are not sent; use an Authorization header".into());
        }
        if text.contains('%') {
            return Err(format!("the host `{text}` holds an escape or a zone"));
        }
        let raw = authority.host();
        let port = match text.get(raw.len()..) {
            None | Some("" | ":") => scheme.default_port(),
            Some(rest) => rest
                .strip_prefix(':')
                .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|digits| digits.parse().ok())
                .filter(|port| *port != 0)
                .ok_or_else(|| format!("the port in `{text}` is none"))?,
        };
        Ok(Self { scheme, host: Self::normal_host(raw)?, port })
    }

    /// Reads an authority whose host may be written in any script: it becomes its ASCII form, the one that is looked up
    /// (IDNA, UTS #46, as in URLs).
    pub(crate) fn authority_of(text: &str) -> Result<uri::Authority, String> {
        let none = || format!("`{text}` is no host");
        if text.is_ascii() {
            return text.parse().map_err(|_| none());
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, Some(port)),
            _ => (text, None),
        };
        // What means something in an authority, or would be decoded once more, is no part of a name.
        if host.contains(['%', '@', '[', ':']) {
            return Err(none());
        }
        let host = url::Host::parse(host).map_err(|error| format!("`{text}` is no host: {error}"))?;
        let ascii = match port {
            Some(port) => format!("{host}:{port}"),
            None => host.to_string(),
        };
        ascii.parse().map_err(|_| none())
    }

    /// Lower case, no brackets, no trailing dot.
    pub(crate) fn normal_host(raw: &str) -> Result<Arc<str>, String> {
        if let Some(inner) = raw.strip_prefix('[') {
            let address = inner.strip_suffix(']').and_then(|inner| inner.parse::<Ipv6Addr>().ok());
            return match address {
                Some(address) => Ok(address.to_string().into()),
                None => Err(format!("`{raw}` is no IPv6 address")),
            };
        }
        let host = raw.strip_suffix('.').unwrap_or(raw);
        if host.is_empty() || host.ends_with('.') || host.starts_with('.') || host.len() > 253 {
            return Err(format!("the host `{raw}` is no name and no address"));
        }
        if is_numeric(host) {
            // `127.1`, `0x7f.1`, `2130706433`: what ends with a number is an address in some spelling, or nothing at all.
            return match (host.parse::<Ipv4Addr>(), url::Host::parse(host)) {
                (Ok(_), _) => Ok(host.into()),
                (_, Ok(url::Host::Ipv4(address))) => Ok(address.to_string().into()),
                _ => Err(format!("`{raw}` is no IPv4 address, and no name ends with a number")),
            };
        }
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Ok(host.to_ascii_lowercase().into())
        } else {
            Ok(host.into())
        }
    }

    /// The address, where the host is one.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// `host` or `host:port`, as in a `Host` header and in URLs.
    pub fn authority(&self) -> Authority<'_> {
        Authority(self)
    }

    /// The `Host` header.
    pub fn host_header(&self) -> Option<HeaderValue> {
        if self.port == self.scheme.default_port() && !self.host.contains(':') {
            return HeaderValue::from_str(&self.host).ok();
        }
        HeaderValue::from_str(&self.authority().to_string()).ok()
    }
}

/// Whether the last label of a host is a number, decimal, octal or hexadecimal, so that no name is meant (WHATWG URL,
/// "ends in a number").
fn is_numeric(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or(host);
    let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => last.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// Writes `host` or `host:port`.
pub struct Authority<'a>(&'a Origin);

impl fmt::Display for Authority<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Origin { scheme, host, port } = self.0;
        match host.contains(':') {
            true => write!(f, "[{host}]")?,
            false => f.write_str(host)?,
        }
        if *port != scheme.default_port() { write!(f, ":{port}") } else { Ok(()) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority())
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Result<String, String> {
        let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
        Origin::of(&uri).map(|origin| origin.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn two_spellings_of_a_host_are_one_origin() {
        for (text, normal) in [
            ("https://api.openai.com/v1", "https://api.openai.com"),
            ("https://API.OpenAI.com:443/v1", "https://api.openai.com"),
            ("https://api.openai.com./v1", "https://api.openai.com"),
            ("http://a:80/", "http://a"),
            ("http://a:/", "http://a"),
            ("http://a:8080/", "http://a:8080"),
            ("http://[0:0::1]:8080/", "http://[::1]:8080"),
            ("http://[::ffff:7f00:1]/", "http://[::ffff:127.0.0.1]"),
            ("http://127.0.0.1/", "http://127.0.0.1"),
            ("http://127.0.0.1./", "http://127.0.0.1"),
            ("http://127.1/", "http://127.0.0.1"),
            ("http://0x7f.1:8080/", "http://127.0.0.1:8080"),
            ("http://0X7F000001/", "http://127.0.0.1"),
            ("http://2130706433/", "http://127.0.0.1"),
            ("http://017700000001/", "http://127.0.0.1"),
            ("http://0177.0.0.1/", "http://127.0.0.1"),
            ("http://0/", "http://0.0.0.0"),
            ("http://1.example/", "http://1.example"),
            ("http://a.0xg/", "http://a.0xg"),
        ] {
            assert_eq!(origin(text).as_deref(), Ok(normal), "{text}");
        }
    }

    #[test]
    fn a_name_in_any_script_is_one_origin_with_its_ascii_form() {
        for (text, normal) in [
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.Example:8443", "xn--bcher-kva.example:8443"),
            ("bu\u{308}cher.example.", "xn--bcher-kva.example"),
            ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
            ("straße.example", "xn--strae-oqa.example"),
            ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
            ("ｅｘａｍｐｌｅ.com", "example.com"),
            ("１２７.0.0.1", "127.0.0.1"),
            ("plain_name.example:80", "plain_name.example:80"),
        ] {
            let origin = Origin::authority_of(text).and_then(|authority| Origin::new(Scheme::Https, &authority));
            assert_eq!(origin.map(|origin| origin.authority().to_string()).as_deref(), Ok(normal), "{text}");
        }
        for text in [
            "bü cher.example",
            "ü@evil.example",
            "ü％2f",
            "ü＠evil.example",
            "evil.example／ü",
            "ü:x",
            "ü:1:2",
            "[ü]",
            "ü%2e",
        ] {
            assert!(Origin::authority_of(text).is_err(), "{text}: {:?}", Origin::authority_of(text));
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for text in [
            "https://user:pass@api.openai.com/",
            "https://api.openai.com@evil.example/",
            "http://a:0/",
            "http://a:65536/",
            "http://a:+80/",
            "http://./",
            "http://a../",
            "ftp://a/",
            "/path",
            "a:80",
            "http://[fe80::1%25eth0]/",
            "http://%31%32%37.0.0.1/",
            "http://256.1.1.1/",
            "http://1.2.3.4.5/",
            "http://127.0.0.09/",
            "http://4294967296/",
            "http://a.1/",
        ] {
            assert!(origin(text).is_err(), "{text}: {:?}", origin(text));
        }
    }
}
