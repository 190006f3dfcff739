//! Which function, or which part of the node, a request is for. Borrows from the request and allocates nothing.

/// What a path on the node's own host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// `/f/{name}[@{version}]...`
    Function {
        /// The function.
        name: &'a str,
        /// A version other than the one that serves.
        version: Option<u64>,
        /// Where the guest's own path begins.
        rest: usize,
    },
    /// `/f/...` that names nothing that could be a function.
    BadName,
    /// `/to/...`
    Gate,
    /// `/healthz`
    Health,
    /// `/readyz`
    Ready,
    /// Anything else.
    Other,
}

/// What the path is.
pub(super) fn place(path: &str) -> Place<'_> {
    if let Some(after) = path.strip_prefix("/f/") {
        let end = after.find('/').unwrap_or(after.len());
        let (whole, _) = after.split_at(end);
        let rest = "/f/".len() + end;
        return match whole.split_once('@') {
            None if !whole.is_empty() => Place::Function { name: whole, version: None, rest },
            Some((name, version)) if !name.is_empty() => match version.parse() {
                Ok(number) if version.starts_with(|first: char| first.is_ascii_digit()) => {
                    Place::Function { name, version: Some(number), rest }
                }
                _ => Place::BadName,
            },
            _ => Place::BadName,
        };
    }
    match path {
        "/healthz" => Place::Health,
        "/readyz" => Place::Ready,
        _ if path == "/to" || path.starts_with("/to/") => Place::Gate,
        _ => Place::Other,
    }
}

/// The function that a host such as `agent.example.com` names below the node's domain.
pub(super) fn name_below<'a>(host: &'a str, domain: &str) -> Option<&'a str> {
    let cut = host.len().checked_sub(domain.len() + 1)?;
    let (name, below) = (host.get(..cut)?, host.get(cut..)?);
    let fits = below.strip_prefix('.')?.eq_ignore_ascii_case(domain) && !name.is_empty() && !name.contains('.');
    fits.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_node_are_told_apart() {
        let function = |name, version, rest| Place::Function { name, version, rest };
        for (path, expected) in [
            ("/f/agent", function("agent", None, 8)),
            ("/f/agent/", function("agent", None, 8)),
            ("/f/agent/a/b", function("agent", None, 8)),
            ("/f/agent@12/a", function("agent", Some(12), 11)),
            ("/f/agent@x/a", Place::BadName),
            ("/f/@1/a", Place::BadName),
            ("/f/", Place::BadName),
            ("/f", Place::Other),
            ("/to/openai/v1", Place::Gate),
            ("/to/https://a.example/", Place::Gate),
            ("/tomorrow", Place::Other),
            ("/healthz", Place::Health),
            ("/healthz/x", Place::Other),
            ("/readyz", Place::Ready),
            ("/", Place::Other),
            ("*", Place::Other),
        ] {
            assert_eq!(place(path), expected, "{path}");
        }
    }

    #[test]
    fn a_host_below_the_domain_names_a_function() {
        for (host, name) in [
            ("agent.edge.example", Some("agent")),
            ("agent.EDGE.example", Some("agent")),
            ("a.b.edge.example", None),
            ("edge.example", None),
            (".edge.example", None),
            ("agentedge.example", None),
            ("agent.other.example", None),
            ("x", None),
        ] {
            assert_eq!(name_below(host, "edge.example"), name, "{host}");
        }
    }
}
