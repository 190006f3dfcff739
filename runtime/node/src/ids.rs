//! Names and numbers that several concerns share, as types.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text of the name.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The same text, to keep.
            pub fn shared(&self) -> Arc<str> {
                Arc::clone(&self.0)
            }
        }

        // Equal names hash alike as text, so a map of names is asked with a `&str`.
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name_type! {
    /// Who owns functions, destinations, secrets and tokens. Nothing is shared between tenants.
    TenantId
}
name_type! {
    /// The name of a function: 1 to 63 of `a-z0-9-`, beginning with a letter, as it is a host label too.
    FunctionName
}
name_type! {
    /// The name of a configured destination, same form as a function's.
    DestinationName
}
name_type! {
    /// The name of a secret, that of a variable: letters, digits and `_`, no digit first.
    SecretName
}
name_type! {
    /// A region code such as `iad`, or `local`.
    Region
}

impl TenantId {
    /// The tenant of a node that was told of no other.
    pub fn default_tenant() -> Self {
        Self::from("default")
    }
}

/// The sha-256 of a module, in lower-case hex where it is text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Digest {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "a sha-256 digest is 64 hex digits";
        if text.len() != 64 || !text.is_ascii() {
            return Err(WRONG);
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            let digits = text.get(index * 2..index * 2 + 2).ok_or(WRONG)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| WRONG)?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A W3C trace id: 16 bytes, never all zero. It is also the id of the trail.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
// As a number of 16 bytes it would align whatever holds it to 16, which costs the allocator a detour every time.
#[repr(Rust, packed(8))]
pub struct TraceId(pub u128);

impl TraceId {
    /// A new random one.
    pub fn random() -> Self {
        // Never zero: W3C trace context forbids it.
        Self(rand::random::<u128>() | 1)
    }

    /// Adds its digits.
    pub(crate) fn write(self, text: &mut Vec<u8>) {
        push_hex(text, &self.0.to_be_bytes());
    }
}

/// Adds the digits of a number. Every invocation needs a few, and the formatter was seen in its profile.
fn push_hex(text: &mut Vec<u8>, bytes: &[u8]) {
    const fn digit(half: u8) -> u8 {
        if half < 10 { b'0' + half } else { b'a' + half - 10 }
    }
    for byte in bytes {
        text.extend_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
    }
}

/// Digits and dashes are always a valid value.
fn header(text: Vec<u8>) -> http::HeaderValue {
    http::HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).unwrap_or(http::HeaderValue::from_static(""))
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", { self.0 })
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for TraceId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The standard knows lower-case digits only; `from_str_radix` would take a sign, too.
        match u128::from_str_radix(text, 16) {
            Ok(id) if id != 0 && text.len() == 32 && is_hex(text) => Ok(Self(id)),
            _ => Err("a trace id is 32 hex digits, not all zero"),
        }
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The trace a request belongs to and the span that sent it, as in the `traceparent` header.
#[derive(Clone, Copy, Debug)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The span of whoever sent the request; our own span's parent.
    pub parent: Option<u64>,
    /// Our span.
    pub span: u64,
    /// The sampled flag as it came.
    pub sampled: bool,
}

/// What tracers on the way add for themselves.
pub const TRACESTATE: http::HeaderName = http::HeaderName::from_static("tracestate");
/// Members of it, and bytes with their commas, that are passed on (W3C trace context, 3.3.1.1 and 3.3.1.5). A longer one is
/// dropped whole: which member matters is for its tracer to know.
const STATE: (usize, usize) = (32, 512);

/// Drops a `tracestate` that belongs to no `traceparent`, or is longer than what is passed on.
pub fn bound_tracestate(headers: &mut http::HeaderMap, continued: bool) {
    if !headers.contains_key(TRACESTATE) {
        return;
    }
    let (mut members, mut bytes) = (0, 0);
    for line in headers.get_all(TRACESTATE) {
        members += line.as_bytes().split(|byte| *byte == b',').count();
        bytes += line.len() + 1;
    }
    if !continued || members > STATE.0 || bytes > STATE.1 + 1 {
        headers.remove(TRACESTATE);
    }
}

/// How a request says which trace it belongs to (W3C trace context).
pub const TRACEPARENT: http::HeaderName = http::HeaderName::from_static("traceparent");

impl TraceContext {
    /// A trace that begins here.
    pub fn begin() -> Self {
        Self { sampled: true, ..Self::of(TraceId::random()) }
    }

    /// The beginning of a trace that is not sampled.
    pub fn of(trace: TraceId) -> Self {
        Self { trace, parent: None, span: rand::random::<u64>() | 1, sampled: false }
    }

    /// What a request's `traceparent` says: the trace, the span that sent it, whether it is sampled. Nothing where there
    /// is none, more than one, or a malformed one.
    pub fn stated(headers: &http::HeaderMap) -> Option<(TraceId, u64, bool)> {
        let mut lines = headers.get_all(TRACEPARENT).iter();
        let line = lines.next().filter(|_| lines.next().is_none());
        line.and_then(|value| value.to_str().ok()).and_then(|text| {
            let mut parts = text.split('-');
            let of_length = |length| move |part: &&str| part.len() == length && is_hex(part);
            let version = parts.next().filter(of_length(2)).filter(|version| *version != "ff")?;
            let trace = parts.next()?.parse().ok()?;
            let parent = parts.next().filter(of_length(16))?;
            let parent = u64::from_str_radix(parent, 16).ok().filter(|span| *span != 0)?;
            let flags = u8::from_str_radix(parts.next().filter(of_length(2))?, 16).ok()?;
            (version != "00" || parts.next().is_none()).then_some((trace, parent, flags & 1 == 1))
        })
    }

    /// Continues what the request's `traceparent` says, or begins a trace where it is absent or malformed.
    pub fn from_headers(headers: &http::HeaderMap) -> Self {
        match Self::stated(headers) {
            Some((trace, parent, sampled)) => {
                Self { trace, parent: Some(parent), span: rand::random::<u64>() | 1, sampled }
            }
            None => Self::begin(),
        }
    }

    /// The `traceparent` to send onwards, naming our span as the parent.
    pub fn header(&self) -> http::HeaderValue {
        self.header_of(self.span)
    }

    /// The `traceparent` of a request that this span of the trace sends.
    pub fn header_of(&self, span: u64) -> http::HeaderValue {
        let mut text = Vec::with_capacity(55);
        text.extend_from_slice(b"00-");
        push_hex(&mut text, &self.trace.0.to_be_bytes());
        text.push(b'-');
        push_hex(&mut text, &span.to_be_bytes());
        text.extend_from_slice(if self.sampled { b"-01" } else { b"-00" });
        header(text)
    }

    /// The span of an attempt of a call below this one, or with attempt 0 that of the call itself. It follows from their
    /// numbers: nobody has to keep it to know it when the trail is exported.
    pub fn below(&self, call: u32, attempt: u32) -> u64 {
        let number = u64::from(call) << 32 | u64::from(attempt);
        // The finisher of SplitMix64: numbers that differ in one bit become spans that differ in half of theirs.
        let mut mixed = self.span.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_below_follow_from_their_numbers_and_differ() {
        let trace = TraceContext::begin();
        let all = || (0..40).flat_map(|call| (0..40).map(move |attempt| (call, attempt)));
        let spans: std::collections::HashSet<_> = all().map(|(call, attempt)| trace.below(call, attempt)).collect();
        assert_eq!(spans.len(), 1_600);
        assert!(!spans.contains(&trace.span));
        assert_eq!(trace.below(3, 2), TraceContext { parent: Some(7), ..trace }.below(3, 2));
    }

    #[test]
    fn a_tracestate_passes_within_its_bounds_and_with_a_traceparent_only() {
        let member = "a".repeat(99);
        for (lines, continued, passes) in [
            (vec!["vendor=1".to_owned()], true, true),
            (vec!["vendor=1".to_owned()], false, false),
            (vec!["vendor=1".to_owned(), "other=2".to_owned()], true, true),
            (vec![vec!["a=1"; 32].join(",")], true, true),
            (vec![vec!["a=1"; 33].join(",")], true, false),
            (vec!["a".repeat(512)], true, true),
            (vec![member; 6], true, false),
        ] {
            let mut headers = http::HeaderMap::new();
            for line in &lines {
                headers.append(TRACESTATE, line.parse().unwrap());
            }
            bound_tracestate(&mut headers, continued);
            assert_eq!(headers.contains_key(TRACESTATE), passes, "{lines:?}");
        }
    }

    #[test]
    fn two_traceparents_are_none() {
        let line = format!("00-{}-{}-01", "1".repeat(32), "2".repeat(16));
        let mut headers = http::HeaderMap::new();
        headers.append(TRACEPARENT, line.parse().unwrap());
        assert!(TraceContext::stated(&headers).is_some());
        headers.append(TRACEPARENT, line.parse().unwrap());
        assert!(TraceContext::stated(&headers).is_none());
    }

    #[test]
    fn a_hostile_traceparent_begins_a_new_trace_and_a_right_one_goes_on() {
        let of = |text: &str| {
            let value = http::HeaderValue::from_bytes(text.as_bytes()).unwrap();
            TraceContext::from_headers(&http::HeaderMap::from_iter([(
                http::HeaderName::from_static("traceparent"),
                value,
            )]))
        };
        let (ones, span) = ("1".repeat(32), "2".repeat(16));
        let goes_on = |text: &str| of(text).parent.is_some();
        assert!(goes_on(&format!("00-{ones}-{span}-01")));
        assert!(goes_on(&format!("cc-{ones}-{span}-01-what-the-future-adds")));
        let of_own = |sampled| TraceContext { span: 0xab, ..of(&format!("00-{ones}-{span}-0{sampled}")) }.header();
        assert_eq!(of_own(0), format!("00-{ones}-00000000000000ab-00"));
        assert_eq!(of_own(1), format!("00-{ones}-00000000000000ab-01"));
        for hostile in [
            String::new(),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-+{}-{span}-01", "1".repeat(31)),
            format!("00-{}-{span}-01", "A".repeat(32)),
            format!("00-{ones}-+{}-01", "2".repeat(15)),
            format!("00-{ones}-{}-01", "0".repeat(16)),
            format!("00-{ones}-{span}-+1"),
            format!("00-{ones}-{span}-01-more"),
            format!("zz-{ones}-{span}-01"),
            format!("ff-{ones}-{span}-01"),
            "é".repeat(27),
        ] {
            assert!(!goes_on(&hostile), "{hostile}");
        }
    }
}
