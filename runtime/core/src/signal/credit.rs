//! Refusals that no waiting ends: the account is out of credit, or has spent what it may.
//!
//! OpenAI says 429 to them as to any other, so the body decides. Services that copy its API copy its words; what is looked
//! for are codes that mean nothing else, and for APIs without a code the sentences that Anthropic uses.

use serde_json::Value;

/// Values of `code` or `type` of an error.
const CODES: &[&str] = &[
    "insufficient_quota",
    "insufficient_credits",
    "insufficient_balance",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "enforced_spend_limit_reached",
    "billing_hard_limit_reached",
    "billing_not_active",
    "billing_error",
];

/// Parts of an error's message, in lower case.
const SENTENCES: &[&str] = &["credit balance is too low", "reached your specified api usage limits"];

/// Whether the body of a refusal says that no waiting helps. Anything that is not understood says nothing.
pub(super) fn is_exhausted(answer: &Value) -> bool {
    // Most put an object at `error`, some a code, and some are an error themselves.
    [answer.get("error"), Some(answer)].into_iter().flatten().any(|error| {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_ascii_lowercase();
        let codes = [
            error.get("code"),
            error.get("type"),
            answer.get("error"),
            // Where Anthropic says that a spend limit ends all calls of the month.
            error.pointer("/details/error_code"),
        ];
        let codes = codes.map(text);
        let message = text(error.get("message"));
        codes.iter().any(|code| CODES.contains(&code.as_str()))
            || SENTENCES.iter().any(|sentence| message.contains(sentence))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let read = serde_json::from_str(body).is_ok_and(|answer| is_exhausted(&answer));
            assert_eq!(read, exhausted, "{body}");
        }
    }
}
