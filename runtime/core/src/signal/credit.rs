//! Refusals that no waiting ends: the account is out of credit, or has spent what it may.
//!
//! OpenAI says 429 to them as to any other, so the body decides. Which words mean that is known of each API by whoever
//! calls it, see [`Finals`].

use serde_json::Value;
use std::sync::Arc;

/// Words of an error that no waiting changes: values of its `code` or `type`, and, where they have a space, parts of its
/// message.
#[derive(Debug, Clone)]
pub struct Finals(Words);

#[derive(Debug, Clone)]
enum Words {
    Known(&'static [&'static str]),
    Own(Arc<[Box<str>]>),
}

impl Finals {
    /// None at all.
    pub const NONE: &'static Finals = {
        static NONE: Finals = Finals::known(&[]);
        &NONE
    };

    /// These, in lower case.
    pub const fn known(words: &'static [&'static str]) -> Self {
        Self(Words::Known(words))
    }

    /// These, in any case.
    pub fn own<'w>(words: impl IntoIterator<Item = &'w str>) -> Self {
        Self(Words::Own(words.into_iter().map(|word| word.to_lowercase().into()).collect()))
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        match &self.0 {
            Words::Known(words) => words.is_empty(),
            Words::Own(words) => words.is_empty(),
        }
    }

    fn any(&self, is: impl Fn(&str) -> bool) -> bool {
        match &self.0 {
            Words::Known(words) => words.iter().any(|word| is(word)),
            Words::Own(words) => words.iter().any(|word| is(word)),
        }
    }

    /// Whether the body of a refusal says one of them. Anything that is not understood says nothing.
    pub(super) fn end(&self, answer: &Value) -> bool {
        // Most put an object at `error`, some a code, and some are an error themselves.
        [answer.get("error"), Some(answer)].into_iter().flatten().any(|error| {
            let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_lowercase();
            let codes = [
                error.get("code"),
                error.get("type"),
                answer.get("error"),
                // Where Anthropic says that a spend limit ends all calls of the month.
                error.pointer("/details/error_code"),
            ];
            let codes = codes.map(text);
            let message = text(error.get("message"));
            self.any(|word| match word.contains(' ') {
                true => message.contains(word),
                false => codes.iter().any(|code| code == word),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &[&str] = &[
        "insufficient_quota",
        "insufficient_credits",
        "credit_balance_exhausted",
        "enforced_spend_limit_reached",
        "billing_hard_limit_reached",
        "billing_error",
        "credit balance is too low",
        "reached your specified api usage limits",
    ];

    #[test]
    fn the_table_of_bodies() {
        for (body, exhausted) in [
            (
                r#"{"error": {"message": "You exceeded your current quota", "type": "insufficient_quota", "param": null, "code": "insufficient_quota"}}"#,
                true,
            ),
            (
                r#"{"error": {"message": "", "type": "invalid_request_error", "code": "billing_hard_limit_reached"}}"#,
                true,
            ),
            (r#"{"type": "error", "error": {"type": "billing_error", "message": "x"}, "request_id": "r"}"#, true),
            (
                r#"{"type": "error", "error": {"type": "rate_limit_error", "message": "Your credit balance is too low to access the API."}}"#,
                true,
            ),
            (
                r#"{"error": {"type": "rate_limit_error", "message": "You have reached your specified API usage limits."}}"#,
                true,
            ),
            (r#"{"error": {"code": 402, "type": null, "message": "credit balance is \u0074oo low"}}"#, true),
            (r#"{"error": "insufficient_credits"}"#, true),
            (
                r#"{"type": "error", "error": {"type": "rate_limit_error", "details": {"error_code": "enforced_spend_limit_reached"}}}"#,
                true,
            ),
            (r#"{"error": {"code": "credit_balance_exhausted"}}"#, true),
            (r#"{"code": "insufficient_quota"}"#, true),
            (
                r#"{"error": {"message": "Rate limit reached for requests", "type": "requests", "code": "rate_limit_exceeded"}}"#,
                false,
            ),
            (r#"{"error": {"message": "insufficient_quota is a code", "code": "rate_limit_exceeded"}}"#, false),
            (
                r#"{"type": "error", "error": {"type": "rate_limit_error", "message": "would exceed your rate limit"}}"#,
                false,
            ),
            (r#"{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "quota"}}"#, false),
            (r#"{"error": true}"#, false),
            (r#"["insufficient_quota"]"#, false),
            (r#""insufficient_quota""#, false),
            (r#"{"error": {"code": "insufficient_quota""#, false),
            ("too many requests", false),
            ("", false),
        ] {
            let own = Finals::own(
                WORDS.iter().map(|word| word.to_uppercase()).collect::<Vec<_>>().iter().map(String::as_str),
            );
            for (finals, expected) in [(&Finals::known(WORDS), exhausted), (&own, exhausted), (Finals::NONE, false)] {
                let read = serde_json::from_str(body).is_ok_and(|answer| finals.end(&answer));
                assert_eq!(read, expected, "{body}");
            }
        }
    }
}
