//! Profiles as people and programs see them.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_core::{Repeatable, units::Span};

use super::{PROFILES, Profile};

impl Profile {
    /// It as JSON.
    pub fn to_json(&self) -> Value {
        let time = |time: Option<Duration>| time.map(Span);
        json!({
            "name": self.name, "about": self.about, "checked": self.checked, "sources": self.sources,
            "hosts": self.hosts, "keys": self.keys, "split_by": self.split_by,
            "deadline": time(self.deadline), "attempt_timeout": time(self.first_byte),
            "repeatable": self.repeatable, "completions": self.completions, "final_statuses": self.final_statuses,
            "final_codes": self.final_codes, "errors": self.shape.name(), "estimates_tokens": self.estimates_tokens,
            "reads_usage": self.reads_usage, "ask_usage": self.asks_usage, "ask_usage_since": self.asks_since,
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
            ("final statuses", statuses.join(", ")),
            ("final codes", list(self.final_codes)),
            ("errors as", self.shape.name().to_owned()),
            (
                "tokens",
                if self.estimates_tokens { "estimated before, corrected by usage".into() } else { String::new() },
            ),
            ("asks for usage of", list(self.asks_usage)),
            ("from api-version", self.asks_since.unwrap_or_default().to_owned()),
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
             a host that nobody configured, has the one of its host. What a destination configures itself wins over the\n\
             profile, and settings of the node that are more patient do, too; `\"profile\": \"generic\"` is hardly any.\n\
             `tidegate profiles` and `GET /v1/profiles` show what stands here.\n\n\
             | a destination's | in the place of |\n\
             |---|---|\n\
             | `policy.deadline`, `policy.attempt_timeout` | deadline, first byte |\n\
             | `split_by` | split by |\n\
             | `repeatable`, `completions` | what is repeated: `\"repeatable\"` of all requests, `\"completions\": [\"/ask\"]` the POSTs to paths that end so |\n\
             | `final_statuses`, `final_codes` | what is final: `[402]`, `[\"insufficient_quota\", \"credit balance is too low\"]` |\n\
             | `errors` | the shape of errors to completions: `problem`, `openai`, `anthropic` or `google` |\n\
             | `keys`, `inject` | where keys stand: `[\"header:x-api-key\", \"query:key\"]`. A program's own are taken out there where the gate puts a `secret` in, by `inject` or into the first of them; only where the secret's `in` lets it stand |\n\
             | `ask_usage` | which streams are asked for their usage: true, false, or `[\"/chat/completions\"]` |\n\
             | `policy.tokens` | estimates of tokens |\n\n\
             They are written in JSON and TOML alike, and each stands for all of what the profile has.\n\n\
             ## Partitions\n\n\
             A destination is split into partitions as its profile says where it states neither `split_by` nor `limits`\n\
             nor `max_concurrency`: limits hold for each partition, and whoever states some says what they are of.\n\n\
             | `split_by` | splits by |\n\
             |---|---|\n\
             | `header:authorization` | the value of a header |\n\
             | `query:key` | a parameter of the query |\n\
             | `path:/openai/deployments/{deployment}` | a segment of the path: `*` is any one segment, more may follow |\n\
             | `path:/*/models/{model}:*` | the same without the verb behind its last colon |\n\
             | `body:/model` | a field of a JSON body, by its pointer (RFC 6901) |\n\
             | `path:...\\|body:/model` | the first of these that the request has; what it says is one partition, wherever it stands |\n\
             | `~path:...` | the same, letters in either case being one |\n\n\
             A path is read as servers read it: percent-encoding, `//`, `.` and `..` make no other name of one. Of a header and\n\
             a parameter only a hash is ever shown.\n\n\
             ## What is repeated, counted, final\n\n\
             Completions are repeated after a failure although the first may have been processed: that costs its tokens\n\
             once more each time, `policy.retries` times at most. `\"repeatable\": \"keyed\"` stops it. What the gate itself\n\
             refuses of them has the shape of the service's own errors, with the problem in the member `tidegate`.\n\n\
             Tokens of a call that states none (`tokens` of a policy) are estimated for limits in tokens: a quarter of\n\
             the characters of the texts in its JSON body, or as many as it asks for at most (`max_tokens`,\n\
             `max_completion_tokens`, `max_output_tokens`), whichever is more, and never more than the limit's quota.\n\
             Bodies beyond `replay_body` count as none. The `usage` of the answer corrects the estimate, streamed or not,\n\
             plain or packed with gzip, deflate or brotli. A stream of OpenAI's chat completions says it only where it is\n\
             asked: the gate adds `stream_options.include_usage` to a streamed completion without `stream_options`, asks for an\n\
             answer that is not packed, and takes the chunk out that comes of it; each other chunk has `\"usage\": null`. A body\n\
             that is no JSON, packed, signed, or larger than `replay_body` stays as it is, and so does one that says anything of\n\
             `stream_options` itself. Azure's dated versions before 2024-09-01, and its answers about one's own data\n\
             (`data_sources`), refuse the question and are not asked. `\"ask_usage\": false` is for services that copy OpenAI's API\n\
             but for this. Errors in the midst of an answer that began with 200 count as what they are, and pause or teach.\n\n\
             Final are answers that no waiting changes: they are passed on at once, and pause nobody. A code is that of a\n\
             refusal's body (its `code` or `type`), or, where it has a space, a part of its message. `generic` knows the words for\n\
             credit that is used up, too, as many services copy them.\n",
        );
        for profile in PROFILES {
            page.push_str(&format!("\n## {}\n\nFor {}.\n\n| | |\n|---|---|\n", profile.name, profile.about));
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
        "hosts" | "keys in" | "split by" | "final codes" | "and POSTs to" | "asks for usage of" => {
            format!("`{}`", text.replace('|', "\\|"))
        }
        "sources" => format!("<{text}>"),
        _ => text.to_owned(),
    }
}
