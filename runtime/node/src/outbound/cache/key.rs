//! What tells stored answers apart.
//!
//! **The rule about credentials.** An answer is given again only to a request that carries the very same value of every
//! header that could say who asks: `Authorization`, `Cookie`, an API key under whatever name. Nobody can list those names,
//! so the list is of the others: [`HARMLESS`] headers say how something is asked for, not by whom, and an answer that
//! depends on one says so itself (`Vary`). Every other header tells requests apart, be it only a number that is new each
//! time: then nothing is shared, which is slow and not wrong, and `ignore_headers` of the destination names it. What splits
//! the destination (`split_by`) tells requests apart even if it is harmless or ignored. A key in a query is a part of the
//! URI. A tenant's answers are its own.

use foyer::{Code, Result};
use http::{HeaderMap, HeaderName, Uri, header};
use sha2::{Digest as _, Sha256};

use super::Caching;
use crate::outbound::Origin;

/// Headers that an answer may vary by; one that names more is not stored (no setting: nobody needs as many).
pub(super) const VARY: usize = 16;

/// Headers that say nothing about who asks.
const HARMLESS: [&str; 41] = [
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "b3",
    "baggage",
    "cache-control",
    "cdn-loop",
    "content-language",
    "content-length",
    "content-type",
    "date",
    "dnt",
    "expect",
    "host",
    "idempotency-key",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "max-forwards",
    "pragma",
    "prefer",
    "priority",
    "range",
    "save-data",
    "sec-gpc",
    "sentry-trace",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "uber-trace-id",
    "upgrade-insecure-requests",
    "user-agent",
    "via",
    "x-amzn-trace-id",
    "x-cloud-trace-context",
    "x-correlation-id",
    "x-request-id",
];

/// Beginnings of names of headers that say nothing about who asks.
const HARMLESS_FAMILIES: [&str; 5] = ["sec-ch-", "sec-fetch-", "x-b3-", "x-datadog-", "x-stainless-"];

/// What something is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 32]);

impl Code for Key {
    fn encode(&self, writer: &mut impl std::io::Write) -> Result<()> {
        writer.write_all(&self.0).map_err(foyer::Error::io_error)
    }

    fn decode(reader: &mut impl std::io::Read) -> Result<Self> {
        let mut bytes = [0; 32];
        reader.read_exact(&mut bytes).map_err(foyer::Error::io_error)?;
        Ok(Self(bytes))
    }

    fn estimated_size(&self) -> usize {
        32
    }
}

/// What equal requests have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Variant(pub(super) Key);

/// Whose answers are looked at: a destination of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scope(pub(super) Key);

impl Scope {
    /// The scope of a destination by what its actors are known by, and by what its requests are told apart by: where that
    /// changes, what was stored is of no use.
    pub(crate) fn of(destination: u128, splits: &[HeaderName], ignored: &[HeaderName]) -> Self {
        let mut hash = Hash::new(b"scope");
        hash.part(&destination.to_le_bytes());
        for names in [splits, ignored] {
            hash.number(names.len() as u64);
            names.iter().for_each(|name| hash.part(name.as_str().as_bytes()));
        }
        Self(hash.finish())
    }

    /// As text, for files.
    pub(super) fn text(&self) -> String {
        self.0.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The key of a resource's mark. `purged`: how often its destination was forgotten.
pub(super) fn resource(scope: &Scope, purged: u64, origin: &Origin, uri: &Uri) -> Key {
    let mut hash = Hash::new(b"resource");
    hash.part(&scope.0.0);
    hash.number(purged);
    hash.part(origin.scheme.as_str().as_bytes());
    hash.part(origin.host.as_bytes());
    hash.number(origin.port.into());
    // An empty path is `/`.
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    hash.part(if path.is_empty() { b"/" } else { path.as_bytes() });
    hash.finish()
}

/// What a request says about who asks, by the rule above.
pub(super) fn credentials(caching: &Caching, headers: &HeaderMap) -> Key {
    let mut told: Vec<&HeaderName> = headers.keys().filter(|name| tells(caching, name)).collect();
    told.sort_unstable_by_key(|name| name.as_str());
    let mut hash = Hash::new(b"credentials");
    for name in told {
        hash.header(name, headers);
    }
    hash.finish()
}

/// Whether a header tells requests apart.
fn tells(caching: &Caching, name: &HeaderName) -> bool {
    if caching.splits.contains(name) || [header::AUTHORIZATION, header::COOKIE].contains(name) {
        return true;
    }
    let text = name.as_str();
    let harmless =
        HARMLESS.binary_search(&text).is_ok() || HARMLESS_FAMILIES.iter().any(|family| text.starts_with(family));
    !harmless && !caching.ignored.contains(name)
}

/// The key of an answer: by its resource's mark, who asks, and the headers it varies by, which are in order.
pub(super) fn variant(generation: u64, credentials: &Key, vary: &[HeaderName], headers: &HeaderMap) -> Variant {
    let mut hash = Hash::new(b"variant");
    hash.number(generation);
    hash.part(&credentials.0);
    for name in vary {
        hash.header(name, headers);
    }
    Variant(hash.finish())
}

/// What an answer varies by, in order, each once. Nothing where it varies by what no request says, or by too much.
pub(super) fn vary(headers: &HeaderMap) -> Option<Vec<HeaderName>> {
    let mut names = Vec::new();
    for line in headers.get_all(header::VARY) {
        for name in line.to_str().ok()?.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if name == "*" {
                return None;
            }
            names.push(name.parse().ok()?);
        }
    }
    order(&mut names);
    (names.len() <= VARY).then_some(names)
}

/// Puts names in order, each once.
pub(super) fn order(names: &mut Vec<HeaderName>) {
    names.sort_unstable_by(|a: &HeaderName, b| a.as_str().cmp(b.as_str()));
    names.dedup();
}

/// Lengths go before parts, so that no two lists of parts run together.
struct Hash(Sha256);

impl Hash {
    fn new(of: &[u8]) -> Self {
        let mut hash = Self(Sha256::new());
        hash.part(of);
        hash
    }

    fn number(&mut self, number: u64) {
        self.0.update(number.to_le_bytes());
    }

    fn part(&mut self, part: &[u8]) {
        self.number(part.len() as u64);
        self.0.update(part);
    }

    /// A header with all its lines.
    fn header(&mut self, name: &HeaderName, headers: &HeaderMap) {
        self.part(name.as_str().as_bytes());
        let lines = headers.get_all(name);
        self.number(lines.iter().count() as u64);
        lines.iter().for_each(|line| self.part(line.as_bytes()));
    }

    fn finish(self) -> Key {
        Key(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn caching(splits: &[&'static str], ignored: &[&'static str]) -> Caching {
        let names = |names: &[&'static str]| names.iter().map(|name| HeaderName::from_static(name)).collect();
        let (splits, ignored): (Box<[_]>, Box<[_]>) = (names(splits), names(ignored));
        Caching { scope: Scope::of(1, &splits, &ignored), stale: Default::default(), ignored, splits }
    }

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn the_list_of_harmless_headers_is_in_order() {
        assert!(HARMLESS.is_sorted());
    }

    #[test]
    fn who_asks_is_told_by_every_header_that_is_not_known_to_say_nothing_about_it() {
        let plain = caching(&[], &["x-trace"]);
        let of = |headers: &[_]| credentials(&plain, &map(headers));
        let nobody = of(&[]);
        for header in [("accept", "x"), ("x-stainless-arch", "x"), ("traceparent", "x"), ("x-trace", "x")] {
            assert_eq!(of(&[header]), nobody, "{header:?}");
        }
        for name in ["authorization", "cookie", "x-api-key", "api-key", "x-goog-api-key", "x-never-seen", "referer"] {
            assert_ne!(of(&[(name, "a")]), nobody, "{name}");
            assert_ne!(of(&[(name, "a")]), of(&[(name, "b")]), "{name}");
            assert_ne!(of(&[(name, "a")]), of(&[(name, "a"), (name, "b")]), "{name}");
        }
        assert_ne!(of(&[("x-a", "1"), ("x-b", "2")]), of(&[("x-a", "12"), ("x-b", "")]));
        assert_eq!(of(&[("x-a", "1"), ("x-b", "2")]), of(&[("x-b", "2"), ("x-a", "1")]));
        // Neither a list of ignored headers nor of harmless ones hides what splits, nor what is always a credential.
        let split = caching(&["user-agent"], &["authorization", "user-agent"]);
        for name in ["authorization", "user-agent"] {
            assert_ne!(credentials(&split, &map(&[(name, "a")])), credentials(&split, &HeaderMap::new()), "{name}");
        }
    }

    #[test]
    fn what_an_answer_varies_by_is_read_from_all_lines() {
        let of = |lines: &[&'static str]| vary(&map(&lines.iter().map(|line| ("vary", *line)).collect::<Vec<_>>()));
        assert_eq!(of(&[]), Some(vec![]));
        assert_eq!(of(&["b, A", "a"]).unwrap(), ["a", "b"]);
        assert_eq!(of(&["a, *"]), None);
        assert_eq!(of(&["a b"]), None);
        let many: &str = Box::leak((0..17).map(|n| format!("h{n}")).collect::<Vec<_>>().join(",").into_boxed_str());
        assert_eq!(of(&[many]), None);
    }

    #[test]
    fn destinations_origins_paths_queries_and_purges_are_told_apart() {
        let key = |scope: u128, purged, uri: &str| {
            let uri: Uri = uri.parse().unwrap();
            resource(&Scope::of(scope, &[], &[]), purged, &Origin::of(&uri).unwrap(), &uri)
        };
        let keys = [
            key(1, 0, "http://a/"),
            key(2, 0, "http://a/"),
            key(1, 1, "http://a/"),
            key(1, 0, "https://a/"),
            key(1, 0, "http://b/"),
            key(1, 0, "http://a:81/"),
            key(1, 0, "http://a/x"),
            key(1, 0, "http://a/?"),
            key(1, 0, "http://a/?key=1"),
            key(1, 0, "http://a/?key=2"),
            key(1, 0, "http://a//"),
        ];
        for (index, one) in keys.iter().enumerate() {
            assert!(keys.iter().skip(index + 1).all(|other| one != other), "{index}");
        }
        assert_eq!(key(1, 0, "http://a"), key(1, 0, "http://A:80/"));
    }
}
