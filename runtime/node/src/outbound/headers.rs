//! Headers that end at the gate, and headers that begin there.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use tidegate_core::policy;

use crate::{
    ids::{TRACEPARENT, bound_tracestate},
    problem::retry_after,
};

/// Counts gates that a request has passed, so that one that meets itself is stopped: `CDN-Loop: tidegate; hops=2`
/// (RFC 8586). What other proxies say there stays.
pub const HOP: HeaderName = HeaderName::from_static("cdn-loop");
/// What a client would rather have (RFC 7240).
const PREFER: HeaderName = HeaderName::from_static("prefer");
/// Our name in it.
const WHO: &str = "tidegate";
/// Gates that a request may pass.
pub(crate) const HOPS: u8 = 8;

/// Gates that the request which caused this call has passed: put it into the request's extensions where the call does
/// not carry the header itself, as a guest's does not.
#[derive(Clone, Copy, Debug)]
pub struct Hops(pub u8);

impl Hops {
    /// What an inbound request says.
    pub fn of(headers: &HeaderMap) -> Self {
        let ours = loop_entries(headers).filter(|entry| is_ours(entry));
        // An entry of ours that can't be read is one gate at least.
        let hops =
            |entry: &str| entry.split_once("hops=").and_then(|(_, count)| count.trim().parse().ok()).unwrap_or(1);
        Self(ours.map(hops).max().unwrap_or(0))
    }
}

/// What each proxy on the way said about itself.
fn loop_entries(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let texts = headers.get_all(HOP).iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).map(str::trim).filter(|entry| !entry.is_empty())
}

fn is_ours(entry: &str) -> bool {
    entry.split(';').next().is_some_and(|who| who.trim().eq_ignore_ascii_case(WHO))
}

/// Headers of one connection only (RFC 9110 section 7.6.1), and of its proxy.
static HOP_BY_HOP: [HeaderName; 11] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
    HeaderName::from_static("http2-settings"),
];

/// What must not stand in trailers (RFC 9110 section 6.5.1): framing, routing, authentication, and what is only of one
/// connection.
pub(crate) fn strip_trailers(trailers: &mut HeaderMap) {
    strip_connection(trailers);
    for name in [
        header::CONTENT_LENGTH,
        header::HOST,
        header::CONTENT_ENCODING,
        header::CONTENT_TYPE,
        header::CONTENT_RANGE,
        header::TRAILER,
        header::AUTHORIZATION,
        header::SET_COOKIE,
        header::COOKIE,
    ] {
        trailers.remove(name);
    }
    strip_own(trailers);
}

/// The names of trailers as a `Trailer` header announces them.
pub(crate) fn trailer_names(trailers: &HeaderMap) -> Option<HeaderValue> {
    let names: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
    HeaderValue::try_from(names.join(", ")).ok().filter(|names| !names.is_empty())
}

/// Removes headers of one connection, those that `Connection` names included.
pub(crate) fn strip_connection(headers: &mut HeaderMap) {
    // Most heads have none. To look at each that is there costs less than to look for each that may be.
    if !has_any(headers, &HOP_BY_HOP) {
        return;
    }
    // Where both are stated the chunks count, and the length may not be passed on (RFC 9112 section 6.3).
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|text| text.split(','))
            .filter_map(|name| name.trim().parse().ok())
            // What routing and framing rely on can't be made to vanish by naming it.
            .filter(|name| !matches!(*name, header::HOST | header::CONTENT_LENGTH))
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Whether a body is coded for its way in another manner than in chunks: nobody here decodes that, and whoever passes it on
/// without saying so passes on other bytes than were meant (RFC 9112 section 6.1).
pub(crate) fn has_foreign_coding(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    codings.any(|value| !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

/// Whether one of these headers is there.
pub(crate) fn has_any(headers: &HeaderMap, names: &[HeaderName]) -> bool {
    headers.keys().any(|name| names.contains(name))
}

/// Makes the headers of an answer those of ours.
pub(crate) fn incoming(headers: &mut HeaderMap) {
    strip_connection(headers);
    // What they say is said by the gate.
    strip_own(headers);
    // What else serves the upstream's origin (RFC 7838) says nothing about the gate's.
    headers.remove(header::ALT_SVC);
}

/// Says of a refusal when it may end, where it does not say so itself.
pub(crate) fn say_when(headers: &mut HeaderMap, wait: Duration) {
    if !has_any(headers, &[header::RETRY_AFTER, HeaderName::from_static("retry-after-ms")]) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after(wait)));
    }
}

/// Removes our own headers: what they say is said to the gate.
fn strip_own(headers: &mut HeaderMap) {
    let own: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with("tidegate-")).cloned().collect();
    for name in own {
        headers.remove(name);
    }
}

/// Makes the headers of a request those of ours. Framing is left to what sends it.
///
/// A `traceparent` is said anew by each attempt; `continued`: the trace began elsewhere, with a `tracestate` perhaps.
pub(crate) fn outgoing(headers: &mut HeaderMap, continued: bool, hops: u8) {
    // `TE: trailers` is the one thing about a connection that says something about the sender: it wants trailers.
    let wants_trailers = headers
        .get_all(header::TE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|text| text.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers")));
    strip_connection(headers);
    strip_own(headers);
    headers.remove(header::HOST);
    headers.remove(header::CONTENT_LENGTH);
    if wants_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    headers.remove(TRACEPARENT);
    bound_tracestate(headers, continued);
    let others: String =
        loop_entries(headers).filter(|entry| !is_ours(entry)).flat_map(|entry| [entry, ", "]).collect();
    if let Ok(value) = HeaderValue::try_from(format!("{others}{WHO}; hops={hops}")) {
        headers.insert(HOP, value);
    }
}

/// What the request says about itself to the gate.
pub(crate) struct Stated {
    /// Its own policy.
    pub(crate) policy: Option<policy::Policy>,
    /// How long the client says that it waits. Libraries say so unasked: it is no wish of anybody's, as a policy is.
    pub(crate) patience: Option<Duration>,
    /// The length of its body.
    pub(crate) length: Option<u64>,
}

/// Reads what a request says to the gate.
///
/// # Errors
/// Which header is wrong, and why.
pub(crate) fn stated(headers: &HeaderMap) -> Result<Stated, (HeaderName, String)> {
    let mut policy = None;
    if headers.contains_key(policy::HEADER) {
        let name = HeaderName::from_static(policy::HEADER);
        let lines: Result<Vec<_>, _> = headers.get_all(&name).iter().map(HeaderValue::to_str).collect();
        let text = lines.map_err(|_| (name.clone(), "is not ASCII".to_owned()))?.join(", ");
        let stated = policy::header::parse(&text)
            .and_then(|policy| policy.validate().map(|()| policy))
            .map_err(|error| (name, error.to_string()))?;
        policy = Some(stated);
    }
    let patience = patience(headers).map(|patience| patience.min(policy::Policy::MAX_DEADLINE));
    Ok(Stated { policy, patience, length: length(headers).map_err(|why| (header::CONTENT_LENGTH, why))? })
}

/// What a client prefers (RFC 7240).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Preferences {
    /// It wants to come back for the answer.
    pub(crate) respond_async: bool,
    /// How long it waits.
    pub(crate) wait: Option<Duration>,
}

impl Preferences {
    /// Those that the request states.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let texts = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
        let mut preferences = Self::default();
        for preference in texts.flat_map(|text| text.split([',', ';'])) {
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            let name = name.trim();
            preferences.respond_async |= name.eq_ignore_ascii_case("respond-async");
            if name.eq_ignore_ascii_case("wait") {
                preferences.wait = preferences.wait.or_else(|| seconds(value.trim().trim_matches('"')));
            }
        }
        preferences
    }
}

/// When the gate must speak so that a client that waits this long hears it: a fiftieth earlier, but 250 ms at least and
/// 2 s at most for the way there and back, and never more than half of the time.
pub(crate) fn before(patience: Duration) -> Duration {
    let way = (patience / 50).clamp(Duration::from_millis(250), Duration::from_secs(2));
    patience - way.min(patience / 2)
}

/// How long the client says it waits: `Prefer: wait=10`, or the time-out that the OpenAI and Anthropic clients state in
/// `x-stainless-read-timeout` (Python) and `x-stainless-timeout` (JavaScript), in seconds.
fn patience(headers: &HeaderMap) -> Option<Duration> {
    Preferences::of(headers).wait.or_else(|| {
        let stainless = ["x-stainless-read-timeout", "x-stainless-timeout"];
        stainless.into_iter().find_map(|name| seconds(headers.get(name)?.to_str().ok()?))
    })
}

/// A number of seconds that somebody may wait.
fn seconds(text: &str) -> Option<Duration> {
    text.parse().ok().filter(|seconds| (0.001..1e6).contains(seconds)).map(Duration::from_secs_f64)
}

/// Makes one line of all `content-length` lines of an answer. Where the length is not what frames the body (HEAD, 204,
/// 304), nobody below looked at it, and clients above break over two.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn settle_length(headers: &mut HeaderMap) -> Result<(), String> {
    // Beside a coding it does not count, and does not pass.
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Ok(());
    }
    let Some(length) = length(headers)? else { return Ok(()) };
    let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
    if lines.next().is_some_and(|line| line.as_bytes().contains(&b',')) || lines.next().is_some() {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(())
}

/// The one length that all `content-length` lines agree on.
fn length(headers: &HeaderMap) -> Result<Option<u64>, String> {
    let mut length = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        for part in value.to_str().map_err(|_| "is not a number".to_owned())?.split(',') {
            let part = part.trim();
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            let parsed: u64 =
                part.parse().ok().filter(|_| digits).ok_or_else(|| format!("`{part}` is not a number of bytes"))?;
            if length.is_some_and(|length| length != parsed) {
                return Err("states two lengths".into());
            }
            length = Some(parsed);
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn what_ends_at_the_gate_does_not_leave_it() {
        let mut headers = map(&[
            ("connection", "close, X-Secret-Hop"),
            ("x-secret-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers, gzip"),
            ("upgrade", "websocket"),
            ("host", "evil.example"),
            ("content-length", "5"),
            ("tidegate-policy", "deadline=5"),
            ("tidegate-anything", "x"),
            ("traceparent", "old"),
            ("authorization", "Bearer theirs"),
            ("accept", "*/*"),
        ]);
        outgoing(&mut headers, false, 3);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "authorization", "cdn-loop", "te"]);
        assert_eq!(headers["te"], "trailers");
        assert_eq!(headers[HOP], "tidegate; hops=3");
        assert_eq!(Hops::of(&headers).0, 3);
    }

    #[test]
    fn a_length_beside_a_coding_alternative_services_and_words_of_proxies_end_at_the_gate() {
        let mut headers = map(&[
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("alt-svc", "h3"),
            ("proxy-authenticate", "Basic"),
            ("proxy-authentication-info", "nextnonce=1"),
            ("a", "b"),
        ]);
        incoming(&mut headers);
        assert_eq!(headers, map(&[("a", "b")]));
        let mut headers = map(&[("content-length", "5")]);
        incoming(&mut headers);
        assert_eq!(headers, map(&[("content-length", "5")]));
    }

    #[test]
    fn gates_are_counted_beside_what_other_proxies_say() {
        let mut headers = map(&[("cdn-loop", "foo; v=1, Tidegate; hops=2"), ("host", "x")]);
        assert_eq!(Hops::of(&headers).0, 2);
        outgoing(&mut headers, false, 3);
        assert_eq!(headers[HOP], "foo; v=1, tidegate; hops=3");
        for (text, hops) in [("tidegate", 1), ("tidegate; hops=x", 1), ("tidegates; hops=9", 0), ("foo", 0)] {
            assert_eq!(Hops::of(&map(&[("cdn-loop", text)])).0, hops, "{text}");
        }
    }

    #[test]
    fn the_client_states_its_patience_in_several_ways_and_is_answered_before_it_ends() {
        for (headers, seconds) in [
            (&[("prefer", "respond-async, wait=10")][..], Some(9.75)),
            (&[("prefer", "return=minimal; wait=\"2\"")], Some(1.75)),
            (&[("x-stainless-read-timeout", "600")], Some(598.0)),
            (&[("x-stainless-read-timeout", "60")], Some(58.8)),
            (&[("x-stainless-timeout", "1.5")], Some(1.25)),
            (&[("x-stainless-timeout", "0.4")], Some(0.2)),
            (&[("tidegate-policy", "deadline=3"), ("prefer", "wait=10")], Some(3.0)),
            (&[("tidegate-policy", "retries=3"), ("prefer", "wait=10")], Some(9.75)),
            (&[("x-stainless-read-timeout", "NaN")], None),
            (&[("x-stainless-read-timeout", "0")], None),
            (&[("prefer", "wait")], None),
            (&[], None),
        ] {
            let stated = stated(&map(headers)).unwrap_or_else(|wrong| panic!("{wrong:?}"));
            let own = stated.policy.and_then(|policy| policy.deadline).map(|span| span.0);
            let deadline = own.or(stated.patience.map(before)).map(|time| time.as_secs_f64());
            assert_eq!(deadline, seconds, "{headers:?}");
            let waits = headers.iter().any(|(_, value)| *value == "wait=10");
            assert!(!waits || stated.patience == Some(Duration::from_secs(10)), "{headers:?}");
        }
    }

    #[test]
    fn preferences_are_read_from_any_of_their_forms() {
        let of = |text| Preferences::of(&map(&[("prefer", "handling=lenient"), ("prefer", text)]));
        for (text, respond_async, wait) in [
            ("wait=10", false, Some(10)),
            ("return=minimal, Wait=\"3\"", false, Some(3)),
            ("wait=soon", false, None),
            ("wait", false, None),
            ("Respond-Async, wait=10", true, Some(10)),
            ("return=minimal; respond-async", true, None),
        ] {
            assert_eq!(of(text), Preferences { respond_async, wait: wait.map(Duration::from_secs) }, "{text}");
        }
    }

    #[test]
    fn a_wrong_header_is_named() {
        for (headers, wrong) in [
            (&[("tidegate-policy", "deadlin=3")][..], "tidegate-policy"),
            (&[("content-length", "5"), ("content-length", "6")], "content-length"),
            (&[("content-length", "5, 6")], "content-length"),
            (&[("content-length", "+5")], "content-length"),
            (&[("content-length", "")], "content-length"),
        ] {
            assert_eq!(stated(&map(headers)).err().map(|(name, _)| name.to_string()).as_deref(), Some(wrong));
        }
        assert_eq!(stated(&map(&[("content-length", "5, 5")])).ok().and_then(|stated| stated.length), Some(5));
    }

    #[test]
    fn an_answer_has_one_length_or_is_refused() {
        for (lines, settled) in [
            (&["5"][..], Some("5")),
            (&["5", "5"], Some("5")),
            (&["5, 5"], Some("5")),
            (&["5", "6"], None),
            (&["5, 6"], None),
            (&["five"], None),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("content-length", HeaderValue::from_static(line));
            }
            let settles = settle_length(&mut headers).is_ok();
            let all: Vec<_> = headers.get_all("content-length").iter().map(|line| line.to_str().unwrap()).collect();
            assert_eq!(settles.then_some(all), settled.map(|line| vec![line]), "{lines:?}");
        }
        let mut chunked = map(&[("transfer-encoding", "chunked"), ("content-length", "5"), ("content-length", "6")]);
        assert_eq!(settle_length(&mut chunked), Ok(()));
        assert_eq!(settle_length(&mut HeaderMap::new()), Ok(()));
    }

    #[test]
    fn forbidden_trailers_are_dropped() {
        let mut trailers =
            map(&[("content-length", "1"), ("host", "a"), ("transfer-encoding", "x"), ("grpc-status", "0")]);
        strip_trailers(&mut trailers);
        assert_eq!(trailers, map(&[("grpc-status", "0")]));
    }
}
