//! Profiles: what is known of the APIs of well-known services. A destination names one, or its host does; what the
//! destination configures itself wins over all of it.

mod page;
mod table;

use std::time::Duration;

use http::Uri;
use tidegate_core::{Effective, Repeatable, split::parameter};

use crate::{
    outbound::{Origin, Scheme},
    problem::Shape,
};

pub(super) use table::GENERIC;
use table::PROFILES;

/// Where requests name the version of a dated API, and the part of a path whose versions have no dates any more (Azure).
const API_VERSION: &str = "api-version";
const UNDATED: &str = "/openai/v1/";

/// What is known of an API.
#[derive(Debug, PartialEq)]
pub struct Profile {
    /// Its name in a destination's configuration.
    pub name: &'static str,
    /// Whose API it is.
    pub about: &'static str,
    /// When it was held against its sources last.
    pub checked: &'static str,
    /// Where it was read.
    pub sources: &'static [&'static str],
    /// Hosts that have it without being told to: one, or `*.` and a domain.
    pub hosts: &'static [&'static str],
    /// Where requests carry the key: headers, parameters of the query.
    pub keys: &'static [&'static str],
    /// What splits a destination into partitions that says neither how nor what its limits are.
    pub split_by: &'static [&'static str],
    /// Deadline of a call that states none.
    deadline: Option<Duration>,
    /// Time of one attempt to the head of the answer.
    first_byte: Option<Duration>,
    /// Which requests may be sent twice, but for those that follow.
    pub(super) repeatable: Repeatable,
    /// Ends of the paths whose POSTs may be sent twice: a repetition costs money, and nothing else.
    pub(super) completions: &'static [&'static str],
    /// Statuses that no waiting changes.
    pub(super) final_statuses: &'static [u16],
    /// Codes and types of errors that no waiting changes; with a space, parts of their messages.
    pub(super) final_codes: &'static [&'static str],
    /// The shape of errors to completions.
    pub(super) shape: Shape,
    /// Whether what a call costs in tokens is estimated from its body.
    pub(super) estimates_tokens: bool,
    /// Whether answers say how many tokens they used.
    pub(super) reads_usage: bool,
    /// Ends of the paths whose streams say so only where they are asked with `stream_options`.
    pub(super) asks_usage: &'static [&'static str],
    /// The first version of a dated API that knows the question.
    pub(super) asks_since: Option<&'static str>,
}

impl Profile {
    /// All of them.
    pub fn all() -> &'static [&'static Self] {
        &PROFILES
    }

    /// The profile of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        PROFILES.into_iter().find(|profile| profile.name == name)
    }

    /// Names of all profiles, for people.
    pub fn names() -> String {
        PROFILES.iter().map(|profile| profile.name).collect::<Vec<_>>().join(", ")
    }

    /// The profile of an origin that nobody gave one.
    pub(super) fn of(origin: &Origin) -> &'static Self {
        if origin.scheme != Scheme::Https || origin.port != Scheme::Https.default_port() {
            return &GENERIC;
        }
        let is = |host: &&str| match host.strip_prefix('*') {
            Some(domain) => origin.host.len() > domain.len() && origin.host.ends_with(domain),
            None => &*origin.host == *host,
        };
        PROFILES.into_iter().find(|profile| profile.hosts.iter().any(is)).unwrap_or(&GENERIC)
    }

    /// Whether a request's version of the API knows the question for the usage of a stream.
    pub(super) fn understands_question(&self, uri: &Uri) -> bool {
        let Some(since) = self.asks_since else { return true };
        let version = parameter(uri.query().unwrap_or_default(), API_VERSION);
        let dated = version.as_deref().and_then(|version| version.get(..since.len()));
        let is_date = |text: &[u8]| {
            let mut pairs = text.iter().zip(since.bytes());
            pairs.all(|(byte, known)| if known == b'-' { *byte == b'-' } else { byte.is_ascii_digit() })
        };
        uri.path().contains(UNDATED) || dated.is_some_and(|date| is_date(date) && date >= since.as_bytes())
    }

    /// Lays it over the node's defaults, where those are not more patient anyway.
    pub(super) fn apply(&self, policy: &mut Effective) {
        policy.deadline = self.deadline.unwrap_or_default().max(policy.deadline);
        policy.attempt_timeout = self.first_byte.unwrap_or_default().max(policy.attempt_timeout);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::registry::Place, outbound::destinations::partition::Splitter};

    #[test]
    fn a_profile_makes_nothing_less_patient() {
        let applied = |name: &str, seconds: u64| {
            let time = Duration::from_secs(seconds);
            let mut policy = Effective { deadline: time, attempt_timeout: time, ..Effective::default() };
            Profile::named(name).unwrap().apply(&mut policy);
            (policy.deadline.as_secs(), policy.attempt_timeout.as_secs())
        };
        assert_eq!(applied("generic", 60), (60, 60));
        assert_eq!(applied("openai", 60), (600, 300));
        assert_eq!(applied("anthropic", 900), (900, 900));
    }

    #[test]
    fn a_well_known_host_has_its_profile_without_being_told_to() {
        for (uri, name) in [
            ("https://api.openai.com/v1", "openai"),
            ("https://api.openai.com:443/v1", "openai"),
            ("https://mine.openai.azure.com/", "azure-openai"),
            ("https://openai.azure.com/", "generic"),
            ("https://api.anthropic.com/", "anthropic"),
            ("https://openrouter.ai/api/v1", "openrouter"),
            ("https://generativelanguage.googleapis.com/", "gemini"),
            ("https://api.stripe.com/", "stripe"),
            ("https://api.github.com/", "github"),
            ("http://api.openai.com/", "generic"),
            ("https://api.openai.com:8443/", "generic"),
            ("https://api.openai.com.example/", "generic"),
            ("https://xapi.openai.com/", "generic"),
        ] {
            assert_eq!(Profile::of(&Origin::of(&uri.parse().unwrap()).unwrap()).name, name, "{uri}");
        }
    }

    #[test]
    fn every_profile_is_whole() {
        for profile in Profile::all() {
            assert_eq!(Profile::named(profile.name), Some(*profile));
            assert!(profile.split_by.iter().all(|splitter| splitter.parse::<Splitter>().is_ok()), "{}", profile.name);
            assert!(profile.keys.iter().all(|key| key.parse::<Place>().is_ok()), "{}", profile.name);
            assert!(profile.final_codes.iter().all(|code| *code == code.to_lowercase()), "{}", profile.name);
            assert!(profile.final_codes.iter().all(|code| GENERIC.final_codes.contains(code)), "{}", profile.name);
            if profile.name != GENERIC.name {
                let dated = profile.checked.len() == "2026-11-26".len() && profile.checked.starts_with("202");
                let sourced = profile.sources.iter().all(|url| url.starts_with("https://"));
                assert!(dated && sourced && !profile.sources.is_empty(), "{}", profile.name);
            }
        }
    }
}
