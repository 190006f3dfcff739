//! What the child's environment says: base URLs that lead through the gate.

/// A variable, and the upstream it names where it is not set.
const BASES: [(&str, &str); 3] = [
    ("OPENAI_BASE_URL", "https://api.openai.com/v1"),
    // The name that older clients and LangChain read.
    ("OPENAI_API_BASE", "https://api.openai.com/v1"),
    ("ANTHROPIC_BASE_URL", "https://api.anthropic.com"),
];

/// The variables to set for a child, given what is set already.
///
/// An upstream that a variable names is what is wrapped, so that a mock or a proxy stays where the person pointed to.
/// `also` are further variables with the upstream each stands for where it is not set.
pub(super) fn variables(
    gate: &str,
    also: &[(String, String)],
    is_set: impl Fn(&str) -> Option<String>,
) -> Vec<(String, String)> {
    let gate = gate.trim_end_matches('/');
    let named = |name: &str| is_set(name).filter(|value| !value.trim().is_empty());
    let bases = BASES.map(|(name, upstream)| (name.to_owned(), upstream.to_owned()));
    let mut variables: Vec<_> = bases
        .into_iter()
        .chain(also.iter().cloned())
        .map(|(name, default)| {
            // The two names of one thing stand in for each other.
            let twin = match name.as_str() {
                "OPENAI_BASE_URL" => named("OPENAI_API_BASE"),
                "OPENAI_API_BASE" => named("OPENAI_BASE_URL"),
                _ => None,
            };
            let upstream = named(&name).or(twin).unwrap_or(default);
            let value = wrapped(gate, upstream.trim());
            (name, value)
        })
        .collect();
    variables.extend(no_proxy(gate, named));
    variables
}

/// The upstream through the gate; unchanged where it leads through a gate already.
fn wrapped(gate: &str, upstream: &str) -> String {
    let is_wrapped = upstream.contains("/to/http://") || upstream.contains("/to/https://");
    if is_wrapped { upstream.to_owned() } else { format!("{gate}/to/{upstream}") }
}

/// Clients that go through a proxy must not go through it to a gate on this machine.
fn no_proxy(gate: &str, named: impl Fn(&str) -> Option<String>) -> Vec<(String, String)> {
    let proxies = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    let host = url::Url::parse(gate).ok().and_then(|gate| gate.host_str().map(str::to_owned));
    let Some(host) = host.filter(|_| proxies.iter().any(|name| named(name).is_some())) else { return Vec::new() };
    let exempt = named("NO_PROXY").or_else(|| named("no_proxy"));
    let exempt = exempt.map_or_else(|| host.clone(), |exempt| format!("{exempt},{host}"));
    vec![("NO_PROXY".to_owned(), exempt.clone()), ("no_proxy".to_owned(), exempt)]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const GATE: &str = "http://127.0.0.1:8080";

    fn variables_with(set: &[(&str, &str)]) -> BTreeMap<String, String> {
        let set: BTreeMap<_, _> = set.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        variables(GATE, &[], |name| set.get(name).cloned()).into_iter().collect()
    }

    #[test]
    fn providers_are_wrapped_where_nothing_is_set() {
        let variables = variables_with(&[]);
        assert_eq!(variables["OPENAI_BASE_URL"], "http://127.0.0.1:8080/to/https://api.openai.com/v1");
        assert_eq!(variables["OPENAI_API_BASE"], variables["OPENAI_BASE_URL"]);
        assert_eq!(variables["ANTHROPIC_BASE_URL"], "http://127.0.0.1:8080/to/https://api.anthropic.com");
        assert_eq!(variables.len(), 3);
    }

    #[test]
    fn an_upstream_that_is_named_is_what_is_wrapped_under_both_names() {
        let variables = variables_with(&[("OPENAI_BASE_URL", "http://127.0.0.1:9999/v1")]);
        assert_eq!(variables["OPENAI_BASE_URL"], "http://127.0.0.1:8080/to/http://127.0.0.1:9999/v1");
        assert_eq!(variables["OPENAI_API_BASE"], variables["OPENAI_BASE_URL"]);
        let wrapped = variables_with(&[("ANTHROPIC_BASE_URL", "http://x:1/to/https://a.example")]);
        assert_eq!(wrapped["ANTHROPIC_BASE_URL"], "http://x:1/to/https://a.example");
        assert!(variables_with(&[("OPENAI_BASE_URL", " ")])["OPENAI_BASE_URL"].ends_with("api.openai.com/v1"));
    }

    #[test]
    fn further_variables_are_wrapped_too() {
        let also = [("MISTRAL_URL".to_owned(), "https://api.mistral.ai/v1".to_owned())];
        let variables = variables(GATE, &also, |_| None);
        assert!(variables.contains(&("MISTRAL_URL".into(), format!("{GATE}/to/https://api.mistral.ai/v1"))));
    }

    #[test]
    fn a_proxy_is_not_asked_for_the_gate() {
        let variables = variables_with(&[("HTTP_PROXY", "http://proxy:3128"), ("NO_PROXY", "corp.example")]);
        assert_eq!(variables["NO_PROXY"], "corp.example,127.0.0.1");
        assert_eq!(variables["no_proxy"], "corp.example,127.0.0.1");
    }
}
