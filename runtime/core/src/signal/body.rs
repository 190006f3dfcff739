//! The body of a refusal: which quota, how long, whether waiting helps at all. JSON in the shapes of the services named
//! below; anything else says nothing.

use super::{credit::Finals, draft::Draft, quota::Counted, values};
use serde_json::Value;
use std::time::Duration;

/// What it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Said {
    /// That no waiting helps.
    pub(crate) last_word: bool,
    /// That it is a refusal, whatever the status.
    pub(crate) refuses: bool,
    /// That too many requests are under way, not too many in a time.
    pub(crate) concurrency: bool,
    /// Which quota is used up.
    pub(crate) refused: Option<Counted>,
    /// How long to wait.
    pub(crate) wait: Option<Duration>,
}

/// Codes, types, statuses and reasons that mean a limit and nothing else.
const LIMITS: &[&str] = &[
    "rate_limit_exceeded",
    "rate_limit_error",
    "rate_limited",
    "too_many_requests",
    "resource_exhausted",
    "ratelimitexceeded",
    "userratelimitexceeded",
    "requests",
    "tokens",
];
/// The same, of what is under way at once.
const AT_ONCE: &[&str] = &[
    "concurrency_limit_exceeded",
    "concurrency_limit_reached",
    "concurrent_limit_exceeded",
    "concurrent_request_limit_exceeded",
    "max_concurrency_exceeded",
    "too_many_concurrent_requests",
];
/// Parts of a message, in lower case, that mean so.
const AT_ONCE_SENTENCES: &[&str] = &[
    "concurrent request",
    "concurrent connection",
    "concurrency limit",
    "requests in flight",
    "in-flight requests",
    "simultaneous requests",
];
/// Types of problems of the IETF draft, which all are refusals.
const PROBLEMS: &[&str] = &["#quota-exceeded", "#temporary-reduced-capacity", "#abnormal-usage-detected"];
/// GitHub's words for its limits, which come with a 403 too.
const GITHUB: &[&str] = &["secondary rate limit", "api rate limit exceeded"];
/// What GitHub's documentation asks for where a secondary limit names no wait.
const GITHUB_SECONDARY: Duration = Duration::from_secs(60);
/// Where OpenRouter says in how many seconds one of its providers takes requests again.
const RETRY_AFTER: &[&str] = &[
    "/availability/retry_after",
    "/error/availability/retry_after",
    "/error/metadata/availability/retry_after",
    "/error/metadata/retry_after_seconds",
];
/// Entries of a list in a body that are looked at.
const MOST: usize = 16;

/// Looks into the body of an error.
pub(crate) fn look(answer: &Value, draft: Option<&Draft>, finals: &Finals) -> Said {
    // Gemini puts an error that ends a stream into a list.
    let answer = answer.get(0).unwrap_or(answer);
    let error = answer.get("error").filter(|error| error.is_object()).unwrap_or(answer);
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_ascii_lowercase();
    let reasons = error.get("errors").and_then(Value::as_array).into_iter().flatten().take(MOST);
    let reasons = reasons.map(|entry| text(entry.get("reason")));
    let mut codes = vec![text(answer.get("error")), text(error.pointer("/metadata/error_type"))];
    codes.extend(["code", "type", "status"].map(|name| text(error.get(name))));
    codes.extend(reasons);
    let message = text(error.get("message"));
    let any = |known: &[&str]| codes.iter().any(|code| known.contains(&code.as_str()));
    let says = |known: &[&str]| known.iter().any(|part| message.contains(part));
    let problem = text(answer.get("type"));

    let mut said = Said {
        last_word: finals.end(answer),
        concurrency: any(AT_ONCE) || says(AT_ONCE_SENTENCES),
        wait: wait(answer, error).or_else(|| in_words(&message)),
        ..Said::default()
    };
    said.refuses = said.concurrency
        || any(LIMITS)
        || says(GITHUB)
        || PROBLEMS.iter().any(|kind| problem.ends_with(kind))
        || error.get("code").and_then(Value::as_u64) == Some(429);
    if said.wait.is_none() && message.contains("secondary rate limit") {
        said.wait = Some(GITHUB_SECONDARY);
    }
    // OpenAI names the unit in the type of its error.
    if any(&["requests"]) {
        said.refused = Some(Counted::Requests);
    } else if any(&["tokens"]) {
        said.refused = Some(Counted::Tokens);
    }
    let violated = answer.get("violated-policies").and_then(Value::as_array).into_iter().flatten().take(MOST);
    let known: Vec<bool> = violated.filter_map(Value::as_str).filter_map(|name| draft?.is_concurrency(name)).collect();
    if !known.is_empty() {
        // A rate that was exceeded as well needs its wait.
        said.concurrency = known.iter().all(|concurrency| *concurrency);
        said.refused = said.refused.or((!said.concurrency).then_some(Counted::Requests));
    }
    said
}

/// A wait as messages name it: "try again in 1m2.5s" (OpenAI, in the midst of a stream the only word of it), "retry in
/// 46.7s" (Gemini), "retry after 6 seconds" (Azure).
fn in_words(message: &str) -> Option<Duration> {
    let after = |words: &str| {
        let rest = message.split_once(words)?.1;
        let end = rest.find(|c: char| c.is_whitespace()).unwrap_or(rest.len());
        let (text, unit) = rest.split_at_checked(end)?;
        Some((text.trim_end_matches(['.', ',']), unit.trim_start()))
    };
    let (text, unit) = ["try again in ", "retry in ", "retry after "]
        .iter()
        .find_map(|words| after(words))
        .filter(|(text, _)| !text.is_empty())?;
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if plain && !unit.starts_with("second") {
        return None;
    }
    values::go_duration(text).filter(|wait| !wait.is_zero())
}

fn wait(answer: &Value, error: &Value) -> Option<Duration> {
    let number = |value: &Value| match value {
        Value::Number(number) => values::wait(&number.to_string(), 1.0),
        Value::String(text) => values::wait(text.trim(), 1.0),
        _ => None,
    };
    let routed = RETRY_AFTER.iter().find_map(|place| number(answer.pointer(place)?));
    routed.or_else(|| {
        // google.rpc.RetryInfo, as Gemini writes it: a protobuf duration is seconds with an `s`.
        let details = error.get("details")?.as_array()?;
        let is_retry = |detail: &&Value| {
            detail.get("@type").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("google.rpc.RetryInfo"))
        };
        let delay = details.iter().take(MOST).find(is_retry)?.get("retryDelay")?.as_str()?;
        values::wait(delay.trim().strip_suffix('s')?, 1.0)
    })
}
