//! The headers that are looked at, found in one pass over all of them.
//!
//! Where a name comes more than once its first line counts, whatever it says: who adds a second one (a gateway) knows less
//! than who wrote the first. Only `RateLimit` and `RateLimit-Policy` are lists by their draft, whose lines belong together.

use http::{HeaderMap, HeaderValue};

/// Every header that is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Field {
    Date,
    RetryAfter,
    RetryAfterMs,
    XMsRetryAfterMs,
    XAmzRetryAfter,
    GrpcPushback,
    ShouldRetry,
    LimitedReason,
    Resource,
    RateLimit,
    RateLimitPolicy,
    OpenAiLimitRequests,
    OpenAiRemainingRequests,
    OpenAiResetRequests,
    OpenAiLimitTokens,
    OpenAiRemainingTokens,
    OpenAiResetTokens,
    UsageLimitTokens,
    UsageRemainingTokens,
    UsageResetTokens,
    AnthropicLimitRequests,
    AnthropicRemainingRequests,
    AnthropicResetRequests,
    AnthropicLimitTokens,
    AnthropicRemainingTokens,
    AnthropicResetTokens,
    AnthropicLimitInput,
    AnthropicRemainingInput,
    AnthropicResetInput,
    AnthropicLimitOutput,
    AnthropicRemainingOutput,
    AnthropicResetOutput,
    OldLimit,
    OldRemaining,
    OldReset,
    XLimit,
    XRemaining,
    XReset,
    XResetAfter,
    Count,
}

fn field(name: &str) -> Option<Field> {
    Some(match name {
        "date" => Field::Date,
        "retry-after" => Field::RetryAfter,
        "retry-after-ms" => Field::RetryAfterMs,
        "x-ms-retry-after-ms" => Field::XMsRetryAfterMs,
        "x-amz-retry-after" => Field::XAmzRetryAfter,
        "grpc-retry-pushback-ms" => Field::GrpcPushback,
        "x-should-retry" => Field::ShouldRetry,
        "stripe-rate-limited-reason" => Field::LimitedReason,
        "x-ratelimit-resource" => Field::Resource,
        "ratelimit" => Field::RateLimit,
        "ratelimit-policy" => Field::RateLimitPolicy,
        "x-ratelimit-limit-requests" => Field::OpenAiLimitRequests,
        "x-ratelimit-remaining-requests" => Field::OpenAiRemainingRequests,
        "x-ratelimit-reset-requests" => Field::OpenAiResetRequests,
        "x-ratelimit-limit-tokens" => Field::OpenAiLimitTokens,
        "x-ratelimit-remaining-tokens" => Field::OpenAiRemainingTokens,
        "x-ratelimit-reset-tokens" => Field::OpenAiResetTokens,
        "x-ratelimit-limit-tokens_usage_based" => Field::UsageLimitTokens,
        "x-ratelimit-remaining-tokens_usage_based" => Field::UsageRemainingTokens,
        "x-ratelimit-reset-tokens_usage_based" => Field::UsageResetTokens,
        "anthropic-ratelimit-requests-limit" => Field::AnthropicLimitRequests,
        "anthropic-ratelimit-requests-remaining" => Field::AnthropicRemainingRequests,
        "anthropic-ratelimit-requests-reset" => Field::AnthropicResetRequests,
        "anthropic-ratelimit-tokens-limit" => Field::AnthropicLimitTokens,
        "anthropic-ratelimit-tokens-remaining" => Field::AnthropicRemainingTokens,
        "anthropic-ratelimit-tokens-reset" => Field::AnthropicResetTokens,
        "anthropic-ratelimit-input-tokens-limit" => Field::AnthropicLimitInput,
        "anthropic-ratelimit-input-tokens-remaining" => Field::AnthropicRemainingInput,
        "anthropic-ratelimit-input-tokens-reset" => Field::AnthropicResetInput,
        "anthropic-ratelimit-output-tokens-limit" => Field::AnthropicLimitOutput,
        "anthropic-ratelimit-output-tokens-remaining" => Field::AnthropicRemainingOutput,
        "anthropic-ratelimit-output-tokens-reset" => Field::AnthropicResetOutput,
        "ratelimit-limit" => Field::OldLimit,
        "ratelimit-remaining" => Field::OldRemaining,
        "ratelimit-reset" => Field::OldReset,
        "x-ratelimit-limit" | "x-rate-limit-limit" => Field::XLimit,
        "x-ratelimit-remaining" | "x-rate-limit-remaining" => Field::XRemaining,
        "x-ratelimit-reset" | "x-rate-limit-reset" => Field::XReset,
        "x-ratelimit-reset-after" => Field::XResetAfter,
        _ => return None,
    })
}

/// What is there of them.
pub(super) struct Fields<'a> {
    headers: &'a HeaderMap,
    first: [Option<&'a HeaderValue>; Field::Count as usize],
}

impl<'a> Fields<'a> {
    pub(super) fn of(headers: &'a HeaderMap) -> Self {
        let mut first = [None; Field::Count as usize];
        for (name, value) in headers {
            if let Some(place) = field(name.as_str()).and_then(|field| first.get_mut(field as usize)) {
                place.get_or_insert(value);
            }
        }
        Self { headers, first }
    }

    /// The first line of a header, without white space around it. Nothing where it holds more than visible ASCII.
    pub(super) fn text(&self, field: Field) -> Option<&'a str> {
        self.first.get(field as usize).copied().flatten()?.to_str().ok().map(str::trim)
    }

    /// All lines of a header that is a list, joined; nothing where they are longer than `most` bytes.
    pub(super) fn list(&self, field: Field, name: &str, most: usize) -> Option<String> {
        self.first.get(field as usize).copied().flatten()?;
        let mut joined = String::new();
        for line in self.headers.get_all(name) {
            let line = line.to_str().ok()?;
            if joined.len() + line.len() > most {
                return None;
            }
            if !joined.is_empty() {
                joined.push_str(", ");
            }
            joined.push_str(line);
        }
        Some(joined)
    }
}
