//! Profiles: what is known of the APIs of well-known services, for destinations that name one. A destination's own
//! configuration wins over all of it.

use std::time::Duration;

use http::Method;
use tidegate_core::{Effective, Repeatable, units::Span};

/// What is known of an API.
#[derive(Debug, PartialEq)]
pub struct Profile {
    /// Its name in a destination's configuration.
    pub name: &'static str,
    /// Whose API it is.
    pub about: &'static str,
    /// Deadline of a call that states none.
    deadline: Option<Duration>,
    /// Time of one attempt to the head of the answer.
    first_byte: Option<Duration>,
    /// Ends of the paths whose POSTs may be sent twice: a repetition costs money, and nothing else.
    completions: &'static [&'static str],
    /// Where it takes its key, with `{}` for it.
    pub(super) key: &'static str,
    /// Whether what a call costs in tokens is estimated from its body.
    pub(super) estimates_tokens: bool,
}

/// Whole completions are written before the head of an answer that is not streamed.
const LLM_DEADLINE: Option<Duration> = Some(Duration::from_secs(600));
const LLM_FIRST_BYTE: Option<Duration> = Some(Duration::from_secs(300));

/// Where most APIs take their keys.
const BEARER: &str = "authorization: Bearer {}";

/// That of a destination that names none.
pub(super) static GENERIC: Profile = Profile {
    name: "generic",
    about: "any HTTP API",
    deadline: None,
    first_byte: None,
    completions: &[],
    key: BEARER,
    estimates_tokens: false,
};

static OPENAI: Profile =
    Profile::of_models("openai", "OpenAI, and services that copy its API", &["/completions", "/responses"], BEARER);

static ANTHROPIC: Profile = Profile::of_models("anthropic", "Anthropic", &["/messages", "/complete"], "x-api-key: {}");

/// All of them.
static PROFILES: [&Profile; 3] = [&GENERIC, &OPENAI, &ANTHROPIC];

impl Profile {
    /// Of language models behind such paths.
    const fn of_models(
        name: &'static str,
        about: &'static str,
        completions: &'static [&'static str],
        key: &'static str,
    ) -> Self {
        let (deadline, first_byte) = (LLM_DEADLINE, LLM_FIRST_BYTE);
        Self { name, about, deadline, first_byte, completions, key, estimates_tokens: true }
    }

    /// The profile of this name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        PROFILES.into_iter().find(|profile| profile.name == name)
    }

    /// Names of all profiles, for people.
    pub fn names() -> String {
        PROFILES.iter().map(|profile| profile.name).collect::<Vec<_>>().join(", ")
    }

    /// Which requests may be sent twice where the destination does not say.
    pub(super) fn repeatable(&self, method: &Method, path: &str) -> Repeatable {
        let path = path.strip_suffix('/').unwrap_or(path);
        match *method == Method::POST && self.completions.iter().any(|end| path.ends_with(end)) {
            true => Repeatable::Always,
            false => Repeatable::default(),
        }
    }

    /// Lays it over the node's defaults, where those are not more patient anyway.
    pub(super) fn apply(&self, policy: &mut Effective) {
        policy.deadline = self.deadline.unwrap_or_default().max(policy.deadline);
        policy.attempt_timeout = self.first_byte.unwrap_or_default().max(policy.attempt_timeout);
    }

    /// The page about them as Markdown.
    pub fn reference_page() -> String {
        let mut page = String::from(
            "# Profiles\n\n\
             A profile is what Tidegate knows of the API of a well-known service. A destination names one\n\
             (`\"profile\": \"openai\"`, or `tidegate destinations put NAME --api-profile openai`); what it configures\n\
             itself (`policy.deadline`, `policy.attempt_timeout`, `repeatable`, `policy.tokens`) wins over the profile,\n\
             and settings of the node that are more patient do, too.\n\n\
             Completions are repeated after a failure although the first may have been processed: that costs its tokens\n\
             once more each time, `policy.retries` times at most. Everything else is `keyed`.\n\
             `\"repeatable\": \"keyed\"` stops it.\n\n\
             Tokens of a call that states none (`tokens` of a policy) are estimated for limits in tokens: a quarter of\n\
             the characters of the texts in its JSON body, or as many as it asks for at most (`max_tokens`,\n\
             `max_completion_tokens`, `max_output_tokens`), whichever is more, and never more than the limit's quota.\n\
             Bodies beyond `replay_body` count as none. The estimate is not corrected after the answer.\n\n\
             | profile | API | deadline | first byte | POSTs repeated, by the end of their path | estimates tokens | takes its key as |\n\
             |---|---|---|---|---|---|---|\n",
        );
        for profile in PROFILES {
            let time = |time: Option<Duration>| time.map_or("the node's".to_owned(), |time| Span(time).to_string());
            let ends = profile.completions.iter().map(|end| format!("`{end}`")).collect::<Vec<_>>().join(", ");
            page.push_str(&format!(
                "| `{}` | {} | {} | {} | {} | {} | `{}` |\n",
                profile.name,
                profile.about,
                time(profile.deadline),
                time(profile.first_byte),
                if ends.is_empty() { "none" } else { &ends },
                if profile.estimates_tokens { "yes" } else { "no" },
                profile.key,
            ));
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_may_be_repeated_and_nothing_else_that_is_not_idempotent() {
        for (profile, method, path, expected) in [
            ("openai", "POST", "/v1/chat/completions", Repeatable::Always),
            ("openai", "POST", "/openai/v1/responses/", Repeatable::Always),
            ("openai", "POST", "/v1/completions", Repeatable::Always),
            ("openai", "POST", "/v1/files", Repeatable::Keyed),
            ("openai", "POST", "/v1/responses/resp_1/cancel", Repeatable::Keyed),
            ("openai", "DELETE", "/v1/chat/completions", Repeatable::Keyed),
            ("openai", "POST", "/v1/messages", Repeatable::Keyed),
            ("anthropic", "POST", "/v1/messages", Repeatable::Always),
            ("anthropic", "POST", "/v1/messages/batches", Repeatable::Keyed),
            ("generic", "POST", "/v1/chat/completions", Repeatable::Keyed),
        ] {
            let profile = Profile::named(profile).unwrap();
            assert_eq!(profile.repeatable(&method.parse().unwrap(), path), expected, "{method} {path}");
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
}
