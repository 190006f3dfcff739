//! What every answer of the data listener says about how it came to be.

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::live::Identity;
use crate::{
    ids::TraceId,
    observe::{Trail, Waits},
};

const FUNCTION: HeaderName = HeaderName::from_static("tidegate-function");
const VERSION: HeaderName = HeaderName::from_static("tidegate-version");
const REGION: HeaderName = HeaderName::from_static("tidegate-region");
const TRACE: HeaderName = HeaderName::from_static("tidegate-trace");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Adds function, version, region, trace id and `Server-Timing`. What the guest says itself stays, but for our names.
pub(super) fn decorate(headers: &mut HeaderMap, identity: Option<&Identity>, region: &HeaderValue, trail: &Trail) {
    headers.reserve(5);
    if let Some(identity) = identity {
        headers.insert(FUNCTION, identity.name_header.clone());
        headers.insert(VERSION, identity.version_header.clone());
    }
    headers.insert(REGION, region.clone());
    headers.insert(TRACE, trail.id().header());
    headers.append(SERVER_TIMING, timing(trail.waits(), trail.began()));
}

/// Adds region, trace id and `Server-Timing` to an answer that was given before anything was begun.
pub(super) fn decorate_refusal(headers: &mut HeaderMap, region: &HeaderValue, trace: TraceId, began: Instant) {
    headers.insert(REGION, region.clone());
    headers.insert(TRACE, trace.header());
    headers.append(SERVER_TIMING, timing(Waits::default(), began));
}

/// Milliseconds for a place of an instance, at the gate, and in all.
fn timing(waits: Waits, began: Instant) -> HeaderValue {
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
    part("total;dur=", began.elapsed());
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::TraceId,
        observe::{Note, Subject},
    };

    #[test]
    fn an_answer_says_its_trace_and_where_its_time_went() {
        let trail = Trail::begin(TraceId(0xab), "t".into(), Subject::Call);
        trail.note(Note::Instance { reused: false, waited: Duration::from_micros(1_500) });
        trail.note(Note::Admitted { call: 1, waited: Duration::from_millis(20) });
        trail.note(Note::Admitted { call: 2, waited: Duration::from_millis(5) });
        let mut headers = HeaderMap::new();
        headers.insert(SERVER_TIMING, HeaderValue::from_static("db;dur=5"));
        decorate(&mut headers, None, &HeaderValue::from_static("iad"), &trail);
        assert_eq!(headers[TRACE], trail.id().to_string());
        assert_eq!(headers[REGION], "iad");
        let timings: Vec<_> = headers.get_all(SERVER_TIMING).iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(timings[0], "db;dur=5", "the guest's own stays");
        assert!(timings[1].starts_with("instance;dur=1.500, gate;dur=25.000, total;dur="), "{timings:?}");
    }
}
