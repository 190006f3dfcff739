//! What an answer says about limits: from status and headers to a [`Signal`], by one total function.
//!
//! It never fails and never believes a silly value: negative, not a number, already past, or longer than `max_pause`
//! (cut to it). Today it reads `retry-after-ms` and `x-ms-retry-after-ms` (milliseconds, tried first as they are
//! finer; OpenAI, Azure), `Retry-After` (RFC 9110 section 10.2.3: seconds or a date; fractions are seen in the wild) and
//! `x-should-retry` (OpenAI, Anthropic). The other families (RateLimit draft, vendors' remaining/reset pairs) become
//! further fields of [`Signal`], read here and nowhere else.

use http::{HeaderMap, StatusCode, header};
use std::time::{Duration, SystemTime};

/// Which header a wait was read from, for trails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// `Retry-After`.
    RetryAfter,
    /// `retry-after-ms` or `x-ms-retry-after-ms`.
    RetryAfterMs,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Source::RetryAfter => "Retry-After",
            Source::RetryAfterMs => "retry-after-ms",
        })
    }
}

/// What an answer asks of its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Signal {
    /// How long to wait before the next request, with the header that said so; more than zero, at most `max_pause`.
    pub wait: Option<(Duration, Source)>,
    /// `x-should-retry` of an error: the upstream's own word on whether a retry can help.
    pub should_retry: Option<bool>,
    /// The answer's body says that no waiting helps, see [`crate::credit`]. Passed through at once, no pause.
    pub last_word: bool,
}

/// Reads the signal of an answer. `wall` is the wall clock (for dates when the answer has no `Date` of its own);
/// `max_pause` bounds the wait. Never fails: what makes no sense is not there.
///
/// A date counts relative to the answer's own `Date`, so a wrong clock on either side does not matter.
pub fn read(status: StatusCode, headers: &HeaderMap, wall: SystemTime, max_pause: Duration) -> Signal {
    let should_retry = match text(headers, "x-should-retry") {
        Some(word) if word.eq_ignore_ascii_case("true") => Some(true),
        Some(word) if word.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    };
    let millis = ["retry-after-ms", "x-ms-retry-after-ms"]
        .into_iter()
        .find_map(|name| number(text(headers, name)?, 0.001))
        .map(|wait| (wait, Source::RetryAfterMs));
    let wait = millis.or_else(|| {
        let value = text(headers, header::RETRY_AFTER.as_str())?;
        let wait = number(value, 1.0).or_else(|| {
            let until = httpdate::parse_http_date(value).ok()?;
            let sent = text(headers, header::DATE.as_str()).and_then(|date| httpdate::parse_http_date(date).ok());
            until.duration_since(sent.unwrap_or(wall)).ok().filter(|wait| !wait.is_zero())
        })?;
        Some((wait, Source::RetryAfter))
    });
    // On a success the wait is a hint about something else (201 with a resource to poll, 3xx).
    let speaks = status.is_client_error() || status.is_server_error();
    Signal {
        wait: wait.filter(|_| speaks).map(|(wait, source)| (wait.min(max_pause), source)),
        // A success is an answer, whatever else it says: repeating it would throw it away.
        should_retry: should_retry.filter(|_| speaks),
        last_word: false,
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// A positive number of `unit` seconds. Digits only, so that `inf`, `nan` and `1e9` are no numbers here.
fn number(text: &str, unit: f64) -> Option<Duration> {
    if text.is_empty() || text.len() > 32 || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    let seconds = text.parse::<f64>().ok()? * unit;
    Duration::try_from_secs_f64(seconds.min(1e9)).ok().filter(|wait| !wait.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    const MAX: Duration = Duration::from_secs(600);
    const NOW: &str = "Tue, 24 Nov 2026 10:00:00 GMT";

    fn signal(headers: &[(&str, &str)]) -> Signal {
        let map = headers
            .iter()
            .map(|(name, value)| (HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect();
        read(StatusCode::TOO_MANY_REQUESTS, &map, httpdate::parse_http_date(NOW).unwrap(), MAX)
    }

    #[test]
    fn every_form_of_a_wait_is_read() {
        for (headers, millis) in [
            (&[("retry-after", "12")][..], Some(12_000)),
            (&[("retry-after", " 1.5 ")], Some(1_500)),
            (&[("retry-after-ms", "250")], Some(250)),
            (&[("x-ms-retry-after-ms", "80")], Some(80)),
            (&[("retry-after", "1"), ("retry-after-ms", "250")], Some(250)),
            (&[("retry-after", "1"), ("retry-after-ms", "soon")], Some(1_000)),
            (&[("retry-after", "Tue, 24 Nov 2026 10:00:30 GMT")], Some(30_000)),
            // The upstream's clock is an hour off: its own Date counts.
            (
                &[("retry-after", "Tue, 24 Nov 2026 11:00:07 GMT"), ("date", "Tue, 24 Nov 2026 11:00:00 GMT")],
                Some(7_000),
            ),
            // Lies and nonsense.
            (&[("retry-after", "86400")], Some(600_000)),
            (&[("retry-after", "99999999999999999999999999")], Some(600_000)),
            (&[("retry-after", "0")], None),
            (&[("retry-after", "-5")], None),
            (&[("retry-after", "NaN")], None),
            (&[("retry-after", "inf")], None),
            (&[("retry-after", "1e3")], None),
            (&[("retry-after", "1.2.3")], None),
            (&[("retry-after", "")], None),
            (&[("retry-after", "soon")], None),
            (&[("retry-after", "Tue, 24 Nov 2026 09:00:00 GMT")], None),
            (&[], None),
        ] {
            assert_eq!(signal(headers).wait.map(|(wait, _)| wait), millis.map(Duration::from_millis), "{headers:?}");
        }
    }

    #[test]
    fn should_retry_is_read_and_a_success_asks_for_no_pause_and_no_repetition() {
        assert_eq!(signal(&[("x-should-retry", "false")]).should_retry, Some(false));
        assert_eq!(signal(&[("x-should-retry", "True")]).should_retry, Some(true));
        assert_eq!(signal(&[("x-should-retry", "maybe")]).should_retry, None);
        let mut map = HeaderMap::new();
        map.insert("retry-after", HeaderValue::from_static("5"));
        map.insert("x-should-retry", HeaderValue::from_static("true"));
        for status in [StatusCode::OK, StatusCode::CREATED, StatusCode::FOUND] {
            assert_eq!(read(status, &map, SystemTime::UNIX_EPOCH, MAX), Signal::default(), "{status}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic_or_pause_too_long(
            status in 100u16..1000, name in prop::sample::select(vec!["retry-after", "retry-after-ms", "date", "x-should-retry"]),
            bytes in prop::collection::vec(any::<u8>(), 0..60), numeric in "[0-9.eE+-]{0,40}",
        ) {
            for value in [&bytes[..], numeric.as_bytes()] {
                let Ok(value) = HeaderValue::from_bytes(value) else { continue };
                let map = HeaderMap::from_iter([(HeaderName::from_static(name), value)]);
                let signal = read(StatusCode::from_u16(status).unwrap(), &map, SystemTime::UNIX_EPOCH, MAX);
                prop_assert!(signal.wait.is_none_or(|(wait, _)| wait <= MAX && !wait.is_zero()));
            }
        }
    }
}
