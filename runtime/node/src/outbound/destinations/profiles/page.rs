//! Profiles as people and programs see them.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_core::{Repeatable, units::Span};

use super::{GENERIC, PROFILES, Profile};

impl Profile {
    /// It as JSON.
    pub fn to_json(&self) -> Value {
        let time = |time: Option<Duration>| time.map(Span);
        json!({
            "name": self.name, "about": self.about, "checked": self.checked, "sources": self.sources,
            "hosts": self.hosts, "keys": self.keys, "split_by": self.split_by,
            "deadline": time(self.deadline), "attempt_timeout": time(self.first_byte),
            "repeatable": self.repeatable, "completions": self.completions, "final_statuses": self.final_statuses,
            "errors": self.shape.name(), "estimates_tokens": self.estimates_tokens, "reads_usage": self.reads_usage,
            "asks_usage": self.streamed,
        })
    }

    /// It in lines of a name and what it is.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let list = |texts: &[&str]| texts.join(", ");
        let time = |time: Option<Duration>| time.map_or("the node's".to_owned(), |time| Span(time).to_string());
        let statuses: Vec<_> = self.final_statuses.iter().map(u16::to_string).collect();
        let rest = match self.repeatable {
            Repeatable::Never => "idempotent methods",
            Repeatable::Keyed => "idempotent methods, and what has an Idempotency-Key",
            Repeatable::Always => "everything",
        };
        let lines = [
            ("hosts", list(self.hosts)),
            ("keys in", list(self.keys)),
            ("split by", list(self.split_by)),
            ("deadline", time(self.deadline)),
            ("first byte", time(self.first_byte)),
            ("repeated", rest.to_owned()),
            ("and POSTs to", list(self.completions)),
            ("final", statuses.join(", ")),
            ("errors as", self.shape.name().to_owned()),
            (
                "tokens",
                if self.estimates_tokens { "estimated before, corrected by usage".into() } else { String::new() },
            ),
            ("asks for usage of", list(self.streamed)),
            ("checked", self.checked.to_owned()),
            ("sources", list(self.sources)),
        ];
        lines.into_iter().filter(|(_, text)| !text.is_empty()).collect()
    }

    /// The page about them as Markdown.
    pub fn reference_page() -> String {
        let mut page = String::from(
            "# Profiles\n\n\
             A profile is what Tidegate knows of the API of a well-known service. A destination names one\n\
             (`\"profile\": \"openai\"`, or `tidegate destinations put NAME --api-profile openai`); one that names none, and\n\
             a host that nobody configured, has the one of its host. What a destination configures itself\n\
             (`policy.deadline`, `policy.attempt_timeout`, `repeatable`, `policy.tokens`, `split_by`, `ask_usage`) wins over\n\
             the profile, and settings of the node that are more patient do, too; `\"profile\": \"generic\"` is none at all.\n\
             `tidegate profiles` and `GET /v1/profiles` show what stands here.\n\n\
             A destination is split into partitions as its profile says where it states neither `split_by` nor `limits`\n\
             nor `max_concurrency`: limits hold for each partition, and whoever states some says what they are of.\n\n\
             Completions are repeated after a failure although the first may have been processed: that costs its tokens\n\
             once more each time, `policy.retries` times at most. `\"repeatable\": \"keyed\"` stops it. What the gate itself\n\
             refuses of them has the shape of the service's own errors, with the problem in the member `tidegate`.\n\n\
             Tokens of a call that states none (`tokens` of a policy) are estimated for limits in tokens: a quarter of\n\
             the characters of the texts in its JSON body, or as many as it asks for at most (`max_tokens`,\n\
             `max_completion_tokens`, `max_output_tokens`), whichever is more, and never more than the limit's quota.\n\
             Bodies beyond `replay_body` count as none. The `usage` of the answer corrects the estimate, streamed or not,\n\
             plain or packed with gzip, deflate or brotli. A stream of OpenAI's chat completions says it only where it is\n\
             asked: where a limit in tokens needs it the gate adds `stream_options.include_usage` to a request without\n\
             `stream_options`, and takes the chunk out that comes of it (`ask_usage` of the destination: false never, true\n\
             always). Errors in the midst of an answer that began with 200 count as what they are, and pause or teach.\n\n\
             Final are answers that no waiting changes: they are passed on at once, and pause nobody. Refusals whose body\n\
             says that credit or a spend limit is used up (`insufficient_quota`, `billing_hard_limit_reached`,\n\
             `credit balance is too low`, ...) are so whatever the profile.\n",
        );
        for profile in PROFILES.into_iter().filter(|profile| profile.name != GENERIC.name) {
            page.push_str(&format!("\n## {}\n\n{}.\n\n| | |\n|---|---|\n", profile.name, profile.about));
            for (name, text) in profile.lines() {
                let text: Vec<_> = text.split(", ").map(|part| code(name, part)).collect();
                page.push_str(&format!("| {name} | {} |\n", text.join(", ")));
            }
        }
        page
    }
}

/// What is written as it is in requests stands as code.
fn code(name: &str, text: &str) -> String {
    match name {
        "hosts" | "keys in" | "split by" | "and POSTs to" | "asks for usage of" => format!("`{text}`"),
        "sources" => format!("<{text}>"),
        _ => text.to_owned(),
    }
}
