//! What every answer of the data listener says about how it came to be.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::live::Identity;
use crate::{ids::TraceId, observe::Trail};

const FUNCTION: HeaderName = HeaderName::from_static("tidegate-function");
const VERSION: HeaderName = HeaderName::from_static("tidegate-version");
pub(super) const REGION: HeaderName = HeaderName::from_static("tidegate-region");
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
    headers.insert(TRACE, trace(trail.id()));
    headers.append(SERVER_TIMING, timing(trail));
}

/// 32 hex digits, without going through the formatter.
fn trace(id: TraceId) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'0'; 32];
    for (index, digit) in text.iter_mut().enumerate() {
        let nibble = (id.0 >> (124 - 4 * index)) & 0xf;
        *digit = DIGITS.get(nibble as usize).copied().unwrap_or(b'0');
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
}

/// Milliseconds for a place of an instance, at the gate, and in all.
fn timing(trail: &Trail) -> HeaderValue {
    let waits = trail.waits();
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let total = millis(trail.began().elapsed());
    let mut text = String::with_capacity(64);
    use std::fmt::Write;
    // Writing to a String can't fail.
    if let Some(waited) = waits.instance {
        let _ = write!(text, "instance;dur={:.3}, ", millis(waited));
    }
    if !waits.gate.is_zero() {
        let _ = write!(text, "gate;dur={:.3}, ", millis(waits.gate));
    }
    let _ = write!(text, "total;dur={total:.3}");
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{Note, Subject};

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
