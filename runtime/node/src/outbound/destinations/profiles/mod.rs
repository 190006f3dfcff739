//! Profiles: what is known of the APIs of well-known services. A destination names one, or its host does; what the
//! destination configures itself wins over all of it.

mod page;
mod table;

use std::time::Duration;

use http::Method;
use tidegate_core::{Effective, Repeatable};

use crate::{
    outbound::{Origin, Scheme},
    problem::Shape,
};

pub(super) use table::GENERIC;
use table::PROFILES;

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
    /// Headers that carry the key.
    pub keys: &'static [&'static str],
    /// What splits a destination into partitions that says neither how nor what its limits are.
    pub split_by: &'static [&'static str],
    /// Deadline of a call that states none.
    deadline: Option<Duration>,
    /// Time of one attempt to the head of the answer.
    first_byte: Option<Duration>,
    /// Which requests may be sent twice, but for those that follow.
    repeatable: Repeatable,
    /// Ends of the paths whose POSTs may be sent twice: a repetition costs money, and nothing else.
    completions: &'static [&'static str],
    /// Statuses that no waiting changes.
    final_statuses: &'static [u16],
    /// The shape of errors to completions.
    shape: Shape,
    /// Whether what a call costs in tokens is estimated from its body.
    pub(super) estimates_tokens: bool,
    /// Whether answers say how many tokens they used.
    pub(super) reads_usage: bool,
    /// Ends of the paths whose streams say so only where they are asked with `stream_options`.
    pub(super) streamed: &'static [&'static str],
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

    /// Where a key is put that the gate has: in the first of the headers that carry one.
    pub(super) fn key_template(&self) -> String {
        match self.keys.first() {
            None | Some(&"authorization") => "authorization: Bearer {}".to_owned(),
            Some(header) => format!("{header}: {{}}"),
        }
    }

    /// Which requests may be sent twice where the destination does not say.
    pub(super) fn repeatable(&self, method: &Method, path: &str) -> Repeatable {
        if self.is_completion(method, path) { Repeatable::Always } else { self.repeatable }
    }

    fn is_completion(&self, method: &Method, path: &str) -> bool {
        let path = path.strip_suffix('/').unwrap_or(path);
        *method == Method::POST && self.completions.iter().any(|end| path.ends_with(end))
    }

    /// The shape in which those who send such a request understand errors.
    pub(super) fn shape(&self, method: &Method, path: &str) -> Shape {
        if self.is_completion(method, path) { self.shape } else { Shape::Problem }
    }

    /// Whether no waiting changes an answer of this status.
    pub(super) fn is_final(&self, status: u16) -> bool {
        self.final_statuses.contains(&status)
    }

    /// Whether the streams of such requests are asked for their usage.
    pub(super) fn streams(&self, method: &Method, path: &str) -> bool {
        *method == Method::POST && self.streamed.iter().any(|end| path.ends_with(end))
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
    use crate::outbound::destinations::partition::Splitter;

    #[test]
    fn completions_may_be_repeated_and_nothing_else_that_is_not_idempotent() {
        for (profile, method, path, expected) in [
            ("openai", "POST", "/v1/chat/completions", Repeatable::Always),
            ("openai", "POST", "/openai/v1/responses/", Repeatable::Always),
            ("openai", "POST", "/v1/completions", Repeatable::Always),
            ("openai", "POST", "/v1/embeddings", Repeatable::Always),
            ("openai", "POST", "/v1/files", Repeatable::Keyed),
            ("openai", "POST", "/v1/responses/resp_1/cancel", Repeatable::Keyed),
            ("openai", "DELETE", "/v1/chat/completions", Repeatable::Keyed),
            ("openai", "POST", "/v1/messages", Repeatable::Keyed),
            ("azure-openai", "POST", "/openai/deployments/d/chat/completions", Repeatable::Always),
            ("anthropic", "POST", "/v1/messages", Repeatable::Always),
            ("anthropic", "POST", "/v1/messages/batches", Repeatable::Keyed),
            ("openrouter", "POST", "/api/v1/chat/completions", Repeatable::Always),
            ("gemini", "POST", "/v1beta/models/g:streamGenerateContent", Repeatable::Always),
            ("gemini", "POST", "/v1beta/cachedContents", Repeatable::Keyed),
            ("stripe", "POST", "/v1/payment_intents", Repeatable::Keyed),
            ("github", "POST", "/repos/a/b/issues", Repeatable::Never),
            ("generic", "POST", "/v1/chat/completions", Repeatable::Keyed),
        ] {
            let profile = Profile::named(profile).unwrap();
            assert_eq!(profile.repeatable(&method.parse().unwrap(), path), expected, "{method} {path}");
        }
    }

    #[test]
    fn keys_of_the_gate_go_where_the_service_takes_them() {
        for (profile, template) in [
            ("generic", "authorization: Bearer {}"),
            ("openai", "authorization: Bearer {}"),
            ("azure-openai", "api-key: {}"),
            ("anthropic", "x-api-key: {}"),
            ("gemini", "x-goog-api-key: {}"),
        ] {
            assert_eq!(Profile::named(profile).unwrap().key_template(), template);
        }
    }

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
            assert!(profile.keys.iter().all(|key| *key == key.to_ascii_lowercase()));
            if profile.name != GENERIC.name {
                let dated = profile.checked.len() == "2026-11-26".len() && profile.checked.starts_with("202");
                let sourced = profile.sources.iter().all(|url| url.starts_with("https://"));
                assert!(dated && sourced && !profile.sources.is_empty(), "{}", profile.name);
            }
        }
    }
}
