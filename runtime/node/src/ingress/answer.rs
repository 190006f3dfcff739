//! What every answer of the data listener says about how it came to be.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{ids::TraceId, observe::Waits};

const FUNCTION: HeaderName = HeaderName::from_static("tidegate-function");
const VERSION: HeaderName = HeaderName::from_static("tidegate-version");
const REGION: HeaderName = HeaderName::from_static("tidegate-region");
const TRACE: HeaderName = HeaderName::from_static("tidegate-trace");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Adds function and version, where they are known, region, trace id and `Server-Timing`. What the guest says itself
/// stays, but for our names.
pub(super) fn decorate(
    headers: &mut HeaderMap,
    of: Option<(HeaderValue, Option<HeaderValue>)>,
    region: &HeaderValue,
    trace: TraceId,
    timing: HeaderValue,
) {
    headers.reserve(5);
    if let Some((function, version)) = of {
        headers.insert(FUNCTION, function);
        if let Some(version) = version {
            headers.insert(VERSION, version);
        }
    }
    headers.insert(REGION, region.clone());
    headers.insert(TRACE, trace.header());
    headers.append(SERVER_TIMING, timing);
}

/// Milliseconds for a place of an instance, at the gate, and in all.
pub(super) fn timing(waits: Waits) -> HeaderValue {
    let mut text = Vec::with_capacity(64);
    let mut part = |name: &str, time: Duration| {
        if !text.is_empty() {
            text.extend_from_slice(b", ");
        }
        text.extend_from_slice(name.as_bytes());
        let micros = time.as_micros();
        let mut digits = itoa::Buffer::new();
        text.extend_from_slice(digits.format(micros / 1_000).as_bytes());
        text.push(b'.');
        // A leading one keeps the zeroes after the point.
        text.extend(digits.format(1_000 + micros % 1_000).bytes().skip(1));
    };
    if let Some(waited) = waits.instance {
        part("instance;dur=", waited);
    }
    if !waits.gate.is_zero() {
        part("gate;dur=", waits.gate);
    }
    part("total;dur=", waits.total);
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    use crate::observe::{Note, Subject, Trail};

    #[test]
    fn an_answer_says_its_trace_and_where_its_time_went() {
        let began = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        let trail = Trail::begin_at(began, TraceId(0xab), "t".into(), Subject::Call);
        trail.note(Note::Instance { reused: false, waited: Duration::from_micros(1_500) });
        trail.note(Note::Admitted { call: 1, waited: Duration::from_millis(20), why: None });
        trail.note(Note::Admitted { call: 2, waited: Duration::from_millis(5), why: None });
        let mut headers = HeaderMap::new();
        headers.insert(SERVER_TIMING, HeaderValue::from_static("db;dur=5"));
        decorate(&mut headers, None, &HeaderValue::from_static("iad"), trail.id(), timing(trail.answered()));
        assert_eq!(headers[TRACE], trail.id().to_string());
        assert_eq!(headers[REGION], "iad");
        let timings: Vec<_> = headers.get_all(SERVER_TIMING).iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(timings[0], "db;dur=5", "the guest's own stays");
        assert!(timings[1].starts_with("instance;dur=1.500, gate;dur=25.000, total;dur="), "{timings:?}");
    }

    #[test]
    fn calls_that_wait_side_by_side_wait_no_longer_than_it_took() {
        let began = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        let trail = Trail::begin_at(began, TraceId(0xab), "t".into(), Subject::Call);
        for call in 1..=3 {
            trail.note(Note::Admitted { call, waited: Duration::from_millis(900), why: None });
        }
        let waits = trail.answered();
        assert_eq!(waits.gate, waits.total);
    }
}
