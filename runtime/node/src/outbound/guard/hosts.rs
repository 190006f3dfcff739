//! Patterns of hosts: what a function may send to (`allowed_hosts`) and what a destination stands for (`match`).

use std::fmt;

use http::StatusCode;

use crate::{
    outbound::origin::{Origin, Scheme},
    problem::Problem,
};

/// One pattern: `api.openai.com`, `*.example.com`, `host:8080`, `host:*`, `http://host`, `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    scheme: Option<Scheme>,
    host: Host,
    port: Port,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    /// That of the scheme.
    Default,
    Exact(u16),
    Any,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Any,
    Exact(Box<str>),
    /// Any name that ends with this, which begins with a dot: `*.example.com` is not `example.com`.
    Below(Box<str>),
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no host: write \"api.openai.com\", \"*.example.com\", \"host:8080\", \"host:*\", \"http://host\" or \"*\" ({why})"
)]
pub struct PatternError {
    /// The text as given.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

impl HostPattern {
    /// Whether it stands for this origin. Without a scheme it stands for https at 443 and http at 80 and, with a
    /// port, for both at that port.
    pub fn matches(&self, origin: &Origin) -> bool {
        self.scheme.is_none_or(|scheme| scheme == origin.scheme)
            && match self.port {
                Port::Default => origin.port == origin.scheme.default_port(),
                Port::Exact(port) => origin.port == port,
                Port::Any => true,
            }
            && self.host_matches(&origin.host)
            || self.is_any()
    }

    /// Whether it is `*`.
    pub fn is_any(&self) -> bool {
        self.scheme.is_none() && self.host == Host::Any && self.port == Port::Default
    }

    /// Whether it says anything of the host's name.
    pub fn names_a_host(&self) -> bool {
        self.host != Host::Any
    }

    /// The exact origin, where it stands for only one.
    pub fn exact(&self) -> Option<Origin> {
        let (Some(scheme), Host::Exact(host)) = (self.scheme, &self.host) else { return None };
        let port = match self.port {
            Port::Default => scheme.default_port(),
            Port::Exact(port) => port,
            Port::Any => return None,
        };
        Some(Origin { scheme, host: host.as_ref().into(), port })
    }

    /// What must agree; of two patterns that match, the greater one is the narrower: the longer host, then one port before
    /// any, then one scheme before both.
    pub fn narrowness(&self) -> (usize, bool, bool) {
        let host = match &self.host {
            Host::Any => 0,
            Host::Below(suffix) => suffix.len(),
            Host::Exact(_) => usize::MAX,
        };
        (host, self.port != Port::Any, self.scheme.is_some())
    }

    /// Its scheme, where it names one.
    pub fn scheme(&self) -> Option<Scheme> {
        self.scheme
    }

    fn host_matches(&self, host: &str) -> bool {
        match &self.host {
            Host::Any => true,
            Host::Exact(exact) => **exact == *host,
            Host::Below(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
        }
    }
}

impl std::str::FromStr for HostPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let wrong = |why: &str| PatternError { text: text.to_owned(), why: why.to_owned() };
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Some(Scheme::Http), rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Some(Scheme::Https), rest),
            Some(_) => return Err(wrong("the scheme is neither http nor https")),
            None => (None, text),
        };
        // Two spellings of one port are one pattern.
        let exact = |port: u16| match scheme.map(Scheme::default_port) == Some(port) {
            true => Port::Default,
            false => Port::Exact(port),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('/') {
            return Err(wrong("a host has no path"));
        }
        let (below, rest) = match rest.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        // The port is split off by hand where `*` stands for the host, which is no authority.
        if !below && (rest == "*" || rest.starts_with("*:")) {
            let port = match rest.strip_prefix("*:") {
                Some("*") => Port::Any,
                Some(digits) => exact(digits.parse().map_err(|_| wrong("the port is none"))?),
                None => Port::Default,
            };
            return Ok(Self { scheme, host: Host::Any, port });
        }
        let (any_port, rest) = match rest.strip_suffix(":*") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        if rest.contains('*') {
            return Err(wrong("`*` may stand only for whole labels at the front"));
        }
        let authority = Origin::authority_of(rest).map_err(|why| wrong(&why))?;
        let origin = Origin::new(scheme.unwrap_or(Scheme::Https), &authority).map_err(|why| wrong(&why))?;
        let stated = authority.as_str().len() > authority.host().len() + 1;
        let host = match below {
            true if origin.address().is_some() => return Err(wrong("there is nothing below an address")),
            true => Host::Below(format!(".{}", origin.host).into()),
            false => Host::Exact(origin.host.as_ref().into()),
        };
        let port = match (any_port, stated) {
            (true, true) => return Err(wrong("the port is none")),
            (true, false) => Port::Any,
            (false, true) => exact(origin.port),
            (false, false) => Port::Default,
        };
        Ok(Self { scheme, host, port })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(scheme) = self.scheme {
            write!(f, "{}://", scheme.as_str())?;
        }
        match &self.host {
            Host::Any => f.write_str("*")?,
            Host::Exact(host) if host.contains(':') => write!(f, "[{host}]")?,
            Host::Exact(host) => f.write_str(host)?,
            Host::Below(suffix) => write!(f, "*{suffix}")?,
        }
        match self.port {
            Port::Default => Ok(()),
            Port::Exact(port) => write!(f, ":{port}"),
            Port::Any => f.write_str(":*"),
        }
    }
}

/// The hosts that a function may send to.
#[derive(Clone, Debug, Default)]
pub struct HostPatterns(Vec<HostPattern>);

impl HostPatterns {
    /// Reads a list of patterns.
    ///
    /// # Errors
    /// The first text that is no pattern.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a String>) -> Result<Self, PatternError> {
        texts.into_iter().map(|text| text.parse()).collect::<Result<_, _>>().map(Self)
    }

    /// Whether one of them stands for this origin.
    pub fn allow(&self, origin: &Origin) -> bool {
        self.0.iter().any(|pattern| pattern.matches(origin))
    }

    /// The refusal, with the line to paste into the function's `tidegate.toml`.
    pub fn denial(&self, function: &str, origin: &Origin) -> Problem {
        // A call without TLS must be allowed by saying so, else the line would allow the wrong thing.
        let wanted = match origin.scheme {
            Scheme::Https => origin.authority().to_string(),
            Scheme::Http => origin.to_string(),
        };
        let all: Vec<_> =
            self.0.iter().map(ToString::to_string).chain([wanted]).map(|host| format!("\"{host}\"")).collect();
        let line = format!("allowed_hosts = [{}]", all.join(", "));
        let detail = format!(
            "The function `{function}` may not send to {origin}. To allow it, put this line into its tidegate.toml \
             and deploy again: {line}"
        );
        let value = match self.0.len() {
            0 => "none".to_owned(),
            _ => self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        Problem::new(StatusCode::FORBIDDEN, "host-denied", "Destination host denied", detail)
            .bound("hosts the function may send to", value, "allowed_hosts")
            .proxy_error("http_request_denied")
            .final_answer()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        Origin::of(&text.parse().unwrap()).unwrap()
    }

    #[test]
    fn patterns_stand_for_what_they_say_and_no_more() {
        for (pattern, yes, no) in [
            (
                "api.openai.com",
                &["https://api.openai.com", "http://api.openai.com", "https://API.OPENAI.COM."][..],
                &["https://api.openai.com:8443", "https://openai.com", "https://x.api.openai.com"][..],
            ),
            (
                "*.example.com",
                &["https://a.example.com", "https://a.b.example.com"],
                &["https://example.com", "https://badexample.com", "https://example.com.evil.test"],
            ),
            ("localhost:8080", &["http://localhost:8080", "https://localhost:8080"], &["http://localhost"]),
            ("http://a", &["http://a"], &["https://a", "http://a:81"]),
            ("https://*.a.test:8443", &["https://b.a.test:8443"], &["https://b.a.test", "http://b.a.test:8443"]),
            ("*", &["https://a", "http://[::1]:99", "http://127.0.0.1:1"], &[]),
            ("127.0.0.1:*", &["https://127.0.0.1", "http://127.0.0.1:99"], &["http://127.0.0.2:99"]),
            ("http://*:*", &["http://a:99"], &["https://a:99"]),
            ("*:8080", &["https://a:8080", "http://b:8080"], &["http://b"]),
            ("bücher.example", &["https://xn--bcher-kva.example"], &["https://bcher.example"]),
            ("*.Bücher.example:*", &["https://a.xn--bcher-kva.example:99"], &["https://xn--bcher-kva.example"]),
            ("[::1]:80", &["http://[::1]"], &["http://127.0.0.1"]),
        ] {
            let pattern: HostPattern = pattern.parse().unwrap();
            for text in yes {
                assert!(pattern.matches(&origin(text)), "{pattern} {text}");
            }
            for text in no {
                assert!(!pattern.matches(&origin(text)), "{pattern} {text}");
            }
        }
    }

    #[test]
    fn what_is_no_pattern_is_an_error_that_shows_right_ones() {
        for text in
            ["", "a b", "ftp://a", "https://a/path", "a.*.com", "*a.com", "u@a", "a:99999", "*.127.0.0.1", "*:x"]
        {
            let error = text.parse::<HostPattern>().unwrap_err().to_string();
            assert!(error.contains("*.example.com"), "{text}: {error}");
        }
    }

    #[test]
    fn a_pattern_prints_as_it_is_read() {
        for text in
            ["api.openai.com", "*.example.com", "https://a:8443", "*", "*:80", "a:*", "*:*", "http://[::1]:8080"]
        {
            assert_eq!(text.parse::<HostPattern>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn two_spellings_of_a_pattern_are_one() {
        for (one, other) in [
            ("https://dup.example", "https://dup.example/"),
            ("https://dup.example", "HTTPS://DUP.example:443"),
            ("http://127.0.0.1", "http://127.1:80"),
            ("https://*.Example.com", "https://*.example.com:443/"),
            ("https://*", "https://*:443"),
        ] {
            assert_eq!(one.parse::<HostPattern>(), other.parse(), "{one} {other}");
        }
        for (one, other) in [
            ("https://a", "http://a"),
            ("https://a", "https://a:80"),
            ("https://a:443", "https://a:*"),
            ("a:443", "a"),
            ("https://a", "https://*.a"),
        ] {
            assert_ne!(one.parse::<HostPattern>(), other.parse(), "{one} {other}");
        }
    }

    #[test]
    fn the_narrower_pattern_names_more_of_the_host_then_the_port() {
        let narrowness = |text: &str| text.parse::<HostPattern>().unwrap().narrowness();
        let widest_first = [
            "https://*:*",
            "https://*",
            "https://*.example.com:*",
            "https://*.example.com",
            "https://*.a.example.com:*",
            "https://a.example.com:*",
            "https://a.example.com:9",
        ];
        for pair in widest_first.windows(2) {
            assert!(narrowness(pair[0]) < narrowness(pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn a_denial_prints_the_line_to_paste() {
        let hosts = HostPatterns::parse(&[]).unwrap();
        let problem = hosts.denial("agent", &origin("https://api.openai.com/v1"));
        assert!(problem.detail.contains(r#"allowed_hosts = ["api.openai.com"]"#), "{}", problem.detail);
        let hosts = HostPatterns::parse(&["*.a.test".to_owned()]).unwrap();
        let problem = hosts.denial("agent", &origin("http://127.0.0.1:9/x"));
        assert!(problem.detail.contains(r#"allowed_hosts = ["*.a.test", "http://127.0.0.1:9"]"#), "{}", problem.detail);
        // What is printed, once pasted, allows the call.
        let pasted = HostPatterns::parse(&["http://127.0.0.1:9".to_owned()]).unwrap();
        assert!(pasted.allow(&origin("http://127.0.0.1:9/x")));
    }
}
