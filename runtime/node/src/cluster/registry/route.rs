//! Route patterns of a function: `api.example.com/v1/*`.

/// Which hosts a route is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RouteHost {
    /// Any host: the pattern begins with `/`.
    Any,
    /// This one, in lower case and without a port.
    Exact(Box<str>),
    /// Every name below this one: `*.example.com` holds `example.com`.
    Below(Box<str>),
}

/// A route: a host and either one path or every path that begins alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutePattern {
    /// Which hosts.
    pub host: RouteHost,
    /// The path, or what it must begin with.
    pub path: Box<str>,
    /// Whether anything may follow the path (`*` at the end).
    pub open: bool,
}

impl RoutePattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (host, path) = match text.find('/') {
            Some(slash) => text.split_at(slash),
            None => return Err(format!("`{text}` has no path: write `{text}/*` for all of them")),
        };
        let (path, open) = match path.strip_suffix('*') {
            Some(path) => (path, true),
            None => (path, false),
        };
        if path.contains(['*', '?', '#']) || path.contains(char::is_whitespace) {
            return Err(format!("`{text}`: a path holds no `?`, `#` or space, and `*` only at its end"));
        }
        let lower = host.to_ascii_lowercase();
        let host = match lower.strip_prefix("*.") {
            _ if lower.is_empty() => RouteHost::Any,
            Some(below) if is_host(below) => RouteHost::Below(below.into()),
            None if is_host(&lower) => RouteHost::Exact(lower.into()),
            _ => return Err(format!("`{text}`: `{host}` is no host name; write `api.example.com` or `*.example.com`")),
        };
        Ok(Self { host, path: path.into(), open })
    }

    /// Where the node's own places come first, so that no request ever meets the route: the prefix they begin with.
    /// Only a host of the route's own is before them.
    pub fn is_behind(&self) -> Option<&'static str> {
        if self.host != RouteHost::Any {
            return None;
        }
        let below = ["/f/", "/to/"].into_iter().find(|prefix| self.path.starts_with(prefix));
        let exact = ["/to", "/healthz", "/readyz"].into_iter().find(|own| !self.open && *self.path == **own);
        below.or(exact)
    }

    /// Whether the path of a request is meant.
    pub fn takes(&self, path: &str) -> bool {
        match path.strip_prefix(&*self.path) {
            Some("") => true,
            Some(_) => self.open,
            // `/v1/*` means `/v1` too, as people expect.
            None => self.open && self.path.strip_suffix('/') == Some(path),
        }
    }
}

impl std::fmt::Display for RoutePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            RouteHost::Any => {}
            RouteHost::Exact(host) => f.write_str(host)?,
            RouteHost::Below(host) => write!(f, "*.{host}")?,
        }
        write!(f, "{}{}", self.path, if self.open { "*" } else { "" })
    }
}

/// Whether the text is a host name: labels of letters, digits and `-`.
fn is_host(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_behind_a_place_of_the_nodes_own_is_told_from_the_others() {
        for (text, prefix) in [
            ("/f/*", Some("/f/")),
            ("/f/agent/*", Some("/f/")),
            ("/to/*", Some("/to/")),
            ("/to/openai", Some("/to/")),
            ("/to", Some("/to")),
            ("/healthz", Some("/healthz")),
            ("/readyz", Some("/readyz")),
            ("/*", None),
            ("/f", None),
            ("/f*", None),
            ("/to*", None),
            ("/healthz/*", None),
            ("/healthz*", None),
            ("/tomorrow", None),
            ("api.example.com/f/*", None),
            ("*.example.com/healthz", None),
        ] {
            assert_eq!(RoutePattern::parse(text).unwrap().is_behind(), prefix, "{text}");
        }
    }

    #[test]
    fn patterns_read_and_print_the_same_in_lower_case() {
        for (text, printed) in [
            ("API.example.com/v1/*", "api.example.com/v1/*"),
            ("*.example.com/", "*.example.com/"),
            ("/hooks/*", "/hooks/*"),
        ] {
            assert_eq!(RoutePattern::parse(text).unwrap().to_string(), printed);
        }
        for text in ["api.example.com", "a b/x", "a.example/x*y", "*example/x", "https://a.example/x", "-a.b/", "a..b/"]
        {
            assert!(RoutePattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_open_path_takes_everything_below_it_and_a_closed_one_only_itself() {
        for (pattern, path, takes) in [
            ("/v1/*", "/v1/x", true),
            ("/v1/*", "/v1/", true),
            ("/v1/*", "/v1", true),
            ("/v1/*", "/v10", false),
            ("/v1", "/v1", true),
            ("/v1", "/v1/", false),
            ("/v1*", "/v10", true),
            ("/*", "/", true),
        ] {
            assert_eq!(RoutePattern::parse(pattern).unwrap().takes(path), takes, "{pattern} {path}");
        }
    }
}
