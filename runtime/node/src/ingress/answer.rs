//! What every answer of the data listener says about how it came to be.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    cluster::registry::VersionNumber,
    ids::{FunctionName, TraceId},
    observe::{TAG_LENGTH, TAGS, Waits},
};

const FUNCTION: HeaderName = HeaderName::from_static("tidegate-function");
const VERSION: HeaderName = HeaderName::from_static("tidegate-version");
const WARNING: HeaderName = HeaderName::from_static("tidegate-warning");
const REGION: HeaderName = HeaderName::from_static("tidegate-region");
const TRACE: HeaderName = HeaderName::from_static("tidegate-trace");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// The function an answer is of, and the version of it that was asked for or served.
pub(super) struct Of<'a> {
    pub(super) function: &'a FunctionName,
    pub(super) version: Option<VersionNumber>,
}

/// Adds function and version, where they are known, region, trace id and `Server-Timing`: milliseconds for a place of an
/// instance, at the gate, and in all. What the guest says itself stays, but for our names.
pub(super) fn decorate(
    headers: &mut HeaderMap,
    of: Option<Of<'_>>,
    region: &HeaderValue,
    trace: TraceId,
    waits: Waits,
) {
    // One text of the request's own for all of them: values that requests shared would be counted by all threads.
    let mut text = Vec::with_capacity(192);
    let mut value = |write: &dyn Fn(&mut Vec<u8>)| {
        let start = text.len();
        write(&mut text);
        start..text.len()
    };
    let function = of.as_ref().map(|of| value(&|text| text.extend_from_slice(of.function.as_str().as_bytes())));
    let version = of
        .as_ref()
        .and_then(|of| of.version)
        .map(|version| value(&|text| text.extend_from_slice(itoa::Buffer::new().format(version).as_bytes())));
    let region = value(&|text| text.extend_from_slice(region.as_bytes()));
    let trace = value(&|text| trace.write(text));
    let timing = value(&|text| timing(text, waits));
    let text = Bytes::from(text);
    let value =
        |range| HeaderValue::from_maybe_shared(text.slice(range)).unwrap_or(const { HeaderValue::from_static("") });
    headers.reserve(5);
    if let Some(function) = function {
        headers.insert(FUNCTION, value(function));
    }
    if let Some(version) = version {
        headers.insert(VERSION, value(version));
    }
    if waits.unkept > 0 {
        // Rare, and not worth a part of the text.
        headers.insert(WARNING, unkept(waits.unkept));
    }
    headers.insert(REGION, value(region));
    headers.insert(TRACE, value(trace));
    headers.append(SERVER_TIMING, value(timing));
}

/// What to say of tags that are not kept.
#[cold]
fn unkept(count: u32) -> HeaderValue {
    let text = format!(
        "tidegate-tag: {count} not kept; a request has {TAGS} at most, of {TAG_LENGTH} bytes in UTF-8 (percent-encoded or as \
         it is) without commas and control characters"
    );
    HeaderValue::try_from(text).unwrap_or(const { HeaderValue::from_static("tidegate-tag") })
}

fn timing(text: &mut Vec<u8>, waits: Waits) {
    let parts = [
        ("instance;dur=", waits.instance),
        ("gate;dur=", Some(waits.gate).filter(|gate| !gate.is_zero())),
        ("total;dur=", Some(waits.total)),
    ];
    let mut separator = &b""[..];
    for (name, time) in parts {
        let Some(time) = time else { continue };
        text.extend_from_slice(std::mem::replace(&mut separator, b", "));
        text.extend_from_slice(name.as_bytes());
        let micros = time.as_micros() as u64;
        let mut digits = itoa::Buffer::new();
        text.extend_from_slice(digits.format(micros / 1_000).as_bytes());
        text.push(b'.');
        // A leading one keeps the zeroes after the point.
        text.extend_from_slice(digits.format(1_000 + micros % 1_000).as_bytes().get(1..).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    use crate::{
        ids::TraceContext,
        observe::{Note, Trail},
    };

    #[test]
    fn an_answer_says_its_trace_and_where_its_time_went() {
        let began = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        let trail = Trail::begin_at(began, TraceContext::of(TraceId(0xab)));
        trail.note(Note::Instance { reused: false, waited: Duration::from_micros(1_500) });
        trail.note(Note::Admitted { call: 1, waited: Duration::from_millis(20), why: None });
        let mut headers = HeaderMap::new();
        headers.insert(SERVER_TIMING, HeaderValue::from_static("db;dur=5"));
        let name = FunctionName::from("hello");
        let of = Some(Of { function: &name, version: Some(12) });
        decorate(&mut headers, of, &HeaderValue::from_static("iad"), trail.id(), trail.answered());
        assert_eq!(headers[FUNCTION], "hello");
        assert_eq!(headers[VERSION], "12");
        assert_eq!(headers[TRACE], trail.id().to_string());
        assert_eq!(headers[REGION], "iad");
        let timings: Vec<_> = headers.get_all(SERVER_TIMING).iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(timings[0], "db;dur=5", "the guest's own stays");
        assert!(timings[1].starts_with("instance;dur=1.500, gate;dur=20.000, total;dur="), "{timings:?}");
        assert!(!headers.contains_key(WARNING));
    }

    #[test]
    fn whose_tags_are_not_kept_is_told_so() {
        let trail = Trail::begin(TraceId(0xab));
        trail.tag([Some("kept".into()), None, None].into_iter());
        let mut headers = HeaderMap::new();
        decorate(&mut headers, None, &HeaderValue::from_static("iad"), trail.id(), trail.answered());
        let warning = headers[WARNING].to_str().unwrap();
        assert!(warning.starts_with("tidegate-tag: 2 not kept; a request has 8 at most, of 128 bytes"), "{warning}");
    }
}
