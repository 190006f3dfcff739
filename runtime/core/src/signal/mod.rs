//! What an answer says about limits: from status, headers and the body of a refusal to a [`Signal`], by one total function.
//!
//! It never fails and never believes a silly value: negative, not a number, already past, or longer than `max_pause`
//! (cut to it). A header counts by its first line, white space around it does not matter, and one that is no visible
//! ASCII is not there.
//!
//! How long to wait, in order of precedence; what does not read falls to the next:
//!
//! | said by | form |
//! |---|---|
//! | `retry-after-ms`, `x-ms-retry-after-ms` (OpenAI, Azure) | milliseconds |
//! | `x-amz-retry-after` | milliseconds |
//! | `grpc-retry-pushback-ms` | milliseconds; negative: `should_retry` is false |
//! | `Retry-After` (RFC 9110 section 10.2.3) | seconds, fractions are seen; or a date, relative to the answer's own `Date` |
//! | body: `availability.retry_after` (OpenRouter), `RetryInfo.retryDelay` (Gemini), "try again in 6.5s" (OpenAI, Azure), GitHub's secondary limit | seconds |
//! | a quota of which nothing remains, the one for longest | its reset, see [`Quota::spent_for`] |
//!
//! Quotas, per unit, in order of precedence:
//!
//! | headers | reset |
//! |---|---|
//! | `x-ratelimit-{limit,remaining,reset}-{requests,tokens}` (OpenAI), `-tokens_usage_based` | Go duration (Azure: plain seconds) until *full* |
//! | `anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,reset}` | RFC 3339 instant, until full |
//! | `RateLimit`, `RateLimit-Policy` (IETF draft) | `t`, seconds |
//! | `RateLimit-{Limit,Remaining,Reset}` (older drafts) | as the next |
//! | `X-RateLimit-*`, `X-Rate-Limit-*` (GitHub, OpenRouter, many) | seconds, or seconds or milliseconds since 1970 by size; `X-RateLimit-Reset-After` first |
//!
//! A remaining of -1 and a limit of 0 mean unknown (Azure). Anthropic's `priority-` quotas are not read: who uses them up
//! falls back to the others.

mod body;
mod credit;
mod draft;
mod fields;
mod quota;
#[cfg(test)]
mod tests;
mod values;

use crate::repeat::Outcome;
use draft::Draft;
use fields::{Field, Fields};
use http::{HeaderMap, StatusCode, header};
use serde_json::Value;
use std::time::{Duration, SystemTime};

pub use credit::Finals;
pub use quota::{Counted, Quota, Quotas, Refill};

/// Where a wait was read from, for trails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// `Retry-After`.
    RetryAfter,
    /// `retry-after-ms` or `x-ms-retry-after-ms`.
    RetryAfterMs,
    /// `x-amz-retry-after`.
    XAmzRetryAfter,
    /// `grpc-retry-pushback-ms`.
    GrpcPushback,
    /// The body of the refusal.
    Body,
    /// `RateLimit` of the IETF draft, or its older fields.
    RateLimit,
    /// `x-ratelimit-reset-requests` or `-tokens`.
    OpenAi,
    /// `anthropic-ratelimit-*-reset`.
    Anthropic,
    /// `X-RateLimit-Reset`.
    XRateLimit,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Source::RetryAfter => "Retry-After",
            Source::RetryAfterMs => "retry-after-ms",
            Source::XAmzRetryAfter => "x-amz-retry-after",
            Source::GrpcPushback => "grpc-retry-pushback-ms",
            Source::Body => "the body",
            Source::RateLimit => "RateLimit",
            Source::OpenAi => "x-ratelimit-reset-*",
            Source::Anthropic => "anthropic-ratelimit-*-reset",
            Source::XRateLimit => "X-RateLimit-Reset",
        })
    }
}

/// A quota of which nothing is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpentQuota {
    /// For how long; more than zero, at most `max_pause`.
    pub wait: Duration,
    /// Until all of it is back: longer, where it is taken for a bucket that fills bit by bit.
    pub reset: Duration,
    /// What says so.
    pub source: Source,
    /// What it counts.
    pub counted: Counted,
}

/// What an answer asks of its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Signal {
    /// How long to wait before the next request, with what said so; more than zero, at most `max_pause`. Of errors only.
    pub wait: Option<(Duration, Source)>,
    /// `x-should-retry` of an error: the upstream's own word on whether a retry can help.
    pub should_retry: Option<bool>,
    /// No waiting helps, says the body. Passed through at once, no pause.
    pub last_word: bool,
    /// The body says that this is a refusal, where the status alone does not.
    pub refuses: bool,
    /// The refusal is about requests under way at once, not about requests in a time: it says nothing about a rate.
    pub concurrency: bool,
    /// Which quota refused, where that is known.
    pub refused: Option<Counted>,
    /// What is stated of the quotas.
    pub quotas: Quotas,
    /// The quota that holds the next request back for longest: on a success, too.
    pub spent: Option<SpentQuota>,
}

/// An answer as far as it is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Its body where it was read, see [`wants_body`].
    pub body: Option<&'a [u8]>,
    /// What in it no waiting changes.
    pub finals: &'a Finals,
}

impl<'a> Answer<'a> {
    /// An answer of which only the head counts.
    pub fn head<T>(response: &'a http::Response<T>) -> Self {
        Self { status: response.status(), headers: response.headers(), body: None, finals: Finals::NONE }
    }
}

/// Whether the body of an answer can say more than its head: refusals in JSON, errors that may be one, and those that may
/// say that no waiting helps.
pub fn wants_body(status: StatusCode, headers: &HeaderMap, finals: &Finals) -> bool {
    let may_refuse = match status.as_u16() {
        429 => true,
        400 | 402 => !finals.is_empty(),
        // The wait is all that would be wanted to know.
        403 | 503 | 529 => !headers.contains_key(header::RETRY_AFTER),
        _ => false,
    };
    may_refuse && is_json(headers)
}

fn is_json(headers: &HeaderMap) -> bool {
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim();
    let ends = |end: &str| {
        let at = media.len().checked_sub(end.len());
        at.and_then(|at| media.get(at..)).is_some_and(|tail| tail.eq_ignore_ascii_case(end))
    };
    media.eq_ignore_ascii_case("application/json") || ends("+json")
}

/// Reads the signal of an answer. `wall` is the wall clock (for instants when the answer has no `Date` of its own);
/// `max_pause` bounds every wait. Never fails: what makes no sense is not there.
pub fn read(answer: &Answer<'_>, wall: SystemTime, max_pause: Duration) -> Signal {
    let fields = Fields::of(answer.headers);
    let date = fields.text(Field::Date).and_then(|date| httpdate::parse_http_date(date).ok());
    // By the upstream's own clock, so that it does not matter which of the two is wrong.
    let now = date.unwrap_or(wall);
    let error = answer.status.is_client_error() || answer.status.is_server_error();
    let mut signal = Signal::default();

    let mut sources = [None; Counted::ALL.len()];
    let draft = Draft::read(&fields, &mut signal.quotas);
    if draft.is_some()
        && let [requests, ..] = &mut sources
    {
        *requests = Some(Source::RateLimit);
    }
    quota::read(&fields, now, &mut signal.quotas, &mut sources);
    signal.spent = signal.quotas.spent().map(|(wait, counted)| SpentQuota {
        wait: wait.min(max_pause),
        reset: signal.quotas.of(counted).reset.unwrap_or(wait).max(wait).min(max_pause),
        source: sources.get(counted as usize).copied().flatten().unwrap_or(Source::RateLimit),
        counted,
    });
    if !error {
        // On a success a wait is a hint about something else (201 with a resource to poll, 3xx); and a success is an
        // answer, whatever else it says: repeating it would throw it away.
        if is_of_a_part(&fields) {
            signal.spent = None;
        }
        signal.spent = signal.spent.filter(|spent| !spent.wait.is_zero());
        return signal;
    }

    let pushback = fields.text(Field::GrpcPushback);
    signal.should_retry = match fields.text(Field::ShouldRetry) {
        Some(word) if word.eq_ignore_ascii_case("true") => Some(true),
        Some(word) if word.eq_ignore_ascii_case("false") => Some(false),
        _ if pushback.is_some_and(|text| text.starts_with('-')) => Some(false),
        _ => None,
    };
    let said = answer
        .body
        .and_then(|body| serde_json::from_slice(body).ok())
        .map(|body| body::look(&body, draft.as_ref(), answer.finals))
        .unwrap_or_default();
    let reason = fields.text(Field::LimitedReason).unwrap_or_default();
    // Whatever else these say of limits, it is the request that is wrong.
    let is_own = matches!(answer.status.as_u16(), 400 | 402);
    let said = if is_own { body::Said { last_word: said.last_word, ..body::Said::default() } } else { said };
    signal.last_word = said.last_word;
    signal.refuses = said.refuses;
    signal.concurrency =
        said.concurrency || reason.ends_with("-concurrency") || draft.as_ref().is_some_and(|draft| draft.concurrency);
    let exhausted = signal.spent.map(|spent| spent.counted);
    signal.refused = said.refused.or(exhausted.filter(|_| !signal.concurrency));
    let waits = [
        (Field::RetryAfterMs, Source::RetryAfterMs),
        (Field::XMsRetryAfterMs, Source::RetryAfterMs),
        (Field::XAmzRetryAfter, Source::XAmzRetryAfter),
        (Field::GrpcPushback, Source::GrpcPushback),
    ];
    let millis =
        waits.into_iter().find_map(|(field, source)| Some((values::wait(fields.text(field)?, 0.001)?, source)));
    let wait = millis
        .or_else(|| {
            let text = fields.text(Field::RetryAfter)?;
            let until = || values::until(httpdate::parse_http_date(text).ok()?, now);
            Some((values::wait(text, 1.0).or_else(until)?, Source::RetryAfter))
        })
        .or_else(|| said.wait.map(|wait| (wait, Source::Body)))
        // Who refuses by concurrency may have used up a quota besides, but does not wait for that.
        .or_else(|| signal.spent.filter(|_| !signal.concurrency).map(|spent| (spent.wait, spent.source)));
    signal.wait = wait.map(|(wait, source)| (wait.min(max_pause), source)).filter(|(wait, _)| !wait.is_zero());
    signal.spent = signal.spent.filter(|spent| !spent.wait.is_zero());
    signal
}

/// Whether the quotas of an answer are of a part of the API only (GitHub's search, its GraphQL): all of it does not wait
/// for that.
fn is_of_a_part(fields: &Fields<'_>) -> bool {
    fields.text(Field::Resource).is_some_and(|resource| !resource.eq_ignore_ascii_case("core"))
}

/// Types of errors that mean that the service as a whole does not serve.
const OVERLOADED: &[&str] = &["overloaded_error", "overloaded", "service_unavailable", "unavailable"];
/// Types of errors that are the sender's own.
const OWN: &[&str] = &[
    "invalid_request_error",
    "invalid_prompt",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "request_too_large",
    "content_filter",
];

/// What an error in the midst of an answer would have been as an answer of its own.
pub(crate) fn stream_error(answer: &Value, finals: &Finals, max_pause: Duration) -> Outcome {
    let said = body::look(answer, None, finals);
    let error = answer.get("error").unwrap_or(answer);
    let is = |known: &[&str]| {
        let texts = ["code", "type", "status"].map(|name| error.get(name).and_then(Value::as_str).unwrap_or_default());
        texts.iter().any(|text| known.iter().any(|known| text.eq_ignore_ascii_case(known)))
    };
    let number = error.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
    let status = match number.filter(|code| (400..600).contains(code)) {
        _ if said.refuses || said.last_word => 429,
        Some(code) => code,
        None if is(OVERLOADED) => 529,
        None if is(OWN) => 400,
        None => 500,
    };
    let wait = said.wait.map(|wait| (wait.min(max_pause), Source::Body)).filter(|(wait, _)| !wait.is_zero());
    let signal = Signal {
        wait,
        last_word: said.last_word,
        refuses: said.refuses,
        concurrency: said.concurrency,
        refused: said.refused,
        ..Signal::default()
    };
    Outcome::Answer { status, signal }
}
